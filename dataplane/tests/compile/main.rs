//! The compile step: any history of changes gives the same tables, and each mistake is named.
mod history;
mod refusals;
mod world;

use dataplane::compile::{Link, State};
use proto::v1::{self, apply_request::Change, port, route::NextHop};
use tables::told::{Forward, VrfId};
use wire::Mac;
use world::{delta, desired, ip, key, neighbour, null, pod, route, tunnel, uplink, via, whole};

/// A state with pods `a` and `b`, and a tunnel to another host.
fn state() -> State {
    State::default().apply(whole(desired())).unwrap().0
}

#[test]
fn routes_lead_to_pods_and_tunnels() {
    let state = state();
    let told = state.told();
    let hop = |vrf, address: &str| {
        let leaf = told.route(VrfId(vrf), ip(address));
        told.leaf(leaf).and_then(|hop| told.next_hop(hop)).copied()
    };
    let pod = hop(0, "10.1.0.2").unwrap();
    assert_eq!((pod.forward, pod.resolved, pod.mac), (Forward::Port, true, Mac([2, 0, 0, 0, 0, 2])));
    assert_eq!(state.port_name(pod.port), Some("a"));
    let far = hop(0, "10.2.9.9").unwrap();
    assert_eq!(far.forward, Forward::Tunnel);
    let tunnel = told.tunnel(far.tunnel).unwrap();
    let outer = told.next_hop(tunnel.next_hop).unwrap();
    assert_eq!((outer.resolved, outer.gateway), (false, Some(ip("192.0.2.2"))), "nobody said who has 192.0.2.2");
    assert_eq!(state.wanted(), [("eth0".into(), ip("192.0.2.2"), false)]);
    assert!(hop(1, "10.1.0.2").is_none(), "the underlay knows no pod");
}

#[test]
fn what_the_kernel_says_reaches_ports_and_tunnels() {
    let mut state = state();
    let (mac, other) = (Mac([2, 0, 0, 0, 9, 9]), Mac([2, 0, 0, 0, 8, 8]));
    assert!(state.see("eth0", Some(Link { mac: other, mtu: 1400, up: true })));
    assert!(state.hear("eth0", ip("192.0.2.2"), Some(mac)) && !state.hear("eth0", ip("192.0.2.2"), Some(mac)));
    let told = state.told();
    let hop = told.next_hop(told.tunnels.get(0).unwrap().next_hop).unwrap();
    assert_eq!((hop.mac, hop.source, hop.mtu, hop.resolved), (mac, other, 1400, true));
    assert!(!state.hear("eth7", ip("192.0.2.2"), Some(mac)), "an interface that is none of ours");
    assert!(state.hear("eth0", ip("192.0.2.2"), None));
    assert_eq!(state.wanted().len(), 1);
}

#[test]
fn answers_end_when_what_they_came_from_changes_and_only_then() {
    let state = state();
    let told = state.told();
    let leaf = |state: &State, address: &str| state.told().route(VrfId(0), ip(address));
    let epoch = |state: &State, leaf: tables::told::LeafId| state.told().leaves.get(leaf.0 as usize).unwrap().epoch;
    let (far, near) = (leaf(&state, "10.2.9.9"), leaf(&state, "10.1.0.2"));
    let mut more = v1::Desired::default();
    more.routes.push(route("split", 0, "10.2.9.0/24", NextHop::Blackhole(v1::route::Blackhole {})));
    let (next, _) = state.apply(delta(&state, more, &[])).unwrap();
    assert_ne!(epoch(&next, far), epoch(&state, far), "the route that was split");
    assert_eq!(epoch(&next, near), epoch(&state, near), "another one");
    let mut moved = v1::Desired::default();
    moved.neighbours.push(neighbour("a", "a", "10.1.0.2", 77));
    let (next, _) = state.apply(delta(&state, moved, &[])).unwrap();
    assert_eq!(leaf(&next, "10.1.0.2"), near);
    assert_eq!(epoch(&next, near), epoch(&state, near), "a moved neighbour costs no re-walk");
    let hop = next.told().leaf(near).and_then(|hop| next.told().next_hop(hop)).unwrap();
    assert_eq!(hop.mac, Mac([2, 0, 0, 0, 0, 77]));
    let mut turned = v1::Desired::default();
    turned.routes.push(route("a", 0, "10.1.0.2/32", via("b", None)));
    let (next, _) = state.apply(delta(&state, turned, &[])).unwrap();
    assert_ne!(epoch(&next, near), epoch(&state, near), "the route leads out of another port");
    let (a, _) = state.port("a").unwrap();
    let port = |state: &State| state.told().port(a).unwrap().epoch;
    let mut wider = pod("a", "10.1.0.2");
    wider.allowed_addresses.push(v1::Prefix::host(ip("10.1.0.99")));
    let change = v1::Desired { ports: vec![wider], ..v1::Desired::default() };
    let (next, _) = state.apply(delta(&state, change, &[])).unwrap();
    assert_ne!(port(&next), port(&state), "its addresses changed");
    assert_eq!(told.generation + 1, next.generation());
}

#[test]
fn a_whole_apply_keeps_slots_and_a_dry_run_changes_nothing() {
    let state = state();
    let (again, outcome) = state.apply(whole(desired())).unwrap();
    assert!(outcome.is_empty() && again.generation() == state.generation());
    let mut other = desired();
    other.ports.remove(0);
    other.routes.remove(0);
    other.neighbours.remove(0);
    other.ports.push(pod("c", "10.1.0.4"));
    let (next, outcome) = state.apply(whole(other)).unwrap();
    assert_eq!(outcome.added, [key(v1::Kind::Port, "c")]);
    assert_eq!(outcome.removed.len(), 3);
    assert_eq!(next.port("b").unwrap().0, state.port("b").unwrap().0);
    assert_eq!(next.port("c").unwrap().0, state.port("a").unwrap().0, "a free slot is used again");
    let (old, new) = (state.told(), next.told());
    let slot = usize::from(state.port("a").unwrap().0.0);
    assert!(new.ports.get(slot).unwrap().epoch > old.ports.get(slot).unwrap().epoch, "and its epoch has grown");
    assert!(state.port("a").is_some(), "the state that it came from is as it was");
}

