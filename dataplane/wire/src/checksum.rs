//! The Internet checksum: whole (RFC 1071), by difference (RFC 1624), and half done by a virtual device.
//!
//! Sums are kept in memory order: one's complement addition does not mind (RFC 1071, 2B), and no byte is swapped.
use crate::{Protocol, U16, U32, U128};

/// The Internet checksum of `bytes` (RFC 1071), as a host number; zero when `bytes` hold a valid one.
#[inline]
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).checksum()
}

/// A checksum under way: a sum of 16-bit words (RFC 1071, section 1) that takes pieces of any length in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    total: u64,
    odd: bool,
}

impl Sum {
    /// Nothing summed yet.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self { total: 0, odd: false }
    }

    /// The pseudo-header of TCP and UDP over IPv4 (RFC 9293, section 3.1; RFC 768); `len` bytes from the transport
    /// header to the end.
    #[inline]
    #[must_use]
    pub fn pseudo_v4(src: U32, dst: U32, protocol: Protocol, len: u32) -> Self {
        Self::new().u32(src.get()).u32(dst.get()).u32(len).u16(u16::from(protocol.0))
    }

    /// The pseudo-header of every transport over IPv6 (RFC 8200, section 8.1); `len` as in [`Sum::pseudo_v4`].
    #[inline]
    #[must_use]
    pub fn pseudo_v6(src: U128, dst: U128, protocol: Protocol, len: u32) -> Self {
        Self::new().u128(src.get()).u128(dst.get()).u32(len).u16(u16::from(protocol.0))
    }

    /// What a transport's header and payload sum to when their checksum is right: the complement of `pseudo`, their
    /// pseudo-header. So a tunnel's checksum over them need not read them (Linux calls it local checksum offload).
    #[inline]
    #[must_use]
    pub fn transport(pseudo: Self) -> Self {
        Self { total: u64::from(!fold(pseudo.total)), odd: false }
    }

    /// Adds the next bytes; after an odd number of them the following piece is shifted as the wire has it.
    #[inline]
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let piece = add_up(bytes);
        self.total += if self.odd { u64::from(fold(piece).swap_bytes()) } else { piece };
        self.odd ^= bytes.len() % 2 == 1;
        self
    }

    /// Adds a 16-bit number, given in host order, at an even place.
    #[inline]
    #[must_use]
    pub fn u16(mut self, value: u16) -> Self {
        self.total += u64::from(value.to_be());
        self
    }

    /// Adds a 32-bit number, given in host order, at an even place.
    #[inline]
    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.total += u64::from(value.to_be());
        self
    }

    /// Adds a 128-bit number, given in host order, at an even place.
    #[inline]
    #[must_use]
    pub fn u128(mut self, value: u128) -> Self {
        self.total += quarters(value);
        self
    }

    /// The sum itself, not complemented: what the checksum field of a partial checksum holds.
    #[inline]
    #[must_use]
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.total))
    }

    /// The checksum: the complement of the sum. A UDP field takes [`Sum::checksum_udp`] instead.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum with zero sent as all ones, because zero means "none" in UDP (RFC 768).
    #[inline]
    #[must_use]
    pub fn checksum_udp(self) -> u16 {
        not_zero(self.checksum())
    }
}

