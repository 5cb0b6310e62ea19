//! What every driver does, whatever its device.
use engine::{Class, Device, FrameCounts, Frames, LinkState, Packet, Queue};
use std::time::{Duration, Instant};

/// A driver under test, and the far side of its device.
pub(crate) trait Rig: Sized {
    /// How many packets fit into the device when the far side takes none; none: there is no such limit.
    const DEPTH: Option<usize>;

    /// Makes a device. `None`, after a line that begins with `SKIP`, when that cannot be done here.
    fn set_up() -> Option<(Self, Box<dyn Device>)>;

    /// Sends a frame from the far side. The far side of a device that has only one is the port itself.
    fn put(&mut self, port: &mut Port, frame: &[u8]);

    /// Takes the next frames at the far side that [`frame`] made; empty after a short while without one.
    fn get(&mut self, port: &mut Port) -> Vec<Vec<u8>>;

    /// Sets the link up or down at the far side; `false`: the device has no link.
    fn set_link(&mut self, up: bool) -> bool;
}

/// One queue and its worker's frames.
pub(crate) struct Port {
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) frames: Frames,
}

/// Makes the tests of [`Rig`] `$rig` in a module of this name.
macro_rules! conformance {
    ($name:ident, $rig:ty) => {
        conformance!($name, $rig, receives_in_order, sends_in_order, full, overrun, no_frames, lengths, link, wakes, ends);
    };
    ($name:ident, $rig:ty, $($check:ident),+) => {
        mod $name {
            $(#[test] fn $check() {
                if let Some((rig, device)) = <$rig as $crate::suite::Rig>::set_up() {
                    $crate::suite::run(rig, device, $crate::suite::$check);
                }
            })+
        }
    };
}
pub(crate) use conformance;

const STOCK: FrameCounts = FrameCounts { small: 1024, jumbo: 16, super_: 16, packets: 1024 };

/// Opens the device, checks, ends it: every frame must be home, whatever was under way.
pub(crate) fn run<R: Rig>(mut rig: R, device: Box<dyn Device>, check: impl FnOnce(&mut R, &mut Port)) {
    let mut workers = [Frames::new(0, STOCK, hugepages::Settings::new(0)).unwrap()];
    let queue = device.open(&mut workers).unwrap().remove(0);
    let [frames] = workers;
    let mut port = Port { queue, frames };
    check(&mut rig, &mut port);
    port.queue.close(&mut port.frames);
    assert!(port.frames.all_home(), "frames: {:?}", Class::ALL.map(|class| port.frames.stock(class)));
}

/// The frame of this number: Ethernet of a type for experiments, so that nobody else makes or answers it.
pub(crate) fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x88, 0xb5];
    frame.extend(u32::try_from(number).unwrap().to_be_bytes());
    frame.extend((frame.len()..len).map(|i| (i * 31 + number).to_le_bytes()[0]));
    frame
}

/// Whether [`frame`] made it.
pub(crate) fn ours(frame: &[u8]) -> bool {
    frame.get(6..14) == Some(&[2, 0, 0, 0, 0, 9, 0x88, 0xb5])
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(|i| frame(i, 60 + i * 37 % 1400)).collect()
}

impl Port {
    /// Receives until there are `enough` frames, or for a while when fewer come.
    fn receive(&mut self, enough: usize) -> Vec<Vec<u8>> {
        let (mut got, end) = (Vec::new(), Instant::now() + Duration::from_secs(2));
        while got.len() < enough && Instant::now() < end {
            let mut into = Vec::new();
            self.queue.receive(&mut self.frames, &mut into, 7);
            assert!(into.len() <= 7, "more than there is room for");
            if into.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            for packet in into {
                if ours(packet.data()) {
                    got.push(packet.data().to_vec());
                }
                self.frames.put(packet);
            }
        }
        got
    }

    fn packets(&mut self, frames: &[Vec<u8>]) -> Vec<Packet> {
        frames.iter().map(|frame| self.frames.copy(frame).unwrap()).collect()
    }

    /// Sends what fits.
    pub(crate) fn send(&mut self, from: &mut Vec<Packet>) {
        self.queue.send(&mut self.frames, from);
        self.queue.rest(&mut self.frames);
    }
}

pub(crate) fn receives_in_order<R: Rig>(rig: &mut R, port: &mut Port) {
    for start in (0..320).step_by(32) {
        let sent = numbered(start..start + 32);
        sent.iter().for_each(|frame| rig.put(port, frame));
        assert_eq!(port.receive(32), sent);
    }
}

pub(crate) fn sends_in_order<R: Rig>(rig: &mut R, port: &mut Port) {
    for start in (0..320).step_by(32) {
        let frames = numbered(start..start + 32);
        let mut from = port.packets(&frames);
        let mut got = Vec::new();
        while got.len() < frames.len() {
            port.send(&mut from);
            let more = rig.get(port);
            assert!(!more.is_empty(), "only {} came", got.len());
            got.extend(more);
        }
        assert_eq!(got, frames);
        assert!(from.is_empty());
    }
}

