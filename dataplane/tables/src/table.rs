//! Sets of tags, halves and their timers: the memory of one family's flows.
use crate::flows::{Age, FlowSlot, Half, Tcp, kind};
use crate::told::Limits;
use engine::{fetch, matches};
use hugepages::{Got, MapError, Settings};
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many halves a set has.
pub const WAYS: usize = 32;

/// How full a table may become by flows that nobody is guaranteed, in percent: above it sets begin to overflow.
const SHARED_PERCENT: usize = 70;

/// The timer wheel: so many slots of one unit of [`Age`]. What lasts longer is looked at again after a round.
const WHEEL: usize = 64;

/// The end of a list of the timer wheel.
const END: u32 = u32::MAX;

/// How many timers one call looks at.
const TIMERS: usize = 2048;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
struct Tags([u16; WAYS]); // 0 is empty

/// Why a half found no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The port has used its share, and the rest is used too.
    Budget,
    /// No half of the set may be evicted for this port.
    Set,
}

/// A half that wants a place.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<K> {
    /// Its key.
    pub key: K,
    /// The key's hash, [`Table::hash`].
    pub hash: u64,
    /// The port whose budget it counts against.
    pub budget: u16,
}

/// How many halves each port has.
#[derive(Debug)]
pub struct Budgets {
    halves: Box<[u32]>, // by port
    total: u32,
    shared: u32,
}

impl Budgets {
    fn new(capacity: usize) -> Self {
        let shared = u32::try_from(capacity * SHARED_PERCENT / 100).unwrap_or(u32::MAX);
        Budgets { halves: vec![0; 1 << 16].into(), total: 0, shared }
    }

    /// How many halves count against `port`.
    pub fn of(&self, port: u16) -> u32 {
        self.halves.get(usize::from(port)).copied().unwrap_or(0)
    }

    /// How many halves there are.
    pub fn total(&self) -> u32 {
        self.total
    }

    fn add(&mut self, port: u16) {
        self.total += 1;
        if let Some(n) = self.halves.get_mut(usize::from(port)) {
            *n += 1;
        }
    }

    fn remove(&mut self, port: u16) {
        self.total = self.total.saturating_sub(1);
        if let Some(n) = self.halves.get_mut(usize::from(port)) {
            *n = n.saturating_sub(1);
        }
    }

    fn over(&self, port: u16, limits: &Limits) -> bool {
        self.of(port) >= limits.guaranteed_halves
    }
}

