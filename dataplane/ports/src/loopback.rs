//! `loopback`: what is sent by a queue is received by it, in order.
use crate::lossless;
use engine::{Abilities, Device, Frames, Meta, OpenError, Packet, Queue};
use std::{collections::VecDeque, os::fd::BorrowedFd};

/// The device.
#[derive(Clone, Copy, Debug)]
pub struct Loopback {
    /// How many packets a queue holds.
    pub depth: usize,
}

impl Device for Loopback {
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError> {
        let queue = |_| {
            let under_way = VecDeque::with_capacity(self.depth);
            Box::new(LoopbackQueue { under_way, depth: self.depth }) as _
        };
        Ok(workers.iter().map(queue).collect())
    }
}

struct LoopbackQueue {
    under_way: VecDeque<Packet>,
    depth: usize,
}

impl Queue for LoopbackQueue {
    fn receive(&mut self, _: &mut Frames, into: &mut Vec<Packet>, room: usize) {
        into.extend(self.under_way.drain(..room.min(self.under_way.len())));
    }

    fn send(&mut self, _: &mut Frames, from: &mut Vec<Packet>) {
        let room = self.depth.saturating_sub(self.under_way.len());
        for mut packet in from.drain(..room.min(from.len())) {
            // As from a wire: only bytes, and what is still to be done to them, arrive.
            let mut meta = Meta::default();
            (meta.offload, meta.trace) = (packet.meta().offload, packet.meta().trace);
            *packet.meta_mut() = meta;
            self.under_way.push_back(packet);
        }
    }

    fn can(&self) -> Abilities {
        lossless()
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn rest(&mut self, _: &mut Frames) -> bool {
        self.under_way.is_empty()
    }

    fn close(&mut self, frames: &mut Frames) {
        self.under_way.drain(..).for_each(|packet| frames.put(packet));
    }
}
