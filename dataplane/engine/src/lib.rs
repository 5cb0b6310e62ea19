//! Where packets live and how they move: frames and handles, nodes and graph, snapshots, rings, the worker's turn.
//!
//! The engine knows no protocol. A node turns a packet into an *arc*; the arc's name is its counter and its trace line;
//! the engine does the rest. What nodes were *told* is one immutable snapshot, read once a turn; what they *learned*
//! belongs to one worker.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod counters;
mod graph;
mod handle;
mod instant;
mod node;
mod packet;
mod pool;
mod port;
mod ring;
mod simd;
mod snapshot;
mod sync;
mod trace;
mod worker;

pub use counters::{Counters, MOST_ARCS};
pub use graph::{Builder, Graph, NodeId};
pub use handle::{Gauges, Handle, PortEvents, Settings, StartError, start};
pub use instant::Instant;
pub use node::{Arcs, BATCH, MOST_STAGES, Node, Turn};
pub use packet::{Meta, NONE, Offload, Packet, Segmentation};
pub use pool::{Class, Frame, FrameCounts, Frames, HEADROOM, Memory};
pub use port::{Abilities, Device, LinkState, OpenError, PortCounters, PortId, Queue};
pub use ring::{Consumer, Producer, ring};
pub use simd::{fetch, hash128, matches, ticks};
pub use snapshot::{Bell, Publisher, Reader, Sleeper};
pub use trace::{STEP_BYTES, Step};
pub use worker::{Mode, Parts};
