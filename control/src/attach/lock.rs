//! One agent per state folder and per socket: a lock that is held for as long as the agent lives.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// What a lock is for is ours until this is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("another agent (pid {pid}) uses {what}")]
    Taken {
        /// The folder or the socket.
        what: PathBuf,
        /// Who, as it wrote itself down.
        pid: String,
    },
    /// The file cannot be opened, locked or written.
    #[error("lock file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock for `what` by the file at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// When another agent has it, or the file cannot be used.
    pub fn take(path: &Path, what: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(path).map_err(io)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                let pid = fs::read_to_string(path).ok().filter(|pid| !pid.is_empty());
                let pid = pid.unwrap_or_else(|| "unknown".into());
                return Err(LockError::Taken { what: what.to_owned(), pid });
            }
            Err((_, errno)) => return Err(io(errno.into())),
        };
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(io)?;
        Ok(Lock { _file: file })
    }
}
