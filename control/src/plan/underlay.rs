//! The uplink, and a tunnel to each other node.
use std::net::IpAddr;

use proto::{
    ip_bytes,
    v1::{self, af_xdp::Ownership, port, route::NextHop, tunnel},
};

use super::{PODS, PlanError, UNDERLAY, mac_of, pod_mtu, prefix, route, via};
use crate::watch::{Facts, Node, NodeAddress, Underlay};

const PORT: &str = "uplink";

/// Plans the uplink and what lies behind it.
pub(super) fn uplink(facts: &Facts, own: &Node, desired: &mut v1::Desired) -> Result<(), PlanError> {
    let uplink = &facts.uplink;
    let shared = uplink.mode != Ownership::Owned;
    desired.ports.push(v1::Port {
        id: PORT.into(),
        kind: Some(port::Kind::AfXdp(v1::AfXdp {
            interface: uplink.interface.clone(),
            mode: uplink.mode.into(),
            attach: uplink.attach.into(),
            zero_copy: uplink.zero_copy.into(),
            queues: uplink.queues,
            busy_poll: uplink.busy_poll,
        })),
        role: v1::Role::Uplink.into(),
        vrf: UNDERLAY,
        // On a shared interface the kernel speaks for our addresses, and knows its neighbours.
        resolve: if shared { v1::Resolve::Kernel } else { v1::Resolve::Own }.into(),
        gateways: if shared { Vec::new() } else { own.addresses.iter().map(|address| ip_bytes(address.ip)).collect() },
        mtu: facts.uplink_mtu.unwrap_or(0),
        ..v1::Port::default()
    });
    for address in &own.addresses {
        let id = format!("underlay/{}", address.ip);
        desired.routes.push(route(id, UNDERLAY, v1::Prefix::host(address.ip), NextHop::Local(v1::route::Local {})));
    }
    let family = family(facts);
    facts.nodes.iter().filter(|node| node.name != own.name).try_for_each(|node| peer(facts, own, node, family, desired))
}

fn peer(facts: &Facts, own: &Node, node: &Node, v4: bool, desired: &mut v1::Desired) -> Result<(), PlanError> {
    let no_way = |why: String| PlanError::NoWay { name: node.name.clone(), why };
    let of = |node: &Node| node.addresses.iter().find(|address| address.ip.is_ipv4() == v4).copied();
    let word = if v4 { "IPv4" } else { "IPv6" };
    let local = of(own).ok_or_else(|| no_way(format!("this node has no {word} address for tunnels")))?;
    let remote = of(node).ok_or_else(|| no_way(format!("it has no {word} address for tunnels")))?;
    let gateway = gateway(facts, local, remote.ip).map_err(no_way)?;
    let id = format!("node/{}", node.name);
    desired.tunnels.push(v1::Tunnel {
        id: id.clone(),
        kind: Some(tunnel::Kind::Vxlan(v1::Vxlan {
            vni: facts.options.vni,
            udp_port: facts.options.udp_port.into(),
            local: ip_bytes(local.ip),
            remote: ip_bytes(remote.ip),
            local_mac: end(own).to_vec(),
            remote_mac: end(node).to_vec(),
        })),
        vrf: PODS,
        underlay_vrf: UNDERLAY,
        mtu: pod_mtu(facts)?,
    });
    let underlay = format!("underlay/{}", remote.ip);
    desired.routes.push(route(underlay, UNDERLAY, v1::Prefix::host(remote.ip), via(PORT, gateway)));
    // Its pods, and the node itself: what a pod sends to a node comes out of that node's host port.
    let inner =
        node.pod_ranges.iter().map(prefix).chain(node.addresses.iter().map(|address| v1::Prefix::host(address.ip)));
    desired.routes.extend(inner.map(|to| route(format!("{id}/{}", to.text()), PODS, to, NextHop::Tunnel(id.clone()))));
    Ok(())
}

/// The gateway to `remote`, or none when it is on the link.
fn gateway(facts: &Facts, local: NodeAddress, remote: IpAddr) -> Result<Option<IpAddr>, String> {
    let gateway = facts.uplink.gateways.iter().find(|gateway| gateway.is_ipv4() == remote.is_ipv4()).copied();
    match local.network {
        Some(network) if !network.contains(&remote) => match gateway {
            Some(gateway) => Ok(Some(gateway)),
            None => Err(format!("{remote} is outside of {network}, and uplink.gateways has none of its family")),
        },
        _ => Ok(None),
    }
}

/// The MAC address of a node's end of tunnels.
fn end(node: &Node) -> [u8; 6] {
    node.mac.unwrap_or_else(|| mac_of("tunnel", &node.name))
}

/// Tunnels are IPv4. The same on all nodes, since all have the same facts.
fn family(facts: &Facts) -> bool {
    match facts.options.underlay {
        Underlay::Ipv4 => true,
        Underlay::Ipv6 => false,
        Underlay::Auto => facts.nodes.iter().all(|node| node.addresses.iter().any(|address| address.ip.is_ipv4())),
    }
}

/// The bytes that a tunnel adds to an inner IP packet: Ethernet 14, VXLAN 8, UDP 8, and IPv4 20 or IPv6 40.
pub(super) fn overhead(facts: &Facts) -> u32 {
    if family(facts) { 50 } else { 70 }
}
