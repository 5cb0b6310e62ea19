use crate::{packet::Packet, pool::Frames};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A port's number: its slot among what was told, and all that nodes and ports share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// What a queue can do, asked once when it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// The longest frame that it sends, link header included, in bytes.
    pub longest: usize,
    /// It completes partial checksums itself.
    pub checksum: bool,
    /// It takes TCP super-frames over IPv4 and IPv6 whole.
    pub tcp_segmentation: bool,
    /// It takes UDP super-frames whole.
    pub udp_segmentation: bool,
    /// An empty `receive` costs next to nothing, so it is asked every turn; else only when its descriptor is readable.
    pub cheap_receive: bool,
}

/// Whether a port's link carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It does.
    Up,
    /// It does not now; it may come back.
    Down,
    /// It is gone for good: the port must be opened again.
    Gone,
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused a step.
    #[error("port {port}: cannot {step}: {source}")]
    System {
        /// The port's name.
        port: String,
        /// What was tried, as in "bind the socket".
        step: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A setting cannot be had on this device.
    #[error("port {port}: {field}: {reason}")]
    Setting {
        /// The port's name.
        port: String,
        /// The setting.
        field: &'static str,
        /// Why not.
        reason: String,
    },
}

/// How packets enter and leave: a driver, before it runs.
pub trait Device: Send {
    /// Opens it as one queue for each of `workers` workers, whose frames are at hand for drivers that register memory.
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError>;
}

/// One worker's share of a port. Nothing here blocks.
pub trait Queue: Send {
    /// Appends up to `room` received packets to `into`.
    fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, room: usize);

    /// Sends from the front of `from` what fits now; leaves the rest in order.
    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>);

    /// What it can do.
    fn can(&self) -> Abilities;

    /// The descriptor that becomes readable when there is something to receive. Without one the worker must poll.
    fn wake(&self) -> Option<BorrowedFd<'_>>;

    /// Before sleep: takes back what the device is done with, flushes what is under way, asks to be woken. Gives true
    /// when nothing waits to be received.
    fn rest(&mut self, frames: &mut Frames) -> bool {
        let _ = frames;
        true
    }

    /// Whether the link carries packets, as last seen without asking the system more than every now and then.
    fn link(&mut self) -> LinkState {
        LinkState::Up
    }

    /// Packets that were sent cut, and other events of the driver: name and count.
    fn events(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Ends it: every frame that the device holds comes home.
    fn close(&mut self, frames: &mut Frames);
}

/// A port's counters. Its worker alone adds; any thread may read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    counts: [AtomicU64; 5],
}

impl PortCounters {
    /// What the counters are, in order of [`PortCounters::read`].
    pub const NAMES: [&'static str; 5] =
        ["received_packets", "received_bytes", "sent_packets", "sent_bytes", "send_dropped"];
    pub(crate) const RECEIVED_PACKETS: usize = 0;
    pub(crate) const RECEIVED_BYTES: usize = 1;
    pub(crate) const SENT_PACKETS: usize = 2;
    pub(crate) const SENT_BYTES: usize = 3;
    pub(crate) const SEND_DROPPED: usize = 4;

    /// All counts, in the order of [`PortCounters::NAMES`].
    pub fn read(&self) -> [u64; 5] {
        [0, 1, 2, 3, 4].map(|i: usize| self.counts.get(i).map_or(0, |count| count.load(Relaxed)))
    }

    #[inline(always)]
    pub(crate) fn add(&self, which: usize, n: u64) {
        if let Some(count) = self.counts.get(which) {
            count.store(count.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }
}
