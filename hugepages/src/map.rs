//! The system calls: mappings, memfd objects, seals.

// UNSAFETY: mapping memory, placing it and making references to it are system calls and raw pointers; std has no safe
// form of them. Everything above this file sees owned mappings and slices only.
#![expect(unsafe_code, reason = "mmap, madvise, mbind, mlock and memfd have no safe form in std")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU64};

use crate::error::Errno;

/// What a mapping shows.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Private zeroed memory; from the hugetlb pool of pages of `1 << shift` bytes where `huge` says so.
    Anonymous { huge: Option<u32> },
    /// The object behind a descriptor, shared with all who map it.
    Object(BorrowedFd<'a>),
}

/// Owned, writable memory with an inaccessible page at least on either side; unmapped when dropped.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    reserved: Reservation,
}

impl Mapping {
    /// Maps `bytes` of the source at a multiple of `align` (a power of two, at least a page).
    ///
    /// The object behind a descriptor must be at least `bytes` long and mapped by nobody else in this process.
    pub(crate) fn new(source: Source<'_>, bytes: usize, align: usize) -> Result<Mapping, Errno> {
        let too_long = Errno(libc::ENOMEM);
        let span = bytes.checked_add(align).and_then(|sum| sum.checked_add(2 * GUARD)).ok_or(too_long)?;
        let reserved = Reservation::new(span)?;
        let skip = (reserved.start.addr().get() + GUARD).next_multiple_of(align) - reserved.start.addr().get();
        // SAFETY: skip is less than GUARD + align, so it lies inside the reservation of bytes + align + 2 * GUARD.
        let start = unsafe { reserved.start.add(skip) };
        let (flags, fd) = match source {
            Source::Anonymous { huge: None } => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
            Source::Anonymous { huge: Some(shift) } => {
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | huge_flag(shift), -1)
            }
            Source::Object(fd) => (libc::MAP_SHARED, fd.as_raw_fd()),
        };
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range lies inside our own reservation, which nothing refers to.
        let at = unsafe { libc::mmap(start.as_ptr().cast(), bytes, rights, flags | libc::MAP_FIXED, fd, 0) };
        if at == libc::MAP_FAILED {
            let errno = last_errno();
            reserved.abandon(skip, bytes);
            return Err(errno);
        }
        Ok(Mapping { start, bytes, reserved })
    }

    /// Address of the first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped readable as long as self lives, and this process, where an object is mapped once,
        // writes it only through `&mut self`; other processes keep the contract of the crate's page.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// The memory, to write.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the range is mapped writable as long as self lives, and `&mut self` is the only way to it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// The memory as atomic bytes: another process may write it at any time.
    pub(crate) fn cells(&mut self) -> &[AtomicU8] {
        self.atoms()
    }

    /// The memory as atomic words, for an owner that gives it out in no other way.
    #[inline(always)]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.atoms()
    }

    #[inline(always)]
    fn atoms<T: Atom>(&self) -> &[T] {
        // SAFETY: the range is mapped writable as long as self lives and begins on a page, and of an atom every pattern
        // is valid. `cells` borrows `bytes` away; the one owner that asks for `words` never asks for `bytes`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    /// Gives the memory away for the rest of the process.
    pub(crate) fn leak(self) -> &'static mut [u8] {
        let (start, bytes) = (self.start, self.bytes);
        std::mem::forget(self);
        // SAFETY: the mapping is never unmapped once forgotten, and this is the only reference to it.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) }
    }

    /// Advice that does not change what the memory holds.
    pub(crate) fn advise(&self, advice: Advice) -> Result<(), Errno> {
        let advice = match advice {
            Advice::HugePages => libc::MADV_HUGEPAGE,
            Advice::NoHugePages => libc::MADV_NOHUGEPAGE,
            Advice::Populate => libc::MADV_POPULATE_WRITE,
        };
        // SAFETY: the range is ours; none of the three changes a byte of it.
        checked(unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, advice) })
    }

    /// Keeps the pages in memory.
    pub(crate) fn lock(&self) -> Result<(), Errno> {
        // SAFETY: the range is ours; mlock changes no byte of it.
        checked(unsafe { libc::mlock(self.start.as_ptr().cast(), self.bytes) })
    }

    /// Takes pages from one NUMA node only, and moves those that are elsewhere.
    pub(crate) fn bind(&self, node: u32) -> Result<(), Errno> {
        let mut mask = [0u64; NODES / 64];
        let word = mask.get_mut(node as usize / 64).ok_or(Errno(libc::EINVAL))?;
        *word |= 1 << (node % 64);
        let (start, mask, policy) = (self.start.as_ptr(), mask.as_ptr(), libc::MPOL_BIND);
        // SAFETY: the range is ours, the mask holds NODES bits (the kernel counts one more), and no byte changes.
        let answer = unsafe { libc::syscall(libc::SYS_mbind, start, self.bytes, policy, mask, NODES + 1, MOVE) };
        if answer == 0 { Ok(()) } else { Err(last_errno()) }
    }
}

