//! What routes mean, as plainly as it can be said: tests compare the tables with it.
use crate::{
    rib::Address,
    told::{LeafId, NextHopId},
};
use std::collections::BTreeMap;

/// Leaves by prefix and length.
pub(crate) type Naive<A> = BTreeMap<(A, u8), LeafId>;

/// The next hop of a leaf; none where there is no leaf.
pub(crate) fn hop(leaf: LeafId) -> NextHopId {
    NextHopId(leaf.0 * 255)
}

/// The leaf of the longest prefix that holds an address; zero for none.
pub(crate) fn lookup<A: Address + Ord>(routes: &Naive<A>, address: A) -> LeafId {
    covering(routes, address, A::BITS + 1).unwrap_or_default()
}

/// The leaf of the longest prefix of fewer than `len` bits that holds an address.
pub(crate) fn covering<A: Address + Ord>(routes: &Naive<A>, address: A, len: u8) -> Option<LeafId> {
    (0..len).rev().find_map(|len| routes.get(&(address.first(len), len))).copied()
}

/// Every address where an answer may change, and its neighbours.
pub(crate) fn borders<A: Address + TryFrom<u128>>(prefixes: impl Iterator<Item = (A, u8)>) -> Vec<A> {
    let ends = |(prefix, len): (A, u8)| {
        let first: u128 = prefix.first(len).into();
        [first, first | !(u128::MAX.unbounded_shl(u32::from(A::BITS - len)))]
    };
    let around = |address: u128| [address.wrapping_sub(1), address, address.wrapping_add(1)];
    prefixes.flat_map(ends).flat_map(around).filter_map(|address| A::try_from(address).ok()).collect()
}
