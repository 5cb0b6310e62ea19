//! The flow table: sets of 32 two-byte tags in one cache line, entry position implied; a hot line with what an
//! established packet needs, and a cold one beside it with the rest. Layout and costs were measured before it was
//! built: a lookup touches two lines, tags and hot, and the tags of a million flows stay in the L3 cache.
//!
//! A flow is two *halves*, one per direction. Each half is an entry of its own and names its twin.
use engine::{Instant, hash128};
use std::net::{Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A slot number of a flow table.
pub type FlowSlot = u32;

/// Time as flow entries keep it: units of 2^32 ns (4.29 s), wrapping after three days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Age(u16);

impl Age {
    /// `now` as flow entries keep it.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "wraps, as said")]
    pub fn of(now: Instant) -> Self {
        Age((now.nanoseconds() >> 32) as u16)
    }

    /// How many seconds ago this was, to one unit.
    #[inline(always)]
    pub fn seconds_until(self, now: Age) -> u32 {
        u32::from(now.0.wrapping_sub(self.0)) * 4295 / 1000
    }

    /// One unit later.
    pub(crate) fn next(self) -> Self {
        Age(self.0.wrapping_add(1))
    }

    /// `steps` units earlier.
    #[expect(clippy::cast_possible_truncation, reason = "wraps")]
    pub(crate) fn before(self, steps: usize) -> Self {
        Age(self.0.wrapping_sub(steps as u16))
    }

    /// Which of the timer wheel's lists this is.
    pub(crate) fn bucket(self) -> usize {
        usize::from(self.0)
    }
}

/// What an answer does, and what is known of its half: bits of [`Life::kind`].
pub mod kind {
    /// Packets are forwarded.
    pub const FORWARD: u8 = 0;
    /// Packets are dropped: nobody may send this, or there is no way.
    pub const DROP: u8 = 1;
    /// The bit of the action.
    pub const ACTION: u8 = 1;
    /// The next hop is a tunnel.
    pub const TUNNEL: u8 = 4;
    /// Addresses or ports are rewritten.
    pub const REWRITE: u8 = 8;
    /// This half carries the replies.
    pub const REPLY: u8 = 16;
    /// The twin has carried a packet: the flow goes both ways.
    pub const REPLIED: u8 = 32;
}

/// What both families' hot lines share: validity, way, state and age of a half.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Life {
    /// The counters that the answer was computed from, see [`crate::told::Told::stamp`].
    pub stamp: u32,
    /// The next hop's slot.
    pub next_hop: u32,
    /// The route leaf's slot.
    pub leaf: u32,
    /// The port that packets come by.
    pub port_in: u16,
    /// The port that they leave by.
    pub port_out: u16,
    /// Bits of [`kind`].
    pub kind: u8,
    /// A [`Tcp`] state.
    pub tcp: u8,
    /// When the last packet came.
    pub seen: Age,
    /// How many packets came; wraps.
    pub packets: u32,
}

/// What is known of a TCP connection from one direction's flags (RFC 9293 section 3.3.2, as a middlebox sees it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tcp {
    /// Not TCP.
    None = 0,
    /// A SYN was seen.
    Opening = 1,
    /// Packets other than SYN were seen.
    Established = 2,
    /// A FIN was seen.
    Closing = 3,
    /// A RST was seen.
    Closed = 4,
}

impl Tcp {
    /// The state kept as `state`.
    #[inline(always)]
    pub fn kept(state: u8) -> Tcp {
        match state {
            1 => Tcp::Opening,
            2 => Tcp::Established,
            3 => Tcp::Closing,
            4 => Tcp::Closed,
            _ => Tcp::None,
        }
    }

