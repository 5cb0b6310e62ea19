//! UDP (RFC 768).
use crate::{FromBytes, Immutable, IntoBytes, KnownLayout, U16, Unaligned};

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// Source port.
    pub src: U16,
    /// Destination port.
    pub dst: U16,
    /// Bytes of header and payload.
    pub len: U16,
    /// Checksum over pseudo-header, header and payload; zero for none, which IPv6 allows to tunnels only (RFC 6935).
    pub checksum: U16,
}

impl Udp {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();

    /// A header without checksum; a `payload_len` above 65,527 does not fit and the length stays at its limit.
    #[inline]
    #[must_use]
    pub fn new(src: u16, dst: u16, payload_len: usize) -> Self {
        let len = u16::try_from(payload_len.saturating_add(Self::LEN)).unwrap_or(u16::MAX);
        Self { src: U16::new(src), dst: U16::new(dst), len: U16::new(len), checksum: U16::ZERO }
    }

    /// Bytes of payload by the header's own length; a malformed header has none.
    #[inline]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        usize::from(self.len.get()).saturating_sub(Self::LEN)
    }

    /// Whether the sender computed a checksum.
    #[inline]
    #[must_use]
    pub fn has_checksum(&self) -> bool {
        self.checksum != U16::ZERO
    }

    /// Reads a header whose length lies between its own eight bytes and what is there; gives the payload.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(&Self, &[u8])> {
        let (header, rest) = Self::ref_from_prefix(bytes).ok()?;
        let len = usize::from(header.len.get()).checked_sub(Self::LEN)?;
        Some((header, rest.get(..len)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(src: u16, dst: u16, len in 0_usize..100) {
            let header = Udp::new(src, dst, len);
            let mut dirty = [0xa5; 200];
            header.write_to_prefix(&mut dirty).unwrap();
            prop_assert_eq!(Udp::parse(&dirty), Some((&header, &[0xa5; 100][..len])));
            prop_assert_eq!((header.payload_len(), header.has_checksum()), (len, false));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some((header, payload)) = Udp::parse(&bytes) {
                prop_assert_eq!(payload.len(), header.payload_len());
            }
        }
    }
}
