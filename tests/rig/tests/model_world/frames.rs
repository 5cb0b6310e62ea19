//! Packets in few numbers become frames.
use super::{Both, GATEWAYS, HOST, Raw, UPLINK, mac, own_mac, place};
use engine::PortId;
use model::{
    config::Tunnel,
    packet::{self, L3, Seen},
};
use rig::Sent;
use std::net::IpAddr;
use wire::{
    Ethernet, FromBytes, IntoBytes, Ipv4, Ipv6, Mac, Ports, Protocol, Tcp,
    build::{self, Addresses, Path, Reason, frame},
    ipv6::Fragment,
    tcp::Flags,
};

/// Where a packet comes from.
#[derive(Clone, Copy)]
enum Origin {
    Port(u16),
    Tunnel(Tunnel),
}

/// A transport and its payload.
struct Content<'a> {
    protocol: Protocol,
    ports: (u16, u16),
    flags: Flags,
    is_reply: bool,
    payload: &'a [u8],
}

impl Both {
    /// The frames that `raw` means here and now: none, one, or the fragments of one packet.
    pub(super) fn frames(&mut self, raw: &Raw) -> Vec<Sent> {
        match raw.kind {
            0 => self.fresh(raw).into_iter().collect(),
            1 => self.reply(raw).into_iter().collect(),
            2 => self.error(raw).into_iter().collect(),
            3 => self.ping(raw).into_iter().collect(),
            4 => self.ask(raw).into_iter().collect(),
            5 => self.odd(raw).into_iter().collect(),
            _ => self.fragments(raw),
        }
    }

    fn origin(&self, pick: u8) -> Origin {
        let config = &self.model.config;
        let pods = usize::from(self.pods);
        match usize::from(pick) % (2 * pods + config.tunnels.len() + 2) {
            n if n < 2 * pods => Origin::Port(u16::try_from(n / 2).unwrap() + 1),
            n if n == 2 * pods => Origin::Port(UPLINK),
            n if n == 2 * pods + 1 => Origin::Port(HOST),
            n => Origin::Tunnel(config.tunnels[n - 2 * pods - 2]),
        }
    }

    /// Who sends from there, most often.
    fn sender(&self, origin: Origin, raw: &Raw) -> IpAddr {
        let own = match origin {
            Origin::Port(UPLINK) => 10,
            Origin::Port(HOST) => 8,
            Origin::Port(pod) => u8::try_from(pod).unwrap() - 1,
            Origin::Tunnel(tunnel) => 4 + tunnel.macs.0.0[4],
        };
        place(if raw.pick[1] < 235 { own } else { raw.pick[1] }, raw.six)
    }

    fn fresh(&self, raw: &Raw) -> Option<Sent> {
        let pick = raw.pick;
        let origin = self.origin(pick[0]);
        let (from, to) = (self.sender(origin, raw), place(pick[2], raw.six));
        let hops = match pick[7] {
            0..8 => 1,
            8..24 => 2,
            _ => 64,
        };
        let is_virtual = matches!(pick[2] % 12, 6 | 7);
        let port = if is_virtual && pick[5] < 230 { 80 } else { [80, 8080, 53][usize::from(pick[5] % 3)] };
        let protocol = [Protocol::UDP, Protocol::TCP, if raw.six { Protocol::ICMPV6 } else { Protocol::ICMP }];
        let flags = match pick[6] {
            0..100 => Flags::SYN,
            100..180 => Flags::ACK,
            _ => Flags(pick[4] & 0x3f),
        };
        let may_cut = pick[7].is_multiple_of(2) && !raw.six;
        // An error that a packet is too big quotes it as translated, not as sent: none is provoked here.
        let len = if is_virtual { raw.len.min(100) } else { raw.len };
        let payload = vec![pick[3]; len.into()];
        let content = Content {
            protocol: protocol[usize::from(pick[3] % 3)],
            ports: (1000 + u16::from(pick[4] % 3), port),
            flags,
            is_reply: false,
            payload: &payload,
        };
        let path = Path { hops, tos: pick[6] & 0xfc | u8::from(pick[4] > 200) << 1, ..path(origin, from, to) };
        let mut bytes = write(&path, &content)?;
        if may_cut {
            bytes[L3 + 6] = 0;
            packet::seal(&mut bytes);
        }
        if content.protocol == Protocol::UDP && !raw.six && pick[4].is_multiple_of(5) {
            bytes[L3 + 26..L3 + 28].fill(0);
        }
        if raw.six && (100..160).contains(&pick[7]) {
            bytes = extended(&bytes, pick[7] - 100);
        }
        Some(enter(origin, bytes, raw))
    }

