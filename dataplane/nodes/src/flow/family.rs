//! What differs between IPv4 and IPv6 flows: where the key is, and how a packet is rewritten.
use super::Tuple;
use crate::flag;
use engine::Packet;
use std::net::IpAddr;
use tables::{
    flows::{Half, Hot4, Hot6, Key4, Key6, kind},
    learned::Learned,
    table::Table,
};
use wire::{
    Delta, Eth4, Eth4Udp, Eth6, Eth6Udp, FromBytes, Icmp, Icmpv6, IntoBytes, Ipv4, Ipv6, Ports, Protocol, U16, U32,
    U128, tcp,
};

/// An address family, as flows see it.
pub(super) trait Family: Half<Key: Into<Tuple>> {
    /// The worker's flows of this family.
    fn table(learned: &Learned) -> &Table<Self>;
    /// The worker's flows of this family.
    fn table_mut(learned: &mut Learned) -> &mut Table<Self>;
    /// The packet's key; none when its headers are not where its metadata says.
    fn key_of(packet: &Packet) -> Option<Self::Key>;
    /// The key of a tuple; none when it is of the other family.
    fn key_from(tuple: &Tuple) -> Option<Self::Key>;
    /// The transport protocol of a key.
    fn protocol(key: Self::Key) -> Protocol;
    /// Lowers the hops left, and rewrites addresses and ports as the half says. `None`: headers are missing.
    fn rewrite(&self, cold: &Self::Cold, packet: &mut Packet) -> Option<()>;
    /// Makes the half rewrite packets of tuple `from` into `to`.
    fn set_rewrite(&mut self, cold: &mut Self::Cold, from: &Tuple, to: &Tuple);
    /// What the half makes of tuple `from`.
    fn rewritten(&self, cold: &Self::Cold, from: &Tuple) -> Tuple;
    /// Keeps which endpoint the half leads to.
    fn set_endpoint(&mut self, cold: &mut Self::Cold, endpoint: u32);
    /// Counts the bytes of a packet.
    fn count_bytes(&mut self, cold: &mut Self::Cold, len: usize);
}

/// The IPv4 key of a packet.
#[inline(always)]
pub(crate) fn key4(packet: &Packet) -> Option<Key4> {
    let meta = packet.meta();
    if meta.flags & flag::PLAIN != 0 {
        let (Eth4Udp { ip, udp, .. }, _) = Eth4Udp::ref_from_prefix(packet.data()).ok()?;
        let (addresses, ports) = (ip.as_bytes().last_chunk()?, udp.as_bytes().first_chunk()?);
        return Some(Key4::from_wire(*addresses, *ports, ip.protocol.0, meta.vrf));
    }
    let (ip, _) = Ipv4::ref_from_prefix(packet.from(meta.l3)).ok()?; // what follows may be shorter than any ports
    Some(Key4::new(ip.src.get(), ip.dst.get(), unusual_ports(packet)?, meta.protocol, meta.vrf))
}

/// The IPv6 key of a packet.
#[inline(always)]
pub(crate) fn key6(packet: &Packet) -> Option<Key6> {
    let meta = packet.meta();
    if meta.flags & flag::PLAIN != 0 {
        let (Eth6Udp { ip, udp, .. }, _) = Eth6Udp::ref_from_prefix(packet.data()).ok()?;
        let ports = u32::from(udp.src.get()) << 16 | u32::from(udp.dst.get());
        return Some(Key6::new(ip.src.get(), ip.dst.get(), ports, ip.next_header.0, meta.vrf));
    }
    let (ip, _) = Ipv6::ref_from_prefix(packet.from(meta.l3)).ok()?;
    Some(Key6::new(ip.src.get(), ip.dst.get(), unusual_ports(packet)?, meta.protocol, meta.vrf))
}

/// What stands for ports: those behind options and extension headers, a first fragment's, an echo's identifier twice.
/// Other ICMP messages are flows of their own, by their type: no error is ever taken for a packet of another flow.
pub(crate) fn unusual_ports(packet: &Packet) -> Option<u32> {
    let meta = packet.meta();
    if meta.flags & flag::FRAGMENT != 0 {
        return Some(meta.flow);
    }
    ports_of(Protocol(meta.protocol), packet.from(meta.l4))
}

