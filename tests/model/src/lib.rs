//! A naive interpreter of what the dataplane was told: says what must come out for every packet that goes in.
//!
//! It shares only `wire` with the product, remembers flows in a `HashMap`, and judges and routes every packet anew: no
//! answer is kept, so none can be out of date. That the product keeps answers, and takes packets by the batch, must not
//! show.
#![forbid(unsafe_code)]
pub mod config;
pub mod history;
pub mod packet;
mod tell;

use config::{Config, Hop, Role, Translation};
use packet::{L3, Seen, Tuple, see};
use std::{collections::HashMap, net::IpAddr};
use wire::{
    EtherType, Ethernet, FromBytes, Ipv4, Ipv6, Mac, Protocol, Udp, Vxlan,
    build::{self, Addresses, Path, Reason},
};

/// What the model knows.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// What it was told; changed as one pleases.
    pub config: Config,
    flows: HashMap<Tuple, Half>,
    firsts: Vec<(FragmentKey, First)>, // the newest last
    flows_seen: u64,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Half {
    flow: u64,
    is_reply: bool,
    to: Tuple,                      // what its packets become
    endpoint: Option<(usize, u32)>, // whose incarnation it ends with
}

/// What names a fragmented packet: port, VRF, addresses, identification and, over IPv4, its transport.
type FragmentKey = (u16, u16, IpAddr, IpAddr, u32, Option<u8>);

/// What a first fragment says: ports, transport, and where it ends in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct First {
    ports: (u16, u16),
    protocol: u8,
    end: usize,
}

/// How many fragmented packets of one pod are known.
const MOST_FIRSTS: usize = 32;

/// A packet that must be sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Out {
    /// By which port.
    pub port: u16,
    /// Its bytes; the source port of a tunnel's outer header is zero, and so is its checksum over IPv6.
    pub bytes: Vec<u8>,
    /// Whether it has a tunnel's outer header in front.
    pub tunnelled: bool,
    /// Packets of one flow, which must have one outer source port: its name.
    pub flow: Option<String>,
}

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is no such port.
    NoPort,
    /// It is for another station, network or address.
    NotForUs,
    /// Its headers are not what they should be.
    Malformed,
    /// Such a source sends nothing, or such a destination gets nothing.
    Martian,
    /// The port may not send from this address.
    Spoofed,
    /// A fragment whose first one was not seen.
    NoFirst,
    /// A first fragment without all that is judged.
    Tiny,
    /// A fragment that reaches into the first one.
    Overlap,
    /// A TCP reply or reset without a flow.
    ReplyWithoutFlow,
    /// The same to a blackhole, where the flow of other packets may be known as one that is dropped.
    ReplyToBlackhole,
    /// An ICMP error that is wrong, or about a packet of no flow.
    ErrorWithoutFlow,
    /// The route says so.
    Blackhole,
    /// The sender could not be told.
    Untold,
    /// The dataplane has no answer to this.
    Ignored,
}

/// What becomes of a packet.
pub type Fate = Result<Vec<Out>, Why>;

/// Where a packet came from.
#[derive(Clone, Copy)]
struct From {
    port: u16,
    vrf: u16,
    decapped: bool,
    own: bool, // the dataplane made it
}

/// A packet on its way out.
#[derive(Clone, Copy)]
struct Leaving<'a> {
    from: From,
    sent: &'a [u8], // as its sender sent it: what an error quotes
    flow: &'a Option<String>,
}

impl Model {
    /// What must come out when `frame` arrives at a port.
    pub fn receive(&mut self, port: u16, frame: &[u8]) -> Fate {
        let there = self.config.port(port).ok_or(Why::NoPort)?;
        let (link, _) = Ethernet::ref_from_prefix(frame).map_err(|_| Why::Malformed)?;
        let from = From { port, vrf: there.vrf, decapped: false, own: false };
        let for_us = link.dst == there.mac;
        if !for_us && !link.dst.is_group() {
            return Err(Why::NotForUs);
        }
        match link.ethertype() {
            EtherType::ARP => self.arp(port, frame),
            EtherType::IPV6 if is_discovery(frame) => self.discovery(port, frame),
            EtherType::IPV4 | EtherType::IPV6 if for_us => self.ip(from, frame),
            _ => Err(Why::NotForUs),
        }
    }

    /// Forgets that frames were seen, not flows: the order of two packets mattered if this differs after them.
    pub fn memory(&self) -> Vec<String> {
        let mut flows: Vec<_> = self.flows.iter().map(|(key, half)| format!("{key:?} {:?}", half.to)).collect();
        flows.extend(self.firsts.iter().map(|first| format!("{first:?}")));
        flows.sort();
        flows
    }

