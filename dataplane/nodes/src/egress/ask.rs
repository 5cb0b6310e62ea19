//! Asking where a neighbour is: ARP (RFC 826) and neighbour solicitation (RFC 4861, section 4.3).
use crate::{Turn, flag, punt};
use engine::{Packet, PortId};
use std::net::{IpAddr, Ipv4Addr};
use tables::told::Port;
use wire::{Arp, Mac, build};

/// The question who has `address` on a port, to be sent by it; `None` when the turn has no packet left.
#[cold]
pub(crate) fn question(turn: &mut Turn<'_>, id: PortId, port: &Port, address: IpAddr) -> Option<Packet> {
    const LONGEST: usize = 86; // Ethernet, IPv6, solicitation with one option
    let mut packet = turn.fresh(LONGEST)?;
    let len = packet.resize(LONGEST).and_then(|into| match address {
        IpAddr::V4(address) => ask4(into, port, address),
        IpAddr::V6(address) => {
            let mine = punt::source6(port).to_bits();
            build::neighbour_solicitation(into, port.mac, mine.into(), address.to_bits().into())
        }
    });
    let Some(()) = len.and_then(|len| packet.resize(len).map(|_| ())) else {
        turn.frames.put(packet);
        return None;
    };
    let meta = packet.meta_mut();
    (meta.port_in, meta.port_out, meta.flags) = (id.0, id.0, flag::OWN);
    Some(packet)
}

fn ask4(into: &mut [u8], port: &Port, address: Ipv4Addr) -> Option<usize> {
    // Without an address of its own it asks as a probe does (RFC 5227, section 1.1).
    let mine = port.gateways.iter().find_map(|gateway| if let IpAddr::V4(v4) = gateway { Some(*v4) } else { None });
    let mine = mine.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let arp = Arp::request(port.mac, mine.to_bits().into(), address.to_bits().into());
    build::arp(into, Mac::BROADCAST, &arp)
}
