use super::*;
use crate::punt::{
    link_local,
    rig::{self, OURS, Rig, THEIRS, ip, path},
};
use engine::{Offload, Segmentation};
use proptest::prelude::*;
use std::sync::Arc;
use wire::{Arp, EtherType, Ports, Tcp, U128, build, nd, tcp};

const FOUR: (&str, &str) = ("10.0.1.2", "10.0.9.9");
const SIX: (&str, &str) = ("fd00::1:2", "fd00::9:9");
const HOP: u32 = 3;

fn frame(ends: (&str, &str), len: usize) -> Vec<u8> {
    build::frame(|into| build::udp(into, &path(ends.0, ends.1), Ports::new(1, 2), &vec![7; len])).unwrap()
}

fn packet(rig: &mut Rig, ends: (&str, &str), len: usize) -> Packet {
    let mut packet = rig.packet(&frame(ends, len), rig::POD);
    packet.meta_mut().next_hop = HOP;
    packet
}

/// As the graph does: a packet that leaves by `Held` is held.
fn pass(rig: &mut Rig, egress: &mut Egress, mut packet: Packet) -> EgressNext {
    let arc = rig.one(egress, &mut packet);
    if arc == EgressNext::Held {
        rig.turn(|turn| Node::hold(egress, turn, packet));
    } else {
        rig.put(packet);
    }
    arc
}

fn tick(rig: &mut Rig, egress: &mut Egress) -> Option<Instant> {
    rig.turn(|turn| Node::tick(egress, turn))
}

#[test]
fn a_resolved_next_hop_is_a_link_header_and_a_port() {
    let mut rig = Rig::new();
    *rig.hop(HOP, rig::OWN) = NextHop { resolved: true, mac: THEIRS, ..*rig.hop(HOP, rig::OWN) };
    for (ends, kind) in [(FOUR, EtherType::IPV4), (SIX, EtherType::IPV6)] {
        let mut packet = packet(&mut rig, ends, 10);
        packet.data_mut()[..14].fill(0xa5);
        assert_eq!(rig.one(&mut Egress::default(), &mut packet), EgressNext::Send);
        let (link, rest) = Ethernet::ref_from_prefix(packet.data()).unwrap();
        assert_eq!(*link, Ethernet::new(OURS, THEIRS, kind));
        assert_eq!((rest, packet.meta().port_out), (&frame(ends, 10)[14..], rig::OWN.0));
        rig.put(packet);
    }
    rig.finish();
}

#[test]
fn an_unknown_neighbour_is_asked_for_and_the_packet_waits() {
    let mut rig = Rig::new();
    rig.hop(HOP, rig::OWN);
    let mut egress = Egress::default();
    for ends in [FOUR, SIX] {
        let first = packet(&mut rig, ends, 10);
        assert_eq!(pass(&mut rig, &mut egress, first), EgressNext::Held);
        let (arc, question) = rig.made::<EgressNext>();
        assert_eq!((arc, question.meta().port_out), (EgressNext::Solicit, rig::OWN.0));
        let (link, rest) = Ethernet::ref_from_prefix(question.data()).unwrap();
        match ip(ends.1) {
            IpAddr::V4(target) => {
                assert_eq!((link.src, link.dst), (OURS, Mac::BROADCAST));
                let asked = Arp::request(OURS, 0x0a00_0201.into(), target.to_bits().into());
                assert_eq!(Arp::parse(rest), Some(&asked));
            }
            IpAddr::V6(target) => {
                rig::assert_sound(question.data());
                let (ip6, found) = Ipv6::parse(rest).unwrap();
                let target = U128::new(target.to_bits());
                assert_eq!((ip6.dst, ip6.hop_limit), (nd::solicited_node(target), 255));
                let (asked, options) = nd::Neighbour::parse(&rest[found.offset..]).unwrap();
                assert_eq!((asked.target, nd::link_layer(options, nd::SOURCE)), (target, Some(OURS)));
            }
        }
        rig.put(question);
        let second = packet(&mut rig, ends, 10);
        assert_eq!(pass(&mut rig, &mut egress, second), EgressNext::Held);
        assert!(rig.emitted::<EgressNext>().is_empty(), "it was asked a moment ago");
        let at = ip(ends.1);
        assert!(rig.learned.neighbours.heard(rig::OWN, at, THEIRS, rig.now));
        let waited = rig.learned.neighbours.waiting(rig::OWN, at).unwrap();
        assert_eq!(pass(&mut rig, &mut egress, waited), EgressNext::Send);
    }
    rig.finish();
}

