//! Any bytes through the product's graph neither panic nor leak, whatever is told meanwhile, however little room there
//! is; and they take every arc that they can take.
mod traffic;

use engine::{FrameCounts, Offload, PortId, Segmentation};
use proptest::{prelude::*, sample::Index, strategy::ValueTree, test_runner::TestRunner};
use rig::{
    Rig,
    world::{self, TUNNEL, pod},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tables::told::{EndpointId, Forward, NextHopId, Role, Told};
use traffic::wide_world;

/// A frame that arrives: what it was, and what was done to it.
#[derive(Clone, Debug)]
struct Wild {
    port: u16,
    base: Index,
    changed: Vec<(Index, u8)>,
    cut: Option<Index>,
    more: Vec<u8>,
    offload: Option<Offload>,
}

/// What happens, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Turn(Vec<Wild>),
    /// A turn with one packet to so many destinations, from this one on.
    Scan(Index, u16, u16),
    Pass(u16),
    Change(u8, [u8; 4]),
}

fn offload() -> impl Strategy<Value = Offload> {
    let segmentation =
        prop::sample::select(vec![Segmentation::None, Segmentation::Tcp4, Segmentation::Tcp6, Segmentation::Udp]);
    let start = prop_oneof![2 => 256u16..400, 1 => any::<u16>()];
    // Ports refuse what would be too many segments; everything else may be anything.
    (start, any::<u8>(), segmentation, prop_oneof![64u16..100, any::<u16>().prop_map(|size| size.max(64))]).prop_map(
        |(checksum_start, checksum_offset, segmentation, size)| {
            let segment_size = if segmentation == Segmentation::None { 0 } else { size };
            Offload { checksum_start, checksum_offset, segmentation, segment_size }
        },
    )
}

fn wild() -> impl Strategy<Value = Wild> {
    let changed = prop_oneof![
        2 => Just(Vec::new()),
        5 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        1 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..40),
    ];
    let more = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 1..2000)];
    let (cut, offload) = (prop::option::weighted(0.2, any::<Index>()), prop::option::weighted(0.2, offload()));
    (0u16..7, any::<Index>(), changed, cut, more, offload).prop_map(|(port, base, changed, cut, more, offload)| Wild {
        port,
        base,
        changed,
        cut,
        more,
        offload,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(wild(), 1..40).prop_map(Step::Turn),
        1 => (any::<Index>(), any::<u16>(), 1u16..1000).prop_map(|(base, first, n)| Step::Scan(base, first, n)),
        1 => (0u16..5000).prop_map(Step::Pass),
        3 => (any::<u8>(), any::<[u8; 4]>()).prop_map(|(kind, pick)| Step::Change(kind, pick)),
    ]
}

#[test]
fn any_bytes_neither_panic_nor_leak() {
    let steps = (prop::collection::vec(step(), 1..30), any::<bool>());
    fuzz::property(&[5, 6], 40, &steps, |(steps, narrow)| {
        let mut rig = if narrow { narrow_rig(steps.len() % 2 == 0) } else { Rig::new(wide_world()) };
        endure(&mut rig, &steps);
        prop_assert!(rig.nothing_is_lost());
        Ok(())
    });
}

#[test]
fn noise_neither_panics_nor_leaks() {
    let noise = prop::collection::vec((0u16..7, prop::collection::vec(any::<u8>(), 0..200)), 1..100);
    fuzz::property(&[5], 50, &noise, |frames| {
        let mut rig = Rig::new(wide_world());
        for (port, bytes) in &frames {
            rig.send(PortId(*port), bytes);
        }
        rig.turn();
        rig.pass(Duration::from_secs(10));
        prop_assert!(rig.nothing_is_lost());
        Ok(())
    });
}

/// Does what the steps say, and waits until nothing waits any more.
fn endure(rig: &mut Rig, steps: &[Step]) {
    let bases = traffic::families();
    for step in steps {
        rig.audit().unwrap();
        match step {
            Step::Turn(wilds) => {
                wilds.iter().for_each(|wild| arrive(rig, &bases, wild));
                rig.turn();
            }
            Step::Scan(base, first, n) => {
                let unknown = traffic::unknown();
                let (port, bytes) = base.get(if first.is_multiple_of(2) { &unknown } else { &bases });
                for number in 0..*n {
                    rig.offer(*port, &scanned(bytes, first.wrapping_add(number)), |_| {});
                }
                rig.turn();
            }
            Step::Pass(milliseconds) => drop(rig.pass(Duration::from_millis((*milliseconds).into()))),
            Step::Change(kind, pick) => change(&mut rig.told, *kind, *pick),
        }
    }
    rig.settle();
    for _ in 0..6 {
        rig.pass(Duration::from_secs(2));
    }
    rig.audit().unwrap();
}

/// Arcs that no packet takes, whoever sends it and whatever is told: why.
const NEVER: [(&str, &str, &str); 8] = [
    ("egress", "NotIp", "only what was checked as IP, or made here, is routed"),
    ("fragments", "NoPort", "the front asked the same snapshot for the port"),
    ("learn", "HandOff", "there is one worker"),
    ("learn", "NoPort", "the front asked the same snapshot for the port"),
    ("local", "BadSource", "such sources are martians before"),
    ("route", "Malformed", "only packets that were made here come by"),
    (
        "vxlan-encap",
        "NoHeadroom",
        "a frame begins with more room than a tunnel's headers take, and there is one tunnel",
    ),
    ("vxlan-encap", "NotIp", "only what was checked as IP, or made here, is routed"),
];