/// The flows of one address family and one worker. Its capacity is fixed; its memory was mapped at start.
pub struct Table<H: Half> {
    tags: &'static mut [Tags],
    hot: &'static mut [H],
    cold: &'static mut [H::Cold],
    next: &'static mut [u32], // of the timer wheel's lists
    heads: [u32; WHEEL],
    turned: Age,    // the wheel's lists up to here were looked at
    under_way: u32, // the rest of a list that was longer than one call looks at
    seed: u128,
    got: [(&'static str, Got); 4],
    /// Who has how many halves.
    pub budgets: Budgets,
}

impl<H: Half> Table<H> {
    /// A table for `capacity` halves (rounded up to whole sets), hashed with `seed`, in memory as `map` asks.
    pub fn new(capacity: usize, seed: u128, map: &Settings) -> Result<Self, MapError> {
        let sets = capacity.div_ceil(WAYS).max(1);
        let capacity = sets * WAYS;
        let ((tags, a), (hot, b)) = (array(sets, map)?, array(capacity, map)?);
        let ((cold, c), (next, d)) = (array(capacity, map)?, array::<u32>(capacity, map)?);
        next.fill(END);
        Ok(Table {
            tags,
            hot,
            cold,
            next,
            heads: [END; WHEEL],
            turned: Age::default(),
            under_way: END,
            seed,
            got: [("tags", a), ("hot lines", b), ("cold lines", c), ("timers", d)],
            budgets: Budgets::new(capacity),
        })
    }

    /// What memory was got for each part of the table.
    pub fn got(&self) -> &[(&'static str, Got); 4] {
        &self.got
    }

    /// How many halves fit in.
    pub fn capacity(&self) -> usize {
        self.hot.len()
    }

    /// How much memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.tags) + size_of_val(self.hot) + size_of_val(self.cold) + size_of_val(self.next)
    }

    /// The hash of a key.
    #[inline(always)]
    pub fn hash(&self, key: H::Key) -> u64 {
        H::hash(key, self.seed)
    }

    /// Starts loading the tags that [`Table::candidate`] will compare.
    #[inline(always)]
    pub fn fetch_tags(&self, hash: u64) {
        self.tags.get(self.place(hash).0).into_iter().for_each(fetch);
    }

    /// Starts loading the lines that a new half with this hash will most likely be written to.
    #[inline(always)]
    pub fn fetch_room(&self, hash: u64) {
        let (set, _) = self.place(hash);
        let free = self.tags.get(set).map_or(0, |tags| matches(&tags.0, 0));
        let slot = slot_of(set, free.trailing_zeros() % 32) as usize;
        self.hot.get(slot).into_iter().for_each(fetch);
        self.cold.get(slot).into_iter().for_each(fetch);
        self.next.get(slot).into_iter().for_each(fetch);
    }

    /// The first slot whose tag matches; its key is still to be compared. Its hot line begins to load.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<FlowSlot> {
        let (set, tag) = self.place(hash);
        let found = matches(&self.tags.get(set)?.0, tag);
        if found == 0 {
            return None;
        }
        let slot = slot_of(set, found.trailing_zeros());
        self.hot.get(slot as usize).into_iter().for_each(fetch);
        Some(slot)
    }

    /// The half in a slot.
    #[inline(always)]
    pub fn hot(&self, slot: FlowSlot) -> Option<&H> {
        self.hot.get(slot as usize)
    }

    /// The half in a slot.
    #[inline(always)]
    pub fn hot_mut(&mut self, slot: FlowSlot) -> Option<&mut H> {
        self.hot.get_mut(slot as usize)
    }

    /// Both lines of a slot.
    #[inline(always)]
    pub fn lines(&mut self, slot: FlowSlot) -> Option<(&mut H, &mut H::Cold)> {
        self.hot.get_mut(slot as usize).zip(self.cold.get_mut(slot as usize))
    }

    /// The cold lines in a slot.
    pub fn cold(&self, slot: FlowSlot) -> Option<&H::Cold> {
        self.cold.get(slot as usize)
    }

    /// The cold lines in a slot.
    pub fn cold_mut(&mut self, slot: FlowSlot) -> Option<&mut H::Cold> {
        self.cold.get_mut(slot as usize)
    }

    /// The slot of the half with this key.
    pub fn find(&self, key: H::Key, hash: u64) -> Option<FlowSlot> {
        let (set, tag) = self.place(hash);
        let mut found = matches(&self.tags.get(set)?.0, tag);
        while found != 0 {
            let slot = slot_of(set, found.trailing_zeros());
            if self.hot(slot)?.key() == key {
                return Some(slot);
            }
            found &= found - 1;
        }
        None
    }

    /// Whether a slot holds a half.
    pub fn is_used(&self, slot: FlowSlot) -> bool {
        let (set, way) = (slot as usize / WAYS, slot as usize % WAYS);
        self.tags.get(set).and_then(|tags| tags.0.get(way)).is_some_and(|tag| *tag != 0)
    }

    /// Those of `slots` that are in use.
    pub fn used(&self, slots: Range<FlowSlot>) -> impl Iterator<Item = FlowSlot> + '_ {
        slots.filter(|slot| self.is_used(*slot))
    }

    /// Makes room for a half that counts against port `budget`, and gives its slot: the one that its key has already,
    /// a free one, or that of a half which has to go. Nobody's guaranteed halves go for those of another port.
    pub fn place_for(&mut self, new: &Newcomer<H::Key>, now: Age, limits: &Limits) -> Result<FlowSlot, Full> {
        if let Some(slot) = self.find(new.key, new.hash) {
            self.release(slot); // it is written anew, perhaps for another port
            self.occupy(slot, new, now, limits);
            return Ok(slot);
        }
        let (set, _) = self.place(new.hash);
        let over = self.budgets.over(new.budget, limits);
        let shared_full = self.budgets.total >= self.budgets.shared;
        let free = self.tags.get(set).map_or(0, |tags| matches(&tags.0, 0));
        let slot = if free != 0 && !(over && shared_full) {
            slot_of(set, free.trailing_zeros())
        } else {
            let full = if free == 0 { Full::Set } else { Full::Budget };
            let victim = self.victim(set, new.budget, now, limits).ok_or(full)?;
            self.end(victim);
            victim
        };
        self.occupy(slot, new, now, limits);
        Ok(slot)
    }

