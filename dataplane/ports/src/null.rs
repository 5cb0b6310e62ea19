//! `null`: receives nothing, and what is sent goes nowhere.
use crate::lossless;
use engine::{Abilities, Device, Frames, OpenError, Packet, Queue};
use std::os::fd::BorrowedFd;

/// The device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl Device for Null {
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError> {
        Ok(workers.iter().map(|_| Box::new(NullQueue) as _).collect())
    }
}

struct NullQueue;

impl Queue for NullQueue {
    fn receive(&mut self, _: &mut Frames, _: &mut Vec<Packet>, _: usize) {}

    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        from.drain(..).for_each(|packet| frames.put(packet));
    }

    fn can(&self) -> Abilities {
        lossless()
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&mut self, _: &mut Frames) {}
}
