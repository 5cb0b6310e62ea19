//! Ethernet II frames (IEEE 802.3, clause 3.2) and the 802.1Q tag (IEEE 802.1Q, clause 9).
use crate::{FromBytes, Immutable, IntoBytes, KnownLayout, U16, Unaligned};
use core::{fmt, str::FromStr};

/// An Ethernet header; it precedes every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// To whom.
    pub dst: Mac,
    /// From whom.
    pub src: Mac,
    /// What follows; see [`Ethernet::ethertype`].
    pub kind: U16,
}

impl Ethernet {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();

    /// A header.
    #[inline]
    #[must_use]
    pub const fn new(src: Mac, dst: Mac, ethertype: EtherType) -> Self {
        Self { dst, src, kind: U16::new(ethertype.0) }
    }

    /// What follows.
    #[inline]
    #[must_use]
    pub fn ethertype(&self) -> EtherType {
        EtherType(self.kind.get())
    }
}

/// The rest of an 802.1Q tag after its own EtherType: it stands between the Ethernet header and what that tagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Vlan {
    /// Tag control: priority (3 bits), drop eligible (1 bit), VLAN (12 bits).
    pub control: U16,
    /// What follows; see [`Vlan::ethertype`].
    pub kind: U16,
}

impl Vlan {
    /// Bytes that a tag adds to a frame.
    pub const LEN: usize = size_of::<Self>();

    /// A tag of priority zero; the upper four bits of `id` are dropped.
    #[inline]
    #[must_use]
    pub const fn new(id: u16, ethertype: EtherType) -> Self {
        Self { control: U16::new(id & 0x0fff), kind: U16::new(ethertype.0) }
    }

    /// The VLAN, 0 to 4095; 0 means that only the priority counts.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u16 {
        self.control.get() & 0x0fff
    }

    /// The priority, 0 to 7.
    #[inline]
    #[must_use]
    pub fn priority(&self) -> u8 {
        (self.control.get() >> 13) as u8
    }

    /// Whether the frame may be dropped first.
    #[inline]
    #[must_use]
    pub fn drop_eligible(&self) -> bool {
        self.control.get() & 0x1000 != 0
    }

    /// What follows.
    #[inline]
    #[must_use]
    pub fn ethertype(&self) -> EtherType {
        EtherType(self.kind.get())
    }
}

/// What a frame carries behind its Ethernet header and its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The type of the payload.
    pub ethertype: EtherType,
    /// Where the payload begins, in bytes from the frame's start.
    pub offset: usize,
    /// The VLAN of the outermost tag.
    pub vlan: Option<u16>,
}

/// Finds the payload behind at most two tags; none when the frame ends before it.
#[inline]
#[must_use]
pub fn carried(frame: &[u8]) -> Option<Carried> {
    let (ethernet, mut rest) = Ethernet::ref_from_prefix(frame).ok()?;
    let mut found = Carried { ethertype: ethernet.ethertype(), offset: Ethernet::LEN, vlan: None };
    for _ in 0..2 {
        if !found.ethertype.is_tag() {
            break;
        }
        let (tag, behind) = Vlan::ref_from_prefix(rest).ok()?;
        rest = behind;
        found = Carried {
            ethertype: tag.ethertype(),
            offset: found.offset + Vlan::LEN,
            vlan: found.vlan.or(Some(tag.id())),
        };
    }
    Some(found)
}

/// The type of a payload (IANA "IEEE 802 Numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// An 802.1Q tag.
    pub const VLAN: Self = Self(0x8100);
    /// An 802.1ad service tag.
    pub const SERVICE_VLAN: Self = Self(0x88a8);
    /// IPv6 (RFC 2464, section 3).
    pub const IPV6: Self = Self(0x86dd);

    /// Whether a [`Vlan`] follows.
    #[inline]
    #[must_use]
    pub const fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::SERVICE_VLAN)
    }
}

/// A link-layer address: an EUI-48 in the order of the wire.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// No address.
    pub const ZERO: Self = Self([0; 6]);
    /// Everyone on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names everyone.
    #[inline]
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Whether it names a group, which includes everyone.
    #[inline]
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it can name a single station: neither a group nor zero.
    #[inline]
    #[must_use]
    pub fn is_station(self) -> bool {
        !self.is_group() && self != Self::ZERO
    }

    /// The group to which an IPv6 multicast address is sent (RFC 2464, section 7).
    #[inline]
    #[must_use]
    pub fn of_ipv6_group(address: u128) -> Self {
        let [.., a, b, c, d] = address.to_be_bytes();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or(ParseMacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(Self(mac)) }
    }
}

/// The text is not six pairs of hexadecimal digits with colons between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a link-layer address like 02:00:00:00:00:01")
    }
}

impl core::error::Error for ParseMacError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tags_are_skipped_but_not_endlessly() {
        let mut frame = Ethernet::new(Mac::ZERO, Mac::BROADCAST, EtherType::SERVICE_VLAN).as_bytes().to_vec();
        frame.extend(Vlan::new(7, EtherType::VLAN).as_bytes());
        frame.extend(Vlan::new(8, EtherType::IPV6).as_bytes());
        assert_eq!(carried(&frame), Some(Carried { ethertype: EtherType::IPV6, offset: 22, vlan: Some(7) }));
        assert_eq!(carried(&frame[..21]), None);
        let tag = Vlan { control: U16::new(0xb123), kind: U16::new(0x0800) };
        assert_eq!((tag.id(), tag.priority(), tag.drop_eligible()), (0x123, 5, true));
    }

    #[test]
    fn text_of_addresses() {
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:0", "02:00:00:00:00:01:02", "+2:00:00:00:00:01", "x"] {
            assert_eq!(wrong.parse::<Mac>(), Err(ParseMacError), "{wrong}");
        }
        assert_eq!(Mac::of_ipv6_group(0xff02 << 112 | 0x1_ff01_0203).to_string(), "33:33:ff:01:02:03");
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_station() && !Mac::ZERO.is_station() && Mac::BROADCAST.is_group());
    }

    proptest! {
        #[test]
        fn addresses_print_and_parse(bytes: [u8; 6]) {
            prop_assert_eq!(Mac(bytes).to_string().parse(), Ok(Mac(bytes)));
        }

        #[test]
        fn round_trip(src: [u8; 6], dst: [u8; 6], kind: u16, id in 0_u16..4096) {
            let (header, tag) = (Ethernet::new(Mac(src), Mac(dst), EtherType(kind)), Vlan::new(id, EtherType(kind)));
            let mut dirty = [0xa5; 30];
            header.write_to_prefix(&mut dirty).unwrap();
            tag.write_to_prefix(&mut dirty[14..]).unwrap();
            prop_assert_eq!(Ethernet::ref_from_prefix(&dirty).unwrap().0, &header);
            prop_assert_eq!(Vlan::ref_from_prefix(&dirty[14..]).unwrap().0, &tag);
            prop_assert_eq!((tag.id(), tag.ethertype(), &dirty[18..]), (id, EtherType(kind), &[0xa5; 12][..]));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(found) = carried(&bytes) {
                prop_assert!(found.offset <= bytes.len());
            }
        }
    }
}
