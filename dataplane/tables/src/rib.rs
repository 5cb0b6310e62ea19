//! Which prefixes there are, by exact prefix (the routing information base).
use crate::{
    pages::{Item, Pages},
    told::{mask4, mask6},
    way::WAY_BITS,
};
use hugepages::Got;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An address as a number, in host byte order.
pub(crate) trait Address: Item + Eq + Into<u128> {
    /// How many bits it has.
    #[cfg(test)]
    const BITS: u8;
    /// How many words a prefix with its length and number takes, a power of two.
    const SLOT_WORDS: usize;
    /// Its first `len` bits, the others zero.
    fn first(self, len: u8) -> Self;
}

impl Address for u32 {
    #[cfg(test)]
    const BITS: u8 = 32;
    const SLOT_WORDS: usize = 2;
    #[inline(always)]
    fn first(self, len: u8) -> Self {
        self & mask4(len)
    }
}

impl Address for u64 {
    #[cfg(test)]
    const BITS: u8 = 64;
    const SLOT_WORDS: usize = 2;
    #[inline(always)]
    fn first(self, len: u8) -> Self {
        self & !u64::MAX.unbounded_shr(len.into())
    }
}

impl Address for u128 {
    #[cfg(test)]
    const BITS: u8 = 128;
    const SLOT_WORDS: usize = 4;
    #[inline(always)]
    fn first(self, len: u8) -> Self {
        MASKS.get(usize::from(len)).map_or(self, |mask| self & mask)
    }
}

/// The masks of all lengths: a load is quicker than shifts of 128 bits.
#[expect(clippy::indexing_slicing, reason = "while compiling, where a wrong index is an error")]
static MASKS: [u128; 129] = {
    let mut masks = [0; 129];
    let mut len = 0;
    while len < 129 {
        masks[len as usize] = mask6(len);
        len += 1;
    }
    masks
};

impl Item for u32 {
    const WORDS: usize = 1;
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "as it was stored")]
    fn load(words: &[AtomicU64]) -> Self {
        u64::load(words) as u32
    }
    fn store(self, words: &[AtomicU64]) {
        u64::from(self).store(words);
    }
}

impl Item for u128 {
    const WORDS: usize = 2;
    #[inline(always)]
    fn load(words: &[AtomicU64]) -> Self {
        let [high, low] = words else { return 0 };
        u128::from(high.load(Relaxed)) << 64 | u128::from(low.load(Relaxed))
    }
    #[expect(clippy::cast_possible_truncation, reason = "takes both halves")]
    fn store(self, words: &[AtomicU64]) {
        let [high, low] = words else { return };
        high.store((self >> 64) as u64, Relaxed);
        low.store(self as u64, Relaxed);
    }
}

/// A number below 2^56 for each prefix: an open-addressing table that is at most half full. A clone costs a few
/// references; a change to a clone copies a page or two of 16 KiB. It doubles when it is half full, and then rebuilds.
#[derive(Clone)]
pub(crate) struct Rib<A: Address> {
    slots: Pages<Slot<A>>,
    len: usize,
    lengths: Lengths,
}

impl<A: Address> Default for Rib<A> {
    fn default() -> Self {
        Rib { slots: Pages::default(), len: 0, lengths: Lengths::default() }
    }
}

/// A prefix, its number, and in the bits above that its length plus one. Zero: vacant.
#[derive(Clone, Copy, Default)]
struct Slot<A> {
    prefix: A,
    word: u64,
}

const LINE_WORDS: usize = 8;
const SEED: u128 = 0x243f_6a88_85a3_08d3_1319_8a2e_0370_7300; // routes are told by an operator: no secret is needed

impl<A: Address> Slot<A> {
    fn new(prefix: A, len: u8, value: u64) -> Self {
        Slot { prefix, word: (u64::from(len) + 1) << WAY_BITS | value }
    }

    #[inline(always)]
    fn is(&self, prefix: A, len: u8) -> bool {
        self.prefix == prefix && self.word >> WAY_BITS == u64::from(len) + 1
    }

    /// The length of its prefix; none: it is vacant.
    fn len(&self) -> Option<u8> {
        u8::try_from((self.word >> WAY_BITS).checked_sub(1)?).ok()
    }

