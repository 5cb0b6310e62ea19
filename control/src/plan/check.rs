//! Do the facts make sense together?
use std::{collections::BTreeSet, net::IpAddr};

use crate::watch::{Facts, Node};

/// What contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The own node is not there.
    #[error("node {0:?} is not one of the nodes")]
    NoSelf(String),
    /// Two nodes share what must be one's own.
    #[error("nodes {0:?} and {1:?} share {2}")]
    Shared(String, String, String),
    /// There is no way to a node.
    #[error("node {name:?} cannot be reached: {why}")]
    NoWay {
        /// The node.
        name: String,
        /// Why.
        why: String,
    },
    /// The uplink's MTU is needed and not known.
    #[error("the MTU of {0} cannot be read: is that interface there? (or set options.mtu)")]
    UnknownMtu(String),
    /// The MTU of pods cannot be that.
    #[error("the MTU of pods would be {0}: it must be 1280 to 65535 bytes (IPv6 needs 1280)")]
    Mtu(u32),
    /// An option is out of range.
    #[error("options.{0}")]
    Option(String),
}

/// Checks the facts, and finds the own node.
pub(super) fn facts(facts: &Facts) -> Result<&Node, PlanError> {
    let options = &facts.options;
    if !(1..1 << 24).contains(&options.vni) {
        return Err(PlanError::Option(format!("vni: {} is not 1 to 16777215", options.vni)));
    }
    if options.host_interface.is_empty() || options.host_interface.len() > 15 {
        return Err(PlanError::Option(format!("hostInterface: {:?} is no interface name", options.host_interface)));
    }
    for (i, one) in facts.nodes.iter().enumerate() {
        for other in facts.nodes.iter().skip(i + 1) {
            if let Some(what) = shared(one, other) {
                return Err(PlanError::Shared(one.name.clone(), other.name.clone(), what));
            }
        }
    }
    facts.nodes.iter().find(|node| node.name == facts.node).ok_or_else(|| PlanError::NoSelf(facts.node.clone()))
}

fn shared(one: &Node, other: &Node) -> Option<String> {
    if one.name == other.name {
        return Some("their name".into());
    }
    let addresses: BTreeSet<IpAddr> = one.addresses.iter().map(|address| address.ip).collect();
    if let Some(address) = other.addresses.iter().find(|address| addresses.contains(&address.ip)) {
        return Some(format!("address {}", address.ip));
    }
    let overlaps = |range: &&ipnet::IpNet| one.pod_ranges.iter().any(|r| r.contains(*range) || range.contains(r));
    other.pod_ranges.iter().find(overlaps).map(|range| format!("pod range {range}"))
}
