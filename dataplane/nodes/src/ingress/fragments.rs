//! Fragments follow their first fragment: only that one carries the ports.
use crate::{
    Turn, flag,
    flow::unusual_ports,
    policy::{self, Verdict},
};
use engine::{Node, Packet, PortId, arcs};
use std::net::{Ipv4Addr, Ipv6Addr};
use tables::{
    fragments::{First, Follow, FragmentKey},
    learned::Learned,
    told::{Role, Told},
};
use wire::{FromBytes, Ipv4, Ipv6, Protocol, ipv6};

arcs!(
    /// Where fragments go.
    pub FragmentsNext {
        /// Its ports are known: on to its flow.
        Followed,
        /// Its first fragment has not been seen, or was refused.
        NoFirst,
        /// A first fragment with so little of a TCP header that the next one could say what it is (RFC 1858 section 3).
        Tiny,
        /// It would overwrite what the first fragment said (RFC 1858 section 4, RFC 3128, RFC 5722).
        Overlap,
        /// A first fragment from a source address that the port may not use.
        Spoofed,
        /// It has no fragment header, or one that no sender makes: past 65,535 bytes, or not in units of eight.
        Malformed,
        /// The port has gone.
        NoPort,
    }
);

/// Gives every fragment the ports of its first one.
///
/// A first fragment is remembered once its port may use its source address; then it and all that follow it are judged
/// with its ports. A later fragment never reaches into the first one, which holds all headers that were judged, so that
/// nobody downstream puts others together. Which of the later ones overlap is for the receiver to see (RFC 5722).
pub struct Fragments;

impl Node<Told, Learned> for Fragments {
    const NAME: &'static str = "fragments";
    const STAGES: usize = 0;
    type Next = FragmentsNext;

    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> FragmentsNext {
        let Some(part) = Part::of(packet).filter(Part::is_sound) else { return FragmentsNext::Malformed };
        let Some(port) = turn.told.port(PortId(packet.meta().port_in)) else { return FragmentsNext::NoPort };
        let decapped = packet.meta().flags & flag::DECAPPED != 0;
        let alone = port.role == Role::Pod && !decapped;
        if part.offset != 0 {
            let first = match turn.learned.fragments.follow(&part.key, alone, part.offset, turn.now) {
                Follow::First(first) => first,
                Follow::NoFirst => return FragmentsNext::NoFirst,
                Follow::Overlap => return FragmentsNext::Overlap,
            };
            let meta = packet.meta_mut();
            meta.flags |= flag::FRAGMENT;
            (meta.flow, meta.protocol) = (first.ports, first.protocol);
            return FragmentsNext::Followed;
        }
        let protocol = Protocol(packet.meta().protocol);
        let Some(ports) = unusual_ports(packet) else { return FragmentsNext::Tiny };
        if protocol == Protocol::TCP && packet.from(packet.meta().l4).len() < 20 {
            return FragmentsNext::Tiny; // flags would come in the next fragment, unseen
        }
        if policy::judge(port, part.key.source, decapped) == Verdict::Spoofed {
            return FragmentsNext::Spoofed;
        }
        let first = First { ports, protocol: protocol.0, len: u16::try_from(part.len).unwrap_or(u16::MAX) };
        turn.learned.fragments.first(part.key, alone, first, turn.now);
        FragmentsNext::Followed
    }
}

/// A fragment, as its headers have it.
struct Part {
    key: FragmentKey,
    headers: usize, // bytes that do not count as payload
    offset: usize,  // of its payload in the packet's, in bytes
    len: usize,
    more: bool,
}

impl Part {
    fn of(packet: &Packet) -> Option<Part> {
        let meta = packet.meta();
        let bytes = packet.from(meta.l3);
        let (vrf, port) = (meta.vrf, PortId(meta.port_in));
        if meta.flags & flag::V6 == 0 {
            let (ip, _) = Ipv4::ref_from_prefix(bytes).ok()?;
            let (source, destination) = (Ipv4Addr::from(ip.src.get()).into(), Ipv4Addr::from(ip.dst.get()).into());
            let key = FragmentKey { source, destination, id: ip.id.get().into(), protocol: ip.protocol.0, vrf, port };
            let len = usize::from(ip.total_len.get()).checked_sub(ip.header_len())?;
            let (offset, more) = (ip.fragment_offset(), ip.more_fragments());
            return Some(Part { key, headers: ip.header_len(), offset, len, more });
        }
        let (ip, transport) = Ipv6::parse(bytes).ok()?;
        let fragment = transport.fragment?;
        let (source, destination) = (Ipv6Addr::from(ip.src.get()).into(), Ipv6Addr::from(ip.dst.get()).into());
        let key = FragmentKey { source, destination, id: fragment.id.get(), protocol: 0, vrf, port };
        // Headers behind the fragment header are payload. Such are rare, and where there are others in front of it too
        // these count as well: rather lose what follows than let it overwrite a header.
        let direct = fragment.next_header == transport.protocol;
        let begin = if direct { transport.offset } else { Ipv6::LEN + ipv6::Fragment::LEN };
        let len = ip.total_len().checked_sub(begin)?;
        Some(Part { key, headers: 0, offset: fragment.offset(), len, more: fragment.more_fragments() })
    }

