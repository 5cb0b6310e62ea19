//! What the model and whole nodes found, each by name.
use engine::PortId;
use rig::{
    Rig, Sent,
    world::{self, POD_A, POD_B, UPLINK, mac, own_mac, pod, two_pods},
};
use std::{net::IpAddr, sync::Arc};
use tables::told::{EndpointId, Forward, NextHop, NextHopId, Translation, Virtual, VrfId};
use wire::{
    FromBytes, Ipv4, Ports, Protocol, Tcp,
    build::{self, Addresses, Path, frame},
    tcp::Flags,
};

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

fn only(sent: Vec<Sent>) -> Sent {
    assert_eq!(sent.len(), 1, "one packet is sent");
    sent.into_iter().next().unwrap()
}

fn service(rig: &mut Rig, to: IpAddr, protocol: u8, source: Option<(IpAddr, u16)>) -> IpAddr {
    let vip: IpAddr = "10.96.0.1".parse().unwrap();
    let address = Virtual { vrf: VrfId(0), address: vip, port: 80, protocol };
    let translation = Translation { endpoint: EndpointId(1), destination: (to, 8080), source };
    rig.told.translations = Arc::new([(address, translation)].into());
    rig.told.endpoints.slot(1).incarnation = 1;
    vip
}

/// Pod B sent a fragmented ping (or an ICMP timestamp) to A: from then on, its ICMP errors to A pass as packets of that
/// flow, untranslated and without a look at what they quote.
#[test]
fn an_icmp_flow_without_identifier_does_not_swallow_errors() {
    let mut rig = Rig::new(two_pods());
    let (client, endpoint) = (pod(1, 1).0, pod(1, 2).0);
    let vip = service(&mut rig, endpoint.into(), 6, None);
    let syn = tcp(POD_A, client, vip, (5000, 80), Flags::SYN);
    rig.send(POD_A, &syn);
    let (_, seen) = only(rig.turn());
    // An ICMP timestamp request; the later fragments of a large ping do the same.
    let mut timestamp =
        frame(|into| build::ip(into, &path(POD_B, endpoint, client), Protocol::ICMP, &[13, 0, 0, 0, 0, 0, 0, 0]))
            .unwrap();
    let sum = wire::checksum::checksum(&timestamp[34..]);
    timestamp[36..38].copy_from_slice(&sum.to_be_bytes());
    rig.send(POD_B, &timestamp);
    assert_eq!(rig.turn().len(), 1);
    let error =
        frame(|into| build::icmp_error(into, &path(POD_B, endpoint, client), build::Reason::TooBig(1400), &seen[14..]))
            .unwrap();
    rig.send(POD_B, &error);
    let (_, bytes) = only(rig.turn());
    assert_eq!(bytes[14 + 20 + 8 + 16..][..4], [10, 96, 0, 1], "it quotes the virtual address");
}

