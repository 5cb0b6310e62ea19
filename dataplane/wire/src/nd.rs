//! Neighbour discovery for IPv6 (RFC 4861).
use crate::icmpv6::{Icmpv6, Kind};
use crate::{FromBytes, Immutable, IntoBytes, KnownLayout, Mac, U128, Unaligned};

/// A neighbour solicitation or advertisement without its options (RFC 4861, sections 4.3 and 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Neighbour {
    /// Header; its last four bytes are flags in an advertisement.
    pub icmp: Icmpv6,
    /// The address asked for, or had.
    pub target: U128,
}

/// The option that gives a link-layer address (RFC 4861, section 4.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LinkLayer {
    /// [`SOURCE`] or [`TARGET`].
    pub kind: u8,
    /// Length in units of eight bytes: 1.
    pub units: u8,
    /// The address.
    pub mac: Mac,
}

/// A message followed by one link-layer option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct WithLinkLayer<M> {
    /// The message.
    pub message: M,
    /// The option.
    pub link_layer: LinkLayer,
}

/// The hop limit of every message, so that none can come from beyond the link (RFC 4861, section 3.1).
pub const HOP_LIMIT: u8 = 255;
/// All nodes on the link, ff02::1.
pub const ALL_NODES: U128 = U128::new(0xff02 << 112 | 1);
/// All routers on the link, ff02::2.
pub const ALL_ROUTERS: U128 = U128::new(0xff02 << 112 | 2);
/// Kind of the option with the sender's address.
pub const SOURCE: u8 = 1;
/// Kind of the option with the target's address.
pub const TARGET: u8 = 2;
/// Flag of an advertisement: the sender routes.
pub const ROUTER: u32 = 1 << 31;
/// Flag of an advertisement: it answers a solicitation.
pub const SOLICITED: u32 = 1 << 30;
/// Flag of an advertisement: it replaces what is known.
pub const OVERRIDE: u32 = 1 << 29;

impl Neighbour {
    /// Bytes of the message without options.
    pub const LEN: usize = size_of::<Self>();

    /// Asks who has `target`; the checksum is still zero.
    #[inline]
    #[must_use]
    pub const fn solicitation(target: U128) -> Self {
        Self { icmp: Icmpv6::new(Kind::NEIGHBOUR_SOLICITATION, 0, 0), target }
    }

    /// Says that `target` is here, with flags such as [`SOLICITED`]; the checksum is still zero.
    #[inline]
    #[must_use]
    pub const fn advertisement(target: U128, flags: u32) -> Self {
        Self { icmp: Icmpv6::new(Kind::NEIGHBOUR_ADVERTISEMENT, 0, flags), target }
    }

    /// Reads a solicitation or advertisement with code zero; gives its options.
    #[inline]
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<(&Self, &[u8])> {
        let (neighbour, options) = Self::ref_from_prefix(message).ok()?;
        let known = matches!(neighbour.icmp.kind, Kind::NEIGHBOUR_SOLICITATION | Kind::NEIGHBOUR_ADVERTISEMENT);
        (known && neighbour.icmp.code == 0).then_some((neighbour, options))
    }

    /// Whether it asks.
    #[inline]
    #[must_use]
    pub fn is_solicitation(&self) -> bool {
        self.icmp.kind == Kind::NEIGHBOUR_SOLICITATION
    }

    /// Whether the sender of an advertisement routes.
    #[inline]
    #[must_use]
    pub fn is_router(&self) -> bool {
        self.icmp.rest.get() & ROUTER != 0
    }

    /// Whether an advertisement answers a solicitation.
    #[inline]
    #[must_use]
    pub fn is_solicited(&self) -> bool {
        self.icmp.rest.get() & SOLICITED != 0
    }

    /// Whether an advertisement replaces what is known.
    #[inline]
    #[must_use]
    pub fn is_override(&self) -> bool {
        self.icmp.rest.get() & OVERRIDE != 0
    }
}

impl LinkLayer {
    /// Bytes of the option.
    pub const LEN: usize = size_of::<Self>();

    /// The option; `kind` is [`SOURCE`] or [`TARGET`].
    #[inline]
    #[must_use]
    pub const fn new(kind: u8, mac: Mac) -> Self {
        Self { kind, units: 1, mac }
    }
}

/// The group that an address' solicitations go to (RFC 4291, section 2.7.1).
#[inline]
#[must_use]
pub fn solicited_node(address: U128) -> U128 {
    U128::new(0xff02 << 112 | 0x1_ff00_0000 | address.get() & 0x00ff_ffff)
}

/// The options of a message, one by one: kind, and content behind kind and length.
///
/// Stops at the end and at the first malformed one; a length of zero is malformed (RFC 4861, section 4.6).
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

/// Walks `options`, the bytes behind a message.
#[inline]
#[must_use]
pub const fn options(options: &[u8]) -> Options<'_> {
    Options { rest: options }
}

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let [kind, units, rest @ ..] = self.rest else { return None };
        let (body, rest) = rest.split_at_checked((usize::from(*units) * 8).checked_sub(2)?)?;
        self.rest = rest;
        Some((*kind, body))
    }
}

/// The link-layer address in `options`, by kind ([`SOURCE`] or [`TARGET`]).
#[inline]
#[must_use]
pub fn link_layer(bytes: &[u8], kind: u8) -> Option<Mac> {
    let (_, body) = options(bytes).find(|(found, body)| *found == kind && body.len() == 6)?;
    body.first_chunk().map(|mac| Mac(*mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn groups() {
        let address: u128 = "2001:db8::12:3456".parse::<std::net::Ipv6Addr>().unwrap().into();
        let group = std::net::Ipv6Addr::from(solicited_node(address.into()).get());
        assert_eq!(group.to_string(), "ff02::1:ff12:3456");
    }

    #[test]
    fn options_with_a_bad_length_end_the_walk() {
        assert_eq!(options(&[1, 0, 1, 1]).next(), None);
        assert_eq!(options(&[1, 1, 1, 1]).next(), None);
        let two = [&[5, 1, 0, 0, 0, 0, 5, 220][..], LinkLayer::new(TARGET, Mac([2; 6])).as_bytes()].concat();
        assert_eq!((link_layer(&two, TARGET), link_layer(&two, SOURCE)), (Some(Mac([2; 6])), None));
    }

    proptest! {
        #[test]
        fn round_trip(target: u128, mac: [u8; 6], flags in 0_u32..8) {
            let message = Neighbour::advertisement(target.into(), flags << 29);
            let sent = WithLinkLayer { message, link_layer: LinkLayer::new(TARGET, Mac(mac)) };
            let mut dirty = [0xa5; 33];
            sent.write_to_prefix(&mut dirty).unwrap();
            let (read, options) = Neighbour::parse(&dirty).unwrap();
            prop_assert_eq!((read, link_layer(options, TARGET), dirty[32]), (&message, Some(Mac(mac)), 0xa5));
            prop_assert_eq!((read.is_router(), read.is_solicited()), (flags & 4 != 0, flags & 2 != 0));
            prop_assert_eq!((read.is_override(), read.is_solicitation()), (flags & 1 != 0, false));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(0_u8..140, 0..120)) {
            if let Some((_, found)) = Neighbour::parse(&bytes) {
                prop_assert!(options(found).count() <= 15);
            }
            prop_assert!(options(&bytes).all(|(_, body)| body.len() % 8 == 6));
            let _ = link_layer(&bytes, SOURCE);
        }
    }
}
