use crate::cut::{LEAST_SEGMENT, MOST_SEGMENTS};
use engine::{Offload, Segmentation};

/// The length of a virtio network header with its count of buffers, in bytes (virtio 1.2, section 5.1.6).
pub(super) const HEADER: usize = 12;

const NEEDS_CHECKSUM: u8 = 1;
const CHECKSUM_VALID: u8 = 2;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;
const ETHERNET: usize = 14;

/// A virtio network header, its words in the machine's byte order, as taps have it unless told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    flags: u8,
    gso: u8,
    headers: u16, // length of all headers: what the kernel keeps in one piece
    segment: u16,
    start: u16,  // of what the checksum covers, from the packet's first byte
    offset: u16, // of the checksum, from there
}

impl Header {
    pub(super) fn read(bytes: [u8; HEADER]) -> Header {
        let [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = bytes;
        let [headers, segment, start, offset] = [[h0, h1], [g0, g1], [s0, s1], [o0, o1]].map(u16::from_ne_bytes);
        Header { flags, gso, headers, segment, start, offset }
    }

    pub(super) fn write(self) -> [u8; HEADER] {
        let [[h0, h1], [g0, g1], [s0, s1], [o0, o1]] =
            [self.headers, self.segment, self.start, self.offset].map(u16::to_ne_bytes);
        [self.flags, self.gso, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0]
    }

    /// What is left to do to a packet of `len` bytes that begins at `at` of its frame. `None` when the header
    /// contradicts itself or the packet.
    pub(super) fn offload(self, len: usize, at: u16) -> Option<Offload> {
        if self.flags & !(NEEDS_CHECKSUM | CHECKSUM_VALID) != 0 {
            return None;
        }
        let partial = self.flags & NEEDS_CHECKSUM != 0;
        if !partial {
            // The kernel says UDP super-frames only with a partial checksum, and so do we.
            return (self.gso == 0).then(Offload::default);
        }
        let start = usize::from(self.start);
        if start < ETHERNET + 20 || start + usize::from(self.offset) + 2 > len {
            return None;
        }
        let (segmentation, checksum, least) = match self.gso {
            0 => (Segmentation::None, self.offset, 0),
            GSO_TCP4 => (Segmentation::Tcp4, TCP_CHECKSUM, LEAST_SEGMENT),
            GSO_TCP6 => (Segmentation::Tcp6, TCP_CHECKSUM, LEAST_SEGMENT),
            GSO_UDP => (Segmentation::Udp, UDP_CHECKSUM, 1),
            _ => return None,
        };
        let segment = usize::from(self.segment);
        let bounded = self.gso == 0 || len.saturating_sub(start) <= segment.saturating_mul(MOST_SEGMENTS);
        (self.offset == checksum && self.segment >= least && bounded).then_some(())?;
        Some(Offload {
            checksum_start: at.checked_add(self.start)?,
            checksum_offset: u8::try_from(self.offset).ok()?,
            segmentation,
            segment_size: if self.gso == 0 { 0 } else { self.segment },
        })
    }

    /// The header of a packet of these bytes, which begin at `at` of its frame. `None` when the offload contradicts
    /// the packet.
    pub(super) fn of(data: &[u8], at: usize, offload: Offload) -> Option<Header> {
        if offload.checksum_start == 0 {
            return (offload.segmentation == Segmentation::None).then(Header::default);
        }
        let start = usize::from(offload.checksum_start).checked_sub(at)?;
        let offset = u16::from(offload.checksum_offset);
        let checksum = start + usize::from(offset);
        data.get(checksum..checksum + 2)?;
        let (gso, transport) = match offload.segmentation {
            Segmentation::None => (0, 0),
            Segmentation::Tcp4 => (GSO_TCP4, usize::from(data.get(start + 12)? >> 4) * 4),
            Segmentation::Tcp6 => (GSO_TCP6, usize::from(data.get(start + 12)? >> 4) * 4),
            Segmentation::Udp => (GSO_UDP, 8),
        };
        let headers = if gso == 0 { 0 } else { u16::try_from(start + transport).ok()? };
        let (segment, start) = (offload.segment_size, u16::try_from(start).ok()?);
        Some(Header { flags: NEEDS_CHECKSUM, gso, headers, segment, start, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TCP: Header = Header { flags: 1, gso: GSO_TCP4, headers: 66, segment: 1448, start: 34, offset: 16 };

    #[test]
    fn what_was_read_is_written_again() {
        let offload = TCP.offload(3000, 256).unwrap();
        assert_eq!(offload.checksum_start, 256 + 34);
        let mut data = [0; 3000];
        data[34 + 12] = 0x80;
        assert_eq!(Header::of(&data, 256, offload), Some(TCP));
        assert_eq!(Header::read(TCP.write()), TCP);
        assert_eq!(Header::default().offload(60, 256), Some(Offload::default()));
        assert_eq!(Header { flags: CHECKSUM_VALID, ..Header::default() }.offload(60, 256), Some(Offload::default()));
        assert_eq!(Header::of(&data, 256, Offload::default()), Some(Header::default()));
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |header: Header, len| assert_eq!(header.offload(len, 256), None, "{header:?}");
        refused(Header { flags: 0, ..TCP }, 3000);
        refused(Header { flags: 5, ..TCP }, 3000);
        refused(Header { gso: 3, ..TCP }, 3000);
        refused(Header { gso: GSO_TCP4 | 0x80, ..TCP }, 3000);
        refused(Header { gso: GSO_UDP, ..TCP }, 3000);
        refused(Header { start: 33, ..TCP }, 3000);
        refused(Header { start: 2990, ..TCP }, 3000);
        refused(Header { start: u16::MAX, ..TCP }, 65_549);
        refused(Header { offset: u16::MAX, gso: 0, ..TCP }, 65_549);
        refused(Header { offset: 6, ..TCP }, 3000);
        refused(Header { segment: LEAST_SEGMENT - 1, ..TCP }, 3000);
        refused(Header { gso: GSO_UDP, offset: 6, segment: 0, ..TCP }, 3000);
        refused(Header { gso: GSO_UDP, offset: 6, segment: 1, ..TCP }, 3000);
        refused(TCP, 51);
    }

    proptest! {
        /// What is accepted lies inside of the packet, is bounded, and is written as it was read.
        #[test]
        fn what_is_accepted_is_consistent(
            flags in 0..5u8,
            gso in prop::sample::select(vec![0, 1, 3, 4, 5, 0x81]),
            words in prop::array::uniform4(prop_oneof![0..100u16, any::<u16>()]),
            offset in prop::sample::select(vec![0, 6, 16, 300]),
            len in prop_oneof![0..200usize, 0..65_550usize],
        ) {
            let [headers, segment, start, _] = words;
            let header = Header { flags, gso, headers, segment, start, offset };
            if let Some(offload) = header.offload(len, 256) {
                let data = vec![0x50; len];
                let again = Header::of(&data, 256, offload).unwrap();
                let partial = flags & NEEDS_CHECKSUM != 0;
                prop_assert_eq!((again.flags, again.gso), (flags & NEEDS_CHECKSUM, gso));
                prop_assert!(!partial || (again.start, again.offset) == (start, offset));
                prop_assert!(!partial || usize::from(start + offset) + 2 <= len);
                prop_assert!(gso == 0 || (partial && again.segment == segment && segment > 0));
                prop_assert!(gso == 0 || (len - usize::from(start)).div_ceil(segment.into()) <= MOST_SEGMENTS);
            }
        }
    }
}
