//! IPv6 routes: one hash table of all prefixes, and hints which lengths to try for an address.
//!
//! A hint has a bit for each class of lengths; common lengths are a class of their own, so that an address is mostly
//! tried once. An address has two hints: the wide one, for prefixes of 21 to 32 bits, is that of its first 20 bits; the
//! narrow one, for longer prefixes, is found by a hash of its first 32 bits and grows with the table. Where hashes
//! meet, a length is tried in vain. Prefixes of up to 20 bits are tried last, without hints.
use crate::{
    pages::Pages,
    rib::{Address, Rib},
    told::{LeafId, NextHopId, mask6},
    way::{leaf_of, next_hop_of, way},
};
use hugepages::Got;

/// The IPv6 routes of one VRF. A clone costs a few references.
#[derive(Clone, Default)]
pub struct Routes6 {
    near: Rib<u64>,    // prefixes of up to 64 bits: what most are, in half the memory
    far: Rib<u128>,    // longer ones
    narrow: Hints,     // by hash, as many as the table has slots
    wide: Hints,       // by the first 20 bits
    uses: Rib<u32>,    // by hint and class, for how many prefixes the bit is set
    longest: [u8; 16], // by class, the longest length that any prefix has
    short: u8,         // likewise, of the lengths without hints; zero: none but perhaps the default route
    default: u64,      // the default route's way
}

/// How far a lookup has come: one number, which fits into a packet's metadata between stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry6(u64); // a way, or PENDING, 8 bits of length to try, 16 bits of hint

impl Entry6 {
    /// The entry that [`Entry6::bits`] gave. Any number is safe, but what was not given by the same table means
    /// nothing.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        Entry6(bits)
    }

    /// The entry as a number.
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The leaf, when the lookup has come to its end; zero where no prefix matches.
    #[inline(always)]
    pub fn leaf(self) -> Option<LeafId> {
        (self.0 & PENDING == 0).then_some(leaf_of(self.0))
    }

    /// The next hop, when the lookup has come to its end; zero where no prefix matches.
    #[inline(always)]
    pub fn next_hop(self) -> Option<NextHopId> {
        (self.0 & PENDING == 0).then_some(next_hop_of(self.0))
    }

    #[inline(always)]
    fn to_try(len: u8, hint: u16) -> Self {
        Entry6(PENDING | u64::from(len) << 16 | u64::from(hint))
    }

    /// The length to try, and the classes to try after it.
    #[inline(always)]
    fn pending(self) -> Option<(u8, u16)> {
        let [low, high, len, ..] = self.0.to_le_bytes();
        (self.0 & PENDING != 0).then_some((len, u16::from_le_bytes([low, high])))
    }
}

impl Routes6 {
    /// The longest prefix match: the leaf, zero where no prefix matches.
    #[inline(always)]
    pub fn lookup(&self, address: u128) -> LeafId {
        leaf_of(self.finish(self.first(address), address).0)
    }

    /// Starts loading what [`Routes6::first`] will read.
    #[inline(always)]
    pub fn fetch_first(&self, address: u128) {
        self.narrow.fetch(self.narrow_at(address));
        self.wide.fetch(wide_at(address));
    }

    /// Begins a lookup: finds which length to try first.
    #[inline(always)]
    pub fn first(&self, address: u128) -> Entry6 {
        self.candidate(self.narrow.get(self.narrow_at(address)) | self.wide.get(wide_at(address)))
    }

    /// Starts loading what [`Routes6::next`] will read.
    #[inline(always)]
    pub fn fetch(&self, entry: Entry6, address: u128) {
        if let Some((len, _)) = entry.pending() {
            self.fetch_exact(address, len);
        }
    }

    /// Tries one length; an entry that is a leaf stays what it is.
    #[inline(always)]
    pub fn next(&self, entry: Entry6, address: u128) -> Entry6 {
        let Some((len, hint)) = entry.pending() else { return entry };
        self.exact(address.first(len), len).map_or_else(|| self.after(len, hint), Entry6)
    }

