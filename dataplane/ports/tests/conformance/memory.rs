//! The drivers that need no system, bare and wrapped.
use super::suite::{Port, Rig, conformance};
use engine::{Device, FrameCounts, Frames, LinkState};
use ports::{Fault, Faults, Loopback, Null, Record, RecordSettings, Replay, Replayed, Sent};
use std::time::Duration;

/// Its far side is the port itself.
struct Looped;

impl Rig for Looped {
    const DEPTH: Option<usize> = Some(100);

    fn set_up() -> Option<(Self, Box<dyn Device>)> {
        Some((Looped, Box::new(Loopback { depth: 100 })))
    }

    fn put(&mut self, port: &mut Port, frame: &[u8]) {
        let mut from = vec![port.frames.copy(frame).unwrap()];
        port.send(&mut from);
        from.drain(..).for_each(|packet| port.frames.put(packet));
    }

    fn get(&mut self, port: &mut Port) -> Vec<Vec<u8>> {
        let mut into = Vec::new();
        port.queue.receive(&mut port.frames, &mut into, 64);
        into.into_iter()
            .map(|packet| {
                let bytes = packet.data().to_vec();
                port.frames.put(packet);
                bytes
            })
            .collect()
    }

    fn set_link(&mut self, _: bool) -> bool {
        false
    }
}

struct Replaying(Sent);

impl Rig for Replaying {
    const DEPTH: Option<usize> = None;

    fn set_up() -> Option<(Self, Box<dyn Device>)> {
        let replay = Replay::once(Vec::new());
        Some((Replaying(replay.sent()), Box::new(replay)))
    }

    fn put(&mut self, _: &mut Port, frame: &[u8]) {
        self.0.feed([Replayed::from(frame)]);
    }

    fn get(&mut self, _: &mut Port) -> Vec<Vec<u8>> {
        self.0.take().into_iter().map(|sent| sent.bytes).collect()
    }

    fn set_link(&mut self, _: bool) -> bool {
        false
    }
}

/// Loopback under the wrappers, with the one fault that loses nothing.
struct Wrapped;

impl Rig for Wrapped {
    const DEPTH: Option<usize> = None;

    fn set_up() -> Option<(Self, Box<dyn Device>)> {
        let device = Box::new(Loopback { depth: 1000 });
        let faulty = Box::new(Fault::new(device, Faults { partial: 500, ..Faults::default() }));
        let settings = RecordSettings { snap: 128, depth: 64, clock: || Duration::ZERO };
        Some((Wrapped, Box::new(Record::new(faulty, settings, Box::new(std::io::sink())).0)))
    }

    fn put(&mut self, port: &mut Port, frame: &[u8]) {
        let mut from = vec![port.frames.copy(frame).unwrap()];
        while !from.is_empty() {
            port.send(&mut from);
        }
    }

    fn get(&mut self, port: &mut Port) -> Vec<Vec<u8>> {
        Looped.get(port)
    }

    fn set_link(&mut self, _: bool) -> bool {
        false
    }
}

conformance!(loopback, super::Looped);
conformance!(replay, super::Replaying);
conformance!(wrapped, super::Wrapped, receives_in_order, sends_in_order, full, ends);

#[test]
fn null_receives_nothing_and_takes_all() {
    let counts = FrameCounts { small: 100, jumbo: 0, super_: 0, packets: 100 };
    let mut workers = [Frames::new(0, counts, hugepages::Settings::new(0)).unwrap()];
    let mut queue = Box::new(Null).open(&mut workers).unwrap().remove(0);
    let [frames] = &mut workers;
    let mut packets: Vec<_> = (0..100).map(|_| frames.copy(&[1; 60]).unwrap()).collect();
    queue.send(frames, &mut packets);
    queue.receive(frames, &mut packets, 100);
    assert!(packets.is_empty() && frames.all_home() && queue.link() == LinkState::Up);
}