/// A full device takes what fits and leaves the rest in order; nothing is lost or sent twice.
pub(crate) fn full<R: Rig>(rig: &mut R, port: &mut Port) {
    let frames = numbered(0..R::DEPTH.map_or(64, |depth| depth + 200));
    let mut from = port.packets(&frames);
    port.send(&mut from);
    if let Some(depth) = R::DEPTH {
        assert!(!from.is_empty() && from.len() <= frames.len() - depth, "{} left", from.len());
    }
    let mut got = Vec::new();
    while got.len() < frames.len() {
        let more = rig.get(port);
        let waited = from.len();
        port.send(&mut from);
        assert!(!more.is_empty() || from.len() < waited, "{} came, {} wait", got.len(), from.len());
        got.extend(more);
    }
    assert_eq!(got, frames);
}

/// Nobody receives: what the device drops is gone, the rest is whole and in order, and afterwards all is as before.
pub(crate) fn overrun<R: Rig>(rig: &mut R, port: &mut Port) {
    let sent = numbered(0..R::DEPTH.unwrap_or(900));
    sent.iter().for_each(|frame| rig.put(port, frame));
    let mut sent = sent.into_iter();
    for got in port.receive(sent.len()) {
        assert!(sent.any(|frame| frame == got), "spoiled, repeated or out of order");
    }
    let last = frame(5000, 100);
    rig.put(port, &last);
    assert_eq!(port.receive(1), [last]);
}

/// Without frames nothing is received; with frames again, it goes on.
pub(crate) fn no_frames<R: Rig>(rig: &mut R, port: &mut Port) {
    let mut held = Vec::new();
    while let Some(frame) = port.frames.take(Class::Small) {
        held.push(frame);
    }
    let (mut from, mut into) = (Vec::new(), Vec::new());
    if let Some(frame) = held.pop() {
        port.frames.give(frame); // what a device without a far side needs to have one
    }
    rig.put(port, &frame(1, 80));
    if let Some(frame) = port.frames.take(Class::Small) {
        held.push(frame);
    }
    port.queue.receive(&mut port.frames, &mut into, 8);
    port.send(&mut from);
    into.retain(|packet| ours(packet.data()));
    held.into_iter().for_each(|frame| port.frames.give(frame));
    let early = into.len();
    into.drain(..).for_each(|packet| port.frames.put(packet));
    assert!(early <= 1);
    port.receive(1 - early);
    let next = frame(2, 90);
    rig.put(port, &next);
    assert_eq!(port.receive(1), [next]);
}

/// The shortest frames and the longest, both ways.
pub(crate) fn lengths<R: Rig>(rig: &mut R, port: &mut Port) {
    let longest = port.queue.can().longest;
    assert!(longest >= 1514);
    for (i, len) in [60, 61, 1513, 1514, longest - 1, longest].into_iter().enumerate() {
        let frame = frame(i, len);
        rig.put(port, &frame);
        assert_eq!(port.receive(1), std::slice::from_ref(&frame), "received, of {len}");
        let mut from = port.packets(std::slice::from_ref(&frame));
        port.send(&mut from);
        assert_eq!(rig.get(port), [frame], "sent, of {len}");
    }
}

/// Down: packets wait or are dropped, and the queue says so. Up: traffic passes both ways.
pub(crate) fn link<R: Rig>(rig: &mut R, port: &mut Port) {
    assert_eq!(port.queue.link(), LinkState::Up);
    if !rig.set_link(false) {
        return;
    }
    let frames = numbered(0..20);
    let mut from = port.packets(&frames);
    let eventually = |port: &mut Port, from: &mut Vec<Packet>, state| {
        (0..1000).any(|_| {
            port.send(from);
            std::thread::sleep(Duration::from_millis(1));
            port.queue.link() == state
        })
    };
    assert!(eventually(port, &mut from, LinkState::Down), "it must say that the link is down");
    from.drain(..).for_each(|packet| port.frames.put(packet)); // as the worker does
    rig.set_link(true);
    assert!(eventually(port, &mut from, LinkState::Up), "it must say that the link is up again");
    rig.get(port);
    receives_in_order(rig, port);
    sends_in_order(rig, port);
}

/// The descriptor is readable exactly when there is something to receive.
pub(crate) fn wakes<R: Rig>(rig: &mut R, port: &mut Port) {
    if port.queue.wake().is_none() {
        return;
    }
    let readable = |port: &mut Port, wait: Duration| {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        port.queue.rest(&mut port.frames);
        let mut ask = [PollFd::from_borrowed_fd(port.queue.wake().unwrap(), PollFlags::IN)];
        poll(&mut ask, Some(&Timespec::try_from(wait).unwrap())).unwrap() == 1
    };
    for i in 0..4 {
        rig.put(port, &frame(i, 200));
        assert!(readable(port, Duration::from_secs(5)), "something came");
        assert_eq!(port.receive(1), [frame(i, 200)]);
        while readable(port, Duration::ZERO) {
            let mut into = Vec::new();
            port.queue.receive(&mut port.frames, &mut into, 8);
            into.drain(..).for_each(|packet| port.frames.put(packet)); // of the kernel's own
        }
        assert!(!readable(port, Duration::ZERO), "nothing more came");
    }
}

/// Ended while packets wait everywhere: `run` asserts that all frames are home.
pub(crate) fn ends<R: Rig>(rig: &mut R, port: &mut Port) {
    (0..40).for_each(|i| rig.put(port, &frame(i, 500)));
    let mut from = port.packets(&numbered(0..300));
    port.send(&mut from);
    let mut into = Vec::new();
    port.queue.receive(&mut port.frames, &mut into, 3);
    from.into_iter().chain(into).for_each(|packet| port.frames.put(packet));
}
