//! IPv6 and its extension headers (RFC 8200).
use crate::{Delta, Ecn, FromBytes, Immutable, IntoBytes, KnownLayout, Protocol, Sum, U16, U32, U128, Unaligned};

/// An IPv6 header (RFC 8200, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8 bits) and flow label (20 bits).
    pub version_class_label: U32,
    /// Bytes behind this header, extension headers included.
    pub payload_len: U16,
    /// What follows: a transport or an extension header.
    pub next_header: Protocol,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub src: U128,
    /// Destination address.
    pub dst: U128,
}

/// A fragment header (RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Fragment {
    /// What the whole packet carries behind its fragment header.
    pub next_header: Protocol,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of eight bytes (13 bits), two bits of zero, more fragments (1 bit).
    pub offset_more: U16,
    /// What the fragments of one packet share.
    pub id: U32,
}

/// Where a packet's transport is, behind its extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The transport: the first number in the chain that is no extension header.
    pub protocol: Protocol,
    /// Where it begins, in bytes from the start of the IPv6 header. A later fragment has its part of the payload there.
    pub offset: usize,
    /// The fragment header passed on the way.
    pub fragment: Option<Fragment>,
    /// Where the "next header" byte is that names the transport, in bytes from the start of the IPv6 header.
    pub named_at: usize,
}

/// Why bytes are not an IPv6 packet that can be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end before the header, or its chain of extension headers, does.
    Truncated,
    /// The version is not 6.
    Version,
    /// The payload length is above what is there.
    PayloadLen,
    /// More than [`Ipv6::MAX_EXTENSIONS`] extension headers.
    TooMany,
    /// Hop-by-hop options that are not first, or a second fragment header (RFC 8200, section 4.1).
    Order,
    /// A routing header of type 0 that still routes, which must be refused (RFC 5095, section 3).
    SourceRoute,
}

impl Ipv6 {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();
    /// How many extension headers are followed: one of each kind of RFC 8200, and one to spare.
    pub const MAX_EXTENSIONS: usize = 8;

    /// A header with hop limit 64; a `payload_len` above 65,535 does not fit and stays at that limit.
    #[inline]
    #[must_use]
    pub fn new(src: U128, dst: U128, next_header: Protocol, payload_len: usize) -> Self {
        Self {
            version_class_label: U32::new(6 << 28),
            payload_len: U16::new(u16::try_from(payload_len).unwrap_or(u16::MAX)),
            next_header,
            hop_limit: 64,
            src,
            dst,
        }
    }

    /// Checks version and length, with `available` bytes from the header's start to the end of the frame.
    ///
    /// # Errors
    /// [`Malformed::Version`] or [`Malformed::PayloadLen`].
    #[inline]
    pub fn validate(&self, available: usize) -> Result<(), Malformed> {
        if self.version() != 6 {
            Err(Malformed::Version)
        } else if self.total_len() > available {
            Err(Malformed::PayloadLen)
        } else {
            Ok(())
        }
    }

