//! `replay`: receives the frames that it was given, in order, and keeps what is sent for whoever asks.
#![expect(
    clippy::disallowed_types,
    reason = "tests take from another thread what was sent; benches use `refill` and `null`"
)]
use crate::lossless;
use engine::{Abilities, Device, Frames, Offload, OpenError, Packet, Queue};
use std::{
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, PoisonError},
};

/// A frame to be received, or one that was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Its bytes, link header first.
    pub bytes: Vec<u8>,
    /// What is still to be done to it; offsets count from the first byte of `bytes`, not from a pool's frame.
    pub offload: Offload,
}

impl From<&[u8]> for Replayed {
    fn from(bytes: &[u8]) -> Self {
        Replayed { bytes: bytes.to_vec(), offload: Offload::default() }
    }
}

/// The device. Frame `i` is received by queue `i` modulo the number of queues.
#[derive(Debug, Default)]
pub struct Replay {
    frames: Vec<Replayed>,
    again: bool,
    sent: Sent,
}

impl Replay {
    /// Receives each of these once.
    pub fn once(frames: Vec<Replayed>) -> Self {
        Replay { frames, again: false, sent: Sent::default() }
    }

    /// Receives these over and over.
    pub fn cycle(frames: Vec<Replayed>) -> Self {
        Replay { frames, again: true, sent: Sent::default() }
    }

    /// What will have been sent, and a way to receive more.
    pub fn sent(&self) -> Sent {
        self.sent.clone()
    }
}

/// What was sent by a [`Replay`], from whatever thread. Its locks are for tests: benches send into [`crate::Null`].
#[derive(Clone, Debug, Default)]
pub struct Sent(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    sent: Mutex<Vec<Replayed>>,
    more: Mutex<Vec<Replayed>>,
}

impl Sent {
    /// Takes what was sent since the last time, in order.
    pub fn take(&self) -> Vec<Replayed> {
        std::mem::take(&mut *self.0.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the first queue receive these too, after what it has.
    pub fn feed(&self, frames: impl IntoIterator<Item = Replayed>) {
        self.0.more.lock().unwrap_or_else(PoisonError::into_inner).extend(frames);
    }
}

impl Device for Replay {
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError> {
        let count = workers.len();
        let share = |first| self.frames.iter().skip(first).step_by(count).cloned().collect();
        let queue = |i| {
            let (frames, sent) = (share(i), self.sent.clone());
            Box::new(ReplayQueue { frames, next: 0, again: self.again, fed: i == 0, sent }) as _
        };
        Ok((0..count).map(queue).collect())
    }
}

struct ReplayQueue {
    frames: Vec<Replayed>,
    next: usize,
    again: bool,
    fed: bool, // receives what is fed
    sent: Sent,
}

impl Queue for ReplayQueue {
    fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, room: usize) {
        if self.fed {
            self.frames.append(&mut self.sent.0.more.lock().unwrap_or_else(PoisonError::into_inner));
        }
        for _ in 0..room {
            if self.again && self.next == self.frames.len() {
                self.next = 0;
            }
            let Some(replayed) = self.frames.get(self.next) else { return };
            let Some(mut packet) = frames.copy(&replayed.bytes) else { return };
            let mut offload = replayed.offload;
            if offload.checksum_start != 0 {
                let start = u16::try_from(packet.start()).unwrap_or(u16::MAX);
                offload.checksum_start = offload.checksum_start.saturating_add(start);
            }
            packet.meta_mut().offload = offload;
            into.push(packet);
            self.next += 1;
        }
    }

    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        let mut sent = self.sent.0.sent.lock().unwrap_or_else(PoisonError::into_inner);
        for packet in from.drain(..) {
            let mut offload = packet.meta().offload;
            if offload.checksum_start != 0 {
                let start = u16::try_from(packet.start()).unwrap_or(u16::MAX);
                offload.checksum_start = offload.checksum_start.saturating_sub(start);
            }
            sent.push(Replayed { bytes: packet.data().to_vec(), offload });
            frames.put(packet);
        }
    }

    fn can(&self) -> Abilities {
        lossless()
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&mut self, _: &mut Frames) {}
}
