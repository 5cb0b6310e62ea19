//! Whole journeys through the product's graph: packets in, packets out, exact counter differences.
use engine::{Offload, PortId, Segmentation};
use rig::{
    Rig, Sent,
    world::{self, GATEWAY, POD_A, POD_B, UNDERLAY, UPLINK, mac, own_mac, pod, two_pods},
};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tables::told::{EndpointId, Forward, LeafId, NextHop, NextHopId, Translation, Virtual, VrfId};
use wire::{
    FromBytes, IntoBytes, Ipv4, Ipv6, Mac, Ports, Protocol, Tcp, Udp, Vni, Vxlan,
    build::{self, Addresses, Path, frame},
    checksum::checksum,
    tcp::Flags,
};

/// From whoever is behind a port, to the dataplane's own link address on it.
fn path(port: PortId, from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> Path {
    Path::new((mac(port), own_mac(port)), Addresses::of(from.into(), to.into()).unwrap())
}

fn udp(port: PortId, from: impl Into<IpAddr>, to: impl Into<IpAddr>, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    frame(|into| build::udp(into, &path(port, from, to), Ports::new(ports.0, ports.1), payload)).unwrap()
}

fn tcp(port: PortId, from: impl Into<IpAddr>, to: impl Into<IpAddr>, ports: (u16, u16), flags: Flags) -> Vec<u8> {
    let header = Tcp::new(ports.0, ports.1, flags);
    frame(|into| build::tcp(into, &path(port, from, to), &header, &[], b"x")).unwrap()
}

/// Whether all checksums of a frame hold, down to the innermost.
fn sound(bytes: &[u8]) -> bool {
    let ip = &bytes[14..];
    if bytes[12..14] == [0x86, 0xdd] {
        let (header, found) = Ipv6::parse(ip).unwrap();
        let transport = &ip[found.offset..header.total_len()];
        return header.pseudo(found.protocol, u32::try_from(transport.len()).unwrap()).bytes(transport).checksum() == 0;
    }
    let (header, _) = Ipv4::parse(ip).unwrap();
    let transport = &ip[header.header_len()..usize::from(header.total_len.get())];
    match header.protocol {
        Protocol::ICMP => checksum(transport) == 0,
        Protocol::UDP if transport[6..8] == [0, 0] => true,
        _ => header.pseudo(u32::try_from(transport.len()).unwrap()).bytes(transport).checksum() == 0,
    }
}

fn only(sent: Vec<Sent>) -> Sent {
    assert_eq!(sent.len(), 1, "one packet is sent");
    sent.into_iter().next().unwrap()
}

#[test]
fn pods_on_a_host_talk_over_both_families() {
    let mut rig = Rig::new(two_pods());
    let ((a4, a6), (b4, b6)) = (pod(1, 1), pod(1, 2));
    rig.send(POD_A, &udp(POD_A, a4, b4, (1000, 53), b"query"));
    rig.send(POD_A, &udp(POD_A, a6, b6, (1000, 53), b"query"));
    let sent = rig.turn();
    assert_eq!(rig.moved(), [("front", "Unknown", 2), ("learn", "Forward", 2), ("egress", "Send", 2)]);
    for (port, bytes) in &sent {
        assert_eq!((*port, &bytes[..6], &bytes[6..12]), (POD_B, &mac(POD_B).0[..], &own_mac(POD_B).0[..]));
        assert!(sound(bytes) && bytes.ends_with(b"query"));
    }
    assert_eq!((sent[0].1[22], sent[1].1[21]), (63, 63), "one hop less");
    // The first reply is judged, and every later packet finds its half.
    rig.send(POD_B, &udp(POD_B, b4, a4, (53, 1000), b"answer"));
    rig.send(POD_A, &udp(POD_A, a4, b4, (1000, 53), b"query"));
    rig.send(POD_B, &udp(POD_B, b6, a6, (53, 1000), b"answer"));
    assert_eq!(rig.turn().iter().map(|sent| sent.0).collect::<Vec<_>>(), [POD_B, POD_A, POD_A]);
    assert_eq!(
        rig.moved(),
        [("front", "Forward", 1), ("front", "Unknown", 2), ("learn", "Forward", 2), ("egress", "Send", 3)]
    );
    rig.send(POD_B, &udp(POD_B, b4, a4, (53, 1000), b"more"));
    rig.send(POD_B, &udp(POD_B, b6, a6, (53, 1000), b"more"));
    assert_eq!(rig.turn().len(), 2);
    assert_eq!(rig.moved(), [("front", "Forward", 2), ("egress", "Send", 2)]);
    assert_eq!((rig.learned.flows4.budgets.of(POD_A.0), rig.learned.flows6.budgets.of(POD_A.0)), (2, 2));
    assert!(rig.nothing_is_lost());
}

#[test]
fn a_pod_cannot_send_from_an_address_that_is_not_its_own() {
    let mut rig = Rig::new(two_pods());
    let ((a4, a6), (b4, b6)) = (pod(1, 1), pod(1, 2));
    rig.send(POD_A, &udp(POD_A, a4, b4, (1, 2), b""));
    rig.turn();
    rig.moved();
    // Another pod, with the very tuple of the flow that is established.
    rig.send(POD_B, &udp(POD_B, a4, b4, (1, 2), b""));
    rig.send(POD_B, &udp(POD_B, a6, b6, (1, 2), b""));
    rig.send(POD_B, &udp(POD_B, pod(9, 9).0, a4, (1, 2), b""));
    assert_eq!(rig.turn(), []);
    assert_eq!(rig.moved(), [("front", "Unknown", 3), ("learn", "Spoofed", 3)]);
}

#[test]
fn a_pod_reaches_another_host_through_the_tunnel_and_hears_back() {
    let mut rig = Rig::new(two_pods());
    let ((a4, _), (c4, _)) = (pod(1, 1), pod(2, 7));
    rig.send(POD_A, &udp(POD_A, a4, c4, (1000, 53), b"query"));
    let (port, bytes) = only(rig.turn());
    assert_eq!(
        rig.moved(),
        [("front", "Unknown", 1), ("learn", "Tunnel", 1), ("vxlan-encap", "Out", 1), ("egress", "Send", 1)]
    );
    let (outer, rest) = Ipv4::ref_from_prefix(&bytes[14..]).unwrap();
    let (udp_header, rest) = Udp::ref_from_prefix(rest).unwrap();
    let (vxlan, inner) = Vxlan::ref_from_prefix(rest).unwrap();
    assert_eq!((port, outer.src.get(), outer.dst.get()), (UPLINK, UNDERLAY.0.to_bits(), UNDERLAY.1.to_bits()));
    assert_eq!((udp_header.dst.get(), vxlan.vni(), checksum(outer.as_bytes())), (4789, Vni::new(42), 0));
    assert!(udp_header.src.get() >= 49152 && sound(inner) && inner.ends_with(b"query"));
    assert_eq!((&inner[..6], &inner[6..12]), (&[2, 1, 0, 0, 0, 2][..], &[2, 1, 0, 0, 0, 1][..]));

    rig.send(UPLINK, &through_tunnel(UNDERLAY.1.into(), 42, &udp(POD_A, c4, a4, (53, 1000), b"answer")));
    let (port, bytes) = only(rig.turn());
    assert_eq!((port, bytes.ends_with(b"answer"), sound(&bytes)), (POD_A, true, true));
    assert_eq!(
        rig.moved(),
        [
            ("front", "Unknown", 1),
            ("front", "Decap", 1),
            ("vxlan-decap", "Inner", 1),
            ("learn", "Forward", 1),
            ("egress", "Send", 1)
        ]
    );
    // Strangers, other networks, and what is not VXLAN are told apart by name.
    rig.send(UPLINK, &through_tunnel([192, 168, 0, 66].into(), 42, &udp(POD_A, c4, a4, (53, 1000), b"")));
    rig.send(UPLINK, &through_tunnel(UNDERLAY.1.into(), 43, &udp(POD_A, c4, a4, (53, 1000), b"")));
    rig.send(UPLINK, &udp(UPLINK, UNDERLAY.1, UNDERLAY.0, (1, 4789), &[0; 20]));
    assert_eq!(rig.turn(), []);
    assert_eq!(
        rig.moved(),
        [
            ("front", "Decap", 3),
            ("vxlan-decap", "NotVxlan", 1),
            ("vxlan-decap", "UnknownNetwork", 1),
            ("vxlan-decap", "UnknownRemote", 1)
        ]
    );
    assert!(rig.nothing_is_lost());
}

/// A frame from the other host: `inner` with the tunnel's inner link addresses, in VXLAN.
fn through_tunnel(from: IpAddr, vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut inner = inner.to_vec();
    inner[..6].copy_from_slice(&[2, 1, 0, 0, 0, 1]);
    inner[6..12].copy_from_slice(&[2, 1, 0, 0, 0, 2]);
    let path = path(UPLINK, from, UNDERLAY.0);
    frame(|into| build::vxlan(into, &path, 50_000, Vni::new(vni).unwrap(), &inner)).unwrap()
}

/// A virtual address that leads to a pod, with the source rewritten too when `snat`.
fn with_service(rig: &mut Rig, snat: bool, v6: bool) -> (IpAddr, IpAddr) {
    let vip: IpAddr = if v6 { "fd00:ffff::1".parse().unwrap() } else { "10.96.0.1".parse().unwrap() };
    let endpoint: IpAddr = if v6 { pod(1, 2).1.into() } else { pod(1, 2).0.into() };
    let source: IpAddr = if v6 { "fd00:1::99".parse().unwrap() } else { "10.0.1.254".parse().unwrap() };
    let address = Virtual { vrf: VrfId(0), address: vip, port: 80, protocol: 6 };
    let source = snat.then_some((source, 40_000));
    let translation = Translation { endpoint: EndpointId(1), destination: (endpoint, 8080), source };
    rig.told.translations = Arc::new([(address, translation)].into());
    rig.told.endpoints.slot(1).incarnation = 1;
    (vip, endpoint)
}

#[test]
fn a_static_translation_rewrites_both_ways_and_checksums_hold() {
    for v6 in [false, true] {
        let mut rig = Rig::new(two_pods());
        let (vip, endpoint) = with_service(&mut rig, false, v6);
        let client: IpAddr = if v6 { pod(1, 1).1.into() } else { pod(1, 1).0.into() };
        rig.send(POD_A, &tcp(POD_A, client, vip, (5000, 80), Flags::SYN));
        let (port, there) = only(rig.turn());
        let expected = tcp(POD_A, client, endpoint, (5000, 8080), Flags::SYN);
        assert_eq!((port, sound(&there)), (POD_B, true));
        assert_eq!(addresses_and_ports(&there), addresses_and_ports(&expected));
        rig.send(POD_B, &tcp(POD_B, endpoint, client, (8080, 5000), Flags::SYN | Flags::ACK));
        let (port, back) = only(rig.turn());
        assert_eq!((port, sound(&back)), (POD_A, true));
        let expected = tcp(POD_A, vip, client, (80, 5000), Flags::SYN | Flags::ACK);
        assert_eq!(addresses_and_ports(&back), addresses_and_ports(&expected));
        rig.moved();
        rig.send(POD_A, &tcp(POD_A, client, vip, (5000, 80), Flags::ACK));
        let (_, there) = only(rig.turn());
        assert!(sound(&there));
        assert_eq!(rig.moved(), [("front", "Forward", 1), ("egress", "Send", 1)]);
    }
}

/// The bytes of addresses and ports.
fn addresses_and_ports(bytes: &[u8]) -> Vec<u8> {
    if bytes[12..14] == [0x86, 0xdd] { bytes[22..58].to_vec() } else { bytes[26..38].to_vec() }
}

#[test]
fn a_translation_keeps_a_partial_checksum_partial() {
    let mut rig = Rig::new(two_pods());
    let (vip, endpoint) = with_service(&mut rig, false, false);
    let mut bytes = tcp(POD_A, pod(1, 1).0, vip, (5000, 80), Flags::SYN);
    let (ip, _) = Ipv4::read_from_prefix(&bytes[14..]).unwrap();
    let len = u32::try_from(bytes.len() - 34).unwrap();
    bytes[50..52].copy_from_slice(&ip.pseudo(len).folded().to_be_bytes());
    let partial = Offload { checksum_start: 256 + 34, checksum_offset: 16, ..Offload::default() };
    rig.send_packet(POD_A, &bytes, |packet| packet.meta_mut().offload = partial);
    let sent = rig.turn_packets(|_, packet| (packet.meta().offload, packet.data().to_vec()));
    let (offload, mut bytes) = sent.into_iter().next().unwrap();
    assert_eq!(offload, partial);
    wire::checksum::complete(&mut bytes, 34, 16).unwrap();
    assert!(sound(&bytes));
    let IpAddr::V4(endpoint) = endpoint else { panic!("IPv4") };
    assert_eq!(bytes[30..34], endpoint.octets());
}

#[test]
fn an_endpoint_that_dies_takes_its_flows_along_and_no_other() {
    let mut rig = Rig::new(two_pods());
    let (vip, _) = with_service(&mut rig, false, false);
    let client = pod(1, 1).0;
    rig.send(POD_A, &tcp(POD_A, client, vip, (5000, 80), Flags::SYN));
    rig.send(POD_A, &udp(POD_A, client, pod(1, 2).0, (1, 2), b""));
    rig.turn();
    rig.moved();
    rig.told.endpoints.slot(1).incarnation += 1;
    rig.told.translations = Arc::default();
    rig.send(POD_A, &udp(POD_A, client, pod(1, 2).0, (1, 2), b""));
    rig.send(POD_A, &tcp(POD_A, client, vip, (5000, 80), Flags::ACK));
    rig.turn();
    let moved = rig.moved();
    assert!(moved.contains(&("front", "Forward", 1)) && moved.contains(&("learn", "NoRoute", 1)), "{moved:?}");
}

#[test]
fn a_route_that_splits_another_moves_the_flows_that_it_takes_and_only_those() {
    let mut rig = Rig::new(two_pods());
    let a4 = pod(1, 1).0;
    for host in [7, 8] {
        rig.send(POD_A, &udp(POD_A, a4, pod(2, host).0, (1, 2), b""));
    }
    rig.send(POD_A, &udp(POD_A, a4, pod(1, 2).0, (1, 2), b""));
    rig.turn();
    rig.moved();
    // 10.0.2.7 turns up on this host.
    world::route(&mut rig.told, pod(2, 7).0.into(), 32, NextHopId(2));
    for host in [7, 8] {
        rig.send(POD_A, &udp(POD_A, a4, pod(2, host).0, (1, 2), b""));
    }
    rig.send(POD_A, &udp(POD_A, a4, pod(1, 2).0, (1, 2), b""));
    let ports: Vec<_> = rig.turn().into_iter().map(|sent| sent.0).collect();
    let mut sorted = ports.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [POD_B, POD_B, UPLINK], "{ports:?}");
    let moved = rig.moved();
    assert!(moved.contains(&("front", "Unknown", 2)), "flows of the split route walk again: {moved:?}");
    assert!(moved.contains(&("front", "Forward", 1)), "the others do not: {moved:?}");
    rig.send(POD_A, &udp(POD_A, a4, pod(2, 8).0, (1, 2), b""));
    rig.turn();
    assert!(rig.moved().contains(&("front", "Tunnel", 1)), "and are established again");
}

