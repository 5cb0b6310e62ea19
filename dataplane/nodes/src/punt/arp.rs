//! ARP.
use super::{Word, hear, is_on_link, release};
use crate::Turn;
use engine::{Node, Offload, Packet, PortId, arcs};
use std::net::{IpAddr, Ipv4Addr};
use tables::{
    learned::Learned,
    told::{Port, Role, Told},
};
use wire::{Ethernet, FromBytes, build::answer};

/// Speaks ARP (RFC 826): answers for the addresses that the dataplane has on a port, and hears its neighbours where it
/// asks for itself.
///
/// A pod may speak only of its own addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arp;

arcs! {
    /// Where packets go from [`Arp`].
    pub ArpNext {
        /// The request has become its reply, to be sent by the port that it came by.
        Answered,
        /// Ends here: a neighbour said where it is.
        Heard,
        /// Waited for this neighbour: to egress.
        Released,
        /// Dropped: it speaks of none that concerns the dataplane.
        NotForUs,
        /// Dropped: the sender may not speak of this address.
        NotAllowed,
        /// Dropped: no ARP for IPv4 over Ethernet, or it contradicts its link header.
        Malformed,
        /// Dropped: a reply that nobody asked for.
        Unasked,
    }
}

impl Node<Told, Learned> for Arp {
    const NAME: &'static str = "arp";
    type Next = ArpNext;

    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> ArpNext {
        let from = PortId(packet.meta().port_in);
        let Some(arp) = read(packet) else { return ArpNext::Malformed };
        let Some(port) = turn.told.port(from).filter(|_| is_on_link(packet)) else { return ArpNext::NotForUs };
        let sender = Ipv4Addr::from_bits(arp.sender.get());
        let target = IpAddr::V4(Ipv4Addr::from_bits(arp.target.get()));
        let is_probe = sender.is_unspecified(); // RFC 5227: it claims nothing
        if !is_probe && !may_claim(port, sender.into()) {
            return ArpNext::NotAllowed;
        }
        let word = if is_probe {
            Word::Unasked
        } else {
            hear(turn.told, turn.learned, from, (sender.into(), arp.sender_mac), turn.now)
        };
        if word == Word::Heard {
            release(turn, ArpNext::Released, from, sender.into());
        }
        if arp.is_request() && port.gateways.contains(&target) {
            return reply(packet, port);
        }
        match word {
            Word::Heard => ArpNext::Heard,
            Word::NotAllowed => ArpNext::NotAllowed,
            Word::Unasked if arp.is_reply() => ArpNext::Unasked,
            Word::Unasked | Word::Deaf => ArpNext::NotForUs,
        }
    }
}

fn read(packet: &Packet) -> Option<wire::Arp> {
    let (ethernet, rest) = Ethernet::ref_from_prefix(packet.data()).ok()?;
    let arp = wire::Arp::parse(rest)?;
    let is_honest = arp.sender_mac == ethernet.src && arp.sender_mac.is_station();
    (is_honest && (arp.is_request() || arp.is_reply())).then_some(*arp)
}

fn may_claim(port: &Port, address: IpAddr) -> bool {
    port.role != Role::Pod || (port.allows(address) && !port.gateways.contains(&address))
}