    /// The state after a packet with these flags (FIN 1, SYN 2, RST 4, ACK 16; RFC 9293 section 3.1).
    #[inline(always)]
    pub fn after(state: u8, flags: u8) -> u8 {
        const AFTER: [[u8; 8]; 5] = [
            // flags:   -  F  S  SF R  RF RS RSF
            [2, 3, 1, 1, 4, 4, 4, 4], // new
            [2, 3, 1, 1, 4, 4, 4, 4], // opening
            [2, 3, 2, 2, 4, 4, 4, 4], // established
            [3, 3, 1, 3, 4, 4, 4, 4], // closing
            [4, 4, 1, 4, 4, 4, 4, 4], // closed: a new SYN opens again
        ];
        AFTER.get(usize::from(state)).and_then(|row| row.get(usize::from(flags & 7))).copied().unwrap_or(state)
    }
}

impl Life {
    /// Counts a packet.
    #[inline(always)]
    pub fn count(&mut self, now: Age) {
        self.seen = now;
        self.packets = self.packets.wrapping_add(1);
    }
}

/// An IPv4 flow key: source, destination, ports, protocol, VRF in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key4(pub u128);

impl Key4 {
    /// A key from fields in host byte order; `ports` is source port << 16 | destination port.
    #[inline(always)]
    pub const fn new(source: u32, destination: u32, ports: u32, protocol: u8, vrf: u16) -> Self {
        let addresses = (source as u64) << 32 | destination as u64;
        Key4::from_wire(addresses.to_be_bytes(), ports.to_be_bytes(), protocol, vrf)
    }

    /// A key from bytes as they lie in a packet: source and destination address, source and destination port.
    #[inline(always)]
    pub const fn from_wire(addresses: [u8; 8], ports: [u8; 4], protocol: u8, vrf: u16) -> Self {
        let rest = (u32::from_ne_bytes(ports) as u64) << 32 | (protocol as u64) << 16 | vrf as u64;
        Key4((u64::from_ne_bytes(addresses) as u128) << 64 | rest as u128)
    }

    /// The transport protocol (IANA number).
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "takes a field out")]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The other direction.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "takes the ports out")]
    pub const fn reversed(self) -> Self {
        let (addresses, rest) = ((self.0 >> 64) as u64, self.0 as u64);
        let ports = ((rest >> 32) as u32).rotate_left(16);
        let rest = (ports as u64) << 32 | rest & 0xffff_ffff;
        Key4((addresses.rotate_left(32) as u128) << 64 | rest as u128)
    }

    /// Source address, destination address, ports (source << 16 | destination), protocol, VRF.
    #[expect(clippy::cast_possible_truncation, reason = "takes fields out")]
    pub const fn fields(self) -> (Ipv4Addr, Ipv4Addr, u32, u8, u16) {
        let (addresses, rest) = (u64::from_be_bytes(((self.0 >> 64) as u64).to_ne_bytes()), self.0 as u64);
        let (source, destination) =
            (Ipv4Addr::from_bits((addresses >> 32) as u32), Ipv4Addr::from_bits(addresses as u32));
        let ports = u32::from_be_bytes(((rest >> 32) as u32).to_ne_bytes());
        (source, destination, ports, (rest >> 16) as u8, rest as u16)
    }
}

/// An IPv6 flow key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(8))]
pub struct Key6 {
    source: [u64; 2],
    destination: [u64; 2],
    rest: u64,
}

impl Key6 {
    /// A key from fields in host byte order; `ports` is source port << 16 | destination port.
    #[inline(always)]
    pub const fn new(source: u128, destination: u128, ports: u32, protocol: u8, vrf: u16) -> Self {
        let rest = (ports as u64) << 32 | (protocol as u64) << 16 | vrf as u64;
        Key6 { source: split(source), destination: split(destination), rest }
    }

