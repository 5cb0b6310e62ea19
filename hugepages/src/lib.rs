//! Memory: map, pin, place on a NUMA node, share by descriptor.
//!
//! A [`Region`] is one stretch of memory on the largest pages that the host gives: 2 MiB pages of the hugetlb pool,
//! transparent huge pages, or plain ones. What was got, and each way in which it is less than what was asked, stands in
//! [`Got`]; nothing is silently worse.
//!
//! ```
//! use hugepages::{Region, Settings};
//!
//! let mut region = Region::map(Settings::new(4 << 20))?;
//! region.bytes_mut()[0] = 1;
//! println!("{}", region.got());
//! # Ok::<(), hugepages::MapError>(())
//! ```
//!
//! # Who else may write
//!
//! [`Region::bytes`] gives plain references, so a region has one owner at a time. Inside this process the crate sees to
//! it: an object that is mapped cannot be mapped again ([`ObjectFault::AlreadyMapped`]). Between processes it is a
//! contract: a region is handed over, or its parts are divided by a protocol. Memory that a hostile peer maps is read
//! and written through [`Region::cells`] only.

mod error;
mod kind;
mod map;
mod object;
mod obtain;
mod pools;
mod region;

pub use error::{Errno, KindFault, MapError, ObjectFault, PoolError, Shortfall};
pub use kind::{PageKind, Size, SizeError, Want};
pub use pools::{NodePool, Pool, Pools, Reserved, ThpMode, pools, reserve};
pub use region::{Backing, Got, Parts, Received, Region, Settings, Words, leak_slice};
