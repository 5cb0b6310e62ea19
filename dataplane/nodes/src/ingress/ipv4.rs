//! IPv4 (RFC 791): what a router must check before it forwards (RFC 1812 section 5.2.2).
use super::{Entry, LINK};
use crate::{Turn, flag, flow::FrontNext};
use engine::Packet;
use std::net::Ipv4Addr;
use tables::{flows::Key4, told::VrfId};
use wire::{Eth4Udp, FromBytes, IntoBytes, Ipv4, Protocol, Sum};

const FRAGMENT: u16 = Ipv4::MORE_FRAGMENTS | 0x1fff;

/// Checks an IPv4 packet behind its Ethernet header and notes its offsets, hash and, where it is to be forwarded
/// without a flow, how far its route lookup has come.
#[inline(always)]
pub(super) fn check(turn: &Turn<'_>, entry: &Entry<'_>, packet: &mut Packet) -> Result<(), FrontNext> {
    let Ok((Eth4Udp { ip, udp, .. }, _)) = Eth4Udp::ref_from_prefix(packet.data()) else {
        return unusual(turn, packet);
    };
    let (protocol, whole) = (ip.protocol, usize::from(ip.total_len.get()) + usize::from(LINK));
    let plain = ip.version_words == 0x45
        && ip.fragment.get() & FRAGMENT == 0
        && (protocol == Protocol::UDP || protocol == Protocol::TCP)
        && (size_of::<Eth4Udp>()..=packet.len()).contains(&whole)
        && ip.checksum_is_valid()
        && ip.ttl > 1;
    if !plain {
        return unusual(turn, packet);
    }
    let (ends, port) = ((ip.src.get(), ip.dst.get()), udp.dst.get());
    let (Some(addresses), Some(ports)) = (ip.as_bytes().last_chunk(), udp.as_bytes().first_chunk()) else {
        return Err(FrontNext::Malformed);
    };
    let key = Key4::from_wire(*addresses, *ports, protocol.0, entry.vrf);
    entry.note(packet, flag::PLAIN, protocol, (LINK, LINK + 20));
    packet.truncate(whole); // padding of the link (IEEE 802.3 section 3.2.7)
    if protocol == Protocol::UDP && entry.is_tunnelled(turn, || Ipv4Addr::from_bits(ends.1).into(), port) {
        return Err(FrontNext::Decap);
    }
    look_up(turn, entry, packet, (key, ends))
}

/// Begins the lookup: of the flow, or of the route where no flows are kept.
#[inline(always)]
fn look_up(
    turn: &Turn<'_>,
    entry: &Entry<'_>,
    packet: &mut Packet,
    (key, ends): (Key4, (u32, u32)),
) -> Result<(), FrontNext> {
    if entry.port.stateless {
        return route(turn, packet, ends);
    }
    if entry.is_decapped() {
        super::note_partial(packet, pseudo(packet));
    }
    let hash = turn.learned.flows4.hash(key);
    packet.meta_mut().hash = hash;
    turn.learned.flows4.fetch_tags(hash);
    Ok(())
}

/// Begins the lookup of the route. The destination stays in the low half of `hash`, where the later stages find it; a
/// tunnel spreads by both halves.
#[inline(always)]
fn route(turn: &Turn<'_>, packet: &mut Packet, (source, destination): (u32, u32)) -> Result<(), FrontNext> {
    if is_martian(source, destination) {
        return Err(FrontNext::Martian);
    }
    let meta = packet.meta_mut();
    let Some(vrf) = turn.told.vrf(VrfId(meta.vrf)) else { return Err(FrontNext::NoRoute) };
    let first = vrf.v4.first(destination);
    vrf.v4.fetch(first, destination);
    super::note(meta, first.bits());
    meta.flags |= flag::STATELESS;
    meta.hash = u64::from(source) << 32 | u64::from(destination);
    Ok(())
}

/// The pseudo-header's sum (RFC 9293 section 3.1).
fn pseudo(packet: &Packet) -> Sum {
    let meta = packet.meta();
    let len = u32::try_from(packet.from(meta.l4).len()).unwrap_or(0);
    Ipv4::ref_from_prefix(packet.from(meta.l3)).map_or(Sum::new(), |(ip, _)| ip.pseudo(len))
}

/// Options, fragments, protocols without ports, a last hop, and what is wrong.
#[cold]
fn unusual(turn: &Turn<'_>, packet: &mut Packet) -> Result<(), FrontNext> {
    let entry = &Entry::of(turn, packet).ok_or(FrontNext::NoPort)?;
    let (ip, _) = Ipv4::parse(packet.from(packet.offset(LINK))).map_err(|why| match why {
        wire::ipv4::Malformed::Checksum => FrontNext::BadChecksum,
        _ => FrontNext::Malformed,
    })?;
    let (ip, header) = (*ip, ip.header_len());
    let total = usize::from(ip.total_len.get());
    let least = if ip.protocol.has_ports() && !ip.is_later_fragment() { 8 } else { 0 };
    let flags = if entry.port.stateless && ip.is_later_fragment() { flag::FRAGMENT } else { 0 };
    entry.note(packet, flags, ip.protocol, (LINK, LINK + u16::try_from(header).unwrap_or(0)));
    packet.truncate(total + usize::from(LINK));
    if total < header + least {
        return Err(FrontNext::Malformed);
    }
    let to = Ipv4Addr::from_bits(ip.dst.get()).into();
    entry.passes(turn, packet, (ip.ttl, to), !ip.is_fragment() && header == Ipv4::LEN)?;
    if entry.port.stateless {
        return route(turn, packet, (ip.src.get(), ip.dst.get())); // fragments too: nobody asks for their ports
    }
    if ip.is_fragment() {
        return Err(FrontNext::Fragment);
    }
    let key = crate::flow::key4(packet).ok_or(FrontNext::Malformed)?;
    look_up(turn, entry, packet, (key, (ip.src.get(), ip.dst.get())))
}

/// Addresses that no packet on its way bears (RFC 6890): a source that nobody has, a destination that is a group, this
/// host or nobody. Established flows need not ask: their first packet was asked.
#[inline(always)]
pub(crate) fn is_martian(source: u32, destination: u32) -> bool {
    let top = |address: u32| usize::from(address.to_be_bytes()[0]);
    let odd = |address| ODD.get(top(address)).is_none_or(|odd| *odd);
    odd(source) | odd(destination)
}

/// Whether no single host has addresses that begin so: "this network", loopback, groups, and what is reserved.
static ODD: [bool; 256] = {
    let mut odd = [false; 256];
    let (mut rest, mut top) = (odd.as_mut_slice(), 0);
    while let Some((first, others)) = rest.split_first_mut() {
        *first = top == 0 || top == 127 || top >= 224;
        (rest, top) = (others, top + 1);
    }
    odd
};