/// An atomic number: of its size in memory, and any bytes are one.
trait Atom {}
impl Atom for AtomicU8 {}
impl Atom for AtomicU64 {}

// SAFETY: a mapping is memory of the process and belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: shared references only read.
unsafe impl Sync for Mapping {}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({:p}, {} bytes of {})", self.start, self.bytes, self.reserved.span)
    }
}

/// What is advised about a mapping.
#[derive(Clone, Copy)]
pub(crate) enum Advice {
    /// Back it by transparent huge pages.
    HugePages,
    /// Keep it on plain pages.
    NoHugePages,
    /// Fault every page in, writable.
    Populate,
}

/// A new memory object; from the hugetlb pool of pages of `1 << shift` bytes where `huge` says so.
pub(crate) fn memfd(name: &CStr, huge: Option<u32>) -> Result<OwnedFd, Errno> {
    let pages = huge.map_or(0, |shift| libc::MFD_HUGETLB | huge_flag(shift).cast_unsigned());
    // SAFETY: the name is a C string that outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | pages) };
    checked(fd.min(0))?;
    // SAFETY: the descriptor is fresh and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Seals an object against any change of its size, and against further seals.
pub(crate) fn seal(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: fcntl on a borrowed, open descriptor; it touches no memory.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })
}

/// Whether an object can never shrink.
pub(crate) fn cannot_shrink(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: fcntl on a borrowed, open descriptor; it touches no memory.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_SHRINK != 0
}

/// The file system that an object lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// hugetlbfs with this page size in bytes.
    Hugetlb(usize),
    /// tmpfs, or a memfd of plain pages.
    Tmpfs,
    /// Anything else.
    Other,
}

/// Which file system an object lies on.
pub(crate) fn file_system(fd: BorrowedFd<'_>) -> Result<FileSystem, Errno> {
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and the buffer is a whole statfs.
    checked(unsafe { libc::fstatfs(fd.as_raw_fd(), found.as_mut_ptr()) })?;
    // SAFETY: zeroed is a valid statfs already, and the call has filled it.
    let found = unsafe { found.assume_init() };
    Ok(match found.f_type {
        libc::HUGETLBFS_MAGIC => FileSystem::Hugetlb(usize::try_from(found.f_bsize).unwrap_or_default()),
        libc::TMPFS_MAGIC => FileSystem::Tmpfs,
        _ => FileSystem::Other,
    })
}

/// Address space that nothing else can use; given back when dropped, with all that was mapped inside.
struct Reservation {
    start: NonNull<u8>,
    span: usize,
}

impl Reservation {
    fn new(span: usize) -> Result<Reservation, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address that the kernel chooses touches nothing that exists.
        let at = unsafe { libc::mmap(ptr::null_mut(), span, libc::PROT_NONE, flags, -1, 0) };
        match NonNull::new(at.cast::<u8>()) {
            Some(start) if at != libc::MAP_FAILED => Ok(Reservation { start, span }),
            _ => Err(last_errno()),
        }
    }
}

impl Reservation {
    /// Gives back all but the `bytes` at `skip`, where a mapping was refused. The kernel may have taken ours away there
    /// before it refused the new one (mmap(2), `MAP_FIXED`), and another thread may have mapped something since: to
    /// unmap that range now could take that thread's memory. What may be left of it is address space without memory.
    fn abandon(self, skip: usize, bytes: usize) {
        let reserved = std::mem::ManuallyDrop::new(self);
        let behind = skip.saturating_add(bytes);
        // SAFETY: the range is the front of our own reservation, which nothing refers to.
        unsafe { libc::munmap(reserved.start.as_ptr().cast(), skip) };
        // SAFETY: skip + bytes is less than the span, as `Mapping::new` computed it.
        let rest = unsafe { reserved.start.add(behind) };
        // SAFETY: the range is the end of our own reservation, which nothing refers to.
        unsafe { libc::munmap(rest.as_ptr().cast(), reserved.span - behind) };
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and the owner that lent references to it is gone.
        // A refusal would leave it mapped, which is safe.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.span) };
    }
}

/// The page size of a hugetlb request in the flags of mmap and memfd_create: the shift, from bit 26 on.
fn huge_flag(shift: u32) -> i32 {
    (shift << libc::MAP_HUGE_SHIFT.cast_unsigned()).cast_signed()
}

fn checked(answer: libc::c_int) -> Result<(), Errno> {
    if answer == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::of(&std::io::Error::last_os_error())
}

/// Inaccessible bytes on either side: an overrun faults, and the kernel cannot merge neighbours, which keeps smaps
/// exact.
const GUARD: usize = 4096;

/// `MPOL_MF_MOVE` of the kernel's mempolicy.h: pages that lie elsewhere are moved.
const MOVE: libc::c_uint = 2;

/// NUMA nodes that a mask can name; the kernel's own maximum.
const NODES: usize = 1024;
