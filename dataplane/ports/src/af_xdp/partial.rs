//! Partial checksums that nobody announces.
//!
//! A packet that another network namespace or a virtual machine sent over a virtual device may have been left with only
//! its pseudo-header's sum where the checksum belongs; the kernel knows by a flag, which does not reach an AF_XDP
//! socket. So a checksum that equals its pseudo-header's sum is taken as partial. A complete one may do so by chance,
//! once in 65,536 packets: completing it gives the same again.
use engine::{Offload, Segmentation};
use wire::checksum::Sum;

/// What remains to be done to the Ethernet frame `frame` if its TCP or UDP checksum is partial. `checksum_start` counts
/// from the frame's first byte.
pub fn partial_checksum(frame: &[u8]) -> Option<Offload> {
    partial(frame).map(|found| found.offload)
}

/// A partial checksum, and where the network header of its packet begins, counted from the frame's first byte.
pub(super) struct Partial {
    pub(super) offload: Offload,
    pub(super) l3: u16,
}

fn partial(frame: &[u8]) -> Option<Partial> {
    let Transport { at, tcp, offset } = transport(frame)?;
    let rest = frame.get(at..)?;
    let checksum_offset = if tcp { 16 } else { 6 };
    let (pseudo, len) = pseudo(frame, at, offset, tcp)?;
    let field = be16(rest, checksum_offset)?;
    let checksum_start = u16::try_from(at).ok()?;
    let offload =
        Offload { checksum_start, checksum_offset: u8::try_from(checksum_offset).ok()?, ..Offload::default() };
    let found = Partial { offload, l3: u16::try_from(offset).ok()? };
    (usize::from(len) <= rest.len() && field != 0 && field == pseudo).then_some(found)
}

/// The same, and if it is not, the same for the Ethernet frame in a VXLAN packet (RFC 7348) to one of `ports`.
pub(super) fn partial_within(frame: &[u8], ports: &[u16]) -> Option<Partial> {
    partial(frame).or_else(|| {
        let at = inner(frame, ports)?;
        let mut found = partial(frame.get(at..)?)?;
        let at = u16::try_from(at).ok()?;
        found.offload.checksum_start = found.offload.checksum_start.checked_add(at)?;
        found.l3 = found.l3.checked_add(at)?;
        Some(found)
    })
}

/// A frame that is longer than its device allows (`longest`) is a TCP super-frame that a virtual device handed over
/// whole, without saying how to cut it: into what the device allows.
pub(super) fn super_frame(frame: &[u8], found: Partial, longest: usize) -> Option<Partial> {
    let l4 = usize::from(found.offload.checksum_start);
    if found.offload.checksum_offset != 16 {
        return None;
    }
    let headers = l4 + usize::from(frame.get(l4 + 12)? >> 4) * 4;
    let four = frame.get(usize::from(found.l3))? >> 4 == 4;
    let segmentation = if four { Segmentation::Tcp4 } else { Segmentation::Tcp6 };
    let segment_size = u16::try_from(longest.checked_sub(headers)?).ok()?;
    Some(Partial { offload: Offload { segmentation, segment_size, ..found.offload }, ..found })
}

struct Transport {
    at: usize,
    tcp: bool,
    offset: usize, // of the network header
}

/// Where the transport header of an unfragmented TCP or UDP packet begins, behind at most one VLAN tag.
fn transport(frame: &[u8]) -> Option<Transport> {
    let (offset, kind) = match be16(frame, 12)? {
        0x8100 => (18, be16(frame, 16)?),
        kind => (14, kind),
    };
    let ip = frame.get(offset..)?;
    let (protocol, header) = match kind {
        0x0800 if be16(ip, 6)? & 0x3fff == 0 => (*ip.get(9)?, usize::from(ip.first()? & 15) * 4),
        0x86dd => (*ip.get(6)?, 40),
        _ => return None,
    };
    let tcp = match protocol {
        6 => true,
        17 => false,
        _ => return None,
    };
    Some(Transport { at: offset + header, tcp, offset })
}

