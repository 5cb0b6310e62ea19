//! Clocks per packet through the product's graph, in-process: packets in, nothing out, one core.
//!
//! Counted: taking a packet in (handle and metadata), the whole walk, and giving every packet's frame back. Not counted:
//! the generator, which writes all frames between two repetitions. 32,768 frames are used in turn, 74 MiB of memory that
//! no L2 cache holds, so that a packet's headers are read as cold as from a port. A repetition that the kernel
//! interrupted (its CPU time falls behind the clock) is measured again.
use crate::{allocations, report::Figure};
use anyhow::{Context, Result};
use engine::{Class, Frame, FrameCounts, Frames, Graph, HEADROOM, Instant, NodeId, Packet, ticks};
use hugepages::Settings;
use rustix::time::{ClockId, clock_gettime};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};
use tables::{
    learned::Learned,
    told::{Forward, Leaf, LeafId, NextHop, NextHopId, Port, Prefix, Role, Told, Tunnel, TunnelId},
};
use wire::{
    Mac, Ports, Vni,
    build::{self, Addresses, Path},
};

const FRAMES: usize = 32_768;
const BATCH: usize = 256;
const REPETITIONS: usize = 21;
const NEXT_HOPS: u32 = 1024;
const IN: u16 = 1;
const OUT: u16 = 2;

/// Measures every `turn.` figure that is wanted.
pub(crate) fn measure(wants: &dyn Fn(&str) -> bool, keep: &mut dyn FnMut(Figure)) -> Result<()> {
    for (count, name) in [(1, "1"), (1_000_000, "1m")] {
        for v6 in [false, true] {
            let id = format!("turn.{}.{name}", if v6 { "ip6" } else { "ip4" });
            if wants(&id) {
                keep(routes(&id, v6, count)?);
            }
        }
    }
    for tunnelled in [false, true] {
        for (count, name) in [(1, "1"), (10_000, "10k"), (1_000_000, "1m"), (8_000_000, "8m")] {
            let id = format!("turn.pod{}.{name}", if tunnelled { "_vxlan" } else { "" });
            if wants(&id) {
                keep(established(&id, tunnelled, count)?);
            }
        }
    }
    if wants("turn.learn") {
        keep(learn()?);
    }
    if wants("turn.lone") {
        keep(lone()?);
    }
    Ok(())
}

/// A worker without a thread.
struct Bench {
    told: Told,
    learned: Learned,
    frames: Frames,
    graph: Graph<Told, Learned>,
    entry: NodeId,
    ring: Vec<Option<Frame>>,
    len: u32,
    inbox: Vec<Packet>,
    now: Instant,
}

impl Bench {
    fn new(told: Told, flows: usize) -> Result<Self> {
        let counts = FrameCounts { small: FRAMES + 1024, jumbo: 0, super_: 0, packets: 1024 };
        let mut frames = Frames::new(0, counts, Settings::new(0)).context("no memory for frames")?;
        let learned = Learned::new(flows, 0x9e37_79b9_7f4a_7c15, &Settings::new(0)).context("no memory for flows")?;
        let (graph, entry) = nodes::graph::build(512);
        let ring = (0..FRAMES).map(|_| frames.take(Class::Small)).collect();
        let now = Instant::default().after(Duration::from_secs(1 << 20));
        let (len, inbox) = (0, Vec::with_capacity(1024));
        Ok(Bench { told, learned, frames, graph, entry, ring, len, inbox, now })
    }

    /// Writes all frames: the generator, not measured. Frames of packets that were dropped are taken from the stock again.
    fn fill(&mut self, mut write: impl FnMut(usize, &mut [u8]) -> usize) {
        for (i, slot) in self.ring.iter_mut().enumerate() {
            let Some(mut frame) = slot.take().or_else(|| self.frames.take(Class::Small)) else { continue };
            let room = frame.bytes_mut().get_mut(usize::from(HEADROOM)..).unwrap_or_default();
            self.len = u32::try_from(write(i, room)).unwrap_or(0);
            *slot = Some(frame);
        }
    }

