//! AF_XDP: packets of a network device in the worker's own frames, while the kernel keeps the device.
//!
//! The worker's small frames are registered as they are, as unaligned chunks: a received packet lies where the kernel
//! (or, with zero copy, the device) put it, and is sent from there again, by any port of this worker. Every port
//! registers the same memory for itself, so no port depends on another's socket. What reaches a socket at all is
//! decided by [`crate::steer`].
mod budget;
mod device;
mod lane;
mod lent;
mod open;
mod partial;
mod queue;
mod send;
mod sys;

pub use open::AfXdp;
pub use partial::partial_checksum;

/// Whether the driver works on our frames itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where it can; else the kernel copies.
    #[default]
    Auto,
    /// The kernel copies.
    Never,
}

/// The worker drives the device's queue itself, instead of interrupts: for a worker that never sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// For how long at most in one call, in microseconds.
    pub microseconds: u32,
    /// How many packets at most in one call.
    pub budget: u32,
}

/// How an AF_XDP port is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of the device, in the network namespace of the thread that opens the port.
    pub interface: String,
    /// Whether the driver works on our frames itself.
    pub zero_copy: ZeroCopy,
    /// How many of the device's queues, from queue 0; none is all of them. What an unserved queue receives for us is
    /// dropped.
    pub queues: Option<u16>,
    /// Poll the device instead of being interrupted by it.
    pub busy_poll: Option<BusyPoll>,
    /// The receive ring of each queue, in packets: a power of two. To receive into, the kernel gets up to twice as many
    /// frames, those of packets that wait to be received included. All queues of one worker together get no more than
    /// half of its small frames, and one queue alone a quarter. Of several queues each is sure of an eighth of the
    /// frames divided by their number; one that receives more gets more, until it has as many as are left for the
    /// others.
    pub receive_ring: u32,
    /// The send ring of each queue, in frames: a power of two.
    pub send_ring: u32,
    /// UDP ports behind which a virtual device's packets are looked into for partial checksums of VXLAN's inner frame.
    pub vxlan_ports: Vec<u16>,
}

impl Settings {
    /// All queues of device `interface`, receive rings of 4096 (eight streams into taps overran 2048 now and then),
    /// send rings of 2048, zero copy where it can be had, no busy polling.
    pub fn new(interface: &str) -> Self {
        Settings {
            interface: interface.into(),
            zero_copy: ZeroCopy::Auto,
            queues: None,
            busy_poll: None,
            receive_ring: 4096,
            send_ring: 2048,
            vxlan_ports: Vec::new(),
        }
    }
}

/// What was got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The XDP program runs in the driver.
    pub native: bool,
    /// The driver works on our frames itself, on every queue.
    pub zero_copy: bool,
    /// Packets longer than a frame can pass, in pieces.
    pub multi_buffer: bool,
    /// How many queues are served.
    pub queues: u16,
    /// The driver's name.
    pub driver: String,
    /// Each way in which it is less than what was asked, and why.
    pub notes: Vec<String>,
}
