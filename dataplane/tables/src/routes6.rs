//! IPv6 routes: one hash table of all prefixes, and hints which lengths to try for an address.
//!
//! A hint has a bit for each class of lengths; common lengths are a class of their own, so that an address is mostly
//! tried once. An address has two hints: the wide one, for prefixes of 21 to 32 bits, is that of its first 20 bits; the
//! narrow one, for longer prefixes, is found by a hash of its first 32 bits and grows with the table. Where hashes meet,
//! a length is tried in vain. Prefixes of up to 20 bits are tried last, without hints.
use crate::{
    pages::Pages,
    rib::{Address, Rib},
    routes4::MOST_LEAVES,
    told::{LeafId, mask6},
};

/// The IPv6 routes of one VRF. A clone costs a few references.
#[derive(Clone, Default)]
pub struct Routes6 {
    rib: Rib<u128>,
    narrow: Pages<u16, 512>, // hints by hash; from the top bit: classes from the longest
    wide: Pages<u16, 512>,   // hints by the first 20 bits, likewise
    uses: Rib<u32>,          // by hint and class, for how many prefixes the bit is set
    longest: [u8; 16],       // by class, the longest length that any prefix has
    short: Option<u8>,       // likewise, of the lengths without hints
}

/// How far a lookup has come: one number, which fits into a packet's metadata between stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry6(u32); // a leaf, or PENDING, 8 bits of length to try, 16 bits of hint

impl Entry6 {
    /// The entry that [`Entry6::bits`] gave. Any number is safe, but what was not given by the same table means nothing.
    #[inline(always)]
    pub fn from_bits(bits: u32) -> Self {
        Entry6(bits)
    }

    /// The entry as a number.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The leaf, when the lookup has come to its end; zero where no prefix matches.
    #[inline(always)]
    pub fn leaf(self) -> Option<LeafId> {
        (self.0 & PENDING == 0).then_some(LeafId(self.0))
    }

    #[inline(always)]
    fn to_try(len: u8, hint: u16) -> Self {
        Entry6(PENDING | u32::from(len) << 16 | u32::from(hint))
    }

    /// The length to try, and the classes to try after it.
    #[inline(always)]
    fn pending(self) -> Option<(u8, u16)> {
        let [low, high, len, _] = self.0.to_le_bytes();
        (self.0 & PENDING != 0).then_some((len, u16::from_le_bytes([low, high])))
    }
}

impl Routes6 {
    /// The longest prefix match: the leaf, zero where no prefix matches.
    #[inline(always)]
    pub fn lookup(&self, address: u128) -> LeafId {
        self.finish(self.first(address), address)
    }

    /// Starts loading what [`Routes6::first`] will read.
    #[inline(always)]
    pub fn fetch_first(&self, address: u128) {
        if let Some(hint) = self.narrow.get(self.narrow_at(address)) {
            engine::fetch(hint);
        }
        if let Some(hint) = self.wide.get(wide_at(address)) {
            engine::fetch(hint);
        }
    }

    /// Begins a lookup: finds which length to try first.
    #[inline(always)]
    pub fn first(&self, address: u128) -> Entry6 {
        let narrow = self.narrow.get(self.narrow_at(address)).copied().unwrap_or_default();
        let wide = self.wide.get(wide_at(address)).copied().unwrap_or_default();
        self.candidate(narrow | wide)
    }

    /// Starts loading what [`Routes6::next`] will read.
    #[inline(always)]
    pub fn fetch(&self, entry: Entry6, address: u128) {
        if let Some((len, _)) = entry.pending() {
            self.rib.fetch(address.first(len), len);
        }
    }

    /// Tries one length; an entry that is a leaf stays what it is.
    #[inline(always)]
    pub fn next(&self, entry: Entry6, address: u128) -> Entry6 {
        let Some((len, hint)) = entry.pending() else { return entry };
        self.rib.get(address.first(len), len).map_or_else(|| self.after(len, hint), Entry6)
    }

    /// Ends a lookup: tries lengths until one matches or none is left.
    #[inline(always)]
    pub fn finish(&self, mut entry: Entry6, address: u128) -> LeafId {
        loop {
            if let Some(leaf) = entry.leaf() {
                return leaf;
            }
            entry = self.next(entry, address);
        }
    }