    /// Something that came out lately: where it went, the inner frame, and what that says.
    fn lately(&self, pick: u8) -> Option<(Origin, Vec<u8>, Seen)> {
        let (port, bytes) = self.recent.get(usize::from(pick) % self.recent.len().max(1))?;
        let seen = packet::see(bytes)?;
        let ends = (seen.source, seen.destination);
        let tunnel = self.model.config.tunnels.iter().find(|t| port.0 == UPLINK && (t.local, t.remote) == ends);
        let (origin, bytes) = match tunnel {
            Some(tunnel) => (Origin::Tunnel(*tunnel), bytes[seen.l4 + 16..].to_vec()),
            None => (Origin::Port(port.0), bytes.clone()),
        };
        let seen = packet::see(&bytes)?;
        Some((origin, bytes, seen))
    }

    fn reply(&self, raw: &Raw) -> Option<Sent> {
        let (origin, bytes, seen) = self.lately(raw.pick[0])?;
        if seen.fragment.is_some() {
            return None;
        }
        let transport = &bytes[seen.l4..];
        let ports = packet::ports(seen.protocol, transport)?;
        let asked = [8, 128].contains(&transport[0]);
        let flags = match transport.get(13) {
            _ if raw.pick[2] < 80 => Flags(raw.pick[3] & 0x3f), // whatever the peer asked for
            Some(flags) if seen.protocol == Protocol::TCP && flags & 2 != 0 => Flags::SYN | Flags::ACK,
            _ => Flags::ACK,
        };
        if matches!(seen.protocol, Protocol::ICMP | Protocol::ICMPV6) && !asked {
            return None;
        }
        let payload = [raw.pick[1]; 32];
        let payload = &payload[..usize::from(raw.len).min(32)];
        let content = Content { protocol: seen.protocol, ports: (ports.1, ports.0), flags, is_reply: true, payload };
        let bytes = write(&path(origin, seen.destination, seen.source), &content)?;
        Some(enter(origin, bytes, raw))
    }

    fn error(&self, raw: &Raw) -> Option<Sent> {
        let (origin, bytes, seen) = self.lately(raw.pick[0])?;
        if seen.fragment.is_some() || !build::may_cause_error(&bytes[L3..]) {
            return None;
        }
        let outside = matches!(origin, Origin::Port(UPLINK) | Origin::Tunnel(_)) && raw.pick[1].is_multiple_of(2);
        let from = if outside { place(10, seen.six) } else { seen.destination };
        let reason = [Reason::TooBig(1280), Reason::NoPort, Reason::NoHops][usize::from(raw.pick[2] % 3)];
        let path = path(origin, from, seen.source);
        let mut bytes = frame(|into| build::icmp_error(into, &path, reason, &bytes[L3..]))?;
        if raw.pick[3] < 80 {
            let kinds = if seen.six { [4, 5, 100, 127] } else { [4, 5, 12, 3] };
            let at = packet::see(&bytes)?.l4;
            bytes[at] = kinds[usize::from(raw.pick[3] % 4)];
            packet::sum_up(&mut bytes);
        }
        Some(enter(origin, bytes, raw))
    }

    /// ICMP other than echoes and sound errors, and protocols without ports.
    fn odd(&self, raw: &Raw) -> Option<Sent> {
        let pick = raw.pick;
        let origin = self.origin(pick[0]);
        let (from, to) = (self.sender(origin, raw), place(pick[2], raw.six));
        let to = if pick[4] < 30 { GATEWAYS[usize::from(raw.six)] } else { to };
        let icmp = if raw.six { Protocol::ICMPV6 } else { Protocol::ICMP };
        let protocol = [icmp, icmp, icmp, Protocol(47), Protocol(50), Protocol(132)][usize::from(pick[3] % 6)];
        let kinds = if raw.six { [130, 131, 132, 139, 143, 200, 255, 1] } else { [6, 10, 13, 14, 15, 30, 255, 11] };
        let kind = if pick[5] < 200 { kinds[usize::from(pick[5] % 8)] } else { pick[6] };
        let body = [kind, pick[7] % 2, 0, 0, pick[1], pick[4], 0, 0];
        let payload = [&body[..], &vec![pick[6]; usize::from(raw.len.min(100))]].concat();
        let mut bytes = frame(|into| build::ip(into, &path(origin, from, to), protocol, &payload))?;
        if protocol == icmp && pick[6] < 240 {
            packet::sum_up(&mut bytes);
        }
        Some(enter(origin, bytes, raw))
    }

