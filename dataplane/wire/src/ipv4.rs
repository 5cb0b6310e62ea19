//! IPv4 (RFC 791).
use crate::checksum::{Delta, Sum, checksum, fold};
use crate::{Ecn, FromBytes, Immutable, IntoBytes, KnownLayout, Protocol, U16, U32, Unaligned};

/// An IPv4 header without its options (RFC 791, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (4 bits) and header length in words (4 bits).
    pub version_words: u8,
    /// Type of service: DSCP (6 bits, RFC 2474) and ECN (2 bits, RFC 3168).
    pub tos: u8,
    /// Bytes of header and payload.
    pub total_len: U16,
    /// What the fragments of one packet share.
    pub id: U16,
    /// Three flags and the fragment offset in units of eight bytes.
    pub fragment: U16,
    /// Hops left.
    pub ttl: u8,
    /// What follows.
    pub protocol: Protocol,
    /// The header's checksum.
    pub checksum: U16,
    /// Source address.
    pub src: U32,
    /// Destination address.
    pub dst: U32,
}

/// Why bytes are not an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end before the header does.
    Truncated,
    /// The version is not 4.
    Version,
    /// The header length is below 20 bytes.
    HeaderLen,
    /// The total length is below the header's or above what is there.
    TotalLen,
    /// The header's checksum is wrong.
    Checksum,
}

impl Ipv4 {
    /// Bytes of a header without options.
    pub const LEN: usize = size_of::<Self>();
    /// The flag "don't fragment" in [`Ipv4::fragment`].
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// The flag "more fragments" in [`Ipv4::fragment`].
    pub const MORE_FRAGMENTS: u16 = 0x2000;

    /// A header without options that may not be fragmented, with TTL 64 and its checksum.
    ///
    /// `payload_len` above 65,515 does not fit: the total length then stays at its limit.
    #[inline]
    #[must_use]
    pub fn new(src: U32, dst: U32, protocol: Protocol, payload_len: usize) -> Self {
        let total_len = u16::try_from(payload_len.saturating_add(Self::LEN)).unwrap_or(u16::MAX);
        let header = Self {
            version_words: 0x45,
            tos: 0,
            total_len: U16::new(total_len),
            id: U16::ZERO,
            fragment: U16::new(Self::DONT_FRAGMENT),
            ttl: 64,
            protocol,
            checksum: U16::ZERO,
            src,
            dst,
        };
        header.with_checksum()
    }

