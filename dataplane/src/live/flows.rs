//! The flow tables, read in parts between turns.
use super::Shared;
use crate::compile::State;
use engine::PortId;
use proto::v1::{self, Filter, Flow};
use std::{net::IpAddr, sync::mpsc};
use tables::{
    flows::{Age, Hot4, Hot6, Life, Tcp, kind},
    table::Table,
    told::{Forward, NextHopId, Prefix, TunnelId},
};

/// How many slots are looked at between two turns.
const PART: u32 = 4096;

/// A half as it was copied out of its table.
struct Copied {
    tuple: Tuple,
    life: Life,
    bytes: u64,
    idle: u32,
    rewritten: Option<(IpAddr, IpAddr, u32)>,
}

#[derive(Clone, Copy)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    ports: u32,
    protocol: u8,
    vrf: u16,
}

/// Which half comes next: family and slot.
#[derive(Clone, Copy)]
struct Place {
    v6: bool,
    slot: u32,
}

/// Gives every flow half that `filter` selects to `give`, until that says no more (false). Packets wait for a part of a
/// table, never for all of it.
pub fn flows(shared: &Shared, filter: &Filter, mut give: impl FnMut(Flow) -> bool) {
    let workers = shared.lock().workers.len();
    for worker in 0..workers {
        let mut next = Some(Place { v6: false, slot: 0 });
        while let Some(place) = next {
            let mut live = shared.lock();
            let (send, receive) = mpsc::channel();
            let Some(asked) = live.workers.get_mut(worker) else { return };
            asked.handle.ask(move |_, learned, now| {
                let now = Age::of(now);
                let part = if place.v6 {
                    part(&learned.flows6, place.slot, |table, slot| copy6(table, slot, now))
                } else {
                    part(&learned.flows4, place.slot, |table, slot| copy4(table, slot, now))
                };
                let _asker_gone = send.send(part);
            });
            let Ok((halves, after)) = receive.try_recv() else { return };
            next = match after {
                Some(slot) => Some(Place { slot, ..place }),
                None if place.v6 => None,
                None => Some(Place { v6: true, slot: 0 }),
            };
            let state = live.state.clone();
            drop(live);
            let number = u32::try_from(worker).unwrap_or(u32::MAX);
            for half in halves.iter().filter(|half| selects(filter, &half.tuple)) {
                if !give(describe(half, &state, number)) {
                    return;
                }
            }
        }
    }
}

type Part = (Vec<Copied>, Option<u32>);

fn part<H: tables::flows::Half>(table: &Table<H>, first: u32, copy: impl Fn(&Table<H>, u32) -> Option<Copied>) -> Part {
    let capacity = u32::try_from(table.capacity()).unwrap_or(u32::MAX);
    let end = first.saturating_add(PART).min(capacity);
    (table.used(first..end).filter_map(|slot| copy(table, slot)).collect(), (end < capacity).then_some(end))
}

fn copy4(table: &Table<Hot4>, slot: u32, now: Age) -> Option<Copied> {
    use tables::flows::Half;
    let half = table.hot(slot)?;
    let (source, destination, ports, protocol, vrf) = half.key().fields();
    let tuple = Tuple { source: source.into(), destination: destination.into(), ports, protocol, vrf };
    let (life, new) = (*half.life(), half.rewrite);
    let to = |bits: u32| IpAddr::V4(bits.into());
    let rewritten = (life.kind & kind::REWRITE != 0).then(|| (to(new.source), to(new.destination), new.ports));
    Some(Copied { tuple, life, bytes: half.bytes.into(), idle: life.seen.seconds_until(now), rewritten })
}

fn copy6(table: &Table<Hot6>, slot: u32, now: Age) -> Option<Copied> {
    use tables::flows::Half;
    let (half, cold) = (table.hot(slot)?, table.cold(slot)?);
    let (source, destination, ports, protocol, vrf) = half.key().fields();
    let tuple = Tuple { source: source.into(), destination: destination.into(), ports, protocol, vrf };
    let life = *half.life();
    let to = |[high, low]: [u64; 2]| IpAddr::V6((u128::from(high) << 64 | u128::from(low)).into());
    let rewritten = (life.kind & kind::REWRITE != 0).then(|| (to(cold.source), to(cold.destination), cold.ports));
    Some(Copied { tuple, life, bytes: cold.bytes, idle: life.seen.seconds_until(now), rewritten })
}

fn selects(filter: &Filter, tuple: &Tuple) -> bool {
    let (source_port, destination_port) = split(tuple.ports);
    let within = |prefix: &v1::Prefix| {
        let prefix = prefix.get().and_then(|(address, length)| Prefix::new(address, length));
        prefix.is_some_and(|prefix| prefix.contains(tuple.source) || prefix.contains(tuple.destination))
    };
    filter.vrf.is_none_or(|vrf| vrf == u32::from(tuple.vrf))
        && filter.address.as_ref().is_none_or(within)
        && (filter.l4_port == 0 || filter.l4_port == source_port || filter.l4_port == destination_port)
        && (filter.protocol == 0 || filter.protocol == u32::from(tuple.protocol))
}

fn describe(half: &Copied, state: &State, worker: u32) -> Flow {
    let (tuple, life) = (&half.tuple, &half.life);
    let (source_port, destination_port) = split(tuple.ports);
    let told = state.told();
    let hop = told.next_hop(NextHopId(life.next_hop)).filter(|_| life.kind & kind::ACTION == kind::FORWARD);
    let tunnel = hop.filter(|hop| hop.forward == Forward::Tunnel).map_or(TunnelId::NONE, |hop| hop.tunnel);
    let verdict = if life.kind & kind::ACTION == kind::FORWARD { "forward" } else { "drop" };
    let end = |address: IpAddr, l4_port| v1::Endpoint { address: proto::ip_bytes(address), l4_port };
    let new = half.rewritten.map(|(source, destination, ports)| {
        let (source_port, destination_port) = split(ports);
        (end(source, source_port), end(destination, destination_port))
    });
    Flow {
        vrf: tuple.vrf.into(),
        source: proto::ip_bytes(tuple.source),
        destination: proto::ip_bytes(tuple.destination),
        protocol: tuple.protocol.into(),
        source_port,
        destination_port,
        reply: life.kind & kind::REPLY != 0,
        answered: life.kind & kind::REPLIED != 0,
        state: tcp(life).into(),
        verdict: verdict.into(),
        port: state.port_name(PortId(life.port_out)).filter(|_| verdict == "forward").unwrap_or_default().into(),
        tunnel: state.tunnel_name(tunnel).unwrap_or_default().into(),
        rewritten_source: new.as_ref().map(|new| new.0.clone()).filter(|new| *new != end(tuple.source, source_port)),
        rewritten_destination: new.map(|new| new.1).filter(|new| *new != end(tuple.destination, destination_port)),
        packets: life.packets.into(),
        bytes: half.bytes,
        idle_seconds: half.idle.into(),
        worker,
    }
}

fn tcp(life: &Life) -> &'static str {
    match Tcp::kept(life.tcp) {
        Tcp::None => "",
        Tcp::Opening => "syn",
        Tcp::Established => "established",
        Tcp::Closing => "closing",
        Tcp::Closed => "closed",
    }
}

fn split(ports: u32) -> (u32, u32) {
    (ports >> 16, ports & 0xffff)
}
