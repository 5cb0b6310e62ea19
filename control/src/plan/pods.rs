//! The host's own port, and a port for each pod.
use std::net::IpAddr;

use ipnet::IpNet;
use proto::{
    ip_bytes,
    v1::{self, port, route::NextHop},
};

use super::{GATEWAY4, GATEWAY6, PODS, PlanError, Pod, gateway_mac, mac_of, pod_mtu, prefix, route, via};
use crate::{
    ipam,
    watch::{Facts, Node},
};

const HOST: &str = "host";

/// Plans the host's port: all that host and pods say to each other passes it, both ways, so that a strict reverse path
/// filter and connection tracking on the host see whole conversations.
pub(super) fn host(facts: &Facts, own: &Node, desired: &mut v1::Desired) -> Result<(), PlanError> {
    let first = |v4: bool| own.pod_ranges.iter().find(|range| range.addr().is_ipv4() == v4).map(ipam::host_address);
    let addresses: Vec<_> = [first(true), first(false)].into_iter().flatten().collect();
    let mac = mac_of("host", &own.name);
    let ranges: Vec<_> = facts.nodes.iter().flat_map(|node| &node.pod_ranges).copied().collect();
    let tap = v1::Tap {
        netns_path: String::new(),
        name: facts.options.host_interface.clone(),
        mac: mac.to_vec(),
        mtu: pod_mtu(facts)?,
        queues: 0,
        addresses: addresses.iter().copied().map(v1::Prefix::host).collect(),
        routes: tap_routes(&addresses, &ranges, true),
    };
    desired.ports.push(tap_port(HOST.into(), v1::Role::Host, own, tap, &addresses));
    let reached = addresses.iter().copied().chain(own.addresses.iter().map(|address| address.ip));
    for address in reached {
        reach(format!("{HOST}/{address}"), HOST, address, mac, desired);
    }
    // What nobody has is answered here: it must not follow a shorter prefix out again.
    for range in &own.pod_ranges {
        let id = format!("range/{range}");
        desired.routes.push(route(id, PODS, prefix(range), NextHop::Unreachable(v1::route::Unreachable {})));
    }
    Ok(())
}

/// Plans a pod.
pub(super) fn pod(pod: &Pod, own: &Node, desired: &mut v1::Desired) {
    let id = pod.id();
    let everywhere: Vec<IpNet> = ["0.0.0.0/0", "::/0"].iter().filter_map(|text| text.parse().ok()).collect();
    let tap = v1::Tap {
        netns_path: pod.netns.clone(),
        name: pod.ifname.clone(),
        mac: pod.mac.to_vec(),
        mtu: pod.mtu,
        queues: 0,
        addresses: pod.addresses.iter().copied().map(v1::Prefix::host).collect(),
        routes: tap_routes(&pod.addresses, &everywhere, false),
    };
    let mut port = tap_port(id.clone(), v1::Role::Pod, own, tap, &pod.addresses);
    port.allowed_addresses = pod.addresses.iter().copied().map(v1::Prefix::host).collect();
    desired.ports.push(port);
    for address in &pod.addresses {
        reach(format!("{id}/{address}"), &id, *address, pod.mac, desired);
    }
}

fn tap_port(id: String, role: v1::Role, own: &Node, tap: v1::Tap, addresses: &[IpAddr]) -> v1::Port {
    v1::Port {
        id,
        role: role.into(),
        vrf: PODS,
        mac: gateway_mac(own).to_vec(),
        mtu: tap.mtu,
        gateways: gateways(addresses).map(ip_bytes).collect(),
        resolve: v1::Resolve::Static.into(),
        kind: Some(port::Kind::Tap(tap)),
        ..v1::Port::default()
    }
}

/// A host route to `address` out of `port`, and who answers there.
fn reach(id: String, port: &str, address: IpAddr, mac: [u8; 6], desired: &mut v1::Desired) {
    desired.routes.push(route(id.clone(), PODS, v1::Prefix::host(address), via(port, None)));
    desired.neighbours.push(v1::Neighbour { id, port: port.into(), address: ip_bytes(address), mac: mac.to_vec() });
}

/// Routes on the kernel's side of a tap: the gateway of each family, and `ranges` by it.
fn tap_routes(addresses: &[IpAddr], ranges: &[IpNet], with_source: bool) -> Vec<v1::TapRoute> {
    let mut routes = Vec::new();
    for gateway in gateways(addresses) {
        let source = addresses.iter().find(|ip| with_source && ip.is_ipv4() == gateway.is_ipv4());
        let source = source.copied().map(ip_bytes).unwrap_or_default();
        if gateway.is_ipv4() {
            // fe80::/64 is on every link already.
            routes.push(v1::TapRoute {
                to: Some(v1::Prefix::host(gateway)),
                source: source.clone(),
                ..v1::TapRoute::default()
            });
        }
        routes.extend(ranges.iter().filter(|range| range.addr().is_ipv4() == gateway.is_ipv4()).map(|range| {
            v1::TapRoute { to: Some(prefix(range)), gateway: ip_bytes(gateway), source: source.clone(), mtu: 0 }
        }));
    }
    routes
}

fn gateways(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let has = |v4: bool| addresses.iter().any(|ip| ip.is_ipv4() == v4);
    [(GATEWAY4, has(true)), (GATEWAY6, has(false))].into_iter().filter(|(_, has)| *has).map(|(gateway, _)| gateway)
}
