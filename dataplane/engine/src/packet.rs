//! A packet: an owned handle to 64 bytes of metadata, and the frame that holds its bytes.
// UNSAFETY: frames lie in mapped memory that kernel and peers may write while it is lent, so they are pointers, not
// references; a packet's bounds are private and every change of them is checked.
#![expect(unsafe_code, reason = "frames are mapped memory")]
use crate::pool::{Class, Frame, HEADROOM};

/// "None" among slot numbers in [`Meta`].
pub const NONE: u32 = u32::MAX;

/// How a packet's bytes are to be finished or cut by the port that sends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Segmentation {
    /// One packet as it stands.
    #[default]
    None,
    /// TCP over IPv4 (TSO4).
    Tcp4,
    /// TCP over IPv6 (TSO6).
    Tcp6,
    /// UDP datagrams of one flow (USO), over IPv4 or IPv6.
    Udp,
}

/// What remains to be done to a packet before it is on a wire: a checksum to complete, segments to cut.
///
/// A super-frame (`segmentation` other than none) always has a partial checksum at `checksum_start`, the offset of its
/// inner transport header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Where the checksummed bytes begin, counted from the frame's start as [`Meta::l3`] is; zero: the checksum stands.
    pub checksum_start: u16,
    /// Where the checksum lies, counted from `checksum_start`; it holds the pseudo-header's sum.
    pub checksum_offset: u8,
    /// How to cut.
    pub segmentation: Segmentation,
    /// The most payload bytes of a segment; zero when there is nothing to cut.
    pub segment_size: u16,
}

/// What nodes and ports tell each other about one packet.
///
/// Offsets count from the start of the *frame*, so that headers put in front or taken off leave them right; zero means
/// unknown. Numbers name slots of what was told; [`NONE`] is none.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The flow hash of the packet's key.
    pub hash: u64,
    /// The flow slot that may hold this packet's flow.
    pub flow: u32,
    /// The next hop that the answer names.
    pub next_hop: u32,
    /// The tunnel that the answer names, or that the packet came by; `u16::MAX` is none.
    pub tunnel: u16,
    /// The port by which the packet came.
    pub port_in: u16,
    /// The port by which it leaves.
    pub port_out: u16,
    /// The virtual routing table in which it is looked up.
    pub vrf: u16,
    /// Where the network header begins.
    pub l3: u16,
    /// Where the transport header begins.
    pub l4: u16,
    /// What is still to be done by a port.
    pub offload: Offload,
    /// The transport protocol (IANA protocol number).
    pub protocol: u8,
    /// Bits that the nodes define.
    pub flags: u8,
    /// The arc that a stage before `one` has chosen already; zero when none has.
    pub early: u8,
    /// Not zero: record every step of this packet.
    pub trace: u8,
    /// How often the packet went back in the graph.
    pub(crate) laps: u8,
    /// The worker that the packet is handed to, where an arc leads there.
    pub worker: u8,
}

impl Default for Meta {
    fn default() -> Self {
        Meta {
            hash: 0,
            flow: NONE,
            next_hop: NONE,
            tunnel: u16::MAX,
            port_in: 0,
            port_out: 0,
            vrf: 0,
            l3: 0,
            l4: 0,
            offload: Offload::default(),
            protocol: 0,
            flags: 0,
            early: 0,
            trace: 0,
            laps: 0,
            worker: 0,
        }
    }
}

/// One cache line, apart from the frame: reading it costs no miss, and nobody who maps the frame can write it.
#[repr(C, align(64))]
pub(crate) struct Slot {
    frame: Frame, // without bytes while no packet owns the slot
    len: u32,     // start + len <= the frame's size: whoever changes one checks first
    start: u16,
    meta: Meta,
}
const _: () = assert!(size_of::<Slot>() == 64);

impl Default for Slot {
    fn default() -> Self {
        Slot { frame: Frame::NONE, len: 0, start: 0, meta: Meta::default() }
    }
}