    /// To an address of the dataplane on the port: echo, or what it has no answer to.
    fn ping(&self, raw: &Raw) -> Option<Sent> {
        let origin = self.origin(raw.pick[0]);
        let from = self.sender(origin, raw);
        let number = match origin {
            Origin::Port(port) => port,
            Origin::Tunnel(_) => UPLINK,
        };
        let port = self.model.config.port(number)?;
        let to = *port.gateways.iter().find(|gateway| gateway.is_ipv6() == raw.six)?;
        let echo = if raw.six { Protocol::ICMPV6 } else { Protocol::ICMP };
        let protocol = [echo, echo, Protocol::UDP, Protocol::TCP][usize::from(raw.pick[2] % 4)];
        let payload = vec![raw.pick[3]; raw.len.into()];
        let content =
            Content { protocol, ports: (7, raw.pick[4].into()), flags: Flags::SYN, is_reply: false, payload: &payload };
        let bytes = write(&path(origin, from, to), &content)?;
        Some(enter(origin, bytes, raw))
    }

    /// ARP and neighbour solicitation.
    fn ask(&self, raw: &Raw) -> Option<Sent> {
        let port = u16::from(raw.pick[0] % self.pods) + 1;
        let from = self.sender(Origin::Port(port), raw);
        let to = if raw.pick[2] < 200 { GATEWAYS[usize::from(raw.six)] } else { place(raw.pick[2], raw.six) };
        let bytes = match Addresses::of(from, to)? {
            Addresses::V4(from, to) => {
                let arp = wire::Arp::request(mac(port), from, to);
                frame(|into| build::arp(into, Mac::BROADCAST, &arp))
            }
            Addresses::V6(from, to) => frame(|into| build::neighbour_solicitation(into, mac(port), from, to)),
        };
        Some((PortId(port), bytes?))
    }

    /// One or two packets in fragments: in order or not, between each other, over each other.
    fn fragments(&mut self, raw: &Raw) -> Vec<Sent> {
        let [_, _, to, fill, ports, id, order, how] = raw.pick;
        let origin = self.origin(raw.pick[0]);
        let path = path(origin, self.sender(origin, raw), place(to, raw.six));
        let protocol = if how & 1 == 0 { Protocol::UDP } else { Protocol::TCP };
        let flags = if how & 2 == 0 { Flags::SYN } else { Flags::ACK };
        let mut pieces = Vec::new();
        for number in 0..=order & 1 {
            let payload: Vec<u8> = (number..number + 100).map(|n| n ^ fill).collect();
            let ports = (1000 + u16::from(ports.wrapping_add(number) % 3), 80);
            let content = Content { protocol, ports, flags, is_reply: false, payload: &payload };
            let Some(whole) = write(&path, &content) else { return Vec::new() };
            self.fragmented += u16::from(id >= 40); // or the name of the one before
            let size = if how >> 4 == 15 { 16 } else { 48 };
            let early = (how & 12 == 12).then_some(usize::from(order >> 5));
            let parts = cut(&whole, raw.six, self.fragmented, (size, early));
            let between = usize::from(number) * usize::from(order >> 2);
            parts.into_iter().rev().for_each(|part| pieces.insert(between % (pieces.len() + 1), part));
        }
        if order & 2 != 0 {
            let by = usize::from(order >> 2) % pieces.len();
            pieces.rotate_left(by);
        }
        pieces.into_iter().map(|piece| enter(origin, piece, raw)).collect()
    }
}

/// From whoever is there to the dataplane.
fn path(origin: Origin, from: IpAddr, to: IpAddr) -> Path {
    let macs = match origin {
        Origin::Port(port) => (mac(port), own_mac(port)),
        Origin::Tunnel(tunnel) => (tunnel.macs.1, tunnel.macs.0),
    };
    Path::new(macs, Addresses::of(from, to).expect("one family"))
}

