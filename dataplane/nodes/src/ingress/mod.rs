//! Frame to checked packet: where its headers are, what kind it is, whether it is for us.
mod fragments;
mod ipv4;
mod ipv6;

pub use fragments::{Fragments, FragmentsNext};

use crate::{Turn, flag, flow::FrontNext};
use engine::{Meta, Offload, Packet, PortId};
use std::net::IpAddr;
use tables::told::{Port, Role};
use wire::{EtherType, Ethernet, FromBytes, Protocol, Sum, Tcp, Udp};

/// Checks a packet and notes where its headers are. An arc: the packet is not an ordinary one, and leaves by it.
#[inline(always)]
pub(crate) fn check(turn: &Turn<'_>, packet: &mut Packet) -> Result<(), FrontNext> {
    let Some(entry) = Entry::of(turn, packet) else { return Err(FrontNext::NoPort) };
    let Ok((ethernet, _)) = Ethernet::ref_from_prefix(packet.data()) else { return Err(FrontNext::Malformed) };
    if !entry.is_decapped() && ethernet.dst != entry.port.mac {
        return elsewhere(turn, packet);
    }
    let kind = ethernet.ethertype();
    if kind == EtherType::IPV4 {
        ipv4::check(turn, &entry, packet)
    } else if kind == EtherType::IPV6 {
        ipv6::check(turn, &entry, packet)
    } else {
        Err(not_ip(kind))
    }
}

/// How long the link header is.
const LINK: u16 = 14;
const _: () = assert!(Ethernet::LEN == LINK as usize);

/// What is known of a packet before its network header was read.
struct Entry<'a> {
    port: &'a Port,
    flags: u8,
    vrf: u16,
}

impl<'a> Entry<'a> {
    #[inline(always)]
    fn of(turn: &Turn<'a>, packet: &Packet) -> Option<Self> {
        let meta = packet.meta();
        let port = turn.told.port(PortId(meta.port_in))?;
        let flags = meta.flags & flag::DECAPPED;
        Some(Entry { port, flags, vrf: if flags == 0 { port.vrf.0 } else { meta.vrf } })
    }

    #[inline(always)]
    fn is_decapped(&self) -> bool {
        self.flags & flag::DECAPPED != 0
    }

    /// Whether a UDP packet belongs to a tunnel of ours.
    #[inline(always)]
    fn is_tunnelled(&self, turn: &Turn<'_>, to: impl FnOnce() -> IpAddr, port: u16) -> bool {
        let decaps = &turn.told.decaps;
        let may = self.port.role == Role::Uplink && !decaps.is_empty() && !self.is_decapped();
        may && decaps.iter().any(|(_, own)| *own == port) && decaps.contains(&(to(), port))
    }

    /// Whether an odd packet, whose headers were noted, may have come all its hops and belongs to no tunnel of ours,
    /// which only a `whole` one does: no fragment, and nothing between its network header and UDP.
    #[cold]
    fn passes(&self, turn: &Turn<'_>, packet: &Packet, (hops, to): (u8, IpAddr), whole: bool) -> Result<(), FrontNext> {
        if hops <= 1 && !self.port.gateways.contains(&to) {
            return Err(FrontNext::Expired);
        }
        let meta = packet.meta();
        if whole && Protocol(meta.protocol) == Protocol::UDP {
            let port = Udp::ref_from_prefix(packet.from(meta.l4)).map_or(0, |(udp, _)| udp.dst.get());
            if self.is_tunnelled(turn, || to, port) {
                return Err(FrontNext::Decap);
            }
        }
        Ok(())
    }

    /// Notes where the headers are and what they carry.
    #[inline(always)]
    fn note(&self, packet: &mut Packet, flags: u8, protocol: Protocol, (l3, l4): (u16, u16)) {
        let (l3, l4) = (packet.offset(l3), packet.offset(l4));
        let meta = packet.meta_mut();
        (meta.flags, meta.vrf, meta.protocol, meta.l3, meta.l4) = (self.flags | flags, self.vrf, protocol.0, l3, l4);
    }
}

/// Notes how far a route lookup has come.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "takes both halves")]
pub(crate) fn note(meta: &mut Meta, bits: u64) {
    (meta.flow, meta.next_hop) = (bits as u32, (bits >> 32) as u32);
}

/// What [`note`] noted.
#[inline(always)]
pub(crate) fn noted(meta: &Meta) -> u64 {
    u64::from(meta.next_hop) << 32 | u64::from(meta.flow)
}

/// A frame that is not for the port's own link address: only requests for neighbours come that way.
#[cold]
fn elsewhere(turn: &Turn<'_>, packet: &mut Packet) -> Result<(), FrontNext> {
    let entry = Entry::of(turn, packet).ok_or(FrontNext::NoPort)?;
    let (ethernet, _) = Ethernet::ref_from_prefix(packet.data()).map_err(|_| FrontNext::Malformed)?;
    let group = ethernet.dst.is_group();
    match ethernet.ethertype() {
        EtherType::ARP if group => Err(FrontNext::Arp),
        EtherType::IPV6 if group && ipv6::is_discovery(packet) => Err(ipv6::discovery(&entry, packet)),
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

/// Addresses that no packet on its way bears: the first packet of a flow is asked, and so is any where no flows are
/// kept.
pub(crate) fn is_martian(source: IpAddr, destination: IpAddr) -> bool {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4::is_martian(source.to_bits(), destination.to_bits()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6::is_martian(source.to_bits(), destination.to_bits()),
        _ => true,
    }
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