/// An owned packet. It cannot be copied, so whoever gave it away (to a list, a port, the pool) cannot touch it again.
#[must_use = "a packet that is not put back is lost to its pool"]
pub struct Packet(&'static mut Slot);

impl Packet {
    /// A packet of `len` bytes at `start` of `frame`; the frame comes back when they do not fit.
    #[inline(always)]
    pub(crate) fn new(
        slot: &'static mut Slot,
        frame: Frame,
        start: u16,
        len: u32,
    ) -> Result<Self, (&'static mut Slot, Frame)> {
        if u64::from(start) + u64::from(len) > u64::from(frame.size()) {
            return Err((slot, frame));
        }
        // Field by field: a whole slot would be built elsewhere and copied.
        slot.frame = frame;
        (slot.start, slot.len) = (start, len);
        slot.meta = Meta::default();
        Ok(Packet(slot))
    }

    #[inline(always)]
    pub(crate) fn dissolve(self) -> (&'static mut Slot, Frame) {
        let frame = std::mem::replace(&mut self.0.frame, Frame::NONE);
        (self.0, frame)
    }

    /// What nodes and ports say about this packet.
    #[inline(always)]
    pub fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// What nodes and ports say about this packet.
    #[inline(always)]
    pub fn meta_mut(&mut self) -> &mut Meta {
        &mut self.0.meta
    }

    /// How long it is, in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.0.len as usize
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Where its first byte lies, counted from the frame's start.
    #[inline(always)]
    pub fn start(&self) -> usize {
        self.0.start.into()
    }

    /// Its bytes.
    #[inline(always)]
    pub fn data(&self) -> &[u8] {
        self.bytes(self.start(), self.len())
    }

    /// Its bytes.
    #[inline(always)]
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.bytes_mut(self.start(), self.len())
    }

    /// Its bytes from `offset` of the *frame* on, such as [`Meta::l3`]; none when that lies outside of them.
    #[inline(always)]
    pub fn from(&self, offset: u16) -> &[u8] {
        self.data().get(usize::from(offset).wrapping_sub(self.start())..).unwrap_or_default()
    }

    /// Its bytes from `offset` of the *frame* on, such as [`Meta::l3`]; none when that lies outside of them.
    #[inline(always)]
    pub fn from_mut(&mut self, offset: u16) -> &mut [u8] {
        let at = usize::from(offset).wrapping_sub(self.start());
        self.data_mut().get_mut(at..).unwrap_or_default()
    }

    /// Starts loading its first cache line.
    #[inline(always)]
    pub fn fetch(&self) {
        crate::simd::fetch_at(self.0.frame.pointer().wrapping_add(self.start()));
    }

    /// Starts loading the cache line in front of its first one, where headers may be put.
    #[inline(always)]
    pub fn fetch_headroom(&self) {
        crate::simd::fetch_at(self.0.frame.pointer().wrapping_add(self.start()).wrapping_sub(64));
    }

    /// The unused bytes in front of the data.
    #[inline(always)]
    pub fn headroom(&self) -> &[u8] {
        self.bytes(0, self.start())
    }

    /// How many bytes can still be put behind the data.
    pub fn tailroom(&self) -> usize {
        self.size().saturating_sub(self.start()).saturating_sub(self.len())
    }

    /// Adds `n` bytes in front and gives the whole data; `None`, and no change, when the headroom is too small.
    #[inline(always)]
    pub fn push(&mut self, n: u16) -> Option<&mut [u8]> {
        self.0.start = self.0.start.checked_sub(n)?;
        self.0.len += u32::from(n);
        Some(self.data_mut())
    }

    /// Removes `n` bytes in front; `None`, and no change, when there are fewer.
    #[inline(always)]
    pub fn pull(&mut self, n: u16) -> Option<()> {
        let (start, len) = (self.0.start.checked_add(n)?, self.0.len.checked_sub(n.into())?);
        (self.0.start, self.0.len) = (start, len);
        Some(())
    }

    /// Makes it `len` bytes long, cut or grown at the end; `None`, and no change, when the frame is too small.
    #[inline(always)]
    pub fn resize(&mut self, len: usize) -> Option<&mut [u8]> {
        let longest = self.size().checked_sub(self.start())?;
        let new = u32::try_from(len).ok().filter(|_| len <= longest)?;
        self.0.len = new;
        Some(self.data_mut())
    }

    /// Cuts it at the end to `len` bytes, if it is longer.
    #[inline(always)]
    pub fn truncate(&mut self, len: usize) {
        self.0.len = self.0.len.min(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// The frame offset, as in [`Meta::l3`], of its byte `at`; a number without meaning where there is no such byte.
    #[inline(always)]
    pub fn offset(&self, at: u16) -> u16 {
        self.0.start.wrapping_add(at)
    }

    /// Empties it and puts its (future) first byte where a received packet's would be, with full headroom.
    pub fn reset(&mut self) {
        (self.0.start, self.0.len) = (HEADROOM, 0);
        self.0.meta = Meta { trace: self.0.meta.trace, ..Meta::default() };
    }

    /// How many packets it will be on a wire: what it counts for at admission.
    #[inline(always)]
    pub fn segments(&self) -> usize {
        match self.0.meta.offload.segment_size {
            0 => 1,
            size => self.len().div_ceil(usize::from(size)).max(1),
        }
    }

    /// The class of its frame.
    pub fn class(&self) -> Class {
        self.0.frame.class()
    }

    #[inline(always)]
    fn size(&self) -> usize {
        self.0.frame.size() as usize
    }

    #[inline(always)]
    fn bytes(&self, start: usize, len: usize) -> &[u8] {
        // SAFETY: start + len <= the frame's size (the slot's invariant), so the sum stays inside the frame.
        let first = unsafe { self.0.frame.pointer().add(start) };
        // SAFETY: these bytes are mapped for ever and initialised, and this packet alone owns them; the borrow of
        // `self` is a borrow of them.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    #[inline(always)]
    fn bytes_mut(&mut self, start: usize, len: usize) -> &mut [u8] {
        // SAFETY: start + len <= the frame's size (the slot's invariant), so the sum stays inside the frame.
        let first = unsafe { self.0.frame.pointer().add(start) };
        // SAFETY: these bytes are mapped for ever and initialised, and this packet alone owns them; the exclusive
        // borrow of `self` is one of them.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packet").field("len", &self.0.len).field("meta", &self.0.meta).finish_non_exhaustive()
    }
}
