//! ICMP and ICMPv6 errors.
use super::is_on_link;
use crate::{Complaint, Turn, flag};
use engine::{Meta, Node, Packet, PortId, arcs};
use std::net::IpAddr;
use tables::{
    learned::Learned,
    told::{Port, Role, Told},
};
use wire::{
    Ethernet, FromBytes, Ipv4, Ipv6, Mac, Protocol,
    build::{self, Addresses, Path, Reason},
};

/// Tells a packet's sender by an ICMP or ICMPv6 error why the packet goes no further: the [`Complaint`] in its `early`.
///
/// The error quotes the innermost packet and comes from the first address of its family that the dataplane has on the
/// port by which that packet came; a link-local one only speaks to its link (RFC 3927, section 2.7; RFC 4291, section
/// 2.5.6), and where there is no other, the address at which tunnels arrive speaks. There are none about what RFC 1812
/// section 4.3.2.7 and RFC 4443 section 2.4 e exclude.
///
/// Errors are limited by token buckets (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f): one for all ports of the
/// worker, whose rate is told, and one of a tenth of it for each port that packets come by. Each holds a second's
/// worth.
#[derive(Clone, Copy, Debug, Default)]
pub struct IcmpError;

arcs! {
    /// Where packets go from [`IcmpError`].
    pub IcmpErrorNext {
        /// Made here: the error, to be sent by the port that its cause came by.
        Back,
        /// Made here: the error, to be routed.
        Routed,
        /// Made here, about a packet that was rewritten: with its flow, which translates it back.
        Translated,
        /// Dropped: its sender is told.
        Done,
        /// Dropped: its port, or all ports together, have had their share of errors.
        Limited,
        /// Dropped: about such a packet there are no errors.
        NotWorthy,
        /// Dropped: the dataplane has no address on its port to speak from.
        NoSource,
        /// Dropped: no packet was left to tell with.
        NoRoom,
    }
}

impl Node<Told, Learned> for IcmpError {
    const NAME: &'static str = "icmp-error";
    type Next = IcmpErrorNext;

    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> IcmpErrorNext {
        let meta = *packet.meta();
        let quoted = packet.from(meta.l3);
        let Some(reason) = reason(&meta).filter(|_| is_worthy(packet, quoted)) else {
            return IcmpErrorNext::NotWorthy;
        };
        let Some(port) = turn.told.port(PortId(meta.port_in)) else { return IcmpErrorNext::NoSource };
        let back = way_back(port, packet);
        let Some(addresses) = addresses(turn.told, port, back.is_some(), quoted) else {
            return IcmpErrorNext::NoSource;
        };
        if !turn.learned.icmp_errors.take_share(meta.port_in, turn.told.limits.icmp_errors, turn.now) {
            return IcmpErrorNext::Limited;
        }
        let path = Path { tos: CONTROL, ..Path::new((port.mac, back.unwrap_or(Mac::ZERO)), addresses) };
        let Some(error) = write(turn, &path, reason, packet) else { return IcmpErrorNext::NoRoom };
        let arc = match back {
            _ if packet.meta().flags & flag::REWRITTEN != 0 => IcmpErrorNext::Translated,
            Some(_) => IcmpErrorNext::Back,
            None => IcmpErrorNext::Routed,
        };
        if turn.emit(arc, error) { IcmpErrorNext::Done } else { IcmpErrorNext::NoRoom }
    }
}

fn reason(meta: &Meta) -> Option<Reason> {
    let is = |complaint: Complaint| meta.early == complaint as u8;
    let mtu = || u16::try_from(meta.flow).unwrap_or(u16::MAX);
    Some(match () {
        () if is(Complaint::Expired) => Reason::NoHops,
        () if is(Complaint::NoRoute) => Reason::NoRoute,
        () if is(Complaint::Unreachable) => Reason::NoNeighbour,
        () if is(Complaint::TooBig) => Reason::TooBig(mtu()),
        () if is(Complaint::PortUnreachable) => Reason::NoPort,
        () => return None,
    })
}