    /// Ends a half and, when it still is there, its twin.
    pub fn end(&mut self, slot: FlowSlot) {
        let Some(cold) = self.cold(slot) else { return };
        let rest = *H::rest(cold);
        self.release(slot);
        let twin = self.cold(rest.twin).map(|cold| *H::rest(cold));
        if twin.is_some_and(|twin| twin.twin == slot && twin.generation == rest.twin_generation)
            && self.is_used(rest.twin)
        {
            self.release(rest.twin);
        }
    }

    /// Makes two halves twins of each other; a half may be its own twin.
    pub fn marry(&mut self, one: FlowSlot, other: FlowSlot) {
        let generation = |table: &Self, slot| table.cold(slot).map_or(0, |cold| H::rest(cold).generation);
        let generations = (generation(self, one), generation(self, other));
        for (slot, twin, generation) in [(one, other, generations.1), (other, one, generations.0)] {
            if let Some(cold) = self.cold_mut(slot) {
                let rest = H::rest_mut(cold);
                (rest.twin, rest.twin_generation) = (twin, generation);
            }
        }
    }

    /// How many seconds a half may rest before it ends.
    pub fn idle(half: &H, limits: &Limits) -> u32 {
        let life = half.life();
        match (life.kind & kind::ACTION, Tcp::kept(life.tcp)) {
            (kind::DROP, _) => limits.idle_drop,
            (_, Tcp::Established) => limits.idle_established,
            (_, Tcp::Opening | Tcp::Closing) => limits.idle_transient,
            (_, Tcp::Closed) => limits.idle_drop,
            (_, Tcp::None) if life.kind & kind::REPLIED != 0 => limits.idle_replied,
            (_, Tcp::None) => limits.idle_unreplied,
        }
    }

    /// Whether a half and its twin have both rested too long: halves end by agreement.
    fn is_over(&self, slot: FlowSlot, now: Age, limits: &Limits) -> bool {
        let rested = |slot: FlowSlot| {
            let half = self.hot(slot).filter(|_| self.is_used(slot));
            half.is_none_or(|half| half.life().seen.seconds_until(now) > Self::idle(half, limits))
        };
        let twin = self.cold(slot).map_or(slot, |cold| H::rest(cold).twin);
        rested(slot) && rested(twin)
    }

    /// Turns the timer wheel to `now`: ends halves that rested too long. Looks at a bounded number of them; gives
    /// whether it is done.
    pub fn tick(&mut self, now: Age, limits: &Limits) -> bool {
        let mut left = TIMERS;
        loop {
            while self.under_way != END {
                if left == 0 {
                    return false;
                }
                left -= 1;
                let slot = self.under_way;
                self.under_way = self.next.get_mut(slot as usize).map_or(END, |next| std::mem::replace(next, END));
                self.fire(slot, now, limits);
            }
            if self.turned == now {
                return true;
            }
            self.turned = self.turned.next();
            if let Some(head) = self.heads.get_mut(self.turned.bucket() % WHEEL) {
                self.under_way = std::mem::replace(head, END);
            }
            if self.turned.seconds_until(now) as usize > 5 * WHEEL && self.under_way == END {
                self.turned = now.before(WHEEL); // after a long rest one round sees every list
            }
        }
    }

    /// When the wheel must turn next; `None` when no half is there.
    pub fn is_empty(&self) -> bool {
        self.budgets.total == 0
    }

    fn fire(&mut self, slot: FlowSlot, now: Age, limits: &Limits) {
        if let Some(cold) = self.cold_mut(slot) {
            H::rest_mut(cold).armed = 0;
        }
        if !self.is_used(slot) {
            return;
        }
        if self.is_over(slot, now, limits) {
            self.end(slot);
        } else {
            self.arm(slot, now, limits);
        }
    }

