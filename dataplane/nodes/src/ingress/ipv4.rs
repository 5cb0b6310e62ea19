//! IPv4 (RFC 791): what a router must check before it forwards (RFC 1812 section 5.2.2).
use crate::{Turn, flag, flow::FrontNext};
use engine::{Offload, Packet};
use tables::told::Port;
use wire::{Eth4Udp, Ethernet, FromBytes, Ipv4, Protocol, Sum, tcp, udp};

const FRAGMENT: u16 = Ipv4::MORE_FRAGMENTS | 0x1fff;

/// Checks an IPv4 packet behind its Ethernet header and notes its offsets, hash and, where it is to be forwarded without
/// a flow, how far its route lookup has come.
#[inline(always)]
pub(super) fn check(turn: &Turn<'_>, port: &Port, packet: &mut Packet) -> Result<(), FrontNext> {
    let len = packet.len();
    let Ok((Eth4Udp { ip, udp, .. }, _)) = Eth4Udp::ref_from_prefix(packet.data()) else { return unusual(packet) };
    let ordinary = ip.version_words == 0x45 && ip.fragment.get() & FRAGMENT == 0 && ip.protocol.has_ports();
    if !ordinary {
        return unusual(packet).and_then(|()| look_up(turn, port, packet));
    }
    let total = usize::from(ip.total_len.get());
    if total < Ipv4::LEN + 8 || total + Ethernet::LEN > len {
        return Err(FrontNext::Malformed);
    }
    if !ip.checksum_is_valid() {
        return Err(FrontNext::BadChecksum);
    }
    if ip.ttl <= 1 {
        return Err(expired(packet));
    }
    if is_martian(ip.src.get()) || is_group(ip.dst.get()) {
        return Err(FrontNext::Martian);
    }
    let (protocol, destination, udp_port) = (ip.protocol, ip.dst.get(), udp.dst.get());
    let l3 = offset(packet, Ethernet::LEN);
    let meta = packet.meta_mut();
    (meta.l3, meta.l4, meta.protocol) = (l3, l3 + 20, protocol.0);
    if total + Ethernet::LEN < len {
        let _shorter = packet.resize(total + Ethernet::LEN); // padding of the link (IEEE 802.3 section 3.2.7)
    }
    if protocol == Protocol::UDP
        && super::is_tunnelled(turn, port, std::net::Ipv4Addr::from_bits(destination).into(), udp_port)
    {
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
        let destination = ip.dst.get();
        let Some(vrf) = turn.told.vrfs.get(usize::from(port.vrf.0)) else { return Err(FrontNext::NoRoute) };
        let first = vrf.v4.first(destination);
        vrf.v4.fetch(first, destination);
        packet.meta_mut().flow = first.bits();
        packet.meta_mut().flags |= flag::STATELESS;
        return Ok(());
    }
    if packet.meta().flags & flag::DECAPPED != 0 {
        note_partial(packet, pseudo(packet));
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
fn unusual(packet: &mut Packet) -> Result<(), FrontNext> {
    let at = offset(packet, Ethernet::LEN);
    let bytes = packet.from(at);
    let (ip, _) = Ipv4::parse(bytes).map_err(|why| match why {
        wire::ipv4::Malformed::Checksum => FrontNext::BadChecksum,
        _ => FrontNext::Malformed,
    })?;
    let (total, header) = (usize::from(ip.total_len.get()), ip.header_len());
    let (protocol, fragment, ttl) = (ip.protocol, ip.is_fragment(), ip.ttl);
    let (source, destination) = (ip.src.get(), ip.dst.get());
    let least = if protocol.has_ports() && !ip.is_later_fragment() { 8 } else { 0 };
    let _shorter = packet.resize(total + Ethernet::LEN);
    let meta = packet.meta_mut();
    (meta.l3, meta.l4, meta.protocol) = (at, at + u16::try_from(header).unwrap_or(0), protocol.0);
    if total < header + least {
        return Err(FrontNext::Malformed);
    }
    if ttl <= 1 {
        return Err(expired(packet));
    }
    if is_martian(source) || is_group(destination) {
        return Err(FrontNext::Martian);
    }
    if fragment { Err(FrontNext::Fragment) } else { Ok(()) }
}

/// Notes what the complaint is about: the node behind needs to know where the packet begins.
#[cold]
fn expired(packet: &mut Packet) -> FrontNext {
    packet.meta_mut().l3 = offset(packet, Ethernet::LEN);
    FrontNext::Expired
}

/// The frame offset of the byte `at` of a packet.
#[inline(always)]
pub(super) fn offset(packet: &Packet, at: usize) -> u16 {
    u16::try_from(packet.start() + at).unwrap_or(0)
}

/// A source that nobody has (RFC 6890): this network, loopback, groups, everyone.
#[inline(always)]
fn is_martian(source: u32) -> bool {
    let top = source >> 24;
    top == 0 || top == 127 || top >= 224
}

#[inline(always)]
fn is_group(destination: u32) -> bool {
    destination >> 28 >= 0xe || destination >> 24 == 127 || destination >> 24 == 0
}

/// Finds a transport checksum that is only its pseudo-header's sum, as virtual devices leave it, and notes that it must
/// be completed. Where the sum happens to be right already, completing it gives the same.
#[inline]
pub(super) fn note_partial(packet: &mut Packet, pseudo: Sum) {
    let (l4, protocol) = (packet.meta().l4, Protocol(packet.meta().protocol));
    let at = match protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => return,
    };
    let bytes = packet.from(l4);
    let sum = match protocol {
        Protocol::TCP => wire::Tcp::ref_from_prefix(bytes).map(|(tcp, _): (&tcp::Tcp, _)| tcp.checksum.get()).ok(),
        _ => wire::Udp::ref_from_prefix(bytes).map(|(udp, _): (&udp::Udp, _)| udp.checksum.get()).ok(),
    };
    if sum == Some(pseudo.folded()) && packet.meta().offload == Offload::default() {
        packet.meta_mut().offload = Offload { checksum_start: l4, checksum_offset: at, ..Offload::default() };
    }
}
