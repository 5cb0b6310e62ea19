//! Packets of every family that a pod, the host or the wire may send, and a world that has a place for each.
use engine::PortId;
use rig::world::{self, GATEWAY, HOST, POD_A, POD_B, UNDERLAY, UPLINK, mac, own_mac, pod, two_pods};
use std::{net::IpAddr, sync::Arc};
use tables::told::{EndpointId, Forward, NextHop, Resolution, Told, Translation, Virtual, VrfId};
use wire::{
    IntoBytes, Ipv4, Ipv6, Mac, Ports, Protocol, Tcp, Vni,
    build::{self, Addresses, Path, Reason, frame},
    ipv6::Fragment,
    tcp::Flags,
};

/// Flows that go both ways: pods with pods and with another host, over both families; echo, ARP and ND.
pub(crate) fn established() -> Vec<(PortId, Vec<u8>)> {
    let mut all = Vec::new();
    for six in [false, true] {
        let [a, b, c] = [(1, 1), (1, 2), (2, 7)].map(|(host, number)| of(pod(host, number), six));
        for port in 1..20 {
            all.push((POD_A, udp(POD_A, (a, b), (port, 53), b"query")));
            all.push((POD_B, udp(POD_B, (b, a), (53, port), b"answer")));
            all.push((POD_A, tcp(POD_A, (a, c), (port, 80), Flags::ACK)));
            all.push((UPLINK, tunnelled(&tcp(POD_A, (c, a), (80, port), Flags::ACK))));
        }
        all.push((POD_A, tcp(POD_A, (a, vip(six)), (5000, 80), Flags::ACK)));
        all.push((POD_B, tcp(POD_B, (b, a), (8080, 5000), Flags::ACK)));
        all.push((POD_A, echo(POD_A, (a, b))));
        all.push((POD_A, echo(POD_A, (a, of(GATEWAY, six)))));
        all.push((POD_A, ask(POD_A, (a, of(GATEWAY, six)))));
    }
    all
}

/// One packet and more of every family, right as it is, to be damaged.
pub(crate) fn families() -> Vec<(PortId, Vec<u8>)> {
    let mut all: Vec<_> = established().into_iter().filter(|(_, bytes)| bytes.len() % 3 != 2).step_by(6).collect();
    for six in [false, true] {
        let [a, b, c] = [(1, 1), (1, 2), (2, 7)].map(|(host, number)| of(pod(host, number), six));
        all.push((POD_A, tcp(POD_A, (a, vip(six)), (5000, 80), Flags::SYN)));
        all.push((POD_B, tcp(POD_B, (b, a), (8080, 5000), Flags::SYN | Flags::ACK)));
        all.push((POD_A, echo(POD_A, (a, of(GATEWAY, six)))));
        all.push((POD_A, ask(POD_A, (a, of(GATEWAY, six)))));
        all.push((HOST, ask(HOST, (of(pod(8, 9), six), of(pod(8, 1), six)))));
        for net in [7, 8, 9, 11, 12, 13] {
            all.push((POD_A, udp(POD_A, (a, of(pod(net, 9), six)), (1, 2), b"x")));
        }
        all.push((POD_A, udp(POD_A, (a, c), (9, 9), &[7; 1900])));
        let large = udp(POD_A, (a, b), (9, 9), &[7; 3000]);
        all.extend((0..3).map(|number| (POD_A, piece(&large, six, number))));
        let inner = piece(&udp(POD_A, (c, a), (9, 9), &[7; 3000]), six, 0);
        all.extend([inner, echo(POD_A, (c, a)), ask(POD_A, (c, a))].map(|inner| (UPLINK, tunnelled(&inner))));
        let seen = udp(POD_B, (a, b), (1, 53), b"query");
        for reason in [Reason::TooBig(1300), Reason::NoPort] {
            let error = frame(|into| build::icmp_error(into, &path(POD_B, (b, a)), reason, &seen[14..])).unwrap();
            all.push((POD_B, error));
        }
        all.push((POD_A, jumbo(&large)));
    }
    all.push((POD_A, extended(of(pod(1, 1), true), of(pod(1, 2), true))));
    all.extend(odd());
    all.extend(refused());
    all
}