    /// Ends a lookup: tries lengths until one matches or none is left.
    #[inline(always)]
    pub fn finish(&self, mut entry: Entry6, address: u128) -> Entry6 {
        while entry.0 & PENDING != 0 {
            entry = self.next(entry, address);
        }
        entry
    }

    /// Sets what a prefix leads to, bits beyond `len` being ignored; gives the leaf that exactly this prefix had.
    ///
    /// # Panics
    /// When `len` is above 128 or the leaf is not below [`crate::way::MOST_LEAVES`].
    pub fn insert(&mut self, prefix: u128, len: u8, leaf: LeafId, next_hop: NextHopId) -> Option<LeafId> {
        assert!(len <= 128, "a prefix of {len} bits");
        let prefix = prefix & mask6(len);
        let (way, hints) = (way(leaf, next_hop), self.hints());
        let old = match near(prefix, len) {
            Some(prefix) => self.near.insert(prefix, len, way),
            None => self.far.insert(prefix, len, way),
        };
        if self.hints() != hints {
            self.hint_all();
        } else if old.is_none() {
            self.hint(prefix, len);
        }
        self.note_lengths();
        old.map(leaf_of)
    }

    /// Removes exactly this prefix; gives its leaf.
    pub fn remove(&mut self, prefix: u128, len: u8) -> Option<LeafId> {
        let (prefix, hints) = (prefix & mask6(len), self.hints());
        let old = match near(prefix, len) {
            Some(prefix) => self.near.remove(prefix, len)?,
            None => self.far.remove(prefix, len)?,
        };
        if self.is_empty() {
            *self = Routes6::default();
        } else if self.hints() != hints {
            self.hint_all();
        } else {
            self.unhint(prefix, len);
        }
        self.note_lengths();
        Some(leaf_of(old))
    }

    /// The leaf of exactly this prefix.
    pub fn get(&self, prefix: u128, len: u8) -> Option<LeafId> {
        self.exact(prefix & mask6(len), len).map(leaf_of)
    }

