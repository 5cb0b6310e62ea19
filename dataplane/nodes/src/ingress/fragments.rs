//! Fragments follow their first fragment: only that one carries the ports.
use crate::{Turn, flag, flow::unusual_ports};
use engine::{Node, Packet, arcs};
use tables::{
    learned::{FragmentKey, Learned},
    told::Told,
};
use wire::{FromBytes, Ipv4, Ipv6, Protocol};

arcs!(
    /// Where fragments go.
    pub FragmentsNext {
        /// Its ports are known: on to its flow.
        Followed,
        /// Its first fragment has not been seen.
        NoFirst,
        /// It is too small to be honest (RFC 1858 section 3).
        Tiny,
        /// It has no fragment header.
        Malformed,
    }
);

/// Gives every fragment the ports of its first one.
pub struct Fragments;

impl Node<Told, Learned> for Fragments {
    const NAME: &'static str = "fragments";
    const STAGES: usize = 0;
    type Next = FragmentsNext;

    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> FragmentsNext {
        let Some((key, later)) = fragment(packet) else { return FragmentsNext::Malformed };
        let protocol = Protocol(packet.meta().protocol);
        let ports = if later {
            let Some(ports) = turn.learned.fragments.follow(&key, turn.now) else { return FragmentsNext::NoFirst };
            ports
        } else {
            let Some(ports) = unusual_ports(packet) else { return FragmentsNext::Tiny };
            if protocol == Protocol::TCP && packet.from(packet.meta().l4).len() < 20 {
                return FragmentsNext::Tiny; // flags would come in the next fragment, unseen
            }
            turn.learned.fragments.first(key, ports, turn.now);
            ports
        };
        if later {
            packet.meta_mut().flags |= flag::FRAGMENT;
            packet.meta_mut().flow = ports;
        }
        FragmentsNext::Followed
    }
}

/// What names the packet that this is a fragment of, and whether it is not the first one.
fn fragment(packet: &Packet) -> Option<(FragmentKey, bool)> {
    let meta = packet.meta();
    let bytes = packet.from(meta.l3);
    let (protocol, vrf) = (meta.protocol, meta.vrf);
    if meta.flags & flag::V6 == 0 {
        let (ip, _) = Ipv4::ref_from_prefix(bytes).ok()?;
        let (source, destination) = (ip.src.get(), ip.dst.get());
        let (source, destination) =
            (std::net::Ipv4Addr::from(source).into(), std::net::Ipv4Addr::from(destination).into());
        return Some((
            FragmentKey { source, destination, id: ip.id.get().into(), protocol, vrf },
            ip.is_later_fragment(),
        ));
    }
    let (ip, transport) = Ipv6::parse(bytes).ok()?;
    let fragment = transport.fragment?;
    let (source, destination) = (ip.src.get(), ip.dst.get());
    let (source, destination) = (std::net::Ipv6Addr::from(source).into(), std::net::Ipv6Addr::from(destination).into());
    Some((FragmentKey { source, destination, id: fragment.id.get(), protocol, vrf }, fragment.is_later_fragment()))
}
