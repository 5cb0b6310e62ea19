//! What is for the dataplane itself.
use super::{Word, hear, is_on_link, is_own, nd, release};
use crate::{Complaint, Turn, flag};
use engine::{Node, Offload, Packet, PortId, arcs};
use std::net::IpAddr;
use tables::{learned::Learned, told::Told};
use wire::{
    Ethernet, FromBytes, Icmp, Icmpv6, Ipv4, Ipv6, Protocol, Sum, build::answer, checksum::checksum, icmp, icmpv6,
};

/// Takes what is for the dataplane's own addresses: answers echo requests and neighbour solicitations, hears
/// neighbours' advertisements, and complains of all else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

arcs! {
    /// Where packets go from [`Local`].
    pub LocalNext {
        /// Has become its own answer, to be sent by the port that it came by.
        Answered,
        /// Has become its own answer, to be routed: it came by a tunnel.
        Routed,
        /// To the ICMP error node: nobody listens on this UDP port.
        Complain,
        /// Ends here: a neighbour said where it is.
        Heard,
        /// Waited for this neighbour: to egress.
        Released,
        /// Dropped: it asks for, or speaks of, none that concerns the dataplane.
        NotForUs,
        /// Dropped: the sender may not speak of this address.
        NotAllowed,
        /// Dropped: an advertisement that nobody asked for.
        Unasked,
        /// Dropped: its headers or its lengths contradict each other, or it is no neighbour discovery from this link.
        Malformed,
        /// Dropped: its checksum is wrong.
        BadChecksum,
        /// Dropped: its source is no single station.
        BadSource,
        /// Dropped: a fragment, and nothing is put together here.
        Fragment,
        /// Dropped: asks for router advertisements; pods are configured otherwise.
        RouterSolicitation,
        /// Dropped: an ICMP message that needs no answer.
        Ignored,
        /// Dropped: TCP, which is never reset.
        TcpRefused,
        /// Dropped: another transport.
        NoProtocol,
    }
}

impl Node<Told, Learned> for Local {
    const NAME: &'static str = "local";
    type Next = LocalNext;

    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> LocalNext {
        if packet.meta().flags & flag::FRAGMENT != 0 {
            return LocalNext::Fragment;
        }
        let Some(ends) = Ends::of(packet) else { return LocalNext::Malformed };
        match (ends.six, Protocol(packet.meta().protocol)) {
            (true, Protocol::ICMPV6) => icmp6(turn, packet, &ends),
            _ if !ends.has_single_source() => LocalNext::BadSource,
            _ if ends.to.is_multicast() => LocalNext::NotForUs,
            (false, Protocol::ICMP) => icmp4(turn, packet, &ends),
            (_, Protocol::UDP) => {
                packet.meta_mut().early = Complaint::PortUnreachable as u8;
                LocalNext::Complain
            }
            (_, Protocol::TCP) => LocalNext::TcpRefused,
            _ => LocalNext::NoProtocol,
        }
    }
}

/// Between whom a packet travels, and how long it is behind its network headers.
struct Ends {
    six: bool,
    from: IpAddr,
    to: IpAddr,
    len: usize,
    pseudo: Sum, // of ICMPv6
}

impl Ends {
    fn of(packet: &Packet) -> Option<Ends> {
        let meta = packet.meta();
        let headers = usize::from(meta.l4.checked_sub(meta.l3)?);
        let ip = packet.from(meta.l3);
        if meta.flags & flag::V6 == 0 {
            let (ip, _) = Ipv4::ref_from_prefix(ip).ok()?;
            let len = usize::from(ip.total_len.get()).checked_sub(headers)?;
            let (from, to) = (IpAddr::V4(ip.src.get().into()), IpAddr::V4(ip.dst.get().into()));
            Some(Ends { six: false, from, to, len, pseudo: Sum::new() })
        } else {
            let (ip, _) = Ipv6::ref_from_prefix(ip).ok()?;
            let len = ip.total_len().checked_sub(headers)?;
            let (from, to) = (IpAddr::V6(ip.src.get().into()), IpAddr::V6(ip.dst.get().into()));
            let pseudo = ip.pseudo(Protocol::ICMPV6, u32::try_from(len).ok()?);
            Some(Ends { six: true, from, to, len, pseudo })
        }
    }