#[test]
fn a_next_hop_that_moves_needs_no_walk() {
    let mut rig = Rig::new(two_pods());
    let packet = udp(POD_A, pod(1, 1).0, pod(1, 2).0, (1, 2), b"");
    rig.send(POD_A, &packet);
    rig.turn();
    rig.moved();
    rig.told.next_hops.slot(2).mac = Mac([2, 9, 9, 9, 9, 9]);
    rig.send(POD_A, &packet);
    let (_, bytes) = only(rig.turn());
    assert_eq!(
        (&bytes[..6], rig.moved()),
        (&[2, 9, 9, 9, 9, 9][..], vec![("front", "Forward", 1), ("egress", "Send", 1)])
    );
}

#[test]
fn fragments_follow_their_first_one_and_are_translated_with_it() {
    let mut rig = Rig::new(two_pods());
    let (vip, endpoint) = with_service(&mut rig, false, false);
    let address = Virtual { vrf: VrfId(0), address: vip, port: 80, protocol: 17 };
    let translation = Translation { endpoint: EndpointId(1), destination: (endpoint, 8080), source: None };
    rig.told.translations = Arc::new([(address, translation)].into());
    let whole = udp(POD_A, pod(1, 1).0, vip, (5000, 80), &[7; 64]);
    let piece = |from: usize, to: usize, more: u16| {
        let mut bytes = whole[..34].to_vec();
        bytes.extend(&whole[34 + from..34 + to]);
        let (ip, _) = Ipv4::mut_from_prefix(&mut bytes[14..]).unwrap();
        ip.total_len.set(u16::try_from(20 + to - from).unwrap());
        ip.fragment.set(more | u16::try_from(from / 8).unwrap());
        *ip = ip.with_checksum();
        bytes
    };
    rig.send(POD_A, &piece(32, 72, 0));
    assert_eq!(rig.turn(), []);
    assert_eq!(rig.moved(), [("front", "Fragment", 1), ("fragments", "NoFirst", 1)]);
    rig.send(POD_A, &piece(0, 32, 0x2000));
    rig.send(POD_A, &piece(32, 72, 0));
    let sent = rig.turn();
    assert_eq!(sent.len(), 2);
    let mut reassembled = sent[0].1.clone();
    reassembled.extend(&sent[1].1[34..]);
    let (ip, _) = Ipv4::mut_from_prefix(&mut reassembled[14..]).unwrap();
    ip.total_len.set(20 + 72);
    ip.fragment.set(0);
    *ip = ip.with_checksum();
    assert!(sound(&reassembled), "the checksum of the first fragment holds for all");
    assert_eq!(sent[1].1[30..34], pod(1, 2).0.octets());
}