    /// The transport protocol (IANA number).
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "takes a field out")]
    pub const fn protocol(self) -> u8 {
        (self.rest >> 16) as u8
    }

    /// The other direction.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        let ports = ((self.rest >> 32) as u32).rotate_left(16);
        let rest = (ports as u64) << 32 | self.rest & 0xffff_ffff;
        Key6 { source: self.destination, destination: self.source, rest }
    }

    /// Source address, destination address, ports (source << 16 | destination), protocol, VRF.
    #[expect(clippy::cast_possible_truncation, reason = "takes fields out")]
    pub const fn fields(self) -> (Ipv6Addr, Ipv6Addr, u32, u8, u16) {
        let [a, b] = self.source;
        let [c, d] = self.destination;
        (
            Ipv6Addr::from_bits((a as u128) << 64 | b as u128),
            Ipv6Addr::from_bits((c as u128) << 64 | d as u128),
            (self.rest >> 32) as u32,
            (self.rest >> 16) as u8,
            self.rest as u16,
        )
    }
}

#[expect(clippy::cast_possible_truncation, reason = "takes halves")]
#[inline(always)]
const fn split(value: u128) -> [u64; 2] {
    [(value >> 64) as u64, value as u64]
}

/// How a packet is rewritten: all four fields are written, those that stay with what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Rewrite4 {
    /// The new source address.
    pub source: u32,
    /// The new destination address.
    pub destination: u32,
    /// The new ports, source << 16 | destination.
    pub ports: u32,
    /// What the addresses change in a checksum (RFC 1624).
    pub delta3: u16,
    /// What addresses and ports change in a transport checksum.
    pub delta4: u16,
}

/// The hot line of an IPv4 half.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Hot4 {
    key: [u64; 2],
    /// Validity, way, state and age.
    pub life: Life,
    /// The endpoint's slot; zero is none.
    pub endpoint: u32,
    /// How packets are rewritten.
    pub rewrite: Rewrite4,
    /// How many bytes came; wraps.
    pub bytes: u32,
}

/// The hot line of an IPv6 half.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Hot6 {
    key: Key6,
    /// Validity, way, state and age.
    pub life: Life,
}

const _: () = assert!(size_of::<Hot4>() == 64 && size_of::<Hot6>() == 64);

/// What both families' cold lines share.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Rest {
    /// The slot of the other half.
    pub twin: u32,
    /// Over key and answer, for a worker that finds the half after a restart; zero while none does.
    pub checksum: u32,
    /// The endpoint's incarnation when it was learned.
    pub incarnation: u32,
    /// The port whose budget this half counts against.
    pub budget: u16,
    /// The shard of the other half.
    pub twin_shard: u8,
    /// How often this slot was used.
    pub generation: u8,
    /// The generation of the other half's slot.
    pub twin_generation: u8,
    /// Whether the slot is on the timer wheel.
    pub armed: u8,
    pad: [u8; 6],
}

/// The cold line of an IPv4 half.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Cold4 {
    original: [u64; 2],
    /// What both families share.
    pub rest: Rest,
    pad: [u8; 24],
}

/// The cold lines of an IPv6 half: what a translated packet needs, then the rest.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Cold6 {
    /// The new source address, when rewritten.
    pub source: [u64; 2],
    /// The new destination address.
    pub destination: [u64; 2],
    /// How many bytes came.
    pub bytes: u64,
    /// The new ports, source << 16 | destination.
    pub ports: u32,
    /// The endpoint's slot; zero is none.
    pub endpoint: u32,
    /// What addresses and ports change in a transport checksum.
    pub delta4: u16,
    pad: [u8; 14],
    original: Key6,
    /// What both families share.
    pub rest: Rest,
}

const _: () = assert!(size_of::<Cold4>() == 64 && size_of::<Cold6>() == 128);

