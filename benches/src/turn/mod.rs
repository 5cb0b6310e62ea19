//! Clocks per packet through the product's graph, in-process: packets in, nothing out, one core.
//!
//! Counted: taking a packet in (handle and metadata), the whole walk, and giving every packet's frame back. Not
//! counted: the generator, which writes all frames between two repetitions. 32,768 frames are used in turn, 74 MiB of
//! memory that no L2 cache holds, so that a packet's headers are read as cold as from a port. A repetition that the
//! kernel interrupted (its CPU time falls behind the clock) is measured again.
//!
//! A figure fails when a packet that came in did not go out, when an established flow's packet walked the rules, or
//! when anything was allocated.
mod bench;
mod world;

use crate::report::Figure;
use anyhow::{Context, Result, bail};
use bench::{BATCH, Bench, FRAMES};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tables::told::NextHopId;
use world::{Random, add_route, add_routes, pod_world, told, unicast, write_flow, write_udp};

/// All figures of this kind.
pub(crate) const IDS: [&str; 14] = [
    "turn.ip4.1",
    "turn.ip4.1m",
    "turn.ip6.1",
    "turn.ip6.1m",
    "turn.pod.1",
    "turn.pod.10k",
    "turn.pod.1m",
    "turn.pod.8m",
    "turn.pod_vxlan.1",
    "turn.pod_vxlan.10k",
    "turn.pod_vxlan.1m",
    "turn.pod_vxlan.8m",
    "turn.learn",
    "turn.lone",
];

/// Measures one of them.
pub(crate) fn measure(id: &str) -> Result<Figure> {
    match id {
        "turn.learn" => return learn(id),
        "turn.lone" => return lone(id),
        _ => {}
    }
    let (path, count) = id.rsplit_once('.').context("no such figure")?;
    let count = match count {
        "1" => 1,
        "10k" => 10_000,
        "1m" => 1_000_000,
        "8m" => 8_000_000,
        _ => bail!("no such figure"),
    };
    match path {
        "turn.ip4" => routes(id, false, count),
        "turn.ip6" => routes(id, true, count),
        "turn.pod" => established(id, false, count),
        "turn.pod_vxlan" => established(id, true, count),
        _ => bail!("no such figure"),
    }
}

/// Forwarding by route alone: random routes, random destinations inside them.
fn routes(id: &str, v6: bool, count: u32) -> Result<Figure> {
    let mut random = Random(0x5eed);
    let mut told = told(true);
    let destinations = if count == 1 {
        let all: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        add_route(&mut told, all, 0, NextHopId(1));
        (0..FRAMES).map(|_| anywhere(v6, random.next())).collect()
    } else {
        add_routes(&mut told, v6, count, &mut random)
    };
    let from: IpAddr =
        if v6 { Ipv6Addr::from_bits(0x2001 << 112 | 5).into() } else { Ipv4Addr::new(10, 0, 0, 5).into() };
    let mut turn = 0;
    let fill = |bench: &mut Bench| {
        turn += 1;
        bench.fill(|i, room| {
            let to = destinations[(i as usize * 7919 + turn * 104_729) % destinations.len()];
            write_udp(room, from, to, (1000, 2000))
        });
    };
    let what = format!("stateless port, {count} routes");
    Bench::new(told, 0)?.measure((id, &what), BATCH, false, fill)
}

fn anywhere(v6: bool, random: u64) -> IpAddr {
    if v6 { Ipv6Addr::from_bits(0x2001 << 112 | u128::from(random)).into() } else { unicast(random).into() }
}

/// The established path of a pod: `count` flows, visited at random.
fn established(id: &str, tunnelled: bool, count: u32) -> Result<Figure> {
    let mut bench = Bench::new(pod_world(tunnelled)?, count as usize)?;
    let kept = bench.learn(count)?;
    let what = format!("{count} flows, of which {} keep both halves and are visited", kept.len());
    let (mut random, flows) = (Random(77), u32::try_from(kept.len())?);
    let fill = |bench: &mut Bench| bench.fill(|_, room| write_flow(room, kept[random.below(flows) as usize]));
    bench.measure((id, &what), BATCH, false, fill)
}

/// First packets, both halves: each repetition brings 32,768 new flows into a table for a million.
fn learn(id: &str) -> Result<Figure> {
    const FLOWS: u32 = 1_000_000;
    let mut next = 0;
    let fill = |bench: &mut Bench| {
        if next % FLOWS + FRAMES > FLOWS {
            bench.forget();
            next += FRAMES;
        }
        bench.fill(|i, room| write_flow(room, next + i));
        next += FRAMES;
    };
    let what = "first packets, both halves, into a table for a million flows, emptied when full";
    Bench::new(pod_world(false)?, FLOWS as usize)?.measure((id, what), BATCH, true, fill)
}

/// One packet per turn, one flow.
fn lone(id: &str) -> Result<Figure> {
    let mut bench = Bench::new(pod_world(false)?, 1)?;
    bench.learn(1)?;
    bench.measure((id, "one flow"), 1, false, |bench| bench.fill(|_, room| write_flow(room, 0)))
}
