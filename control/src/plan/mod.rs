//! The plan: from facts and the pods of this node to what its dataplane is to do. Pure.
mod check;
mod pods;
mod underlay;

use std::net::IpAddr;

use ipnet::IpNet;
use proto::{ip_bytes, v1};

use crate::watch::{Facts, Node};

pub use check::PlanError;

/// The virtual routing table of pods and of what is inside tunnels.
pub const PODS: u32 = 0;
/// The virtual routing table of the uplink. Apart, so that no pod reaches it but through a tunnel.
pub const UNDERLAY: u32 = 1;

/// The address of the gateway that each pod sees, IPv4. Nobody else's, so that no pod address is spent on it.
pub const GATEWAY4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 1, 1));
/// The address of the gateway that each pod sees, IPv6.
pub const GATEWAY6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The container's id.
    pub container: String,
    /// The interface's name in it.
    pub ifname: String,
    /// The path of its network namespace.
    pub netns: String,
    /// The MAC address of its interface.
    pub mac: [u8; 6],
    /// The MTU of its interface, in bytes.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// What the ids of all its objects begin with; its port's id.
    pub fn id(&self) -> String {
        pod_id(&self.container, &self.ifname)
    }
}

/// What the ids of a pod's objects begin with; its port's id.
pub fn pod_id(container: &str, ifname: &str) -> String {
    format!("pod/{container}/{ifname}")
}

/// The pod that the object `id` belongs to, by its [`Pod::id`].
pub fn owner(id: &str) -> Option<&str> {
    let rest = id.strip_prefix("pod/")?;
    let container = rest.find('/')?;
    let ifname = rest.get(container + 1..)?;
    let end = ifname.find('/').unwrap_or(ifname.len());
    id.get(..4 + container + 1 + end)
}

/// Plans this node.
///
/// # Errors
/// When the facts contradict themselves.
pub fn plan(facts: &Facts, pods: &[Pod]) -> Result<v1::Desired, PlanError> {
    let own = check::facts(facts)?;
    let mut desired = v1::Desired { settings: Some(v1::Settings::default()), ..v1::Desired::default() };
    underlay::uplink(facts, own, &mut desired)?;
    pods::host(facts, own, &mut desired)?;
    for pod in pods {
        pods::pod(pod, own, &mut desired);
    }
    Ok(desired)
}

/// The MTU of pods, in bytes.
///
/// # Errors
/// When it is to follow the uplink's and that is not known, or is less than IPv6 needs.
pub fn pod_mtu(facts: &Facts) -> Result<u32, PlanError> {
    let mtu = match (facts.options.mtu, facts.uplink_mtu) {
        (Some(mtu), _) => mtu,
        (None, Some(uplink)) => uplink.saturating_sub(underlay::overhead(facts)),
        (None, None) => return Err(PlanError::UnknownMtu(facts.uplink.interface.clone())),
    };
    if !(1280..=65_535).contains(&mtu) {
        return Err(PlanError::Mtu(mtu));
    }
    Ok(mtu)
}

/// A MAC address for `what` called `name`: the same wherever it is derived, locally administered (IEEE 802 bit 1).
pub fn mac_of(what: &str, name: &str) -> [u8; 6] {
    // FNV-1a, 64 bit.
    let bytes = what.bytes().chain([0]).chain(name.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    [0x02, a ^ f, b ^ g, c ^ h, d, e]
}

fn route(id: String, vrf: u32, prefix: v1::Prefix, next_hop: v1::route::NextHop) -> v1::Route {
    v1::Route { id, vrf, prefix: Some(prefix), next_hop: Some(next_hop) }
}

fn via(port: &str, gateway: Option<IpAddr>) -> v1::route::NextHop {
    v1::route::NextHop::Via(v1::route::Via {
        port: port.to_owned(),
        gateway: gateway.map(ip_bytes).unwrap_or_default(),
    })
}

fn prefix(net: &IpNet) -> v1::Prefix {
    v1::Prefix::new(net.addr(), net.prefix_len())
}

/// The MAC address that Millrace uses towards pods and host.
fn gateway_mac(own: &Node) -> [u8; 6] {
    mac_of("gateway", &own.name)
}
