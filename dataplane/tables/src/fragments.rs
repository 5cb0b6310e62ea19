//! Fragmented packets under way: what only their first fragments carry.
use engine::{Instant, PortId, hash128, matches};
use std::{net::IpAddr, time::Duration};

/// How many fragmented packets one set remembers: the share of a pod's port.
const WAYS: usize = 32;
/// Sets for ports that one sender is behind, one each (ports 256 apart have one together), and for all others.
const ALONE: usize = 256;
const CROWD: usize = 128;
/// How long fragments follow their first one (RFC 791 section 3.2 suggests 15 s; RFC 8200 section 4.5: 60 s).
const FOLLOWS: Duration = Duration::from_secs(30);

/// What names a fragmented packet (RFC 791 section 3.2, RFC 8200 section 4.5), and by which port it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Where it came from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Its identification.
    pub id: u32,
    /// The transport protocol over IPv4; zero over IPv6, where it names nothing.
    pub protocol: u8,
    /// The VRF.
    pub vrf: u16,
    /// The port by which it came.
    pub port: PortId,
}

/// What only a first fragment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// The ports, source << 16 | destination.
    pub ports: u32,
    /// The transport protocol.
    pub protocol: u8,
    /// How much of the packet's payload it carries, in bytes.
    pub len: u16,
}

/// What a later fragment finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Its first one came not long ago.
    First(First),
    /// Its first one has not been seen, or is forgotten.
    NoFirst,
    /// It would overwrite what its first one carries. The whole packet is forgotten: nothing follows any more.
    Overlap,
}

/// Fragmented packets under way. Each port that one sender is behind has a share of its own; behind other ports, such
/// as uplinks and tunnels, senders have equal shares of each set, which a keyed hash chooses. A share holds the newest.
pub struct Fragments {
    sets: Box<[Set]>,
    seed: u128,
    order: u32, // counts firsts
}

#[derive(Clone, Copy)]
struct Entry {
    key: FragmentKey,
    first: First,
    order: u32,
    at: Instant,
}
const _: () = assert!(size_of::<Entry>() == 64);

#[derive(Clone)]
#[repr(align(64))]
struct Set {
    tags: [u16; WAYS],   // zero is free
    owners: [u16; WAYS], // whose share it is of
    entries: [Entry; WAYS],
}

/// Where a fragmented packet is kept.
struct Place {
    set: usize,
    tag: u16,
    owner: u16,
}

impl Fragments {
    /// None yet; `seed` keys the hash.
    pub(crate) fn new(seed: u128) -> Self {
        let nobody = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let key = FragmentKey { source: nobody, destination: nobody, id: 0, protocol: 0, vrf: 0, port: PortId(0) };
        let first = First { ports: 0, protocol: 0, len: 0 };
        let entry = Entry { key, first, order: 0, at: Instant::default() };
        let set = Set { tags: [0; WAYS], owners: [0; WAYS], entries: [entry; WAYS] };
        Fragments { sets: vec![set; ALONE + CROWD].into(), seed, order: 0 }
    }

    /// A first fragment that may pass. `alone`: whether one sender is behind its port.
    pub fn first(&mut self, key: FragmentKey, alone: bool, first: First, now: Instant) {
        let place = self.place(&key, alone);
        self.order = self.order.wrapping_add(1);
        let order = self.order;
        let Some(set) = self.sets.get_mut(place.set) else { return };
        let way = set.find(&key, place.tag).unwrap_or_else(|| set.room(place.owner, order, now));
        let Set { tags, owners, entries } = set;
        if let (Some(tag), Some(owner), Some(entry)) = (tags.get_mut(way), owners.get_mut(way), entries.get_mut(way)) {
            (*tag, *owner) = (place.tag, place.owner);
            *entry = Entry { key, first, order, at: now };
        }
    }

    /// What a later fragment finds, whose payload begins `offset` bytes into the packet's.
    pub fn follow(&mut self, key: &FragmentKey, alone: bool, offset: usize, now: Instant) -> Follow {
        let place = self.place(key, alone);
        let Some(set) = self.sets.get_mut(place.set) else { return Follow::NoFirst };
        let Some(way) = set.find(key, place.tag) else { return Follow::NoFirst };
        let (Some(tag), Some(entry)) = (set.tags.get_mut(way), set.entries.get(way)) else { return Follow::NoFirst };
        if now.since(entry.at) >= FOLLOWS {
            *tag = 0;
            return Follow::NoFirst;
        }
        if offset < usize::from(entry.first.len) {
            *tag = 0;
            return Follow::Overlap;
        }
        Follow::First(entry.first)
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes pieces of a hash")]
    fn place(&self, key: &FragmentKey, alone: bool) -> Place {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(a) => u128::from(a.to_bits()),
            IpAddr::V6(a) => a.to_bits(),
        };
        let port = u128::from(key.vrf) << 16 | u128::from(key.port.0);
        let packet = u128::from(key.protocol) << 32 | u128::from(key.id);
        // Nobody outside knows a sum under way, so nobody can choose the next word to undo it.
        let mix = |sum: u64, word: u128| hash128(word ^ u128::from(sum), self.seed);
        let by_sender = [port, bits(key.source)].into_iter().fold(0, mix);
        let hash = [bits(key.destination), packet].into_iter().fold(by_sender, mix);
        let tag = (hash >> 48).max(1) as u16;
        match alone {
            true => Place { set: usize::from(key.port.0) % ALONE, tag, owner: key.port.0 },
            false => Place { set: ALONE + hash as usize % CROWD, tag, owner: by_sender as u16 },
        }
    }
}

impl Set {
    fn find(&self, key: &FragmentKey, tag: u16) -> Option<usize> {
        ways(matches(&self.tags, tag)).find(|way| self.entries.get(*way).is_some_and(|entry| entry.key == *key))
    }

