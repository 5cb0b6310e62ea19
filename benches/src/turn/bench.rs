//! A worker without a thread, and what is checked of every repetition.
use super::world::{IN, OUT, keys_of, write_flow};
use crate::{allocations, cpu_time, report::Figure};
use anyhow::{Context, Result, ensure};
use engine::{Class, Frame, FrameCounts, Frames, Graph, HEADROOM, Instant, NodeId, Packet, ticks};
use hugepages::Settings;
use std::time::Duration;
use tables::{learned::Learned, told::Told};

/// How many packets a repetition takes through the graph.
pub(super) const FRAMES: u32 = 32_768;
/// How many packets a turn has.
pub(super) const BATCH: usize = 256;
const REPETITIONS: usize = 21;
/// How often a repetition that was interrupted is measured again, for each one wanted.
const PATIENCE: usize = 100;
/// Repetitions with a clock on each node: the quickest counts.
const TIMED: usize = 10;
/// How full a table of flows is, in percent, when all that it is for are there.
const FULL: usize = 62;

pub(super) struct Bench {
    pub(super) learned: Learned,
    told: Told,
    frames: Frames,
    graph: Graph<Told, Learned>,
    entry: NodeId,
    ring: Vec<Option<Frame>>,
    len: u32,
    inbox: Vec<Packet>,
    now: Instant,
}

/// A repetition.
struct Run {
    /// Clocks per packet.
    clocks: f64,
    seconds: f64,
    allocations: u64,
    /// Its CPU time falls behind the clock.
    interrupted: bool,
}

impl Bench {
    /// With room for `flows`, all of them over IPv4.
    pub(super) fn new(told: Told, flows: usize) -> Result<Self> {
        let small = FRAMES as usize + 1024;
        let counts = FrameCounts { small, jumbo: 0, super_: 0, packets: 1024 };
        let mut frames = Frames::new(0, counts, Settings::new(0)).context("no memory for frames")?;
        let halves = [(flows * 2).max(1024) * 100 / FULL, 1024];
        let learned =
            Learned::sized(halves, 0x9e37_79b9_7f4a_7c15, &Settings::new(0)).context("no memory for flows")?;
        let (graph, entry) = nodes::graph::build(512);
        let ring = (0..FRAMES).map(|_| frames.take(Class::Small)).collect();
        let now = Instant::default().after(Duration::from_secs(1 << 20));
        let (len, inbox) = (0, Vec::with_capacity(1024));
        Ok(Bench { learned, told, frames, graph, entry, ring, len, inbox, now })
    }

    /// Writes all frames: the generator, not measured.
    pub(super) fn fill(&mut self, mut write: impl FnMut(u32, &mut [u8]) -> usize) {
        for (frame, i) in self.ring.iter_mut().flatten().zip(0..) {
            let room = frame.bytes_mut().get_mut(usize::from(HEADROOM)..).unwrap_or_default();
            self.len = u32::try_from(write(i, room)).unwrap_or(0);
        }
    }

    /// Brings first packets of the pod's flows below `count`; gives those that are kept: a set of the table that
    /// overflows loses some.
    pub(super) fn learn(&mut self, count: u32) -> Result<Vec<u32>> {
        for first in (0..count).step_by(FRAMES as usize) {
            self.fill(|i, room| write_flow(room, (first + i) % count));
            self.run(BATCH)?;
        }
        let table = &self.learned.flows4;
        let is_kept = |n: &u32| keys_of(*n).iter().all(|key| table.find(*key, table.hash(*key)).is_some());
        let kept: Vec<u32> = (0..count).filter(is_kept).collect();
        ensure!(kept.len() * 100 >= count as usize * 99, "of {count} flows only {} are kept", kept.len());
        Ok(kept)
    }

    /// Forgets every flow.
    pub(super) fn forget(&mut self) {
        let table = &self.learned.flows4;
        let used: Vec<_> = table.used(0..u32::try_from(table.capacity()).unwrap_or(u32::MAX)).collect();
        used.into_iter().for_each(|slot| self.learned.flows4.end(slot));
    }

