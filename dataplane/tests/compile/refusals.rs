//! Each mistake is named: kind, id, field, reason; and a request with one changes nothing.
use crate::world::{delta, desired, ip, key, neighbour, null, pod, prefix, route, tunnel, uplink, via, whole};
use dataplane::compile::State;
use proto::{
    Refusal,
    v1::{self, Desired, Kind, Reason, apply_request::Change, port, route::NextHop, tunnel as of},
};

/// The refusal of `change` on top of the usual objects.
fn refused(change: impl FnOnce(&mut Desired)) -> (Kind, String, String, Reason) {
    let mut desired = desired();
    change(&mut desired);
    refusal(State::default().apply(whole(desired)))
}

fn refusal<T>(result: Result<T, Refusal>) -> (Kind, String, String, Reason) {
    let Err(refusal) = result else { panic!("was not refused") };
    assert!(!refusal.text.is_empty());
    (refusal.kind, refusal.id, refusal.field, refusal.reason)
}

fn is(kind: Kind, id: &str, field: &str, reason: Reason) -> (Kind, String, String, Reason) {
    (kind, id.into(), field.into(), reason)
}

/// Refuses pod "a" with a change to it.
fn port(field: &str, reason: Reason, change: impl FnOnce(&mut v1::Port)) {
    assert_eq!(refused(|d| change(&mut d.ports[0])), is(Kind::Port, "a", field, reason), "{field}");
}

fn tap(field: &str, reason: Reason, change: impl FnOnce(&mut v1::Tap)) {
    port(field, reason, |port| {
        let Some(port::Kind::Tap(tap)) = &mut port.kind else { unreachable!() };
        change(tap);
    });
}

fn vxlan(field: &str, reason: Reason, change: impl FnOnce(&mut v1::Vxlan)) {
    let found = refused(|d| {
        let Some(of::Kind::Vxlan(vxlan)) = &mut d.tunnels[0].kind else { unreachable!() };
        change(vxlan);
    });
    assert_eq!(found, is(Kind::Tunnel, "other", field, reason), "{field}");
}

#[test]
fn of_ports() {
    use Reason::{Conflict, Invalid, Missing, Unsupported};
    assert_eq!(refused(|d| d.ports[0].id.clear()), is(Kind::Port, "", "id", Missing));
    port("kind", Missing, |p| p.kind = None);
    port("af_packet", Unsupported, |p| p.kind = Some(port::Kind::AfPacket(v1::AfPacket::default())));
    port("role", Missing, |p| p.role = 0);
    port("role", Missing, |p| p.role = 99);
    port("vrf", Invalid, |p| p.vrf = 1024);
    port("mac", Missing, |p| p.mac.clear());
    port("mac", Invalid, |p| p.mac = vec![1; 5]);
    port("mac", Invalid, |p| p.mac = vec![1; 6]);
    port("mac", Invalid, |p| p.mac = vec![0; 6]);
    port("mtu", Invalid, |p| p.mtu = 67);
    port("mtu", Invalid, |p| p.mtu = 65_536);
    port("resolve", Invalid, |p| p.resolve = v1::Resolve::Kernel.into());
    port("gateways", Invalid, |p| p.gateways = vec![vec![1; 3]]);
    port("gateways", Invalid, |p| p.gateways = vec![vec![224, 0, 0, 1]]);
    port("allowed_addresses", Invalid, |p| p.allowed_addresses = vec![prefix("10.0.0.1/8")]);
    port("allowed_addresses", Unsupported, |p| p.role = v1::Role::Host.into());
    let overlap = refused(|d| d.ports[1].allowed_addresses = vec![prefix("10.1.0.0/16")]);
    assert_eq!(overlap, is(Kind::Port, "b", "allowed_addresses", Conflict));
    let inside = refused(|d| {
        d.ports[0].allowed_addresses = vec![prefix("10.1.0.0/16")];
        d.ports[1].allowed_addresses = vec![prefix("10.1.255.0/24")];
    });
    assert_eq!(inside, is(Kind::Port, "b", "allowed_addresses", Conflict));
    assert_eq!(refused(|d| d.ports.push(null("a"))), is(Kind::Port, "a", "id", Conflict));
    let second = refused(|d| d.ports.push(v1::Port { id: "up2".into(), ..uplink() }));
    assert_eq!(second, is(Kind::Port, "up2", "af_xdp.interface", Conflict));
}

