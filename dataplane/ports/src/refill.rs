//! `refill`: receives packets whose headers are cold, for benches; costs the same whatever the packets are.
use crate::lossless;
use engine::{Abilities, Class, Frame, Frames, HEADROOM, Packet, Queue};
use std::{collections::VecDeque, os::fd::BorrowedFd};

/// A queue that owns frames filled in advance and receives the one that it filled longest ago.
///
/// A frame that comes back to the pool is taken from there at the next `receive`, while it is still in the cache, and
/// filled again; then it waits behind all others. With more frames than a cache has lines its bytes are cold when they
/// are received, as they are from a NIC. Nothing is allocated or copied but what `fill` writes.
///
/// It must be the only port that takes small frames from this worker's pool, and what is sent must end there (in
/// [`crate::Null`]).
pub struct Refill<F> {
    ready: VecDeque<(Frame, u32)>,
    fill: F,
    spare: usize,
}

impl<F: FnMut(&mut [u8]) -> usize + Send> Refill<F> {
    /// Takes all small frames of the pool but `spare`, which are left for nodes that make packets. `fill` writes a
    /// packet into the bytes that it is given and returns its length.
    pub fn new(frames: &mut Frames, spare: usize, fill: F) -> Self {
        let mut refill = Refill { ready: VecDeque::with_capacity(frames.stock(Class::Small).1), fill, spare };
        refill.take_back(frames);
        refill
    }

    /// How many frames it cycles over.
    pub fn depth(&self) -> usize {
        self.ready.len()
    }

    fn take_back(&mut self, frames: &mut Frames) {
        for _ in self.spare..frames.stock(Class::Small).1 {
            let Some(mut frame) = frames.take(Class::Small) else { return };
            let len = (self.fill)(frame.bytes_mut().get_mut(HEADROOM.into()..).unwrap_or_default());
            self.ready.push_back((frame, u32::try_from(len).unwrap_or(0)));
        }
    }
}

impl<F: FnMut(&mut [u8]) -> usize + Send> Queue for Refill<F> {
    fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, room: usize) {
        self.take_back(frames);
        for _ in 0..room {
            let Some((frame, len)) = self.ready.pop_front() else { return };
            match frames.packet(frame, HEADROOM.into(), len) {
                Ok(packet) => into.push(packet),
                Err(frame) => return self.ready.push_front((frame, len)),
            }
        }
    }

    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        from.drain(..).for_each(|packet| frames.put(packet));
    }

    fn can(&self) -> Abilities {
        lossless()
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&mut self, frames: &mut Frames) {
        self.ready.drain(..).for_each(|(frame, _)| frames.give(frame));
    }
}
