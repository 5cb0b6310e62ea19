//! Frame to checked packet: where its headers are, what kind it is, whether it is for us.
mod fragments;
mod ipv4;
mod ipv6;

pub use fragments::{Fragments, FragmentsNext};

use crate::{Turn, flag, flow::FrontNext};
use engine::{Offload, Packet, PortId};
use std::net::IpAddr;
use tables::told::{Port, Role};
use wire::{EtherType, Ethernet, FromBytes, Protocol, Sum, Tcp, Udp};

/// Checks a packet and notes where its headers are. An arc: the packet is not an ordinary one, and leaves by it.
#[inline(always)]
pub(crate) fn check(turn: &Turn<'_>, packet: &mut Packet) -> Result<(), FrontNext> {
    let Some(port) = turn.told.port(PortId(packet.meta().port_in)) else { return Err(FrontNext::NoPort) };
    let Ok((ethernet, _)) = Ethernet::ref_from_prefix(packet.data()) else { return Err(FrontNext::Malformed) };
    let (kind, to) = (ethernet.ethertype(), ethernet.dst);
    let decapped = packet.meta().flags & flag::DECAPPED;
    if to != port.mac && decapped == 0 {
        return elsewhere(port, packet, kind);
    }
    packet.meta_mut().flags = decapped;
    if decapped == 0 {
        packet.meta_mut().vrf = port.vrf.0;
    }
    match kind {
        EtherType::IPV4 => ipv4::check(turn, port, packet),
        EtherType::IPV6 => ipv6::check(turn, port, packet),
        _ => Err(not_ip(kind)),
    }
}

/// A frame that is not for the port's own link address: only requests for neighbours come that way.
#[cold]
fn elsewhere(port: &Port, packet: &mut Packet, kind: EtherType) -> Result<(), FrontNext> {
    let group = Ethernet::ref_from_prefix(packet.data()).is_ok_and(|(ethernet, _)| ethernet.dst.is_group());
    match kind {
        EtherType::ARP if group => Err(FrontNext::Arp),
        EtherType::IPV6 if group && ipv6::is_discovery(packet) => {
            packet.meta_mut().vrf = port.vrf.0;
            Err(ipv6::discovery(packet))
        }
        _ if group => Err(FrontNext::Multicast),
        _ => Err(FrontNext::NotForUs),
    }
}

#[cold]
fn not_ip(kind: EtherType) -> FrontNext {
    match kind {
        EtherType::ARP => FrontNext::Arp,
        kind if kind.is_tag() => FrontNext::Tagged,
        _ => FrontNext::NotIp,
    }
}

/// Whether a UDP packet that came by an uplink belongs to a tunnel of ours.
#[inline(always)]
fn is_tunnelled(turn: &Turn<'_>, port: &Port, to: impl FnOnce() -> (IpAddr, u16)) -> bool {
    port.role == Role::Uplink && !turn.told.decaps.is_empty() && turn.told.decaps.contains(&to())
}

/// Addresses that no packet on its way bears: the first packet of a flow is asked, and so is any where no flows are kept.
pub(crate) fn is_martian(source: IpAddr, destination: IpAddr) -> bool {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::is_martian(source.to_bits(), destination.to_bits()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::is_martian(source.to_bits(), destination.to_bits()),
        _ => true,
    }
}

/// The frame offset of the byte `at` of a packet.
#[inline(always)]
fn offset(packet: &Packet, at: usize) -> u16 {
    u16::try_from(packet.start() + at).unwrap_or(0)
}

/// Finds a transport checksum that is only its pseudo-header's sum, as virtual devices leave it, and notes that it must
/// be completed. Where the sum happens to be right already, completing it gives the same.
fn note_partial(packet: &mut Packet, pseudo: Sum) {
    let (l4, bytes) = (packet.meta().l4, packet.from(packet.meta().l4));
    let found = match Protocol(packet.meta().protocol) {
        Protocol::TCP => Tcp::ref_from_prefix(bytes).ok().map(|(tcp, _)| (tcp.checksum, 16)),
        Protocol::UDP => Udp::ref_from_prefix(bytes).ok().map(|(udp, _)| (udp.checksum, 6)),
        _ => None,
    };
    let Some((sum, checksum_offset)) = found else { return };
    if sum.get() == pseudo.folded() && packet.meta().offload == Offload::default() {
        packet.meta_mut().offload = Offload { checksum_start: l4, checksum_offset, ..Offload::default() };
    }
}
