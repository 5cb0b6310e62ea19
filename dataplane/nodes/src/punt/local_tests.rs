use super::*;
use crate::punt::{
    link_local,
    rig::{self, OURS, Rig, THEIRS, assert_sound, ip, path},
};
use engine::PortId;
use proptest::prelude::*;
use wire::{
    IntoBytes, Mac, Ports, Tcp, U128,
    build::{self, Addresses, Path},
    icmpv6::Kind,
    nd::{self, LinkLayer, Neighbour},
    tcp,
};

const FOUR: (&str, &str) = ("10.0.1.2", "10.0.1.1");
const SIX: (&str, &str) = ("fd00::1:2", "fd00::1:1");

fn pass(rig: &mut Rig, port: PortId, frame: &[u8]) -> (LocalNext, Packet) {
    let mut packet = rig.packet(frame, port);
    (rig.one(&mut Local, &mut packet), packet)
}

fn echo(ends: (&str, &str)) -> Vec<u8> {
    build::frame(|into| build::echo_request(into, &Path { hops: 3, ..path(ends.0, ends.1) }, (7, 8), b"hello")).unwrap()
}

/// An ICMPv6 message with a right checksum.
fn message(path: &Path, kind: Kind, code: u8, rest: u32, body: &[u8]) -> Vec<u8> {
    let bytes = [Icmpv6::new(kind, code, rest).as_bytes(), body].concat();
    let mut frame = build::frame(|into| build::ip(into, path, Protocol::ICMPV6, &bytes)).unwrap();
    let (ip, _) = Ipv6::read_from_prefix(&frame[14..]).unwrap();
    let sum = ip.pseudo(Protocol::ICMPV6, u32::try_from(bytes.len()).unwrap()).bytes(&bytes).checksum();
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn link(from: &str, to: &str) -> Path {
    Path { hops: 255, ..path(from, to) }
}

fn number(address: &str) -> U128 {
    address.parse::<std::net::Ipv6Addr>().unwrap().to_bits().into()
}

fn solicitation(path: &Path, target: &str, options: &[u8]) -> Vec<u8> {
    message(path, Kind::NEIGHBOUR_SOLICITATION, 0, 0, &[number(target).as_bytes(), options].concat())
}

fn advertisement(path: &Path, target: &str, flags: u32, options: &[u8]) -> Vec<u8> {
    message(path, Kind::NEIGHBOUR_ADVERTISEMENT, 0, flags, &[number(target).as_bytes(), options].concat())
}

#[test]
fn an_echo_request_becomes_its_reply() {
    let mut rig = Rig::new();
    for ends in [FOUR, SIX] {
        let (arc, packet) = pass(&mut rig, rig::POD, &echo(ends));
        assert_eq!((arc, packet.meta().port_out), (LocalNext::Answered, rig::POD.0));
        let reply = Path::new((OURS, THEIRS), Addresses::of(ip(ends.1), ip(ends.0)).unwrap());
        let reply = build::frame(|into| build::echo_reply(into, &reply, (7, 8), b"hello")).unwrap();
        assert_eq!(packet.data(), reply);
        rig.put(packet);
    }
    rig.finish();
}

#[test]
fn an_echo_request_from_a_tunnel_is_answered_by_the_way_that_routes_say() {
    let mut rig = Rig::new();
    for ends in [FOUR, SIX] {
        let mut packet = rig.packet(&echo(ends), rig::SHARED);
        packet.meta_mut().flags |= flag::DECAPPED;
        assert_eq!(rig.one(&mut Local, &mut packet), LocalNext::Routed);
        assert_eq!(packet.meta().flags & (flag::OWN | flag::DECAPPED), flag::OWN);
        assert_sound(packet.data());
        rig.put(packet);
    }
    rig.finish();
}

#[test]
fn a_solicitation_for_a_gateway_is_answered() {
    let mut rig = Rig::new();
    let source = LinkLayer::new(nd::SOURCE, THEIRS);
    let own = link_local(OURS).to_string();
    for target in ["fd00::1:1", &own] {
        let group = std::net::Ipv6Addr::from_bits(nd::solicited_node(number(target)).get()).to_string();
        for to in [target, &group] {
            let asked = solicitation(&link("fd00::1:2", to), target, source.as_bytes());
            let (arc, packet) = pass(&mut rig, rig::POD, &asked);
            assert_eq!((arc, packet.meta().port_out), (LocalNext::Answered, rig::POD.0), "{target} {to}");
            let expected = Path::new((OURS, THEIRS), Addresses::of(ip(target), ip("fd00::1:2")).unwrap());
            let flags = nd::ROUTER | nd::SOLICITED | nd::OVERRIDE;
            let number = number(target);
            let expected = build::frame(|into| build::neighbour_advertisement(into, &expected, number, flags));
            assert_eq!(packet.data(), expected.unwrap());
            rig.put(packet);
        }
        let claimed = solicitation(&link("::", &group), target, &[]);
        let (arc, packet) = pass(&mut rig, rig::POD, &claimed);
        assert_eq!(arc, LocalNext::Answered, "who wants the address is told that it is taken");
        assert_sound(packet.data());
        let (ip6, found) = Ipv6::parse(&packet.data()[14..]).unwrap();
        let (said, _) = Neighbour::parse(&packet.data()[14 + found.offset..]).unwrap();
        assert_eq!((ip6.dst, said.is_solicited(), said.is_override()), (nd::ALL_NODES, false, true));
        assert_eq!(packet.data()[..6], [0x33, 0x33, 0, 0, 0, 1]);
        rig.put(packet);
    }
    rig.finish();
}

#[test]
fn a_message_that_is_not_valid_is_ignored() {
    let mut rig = Rig::new();
    let path = link("fd00::1:2", "fd00::1:1");
    let source = LinkLayer::new(nd::SOURCE, THEIRS);
    let probe = link("::", "ff02::1:ff01:1");
    let target = number("fd00::1:1");
    let coded = message(&path, Kind::NEIGHBOUR_SOLICITATION, 1, 0, target.as_bytes());
    let cases = [
        solicitation(&Path { hops: 254, ..path }, "fd00::1:1", source.as_bytes()),
        coded,
        solicitation(&path, "fd00::1:1", &[1, 0, 0, 0, 0, 0, 0, 0]), // an option without length
        solicitation(&path, "fd00::1:1", &[1, 2, 0, 0, 0, 0, 0, 0]), // one longer than the message
        solicitation(&path, "ff02::1", source.as_bytes()),
        solicitation(&path, "fd00::1:1", LinkLayer::new(nd::SOURCE, Mac::BROADCAST).as_bytes()),
        solicitation(&probe, "fd00::1:1", source.as_bytes()), // from nobody, who has no address
        solicitation(&link("::", "fd00::1:1"), "fd00::1:1", &[]),
        message(&path, Kind::NEIGHBOUR_SOLICITATION, 0, 0, &target.as_bytes()[..15]),
        advertisement(&link("fd00::1:2", "ff02::1"), "fd00::1:2", nd::SOLICITED, &[]),
        echo(SIX)[..60].to_vec(), // shorter than it says
    ];
    for (number, frame) in cases.iter().enumerate() {
        let (arc, packet) = pass(&mut rig, rig::POD, frame);
        assert_eq!(arc, LocalNext::Malformed, "case {number}");
        rig.put(packet);
    }
    rig.finish();
}

#[test]
fn an_advertisement_is_heard_and_lets_packets_go() {
    let mut rig = Rig::new();
    let neighbour = ip("fd00::2:9");
    let target = LinkLayer::new(nd::TARGET, THEIRS);
    let path = link("fd00::2:9", "fd00::2:1");
    let said = |to: &str| advertisement(&path, to, nd::SOLICITED, target.as_bytes());
    let (arc, packet) = pass(&mut rig, rig::OWN, &said("fd00::2:9"));
    assert_eq!(arc, LocalNext::Unasked);
    rig.put(packet);
    rig.learned.neighbours.resolve(rig::OWN, neighbour, rig::POD.0, rig.now);
    let waits = rig.packet(&[0; 60], rig::POD);
    assert!(rig.learned.neighbours.hold((rig::OWN, neighbour), waits, 0, rig.now).is_none());
    let (arc, packet) = pass(&mut rig, rig::OWN, &said("fd00::2:9"));
    assert_eq!(arc, LocalNext::Heard);
    rig.put(packet);
    let (arc, released) = rig.made::<LocalNext>();
    assert_eq!(arc, LocalNext::Released);
    rig.put(released);
    let (arc, packet) = pass(&mut rig, rig::OWN, &said("fd00::2:1"));
    assert_eq!(arc, LocalNext::NotAllowed, "our own address");
    rig.put(packet);
    let (arc, packet) = pass(&mut rig, rig::SHARED, &said("fd00::2:9"));
    assert_eq!(arc, LocalNext::NotForUs, "neighbours are told there");
    rig.put(packet);
    rig.finish();
}

#[test]
fn all_else_leaves_by_name() {
    let mut rig = Rig::new();
    let udp = |ends: (&str, &str)| {
        build::frame(|into| build::udp(into, &path(ends.0, ends.1), Ports::new(1, 2), b"x")).unwrap()
    };
    let syn = Tcp::new(1, 2, tcp::Flags::SYN);
    let reply = build::frame(|into| build::echo_reply(into, &path(FOUR.0, FOUR.1), (1, 1), b"x")).unwrap();
    let on_link = link(SIX.0, SIX.1);
    let asks = solicitation(&on_link, "fd00::1:77", &[]);
    let mut cases = vec![
        (LocalNext::Complain, udp(FOUR)),
        (LocalNext::Complain, udp(SIX)),
        (LocalNext::NotForUs, udp(("10.0.1.2", "224.0.0.1"))),
        (LocalNext::NotForUs, echo(("fd00::1:2", "ff02::1"))),
        (LocalNext::NotForUs, asks),
        (LocalNext::Ignored, reply),
        (LocalNext::Ignored, message(&on_link, Kind::ROUTER_ADVERTISEMENT, 0, 0, &[0; 8])),
        (LocalNext::RouterSolicitation, message(&on_link, Kind::ROUTER_SOLICITATION, 0, 0, &[])),
        (LocalNext::TcpRefused, build::frame(|into| build::tcp(into, &path(FOUR.0, FOUR.1), &syn, &[], &[])).unwrap()),
        (LocalNext::NoProtocol, build::frame(|into| build::ip(into, &path(SIX.0, SIX.1), Protocol(99), b"x")).unwrap()),
    ];
    for from in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"] {
        cases.push((LocalNext::BadSource, echo((from, FOUR.1))));
    }
    for from in ["::", "::1", "ff02::1"] {
        cases.push((LocalNext::BadSource, echo((from, SIX.1))));
    }
    for ends in [FOUR, SIX] {
        let mut wrong = echo(ends);
        *wrong.last_mut().unwrap() ^= 1;
        cases.push((LocalNext::BadChecksum, wrong));
    }
    for (expected, frame) in cases {
        let (arc, packet) = pass(&mut rig, rig::POD, &frame);
        assert_eq!(arc, expected, "{frame:x?}");
        if arc == LocalNext::Complain {
            assert_eq!(packet.meta().early, Complaint::PortUnreachable as u8);
        }
        rig.put(packet);
    }
    let mut part = rig.packet(&echo(FOUR), rig::POD);
    part.meta_mut().flags |= flag::FRAGMENT;
    assert_eq!(rig.one(&mut Local, &mut part), LocalNext::Fragment);
    rig.put(part);
    let mut far = rig.packet(&solicitation(&on_link, "fd00::1:1", &[]), rig::POD);
    far.meta_mut().flags |= flag::DECAPPED;
    assert_eq!(rig.one(&mut Local, &mut far), LocalNext::NotForUs, "discovery never leaves its link");
    rig.put(far);
    rig.finish();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_bytes_leave_by_name(
        which in 0usize..4, cut in 14usize..90, bytes in prop::collection::vec(any::<u8>(), 0..80), l3: u16, l4: u16, sound: bool,
    ) {
        let mut rig = Rig::new();
        let asked = solicitation(&link(SIX.0, SIX.1), "fd00::1:1", LinkLayer::new(nd::SOURCE, THEIRS).as_bytes());
        let said = advertisement(&link(SIX.0, SIX.1), "fd00::1:2", 0, &[]);
        let mut frame = [echo(FOUR), echo(SIX), asked, said][which].clone();
        frame.truncate(cut);
        frame.extend(bytes);
        let mut packet = rig.packet(&frame, rig::OWN);
        if !sound {
            (packet.meta_mut().l3, packet.meta_mut().l4) = (l3 % 512, l4 % 512);
        }
        rig.one(&mut Local, &mut packet);
        rig.put(packet);
        rig.finish();
    }
}
