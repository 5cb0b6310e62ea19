//! Which prefixes there are, by exact prefix (the routing information base).
use crate::{
    pages::Pages,
    told::{mask4, mask6},
};

/// An address as a number, in host byte order.
pub(crate) trait Address: Copy + Eq + Default + Into<u128> {
    /// Its first `len` bits, the others zero.
    fn first(self, len: u8) -> Self;
}

impl Address for u32 {
    #[inline(always)]
    fn first(self, len: u8) -> Self {
        self & mask4(len)
    }
}

impl Address for u128 {
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

/// A number for each prefix: an open-addressing table that is at most half full. A clone costs a few references; a
/// change to a clone copies a page or two of 512 slots. It doubles when it is half full, and then rebuilds.
#[derive(Clone, Default)]
pub(crate) struct Rib<A: Address> {
    slots: Pages<Slot<A>, 512>,
    len: usize,
    lengths: Lengths,
}

#[derive(Clone, Copy)]
struct Slot<A> {
    prefix: A,
    value: u32,
    len: u8, // VACANT: nothing here
}

const VACANT: u8 = u8::MAX;
const LEAST: usize = 512;
const SEED: u128 = 0x243f_6a88_85a3_08d3_1319_8a2e_0370_7300; // routes are told by an operator: no secret is needed

impl<A: Default> Default for Slot<A> {
    fn default() -> Self {
        Slot { prefix: A::default(), value: 0, len: VACANT }
    }
}

impl<A: Address> Rib<A> {
    /// A table with room for `count` prefixes.
    pub(crate) fn with_room(count: usize) -> Self {
        let mut rib = Rib::default();
        rib.resize((count * 2).next_power_of_two().max(LEAST));
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
        self.slots.iter().filter(|slot| slot.len != VACANT).map(|slot| (slot.prefix, slot.len))
    }

    /// The number of exactly this prefix, whose bits beyond `len` are zero.
    #[inline(always)]
    pub(crate) fn get(&self, prefix: A, len: u8) -> Option<u32> {
        let mut at = self.home(prefix, len);
        loop {
            let slot = self.slots.get(at)?;
            if slot.prefix == prefix && slot.len == len {
                return Some(slot.value);
            }
            if slot.len == VACANT {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Starts loading what [`Rib::get`] will read.
    #[inline(always)]
    pub(crate) fn fetch(&self, prefix: A, len: u8) {
        if let Some(slot) = self.slots.get(self.home(prefix, len)) {
            engine::fetch(slot);
        }
    }

    /// Sets the number of exactly this prefix; gives the one that it had.
    pub(crate) fn insert(&mut self, prefix: A, len: u8, value: u32) -> Option<u32> {
        if (self.len + 1) * 2 > self.slots.len() {
            self.resize((self.slots.len() * 2).max(LEAST));
        }
        let old = self.put(Slot { prefix, value, len });
        if old.is_none() {
            self.len += 1;
            self.lengths.add(len);
        }
        old
    }

    /// Removes exactly this prefix; gives the number that it had.
    pub(crate) fn remove(&mut self, prefix: A, len: u8) -> Option<u32> {
        let old = self.get(prefix, len)?;
        let mut hole = self.position(prefix, len);
        let mut at = hole;
        // Whatever was pushed on by the removed slot moves back, so that no search stops at the hole.
        loop {
            at = self.after(at);
            let slot = self.slots.get(at).copied().unwrap_or_default();
            if slot.len == VACANT {
                break;
            }
            if self.steps(self.home(slot.prefix, slot.len), at) >= self.steps(hole, at) {
                *self.slots.slot(hole) = slot;
                hole = at;
            }
        }
        *self.slots.slot(hole) = Slot::default();
        self.len -= 1;
        self.lengths.remove(len);
        if self.slots.len() > LEAST && self.len * 8 < self.slots.len() {
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
    pub(crate) fn parent(&self, prefix: A, len: u8) -> Option<(u8, u32)> {
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

    fn put(&mut self, new: Slot<A>) -> Option<u32> {
        let at = self.position(new.prefix, new.len);
        let old = std::mem::replace(self.slots.slot(at), new);
        (old.len != VACANT).then_some(old.value)
    }

    /// Where a prefix is, or where it would go.
    fn position(&self, prefix: A, len: u8) -> usize {
        let mut at = self.home(prefix, len);
        while self.slots.get(at).is_some_and(|slot| slot.len != VACANT && (slot.prefix, slot.len) != (prefix, len)) {
            at = self.after(at);
        }
        at
    }

    /// Where the search for a prefix begins: the first slot of two, which share a cache line when they are large.
    #[inline(always)]
    fn home(&self, prefix: A, len: u8) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
        let hash = engine::hash128(prefix.into(), SEED | u128::from(len)) as usize;
        hash & self.slots.len().wrapping_sub(1) & !1
    }

    #[inline(always)]
    fn after(&self, at: usize) -> usize {
        (at + 1) & self.slots.len().wrapping_sub(1)
    }

    fn steps(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.slots.len().wrapping_sub(1)
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::take(&mut self.slots);
        self.slots.grow(slots);
        for slot in old.iter().filter(|slot| slot.len != VACANT) {
            self.put(*slot);
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