    /// Whether an answer would reach one station, and not everyone or the sender's own loopback.
    fn has_single_source(&self) -> bool {
        let reserved = matches!(self.from, IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240);
        !(reserved || self.from.is_multicast() || self.from.is_unspecified() || self.from.is_loopback())
    }

    /// The bytes behind the network headers.
    fn message<'a>(&self, packet: &'a Packet) -> Option<&'a [u8]> {
        packet.from(packet.meta().l4).get(..self.len)
    }
}

fn icmp4(turn: &Turn<'_>, packet: &mut Packet, ends: &Ends) -> LocalNext {
    let Some(message) = ends.message(packet) else { return LocalNext::Malformed };
    let Ok((header, _)) = Icmp::ref_from_prefix(message) else { return LocalNext::Malformed };
    if header.kind != icmp::Kind::ECHO_REQUEST {
        return LocalNext::Ignored;
    }
    if checksum(message) != 0 {
        return LocalNext::BadChecksum;
    }
    echo(turn, packet)
}

fn icmp6(turn: &mut Turn<'_>, packet: &mut Packet, ends: &Ends) -> LocalNext {
    let Some(message) = ends.message(packet) else { return LocalNext::Malformed };
    let Ok((header, _)) = Icmpv6::ref_from_prefix(message) else { return LocalNext::Malformed };
    let kind = header.kind;
    if ends.pseudo.bytes(message).checksum() != 0 {
        return LocalNext::BadChecksum;
    }
    match kind {
        icmpv6::Kind::NEIGHBOUR_SOLICITATION => solicited(turn, packet),
        icmpv6::Kind::NEIGHBOUR_ADVERTISEMENT => advertised(turn, packet),
        icmpv6::Kind::ROUTER_SOLICITATION => LocalNext::RouterSolicitation,
        icmpv6::Kind::ECHO_REQUEST if !ends.has_single_source() => LocalNext::BadSource,
        icmpv6::Kind::ECHO_REQUEST if ends.to.is_multicast() => LocalNext::NotForUs,
        icmpv6::Kind::ECHO_REQUEST => echo(turn, packet),
        _ => LocalNext::Ignored,
    }
}

/// Answers an echo request whose checksum is right.
fn echo(turn: &Turn<'_>, packet: &mut Packet) -> LocalNext {
    if answer::echo(packet.data_mut()).is_none() {
        return LocalNext::Ignored; // behind extension headers
    }
    let on_link = is_on_link(packet);
    let meta = packet.meta_mut();
    meta.offload = Offload::default();
    if !on_link {
        meta.flags = meta.flags & !flag::DECAPPED | flag::OWN;
        return LocalNext::Routed;
    }
    meta.port_out = meta.port_in;
    let port = turn.told.port(PortId(meta.port_in));
    if let (Some(port), Ok((ethernet, _))) = (port, Ethernet::mut_from_prefix(packet.data_mut())) {
        ethernet.src = port.mac; // whatever station or group the request was for
    }
    LocalNext::Answered
}

fn solicited(turn: &Turn<'_>, packet: &mut Packet) -> LocalNext {
    let Some(port) = turn.told.port(PortId(packet.meta().port_in)).filter(|_| is_on_link(packet)) else {
        return LocalNext::NotForUs;
    };
    let Some(asked) = nd::read(packet) else { return LocalNext::Malformed };
    if !is_own(port, asked.target.into()) {
        return LocalNext::NotForUs;
    }
    match nd::answer(packet, &asked, port) {
        Some(()) => LocalNext::Answered,
        None => LocalNext::Malformed,
    }
}

fn advertised(turn: &mut Turn<'_>, packet: &Packet) -> LocalNext {
    let from = PortId(packet.meta().port_in);
    if !is_on_link(packet) {
        return LocalNext::NotForUs;
    }
    let Some(said) = nd::read(packet) else { return LocalNext::Malformed };
    let target = said.target.into();
    match hear(turn.told, turn.learned, from, (target, said.mac), turn.now) {
        Word::Deaf => LocalNext::NotForUs,
        Word::NotAllowed => LocalNext::NotAllowed,
        Word::Unasked => LocalNext::Unasked,
        Word::Heard => {
            release(turn, LocalNext::Released, from, target);
            LocalNext::Heard
        }
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