/// What never happens in such histories is not tested by them.
#[test]
fn hostile_packets_get_everywhere() {
    let mut runner = TestRunner::deterministic();
    let mut missing: BTreeSet<_> = nodes::graph::build(1).0.map().iter().map(|(node, arc, _)| (*node, *arc)).collect();
    for number in 0..150 {
        let mut rig = if number % 2 == 0 { narrow_rig(number % 4 == 0) } else { Rig::new(wide_world()) };
        endure(&mut rig, &prop::collection::vec(step(), 30).new_tree(&mut runner).unwrap().current());
        let moved = rig.moved();
        missing.retain(|(node, arc)| !moved.iter().any(|moved| (moved.0, moved.1) == (*node, *arc)));
    }
    let never: BTreeSet<_> = NEVER.iter().map(|(node, arc, _)| (*node, *arc)).collect();
    let untaken: Vec<_> = missing.difference(&never).collect();
    assert!(untaken.is_empty(), "not taken, and not said to be impossible: {untaken:?}");
    let taken: Vec<_> = never.difference(&missing).collect();
    assert!(taken.is_empty(), "taken, though said to be impossible: {taken:?}");
}

/// Room for few flows, few frames and few packets; and what little there is may be for whoever comes first.
fn narrow_rig(first_come: bool) -> Rig {
    let mut told = wide_world();
    told.limits.guaranteed_halves = if first_come { 1024 } else { 0 };
    let flows = if first_come { 32 } else { 128 };
    Rig::with(told, flows, FrameCounts { small: 50, jumbo: 4, super_: 1, packets: 60 })
}

/// The packet to another destination; its ports, so that each one begins a flow.
fn scanned(bytes: &[u8], number: u16) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (to, ports) = if bytes[12..14] == [0x86, 0xdd] { (52, 54) } else { (32, 34) };
    for at in [to, ports] {
        if let Some(there) = bytes.get_mut(at..at + 2) {
            there.copy_from_slice(&number.to_be_bytes());
        }
    }
    if to == 32 && bytes.len() >= 34 && bytes[14] == 0x45 {
        traffic::seal(&mut bytes);
    }
    bytes
}

fn arrive(rig: &mut Rig, bases: &[(PortId, Vec<u8>)], wild: &Wild) {
    let (port, base) = wild.base.get(bases);
    let mut bytes = base.clone();
    for (at, value) in &wild.changed {
        *at.get_mut(&mut bytes) = *value;
    }
    bytes.truncate(wild.cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
    bytes.extend(&wild.more);
    let port = if wild.changed.len() > 2 { PortId(wild.port) } else { *port };
    rig.offer(port, &bytes, |packet| packet.meta_mut().offload = wild.offload.unwrap_or_default());
}

/// Anything that the compile step may tell, and some that it should not.
fn change(told: &mut Told, kind: u8, [a, b, c, d]: [u8; 4]) {
    let hop = usize::from(a) % told.next_hops.len();
    let port = usize::from(a % 6);
    match kind % 15 {
        0 => told.next_hops.slot(hop).mtu = [0, 20, 68, 100, 600, 1280, 1500, 9000][usize::from(b % 8)],
        1 => told.next_hops.slot(hop).resolved ^= true,
        2 => {
            let all = [Forward::Nowhere, Forward::Port, Forward::Tunnel, Forward::Local, Forward::Unreachable];
            told.next_hops.slot(hop).forward = all[usize::from(b % 5)];
        }
        3 => told.ports.slot(port).epoch += 1,
        4 => {
            let roles = [Role::Absent, Role::Pod, Role::Uplink, Role::Host];
            told.ports.slot(port).role = roles[usize::from(b % 4)];
        }
        5 => told.endpoints.slot(1).incarnation += 1,
        6 => told.tunnels.slot(TUNNEL.0.into()).exists ^= true,
        7 => told.tunnels.slot(TUNNEL.0.into()).mtu = [0, 40, 68, 576, 1280, 1450, 9000, 65535][usize::from(b % 8)],
        8 => {
            let len = [8, 16, 24, 32][usize::from(b % 4)];
            let hop = NextHopId(u32::try_from(hop).unwrap());
            world::route(told, pod(c % 13, d % 4).0.into(), len, hop);
        }
        9 => told.ports.slot(port).stateless ^= true,
        10 => told.next_hops.slot(hop).port = PortId((b % 6).into()),
        11 => told.limits.first_packets = if b.is_multiple_of(2) { 3 } else { 50_000 },
        12 => told.limits.icmp_errors = if b.is_multiple_of(2) { 3 } else { 50_000 },
        13 => told.limits.guaranteed_halves = [0, 4, 40, 1024][usize::from(b % 4)],
        _ => lead_to_a_group(told),
    }
}

/// Virtual addresses lead to a group, by a next hop whose neighbour is not known.
fn lead_to_a_group(told: &mut Told) {
    let uplink = (1..told.next_hops.len()).find(|hop| {
        let hop = told.next_hops.get(*hop).copied().unwrap_or_default();
        hop.forward == Forward::Port && !hop.resolved
    });
    let Some(hop) = uplink.and_then(|hop| u32::try_from(hop).ok()) else { return };
    for (from, to) in Arc::make_mut(&mut told.translations) {
        let group = if from.address.is_ipv6() { "ff0e::9" } else { "224.0.0.9" };
        (to.destination.0, to.endpoint) = (group.parse().unwrap(), EndpointId(2));
    }
    world::route(told, "224.0.0.0".parse().unwrap(), 8, NextHopId(hop));
    world::route(told, "ff00::".parse().unwrap(), 16, NextHopId(hop));
}
