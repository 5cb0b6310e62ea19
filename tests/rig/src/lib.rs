//! A worker on replay ports: packets in, packets out, counter differences. No privileges, no sockets, no clock.
//!
//! ```
//! use rig::{Rig, world};
//!
//! let mut rig = Rig::new(world::two_pods());
//! rig.send(world::POD_A, &[0; 60]);
//! assert_eq!(rig.turn(), []);
//! assert_eq!(rig.moved(), [("front", "NotForUs", 1)]);
//! ```
mod audit;
pub mod world;

use engine::{FrameCounts, Frames, Graph, Instant, NodeId, PortId, Step};
use hugepages::{Settings, Want};
use std::{collections::BTreeMap, time::Duration};
use tables::{learned::Learned, told::Told};

/// What one turn sent: by which port, and the frame.
pub type Sent = (PortId, Vec<u8>);

/// A worker's graph, frames and tables, whose time and packets are in the test's hands.
pub struct Rig {
    /// What nodes are told; a change counts from the next turn on.
    pub told: Told,
    /// What the worker learned.
    pub learned: Learned,
    /// The worker's frames.
    pub frames: Frames,
    /// The time of the next turn.
    pub now: Instant,
    graph: Graph<Told, Learned>,
    entry: NodeId,
    waiting: Vec<engine::Packet>,
    before: BTreeMap<(&'static str, &'static str), u64>,
    steps: Vec<Step>,
    map: Vec<(&'static str, &'static str, &'static str)>,
    audited: BTreeMap<(&'static str, &'static str), u64>,
    passed: (u64, u64), // packets that entered and that were sent since the last audit
    kept: i64,
}

/// How many packets a rig's graph takes at once.
const MOST: usize = 1024;

impl Rig {
    /// A rig that was told `told`, with room for 4096 flow halves of each family.
    pub fn new(told: Told) -> Self {
        Rig::sized(told, 4096)
    }

    /// A rig with room for `flows` halves of each family.
    ///
    /// # Panics
    /// When there is no memory for it.
    pub fn sized(told: Told, flows: usize) -> Self {
        Rig::with(told, flows, FrameCounts { small: 2048, jumbo: 64, super_: 16, packets: MOST + 512 })
    }

    /// A rig with room for `flows` halves of each family, and these frames.
    ///
    /// # Panics
    /// When there is no memory for it.
    pub fn with(told: Told, flows: usize, counts: FrameCounts) -> Self {
        let map = Settings { want: Want::Best, prefault: false, ..Settings::new(0) };
        let frames = Frames::new(0, counts, map.clone()).expect("memory for frames");
        let learned = Learned::new(flows, 0x5eed_5eed_5eed, &map).expect("memory for flows");
        let (graph, entry) = nodes::graph::build(MOST);
        let now = Instant::default().after(Duration::from_secs(1_000_000));
        let (map, waiting, steps, passed, kept) = (graph.map(), Vec::new(), Vec::new(), (0, 0), 0);
        let (before, audited) = (BTreeMap::new(), BTreeMap::new());
        Rig { told, learned, frames, now, graph, entry, waiting, before, steps, map, audited, passed, kept }
    }

    /// Lets a frame arrive at a port with the next turn.
    ///
    /// # Panics
    /// When frames or packets are used up.
    pub fn send(&mut self, port: PortId, frame: &[u8]) {
        self.send_packet(port, frame, |_| {});
    }

    /// Lets a frame arrive at a port with the next turn, its metadata changed by `change` (a trace mark, an offload).
    ///
    /// # Panics
    /// When frames or packets are used up.
    pub fn send_packet(&mut self, port: PortId, frame: &[u8], change: impl Fn(&mut engine::Packet)) {
        assert!(self.offer(port, frame, change), "no frame or packet is free");
    }