    /// Sets the leaf of a prefix, whose bits beyond `len` are ignored; gives the leaf that exactly this prefix had.
    ///
    /// # Panics
    /// When `len` is above 128 or the leaf is not below [`MOST_LEAVES`].
    pub fn insert(&mut self, prefix: u128, len: u8, leaf: LeafId) -> Option<LeafId> {
        assert!(len <= 128 && leaf.0 < MOST_LEAVES, "a prefix of {len} bits, leaf {}", leaf.0);
        let prefix = prefix & mask6(len);
        let old = self.rib.insert(prefix, len, leaf.0);
        if self.narrow.len() != self.rib.slots() {
            self.hint_all();
        } else if old.is_none() {
            self.hint(prefix, len);
        }
        self.note_lengths();
        old.map(LeafId)
    }

    /// Removes exactly this prefix; gives its leaf.
    pub fn remove(&mut self, prefix: u128, len: u8) -> Option<LeafId> {
        let prefix = prefix & mask6(len);
        let old = self.rib.remove(prefix, len)?;
        if self.rib.len() == 0 {
            *self = Routes6::default();
        } else if self.narrow.len() != self.rib.slots() {
            self.hint_all();
        } else {
            self.unhint(prefix, len);
        }
        self.note_lengths();
        Some(LeafId(old))
    }

    /// The leaf of exactly this prefix.
    pub fn get(&self, prefix: u128, len: u8) -> Option<LeafId> {
        self.rib.get(prefix & mask6(len), len).map(LeafId)
    }

    /// The leaf of the longest proper parent of a prefix: the one whose addresses the prefix takes.
    pub fn covering(&self, prefix: u128, len: u8) -> Option<LeafId> {
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
        self.rib.bytes() + self.narrow.bytes() + self.wide.bytes() + self.uses.bytes()
    }

    /// What to try for an address with this hint.
    #[inline(always)]
    fn candidate(&self, hint: u16) -> Entry6 {
        let class = hint.leading_zeros() as usize;
        let hinted = self.longest.get(class).map(|len| Entry6::to_try(*len, hint));
        hinted.unwrap_or_else(|| self.short.map_or(Entry6(0), |len| Entry6::to_try(len, 0)))
    }

    /// What to try after `len`.
    #[inline]
    fn after(&self, len: u8, hint: u16) -> Entry6 {
        let shorter = self.rib.length_below(len);
        match CLASSES.get(hint.leading_zeros() as usize) {
            None => shorter.map_or(Entry6(0), |len| Entry6::to_try(len, 0)),
            Some((shortest, _)) => match shorter.filter(|len| len >= shortest) {
                Some(len) => Entry6::to_try(len, hint),
                None => self.candidate(hint & !(FIRST >> hint.leading_zeros())),
            },
        }
    }

    fn note_lengths(&mut self) {
        for (longest, (_, limit)) in self.longest.iter_mut().zip(CLASSES) {
            *longest = self.rib.length_below(limit + 1).unwrap_or_default();
        }
        self.short = self.rib.length_below(WIDE_BITS + 1);
    }

    /// Makes all hints anew, as many narrow ones as the table has slots.
    fn hint_all(&mut self) {
        (self.narrow, self.wide, self.uses) = Default::default();
        self.narrow.grow(self.rib.slots());
        let rib = self.rib.clone();
        for (prefix, len) in rib.prefixes() {
            self.hint(prefix, len);
        }
    }

    fn hint(&mut self, prefix: u128, len: u8) {
        let Some(class) = Class::of(len) else { return };
        let use_of = self.use_of(prefix, class);
        let uses = self.uses.get(use_of, 0).unwrap_or_default();
        self.uses.insert(use_of, 0, uses + 1);
        if uses == 0 {
            *self.hint_mut(prefix, class) |= class.bit();
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
            *self.hint_mut(prefix, class) &= !class.bit();
        }
    }

    fn hint_mut(&mut self, prefix: u128, class: Class) -> &mut u16 {
        if class.is_wide() { self.wide.slot(wide_at(prefix)) } else { self.narrow.slot(self.narrow_at(prefix)) }
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
        hash & self.narrow.len().wrapping_sub(1)
    }
}

