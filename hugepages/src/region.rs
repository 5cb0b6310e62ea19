//! Regions: what is asked, what was got, and the memory itself.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64};

use zerocopy::{FromBytes, IntoBytes};

use crate::error::{MapError, Shortfall};
use crate::kind::{PageKind, Size, Want};
use crate::map::Mapping;
use crate::object::Claim;
use crate::obtain;

/// What to map.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Size in bytes: a multiple of 4 KiB, and of the page size of the kinds that are wanted ([`PageKind::round_up`]).
    pub bytes: usize,
    /// Which kinds of pages, and which first.
    pub want: Want,
    /// What holds the memory.
    pub backing: Backing,
    /// Keep the pages in memory (hugetlb pages always are).
    pub lock: bool,
    /// Take every page now instead of at its first touch. Hugetlb pages and files always are taken: for them a page
    /// that is missing later would end the process.
    pub prefault: bool,
    /// Take pages of this NUMA node only.
    pub numa_node: Option<u32>,
    /// Whether lock, prefault, seals and the NUMA node are required: a shortfall of them is an error. (Kinds of pages
    /// are required by [`Want::Only`].)
    pub strict: bool,
}

impl Settings {
    /// Private, prefaulted memory on the best pages; not locked, on any node.
    pub fn new(bytes: usize) -> Settings {
        let (want, backing) = (Want::Best, Backing::Anonymous);
        Settings { bytes, want, backing, lock: false, prefault: true, numa_node: None, strict: false }
    }
}

/// What holds the memory of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private to this process; the kind of memory that gets transparent pages on most hosts.
    Anonymous,
    /// An object without a path, sealed against any change of its size, shared by its descriptor.
    Memfd {
        /// Shown in `/proc/PID/maps`; at most 249 bytes, none of them zero.
        name: String,
    },
    /// A file on hugetlbfs or tmpfs, which outlives the process. What it holds is kept when its size matches.
    File {
        /// Path of the file, created with mode 0600 where it is missing; its pages are used until it is removed.
        path: PathBuf,
    },
}

/// What another process handed over by descriptor.
#[derive(Debug)]
pub struct Received {
    /// The object: a memfd, or a file on hugetlbfs or tmpfs.
    pub fd: OwnedFd,
    /// A name for messages.
    pub name: String,
    /// Size that it must have, in bytes.
    pub bytes: usize,
    /// Refuse an object that its giver could shrink. False only for files of our own.
    pub require_sealed: bool,
    /// Keep the pages in memory.
    pub lock: bool,
}

/// Owned memory; given back when dropped.
#[derive(Debug)]
pub struct Region {
    pub(crate) mapping: Mapping,
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) claim: Option<Claim>,
    pub(crate) got: Got,
}

impl Region {
    /// Maps a region on the best pages that the settings accept and the host has.
    ///
    /// # Errors
    /// A size that is no multiple of 4 KiB, no acceptable pages, an unknown NUMA node, a file of another size, or (if
    /// strict) any shortfall.
    pub fn map(settings: Settings) -> Result<Region, MapError> {
        obtain::map(&settings)
    }

    /// Maps what another process shares.
    ///
    /// # Errors
    /// Another size than expected, no seal against shrinking where one is required, not a memory object, or mapped by
    /// this process already.
    pub fn from_fd(received: Received) -> Result<Region, MapError> {
        obtain::receive(received)
    }

    /// The descriptor to share; none for anonymous memory.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.got.bytes
    }

    /// Never: a region has at least one page.
    pub fn is_empty(&self) -> bool {
        self.got.bytes == 0
    }

    /// What was got, and how it is less than what was asked.
    pub fn got(&self) -> &Got {
        &self.got
    }

    /// Address of the first byte, as the kernel's interfaces ask for it (AF_XDP's umem); a multiple of 2 MiB.
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.start()
    }

    /// The memory. Not for memory that a hostile peer maps: see [`Region::cells`].
    pub fn bytes(&self) -> &[u8] {
        self.mapping.bytes()
    }

    /// The memory, to write. Not for memory that a hostile peer maps: see [`Region::cells`].
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.mapping.bytes_mut()
    }

    /// The memory as atomic bytes, for what another process may write at any time.
    pub fn cells(&mut self) -> &[AtomicU8] {
        self.mapping.cells()
    }

    /// The memory as atomic words, from now on and in no other way: for threads of this process that share it.
    pub fn into_words(self) -> Words {
        Words { mapping: self.mapping, _claim: self.claim }
    }

    /// Unmaps and keeps the descriptor, to hand it over.
    pub fn into_fd(self) -> Option<OwnedFd> {
        self.fd
    }

    /// The memory for the rest of the process; the descriptor is closed.
    pub fn leak(self) -> &'static mut [u8] {
        self.leak_parts().bytes
    }

    /// The memory for the rest of the process, the descriptor and what was got.
    pub fn leak_parts(self) -> Parts {
        if let Some(claim) = self.claim {
            claim.keep();
        }
        Parts { bytes: self.mapping.leak(), fd: self.fd, got: self.got }
    }

    /// The first `count` elements of the memory as plain values, for the rest of the process.
    ///
    /// # Errors
    /// [`MapError::Size`] when the region is too small for them.
    pub fn leak_slice<T: FromBytes + IntoBytes>(self, count: usize) -> Result<&'static mut [T], MapError> {
        if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > self.len()) {
            return Err(MapError::Size { bytes: self.len() });
        }
        let bytes = self.len();
        match <[T]>::mut_from_prefix_with_elems(self.leak(), count) {
            Ok((slice, _)) => Ok(slice),
            Err(_) => Err(MapError::Size { bytes }),
        }
    }
}