    #[inline(always)]
    fn value(&self) -> u64 {
        self.word & ((1 << WAY_BITS) - 1)
    }
}

impl<A: Address> Item for Slot<A> {
    const WORDS: usize = A::SLOT_WORDS;
    #[inline(always)]
    fn load(words: &[AtomicU64]) -> Self {
        let Some((prefix, [word, ..])) = words.split_at_checked(A::WORDS) else { return Slot::default() };
        Slot { prefix: A::load(prefix), word: word.load(Relaxed) }
    }
    fn store(self, words: &[AtomicU64]) {
        let Some((prefix, [word, ..])) = words.split_at_checked(A::WORDS) else { return };
        self.prefix.store(prefix);
        word.store(self.word, Relaxed);
    }
}

impl<A: Address> Rib<A> {
    /// A table with room for `count` prefixes.
    pub(crate) fn with_room(count: usize) -> Self {
        let mut rib = Rib::default();
        rib.resize((count * 2).next_power_of_two());
        rib
    }

    /// How many prefixes there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many slots there are, a power of two.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Every prefix and its length.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = (A, u8)> {
        self.slots.iter().filter_map(|slot| Some((slot.prefix, slot.len()?)))
    }

    /// The number of exactly this prefix, whose bits beyond `len` are zero.
    #[inline(always)]
    pub(crate) fn get(&self, prefix: A, len: u8) -> Option<u64> {
        let mut at = self.home(prefix, len);
        loop {
            let slot = self.slots.get(at);
            if slot.is(prefix, len) {
                return Some(slot.value());
            }
            if slot.word == 0 {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Starts loading what [`Rib::get`] will read.
    #[inline(always)]
    pub(crate) fn fetch(&self, prefix: A, len: u8) {
        self.slots.fetch(self.home(prefix, len));
    }

    /// Sets the number of exactly this prefix; gives the one that it had.
    pub(crate) fn insert(&mut self, prefix: A, len: u8, value: u64) -> Option<u64> {
        if (self.len + 1) * 2 > self.slots.len() {
            self.resize(self.slots.len() * 2);
        }
        let old = self.put(Slot::new(prefix, len, value));
        if old.is_none() {
            self.len += 1;
            self.lengths.add(len);
        }
        old
    }

    /// Removes exactly this prefix; gives the number that it had.
    pub(crate) fn remove(&mut self, prefix: A, len: u8) -> Option<u64> {
        let old = self.get(prefix, len)?;
        let mut hole = self.position(prefix, len);
        let mut at = hole;
        // Whatever was pushed on by the removed slot moves back, so that no search stops at the hole.
        loop {
            at = self.after(at);
            let slot = self.slots.get(at);
            let Some(len) = slot.len() else { break };
            if self.steps(self.home(slot.prefix, len), at) >= self.steps(hole, at) {
                self.slots.set(hole, slot);
                hole = at;
            }
        }
        self.slots.set(hole, Slot::default());
        self.len -= 1;
        self.lengths.remove(len);
        if self.len * 8 < self.slots.len() && self.slots.len() > Pages::<Slot<A>>::PER_PAGE {
            self.resize(self.slots.len() / 2);
        }
        Some(old)
    }

    /// The longest length below `len` that any prefix has.
    #[inline(always)]
    pub(crate) fn length_below(&self, len: u8) -> Option<u8> {
        self.lengths.below(len)
    }

    /// The longest proper parent of a prefix: its length and number.
    pub(crate) fn parent(&self, prefix: A, len: u8) -> Option<(u8, u64)> {
        let mut len = len;
        loop {
            len = self.lengths.below(len)?;
            if let Some(value) = self.get(prefix.first(len), len) {
                return Some((len, value));
            }
        }
    }

    /// How much memory it takes, in bytes, shared or not.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// Its memory, shared or not.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.slots.got()
    }

    fn put(&mut self, new: Slot<A>) -> Option<u64> {
        let at = self.position(new.prefix, new.len()?);
        let old = self.slots.get(at);
        self.slots.set(at, new);
        (old.word != 0).then_some(old.value())
    }

    /// Where a prefix is, or where it would go.
    fn position(&self, prefix: A, len: u8) -> usize {
        let mut at = self.home(prefix, len);
        loop {
            let slot = self.slots.get(at);
            if slot.word == 0 || slot.is(prefix, len) {
                return at;
            }
            at = self.after(at);
        }
    }

    /// Where the search for a prefix begins: the first slot of a cache line.
    #[inline(always)]
    fn home(&self, prefix: A, len: u8) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
        let hash = engine::hash128(prefix.into(), SEED | u128::from(len)) as usize;
        hash & self.slots.len().wrapping_sub(1) & !(LINE_WORDS / A::SLOT_WORDS - 1)
    }

    #[inline(always)]
    fn after(&self, at: usize) -> usize {
        (at + 1) & self.slots.len().wrapping_sub(1)
    }

    fn steps(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.slots.len().wrapping_sub(1)
    }

    /// Makes at least so many slots, a power of two, and puts every prefix into its new place.
    fn resize(&mut self, slots: usize) {
        let old = std::mem::take(&mut self.slots);
        self.slots.grow(slots.max(1));
        for slot in old.iter().filter(|slot| slot.word != 0) {
            self.put(slot);
        }
    }
}