/// Makes a table of many prefixes. As with [`Routes6::insert`], a later one of the same prefix counts, and lengths and
/// leaves out of range panic.
impl FromIterator<(u128, u8, LeafId)> for Routes6 {
    fn from_iter<I: IntoIterator<Item = (u128, u8, LeafId)>>(routes: I) -> Self {
        let routes = routes.into_iter();
        let mut table = Routes6 { rib: Rib::with_room(routes.size_hint().0), ..Routes6::default() };
        table.narrow.grow(table.rib.slots());
        for (prefix, len, leaf) in routes {
            table.insert(prefix, len, leaf);
        }
        table
    }
}

const PENDING: u32 = 1 << 31;
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

/// Prefixes of up to this length have wide hints.
const WIDE_MOST: u8 = 32;

#[inline(always)]
fn wide_at(address: u128) -> usize {
    (address >> (128 - WIDE_BITS)) as usize
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
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Naive = BTreeMap<(u128, u8), LeafId>;

    fn naive_lookup(routes: &Naive, address: u128) -> LeafId {
        let matching = |len: u8| routes.get(&(address & mask6(len), len));
        (0..=128).rev().find_map(matching).copied().unwrap_or_default()
    }

    /// Every address where an answer may change, and its neighbours.
    fn borders<'a>(prefixes: impl Iterator<Item = &'a (u128, u8)>) -> Vec<u128> {
        let around = |address: u128| [address.wrapping_sub(1), address, address.wrapping_add(1)];
        let ends = |(prefix, len): &(u128, u8)| [prefix & mask6(*len), prefix | !mask6(*len)];
        prefixes.flat_map(ends).flat_map(around).collect()
    }

    fn assert_agrees(table: &Routes6, naive: &Naive, addresses: &[u128]) {
        assert_eq!(table.len(), naive.len());
        for &address in addresses {
            assert_eq!(table.lookup(address), naive_lookup(naive, address), "{address:#x} in {naive:x?}");
            table.fetch_first(address);
            let mut entry = table.first(address);
            let mut tries = 0;
            while entry.leaf().is_none() {
                table.fetch(entry, address);
                entry = table.next(Entry6::from_bits(entry.bits()), address);
                tries += 1;
            }
            assert_eq!(entry.leaf(), Some(table.lookup(address)));
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
            let addresses = borders(history.iter().map(|step| &step.0));
            let (mut table, mut naive) = (Routes6::default(), Naive::new());
            let mut versions = Vec::new();
            for (number, ((prefix, len), leaf, remove)) in history.iter().copied().enumerate() {
                let parent = (0..len).rev().find_map(|len| naive.get(&(prefix & mask6(len), len))).copied();
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
        fn what_is_removed_leaves_no_hint(routes in prop::collection::btree_set(prefix(), 1..80)) {
            let mut table = Routes6::default();
            table.insert(0, 0, LeafId(9)); // the last route would take everything with it
            let routes: Vec<_> = routes.into_iter().filter(|route| route.1 > 0).collect();
            for (prefix, len) in &routes {
                table.insert(*prefix, *len, LeafId(1));
            }
            for (prefix, len) in &routes {
                prop_assert_eq!(table.remove(*prefix, *len), Some(LeafId(1)));
            }
            prop_assert!(table.narrow.iter().chain(table.wide.iter()).all(|hint| *hint == 0));
            prop_assert_eq!(table.uses.len(), 0);
        }
    }

    #[test]
    fn an_address_is_tried_once_where_its_surroundings_have_one_length() {
        let mut table = Routes6::default();
        table.insert(0, 0, LeafId(1));
        table.insert(0xfd00 << 112, 48, LeafId(2));
        table.insert(0x2001 << 112, 128, LeafId(3));
        let address = 0xfd00 << 112 | 7;
        assert_eq!(table.next(table.first(address), address).leaf(), Some(LeafId(2)));
        let other = 0x3333 << 112;
        assert_eq!(table.next(table.first(other), other).leaf(), Some(LeafId(1)));
    }

    #[test]
    fn the_last_route_takes_the_memory_with_it() {
        let mut table: Routes6 = (0..1000).map(|n| (n << 64, 64, LeafId(1))).collect();
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
        let table: Routes6 = routes.iter().map(|((prefix, len), leaf)| (*prefix, *len, *leaf)).collect();
        assert!(table.bytes() < 160 * 1024 * 1024, "{} MB", table.bytes() >> 20);
        for (prefix, len) in routes.keys().step_by(7) {
            let inside = prefix | !mask6(*len) & address();
            assert_eq!(table.lookup(inside), naive_lookup(&routes, inside));
        }
    }
}
