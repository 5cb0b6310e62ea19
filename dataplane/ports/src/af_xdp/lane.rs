//! One queue of a device: its socket, and the frames that the kernel has for it.
use super::budget::{Budget, Share};
use super::lent::{Lent, start};
use super::partial::{Partial, partial_within, super_frame};
use super::sys::{Descriptor, Socket};
use crate::cut::Cutter;
use engine::{Class, Frame, Frames, HEADROOM, Packet};
use std::sync::atomic::{Ordering::SeqCst, fence};
use std::time::Duration;

/// What a lane needs to know of its port.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The longest frame that the device takes, link header included, in bytes.
    pub(super) longest: usize,
    /// Received packets may have partial checksums.
    pub(super) partial: bool,
    /// UDP ports behind which VXLAN is looked into for them.
    pub(super) vxlan: Vec<u16>,
    /// The worker drives the device.
    pub(super) busy_poll: bool,
}

/// What goes wrong with packets, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) no_frame: u64,
    pub(super) too_long: u64,
    pub(super) refused: u64,
    pub(super) rest_dropped: u64, // of super-frames, when the link went down
}

/// A queue's socket at work. How it sends is in `send.rs`.
pub(super) struct Lane {
    pub(super) socket: Socket,
    pub(super) lent: Lent,
    pub(super) counts: Counts,
    pub(super) terms: Terms,
    pub(super) cutting: Option<(Packet, Cutter)>, // a super-frame of which a part is sent
    pub(super) scratch: Vec<u8>,                  // a segment that needs several frames
    pub(super) chain: Vec<Frame>,                 // the frames that a packet needs, empty in between
    pub(super) under_way: u32,                    // frames lent to be sent
    pub(super) failed: bool,                      // the kernel would not send, when last asked
    gathered: Gathered,
    share: Share,
    returned: u32, // frames that came from the receive ring, not yet counted
}

impl Lane {
    pub(super) fn new(socket: Socket, lent: Lent, share: Share, terms: Terms) -> Self {
        Lane {
            socket,
            lent,
            counts: Counts::default(),
            cutting: None,
            scratch: vec![0; terms.longest],
            chain: Vec::with_capacity(terms.longest.div_ceil(PIECE)),
            under_way: 0,
            failed: false,
            gathered: Gathered::default(),
            share,
            returned: 0,
            terms,
        }
    }

    pub(super) fn receive(&mut self, frames: &mut Frames, budget: &mut Budget, into: &mut Vec<Packet>, room: usize) {
        let until = into.len() + room;
        let waiting = self.socket.received.waiting();
        for _ in 0..waiting {
            if into.len() == until || frames.idle_packets() == 0 {
                break;
            }
            let piece = self.socket.received.take();
            self.piece(frames, piece, into);
        }
        if waiting > 0 {
            self.socket.received.release();
            budget.received(&mut self.share, waiting, std::mem::take(&mut self.returned));
        } else if self.terms.busy_poll {
            self.socket.kick_receive();
        }
        if self.under_way > 0 {
            self.reap(frames);
        }
        if self.cutting.is_some() {
            self.go_on(frames);
            self.flush();
        }
        self.refill(frames, budget, BATCH);
    }

    /// Before sleep: gives whether nothing waits here, neither received nor to be sent.
    pub(super) fn rest(&mut self, frames: &mut Frames, budget: &mut Budget) -> bool {
        self.go_on(frames);
        self.flush();
        self.reap(frames);
        self.refill(frames, budget, 1);
        if self.failed
            && let Some((packet, _)) = self.cutting.take()
        {
            self.counts.rest_dropped += 1;
            frames.put(packet);
        }
        fence(SeqCst);
        let sent = self.cutting.is_none() && self.socket.sending.held() == 0;
        self.socket.received.waiting() == 0 && (sent || self.failed)
    }

    /// Takes back what the device has sent.
    pub(super) fn reap(&mut self, frames: &mut Frames) {
        let done = self.socket.done.waiting();
        for _ in 0..done {
            let address = self.socket.done.take();
            if let Some(frame) = self.lent.back(address) {
                frames.give(frame);
                self.under_way = self.under_way.saturating_sub(1);
            }
        }
        if done > 0 {
            self.socket.done.release();
        }
    }

    /// Gives the kernel frames to receive into when at least `batch` are missing, or it has none.
    pub(super) fn refill(&mut self, frames: &mut Frames, budget: &mut Budget, batch: u32) {
        let missing = budget.missing(&self.share).min(self.socket.fill.room());
        if missing >= batch || missing > 0 && self.socket.fill.held() == 0 {
            let mut count = 0;
            let spare = frames.stock(Class::Small).1.saturating_sub(RESERVE);
            for _ in 0..missing.min(u32::try_from(spare).unwrap_or(u32::MAX)) {
                let Some(frame) = self.lent.take(frames) else { break };
                match self.lent.lend(frame) {
                    Ok(address) => {
                        self.socket.fill.put(address);
                        count += 1;
                    }
                    Err(frame) => frames.give(frame),
                }
            }
            self.socket.fill.publish();
            budget.lent(&mut self.share, count);
        }
        if self.socket.fill.needs_wakeup() {
            self.socket.kick_receive();
        }
    }

