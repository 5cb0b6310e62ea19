//! The exceptions: what is for the dataplane itself, and what it has to say.
pub mod arp;
pub mod error;
pub mod local;
mod nd;
#[cfg(test)]
pub(crate) mod rig;

pub use arp::Arp;
pub use error::IcmpError;
pub use local::Local;

use crate::{Turn, flag};
use engine::{Arcs, Instant, Packet, PortId};
use std::net::{IpAddr, Ipv6Addr};
use tables::{
    learned::Learned,
    told::{Port, Resolution, Role, Told},
};
use wire::Mac;

/// The address that a port speaks IPv6 from to its neighbours: a gateway address, else the link-local one.
pub(crate) fn source6(port: &Port) -> Ipv6Addr {
    let gateway = port.gateways.iter().find_map(|gateway| if let IpAddr::V6(v6) = gateway { Some(*v6) } else { None });
    gateway.unwrap_or_else(|| link_local(port.mac))
}

/// The link-local address that follows from a link address (RFC 4862, section 5.3; RFC 4291, appendix A).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Whether the dataplane answers for `address` on a port.
fn is_own(port: &Port, address: IpAddr) -> bool {
    port.gateways.contains(&address) || address == IpAddr::V6(link_local(port.mac))
}

/// Whether answers to this packet can go back the way it came: it came straight from its port's link.
fn is_on_link(packet: &Packet) -> bool {
    packet.meta().flags & (flag::DECAPPED | flag::OWN) == 0
}

/// What became of a neighbour's word about where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Its port's neighbours are told, not heard.
    Deaf,
    /// It is not its address to claim.
    NotAllowed,
    /// Nobody asked for it.
    Unasked,
    /// It is known now.
    Heard,
}

/// Takes a neighbour's word that `address` is at `mac`.
fn hear(told: &Told, learned: &mut Learned, from: PortId, (address, mac): (IpAddr, Mac), now: Instant) -> Word {
    let Some(port) = told.port(from) else { return Word::Deaf };
    if port.resolution != Resolution::Own {
        return Word::Deaf;
    }
    if !mac.is_station() || is_own(port, address) || (port.role == Role::Pod && !port.allows(address)) {
        return Word::NotAllowed;
    }
    if learned.neighbours.heard(from, address, mac, now) { Word::Heard } else { Word::Unasked }
}

/// Sends the packets on that waited for a neighbour.
fn release<A: Arcs>(turn: &mut Turn<'_>, arc: A, port: PortId, address: IpAddr) {
    const MOST: usize = 16;
    for _ in 0..MOST {
        let Some(packet) = turn.learned.neighbours.waiting(port, address) else { break };
        turn.emit(arc, packet);
    }
}