/// What stands for ports in a transport header.
pub(super) fn ports_of(protocol: Protocol, bytes: &[u8]) -> Option<u32> {
    let twice = |id: u16| u32::from(id) << 16 | u32::from(id);
    let other = |kind: u8| u32::from(kind) << 16 | 0xffff;
    match protocol {
        protocol if protocol.has_ports() => {
            let (ports, _) = Ports::ref_from_prefix(bytes).ok()?;
            Some(u32::from(ports.src.get()) << 16 | u32::from(ports.dst.get()))
        }
        Protocol::ICMP => {
            let (icmp, _) = Icmp::ref_from_prefix(bytes).ok()?;
            Some(if icmp.kind.is_echo() { twice(icmp.echo_id()) } else { other(icmp.kind.0) })
        }
        Protocol::ICMPV6 => {
            let (icmp, _) = Icmpv6::ref_from_prefix(bytes).ok()?;
            Some(if icmp.kind.is_echo() { twice(icmp.echo_id()) } else { other(icmp.kind.0) })
        }
        _ => Some(0),
    }
}

impl Family for Hot4 {
    #[inline(always)]
    fn table(learned: &Learned) -> &Table<Self> {
        &learned.flows4
    }
    #[inline(always)]
    fn table_mut(learned: &mut Learned) -> &mut Table<Self> {
        &mut learned.flows4
    }
    #[inline(always)]
    fn key_of(packet: &Packet) -> Option<Key4> {
        key4(packet)
    }
    #[inline(always)]
    fn protocol(key: Key4) -> Protocol {
        Protocol(key.protocol())
    }
    fn key_from(tuple: &Tuple) -> Option<Key4> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (tuple.source, tuple.destination) else { return None };
        Some(Key4::new(source.to_bits(), destination.to_bits(), tuple.ports(), tuple.protocol, tuple.vrf))
    }
    #[inline(always)]
    fn rewrite(&self, _: &Self::Cold, packet: &mut Packet) -> Option<()> {
        let (Eth4 { ip, .. }, _) = Eth4::mut_from_prefix(packet.data_mut()).ok()?;
        let _checked_at_ingress = ip.decrement_ttl();
        if self.life.kind & kind::REWRITE != 0 {
            (ip.src, ip.dst) = (U32::new(self.rewrite.source), U32::new(self.rewrite.destination));
            let addresses = Delta::from_bits(self.rewrite.delta3);
            ip.checksum = addresses.apply(ip.checksum);
            rewrite_transport(packet, self.rewrite.ports, (addresses, Delta::from_bits(self.rewrite.delta4)))?;
        }
        Some(())
    }
    fn set_rewrite(&mut self, _: &mut Self::Cold, from: &Tuple, to: &Tuple) {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.source, from.destination) else { return };
        let (IpAddr::V4(new_source), IpAddr::V4(new_destination)) = (to.source, to.destination) else { return };
        let changed = |old: std::net::Ipv4Addr, new: std::net::Ipv4Addr| Delta::u32(old.to_bits(), new.to_bits());
        let addresses = changed(source, new_source).and(changed(destination, new_destination));
        let all = addresses.and(Delta::u32(from.ports(), to.ports()));
        (self.rewrite.source, self.rewrite.destination) = (new_source.to_bits(), new_destination.to_bits());
        (self.rewrite.ports, self.rewrite.delta3, self.rewrite.delta4) =
            (to.ports(), addresses.to_bits(), all.to_bits());
    }
    fn rewritten(&self, _: &Self::Cold, from: &Tuple) -> Tuple {
        if self.life.kind & kind::REWRITE == 0 {
            return *from;
        }
        let address = |bits: u32| std::net::Ipv4Addr::from_bits(bits).into();
        from.moved(address(self.rewrite.source), address(self.rewrite.destination), self.rewrite.ports)
    }
    fn set_endpoint(&mut self, _: &mut Self::Cold, endpoint: u32) {
        self.endpoint = endpoint;
    }
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "no packet has 4 GiB")]
    fn count_bytes(&mut self, _: &mut Self::Cold, len: usize) {
        self.bytes = self.bytes.wrapping_add(len as u32);
    }
}