#[test]
fn an_icmp_error_goes_with_the_flow_that_it_quotes_and_is_translated_back() {
    for v6 in [false, true] {
        let mut rig = Rig::new(two_pods());
        let (vip, endpoint) = with_service(&mut rig, false, v6);
        let client: IpAddr = if v6 { pod(1, 1).1.into() } else { pod(1, 1).0.into() };
        let syn = tcp(POD_A, client, vip, (5000, 80), Flags::SYN);
        rig.send(POD_A, &syn);
        let (_, seen) = only(rig.turn());
        rig.moved();
        let reason = build::Reason::TooBig(1400);
        let error = frame(|into| build::icmp_error(into, &path(POD_B, endpoint, client), reason, &seen[14..])).unwrap();
        rig.send(POD_B, &error);
        let (port, bytes) = only(rig.turn());
        assert_eq!((port, sound(&bytes)), (POD_A, true), "IPv6: {v6}");
        let at = if v6 { 14 + 40 + 8 } else { 14 + 20 + 8 };
        let quote = [&bytes[..14], &bytes[at..]].concat();
        assert_eq!(addresses_and_ports(&quote), addresses_and_ports(&syn), "it quotes what the client sent");
        // One about a packet that nobody sent.
        let other = tcp(POD_A, client, endpoint, (6000, 8080), Flags::SYN);
        let error =
            frame(|into| build::icmp_error(into, &path(POD_B, endpoint, client), reason, &other[14..])).unwrap();
        rig.moved();
        rig.send(POD_B, &error);
        assert_eq!(rig.turn(), []);
        assert_eq!(rig.moved(), [("front", "Unknown", 1), ("learn", "ErrorWithoutFlow", 1)]);
    }
}

