//! ICMP for IPv4 (RFC 792).
use crate::{FromBytes, Immutable, IntoBytes, Ipv4, KnownLayout, U16, U32, Unaligned};

/// An ICMP header: eight bytes that every message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Icmp {
    /// What kind of message.
    pub kind: Kind,
    /// Which one of its kind.
    pub code: u8,
    /// Checksum over the message; there is no pseudo-header.
    pub checksum: U16,
    /// Four bytes whose meaning depends on the kind.
    pub rest: U32,
}

/// The kind of a message (IANA "ICMP Type Numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Kind(pub u8);

impl Kind {
    /// Answer to an echo request.
    pub const ECHO_REPLY: Self = Self(0);
    /// The packet cannot be delivered.
    pub const UNREACHABLE: Self = Self(3);
    /// A better first hop exists.
    pub const REDIRECT: Self = Self(5);
    /// Answer this.
    pub const ECHO_REQUEST: Self = Self(8);
    /// Hops, or the time for reassembly, ran out.
    pub const TIME_EXCEEDED: Self = Self(11);
    /// A field of the header is wrong.
    pub const PARAMETER_PROBLEM: Self = Self(12);

    /// Whether the message quotes the packet that caused it (RFC 1122, section 3.2.2).
    #[inline]
    #[must_use]
    pub const fn is_error(self) -> bool {
        matches!(self.0, 3 | 4 | 5 | 11 | 12)
    }

    /// Whether it is an echo request or reply.
    #[inline]
    #[must_use]
    pub const fn is_echo(self) -> bool {
        matches!(self, Self::ECHO_REQUEST | Self::ECHO_REPLY)
    }
}

/// Code of [`Kind::UNREACHABLE`]: no route to the network.
pub const NET_UNREACHABLE: u8 = 0;
/// Code of [`Kind::UNREACHABLE`]: the host does not answer.
pub const HOST_UNREACHABLE: u8 = 1;
/// Code of [`Kind::UNREACHABLE`]: nobody listens on the port.
pub const PORT_UNREACHABLE: u8 = 3;
/// Code of [`Kind::UNREACHABLE`]: too big, and must not be fragmented; [`Icmp::mtu`] fits.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Code of [`Kind::UNREACHABLE`]: a policy forbids it (RFC 1812, section 5.2.7.1).
pub const PROHIBITED: u8 = 13;

impl Icmp {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();

    /// A header whose checksum is still zero.
    #[inline]
    #[must_use]
    pub const fn new(kind: Kind, code: u8, rest: u32) -> Self {
        Self { kind, code, checksum: U16::ZERO, rest: U32::new(rest) }
    }

    /// The header of an echo request or reply.
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

    /// Whether a packet was too big for the next hop and must not be fragmented.
    #[inline]
    #[must_use]
    pub fn is_too_big(&self) -> bool {
        self.kind == Kind::UNREACHABLE && self.code == FRAGMENTATION_NEEDED
    }

    /// The next hop's MTU in bytes when [`Icmp::is_too_big`]; zero from an old router (RFC 1191, section 4).
    #[inline]
    #[must_use]
    pub fn mtu(&self) -> u16 {
        (self.rest.get() & 0xffff) as u16
    }
}

/// The packet that an ICMP error quotes, as far as it is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<'a> {
    /// Its header.
    pub ip: &'a Ipv4,
    /// Where its transport begins, in bytes from the start of the quote.
    pub offset: usize,
    /// What is quoted of its transport: eight bytes at least (RFC 792), none of a header when it is a later fragment.
    pub transport: &'a [u8],
}

/// Reads the packet that an error quotes, from the bytes behind its [`Icmp`] header.
///
/// Its checksum is not looked at and its length may exceed what is quoted: both were right when it was sent.
#[inline]
#[must_use]
pub fn quoted(bytes: &[u8]) -> Option<Quoted<'_>> {
    let (ip, _) = Ipv4::ref_from_prefix(bytes).ok()?;
    let offset = ip.header_len();
    if ip.version() != 4 || offset < Ipv4::LEN {
        return None;
    }
    let transport = bytes.get(offset..)?;
    (transport.len() >= 8).then_some(Quoted { ip, offset, transport })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;
    use proptest::prelude::*;

    #[test]
    fn quotes() {
        let ip = Ipv4::new(1.into(), 2.into(), Protocol::TCP, 1480);
        let bytes = [ip.as_bytes(), &[7; 8]].concat();
        assert_eq!(quoted(&bytes), Some(Quoted { ip: &ip, offset: 20, transport: &[7; 8] }));
        assert_eq!(quoted(&bytes[..27]), None);
        assert!(Kind::UNREACHABLE.is_error() && !Kind::ECHO_REPLY.is_error() && Kind::ECHO_REPLY.is_echo());
    }

    proptest! {
        #[test]
        fn round_trip(id: u16, seq: u16, mtu: u16) {
            let (echo, big) = (Icmp::echo(Kind::ECHO_REQUEST, id, seq), Icmp::new(Kind::UNREACHABLE, 4, mtu.into()));
            let mut dirty = [0xa5; 20];
            echo.write_to_prefix(&mut dirty).unwrap();
            big.write_to_prefix(&mut dirty[8..]).unwrap();
            let (read, rest) = Icmp::ref_from_prefix(&dirty).unwrap();
            prop_assert_eq!((read, read.echo_id(), read.echo_seq(), read.is_too_big()), (&echo, id, seq, false));
            let (read, rest) = Icmp::ref_from_prefix(rest).unwrap();
            prop_assert_eq!((read, read.mtu(), read.is_too_big(), rest), (&big, mtu, true, &[0xa5; 4][..]));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(quote) = quoted(&bytes) {
                prop_assert_eq!(quote.offset + quote.transport.len(), bytes.len());
            }
        }
    }
}
