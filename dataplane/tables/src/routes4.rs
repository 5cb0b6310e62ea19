//! IPv4 routes: a trie of 8 bits a level (8-8-8-8), in versions that share what did not change.
//!
//! ```text
//!   10.1.2.3   Top (one per version)       blocks of 256 words, in a slab that versions share
//!              below[10] ----------------> [1] -------> [2] -------> [3]
//!              short[10]                   /9../16      /17../24     /25../32
//!              /0../8                      hot          cold         cold, 1 address in 10
//! ```
//!
//! An entry of a block is a leaf or the number of the block below. A prefix lies in the level that its length belongs
//! to; where there is a block below, it is pushed down into it. Prefixes of up to 8 bits are not pushed, since they
//! would change every block: they lie beside the others and count where those have nothing. So a default route costs
//! 256 entries, and any other change costs the blocks below its prefix.
//!
//! The first two levels are about 100 KiB for a full table and stay near; each of the others is one line that is far. A
//! packet's lookup therefore goes in steps: [`Routes4::first`] reads what is near, [`Routes4::fetch`] asks for the next
//! line, and [`Routes4::next`] reads it some packets later.
use crate::{
    rib::Rib,
    slab::{Slab, Writer},
    told::{LeafId, NextHopId, mask4},
    way::{WAY_BITS, leaf_of, next_hop_of, way},
};
use hugepages::Got;
use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed};

/// The IPv4 routes of one VRF. A clone costs a few references.
#[derive(Clone, Default)]
pub struct Routes4 {
    top: Arc<Top>,
    rib: Rib<u32>,
}

/// The first level.
struct Top {
    below: [Entry4; 256], // blocks of the second level, or nothing
    short: [Entry4; 256], // prefixes of up to 8 bits
    slab: Arc<Slab<256>>,
}

impl Default for Top {
    fn default() -> Self {
        Top { below: [Entry4(0); 256], short: [Entry4(0); 256], slab: Arc::default() }
    }
}

impl Clone for Top {
    fn clone(&self) -> Self {
        let mut writer = self.slab.writer();
        self.below.iter().filter_map(|entry| entry.block()).for_each(|block| writer.share(block));
        Top { below: self.below, short: self.short, slab: self.slab.clone() }
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let mut writer = self.slab.writer();
        self.below.iter().filter_map(|entry| entry.block()).for_each(|block| writer.release(block, child));
    }
}

/// How far a lookup has come: one number, which fits into a packet's metadata between stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry4(u64);

impl Entry4 {
    /// The entry that [`Entry4::bits`] gave. Any number is safe, but what was not given by the same table means
    /// nothing.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        Entry4(bits)
    }

    /// The entry as a number.
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The leaf, when the lookup has come to its end; zero where no prefix matches.
    #[inline(always)]
    pub fn leaf(self) -> Option<LeafId> {
        (self.0 & CHILD == 0).then_some(leaf_of(self.0))
    }

    /// The next hop, when the lookup has come to its end; zero where no prefix matches.
    #[inline(always)]
    pub fn next_hop(self) -> Option<NextHopId> {
        (self.0 & CHILD == 0).then_some(next_hop_of(self.0))
    }

    fn of(way: u64, len: u8) -> Self {
        Entry4(u64::from(len) << WAY_BITS | way)
    }

    fn to_block(block: u32, level: Level) -> Self {
        Entry4(CHILD | if level == Level::Fourth { FOURTH } else { 0 } | u64::from(block))
    }

    /// The length of the leaf's prefix; zero for "no leaf".
    fn len(self) -> u8 {
        (self.0 >> WAY_BITS).to_le_bytes()[0]
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "takes the low half")]
    fn block(self) -> Option<u32> {
        (self.0 & CHILD != 0).then_some(self.0 as u32)
    }

    /// Which entry of its block an address leads to.
    #[inline(always)]
    fn index(self, address: u32) -> u8 {
        let [_, _, third, fourth] = address.to_be_bytes();
        if self.0 & FOURTH != 0 { fourth } else { third }
    }
}

impl Routes4 {
    /// The longest prefix match: the leaf, zero where no prefix matches.
    #[inline(always)]
    pub fn lookup(&self, address: u32) -> LeafId {
        self.finish(self.first(address), address).leaf().unwrap_or_default()
    }

