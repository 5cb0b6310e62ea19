//! The front of the graph: checks, lookup and answer of an established flow, as one pipeline.
use super::{Tuple, family::Family};
use crate::{Complaint, Turn, flag, ingress};
use engine::{Arcs, Meta, Node, Packet, PortId, arcs};
use tables::{
    flows::{Age, Hot4, Hot6, Tcp, kind},
    learned::Learned,
    routes4::Entry4,
    routes6::Entry6,
    told::{EndpointId, Forward, LeafId, Told, TraceFilter, VrfId},
};
use wire::{Eth4, Eth6, FromBytes, Protocol};

arcs!(
    /// Where packets go that came by a port.
    pub FrontNext {
        /// An established flow, or a route where no flows are kept: out by a port.
        Forward,
        /// The same, into a tunnel.
        Tunnel,
        /// No flow, or one whose answer is no longer valid: the rules decide.
        Unknown,
        /// To one of the dataplane's own addresses.
        Local,
        /// It came through a tunnel of ours.
        Decap,
        /// A request or answer of ARP.
        Arp,
        /// A fragment.
        Fragment,
        /// Its time to live ran out.
        Expired,
        /// There is no route, where no flows are kept: the sender is told.
        NoRoute,
        /// The route says that nobody can be reached, where no flows are kept: the sender is told.
        Unreachable,
        /// The route says to drop, where no flows are kept.
        Blackhole,
        /// The flow's answer is to drop.
        Denied,
        /// Its headers are not what they should be.
        Malformed,
        /// The IPv4 header's checksum is wrong.
        BadChecksum,
        /// A source that nobody has, or a group as destination.
        Martian,
        /// A frame to a group that is no request for a neighbour.
        Multicast,
        /// A frame to another link address.
        NotForUs,
        /// A VLAN tag.
        Tagged,
        /// Neither IPv4, IPv6 nor ARP.
        NotIp,
        /// The port has gone.
        NoPort,
    }
);

/// Checks, looks the flow up, replays its answer: everything that an established packet needs.
pub struct Front;

impl Node<Told, Learned> for Front {
    const NAME: &'static str = "front";
    const STAGES: usize = 3;
    const TICKS: bool = true;
    type Next = FrontNext;

    #[inline(always)]
    fn ahead<const K: usize>(&self, turn: &Turn<'_>, packet: &mut Packet) {
        match K {
            0 => packet.fetch(),
            1 => {
                packet.meta_mut().early = match ingress::check(turn, packet) {
                    Ok(()) => 0,
                    Err(arc) => arc.index(),
                }
            }
            _ => look(turn, packet),
        }
    }

