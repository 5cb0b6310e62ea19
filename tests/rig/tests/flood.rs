//! A pod that sends as many first packets as it can takes nothing from another: not its flows, nor what it waits for,
//! nor the frames that it needs.
#[expect(dead_code, reason = "a flood is of few families")]
mod traffic;

use engine::{FrameCounts, PortId};
use rig::{
    Rig, Sent,
    world::{HOST, POD_A, POD_B, UPLINK, mac, own_mac, pod},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use traffic::{of, part, tcp, tunnelled, udp, wide_world};
use wire::{
    build::{self, Addresses, frame},
    tcp::Flags,
};

/// Halves of each family: as many as the guarantees of the world's ports, and as many again.
const HALVES: usize = 512;
const GUARANTEED: u32 = 64;
const FLOWS: u16 = 12;
const ROUNDS: u16 = 100;

fn rig() -> Rig {
    let mut told = wide_world();
    told.limits.guaranteed_halves = GUARANTEED;
    // Packets in large frames may wait too.
    (1..told.next_hops.len()).for_each(|hop| told.next_hops.slot(hop).mtu = 9000);
    Rig::with(told, HALVES, FrameCounts { small: 512, jumbo: 8, super_: 2, packets: 768 })
}

/// What pod B and a far pod say to each other in flows that both know, by families and protocols.
fn talk() -> Vec<Sent> {
    let mut all = Vec::new();
    for six in [false, true] {
        let (b, c) = (of(pod(1, 2), six), of(pod(2, 7), six));
        for port in 1000..1000 + FLOWS {
            all.push((POD_B, udp(POD_B, (b, c), (port, 53), b"query")));
            all.push((UPLINK, tunnelled(&udp(POD_B, (c, b), (53, port), b"answer"))));
            all.push((POD_B, tcp(POD_B, (b, c), (port, 80), Flags::ACK)));
            all.push((UPLINK, tunnelled(&tcp(POD_B, (c, b), (80, port), Flags::ACK))));
        }
    }
    all
}

/// The `number`th packet of pod A's flood: a new flow, somebody nobody knows, or the first of many fragments.
fn flood(number: u16) -> Sent {
    let six = number.is_multiple_of(2);
    let (a, c) = (of(pod(1, 1), six), of(pod(2, 7), six));
    let someone = |net: u8| -> IpAddr {
        let [high, low] = number.to_be_bytes();
        match of(pod(net, 0), six) {
            IpAddr::V4(_) => [10, 0, net, low].into(),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() | u128::from(high) << 24 | u128::from(low) << 16 | 1).into()),
        }
    };
    if number / 4096 % 2 == 1 {
        // For a while with a friend who answers: such flows do not make room for newer ones of their own first.
        let (six, port) = ((number / 2).is_multiple_of(2), number & !1);
        let (a, c) = (of(pod(1, 1), six), of(pod(2, 7), six));
        return match number % 2 {
            0 => (POD_A, tcp(POD_A, (a, c), (port, 80), Flags::ACK)),
            _ => (UPLINK, tunnelled(&tcp(POD_A, (c, a), (80, port), Flags::ACK))),
        };
    }
    let bytes = match number / 2 % 6 {
        0 => udp(POD_A, (a, c), (number, 53), b"x"),
        1 => tcp(POD_A, (a, c), (number, 80), Flags::SYN),
        2 => udp(POD_A, (a, of(pod(1, 2), six)), (number, 53), b"x"),
        3 => udp(POD_A, (a, someone(7)), (number, 9), &[7; 100]),
        4 => udp(POD_A, (a, someone(8)), (number, 9), &vec![7; if number % 64 < 32 { 100 } else { 5000 }]),
        _ => {
            let mut first = part(&udp(POD_A, (a, c), (number, 9), &[7; 1000]), six, (0, 800, true));
            let id = if six { 14 + 40 + 6 } else { 14 + 4 };
            first[id..id + 2].copy_from_slice(&number.to_be_bytes());
            if !six {
                traffic::seal(&mut first);
            }
            first
        }
    };
    (POD_A, bytes)
}

/// Lets the flood's packets arrive, as many as there are frames for.
fn pour(rig: &mut Rig, numbers: impl Iterator<Item = u16>) {
    for (port, bytes) in numbers.map(flood) {
        rig.offer(port, &bytes, |_| {});
    }
}

/// Lets packets arrive, which there must be frames for.
fn arrive(rig: &mut Rig, packets: &[Sent]) {
    for (port, bytes) in packets {
        assert!(rig.offer(*port, bytes, |_| {}), "there is no frame for a packet of {port:?}");
    }
}

/// A turn, and how often each packet was sent that is neither pod A's nor for it.
fn others(rig: &mut Rig) -> BTreeMap<Sent, u32> {
    let own = |bytes: &[u8]| {
        let seen = wire::describe(bytes).to_string();
        ["10.0.1.1", "fd00:1::1"].iter().any(|a| seen.contains(&format!("{a}.")) || seen.contains(&format!("{a} ")))
    };
    let mut sent = BTreeMap::new();
    for (port, bytes) in rig.turn().into_iter().filter(|(_, bytes)| !own(bytes)) {
        *sent.entry((port, bytes)).or_insert(0) += 1;
    }
    rig.audit().unwrap();
    sent
}

