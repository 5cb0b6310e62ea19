//! What a route leads to, in one word: a lookup that ends with it needs to read nothing else.
use crate::told::{LeafId, NextHopId};

/// Leaf numbers are below this.
pub const MOST_LEAVES: u32 = 1 << LEAF_BITS;

const LEAF_BITS: u32 = 24;

/// How many bits a way takes, from the lowest: 24 of leaf, 32 of next hop. Zero is no way.
pub(crate) const WAY_BITS: u32 = LEAF_BITS + u32::BITS;

/// A leaf and its next hop.
#[inline(always)]
pub(crate) fn way(leaf: LeafId, next_hop: NextHopId) -> u64 {
    assert!(leaf.0 < MOST_LEAVES, "leaf {}", leaf.0);
    u64::from(next_hop.0) << LEAF_BITS | u64::from(leaf.0)
}

/// The leaf of a way; bits above the way do not matter.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "takes 24 bits")]
pub(crate) fn leaf_of(way: u64) -> LeafId {
    LeafId(way as u32 & (MOST_LEAVES - 1))
}

/// The next hop of a way; bits above the way do not matter.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "takes 32 bits")]
pub(crate) fn next_hop_of(way: u64) -> NextHopId {
    NextHopId((way >> LEAF_BITS) as u32)
}