/// What a flow table is made of: the two lines of a half of one address family.
pub trait Half: Copy + FromBytes + IntoBytes + KnownLayout + Immutable + 'static {
    /// The key.
    type Key: Copy + Eq + std::fmt::Debug;
    /// The cold lines.
    type Cold: Copy + Default + FromBytes + IntoBytes + KnownLayout + Immutable + 'static;

    /// The key of the other direction.
    fn reversed(key: Self::Key) -> Self::Key;
    /// The key's hash.
    fn hash(key: Self::Key, seed: u128) -> u64;
    /// An empty half with this key.
    fn with(key: Self::Key) -> Self;
    /// The key.
    fn key(&self) -> Self::Key;
    /// Validity, way, state and age.
    fn life(&self) -> &Life;
    /// Validity, way, state and age.
    fn life_mut(&mut self) -> &mut Life;
    /// The endpoint's slot.
    fn endpoint(&self, cold: &Self::Cold) -> u32;
    /// What both families' cold lines share.
    fn rest(cold: &Self::Cold) -> &Rest;
    /// What both families' cold lines share.
    fn rest_mut(cold: &mut Self::Cold) -> &mut Rest;
    /// The key of the flow's first packet: this half's own, or its twin's before it was rewritten.
    fn original(cold: &Self::Cold) -> Self::Key;
    /// Keeps the key of the flow's first packet.
    fn set_original(cold: &mut Self::Cold, key: Self::Key);
}

impl Half for Hot4 {
    type Key = Key4;
    type Cold = Cold4;
    #[inline(always)]
    fn reversed(key: Key4) -> Key4 {
        key.reversed()
    }
    #[inline(always)]
    fn hash(key: Key4, seed: u128) -> u64 {
        hash128(key.0, seed)
    }
    fn with(key: Key4) -> Self {
        Hot4 { key: split(key.0), ..Hot4::default() }
    }
    #[inline(always)]
    fn key(&self) -> Key4 {
        let [high, low] = self.key;
        Key4(u128::from(high) << 64 | u128::from(low))
    }
    #[inline(always)]
    fn life(&self) -> &Life {
        &self.life
    }
    #[inline(always)]
    fn life_mut(&mut self) -> &mut Life {
        &mut self.life
    }
    #[inline(always)]
    fn endpoint(&self, _: &Cold4) -> u32 {
        self.endpoint
    }
    fn rest(cold: &Cold4) -> &Rest {
        &cold.rest
    }
    fn rest_mut(cold: &mut Cold4) -> &mut Rest {
        &mut cold.rest
    }
    fn original(cold: &Cold4) -> Key4 {
        let [high, low] = cold.original;
        Key4(u128::from(high) << 64 | u128::from(low))
    }
    fn set_original(cold: &mut Cold4, key: Key4) {
        cold.original = split(key.0);
    }
}

impl Half for Hot6 {
    type Key = Key6;
    type Cold = Cold6;
    #[inline(always)]
    fn reversed(key: Key6) -> Key6 {
        key.reversed()
    }
    #[inline(always)]
    fn hash(key: Key6, seed: u128) -> u64 {
        let join = |[high, low]: [u64; 2]| u128::from(high) << 64 | u128::from(low);
        let first = hash128(join(key.source) ^ u128::from(key.rest), seed);
        hash128(join(key.destination) ^ u128::from(first).rotate_left(32), seed.rotate_left(64) ^ u128::from(first))
    }
    fn with(key: Key6) -> Self {
        Hot6 { key, ..Hot6::default() }
    }
    #[inline(always)]
    fn key(&self) -> Key6 {
        self.key
    }
    #[inline(always)]
    fn life(&self) -> &Life {
        &self.life
    }
    #[inline(always)]
    fn life_mut(&mut self) -> &mut Life {
        &mut self.life
    }
    #[inline(always)]
    fn endpoint(&self, cold: &Cold6) -> u32 {
        cold.endpoint
    }
    fn rest(cold: &Cold6) -> &Rest {
        &cold.rest
    }
    fn rest_mut(cold: &mut Cold6) -> &mut Rest {
        &mut cold.rest
    }
    fn original(cold: &Cold6) -> Key6 {
        cold.original
    }
    fn set_original(cold: &mut Cold6, key: Key6) {
        cold.original = key;
    }
}
