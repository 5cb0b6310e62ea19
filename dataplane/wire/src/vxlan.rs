//! VXLAN (RFC 7348).
use crate::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use core::fmt;

/// The UDP port of VXLAN (RFC 7348, section 8).
pub const PORT: u16 = 4789;

/// A VXLAN header (RFC 7348, section 5); an Ethernet frame follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Vxlan {
    /// [`Vxlan::HAS_VNI`]; the other bits are ignored.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The network's number in the order of the wire; see [`Vxlan::vni`].
    pub network: [u8; 3],
    /// Zero.
    pub reserved_end: u8,
}

impl Vxlan {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();
    /// The flag that must be set.
    pub const HAS_VNI: u8 = 0x08;

    /// A header.
    #[inline]
    #[must_use]
    pub const fn new(vni: Vni) -> Self {
        let [_, a, b, c] = vni.0.to_be_bytes();
        Self { flags: Self::HAS_VNI, reserved: [0; 3], network: [a, b, c], reserved_end: 0 }
    }

    /// The network; none when the flag that must be set is not.
    #[inline]
    #[must_use]
    pub const fn vni(&self) -> Option<Vni> {
        let [a, b, c] = self.network;
        if self.flags & Self::HAS_VNI == 0 { None } else { Some(Vni(u32::from_be_bytes([0, a, b, c]))) }
    }
}

/// The source port of a tunnel's packet by the hash of what is inside, in the dynamic range (RFC 7348, section 5).
#[inline]
#[must_use]
pub const fn source_port(hash: u32) -> u16 {
    0xc000 | ((hash ^ hash >> 16) & 0x3fff) as u16
}

/// The number of a VXLAN network: 24 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// The largest number.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// The network of this number; none above [`Vni::MAX`].
    #[inline]
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(number in 0_u32..1 << 24) {
            let vni = Vni::new(number).unwrap();
            let mut dirty = [0xa5; 9];
            Vxlan::new(vni).write_to_prefix(&mut dirty).unwrap();
            let (read, rest) = Vxlan::ref_from_prefix(&dirty).unwrap();
            prop_assert_eq!((read.vni(), vni.get(), rest), (Some(vni), number, &[0xa5][..]));
            prop_assert_eq!((dirty[0], &dirty[1..4], dirty[7]), (8, &[0; 3][..], 0));
        }

        #[test]
        fn any_bytes(bytes: [u8; 8], hash: u32) {
            let (read, _) = Vxlan::ref_from_prefix(&bytes).unwrap();
            prop_assert_eq!(read.vni().is_some(), bytes[0] & 8 != 0);
            prop_assert!(source_port(hash) >= 49_152);
        }

        #[test]
        fn more_than_24_bits(number in 1_u32 << 24..) {
            prop_assert_eq!(Vni::new(number), None);
        }
    }
}