    fn ip(&mut self, from: From, frame: &[u8]) -> Fate {
        let seen = see(frame).ok_or(Why::Malformed)?;
        let frame = &frame[..seen.end];
        let port = self.config.port(from.port).ok_or(Why::NoPort)?;
        if seen.hops <= 1 && !port.gateways.contains(&seen.destination) {
            return self.complain(from, frame, Reason::NoHops, true);
        }
        if is_nobody(seen.source) || seen.source.is_multicast() || is_nobody(seen.destination) {
            return Err(Why::Martian);
        }
        let is_uplink = port.role == Role::Uplink;
        let udp = Udp::ref_from_prefix(&frame[seen.l4..]).ok().filter(|_| seen.protocol == Protocol::UDP);
        if is_uplink
            && let Some((udp, _)) = udp.filter(|_| seen.fragment.is_none())
            && self.config.tunnels.iter().any(|t| t.local == seen.destination && t.udp_port == udp.dst.get())
        {
            return self.decap(frame, &seen);
        }
        if port.stateless {
            return self.route(from, frame, &seen);
        }
        let tuple = self.tuple(from, frame, &seen)?;
        self.decide(from, frame, &seen, &tuple)
    }

    fn decap(&mut self, frame: &[u8], outer: &Seen) -> Fate {
        let (udp, payload) = Udp::parse(&frame[outer.l4..]).ok_or(Why::Malformed)?;
        let (vxlan, inner) = Vxlan::ref_from_prefix(payload).map_err(|_| Why::Malformed)?;
        let (link, _) = Ethernet::ref_from_prefix(inner).map_err(|_| Why::Malformed)?;
        let is_it = |t: &&config::Tunnel| {
            let ends = t.local == outer.destination && t.remote == outer.source && t.udp_port == udp.dst.get();
            ends && Some(t.vni) == vxlan.vni() && t.macs.0 == link.dst
        };
        let tunnel = self.config.tunnels.iter().find(is_it).ok_or(Why::NotForUs)?;
        let from = From { port: tunnel.port, vrf: tunnel.vrf, decapped: true, own: false };
        match link.ethertype() {
            EtherType::IPV6 if is_discovery(inner) => Err(Why::Ignored), // who is near is asked on links
            EtherType::IPV4 | EtherType::IPV6 => self.ip(from, inner),
            _ => Err(Why::NotForUs),
        }
    }

    /// Who talks to whom; later fragments as the first one said.
    fn tuple(&mut self, from: From, frame: &[u8], seen: &Seen) -> Result<Tuple, Why> {
        let of = |(source, destination): (u16, u16)| Tuple {
            vrf: from.vrf,
            protocol: seen.protocol.0,
            source: (seen.source, source),
            destination: (seen.destination, destination),
        };
        let Some(fragment) = seen.fragment else {
            return packet::ports(seen.protocol, &frame[seen.l4..]).map(of).ok_or(Why::Malformed);
        };
        let transport = (!seen.six).then_some(seen.protocol.0);
        let key = (from.port, from.vrf, seen.source, seen.destination, fragment.id, transport);
        let known = self.firsts.iter().position(|(other, _)| *other == key);
        if fragment.offset > 0 {
            let known = known.ok_or(Why::NoFirst)?;
            let first = self.firsts[known].1;
            if fragment.offset < first.end {
                self.firsts.remove(known);
                return Err(Why::Overlap);
            }
            return Ok(Tuple { protocol: first.protocol, ..of(first.ports) });
        }
        let ports = packet::ports(seen.protocol, &frame[seen.l4..]).ok_or(Why::Tiny)?;
        if seen.protocol == Protocol::TCP && seen.end < seen.l4 + 20 {
            return Err(Why::Tiny);
        }
        let port = self.config.port(from.port).ok_or(Why::NoPort)?;
        let alone = port.role == Role::Pod && !from.decapped;
        if alone && !port.allowed.iter().any(|range| range.holds(seen.source)) {
            return Err(Why::Spoofed);
        }
        self.firsts.retain(|(other, _)| *other != key);
        let mut mine = self.firsts.iter().enumerate().filter(|(_, (other, _))| other.0 == from.port);
        if alone
            && mine.clone().count() == MOST_FIRSTS
            && let Some((oldest, _)) = mine.next()
        {
            self.firsts.remove(oldest);
        }
        self.firsts.push((key, First { ports, protocol: seen.protocol.0, end: seen.end - seen.l4 }));
        Ok(of(ports))
    }