#[test]
fn a_neighbour_that_was_silent_for_long_is_asked_again_while_packets_go_on() {
    let mut rig = Rig::new();
    rig.hop(HOP, rig::OWN).gateway = Some(ip("10.0.2.9"));
    let mut egress = Egress::default();
    rig.learned.neighbours.resolve(rig::OWN, ip("10.0.2.9"), rig::POD.0, rig.now);
    rig.learned.neighbours.heard(rig::OWN, ip("10.0.2.9"), THEIRS, rig.now);
    rig.pass(31_000);
    let sent = packet(&mut rig, FOUR, 10);
    assert_eq!(pass(&mut rig, &mut egress, sent), EgressNext::Send);
    let (arc, question) = rig.made::<EgressNext>();
    assert_eq!(arc, EgressNext::Solicit);
    assert_eq!(
        Arp::parse(&question.data()[14..]).unwrap().target.get(),
        0x0a00_0209,
        "the gateway, not the destination"
    );
    rig.put(question);
    rig.finish();
}

#[test]
fn one_that_waits_in_vain_goes_back() {
    let mut rig = Rig::new();
    rig.hop(HOP, rig::OWN);
    let mut egress = Egress::default();
    let waits = packet(&mut rig, FOUR, 10);
    assert_eq!(pass(&mut rig, &mut egress, waits), EgressNext::Held);
    rig.emitted::<EgressNext>().into_iter().for_each(|(_, packet)| rig.put(packet));
    let due = tick(&mut rig, &mut egress).expect("someone waits");
    assert!(rig.emitted::<EgressNext>().is_empty());
    assert!(due > rig.now);
    rig.now = due;
    tick(&mut rig, &mut egress);
    let (arc, packet) = rig.made::<EgressNext>();
    assert_eq!((arc, packet.meta().early), (EgressNext::Unreachable, Complaint::Unreachable as u8));
    rig.put(packet);
    rig.finish();
}

#[test]
fn where_neighbours_are_told_a_packet_waits_until_they_are() {
    let key = (rig::SHARED, ip(FOUR.1));
    type Tell = fn(&mut Rig, (PortId, IpAddr));
    let told: [Tell; 2] = [
        |rig, key| Arc::make_mut(&mut rig.told.neighbours).extend([(key, THEIRS)]),
        |rig, _| {
            *rig.told.next_hops.slot(HOP as usize) =
                NextHop { resolved: true, mac: THEIRS, ..*rig.hop(HOP, rig::SHARED) }
        },
    ];
    for tell in told {
        let mut rig = Rig::new();
        rig.hop(HOP, rig::SHARED);
        let mut egress = Egress::default();
        for _ in 0..2 {
            let waits = packet(&mut rig, FOUR, 10);
            assert_eq!(pass(&mut rig, &mut egress, waits), EgressNext::Held);
        }
        assert!(tick(&mut rig, &mut egress).is_some());
        assert!(rig.emitted::<EgressNext>().is_empty(), "nobody is asked, and nothing is known");
        tell(&mut rig, key);
        tick(&mut rig, &mut egress);
        let released = rig.emitted::<EgressNext>();
        assert_eq!(released.len(), 2);
        for (arc, packet) in released {
            assert_eq!(arc, EgressNext::Released);
            assert_eq!(pass(&mut rig, &mut egress, packet), EgressNext::Send);
        }
        assert_eq!(tick(&mut rig, &mut egress), None, "nothing is waited for");
        rig.finish();
    }
}

#[test]
fn few_packets_wait_for_one_neighbour_and_few_neighbours_are_waited_for() {
    let mut rig = Rig::new();
    rig.hop(HOP, rig::SHARED);
    let mut egress = Egress::default();
    for _ in 0..4 {
        let waits = packet(&mut rig, FOUR, 10);
        assert_eq!(pass(&mut rig, &mut egress, waits), EgressNext::Held);
    }
    assert!(rig.emitted::<EgressNext>().is_empty());
    let fifth = packet(&mut rig, FOUR, 10);
    assert_eq!(pass(&mut rig, &mut egress, fifth), EgressNext::Held);
    let (arc, oldest) = rig.made::<EgressNext>();
    assert_eq!(arc, EgressNext::Displaced);
    rig.put(oldest);
    for n in 0..MOST_WAITS {
        let waits = packet(&mut rig, (FOUR.0, &format!("10.1.{}.{}", n >> 8, n & 255)), 10);
        let expected = if n + 1 < MOST_WAITS / 2 { EgressNext::Held } else { EgressNext::TableFull };
        assert_eq!(pass(&mut rig, &mut egress, waits), expected, "{n}");
    }
    rig.finish();
}

/// A packet to the `n`th of many neighbours, from a port.
fn scan(rig: &mut Rig, egress: &mut Egress, port: PortId, n: u16) -> EgressNext {
    let mut waits = packet(rig, (FOUR.0, &format!("10.{}.{}.{}", 100 + port.0, n >> 8, n & 255)), 10);
    waits.meta_mut().port_in = port.0;
    let mut arc = pass(rig, egress, waits);
    for (other, packet) in rig.emitted::<EgressNext>() {
        arc = if other == EgressNext::Displaced { other } else { arc };
        rig.put(packet);
    }
    arc
}

