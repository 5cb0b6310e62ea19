//! Addresses of the node's own ranges.
//!
//! Nothing is kept here: what is taken is what attachments hold, and the journal of these survives restarts. Addresses
//! go round, so that one that was given back rests as long as the range allows.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// Where the search in a range goes on: the last offset that was given.
pub type Cursors = BTreeMap<IpNet, u128>;

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// No range has one left.
    #[error("all {total} addresses of {ranges} are taken")]
    Full {
        /// The ranges of the family.
        ranges: String,
        /// How many addresses they have for pods.
        total: u128,
    },
    /// The address that was asked for is taken.
    #[error("address {0} is taken")]
    Taken(IpAddr),
    /// The address that was asked for is not of a range of this node, or is not for pods.
    #[error("address {0} is not a pod address of this node")]
    Foreign(IpAddr),
    /// The node has no ranges.
    #[error("this node has no pod ranges")]
    NoRange,
}

/// The host's own address in a range: the first one.
pub fn host_address(range: &IpNet) -> IpAddr {
    at(range, 1)
}

/// One free address of each family of which there are ranges; `asked` are taken as they are, the rest is found.
///
/// # Errors
/// When a family is full, or what was asked for cannot be had. Nothing is taken then.
pub fn allocate(
    ranges: &[IpNet],
    taken: &BTreeSet<IpAddr>,
    asked: &[IpAddr],
    cursors: &mut Cursors,
) -> Result<Vec<IpAddr>, NoAddress> {
    if ranges.is_empty() {
        return Err(NoAddress::NoRange);
    }
    if let Some(wrong) = asked.iter().find(|ip| !ranges.iter().any(|range| is_for_pods(range, **ip))) {
        return Err(NoAddress::Foreign(*wrong));
    }
    if let Some(wrong) = asked.iter().find(|ip| taken.contains(ip)) {
        return Err(NoAddress::Taken(*wrong));
    }
    let mut moved = cursors.clone();
    let mut found = Vec::new();
    for v4 in [true, false] {
        let family: Vec<_> = ranges.iter().filter(|range| range.addr().is_ipv4() == v4).collect();
        if let Some(ip) = asked.iter().find(|ip| ip.is_ipv4() == v4) {
            found.push(*ip);
        } else if !family.is_empty() {
            found.push(search(&family, taken, &mut moved)?);
        }
    }
    *cursors = moved;
    Ok(found)
}

/// How many addresses are free in the scarcest family.
pub fn free(ranges: &[IpNet], taken: &BTreeSet<IpAddr>) -> u128 {
    let of = |v4: bool| {
        let family = ranges.iter().filter(move |range| range.addr().is_ipv4() == v4);
        let free = |range: &IpNet| count(range) - taken.iter().filter(|ip| is_for_pods(range, **ip)).count() as u128;
        family.map(free).reduce(u128::saturating_add)
    };
    [true, false].into_iter().filter_map(of).min().unwrap_or(0)
}

fn search(family: &[&IpNet], taken: &BTreeSet<IpAddr>, cursors: &mut Cursors) -> Result<IpAddr, NoAddress> {
    for range in family {
        let total = count(range);
        let last = cursors.get(range).copied().unwrap_or(FIRST - 1);
        // One more step than there are taken addresses meets a free one, if there is any.
        for step in 1..=total.min(taken.len() as u128 + 1) {
            let offset = FIRST + (last - (FIRST - 1) + step - 1) % total;
            let ip = at(range, offset);
            if !taken.contains(&ip) {
                cursors.insert(**range, offset);
                return Ok(ip);
            }
        }
    }
    let ranges: Vec<_> = family.iter().map(ToString::to_string).collect();
    Err(NoAddress::Full {
        ranges: ranges.join(", "),
        total: family.iter().map(|range| count(range)).fold(0, u128::saturating_add),
    })
}

/// The first offset for pods: the network's own address and the host's come before.
const FIRST: u128 = 2;

/// How many addresses of a range are for pods.
fn count(range: &IpNet) -> u128 {
    let (bits, broadcast) =
        (u32::from(range.max_prefix_len() - range.prefix_len()), u128::from(range.addr().is_ipv4()));
    let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    all.saturating_sub(FIRST + broadcast)
}

fn is_for_pods(range: &IpNet, ip: IpAddr) -> bool {
    range.contains(&ip) && (FIRST..FIRST + count(range)).contains(&(number(ip) - number(range.network())))
}

