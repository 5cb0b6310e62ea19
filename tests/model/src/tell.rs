//! What the dataplane itself has to say: errors, echoes, and where it is.
use crate::{
    Fate, From, Leaving, Model, Out, Why,
    config::{Hop, Role},
    packet::{self, L3, Seen, Tuple, octets, see},
};
use std::net::IpAddr;
use wire::{
    Arp, Ethernet, FromBytes, Ipv6, Mac, Protocol, U128,
    build::{self, Addresses, Path, Reason},
    nd,
};

impl Model {
    /// Tells a packet's sender why it goes no further. A packet that is `bare` still has its sender's link address.
    pub(crate) fn complain(&self, from: From, frame: &[u8], reason: Reason, bare: bool) -> Fate {
        let port = self.config.port(from.port).ok_or(Why::NoPort)?;
        let quoted = frame.get(L3..).unwrap_or_default(); // of what must not be complained of: nothing
        if from.own || !build::may_cause_error(quoted) {
            return Err(Why::Untold);
        }
        let sender = see(frame).ok_or(Why::Malformed)?.source;
        let (link, _) = Ethernet::ref_from_prefix(frame).map_err(|_| Why::Malformed)?;
        let back = bare && !from.decapped && port.role != Role::Uplink && link.src.is_station();
        let tunnels = self.config.tunnels.iter().map(|tunnel| &tunnel.local);
        let speaks = |mine: &&IpAddr| mine.is_ipv4() == sender.is_ipv4() && (back || !is_of_link(mine));
        let mine = port.gateways.iter().chain(tunnels).find(speaks).ok_or(Why::Untold)?;
        let addresses = Addresses::of(*mine, sender).expect("one family");
        let macs = (port.mac, if back { link.src } else { Mac::ZERO });
        let path = Path { tos: 0xc0, ..Path::new(macs, addresses) };
        let error = build::frame(|into| build::icmp_error(into, &path, reason, quoted)).ok_or(Why::Malformed)?;
        if back {
            return Ok(vec![Out { port: from.port, bytes: error, tunnelled: false, flow: None }]);
        }
        self.route_own(from, error, sender, &None)
    }

    fn route_own(&self, from: From, frame: Vec<u8>, to: IpAddr, flow: &Option<String>) -> Fate {
        match self.config.way(from.vrf, to) {
            Some(hop @ (Hop::Port { .. } | Hop::Tunnel(_))) => {
                let from = From { own: true, ..from };
                self.leave(Leaving { from, sent: &[], flow }, frame, hop)
            }
            _ => Err(Why::Untold),
        }
    }

    /// A packet to the dataplane's own addresses.
    pub(crate) fn local(&self, from: From, frame: &[u8], seen: &Seen, flow: String) -> Fate {
        let is_echo = match seen.protocol {
            Protocol::ICMP => frame[seen.l4] == 8,
            Protocol::ICMPV6 => frame[seen.l4] == 128,
            Protocol::UDP if !seen.is_later() => {
                return self.complain(from, frame, Reason::NoPort, true);
            }
            _ => false,
        };
        let plain = !seen.six || seen.l4 == L3 + Ipv6::LEN; // behind extension headers nothing is answered
        if !is_echo || !plain || seen.fragment.is_some() || packet::transport_sum(frame, seen) != 0 {
            return Err(Why::Ignored);
        }
        let port = self.config.port(from.port).ok_or(Why::NoPort)?;
        let mut answer = frame.to_vec();
        answer.copy_within(6..12, 0);
        answer[6..12].copy_from_slice(&port.mac.0);
        let (addresses, hops) = if seen.six { (L3 + 8, L3 + 7) } else { (L3 + 12, L3 + 8) };
        let swapped = octets(seen.destination, seen.source);
        answer[addresses..addresses + swapped.len()].copy_from_slice(&swapped);
        answer[hops] = 64;
        answer[seen.l4] = if seen.six { 129 } else { 0 };
        if !seen.six {
            packet::seal(&mut answer);
        }
        packet::sum_up(&mut answer);
        if from.decapped {
            return self.route_own(from, answer, seen.source, &Some(flow));
        }
        Ok(vec![Out { port: from.port, bytes: answer, tunnelled: false, flow: None }])
    }

