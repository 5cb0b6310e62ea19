//! DELs that the agent was not there to see: one durable file each, which it replays before it serves an ADD.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use proto::attach::{Key, TOMBSTONE_LOCK, TOMBSTONES, Tombstone};

/// The right to write tombstones: the agent does not replay them meanwhile.
pub(crate) struct Graveyard {
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Graveyard {
    /// Waits for the right to write, `limit` at most.
    pub(crate) fn open(state_dir: &Path, limit: Duration) -> io::Result<Self> {
        let (folder, begin) = (state_dir.join(TOMBSTONES), Instant::now());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(TOMBSTONE_LOCK))?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Graveyard { folder, _lock: lock }),
                Err((_, error)) if begin.elapsed() >= limit => return Err(error.into()),
                Err((same, _)) => file = same,
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Leaves a tombstone that survives a power cut. The same key leaves one file, however often.
    pub(crate) fn bury(&self, key: &Key) -> io::Result<()> {
        let tombstone = Tombstone { key: key.clone() };
        let path = self.folder.join(tombstone.file_name());
        let partial = path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&partial)?;
        file.write_all(&serde_json::to_vec(&tombstone)?)?;
        file.sync_all()?;
        fs::rename(&partial, &path)?;
        File::open(&self.folder)?.sync_all()
    }
}