    /// Begins a lookup with the first 16 bits, in memory that is near. Two calls of [`Routes4::next`] end it.
    #[inline(always)]
    pub fn first(&self, address: u32) -> Entry4 {
        let [top, second, ..] = address.to_be_bytes();
        let below = at(&self.top.below, top).block();
        let entry = below.map_or(0, |block| self.top.slab.load(block, usize::from(second)));
        self.or_short(Entry4(entry), address)
    }

    /// Starts loading what [`Routes4::next`] will read.
    #[inline(always)]
    pub fn fetch(&self, entry: Entry4, address: u32) {
        if let Some(below) = self.below(entry, address) {
            engine::fetch(below);
        }
    }

    /// Goes one level down; an entry that is a leaf stays what it is.
    #[inline(always)]
    pub fn next(&self, entry: Entry4, address: u32) -> Entry4 {
        self.below(entry, address).map_or(entry, |below| self.or_short(Entry4(below.load(Relaxed)), address))
    }

    /// Ends a lookup.
    #[inline(always)]
    pub fn finish(&self, entry: Entry4, address: u32) -> Entry4 {
        self.next(self.next(entry, address), address)
    }

    /// Sets what a prefix leads to, bits beyond `len` being ignored; gives the leaf that exactly this prefix had.
    ///
    /// # Panics
    /// When `len` is above 32 or the leaf is not below [`crate::way::MOST_LEAVES`].
    pub fn insert(&mut self, prefix: u32, len: u8, leaf: LeafId, next_hop: NextHopId) -> Option<LeafId> {
        assert!(len <= 32, "a prefix of {len} bits");
        let (prefix, way) = (prefix & mask4(len), way(leaf, next_hop));
        let old = self.rib.insert(prefix, len, way);
        self.paint(prefix, len, Entry4::of(way, len));
        old.map(leaf_of)
    }

    /// Removes exactly this prefix; gives its leaf.
    pub fn remove(&mut self, prefix: u32, len: u8) -> Option<LeafId> {
        let prefix = prefix & mask4(len);
        let old = self.rib.remove(prefix, len)?;
        if self.rib.len() == 0 {
            *self = Routes4::default();
            return Some(leaf_of(old));
        }
        let parent = self.rib.parent(prefix, len).filter(|(parent, _)| is_short(len) || !is_short(*parent));
        let with = parent.map_or(Entry4::default(), |(len, way)| Entry4::of(way, len));
        self.paint(prefix, len, with);
        Some(leaf_of(old))
    }

    /// The leaf of exactly this prefix.
    pub fn get(&self, prefix: u32, len: u8) -> Option<LeafId> {
        self.rib.get(prefix & mask4(len), len).map(leaf_of)
    }

    /// The leaf of the longest proper parent of a prefix: the one whose addresses the prefix takes.
    pub fn covering(&self, prefix: u32, len: u8) -> Option<LeafId> {
        self.rib.parent(prefix, len).map(|(_, way)| leaf_of(way))
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.rib.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much memory it takes, in bytes, shared with other versions or not.
    pub fn bytes(&self) -> usize {
        size_of::<Top>() + self.top.slab.bytes() + self.rib.bytes()
    }

    /// The memory on pages of its own kind, shared with other versions or not.
    pub fn got(&self) -> Vec<Got> {
        [self.top.slab.got(), self.rib.got()].concat()
    }

    #[inline(always)]
    fn below(&self, entry: Entry4, address: u32) -> Option<&AtomicU64> {
        self.top.slab.word(entry.block()?, usize::from(entry.index(address)))
    }

    #[inline(always)]
    fn or_short(&self, entry: Entry4, address: u32) -> Entry4 {
        let [top, ..] = address.to_be_bytes();
        if entry.0 == 0 { at(&self.top.short, top) } else { entry }
    }

    /// Gives the addresses of a prefix to `with`, but for those that a longer prefix has.
    fn paint(&mut self, prefix: u32, len: u8, with: Entry4) {
        let [first, ..] = prefix.to_be_bytes();
        let Top { below, short, slab } = Arc::make_mut(&mut self.top);
        if is_short(len) {
            let entries = short.iter_mut().skip(usize::from(first)).take(256 >> len);
            entries.filter(|entry| entry.len() <= len).for_each(|entry| *entry = with);
        } else if let Some(entry) = below.get_mut(usize::from(first)) {
            *entry = Painter { blocks: slab.writer(), prefix, len, with }.below(*entry, Level::Second);
        }
    }
}

/// Makes a table of many prefixes, fastest when they are sorted. As with [`Routes4::insert`], a later one of the same
/// prefix counts, and lengths and leaves out of range panic.
impl FromIterator<(u32, u8, LeafId, NextHopId)> for Routes4 {
    fn from_iter<I: IntoIterator<Item = (u32, u8, LeafId, NextHopId)>>(routes: I) -> Self {
        let routes = routes.into_iter();
        let mut table = Routes4 { rib: Rib::with_room(routes.size_hint().0), ..Routes4::default() };
        for (prefix, len, leaf, next_hop) in routes {
            table.insert(prefix, len, leaf, next_hop);
        }
        table
    }
}

// An entry, from the top bit: child, then of a child: whether it is of the fourth level, and in the low half its block;
// of a leaf: 6 bits of prefix length, then its way.
const CHILD: u64 = 1 << 63;
const FOURTH: u64 = 1 << 62;

fn is_short(len: u8) -> bool {
    len <= 8
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "256 entries, and a byte")]
fn at(entries: &[Entry4; 256], at: u8) -> Entry4 {
    entries[usize::from(at)]
}