    /// An ICMP error goes to whoever sent what it quotes, as that was before it was translated.
    pub(crate) fn error(&self, from: From, frame: &[u8], seen: &Seen, tuple: &Tuple) -> Fate {
        if packet::transport_sum(frame, seen) != 0 {
            return Err(Why::ErrorWithoutFlow);
        }
        let quote_at = seen.l4 + 8;
        let (back, ports_at) = quoted(&frame[quote_at..], from.vrf).ok_or(Why::ErrorWithoutFlow)?;
        let to = self.flows.get(&back).ok_or(Why::ErrorWithoutFlow)?.to;
        let hop = self.config.way(to.vrf, to.destination.0).ok_or(Why::ErrorWithoutFlow)?;
        let mut frame = frame.to_vec();
        packet::age(&mut frame, seen.six);
        let addresses = if seen.six { 8 } else { 12 };
        let source = if seen.source == back.source.0 { to.source.0 } else { seen.source };
        let outer = octets(source, to.destination.0);
        frame[L3 + addresses..][..outer.len()].copy_from_slice(&outer);
        if to != back {
            let inner = octets(to.destination.0, to.source.0);
            frame[quote_at + addresses..][..inner.len()].copy_from_slice(&inner);
            if matches!(Protocol(to.protocol), Protocol::TCP | Protocol::UDP) {
                let ports = [to.destination.1.to_be_bytes(), to.source.1.to_be_bytes()].concat();
                frame[quote_at + ports_at..][..4].copy_from_slice(&ports);
            }
            if !seen.six {
                packet::seal(&mut frame[quote_at - L3..]);
            }
        }
        if !seen.six {
            packet::seal(&mut frame);
        }
        packet::sum_up(&mut frame);
        match hop {
            Hop::Port { .. } | Hop::Tunnel(_) => {
                self.leave(Leaving { from, sent: &[], flow: &Some(format!("{tuple:?}")) }, frame, hop)
            }
            Hop::Local => Err(Why::Ignored),
            _ => Err(Why::ErrorWithoutFlow),
        }
    }

    /// Answers who has a gateway's address.
    pub(crate) fn arp(&self, port: u16, frame: &[u8]) -> Fate {
        let port = self.config.port(port).ok_or(Why::NoPort)?;
        let (link, rest) = Ethernet::ref_from_prefix(frame).map_err(|_| Why::Malformed)?;
        let arp = Arp::parse(rest).filter(|arp| arp.sender_mac == link.src).ok_or(Why::Ignored)?;
        let sender = IpAddr::V4(arp.sender.get().into());
        let may = sender.is_unspecified() || port.role != Role::Pod || port.allowed.iter().any(|r| r.holds(sender));
        let asked = IpAddr::V4(arp.target.get().into());
        if !may || !arp.is_request() || !port.gateways.contains(&asked) || port.gateways.contains(&sender) {
            return Err(Why::Ignored);
        }
        let mut bytes = build::frame(|into| build::arp(into, arp.sender_mac, &arp.reply(port.mac))).expect("short");
        bytes.extend(&frame[bytes.len()..]);
        Ok(vec![Out { port: port.number, bytes, tunnelled: false, flow: None }])
    }

    /// The same by neighbour solicitation, from a station with an address.
    pub(crate) fn discovery(&self, port: u16, frame: &[u8]) -> Fate {
        let port = self.config.port(port).ok_or(Why::NoPort)?;
        let seen = see(frame).ok_or(Why::Malformed)?;
        let (asked, options) = nd::Neighbour::parse(&frame[seen.l4..seen.end]).ok_or(Why::Ignored)?;
        let target = IpAddr::V6(asked.target.get().into());
        let right = asked.is_solicitation() && seen.hops == 255 && packet::transport_sum(frame, &seen) == 0;
        if !right || !port.gateways.contains(&target) {
            return Err(Why::Ignored);
        }
        let (ip, _) = Ipv6::ref_from_prefix(&frame[L3..]).map_err(|_| Why::Malformed)?;
        let (to, mac, flags): (U128, _, _) = match nd::link_layer(options, nd::SOURCE) {
            Some(mac) => (ip.src, mac, nd::ROUTER | nd::OVERRIDE | nd::SOLICITED),
            None => return Err(Why::Ignored),
        };
        let path = Path::new((port.mac, mac), Addresses::V6(asked.target, to));
        let bytes = build::frame(|into| build::neighbour_advertisement(into, &path, asked.target, flags));
        Ok(vec![Out { port: port.number, bytes: bytes.expect("short"), tunnelled: false, flow: None }])
    }
}

/// Whether an address means nothing beyond its link.
fn is_of_link(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..2] == [169, 254],
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}

/// The tuple that replies to a quoted packet would have, and where the quote's ports are.
fn quoted(quote: &[u8], vrf: u16) -> Option<(Tuple, usize)> {
    let six = quote.first()? >> 4 == 6;
    let (protocol, at) = if six {
        let found = wire::ipv6::transport(quote).ok()?;
        (found.protocol, found.offset)
    } else {
        (Protocol(*quote.get(9)?), usize::from(quote.first()? & 15) * 4)
    };
    let transport = quote.get(at..)?;
    let (source_port, destination_port) = packet::ports(protocol, transport)?;
    let (source, destination) = if six {
        let (ip, _) = Ipv6::ref_from_prefix(quote).ok()?;
        (IpAddr::V6(ip.src.get().into()), IpAddr::V6(ip.dst.get().into()))
    } else {
        let (ip, _) = wire::Ipv4::ref_from_prefix(quote).ok()?;
        (IpAddr::V4(ip.src.get().into()), IpAddr::V4(ip.dst.get().into()))
    };
    let (source, destination) = ((source, source_port), (destination, destination_port));
    Some((Tuple { vrf, protocol: protocol.0, source, destination }.reversed(), at))
}
