//! How a lane sends: a frame of its memory as it is, all else copied or cut into such frames.
use super::lane::{Lane, PIECE};
use super::lent::with_start;
use super::sys::Descriptor;
use crate::cut::{Cutter, finish_checksum};
use engine::{Class, Frame, Frames, HEADROOM, Packet, Segmentation};

impl Lane {
    pub(super) fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        self.reap(frames);
        from.reverse();
        while let Some(packet) = from.pop() {
            if let Some(packet) = self.offer(frames, packet) {
                from.push(packet);
                break;
            }
        }
        from.reverse();
        self.flush();
    }

    /// Cuts what is left of a super-frame; gives whether nothing is.
    pub(super) fn go_on(&mut self, frames: &mut Frames) -> bool {
        let Some((packet, mut cutter)) = self.cutting.take() else { return true };
        while cutter.left() > 0 {
            match self.segment(frames, &packet, &mut cutter) {
                Cut::Done => {}
                Cut::Full => {
                    self.cutting = Some((packet, cutter));
                    return false;
                }
                Cut::Impossible => {
                    self.counts.refused += 1;
                    break;
                }
            }
        }
        frames.put(packet);
        true
    }

    /// Shows the kernel what is to be sent and calls it, where it wants to be called: it takes 32 frames a call in copy
    /// mode.
    pub(super) fn flush(&mut self) {
        self.failed = false;
        self.socket.sending.publish();
        if !self.socket.sending.needs_wakeup() {
            return;
        }
        let mut left = self.socket.sending.held();
        for _ in 0..=left / FRAMES_A_CALL {
            if left == 0 {
                return;
            }
            if let Err(error) = self.socket.kick_send()
                && !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR))
            {
                self.failed = true;
                return;
            }
            let now = self.socket.sending.held();
            if now == left {
                return; // it takes no more now: completions must come first
            }
            left = now;
        }
    }

    /// Sends a packet, or gives it back where there is no room for it now.
    #[inline(always)]
    fn offer(&mut self, frames: &mut Frames, mut packet: Packet) -> Option<Packet> {
        if !self.go_on(frames) || self.socket.sending.room() == 0 {
            return Some(packet);
        }
        if packet.meta().offload.segmentation != Segmentation::None {
            return self.begin(frames, packet);
        }
        if packet.len() > self.terms.longest {
            self.counts.too_long += 1;
            frames.put(packet);
            return None;
        }
        if packet.is_empty() || finish_checksum(&mut packet).is_err() {
            self.counts.refused += 1;
            frames.put(packet);
            return None;
        }
        self.whole(frames, packet)
    }

    fn begin(&mut self, frames: &mut Frames, packet: Packet) -> Option<Packet> {
        match Cutter::new(&packet) {
            Ok(cutter) if cutter.longest() <= self.terms.longest => {
                self.cutting = Some((packet, cutter));
                self.go_on(frames);
                return None;
            }
            Ok(_) => self.counts.too_long += 1,
            Err(_) => self.counts.refused += 1,
        }
        frames.put(packet);
        None
    }

    #[inline(always)]
    fn whole(&mut self, frames: &mut Frames, packet: Packet) -> Option<Packet> {
        let (start, len) = (packet.start(), packet.len());
        // A packet in a small frame, of our own memory or not: only the frame can tell.
        if start + len + packet.tailroom() == Class::Small.stride() {
            let frame = frames.frame(packet);
            let Err(mut frame) = self.put(frame, start, len, true) else { return None };
            let bytes = frame.bytes_mut().get(start..start + len).unwrap_or_default();
            if self.copy(frames, bytes) {
                frames.give(frame);
                return None;
            }
            let (start, len) = (u32::try_from(start).unwrap_or(0), u32::try_from(len).unwrap_or(0));
            let again = frames.packet(frame, start, len).map_err(|frame| frames.give(frame)).ok();
            self.counts.refused += u64::from(again.is_none());
            return again;
        }
        if !self.copy(frames, packet.data()) {
            return Some(packet);
        }
        frames.put(packet);
        None
    }

    /// One segment of a super-frame, straight into a frame of the device where it fits into one.
    fn segment(&mut self, frames: &mut Frames, packet: &Packet, cutter: &mut Cutter) -> Cut {
        if cutter.longest() > PIECE {
            return self.long_segment(frames, packet, cutter);
        }
        if self.socket.sending.room() == 0 {
            return Cut::Full;
        }
        let Some(mut frame) = self.lent.take(frames) else { return Cut::Full };
        let headroom = usize::from(HEADROOM);
        let cut = frame.bytes_mut().get_mut(headroom..).and_then(|out| cutter.next(packet, out));
        let Some(len) = cut else {
            frames.give(frame);
            return Cut::Impossible;
        };
        match self.put(frame, headroom, len, true) {
            Ok(()) => Cut::Done,
            Err(frame) => {
                frames.give(frame);
                Cut::Impossible
            }
        }
    }

    fn long_segment(&mut self, frames: &mut Frames, packet: &Packet, cutter: &mut Cutter) -> Cut {
        if !self.can_copy(frames, cutter.longest()) {
            return Cut::Full;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let len = cutter.next(packet, &mut scratch);
        let sent = len.and_then(|len| scratch.get(..len)).is_some_and(|segment| self.copy(frames, segment));
        self.scratch = scratch;
        if sent { Cut::Done } else { Cut::Impossible }
    }

    fn can_copy(&self, frames: &Frames, len: usize) -> bool {
        let pieces = len.div_ceil(PIECE);
        pieces <= self.socket.sending.room() as usize && pieces <= frames.stock(Class::Small).1
    }

    /// Sends a copy of `bytes` in as many frames as they need; gives false, and sends nothing, without room or frames.
    fn copy(&mut self, frames: &mut Frames, bytes: &[u8]) -> bool {
        let pieces = bytes.len().div_ceil(PIECE);
        if !self.can_copy(frames, bytes.len()) {
            return false;
        }
        while self.chain.len() < pieces {
            let Some(frame) = self.lent.take(frames) else {
                self.chain.drain(..).for_each(|frame| frames.give(frame));
                return false;
            };
            self.chain.push(frame);
        }
        let headroom = usize::from(HEADROOM);
        for piece in bytes.chunks(PIECE) {
            let Some(mut frame) = self.chain.pop() else { break };
            if let Some(to) = frame.bytes_mut().get_mut(headroom..headroom + piece.len()) {
                to.copy_from_slice(piece);
            }
            let last = self.chain.is_empty();
            if let Err(frame) = self.put(frame, headroom, piece.len(), last) {
                frames.give(frame); // cannot be: it was taken to be lent
            }
        }
        true
    }

    /// Puts one frame into the ring. Only where there is room.
    #[inline(always)]
    fn put(&mut self, frame: Frame, start: usize, len: usize, last: bool) -> Result<(), Frame> {
        let addr = with_start(self.lent.lend(frame)?, start);
        let options = if last { 0 } else { libc::XDP_PKT_CONTD };
        self.socket.sending.put(Descriptor { addr, len: u32::try_from(len).unwrap_or(0), options });
        self.under_way += 1;
        Ok(())
    }
}

enum Cut {
    Done,
    Full,
    Impossible,
}

const FRAMES_A_CALL: u32 = 32;
