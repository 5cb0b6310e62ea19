//! A warm queue allocates nothing, whatever passes.
mod netns;
#[path = "netns/pair.rs"]
mod pair;

use engine::{Device, FrameCounts, Frames, Offload, Packet, Queue, Segmentation};
use netns::Space;
use pair::{OURS, PEERS, Pair};
use ports::{
    Loopback, Null, Record, RecordSettings, Refill,
    af_xdp::{AfXdp, Settings},
    steer::{Attach, Mode, Steering},
    tap::{CreateSettings, Tap, create},
};
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

fn frames() -> Frames {
    let counts = FrameCounts { small: 256, jumbo: 8, super_: 8, packets: 256 };
    Frames::new(0, counts, hugepages::Settings::new(0)).unwrap()
}

fn open(device: impl Device + 'static) -> (Box<dyn Queue>, Frames) {
    let mut workers = [frames()];
    let queue = Box::new(device).open(&mut workers).unwrap().remove(0);
    let [frames] = workers;
    (queue, frames)
}

fn fill(frames: &mut Frames, from: &mut Vec<Packet>, kinds: &[(&[u8], Offload)]) {
    for (bytes, offload) in kinds {
        if let Some(mut packet) = frames.copy(bytes) {
            (packet.meta_mut().offload, packet.meta_mut().l3) = (*offload, 256 + 64);
            from.push(packet);
        }
    }
}

/// What a thousand rounds of `packets` of each kind through `queue` allocate after a first round.
fn allocated(queue: &mut dyn Queue, frames: &mut Frames, kinds: &[(&[u8], Offload)]) -> u64 {
    let (mut from, mut into) = (Vec::with_capacity(64), Vec::with_capacity(64));
    let mut round = || {
        fill(frames, &mut from, kinds);
        queue.send(frames, &mut from);
        queue.rest(frames);
        queue.receive(frames, &mut into, 32);
        queue.link();
        from.drain(..).chain(into.drain(..)).for_each(|packet| frames.put(packet));
    };
    round();
    allocation_counter::measure(|| (0..1000).for_each(|_| round())).count_total
}

#[test]
fn devices_in_memory_allocate_nothing() {
    let kinds: &[(&[u8], Offload)] = &[(&[7; 60], Offload::default()), (&[8; 5000], Offload::default())];
    let settings = RecordSettings { snap: 100, depth: 16, clock: || Duration::ZERO };
    for (mut queue, mut frames) in [
        open(Null),
        open(Loopback { depth: 100 }),
        open(Record::new(Box::new(Loopback { depth: 100 }), settings, Box::new(std::io::sink())).0),
    ] {
        assert_eq!(allocated(&mut *queue, &mut frames, kinds), 0);
    }
    let mut frames = frames();
    let mut refill = Refill::new(&mut frames, 100, |bytes| bytes.iter_mut().take(64).map(|byte| *byte = 1).count());
    assert_eq!(allocated(&mut refill, &mut frames, &[(&[7; 60], Offload::default())]), 0);
}

/// A TCP super-frame in VXLAN that the tap has to cut.
fn tunnelled() -> (Vec<u8>, Offload) {
    let mut bytes = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]].concat();
    bytes.extend([1, 2, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0]);
    bytes.extend(
        [&[2; 12][..], &[8, 0, 0x45, 0, 0x27, 0x38, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 1, 1, 10, 0, 1, 2]].concat(),
    );
    bytes.extend([1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    bytes.resize(64 + 0x2738, 5);
    let (segmentation, checksum_start) = (Segmentation::Tcp4, 256 + 64 + 20);
    (bytes, Offload { checksum_start, checksum_offset: 16, segmentation, segment_size: 1400 })
}

#[test]
fn a_tap_allocates_nothing() {
    let Some(space) = Space::new("a_tap_allocates_nothing") else { return };
    let netns = space.open();
    let settings = CreateSettings { netns: Some(netns.as_fd()), name: "eth0", mac: None, mtu: 1500, queues: 1 };
    let made = create(settings).unwrap();
    let (mut queue, mut frames) = open(Tap::from_fds("pod", made.queues, made.control));
    space.ip("addr add 10.9.0.1/24 dev eth0");
    let (bytes, offload) = tunnelled();
    let kinds: &[(&[u8], Offload)] = &[(&[0xff; 60], Offload::default()), (&bytes, offload)];
    // Something to receive all the while: the kernel asks for a neighbour of this address.
    let there = SocketAddr::from(([10, 9, 0, 77], 1));
    let _asks = space.within(|| {
        TcpListener::bind("10.9.0.1:0")
            .map(|_| ())
            .and_then(|()| TcpStream::connect_timeout(&there, Duration::from_millis(5)))
    });
    assert_eq!(allocated(&mut *queue, &mut frames, kinds), 0);
    assert_eq!(queue.events().iter().find(|(name, _)| *name == "tap_cut"), Some(&("tap_cut", 1001)));
    assert_eq!(queue.events().iter().filter(|(_, count)| *count != 0).count(), 1, "{:?}", queue.events());
}

/// From one port of ours to another: plain packets, packets of several pieces where the MTU allows, and cut ones.
fn af_xdp_allocates_nothing(attach: Attach, mtu: usize) {
    let Some(pair) = Pair::new("af_xdp_allocates_nothing", mtu, 1) else { return };
    let [mut ours, mut peers] = [(&pair.ours, OURS), (&pair.peer, PEERS)].map(|(space, device)| {
        space.within(|| {
            let steering = Steering::attach(device, attach, Mode::Owned, &pair.pins().join(device)).unwrap();
            open(AfXdp::new(Settings::new(device), Arc::new(steering)))
        })
    });
    let (super_frame, offload) = tunnelled();
    let longest = vec![8; mtu + 14];
    let kinds = [(&[0xff; 60][..], Offload::default()), (&longest, Offload::default()), (&super_frame, offload)];
    let (mut from, mut into, mut received) = (Vec::with_capacity(64), Vec::with_capacity(64), 0);
    let mut round = || {
        fill(&mut ours.1, &mut from, &kinds);
        ours.0.send(&mut ours.1, &mut from);
        ours.0.rest(&mut ours.1);
        peers.0.receive(&mut peers.1, &mut into, 32);
        peers.0.rest(&mut peers.1);
        let _states = (ours.0.link(), peers.0.link());
        received += into.len();
        from.drain(..).for_each(|packet| ours.1.put(packet));
        into.drain(..).for_each(|packet| peers.1.put(packet));
    };
    (0..100).for_each(|_| round());
    assert_eq!(allocation_counter::measure(|| (0..1000).for_each(|_| round())).count_total, 0);
    assert!(received > 3 * 1100, "{received} packets: super-frames were not cut");
    for (queue, frames) in [&mut ours, &mut peers] {
        queue.close(frames);
        assert!(frames.all_home());
    }
}

#[test]
fn af_xdp_in_the_driver_allocates_nothing() {
    [1500, 9000].into_iter().for_each(|mtu| af_xdp_allocates_nothing(Attach::Native, mtu));
}

#[test]
fn af_xdp_before_the_stack_allocates_nothing() {
    [1500, 9000].into_iter().for_each(|mtu| af_xdp_allocates_nothing(Attach::Generic, mtu));
}