    /// Reads and checks a header, and finds its transport.
    ///
    /// # Errors
    /// The first thing wrong.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, Transport), Malformed> {
        let (header, _) = Self::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
        header.validate(bytes.len())?;
        let packet = bytes.get(..header.total_len()).ok_or(Malformed::PayloadLen)?;
        Ok((header, transport(packet)?))
    }

    /// The version, which must be 6.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u8 {
        (self.version_class_label.get() >> 28) as u8
    }

    /// DSCP and ECN.
    #[inline]
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        ((self.version_class_label.get() >> 20) & 0xff) as u8
    }

    /// Gives DSCP and ECN.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let rest = self.version_class_label.get() & !(0xff << 20);
        self.version_class_label = U32::new(rest | u32::from(class) << 20);
    }

    /// The differentiated services code point (RFC 2474, section 3).
    #[inline]
    #[must_use]
    pub fn dscp(&self) -> u8 {
        self.traffic_class() >> 2
    }

    /// The congestion mark.
    #[inline]
    #[must_use]
    pub fn ecn(&self) -> Ecn {
        Ecn::of(self.traffic_class())
    }

    /// Marks congestion state.
    #[inline]
    pub fn set_ecn(&mut self, ecn: Ecn) {
        self.set_traffic_class(self.traffic_class() & 0xfc | ecn as u8);
    }

    /// The flow label, 20 bits (RFC 6437).
    #[inline]
    #[must_use]
    pub fn flow_label(&self) -> u32 {
        self.version_class_label.get() & 0x000f_ffff
    }

    /// Gives the flow label; bits above 20 are dropped.
    #[inline]
    pub fn set_flow_label(&mut self, label: u32) {
        let rest = self.version_class_label.get() & !0x000f_ffff;
        self.version_class_label = U32::new(rest | label & 0x000f_ffff);
    }

    /// Whether extension headers stand before the transport; the fast path of a packet without them ends here.
    #[inline]
    #[must_use]
    pub fn has_extensions(&self) -> bool {
        is_extension(self.next_header)
    }

    /// Bytes of header and payload.
    #[inline]
    #[must_use]
    pub fn total_len(&self) -> usize {
        Self::LEN + usize::from(self.payload_len.get())
    }

    /// Takes a hop away; false, and nothing changed, when the packet may travel no further (RFC 8200, section 3).
    #[inline]
    #[must_use]
    pub fn decrement_hop_limit(&mut self) -> bool {
        if self.hop_limit <= 1 {
            return false;
        }
        self.hop_limit -= 1;
        true
    }

    /// Gives a new source and returns what the transport's checksum must follow.
    #[inline]
    pub fn rewrite_src(&mut self, src: U128) -> Delta {
        let delta = Delta::u128(self.src.get(), src.get());
        self.src = src;
        delta
    }

    /// Gives a new destination and returns what the transport's checksum must follow.
    #[inline]
    pub fn rewrite_dst(&mut self, dst: U128) -> Delta {
        let delta = Delta::u128(self.dst.get(), dst.get());
        self.dst = dst;
        delta
    }

    /// The pseudo-header's sum for `len` bytes of a transport, which extension headers do not count into.
    #[inline]
    #[must_use]
    pub fn pseudo(&self, protocol: Protocol, len: u32) -> Sum {
        Sum::pseudo_v6(self.src, self.dst, protocol, len)
    }
}

impl Fragment {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();

    /// A fragment header; `offset` in bytes, a multiple of eight.
    #[inline]
    #[must_use]
    pub const fn new(next_header: Protocol, offset: u16, more: bool, id: u32) -> Self {
        Self { next_header, reserved: 0, offset_more: U16::new(offset & 0xfff8 | more as u16), id: U32::new(id) }
    }

    /// Where the payload belongs in the whole packet's, in bytes.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> usize {
        usize::from(self.offset_more.get() & 0xfff8)
    }

    /// Whether later fragments of the packet exist.
    #[inline]
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        self.offset_more.get() & 1 != 0
    }

    /// Whether it is a part without the transport header.
    #[inline]
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.offset() != 0
    }

    /// Whether the packet is whole although it has a fragment header (an atomic fragment, RFC 6946).
    #[inline]
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.offset_more.get() & 0xfff9 == 0
    }
}

/// Follows the chain of extension headers of a packet that begins with its IPv6 header (RFC 8200, section 4).
///
/// At most [`Ipv6::MAX_EXTENSIONS`] are followed, none beyond a later fragment's header, and none past the bytes given.
///
/// # Errors
/// [`Malformed::Truncated`], [`Malformed::TooMany`], [`Malformed::Order`] or [`Malformed::SourceRoute`].
#[inline]
pub fn transport(packet: &[u8]) -> Result<Transport, Malformed> {
    let (header, _) = Ipv6::ref_from_prefix(packet).map_err(|_| Malformed::Truncated)?;
    if header.has_extensions() { follow(packet, header.next_header) } else { Ok(Transport::first(header.next_header)) }
}

