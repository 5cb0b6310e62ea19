//! What needs an instruction of its own: prefetch, tag compare, hash, clock ticks.
// UNSAFETY: intrinsics of the processor are unsafe functions. With these few, tables and nodes need no unsafe code.
#![expect(unsafe_code, reason = "processor intrinsics")]

/// Starts loading the first cache line of `what`.
#[inline(always)]
pub fn fetch<T: ?Sized>(what: &T) {
    fetch_at(std::ptr::from_ref(what).cast());
}

#[inline(always)]
pub(crate) fn fetch_at(what: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing but the cache and cannot fault, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(what.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}

/// One bit for each of `tags` that equals `tag`, the first in bit 0.
#[inline(always)]
pub fn matches(tags: &[u16; 32], tag: u16) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    // SAFETY: the whole build is for processors with AVX2.
    unsafe {
        matches_avx2(tags, tag)
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
    matches_portable(tags, tag)
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
#[target_feature(enable = "avx2")]
#[inline]
fn matches_avx2(tags: &[u16; 32], tag: u16) -> u32 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi16, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_packs_epi16,
        _mm256_permute4x64_epi64, _mm256_set1_epi16,
    };
    let (low, high) = tags.split_at(16);
    let wanted = _mm256_set1_epi16(tag.cast_signed());
    // SAFETY: `low` is 16 words, 32 bytes.
    let low = unsafe { _mm256_loadu_si256(low.as_ptr().cast::<__m256i>()) };
    // SAFETY: `high` is 16 words, 32 bytes.
    let high = unsafe { _mm256_loadu_si256(high.as_ptr().cast::<__m256i>()) };
    let packed = _mm256_packs_epi16(_mm256_cmpeq_epi16(low, wanted), _mm256_cmpeq_epi16(high, wanted));
    // `packs` works on halves: put the quarters back in order.
    _mm256_movemask_epi8(_mm256_permute4x64_epi64::<0b11_01_10_00>(packed)).cast_unsigned()
}

#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "avx2"))))]
fn matches_portable(tags: &[u16; 32], tag: u16) -> u32 {
    tags.iter().rev().fold(0, |found, t| found << 1 | u32::from(*t == tag))
}

/// A hash of `key`, keyed by `seed`: three AES rounds where the processor has them, folded multiplication elsewhere.
///
/// Not cryptographic; without the seed, an attacker cannot construct keys that collide.
#[inline(always)]
pub fn hash128(key: u128, seed: u128) -> u64 {
    #[cfg(all(target_arch = "x86_64", target_feature = "aes"))]
    // SAFETY: the whole build is for processors with AES.
    unsafe {
        hash128_aes(key, seed)
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "aes")))]
    {
        let ((low, high), (a, b)) = (halves(key), halves(seed));
        let fold = |x: u64, y: u64| {
            let (low, high) = halves(u128::from(x) * u128::from(y));
            low ^ high
        };
        // Digits of pi keep a factor from being zero where key and seed are small.
        fold(fold(low ^ a ^ 0x243f_6a88_85a3_08d3, high ^ b ^ 0x1319_8a2e_0370_7344) ^ b, a ^ 0xa409_3822_299f_31d1)
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "aes"))]
#[target_feature(enable = "aes")]
#[inline]
fn hash128_aes(key: u128, seed: u128) -> u64 {
    use std::arch::x86_64::{__m128i, _mm_aesenc_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_xor_si128};
    #[target_feature(enable = "aes")]
    #[inline]
    fn load(value: u128) -> __m128i {
        let (low, high) = halves(value);
        _mm_set_epi64x(high.cast_signed(), low.cast_signed())
    }
    let (key, seed) = (load(key), load(seed));
    let mixed = _mm_aesenc_si128(_mm_xor_si128(key, seed), seed);
    let mixed = _mm_aesenc_si128(mixed, key);
    _mm_cvtsi128_si64(_mm_aesenc_si128(mixed, seed)).cast_unsigned()
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is meant")]
#[inline(always)]
const fn halves(value: u128) -> (u64, u64) {
    (value as u64, (value >> 64) as u64)
}

/// The processor's time stamp counter: clocks that tick at a constant rate. For measurements, not for time.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a counter.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_agrees_with_the_portable_compare() {
        let mut tags = [0u16; 32];
        for (i, tag) in (0u16..).zip(tags.iter_mut()) {
            *tag = if i % 5 == 0 { 0x8001 } else { i };
        }
        for wanted in (0..40).chain([0x8001, 0xffff]) {
            assert_eq!(matches(&tags, wanted), matches_portable(&tags, wanted), "tag {wanted}");
        }
    }

    #[test]
    fn hash_spreads_and_depends_on_the_seed() {
        let mut seen = std::collections::HashSet::new();
        for key in 0..10_000u128 {
            assert!(seen.insert(hash128(key, 7)) && hash128(key, 7) != hash128(key, 8));
        }
        // Low 32 bits choose the set, high 16 the tag: both must move.
        let sets: std::collections::HashSet<_> =
            (0..10_000u128).map(|key| hash128(key << 64, 7) & 0xffff_ffff).collect();
        let tags: std::collections::HashSet<_> = (0..10_000u128).map(|key| hash128(key << 64, 7) >> 48).collect();
        assert!(sets.len() > 9_990 && tags.len() > 8_000, "{} sets, {} tags", sets.len(), tags.len());
    }
}