    /// Takes every frame through the graph, `batch` at a time; gives clocks per packet. A frame goes back to where one of
    /// its batch was taken from, so that the ring itself stays in the cache as a port's would.
    fn run(&mut self, batch: usize) -> f64 {
        let start = ticks();
        let Self { ring, frames, graph, inbox, .. } = self;
        for places in ring.chunks_mut(batch) {
            for frame in places.iter_mut().filter_map(Option::take) {
                if let Ok(mut packet) = frames.packet(frame, HEADROOM.into(), self.len) {
                    packet.meta_mut().port_in = IN;
                    inbox.push(packet);
                }
            }
            graph.admit(self.entry, inbox);
            graph.walk(&self.told, &mut self.learned, self.now, frames);
            for (packet, place) in graph.sent().drain(..).zip(places) {
                *place = frames.frame(packet);
            }
        }
        to_f64(ticks() - start) / to_f64(FRAMES as u64)
    }

    /// Runs until `REPETITIONS` were not interrupted, after one that warms up.
    fn repeat(&mut self, batch: usize, mut fill: impl FnMut(&mut Self)) -> (Vec<f64>, u64) {
        let mut samples = Vec::new();
        let mut allocations = 0;
        for tries in 0..REPETITIONS * 20 {
            fill(self);
            let (before, cpu, wall) = (allocations::count(), cpu_time(), wall_time());
            let clocks = self.run(batch);
            let (cpu, wall) = (cpu_time() - cpu, wall_time() - wall);
            let interrupted = cpu.as_secs_f64() < 0.97 * wall.as_secs_f64();
            if tries > 0 && !interrupted {
                samples.push(clocks);
                allocations += allocations::count() - before;
            }
            if samples.len() == REPETITIONS {
                break;
            }
        }
        (samples, allocations)
    }

    /// Where the clocks go, from one more repetition: measuring each node costs some itself.
    fn parts(&mut self, batch: usize, mut fill: impl FnMut(&mut Self)) -> Vec<(String, f64)> {
        fill(self);
        self.graph.time(true);
        self.run(batch);
        let parts = self.graph.clocks().filter(|(_, clocks)| *clocks > 0);
        let parts = parts.map(|(node, clocks)| (node.to_owned(), to_f64(clocks) / to_f64(FRAMES as u64))).collect();
        self.graph.time(false);
        parts
    }

    fn counted(&self, node: &str, arc: &str) -> u64 {
        let all = self.graph.counters();
        let nodes = all.iter().filter(|counters| counters.node() == node);
        nodes.flat_map(|counters| counters.read()).filter(|(name, _)| *name == arc).map(|(_, n)| n).sum()
    }
}

/// Forwarding by route alone: random routes, random destinations inside them.
fn routes(id: &str, v6: bool, count: u32) -> Result<Figure> {
    let mut random = Random(0x5eed);
    let mut told = told(true);
    let destinations: Vec<IpAddr> = if count == 1 {
        let all = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        add_route(&mut told, all, 0, NextHopId(1));
        (0..FRAMES)
            .map(|_| {
                if v6 {
                    Ipv6Addr::from_bits(0x2001 << 112 | u128::from(random.next())).into()
                } else {
                    unicast(random.next()).into()
                }
            })
            .collect()
    } else {
        add_routes(&mut told, v6, count, &mut random)
    };
    let mut bench = Bench::new(told, 1024)?;
    let mut turn = 0;
    let mut fill = |bench: &mut Bench| {
        turn += 1;
        bench.fill(|i, room| {
            let to = destinations[(i * 7919 + turn * 104_729) % destinations.len()];
            let from: IpAddr =
                if v6 { Ipv6Addr::from_bits(0x2001 << 112 | 5).into() } else { Ipv4Addr::new(10, 0, 0, 5).into() };
            write_udp(room, from, to, (1000, 2000))
        });
    };
    let (samples, allocations) = bench.repeat(BATCH, &mut fill);
    anyhow::ensure!(
        bench.counted("egress", "Send") > 0 && bench.counted("front", "NoRoute") == 0,
        "{id}: not forwarded"
    );
    let parts = bench.parts(BATCH, &mut fill);
    Ok(Figure::new(id, "clk", samples, &note(&format!("stateless port, {count} routes"), allocations))
        .with_parts(parts))
}