/// A fragment that came by a port without flows was judged, tracked and translated like that of any other port: a later
/// one without its first was dropped.
#[test]
fn a_port_without_flows_routes_fragments_too() {
    for (client, endpoint) in [(pod(1, 1).0.into(), pod(1, 2).0.into()), (pod(1, 1).1.into(), pod(1, 2).1.into())] {
        let (client, endpoint): (IpAddr, IpAddr) = (client, endpoint);
        let mut rig = Rig::new(two_pods());
        rig.told.ports.slot(POD_A.0.into()).stateless = true;
        // The last part of a packet whose other parts went another way.
        let mut fragment =
            frame(|into| build::ip(into, &path(POD_A, client, endpoint), Protocol(44), &[17, 0, 0, 9, 0, 0, 0, 1]));
        let bytes = fragment.as_mut().unwrap();
        if client.is_ipv4() {
            (bytes[20], bytes[21], bytes[23]) = (0, 1, 17);
            bytes[24..26].fill(0);
            let sum = wire::checksum::checksum(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        rig.send(POD_A, bytes);
        assert_eq!(only(rig.turn()).0, POD_B);
        assert!(rig.moved().iter().all(|(node, ..)| !["fragments", "learn"].contains(node)));
    }
}

/// A flow that began in a blackhole has no half for replies and gets none when its route leads elsewhere.
#[test]
fn a_flow_out_of_a_blackhole_hears_replies() {
    let mut rig = Rig::new(two_pods());
    let hole = world::add_next_hop(&mut rig.told, NextHop { forward: Forward::Blackhole, ..NextHop::default() });
    let (client, other) = (pod(1, 1).0, pod(1, 2).0);
    world::route(&mut rig.told, other.into(), 32, hole);
    // `world::route` bumps the parent only; what replaces a route bumps its old leaf.
    rig.send(POD_A, &tcp(POD_A, client, other, (5000, 80), Flags::SYN));
    assert_eq!(rig.turn(), []);
    let old = rig.told.vrfs.slot(0).v4.get(other.to_bits(), 32).unwrap();
    world::route(&mut rig.told, other.into(), 32, NextHopId(2));
    rig.told.leaves.slot(old.0 as usize).epoch += 1;
    rig.send(POD_A, &tcp(POD_A, client, other, (5000, 80), Flags::SYN));
    assert_eq!(only(rig.turn()).0, POD_B);
    rig.send(POD_B, &tcp(POD_B, other, client, (80, 5000), Flags::SYN | Flags::ACK));
    rig.moved();
    let sent = rig.turn();
    // The first reply is judged, by the half that is there for it.
    let judged = vec![("front", "Unknown", 1), ("learn", "Forward", 1), ("egress", "Send", 1)];
    assert_eq!((sent.len(), rig.moved()), (1, judged));
}

/// The sender of a packet that is too big once translated is told about a packet that it never sent; with its source
/// translated too, somebody else is told.
#[test]
fn too_big_is_told_about_the_packet_that_was_sent() {
    for source in [None, Some(("10.0.1.254".parse().unwrap(), 40_000))] {
        let mut rig = Rig::new(two_pods());
        let (client, endpoint) = (pod(1, 1).0, pod(2, 7).0);
        let vip = service(&mut rig, endpoint.into(), 17, source);
        rig.send(POD_A, &udp(POD_A, client, vip, (5000, 80), &[1; 1440]));
        let (port, bytes) = only(rig.turn());
        let (ip, _) = Ipv4::ref_from_prefix(&bytes[14..]).unwrap();
        let (quoted, _) = Ipv4::ref_from_prefix(&bytes[42..]).unwrap();
        let to_vip = std::net::Ipv4Addr::from(quoted.dst.get()).to_string();
        assert_eq!((port, std::net::Ipv4Addr::from(ip.dst.get()), &to_vip[..]), (POD_A, client, "10.96.0.1"));
    }
}

/// A route leads an address to a pod that may not send from it: the pod answers from it all the same.
#[test]
fn replies_are_judged_by_policy_too() {
    let mut rig = Rig::new(two_pods());
    rig.told.ports.slot(POD_A.0.into()).allowed = Arc::default();
    rig.told.ports.slot(POD_A.0.into()).epoch += 1;
    rig.send(POD_B, &udp(POD_B, pod(1, 2).0, pod(1, 1).0, (1000, 80), b""));
    assert_eq!(rig.turn().len(), 1);
    rig.send(POD_A, &udp(POD_A, pod(1, 1).0, pod(1, 2).0, (80, 1000), b""));
    assert_eq!(rig.turn(), []);
}

/// A first packet without a route back makes the replies vanish without a word; any other packet is answered.
#[test]
fn a_reply_without_a_route_is_answered() {
    let mut rig = Rig::new(two_pods());
    rig.send(UPLINK, &udp(UPLINK, pod(9, 9).0, pod(1, 1).0, (1000, 80), b""));
    assert_eq!(only(rig.turn()).0, POD_A);
    rig.send(POD_A, &udp(POD_A, pod(1, 1).0, pod(9, 9).0, (80, 1000), b""));
    let (port, bytes) = only(rig.turn());
    assert_eq!((port, bytes[34]), (POD_A, 3));
}

/// What follows the IP header is shorter than ports and a length would be: the end of a packet one byte too long, or a
/// protocol that says little.
#[test]
fn packets_shorter_than_a_udp_header_are_no_less_sound() {
    let mut rig = Rig::new(two_pods());
    let ((from4, from6), (to4, to6)) = (pod(1, 1), pod(1, 2));
    let whole = udp(POD_A, from4, to4, (5000, 80), &[7; 25]);
    let piece = |from: usize, to: usize, more: u16| {
        let mut bytes = [&whole[..34], &whole[34 + from..34 + to]].concat();
        let (ip, _) = Ipv4::mut_from_prefix(&mut bytes[14..]).unwrap();
        ip.total_len.set(u16::try_from(20 + to - from).unwrap());
        ip.fragment.set(more | u16::try_from(from / 8).unwrap());
        *ip = ip.with_checksum();
        bytes
    };
    rig.send(POD_A, &piece(0, 32, 0x2000));
    rig.send(POD_A, &piece(32, 33, 0));
    for path in [path(POD_A, from4, to4), path(POD_A, from6, to6)] {
        rig.send(POD_A, &frame(|into| build::ip(into, &path, Protocol(253), &[1])).unwrap());
    }
    let sent = rig.turn();
    assert_eq!((sent.len(), sent.iter().all(|(port, _)| *port == POD_B)), (4, true), "{:?}", rig.moved());
}
