//! Any history of changes gives the same tables as one Apply of the last state.
use crate::world::{delta, key, neighbour, null, pod, route, tunnel, uplink, via, whole};
use dataplane::compile::{Link, State};
use proptest::prelude::*;
use proto::v1::{self, Desired, Kind, ObjectKey, route::NextHop};
use std::{collections::BTreeSet, net::IpAddr};
use tables::told::{Forward, NextHopId, Told, VrfId};
use wire::Mac;

/// One step of a history: what is created or replaced, and what is deleted, if the result can be.
#[derive(Clone, Debug)]
struct Step {
    upserts: Vec<(u8, u8, u8)>, // what, which, how
    deletes: Vec<(u8, u8)>,
    whole: bool,
    kernel: Option<(u8, bool)>,
}

fn step() -> impl Strategy<Value = Step> {
    let upserts = prop::collection::vec((0..5u8, 0..4u8, 0..6u8), 0..6);
    let deletes = prop::collection::vec((0..4u8, 0..4u8), 0..4);
    (upserts, deletes, prop::bool::weighted(0.2), prop::option::weighted(0.3, (0..4u8, any::<bool>())))
        .prop_map(|(upserts, deletes, whole, kernel)| Step { upserts, deletes, whole, kernel })
}

fn upsert(desired: &mut Desired, (what, which, how): (u8, u8, u8)) {
    let id = format!("{which}");
    match what {
        0 => {
            let mut port = match which {
                0 => v1::Port { id: id.clone(), ..uplink() },
                1 => v1::Port { role: v1::Role::Uplink.into(), vrf: 1, ..null(&id) },
                _ => pod(&id, &format!("10.1.0.{}", 11 + how)),
            };
            port.mtu = 1300 + u32::from(how);
            desired.ports.retain(|other| other.id != id);
            desired.ports.push(port);
        }
        1 => {
            let port = format!("{}", how % 4);
            let to = ["10.1.0.0/16", "10.1.0.0/24", "10.1.0.11/32", "0.0.0.0/0", "fd00::/16", "192.0.2.0/24"]
                [usize::from(how)];
            let gateway = if how == 4 { "fd00::1" } else { "192.0.2.9" };
            let way = match (which + how) % 4 {
                0 => via(&port, None),
                1 => via(&port, Some(gateway)),
                2 => NextHop::Tunnel(port),
                _ => NextHop::Unreachable(v1::route::Unreachable {}),
            };
            desired.routes.retain(|other| other.id != id);
            desired.routes.push(route(&id, u32::from(how % 2), to, way));
        }
        2 => {
            let neighbour =
                neighbour(&id, &format!("{}", how % 4), ["192.0.2.9", "192.0.2.2"][usize::from(which % 2)], how + 1);
            desired.neighbours.retain(|other| other.id != id);
            desired.neighbours.push(neighbour);
        }
        3 => {
            let mut tunnel = tunnel(&id, &format!("192.0.2.{}", 2 + which));
            tunnel.mtu += u32::from(how);
            desired.tunnels.retain(|other| other.id != id);
            desired.tunnels.push(tunnel);
        }
        _ => desired.settings = Some(v1::Settings { udp_idle_seconds: how.into(), ..v1::Settings::default() }),
    }
}

fn walk(history: &[Step]) -> State {
    let mut state = State::default();
    for step in history {
        let mut upserts = Desired::default();
        step.upserts.iter().for_each(|one| upsert(&mut upserts, *one));
        let kinds = [Kind::Port, Kind::Route, Kind::Neighbour, Kind::Tunnel];
        let deletes: Vec<ObjectKey> =
            step.deletes.iter().map(|(kind, which)| key(kinds[usize::from(*kind)], &which.to_string())).collect();
        let change = if step.whole { whole(upserts) } else { delta(&state, upserts, &deletes) };
        // What is refused leaves no trace: that is part of what is tested.
        if let Ok((next, outcome)) = state.apply(change) {
            assert_eq!(
                next.generation(),
                state.generation() + u64::from(!outcome.is_empty() || state.generation() == 0)
            );
            state = next;
        }
        if let Some((which, there)) = step.kernel {
            let mac = Mac([2, 9, 9, 9, 9, which]);
            state.hear("eth0", format!("192.0.2.{}", which + 2).parse().unwrap(), there.then_some(mac));
            state.see("eth0", there.then_some(Link { mac, mtu: 1280 + u16::from(which), up: true }));
        }
    }
    state
}