/// The established path of a pod: `count` flows, visited at random.
fn established(id: &str, tunnelled: bool, count: u32) -> Result<Figure> {
    let halves = (count as usize * 2).max(1024) * 100 / 62;
    let mut bench = Bench::new(pod_world(tunnelled), halves)?;
    let mut next = 0;
    while next < count {
        let first = next;
        bench.fill(|i, room| write_flow(room, (first + u32::try_from(i).unwrap_or(0)) % count));
        bench.run(BATCH);
        next += u32::try_from(FRAMES)?;
    }
    let mut random = Random(77);
    let mut fill = |bench: &mut Bench| bench.fill(|_, room| write_flow(room, random.below(count)));
    let before = bench.counted("front", "Unknown");
    let (samples, allocations) = bench.repeat(BATCH, &mut fill);
    let missed = bench.counted("front", "Unknown") - before;
    let parts = bench.parts(BATCH, &mut fill);
    let what = format!("{count} flows, both halves kept, {missed} packets walked the rules");
    Ok(Figure::new(id, "clk", samples, &note(&what, allocations)).with_parts(parts))
}

/// First packets: each repetition brings 32,768 new flows into a table for a million.
fn learn() -> Result<Figure> {
    let mut bench = Bench::new(pod_world(false), 2_000_000 * 100 / 62)?;
    let mut next = 0;
    let mut fill = |bench: &mut Bench| {
        bench.fill(|i, room| write_flow(room, next + u32::try_from(i).unwrap_or(0)));
        next += u32::try_from(FRAMES).unwrap_or(0);
    };
    let (samples, allocations) = bench.repeat(BATCH, &mut fill);
    let parts = bench.parts(BATCH, &mut fill);
    Ok(Figure::new("turn.learn", "clk", samples, &note("first packets, both halves", allocations)).with_parts(parts))
}

/// One packet per turn, one flow.
fn lone() -> Result<Figure> {
    let mut bench = Bench::new(pod_world(false), 1024)?;
    let mut fill = |bench: &mut Bench| bench.fill(|_, room| write_flow(room, 0));
    let (samples, allocations) = bench.repeat(1, &mut fill);
    let parts = bench.parts(1, &mut fill);
    Ok(Figure::new("turn.lone", "clk", samples, &note("one packet per turn, one flow", allocations)).with_parts(parts))
}

fn note(what: &str, allocations: u64) -> String {
    format!("{what}; 64 B, {FRAMES} frames in turn (74 MiB), generator not counted; {allocations} allocations")
}

/// A port in and a port out, next hops whose neighbours are known.
fn told(stateless: bool) -> Told {
    let mut told = Told { generation: 1, ..Told::default() };
    told.vrfs.slot(0).no_route = LeafId(1);
    told.leaves.slot(1).epoch = 1;
    let pod = Prefix::host(Ipv4Addr::new(10, 0, 0, 5).into());
    let (role, allowed) = if stateless { (Role::Uplink, vec![]) } else { (Role::Pod, vec![pod]) };
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    *told.ports.slot(IN.into()) = Port { role, mac, mtu: 1500, stateless, allowed: allowed.into(), ..Port::default() };
    *told.ports.slot(OUT.into()) = Port { role: Role::Uplink, mac, mtu: 1500, ..Port::default() };
    for hop in 1..=NEXT_HOPS {
        let [.., high, low] = hop.to_be_bytes();
        *told.next_hops.slot(hop as usize) = NextHop {
            forward: Forward::Port,
            resolved: true,
            port: engine::PortId(OUT),
            mtu: 1500,
            mac: Mac([2, 0, 0, 1, high, low]),
            source: mac,
            ..NextHop::default()
        };
    }
    (told.limits.first_packets, told.limits.guaranteed_halves) = (u32::MAX, u32::MAX);
    told
}