#[test]
fn a_tcp_reply_without_a_flow_is_dropped_and_never_reset() {
    let mut rig = Rig::new(two_pods());
    for flags in [Flags::SYN | Flags::ACK, Flags::RST, Flags::RST | Flags::ACK] {
        rig.send(POD_B, &tcp(POD_B, pod(1, 2).0, pod(1, 1).0, (80, 5000), flags));
    }
    assert_eq!(rig.turn(), []);
    assert_eq!(rig.moved(), [("front", "Unknown", 3), ("learn", "ReplyWithoutFlow", 3)]);
}

#[test]
fn a_flood_of_first_packets_is_limited_for_its_port_alone() {
    let mut rig = Rig::new(two_pods());
    rig.told.limits.first_packets = 10;
    rig.pass(Duration::from_secs(1));
    for port in 0..100 {
        rig.send(POD_A, &udp(POD_A, pod(1, 1).0, pod(1, 2).0, (port, 9), b""));
    }
    rig.send(POD_B, &udp(POD_B, pod(1, 2).0, pod(1, 1).0, (7, 7), b""));
    assert_eq!(rig.turn().len(), 11);
    assert!(rig.moved().contains(&("learn", "TooManyFirst", 90)));
}

#[test]
fn flows_end_when_they_rest_and_a_port_that_goes_ends_its_answers() {
    let mut rig = Rig::new(two_pods());
    let packet = udp(POD_A, pod(1, 1).0, pod(1, 2).0, (1, 2), b"");
    rig.send(POD_A, &packet);
    rig.turn();
    for _ in 0..40 {
        rig.pass(Duration::from_secs(4));
    }
    assert_eq!(rig.learned.flows4.budgets.total(), 0);
    rig.send(POD_A, &packet);
    rig.turn();
    rig.moved();
    rig.told.ports.slot(POD_A.0.into()).epoch += 1; // its policy changed
    rig.send(POD_A, &packet);
    rig.turn();
    let walked = [("front", "Unknown", 1), ("learn", "Forward", 1), ("egress", "Send", 1)];
    assert_eq!(rig.moved(), walked, "established flows are judged again");
}