/// How many prefixes there are of each length, and a bit for each length that there is.
#[derive(Clone)]
struct Lengths {
    counts: std::sync::Arc<[u32; 129]>,
    present: u128, // bit `len - 1`
    zero: bool,
}

impl Default for Lengths {
    fn default() -> Self {
        Lengths { counts: std::sync::Arc::new([0; 129]), present: 0, zero: false }
    }
}

impl Lengths {
    fn add(&mut self, len: u8) {
        self.change(len, 1);
    }

    fn remove(&mut self, len: u8) {
        self.change(len, -1);
    }

    fn change(&mut self, len: u8, by: i32) {
        let Some(count) = std::sync::Arc::make_mut(&mut self.counts).get_mut(usize::from(len)) else { return };
        *count = count.saturating_add_signed(by);
        let any = *count > 0;
        match len.checked_sub(1) {
            None => self.zero = any,
            Some(bit) => self.present = self.present & !(1 << bit) | u128::from(any) << bit,
        }
    }

    #[inline(always)]
    fn below(&self, len: u8) -> Option<u8> {
        let shorter = self.present & !u128::MAX.unbounded_shl(u32::from(len.max(1)) - 1);
        #[expect(clippy::cast_possible_truncation, reason = "at most 128")]
        let longest = (u128::BITS - shorter.leading_zeros()) as u8;
        (longest > 0 || self.zero && len > 0).then_some(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn any_history_agrees_with_an_ordered_map(
            history in prop::collection::vec((0u32..1500, 0u8..=2, any::<bool>()), 0..4000),
        ) {
            let (mut rib, mut naive) = (Rib::<u32>::default(), BTreeMap::new());
            for (number, (key, len, insert)) in (0..).zip(history) {
                if insert {
                    prop_assert_eq!(rib.insert(key, len, number), naive.insert((key, len), number));
                } else {
                    prop_assert_eq!(rib.remove(key, len), naive.remove(&(key, len)));
                }
            }
            prop_assert_eq!(rib.len(), naive.len());
            for key in 0..1500 {
                for len in 0..=2 {
                    prop_assert_eq!(rib.get(key, len), naive.get(&(key, len)).copied());
                }
            }
            for len in 0..=32 {
                let longest = naive.keys().map(|key| key.1).filter(|other| *other < len).max();
                prop_assert_eq!(rib.length_below(len), longest);
            }
        }
    }

    #[test]
    fn a_table_that_was_large_gives_its_memory_back() {
        let mut rib = Rib::<u128>::default();
        let empty = rib.bytes();
        (0..5000).for_each(|key| assert_eq!(rib.insert(key, 128, 1), None));
        let full = rib.bytes();
        (0..5000).for_each(|key| assert_eq!(rib.remove(key, 128), Some(1)));
        assert!(rib.bytes() * 8 < full, "{empty} {full} {}", rib.bytes());
    }
}