    /// Policy, service, route.
    fn decide(&mut self, from: From, frame: &[u8], seen: &Seen, tuple: &Tuple) -> Fate {
        let port = self.config.port(from.port).ok_or(Why::NoPort)?;
        let is_own = port.allowed.iter().any(|range| range.holds(seen.source));
        let known = self.flows.get(tuple).copied();
        if port.role == Role::Pod && !from.decapped && !is_own {
            return Err(Why::Spoofed);
        }
        if port.gateways.contains(&seen.destination) {
            return self.local(from, frame, seen, format!("{tuple:?}"));
        }
        if is_error(frame, seen) {
            return self.error(from, frame, seen, tuple);
        }
        if let Some(half) = known {
            let died = self.is_over(&half);
            let begun = half.endpoint.is_none() && !half.is_reply && self.translation(tuple).is_some();
            if !died && !begun {
                return self.forward(from, frame, seen, (tuple, &half.to));
            }
            self.flows.retain(|_, other| other.flow != half.flow);
            if half.is_reply {
                return Err(Why::ReplyWithoutFlow);
            }
        }
        self.begin(from, frame, seen, tuple)
    }

    /// Whether the endpoint of a flow is gone.
    fn is_over(&self, half: &Half) -> bool {
        half.endpoint.is_some_and(|(endpoint, was)| self.config.incarnations[endpoint] != was)
    }

    /// The first packet of a flow.
    fn begin(&mut self, from: From, frame: &[u8], seen: &Seen, tuple: &Tuple) -> Fate {
        const SYN_ACK: u8 = 0x12;
        const RST: u8 = 4;
        let later = seen.is_later();
        let translation = self.translation(tuple).copied();
        let to = translation.map_or(*tuple, |translation| Tuple {
            source: translation.source.unwrap_or(tuple.source),
            destination: translation.to,
            ..*tuple
        });
        let way = self.config.way(tuple.vrf, to.destination.0);
        if seen.protocol == Protocol::TCP && !later {
            let flags = frame[seen.l4 + 13];
            if flags & SYN_ACK == SYN_ACK || flags & RST != 0 {
                return Err(if way == Some(Hop::Blackhole) { Why::ReplyToBlackhole } else { Why::ReplyWithoutFlow });
            }
        }
        if let Some(Hop::Port { .. } | Hop::Tunnel(_)) = way {
            let endpoint = translation.map(|t| (t.endpoint, self.config.incarnations[t.endpoint]));
            self.flows_seen += 1;
            let half = Half { flow: self.flows_seen, is_reply: true, to: tuple.reversed(), endpoint };
            self.flows.insert(to.reversed(), half);
            self.flows.insert(*tuple, Half { is_reply: false, to, ..half });
        }
        self.forward(from, frame, seen, (tuple, &to))
    }

    fn translation(&self, tuple: &Tuple) -> Option<&Translation> {
        let is_it =
            |t: &&Translation| t.vrf == tuple.vrf && t.from == tuple.destination && t.protocol == tuple.protocol;
        self.config.translations.iter().find(is_it)
    }

    fn forward(&mut self, from: From, frame: &[u8], seen: &Seen, (tuple, to): (&Tuple, &Tuple)) -> Fate {
        let hop = match self.config.way(from.vrf, to.destination.0) {
            None => return self.complain(from, frame, Reason::NoRoute, true),
            Some(Hop::Unreachable) => return self.complain(from, frame, Reason::NoNeighbour, true),
            Some(Hop::Blackhole) => return Err(Why::Blackhole),
            Some(Hop::Local) => return self.local(from, frame, seen, format!("{tuple:?}")),
            Some(hop) => hop,
        };
        let mut frame = frame.to_vec();
        packet::age(&mut frame, seen.six);
        let sent = frame.clone();
        packet::rewrite(&mut frame, seen, to);
        self.leave(Leaving { from, sent: &sent, flow: &Some(format!("{tuple:?}")) }, frame, hop)
    }

    /// A packet of which nothing is remembered.
    fn route(&self, from: From, frame: &[u8], seen: &Seen) -> Fate {
        let mut frame = frame.to_vec();
        packet::age(&mut frame, seen.six);
        let flow = format!("{} {}", seen.source, seen.destination);
        match self.config.way(from.vrf, seen.destination) {
            None => self.complain(from, &frame, Reason::NoRoute, true),
            Some(Hop::Unreachable) => self.complain(from, &frame, Reason::NoNeighbour, true),
            Some(Hop::Blackhole) => Err(Why::Blackhole),
            Some(Hop::Local) => self.local(from, &frame, seen, flow),
            Some(hop) => {
                let sent = frame.clone();
                self.leave(Leaving { from, sent: &sent, flow: &Some(flow) }, frame, hop)
            }
        }
    }