    /// The leaf of the longest proper parent of a prefix: the one whose addresses the prefix takes.
    pub fn covering(&self, prefix: u128, len: u8) -> Option<LeafId> {
        let parent = self.far.parent(prefix, len).or_else(|| self.near.parent(high(prefix), len.min(NEAR_BITS + 1)));
        parent.map(|(_, way)| leaf_of(way))
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.near.len() + self.far.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much memory it takes, in bytes, shared with other versions or not.
    pub fn bytes(&self) -> usize {
        self.near.bytes() + self.far.bytes() + self.narrow.bytes() + self.wide.bytes() + self.uses.bytes()
    }

    /// The memory on pages of its own kind, shared with other versions or not.
    pub fn got(&self) -> Vec<Got> {
        [self.near.got(), self.far.got(), self.narrow.0.got(), self.wide.0.got(), self.uses.got()].concat()
    }

    /// The way of exactly this prefix, whose bits beyond `len` are zero.
    #[inline(always)]
    fn exact(&self, prefix: u128, len: u8) -> Option<u64> {
        match near(prefix, len) {
            Some(prefix) => self.near.get(prefix, len),
            None => self.far.get(prefix, len),
        }
    }

    #[inline(always)]
    fn fetch_exact(&self, address: u128, len: u8) {
        match near(address.first(len), len) {
            Some(prefix) => self.near.fetch(prefix, len),
            None => self.far.fetch(address.first(len), len),
        }
    }

    /// The longest length below `len` that any prefix has.
    fn length_below(&self, len: u8) -> Option<u8> {
        self.far.length_below(len).or_else(|| self.near.length_below(len))
    }

    /// How many narrow hints there are, a power of two.
    #[inline(always)]
    fn hints(&self) -> usize {
        self.near.slots().max(self.far.slots())
    }

    /// What to try for an address with this hint.
    #[inline(always)]
    fn candidate(&self, hint: u16) -> Entry6 {
        let class = hint.leading_zeros() as usize;
        let hinted = self.longest.get(class).map(|len| Entry6::to_try(*len, hint));
        hinted.unwrap_or_else(|| self.unhinted(self.short))
    }

    /// What to try last, of lengths without hints.
    #[inline(always)]
    fn unhinted(&self, len: u8) -> Entry6 {
        if len == 0 { Entry6(self.default) } else { Entry6::to_try(len, 0) }
    }

    /// What to try after `len`.
    #[inline]
    fn after(&self, len: u8, hint: u16) -> Entry6 {
        let shorter = self.length_below(len).unwrap_or_default();
        match CLASSES.get(hint.leading_zeros() as usize) {
            None => self.unhinted(shorter),
            Some((shortest, _)) if shorter >= *shortest => Entry6::to_try(shorter, hint),
            Some(_) => self.candidate(hint & !(FIRST >> hint.leading_zeros())),
        }
    }

    fn note_lengths(&mut self) {
        self.longest = CLASSES.map(|(_, limit)| self.length_below(limit + 1).unwrap_or_default());
        self.short = self.length_below(WIDE_BITS + 1).unwrap_or_default();
        self.default = self.exact(0, 0).unwrap_or_default();
    }

    /// Makes all hints anew, as many narrow ones as the table has slots.
    fn hint_all(&mut self) {
        (self.narrow, self.wide, self.uses) = Default::default();
        let (near, far) = (self.near.clone(), self.far.clone());
        for (prefix, len) in near.prefixes() {
            self.hint(u128::from(prefix) << 64, len);
        }
        for (prefix, len) in far.prefixes() {
            self.hint(prefix, len);
        }
    }

    fn hint(&mut self, prefix: u128, len: u8) {
        let Some(class) = Class::of(len) else { return };
        let use_of = self.use_of(prefix, class);
        let uses = self.uses.get(use_of, 0).unwrap_or_default();
        self.uses.insert(use_of, 0, uses + 1);
        if uses == 0 {
            self.change(prefix, class, |hint| hint | class.bit());
        }
    }

    fn unhint(&mut self, prefix: u128, len: u8) {
        let Some(class) = Class::of(len) else { return };
        let use_of = self.use_of(prefix, class);
        let uses = self.uses.get(use_of, 0).unwrap_or_default();
        if uses > 1 {
            self.uses.insert(use_of, 0, uses - 1);
        } else {
            self.uses.remove(use_of, 0);
            self.change(prefix, class, |hint| hint & !class.bit());
        }
    }

    fn change(&mut self, prefix: u128, class: Class, new: impl FnOnce(u16) -> u16) {
        let at = self.narrow_at(prefix);
        let (hints, at) = if class.is_wide() { (&mut self.wide, wide_at(prefix)) } else { (&mut self.narrow, at) };
        hints.set(at, new(hints.get(at)));
    }

    /// The key among `uses`: wide and narrow hints have different classes, so that their keys differ.
    fn use_of(&self, prefix: u128, class: Class) -> u32 {
        let hint = if class.is_wide() { wide_at(prefix) } else { self.narrow_at(prefix) };
        #[expect(clippy::cast_possible_truncation, reason = "a table of 2^28 slots would take 8 GB")]
        let hint = hint as u32;
        hint << 4 | u32::from(class.0)
    }

    #[inline(always)]
    fn narrow_at(&self, address: u128) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
        let hash = engine::hash128(address & mask6(WIDE_MOST), 0) as usize;
        hash & self.hints().wrapping_sub(1)
    }
}