#[test]
fn neighbours_on_a_link_are_told_where_a_whole_network_is_on_it() {
    let state = state();
    assert!(state.told().neighbours.is_empty(), "next hops know their own");
    let mut more = v1::Desired::default();
    more.routes.push(route("net", 0, "10.9.0.0/16", via("a", None)));
    more.neighbours.push(neighbour("n", "a", "10.9.0.7", 7));
    let (mut next, _) = state.apply(delta(&state, more, &[])).unwrap();
    let (a, _) = next.port("a").unwrap();
    assert_eq!(next.told().neighbours.get(&(a, ip("10.9.0.7"))), Some(&Mac([2, 0, 0, 0, 0, 7])));
    (next, _) = next.apply(delta(&next, v1::Desired::default(), &[key(v1::Kind::Route, "net")])).unwrap();
    assert!(next.told().neighbours.is_empty());
}

#[test]
fn settings_set_limits_and_their_absence_sets_them_back() {
    let settings = v1::Settings { icmp_errors: Some(false), udp_idle_seconds: 7, ..v1::Settings::default() };
    let change = v1::Desired { settings: Some(settings), ..v1::Desired::default() };
    let (state, _) = State::default().apply(whole(change)).unwrap();
    assert_eq!((state.told().limits.icmp_errors, state.told().limits.idle_replied), (0, 7));
    let (state, outcome) = state.apply(whole(v1::Desired::default())).unwrap();
    assert_eq!(state.told().limits, tables::told::Limits::default());
    assert_eq!(outcome.changed, [key(v1::Kind::Settings, "")]);
}

#[test]
fn what_is_guaranteed_to_all_ports_fits_into_the_flow_tables() {
    let ports = |many: usize| {
        whole(v1::Desired { ports: (0..many).map(|n| null(&n.to_string())).collect(), ..v1::Desired::default() })
    };
    let mut state = State::default();
    state.limit_flows(4000);
    let guaranteed = |state: &State| (state.told().limits.guaranteed_halves, state.meagre_guarantee());
    (state, _) = state.apply(ports(2)).unwrap();
    assert_eq!(guaranteed(&state), (1024, None));
    (state, _) = state.apply(ports(4)).unwrap();
    assert_eq!(guaranteed(&state), (700, Some(700)), "of 70 in a hundred");
    let settings = v1::Settings { udp_idle_seconds: 7, ..v1::Settings::default() };
    let change = delta(&state, v1::Desired { settings: Some(settings), ..v1::Desired::default() }, &[]);
    (state, _) = state.apply(change).unwrap();
    assert_eq!(guaranteed(&state), (700, Some(700)), "settings say nothing about it");
    (state, _) = state.apply(ports(1)).unwrap();
    assert_eq!(guaranteed(&state), (1024, None));
}

#[test]
fn tables_show_how_much_fits() {
    let tables = state().tables();
    let of = |name: &str| tables.iter().find(|(table, ..)| *table == name).map(|(_, _, capacity)| *capacity);
    let shown = ["ports", "routes", "tunnels", "next_hops", "neighbours"].map(|name| of(name).unwrap());
    assert_eq!(shown, [65_534, (1 << 24) - 1, 65_535, 0, 0], "zero: as many as memory");
}

#[test]
fn tunnels_follow_the_underlay() {
    let state = state();
    assert_eq!(state.tunnel_ends(), [(ip("192.0.2.1"), 4789)]);
    assert_eq!(state.lost_tunnels().count(), 0);
    let landing = state.told().arrivals.values().next().unwrap();
    assert_eq!(state.port_name(landing.port), Some("uplink"));
    let gone = delta(&state, v1::Desired::default(), &[key(v1::Kind::Route, "far")]);
    let (lost, _) = state.apply(gone).unwrap();
    assert_eq!(lost.lost_tunnels().count(), 1);
    let mut back = v1::Desired::default();
    back.routes.push(route("default", 1, "0.0.0.0/0", via("uplink", Some("192.0.2.254"))));
    let (found, _) = lost.apply(delta(&lost, back, &[])).unwrap();
    let hop = found.told().next_hop(found.told().tunnels.get(0).unwrap().next_hop).unwrap();
    assert_eq!(hop.gateway, Some(ip("192.0.2.254")));
    let mut second = v1::Desired::default();
    second.tunnels.push(tunnel("second", "192.0.2.3"));
    let (two, _) = found.apply(delta(&found, second, &[])).unwrap();
    assert_eq!(two.told().arrivals.values().next().unwrap().remotes[..], [ip("192.0.2.2"), ip("192.0.2.3")]);
}

#[test]
fn ports_without_an_interface_stand_for_themselves() {
    let change = v1::Desired { ports: vec![null("n"), uplink()], ..v1::Desired::default() };
    let (state, _) = State::default().apply(whole(change)).unwrap();
    let mtu = |id: &str| state.told().port(state.port(id).unwrap().0).unwrap().mtu;
    assert_eq!((mtu("n"), mtu("uplink")), (u16::MAX, 1500));
    assert!(matches!(state.port("n").unwrap().1.kind, Some(port::Kind::Null(_))));
    let Change::Whole(all) = whole(state.desired()) else { unreachable!() };
    assert_eq!(State::default().apply(Change::Whole(all)).unwrap().0.desired(), state.desired());
}