/// How many of `ROUNDS` rounds of pod B's talk were not as before the flood, and what became of the flood.
fn disturbed(rig: &mut Rig) -> (u16, BTreeSet<String>) {
    let talk = talk();
    for _ in 0..3 {
        arrive(rig, &talk);
        assert_eq!(rig.turn().len(), talk.len());
    }
    rig.moved();
    arrive(rig, &talk);
    let before = others(rig);
    let arcs = rig.moved();
    assert!(arcs.iter().all(|(node, ..)| *node != "learn"), "all flows are known: {arcs:?}");
    let mut number = 0u16;
    let (mut disturbed, mut flooded) = (0, BTreeSet::new());
    for _ in 0..ROUNDS {
        rig.pass(Duration::from_secs(2)); // pod B's flows rest, and the flood's are fresh
        for _ in 0..3 {
            pour(rig, (0..700).map(|n| number.wrapping_add(n)));
            number = number.wrapping_add(700);
            rig.turn();
            rig.audit().unwrap();
        }
        rig.pass(Duration::from_millis(50));
        flooded.extend(rig.moved().iter().map(|(node, arc, _)| format!("{node}.{arc}")));
        arrive(rig, &talk);
        disturbed += u16::from(others(rig) != before || rig.moved() != arcs);
        // And in the midst of it.
        pour(rig, (0..100).map(|n| number.wrapping_add(n)));
        arrive(rig, &talk);
        pour(rig, (100..200).map(|n| number.wrapping_add(n)));
        let sent = others(rig);
        disturbed += u16::from(!before.iter().all(|(packet, count)| sent.get(packet) == Some(count)));
        number = number.wrapping_add(200);
    }
    (disturbed, flooded)
}

#[test]
fn established_flows_of_another_pod_go_on_undisturbed() {
    let mut rig = rig();
    let (disturbed, flooded) = disturbed(&mut rig);
    assert_eq!(disturbed, 0);
    let budgets = (&rig.learned.flows4.budgets, &rig.learned.flows6.budgets);
    let halves = |port: PortId| (budgets.0.of(port.0), budgets.1.of(port.0));
    assert_eq!(halves(POD_B), (u32::from(FLOWS) * 4, u32::from(FLOWS) * 4));
    // The flood meets every limit.
    assert!(halves(POD_A).0.min(halves(POD_A).1) as usize > HALVES / 3, "{:?}", halves(POD_A));
    let met = ["egress.Displaced", "egress.TableFull", "egress.NoRoom", "fragments.Followed"];
    let missed: Vec<_> = met.iter().filter(|arc| !flooded.contains(**arc)).collect();
    assert!(missed.is_empty(), "{missed:?} of {flooded:?}");
    (0..6).for_each(|_| drop(rig.pass(Duration::from_secs(2))));
    assert!(rig.nothing_is_lost());
}

/// What waits for neighbours does not take all large frames.
#[test]
fn a_large_frame_is_left_for_another_pod() {
    let mut rig = rig();
    for number in 0..100 {
        let to = IpAddr::from([10, 0, 8, number]);
        rig.offer(POD_A, &udp(POD_A, (of(pod(1, 1), false), to), (1, 2), &[7; 5000]), |_| {});
        rig.turn();
    }
    let held = rig.audit().unwrap();
    assert!((1..8).contains(&held), "{held}");
    arrive(&mut rig, &vec![(POD_B, udp(POD_B, (of(pod(1, 2), false), of(pod(2, 7), false)), (1, 2), &[7; 5000])); 4]);
}

/// What pod B began before the flood ends well after it, and it can begin more.
#[test]
fn what_another_pod_waits_for_still_comes() {
    let mut rig = rig();
    let (b, c, unknown) = (of(pod(1, 2), false), of(pod(2, 7), false), of(pod(8, 9), false));
    let whole = udp(POD_B, (b, c), (5, 6), &[1; 1000]);
    arrive(&mut rig, &[(POD_B, part(&whole, false, (0, 800, true)))]);
    arrive(&mut rig, &[(POD_B, udp(POD_B, (b, unknown), (5, 7), b"waits"))]);
    assert_eq!(rig.turn().len(), 2, "a fragment, and a question for the neighbour");
    for number in 0..40 {
        pour(&mut rig, number * 500..number * 500 + 500);
        // It knows of the same neighbour too.
        rig.offer(POD_A, &udp(POD_A, (of(pod(1, 1), false), unknown), (number, 7), b"x"), |_| {});
        rig.turn();
    }
    rig.pass(Duration::from_millis(100));
    arrive(&mut rig, &[(POD_B, part(&whole, false, (800, 208, false)))]);
    arrive(&mut rig, &[(POD_B, udp(POD_B, (b, c), (8, 6), &[2; 3000]))]);
    let more: Vec<_> = (0..FLOWS).map(|port| (POD_B, udp(POD_B, (b, c), (2000 + port, 53), b"new"))).collect();
    arrive(&mut rig, &more);
    let Some(Addresses::V4(there, here)) = Addresses::of(unknown, "10.0.8.1".parse().unwrap()) else { panic!() };
    let answer = wire::Arp::request(own_mac(HOST), here, there).reply(mac(HOST));
    arrive(&mut rig, &[(HOST, frame(|into| build::arp(into, own_mac(HOST), &answer)).unwrap())]);
    rig.moved();
    let sent = rig.turn();
    let moved = rig.moved();
    let count = |node, arc| moved.iter().find(|moved| (moved.0, moved.1) == (node, arc)).map_or(0, |moved| moved.2);
    assert_eq!(count("fragments", "Followed"), 1, "{moved:?}");
    assert_eq!(count("learn", "Tunnel"), u64::from(FLOWS) + 2, "{moved:?}");
    assert!(sent.iter().any(|(port, bytes)| *port == HOST && bytes.ends_with(b"waits")), "{moved:?}");
    rig.audit().unwrap();
}
