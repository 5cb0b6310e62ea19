//! IPv6 (RFC 8200): the header, its extension headers, and what neighbour discovery looks like.
use super::offset;
use crate::{Turn, flag, flow::FrontNext};
use engine::Packet;
use std::net::Ipv6Addr;
use tables::told::Port;
use wire::{Eth6Udp, Ethernet, FromBytes, Icmpv6, Ipv6, Protocol, Sum, icmpv6};

/// Checks an IPv6 packet behind its Ethernet header and notes its offsets, hash and, where it is to be forwarded without
/// a flow, how far its route lookup has come.
#[inline(always)]
pub(super) fn check(turn: &Turn<'_>, port: &Port, packet: &mut Packet) -> Result<(), FrontNext> {
    packet.meta_mut().flags |= flag::V6;
    let len = packet.len();
    let Ok((Eth6Udp { ip, udp, .. }, _)) = Eth6Udp::ref_from_prefix(packet.data()) else {
        return unusual(turn, port, packet);
    };
    let protocol = ip.next_header;
    if ip.version() != 6 || !protocol.has_ports() {
        return unusual(turn, port, packet);
    }
    let total = ip.total_len();
    if total < Ipv6::LEN + 8 || total + Ethernet::LEN > len {
        return Err(FrontNext::Malformed);
    }
    if ip.hop_limit <= 1 && !port.gateways.contains(&Ipv6Addr::from_bits(ip.dst.get()).into()) {
        return Err(expired(packet));
    }
    let to = || (Ipv6Addr::from_bits(ip.dst.get()).into(), udp.dst.get());
    let outer = protocol == Protocol::UDP && packet.meta().flags & flag::DECAPPED == 0;
    let tunnelled = outer && super::is_tunnelled(turn, port, to);
    let l3 = offset(packet, Ethernet::LEN);
    let meta = packet.meta_mut();
    (meta.l3, meta.l4, meta.protocol) = (l3, l3 + 40, protocol.0);
    meta.flags |= flag::PLAIN;
    if total + Ethernet::LEN < len {
        let _shorter = packet.resize(total + Ethernet::LEN);
    }
    if tunnelled {
        return Err(FrontNext::Decap);
    }
    look_up(turn, port, packet)
}

#[inline(always)]
fn look_up(turn: &Turn<'_>, port: &Port, packet: &mut Packet) -> Result<(), FrontNext> {
    if port.stateless {
        let Ok((ip, _)) = Ipv6::ref_from_prefix(packet.from(packet.meta().l3)) else {
            return Err(FrontNext::Malformed);
        };
        let (source, destination) = (ip.src.get(), ip.dst.get());
        if is_martian(source, destination) {
            return Err(FrontNext::Martian);
        }
        let Some(vrf) = turn.told.vrfs.get(usize::from(port.vrf.0)) else { return Err(FrontNext::NoRoute) };
        let first = vrf.v6.first(destination);
        vrf.v6.fetch(first, destination);
        packet.meta_mut().flow = first.bits();
        packet.meta_mut().flags |= flag::STATELESS;
        return Ok(());
    }
    if packet.meta().flags & flag::DECAPPED != 0 {
        super::note_partial(packet, pseudo(packet));
    }
    let Some(key) = crate::flow::key6(packet) else { return Err(FrontNext::Malformed) };
    let hash = turn.learned.flows6.hash(key);
    packet.meta_mut().hash = hash;
    turn.learned.flows6.fetch_tags(hash);
    Ok(())
}

/// The pseudo-header's sum (RFC 8200 section 8.1).
fn pseudo(packet: &Packet) -> Sum {
    let meta = packet.meta();
    let len = u32::try_from(packet.from(meta.l4).len()).unwrap_or(0);
    let ip = Ipv6::ref_from_prefix(packet.from(meta.l3));
    ip.map_or(Sum::new(), |(ip, _)| ip.pseudo(Protocol(meta.protocol), len))
}

/// Extension headers, fragments, neighbour discovery, and protocols without ports.
#[cold]
fn unusual(turn: &Turn<'_>, port: &Port, packet: &mut Packet) -> Result<(), FrontNext> {
    let at = offset(packet, Ethernet::LEN);
    let (ip, transport) = Ipv6::parse(packet.from(at)).map_err(|_| FrontNext::Malformed)?;
    let (total, hops, destination) = (ip.total_len(), ip.hop_limit, Ipv6Addr::from_bits(ip.dst.get()));
    let later = transport.fragment.is_some_and(|fragment| fragment.is_later_fragment());
    let fragment = transport.fragment.is_some_and(|fragment| !fragment.is_whole());
    let least = if transport.protocol.has_ports() && !later { 8 } else { 0 };
    let _shorter = packet.resize(total + Ethernet::LEN);
    let meta = packet.meta_mut();
    let l4 = at + u16::try_from(transport.offset).unwrap_or(0);
    (meta.l3, meta.l4, meta.protocol) = (at, l4, transport.protocol.0);
    if total < transport.offset + least {
        return Err(FrontNext::Malformed);
    }
    if transport.protocol == Protocol::ICMPV6 && !later && is_discovery(packet) {
        return Err(discovery(packet));
    }
    if hops <= 1 && !port.gateways.contains(&destination.into()) {
        return Err(expired(packet));
    }
    if fragment { Err(FrontNext::Fragment) } else { look_up(turn, port, packet) }
}

/// Whether a packet is neighbour or router discovery right behind its IPv6 header (RFC 4861 section 4).
pub(super) fn is_discovery(packet: &Packet) -> bool {
    let Ok((ip, rest)) = Ipv6::ref_from_prefix(packet.data().get(Ethernet::LEN..).unwrap_or_default()) else {
        return false;
    };
    let message = Icmpv6::ref_from_prefix(rest).map(|(message, _)| message.kind);
    ip.next_header == Protocol::ICMPV6 && message.is_ok_and(icmpv6::Kind::is_discovery)
}

/// Notes where the message is and sends it to the node that answers.
pub(super) fn discovery(packet: &mut Packet) -> FrontNext {
    let l3 = offset(packet, Ethernet::LEN);
    let meta = packet.meta_mut();
    (meta.l3, meta.l4, meta.protocol) = (l3, l3 + 40, Protocol::ICMPV6.0);
    meta.flags |= flag::V6;
    FrontNext::Local
}

#[cold]
fn expired(packet: &mut Packet) -> FrontNext {
    packet.meta_mut().l3 = offset(packet, Ethernet::LEN);
    FrontNext::Expired
}

/// Addresses that no packet on its way bears (RFC 6890): unspecified, loopback, a group. Established flows need not ask:
/// their first packet was asked.
#[inline(always)]
pub(crate) fn is_martian(source: u128, destination: u128) -> bool {
    let odd = |address: u128| address <= 1 || address >> 120 == 0xff;
    odd(source) || odd(destination)
}