    #[inline(always)]
    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> FrontNext {
        let told = turn.told;
        if let Some(filter) = &told.trace {
            mark(turn, filter, packet);
        }
        let (early, flags) = (packet.meta().early, packet.meta().flags);
        if early != 0 {
            return unusual(packet);
        }
        match (flags & flag::STATELESS != 0, flags & flag::V6 != 0) {
            (false, false) => established::<Hot4>(turn, packet),
            (false, true) => established::<Hot6>(turn, packet),
            (true, _) => stateless(turn, packet),
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) -> Option<engine::Instant> {
        let (now, limits) = (Age::of(turn.now), &turn.told.limits);
        let done = [turn.learned.flows4.tick(now, limits), turn.learned.flows6.tick(now, limits)];
        let idle = turn.learned.flows4.is_empty() && turn.learned.flows6.is_empty();
        match done {
            [true, true] if idle => None,
            [true, true] => Some(turn.now.after(std::time::Duration::from_nanos(1 << 32))),
            _ => Some(turn.now),
        }
    }
}

/// The last stage before the answer: finds the flow's slot by its tag, or takes the next step of the route lookup.
#[inline(always)]
fn look(turn: &Turn<'_>, packet: &mut Packet) {
    let meta = packet.meta();
    if meta.early != 0 {
        return;
    }
    if meta.flags & flag::STATELESS != 0 {
        return look_for_route(turn, packet);
    }
    let slot = match meta.flags & flag::V6 {
        0 => turn.learned.flows4.candidate(meta.hash),
        _ => turn.learned.flows6.candidate(meta.hash),
    };
    packet.meta_mut().flow = slot.unwrap_or(engine::NONE);
}

#[inline(always)]
fn look_for_route(turn: &Turn<'_>, packet: &mut Packet) {
    let meta = packet.meta();
    if meta.flags & flag::V6 == 0 {
        let (entry, destination) = (Entry4::from_bits(ingress::noted(meta)), destination4(packet));
        if entry.next_hop().is_none()
            && let Some(vrf) = turn.told.vrf(VrfId(meta.vrf))
        {
            let entry = vrf.v4.next(entry, destination);
            vrf.v4.fetch(entry, destination);
            ingress::note(packet.meta_mut(), entry.bits());
        }
    } else {
        let Some(vrf) = turn.told.vrf(VrfId(meta.vrf)) else { return };
        let Ok((Eth6 { ip, .. }, _)) = Eth6::ref_from_prefix(packet.data()) else { return };
        let entry = vrf.v6.first(ip.dst.get());
        vrf.v6.fetch(entry, ip.dst.get());
        ingress::note(packet.meta_mut(), entry.bits());
    }
}

/// Where an IPv4 packet without a flow goes, as the checks noted it.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "takes the low half")]
fn destination4(packet: &Packet) -> u32 {
    packet.meta().hash as u32
}

/// Replays the answer of the packet's flow, if there is one and it is valid.
#[inline(always)]
fn established<F: Family>(turn: &mut Turn<'_>, packet: &mut Packet) -> FrontNext {
    let Some(key) = F::key_of(packet) else { return FrontNext::Malformed };
    let (told, now) = (turn.told, Age::of(turn.now));
    let table = F::table_mut(turn.learned);
    let mut slot = packet.meta().flow;
    if table.hot(slot).is_some_and(|half| half.key() != key) {
        slot = other(table, key, packet.meta().hash);
    }
    let Some((half, cold)) = table.lines(slot) else { return FrontNext::Unknown };
    if !is_valid(told, half, cold, packet.meta().port_in) {
        return FrontNext::Unknown;
    }
    let (next, news) = answer(half, cold, packet, now);
    if news {
        tell_twin(table, slot);
    }
    next
}

/// The slot of a flow whose tag another one has too; no slot when there is none.
#[cold]
fn other<F: Family>(table: &tables::table::Table<F>, key: F::Key, hash: u64) -> u32 {
    table.find(key, hash).unwrap_or(engine::NONE)
}

/// Whether an answer still holds for packets from this port.
#[inline(always)]
pub(super) fn is_valid<F: Family>(told: &Told, half: &F, cold: &F::Cold, port_in: u16) -> bool {
    let life = half.life();
    let endpoint = if life.kind & kind::REWRITE == 0 { 0 } else { half.endpoint(cold) };
    let stamp = told.stamp(PortId(life.port_in), PortId(life.port_out), EndpointId(endpoint), LeafId(life.leaf));
    stamp == life.stamp && life.port_in == port_in
}

/// Does to a packet what its flow's answer says.
pub(super) fn replay<F: Family>(turn: &mut Turn<'_>, packet: &mut Packet, slot: u32) -> FrontNext {
    let now = Age::of(turn.now);
    let table = F::table_mut(turn.learned);
    let Some((half, cold)) = table.lines(slot) else { return FrontNext::Unknown };
    let (next, news) = answer(half, cold, packet, now);
    if news {
        tell_twin(table, slot);
    }
    next
}

/// Counts a packet and does to it what the half says; and whether the twin must hear of it.
#[inline(always)]
fn answer<F: Family>(half: &mut F, cold: &mut F::Cold, packet: &mut Packet, now: Age) -> (FrontNext, bool) {
    half.count_bytes(cold, packet.len());
    let life = half.life_mut();
    life.count(now);
    let mut news = life.kind & kind::REPLY != 0 && life.packets == 1;
    if life.tcp != Tcp::None as u8 {
        let before = life.tcp;
        life.tcp = Tcp::after(before, flags_of(packet));
        news |= before != life.tcp && life.tcp == Tcp::Closed as u8;
    }
    let (kind, next_hop) = (life.kind, life.next_hop);
    packet.meta_mut().next_hop = next_hop;
    let next = match kind & kind::ACTION {
        kind::DROP => FrontNext::Denied,
        _ if half.rewrite(cold, packet).is_none() => FrontNext::Malformed,
        _ if kind & kind::TUNNEL == 0 => FrontNext::Forward,
        _ => {
            packet.fetch_headroom();
            FrontNext::Tunnel
        }
    };
    (next, news)
}

/// The TCP flags of a packet; none for others.
#[inline(always)]
pub(super) fn flags_of(packet: &Packet) -> u8 {
    let meta = packet.meta();
    if Protocol(meta.protocol) != Protocol::TCP || meta.flags & flag::FRAGMENT != 0 {
        return 0;
    }
    packet.from(meta.l4).get(13).copied().unwrap_or(0)
}

/// The flow goes both ways, or is over: both halves know.
#[cold]
fn tell_twin<F: Family>(table: &mut tables::table::Table<F>, slot: u32) {
    let twin = table.cold(slot).map_or(slot, |cold| F::rest(cold).twin);
    let closed = table.hot(slot).is_some_and(|half| half.life().tcp == Tcp::Closed as u8);
    for slot in [slot, twin] {
        if let Some(half) = table.hot_mut(slot) {
            half.life_mut().kind |= kind::REPLIED;
            if closed {
                half.life_mut().tcp = Tcp::Closed as u8;
            }
        }
    }
}

/// Forwards by the route alone.
#[inline(always)]
fn stateless(turn: &mut Turn<'_>, packet: &mut Packet) -> FrontNext {
    let (noted, Meta { vrf, flags, .. }) = (ingress::noted(packet.meta()), *packet.meta());
    let next_hop = if flags & flag::V6 == 0 {
        let (entry, destination) = (Entry4::from_bits(noted), destination4(packet));
        let Ok((Eth4 { ip, .. }, _)) = Eth4::mut_from_prefix(packet.data_mut()) else { return FrontNext::Malformed };
        let _checked_at_ingress = ip.decrement_ttl();
        match (entry.next_hop(), turn.told.vrf(VrfId(vrf))) {
            (None, Some(vrf)) => vrf.v4.finish(entry, destination).next_hop(),
            (next_hop, _) => next_hop,
        }
    } else {
        let Ok((Eth6 { ip, .. }, _)) = Eth6::mut_from_prefix(packet.data_mut()) else { return FrontNext::Malformed };
        let _checked_at_ingress = ip.decrement_hop_limit();
        let Some(vrf) = turn.told.vrf(VrfId(vrf)) else { return FrontNext::NoRoute };
        vrf.v6.finish(Entry6::from_bits(noted), ip.dst.get()).next_hop()
    };
    let hop = next_hop.unwrap_or_default();
    packet.meta_mut().next_hop = hop.0;
    match turn.told.next_hop(hop).map(|hop| hop.forward) {
        Some(Forward::Port) => FrontNext::Forward,
        Some(Forward::Tunnel) => {
            packet.fetch_headroom();
            FrontNext::Tunnel
        }
        Some(Forward::Local) => FrontNext::Local,
        Some(Forward::Blackhole) => FrontNext::Blackhole,
        Some(Forward::Unreachable) => {
            packet.meta_mut().early = Complaint::Unreachable as u8;
            FrontNext::Unreachable
        }
        Some(Forward::Nowhere) | None => {
            packet.meta_mut().early = Complaint::NoRoute as u8;
            FrontNext::NoRoute
        }
    }
}

/// The arc that the checks chose.
#[cold]
fn unusual(packet: &mut Packet) -> FrontNext {
    let arc = FrontNext::ALL.get(usize::from(packet.meta().early)).copied().unwrap_or(FrontNext::Malformed);
    packet.meta_mut().early = if arc == FrontNext::Expired { Complaint::Expired as u8 } else { 0 };
    arc
}

/// Marks the packets that a trace asks for, as they enter.
#[cold]
fn mark(turn: &mut Turn<'_>, filter: &TraceFilter, packet: &mut Packet) {
    let (number, left) = turn.learned.tracing;
    let left = if number == filter.number { left } else { filter.count };
    let meta = packet.meta();
    if left == 0 || meta.trace != 0 || filter.port.is_some_and(|port| port.0 != meta.port_in) {
        turn.learned.tracing = (filter.number, left);
        return;
    }
    let tuple: Option<Tuple> = match meta.flags & flag::V6 {
        _ if meta.l4 == 0 => None,
        0 => Hot4::key_of(packet).map(Into::into),
        _ => Hot6::key_of(packet).map(Into::into),
    };
    let anything = filter.address.is_none() && filter.transport_port.is_none() && filter.protocol.is_none();
    let matched = tuple.map_or(anything, |tuple| {
        let ports = [tuple.source_port, tuple.destination_port];
        filter.address.is_none_or(|address| [tuple.source, tuple.destination].contains(&address))
            && filter.transport_port.is_none_or(|port| ports.contains(&port))
            && filter.protocol.is_none_or(|protocol| protocol == tuple.protocol)
    });
    turn.learned.tracing = (filter.number, left - u8::from(matched));
    if matched {
        turn.mark(packet, filter.count - left + 1);
    }
}