/// Single packets that are unlike the others.
fn odd() -> Vec<(PortId, Vec<u8>)> {
    let [a, b, c] = [(1, 1), (1, 2), (2, 7)].map(|(host, number)| of(pod(host, number), false));
    let mut optional = udp(POD_A, (a, b), (0x0044, 0), &[0; 4]); // its ports make one option without content
    optional[14] = 0x46;
    optional[34..38].copy_from_slice(&[0x94, 4, 0, 0]);
    let (far, large) = (udp(POD_A, (a, c), (3, 4), &[1; 1900]), udp(POD_A, (a, b), (3, 4), &[1; 1900]));
    let mut all: Vec<_> = [optional, far, large].map(|whole| (POD_A, may_be_cut(whole))).into();
    all.push((POD_A, udp(POD_A, (a, c), (3, 4), &[1; 65_507])));
    let group: IpAddr = [224, 0, 0, 9].into();
    for ends in [([127, 0, 0, 1].into(), b), (group, b), (a, group)] {
        all.push((UPLINK, udp(UPLINK, ends, (1, 2), b"x")));
    }
    all.push((POD_A, [&mac(POD_B).0[..], &mac(POD_A).0, &[0x81, 0, 0, 1, 8, 0]].concat()));
    let tagged = Path { vlan: Some(5), ..path(POD_A, (a, b)) };
    all.push((POD_A, frame(|into| build::udp(into, &tagged, Ports::new(1, 2), b"x")).unwrap()));
    all.push((UPLINK, tunnelled(&[1; 13])));
    all.push((UPLINK, tunnelled(&echo(POD_A, (c, of(pod(12, 1), false))))));
    let mut congested = tunnelled(&udp(POD_A, (c, a), (1, 2), b"x"));
    congested[15] = 3;
    all.push((UPLINK, may_be_cut(congested)));
    let (here, there) = (of(pod(8, 1), false), of(pod(8, 9), false));
    if let Some(Addresses::V4(there, here)) = Addresses::of(there, here) {
        let answer = wire::Arp::request(own_mac(HOST), here, there).reply(mac(HOST));
        all.push((HOST, frame(|into| build::arp(into, own_mac(HOST), &answer)).unwrap()));
    }
    let (here, there) = (of(pod(8, 1), true), of(pod(8, 9), true));
    let advertised = path(HOST, (there, here));
    if let Addresses::V6(there, _) = advertised.addresses {
        let flags = wire::nd::SOLICITED | wire::nd::OVERRIDE;
        all.push((HOST, frame(|into| build::neighbour_advertisement(into, &advertised, there, flags)).unwrap()));
        let Addresses::V6(_, ours) = advertised.addresses else { return all };
        all.push((HOST, frame(|into| build::neighbour_advertisement(into, &advertised, ours, flags)).unwrap()));
        all.push((HOST, frame(|into| build::router_solicitation(into, mac(HOST), there)).unwrap()));
    }
    all
}

/// Packets to neighbours that are not known yet.
pub(crate) fn unknown() -> Vec<(PortId, Vec<u8>)> {
    let nets = [(7, false), (7, true), (8, false), (8, true)];
    let packet = |(net, six)| udp(POD_A, (of(pod(1, 1), six), of(pod(net, 9), six)), (1, 2), b"x");
    nets.map(packet).map(|bytes| (POD_A, bytes)).into()
}

