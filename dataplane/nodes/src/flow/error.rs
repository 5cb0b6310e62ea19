//! ICMP errors go with the flow whose packet they quote, and are translated with it (RFC 5508 section 4).
use super::{
    LearnNext, Tuple,
    family::{Family, ports_of},
};
use crate::{Turn, flag, route};
use engine::Packet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tables::told::{Forward, VrfId};
use wire::{FromBytes, Icmp, Icmpv6, Ipv4, Ipv6, Ports, Protocol, U16, U32, U128, checksum::checksum, icmp, icmpv6};

/// Whether a packet is an ICMP or ICMPv6 error.
pub(super) fn is_error(packet: &Packet) -> bool {
    let (meta, bytes) = (packet.meta(), packet.from(packet.meta().l4));
    if meta.flags & flag::FRAGMENT != 0 {
        return false;
    }
    match Protocol(meta.protocol) {
        Protocol::ICMP => Icmp::ref_from_prefix(bytes).is_ok_and(|(icmp, _)| icmp.kind.is_error()),
        Protocol::ICMPV6 => Icmpv6::ref_from_prefix(bytes).is_ok_and(|(icmp, _)| icmp.kind.is_error()),
        _ => false,
    }
}

/// Sends an error to whoever sent the packet that it quotes.
pub(super) fn forward<F: Family>(turn: &mut Turn<'_>, packet: &mut Packet) -> LearnNext {
    let v6 = packet.meta().flags & flag::V6 != 0;
    if total(packet, v6) != Some(0) {
        return LearnNext::Malformed; // what is rewritten below gets a new checksum: it must not make a bad one good
    }
    let Some(quoted) = quoted(packet, v6) else { return LearnNext::Malformed };
    // The quoted packet left here; the half that its replies come by knows whose it was.
    let (told, back) = (turn.told, quoted.reversed());
    let Some(key) = F::key_from(&back) else { return LearnNext::Malformed };
    let table = F::table(turn.learned);
    let half = table.find(key, table.hash(key)).and_then(|slot| table.hot(slot).zip(table.cold(slot)));
    let Some((half, cold)) = half else { return LearnNext::ErrorWithoutFlow };
    let to = half.rewritten(cold, &back);
    let way = route::way(told, VrfId(to.vrf), to.destination);
    packet.meta_mut().next_hop = way.next_hop.0;
    if rewrite(packet, v6, &back, &to).is_none() {
        return LearnNext::Malformed;
    }
    match way.forward {
        Forward::Port => LearnNext::Forward,
        Forward::Tunnel => LearnNext::Tunnel,
        Forward::Local => LearnNext::Local,
        _ => LearnNext::ErrorWithoutFlow, // no error about an error
    }
}

/// The tuple of the packet that an error quotes.
fn quoted(packet: &Packet, v6: bool) -> Option<Tuple> {
    let vrf = packet.meta().vrf;
    let quote = packet.from(packet.meta().l4).get(8..)?;
    let (source, destination, protocol, transport): (IpAddr, IpAddr, Protocol, &[u8]) = if v6 {
        let quoted = icmpv6::quoted(quote)?;
        let (source, destination) = (quoted.ip.src.get(), quoted.ip.dst.get());
        let transport = quote.get(quoted.found.offset..)?;
        (Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into(), quoted.found.protocol, transport)
    } else {
        let quoted = icmp::quoted(quote)?;
        let (source, destination) = (quoted.ip.src.get(), quoted.ip.dst.get());
        (Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into(), quoted.ip.protocol, quoted.transport)
    };
    Some(Tuple::of(source, destination, (ports_of(protocol, transport)?, protocol.0, vrf)))
}

/// Rewrites an error as its flow's packets of tuple `from` are rewritten into `to`: its addresses, and those and the
/// ports of the packet that it quotes, which went the other way.
fn rewrite(packet: &mut Packet, v6: bool, from: &Tuple, to: &Tuple) -> Option<()> {
    let (l3, l4) = (packet.meta().l3, packet.meta().l4);
    if from != to {
        let quote_at = l4.checked_add(8)?;
        if v6 {
            let (ip, _) = Ipv6::mut_from_prefix(packet.from_mut(quote_at)).ok()?;
            (ip.src, ip.dst) = (bits6(to.destination)?, bits6(to.source)?);
        } else {
            let (ip, _) = Ipv4::mut_from_prefix(packet.from_mut(quote_at)).ok()?;
            let (_, _) = (ip.rewrite_src(bits4(to.destination)?), ip.rewrite_dst(bits4(to.source)?));
        }
        let transport_at = transport_of_quote(packet, v6, quote_at)?;
        if Protocol(from.protocol).has_ports() {
            let (ports, _) = Ports::mut_from_prefix(packet.from_mut(transport_at)).ok()?;
            *ports = Ports::new(to.destination_port, to.source_port);
        }
    }
    if v6 {
        let (ip, _) = Ipv6::mut_from_prefix(packet.from_mut(l3)).ok()?;
        let _checked_at_ingress = ip.decrement_hop_limit();
        let reporter = ip.src == bits6(from.source)?;
        ip.dst = bits6(to.destination)?;
        ip.src = if reporter { bits6(to.source)? } else { ip.src };
    } else {
        let (ip, _) = Ipv4::mut_from_prefix(packet.from_mut(l3)).ok()?;
        let _checked_at_ingress = ip.decrement_ttl();
        let reporter = ip.src == bits4(from.source)?;
        let source = if reporter { bits4(to.source)? } else { ip.src };
        let (_, _) = (ip.rewrite_dst(bits4(to.destination)?), ip.rewrite_src(source));
    }
    let (icmp, _) = Icmp::mut_from_prefix(packet.from_mut(l4)).ok()?;
    icmp.checksum = U16::ZERO;
    let sum = total(packet, v6)?;
    let (icmp, _) = Icmp::mut_from_prefix(packet.from_mut(l4)).ok()?;
    icmp.checksum = U16::new(sum);
    Some(())
}

fn transport_of_quote(packet: &Packet, v6: bool, quote_at: u16) -> Option<u16> {
    let quote = packet.from(quote_at);
    let offset = if v6 { icmpv6::quoted(quote)?.found.offset } else { icmp::quoted(quote)?.offset };
    quote_at.checked_add(u16::try_from(offset).ok()?)
}

/// The checksum over a whole ICMP message: zero when it holds a right one.
fn total(packet: &Packet, v6: bool) -> Option<u16> {
    let (l3, message) = (packet.meta().l3, packet.from(packet.meta().l4));
    if !v6 {
        return Some(checksum(message));
    }
    let (ip, _) = Ipv6::ref_from_prefix(packet.from(l3)).ok()?;
    Some(ip.pseudo(Protocol::ICMPV6, u32::try_from(message.len()).ok()?).bytes(message).checksum())
}

fn bits4(address: IpAddr) -> Option<U32> {
    if let IpAddr::V4(address) = address { Some(U32::new(address.to_bits())) } else { None }
}

fn bits6(address: IpAddr) -> Option<U128> {
    if let IpAddr::V6(address) = address { Some(U128::new(address.to_bits())) } else { None }
}