    /// MTU, tunnel, link.
    fn leave(&self, leaving: Leaving<'_>, mut frame: Vec<u8>, hop: Hop) -> Fate {
        let Leaving { from, sent, flow } = leaving;
        let seen = see(&frame).ok_or(Why::Malformed)?;
        let (tunnel, mtu) = match hop {
            Hop::Port { mtu, .. } => (None, mtu),
            Hop::Tunnel(number) => (Some(&self.config.tunnels[number]), self.config.tunnels[number].mtu),
            _ => return Err(Why::Untold),
        };
        if frame.len() - L3 > usize::from(mtu) {
            let may_cut = !seen.six && Ipv4::ref_from_prefix(&frame[L3..]).is_ok_and(|(ip, _)| !ip.dont_fragment());
            if !may_cut {
                return self.complain(from, sent, Reason::TooBig(mtu), true);
            }
            let pieces = packet::cut(&frame, mtu);
            let sent = if sent.is_empty() { vec![Vec::new(); pieces.len()] } else { packet::cut(sent, mtu) };
            let each = pieces.into_iter().zip(&sent);
            let out =
                each.flat_map(|(piece, sent)| self.leave(Leaving { sent, ..leaving }, piece, hop).unwrap_or_default());
            return Ok(out.collect());
        }
        let Some(tunnel) = tunnel else {
            let Hop::Port { port, mac, source, .. } = hop else { return Err(Why::Untold) };
            packet::address(&mut frame, source, mac);
            return Ok(vec![Out { port, bytes: frame, tunnelled: false, flow: None }]);
        };
        packet::clamp(&mut frame, &seen, mtu - if seen.six { 60 } else { 40 });
        packet::address(&mut frame, tunnel.macs.0, tunnel.macs.1);
        let Hop::Port { port, mtu, mac, source } = self.config.hops[tunnel.hop] else { return Err(Why::Untold) };
        let bytes = encap(tunnel, (source, mac), &frame, &seen);
        let added = bytes.len() - frame.len();
        if bytes.len() - L3 > usize::from(mtu) {
            let mtu = mtu - u16::try_from(added).expect("two headers");
            return self.complain(from, sent, Reason::TooBig(mtu), false);
        }
        Ok(vec![Out { port, bytes, tunnelled: true, flow: flow.clone() }])
    }
}

/// Outer headers and the inner frame.
fn encap(tunnel: &config::Tunnel, macs: (Mac, Mac), frame: &[u8], seen: &Seen) -> Vec<u8> {
    let class = match seen.six {
        true => Ipv6::ref_from_prefix(&frame[L3..]).map_or(0, |(ip, _)| ip.traffic_class()),
        false => frame[L3 + 1],
    };
    let addresses = Addresses::of(tunnel.local, tunnel.remote).expect("one family");
    let path = Path { tos: class, ..Path::new(macs, addresses) };
    let payload = [&[8, 0, 0, 0][..], &tunnel.vni.get().to_be_bytes()[1..], &[0], frame].concat();
    let mut bytes = build::frame(|into| build::udp(into, &path, wire::Ports::new(0, tunnel.udp_port), &payload))
        .expect("an inner frame is short");
    let checksum = L3 + if tunnel.local.is_ipv6() { 40 } else { 20 } + 6;
    bytes[checksum..checksum + 2].fill(0);
    bytes
}

fn is_discovery(frame: &[u8]) -> bool {
    let kind = see(frame).filter(|seen| seen.protocol == Protocol::ICMPV6 && seen.six && seen.l4 == L3 + 40);
    kind.is_some_and(|seen| matches!(frame.get(seen.l4), Some(133..=137)))
}

fn is_error(frame: &[u8], seen: &Seen) -> bool {
    let kind = frame.get(seen.l4).copied().unwrap_or(0);
    match seen.protocol {
        _ if seen.is_later() => false,
        Protocol::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        Protocol::ICMPV6 => kind < 128,
        _ => false,
    }
}

/// Addresses that no single station on a wire has.
fn is_nobody(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => address.is_unspecified() || address.is_loopback() || address.is_multicast(),
    }
}
