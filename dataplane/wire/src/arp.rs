//! ARP for IPv4 over Ethernet (RFC 826).
use crate::{FromBytes, Immutable, IntoBytes, KnownLayout, Mac, U16, U32, Unaligned};

/// An ARP packet for IPv4 over Ethernet; it follows an [`crate::Ethernet`] header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Arp {
    /// The link's type: 1 for Ethernet.
    pub hardware: U16,
    /// The protocol's EtherType: 0x0800 for IPv4.
    pub protocol: U16,
    /// Bytes of a link-layer address: 6.
    pub hardware_len: u8,
    /// Bytes of a protocol address: 4.
    pub protocol_len: u8,
    /// [`Arp::REQUEST`] or [`Arp::REPLY`].
    pub operation: U16,
    /// Who speaks.
    pub sender_mac: Mac,
    /// Who speaks; zero in a probe (RFC 5227, section 1.1).
    pub sender: U32,
    /// Who is spoken to; zero in a request.
    pub target_mac: Mac,
    /// Who is asked for.
    pub target: U32,
}

impl Arp {
    /// Bytes of the packet.
    pub const LEN: usize = size_of::<Self>();
    /// Who has the target address?
    pub const REQUEST: u16 = 1;
    /// The sender has it.
    pub const REPLY: u16 = 2;

    /// Reads a packet whose types and lengths are those of IPv4 over Ethernet.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<&Self> {
        let (arp, _) = Self::ref_from_prefix(bytes).ok()?;
        arp.is_ipv4_over_ethernet().then_some(arp)
    }

    /// Whether types and lengths are those of IPv4 over Ethernet.
    #[inline]
    #[must_use]
    pub fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware.get() == 1 && self.protocol.get() == 0x0800 && self.hardware_len == 6 && self.protocol_len == 4
    }

    /// Whether it asks.
    #[inline]
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.operation.get() == Self::REQUEST
    }

    /// Whether it answers.
    #[inline]
    #[must_use]
    pub fn is_reply(&self) -> bool {
        self.operation.get() == Self::REPLY
    }

    /// Asks who has `target`.
    #[inline]
    #[must_use]
    pub const fn request(sender_mac: Mac, sender: U32, target: U32) -> Self {
        Self {
            hardware: U16::new(1),
            protocol: U16::new(0x0800),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(Self::REQUEST),
            sender_mac,
            sender,
            target_mac: Mac::ZERO,
            target,
        }
    }

    /// The answer to this request: its target is at `mac`.
    #[inline]
    #[must_use]
    pub const fn reply(&self, mac: Mac) -> Self {
        Self {
            operation: U16::new(Self::REPLY),
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
            ..Self::request(mac, self.target, self.sender)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(from: [u8; 6], to: [u8; 6], sender: u32, target: u32) {
            let request = Arp::request(Mac(from), sender.into(), target.into());
            let reply = request.reply(Mac(to));
            let mut dirty = [0xa5; 40];
            reply.write_to_prefix(&mut dirty).unwrap();
            let read = Arp::parse(&dirty).unwrap();
            prop_assert_eq!((read, &dirty[28..]), (&reply, &[0xa5; 12][..]));
            prop_assert!(read.is_reply() && request.is_request() && !read.is_request());
            prop_assert_eq!((read.sender_mac, read.sender.get()), (Mac(to), target));
            prop_assert_eq!((read.target_mac, read.target.get()), (Mac(from), sender));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(Arp::parse(&bytes).is_none_or(|_| bytes.len() >= Arp::LEN));
        }
    }
}