/// What one or several changes of a packet do to a checksum that covers it (RFC 1624, equation 3).
///
/// It is two bytes, so a flow can remember it and apply it to each of its packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// The change of an aligned 16-bit number from `old` to `new`.
    #[inline]
    #[must_use]
    pub fn u16(old: u16, new: u16) -> Self {
        Self(fold(u64::from(!old.to_be()) + u64::from(new.to_be())))
    }

    /// The change of an aligned 32-bit number, such as an IPv4 address.
    #[inline]
    #[must_use]
    pub fn u32(old: u32, new: u32) -> Self {
        Self(fold(u64::from(!old.to_be()) + u64::from(new.to_be())))
    }

    /// The change of an aligned 128-bit number, such as an IPv6 address.
    #[inline]
    #[must_use]
    pub fn u128(old: u128, new: u128) -> Self {
        Self(fold(quarters(!old) + quarters(new)))
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(fold(u64::from(self.0) + u64::from(other.0)))
    }

    /// The change back.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Self {
        Self(!self.0)
    }

    /// The same change at an odd distance from the start of what the checksum covers.
    #[inline]
    #[must_use]
    pub fn at_odd_offset(self) -> Self {
        Self(self.0.swap_bytes())
    }

    /// A checksum after the change.
    #[inline]
    #[must_use]
    pub fn apply(self, checksum: U16) -> U16 {
        U16::from_bytes((!fold(u64::from(!raw(checksum)) + u64::from(self.0))).to_ne_bytes())
    }

    /// A UDP checksum after the change: zero (none) stays zero, and a sum of zero becomes all ones (RFC 768).
    #[inline]
    #[must_use]
    pub fn apply_udp(self, checksum: U16) -> U16 {
        if checksum == U16::ZERO { checksum } else { U16::new(not_zero(self.apply(checksum).get())) }
    }

    /// A partial checksum (the pseudo-header's sum, not complemented) after a change of the pseudo-header.
    #[inline]
    #[must_use]
    pub fn apply_partial(self, sum: U16) -> U16 {
        U16::from_bytes(fold(u64::from(raw(sum)) + u64::from(self.0)).to_ne_bytes())
    }

    /// The change as bits to store; only [`Delta::from_bits`] on the same machine reads them.
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// The change that [`Delta::to_bits`] gave.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

/// A checksum after the 16-bit number that it covers went from `old` to `new` (RFC 1624).
#[inline]
#[must_use]
pub fn adjust_u16(checksum: U16, old: u16, new: u16) -> U16 {
    Delta::u16(old, new).apply(checksum)
}

/// Completes a partial checksum in place: `packet` from byte `start` on is summed, with the pseudo-header's sum that
/// the field at `start + offset` holds, and the checksum goes to that field (virtio 1.2, section 5.1.6.2).
///
/// None, and nothing written, when the field does not lie inside the packet. A result of zero is written as all ones,
/// which is equal for TCP and needed for UDP.
#[inline]
pub fn complete(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let covered = packet.get_mut(start..)?;
    let sum = Sum::new().bytes(covered).checksum_udp();
    *covered.get_mut(offset..)?.first_chunk_mut::<2>()? = sum.to_be_bytes();
    Some(())
}

#[inline]
fn not_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[inline]
fn raw(value: U16) -> u16 {
    u16::from_ne_bytes(value.to_bytes())
}

/// The sum of a 128-bit number's four words, in memory order.
#[inline]
fn quarters(value: u128) -> u64 {
    let word = |shift: u32| u64::from(((value.to_be() >> shift) & 0xffff_ffff) as u32);
    word(0) + word(32) + word(64) + word(96)
}

/// The words of `bytes` in memory order, 32 bytes a step in four lanes that the compiler puts in one vector.
///
/// A lane takes less than 2^33 a step, so it cannot overflow below 64 GiB.
#[inline]
fn add_up(bytes: &[u8]) -> u64 {
    let (steps, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 4];
    for step in steps {
        for (lane, word) in lanes.iter_mut().zip(step.as_chunks::<8>().0) {
            let word = u64::from_ne_bytes(*word);
            *lane += (word & 0xffff_ffff) + (word >> 32);
        }
    }
    let (words, rest) = rest.as_chunks::<4>();
    let words: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    lanes.iter().sum::<u64>() + words + u64::from(u32::from_ne_bytes(last))
}