impl Transport {
    /// What follows the IPv6 header at once.
    #[inline]
    const fn first(protocol: Protocol) -> Self {
        Self { protocol, offset: Ipv6::LEN, fragment: None, named_at: 6 }
    }
}

/// Whether another header's number follows in this one.
#[inline]
fn is_extension(protocol: Protocol) -> bool {
    matches!(
        protocol,
        Protocol::HOP_BY_HOP
            | Protocol::ROUTING
            | Protocol::FRAGMENT
            | Protocol::AUTHENTICATION
            | Protocol::DESTINATION_OPTIONS
            | Protocol::MOBILITY
    )
}

/// The chain itself, out of line: few packets have one.
#[cold]
#[inline(never)]
fn follow(packet: &[u8], first: Protocol) -> Result<Transport, Malformed> {
    let mut found = Transport::first(first);
    for passed in 0..=Ipv6::MAX_EXTENSIONS {
        if !is_extension(found.protocol) {
            return Ok(found);
        }
        let rest = packet.get(found.offset..).ok_or(Malformed::Truncated)?;
        let [next, words, kind, left, ..] = *rest else { return Err(Malformed::Truncated) };
        let len = match found.protocol {
            Protocol::FRAGMENT => Fragment::LEN,
            Protocol::AUTHENTICATION => (usize::from(words) + 2) * 4,
            _ => (usize::from(words) + 1) * 8,
        };
        if rest.len() < len {
            return Err(Malformed::Truncated);
        }
        match found.protocol {
            Protocol::HOP_BY_HOP if passed > 0 => return Err(Malformed::Order),
            Protocol::ROUTING if kind == 0 && left > 0 => return Err(Malformed::SourceRoute),
            Protocol::FRAGMENT if found.fragment.is_some() => return Err(Malformed::Order),
            Protocol::FRAGMENT => {
                let (fragment, _) = Fragment::read_from_prefix(rest).map_err(|_| Malformed::Truncated)?;
                found.fragment = Some(fragment);
            }
            _ => {}
        }
        found = Transport {
            protocol: Protocol(next),
            offset: found.offset + len,
            named_at: found.offset,
            fragment: found.fragment,
        };
        if found.fragment.is_some_and(|fragment| fragment.is_later_fragment()) {
            return Ok(found);
        }
    }
    Err(Malformed::TooMany)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet with these extension headers (number, bytes after the next-header byte) and eight bytes of UDP.
    fn packet(chain: &[(u8, &[u8])]) -> Vec<u8> {
        let numbers: Vec<u8> = chain.iter().map(|(number, _)| *number).chain([17]).collect();
        let mut payload = Vec::new();
        for ((_, body), next) in chain.iter().zip(&numbers[1..]) {
            payload.push(*next);
            payload.extend(*body);
        }
        payload.extend([0xee; 8]);
        let header = Ipv6::new(1.into(), 2.into(), Protocol(numbers[0]), payload.len());
        [header.as_bytes(), &payload].concat()
    }

    const OPTIONS: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    const FIRST: &[u8] = &[0, 0, 1, 0, 0, 0, 9];
    const LATER: &[u8] = &[0, 0, 16, 0, 0, 0, 9];

    fn find(chain: &[(u8, &[u8])]) -> Result<(u8, usize), Malformed> {
        Ipv6::parse(&packet(chain)).map(|(_, found)| (found.protocol.0, found.offset))
    }

    #[test]
    fn chains() {
        let long = [1; 23].map(|_| 2_u8);
        let mut long_options = long;
        long_options[0] = 2;
        assert_eq!(find(&[]), Ok((17, 40)));
        assert_eq!(find(&[(0, OPTIONS), (60, &long_options), (43, &[0, 2, 1, 0, 0, 0, 0])]), Ok((17, 80)));
        assert_eq!(find(&[(51, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]), Ok((17, 52)));
        assert_eq!(find(&[(44, FIRST), (60, OPTIONS)]), Ok((17, 56)));
        assert_eq!(find(&[(44, LATER), (60, OPTIONS)]), Ok((60, 48)));
        let (bytes, named) = (packet(&[(0, OPTIONS), (44, FIRST)]), 48);
        let (_, found) = Ipv6::parse(&bytes).unwrap();
        assert_eq!((found.named_at, bytes[named]), (named, 17));
        assert!(found.fragment.is_some_and(|part| part.more_fragments() && !part.is_whole() && part.id.get() == 9));
    }

    #[test]
    fn hostile_chains() {
        assert_eq!(find(&[(60, OPTIONS), (0, OPTIONS)]), Err(Malformed::Order));
        assert_eq!(find(&[(44, FIRST), (44, FIRST)]), Err(Malformed::Order));
        assert_eq!(find(&[(43, &[0, 0, 1, 0, 0, 0, 0])]), Err(Malformed::SourceRoute));
        assert_eq!(find(&[(60, &[1, 0, 0, 0, 0, 0, 0])]), Ok((17, 56)));
        assert_eq!(find(&[(60, &[2, 0, 0, 0, 0, 0, 0])]), Err(Malformed::Truncated));
        assert_eq!(find(&[(60, OPTIONS); 8]), Ok((17, 104)));
        assert_eq!(find(&[(60, OPTIONS); 9]), Err(Malformed::TooMany));
        let mut bytes = packet(&[]);
        assert_eq!(Ipv6::parse(&bytes[..47]).err(), Some(Malformed::PayloadLen));
        assert_eq!(Ipv6::parse(&bytes[..39]).err(), Some(Malformed::Truncated));
        bytes[0] = 0x45;
        assert_eq!(Ipv6::parse(&bytes).err(), Some(Malformed::Version));
    }

    proptest! {
        #[test]
        fn round_trip(src: u128, dst: u128, class: u8, label in 0_u32..1 << 20, len in 0_usize..1000) {
            let mut header = Ipv6::new(src.into(), dst.into(), Protocol::TCP, len);
            header.set_flow_label(label);
            header.set_traffic_class(class);
            header.set_ecn(Ecn::Capable1);
            let mut dirty = [0xa5; 1100];
            header.write_to_prefix(&mut dirty).unwrap();
            let (read, found) = Ipv6::parse(&dirty).unwrap();
            prop_assert_eq!((read, found.offset, found.protocol), (&header, 40, Protocol::TCP));
            prop_assert_eq!((read.flow_label(), read.dscp(), read.ecn()), (label, class >> 2, Ecn::Capable1));
            prop_assert_eq!((read.total_len(), dirty[40]), (40 + len, 0xa5));
        }

        #[test]
        fn fragment_round_trip(next: u8, unit in 0_u16..8192, more: bool, id: u32) {
            let part = Fragment::new(Protocol(next), unit * 8, more, id);
            let mut dirty = [0xa5; 9];
            part.write_to_prefix(&mut dirty).unwrap();
            prop_assert_eq!(Fragment::read_from_prefix(&dirty).unwrap().0, part);
            prop_assert_eq!((part.offset(), part.more_fragments()), (usize::from(unit) * 8, more));
            prop_assert_eq!((part.is_whole(), dirty[8]), (unit == 0 && !more, 0xa5));
        }

        #[test]
        fn rewrites(src: u128, dst: u128, to: u128) {
            let mut header = Ipv6::new(src.into(), dst.into(), Protocol::TCP, 20);
            let sum = |header: &Ipv6| U16::new(header.pseudo(Protocol::TCP, 20).checksum());
            let before = sum(&header);
            let delta = header.rewrite_dst(to.into()).and(header.rewrite_src(dst.into()));
            prop_assert_eq!(delta.apply(before), sum(&header));
        }

        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, 43, 44, 51, 60, 135, 255]), 40..400)) {
            let len = u16::try_from(bytes.len() - 40).unwrap();
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
            if let Ok((_, found)) = Ipv6::parse(&bytes) {
                prop_assert!(found.offset <= bytes.len() && bytes[found.named_at] == found.protocol.0);
            }
        }
    }
}