/// The block that a word of a block leads to.
fn child(word: u64) -> Option<u32> {
    Entry4(word).block()
}

/// A change of one prefix: entries become `with` unless their own prefix is longer.
struct Painter<'a> {
    blocks: Writer<'a, 256>,
    prefix: u32,
    len: u8,
    with: Entry4,
}

impl Painter<'_> {
    /// Changes the block of `level` below an entry, which is made where there is none; gives what becomes of the entry.
    fn below(&mut self, entry: Entry4, level: Level) -> Entry4 {
        let block = match entry.block() {
            Some(block) => self.blocks.own(block, child),
            None => self.blocks.take(entry.0),
        };
        let inside = self.len.saturating_sub(level.before()); // bits of the prefix that the block looks at, if not more
        let run = 256usize.checked_shr(inside.min(8).into()).unwrap_or(0);
        let first = if inside == 0 { 0 } else { usize::from(level.index(self.prefix)) };
        let words = self.blocks.words(block);
        for word in words.iter().skip(first).take(run) {
            let old = Entry4(word.load(Relaxed));
            let new = match level.below() {
                Some(below) if inside > 8 || old.block().is_some() => self.below(old, below),
                _ if old.len() <= self.len => self.with,
                _ => old,
            };
            word.store(new.0, Relaxed);
        }
        self.collapsed(block, level).unwrap_or(Entry4::to_block(block, level))
    }

    /// Gives a block back in which no prefix of its level is left; then all its entries are the same.
    fn collapsed(&mut self, block: u32, level: Level) -> Option<Entry4> {
        let mut entries = self.blocks.words(block).iter().map(|word| Entry4(word.load(Relaxed)));
        let first = entries.next().filter(|first| first.0 & CHILD == 0 && first.len() <= level.before())?;
        entries.all(|entry| entry == first).then(|| self.blocks.release(block, child))?;
        Some(first)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Second,
    Third,
    Fourth,
}

impl Level {
    /// How many bits are looked at before it.
    fn before(self) -> u8 {
        match self {
            Level::Second => 8,
            Level::Third => 16,
            Level::Fourth => 24,
        }
    }

    fn below(self) -> Option<Level> {
        match self {
            Level::Second => Some(Level::Third),
            Level::Third => Some(Level::Fourth),
            Level::Fourth => None,
        }
    }

