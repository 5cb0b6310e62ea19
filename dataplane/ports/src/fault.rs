//! `fault`: a device around another one that loses, repeats, swaps and spoils packets, the same way for the same seed.
use engine::{Abilities, Device, Frames, LinkState, OpenError, Packet, Queue};
use std::os::fd::BorrowedFd;

/// What goes wrong, each in packets of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Where the sequence of faults starts.
    pub seed: u64,
    /// Packets lost.
    pub drop: u16,
    /// Packets that come twice, the second time right behind the first.
    pub duplicate: u16,
    /// Packets that overtake the one in front of them in the same batch.
    pub reorder: u16,
    /// Packets with one bit flipped.
    pub corrupt: u16,
    /// `send` calls, of a thousand, that take only some of the packets although the device has room.
    pub partial: u16,
}

/// The device.
pub struct Fault {
    device: Box<dyn Device>,
    faults: Faults,
}

impl Fault {
    /// `device` with `faults`, on packets both received and sent.
    pub fn new(device: Box<dyn Device>, faults: Faults) -> Self {
        Fault { device, faults }
    }
}

impl Device for Fault {
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError> {
        let queues = self.device.open(workers)?.into_iter();
        Ok(queues.zip(self.faults.seed..).map(|(queue, seed)| fault(queue, Faults { seed, ..self.faults })).collect())
    }
}

/// `queue` with `faults`.
pub fn fault(queue: Box<dyn Queue>, faults: Faults) -> Box<dyn Queue> {
    Box::new(FaultQueue { queue, faults, dice: Dice(faults.seed), batch: Vec::new(), counts: [0; 5] })
}

struct FaultQueue {
    queue: Box<dyn Queue>,
    faults: Faults,
    dice: Dice,
    batch: Vec<Packet>,
    counts: [u64; 5],
}

const NAMES: [&str; 5] = ["fault_dropped", "fault_duplicated", "fault_reordered", "fault_corrupted", "fault_partial"];

impl FaultQueue {
    /// Moves `batch` to the end of `into` with faults; adds at most `spare` packets.
    fn spoil(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, mut spare: usize) {
        let first = into.len();
        let [dropped, duplicated, reordered, corrupted, _] = &mut self.counts;
        for mut packet in self.batch.drain(..) {
            if self.dice.hits(self.faults.drop) {
                *dropped += 1;
                frames.put(packet);
                continue;
            }
            if self.dice.hits(self.faults.corrupt) && !packet.is_empty() {
                let (at, bit) = (self.dice.below(packet.len()), self.dice.below(8));
                packet.data_mut().iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit);
                *corrupted += 1;
            }
            if spare > 0
                && self.dice.hits(self.faults.duplicate)
                && let Some(twin) = twin(frames, &packet)
            {
                into.push(twin);
                (spare, *duplicated) = (spare - 1, *duplicated + 1);
            }
            into.push(packet);
            let last = into.len() - 1;
            if last > first && self.dice.hits(self.faults.reorder) {
                into.swap(last - 1, last);
                *reordered += 1;
            }
        }
    }
}

impl Queue for FaultQueue {
    fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, room: usize) {
        self.queue.receive(frames, &mut self.batch, room);
        let spare = room.saturating_sub(self.batch.len());
        self.spoil(frames, into, spare);
    }

    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        let mut take = from.len();
        if self.dice.hits(self.faults.partial) {
            take = self.dice.below(take + 1);
            if let Some(count) = self.counts.last_mut() {
                *count += 1;
            }
        }
        self.batch.extend(from.drain(..take));
        let mut spoiled = Vec::with_capacity(2 * take);
        self.spoil(frames, &mut spoiled, take);
        self.queue.send(frames, &mut spoiled);
        from.splice(0..0, spoiled);
    }

    fn can(&self) -> Abilities {
        self.queue.can()
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.queue.wake()
    }

    fn rest(&mut self, frames: &mut Frames) -> bool {
        self.queue.rest(frames)
    }

    fn link(&mut self) -> LinkState {
        self.queue.link()
    }

    fn events(&self) -> Vec<(&'static str, u64)> {
        let mut events = self.queue.events();
        events.extend(NAMES.into_iter().zip(self.counts));
        events
    }

    fn close(&mut self, frames: &mut Frames) {
        self.queue.close(frames);
    }
}

/// A packet with the same bytes and the same work left.
fn twin(frames: &mut Frames, packet: &Packet) -> Option<Packet> {
    let mut twin = frames.fresh(packet.len())?;
    let (start, twin_start) = (packet.start(), twin.start());
    let moved = |offset: u16| match usize::from(offset).checked_sub(start) {
        Some(inside) if offset != 0 => u16::try_from(twin_start + inside).unwrap_or(0),
        _ => 0,
    };
    let mut meta = *packet.meta();
    (meta.l3, meta.l4) = (moved(meta.l3), moved(meta.l4));
    meta.offload.checksum_start = moved(meta.offload.checksum_start);
    *twin.meta_mut() = meta;
    if let Some(data) = twin.resize(packet.len()) {
        data.copy_from_slice(packet.data());
    }
    Some(twin)
}

/// A generator that needs no seed with any property (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn hits(&mut self, of_a_thousand: u16) -> bool {
        of_a_thousand != 0 && self.next() % 1000 < u64::from(of_a_thousand)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }
}
