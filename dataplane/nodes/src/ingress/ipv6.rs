//! IPv6 (RFC 8200): the header, its extension headers, and what neighbour discovery looks like.
use super::{Entry, LINK};
use crate::{Turn, flag, flow::FrontNext};
use engine::Packet;
use std::net::Ipv6Addr;
use tables::{flows::Key6, told::VrfId};
use wire::{Eth6Udp, Ethernet, FromBytes, Icmpv6, Ipv6, Protocol, Sum, icmpv6};

const L4: u16 = LINK + 40;

/// Checks an IPv6 packet behind its Ethernet header and notes its offsets, hash and, where it is to be forwarded
/// without a flow, how far its route lookup has come.
#[inline(always)]
pub(super) fn check(turn: &Turn<'_>, entry: &Entry<'_>, packet: &mut Packet) -> Result<(), FrontNext> {
    let Ok((Eth6Udp { ip, udp, .. }, _)) = Eth6Udp::ref_from_prefix(packet.data()) else {
        return unusual(turn, packet);
    };
    let (protocol, whole) = (ip.next_header, ip.total_len() + usize::from(LINK));
    let plain = ip.version() == 6
        && (protocol == Protocol::UDP || protocol == Protocol::TCP)
        && (size_of::<Eth6Udp>()..=packet.len()).contains(&whole)
        && ip.hop_limit > 1;
    if !plain {
        return unusual(turn, packet);
    }
    let (ends, port) = ((ip.src.get(), ip.dst.get()), udp.dst.get());
    let ports = u32::from(udp.src.get()) << 16 | u32::from(port);
    let key = Key6::new(ends.0, ends.1, ports, protocol.0, entry.vrf);
    entry.note(packet, flag::V6 | flag::PLAIN, protocol, (LINK, L4));
    packet.truncate(whole);
    if protocol == Protocol::UDP && entry.is_tunnelled(turn, || Ipv6Addr::from_bits(ends.1).into(), port) {
        return Err(FrontNext::Decap);
    }
    look_up(turn, entry, packet, (&key, ends))
}

#[inline(always)]
fn look_up(
    turn: &Turn<'_>,
    entry: &Entry<'_>,
    packet: &mut Packet,
    (key, ends): (&Key6, (u128, u128)),
) -> Result<(), FrontNext> {
    if entry.port.stateless {
        return route(turn, packet, ends);
    }
    if entry.is_decapped() {
        super::note_partial(packet, pseudo(packet));
    }
    let hash = turn.learned.flows6.hash(*key);
    packet.meta_mut().hash = hash;
    turn.learned.flows6.fetch_tags(hash);
    Ok(())
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "takes halves")]
fn route(turn: &Turn<'_>, packet: &mut Packet, (source, destination): (u128, u128)) -> Result<(), FrontNext> {
    if is_martian(source, destination) {
        return Err(FrontNext::Martian);
    }
    let meta = packet.meta_mut();
    let Some(vrf) = turn.told.vrf(VrfId(meta.vrf)) else { return Err(FrontNext::NoRoute) };
    vrf.v6.fetch_first(destination);
    meta.flags |= flag::STATELESS;
    meta.hash = source as u64 ^ destination as u64 ^ (destination >> 64) as u64; // tunnels spread by it
    Ok(())
}

/// The pseudo-header's sum (RFC 8200 section 8.1).
fn pseudo(packet: &Packet) -> Sum {
    let meta = packet.meta();
    let len = u32::try_from(packet.from(meta.l4).len()).unwrap_or(0);
    let ip = Ipv6::ref_from_prefix(packet.from(meta.l3));
    ip.map_or(Sum::new(), |(ip, _)| ip.pseudo(Protocol(meta.protocol), len))
}

/// Extension headers, fragments, neighbour discovery, protocols without ports, a last hop, and what is wrong.
#[cold]
fn unusual(turn: &Turn<'_>, packet: &mut Packet) -> Result<(), FrontNext> {
    let entry = &Entry::of(turn, packet).ok_or(FrontNext::NoPort)?;
    let (ip, transport) = Ipv6::parse(packet.from(packet.offset(LINK))).map_err(|_| FrontNext::Malformed)?;
    let (total, hops, ends) = (ip.total_len(), ip.hop_limit, (ip.src.get(), ip.dst.get()));
    let later = transport.fragment.is_some_and(|fragment| fragment.is_later_fragment());
    let fragment = transport.fragment.is_some_and(|fragment| !fragment.is_whole());
    let least = if transport.protocol.has_ports() && !later { 8 } else { 0 };
    let (protocol, at) = (transport.protocol, transport.offset);
    let flags = flag::V6 | if entry.port.stateless && later { flag::FRAGMENT } else { 0 };
    entry.note(packet, flags, protocol, (LINK, LINK + u16::try_from(at).unwrap_or(0)));
    packet.truncate(total + usize::from(LINK));
    if total < at + least {
        return Err(FrontNext::Malformed);
    }
    if protocol == Protocol::ICMPV6 && !later && is_discovery(packet) {
        return Err(discovery(entry, packet));
    }
    let to = Ipv6Addr::from_bits(ends.1).into();
    entry.passes(turn, packet, (hops, to), !fragment && at == Ipv6::LEN)?;
    if entry.port.stateless {
        return route(turn, packet, ends); // fragments too: nobody asks for their ports
    }
    if fragment {
        return Err(FrontNext::Fragment);
    }
    let key = crate::flow::key6(packet).ok_or(FrontNext::Malformed)?;
    look_up(turn, entry, packet, (&key, ends))
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
pub(super) fn discovery(entry: &Entry<'_>, packet: &mut Packet) -> FrontNext {
    entry.note(packet, flag::V6, Protocol::ICMPV6, (LINK, L4));
    FrontNext::Local
}

/// Addresses that no packet on its way bears (RFC 6890): unspecified, loopback, a group. Established flows need not
/// ask: their first packet was asked.
#[inline(always)]
pub(crate) fn is_martian(source: u128, destination: u128) -> bool {
    let odd = |address: u128| address <= 1 || address >> 120 == 0xff;
    odd(source) || odd(destination)
}
