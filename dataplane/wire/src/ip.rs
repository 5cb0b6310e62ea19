//! What IPv4 and IPv6 share: protocol numbers, congestion marks, and the ports of their transports.
use crate::{FromBytes, Immutable, IntoBytes, KnownLayout, U16, Unaligned};

/// The number of a transport or of an IPv6 extension header (IANA "Protocol Numbers").
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Protocol(pub u8);

impl Protocol {
    /// IPv6 hop-by-hop options (RFC 8200, section 4.3).
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// IPv4 in IP (RFC 2003).
    pub const IPV4: Self = Self(4);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: Self = Self(41);
    /// IPv6 routing header (RFC 8200, section 4.4).
    pub const ROUTING: Self = Self(43);
    /// IPv6 fragment header (RFC 8200, section 4.5).
    pub const FRAGMENT: Self = Self(44);
    /// Encapsulating Security Payload (RFC 4303).
    pub const ESP: Self = Self(50);
    /// Authentication Header (RFC 4302).
    pub const AUTHENTICATION: Self = Self(51);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// Nothing follows (RFC 8200, section 4.7).
    pub const NO_NEXT_HEADER: Self = Self(59);
    /// IPv6 destination options (RFC 8200, section 4.6).
    pub const DESTINATION_OPTIONS: Self = Self(60);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);
    /// Mobility header (RFC 6275, section 6.1).
    pub const MOBILITY: Self = Self(135);

    /// Whether the transport begins with [`Ports`].
    #[inline]
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

/// The first four bytes of TCP, UDP and SCTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ports {
    /// Source port.
    pub src: U16,
    /// Destination port.
    pub dst: U16,
}

impl Ports {
    /// A pair of ports.
    #[inline]
    #[must_use]
    pub const fn new(src: u16, dst: u16) -> Self {
        Self { src: U16::new(src), dst: U16::new(dst) }
    }
}

/// Explicit Congestion Notification: the lower two bits of the traffic class (RFC 3168, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecn {
    /// The transport does not know ECN.
    NotCapable = 0,
    /// ECT(1).
    Capable1 = 1,
    /// ECT(0).
    Capable0 = 2,
    /// Congestion was experienced.
    Experienced = 3,
}

impl Ecn {
    /// The mark in a traffic class or type of service.
    #[inline]
    #[must_use]
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            _ => Self::Experienced,
        }
    }

    /// What an inner packet carries on after its outer header, marked `outer`, was taken off; none means drop
    /// (RFC 6040, section 4.2).
    #[inline]
    #[must_use]
    pub const fn decapsulated(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotCapable, Self::Experienced) => None,
            (Self::NotCapable, _) => Some(Self::NotCapable),
            (_, Self::Experienced) => Some(Self::Experienced),
            (Self::Capable0, Self::Capable1) => Some(Self::Capable1),
            (inner, _) => Some(inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_rfc_6040() {
        let marks = [Ecn::NotCapable, Ecn::Capable0, Ecn::Capable1, Ecn::Experienced];
        let rows = marks.map(|inner| marks.map(|outer| inner.decapsulated(outer)));
        let [none, zero, one, ce] = marks.map(Some);
        assert_eq!(rows, [[none, none, none, None], [zero, zero, one, ce], [one, one, one, ce], [ce, ce, ce, ce]]);
        assert!(marks.into_iter().all(|mark| Ecn::of(0xfc | mark as u8) == mark));
    }

    #[test]
    fn ports_are_in_front() {
        let (ports, rest) = Ports::ref_from_prefix(&[0, 80, 1, 0, 9]).unwrap();
        assert_eq!((ports, rest), (&Ports::new(80, 256), &[9][..]));
        assert!(Protocol::UDP.has_ports() && !Protocol::ICMP.has_ports());
    }
}
