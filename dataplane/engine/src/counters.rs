use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most arcs of a node: four cache lines of counters.
pub const MOST_ARCS: usize = 32;

/// How many packets left a node by each arc. The node's worker alone adds; any thread may read.
#[derive(Debug)]
#[repr(align(64))]
pub struct Counters {
    counts: [AtomicU64; MOST_ARCS],
    node: &'static str,
    arcs: &'static [&'static str],
}

impl Counters {
    pub(crate) fn new(node: &'static str, arcs: &'static [&'static str]) -> Self {
        Counters { counts: [const { AtomicU64::new(0) }; MOST_ARCS], node, arcs }
    }

    /// The node's name.
    pub fn node(&self) -> &'static str {
        self.node
    }

    /// Every arc's name and how many packets left by it, in the order in which the node declares them.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.arcs.iter().zip(&self.counts).map(|(arc, count)| (*arc, count.load(Relaxed)))
    }

    /// There is one writer, so a load and a store suffice: no locked instruction.
    #[inline(always)]
    pub(crate) fn add(&self, arc: u8, n: u64) {
        if let Some(count) = self.counts.get(usize::from(arc)) {
            count.store(count.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    pub(crate) fn arc(&self, arc: u8) -> &'static str {
        self.arcs.get(usize::from(arc)).copied().unwrap_or("?")
    }
}