/// Folds 64 bits to 16 with end-around carry; a sum that is not zero stays so.
#[inline]
pub(crate) const fn fold(sum: u64) -> u16 {
    let half = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (half.wrapping_add(half.rotate_left(16)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 as its section 1 says it, one word at a time.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xff; 65_535]), naive(&[0xff; 65_535]));
    }

    #[test]
    fn example_of_rfc_1624() {
        assert_eq!(adjust_u16(U16::new(0xdd2f), 0x5555, 0x3285).get(), 0x0000);
    }

    #[test]
    fn udp_keeps_none_and_never_makes_it() {
        assert_eq!(Delta::u16(1, 2).apply_udp(U16::ZERO).get(), 0);
        assert_eq!(Delta::u16(0x5555, 0x3285).apply_udp(U16::new(0xdd2f)).get(), 0xffff);
        assert_eq!(Delta::u16(7, 7).apply_udp(U16::new(0xffff)).get(), 0xffff);
    }

    #[test]
    fn complete_refuses_a_field_outside() {
        let mut packet = [1_u8; 10];
        assert_eq!(complete(&mut packet, 11, 0), None);
        assert_eq!(complete(&mut packet, 4, 5), None);
        assert_eq!(complete(&mut packet, usize::MAX, usize::MAX), None);
        assert_eq!(packet, [1; 10]);
    }

    proptest! {
        #[test]
        fn fast_equals_naive(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn pieces_equal_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in any::<[prop::sample::Index; 2]>()) {
            let mut at = cuts.map(|cut| cut.index(bytes.len() + 1));
            at.sort_unstable();
            let sum = Sum::new().bytes(&bytes[..at[0]]).bytes(&bytes[at[0]..at[1]]).bytes(&bytes[at[1]..]);
            prop_assert_eq!(sum.checksum(), naive(&bytes));
        }

        #[test]
        fn incremental_equals_recomputed(mut bytes in any::<[u8; 40]>(), half: u16, word: u32, wide: u128) {
            bytes[39] |= 1;
            let old = U16::new(checksum(&bytes));
            let delta = Delta::u16(u16::from_be_bytes(bytes[..2].try_into().unwrap()), half)
                .and(Delta::u32(u32::from_be_bytes(bytes[2..6].try_into().unwrap()), word))
                .and(Delta::u128(u128::from_be_bytes(bytes[8..24].try_into().unwrap()), wide));
            let mut new = bytes;
            new[..2].copy_from_slice(&half.to_be_bytes());
            new[2..6].copy_from_slice(&word.to_be_bytes());
            new[8..24].copy_from_slice(&wide.to_be_bytes());
            prop_assert_eq!(delta.apply(old).get(), checksum(&new));
            prop_assert_eq!(delta.reversed().apply(delta.apply(old)), old);
            prop_assert_eq!(Delta::from_bits(delta.to_bits()), delta);
        }

        #[test]
        fn odd_offset_swaps(bytes in any::<[u8; 9]>(), new: u16) {
            let mut changed = bytes;
            changed[3..5].copy_from_slice(&new.to_be_bytes());
            changed[8] |= 1;
            let mut bytes = bytes;
            bytes[8] |= 1;
            let delta = Delta::u16(u16::from_be_bytes([bytes[3], bytes[4]]), new).at_odd_offset();
            prop_assert_eq!(delta.apply(U16::new(checksum(&bytes))).get(), checksum(&changed));
        }

        #[test]
        fn completed_verifies(src: u32, dst: u32, to: u32, mut segment in prop::collection::vec(any::<u8>(), 8..100)) {
            let sum = |dst: u32, len: usize| Sum::pseudo_v4(src.into(), dst.into(), Protocol::UDP, len.try_into().unwrap());
            let partial = U16::new(sum(dst, segment.len()).folded());
            let partial = Delta::u32(dst, to).apply_partial(partial);
            segment[6..8].copy_from_slice(&partial.to_bytes());
            complete(&mut segment, 0, 6).unwrap();
            prop_assert_eq!(sum(to, segment.len()).bytes(&segment).checksum(), 0);
        }
    }
}