/// Whether there may be an error about the packet, which was not made here and not sent to a group.
fn is_worthy(packet: &Packet, quoted: &[u8]) -> bool {
    let group = link_header(packet).is_some_and(|ethernet| ethernet.dst.is_group());
    packet.meta().flags & flag::OWN == 0 && !group && build::may_cause_error(quoted)
}

/// The link header in front of the innermost packet.
fn link_header(packet: &Packet) -> Option<&Ethernet> {
    let at = packet.meta().l3.checked_sub(u16::try_from(Ethernet::LEN).ok()?)?;
    Some(Ethernet::ref_from_prefix(packet.from(at)).ok()?.0)
}

/// Between whom the error travels, on the link only when it goes straight back.
fn addresses(told: &Told, port: &Port, on_link: bool, quoted: &[u8]) -> Option<Addresses> {
    let sender = match quoted.first()? >> 4 {
        4 => IpAddr::V4(Ipv4::ref_from_prefix(quoted).ok()?.0.src.get().into()),
        _ => IpAddr::V6(Ipv6::ref_from_prefix(quoted).ok()?.0.src.get().into()),
    };
    let may_speak = |mine: &&IpAddr| mine.is_ipv4() == sender.is_ipv4() && (on_link || !is_link_local(mine));
    let tunnels = || told.decaps.iter().map(|(address, _)| address).find(may_speak);
    Addresses::of(*port.gateways.iter().find(may_speak).or_else(tunnels)?, sender)
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The link address of the pod or host that sent the packet, when the packet still has the header that it came with.
fn way_back(port: &Port, packet: &Packet) -> Option<Mac> {
    let is_bare = usize::from(packet.meta().l3) == packet.start() + Ethernet::LEN;
    let is_station = matches!(port.role, Role::Pod | Role::Host) && is_on_link(packet) && is_bare;
    let mac = link_header(packet).filter(|_| is_station)?.src;
    mac.is_station().then_some(mac)
}

/// The error as a packet of its own.
fn write(turn: &mut Turn<'_>, path: &Path, reason: Reason, packet: &Packet) -> Option<Packet> {
    let cause = packet.meta();
    let mut error = turn.fresh(LONGEST)?;
    let quoted = packet.from(cause.l3);
    let len = error.resize(LONGEST).and_then(|into| build::icmp_error(into, path, reason, quoted));
    let Some(()) = len.and_then(|len| error.resize(len).map(|_| ())) else {
        turn.frames.put(error);
        return None;
    };
    let (six, header) = match path.addresses {
        Addresses::V4(..) => (false, Ipv4::LEN),
        Addresses::V6(..) => (true, Ipv6::LEN),
    };
    let l3 = u16::try_from(error.start() + Ethernet::LEN).unwrap_or(0);
    let meta = error.meta_mut();
    (meta.port_in, meta.port_out, meta.vrf) = (cause.port_in, cause.port_in, cause.vrf);
    (meta.hash, meta.trace) = (cause.hash, cause.trace);
    meta.flags = if six { flag::OWN | flag::V6 } else { flag::OWN };
    meta.protocol = if six { Protocol::ICMPV6.0 } else { Protocol::ICMP.0 };
    (meta.l3, meta.l4) = (l3, l3.saturating_add(u16::try_from(header).unwrap_or(0)));
    Some(error)
}

/// Precedence "internetwork control", as errors should have (RFC 1812, section 4.3.2.5).
const CONTROL: u8 = 0xc0;
/// Link header and the longest error: that of IPv6 (RFC 4443, section 2.4 c).
const LONGEST: usize = Ethernet::LEN + 1280;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::punt::rig::{self, OURS, Rig, THEIRS, assert_sound, ip, path};
    use proptest::prelude::*;
    use std::sync::Arc;
    use wire::{Icmp, Icmpv6, Ports, icmp, icmpv6};

    const FOUR: (&str, &str) = ("10.0.1.2", "10.0.9.9");
    const SIX: (&str, &str) = ("fd00::1:2", "fd00::9:9");

    fn udp(ends: (&str, &str), len: usize) -> Vec<u8> {
        build::frame(|into| build::udp(into, &path(ends.0, ends.1), Ports::new(1, 2), &vec![7; len])).unwrap()
    }

    fn complain(rig: &mut Rig, frame: &[u8], complaint: Complaint, change: impl FnOnce(&mut Packet)) -> IcmpErrorNext {
        let mut packet = rig.packet(frame, rig::POD);
        let meta = packet.meta_mut();
        (meta.early, meta.flow, meta.vrf) = (complaint as u8, 1400, 7);
        change(&mut packet);
        let arc = rig.one(&mut IcmpError, &mut packet);
        rig.put(packet);
        arc
    }

    /// The error's kind, code, last four bytes and quote.
    fn read(error: &Packet) -> ((u8, u8, u32), &[u8]) {
        assert_sound(error.data());
        let bytes = error.from(error.meta().l4);
        let (header, quote) = Icmpv6::ref_from_prefix(bytes).unwrap(); // both families' look the same
        ((header.kind.0, header.code, header.rest.get()), quote)
    }

    #[test]
    fn a_pod_is_told_what_is_wrong_with_its_packet() {
        use Complaint::*;
        let mut rig = Rig::new();
        let cases = [
            (Expired, (11, 0, 0), (3, 0, 0)),
            (NoRoute, (3, 0, 0), (1, 0, 0)),
            (Unreachable, (3, 1, 0), (1, 3, 0)),
            (TooBig, (3, 4, 1400), (2, 0, 1400)),
            (PortUnreachable, (3, 3, 0), (1, 4, 0)),
        ];
        for (complaint, four, six) in cases {
            for (ends, expected, mine, most) in [(FOUR, four, "10.0.1.1", 576), (SIX, six, "fd00::1:1", 1280)] {
                let cause = udp(ends, 1400);
                assert_eq!(complain(&mut rig, &cause, complaint, |_| ()), IcmpErrorNext::Done);
                let (arc, error) = rig.made::<IcmpErrorNext>();
                assert_eq!((arc, error.meta().port_out), (IcmpErrorNext::Back, rig::POD.0));
                assert_eq!(error.len(), 14 + most);
                let (header, quote) = read(&error);
                assert_eq!(header, expected);
                assert_eq!(quote, &cause[14..14 + quote.len()]);
                let (link, _) = Ethernet::ref_from_prefix(error.data()).unwrap();
                assert_eq!((link.src, link.dst), (OURS, THEIRS));
                assert_eq!(source(&error), ip(mine));
                rig.put(error);
            }
        }
        rig.finish();
    }

    #[test]
    fn a_short_packet_is_quoted_whole_without_padding() {
        let mut rig = Rig::new();
        let cause = udp(FOUR, 4);
        let padded = [&cause[..], &[0; 14]].concat();
        assert_eq!(complain(&mut rig, &padded, Complaint::Expired, |_| ()), IcmpErrorNext::Done);
        let (_, error) = rig.made::<IcmpErrorNext>();
        assert_eq!(read(&error).1, &cause[14..]);
        rig.put(error);
        rig.finish();
    }

    #[test]
    fn who_is_not_on_the_link_is_told_by_route() {
        let mut rig = Rig::new();
        let cause = udp(FOUR, 4);
        let changes: [fn(&mut Packet); 2] =
            [|packet| packet.meta_mut().flags |= flag::DECAPPED, |packet| packet.meta_mut().port_in = rig::OWN.0];
        for change in changes {
            assert_eq!(complain(&mut rig, &cause, Complaint::Expired, change), IcmpErrorNext::Done);
            let (arc, error) = rig.made::<IcmpErrorNext>();
            assert_eq!((arc, error.meta().vrf, error.meta().flags), (IcmpErrorNext::Routed, 7, flag::OWN));
            assert_eq!(read(&error).1, &cause[14..]);
            rig.put(error);
        }
        // It is in its tunnel already: what is quoted is the pod's own packet.
        let inside = |packet: &mut Packet| packet.push(50).unwrap().iter_mut().take(50).for_each(|byte| *byte = 0xa5);
        assert_eq!(complain(&mut rig, &cause, Complaint::Unreachable, inside), IcmpErrorNext::Done);
        let (arc, error) = rig.made::<IcmpErrorNext>();
        assert_eq!(arc, IcmpErrorNext::Routed);
        assert_eq!(read(&error).1, &cause[14..]);
        rig.put(error);
        rig.finish();
    }

    #[test]
    fn a_link_local_address_speaks_to_its_link_only() {
        let mut rig = Rig::new();
        for (ends, mine, node) in [(FOUR, "169.254.1.1", "192.0.2.1"), (SIX, "fe80::1", "2001:db8::1")] {
            rig.told.ports.slot(rig::POD.0.into()).gateways = Arc::new([ip(mine)]);
            rig.told.decaps = Arc::new([]);
            let cause = udp(ends, 4);
            assert_eq!(complain(&mut rig, &cause, Complaint::Expired, |_| ()), IcmpErrorNext::Done);
            let (arc, error) = rig.made::<IcmpErrorNext>();
            assert_eq!((arc, source(&error)), (IcmpErrorNext::Back, ip(mine)));
            rig.put(error);
            let far = |packet: &mut Packet| packet.meta_mut().flags |= flag::DECAPPED;
            assert_eq!(complain(&mut rig, &cause, Complaint::Expired, far), IcmpErrorNext::NoSource);
            rig.told.decaps = Arc::new([(ip("192.0.2.1"), 4789), (ip("2001:db8::1"), 4789)]);
            assert_eq!(complain(&mut rig, &cause, Complaint::Expired, far), IcmpErrorNext::Done);
            let (arc, error) = rig.made::<IcmpErrorNext>();
            assert_eq!((arc, source(&error)), (IcmpErrorNext::Routed, ip(node)));
            rig.put(error);
        }
        rig.finish();
    }

    fn source(error: &Packet) -> IpAddr {
        let bytes = error.from(error.meta().l3);
        match bytes[0] >> 4 {
            4 => IpAddr::V4(Ipv4::parse(bytes).unwrap().0.src.get().into()),
            _ => IpAddr::V6(Ipv6::parse(bytes).unwrap().0.src.get().into()),
        }
    }

    #[test]
    fn there_are_no_errors_about_some_packets() {
        let mut rig = Rig::new();
        let error4 = Icmp::new(icmp::Kind::UNREACHABLE, 0, 0);
        let error6 = Icmpv6::new(icmpv6::Kind::TOO_BIG, 0, 0);
        let icmp = |ends: (&str, &str), protocol, bytes: &[u8]| {
            build::frame(|into| build::ip(into, &path(ends.0, ends.1), protocol, bytes)).unwrap()
        };
        let mut later = udp(FOUR, 40);
        later[21] = 3; // offset
        let mut group = udp(FOUR, 4);
        group[..6].fill(0xff);
        let cases = [
            icmp(FOUR, Protocol::ICMP, wire::IntoBytes::as_bytes(&error4)),
            icmp(SIX, Protocol::ICMPV6, wire::IntoBytes::as_bytes(&error6)),
            later,
            group,
            udp(("0.0.0.0", FOUR.1), 4),
            udp(("224.0.0.1", FOUR.1), 4),
            udp((FOUR.0, "224.0.0.1"), 4),
            udp((FOUR.0, "255.255.255.255"), 4),
            udp(("::", SIX.1), 4),
            udp((SIX.0, "ff02::1"), 4),
        ];
        for cause in cases {
            assert_eq!(complain(&mut rig, &cause, Complaint::NoRoute, |_| ()), IcmpErrorNext::NotWorthy, "{cause:x?}");
        }
        let changes: [fn(&mut Packet); 3] = [
            |packet| packet.meta_mut().flags |= flag::OWN,
            |packet| packet.meta_mut().early = 0,
            |packet| packet.meta_mut().l3 = 0,
        ];
        for change in changes {
            let cause = udp(FOUR, 4);
            assert_eq!(complain(&mut rig, &cause, Complaint::NoRoute, change), IcmpErrorNext::NotWorthy);
        }
        rig.finish();
    }

    #[test]
    fn errors_are_limited_by_port() {
        let mut rig = Rig::new();
        rig.told.limits.icmp_errors = 30;
        let cause = udp(FOUR, 4);
        let count = |rig: &mut Rig, port: PortId| {
            let arcs =
                (0..10).map(|_| complain(rig, &cause, Complaint::NoRoute, |packet| packet.meta_mut().port_in = port.0));
            let done = arcs.filter(|arc| *arc == IcmpErrorNext::Done).count();
            rig.emitted::<IcmpErrorNext>().into_iter().for_each(|(_, error)| rig.put(error));
            done
        };
        assert_eq!((count(&mut rig, rig::POD), count(&mut rig, rig::POD)), (3, 0));
        assert_eq!(count(&mut rig, rig::OWN), 3, "another port has its own share");
        assert_eq!(complain(&mut rig, &cause, Complaint::NoRoute, |_| ()), IcmpErrorNext::Limited);
        rig.pass(1000);
        assert_eq!(count(&mut rig, rig::POD), 3);
        rig.finish();
    }

    #[test]
    fn all_ports_together_have_a_limit_too() {
        let mut rig = Rig::new();
        rig.told.limits.icmp_errors = 30;
        let pod = rig.told.ports.get(rig::POD.0.into()).unwrap().clone();
        (10..30).for_each(|port| *rig.told.ports.slot(port) = pod.clone());
        let cause = udp(FOUR, 4);
        let mut done = 0;
        for port in (10..30).chain(10..30) {
            let arc = complain(&mut rig, &cause, Complaint::NoRoute, |packet| packet.meta_mut().port_in = port);
            done += u32::from(arc == IcmpErrorNext::Done);
        }
        assert_eq!(done, 30);
        rig.finish();
    }

    #[test]
    fn without_an_address_or_a_packet_nobody_is_told() {
        let mut rig = Rig::new();
        let cause = udp(FOUR, 4);
        rig.limit(0);
        assert_eq!(complain(&mut rig, &cause, Complaint::NoRoute, |_| ()), IcmpErrorNext::NoRoom);
        rig.told.ports.slot(rig::POD.0.into()).gateways = Arc::new([ip("fd00::1:1")]);
        assert_eq!(complain(&mut rig, &cause, Complaint::NoRoute, |_| ()), IcmpErrorNext::NoSource);
        let gone = |packet: &mut Packet| packet.meta_mut().port_in = 44;
        assert_eq!(complain(&mut rig, &cause, Complaint::NoRoute, gone), IcmpErrorNext::NoSource);
        rig.finish();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn any_bytes_leave_by_name(
            bytes in prop::collection::vec(any::<u8>(), 0..200), six: bool, early in 0u8..9, l3: u16, sound: bool, at in 0usize..80,
        ) {
            let mut rig = Rig::new();
            let mut frame = udp(if six { SIX } else { FOUR }, 20);
            frame.truncate(at);
            frame.extend(bytes);
            complain(&mut rig, &frame, Complaint::TooBig, |packet| {
                packet.meta_mut().early = early;
                if !sound {
                    packet.meta_mut().l3 = l3 % 512;
                }
            });
            rig.finish();
        }
    }
}