/// Packets that are dropped, or that their sender hears of.
fn refused() -> Vec<(PortId, Vec<u8>)> {
    let mut all = Vec::new();
    for six in [false, true] {
        let [a, b, c] = [(1, 1), (1, 2), (2, 7)].map(|(host, number)| of(pod(host, number), six));
        let gateway = of(GATEWAY, six);
        all.push((POD_A, tcp(POD_A, (a, gateway), (5000, 80), Flags::SYN)));
        all.push((POD_A, frame(|into| build::echo_reply(into, &path(POD_A, (a, gateway)), (7, 1), b"")).unwrap()));
        let large = udp(POD_A, (a, gateway), (9, 9), &[7; 3000]);
        all.extend((0..2).map(|number| (POD_A, piece(&large, six, number))));
        all.push((POD_A, udp(POD_A, (a, vip(six)), (5001, 80), &[7; 1440])));
        let last = Path { hops: 1, ..path(POD_A, (a, b)) };
        all.push((POD_A, frame(|into| build::udp(into, &last, Ports::new(1, 2), b"x")).unwrap()));
        let tiny = part(&tcp(POD_A, (a, b), (9, 9), Flags::ACK), six, (0, 16, true));
        let large = udp(POD_A, (a, b), (9, 9), &[7; 3000]);
        all.extend([(8, 1000), (0, 1001)].map(|(at, len)| (POD_A, part(&large, six, (at, len, true)))));
        all.push((POD_A, tiny));
        let mut stranger = tunnelled(&udp(POD_A, (c, a), (9, 9), b"x"));
        stranger[29] = 66; // another host
        seal(&mut stranger);
        all.push((UPLINK, stranger));
    }
    all
}

/// An IPv4 packet that may be fragmented, with the header's checksum.
fn may_be_cut(mut whole: Vec<u8>) -> Vec<u8> {
    whole[20] = 0;
    seal(&mut whole);
    whole
}

/// Writes the checksum of an IPv4 header.
pub(crate) fn seal(whole: &mut [u8]) {
    let end = 14 + usize::from(whole[14] & 15) * 4;
    whole[24..26].fill(0);
    let sum = wire::checksum::checksum(&whole[14..end]);
    whole[24..26].copy_from_slice(&sum.to_be_bytes());
}

pub(crate) fn of((v4, v6): (std::net::Ipv4Addr, std::net::Ipv6Addr), six: bool) -> IpAddr {
    if six { v6.into() } else { v4.into() }
}

fn vip(six: bool) -> IpAddr {
    if six { "fd00:ffff::1".parse().unwrap() } else { "10.96.0.1".parse().unwrap() }
}

fn path(port: PortId, (from, to): (IpAddr, IpAddr)) -> Path {
    Path::new((mac(port), own_mac(port)), Addresses::of(from, to).unwrap())
}

pub(crate) fn udp(port: PortId, ends: (IpAddr, IpAddr), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    frame(|into| build::udp(into, &path(port, ends), Ports::new(ports.0, ports.1), payload)).unwrap()
}

pub(crate) fn tcp(port: PortId, ends: (IpAddr, IpAddr), ports: (u16, u16), flags: Flags) -> Vec<u8> {
    let header = Tcp::new(ports.0, ports.1, flags);
    frame(|into| build::tcp(into, &path(port, ends), &header, &[2, 4, 5, 180], b"x")).unwrap()
}

fn echo(port: PortId, ends: (IpAddr, IpAddr)) -> Vec<u8> {
    frame(|into| build::echo_request(into, &path(port, ends), (7, 1), b"ping")).unwrap()
}

/// ARP or neighbour solicitation.
fn ask(port: PortId, ends: (IpAddr, IpAddr)) -> Vec<u8> {
    let bytes = match Addresses::of(ends.0, ends.1).unwrap() {
        Addresses::V4(from, to) => {
            let arp = wire::Arp::request(mac(port), from, to);
            frame(|into| build::arp(into, Mac::BROADCAST, &arp))
        }
        Addresses::V6(from, to) => frame(|into| build::neighbour_solicitation(into, mac(port), from, to)),
    };
    bytes.unwrap()
}

/// From the other host: `inner` in VXLAN.
pub(crate) fn tunnelled(inner: &[u8]) -> Vec<u8> {
    let mut inner = inner.to_vec();
    inner[..6].copy_from_slice(&[2, 1, 0, 0, 0, 1]);
    inner[6..12].copy_from_slice(&[2, 1, 0, 0, 0, 2]);
    let path = path(UPLINK, (UNDERLAY.1.into(), UNDERLAY.0.into()));
    frame(|into| build::vxlan(into, &path, 50_000, Vni::new(42).unwrap(), &inner)).unwrap()
}

