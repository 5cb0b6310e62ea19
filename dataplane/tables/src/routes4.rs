//! IPv4 routes: a trie of 8 bits a level (8-8-8-8), in versions that share what did not change.
//!
//! An entry of a block is a leaf or the number of a block below. Prefixes of 9 to 16 bits lie in the second level, of 17
//! to 24 in the third, of 25 to 32 in the fourth; where there is a block below, they are pushed down into it. Prefixes of
//! up to 8 bits are not pushed, since they would change every block: they lie in a block of their own, which is read
//! beside the others and counts where those have nothing. So a default route costs 256 entries, and any other change
//! costs the blocks below its prefix.
use crate::{pages::Pages, rib::Rib, told::LeafId, told::mask4};
use std::sync::Arc;

/// Leaf numbers are below this.
pub const MOST_LEAVES: u32 = 1 << LEAF_BITS;

/// The IPv4 routes of one VRF. A clone costs a few references.
#[derive(Clone, Default)]
pub struct Routes4 {
    short: Arc<Block>, // the first level: prefixes of up to 8 bits
    middle: Arc<Middle>,
    blocks: Pages<Block, 32>,
    made: u32, // how many blocks were ever in use
    free: Option<u32>,
    rib: Rib<u32>,
}

/// How far a lookup has come: one number, which fits into a packet's metadata between stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry4(u32);

impl Entry4 {
    /// The entry that [`Entry4::bits`] gave. Any number is safe, but what was not given by the same table means nothing.
    #[inline(always)]
    pub fn from_bits(bits: u32) -> Self {
        Entry4(bits)
    }

    /// The entry as a number.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The leaf, when the lookup has come to its end; zero where no prefix matches.
    #[inline(always)]
    pub fn leaf(self) -> Option<LeafId> {
        (self.0 & CHILD == 0).then_some(LeafId(self.0 & (MOST_LEAVES - 1)))
    }

    fn of(leaf: LeafId, len: u8) -> Self {
        Entry4(u32::from(len) << LEAF_BITS | leaf.0)
    }

    fn to_block(block: u32, level: Level) -> Self {
        Entry4(CHILD | if level == Level::Fourth { FOURTH } else { 0 } | block)
    }

    /// The length of the leaf's prefix; zero for "no leaf".
    fn len(self) -> u8 {
        (self.0 >> LEAF_BITS).to_le_bytes()[0]
    }

    #[inline(always)]
    fn block(self) -> Option<u32> {
        (self.0 & CHILD != 0).then_some(self.0 & (FOURTH - 1))
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
        let entry = self.next(self.next(self.first(address), address), address);
        entry.leaf().unwrap_or_default()
    }

    /// Begins a lookup with the first 16 bits, in memory that is hot. Two calls of [`Routes4::next`] end it.
    #[inline(always)]
    pub fn first(&self, address: u32) -> Entry4 {
        let [top, second, ..] = address.to_be_bytes();
        self.or_short(self.middle.chunk(top).at(second), address)
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
        self.below(entry, address).map_or(entry, |below| self.or_short(*below, address))
    }

    /// Ends a lookup.
    #[inline(always)]
    pub fn finish(&self, entry: Entry4, address: u32) -> LeafId {
        self.next(self.next(entry, address), address).leaf().unwrap_or_default()
    }

    /// Sets the leaf of a prefix, whose bits beyond `len` are ignored; gives the leaf that exactly this prefix had.
    ///
    /// # Panics
    /// When `len` is above 32 or the leaf is not below [`MOST_LEAVES`].
    pub fn insert(&mut self, prefix: u32, len: u8, leaf: LeafId) -> Option<LeafId> {
        assert!(len <= 32 && leaf.0 < MOST_LEAVES, "a prefix of {len} bits, leaf {}", leaf.0);
        let prefix = prefix & mask4(len);
        let old = self.rib.insert(prefix, len, leaf.0);
        self.paint(prefix, len, &Paint { up_to: len, with: Entry4::of(leaf, len) });
        old.map(LeafId)
    }