    /// A figure of the repetitions that were not interrupted, after one that warms up. Each packet is a flow's first
    /// one, or none is.
    pub(super) fn measure(
        &mut self,
        (id, what): (&str, &str),
        batch: usize,
        first: bool,
        mut fill: impl FnMut(&mut Self),
    ) -> Result<Figure> {
        let (mut samples, mut speeds) = (Vec::with_capacity(REPETITIONS), Vec::with_capacity(REPETITIONS));
        let (mut allocations, mut packets, unknown) = (0, 0, self.counted("front", "Unknown")?);
        for tries in 0..REPETITIONS * PATIENCE {
            fill(self);
            let run = self.run(batch)?;
            packets += u64::from(FRAMES);
            if tries > 0 && !run.interrupted {
                samples.push(run.clocks);
                speeds.push(f64::from(FRAMES) / run.seconds / 1e6);
                allocations += run.allocations;
            }
            if samples.len() == REPETITIONS {
                break;
            }
        }
        let unknown = self.counted("front", "Unknown")? - unknown;
        ensure!(samples.len() == REPETITIONS, "only {} repetitions were not interrupted", samples.len());
        ensure!(unknown == if first { packets } else { 0 }, "{unknown} of {packets} packets walked the rules");
        ensure!(allocations == 0, "{allocations} allocations");
        let note = format!(
            "{what}; 64 B, {batch} packets a turn, {FRAMES} frames in turn ({} MiB), generator not counted; flows on {} \
             pages",
            (FRAMES as usize * Class::Small.stride()) >> 20,
            self.learned.flows4.got()[1].1.kind,
        );
        let parts = self.parts(batch, fill)?;
        let mut figure = Figure::new(id, "clk", samples, &note).with_parts(parts);
        (figure.mpps, figure.allocations) = (Some(crate::report::median(&speeds)), Some(allocations));
        Ok(figure)
    }

    /// Takes every frame through the graph, `batch` at a time. A frame goes back to where one of its batch was taken
    /// from, so that the ring itself stays in the cache as a port's would.
    fn run(&mut self, batch: usize) -> Result<Run> {
        let (allocated, cpu, wall) = (allocations::count(), cpu_time(), std::time::Instant::now());
        let start = ticks();
        let (mut taken, mut sent) = (0, 0);
        let Self { ring, frames, graph, inbox, .. } = self;
        for places in ring.chunks_mut(batch) {
            for frame in places.iter_mut().filter_map(Option::take) {
                if let Ok(mut packet) = frames.packet(frame, HEADROOM.into(), self.len) {
                    packet.meta_mut().port_in = IN;
                    inbox.push(packet);
                }
            }
            taken += inbox.len();
            graph.admit(self.entry, inbox);
            graph.walk(&self.told, &mut self.learned, self.now, frames);
            for (packet, place) in graph.sent().drain(..).zip(places) {
                sent += usize::from(packet.meta().port_out == OUT);
                *place = Some(frames.frame(packet));
            }
        }
        let clocks = ticks() - start;
        let (cpu, wall) = ((cpu_time() - cpu).as_secs_f64(), wall.elapsed().as_secs_f64());
        let allocations = allocations::count() - allocated;
        ensure!(taken == FRAMES as usize && sent == taken, "of {taken} packets {sent} were sent, of {FRAMES} wanted");
        Ok(Run { clocks: per_packet(clocks), seconds: wall, allocations, interrupted: cpu < 0.97 * wall })
    }

    /// Where the clocks go, from more repetitions: measuring each node costs some itself.
    fn parts(&mut self, batch: usize, mut fill: impl FnMut(&mut Self)) -> Result<Vec<(String, f64)>> {
        let mut quickest = (f64::MAX, Vec::new());
        for _ in 0..TIMED {
            fill(self);
            self.graph.time(true);
            let run = self.run(batch)?;
            if run.clocks < quickest.0 {
                let clocks = self.graph.clocks().filter(|(_, clocks)| *clocks > 0);
                let mut parts: Vec<_> = clocks.map(|(node, clocks)| (node.to_owned(), per_packet(clocks))).collect();
                let rest = run.clocks - parts.iter().map(|(_, clocks)| clocks).sum::<f64>();
                parts.push(("in and out".to_owned(), rest));
                quickest = (run.clocks, parts);
            }
        }
        self.graph.time(false);
        Ok(quickest.1)
    }

    /// How many packets left a node by an arc.
    fn counted(&self, node: &str, arc: &str) -> Result<u64> {
        let all = self.graph.counters();
        let counters = all.iter().find(|counters| counters.node() == node);
        let count = counters.and_then(|counters| counters.read().find(|(name, _)| *name == arc));
        Ok(count.with_context(|| format!("node {node} has no arc {arc}"))?.1)
    }
}

#[expect(clippy::cast_precision_loss, reason = "clocks of one repetition are few")]
fn per_packet(clocks: u64) -> f64 {
    clocks as f64 / f64::from(FRAMES)
}
