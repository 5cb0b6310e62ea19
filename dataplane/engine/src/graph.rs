use crate::{
    counters::Counters,
    instant::Instant,
    node::{Arcs, BATCH, Node, Turn},
    packet::Packet,
    pool::Frames,
    simd::ticks,
    trace::Step,
};
use std::sync::Arc;

/// How often a packet may go back in a graph (a tunnel inside a tunnel, say) before it is dropped.
const MOST_LAPS: u8 = 4;

/// Where [`Graph::lost`] counts packets of a port that went away within their turn.
pub(crate) const LOST_PORT: u8 = 1;

/// How many packets nodes may emit in one turn.
const RESERVE: usize = 256;

/// How many steps of marked packets are kept until they are taken out.
const MOST_STEPS: usize = 512;

/// A place in a graph: a node, or one of the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u8);

/// What the graph sees of a node: one virtual call per batch, never one per packet.
trait Run<T, L>: Send {
    fn run(&mut self, turn: &mut Turn<'_, T, L>, batch: &mut [Packet], arcs: &mut [u8]);
    fn hold(&mut self, turn: &mut Turn<'_, T, L>, packet: Packet);
    fn tick(&mut self, turn: &mut Turn<'_, T, L>) -> Option<Instant>;
}

impl<T, L, N: Node<T, L>> Run<T, L> for N {
    fn run(&mut self, turn: &mut Turn<'_, T, L>, batch: &mut [Packet], arcs: &mut [u8]) {
        self.many(turn, batch, arcs);
    }
    fn hold(&mut self, turn: &mut Turn<'_, T, L>, packet: Packet) {
        Node::hold(self, turn, packet);
    }
    fn tick(&mut self, turn: &mut Turn<'_, T, L>) -> Option<Instant> {
        Node::tick(self, turn)
    }
}

struct Place<T, L> {
    node: Box<dyn Run<T, L>>,
    to: Vec<NodeId>, // by arc
    ticks: bool,
    counters: Arc<Counters>,
    clocks: u64,
}

/// A graph under construction: nodes are added in order of travel, then each is told where its arcs lead.
pub struct Builder<T, L> {
    places: Vec<Place<T, L>>,
}

impl<T, L> Default for Builder<T, L> {
    fn default() -> Self {
        Builder { places: Vec::new() }
    }
}

impl<T, L> Builder<T, L> {
    /// Adds the next node of the journey.
    ///
    /// # Panics
    /// When there are more nodes than a graph can have (58). Graphs are built once, at start.
    pub fn add<N: Node<T, L> + 'static>(&mut self, node: N) -> NodeId {
        let id = NodeId(u8::try_from(self.places.len()).unwrap_or(u8::MAX).saturating_add(Graph::<T, L>::ENDS));
        assert!(u32::from(id.0) < u64::BITS, "a graph has at most 58 nodes");
        let counters = Arc::new(Counters::new(N::NAME, N::Next::NAMES));
        self.places.push(Place { node: Box::new(node), to: Vec::new(), ticks: N::TICKS, counters, clocks: 0 });
        id
    }

    /// Says where each arc of `node` leads. An arc may lead back; a packet takes such an arc a few times at most.
    pub fn arcs<A: Arcs>(&mut self, node: NodeId, to: impl Fn(A) -> NodeId) {
        let at = usize::from(node.0).wrapping_sub(usize::from(Graph::<T, L>::ENDS));
        if let Some(place) = self.places.get_mut(at) {
            place.to = A::ALL.iter().map(|arc| to(*arc)).collect();
        }
    }

    /// The finished graph, in which at most `most` packets are at once.
    ///
    /// # Panics
    /// When a node was not told where its arcs lead.
    pub fn finish(self, most: usize) -> Graph<T, L> {
        for place in &self.places {
            let (arcs, node) = (place.counters.read().count(), place.counters.node());
            assert_eq!(place.to.len(), arcs, "every arc of {node} leads somewhere");
        }
        let ends = usize::from(Graph::<T, L>::ENDS);
        let ticking = (0u8..).zip(&self.places).filter(|(_, place)| place.ticks).map(|(at, _)| at).collect();
        let list = || Vec::with_capacity(most + RESERVE);
        Graph {
            pending: (0..self.places.len() + ends).map(|_| list()).collect(),
            lost: Arc::new(Counters::new("graph", &["TooManyLaps", "PortGone"])),
            places: self.places,
            ticking,
            waiting: 0,
            batch: list(),
            emitted: Vec::with_capacity(RESERVE),
            emitting: Vec::with_capacity(RESERVE),
            arcs: [0; BATCH],
            most,
            timed: false,
            marked: false,
            steps: Vec::with_capacity(MOST_STEPS),
        }
    }
}

/// The nodes of one worker and the packets that wait for each.
pub struct Graph<T, L> {
    places: Vec<Place<T, L>>,   // in order of travel
    pending: Vec<Vec<Packet>>,  // by NodeId: the ends, then the places
    waiting: u64,               // which of `pending` are not empty, one bit each
    ticking: Vec<u8>,           // indices of places
    batch: Vec<Packet>,         // in a node's hands
    emitted: Vec<(u8, Packet)>, // with the arc of the node that emitted them
    emitting: Vec<(u8, Packet)>,
    arcs: [u8; BATCH],
    most: usize,
    lost: Arc<Counters>, // what is dropped between nodes
    timed: bool,
    marked: bool, // a packet that was admitted since the last walk is traced
    steps: Vec<Step>,
}

impl<T, L> Graph<T, L> {
    /// Where a packet ends.
    pub const DROP: NodeId = NodeId(0);
    /// Where a packet waits to be sent by its `port_out`.
    pub const SEND: NodeId = NodeId(1);
    /// Where a packet is kept by the node that it leaves, see [`Node::hold`].
    pub const HOLD: NodeId = NodeId(2);
    /// Where a packet waits to be handed to the worker that its metadata names.
    pub const HAND_OFF: NodeId = NodeId(3);
    const ENDS: u8 = 4;
    const IN_ENDS: u64 = 0b1111;

    /// The counters of all nodes, for any thread to keep and read.
    pub fn counters(&self) -> Vec<Arc<Counters>> {
        self.places.iter().map(|place| place.counters.clone()).chain([self.lost.clone()]).collect()
    }

    /// Every arc of the graph: node, arc, and where it leads (a node's name or an end's), in order of travel.
    pub fn map(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        let name = |to: NodeId| match to {
            Self::DROP => "drop",
            Self::SEND => "send",
            Self::HOLD => "hold",
            Self::HAND_OFF => "hand-off",
            NodeId(at) => {
                let place = self.places.get(usize::from(at - Self::ENDS));
                place.map_or("?", |place| place.counters.node())
            }
        };
        let arcs = |place: &Place<T, L>| {
            let node = place.counters.node();
            let to: Vec<_> =
                place.counters.read().zip(&place.to).map(|((arc, _), to)| (node, arc, name(*to))).collect();
            to
        };
        self.places.iter().flat_map(arcs).collect()
    }

    /// How many more packets fit in.
    pub fn room(&self) -> usize {
        self.most.saturating_sub(self.pending.iter().map(Vec::len).sum())
    }

    /// Takes as many packets as there is room for, a super-frame counting as its segments; leaves the rest.
    pub fn admit(&mut self, at: NodeId, from: &mut Vec<Packet>) {
        let room = self.room();
        let mut taken = 0;
        let mut marks = 0;
        let mut fits = |packet: &&Packet| {
            taken += packet.segments();
            marks |= packet.meta().trace;
            taken <= room
        };
        // The first packet always fits into an empty graph: no super-frame has more segments than may be inside.
        let n = from.iter().take_while(&mut fits).count();
        let n = if n == 0 && room == self.most { from.len().min(1) } else { n };
        let Some(list) = self.pending.get_mut(usize::from(at.0)) else { return };
        if list.is_empty() && n == from.len() && from.capacity() >= list.capacity() {
            std::mem::swap(list, from);
        } else {
            list.extend(from.drain(..n));
        }
        self.waiting |= u64::from(!list.is_empty()) << at.0;
        self.marked |= marks != 0;
    }

    /// Measures from now on how many clocks of the time stamp counter each node takes, or stops to.
    pub fn time(&mut self, timed: bool) {
        self.timed = timed;
        self.places.iter_mut().for_each(|place| place.clocks = 0);
    }

    /// How many clocks each node took since they were first measured, its share of moving packets on included.
    pub fn clocks(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.places.iter().map(|place| (place.counters.node(), place.clocks))
    }

    /// What waits to be sent; whoever sends a packet takes it out.
    #[inline(always)]
    pub fn sent(&mut self) -> &mut Vec<Packet> {
        self.end(Self::SEND)
    }

    /// What waits to be handed to another worker; whoever does so takes it out.
    #[inline(always)]
    pub fn handed_off(&mut self) -> &mut Vec<Packet> {
        self.end(Self::HAND_OFF)
    }

    /// Counts what is dropped outside of any node.
    pub(crate) fn lost(&self) -> &Counters {
        &self.lost
    }

    /// The steps of marked packets since they were last taken out.
    pub fn steps(&mut self) -> &mut Vec<Step> {
        &mut self.steps
    }

    /// One turn's walk: takes every packet to an end, then frees what was dropped.
    pub fn walk(&mut self, told: &T, learned: &mut L, now: Instant, frames: &mut Frames) {
        let mut emitted = std::mem::take(&mut self.emitted);
        let mut turn = Turn { told, learned, now, frames, emitted: &mut emitted, reserve: RESERVE, traced: false };
        self.settle(&mut turn);
        self.emitted = emitted;
    }

    /// Calls every node that ticks; gives when the earliest of them wants to be called again.
    pub fn tick(&mut self, told: &T, learned: &mut L, now: Instant, frames: &mut Frames) -> Option<Instant> {
        let mut emitted = std::mem::take(&mut self.emitted);
        let mut turn = Turn { told, learned, now, frames, emitted: &mut emitted, reserve: RESERVE, traced: false };
        let mut due: Option<Instant> = None;
        for i in 0..self.ticking.len() {
            let at = self.ticking.get(i).copied().map_or(0, usize::from);
            let Some(place) = self.places.get_mut(at) else { continue };
            let wants = place.node.tick(&mut turn);
            due = due.into_iter().chain(wants).min();
            self.spread_emitted(at, &mut turn);
        }
        self.settle(&mut turn);
        self.emitted = emitted;
        due
    }

    fn settle(&mut self, turn: &mut Turn<'_, T, L>) {
        turn.traced |= std::mem::take(&mut self.marked);
        loop {
            let first = (self.waiting & !Self::IN_ENDS).trailing_zeros();
            if first == u64::BITS {
                break;
            }
            let start = if self.timed { ticks() } else { 0 };
            self.step(first as usize, turn);
            if self.timed
                && let Some(place) = self.places.get_mut((first as usize).wrapping_sub(usize::from(Self::ENDS)))
            {
                place.clocks += ticks() - start;
            }
        }
        for packet in self.end(Self::DROP).drain(..) {
            turn.frames.put(packet);
        }
        self.waiting = 0;
    }

    /// One batch through one node.
    fn step(&mut self, at: usize, turn: &mut Turn<'_, T, L>) {
        let index = at.wrapping_sub(usize::from(Self::ENDS));
        let Self { places, pending, batch, arcs, waiting, steps, .. } = self;
        let (Some(place), Some(list)) = (places.get_mut(index), pending.get_mut(at)) else { return };
        if list.len() <= BATCH {
            std::mem::swap(list, batch);
            *waiting &= !(1 << at);
        } else {
            batch.extend(list.drain(..BATCH));
        }
        let Some(arcs) = arcs.get_mut(..batch.len()) else { return };
        place.node.run(turn, batch, arcs);
        if turn.traced {
            record(steps, batch, &place.counters, arcs, turn.now);
        }
        self.scatter(index, turn);
        if !turn.emitted.is_empty() {
            self.spread_emitted(index, turn);
        }
    }

    /// Moves each packet of the batch to the list that its arc leads to. Most batches leave by one arc: then lists
    /// change places.
    #[inline(always)]
    fn scatter(&mut self, index: usize, turn: &mut Turn<'_, T, L>) {
        let Self { places, pending, batch, arcs, waiting, .. } = self;
        let (Some(place), Some(arcs)) = (places.get(index), arcs.get(..batch.len())) else { return };
        let Some(&first) = arcs.first() else { return };
        let ahead =
            |to: NodeId| to == Self::SEND || to == Self::DROP || usize::from(to.0) > index + usize::from(Self::ENDS);
        let to_of = |arc: u8| place.to.get(usize::from(arc)).copied().unwrap_or(Self::DROP);
        // A fold, not `all`: without an early exit it is a few vector instructions.
        if arcs.iter().fold(0, |differs, arc| differs | (arc ^ first)) == 0 {
            let to = to_of(first);
            place.counters.add(first, arcs.len() as u64);
            if ahead(to)
                && let Some(list) = pending.get_mut(usize::from(to.0))
            {
                if list.is_empty() {
                    std::mem::swap(list, batch)
                } else {
                    list.append(batch)
                }
                *waiting |= 1 << to.0;
                return;
            }
        } else {
            arcs.iter().for_each(|arc| place.counters.add(*arc, 1));
        }
        let (mut batch, arcs) = (std::mem::take(&mut self.batch), self.arcs);
        for (packet, arc) in batch.drain(..).zip(arcs) {
            self.route(index, arc, packet, turn);
        }
        self.batch = batch;
    }

    /// Counts what a node emitted and moves it on.
    fn spread_emitted(&mut self, index: usize, turn: &mut Turn<'_, T, L>) {
        let mut emitted = std::mem::take(&mut self.emitting);
        // What `hold` emits in its turn is found by the next round; the reserve bounds them all.
        while !turn.emitted.is_empty() {
            std::mem::swap(turn.emitted, &mut emitted);
            for (arc, packet) in emitted.drain(..) {
                if let Some(place) = self.places.get(index) {
                    place.counters.add(arc, 1);
                    record(&mut self.steps, std::slice::from_ref(&packet), &place.counters, &[arc], turn.now);
                }
                self.route(index, arc, packet, turn);
            }
        }
        self.emitting = emitted;
    }

    /// Moves one packet to where its arc leads.
    fn route(&mut self, index: usize, arc: u8, mut packet: Packet, turn: &mut Turn<'_, T, L>) {
        let Some(place) = self.places.get_mut(index) else { return turn.frames.put(packet) };
        let mut to = place.to.get(usize::from(arc)).copied().unwrap_or(Self::DROP);
        if to == Self::HOLD {
            return place.node.hold(turn, packet);
        }
        if to.0 >= Self::ENDS && usize::from(to.0) <= index + usize::from(Self::ENDS) {
            packet.meta_mut().laps += 1;
            if packet.meta().laps > MOST_LAPS {
                self.lost.add(0, 1);
                to = Self::DROP;
            }
        }
        self.end(to).push(packet);
        self.waiting |= 1 << to.0;
    }

    /// The list of an end or a node. Every `NodeId` was made by this graph's builder, so that the list is there.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a NodeId is an index by construction")]
    fn end(&mut self, id: NodeId) -> &mut Vec<Packet> {
        &mut self.pending[usize::from(id.0)]
    }
}

#[cold]
fn record(steps: &mut Vec<Step>, batch: &[Packet], counters: &Counters, arcs: &[u8], at: Instant) {
    let traced = batch.iter().zip(arcs).filter(|(packet, _)| packet.meta().trace != 0);
    let room = steps.capacity() - steps.len();
    steps.extend(traced.take(room).map(|(packet, &arc)| Step::of(packet, counters, arc, at)));
}
