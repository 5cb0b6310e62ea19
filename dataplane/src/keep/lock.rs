//! One dataplane per directory: a lock on a file in each of them, held for as long as the keeper lives.
use crate::config::Config;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The file in each directory that is locked; it says whose lock it is.
const NAME: &str = "dataplane.lock";

/// The directories of a dataplane are this process's until it ends, or this is dropped.
#[derive(Debug)]
pub struct Locks {
    _files: Vec<File>,
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
    /// Another dataplane uses one of them, or it cannot be written.
    pub fn take(config: &Config) -> Result<Self, LockError> {
        let state = lock(&config.state_dir)?;
        let mut files = vec![state];
        if !is_same(&config.state_dir, &config.run_dir) {
            files.push(lock(&config.run_dir)?);
        }
        Ok(Locks { _files: files })
    }
}

fn lock(dir: &Path) -> Result<File, LockError> {
    let path = dir.join(NAME);
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| LockError::System { step, path, source }
    };
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(failed("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = fs::read_to_string(&path).ok().filter(|pid| !pid.is_empty());
            return Err(LockError::Taken { dir: dir.into(), pid: pid.unwrap_or_else(|| "unknown".into()) });
        }
        Err(errno) => return Err(failed("lock", &path)(errno.into())),
    }
    let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    written.map_err(failed("write", &path))?;
    Ok(file)
}

/// One directory may be both; a file cannot be locked twice.
fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| fs::metadata(path).map(|dir| (dir.dev(), dir.ino())).ok();
    one == other || place(one).is_some_and(|one| place(other) == Some(one))
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
        Locks::take(&config("state", "run")).unwrap();
        Locks::take(&config("both", "both")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(Locks::take(&config("file", "run")), Err(LockError::System { step: "make", .. })));
    }
}