#[test]
fn a_stateless_port_forwards_by_route_alone() {
    let mut rig = Rig::new(two_pods());
    rig.told.ports.slot(UPLINK.0.into()).stateless = true;
    for family in 0..2 {
        let to: IpAddr = if family == 0 { pod(1, 2).0.into() } else { pod(1, 2).1.into() };
        let from: IpAddr = if family == 0 { pod(3, 3).0.into() } else { pod(3, 3).1.into() };
        rig.send(UPLINK, &udp(UPLINK, from, to, (1, 2), b""));
    }
    let sent = rig.turn();
    assert!(sent.len() == 2 && sent.iter().all(|(port, bytes)| *port == POD_B && sound(bytes)));
    assert_eq!(rig.moved(), [("front", "Forward", 2), ("egress", "Send", 2)]);
    assert_eq!(rig.learned.flows4.budgets.total() + rig.learned.flows6.budgets.total(), 0);
}

#[test]
fn a_stateless_port_drops_by_a_blackhole_in_silence_and_says_what_is_unreachable() {
    let silence = vec![("front", "Blackhole", 2)];
    let told = vec![("front", "Unreachable", 2), ("icmp-error", "Routed", 1), ("icmp-error", "Done", 1)];
    for (forward, moved) in [(Forward::Blackhole, silence), (Forward::Unreachable, told)] {
        let mut rig = Rig::new(two_pods());
        rig.told.ports.slot(UPLINK.0.into()).stateless = true;
        let hop = world::add_next_hop(&mut rig.told, NextHop { forward, ..NextHop::default() });
        for (to, len) in [("192.0.2.1", 24), ("2001:db8:2::1", 64)] {
            let to: IpAddr = to.parse().unwrap();
            world::route(&mut rig.told, to, len, hop);
            let from: IpAddr = if to.is_ipv4() { pod(3, 3).0.into() } else { pod(3, 3).1.into() };
            rig.send(UPLINK, &udp(UPLINK, from, to, (1, 2), b""));
        }
        rig.turn();
        assert!(rig.moved().starts_with(&moved), "{:?}", rig.moved()); // the uplink has no IPv6 address to speak from
    }
}