    /// Ends it: every frame goes home.
    #[expect(clippy::disallowed_methods, reason = "nothing is forwarded any more")]
    pub(super) fn close(mut self, frames: &mut Frames) {
        for _ in 0..CLOSE_WAITS {
            self.reap(frames);
            if self.under_way == 0 {
                break;
            }
            std::thread::sleep(CLOSE_WAIT); // a device may still read what it was given
        }
        drop(self.socket); // from here on the kernel writes to no frame
        self.lent.all_back(frames);
        self.gathered.frame.into_iter().for_each(|frame| frames.give(frame));
        self.cutting.into_iter().for_each(|(packet, _)| frames.put(packet));
    }

    #[inline(always)]
    fn piece(&mut self, frames: &mut Frames, piece: Descriptor, into: &mut Vec<Packet>) {
        let last = piece.options & libc::XDP_PKT_CONTD == 0;
        let frame = self.lent.back(piece.addr);
        self.returned += u32::from(frame.is_some());
        let packet = match frame {
            Some(frame) if last && !self.gathered.begun => {
                frames.packet(frame, start(piece.addr), piece.len).map_err(|frame| frames.give(frame)).ok()
            }
            frame => {
                self.gathered.add(frames, frame, piece);
                if !last {
                    return;
                }
                self.gathered.end(frames)
            }
        };
        match packet {
            Some(packet) => into.extend(self.examined(frames, packet)),
            None => self.counts.no_frame += 1,
        }
    }

    /// Sees what a virtual device left undone.
    #[inline(always)]
    fn examined(&mut self, frames: &mut Frames, mut packet: Packet) -> Option<Packet> {
        if !self.terms.partial {
            return Some(packet);
        }
        let mut found = partial_within(packet.data(), &self.terms.vxlan);
        if packet.len() > self.terms.longest + VLAN {
            found = found.and_then(|found| super_frame(packet.data(), found, self.terms.longest));
            if found.is_none() {
                self.counts.too_long += 1;
                frames.put(packet);
                return None;
            }
        }
        if let Some(Partial { mut offload, l3 }) = found {
            let start = u16::try_from(packet.start()).unwrap_or(0);
            offload.checksum_start += start;
            let meta = packet.meta_mut();
            (meta.offload, meta.l3) = (offload, l3 + start);
        }
        Some(packet)
    }
}

/// A received packet of several pieces, in the making: packets are linear.
#[derive(Default)]
struct Gathered {
    frame: Option<Frame>,
    len: usize,
    begun: bool,
    spoiled: bool, // no frame was free, or it is longer than any: the rest of it is thrown away
}

impl Gathered {
    fn add(&mut self, frames: &mut Frames, frame: Option<Frame>, piece: Descriptor) {
        self.begun = true;
        let Some(mut from) = frame else {
            self.spoiled = true;
            return;
        };
        let at = start(piece.addr) as usize;
        let bytes = from.bytes_mut().get(at..at.saturating_add(piece.len as usize));
        let added = bytes.and_then(|bytes| self.append(frames, bytes));
        self.spoiled |= added.is_none();
        frames.give(from);
    }

    fn append(&mut self, frames: &mut Frames, bytes: &[u8]) -> Option<()> {
        let len = self.len + bytes.len();
        let have = self.frame.as_ref().map_or(0, |frame| frame.class().payload());
        if len > have {
            let class = if len > Class::Jumbo.payload() { Class::Super } else { Class::Jumbo };
            let mut larger = frames.take(Class::holding(len).map(|_| class)?)?;
            if let Some(mut old) = self.frame.take() {
                let (to, from) =
                    (larger.bytes_mut().get_mut(room(0, self.len)), old.bytes_mut().get(room(0, self.len)));
                if let Some((to, from)) = to.zip(from) {
                    to.copy_from_slice(from);
                }
                frames.give(old);
            }
            self.frame = Some(larger);
        }
        self.frame.as_mut()?.bytes_mut().get_mut(room(self.len, len))?.copy_from_slice(bytes);
        self.len = len;
        Some(())
    }

    fn end(&mut self, frames: &mut Frames) -> Option<Packet> {
        let Gathered { frame, len, spoiled, .. } = std::mem::take(self);
        let frame = frame?;
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let packet = if spoiled { Err(frame) } else { frames.packet(frame, HEADROOM.into(), len) };
        packet.map_err(|frame| frames.give(frame)).ok()
    }
}

/// Bytes `from` to `to` of a packet in its frame.
fn room(from: usize, to: usize) -> std::ops::Range<usize> {
    usize::from(HEADROOM) + from..usize::from(HEADROOM) + to
}

/// How much of a packet a small frame takes: all behind the headroom, as when the kernel fills it.
pub(super) const PIECE: usize = Class::Small.stride() - HEADROOM as usize;

const VLAN: usize = 4;
const BATCH: u32 = 64;
const RESERVE: usize = 32; // small frames that the kernel does not get: for packets of our own
const CLOSE_WAITS: u32 = 50;
const CLOSE_WAIT: Duration = Duration::from_micros(100);
