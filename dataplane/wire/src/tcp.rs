//! TCP (RFC 9293): header, flags, options, and the clamp of the maximum segment size.
use crate::{Delta, FromBytes, Immutable, IntoBytes, KnownLayout, U16, U32, Unaligned};
use core::{fmt, ops::BitOr};

/// A TCP header without its options (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub src: U16,
    /// Destination port.
    pub dst: U16,
    /// Sequence number of the first byte.
    pub seq: U32,
    /// Next byte expected from the other side.
    pub ack: U32,
    /// Header length in words (4 bits) and reserved bits.
    pub words: u8,
    /// Control bits.
    pub flags: Flags,
    /// Bytes that the sender can take, before scaling.
    pub window: U16,
    /// Checksum over pseudo-header, header and payload.
    pub checksum: U16,
    /// Where urgent bytes end.
    pub urgent: U16,
}

/// The control bits of a segment.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Flags(pub u8);

impl Flags {
    /// No more bytes from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Deliver now.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// Congestion echo (RFC 3168, section 6.1).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168, section 6.1).
    pub const CWR: Self = Self(0x80);

    /// Whether all of `flags` are set.
    #[inline]
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    /// As tcpdump writes them: `S`, `S.` (with ACK), `P.`, `F.`, `R`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (Self::FIN, "F"),
            (Self::SYN, "S"),
            (Self::RST, "R"),
            (Self::PSH, "P"),
            (Self::URG, "U"),
            (Self::ECE, "E"),
            (Self::CWR, "W"),
            (Self::ACK, "."),
        ];
        letters.iter().filter(|(flag, _)| self.contains(*flag)).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

impl Tcp {
    /// Bytes of a header without options.
    pub const LEN: usize = size_of::<Self>();

    /// A header without options, window 65,535, checksum zero.
    #[inline]
    #[must_use]
    pub const fn new(src: u16, dst: u16, flags: Flags) -> Self {
        Self {
            src: U16::new(src),
            dst: U16::new(dst),
            seq: U32::ZERO,
            ack: U32::ZERO,
            words: 5 << 4,
            flags,
            window: U16::new(u16::MAX),
            checksum: U16::ZERO,
            urgent: U16::ZERO,
        }
    }

    /// Bytes of the header with its options: 0 to 60, of which below 20 is malformed.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.words >> 4) * 4
    }

    /// Reads a whole header; gives its options and the payload.
    #[inline]
    #[must_use]
    pub fn parse(segment: &[u8]) -> Option<(&Self, &[u8], &[u8])> {
        let (header, rest) = Self::ref_from_prefix(segment).ok()?;
        let (options, payload) = rest.split_at_checked(header.header_len().checked_sub(Self::LEN)?)?;
        Some((header, options, payload))
    }
}

/// One option (RFC 9293, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption<'a> {
    /// Padding between options.
    Nothing,
    /// The largest payload that the sender can take (RFC 9293, section 3.7.1).
    MaxSegmentSize(u16),
    /// The window's shift (RFC 7323, section 2).
    WindowScale(u8),
    /// Selective acknowledgements are welcome (RFC 2018, section 2).
    SackPermitted,
    /// Blocks that arrived out of order, eight bytes each (RFC 2018, section 3).
    Sack(&'a [u8]),
    /// The sender's clock and the clock it echoes (RFC 7323, section 3).
    Timestamps(u32, u32),
    /// Another kind, with its content.
    Other(u8, &'a [u8]),
}

/// The options of a header, one by one; stops at their end and at the first malformed one.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

/// Walks `options`, the bytes between [`Tcp`] and the payload.
#[inline]
#[must_use]
pub const fn options(options: &[u8]) -> Options<'_> {
    Options { rest: options }
}

impl<'a> Iterator for Options<'a> {
    type Item = TcpOption<'a>;

    #[inline]
    fn next(&mut self) -> Option<TcpOption<'a>> {
        let (kind, body, rest) = split(self.rest)?;
        self.rest = rest;
        Some(match (kind, body) {
            (NOTHING, _) => TcpOption::Nothing,
            (MAX_SEGMENT_SIZE, &[a, b]) => TcpOption::MaxSegmentSize(u16::from_be_bytes([a, b])),
            (3, &[shift]) => TcpOption::WindowScale(shift),
            (4, []) => TcpOption::SackPermitted,
            (5, blocks) => TcpOption::Sack(blocks),
            (8, &[a, b, c, d, e, f, g, h]) => {
                TcpOption::Timestamps(u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
            }
            (kind, body) => TcpOption::Other(kind, body),
        })
    }
}

/// Where the value of the maximum segment size stands in `options`, in bytes from their start.
#[inline]
#[must_use]
pub fn find_mss(options: &[u8]) -> Option<usize> {
    let mut rest = options;
    loop {
        let (kind, body, behind) = split(rest)?;
        if kind == MAX_SEGMENT_SIZE && body.len() == 2 {
            return Some(options.len() - behind.len() - 2);
        }
        rest = behind;
    }
}

