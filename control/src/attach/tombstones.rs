//! DELs that the CNI binary left behind while no agent heard it.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use proto::attach::{Key, TOMBSTONE_LOCK, TOMBSTONES, Tombstone};

/// The tombstones that lie there, and the right to remove them: no CNI binary writes one meanwhile.
#[derive(Debug)]
pub struct Tombstones {
    files: Vec<PathBuf>,
    keys: Vec<Key>,
    _lock: Flock<File>,
}

/// Whether any lie there: cheap enough to ask before each ADD.
pub fn any(state_dir: &Path) -> bool {
    fs::read_dir(state_dir.join(TOMBSTONES))
        .is_ok_and(|folder| folder.flatten().any(|entry| is_tombstone(&entry.path())))
}

impl Tombstones {
    /// Reads them all. What cannot be decoded is removed later with the others: it names nothing.
    ///
    /// # Errors
    /// When the folder cannot be made, read or locked.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join(TOMBSTONES);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(TOMBSTONE_LOCK))?;
        // A CNI binary holds the lock while it writes one small file.
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let files: Vec<_> =
            fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).filter(|path| is_tombstone(path)).collect();
        let read = |path: &PathBuf| serde_json::from_slice::<Tombstone>(&fs::read(path).ok()?).ok();
        let keys = files.iter().filter_map(read).map(|tombstone| tombstone.key).collect();
        Ok(Tombstones { files, keys, _lock: lock })
    }

    /// What is to be detached.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Removes them, once all that they ask for is done durably.
    ///
    /// # Errors
    /// When one cannot be removed; it will be replayed again, which does no harm.
    pub fn remove(self) -> io::Result<()> {
        self.files.iter().try_for_each(fs::remove_file)
    }
}

fn is_tombstone(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}
