//! IPv4 (RFC 791): what a router must check before it forwards (RFC 1812 section 5.2.2).
use super::offset;
use crate::{Turn, flag, flow::FrontNext};
use engine::Packet;
use std::net::Ipv4Addr;
use tables::told::Port;
use wire::{Eth4Udp, Ethernet, FromBytes, Ipv4, Protocol, Sum};

const FRAGMENT: u16 = Ipv4::MORE_FRAGMENTS | 0x1fff;

/// Checks an IPv4 packet behind its Ethernet header and notes its offsets, hash and, where it is to be forwarded without
/// a flow, how far its route lookup has come.
#[inline(always)]
pub(super) fn check(turn: &Turn<'_>, port: &Port, packet: &mut Packet) -> Result<(), FrontNext> {
    let len = packet.len();
    let Ok((Eth4Udp { ip, udp, .. }, _)) = Eth4Udp::ref_from_prefix(packet.data()) else {
        return unusual(turn, port, packet);
    };
    let protocol = ip.protocol;
    let plain = ip.version_words == 0x45 && ip.fragment.get() & FRAGMENT == 0 && protocol.has_ports();
    if !plain {
        return unusual(turn, port, packet);
    }
    let total = usize::from(ip.total_len.get());
    if total < Ipv4::LEN + 8 || total + Ethernet::LEN > len {
        return Err(FrontNext::Malformed);
    }
    if !ip.checksum_is_valid() {
        return Err(FrontNext::BadChecksum);
    }
    if ip.ttl <= 1 && !port.gateways.contains(&Ipv4Addr::from_bits(ip.dst.get()).into()) {
        return Err(expired(packet));
    }
    let to = || (Ipv4Addr::from_bits(ip.dst.get()).into(), udp.dst.get());
    let outer = protocol == Protocol::UDP && packet.meta().flags & flag::DECAPPED == 0;
    let tunnelled = outer && super::is_tunnelled(turn, port, to);
    let l3 = offset(packet, Ethernet::LEN);
    let meta = packet.meta_mut();
    (meta.l3, meta.l4, meta.protocol) = (l3, l3 + 20, protocol.0);
    meta.flags |= flag::PLAIN;
    if total + Ethernet::LEN < len {
        let _shorter = packet.resize(total + Ethernet::LEN); // padding of the link (IEEE 802.3 section 3.2.7)
    }
    if tunnelled {
        return Err(FrontNext::Decap);
    }
    look_up(turn, port, packet)
}

/// Begins the lookup: of the flow, or of the route where no flows are kept.
#[inline(always)]
fn look_up(turn: &Turn<'_>, port: &Port, packet: &mut Packet) -> Result<(), FrontNext> {
    if port.stateless {
        let Ok((ip, _)) = Ipv4::ref_from_prefix(packet.from(packet.meta().l3)) else {
            return Err(FrontNext::Malformed);
        };
        let (source, destination) = (ip.src.get(), ip.dst.get());
        if is_martian(source, destination) {
            return Err(FrontNext::Martian);
        }
        let Some(vrf) = turn.told.vrfs.get(usize::from(port.vrf.0)) else { return Err(FrontNext::NoRoute) };
        let first = vrf.v4.first(destination);
        vrf.v4.fetch(first, destination);
        packet.meta_mut().flow = first.bits();
        packet.meta_mut().flags |= flag::STATELESS;
        return Ok(());
    }
    if packet.meta().flags & flag::DECAPPED != 0 {
        super::note_partial(packet, pseudo(packet));
    }
    let Some(key) = crate::flow::key4(packet) else { return Err(FrontNext::Malformed) };
    let hash = turn.learned.flows4.hash(key);
    packet.meta_mut().hash = hash;
    turn.learned.flows4.fetch_tags(hash);
    Ok(())
}

/// The pseudo-header's sum (RFC 9293 section 3.1).
fn pseudo(packet: &Packet) -> Sum {
    let meta = packet.meta();
    let len = u32::try_from(packet.from(meta.l4).len()).unwrap_or(0);
    Ipv4::ref_from_prefix(packet.from(meta.l3)).map_or(Sum::new(), |(ip, _)| ip.pseudo(len))
}

/// Options, fragments, and protocols without ports.
#[cold]
fn unusual(turn: &Turn<'_>, port: &Port, packet: &mut Packet) -> Result<(), FrontNext> {
    let at = offset(packet, Ethernet::LEN);
    let (ip, _) = Ipv4::parse(packet.from(at)).map_err(|why| match why {
        wire::ipv4::Malformed::Checksum => FrontNext::BadChecksum,
        _ => FrontNext::Malformed,
    })?;
    let (ip, header) = (*ip, ip.header_len());
    let total = usize::from(ip.total_len.get());
    let least = if ip.protocol.has_ports() && !ip.is_later_fragment() { 8 } else { 0 };
    let _shorter = packet.resize(total + Ethernet::LEN);
    let meta = packet.meta_mut();
    (meta.l3, meta.l4, meta.protocol) = (at, at + u16::try_from(header).unwrap_or(0), ip.protocol.0);
    if total < header + least {
        return Err(FrontNext::Malformed);
    }
    if ip.ttl <= 1 && !port.gateways.contains(&Ipv4Addr::from_bits(ip.dst.get()).into()) {
        return Err(expired(packet));
    }
    if ip.is_fragment() { Err(FrontNext::Fragment) } else { look_up(turn, port, packet) }
}

/// Notes what the complaint is about: the node behind needs to know where the packet begins.
#[cold]
fn expired(packet: &mut Packet) -> FrontNext {
    packet.meta_mut().l3 = offset(packet, Ethernet::LEN);
    FrontNext::Expired
}

/// Addresses that no packet on its way bears (RFC 6890): a source that nobody has, a destination that is a group, this
/// host or nobody. Established flows need not ask: their first packet was asked.
#[inline(always)]
pub(crate) fn is_martian(source: u32, destination: u32) -> bool {
    let odd = |top: u32| top == 0 || top == 127 || top >= 224;
    odd(source >> 24) || odd(destination >> 24)
}
