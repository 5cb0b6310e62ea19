//! Finishes packets that a port cannot take as they are: cuts super-frames, completes checksums.
//!
//! A super-frame is TCP or UDP, plain or inside of a UDP tunnel (VXLAN, RFC 7348). Every segment gets all headers, with
//! lengths, IPv4 identifications, TCP sequence numbers and flags, and checksums of its own.
mod layout;

use engine::{Packet, Segmentation};
use layout::Layout;
use wire::checksum::Sum;

/// The most bytes of all headers of a super-frame.
pub const MOST_HEADERS: usize = 320;

/// The fewest payload bytes of a TCP segment. A hostile pod asks for one byte each (compare CVE-2019-11479).
pub const LEAST_SEGMENT: u16 = 64;

/// The most segments of one super-frame: 64 KiB in the smallest ones. Linux gives 128 at most for UDP.
pub const MOST_SEGMENTS: usize = 1024;

/// Why a packet cannot be cut or completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to cut.
    #[error("no super-frame")]
    Whole,
    /// The segment size is below the minimum, or gives too many segments.
    #[error("segment size out of bounds")]
    SegmentSize,
    /// An offset in the metadata or a length in a header contradicts the packet.
    #[error("headers contradict each other")]
    Headers,
    /// A fragment, or a TCP segment that may not be divided (SYN, RST, URG).
    #[error("not to be divided")]
    Indivisible,
    /// The tunnel in front of the inner frame is none that can be repeated.
    #[error("unknown tunnel headers")]
    Tunnel,
}

/// Where the cutting of one super-frame stands. It goes with the packet, which must not change meanwhile.
#[derive(Clone, Debug)]
pub struct Cutter {
    layout: Layout,
    size: usize,    // payload bytes of a segment
    payload: usize, // of the super-frame
    done: usize,    // of it
    count: u16,     // segments given
    transport: u16, // sum of the transport header and the pseudo-header, without what differs between segments
}

impl Cutter {
    /// Checks `packet` and its offload, and starts in front of the first segment.
    pub fn new(packet: &Packet) -> Result<Self, Refusal> {
        let layout = Layout::of(packet)?;
        let size = usize::from(packet.meta().offload.segment_size);
        let payload = packet.len().saturating_sub(layout.headers);
        let least = if layout.tcp { LEAST_SEGMENT.into() } else { 1 };
        if size < least || payload == 0 || payload.div_ceil(size) > MOST_SEGMENTS {
            return Err(Refusal::SegmentSize);
        }
        let transport = layout.transport_sum(packet.data()).ok_or(Refusal::Headers)?;
        Ok(Cutter { layout, size, payload, done: 0, count: 0, transport })
    }

    /// The length of the longest segment, headers included.
    pub fn longest(&self) -> usize {
        self.layout.headers + self.size.min(self.payload)
    }

    /// How many segments are still to come.
    pub fn left(&self) -> usize {
        self.payload.saturating_sub(self.done).div_ceil(self.size)
    }

    /// Writes the next segment of `packet`, finished, to the front of `out` and gives its length; `None`, and no
    /// progress, when none is left or `out` is too small.
    pub fn next(&mut self, packet: &Packet, out: &mut [u8]) -> Option<usize> {
        let n = self.size.min(self.payload.checked_sub(self.done).filter(|left| *left > 0)?);
        let Layout { headers, l4, tcp, .. } = self.layout;
        let out = out.get_mut(..headers + n)?;
        let from = headers + self.done;
        let (head, body) = out.split_at_mut_checked(headers)?;
        head.copy_from_slice(packet.data().get(..headers)?);
        body.copy_from_slice(packet.data().get(from..from + n)?);
        let body = Sum::new().bytes(body).u16(self.transport);
        self.layout.write_inner_ip(out, self.count)?;
        if tcp {
            self.write_tcp(out.get_mut(l4..)?, body)?
        } else {
            self.write_udp(out.get_mut(l4..)?, body)?
        }
        self.layout.write_outer(out, self.count)?;
        (self.done, self.count) = (self.done + n, self.count + 1);
        Some(headers + n)
    }

    /// RFC 9293 section 3.1: sequence number at 4, flags at 13, checksum at 16.
    fn write_tcp(&self, segment: &mut [u8], body: Sum) -> Option<()> {
        const FIN_PSH: u8 = 0x09;
        const CWR: u8 = 0x80;
        let last = self.done + self.size >= self.payload;
        let len = u16::try_from(segment.len()).ok()?;
        let sequence = segment.get_mut(4..8)?.first_chunk_mut()?;
        let number = u32::from_be_bytes(*sequence).wrapping_add(u32::try_from(self.done).ok()?);
        *sequence = number.to_be_bytes();
        let offset = *segment.get(12)?;
        let flags = segment.get_mut(13)?;
        *flags &= if last { !0 } else { !FIN_PSH } & if self.done == 0 { !0 } else { !CWR };
        let sum = body.u16(len).u32(number).u16(u16::from_be_bytes([offset, *flags]));
        put(segment, 16, sum.checksum())
    }

    /// RFC 768: length at 4, checksum at 6.
    fn write_udp(&self, segment: &mut [u8], body: Sum) -> Option<()> {
        let len = u16::try_from(segment.len()).ok()?;
        put(segment, 4, len)?;
        put(segment, 6, body.u16(len).u16(len).checksum_udp())
    }
}

/// Completes the partial checksum of a packet that is not to be cut; does nothing when it is complete.
///
/// The pseudo-header's sum is where the checksum belongs, as [`engine::Offload`] says.
pub fn finish_checksum(packet: &mut Packet) -> Result<(), Refusal> {
    let offload = packet.meta().offload;
    if offload.segmentation != Segmentation::None {
        return Err(Refusal::SegmentSize);
    }
    if offload.checksum_start == 0 {
        return Ok(());
    }
    let at = usize::from(offload.checksum_offset);
    let covered = packet.from_mut(offload.checksum_start);
    let sum = Sum::new().bytes(covered);
    let checksum = if at == UDP_CHECKSUM { sum.checksum_udp() } else { sum.checksum() };
    put(covered, at, checksum).ok_or(Refusal::Headers)?;
    packet.meta_mut().offload = engine::Offload::default();
    Ok(())
}

const UDP_CHECKSUM: usize = 6;
const TCP_CHECKSUM: usize = 16;

fn put(bytes: &mut [u8], at: usize, word: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = word.to_be_bytes();
    Some(())
}