#[test]
fn who_looks_for_many_neighbours_leaves_room_for_others() {
    for (by, most) in [(rig::OWN, 128), (rig::SHARED, 128)] {
        let mut rig = Rig::new();
        rig.hop(HOP, by);
        let mut egress = Egress::default();
        let held = |arc: &EgressNext| *arc == EgressNext::Held;
        let flood: Vec<_> = (0..3000).map(|n| scan(&mut rig, &mut egress, rig::POD, n)).collect();
        assert_eq!(flood.iter().filter(|arc| held(arc)).count(), most);
        let others: Vec<_> = (0..50).map(|n| scan(&mut rig, &mut egress, PortId(4), n)).collect();
        assert!(others.iter().all(held), "{others:?}");
        // Those that never answer are forgotten, and then there is room again.
        for _ in 0..10 {
            rig.pass(11_000);
            tick(&mut rig, &mut egress);
            rig.emitted::<EgressNext>().into_iter().for_each(|(_, packet)| rig.put(packet));
        }
        assert_eq!(scan(&mut rig, &mut egress, rig::POD, 2999), EgressNext::Held);
        rig.finish();
    }
}

#[test]
fn who_sends_much_to_one_neighbour_displaces_its_own() {
    let mut rig = Rig::new();
    rig.hop(HOP, rig::SHARED);
    let mut egress = Egress::default();
    let others = |rig: &mut Rig| {
        let mut packet = packet(rig, FOUR, 11);
        packet.meta_mut().port_in = 4;
        packet
    };
    let quiet = others(&mut rig);
    assert_eq!(pass(&mut rig, &mut egress, quiet), EgressNext::Held);
    for _ in 0..100 {
        let waits = packet(&mut rig, FOUR, 10);
        assert_eq!(pass(&mut rig, &mut egress, waits), EgressNext::Held);
        rig.emitted::<EgressNext>().into_iter().for_each(|(arc, packet)| {
            assert_eq!((arc, packet.meta().port_in), (EgressNext::Displaced, rig::POD.0));
            rig.put(packet);
        });
    }
    let first = rig.learned.neighbours.waiting(rig::SHARED, ip(FOUR.1)).unwrap();
    assert_eq!(first.meta().port_in, 4);
    rig.put(first);
    rig.finish();
}

#[test]
fn large_frames_do_not_wait_where_few_are_left() {
    let mut rig = Rig::new();
    rig.hop(HOP, rig::SHARED).mtu = u16::MAX;
    let mut egress = Egress::default();
    let large = packet(&mut rig, FOUR, 20_000); // one of two
    assert_eq!(pass(&mut rig, &mut egress, large), EgressNext::Held);
    let (arc, large) = rig.made::<EgressNext>();
    assert_eq!((arc, large.len()), (EgressNext::Displaced, 20_042));
    rig.put(large);
    let middle = packet(&mut rig, FOUR, 5000); // one of four
    assert_eq!(pass(&mut rig, &mut egress, middle), EgressNext::Held);
    assert!(rig.emitted::<EgressNext>().is_empty());
    rig.finish();
}

#[test]
fn what_is_too_long_is_complained_of_or_fragmented() {
    let mut rig = Rig::new();
    *rig.hop(HOP, rig::OWN) = NextHop { resolved: true, mac: THEIRS, mtu: 1400, ..*rig.hop(HOP, rig::OWN) };
    let mut egress = Egress::default();
    for (ends, headers) in [(FOUR, 28), (SIX, 48)] {
        let fits = packet(&mut rig, ends, 1400 - headers);
        assert_eq!(pass(&mut rig, &mut egress, fits), EgressNext::Send);
        let mut long = packet(&mut rig, ends, 1401 - headers);
        assert_eq!(rig.one(&mut egress, &mut long), EgressNext::TooBig);
        assert_eq!((long.meta().flow, long.meta().early), (1400, Complaint::TooBig as u8));
        rig.put(long);
    }
    let mut padded = packet(&mut rig, FOUR, 1400 - 28);
    let len = padded.len();
    padded.resize(len + 20).unwrap();
    assert_eq!(pass(&mut rig, &mut egress, padded), EgressNext::Send, "padding of the link does not count");
    let mut may_cut = packet(&mut rig, FOUR, 1401);
    may_cut.data_mut()[20] = 0;
    assert_eq!(rig.one(&mut egress, &mut may_cut), EgressNext::Fragment);
    assert_eq!(may_cut.meta().flow, 1400);
    rig.put(may_cut);
    let mut inside = packet(&mut rig, FOUR, 1401);
    inside.meta_mut().l3 += 50;
    assert_eq!(rig.one(&mut egress, &mut inside), EgressNext::TooBig);
    assert_eq!(inside.meta().flow, 1350, "what the tunnel added is not the sender's");
    rig.put(inside);
    rig.finish();
}