fn reply(packet: &mut Packet, port: &Port) -> ArpNext {
    if answer::arp(packet.data_mut(), port.mac).is_none() {
        return ArpNext::Malformed;
    }
    let meta = packet.meta_mut();
    (meta.port_out, meta.offload) = (meta.port_in, Offload::default());
    ArpNext::Answered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::punt::rig::{self, OURS, Rig, THEIRS, ip};
    use proptest::prelude::*;
    use wire::{Mac, build};

    fn say(rig: &mut Rig, port: PortId, dst: Mac, arp: &wire::Arp) -> (ArpNext, Packet) {
        let frame = build::frame(|into| build::arp(into, dst, arp)).unwrap();
        let mut packet = rig.packet(&[&frame[..], &[0; 18]].concat(), port); // padded to 60 bytes
        (rig.one(&mut Arp, &mut packet), packet)
    }

    fn request(sender: &str, target: &str) -> wire::Arp {
        wire::Arp::request(THEIRS, bits(sender), bits(target))
    }

    fn bits(address: &str) -> wire::U32 {
        address.parse::<Ipv4Addr>().unwrap().to_bits().into()
    }

    #[test]
    fn a_pod_finds_its_gateway() {
        let mut rig = Rig::new();
        for sender in ["10.0.1.2", "0.0.0.0"] {
            let (arc, packet) = say(&mut rig, rig::POD, Mac::BROADCAST, &request(sender, "10.0.1.1"));
            assert_eq!((arc, packet.meta().port_out), (ArpNext::Answered, rig::POD.0));
            let (link, rest) = Ethernet::ref_from_prefix(packet.data()).unwrap();
            assert_eq!((link.src, link.dst), (OURS, THEIRS));
            assert_eq!(wire::Arp::parse(rest), Some(&request(sender, "10.0.1.1").reply(OURS)));
            rig.put(packet);
        }
        rig.finish();
    }

    #[test]
    fn an_answer_is_heard_and_lets_packets_go() {
        let mut rig = Rig::new();
        let neighbour = ip("10.0.2.9");
        rig.learned.neighbours.resolve(rig::OWN, neighbour, rig::POD.0, rig.now);
        let waits = rig.packet(&[0; 60], rig::POD);
        assert!(rig.learned.neighbours.hold((rig::OWN, neighbour), waits, 0, rig.now).is_none());
        let answer = wire::Arp { sender_mac: THEIRS, ..request("10.0.2.1", "10.0.2.9").reply(THEIRS) };
        let (arc, packet) = say(&mut rig, rig::OWN, OURS, &answer);
        assert_eq!(arc, ArpNext::Heard);
        rig.put(packet);
        let (arc, released) = rig.made::<ArpNext>();
        assert_eq!(arc, ArpNext::Released);
        rig.put(released);
        let known = rig.learned.neighbours.resolve(rig::OWN, neighbour, rig::POD.0, rig.now);
        assert_eq!(known, tables::learned::Resolved::Known(THEIRS));
        let (arc, packet) = say(&mut rig, rig::OWN, Mac::BROADCAST, &request("10.0.2.9", "10.0.2.9"));
        assert_eq!(arc, ArpNext::Heard, "a known neighbour announces itself");
        rig.put(packet);
        rig.finish();
    }

    #[test]
    fn what_is_not_for_us_is_dropped_by_name() {
        let mut rig = Rig::new();
        let other_mac = wire::Arp { sender_mac: OURS, ..request("10.0.1.2", "10.0.1.1") };
        let strange = wire::Arp { operation: 9.into(), ..request("10.0.1.2", "10.0.1.1") };
        let wide = wire::Arp { hardware_len: 8, ..request("10.0.1.2", "10.0.1.1") };
        let group = wire::Arp { sender_mac: Mac::BROADCAST, ..request("10.0.1.2", "10.0.1.1") };
        let answer = |sender: &str| request("10.0.2.1", sender).reply(THEIRS);
        let cases = [
            (ArpNext::NotForUs, rig::POD, request("10.0.1.2", "10.0.1.77")),
            (ArpNext::NotForUs, rig::POD, request("10.0.1.2", "10.0.2.1")), // another port's gateway
            (ArpNext::NotForUs, rig::OWN, request("10.0.2.9", "10.0.2.10")),
            (ArpNext::NotForUs, PortId(9), request("10.0.1.2", "10.0.1.1")),
            (ArpNext::NotForUs, rig::SHARED, answer("10.0.3.9")),
            (ArpNext::NotAllowed, rig::POD, request("10.0.1.3", "10.0.1.1")),
            (ArpNext::NotAllowed, rig::POD, request("10.0.1.1", "10.0.1.1")),
            (ArpNext::NotAllowed, rig::OWN, answer("10.0.2.1")),
            (ArpNext::Unasked, rig::OWN, answer("10.0.2.9")),
            (ArpNext::Malformed, rig::POD, strange),
            (ArpNext::Malformed, rig::POD, wide),
            (ArpNext::Malformed, rig::POD, group),
        ];
        for (expected, port, arp) in cases {
            let (arc, packet) = say(&mut rig, port, Mac::BROADCAST, &arp);
            assert_eq!(arc, expected, "{arp:?}");
            rig.put(packet);
        }
        let frame = build::frame(|into| build::arp(into, Mac::BROADCAST, &other_mac)).unwrap();
        let mut lies = rig.packet(&[&frame[..6], &THEIRS.0, &frame[12..]].concat(), rig::POD);
        assert_eq!(rig.one(&mut Arp, &mut lies), ArpNext::Malformed, "the link header has another sender");
        rig.put(lies);
        let frame = build::frame(|into| build::arp(into, Mac::BROADCAST, &request("10.0.1.2", "10.0.1.1"))).unwrap();
        let mut tunnelled = rig.packet(&frame, rig::POD);
        tunnelled.meta_mut().flags = crate::flag::DECAPPED;
        assert_eq!(rig.one(&mut Arp, &mut tunnelled), ArpNext::NotForUs);
        rig.put(tunnelled);
        rig.finish();
    }

    proptest! {
        #[test]
        fn any_bytes_leave_by_name(bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0usize..42, port in 0u16..4) {
            let mut rig = Rig::new();
            let mut frame = build::frame(|into| build::arp(into, OURS, &request("10.0.1.2", "10.0.1.1"))).unwrap();
            frame.truncate(at);
            frame.extend(bytes);
            let mut packet = rig.packet(&frame, PortId(port));
            rig.one(&mut Arp, &mut packet);
            rig.put(packet);
            rig.finish();
        }
    }
}