    /// Removes exactly this prefix; gives its leaf.
    pub fn remove(&mut self, prefix: u32, len: u8) -> Option<LeafId> {
        let prefix = prefix & mask4(len);
        let old = self.rib.remove(prefix, len)?;
        if self.rib.len() == 0 {
            *self = Routes4::default();
            return Some(LeafId(old));
        }
        let parent = self.rib.parent(prefix, len).filter(|(parent, _)| is_short(len) || !is_short(*parent));
        let with = parent.map_or(Entry4::default(), |(len, leaf)| Entry4::of(LeafId(leaf), len));
        self.paint(prefix, len, &Paint { up_to: len, with });
        Some(LeafId(old))
    }

    /// The leaf of exactly this prefix.
    pub fn get(&self, prefix: u32, len: u8) -> Option<LeafId> {
        self.rib.get(prefix & mask4(len), len).map(LeafId)
    }

    /// The leaf of the longest proper parent of a prefix: the one whose addresses the prefix takes.
    pub fn covering(&self, prefix: u32, len: u8) -> Option<LeafId> {
        self.rib.parent(prefix, len).map(|(_, leaf)| LeafId(leaf))
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
        let own = self.middle.0.iter().filter(|chunk| chunk.0.iter().any(|entry| entry.0 != 0)).count();
        size_of::<Middle>() + (own + 2) * size_of::<Block>() + self.blocks.bytes() + self.rib.bytes()
    }

    #[inline(always)]
    fn below(&self, entry: Entry4, address: u32) -> Option<&Entry4> {
        self.blocks.get(entry.block()? as usize)?.0.get(usize::from(entry.index(address)))
    }

    #[inline(always)]
    fn or_short(&self, entry: Entry4, address: u32) -> Entry4 {
        let [top, ..] = address.to_be_bytes();
        let short = self.short.at(top);
        if entry.0 == 0 { short } else { entry }
    }

    fn paint(&mut self, prefix: u32, len: u8, paint: &Paint) {
        if is_short(len) {
            let [top, ..] = prefix.to_be_bytes();
            Arc::make_mut(&mut self.short).paint(top, len, paint);
        } else {
            let [top, ..] = prefix.to_be_bytes();
            self.paint_in(Place::Middle(top), Level::Second, prefix, len, paint);
        }
    }

    /// Paints a prefix that lies in the block at `place` or below it.
    fn paint_in(&mut self, place: Place, level: Level, prefix: u32, len: u8, paint: &Paint) {
        let at = level.index(prefix);
        match level.below().filter(|below| len > below.before()) {
            Some(below) => {
                let child = self.child(place, at, below);
                self.paint_in(Place::Block(child), below, prefix, len, paint);
                self.collapse(place, at, child, below);
            }
            None => {
                for child in self.block_mut(place).paint(at, len - level.before(), paint) {
                    self.paint_all(child, paint);
                }
            }
        }
    }

    fn paint_all(&mut self, block: u32, paint: &Paint) {
        for child in self.block_mut(Place::Block(block)).paint(0, 0, paint) {
            self.paint_all(child, paint);
        }
    }

    /// The block below entry `at`, made when it is not there.
    fn child(&mut self, place: Place, at: u8, level: Level) -> u32 {
        let entry = self.entry(place, at);
        entry.block().unwrap_or_else(|| {
            let block = self.take(entry);
            *self.block_mut(place).at_mut(at) = Entry4::to_block(block, level);
            block
        })
    }

    /// Gives the block below entry `at` back when no prefix of its level is left in it.
    fn collapse(&mut self, place: Place, at: u8, block: u32, level: Level) {
        let Some(Block(entries)) = self.blocks.get(block as usize) else { return };
        let [first, others @ ..] = entries;
        let (first, from_above) = (*first, first.0 & CHILD == 0 && first.len() <= level.before());
        if from_above && others.iter().all(|entry| *entry == first) {
            *self.block_mut(place).at_mut(at) = first;
            self.give(block);
        }
    }