/// Makes a table of many prefixes. As with [`Routes6::insert`], a later one of the same prefix counts, and lengths and
/// leaves out of range panic.
impl FromIterator<(u128, u8, LeafId, NextHopId)> for Routes6 {
    fn from_iter<I: IntoIterator<Item = (u128, u8, LeafId, NextHopId)>>(routes: I) -> Self {
        let routes = routes.into_iter();
        let mut table = Routes6 { near: Rib::with_room(routes.size_hint().0), ..Routes6::default() };
        for (prefix, len, leaf, next_hop) in routes {
            table.insert(prefix, len, leaf, next_hop);
        }
        table
    }
}

const PENDING: u64 = 1 << 63;
const WIDE_BITS: u8 = 20;
const FIRST: u16 = 1 << 15;

/// The shortest and the longest length of each class, longest first: lengths that are common in practice (hosts, NAT64,
/// links, sites, pods' ranges, providers) are alone.
const CLASSES: [(u8, u8); 16] = [
    (128, 128),
    (97, 127),
    (96, 96),
    (65, 95),
    (64, 64),
    (57, 63),
    (56, 56),
    (49, 55),
    (48, 48),
    (45, 47),
    (41, 44),
    (37, 40),
    (33, 36),
    (32, 32),
    (29, 31),
    (WIDE_BITS + 1, 28),
];

/// The longest prefixes that the near table holds.
const NEAR_BITS: u8 = 64;

/// The half of a prefix that says everything, where its length is up to 64 bits.
#[inline(always)]
fn near(prefix: u128, len: u8) -> Option<u64> {
    (len <= NEAR_BITS).then_some(high(prefix))
}

#[inline(always)]
fn high(address: u128) -> u64 {
    (address >> 64) as u64
}

/// Prefixes of up to this length have wide hints.
const WIDE_MOST: u8 = 32;

#[inline(always)]
fn wide_at(address: u128) -> usize {
    (address >> (128 - WIDE_BITS)) as usize
}

/// Hints, four a word; from the top bit: classes from the longest.
#[derive(Clone, Default)]
struct Hints(Pages<u64>);

impl Hints {
    #[inline(always)]
    fn get(&self, at: usize) -> u16 {
        #[expect(clippy::cast_possible_truncation, reason = "takes one of four")]
        let hint = (self.0.get(at / 4) >> (at % 4 * 16)) as u16;
        hint
    }

    #[inline(always)]
    fn fetch(&self, at: usize) {
        self.0.fetch(at / 4);
    }