    /// Puts a slot on the wheel, if it is not there.
    fn arm(&mut self, slot: FlowSlot, now: Age, limits: &Limits) {
        let Some(half) = self.hot(slot) else { return };
        let left = Self::idle(half, limits).saturating_sub(half.life().seen.seconds_until(now));
        let steps = (left as usize / 4 + 1).min(WHEEL - 1); // a little late is looked at again, never early
        let Some(cold) = self.cold_mut(slot) else { return };
        let rest = H::rest_mut(cold);
        if std::mem::replace(&mut rest.armed, 1) == 1 {
            return;
        }
        let head = self.heads.get_mut((now.bucket() + steps) % WHEEL);
        if let (Some(next), Some(head)) = (self.next.get_mut(slot as usize), head) {
            *next = std::mem::replace(head, slot);
        }
    }

    fn occupy(&mut self, slot: FlowSlot, new: &Newcomer<H::Key>, now: Age, limits: &Limits) {
        let (set, tag) = self.place(new.hash);
        let place = self.tags.get_mut(set).and_then(|tags| tags.0.get_mut(slot as usize % WAYS));
        if let (Some(place), Some(hot), Some(cold)) =
            (place, self.hot.get_mut(slot as usize), self.cold.get_mut(slot as usize))
        {
            *place = tag;
            *hot = H::with(new.key);
            hot.life_mut().seen = now;
            let (generation, armed) = (H::rest(cold).generation.wrapping_add(1), H::rest(cold).armed);
            *cold = H::Cold::default();
            let rest = H::rest_mut(cold);
            (rest.generation, rest.armed, rest.budget, rest.twin) = (generation, armed, new.budget, slot);
        }
        self.budgets.add(new.budget);
        self.arm(slot, now, limits);
    }

    fn release(&mut self, slot: FlowSlot) {
        let (set, way) = (slot as usize / WAYS, slot as usize % WAYS);
        let Some(tag) = self.tags.get_mut(set).and_then(|tags| tags.0.get_mut(way)) else { return };
        if std::mem::take(tag) != 0
            && let Some(cold) = self.cold.get(slot as usize)
        {
            self.budgets.remove(H::rest(cold).budget);
        }
    }

    /// Which half of a set goes first: a cached drop, one that is over, one without reply of a port over its budget,
    /// then idle ones of such ports, untranslated before translated. A port that is over its own budget evicts only
    /// what counts against itself.
    fn victim(&self, set: usize, budget: u16, now: Age, limits: &Limits) -> Option<FlowSlot> {
        let over = self.budgets.over(budget, limits);
        let rank = |slot: FlowSlot| {
            let (half, rest) = (self.hot(slot)?, H::rest(self.cold(slot)?));
            let life = half.life();
            if life.kind & kind::ACTION == kind::DROP || self.is_over(slot, now, limits) {
                return Some((0, 0));
            }
            if rest.budget != budget && (over || !self.budgets.over(rest.budget, limits)) {
                return None;
            }
            let rested = u32::MAX - life.seen.seconds_until(now);
            let translated = u8::from(life.kind & kind::REWRITE != 0);
            let unreplied = life.kind & kind::REPLIED == 0 && Tcp::kept(life.tcp) != Tcp::Established;
            if unreplied { Some((1, rested)) } else { Some((2 + translated, rested)) }
        };
        let ways = (0..u32::try_from(WAYS).unwrap_or(0)).map(|way| slot_of(set, way));
        let ranked = ways.filter(|slot| self.is_used(*slot)).filter_map(|slot| Some((rank(slot)?, slot)));
        ranked.min().map(|(_, slot)| slot)
    }

    /// The set of a hash, and its tag there.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "takes bits out")]
    fn place(&self, hash: u64) -> (usize, u16) {
        (((u64::from(hash as u32) * self.tags.len() as u64) >> 32) as usize, (hash >> 48) as u16 | 1)
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "tables have fewer than 2^32 slots")]
fn slot_of(set: usize, way: u32) -> FlowSlot {
    (set * WAYS) as u32 + way
}

/// `n` zeroed values in mapped memory, and what memory was got for them.
fn array<T: FromBytes + IntoBytes>(n: usize, map: &Settings) -> Result<(&'static mut [T], Got), MapError> {
    hugepages::leak_slice(n, map.clone())
}