fn at(range: &IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(v4) => Ipv4Addr::from(v4.to_bits().wrapping_add(u32::try_from(offset).unwrap_or(0))).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(v6.to_bits().wrapping_add(offset)).into(),
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_pod_gets_one_of_each_family_behind_the_hosts() {
        let ranges = ranges(&["10.1.1.0/24", "fd00::/64"]);
        let (mut taken, mut cursors) = (BTreeSet::new(), Cursors::new());
        let first = allocate(&ranges, &taken, &[], &mut cursors).unwrap();
        assert_eq!(first, [ip("10.1.1.2"), ip("fd00::2")]);
        assert_eq!(host_address(&ranges[0]), ip("10.1.1.1"));
        taken.extend(first);
        assert_eq!(allocate(&ranges, &taken, &[], &mut cursors).unwrap(), [ip("10.1.1.3"), ip("fd00::3")]);
        // What was given back rests.
        taken.clear();
        assert_eq!(allocate(&ranges, &taken, &[], &mut cursors).unwrap(), [ip("10.1.1.4"), ip("fd00::4")]);
        assert_eq!(free(&ranges, &taken), 253);
    }

    #[test]
    fn a_full_range_says_so_and_takes_nothing() {
        let ranges = ranges(&["10.1.1.0/29", "fd00::/64"]);
        let taken: BTreeSet<_> = (2..7).map(|n| ip(&format!("10.1.1.{n}"))).collect();
        let mut cursors = Cursors::new();
        let error = allocate(&ranges, &taken, &[], &mut cursors).unwrap_err();
        assert_eq!(error.to_string(), "all 5 addresses of 10.1.1.0/29 are taken");
        assert_eq!((cursors.len(), free(&ranges, &taken)), (0, 0));
        assert_eq!(allocate(&[], &taken, &[], &mut cursors), Err(NoAddress::NoRange));
        assert!(matches!(allocate(&[ranges[0]], &taken, &[], &mut cursors), Err(NoAddress::Full { .. })));
    }

    #[test]
    fn what_is_asked_for_is_checked() {
        let ranges = ranges(&["10.1.1.0/24", "fd00::/64"]);
        let taken = [ip("10.1.1.9")].into();
        let ask = |text: &str| allocate(&ranges, &taken, &[ip(text)], &mut Cursors::new());
        assert_eq!(ask("10.1.1.77").unwrap(), [ip("10.1.1.77"), ip("fd00::2")]);
        assert_eq!(ask("10.1.1.9"), Err(NoAddress::Taken(ip("10.1.1.9"))));
        for foreign in ["10.1.2.1", "10.1.1.0", "10.1.1.1", "10.1.1.255", "fd00::1"] {
            assert_eq!(ask(foreign), Err(NoAddress::Foreign(ip(foreign))), "{foreign}");
        }
    }

    #[test]
    fn tiny_and_huge_ranges_are_no_trap() {
        let mut cursors = Cursors::new();
        for tiny in ["10.0.0.1/32", "10.0.0.0/31", "10.0.0.0/30", "fd00::1/128", "fd00::/127"] {
            let found = allocate(&ranges(&[tiny]), &BTreeSet::new(), &[], &mut cursors);
            assert_eq!(found.is_ok(), tiny == "10.0.0.0/30", "{tiny}: {found:?}");
        }
        assert_eq!(allocate(&ranges(&["::/0"]), &BTreeSet::new(), &[], &mut cursors).unwrap(), [ip("::2")]);
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice_and_none_is_lost(steps in proptest::collection::vec((any::<bool>(), 0usize..16), 1..200)) {
            let ranges = ranges(&["10.1.1.0/28", "10.1.9.0/29", "fd00::/124"]);
            let (mut held, mut cursors): (Vec<Vec<IpAddr>>, _) = (Vec::new(), Cursors::new());
            for (add, which) in steps {
                let taken: BTreeSet<IpAddr> = held.iter().flatten().copied().collect();
                if add {
                    match allocate(&ranges, &taken, &[], &mut cursors) {
                        Ok(got) => {
                            prop_assert_eq!(got.len(), 2);
                            prop_assert!(got.iter().all(|ip| !taken.contains(ip) && ranges.iter().any(|r| is_for_pods(r, *ip))));
                            held.push(got);
                        }
                        // 13 + 5 of IPv4, 14 of IPv6.
                        Err(_) => prop_assert_eq!((held.len(), free(&ranges, &taken)), (14, 0)),
                    }
                } else if !held.is_empty() {
                    held.remove(which % held.len());
                }
            }
        }
    }
}