    fn set(&mut self, at: usize, hint: u16) {
        let shift = at % 4 * 16;
        let others = self.0.get(at / 4) & !(0xffff << shift);
        self.0.set(at / 4, others | u64::from(hint) << shift);
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// A number among [`CLASSES`].
#[derive(Clone, Copy)]
struct Class(u8);

impl Class {
    fn of(len: u8) -> Option<Self> {
        let holds =
            |class: &u8| CLASSES.get(usize::from(*class)).is_some_and(|(from, to)| (*from..=*to).contains(&len));
        (0..16).find(holds).map(Class)
    }

    fn bit(self) -> u16 {
        FIRST >> self.0
    }

    fn is_wide(self) -> bool {
        CLASSES.get(usize::from(self.0)).is_some_and(|(_, longest)| *longest <= WIDE_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::{self, borders, hop};
    use proptest::prelude::*;

    type Naive = naive::Naive<u128>;

    fn assert_agrees(table: &Routes6, naive: &Naive, addresses: &[u128]) {
        assert_eq!(table.len(), naive.len());
        for &address in addresses {
            assert_eq!(table.lookup(address), naive::lookup(naive, address), "{address:#x} in {naive:x?}");
            table.fetch_first(address);
            let mut entry = table.first(address);
            let mut tries = 0;
            while entry.leaf().is_none() {
                table.fetch(entry, address);
                entry = table.next(Entry6::from_bits(entry.bits()), address);
                tries += 1;
            }
            assert_eq!(entry.leaf(), Some(table.lookup(address)));
            assert_eq!(entry.next_hop(), entry.leaf().map(hop));
            assert!(tries <= 129);
        }
    }

    /// Prefixes that share their first bits, so that they nest and meet.
    fn prefix() -> impl Strategy<Value = (u128, u8)> {
        let word = || prop_oneof![Just(0u16), Just(1), Just(0x0800), Just(0x8000), Just(0xfd00), Just(0xffff)];
        let len = prop_oneof![0..=128u8, Just(0), Just(20), Just(21), Just(64), Just(96), Just(128)];
        let words = [word(), word(), word(), word()];
        (words, len).prop_map(|([a, b, c, d], len)| {
            let top = u128::from(a) << 112 | u128::from(b) << 96;
            ((top | u128::from(c) << 56 | u128::from(d)) & mask6(len), len)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_history_agrees_with_a_naive_table(
            history in prop::collection::vec((prefix(), 0u32..4, any::<bool>()), 1..120),
        ) {
            let addresses = borders(history.iter().map(|step| step.0));
            let (mut table, mut naive) = (Routes6::default(), Naive::new());
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
        fn what_is_removed_leaves_no_hint(routes in prop::collection::btree_set(prefix(), 1..80)) {
            let mut table = Routes6::default();
            table.insert(0, 0, LeafId(9), hop(LeafId(1))); // the last route would take everything with it
            let routes: Vec<_> = routes.into_iter().filter(|route| route.1 > 0).collect();
            for (prefix, len) in &routes {
                table.insert(*prefix, *len, LeafId(1), hop(LeafId(1)));
            }
            for (prefix, len) in &routes {
                prop_assert_eq!(table.remove(*prefix, *len), Some(LeafId(1)));
            }
            prop_assert!(table.narrow.0.iter().chain(table.wide.0.iter()).all(|hints| hints == 0));
            prop_assert_eq!(table.uses.len(), 0);
        }
    }

    #[test]
    fn an_address_is_tried_once_where_its_surroundings_have_one_length() {
        let mut table = Routes6::default();
        table.insert(0, 0, LeafId(1), hop(LeafId(1)));
        table.insert(0xfd00 << 112, 48, LeafId(2), hop(LeafId(1)));
        table.insert(0x2001 << 112, 128, LeafId(3), hop(LeafId(1)));
        let address = 0xfd00 << 112 | 7;
        assert_eq!(table.next(table.first(address), address).leaf(), Some(LeafId(2)));
        let other = 0x3333 << 112;
        assert_eq!(table.next(table.first(other), other).leaf(), Some(LeafId(1)));
    }

    #[test]
    fn the_last_route_takes_the_memory_with_it() {
        let mut table: Routes6 = (0..1000).map(|n| (n << 64, 64, LeafId(1), hop(LeafId(1)))).collect();
        assert!(table.bytes() > 0);
        (0..1000).for_each(|n| assert_eq!(table.remove(n << 64, 64), Some(LeafId(1))));
        assert_eq!(table.bytes(), 0);
    }

    #[test]
    fn many_routes_agree_with_exact_matches() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u128::from(state >> 32)
        };
        let count = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
        let lengths = [32, 40, 44, 48, 56, 64, 96, 128];
        let mut address = || 0x2 << 124 | random() << 92 | random() << 60 | random() << 28;
        let routes: Naive = (0..count)
            .map(|n| (address(), lengths[n as usize % 8], n))
            .map(|(address, len, n)| ((address & mask6(len), len), LeafId(n + 1)))
            .collect();
        let table: Routes6 = routes.iter().map(|((prefix, len), leaf)| (*prefix, *len, *leaf, hop(*leaf))).collect();
        assert!(table.bytes() < 160 * 1024 * 1024, "{} MB", table.bytes() >> 20);
        for (prefix, len) in routes.keys().step_by(7) {
            let inside = prefix | !mask6(*len) & address();
            assert_eq!(table.lookup(inside), naive::lookup(&routes, inside));
        }
    }
}
