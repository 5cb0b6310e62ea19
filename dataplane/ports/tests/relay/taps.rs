//! Two pods with a tap each, and a loop of ours between them.
use crate::netns::Space;
use engine::{Class, Device, FrameCounts, Frames, Offload, Packet, Queue, Segmentation};
use ports::tap::{CreateSettings, Tap, create};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

/// VXLAN in front of the right pod's tap; what its underlay is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tunnel {
    pub(crate) six: bool,
}

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// A pod's device, as the keeper holds it and as the worker runs it.
pub(crate) struct PodTap {
    tap: Tap,
    _kept: OwnedFd,
}

/// Makes the pods `10.9.0.1`, `fd09::1` and `.2`, `::2`; in the right one the addresses are a VXLAN device's where
/// there is a tunnel.
pub(crate) fn pods(test: &str, tunnel: Option<Tunnel>) -> Option<(Space, Space, [PodTap; 2])> {
    let (left, right) = (Space::new(test)?, Space::new(test)?);
    let mut devices = Vec::new();
    for (i, space) in [&left, &right].into_iter().enumerate() {
        let netns = space.open();
        let mtu = if i == 1 && tunnel.is_some() { 1600 } else { 1500 };
        let (netns, mac) = (Some(netns.as_fd()), Some(MACS[i]));
        let made = create(CreateSettings { netns, name: "eth0", mac, mtu, queues: 1 }).unwrap();
        devices.push(PodTap { tap: Tap::from_fds(&space.name, made.queues, made.control), _kept: made.kept });
        let mut device = "eth0";
        if let Some(tunnel) = tunnel.filter(|_| i == 1) {
            let (ours, peer, length) =
                if tunnel.six { ("fd08::2", "fd08::1", 64) } else { ("10.8.0.2", "10.8.0.1", 24) };
            let nodad = if tunnel.six { " nodad" } else { "" };
            space.ip(&format!("addr add {ours}/{length} dev eth0{nodad}"));
            space.ip(&format!("neigh add {peer} dev eth0 lladdr 02:00:00:00:00:99"));
            let checks = if tunnel.six { " udp6zerocsumrx udp6zerocsumtx" } else { "" };
            space.ip(&format!("link add vx0 type vxlan id 258 local {ours} remote {peer} dstport 4789{checks}"));
            space.ip("link set vx0 address 02:00:00:00:00:02 mtu 1500");
            space.ip("link set vx0 up");
            device = "vx0";
        }
        let host = i + 1;
        space.ip(&format!("addr add 10.9.0.{host}/24 dev {device}"));
        space.ip(&format!("addr add fd09::{host}/64 dev {device} nodad"));
    }
    let devices = <[PodTap; 2]>::try_from(devices).ok()?;
    Some((left, right, devices))
}

/// What passed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) frames: usize,
    pub(crate) longest: usize,
    pub(crate) udp_longest: usize,
    pub(crate) events: Vec<(&'static str, u64)>,
}

/// A thread that hands on what each tap gives to the other.
pub(crate) struct Relay {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

impl Relay {
    pub(crate) fn start(devices: [PodTap; 2], tunnel: Option<Tunnel>) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let stopped = ends.clone();
        let thread = std::thread::spawn(move || relay(devices, tunnel, &stopped));
        Relay { ends, thread: Some(thread) }
    }

    pub(crate) fn stop(mut self) -> Seen {
        self.ends.store(true, Relaxed);
        let thread = self.thread.take().unwrap();
        thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
    }
}

fn relay(devices: [PodTap; 2], tunnel: Option<Tunnel>, stopped: &AtomicBool) -> Seen {
    let counts = FrameCounts { small: 600, jumbo: 0, super_: 32, packets: 600 };
    let mut workers = [Frames::new(0, counts, hugepages::Settings::new(0)).unwrap()];
    let mut kept = Vec::new();
    let mut queues = devices.map(|device| {
        kept.push(device._kept);
        Box::new(device.tap).open(&mut workers).unwrap().remove(0)
    });
    let [mut frames] = workers;
    let mut seen = Seen::default();
    let mut packets = Vec::new();
    while !stopped.load(Relaxed) {
        wait(&queues);
        for from in 0..2 {
            queues[from].receive(&mut frames, &mut packets, 64);
            for packet in &mut packets {
                seen.note(packet);
            }
            match (tunnel, from) {
                (Some(tunnel), 0) => packets.iter_mut().for_each(|packet| encap(packet, tunnel)),
                (Some(tunnel), _) => packets = decap(&mut frames, std::mem::take(&mut packets), tunnel),
                (None, _) => {}
            }
            queues[1 - from].send(&mut frames, &mut packets);
            assert!(packets.is_empty());
        }
    }
    for queue in &mut queues {
        seen.events.extend(queue.events().into_iter().filter(|(_, count)| *count != 0));
        queue.close(&mut frames);
    }
    assert!(frames.all_home(), "{:?}", Class::ALL.map(|class| frames.stock(class)));
    seen
}

impl Seen {
    fn note(&mut self, packet: &Packet) {
        self.frames += 1;
        self.longest = self.longest.max(packet.len());
        if packet.meta().offload.segmentation == Segmentation::Udp {
            self.udp_longest = self.udp_longest.max(packet.len());
        }
    }
}

/// Until a tap has something, or a while.
fn wait(queues: &[Box<dyn Queue>; 2]) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut ask = queues.each_ref().map(|queue| PollFd::from_borrowed_fd(queue.wake().unwrap(), PollFlags::IN));
    poll(&mut ask, Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 })).unwrap();
}

/// Puts a tunnel's headers in front, as an encapsulating node does.
fn encap(packet: &mut Packet, tunnel: Tunnel) {
    packet.meta_mut().l3 = u16::try_from(packet.start() + 14).unwrap();
    let inner = packet.len();
    let word = |len: usize| u16::try_from(len).unwrap_or(0).to_be_bytes();
    let mut outer = [MACS[1], OUR_MAC].concat();
    if tunnel.six {
        outer.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        outer.extend(word(16 + inner));
        outer.extend([17, 64]);
        for host in [1, 2] {
            outer.extend([0xfd, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        }
    } else {
        outer.extend([8, 0, 0x45, 0]);
        outer.extend(word(36 + inner));
        outer.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2]);
        let checksum = wire::checksum::checksum(&outer[14..34]).to_be_bytes();
        outer[24..26].copy_from_slice(&checksum);
    }
    outer.extend([0xc0, 1, 0x12, 0xb5]);
    outer.extend(word(16 + inner));
    outer.extend([0, 0, 8, 0, 0, 0, 0, 1, 2, 0]);
    let front = packet.push(u16::try_from(outer.len()).unwrap()).unwrap();
    front[..outer.len()].copy_from_slice(&outer);
}

/// Keeps what came by the tunnel, without the tunnel's headers.
fn decap(frames: &mut Frames, packets: Vec<Packet>, tunnel: Tunnel) -> Vec<Packet> {
    let headers = if tunnel.six { 70 } else { 50 };
    let mut inner = Vec::new();
    for mut packet in packets {
        let vxlan = usize::from(headers) - 8..usize::from(headers);
        if packet.data().get(vxlan) == Some(&[8, 0, 0, 0, 0, 1, 2, 0]) {
            packet.pull(headers).unwrap();
            if usize::from(packet.meta().offload.checksum_start) < packet.start() {
                packet.meta_mut().offload = Offload::default(); // the tunnel's own: the inner one is complete
            }
            inner.push(packet);
        } else {
            frames.put(packet);
        }
    }
    inner
}