/// The pseudo-header's sum, not inverted, and the transport's length.
fn pseudo(frame: &[u8], at: usize, offset: usize, tcp: bool) -> Option<(u16, u16)> {
    let ip = frame.get(offset..at)?;
    let (len, addresses) = match ip.first()? >> 4 {
        4 => (be16(ip, 2)?.checked_sub(u16::try_from(ip.len()).ok()?)?, ip.get(12..20)?),
        _ => (be16(ip, 4)?, ip.get(8..40)?),
    };
    let sum = Sum::new().bytes(addresses).u16(if tcp { 6 } else { 17 }).u16(len);
    Some((sum.folded(), len))
}

fn inner(frame: &[u8], ports: &[u16]) -> Option<usize> {
    let Transport { at, tcp, .. } = transport(frame)?;
    let vxlan = !tcp && ports.contains(&be16(frame, at + 2)?) && frame.get(at + 8)? & 8 != 0;
    vxlan.then_some(at + 16)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP4: [u8; 46] = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, // Ethernet
        0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        0x30, 0x39, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4, // UDP
    ];
    const PSEUDO4: u16 = 0x0a00 + 1 + 0x0a00 + 2 + 17 + 12;

    fn with_checksum(mut frame: Vec<u8>, at: usize, checksum: u16) -> Vec<u8> {
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    #[test]
    fn the_pseudo_headers_sum_is_a_partial_checksum() {
        let partial = with_checksum(UDP4.to_vec(), 40, PSEUDO4);
        let expected = Offload { checksum_start: 34, checksum_offset: 6, ..Offload::default() };
        assert_eq!(partial_checksum(&partial), Some(expected));
        for other in [0, 1, !PSEUDO4, PSEUDO4 + 1] {
            assert_eq!(partial_checksum(&with_checksum(UDP4.to_vec(), 40, other)), None);
        }
        let mut fragment = partial.clone();
        fragment[20] = 0x20;
        assert_eq!(partial_checksum(&fragment), None);
        for len in 0..46 {
            assert_eq!(partial_checksum(&partial[..len]), None);
        }
        let padded = [&partial[..], &[0; 14]].concat();
        assert_eq!(partial_checksum(&padded), Some(expected));
        let tagged = [&partial[..12], &[0x81, 0, 0, 7], &partial[12..]].concat();
        assert_eq!(partial_checksum(&tagged).unwrap().checksum_start, 38);
    }

    #[test]
    fn an_inner_frame_is_looked_into_behind_the_ports_that_are_named() {
        let inner = with_checksum(UDP4.to_vec(), 40, PSEUDO4);
        let mut outer = [&UDP4[..42], &[8, 0, 0, 0, 0, 0, 1, 0], &inner[..]].concat();
        outer[36..38].copy_from_slice(&4789u16.to_be_bytes());
        let found = partial_within(&outer, &[4789]).unwrap();
        assert_eq!((found.offload.checksum_start, found.l3), (84, 64));
        assert!(partial_within(&outer, &[8472]).is_none());
        outer[42] = 0;
        assert!(partial_within(&outer, &[4789]).is_none());
    }

    #[test]
    fn a_super_frame_is_cut_to_what_the_device_allows() {
        let ip = [0x60, 0, 0, 0, 0x20, 0, 6, 64];
        let mut frame = [&UDP4[..12], &[0x86, 0xdd], &ip, &[0xfd; 32], &[0; 0x2000]].concat();
        frame[54 + 12] = 0x80;
        let sum = Sum::new().bytes(&[0xfd; 32]).u16(6).u16(0x2000).folded();
        let frame = with_checksum(frame, 70, sum);
        let found = super_frame(&frame, partial_within(&frame, &[]).unwrap(), 1514).unwrap();
        assert_eq!(found.offload.segmentation, Segmentation::Tcp6);
        assert_eq!(found.offload.segment_size, 1514 - 54 - 32);
    }
}
