use crate::{counters::MOST_ARCS, instant::Instant, packet::Packet, pool::Frames};

/// The most packets that a node sees in one call.
pub const BATCH: usize = 256;

/// The most stages of [`Node::ahead`].
pub const MOST_STAGES: usize = 3;

/// How many packets lie between two stages of a node: far enough for a line to arrive, near enough that few are under
/// way at once. Constant, because a distance in a variable costs more than it can gain.
const DISTANCE: usize = 12;

/// Where a node may send a packet. Each arc has a name and, by existing, a counter. Made by [`crate::arcs!`].
pub trait Arcs: Copy + 'static {
    /// Every arc, in order of index.
    const ALL: &'static [Self];
    /// Their names: counter, drop reason, trace line and metric.
    const NAMES: &'static [&'static str];
    /// The arc's place in `ALL`.
    fn index(self) -> u8;
}

/// Declares the arcs of a node: an enum that implements [`Arcs`].
#[macro_export]
macro_rules! arcs { ($(#[$doc:meta])* $vis:vis $name:ident { $($(#[$arc_doc:meta])* $arc:ident),+ $(,)? }) => {
    $(#[$doc])*
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    $vis enum $name { $($(#[$arc_doc])* $arc),+ }
    impl $crate::Arcs for $name {
        const ALL: &'static [Self] = &[$(Self::$arc),+];
        const NAMES: &'static [&'static str] = &[$(stringify!($arc)),+];
        #[inline(always)] fn index(self) -> u8 { self as u8 }
    }
}}

/// What every node sees during one turn.
pub struct Turn<'a, T, L> {
    /// What nodes were told: one immutable snapshot.
    pub told: &'a T,
    /// What this worker learned.
    pub learned: &'a mut L,
    /// When the turn began.
    pub now: Instant,
    /// The worker's frames, for packets that are made or ended inside a node.
    pub frames: &'a mut Frames,
    pub(crate) emitted: &'a mut Vec<(u8, Packet)>,
    pub(crate) reserve: usize,
    pub(crate) traced: bool,
}

impl<'a, T, L> Turn<'a, T, L> {
    /// A turn at `now` outside of any graph, for tests of single nodes; what is emitted lands in `emitted`.
    pub fn new(
        told: &'a T,
        learned: &'a mut L,
        now: Instant,
        frames: &'a mut Frames,
        emitted: &'a mut Vec<(u8, Packet)>,
    ) -> Self {
        let reserve = emitted.capacity() - emitted.len();
        Turn { told, learned, now, frames, emitted, reserve, traced: false }
    }

    /// An empty packet that can hold `len` bytes, to be filled and emitted; `None` when the turn's reserve, the frames
    /// or the packets are used up.
    pub fn fresh(&mut self, len: usize) -> Option<Packet> {
        if self.reserve == 0 { None } else { self.frames.fresh(len) }
    }

    /// Sends a packet that the node made or held on its way by `arc`. When the turn's reserve is used up the packet
    /// ends here, and `false` says so: the caller counts it by an arc of its own.
    pub fn emit<A: Arcs>(&mut self, arc: A, packet: Packet) -> bool {
        let left = self.reserve.checked_sub(1);
        if let Some(left) = left {
            self.reserve = left;
            self.traced |= packet.meta().trace != 0;
            self.emitted.push((arc.index(), packet));
        } else {
            self.frames.put(packet);
        }
        left.is_some()
    }

    /// Marks a packet: every further step of it is recorded.
    pub fn mark(&mut self, packet: &mut Packet, mark: u8) {
        packet.meta_mut().trace = mark;
        self.traced |= mark != 0;
    }
}

/// What happens to packets at one place: turns each into an arc.
pub trait Node<T, L>: Send {
    /// Its name in counters, traces and metrics.
    const NAME: &'static str;
    /// How many stages of `ahead` a packet passes before `one`, 12 packets apart; at most [`MOST_STAGES`].
    const STAGES: usize = 1;
    /// Whether the node wants to be called when time passes, see [`Node::tick`].
    const TICKS: bool = false;
    /// Where it may send a packet.
    type Next: Arcs;

    /// Stage `K` reads what stage `K - 1` fetched, and fetches what the next one reads.
    #[inline(always)]
    fn ahead<const K: usize>(&self, turn: &Turn<'_, T, L>, packet: &mut Packet) {
        let _ = turn;
        packet.fetch();
    }

    /// Decides one packet.
    fn one(&mut self, turn: &mut Turn<'_, T, L>, packet: &mut Packet) -> Self::Next;

    /// Decides a whole batch; for nodes that work on many packets at once. `arcs` has the batch's length.
    #[inline(always)]
    fn many(&mut self, turn: &mut Turn<'_, T, L>, batch: &mut [Packet], arcs: &mut [u8])
    where
        Self: Sized,
    {
        match batch {
            [_] => staged::<0, T, L, Self>(self, turn, batch, arcs), // nobody to overlap with: all stages at once
            _ => staged::<DISTANCE, T, L, Self>(self, turn, batch, arcs),
        }
    }

    /// Keeps a packet that left by an arc which leads to [`crate::Graph::HOLD`]. Whatever has to make room is emitted
    /// by an arc that says so.
    fn hold(&mut self, turn: &mut Turn<'_, T, L>, packet: Packet) {
        turn.frames.put(packet);
    }

    /// Does bounded work that must not wait for a packet, and gives when it wants to be called again; `None`: when
    /// something changes. Called between turns, and at the latest when that time has come.
    fn tick(&mut self, turn: &mut Turn<'_, T, L>) -> Option<Instant> {
        let _ = turn;
        None
    }
}

/// One continuous pipeline over the batch: packet `i` enters stage 0 while packet `i - D` is in stage 1, and so on.
#[inline(always)]
fn staged<const D: usize, T, L, N: Node<T, L>>(
    node: &mut N,
    turn: &mut Turn<'_, T, L>,
    batch: &mut [Packet],
    arcs: &mut [u8],
) {
    const { assert!(N::STAGES <= MOST_STAGES && N::Next::NAMES.len() <= MOST_ARCS) };
    if N::STAGES == 0 {
        for (packet, arc) in batch.iter_mut().zip(arcs) {
            *arc = node.one(turn, packet).index();
        }
        return;
    }
    for i in 0..batch.len() + N::STAGES * D {
        // Below zero this wraps to an index that no batch has. Tests on STAGES vanish at compile time.
        let in_stage = |k: usize| i.wrapping_sub(k * D);
        if N::STAGES > 0
            && let Some(packet) = batch.get_mut(in_stage(0))
        {
            node.ahead::<0>(turn, packet);
        }
        if N::STAGES > 1
            && let Some(packet) = batch.get_mut(in_stage(1))
        {
            node.ahead::<1>(turn, packet);
        }
        if N::STAGES > 2
            && let Some(packet) = batch.get_mut(in_stage(2))
        {
            node.ahead::<2>(turn, packet);
        }
        let last = in_stage(N::STAGES);
        if let (Some(packet), Some(arc)) = (batch.get_mut(last), arcs.get_mut(last)) {
            *arc = node.one(turn, packet).index();
        }
    }
}
