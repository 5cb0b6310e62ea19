//! Objects to compile.
use dataplane::compile::State;
use proto::v1::{
    self, Delta, Desired, Kind, ObjectKey, Prefix, apply_request::Change, port, route::NextHop, tunnel as kind,
};
use std::net::IpAddr;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap();
    Prefix::new(ip(address), len.parse().unwrap())
}

pub(crate) fn key(kind: Kind, id: &str) -> ObjectKey {
    ObjectKey::new(kind, id)
}

pub(crate) fn whole(desired: Desired) -> Change {
    Change::Whole(desired)
}

pub(crate) fn delta(state: &State, upserts: Desired, deletes: &[ObjectKey]) -> Change {
    let expected_generation = state.generation();
    Change::Delta(Delta { expected_generation, upserts: Some(upserts), deletes: deletes.to_vec() })
}

pub(crate) fn null(id: &str) -> v1::Port {
    let kind = Some(port::Kind::Null(v1::Null {}));
    v1::Port { id: id.into(), kind, role: v1::Role::Host.into(), mac: vec![2, 0, 0, 0, 1, 0], ..v1::Port::default() }
}

pub(crate) fn pod(id: &str, address: &str) -> v1::Port {
    let tap = v1::Tap { netns_path: format!("/run/netns/{id}"), name: "eth0".into(), mtu: 1450, ..v1::Tap::default() };
    v1::Port {
        kind: Some(port::Kind::Tap(tap)),
        role: v1::Role::Pod.into(),
        allowed_addresses: vec![Prefix::host(ip(address))],
        gateways: vec![proto::ip_bytes(ip("169.254.1.1"))],
        ..null(id)
    }
}

pub(crate) fn uplink() -> v1::Port {
    let kind = Some(port::Kind::AfXdp(v1::AfXdp { interface: "eth0".into(), ..v1::AfXdp::default() }));
    let (role, resolve) = (v1::Role::Uplink.into(), v1::Resolve::Kernel.into());
    v1::Port { kind, role, resolve, vrf: 1, mac: vec![], ..null("uplink") }
}

pub(crate) fn route(id: &str, vrf: u32, to: &str, next_hop: NextHop) -> v1::Route {
    v1::Route { id: id.into(), vrf, prefix: Some(prefix(to)), next_hop: Some(next_hop) }
}

pub(crate) fn via(port: &str, gateway: Option<&str>) -> NextHop {
    let gateway = gateway.map(|gateway| proto::ip_bytes(ip(gateway))).unwrap_or_default();
    NextHop::Via(v1::route::Via { port: port.into(), gateway })
}

pub(crate) fn neighbour(id: &str, port: &str, address: &str, mac: u8) -> v1::Neighbour {
    let (address, mac) = (proto::ip_bytes(ip(address)), vec![2, 0, 0, 0, 0, mac]);
    v1::Neighbour { id: id.into(), port: port.into(), address, mac }
}

pub(crate) fn tunnel(id: &str, remote: &str) -> v1::Tunnel {
    let vxlan = v1::Vxlan {
        vni: 7,
        udp_port: 0,
        local: proto::ip_bytes(ip("192.0.2.1")),
        remote: proto::ip_bytes(ip(remote)),
        local_mac: vec![2, 0, 0, 0, 3, 1],
        remote_mac: vec![2, 0, 0, 0, 3, 2],
    };
    v1::Tunnel { id: id.into(), kind: Some(kind::Kind::Vxlan(vxlan)), vrf: 0, underlay_vrf: 1, mtu: 1450 }
}

/// Two pods, an uplink, and a tunnel to another host.
pub(crate) fn desired() -> Desired {
    Desired {
        settings: None,
        ports: vec![pod("a", "10.1.0.2"), pod("b", "10.1.0.3"), uplink()],
        routes: vec![
            route("a", 0, "10.1.0.2/32", via("a", None)),
            route("b", 0, "10.1.0.3/32", via("b", None)),
            route("other", 0, "10.2.0.0/16", NextHop::Tunnel("other".into())),
            route("far", 1, "192.0.2.0/24", via("uplink", None)),
        ],
        neighbours: vec![neighbour("a", "a", "10.1.0.2", 2), neighbour("b", "b", "10.1.0.3", 3)],
        tunnels: vec![tunnel("other", "192.0.2.2")],
    }
}
