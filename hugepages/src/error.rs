//! What can fall short, and what can fail.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::kind::{PageKind, Size};
use crate::pools::ThpMode;

/// Why a region could not be mapped as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The size is zero, not a multiple of 4 KiB, or beyond the address space.
    #[error("a region of {bytes} bytes: the size must be a multiple of 4 KiB and more than 0")]
    Size {
        /// What was asked.
        bytes: usize,
    },
    /// No acceptable kind of pages could be had; this is why the last of them could not.
    #[error("no {kind} pages for {}: {fault}", Size(*.bytes))]
    Kind {
        /// The kind that was tried last.
        kind: PageKind,
        /// Size of the region.
        bytes: usize,
        /// What was wrong with it.
        fault: KindFault,
    },
    /// The host has no such NUMA node with memory.
    #[error("no NUMA node {node} on this host: it has {online:?}")]
    NoSuchNode {
        /// The node that was asked for.
        node: u32,
        /// The nodes that there are.
        online: Vec<u32>,
    },
    /// A file or a descriptor is not what it should be.
    #[error("{name}: {fault}")]
    Object {
        /// Path or name.
        name: String,
        /// What is wrong with it.
        fault: ObjectFault,
    },
    /// The settings were strict, and this fell short.
    #[error("asked for strictly, but {0}")]
    Strict(Shortfall),
    /// The system refused a call that has no fallback.
    #[error("{call}: {errno}")]
    System {
        /// The system call.
        call: &'static str,
        /// Its answer.
        errno: Errno,
    },
}

/// One way in which a region is less than what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// A preferred kind of pages could not be had.
    #[error("not on {kind} pages: {fault}")]
    Kind {
        /// The kind that was preferred.
        kind: PageKind,
        /// Why it could not be had.
        fault: KindFault,
    },
    /// The kernel found large pages for a part only.
    #[error("only {} of {} are on large pages (memory is fragmented)", Size(*.huge), Size(*.bytes))]
    PartlyHuge {
        /// Bytes on large pages.
        huge: usize,
        /// Bytes of the region.
        bytes: usize,
    },
    /// The pages may be swapped out.
    #[error("not locked: {errno} (limit {}; raise LimitMEMLOCK or ulimit -l)", limit.as_deref().unwrap_or("unknown"))]
    NotLocked {
        /// The limit of locked memory of this process, in bytes, or `unlimited`.
        limit: Option<String>,
        /// The system's answer.
        errno: Errno,
    },
    /// The first touch of each page costs a fault.
    #[error("not prefaulted: {errno} (needs Linux 5.14)")]
    NotPrefaulted {
        /// The system's answer.
        errno: Errno,
    },
    /// The memory may lie on any NUMA node.
    #[error("not bound to NUMA node {node}: {errno} (a container needs CAP_SYS_NICE for mbind)")]
    NotBound {
        /// The node that was asked for.
        node: u32,
        /// The system's answer.
        errno: Errno,
    },
    /// A peer that holds the descriptor could shrink the object.
    #[error("not sealed: {errno}")]
    NotSealed {
        /// The system's answer.
        errno: Errno,
    },
}

/// Why a kind of pages could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KindFault {
    /// The pool has too few free pages.
    #[error("needs {needed} pages, {free} are free (reserve with millrace-hugepages reserve)")]
    OutOfPages {
        /// Pages needed.
        needed: usize,
        /// Pages free and promised to nobody; on the node, where one was asked for.
        free: usize,
    },
    /// The size of the region is no multiple of this page size (for transparent pages: less than one).
    #[error("{} is no multiple of the page size", Size(*.bytes))]
    WrongSize {
        /// Size of the region.
        bytes: usize,
    },
    /// This host has no pool of that size.
    #[error("this host has no such pool")]
    NoPool,
    /// Transparent pages are switched off for this kind of memory.
    #[error("switched off for {memory} memory on this host ({mode})")]
    Off {
        /// `anonymous` or `shared`.
        memory: &'static str,
        /// The mode that sysfs shows.
        mode: ThpMode,
    },
    /// Nothing forbids transparent pages, but the kernel gave none.
    #[error("the kernel gave none (memory is fragmented, or the file system does not have them)")]
    NoneGiven,
    /// The caller may not have these pages.
    #[error("no permission: {0}")]
    NoPermission(Errno),
    /// The file lies on a file system with pages of another kind.
    #[error("the file system gives {0} pages")]
    FileSystem(PageKind),
    /// The system refused, with enough pages free (a hugetlb or memory limit of the control group does this).
    #[error("refused: {0} (look at the limits of the control group)")]
    Refused(Errno),
}

/// What is wrong with a file or a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectFault {
    /// It has another size than the region; it is left as it is.
    #[error("is {has} bytes and should be {wanted} (remove it to start empty)")]
    Size {
        /// Size of the object in bytes.
        has: u64,
        /// Size of the region in bytes.
        wanted: usize,
    },
    /// It can be shrunk under us, which would end this process by a fault.
    #[error("is not sealed against shrinking")]
    Unsealed,
    /// This process has it mapped already.
    #[error("is mapped by this process already")]
    AlreadyMapped,
    /// It is neither on hugetlbfs nor on tmpfs.
    #[error("lies on no memory file system: use a directory on hugetlbfs or tmpfs")]
    NotMemory,
    /// The caller may not open it.
    #[error("no permission")]
    NoPermission,
    /// It cannot be opened or sized.
    #[error("{0}")]
    Refused(Errno),
}

/// Why the host's pools could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The host has no pool of pages of this size.
    #[error("no pool of {} pages on this host: it has {have:?} (bytes)", Size(*.page))]
    NoPool {
        /// Size that was asked for, in bytes.
        page: usize,
        /// Sizes that there are, in bytes.
        have: Vec<usize>,
    },
    /// The host has no such NUMA node.
    #[error("no NUMA node {node} on this host: it has {online:?}")]
    NoSuchNode {
        /// The node that was asked for.
        node: u32,
        /// The nodes that there are.
        online: Vec<u32>,
    },
    /// The caller may not change the pool.
    #[error("{}: no permission: run it as root, outside of a container or in a privileged one", .path.display())]
    NoPermission {
        /// The file that could not be written.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: {errno}", .path.display())]
    System {
        /// The file that could not be read or written.
        path: PathBuf,
        /// The system's answer.
        errno: Errno,
    },
}

/// An error number of the system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(
    /// As in `errno.h`.
    pub i32,
);

impl Errno {
    /// The number inside an error of std; EIO for one that has none.
    pub(crate) fn of(error: &io::Error) -> Errno {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Whether the caller lacks a right.
    pub(crate) fn is_permission(self) -> bool {
        matches!(self.0, libc::EPERM | libc::EACCES | libc::EROFS)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}