/// A pod whose flows go to the world, directly or through a tunnel.
fn pod_world(tunnelled: bool) -> Told {
    let mut told = told(false);
    let mut hop = NextHopId(1);
    if tunnelled {
        let ends = (Ipv4Addr::new(192, 168, 0, 1).into(), Ipv4Addr::new(192, 168, 0, 2).into());
        let macs = (Mac([2, 1, 0, 0, 0, 1]), Mac([2, 1, 0, 0, 0, 2]));
        *told.tunnels.slot(0) = Tunnel::vxlan(Vni::default(), 4789, ends, macs, NextHopId(1), 1450).unwrap_or_default();
        hop = NextHopId(NEXT_HOPS + 1);
        *told.next_hops.slot(hop.0 as usize) =
            NextHop { forward: Forward::Tunnel, tunnel: TunnelId(0), mtu: 1450, ..NextHop::default() };
    }
    add_route(&mut told, Ipv4Addr::UNSPECIFIED.into(), 0, hop);
    told
}

/// A million random routes as on the Internet: 60 % /24, 25 % /17 to /23, 10 % /25 to /32, 5 % /9 to /16; for IPv6 half
/// /48, the rest /32 to /64. Gives destinations inside of them.
fn add_routes(told: &mut Told, v6: bool, count: u32, random: &mut Random) -> Vec<IpAddr> {
    let mut destinations = Vec::new();
    for n in 0..count {
        let hop = NextHopId(n % NEXT_HOPS + 1);
        let dice = random.below(100);
        let (address, len): (IpAddr, u8) = if v6 {
            let len = match dice {
                0..50 => 48,
                50..70 => 32 + u8::try_from(random.below(4) * 4).unwrap_or(0),
                70..90 => 64,
                _ => 40 + u8::try_from(random.below(5) * 4).unwrap_or(0),
            };
            let bits = u128::from(random.next()) << 64 | u128::from(random.next());
            (Ipv6Addr::from_bits((0x2 << 124) | (bits >> 4)).into(), len)
        } else {
            let len = match dice {
                0..60 => 24,
                60..85 => 17 + u8::try_from(random.below(7)).unwrap_or(0),
                85..95 => 25 + u8::try_from(random.below(8)).unwrap_or(0),
                _ => 9 + u8::try_from(random.below(8)).unwrap_or(0),
            };
            (unicast(random.next()).into(), len)
        };
        add_route(told, address, len, hop);
        destinations.push(address); // inside its own prefix, its low bits random
    }
    destinations
}

fn add_route(told: &mut Told, address: IpAddr, len: u8, next_hop: NextHopId) {
    let leaf = LeafId(u32::try_from(told.leaves.len().max(2)).unwrap_or(0));
    *told.leaves.slot(leaf.0 as usize) = Leaf { next_hop, epoch: 1 };
    let vrf = told.vrfs.slot(0);
    match address {
        IpAddr::V4(address) => drop(vrf.v4.insert(address.to_bits(), len, leaf)),
        IpAddr::V6(address) => drop(vrf.v6.insert(address.to_bits(), len, leaf)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "takes the low half")]
fn unicast(random: u64) -> Ipv4Addr {
    let bits = random as u32;
    Ipv4Addr::from_bits((((bits >> 24) % 110 + 11) << 24) | (bits & 0x00ff_ffff))
}

/// Flow `n` of the pod: a 64-byte UDP frame.
fn write_flow(room: &mut [u8], n: u32) -> usize {
    let to = Ipv4Addr::from_bits(0x1400_0000 + (n >> 8));
    let port = u16::try_from(n & 0xff).unwrap_or(0);
    write_udp(room, Ipv4Addr::new(10, 0, 0, 5).into(), to.into(), (20_000 + port, 53))
}

fn write_udp(room: &mut [u8], from: IpAddr, to: IpAddr, ports: (u16, u16)) -> usize {
    let macs = (Mac([2, 0, 0, 0, 0, 9]), Mac([2, 0, 0, 0, 0, 1]));
    let Some(addresses) = Addresses::of(from, to) else { return 0 };
    let payload: &[u8] = if from.is_ipv4() { &[0; 22] } else { &[0; 2] };
    build::udp(room, &Path::new(macs, addresses), Ports::new(ports.0, ports.1), payload).unwrap_or(0)
}

/// A small generator of numbers that repeat with their seed (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    #[expect(clippy::cast_possible_truncation, reason = "below a u32")]
    fn below(&mut self, limit: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u32
    }
}

pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn wall_time() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[expect(clippy::cast_precision_loss, reason = "clocks of one repetition are few")]
fn to_f64(n: u64) -> f64 {
    n as f64
}