#[test]
fn a_super_frame_is_as_long_as_its_segments() {
    let mut rig = Rig::new();
    *rig.hop(HOP, rig::OWN) = NextHop { resolved: true, mac: THEIRS, ..*rig.hop(HOP, rig::OWN) };
    let mut egress = Egress::default();
    let bytes = |into: &mut [u8]| {
        build::tcp(into, &path(FOUR.0, FOUR.1), &Tcp::new(1, 2, tcp::Flags::ACK), &[1; 12], &vec![7; 20_000])
    };
    let bytes = build::frame(bytes).unwrap();
    for (size, expected) in [(1448, EgressNext::Send), (1449, EgressNext::TooBig)] {
        let mut packet = rig.packet(&bytes, rig::POD);
        let (checksum_start, segmentation) = (packet.meta().l4, Segmentation::Tcp4);
        packet.meta_mut().next_hop = HOP;
        packet.meta_mut().offload = Offload { checksum_start, checksum_offset: 16, segmentation, segment_size: size };
        assert_eq!(pass(&mut rig, &mut egress, packet), expected);
    }
    rig.finish();
}

#[test]
fn what_cannot_leave_is_dropped_by_name() {
    let mut rig = Rig::new();
    let mut egress = Egress::default();
    rig.hop(HOP, rig::OWN);
    for to in ["224.0.0.5", "255.255.255.255", "0.0.0.0", "ff02::1", "::"] {
        let from = if ip(to).is_ipv4() { FOUR.0 } else { SIX.0 };
        let group = packet(&mut rig, (from, to), 10);
        assert_eq!(pass(&mut rig, &mut egress, group), EgressNext::Multicast, "{to}");
    }
    let mut nothing = packet(&mut rig, FOUR, 10);
    nothing.resize(20).unwrap();
    assert_eq!(pass(&mut rig, &mut egress, nothing), EgressNext::NotIp);
    let mut nowhere = packet(&mut rig, FOUR, 10);
    nowhere.meta_mut().next_hop = 99;
    assert_eq!(pass(&mut rig, &mut egress, nowhere), EgressNext::NoNextHop);
    rig.hop(HOP, PortId(44));
    let no_port = packet(&mut rig, FOUR, 10);
    assert_eq!(pass(&mut rig, &mut egress, no_port), EgressNext::NoPort);
    rig.hop(HOP, rig::OWN);
    rig.limit(0);
    let unasked = packet(&mut rig, FOUR, 10);
    assert_eq!(pass(&mut rig, &mut egress, unasked), EgressNext::NoRoom);
    for n in 0..4096 {
        let address = IpAddr::V4((0x0b00_0000 + u32::from(n)).into());
        rig.learned.neighbours.resolve(rig::OWN, address, n, rig.now);
    }
    let one_more = packet(&mut rig, ("10.0.1.2", "10.0.9.10"), 10);
    assert_eq!(pass(&mut rig, &mut egress, one_more), EgressNext::TableFull);
    rig.finish();
}

#[test]
fn a_port_without_addresses_asks_all_the_same() {
    let mut rig = Rig::new();
    rig.hop(HOP, rig::OWN);
    rig.told.ports.slot(rig::OWN.0.into()).gateways = Arc::new([]);
    let mut egress = Egress::default();
    for ends in [FOUR, SIX] {
        let waits = packet(&mut rig, ends, 10);
        assert_eq!(pass(&mut rig, &mut egress, waits), EgressNext::Held);
        let (_, question) = rig.made::<EgressNext>();
        let bytes = &question.data()[14..];
        match Arp::parse(bytes) {
            Some(arp) => assert_eq!(arp.sender.get(), 0),
            None => assert_eq!(Ipv6::parse(bytes).unwrap().0.src.get(), link_local(OURS).to_bits()),
        }
        rig.put(question);
    }
    rig.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_bytes_leave_by_name(bytes in prop::collection::vec(any::<u8>(), 0..120), l3: u16, port in 0u16..4, mtu: u16) {
        let mut rig = Rig::new();
        rig.hop(HOP, PortId(port)).mtu = mtu % 200;
        let mut packet = rig.packet(&bytes, rig::POD);
        (packet.meta_mut().next_hop, packet.meta_mut().l3) = (HOP, l3);
        let mut egress = Egress::default();
        pass(&mut rig, &mut egress, packet);
        rig.pass(10_000);
        tick(&mut rig, &mut egress);
        rig.finish();
    }
}
