//! What each device that needs no system does beyond the conformance suite.
use engine::{Class, Device, FrameCounts, Frames, HEADROOM, Offload, Packet, Queue, Segmentation};
use pcap_file::pcapng::{Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption};
use ports::{Fault, Faults, Loopback, Null, Record, RecordSettings, Refill, Replay, Replayed};
use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

fn frames(small: usize) -> Frames {
    let counts = FrameCounts { small, jumbo: 4, super_: 0, packets: small };
    Frames::new(0, counts, hugepages::Settings::new(0)).unwrap()
}

fn open(device: impl Device + 'static, small: usize) -> (Box<dyn Queue>, Frames) {
    let mut workers = [frames(small)];
    let queue = Box::new(device).open(&mut workers).unwrap().remove(0);
    let [frames] = workers;
    (queue, frames)
}

fn receive(queue: &mut dyn Queue, frames: &mut Frames, room: usize) -> Vec<Packet> {
    let mut into = Vec::new();
    queue.receive(frames, &mut into, room);
    into
}

/// What 2,000 numbered packets become under `faults`, and how often each fault happened.
fn spoiled(faults: Faults) -> (Vec<Vec<u8>>, Vec<u64>) {
    let (mut queue, mut frames) = open(Fault::new(Box::new(Loopback { depth: 64 }), faults), 512);
    let mut got = Vec::new();
    for start in (0..2000u32).step_by(20) {
        let numbers = start..start + 20;
        let mut from: Vec<_> =
            numbers.map(|i| frames.copy(&[&i.to_be_bytes()[..], &[7; 60]].concat()).unwrap()).collect();
        while !from.is_empty() {
            queue.send(&mut frames, &mut from);
        }
        loop {
            let into = receive(&mut *queue, &mut frames, 8);
            assert!(into.len() <= 8);
            if into.is_empty() {
                break;
            }
            for packet in into {
                got.push(packet.data().to_vec());
                frames.put(packet);
            }
        }
    }
    queue.close(&mut frames);
    assert!(frames.all_home());
    (got, queue.events().into_iter().map(|(_, count)| count).collect())
}

#[test]
fn faults_happen_as_often_as_asked_and_are_counted() {
    let number = |bytes: &Vec<u8>| u32::from_be_bytes(bytes[..4].try_into().unwrap());
    let about = |count: u64, of: u64| assert!((of / 2..of * 2).contains(&count), "{count}, not about {of}");

    let (got, counts) = spoiled(Faults { drop: 100, ..Faults::default() });
    assert_eq!(got.len() as u64, 2000 - counts[0]);
    about(counts[0], 380); // one in ten on the way out, and one in ten on the way in

    let (got, counts) = spoiled(Faults { duplicate: 50, ..Faults::default() });
    assert_eq!(got.len() as u64, 2000 + counts[1]);
    assert!(got.is_sorted(), "a twin comes right behind");
    about(counts[1], 180);

    let (got, counts) = spoiled(Faults { reorder: 100, ..Faults::default() });
    assert_eq!(got.len(), 2000);
    assert!(!got.is_sorted());
    about(counts[2], 340);

    let (got, counts) = spoiled(Faults { corrupt: 100, ..Faults::default() });
    let fresh = |i: u32| [&i.to_be_bytes()[..], &[7; 60]].concat();
    let bits = |(got, i): (&Vec<u8>, u32)| got.iter().zip(fresh(i)).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
    assert_eq!(u64::from(got.iter().zip(0..).map(bits).sum::<u32>()), counts[3]);
    about(counts[3], 400);

    let (got, counts) = spoiled(Faults { partial: 500, ..Faults::default() });
    assert!(got.iter().map(number).eq(0..2000), "nothing lost, nothing repeated");
    assert!(counts[4] > 30);
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    let faults = |seed| Faults { seed, drop: 20, duplicate: 20, reorder: 20, corrupt: 20, partial: 20 };
    assert!(spoiled(faults(1)) == spoiled(faults(1)));
    assert!(spoiled(faults(1)) != spoiled(faults(2)));
}

