//! One worker's share of an AF_XDP port: one or several of the device's queues.
use super::budget::Budget;
use super::device::Link;
use super::lane::{Counts, Lane};
use engine::{Abilities, Frames, LinkState, Packet, Queue};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Some of the device's queues, and what frames they may hold between them.
pub(super) type Lanes = (Vec<Lane>, Budget);

pub(super) struct XdpQueue {
    lanes: Vec<Lane>,
    budget: Budget,
    first: usize, // whose turn it is to be received from first
    wake: Option<OwnedFd>,
    link: Link,
    longest: usize,
}

impl XdpQueue {
    /// Of at least one lane and their budget; `wake` where there are several.
    pub(super) fn new((lanes, budget): Lanes, wake: Option<OwnedFd>, link: Link, longest: usize) -> Self {
        XdpQueue { lanes, budget, first: 0, wake, link, longest }
    }
}

impl Queue for XdpQueue {
    fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, room: usize) {
        let until = into.len() + room;
        let (behind, ahead) = self.lanes.split_at_mut_checked(self.first).unwrap_or_default();
        for lane in ahead.iter_mut().chain(behind) {
            lane.receive(frames, &mut self.budget, into, until - into.len());
        }
        self.first = if self.first + 1 < self.lanes.len() { self.first + 1 } else { 0 };
    }

    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        if let Some(lane) = self.lanes.first_mut() {
            lane.send(frames, from);
        }
    }

    fn can(&self) -> Abilities {
        Abilities {
            longest: self.longest,
            checksum: false,
            tcp_segmentation: false,
            udp_segmentation: false,
            cheap_receive: true,
        }
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        let only = || self.lanes.first().map(|lane| lane.socket.as_fd());
        self.wake.as_ref().map(AsFd::as_fd).or_else(only)
    }

    fn rest(&mut self, frames: &mut Frames) -> bool {
        let mut quiet = true;
        for lane in &mut self.lanes {
            quiet &= lane.rest(frames, &mut self.budget);
        }
        quiet
    }

    fn link(&mut self) -> LinkState {
        if self.lanes.iter_mut().any(|lane| std::mem::take(&mut lane.failed)) {
            self.link.doubt();
        }
        self.link.state()
    }

    fn events(&self) -> Vec<(&'static str, u64)> {
        let mut events = EVENTS.map(|name| (name, 0));
        for lane in &self.lanes {
            let Counts { no_frame, too_long, refused, rest_dropped } = lane.counts;
            let counts = [lane.lent.wrong(), no_frame, too_long, refused, rest_dropped];
            let kernel = lane.socket.statistics().map_or([0; 5], |found| {
                [
                    found.rx_dropped,
                    found.rx_ring_full,
                    found.rx_fill_ring_empty_descs,
                    found.rx_invalid_descs,
                    found.tx_invalid_descs,
                ]
            });
            for (event, more) in events.iter_mut().zip(counts.into_iter().chain(kernel)) {
                event.1 += more;
            }
        }
        events.into()
    }

    fn close(&mut self, frames: &mut Frames) {
        self.lanes.drain(..).for_each(|lane| lane.close(frames));
    }
}

const EVENTS: [&str; 10] = [
    "wrong_address",
    "receive_no_frame",
    "too_long",
    "send_refused",
    "send_rest_dropped",
    "kernel_receive_dropped",
    "kernel_receive_ring_full",
    "kernel_fill_ring_empty",
    "kernel_receive_invalid",
    "kernel_send_invalid",
];