    /// Reads and checks a whole header; gives its options, and says what is wrong with it otherwise.
    ///
    /// # Errors
    /// The first thing wrong, in the order of [`Malformed`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), Malformed> {
        let (header, _) = Self::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
        header.validate(bytes.len())?;
        let whole = bytes.get(..header.header_len()).ok_or(Malformed::Truncated)?;
        if header.has_options() && checksum(whole) != 0 {
            return Err(Malformed::Checksum);
        }
        Ok((header, whole.get(Self::LEN..).unwrap_or_default()))
    }

    /// Checks the fields, with `available` bytes from the header's start to the end of the frame, and the checksum
    /// unless there are options ([`Ipv4::parse`] reads those too).
    ///
    /// # Errors
    /// The first thing wrong, in the order of [`Malformed`].
    #[inline]
    pub fn validate(&self, available: usize) -> Result<(), Malformed> {
        let total_len = usize::from(self.total_len.get());
        if self.version() != 4 {
            Err(Malformed::Version)
        } else if self.header_len() < Self::LEN {
            Err(Malformed::HeaderLen)
        } else if total_len < self.header_len() || total_len > available {
            Err(Malformed::TotalLen)
        } else if !self.has_options() && !self.checksum_is_valid() {
            Err(Malformed::Checksum)
        } else {
            Ok(())
        }
    }

    /// The version, which must be 4.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u8 {
        self.version_words >> 4
    }

    /// Bytes of the header with its options: 0 to 60, of which below 20 is malformed.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_words & 0x0f) * 4
    }

    /// Bytes of options.
    #[inline]
    #[must_use]
    pub fn options_len(&self) -> usize {
        self.header_len().saturating_sub(Self::LEN)
    }

    /// Whether options follow the 20 bytes of this struct.
    #[inline]
    #[must_use]
    pub fn has_options(&self) -> bool {
        self.version_words & 0x0f > 5
    }

    /// Bytes behind the header, by the total length; a malformed header has none.
    #[inline]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        usize::from(self.total_len.get()).saturating_sub(self.header_len())
    }

    /// The differentiated services code point (RFC 2474, section 3).
    #[inline]
    #[must_use]
    pub fn dscp(&self) -> u8 {
        self.tos >> 2
    }

    /// The congestion mark.
    #[inline]
    #[must_use]
    pub fn ecn(&self) -> Ecn {
        Ecn::of(self.tos)
    }

    /// Marks congestion state and corrects the checksum.
    #[inline]
    pub fn set_ecn(&mut self, ecn: Ecn) {
        let old = u16::from(self.tos);
        self.tos = self.tos & 0xfc | ecn as u8;
        self.checksum = Delta::u16(old, u16::from(self.tos)).apply(self.checksum);
    }

    /// Whether routers must not fragment it.
    #[inline]
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.fragment.get() & Self::DONT_FRAGMENT != 0
    }

    /// Whether later fragments of the packet exist.
    #[inline]
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        self.fragment.get() & Self::MORE_FRAGMENTS != 0
    }

    /// Where the payload belongs in the whole packet's, in bytes.
    #[inline]
    #[must_use]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.fragment.get() & 0x1fff) * 8
    }

    /// Whether it is a part of a packet: first, middle or last.
    #[inline]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fragment.get() & 0x3fff != 0
    }

    /// Whether it is a part without the transport header.
    #[inline]
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.get() & 0x1fff != 0
    }

    /// Whether the checksum over these 20 bytes is right; unrolled, and of no use when there are options.
    #[inline]
    #[must_use]
    pub fn checksum_is_valid(&self) -> bool {
        fold(self.sum()) == 0xffff
    }

    /// The header with the checksum of its 20 bytes.
    #[inline]
    #[must_use]
    pub fn with_checksum(mut self) -> Self {
        self.checksum = U16::ZERO;
        self.checksum = U16::from_bytes((!fold(self.sum())).to_ne_bytes());
        self
    }

    /// Takes a hop away and corrects the checksum; false, and nothing changed, when the packet may travel no further
    /// (RFC 1812, section 5.3.1).
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the carry came round")]
    pub fn decrement_ttl(&mut self) -> bool {
        if self.ttl <= 1 {
            return false;
        }
        self.ttl -= 1;
        // The sum loses 0x0100, so its complement gains it; what RFC 1624 says of zero comes with the carry.
        let sum = u32::from(self.checksum.get()) + 0x0100;
        self.checksum = U16::new((sum + u32::from(sum >= 0xffff)) as u16);
        true
    }

    /// Gives a new source, corrects the checksum, and returns what the transport's checksum must follow.
    #[inline]
    pub fn rewrite_src(&mut self, src: U32) -> Delta {
        let delta = Delta::u32(self.src.get(), src.get());
        self.src = src;
        self.checksum = delta.apply(self.checksum);
        delta
    }

    /// Gives a new destination, corrects the checksum, and returns what the transport's checksum must follow.
    #[inline]
    pub fn rewrite_dst(&mut self, dst: U32) -> Delta {
        let delta = Delta::u32(self.dst.get(), dst.get());
        self.dst = dst;
        self.checksum = delta.apply(self.checksum);
        delta
    }

    /// The pseudo-header's sum for `len` bytes of transport header and payload.
    #[inline]
    #[must_use]
    pub fn pseudo(&self, len: u32) -> Sum {
        Sum::pseudo_v4(self.src, self.dst, self.protocol, len)
    }

    /// The header's words in memory order, as one number of 64 bits.
    #[inline(always)]
    fn sum(&self) -> u64 {
        let Words { a, b, c } = zerocopy::transmute!(*self);
        let (sum, carry) = u64::from_ne_bytes(a).overflowing_add(u64::from_ne_bytes(b));
        let (sum, again) = sum.overflowing_add(u64::from(u32::from_ne_bytes(c)) + u64::from(carry));
        sum + u64::from(again)
    }
}