/// Owned memory that threads share in words of 64 bits; given back when dropped.
#[derive(Debug)]
pub struct Words {
    mapping: Mapping,
    _claim: Option<Claim>,
}

impl std::ops::Deref for Words {
    type Target = [AtomicU64];
    #[inline(always)]
    fn deref(&self) -> &[AtomicU64] {
        self.mapping.words()
    }
}

/// Maps `count` zeroed elements for the rest of the process; the settings' size is ignored and computed instead.
///
/// From 2 MiB on the size is rounded up to a multiple of 2 MiB, so that large pages fit.
///
/// # Errors
/// As [`Region::map`].
pub fn leak_slice<T>(count: usize, settings: Settings) -> Result<(&'static mut [T], Got), MapError>
where
    T: FromBytes + IntoBytes,
{
    let exact = count.checked_mul(size_of::<T>()).ok_or(MapError::Size { bytes: usize::MAX })?;
    let page = if exact < PageKind::Huge2M.size() { PageKind::Plain } else { PageKind::Huge2M };
    let page = if settings.want == Want::Only(PageKind::Huge1G) { PageKind::Huge1G } else { page };
    let page = if settings.want == Want::Only(PageKind::Huge2M) { PageKind::Huge2M } else { page };
    let bytes = page.round_up(exact).ok_or(MapError::Size { bytes: exact })?;
    let region = Region::map(Settings { bytes, ..settings })?;
    let got = region.got().clone();
    Ok((region.leak_slice(count)?, got))
}

/// A region for the rest of the process.
#[derive(Debug)]
pub struct Parts {
    /// The memory.
    pub bytes: &'static mut [u8],
    /// The descriptor to share; none for anonymous memory.
    pub fd: Option<OwnedFd>,
    /// What was got.
    pub got: Got,
}

/// What a region is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The kinds of pages that were acceptable.
    pub asked: Want,
    /// The kind of pages that it has.
    pub kind: PageKind,
    /// Size in bytes.
    pub bytes: usize,
    /// Bytes on large pages as the kernel counts them; none where nothing was prefaulted.
    pub huge: Option<usize>,
    /// Whether no page can be swapped out.
    pub locked: bool,
    /// Whether every page was taken.
    pub prefaulted: bool,
    /// Whether nobody can shrink it under us: private memory, or sealed.
    pub sealed: bool,
    /// The NUMA node that it is bound to.
    pub numa_node: Option<u32>,
    /// Whether it holds what an earlier owner left: a file that existed, or a received object.
    pub existing: bool,
    /// Each way in which it is less than what was asked; empty when it is not.
    pub shortfalls: Vec<Shortfall>,
}

impl Got {
    /// Number of pages, hence of address translations, that cover the region.
    pub fn pages(&self) -> usize {
        let huge = match self.kind {
            PageKind::Transparent => self.huge.unwrap_or(self.bytes),
            PageKind::Plain => 0,
            PageKind::Huge2M | PageKind::Huge1G => self.bytes,
        };
        huge.div_ceil(self.kind.size()) + (self.bytes - huge.min(self.bytes)).div_ceil(PageKind::Plain.size())
    }
}

impl fmt::Display for Got {
    /// One line: size, pages, properties, then each shortfall.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {} pages ({})", Size(self.bytes), self.kind, self.pages())?;
        for (yes, word) in [(self.locked, "locked"), (self.prefaulted, "prefaulted"), (self.existing, "existing")] {
            if yes {
                write!(f, ", {word}")?;
            }
        }
        if let Some(node) = self.numa_node {
            write!(f, ", NUMA node {node}")?;
        }
        for shortfall in &self.shortfalls {
            write!(f, "; {shortfall}")?;
        }
        Ok(())
    }
}