    fn entry(&self, place: Place, at: u8) -> Entry4 {
        match place {
            Place::Middle(top) => self.middle.chunk(top).at(at),
            Place::Block(block) => self.blocks.get(block as usize).map_or(Entry4::default(), |block| block.at(at)),
        }
    }

    fn block_mut(&mut self, place: Place) -> &mut Block {
        match place {
            Place::Middle(top) => Arc::make_mut(Arc::make_mut(&mut self.middle).chunk_mut(top)),
            Place::Block(block) => self.blocks.slot(block as usize),
        }
    }

    /// A block that is not in use, all of whose entries become `entry`. Free blocks form a list through their first
    /// entries.
    fn take(&mut self, entry: Entry4) -> u32 {
        let block = self.free.unwrap_or(self.made);
        match self.free {
            Some(_) => self.free = self.entry(Place::Block(block), 0).block(),
            None => self.made += 1,
        }
        assert!(block < FOURTH, "a trie of 32 bits has fewer blocks");
        *self.blocks.slot(block as usize) = Block([entry; 256]);
        block
    }

    fn give(&mut self, block: u32) {
        let next = self.free.map_or(Entry4::default(), |next| Entry4::to_block(next, Level::Third));
        *self.block_mut(Place::Block(block)).at_mut(0) = next;
        self.free = Some(block);
    }
}

/// Makes a table of many prefixes, fastest when they are sorted. As with [`Routes4::insert`], a later one of the same
/// prefix counts, and lengths and leaves out of range panic.
impl FromIterator<(u32, u8, LeafId)> for Routes4 {
    fn from_iter<I: IntoIterator<Item = (u32, u8, LeafId)>>(routes: I) -> Self {
        let routes = routes.into_iter();
        let mut table = Routes4 { rib: Rib::with_room(routes.size_hint().0), ..Routes4::default() };
        for (prefix, len, leaf) in routes {
            table.insert(prefix, len, leaf);
        }
        table
    }
}

// An entry, from the top bit: child, then of a child: whether it is of the fourth level, 30 bits of block number; of a
// leaf: 6 bits of prefix length, 25 bits of leaf number.
const CHILD: u32 = 1 << 31;
const FOURTH: u32 = 1 << 30;
const LEAF_BITS: u32 = 25;

fn is_short(len: u8) -> bool {
    len <= 8
}

/// A change: entries become this one unless their prefix is longer than the changed one.
struct Paint {
    up_to: u8,
    with: Entry4,
}

/// Where a block is.
#[derive(Clone, Copy)]
enum Place {
    Middle(u8),
    Block(u32),
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

#[derive(Clone)]
struct Block([Entry4; 256]);

impl Default for Block {
    fn default() -> Self {
        Block([Entry4::default(); 256])
    }
}

impl Block {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "256 entries, and a byte")]
    fn at(&self, at: u8) -> Entry4 {
        self.0[usize::from(at)]
    }

    #[expect(clippy::indexing_slicing, reason = "256 entries, and a byte")]
    fn at_mut(&mut self, at: u8) -> &mut Entry4 {
        &mut self.0[usize::from(at)]
    }

    /// Paints the entries that share the first `len` of 8 bits with `at`; gives the blocks below them.
    fn paint(&mut self, at: u8, len: u8, paint: &Paint) -> Vec<u32> {
        let run = 256 >> len;
        let mut below = Vec::new();
        for entry in self.0.iter_mut().skip(usize::from(at)).take(run) {
            match entry.block() {
                Some(block) => below.push(block),
                None if entry.len() <= paint.up_to => *entry = paint.with,
                None => {}
            }
        }
        below
    }
}

/// The second level, in chunks that are shared while they are empty.
#[derive(Clone)]
struct Middle([Arc<Block>; 256]);

impl Default for Middle {
    fn default() -> Self {
        let empty = Arc::new(Block::default());
        Middle(std::array::from_fn(|_| Arc::clone(&empty)))
    }
}

