//! Frame to checked packet: where its headers are, what kind it is, whether it is for us.
mod fragments;
mod ipv4;
mod ipv6;

pub use fragments::{Fragments, FragmentsNext};

use crate::{Turn, flag, flow::FrontNext};
use engine::{Packet, PortId};
use tables::told::{Port, Role};
use wire::{EtherType, Ethernet, FromBytes};

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

/// Whether a packet from this port, to this address and UDP port, belongs to a tunnel of ours.
#[inline(always)]
fn is_tunnelled(turn: &Turn<'_>, port: &Port, destination: std::net::IpAddr, udp_port: u16) -> bool {
    port.role == Role::Uplink && turn.told.decaps.contains(&(destination, udp_port))
}
