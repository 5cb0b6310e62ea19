//! Objects behind a descriptor: files, memfd objects, what peers hand over; each mapped once in a process.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Errno, MapError, ObjectFault};
use crate::kind::PageKind;
use crate::map::{self, FileSystem};

/// An object with a descriptor, and the size that it should have.
pub(crate) struct Object {
    pub(crate) file: File,
    pub(crate) name: String,
    pub(crate) bytes: usize,
}

impl Object {
    /// Opens a file, or creates it; says whether it holds something already.
    pub(crate) fn open(path: &Path, bytes: usize) -> Result<(Object, bool), MapError> {
        let name = path.display().to_string();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let opened = options.open(path).and_then(|file| Ok((file.metadata()?.len() > 0, file)));
        match opened {
            Ok((existing, file)) => Ok((Object { file, name, bytes }, existing)),
            Err(error) => {
                let errno = Errno::of(&error);
                let denied = errno.is_permission();
                let fault = if denied { ObjectFault::NoPermission } else { ObjectFault::Refused(errno) };
                Err(MapError::Object { name, fault })
            }
        }
    }

    /// The pages of the file system: plain for tmpfs.
    pub(crate) fn file_system(&self) -> Result<PageKind, MapError> {
        match map::file_system(self.file.as_fd()) {
            Ok(FileSystem::Tmpfs) => Ok(PageKind::Plain),
            Ok(FileSystem::Hugetlb(page)) => PageKind::of_pool(page).ok_or_else(|| self.fault(ObjectFault::NotMemory)),
            Ok(FileSystem::Other) => Err(self.fault(ObjectFault::NotMemory)),
            Err(errno) => Err(self.fault(ObjectFault::Refused(errno))),
        }
    }

    /// Refuses an object of another size than it should have.
    pub(crate) fn expect_size(&self) -> Result<(), MapError> {
        let has = self.file.metadata().map_err(|error| self.refused(&error))?.len();
        if has == self.bytes as u64 { Ok(()) } else { Err(self.fault(ObjectFault::Size { has, wanted: self.bytes })) }
    }

    /// Notes that this process maps the object.
    pub(crate) fn claim(&self) -> Result<Claim, MapError> {
        let found = self.file.metadata().map_err(|error| self.refused(&error))?;
        let claim = (found.dev(), found.ino());
        if claimed().insert(claim) { Ok(Claim(claim)) } else { Err(self.fault(ObjectFault::AlreadyMapped)) }
    }

    /// The error for a call on it that the system refused.
    pub(crate) fn refused(&self, error: &io::Error) -> MapError {
        self.fault(ObjectFault::Refused(Errno::of(error)))
    }

    /// The error for a fault of it.
    pub(crate) fn fault(&self, fault: ObjectFault) -> MapError {
        MapError::Object { name: self.name.clone(), fault }
    }
}

/// The right to be the one mapping of an object in this process; ends when dropped.
#[derive(Debug)]
pub(crate) struct Claim((u64, u64));

impl Claim {
    /// Keeps the claim for the rest of the process.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        claimed().remove(&self.0);
    }
}

/// Device and inode of each object that this process maps: two mappings would be two owners of the same bytes.
fn claimed() -> MutexGuard<'static, BTreeSet<(u64, u64)>> {
    static CLAIMED: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}
