//! Address to next hop.
use crate::{Turn, flag};
use engine::{Node, Packet, PortId, arcs};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tables::{
    learned::Learned,
    told::{Forward, LeafId, NextHopId, Told, VrfId},
};
use wire::{FromBytes, Ipv4, Ipv6};

/// The way to a destination: names to keep in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The route's leaf.
    pub(crate) leaf: LeafId,
    /// The next hop.
    pub(crate) next_hop: NextHopId,
    /// What happens to packets.
    pub(crate) forward: Forward,
    /// The port that they leave by, that of the underlay for a tunnel.
    pub(crate) port_out: PortId,
}

/// Finds the way to `destination`. No route is a way too: it leads nowhere, by the leaf that a new route will bump.
pub(crate) fn way(told: &Told, vrf: VrfId, destination: IpAddr) -> Way {
    let leaf = told.route(vrf, destination);
    let nowhere = Way { leaf, next_hop: NextHopId(0), forward: Forward::Nowhere, port_out: PortId(0) };
    let Some((next_hop, hop)) = told.leaf(leaf).and_then(|id| Some((id, told.next_hop(id)?))) else { return nowhere };
    let port_out = match hop.forward {
        Forward::Tunnel => {
            let Some(outer) = told.tunnel(hop.tunnel).and_then(|tunnel| told.next_hop(tunnel.next_hop)) else {
                return nowhere;
            };
            outer.port
        }
        _ => hop.port,
    };
    Way { leaf, next_hop, forward: hop.forward, port_out }
}

arcs!(
    /// Where packets go that the dataplane itself sends.
    pub RouteNext {
        /// Out by a port.
        Forward,
        /// Into a tunnel.
        Tunnel,
        /// There is no way, or it leads to the dataplane itself.
        NoRoute,
        /// Its headers are not what they should be.
        Malformed,
    }
);

/// Finds the way for packets that the dataplane itself made: no flow, no policy.
pub struct Route;

impl Node<Told, Learned> for Route {
    const NAME: &'static str = "route";
    const STAGES: usize = 0;
    type Next = RouteNext;

    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> RouteNext {
        let (l3, vrf) = (packet.meta().l3, VrfId(packet.meta().vrf));
        let destination: Option<IpAddr> = match packet.meta().flags & flag::V6 {
            0 => Ipv4::ref_from_prefix(packet.from(l3)).ok().map(|(ip, _)| Ipv4Addr::from_bits(ip.dst.get()).into()),
            _ => Ipv6::ref_from_prefix(packet.from(l3)).ok().map(|(ip, _)| Ipv6Addr::from_bits(ip.dst.get()).into()),
        };
        let Some(destination) = destination else { return RouteNext::Malformed };
        let way = way(turn.told, vrf, destination);
        packet.meta_mut().next_hop = way.next_hop.0;
        match way.forward {
            Forward::Port => RouteNext::Forward,
            Forward::Tunnel => RouteNext::Tunnel,
            _ => RouteNext::NoRoute,
        }
    }
}