    /// The place for another packet of `owner`: a free one, one whose time is over, or the oldest of whoever has most.
    fn room(&self, owner: u16, order: u32, now: Instant) -> usize {
        if let Some(free) = ways(matches(&self.tags, 0)).next() {
            return free;
        }
        let oldest = |among: u32| {
            let age = |way: &usize| self.entries.get(*way).map_or(0, |entry| order.wrapping_sub(entry.order));
            ways(among).max_by_key(age).unwrap_or(0)
        };
        let first = oldest(u32::MAX);
        if self.entries.get(first).is_some_and(|entry| now.since(entry.at) >= FOLLOWS) {
            return first;
        }
        let of = |owner: u16| matches(&self.owners, owner);
        let mine = of(owner);
        let most = self.owners.iter().map(|owner| of(*owner)).max_by_key(|ways| ways.count_ones()).unwrap_or(u32::MAX);
        oldest(if mine.count_ones() >= most.count_ones() { mine } else { most })
    }
}

/// The places of the bits that are set.
fn ways(mut bits: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let way = bits.trailing_zeros();
        bits &= bits.checked_sub(1)?;
        Some(way as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: First = First { ports: 5 << 16 | 80, protocol: 17, len: 1400 };

    fn key(port: u16, source: u32, id: u32) -> FragmentKey {
        let address = |bits: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(bits));
        FragmentKey {
            source: address(0x0a00_0000 + source),
            destination: address(0x0a09_0909),
            id,
            protocol: 17,
            vrf: 1,
            port: PortId(port),
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanoseconds(seconds * 1_000_000_000)
    }

    #[test]
    fn a_packet_is_followed_for_a_while_by_what_is_its_own() {
        let mut fragments = Fragments::new(7);
        let mine = key(1, 1, 9);
        fragments.first(mine, true, FIRST, at(100));
        assert_eq!(fragments.follow(&mine, true, 1400, at(129)), Follow::First(FIRST));
        let v6 = |port: u16| FragmentKey { source: "fd00::1".parse().unwrap(), protocol: 0, ..key(port, 1, 9) };
        let others = [key(2, 1, 9), key(257, 1, 9), key(1, 2, 9), key(1, 1, 8), v6(1)];
        let others = others.into_iter().chain([FragmentKey { protocol: 6, ..mine }, FragmentKey { vrf: 2, ..mine }]);
        for other in others {
            assert_eq!(fragments.follow(&other, true, 1400, at(129)), Follow::NoFirst, "{other:?}");
        }
        assert_eq!(fragments.follow(&mine, true, 1400, at(130)), Follow::NoFirst);
    }

    #[test]
    fn what_overlaps_the_first_fragment_ends_the_packet() {
        let mut fragments = Fragments::new(7);
        let mine = key(1, 1, 9);
        fragments.first(mine, true, FIRST, at(0));
        assert_eq!(fragments.follow(&mine, true, 1392, at(0)), Follow::Overlap);
        assert_eq!(fragments.follow(&mine, true, 1400, at(0)), Follow::NoFirst);
    }

    #[test]
    fn a_share_holds_the_newest() {
        let mut fragments = Fragments::new(7);
        (0..33).for_each(|id| fragments.first(key(1, 1, id), true, FIRST, at(0)));
        let followed: Vec<_> = (0..33).map(|id| fragments.follow(&key(1, 1, id), true, 1400, at(0))).collect();
        assert_eq!(followed[0], Follow::NoFirst);
        assert!(followed[1..].iter().all(|follow| *follow == Follow::First(FIRST)));
    }

    #[test]
    fn a_flood_takes_nothing_from_others() {
        let mut fragments = Fragments::new(7);
        let (quiet, flood) = (key(1, 1, 9), |n: u32| key(257, n, n)); // both have one set
        fragments.first(quiet, true, FIRST, at(0));
        (0..100_000).for_each(|n| fragments.first(flood(n), true, FIRST, at(1)));
        assert_eq!(fragments.follow(&quiet, true, 1400, at(1)), Follow::First(FIRST));
        // And it finds room while the flood goes on.
        fragments.first(key(1, 1, 10), true, FIRST, at(1));
        (0..100_000).for_each(|n| fragments.first(flood(n), true, FIRST, at(1)));
        assert_eq!(fragments.follow(&key(1, 1, 10), true, 1400, at(1)), Follow::First(FIRST));
    }

    #[test]
    fn behind_an_uplink_senders_have_equal_shares() {
        let mut fragments = Fragments::new(7);
        let flood = |fragments: &mut Fragments| {
            (0..100_000).for_each(|id| fragments.first(key(3, 1000, id), false, FIRST, at(1)));
        };
        flood(&mut fragments);
        let quiet: Vec<_> = (0..200).map(|sender| key(3, sender, sender)).collect();
        quiet.iter().for_each(|key| fragments.first(*key, false, FIRST, at(1)));
        flood(&mut fragments);
        let followed = |key: &FragmentKey| fragments.follow(key, false, 1400, at(2)) == Follow::First(FIRST);
        assert_eq!(quiet.iter().map(followed).filter(|followed| !followed).count(), 0);
    }

    #[test]
    fn what_is_too_old_goes_first() {
        let mut fragments = Fragments::new(7);
        fragments.first(key(257, 1, 1), true, FIRST, at(0)); // has least, but its time is over
        (0..31).for_each(|id| fragments.first(key(1, 1, id), true, FIRST, at(40)));
        fragments.first(key(1, 1, 99), true, FIRST, at(41));
        let all = (0..31).all(|id| fragments.follow(&key(1, 1, id), true, 1400, at(41)) == Follow::First(FIRST));
        assert!(all);
    }
}