/// The fragment of 1,000 bytes from `number` thousand on.
fn piece(whole: &[u8], six: bool, number: u16) -> Vec<u8> {
    part(whole, six, (number * 1000, 1000, number < 2))
}

/// The fragment from byte `at` of a packet's payload on, of `len` bytes, with or without more to come.
pub(crate) fn part(whole: &[u8], six: bool, (at, len, more): (u16, u16, bool)) -> Vec<u8> {
    use wire::FromBytes;
    let header = 14 + if six { Ipv6::LEN } else { Ipv4::LEN };
    let part = &whole[header + usize::from(at)..][..len.into()];
    if six {
        let (mut ip, _) = Ipv6::read_from_prefix(&whole[14..]).unwrap();
        let fragment = Fragment::new(ip.next_header, at, more, 77);
        ip.next_header = Protocol::FRAGMENT;
        ip.payload_len.set(len + 8);
        return [&whole[..14], ip.as_bytes(), fragment.as_bytes(), part].concat();
    }
    let (mut ip, _) = Ipv4::read_from_prefix(&whole[14..]).unwrap();
    ip.total_len.set(len + 20);
    ip.fragment.set(at / 8 + if more { Ipv4::MORE_FRAGMENTS } else { 0 });
    ip.id.set(77);
    [&whole[..14], ip.with_checksum().as_bytes(), part].concat()
}

/// As a super-frame arrives: as long as its port takes.
fn jumbo(whole: &[u8]) -> Vec<u8> {
    [whole, &[0; 7000]].concat()
}

/// Hop-by-hop options, a routing header, destination options, then UDP.
fn extended(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let hop = [43, 0, 1, 4, 0, 0, 0, 0];
    let routing = [60, 0, 4, 0, 0, 0, 0, 0];
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let udp = [0, 1, 0, 2, 0, 8, 0xff, 0xff];
    let payload = [hop, routing, options, udp].concat();
    frame(|into| build::ip(into, &path(POD_A, (from, to)), Protocol::HOP_BY_HOP, &payload)).unwrap()
}

/// Two pods, and all that is unusual: a virtual address, neighbours that are not known, a port that asks for itself.
pub(crate) fn wide_world() -> Told {
    let mut told = two_pods();
    let (a4, a6) = pod(1, 2);
    for (address, to) in [("10.96.0.1", a4.into()), ("fd00:ffff::1", a6.into())] {
        for protocol in [6, 17] {
            let from = Virtual { vrf: VrfId(0), address: address.parse().unwrap(), port: 80, protocol };
            let new = Translation { endpoint: EndpointId(1), destination: (to, 8080), source: None };
            Arc::make_mut(&mut told.translations).insert(from, new);
        }
    }
    told.endpoints.slot(1).incarnation = 1;
    told.ports.slot(HOST.0.into()).resolution = Resolution::Own;
    told.ports.slot(HOST.0.into()).gateways = Arc::new(["10.0.8.1".parse().unwrap(), "fd00:8::1".parse().unwrap()]);
    for (port, net) in [(HOST, 8), (UPLINK, 7)] {
        let hop = NextHop { forward: Forward::Port, port, mtu: 1500, source: own_mac(port), ..NextHop::default() };
        let hop = world::add_next_hop(&mut told, hop);
        world::route(&mut told, pod(net, 0).0.into(), 24, hop);
        world::route(&mut told, pod(net, 0).1.into(), 64, hop);
    }
    for (forward, net) in [(Forward::Blackhole, 9), (Forward::Unreachable, 11), (Forward::Local, 12)] {
        let hop = world::add_next_hop(&mut told, NextHop { forward, ..NextHop::default() });
        world::route(&mut told, pod(net, 0).0.into(), 24, hop);
        world::route(&mut told, pod(net, 0).1.into(), 64, hop);
    }
    told
}