/// Lowers the maximum segment size of a SYN to `max` where it is higher, and corrects the checksum; false when nothing
/// changed. The segment begins with its TCP header.
///
/// A segment with a partial checksum takes [`lower_mss`] instead, whose result it does not need.
#[inline]
pub fn clamp_mss(segment: &mut [u8], max: u16) -> bool {
    let Some(delta) = lower_mss(segment, max) else { return false };
    let Ok((header, _)) = Tcp::mut_from_prefix(segment) else { return false };
    header.checksum = delta.apply(header.checksum);
    true
}

/// Lowers the maximum segment size of a SYN as [`clamp_mss`] does, and returns what its checksum must follow.
#[inline]
pub fn lower_mss(segment: &mut [u8], max: u16) -> Option<Delta> {
    let (header, options, _) = Tcp::parse(segment)?;
    if !header.flags.contains(Flags::SYN) {
        return None;
    }
    let at = Tcp::LEN + find_mss(options)?;
    let field = segment.get_mut(at..)?.first_chunk_mut::<2>()?;
    let old = u16::from_be_bytes(*field);
    if old <= max {
        return None;
    }
    *field = max.to_be_bytes();
    let delta = Delta::u16(old, max);
    Some(if at % 2 == 1 { delta.at_odd_offset() } else { delta })
}

const END: u8 = 0;
const NOTHING: u8 = 1;
const MAX_SEGMENT_SIZE: u8 = 2;

/// The first option's kind and content, and what follows it; none at the end or when its length is wrong.
#[inline]
fn split(options: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    match options {
        [] | [END, ..] => None,
        [NOTHING, rest @ ..] => Some((NOTHING, &[], rest)),
        [kind, len, rest @ ..] => {
            let (body, rest) = rest.split_at_checked(usize::from(*len).checked_sub(2)?)?;
            Some((*kind, body, rest))
        }
        [_] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::checksum;
    use proptest::prelude::*;

    #[test]
    fn options_of_a_linux_syn() {
        let bytes = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];
        let read: Vec<_> = options(&bytes).collect();
        let nothing = TcpOption::Nothing;
        let expected =
            [TcpOption::MaxSegmentSize(1460), TcpOption::SackPermitted, TcpOption::Timestamps(1, 2), nothing];
        assert_eq!(read, [&expected[..], &[TcpOption::WindowScale(7)]].concat());
        assert_eq!(find_mss(&bytes), Some(2));
        assert_eq!(find_mss(&[1, 1, 1, 2, 4, 1, 1]), Some(5));
        assert_eq!(options(&[30, 4, 9, 8, 5, 2]).last(), Some(TcpOption::Sack(&[])));
    }

    #[test]
    fn malformed_options_end_the_walk() {
        for bytes in [&[2_u8][..], &[2, 0, 1, 1], &[2, 1], &[2, 4, 5], &[0, 2, 4, 5, 180], &[8, 255, 0, 0]] {
            assert_eq!((options(bytes).next(), find_mss(bytes)), (None, None), "{bytes:?}");
        }
    }

    #[test]
    fn only_a_syn_is_clamped_and_only_downwards() {
        let segment = |flags| [Tcp { words: 6 << 4, ..Tcp::new(1, 2, flags) }.as_bytes(), &[2, 4, 5, 180]].concat();
        assert!(!clamp_mss(&mut segment(Flags::ACK), 1000));
        assert!(!clamp_mss(&mut segment(Flags::SYN), 1460));
        assert!(clamp_mss(&mut segment(Flags::SYN | Flags::ACK), 1459));
        assert!(!clamp_mss(&mut segment(Flags::SYN)[..23], 1000));
        assert_eq!((Flags::SYN | Flags::ACK).to_string(), "S.");
    }

    proptest! {
        #[test]
        fn round_trip(src: u16, dst: u16, seq: u32, flags: u8) {
            let header = Tcp { seq: seq.into(), words: 8 << 4, ..Tcp::new(src, dst, Flags(flags)) };
            let mut dirty = [0xa5; 40];
            header.write_to_prefix(&mut dirty).unwrap();
            prop_assert_eq!(Tcp::parse(&dirty), Some((&header, &[0xa5; 12][..], &[0xa5; 8][..])));
        }

        #[test]
        fn clamped_checksum_is_right(pads in 0_usize..8, old: u16, max: u16, payload in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut segment = Tcp { words: 8 << 4, ..Tcp::new(1, 2, Flags::SYN) }.as_bytes().to_vec();
            segment.extend(vec![1; pads]);
            segment.extend([2, 4]);
            segment.extend(old.to_be_bytes());
            segment.resize(32, 1);
            segment.extend(payload);
            let sum = checksum(&segment);
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
            prop_assert_eq!(clamp_mss(&mut segment, max), old > max);
            prop_assert_eq!(checksum(&segment), 0);
            let now = options(&segment[20..]).find(|option| *option != TcpOption::Nothing);
            prop_assert_eq!(now, Some(TcpOption::MaxSegmentSize(old.min(max))));
        }

        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..70), max: u16) {
            let len = bytes.len();
            if let Some((_, found, payload)) = Tcp::parse(&bytes) {
                prop_assert_eq!(20 + found.len() + payload.len(), len);
                prop_assert!(options(found).count() <= 40);
            }
            clamp_mss(&mut bytes, max);
        }
    }
}