impl Family for Hot6 {
    #[inline(always)]
    fn table(learned: &Learned) -> &Table<Self> {
        &learned.flows6
    }
    #[inline(always)]
    fn table_mut(learned: &mut Learned) -> &mut Table<Self> {
        &mut learned.flows6
    }
    #[inline(always)]
    fn key_of(packet: &Packet) -> Option<Key6> {
        key6(packet)
    }
    #[inline(always)]
    fn protocol(key: Key6) -> Protocol {
        Protocol(key.protocol())
    }
    fn key_from(tuple: &Tuple) -> Option<Key6> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (tuple.source, tuple.destination) else { return None };
        Some(Key6::new(source.to_bits(), destination.to_bits(), tuple.ports(), tuple.protocol, tuple.vrf))
    }
    #[inline(always)]
    fn rewrite(&self, cold: &Self::Cold, packet: &mut Packet) -> Option<()> {
        let (Eth6 { ip, .. }, _) = Eth6::mut_from_prefix(packet.data_mut()).ok()?;
        let _checked_at_ingress = ip.decrement_hop_limit();
        if self.life.kind & kind::REWRITE != 0 {
            let (source, destination) = (join(cold.source), join(cold.destination));
            let addresses = ip.rewrite_src(U128::new(source)).and(ip.rewrite_dst(U128::new(destination)));
            rewrite_transport(packet, cold.ports, (addresses, Delta::from_bits(cold.delta4)))?;
        }
        Some(())
    }
    fn set_rewrite(&mut self, cold: &mut Self::Cold, from: &Tuple, to: &Tuple) {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (from.source, from.destination) else { return };
        let (IpAddr::V6(new_source), IpAddr::V6(new_destination)) = (to.source, to.destination) else { return };
        let changed = |old: std::net::Ipv6Addr, new: std::net::Ipv6Addr| Delta::u128(old.to_bits(), new.to_bits());
        let addresses = changed(source, new_source).and(changed(destination, new_destination));
        let all = addresses.and(Delta::u32(from.ports(), to.ports()));
        (cold.source, cold.destination) = (split(new_source.to_bits()), split(new_destination.to_bits()));
        (cold.ports, cold.delta4) = (to.ports(), all.to_bits());
    }
    fn rewritten(&self, cold: &Self::Cold, from: &Tuple) -> Tuple {
        if self.life.kind & kind::REWRITE == 0 {
            return *from;
        }
        let address = |halves: [u64; 2]| std::net::Ipv6Addr::from_bits(join(halves)).into();
        from.moved(address(cold.source), address(cold.destination), cold.ports)
    }
    fn set_endpoint(&mut self, cold: &mut Self::Cold, endpoint: u32) {
        cold.endpoint = endpoint;
    }
    #[inline(always)]
    fn count_bytes(&mut self, cold: &mut Self::Cold, len: usize) {
        cold.bytes = cold.bytes.wrapping_add(len as u64);
    }
}

/// Gives a packet new ports and puts its transport checksum right: for a whole checksum by what addresses and ports
/// change, for a partial one by what the addresses do, as the rest is summed later. Later fragments have neither.
fn rewrite_transport(packet: &mut Packet, ports: u32, (addresses, all): (Delta, Delta)) -> Option<()> {
    packet.meta_mut().flags |= flag::REWRITTEN;
    let (l4, protocol, flags) = (packet.meta().l4, Protocol(packet.meta().protocol), packet.meta().flags);
    if flags & flag::FRAGMENT != 0 {
        return Some(());
    }
    let partial = packet.meta().offload.checksum_start == l4;
    let bytes = packet.from_mut(l4);
    let fix =
        |sum: &mut U16, delta: Delta| *sum = if partial { addresses.apply_partial(*sum) } else { delta.apply(*sum) };
    match protocol {
        Protocol::TCP => {
            let (tcp, _): (&mut tcp::Tcp, _) = tcp::Tcp::mut_from_prefix(bytes).ok()?;
            (tcp.src, tcp.dst) = halves(ports);
            fix(&mut tcp.checksum, all);
        }
        Protocol::UDP => {
            let (udp, _) = wire::Udp::mut_from_prefix(bytes).ok()?;
            (udp.src, udp.dst) = halves(ports);
            udp.checksum = if partial { addresses.apply_partial(udp.checksum) } else { all.apply_udp(udp.checksum) };
        }
        Protocol::ICMPV6 => {
            let (icmp, _) = Icmpv6::mut_from_prefix(bytes).ok()?;
            fix(&mut icmp.checksum, addresses); // an echo keeps its identifier
        }
        _ => {}
    }
    Some(())
}

#[expect(clippy::cast_possible_truncation, reason = "takes the two ports out of their word")]
#[inline(always)]
fn halves(ports: u32) -> (U16, U16) {
    (U16::new((ports >> 16) as u16), U16::new(ports as u16))
}

#[inline(always)]
fn join([high, low]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

#[expect(clippy::cast_possible_truncation, reason = "takes halves")]
fn split(value: u128) -> [u64; 2] {
    [(value >> 64) as u64, value as u64]
}