#[test]
fn of_taps() {
    use Reason::{Invalid, Missing};
    tap("tap.name", Missing, |t| t.name.clear());
    for name in ["0123456789abcdef", "a/b", "a b", "..", "a:b", "all", "default"] {
        tap("tap.name", Invalid, |t| t.name = name.into());
    }
    tap("tap.netns_path", Invalid, |t| t.netns_path = "netns/a".into());
    tap("tap.mac", Invalid, |t| t.mac = vec![3; 6]);
    tap("tap.mtu", Missing, |t| t.mtu = 0);
    tap("tap.mtu", Invalid, |t| t.mtu = 70_000);
    tap("tap.addresses", Invalid, |t| t.addresses = vec![v1::Prefix { address: vec![10, 0, 0, 1], length: 33 }]);
    let to = |to: &str| v1::TapRoute { to: Some(prefix(to)), ..v1::TapRoute::default() };
    tap("tap.routes.to", Missing, |t| t.routes = vec![v1::TapRoute::default()]);
    tap("tap.routes.to", Invalid, |t| t.routes = vec![to("10.0.0.1/8")]);
    tap("tap.routes.gateway", Invalid, |t| {
        t.routes = vec![v1::TapRoute { gateway: proto::ip_bytes(ip("fe80::1")), ..to("0.0.0.0/0") }];
    });
    tap("tap.routes.mtu", Invalid, |t| t.routes = vec![v1::TapRoute { mtu: 1, ..to("0.0.0.0/0") }]);
    let twice = refused(|d| {
        let mut second = pod("c", "10.1.0.4");
        second.kind = d.ports[0].kind.clone();
        d.ports.push(second);
    });
    assert_eq!(twice, is(Kind::Port, "c", "tap.name", Reason::Conflict));
}

#[test]
fn of_routes_and_neighbours() {
    use Reason::{Conflict, Invalid, Missing, Unknown};
    let of = |field: &str, reason, next_hop| {
        let found = refused(|d| d.routes.push(route("r", 0, "10.7.0.0/16", next_hop)));
        assert_eq!(found, is(Kind::Route, "r", field, reason));
    };
    of("via.port", Unknown, via("nobody", None));
    of("via.port", Missing, via("", None));
    of("via.gateway", Invalid, via("a", Some("fd00::1")));
    of("via.gateway", Invalid, via("a", Some("0.0.0.0")));
    of("tunnel", Unknown, NextHop::Tunnel("nobody".into()));
    of("tunnel", Missing, NextHop::Tunnel(String::new()));
    let route = |field: &str, reason, change: fn(&mut v1::Route)| {
        assert_eq!(refused(|d| change(&mut d.routes[0])), is(Kind::Route, "a", field, reason));
    };
    route("prefix", Missing, |r| r.prefix = None);
    route("prefix", Invalid, |r| r.prefix = Some(prefix("10.0.0.1/8")));
    route("next_hop", Missing, |r| r.next_hop = None);
    route("vrf", Invalid, |r| r.vrf = u32::MAX);
    let same = refused(|d| d.routes[1].prefix = d.routes[0].prefix.clone());
    assert_eq!(same, is(Kind::Route, "b", "prefix", Conflict));
    let neighbour_of = |field: &str, reason, change: fn(&mut v1::Neighbour)| {
        assert_eq!(refused(|d| change(&mut d.neighbours[0])), is(Kind::Neighbour, "a", field, reason));
    };
    neighbour_of("port", Unknown, |n| n.port = "nobody".into());
    neighbour_of("port", Missing, |n| n.port.clear());
    neighbour_of("address", Missing, |n| n.address.clear());
    neighbour_of("address", Invalid, |n| n.address = vec![255; 4]);
    neighbour_of("mac", Missing, |n| n.mac.clear());
    neighbour_of("mac", Invalid, |n| n.mac = vec![0xff; 6]);
    let same = refused(|d| d.neighbours.push(neighbour("z", "a", "10.1.0.2", 9)));
    assert_eq!(same, is(Kind::Neighbour, "z", "address", Conflict));
}

