//! Blocks of words on large pages, shared by all versions of a table.
//!
//! A slab is where the versions of one table keep what a packet's lookup reads. Blocks are numbered; memory comes in
//! segments, each twice as large as the one before, so that a number leads to its word in a few steps and without a
//! list. The first segment is on plain pages, touched as it is used: a small table stays small. For the same reason no
//! segment is locked: what lies in it and is not used yet would take memory.
//!
//! ```text
//!   block 3000 of 2 KiB --> + 1024 = 0b1_111110111000  --> segment 1, block 1976 in it
//!                                    ^ which segment
//!   segments:  0: 2 MiB   1: 4 MiB   2: 8 MiB ...
//! ```
//!
//! Every block counts who uses it: parent blocks and versions. Whoever changes a version copies the blocks that others
//! use as well ([`Writer::own`]) and writes those that are its own in place, so that no version ever sees a change of
//! another one. Readers take no lock and touch no count: a version that they read holds its blocks. The lock below is
//! for those who make and drop versions, which workers never do.
#![expect(clippy::disallowed_types, reason = "workers only load; who makes or drops a version locks")]
use hugepages::{Got, PageKind, Region, Settings, Want, Words};
use std::{
    alloc::{Layout, handle_alloc_error},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// No block: every word of it reads as zero.
pub(crate) const NONE: u32 = u32::MAX;

const FIRST_BYTES: usize = 2 << 20;
const SEGMENTS: usize = 16; // 128 GiB

/// Blocks of `N` words each, a power of two.
pub(crate) struct Slab<const N: usize> {
    segments: [OnceLock<Words>; SEGMENTS],
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    uses: Vec<u32>, // by block; zero: it is free
    free: Vec<u32>,
    got: Vec<Got>, // by segment
}

impl<const N: usize> Default for Slab<N> {
    fn default() -> Self {
        Slab { segments: Default::default(), ledger: Mutex::default() }
    }
}

impl<const N: usize> Slab<N> {
    const FIRST: u32 = {
        assert!(N.is_power_of_two() && N <= FIRST_BYTES / 16);
        #[expect(clippy::cast_possible_truncation, reason = "at most 2 MiB")]
        let blocks = (FIRST_BYTES / 8 / N) as u32;
        blocks
    };

    /// Word `at` of a block, `at` being below `N`.
    #[inline(always)]
    pub(crate) fn word(&self, block: u32, at: usize) -> Option<&AtomicU64> {
        let (segment, inside) = Self::place(block);
        self.segments.get(segment)?.get()?.get(inside * N + at)
    }

    /// The value of a word; zero where there is no such block.
    #[inline(always)]
    pub(crate) fn load(&self, block: u32, at: usize) -> u64 {
        self.word(block, at).map_or(0, |word| word.load(Relaxed))
    }

    /// `len` words of a block from `at` on.
    #[inline(always)]
    pub(crate) fn words(&self, block: u32, at: usize, len: usize) -> &[AtomicU64] {
        let (segment, inside) = Self::place(block);
        let words = self.segments.get(segment).and_then(|segment| segment.get()?.get(inside * N + at..)?.get(..len));
        words.unwrap_or_default()
    }

    /// To take, copy and give back blocks.
    pub(crate) fn writer(&self) -> Writer<'_, N> {
        Writer { slab: self, ledger: self.ledger.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// How much memory its blocks take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.writer().ledger.uses.len() * N * 8
    }

    /// The memory of each segment that there is; as many bytes as blocks were ever used of it.
    pub(crate) fn got(&self) -> Vec<Got> {
        let writer = self.writer();
        let mut left = writer.ledger.uses.len() * N * 8;
        let used = |got: &Got| {
            let bytes = got.bytes.min(left);
            left -= bytes;
            Got { bytes, ..got.clone() }
        };
        writer.ledger.got.iter().map(used).collect()
    }

    /// The segment of a block, and its number in there. For [`NONE`] there is no such segment.
    #[inline(always)]
    fn place(block: u32) -> (usize, usize) {
        let number = block.wrapping_add(Self::FIRST);
        let top = (u32::BITS - 1).wrapping_sub(number.leading_zeros());
        let segment = top.wrapping_sub(Self::FIRST.ilog2());
        (segment as usize, (number & !(1u32.unbounded_shl(top))) as usize)
    }

    fn all(&self, block: u32) -> &[AtomicU64] {
        self.words(block, 0, N)
    }

    /// Makes sure that there is memory for a block; gives what was got, if that is new.
    fn back(&self, block: u32) -> Option<Got> {
        let (number, _) = Self::place(block);
        let bytes = FIRST_BYTES << number;
        let want = Want::AtMost(if number == 0 { PageKind::Plain } else { PageKind::Transparent });
        let settings = Settings { want, prefault: false, ..Settings::new(bytes) };
        let mut got = None;
        let map = || match Region::map(settings) {
            Ok(region) => {
                got = Some(region.got().clone());
                region.into_words()
            }
            Err(_) => handle_alloc_error(Layout::from_size_align(bytes, 8).unwrap_or(Layout::new::<u64>())),
        };
        if let Some(segment) = self.segments.get(number) {
            segment.get_or_init(map);
        }
        got
    }
}

/// Changes which blocks there are; there is one at a time.
pub(crate) struct Writer<'a, const N: usize> {
    slab: &'a Slab<N>,
    ledger: MutexGuard<'a, Ledger>,
}

