//! Routes that change: which way a destination had at any time.
use crate::config::Range;
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    ops::RangeInclusive,
};

/// From which generation on, and where.
type Since = (u64, Option<usize>);

/// The routes of one VRF over generations; each leads somewhere, by a number of the caller's, or nowhere.
#[derive(Clone, Debug, Default)]
pub struct History {
    routes: HashMap<(IpAddr, u8), Vec<Since>>, // by masked address and length, oldest first
    lens: BTreeSet<u8>,
}

impl History {
    /// From a generation on, a route leads so; `None`: there is no such route. Told in order of generations.
    pub fn set(&mut self, range: Range, generation: u64, way: Option<usize>) {
        self.lens.insert(range.1);
        self.routes.entry((masked(range.0, range.1), range.1)).or_default().push((generation, way));
    }

    /// Where the longest route to a destination led in a generation.
    pub fn way(&self, to: IpAddr, generation: u64) -> Option<usize> {
        let most = if to.is_ipv4() { 32 } else { 128 };
        self.lens.range(..=most).rev().find_map(|len| {
            let route = self.routes.get(&(masked(to, *len), *len))?;
            route.iter().rev().find(|(since, _)| *since <= generation)?.1
        })
    }

    /// The ways that a destination had from one generation to another.
    pub fn ways(&self, to: IpAddr, generations: RangeInclusive<u64>) -> BTreeSet<Option<usize>> {
        generations.map(|generation| self.way(to, generation)).collect()
    }
}

/// The first `len` bits of an address.
fn masked(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}
