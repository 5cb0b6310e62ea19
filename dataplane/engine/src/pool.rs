//! Frames: where packets' bytes lie; a worker's stock of them.
// UNSAFETY: a frame is a pointer into mapped memory, as the kernel or a peer writes it while it is lent.
#![expect(unsafe_code, reason = "frames are mapped memory")]
use crate::packet::{Packet, Slot};
use hugepages::{Got, MapError, Settings};
use std::ptr::NonNull;

/// Bytes in front of a received packet, for headers that nodes put there: deepest encapsulation, link header, and the
/// 256 bytes that AF_XDP leaves free (kernel: `XDP_PACKET_HEADROOM`).
pub const HEADROOM: u16 = 256;

/// How large a packet a frame can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Up to 2 KiB: a packet of an Ethernet with standard MTU.
    Small,
    /// Up to 10 KiB: jumbo frames.
    Jumbo,
    /// Up to 65,549 bytes: what a tap gives with segmentation offload (64 KiB less one of IP, and the link header).
    Super,
}

impl Class {
    /// All classes, smallest first.
    pub const ALL: [Class; 3] = [Class::Small, Class::Jumbo, Class::Super];

    /// The longest packet of this class, in bytes.
    pub const fn payload(self) -> usize {
        match self {
            Class::Small => 2048,
            Class::Jumbo => 10 * 1024,
            Class::Super => 65_549,
        }
    }

    /// From frame to frame in bytes: an odd number of cache lines. Headers at a power-of-two distance would all fall
    /// into the same few sets of the L1 cache.
    pub const fn stride(self) -> usize {
        match self {
            Class::Small => 37 * 64,
            Class::Jumbo => 165 * 64,
            Class::Super => 1029 * 64,
        }
    }

    /// The smallest class that holds `len` bytes.
    pub fn holding(len: usize) -> Option<Class> {
        Class::ALL.into_iter().find(|class| len <= class.payload())
    }
}
const _: () = {
    let mut i = 0;
    while i < 3 {
        #[expect(clippy::indexing_slicing, reason = "at compile time")]
        let class = Class::ALL[i];
        assert!(class.stride() % 128 == 64 && class.stride() >= HEADROOM as usize + class.payload());
        i += 1;
    }
};

/// An owned frame: memory for one packet. It goes home to the pool that it came from.
#[must_use = "a frame that is not given back is lost to its pool"]
#[derive(Debug)]
pub struct Frame {
    at: NonNull<u8>,
    size: u32,
    home: u8, // the worker
    class: Class,
}
// SAFETY: a frame is the only owner of its bytes, which are mapped for the life of the process.
unsafe impl Send for Frame {}
const _: () = assert!(size_of::<Option<Frame>>() == 16);

impl Frame {
    /// A frame without bytes, that belongs to no pool.
    pub(crate) const NONE: Frame = Frame { at: NonNull::dangling(), size: 0, home: 0, class: Class::Small };

    /// How large it is, headroom included, in bytes.
    #[inline(always)]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Its class.
    #[inline(always)]
    pub fn class(&self) -> Class {
        self.class
    }

    /// All its bytes, headroom included.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `at` is the start of `size` bytes that are mapped for ever, initialised, and owned by this frame.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.size as usize) }
    }

    /// Where it lies in `memory`, in bytes from its start: the address that a driver's descriptor bears.
    #[inline(always)]
    pub fn offset(&self, memory: &Memory) -> Option<u64> {
        let offset = self.at.addr().get().checked_sub(memory.base)?;
        (offset < memory.len).then_some(offset as u64)
    }

    #[inline(always)]
    pub(crate) fn pointer(&self) -> *mut u8 {
        self.at.as_ptr()
    }
}

/// The memory of one class of frames, for a driver that registers it with the kernel or a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The address of its first byte: page aligned.
    pub base: usize,
    /// Its length in bytes: whole pages.
    pub len: usize,
    /// From frame to frame, in bytes.
    pub stride: usize,
}

/// How many frames of each class a worker owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameCounts {
    /// Frames of 2 KiB.
    pub small: usize,
    /// Frames of 10 KiB.
    pub jumbo: usize,
    /// Frames of 64 KiB.
    pub super_: usize,
    /// Packets in flight at once: so few that their metadata stays in the cache.
    pub packets: usize,
}

impl FrameCounts {
    fn of(&self, class: Class) -> usize {
        match class {
            Class::Small => self.small,
            Class::Jumbo => self.jumbo,
            Class::Super => self.super_,
        }
    }

    /// How much memory these need, in bytes, rounded up to pages by class.
    pub fn bytes(&self) -> usize {
        Class::ALL.into_iter().map(|class| pages(self.of(class) * class.stride())).sum()
    }
}

struct Pool {
    free: Vec<Frame>,
    total: usize,
    memory: Memory,
}

/// A worker's frames and packet handles, each a stack: what was used last is still in the cache and is used next.
///
/// The memory is never unmapped: packets may outlive the stock that they came from.
pub struct Frames {
    pools: [Pool; 3],
    slots: Vec<&'static mut Slot>,
    pub(crate) packets: usize,
    strays: Vec<Frame>, // of other workers, on their way home
    worker: u8,
    got: Got,
}

impl Frames {
    /// Maps memory as `map` asks (its size is computed from `counts`) and cuts it into frames of worker `worker`.
    pub fn new(worker: u8, counts: FrameCounts, map: Settings) -> Result<Self, MapError> {
        let (mut memory, got) = hugepages::leak_slice::<u8>(counts.bytes(), map)?;
        let pools = Class::ALL.map(|class| {
            let (mine, rest) = std::mem::take(&mut memory)
                .split_at_mut_checked(pages(counts.of(class) * class.stride()))
                .unwrap_or_default();
            memory = rest;
            Pool::new(worker, class, mine, counts.of(class))
        });
        let slots = Vec::from_iter((0..counts.packets).map(|_| Slot::default())).leak();
        let slots = slots.iter_mut().collect();
        let strays = Vec::with_capacity(counts.packets);
        Ok(Frames { pools, slots, packets: counts.packets, strays, worker, got })
    }