/// Everything that can be seen in the tables, without slot numbers and epochs.
fn seen(state: &State) -> Vec<String> {
    let told = state.told();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (id, object) in state.ports() {
        let mut port = told.port(id).unwrap().clone();
        port.epoch = 0;
        seen.insert(format!("port {} {port:?}", object.id));
    }
    let addresses =
        ["10.1.0.11", "10.1.0.12", "10.1.9.9", "10.9.9.9", "fd00::9", "fe00::1", "192.0.2.2", "192.0.2.200"];
    for (vrf, address) in (0..2u16).flat_map(|vrf| addresses.map(|address| (vrf, address))) {
        let leaf = told.route(VrfId(vrf), address.parse::<IpAddr>().unwrap());
        seen.insert(format!("route {vrf} {address} {}", hop(state, told, told.leaf(leaf))));
    }
    for object in &state.desired().tunnels {
        let slot = (0..told.tunnels.len()).find(|slot| {
            let number = tables::told::TunnelId(u16::try_from(*slot).unwrap());
            state.tunnel_name(number) == Some(&object.id)
        });
        let tunnel = told.tunnels.get(slot.unwrap()).unwrap();
        let mut plain = tunnel.clone();
        plain.next_hop = NextHopId(0);
        seen.insert(format!("tunnel {} {plain:?} {}", object.id, hop(state, told, Some(tunnel.next_hop))));
    }
    for (at, landing) in told.arrivals.iter() {
        let port = state.port_name(landing.port);
        seen.insert(format!("arrival {at:?} {port:?} {:?} {:?} {:?}", landing.vrf, landing.mac, landing.remotes));
    }
    for ((port, address), mac) in told.neighbours.iter() {
        seen.insert(format!("neighbour {:?} {address} {mac:?}", state.port_name(*port)));
    }
    seen.insert(format!("{:?} {:?}", told.decaps, told.limits));
    let mut wanted = state.wanted();
    wanted.sort();
    seen.insert(format!("{wanted:?}"));
    seen.into_iter().collect()
}

fn hop(state: &State, told: &Told, hop: Option<NextHopId>) -> String {
    let Some(hop) = hop.filter(|hop| hop.0 != 0).and_then(|hop| told.next_hop(hop)) else { return "nowhere".into() };
    let ways = (state.port_name(hop.port).filter(|_| hop.forward == Forward::Port), state.tunnel_name(hop.tunnel));
    format!("{:?} {ways:?} {:?} {:?}", hop.forward, hop.gateway, (hop.mac, hop.resolved, hop.source, hop.mtu))
}

/// What is used and what is free, of everything that is counted.
fn used(state: &State) -> Vec<(&'static str, u64)> {
    state.tables().map(|(name, used, _)| (name, used)).to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn any_history_gives_the_tables_of_its_last_state(history in prop::collection::vec(step(), 1..16)) {
        let state = walk(&history);
        let mut fresh = State::default();
        // The kernel's news, as far as they still hold, in another order than they came.
        for step in &history {
            if let Some((which, there)) = step.kernel {
                let mac = Mac([2, 9, 9, 9, 9, which]);
                fresh.hear("eth0", format!("192.0.2.{}", which + 2).parse().unwrap(), there.then_some(mac));
                fresh.see("eth0", there.then_some(Link { mac, mtu: 1280 + u16::from(which), up: true }));
            }
        }
        let (fresh, _) = fresh.apply(whole(state.desired())).unwrap();
        prop_assert_eq!(seen(&state), seen(&fresh));
        prop_assert_eq!(used(&state), used(&fresh));
        let (again, outcome) = state.apply(whole(state.desired())).unwrap();
        prop_assert!(outcome.is_empty());
        prop_assert_eq!(seen(&state), seen(&again));
        let (nothing, _) = state.apply(whole(Desired::default())).unwrap();
        prop_assert_eq!(used(&nothing), used(&State::default()));
    }
}