    /// The same; gives false when frames, packets or the graph's room are used up, as a port would find it.
    pub fn offer(&mut self, port: PortId, frame: &[u8], change: impl Fn(&mut engine::Packet)) -> bool {
        if self.waiting.len() >= self.graph.room() {
            return false;
        }
        let Some(mut packet) = self.frames.copy(frame) else { return false };
        packet.meta_mut().port_in = port.0;
        change(&mut packet);
        self.waiting.push(packet);
        true
    }

    /// One turn; gives what was sent, in order.
    pub fn turn(&mut self) -> Vec<Sent> {
        self.turn_packets(|port, packet| (port, packet.data().to_vec()))
    }

    /// One turn; gives what `look` makes of each packet that was sent.
    pub fn turn_packets<R>(&mut self, look: impl Fn(PortId, &engine::Packet) -> R) -> Vec<R> {
        let waited = self.waiting.len();
        self.graph.admit(self.entry, &mut self.waiting);
        self.passed.0 += (waited - self.waiting.len()) as u64;
        self.graph.walk(&self.told, &mut self.learned, self.now, &mut self.frames);
        self.steps.append(self.graph.steps());
        self.collect(look)
    }

    /// Takes turns until no packet waits to be admitted: of super-frames few fit into one.
    pub fn settle(&mut self) {
        while !self.waiting.is_empty() {
            self.turn();
        }
    }

    /// Lets `duration` pass, and the nodes do what must not wait for a packet; gives what they sent.
    pub fn pass(&mut self, duration: Duration) -> Vec<Sent> {
        self.now = self.now.after(duration);
        let _due = self.graph.tick(&self.told, &mut self.learned, self.now, &mut self.frames);
        self.collect(|port, packet| (port, packet.data().to_vec()))
    }

    /// Which counters moved since the last call, in order of names: node, arc, by how much.
    pub fn moved(&mut self) -> Vec<(&'static str, &'static str, u64)> {
        let mut moved = Vec::new();
        for counters in self.graph.counters() {
            for (arc, count) in counters.read() {
                let before = self.before.insert((counters.node(), arc), count).unwrap_or(0);
                if count != before {
                    moved.push((counters.node(), arc, count - before));
                }
            }
        }
        moved
    }

    /// Balances the books since the last call: each packet that entered or was made was sent, or dropped by an arc, or
    /// is kept, and so at each node. Gives how many are kept.
    ///
    /// # Errors
    /// What does not balance.
    ///
    /// # Panics
    /// When more packets were let go than were kept.
    pub fn audit(&mut self) -> Result<u64, String> {
        let mut moved = BTreeMap::new();
        for counters in self.graph.counters() {
            for (arc, count) in counters.read() {
                let before = self.audited.insert((counters.node(), arc), count).unwrap_or(0);
                moved.insert((counters.node(), arc), count - before);
            }
        }
        let (entered, sent) = std::mem::take(&mut self.passed);
        let books = audit::Books { map: &self.map, moved, entered, entry: "front", sent };
        self.kept += books.balance()?;
        Ok(u64::try_from(self.kept).expect("no more is let go than was kept"))
    }

    /// The journey of the packets marked `mark`: `node.arc > node.arc`.
    pub fn journey(&self, mark: u8) -> String {
        let steps = self.steps.iter().filter(|step| step.mark == mark);
        steps.map(|step| format!("{}.{}", step.node, step.arc)).collect::<Vec<_>>().join(" > ")
    }

    /// Whether every frame and packet is home.
    pub fn nothing_is_lost(&self) -> bool {
        self.waiting.is_empty() && self.frames.all_home()
    }

    fn collect<R>(&mut self, look: impl Fn(PortId, &engine::Packet) -> R) -> Vec<R> {
        let sent: Vec<_> = self.graph.sent().drain(..).collect();
        self.passed.1 += sent.len() as u64;
        let see = |packet: engine::Packet| {
            let seen = look(PortId(packet.meta().port_out), &packet);
            self.frames.put(packet);
            seen
        };
        sent.into_iter().map(see).collect()
    }
}