    fn index(self, prefix: u32) -> u8 {
        let [_, second, third, fourth] = prefix.to_be_bytes();
        match self {
            Level::Second => second,
            Level::Third => third,
            Level::Fourth => fourth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::{self, borders, hop};
    use proptest::prelude::*;

    type Naive = naive::Naive<u32>;

    fn assert_agrees(table: &Routes4, naive: &Naive, addresses: &[u32]) {
        assert_eq!(table.len(), naive.len());
        for &address in addresses {
            assert_eq!(table.lookup(address), naive::lookup(naive, address), "{address:#x} in {naive:x?}");
            let mut entry = table.first(address);
            while entry.leaf().is_none() {
                table.fetch(entry, address);
                entry = table.next(Entry4::from_bits(entry.bits()), address);
            }
            assert_eq!(entry.leaf(), Some(table.lookup(address)));
            assert_eq!(entry.next_hop(), entry.leaf().map(hop));
        }
    }

    /// Prefixes that share their first bits, so that they nest and meet; leaves are few, so that neighbours are equal.
    fn prefix() -> impl Strategy<Value = (u32, u8)> {
        let byte = || prop_oneof![Just(0u8), Just(1), Just(127), Just(128), Just(255)];
        let len = prop_oneof![0..=32u8, Just(0), Just(8), Just(9), Just(16), Just(17), Just(24), Just(25), Just(32)];
        ([byte(), byte(), byte(), byte()], len).prop_map(|(bytes, len)| (u32::from_be_bytes(bytes) & mask4(len), len))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_history_agrees_with_a_naive_table(
            history in prop::collection::vec((prefix(), 0u32..4, any::<bool>()), 1..120),
        ) {
            let addresses = borders(history.iter().map(|step| step.0));
            let (mut table, mut naive) = (Routes4::default(), Naive::new());
            let mut versions = Vec::new();
            for (number, ((prefix, len), leaf, remove)) in history.iter().copied().enumerate() {
                let parent = naive::covering(&naive, prefix, len);
                prop_assert_eq!(table.covering(prefix, len), parent);
                if remove {
                    prop_assert_eq!(table.remove(prefix, len), naive.remove(&(prefix, len)));
                } else {
                    let leaf = LeafId(leaf);
                    prop_assert_eq!(table.insert(prefix, len, leaf, hop(leaf)), naive.insert((prefix, len), leaf));
                }
                prop_assert_eq!(table.get(prefix, len), naive.get(&(prefix, len)).copied());
                if number % 16 == 0 {
                    versions.push((table.clone(), naive.clone()));
                }
            }
            versions.push((table, naive));
            for (table, naive) in &versions {
                assert_agrees(table, naive, &addresses);
            }
        }

        #[test]
        fn what_is_removed_gives_its_blocks_back(routes in prop::collection::btree_set(prefix(), 1..80)) {
            let mut table = Routes4::default();
            table.insert(0x0100_0000, 9, LeafId(9), hop(LeafId(9)));
            for (prefix, len) in routes.iter().filter(|route| **route != (0x0100_0000, 9)) {
                table.insert(*prefix, *len, LeafId(1), hop(LeafId(1)));
            }
            let bytes = table.bytes();
            for (prefix, len) in routes.iter().filter(|route| **route != (0x0100_0000, 9)) {
                prop_assert_eq!(table.remove(*prefix, *len), Some(LeafId(1)));
            }
            prop_assert_eq!(table.top.slab.writer().in_use(), 1);
            for (prefix, len) in routes {
                table.insert(prefix, len, LeafId(1), hop(LeafId(1)));
            }
            prop_assert_eq!(table.bytes(), bytes, "free blocks are used again");
        }
    }

    #[test]
    fn the_last_route_takes_the_memory_with_it() {
        let mut table: Routes4 = (0..1000).map(|n| (n << 12, 28, LeafId(1), hop(LeafId(1)))).collect();
        let empty = Routes4::default().bytes();
        assert!(table.bytes() > 100 * empty);
        (0..1000).for_each(|n| assert_eq!(table.remove(n << 12, 28), Some(LeafId(1))));
        assert_eq!(table.bytes(), empty);
    }

    #[test]
    fn a_million_routes_agree_with_exact_matches() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u32::try_from(state >> 32).unwrap()
        };
        let count = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
        let routes: Naive = (0..count)
            .map(|n| {
                let len = if random() % 10 < 6 { 24 } else { 8 + u8::try_from(random() % 25).unwrap() };
                ((random() & mask4(len), len), LeafId(n + 1))
            })
            .collect();
        let table: Routes4 = routes.iter().map(|((prefix, len), leaf)| (*prefix, *len, *leaf, hop(*leaf))).collect();
        assert!(table.bytes() < 400 * 1024 * 1024, "{} MB", table.bytes() >> 20);
        for _ in 0..count {
            let address = random();
            assert_eq!(table.lookup(address), naive::lookup(&routes, address));
        }
    }
}