/// A file in memory.
#[derive(Clone, Default)]
struct File(Arc<Mutex<Vec<u8>>>);

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_passes_is_recorded_with_time_and_direction() {
    let file = File::default();
    let clock = || Duration::new(1_700_000_000, 123_456_789);
    let settings = RecordSettings { snap: 100, depth: 16, clock };
    let (record, recording) = Record::new(Box::new(Loopback { depth: 5 }), settings, Box::new(file.clone()));
    let (mut queue, mut frames) = open(record, 64);
    let mut from: Vec<_> = (0..8).map(|i| frames.copy(&[i; 200]).unwrap()).collect();
    queue.send(&mut frames, &mut from);
    assert_eq!(from.len(), 3);
    receive(&mut *queue, &mut frames, 2).into_iter().chain(from).for_each(|packet| frames.put(packet));
    queue.close(&mut frames);
    drop(queue);
    recording.finish().unwrap();

    let bytes = file.0.lock().unwrap().clone();
    let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let [EnhancedPacketOption::Flags(direction)] = packet.options[..] else { panic!("no direction") };
            assert_eq!((packet.timestamp, packet.original_len, packet.data.len()), (clock(), 200, 100));
            packets.push((packet.data[0], direction));
        }
    }
    assert_eq!(packets, [(0, 2), (1, 2), (2, 2), (3, 2), (4, 2), (0, 1), (1, 1)], "sent first, and only what was sent");
}

#[test]
fn a_recording_that_falls_behind_misses_packets_and_delays_none() {
    let settings = RecordSettings { snap: 100, depth: 4, clock: || Duration::ZERO };
    let (record, recording) = Record::new(Box::new(Null), settings, Box::new(std::io::sink()));
    let (mut queue, mut frames) = open(record, 64);
    let mut from: Vec<_> = (0..64).map(|i| frames.copy(&[i; 200]).unwrap()).collect();
    queue.send(&mut frames, &mut from);
    assert!(from.is_empty());
    let missed = queue.events().pop().unwrap();
    assert_eq!(missed, ("record_missed", 60));
    queue.close(&mut frames);
    drop(queue);
    recording.finish().unwrap();
    assert!(frames.all_home());
}

#[test]
fn a_replay_gives_frames_with_their_offload_once_or_for_ever() {
    let segmentation = Segmentation::Tcp4;
    let offload = Offload { checksum_start: 34, checksum_offset: 16, segmentation, segment_size: 1448 };
    let script = vec![Replayed { bytes: vec![1; 3000], offload }, Replayed::from(&[2; 60][..])];
    let replay = Replay::once(script.clone());
    let sent = replay.sent();
    let (mut queue, mut frames) = open(replay, 16);
    let mut into = receive(&mut *queue, &mut frames, 16);
    assert_eq!(into[0].meta().offload, Offload { checksum_start: HEADROOM + 34, ..offload });
    assert!(receive(&mut *queue, &mut frames, 16).is_empty());
    queue.send(&mut frames, &mut into);
    assert_eq!(sent.take(), script);

    let (mut queue, mut frames) = open(Replay::cycle(script), 16);
    let into = receive(&mut *queue, &mut frames, 5);
    assert_eq!(into.iter().map(Packet::len).collect::<Vec<_>>(), [3000, 60, 3000, 60, 3000]);
    into.into_iter().for_each(|packet| frames.put(packet));
    assert!(frames.all_home());
}

#[test]
fn a_refill_comes_round_to_a_frame_last_of_all() {
    const ALL: usize = 1000;
    const SPARE: usize = 40;
    let mut frames = frames(ALL);
    let mut next = 0u32;
    let mut refill = Refill::new(&mut frames, SPARE, move |bytes| {
        bytes[..4].copy_from_slice(&next.to_be_bytes());
        next += 1;
        64
    });
    assert_eq!((refill.depth(), frames.stock(Class::Small).1), (ALL - SPARE, SPARE));
    let mut expected = 0u32;
    let mut addresses = Vec::new();
    for _ in 0..40 {
        for mut packet in receive(&mut refill, &mut frames, 256) {
            assert_eq!(packet.data()[..4], expected.to_be_bytes());
            expected += 1;
            addresses.push(packet.data().as_ptr().addr());
            packet.data_mut().fill(0xff);
            frames.put(packet);
        }
    }
    assert!(expected as usize > 8 * ALL);
    for (i, address) in addresses.iter().enumerate() {
        let again = addresses[i + 1..].iter().position(|other| other == address);
        assert!(again.is_none_or(|distance| distance + 257 > ALL - SPARE), "{i} again after {again:?}");
    }
    refill.close(&mut frames);
    assert!(frames.all_home());
}