impl Middle {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "256 chunks, and a byte")]
    fn chunk(&self, top: u8) -> &Block {
        &self.0[usize::from(top)]
    }

    #[expect(clippy::indexing_slicing, reason = "256 chunks, and a byte")]
    fn chunk_mut(&mut self, top: u8) -> &mut Arc<Block> {
        &mut self.0[usize::from(top)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Naive = BTreeMap<(u32, u8), LeafId>;

    fn naive_lookup(routes: &Naive, address: u32) -> LeafId {
        let matching = |len: u8| routes.get(&(address & mask4(len), len));
        (0..=32).rev().find_map(matching).copied().unwrap_or_default()
    }

    /// Every address where an answer may change, and its neighbours.
    fn borders<'a>(prefixes: impl Iterator<Item = &'a (u32, u8)>) -> Vec<u32> {
        let around = |address: u32| [address.wrapping_sub(1), address, address.wrapping_add(1)];
        let ends = |(prefix, len): &(u32, u8)| [prefix & mask4(*len), prefix | !mask4(*len)];
        prefixes.flat_map(ends).flat_map(around).collect()
    }

    fn assert_agrees(table: &Routes4, naive: &Naive, addresses: &[u32]) {
        assert_eq!(table.len(), naive.len());
        for &address in addresses {
            assert_eq!(table.lookup(address), naive_lookup(naive, address), "{address:#x} in {naive:x?}");
            let mut entry = table.first(address);
            while entry.leaf().is_none() {
                table.fetch(entry, address);
                entry = table.next(Entry4::from_bits(entry.bits()), address);
            }
            assert_eq!(entry.leaf(), Some(table.lookup(address)));
        }
    }

    fn blocks_in_use(table: &Routes4) -> usize {
        let mut free = 0;
        let mut at = table.free;
        while let Some(block) = at {
            free += 1;
            at = table.entry(Place::Block(block), 0).block();
        }
        table.made as usize - free
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
            let addresses = borders(history.iter().map(|step| &step.0));
            let (mut table, mut naive) = (Routes4::default(), Naive::new());
            let mut versions = Vec::new();
            for (number, ((prefix, len), leaf, remove)) in history.iter().copied().enumerate() {
                let parent = (0..len).rev().find_map(|len| naive.get(&(prefix & mask4(len), len))).copied();
                prop_assert_eq!(table.covering(prefix, len), parent);
                if remove {
                    prop_assert_eq!(table.remove(prefix, len), naive.remove(&(prefix, len)));
                } else {
                    let leaf = LeafId(leaf);
                    prop_assert_eq!(table.insert(prefix, len, leaf), naive.insert((prefix, len), leaf));
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
            table.insert(0x0100_0000, 9, LeafId(9));
            for (prefix, len) in routes.iter().filter(|route| **route != (0x0100_0000, 9)) {
                table.insert(*prefix, *len, LeafId(1));
            }
            let made = table.made;
            for (prefix, len) in routes.iter().filter(|route| **route != (0x0100_0000, 9)) {
                prop_assert_eq!(table.remove(*prefix, *len), Some(LeafId(1)));
            }
            prop_assert_eq!(blocks_in_use(&table), 0);
            for (prefix, len) in routes {
                table.insert(prefix, len, LeafId(1));
            }
            prop_assert_eq!(table.made, made, "free blocks are used again");
        }
    }

    #[test]
    fn the_last_route_takes_the_memory_with_it() {
        let mut table: Routes4 = (0..1000).map(|n| (n << 12, 28, LeafId(1))).collect();
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
        let table: Routes4 = routes.iter().map(|((prefix, len), leaf)| (*prefix, *len, *leaf)).collect();
        assert!(table.bytes() < 220 * 1024 * 1024, "{} MB", table.bytes() >> 20);
        for _ in 0..count {
            let address = random();
            assert_eq!(table.lookup(address), naive_lookup(&routes, address));
        }
    }
}