#[test]
fn the_gateway_answers_pings_and_neighbour_requests() {
    let mut rig = Rig::new(two_pods());
    let ((a4, a6), (g4, g6)) = (pod(1, 1), GATEWAY);
    rig.send(POD_A, &frame(|into| build::echo_request(into, &path(POD_A, a4, g4), (7, 1), b"ping")).unwrap());
    rig.send(POD_A, &frame(|into| build::echo_request(into, &path(POD_A, a6, g6), (7, 1), b"ping")).unwrap());
    let arp = wire::Arp::request(mac(POD_A), a4.to_bits().into(), g4.to_bits().into());
    rig.send(POD_A, &frame(|into| build::arp(into, Mac::BROADCAST, &arp)).unwrap());
    let (source, target) = (a6.to_bits().into(), g6.to_bits().into());
    rig.send(POD_A, &frame(|into| build::neighbour_solicitation(into, mac(POD_A), source, target)).unwrap());
    let sent = rig.turn();
    assert_eq!(sent.len(), 4, "{:?}", rig.moved());
    assert!(sent.iter().all(|(port, bytes)| *port == POD_A && bytes[..6] == mac(POD_A).0));
    assert!(rig.nothing_is_lost());
}

#[test]
fn the_last_hop_of_a_packet_may_be_the_gateway() {
    let mut rig = Rig::new(two_pods());
    for (from, to) in [(IpAddr::from(pod(1, 1).0), IpAddr::from(GATEWAY.0)), (pod(1, 1).1.into(), GATEWAY.1.into())] {
        let last = Path { hops: 1, ..path(POD_A, from, to) };
        rig.send(POD_A, &frame(|into| build::echo_request(into, &last, (7, 1), b"ping")).unwrap());
    }
    assert_eq!(rig.turn().len(), 2);
    assert!(rig.moved().contains(&("local", "Answered", 2)));
}