impl<'a, const N: usize> Writer<'a, N> {
    /// A block for one user, every word `value`.
    pub(crate) fn take(&mut self, value: u64) -> u32 {
        let block = self.fresh();
        self.slab.all(block).iter().for_each(|word| word.store(value, Relaxed));
        block
    }

    /// The block as one that only the caller uses, who used it before: itself, or a copy when others use it too.
    /// `child` says which words are numbers of blocks that the block uses.
    pub(crate) fn own(&mut self, block: u32, child: fn(u64) -> Option<u32>) -> u32 {
        if self.ledger.uses.get(block as usize) == Some(&1) {
            return block;
        }
        let copy = self.fresh();
        for (from, to) in self.slab.all(block).iter().zip(self.slab.all(copy)) {
            let value = from.load(Relaxed);
            to.store(value, Relaxed);
            child(value).into_iter().for_each(|child| self.share(child));
        }
        self.release(block, child);
        copy
    }

    /// One more user of a block.
    pub(crate) fn share(&mut self, block: u32) {
        if let Some(uses) = self.ledger.uses.get_mut(block as usize) {
            *uses += 1;
        }
    }

    /// One user less; a block without any is free, and uses no other block any more.
    pub(crate) fn release(&mut self, block: u32, child: fn(u64) -> Option<u32>) {
        let Some(uses) = self.ledger.uses.get_mut(block as usize) else { return };
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            self.ledger.free.push(block);
            let children = self.slab.all(block).iter().filter_map(|word| child(word.load(Relaxed)));
            children.for_each(|block| self.release(block, child));
        }
    }

    /// The words of a block that the caller owns.
    pub(crate) fn words(&self, block: u32) -> &'a [AtomicU64] {
        self.slab.all(block)
    }

    /// How many blocks are in use.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> usize {
        self.ledger.uses.len() - self.ledger.free.len()
    }

    fn fresh(&mut self) -> u32 {
        let block = self.ledger.free.pop().unwrap_or_else(|| {
            self.ledger.uses.push(0);
            u32::try_from(self.ledger.uses.len() - 1).unwrap_or(NONE)
        });
        self.ledger.got.extend(self.slab.back(block));
        self.share(block);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(word: u64) -> Option<u32> {
        u32::try_from(word.checked_sub(1)?).ok()
    }

    #[test]
    fn what_two_use_is_copied_and_what_nobody_uses_is_free() {
        let slab = Slab::<4>::default();
        let mut writer = slab.writer();
        let leaf = writer.take(0);
        let parent = writer.take(0);
        slab.word(parent, 3).unwrap().store(u64::from(leaf) + 1, Relaxed);
        assert_eq!(writer.own(parent, child), parent, "nobody else uses it");
        writer.share(parent);
        let copy = writer.own(parent, child);
        assert!(copy != parent && slab.load(copy, 3) == u64::from(leaf) + 1);
        let other = writer.own(leaf, child);
        assert!(other != leaf, "both parents use it");
        slab.word(copy, 3).unwrap().store(u64::from(other) + 1, Relaxed);
        assert_eq!(writer.in_use(), 4);
        writer.release(parent, child);
        assert_eq!(writer.in_use(), 2, "the copies");
        writer.release(copy, child);
        assert_eq!(writer.in_use(), 0);
    }

    #[test]
    fn every_block_has_its_own_words() {
        let slab = Slab::<{ 1 << 16 }>::default();
        let blocks: Vec<u32> = (0..40).map(|n| slab.writer().take(n)).collect();
        for (n, block) in (0..).zip(&blocks) {
            assert_eq!((slab.load(*block, 0), slab.load(*block, (1 << 16) - 1)), (n, n));
        }
        let got: Vec<_> = slab.got().iter().map(|got| (got.bytes >> 19, got.kind == PageKind::Plain)).collect();
        assert_eq!(got[0], (4, true), "2 MiB, whole");
        assert_eq!(got.iter().map(|(halves, _)| halves).sum::<usize>(), 40, "half a MiB each: {got:?}");
        assert_eq!((slab.load(NONE, 0), slab.load(40, 0), slab.words(NONE, 0, 4).len()), (0, 0, 0));
    }
}
