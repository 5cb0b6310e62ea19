//! ICMPv6 (RFC 4443); neighbour discovery is in [`crate::nd`].
use crate::ipv6::{Ipv6, Transport, transport};
use crate::{FromBytes, Immutable, IntoBytes, KnownLayout, U16, U32, Unaligned};

/// An ICMPv6 header: eight bytes that every message known here has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Icmpv6 {
    /// What kind of message.
    pub kind: Kind,
    /// Which one of its kind.
    pub code: u8,
    /// Checksum over pseudo-header and message (RFC 4443, section 2.3).
    pub checksum: U16,
    /// Four bytes whose meaning depends on the kind.
    pub rest: U32,
}

/// The kind of a message (IANA "ICMPv6 type Numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Kind(pub u8);

impl Kind {
    /// The packet cannot be delivered.
    pub const UNREACHABLE: Self = Self(1);
    /// The packet is larger than the next link takes.
    pub const TOO_BIG: Self = Self(2);
    /// Hops, or the time for reassembly, ran out.
    pub const TIME_EXCEEDED: Self = Self(3);
    /// A field of a header is wrong.
    pub const PARAMETER_PROBLEM: Self = Self(4);
    /// Answer this.
    pub const ECHO_REQUEST: Self = Self(128);
    /// Answer to an echo request.
    pub const ECHO_REPLY: Self = Self(129);
    /// Who listens to which group? (RFC 3810, section 5.1)
    pub const LISTENER_QUERY: Self = Self(130);
    /// Groups that are listened to (RFC 3810, section 5.2).
    pub const LISTENER_REPORT: Self = Self(143);
    /// Is there a router? (RFC 4861, section 4.1)
    pub const ROUTER_SOLICITATION: Self = Self(133);
    /// Here is a router (RFC 4861, section 4.2).
    pub const ROUTER_ADVERTISEMENT: Self = Self(134);
    /// Who has this address? (RFC 4861, section 4.3)
    pub const NEIGHBOUR_SOLICITATION: Self = Self(135);
    /// I have this address (RFC 4861, section 4.4).
    pub const NEIGHBOUR_ADVERTISEMENT: Self = Self(136);
    /// A better first hop exists (RFC 4861, section 4.5).
    pub const REDIRECT: Self = Self(137);

    /// Whether the message quotes the packet that caused it: the high bit is clear (RFC 4443, section 2.1).
    #[inline]
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 < 128
    }

    /// Whether it is an echo request or reply.
    #[inline]
    #[must_use]
    pub const fn is_echo(self) -> bool {
        matches!(self, Self::ECHO_REQUEST | Self::ECHO_REPLY)
    }

    /// Whether it is neighbour discovery, which never leaves its link (RFC 4861, section 4).
    #[inline]
    #[must_use]
    pub const fn is_discovery(self) -> bool {
        matches!(self.0, 133..=137)
    }
}

/// Code of [`Kind::UNREACHABLE`]: no route to the destination.
pub const NO_ROUTE: u8 = 0;
/// Code of [`Kind::UNREACHABLE`]: a policy forbids it.
pub const PROHIBITED: u8 = 1;
/// Code of [`Kind::UNREACHABLE`]: the address does not answer.
pub const ADDRESS_UNREACHABLE: u8 = 3;
/// Code of [`Kind::UNREACHABLE`]: nobody listens on the port.
pub const PORT_UNREACHABLE: u8 = 4;

impl Icmpv6 {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();

    /// A header whose checksum is still zero.
    #[inline]
    #[must_use]
    pub const fn new(kind: Kind, code: u8, rest: u32) -> Self {
        Self { kind, code, checksum: U16::ZERO, rest: U32::new(rest) }
    }

    /// The header of an echo request or reply (RFC 4443, section 4).
    #[inline]
    #[must_use]
    pub const fn echo(kind: Kind, id: u16, seq: u16) -> Self {
        Self::new(kind, 0, (id as u32) << 16 | seq as u32)
    }

    /// Who asked, in an echo.
    #[inline]
    #[must_use]
    pub fn echo_id(&self) -> u16 {
        (self.rest.get() >> 16) as u16
    }

    /// Which of its requests, in an echo.
    #[inline]
    #[must_use]
    pub fn echo_seq(&self) -> u16 {
        (self.rest.get() & 0xffff) as u16
    }

    /// The next link's MTU in bytes, in [`Kind::TOO_BIG`] (RFC 4443, section 3.2).
    #[inline]
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.rest.get()
    }
}

/// The packet that an ICMPv6 error quotes, as far as it is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<'a> {
    /// Its header.
    pub ip: &'a Ipv6,
    /// Where its transport is; offsets count from the start of the quote.
    pub found: Transport,
    /// What is quoted of its transport; eight bytes at least, none of a header when it is a later fragment.
    pub transport: &'a [u8],
}

/// Reads the packet that an error quotes, from the bytes behind its [`Icmpv6`] header; its length may exceed what is
/// quoted (RFC 4443, section 2.4 c).
#[inline]
#[must_use]
pub fn quoted(bytes: &[u8]) -> Option<Quoted<'_>> {
    let (ip, _) = Ipv6::ref_from_prefix(bytes).ok()?;
    if ip.version() != 6 {
        return None;
    }
    let found = transport(bytes).ok()?;
    let transport = bytes.get(found.offset..)?;
    (transport.len() >= 8).then_some(Quoted { ip, found, transport })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;
    use proptest::prelude::*;

    #[test]
    fn quotes() {
        let ip = Ipv6::new(1.into(), 2.into(), Protocol::UDP, 1400);
        let bytes = [ip.as_bytes(), &[7; 8]].concat();
        let quote = quoted(&bytes).unwrap();
        assert_eq!((quote.ip, quote.found.offset, quote.transport), (&ip, 40, &[7_u8; 8][..]));
        assert_eq!(quoted(&bytes[..47]), None);
        assert!(Kind::TOO_BIG.is_error() && !Kind::ECHO_REQUEST.is_error() && Kind::REDIRECT.is_discovery());
    }

    proptest! {
        #[test]
        fn round_trip(id: u16, seq: u16, mtu: u32) {
            let (echo, big) = (Icmpv6::echo(Kind::ECHO_REPLY, id, seq), Icmpv6::new(Kind::TOO_BIG, 0, mtu));
            let mut dirty = [0xa5; 20];
            echo.write_to_prefix(&mut dirty).unwrap();
            big.write_to_prefix(&mut dirty[8..]).unwrap();
            let (read, rest) = Icmpv6::ref_from_prefix(&dirty).unwrap();
            prop_assert_eq!((read, read.echo_id(), read.echo_seq()), (&echo, id, seq));
            let (read, rest) = Icmpv6::ref_from_prefix(rest).unwrap();
            prop_assert_eq!((read, read.mtu(), rest), (&big, mtu, &[0xa5; 4][..]));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Some(quote) = quoted(&bytes) {
                prop_assert_eq!(quote.found.offset + quote.transport.len(), bytes.len());
            }
        }
    }
}