#[test]
fn of_tunnels_and_settings() {
    use Reason::{Conflict, Invalid, Missing};
    vxlan("vxlan.vni", Invalid, |v| v.vni = 1 << 24);
    vxlan("vxlan.udp_port", Invalid, |v| v.udp_port = 65_536);
    vxlan("vxlan.local", Missing, |v| v.local.clear());
    vxlan("vxlan.remote", Invalid, |v| v.remote = proto::ip_bytes(ip("fd00::2")));
    vxlan("vxlan.remote", Invalid, |v| v.remote = v.local.clone());
    vxlan("vxlan.local_mac", Missing, |v| v.local_mac.clear());
    vxlan("vxlan.remote_mac", Invalid, |v| v.remote_mac = vec![1; 6]);
    let of = |field: &str, reason, change: fn(&mut v1::Tunnel)| {
        assert_eq!(refused(|d| change(&mut d.tunnels[0])), is(Kind::Tunnel, "other", field, reason));
    };
    of("kind", Missing, |t| t.kind = None);
    of("mtu", Missing, |t| t.mtu = 0);
    of("mtu", Invalid, |t| t.mtu = 1 << 20);
    of("underlay_vrf", Invalid, |t| t.underlay_vrf = 5000);
    let second = |field: &str, change: fn(&mut v1::Tunnel)| {
        let mut second = tunnel("second", "192.0.2.3");
        change(&mut second);
        assert_eq!(refused(|d| d.tunnels.push(second)), is(Kind::Tunnel, "second", field, Conflict));
    };
    second("vxlan.remote", |t| *t = tunnel("second", "192.0.2.2"));
    second("vrf", |t| t.vrf = 3);
    second("underlay_vrf", |t| t.underlay_vrf = 3);
    let long = refused(|d| d.settings = Some(v1::Settings { tcp_idle_seconds: 1 << 20, ..v1::Settings::default() }));
    assert_eq!(long, is(Kind::Settings, "", "tcp_idle_seconds", Invalid));
}

#[test]
fn of_what_others_still_need() {
    let state = State::default().apply(whole(desired())).unwrap().0;
    let without = |kind, id| refusal(state.apply(delta(&state, Desired::default(), &[key(kind, id)])));
    assert_eq!(without(Kind::Tunnel, "other"), is(Kind::Route, "other", "tunnel", Reason::Unknown));
    assert_eq!(without(Kind::Port, "uplink"), is(Kind::Route, "far", "via.port", Reason::Unknown));
    let keys = [key(Kind::Port, "a"), key(Kind::Route, "a")];
    let left = refusal(state.apply(delta(&state, Desired::default(), &keys)));
    assert_eq!(left, is(Kind::Neighbour, "a", "port", Reason::Unknown));
    let all = [key(Kind::Port, "a"), key(Kind::Route, "a"), key(Kind::Neighbour, "a"), key(Kind::Port, "never was")];
    let (next, outcome) = state.apply(delta(&state, Desired::default(), &all)).unwrap();
    assert_eq!((outcome.removed.len(), next.ports().count()), (3, 2));
}

#[test]
fn of_another_generation_and_of_kinds_that_are_none() {
    let state = State::default().apply(whole(desired())).unwrap().0;
    let stale = v1::Delta { expected_generation: 7, ..v1::Delta::default() };
    let found = refusal(state.apply(Change::Delta(stale)));
    assert_eq!(found, is(Kind::Unspecified, "", "delta.expected_generation", Reason::Generation));
    let odd = refusal(state.apply(delta(&state, Desired::default(), &[key(Kind::Unspecified, "x")])));
    assert_eq!(odd, is(Kind::Unspecified, "x", "delta.deletes", Reason::Invalid));
}

#[test]
fn two_may_swap_what_only_one_can_have() {
    let state = State::default().apply(whole(desired())).unwrap().0;
    let swap = Desired {
        routes: vec![route("a", 0, "10.1.0.3/32", via("a", None)), route("b", 0, "10.1.0.2/32", via("b", None))],
        ports: vec![pod("a", "10.1.0.3"), pod("b", "10.1.0.2")],
        ..Desired::default()
    };
    let (next, outcome) = state.apply(delta(&state, swap, &[])).unwrap();
    assert_eq!(outcome.changed.len(), 4);
    let told = next.told();
    let hop = told.leaf(told.route(tables::told::VrfId(0), ip("10.1.0.3"))).and_then(|hop| told.next_hop(hop)).unwrap();
    assert_eq!(next.port_name(hop.port), Some("a"));
}