    /// The same memory without a frame in it, for a device that is opened while the worker has the frames: the device
    /// registers the memory, and takes frames when the worker first receives from it.
    pub fn outline(&self) -> Self {
        let pool = |pool: &Pool| Pool { free: Vec::new(), total: pool.total, memory: pool.memory };
        Frames {
            pools: self.pools.each_ref().map(pool),
            slots: Vec::new(),
            packets: 0,
            strays: Vec::new(),
            worker: self.worker,
            got: self.got.clone(),
        }
    }

    /// What memory was got for the frames.
    pub fn got(&self) -> &Got {
        &self.got
    }

    /// A free frame, not yet a packet.
    #[inline(always)]
    pub fn take(&mut self, class: Class) -> Option<Frame> {
        self.pool(class).free.pop()
    }

    /// Gives a frame back.
    #[inline(always)]
    pub fn give(&mut self, frame: Frame) {
        if frame.home == self.worker {
            self.pool(frame.class).free.push(frame);
        } else {
            self.strays.push(frame);
        }
    }

    /// A packet of the `len` bytes at `start` of `frame`. The frame comes back when they do not fit into it or when too
    /// many packets are in flight.
    #[inline(always)]
    pub fn packet(&mut self, frame: Frame, start: u32, len: u32) -> Result<Packet, Frame> {
        let Ok(start) = u16::try_from(start) else { return Err(frame) };
        let Some(slot) = self.slots.pop() else { return Err(frame) };
        Packet::new(slot, frame, start, len).map_err(|(slot, frame)| {
            self.slots.push(slot);
            frame
        })
    }

    /// An empty packet with full headroom that can hold `len` bytes.
    pub fn fresh(&mut self, len: usize) -> Option<Packet> {
        let frame = self.take(Class::holding(len)?)?;
        match self.packet(frame, HEADROOM.into(), 0) {
            Ok(packet) => Some(packet),
            Err(frame) => {
                self.give(frame);
                None
            }
        }
    }

    /// A packet with these bytes; `None` when they are too many, or frames or packets are used up.
    pub fn copy(&mut self, bytes: &[u8]) -> Option<Packet> {
        let mut packet = self.fresh(bytes.len())?;
        if let Some(data) = packet.resize(bytes.len()) {
            data.copy_from_slice(bytes);
        }
        Some(packet)
    }

    /// Ends a packet: its frame goes home.
    #[inline(always)]
    pub fn put(&mut self, packet: Packet) {
        let frame = self.frame(packet);
        self.give(frame);
    }

    /// Ends a packet and keeps its frame, for a port that lends it to a device.
    #[inline(always)]
    pub fn frame(&mut self, packet: Packet) -> Frame {
        let (slot, frame) = packet.dissolve();
        self.slots.push(slot);
        frame
    }

    /// The memory of a class, for drivers that register it.
    pub fn memory(&self, class: Class) -> Memory {
        let [small, jumbo, super_] = &self.pools;
        match class {
            Class::Small => small.memory,
            Class::Jumbo => jumbo.memory,
            Class::Super => super_.memory,
        }
    }

    /// How many frames of a class there are, and how many of them are free.
    pub fn stock(&self, class: Class) -> (usize, usize) {
        let [small, jumbo, super_] = &self.pools;
        let pool = match class {
            Class::Small => small,
            Class::Jumbo => jumbo,
            Class::Super => super_,
        };
        (pool.total, pool.free.len())
    }

    /// How many free frames of a class are beyond the half that nothing may wait in, for a port or a neighbour. What
    /// waits in one place may use as much as it leaves.
    pub fn spare(&self, class: Class) -> usize {
        let (total, free) = self.stock(class);
        free.saturating_sub(total / 2)
    }

    /// How many packets could still be made, whatever the frames.
    pub fn idle_packets(&self) -> usize {
        self.slots.len()
    }

    /// Whether every frame and every packet is home: nothing is in flight and nothing was lost.
    pub fn all_home(&self) -> bool {
        self.slots.len() == self.packets && self.pools.iter().all(|pool| pool.free.len() == pool.total)
    }

    /// Frames of other workers that ended here, to be handed back to them.
    pub fn strays(&mut self) -> &mut Vec<Frame> {
        &mut self.strays
    }

    #[inline(always)]
    fn pool(&mut self, class: Class) -> &mut Pool {
        let [small, jumbo, super_] = &mut self.pools;
        match class {
            Class::Small => small,
            Class::Jumbo => jumbo,
            Class::Super => super_,
        }
    }
}

impl Pool {
    fn new(home: u8, class: Class, memory: &'static mut [u8], count: usize) -> Self {
        let (base, len, stride) = (memory.as_ptr().addr(), memory.len(), class.stride());
        let size = u32::try_from(stride).unwrap_or(u32::MAX);
        let frames = memory.chunks_exact_mut(stride).take(count);
        let mut free: Vec<_> =
            frames.map(|chunk| Frame { at: NonNull::from(chunk).cast(), size, home, class }).collect();
        free.reverse(); // the first frame is taken first
        Pool { total: free.len(), free, memory: Memory { base, len, stride } }
    }
}

const fn pages(bytes: usize) -> usize {
    bytes.next_multiple_of(4096)
}
