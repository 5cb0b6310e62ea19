//! One dataplane per directory: a lock on a file in each of them, held for as long as the keeper lives; and one worker
//! process per state. A directory that can only be read is locked as well: who is there is not written down then.
use crate::config::Config;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// The file in each directory that the keeper locks; it says whose lock it is.
const KEEPER: &str = "dataplane.lock";
/// The file in the state directory that the worker process locks.
const WORKER: &str = "worker.lock";

/// The directories of a dataplane are this process's until it ends, or this is dropped.
#[derive(Debug)]
pub struct Locks {
    files: Vec<(PathBuf, File)>,
}

/// Why a directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another dataplane has it.
    #[error("another dataplane (pid {pid}) uses {dir}")]
    Taken {
        /// The directory.
        dir: PathBuf,
        /// Its keeper, as it wrote itself down.
        pid: String,
    },
    /// The system refused.
    #[error("cannot {step} {path}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// The directory or the file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Locks {
    /// Takes the state and the run directory of `config`, which are made when they are not there.
    ///
    /// # Errors
    /// Another dataplane uses one of them, or a file in it can be neither made nor read.
    pub fn take(config: &Config) -> Result<Self, LockError> {
        let mut files = vec![lock(&config.state_dir, KEEPER)?];
        if !is_same(&config.state_dir, &config.run_dir) {
            files.push(lock(&config.run_dir, KEEPER)?);
        }
        Ok(Locks { files })
    }

    /// Takes the state for a worker process. One whose keeper was killed may be ending still, and keep a last change:
    /// this waits for it, for a state that it misses would be lost.
    ///
    /// # Errors
    /// A file in the directory can be neither made nor read.
    pub fn take_state(config: &Config) -> Result<Self, LockError> {
        let mut told = false;
        loop {
            match lock(&config.state_dir, WORKER) {
                Err(LockError::Taken { pid, .. }) => {
                    if !told {
                        tracing::warn!("waiting for an earlier worker process (pid {pid}) to end");
                    }
                    told = true;
                    std::thread::sleep(AGAIN);
                }
                locked => return locked.map(|file| Locks { files: vec![file] }),
            }
        }
    }
}

impl Locks {
    /// Removes the files, for a dataplane that is not to come back. Who waits for one of them makes another.
    pub fn remove(self) {
        for (path, _locked) in &self.files {
            let _gone = fs::remove_file(path);
        }
    }
}

/// How often it is looked whether an earlier worker process has ended.
const AGAIN: Duration = Duration::from_millis(10);

fn lock(dir: &Path, name: &str) -> Result<(PathBuf, File), LockError> {
    let path = dir.join(name);
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| LockError::System { step, path, source }
    };
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    loop {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let (file, unwritable) = match options.open(&path) {
            Err(error) if is_unwritable(&error) => (File::open(&path), Some(error)),
            opened => (opened, None),
        };
        let mut file = file.map_err(failed("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = fs::read_to_string(&path).ok().filter(|pid| !pid.is_empty());
                return Err(LockError::Taken { dir: dir.into(), pid: pid.unwrap_or_else(|| "unknown".into()) });
            }
            Err(errno) => return Err(failed("lock", &path)(errno.into())),
        }
        if place(&path) != file.metadata().ok().map(|file| (file.dev(), file.ino())) {
            continue; // it was removed before it was locked
        }
        // The lock counts: who has it is written down for people only.
        let mut write = || file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        let written = unwritable.map_or_else(&mut write, Err);
        if let Err(error) = written {
            tracing::warn!("{} is locked, but cannot be written: {error}", path.display());
        }
        return Ok((path, file));
    }
}

/// Whether the file system, rather than the file, cannot be written: what is there can be read nevertheless.
pub(crate) fn is_unwritable(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ROFS | Errno::NOSPC | Errno::DQUOT | Errno::ACCESS))
}

/// One directory may be both; a file cannot be locked twice.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other || place(one).is_some_and(|one| place(other) == Some(one))
}

fn place(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino())).ok()
}

/// Makes a directory and its files such that this thread cannot write them, whoever it is.
#[cfg(test)]
pub(crate) fn only_read(dir: &Path) {
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    let sets = capabilities(None).unwrap();
    let effective = sets.effective - CapabilitySet::DAC_OVERRIDE;
    set_capabilities(None, CapabilitySets { effective, ..sets }).unwrap();
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    for (path, mode) in paths.map(|path| (path, 0o400)).chain([(dir.to_owned(), 0o500)]) {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_dataplane_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let config = |state: &str, run: &str| Config {
            state_dir: dir.path().join(state),
            run_dir: dir.path().join(run),
            ..Config::default()
        };
        let first = Locks::take(&config("state", "run")).unwrap();
        for (state, run, taken) in [("state", "other", "state"), ("other", "run", "run")] {
            let error = Locks::take(&config(state, run)).unwrap_err().to_string();
            let pid = std::process::id();
            assert_eq!(error, format!("another dataplane (pid {pid}) uses {}", dir.path().join(taken).display()));
        }
        drop(first);
        let first = Locks::take(&config("state", "run")).unwrap();
        let _beside_the_keeper = Locks::take_state(&config("state", "run")).unwrap();
        drop(first);
        Locks::take(&config("both", "both")).unwrap().remove();
        assert_eq!(fs::read_dir(dir.path().join("both")).unwrap().count(), 0);
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(Locks::take(&config("file", "run")), Err(LockError::System { step: "make", .. })));
    }

    #[test]
    fn a_directory_that_can_only_be_read_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { state_dir: dir.path().into(), run_dir: dir.path().into(), ..Config::default() };
        drop((Locks::take(&config).unwrap(), Locks::take_state(&config).unwrap()));
        only_read(dir.path());
        let _keeper = Locks::take(&config).unwrap();
        let _worker = Locks::take_state(&config).unwrap();
        assert!(matches!(Locks::take(&config), Err(LockError::Taken { .. })));
    }

    #[test]
    fn a_worker_process_waits_for_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { state_dir: dir.path().into(), ..Config::default() };
        let before = Locks::take_state(&config).unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        let next = std::thread::spawn(move || {
            let lock = Locks::take_state(&config).unwrap();
            send.send("it has the state").unwrap();
            drop(lock);
        });
        assert!(receive.recv_timeout(5 * AGAIN).is_err());
        drop(before);
        assert_eq!(receive.recv().unwrap(), "it has the state");
        next.join().unwrap();
    }
}