fn write(path: &Path, content: &Content<'_>) -> Option<Vec<u8>> {
    let (source, destination) = content.ports;
    frame(|into| match content.protocol {
        Protocol::UDP => build::udp(into, path, Ports::new(source, destination), content.payload),
        Protocol::TCP => {
            let is_syn = content.flags.contains(Flags::SYN);
            let options: &[u8] = if is_syn { &[2, 4, 5, 180] } else { &[] };
            // A SYN that is too big is quoted with its MSS clamped.
            let most = if is_syn { 100 } else { content.payload.len() };
            let payload = &content.payload[..content.payload.len().min(most)];
            build::tcp(into, path, &Tcp::new(source, destination, content.flags), options, payload)
        }
        _ if content.is_reply => build::echo_reply(into, path, (source, 1), content.payload),
        _ => build::echo_request(into, path, (source, 1), content.payload),
    })
}

/// An IPv6 packet with extension headers: of hop-by-hop options, destination options, a route that is at its end, and
/// destination options again, those whose bits are set in `which`; or with too many of them.
fn extended(bytes: &[u8], which: u8) -> Vec<u8> {
    const KINDS: [(Protocol, [u8; 7]); 4] = [
        (Protocol::HOP_BY_HOP, [0, 1, 4, 0, 0, 0, 0]),
        (Protocol::DESTINATION_OPTIONS, [1, 1, 12, 0, 0, 0, 0]),
        (Protocol::ROUTING, [0, 4, 0, 0, 0, 0, 0]),
        (Protocol::DESTINATION_OPTIONS, [0, 0x1e, 4, 1, 2, 3, 4]),
    ];
    let (mut ip, _) = Ipv6::read_from_prefix(&bytes[L3..]).unwrap();
    let mut behind = bytes[L3 + Ipv6::LEN..].to_vec();
    let chosen = KINDS.iter().enumerate().filter(|(bit, _)| which >> bit & 1 == 1).map(|(_, kind)| kind);
    let many = std::iter::repeat_n(&KINDS[3], if which == 48 { 9 } else { 0 });
    for (kind, fields) in chosen.chain(many).collect::<Vec<_>>().into_iter().rev() {
        let more = vec![0; 8 * usize::from(fields[0])];
        behind = [&[ip.next_header.0], &fields[..], &more, &behind].concat();
        ip.next_header = *kind;
    }
    ip.payload_len.set(u16::try_from(behind.len()).unwrap());
    [&bytes[..L3], ip.as_bytes(), &behind].concat()
}

/// The frame as it arrives: through its tunnel, if it comes by one.
fn enter(origin: Origin, frame: Vec<u8>, raw: &Raw) -> Sent {
    match origin {
        Origin::Port(port) => (PortId(port), frame),
        Origin::Tunnel(tunnel) => {
            let outer = Addresses::of(tunnel.remote, tunnel.local).expect("one family");
            let path = Path::new((mac(UPLINK), own_mac(UPLINK)), outer);
            let source = 0xc000 | u16::from(raw.pick[5]);
            let bytes = build::frame(|into| build::vxlan(into, &path, source, tunnel.vni, &frame));
            (PortId(UPLINK), bytes.expect("short"))
        }
    }
}

/// Cuts a packet's payload into pieces of `size` bytes; one may begin eight bytes `early`, over the one before.
fn cut(whole: &[u8], six: bool, id: u16, (size, early): (usize, Option<usize>)) -> Vec<Vec<u8>> {
    let (link, header) = (&whole[..Ethernet::LEN], if six { Ipv6::LEN } else { Ipv4::LEN });
    let payload = &whole[L3 + header..];
    let piece = |number: usize| {
        let from = number * size - if number > 0 && early == Some(number) { 8 } else { 0 };
        let end = (number * size + size).min(payload.len());
        let (at, more, part) = (u16::try_from(from).unwrap(), end < payload.len(), &payload[from..end]);
        if six {
            let (mut ip, _) = Ipv6::read_from_prefix(&whole[L3..]).unwrap();
            let fragment = Fragment::new(ip.next_header, at, more, id.into());
            ip.next_header = Protocol::FRAGMENT;
            ip.payload_len.set(u16::try_from(part.len() + Fragment::LEN).unwrap());
            return [link, ip.as_bytes(), fragment.as_bytes(), part].concat();
        }
        let (mut ip, _) = Ipv4::read_from_prefix(&whole[L3..]).unwrap();
        ip.total_len.set(u16::try_from(part.len() + header).unwrap());
        ip.fragment.set(if more { Ipv4::MORE_FRAGMENTS + at / 8 } else { at / 8 });
        ip.id.set(id);
        [link, ip.with_checksum().as_bytes(), part].concat()
    };
    (0..payload.len().div_ceil(size)).map(piece).collect()
}