    /// Whether a sender cuts so (RFC 791 section 3.2, RFC 8200 section 4.5).
    fn is_sound(&self) -> bool {
        self.headers + self.offset + self.len <= usize::from(u16::MAX) && (!self.more || self.len.is_multiple_of(8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::punt::rig::{self, Rig, path};
    use wire::{
        Ethernet, IntoBytes, Ports, Tcp,
        build::{self, Path},
        tcp,
    };

    const OTHER: PortId = PortId(4);
    const FOUR: (&str, &str) = ("10.0.1.2", "10.0.9.9");
    const SIX: (&str, &str) = ("fd00::1:2", "fd00::9:9");

    /// Two pods that may use the same addresses.
    fn rig() -> Rig {
        let mut rig = Rig::new();
        let pod = rig.told.ports.get(rig::POD.0.into()).unwrap().clone();
        *rig.told.ports.slot(OTHER.0.into()) = pod;
        rig
    }

    fn udp(source_port: u16) -> Vec<u8> {
        build::frame(|into| build::udp(into, &path(FOUR.0, FOUR.1), Ports::new(source_port, 80), &[7; 92])).unwrap()
    }

    /// The part of a packet's payload from `at` to `end`, as a fragment over IPv4 or IPv6.
    fn cut(whole: &[u8], id: u16, at: usize, end: usize) -> Vec<u8> {
        let six = whole[14] >> 4 == 6;
        let (headers, payload) = whole.split_at(Ethernet::LEN + if six { Ipv6::LEN } else { Ipv4::LEN });
        let (part, more) = (&payload[at..end], end < payload.len());
        let (link, ip) = headers.split_at(Ethernet::LEN);
        if six {
            let (mut ip, _) = Ipv6::read_from_prefix(ip).unwrap();
            let fragment = ipv6::Fragment::new(ip.next_header, u16::try_from(at).unwrap(), more, id.into());
            ip.next_header = Protocol::FRAGMENT;
            ip.payload_len = u16::try_from(part.len() + ipv6::Fragment::LEN).unwrap().into();
            return [link, ip.as_bytes(), fragment.as_bytes(), part].concat();
        }
        let (mut ip, _) = Ipv4::read_from_prefix(ip).unwrap();
        ip.total_len = u16::try_from(part.len() + Ipv4::LEN).unwrap().into();
        ip.fragment = (u16::try_from(at / 8).unwrap() | if more { Ipv4::MORE_FRAGMENTS } else { 0 }).into();
        ip.id = id.into();
        [link, ip.with_checksum().as_bytes(), part].concat()
    }

    /// Where a fragment goes and, when it is a later one that follows, with which ports.
    fn enter(rig: &mut Rig, port: PortId, frame: &[u8]) -> (FragmentsNext, Option<u32>) {
        let mut packet = rig.packet(frame, port);
        packet.meta_mut().flags &= !flag::FRAGMENT; // the front does not know
        let arc = rig.one(&mut Fragments, &mut packet);
        let meta = packet.meta();
        let ports = (meta.flags & flag::FRAGMENT != 0).then_some(meta.flow);
        rig.put(packet);
        (arc, ports)
    }

    #[test]
    fn two_pods_with_the_same_names_for_their_packets_do_not_mix() {
        let mut rig = rig();
        let (one, two) = (udp(1000), udp(2000));
        assert_eq!(enter(&mut rig, rig::POD, &cut(&one, 5, 0, 48)), (FragmentsNext::Followed, None));
        assert_eq!(enter(&mut rig, OTHER, &cut(&two, 5, 48, 100)), (FragmentsNext::NoFirst, None));
        assert_eq!(enter(&mut rig, OTHER, &cut(&two, 5, 0, 48)), (FragmentsNext::Followed, None));
        let (mine, others) = (Some(1000 << 16 | 80), Some(2000 << 16 | 80));
        assert_eq!(enter(&mut rig, rig::POD, &cut(&one, 5, 48, 100)), (FragmentsNext::Followed, mine));
        assert_eq!(enter(&mut rig, OTHER, &cut(&two, 5, 48, 100)), (FragmentsNext::Followed, others));
        rig.finish();
    }

    #[test]
    fn a_flood_from_one_pod_does_not_disturb_another() {
        let mut rig = rig();
        let whole = udp(1000);
        assert_eq!(enter(&mut rig, OTHER, &cut(&whole, 5, 0, 48)).0, FragmentsNext::Followed);
        for id in 0..20_000 {
            assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, id, 0, 48)).0, FragmentsNext::Followed);
        }
        assert_eq!(enter(&mut rig, OTHER, &cut(&whole, 5, 48, 100)).0, FragmentsNext::Followed);
        rig.finish();
    }