/// A header as the words that its sum takes at once.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Words {
    a: [u8; 8],
    b: [u8; 8],
    c: [u8; 4],
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Ipv4 {
        Ipv4::new(0x0a00_0001.into(), 0x0a00_0002.into(), Protocol::UDP, 0)
    }

    #[test]
    fn says_what_is_wrong() {
        let good = header();
        let check = |change: fn(&mut Ipv4), fix: bool| {
            let mut header = good;
            change(&mut header);
            if fix { header.with_checksum() } else { header }.validate(20)
        };
        assert_eq!(check(|_| {}, true), Ok(()));
        assert_eq!(check(|h| h.version_words = 0x65, true), Err(Malformed::Version));
        assert_eq!(check(|h| h.version_words = 0x44, true), Err(Malformed::HeaderLen));
        assert_eq!(check(|h| h.total_len = U16::new(19), true), Err(Malformed::TotalLen));
        assert_eq!(check(|h| h.total_len = U16::new(21), true), Err(Malformed::TotalLen));
        assert_eq!(check(|h| h.ttl = 9, false), Err(Malformed::Checksum));
        assert_eq!(Ipv4::parse(&good.as_bytes()[..19]), Err(Malformed::Truncated));
    }

    #[test]
    fn options_are_summed_too() {
        let mut header = Ipv4 { version_words: 0x46, total_len: U16::new(24), checksum: U16::ZERO, ..header() };
        let bytes = |header: &Ipv4| [header.as_bytes(), &[1, 1, 1, 0]].concat();
        header.checksum = U16::new(checksum(&bytes(&header)));
        let good = bytes(&header);
        assert_eq!(Ipv4::parse(&good), Ok((&header, &[1, 1, 1, 0][..])));
        let mut bad = good.clone();
        bad[22] = 2;
        assert_eq!(Ipv4::parse(&bad), Err(Malformed::Checksum));
        assert_eq!(Ipv4::parse(&good[..23]), Err(Malformed::TotalLen));
        assert_eq!((header.options_len(), header.payload_len()), (4, 0));
    }

    #[test]
    fn fragments() {
        let with = |bits: u16| Ipv4 { fragment: U16::new(bits), ..header() };
        assert!(!with(0x4000).is_fragment() && with(0x4000).dont_fragment());
        assert!(with(0x2000).is_fragment() && with(0x2000).more_fragments() && !with(0x2000).is_later_fragment());
        assert!(with(0x00b9).is_fragment() && with(0x00b9).is_later_fragment());
        assert_eq!(with(0x20b9).fragment_offset(), 1480);
    }

    proptest! {
        #[test]
        fn round_trip(src: u32, dst: u32, protocol: u8, len in 0_usize..65_516) {
            let header = Ipv4::new(src.into(), dst.into(), Protocol(protocol), len);
            let mut dirty = vec![0xa5; 65_535];
            header.write_to_prefix(&mut dirty).unwrap();
            prop_assert_eq!(Ipv4::parse(&dirty), Ok((&header, &[][..])));
            prop_assert_eq!(checksum(&dirty[..20]), 0);
            prop_assert_eq!((header.payload_len(), header.header_len(), dirty[20]), (len, 20, 0xa5));
        }

        #[test]
        fn changes_keep_the_checksum(src: u32, dst: u32, to: u32, ttl: u8, tos: u8) {
            let mut header = Ipv4 { ttl, tos, ..Ipv4::new(src.into(), dst.into(), Protocol::TCP, 40) }.with_checksum();
            let before = header;
            let lives = header.decrement_ttl();
            prop_assert_eq!((lives, header.ttl), (ttl > 1, if ttl > 1 { ttl - 1 } else { ttl }));
            prop_assert_eq!(header, header.with_checksum());
            header.set_ecn(Ecn::Experienced);
            prop_assert_eq!((header.dscp(), header.ecn()), (tos >> 2, Ecn::Experienced));
            prop_assert_eq!(header, header.with_checksum());
            let delta = header.rewrite_src(to.into()).and(header.rewrite_dst(src.into()));
            prop_assert_eq!(header, header.with_checksum());
            let sum = |header: &Ipv4| U16::new(header.pseudo(40).u16(1).checksum());
            prop_assert_eq!(delta.apply(sum(&before)), sum(&header));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            if let Ok((header, options)) = Ipv4::parse(&bytes) {
                prop_assert!(header.header_len() + header.payload_len() <= bytes.len());
                prop_assert_eq!(options.len(), header.options_len());
            }
        }
    }
}
