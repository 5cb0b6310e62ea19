//! How packets enter and leave: one folder or file per driver, and what drivers share.
//!
//! `null`, `loopback`, `replay` and `refill` need no system; `record` and `fault` wrap any other device; `tap` connects
//! pods; `af_xdp` is an uplink, and `steer` decides what of it is ours. `cut` divides super-frames for ports that
//! cannot take them.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod af_xdp;
pub mod cut;
mod fault;
mod loopback;
mod null;
mod record;
mod refill;
mod replay;
pub mod steer;
pub mod tap;

pub use fault::{Fault, Faults, fault};
pub use loopback::Loopback;
pub use null::Null;
pub use record::{Record, RecordSettings, Recording};
pub use refill::Refill;
pub use replay::{Replay, Replayed, Sent};

/// The abilities of a queue that hands packets on as they are, in memory.
fn lossless() -> engine::Abilities {
    engine::Abilities {
        longest: engine::Class::Super.payload(),
        checksum: true,
        tcp_segmentation: true,
        udp_segmentation: true,
        cheap_receive: true,
    }
}