    #[test]
    fn a_first_fragment_that_is_refused_leaves_nothing_to_follow() {
        let mut rig = rig();
        let path = path("10.0.1.3", FOUR.1); // another's address
        let whole = build::frame(|into| build::udp(into, &path, Ports::new(1, 2), &[7; 92])).unwrap();
        assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 5, 0, 48)).0, FragmentsNext::Spoofed);
        assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 5, 48, 100)).0, FragmentsNext::NoFirst);
        assert_eq!(enter(&mut rig, PortId(99), &cut(&whole, 5, 0, 48)).0, FragmentsNext::NoPort);
        rig.finish();
    }

    #[test]
    fn headers_can_be_neither_hidden_nor_overwritten() {
        let mut rig = rig();
        for ends in [FOUR, SIX] {
            let path: Path = path(ends.0, ends.1);
            let segment = Tcp::new(1, 2, tcp::Flags::ACK);
            let whole = build::frame(|into| build::tcp(into, &path, &segment, &[], &[7; 60])).unwrap();
            // RFC 1858 section 3: the flags would come with the next fragment.
            assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 5, 0, 16)).0, FragmentsNext::Tiny);
            assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 5, 16, 80)).0, FragmentsNext::NoFirst);
            // RFC 3128: a harmless first fragment, and one at offset 1 that makes another segment of it.
            assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 6, 0, 24)).0, FragmentsNext::Followed);
            assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 6, 8, 32)).0, FragmentsNext::Overlap);
            // RFC 5722: then no part of the packet passes.
            assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 6, 24, 80)).0, FragmentsNext::NoFirst);
            assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 7, 0, 24)).0, FragmentsNext::Followed);
            assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 7, 24, 80)).0, FragmentsNext::Followed);
        }
        rig.finish();
    }

    #[test]
    fn headers_behind_the_fragment_header_cannot_be_overwritten_either() {
        let mut rig = rig();
        let options = [Protocol::UDP.0, 0, 1, 4, 0, 0, 0, 0]; // padding
        let payload = [&options[..], Ports::new(1, 2).as_bytes(), &[0, 88, 0, 0], &[7; 80]].concat();
        let path = path(SIX.0, SIX.1);
        let whole = build::frame(|into| build::ip(into, &path, Protocol::DESTINATION_OPTIONS, &payload)).unwrap();
        assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 5, 0, 16)).0, FragmentsNext::Followed);
        assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 5, 8, 96)).0, FragmentsNext::Overlap);
        assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 6, 0, 16)).0, FragmentsNext::Followed);
        let ports = Some(1 << 16 | 2);
        assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 6, 16, 96)), (FragmentsNext::Followed, ports));
        rig.finish();
    }

    #[test]
    fn what_nobody_cuts_is_refused() {
        let mut rig = rig();
        let whole = udp(1000);
        assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 5, 0, 44)).0, FragmentsNext::Malformed);
        assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 5, 0, 48)).0, FragmentsNext::Followed);
        let mut beyond = cut(&whole, 5, 48, 100);
        let (ip, _) = Ipv4::mut_from_prefix(&mut beyond[Ethernet::LEN..]).unwrap();
        ip.fragment = 0x1fff.into();
        *ip = ip.with_checksum();
        assert_eq!(enter(&mut rig, rig::POD, &beyond).0, FragmentsNext::Malformed);
        assert_eq!(enter(&mut rig, rig::POD, &cut(&whole, 5, 48, 100)).0, FragmentsNext::Followed);
        rig.finish();
    }
}