#[test]
fn a_super_frame_passes_from_pod_to_pod_uncut() {
    let mut rig = Rig::new(two_pods());
    let header = Tcp::new(5000, 80, Flags::ACK);
    let large =
        frame(|into| build::tcp(into, &path(POD_A, pod(1, 1).0, pod(1, 2).0), &header, &[], &[1; 2000])).unwrap();
    let segmentation = Segmentation::Tcp4;
    let offload = Offload { checksum_start: 256 + 34, checksum_offset: 16, segmentation, segment_size: 1410 };
    rig.send_packet(POD_A, &large, |packet| packet.meta_mut().offload = offload);
    let sent = rig.turn_packets(|port, packet| (port, packet.len(), packet.meta().offload));
    assert_eq!(sent, [(POD_B, large.len(), offload)]);
    // With larger segments than the way takes, the sender is told.
    let offload = Offload { segment_size: 1460, ..offload };
    rig.moved();
    rig.send_packet(POD_A, &large, |packet| packet.meta_mut().offload = offload);
    let (port, bytes) = only(rig.turn());
    assert_eq!((port, bytes[34], bytes[35], &bytes[40..42]), (POD_A, 3, 4, &1450u16.to_be_bytes()[..]));
}

#[test]
fn a_trace_tells_the_whole_journey() {
    let mut rig = Rig::new(two_pods());
    rig.told.trace = Some(tables::told::TraceFilter {
        number: 1,
        count: 1,
        address: Some(pod(2, 7).0.into()),
        ..Default::default()
    });
    rig.send(POD_A, &udp(POD_A, pod(1, 1).0, pod(1, 2).0, (1, 2), b""));
    rig.send(POD_A, &udp(POD_A, pod(1, 1).0, pod(2, 7).0, (1, 2), b""));
    rig.turn();
    rig.send(POD_A, &udp(POD_A, pod(1, 1).0, pod(2, 7).0, (1, 2), b""));
    rig.turn();
    assert_eq!(rig.journey(1), "front.Unknown > learn.Tunnel > vxlan-encap.Out > egress.Send");
    assert_eq!(rig.journey(2), "");
}

#[test]
fn no_route_is_told_to_the_sender_and_a_new_route_counts_at_once() {
    let mut rig = Rig::new(two_pods());
    let packet = udp(POD_A, pod(1, 1).0, pod(9, 9).0, (1, 2), b"");
    rig.send(POD_A, &packet);
    let (port, bytes) = only(rig.turn());
    assert_eq!((port, bytes[23], bytes[34], sound(&bytes)), (POD_A, 1, 3, true), "destination unreachable");
    assert_eq!(rig.told.vrfs.get(0).unwrap().no_route, LeafId(1));
    world::route(&mut rig.told, pod(9, 9).0.into(), 32, NextHopId(2));
    rig.send(POD_A, &packet);
    assert_eq!(only(rig.turn()).0, POD_B);
}
