//! AF_XDP ports between network namespaces: packets, frames, checksums, and what the host sees when the worker is gone.
mod netns;
#[path = "netns/pair.rs"]
mod pair;

use engine::{Class, Device, FrameCounts, Frames, LinkState, Offload, Packet, Queue, Segmentation};
use netns::Space;
use pair::{OURS, PEERS, Pair};
use ports::af_xdp::{AfXdp, Report, Settings};
use ports::steer::{Attach, Mode, Steering};
use std::io::{ErrorKind, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// An open port with its only queue and its worker's frames.
struct End {
    queue: Box<dyn Queue>,
    frames: Frames,
    steering: Arc<Steering>,
    report: Report,
}

fn frames() -> Frames {
    let counts = FrameCounts { small: 4096, jumbo: 256, super_: 64, packets: 1024 };
    Frames::new(0, counts, hugepages::Settings::new(0)).unwrap()
}

fn open(space: &Space, settings: Settings, steering: Steering, mut frames: Frames) -> End {
    let steering = Arc::new(steering);
    let port = AfXdp::new(settings, steering.clone());
    let report = port.report();
    let opened = space.within(|| Box::new(port).open(std::slice::from_mut(&mut frames)));
    let queue = opened.unwrap().pop().unwrap();
    End { queue, frames, steering, report: report.get().unwrap().clone() }
}

/// The whole device `interface` of `space`, pinned below `pins`.
fn owned(space: &Space, interface: &str, attach: Attach, pins: &Path) -> End {
    let pins = pins.join(interface);
    let steering = space.within(|| Steering::attach(interface, attach, Mode::Owned, &pins)).unwrap();
    let settings = Settings { receive_ring: 512, send_ring: 64, ..Settings::new(interface) };
    open(space, settings, steering, frames())
}

impl End {
    fn receive(&mut self) -> Vec<Packet> {
        let mut packets = Vec::with_capacity(64);
        self.queue.receive(&mut self.frames, &mut packets, 64);
        packets
    }

    /// How many events of names that begin so.
    fn events(&self, name: &str) -> u64 {
        self.queue.events().into_iter().filter(|(event, _)| event.starts_with(name)).map(|(_, count)| count).sum()
    }

    /// Nothing is lost: all frames are home when it is closed.
    fn close(mut self) {
        self.queue.close(&mut self.frames);
        assert!(self.frames.all_home());
        let Ok(steering) = Arc::try_unwrap(self.steering) else { panic!("somebody holds the steering") };
        steering.detach().unwrap();
    }
}

/// Gives `device` of `space` the addresses of `host`.
fn address(space: &Space, device: &str, host: u8) {
    space.ip(&format!("addr add 10.9.0.{host}/24 dev {device}"));
    space.ip(&format!("addr add fd09::{host}/64 dev {device} nodad"));
}

/// An Ethernet frame of `len` bytes that says which one it is, of no protocol that the host knows.
fn numbered(number: usize, len: usize) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 0x88, 0xb5], &number.to_be_bytes()].concat();
    frame.resize(len, u8::try_from(number % 251).unwrap());
    frame
}

fn number(packet: &Packet) -> Option<usize> {
    let ours = packet.data().get(12..14)? == [0x88, 0xb5];
    packet.data().get(14..)?.first_chunk().map(|bytes| usize::from_be_bytes(*bytes)).filter(|_| ours)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < limit, "waited too long: {what}");
        std::thread::yield_now();
    }
}

fn packets_arrive_in_order(attach: Attach, mtu: usize) {
    let Some(pair) = Pair::new("packets_arrive_in_order", mtu, QUEUES) else { return };
    let pins = pair.pins();
    let mut a = owned(&pair.ours, OURS, attach, &pins);
    let mut b = owned(&pair.peer, PEERS, attach, &pins);
    assert_eq!((a.report.native, a.report.multi_buffer, a.report.zero_copy), (attach == Attach::Native, true, false));
    assert_eq!(a.report.notes.len(), if attach == Attach::Native { 1 } else { 2 }, "{:?}", a.report.notes);
    assert_eq!(a.queue.can().longest, mtu + 14);
    let length = |n: usize| 60 + n * 37 % (mtu - 45);
    let (mut sent, mut received) = (0, 0);
    let mut waiting = Vec::new();
    until("all packets", || {
        while waiting.len() < 32 && sent < COUNT {
            let Some(mut packet) = a.frames.copy(&numbered(sent, length(sent))) else { break };
            if sent.is_multiple_of(3) && packet.len() < 1500 {
                packet.pull(0).unwrap();
                packet.push(100).unwrap();
                packet.pull(100).unwrap();
            }
            waiting.push(packet);
            sent += 1;
        }
        a.queue.send(&mut a.frames, &mut waiting);
        for packet in b.receive() {
            if let Some(n) = number(&packet) {
                assert_eq!(n, received);
                assert_eq!(packet.data(), numbered(n, length(n)));
                received += 1;
            }
            b.frames.put(packet);
        }
        a.receive().into_iter().for_each(|packet| a.frames.put(packet));
        received == COUNT
    });
    let quiet = [&mut a, &mut b].map(|end| end.queue.rest(&mut end.frames));
    assert!(quiet[0] && a.queue.wake().is_some());
    assert!(b.queue.events().iter().all(|(_, count)| *count == 0), "{:?}", b.queue.events());
    a.close();
    b.close();
}

const COUNT: usize = 3000;
const QUEUES: u8 = 2;

#[test]
fn packets_arrive_in_order_native() {
    packets_arrive_in_order(Attach::Native, 1500);
}

#[test]
fn packets_arrive_in_order_generic() {
    packets_arrive_in_order(Attach::Generic, 1500);
}

#[test]
fn jumbo_packets_arrive_in_order_native() {
    packets_arrive_in_order(Attach::Native, 9000);
}

#[test]
fn jumbo_packets_arrive_in_order_generic() {
    packets_arrive_in_order(Attach::Generic, 9000);
}

/// How many of the small frames its port holds, when no packet is anywhere else.
fn held(end: &End) -> usize {
    let (all, free) = end.frames.stock(Class::Small);
    all - free
}

#[test]
fn bursts_on_one_of_four_queues_find_frames_within_the_budget() {
    let Some(pair) = Pair::new("bursts_on_one", 1500, 4) else { return };
    let pins = pair.pins();
    let mut a = owned(&pair.ours, OURS, Attach::Native, &pins);
    let mut b = owned(&pair.peer, PEERS, Attach::Native, &pins);
    assert_eq!(b.report.queues, 4);
    assert_eq!(held(&b), 512, "an eighth to begin with");
    let quiet = held(&a);
    for burst in [100, 200, 400, 500, 500] {
        for n in 0..burst {
            let mut packets = vec![a.frames.copy(&numbered(n, 200)).unwrap()];
            a.queue.send(&mut a.frames, &mut packets);
            assert!(packets.is_empty());
            until("a packet to leave", || {
                a.queue.rest(&mut a.frames);
                held(&a) == quiet
            });
        }
        let mut received = 0;
        until("the burst", || {
            for packet in b.receive() {
                received += usize::from(number(&packet) == Some(received));
                b.frames.put(packet);
            }
            assert!(b.events("kernel") == 0, "{burst}: {:?}", b.queue.events());
            assert!(held(&b) <= BUDGET);
            received == burst
        });
    }
    assert!(held(&b) > 3 * 128 + 500, "the busy queue has what a burst needs, the others their part");
    a.close();
    b.close();
}

#[test]
fn a_flood_of_all_queues_keeps_to_the_budget_and_passes_when_it_is_over() {
    let Some(pair) = Pair::new("a_flood", 1500, 4) else { return };
    address(&pair.ours, OURS, 1);
    pair.ours.ip(&format!("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev {OURS}"));
    let mut b = owned(&pair.peer, PEERS, Attach::Native, &pair.pins());
    let socket = || UdpSocket::bind("10.9.0.1:0").unwrap();
    let sockets: Vec<_> = pair.ours.within(|| std::iter::repeat_with(socket).take(16).collect());
    sockets.iter().for_each(|socket| socket.connect("10.9.0.2:9").unwrap());
    let mut most = 0;
    let visit = |b: &mut End, most: &mut usize| {
        let packets = b.receive();
        let marks: Vec<u8> = packets.iter().map(|packet| packet.data()[packet.len() - 1]).collect();
        packets.into_iter().for_each(|packet| b.frames.put(packet));
        *most = held(b).max(*most);
        assert!(held(b) <= BUDGET, "{}", held(b));
        marks
    };
    for n in 0..20_000 {
        sockets[n % 16].send(&[0; 100]).unwrap();
        if n.is_multiple_of(100) {
            visit(&mut b, &mut most);
        }
    }
    assert!(b.events("kernel") > 0, "it was a flood");
    assert!(most > BUDGET * 2 / 3, "several queues hold frames: {most}");
    for (mark, socket) in (1..).zip(&sockets) {
        until("what comes after the flood", || {
            socket.send(&[mark; 100]).unwrap();
            visit(&mut b, &mut most).contains(&mark)
        });
    }
    b.close();
}

const BUDGET: usize = 2048; // of `frames` for several queues

#[test]
fn a_full_ring_leaves_the_rest_in_order_and_nothing_too_long_passes() {
    let Some(pair) = Pair::new("a_full_ring", 1500, QUEUES) else { return };
    let mut a = owned(&pair.ours, OURS, Attach::Native, &pair.pins());
    let mut packets: Vec<_> = (0..100).map(|n| a.frames.copy(&numbered(n, 60)).unwrap()).collect();
    a.queue.send(&mut a.frames, &mut packets);
    let left: Vec<_> = packets.iter().filter_map(number).collect();
    assert_eq!(left, (64..100).collect::<Vec<_>>());
    packets.drain(..).for_each(|packet| a.frames.put(packet));
    let mut long = vec![a.frames.copy(&numbered(0, 1515)).unwrap()];
    until("room", || {
        a.queue.rest(&mut a.frames);
        a.queue.send(&mut a.frames, &mut long);
        long.is_empty()
    });
    assert!(a.queue.events().contains(&("too_long", 1)));
    a.close();
}

/// Super-frames and partial checksums as the kernel makes them, from one peer through our two ports to another.
fn tcp_passes(attach: Attach) {
    let new = || Pair::new("tcp_passes", 1500, QUEUES);
    let (Some(one), Some(two)) = (new(), new()) else { return };
    address(&one.peer, PEERS, 2);
    address(&two.peer, PEERS, 3);
    let attach_to = |pair: &Pair| {
        let pins = pair.pins();
        pair.ours.within(|| Steering::attach(OURS, attach, Mode::Owned, &pins)).unwrap()
    };
    let End { queue: mut a, frames, steering: first, .. } =
        open(&one.ours, Settings::new(OURS), attach_to(&one), frames());
    let End { queue: mut b, mut frames, steering: second, .. } =
        open(&two.ours, Settings::new(OURS), attach_to(&two), frames);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut to_b, mut to_a) = (Vec::new(), Vec::new());
            while !over.load(Relaxed) {
                a.receive(&mut frames, &mut to_b, 64);
                b.send(&mut frames, &mut to_b);
                b.receive(&mut frames, &mut to_a, 64);
                a.send(&mut frames, &mut to_a);
                std::thread::yield_now();
            }
            to_a.into_iter().chain(to_b).for_each(|packet| frames.put(packet));
        });
        for address in ["10.9.0.3:7000", "[fd09::3]:7000"] {
            let listener = two.peer.within(|| TcpListener::bind(address)).unwrap();
            let sent: Vec<u8> = (0..4_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
            let echo = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                stream.write_all(&got).unwrap();
            });
            let mut stream = one.peer.within(|| TcpStream::connect(address)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.write_all(&sent).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            assert!(got == sent);
            echo.join().unwrap();
        }
        over.store(true, Relaxed);
    });
    for (mut queue, steering) in [(a, first), (b, second)] {
        let bad: Vec<_> =
            queue.events().into_iter().filter(|(name, n)| *n > 0 && !name.starts_with("kernel")).collect();
        assert!(bad.is_empty(), "{bad:?}");
        queue.close(&mut frames);
        Arc::try_unwrap(steering).unwrap().detach().unwrap();
    }
    assert!(frames.all_home());
}

#[test]
fn tcp_passes_native() {
    tcp_passes(Attach::Native);
}

#[test]
fn tcp_passes_generic() {
    tcp_passes(Attach::Generic);
}

/// Sleeps as a worker does.
fn wait_for_wake(queue: &dyn Queue) {
    let wake = queue.wake().unwrap();
    let mut wait = [rustix::event::PollFd::new(&wake, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut wait, Some(&limit)).unwrap(), 1, "nobody woke the worker");
}

/// The peer's datagram turned round: to where it came from.
fn answer(packet: &mut Packet) {
    let (mac, ip, ports) = if packet.data()[12] == 8 { (6, 26..34, 34..38) } else { (6, 22..54, 54..58) };
    let half = ip.len() / 2;
    let bytes = packet.data_mut();
    bytes[..12].rotate_left(mac);
    bytes[ip].rotate_left(half);
    bytes[ports].rotate_left(2);
}

#[test]
fn a_datagram_with_a_partial_checksum_is_known_as_such_and_answered() {
    let Some(pair) = Pair::new("a_datagram", 9000, QUEUES) else { return };
    address(&pair.ours, OURS, 1);
    address(&pair.peer, PEERS, 2);
    let pins = pair.pins();
    let steering = pair.ours.within(|| Steering::attach(OURS, Attach::Auto, Mode::Shared, &pins)).unwrap();
    let here: [SocketAddr; 2] = ["10.9.0.1:4789".parse().unwrap(), "[fd09::1]:4789".parse().unwrap()];
    steering.set_tunnels(&here.map(|address| (address.ip(), address.port()))).unwrap();
    let mut end = open(&pair.ours, Settings::new(OURS), steering, frames());
    assert_eq!(end.report.queues, 2);
    for (to, any) in here.into_iter().zip(["0.0.0.0:0", "[::]:0"]) {
        let socket = pair.peer.within(|| UdpSocket::bind(any)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for len in [1, 2, 777, 1400, 8900] {
            let sent: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0] ^ 0x5a).collect();
            assert!(end.queue.rest(&mut end.frames));
            socket.send_to(&sent, to).unwrap();
            wait_for_wake(end.queue.as_ref());
            let mut packets = end.receive();
            let offload = packets[0].meta().offload;
            let l4 = if to.is_ipv4() { 34 } else { 54 };
            assert_eq!(usize::from(offload.checksum_start), packets[0].start() + l4);
            assert_eq!(offload.checksum_offset, 6);
            answer(&mut packets[0]);
            end.queue.send(&mut end.frames, &mut packets);
            assert!(packets.is_empty());
            let mut got = vec![0; 9000];
            let (len, _) = socket.recv_from(&mut got).unwrap();
            assert_eq!(&got[..len], sent);
        }
    }
    end.close();
}

#[test]
fn a_worker_is_killed_ours_is_dropped_and_the_host_goes_on() {
    let Some(pair) = Pair::new("a_worker_is_killed", 1500, QUEUES) else { return };
    address(&pair.ours, OURS, 1);
    address(&pair.peer, PEERS, 2);
    let pins = pair.pins();
    pair.peer.ip("route add 10.77.3.0/24 via 10.9.0.1");
    let listener = pair.ours.within(|| TcpListener::bind("10.9.0.1:22")).unwrap();
    let mut login = pair.peer.within(|| TcpStream::connect("10.9.0.1:22")).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    let mut said = |what: &[u8]| {
        login.write_all(what).unwrap();
        let mut heard = vec![0; what.len()];
        served.read_exact(&mut heard).unwrap();
        served.write_all(&heard).unwrap();
        login.read_exact(&mut heard).unwrap();
        assert_eq!(heard, what);
    };
    said(b"before steering");
    let steering = pair.ours.within(|| Steering::attach(OURS, Attach::Auto, Mode::Shared, &pins)).unwrap();
    steering.set_tunnels(&[("10.9.0.1".parse().unwrap(), 4789)]).unwrap();
    steering.set_pod_prefixes(&[("10.77.3.0".parse().unwrap(), 24)]).unwrap();
    said(b"while nobody has come yet");
    let tunnel = pair.peer.within(|| {
        let socket = UdpSocket::bind("10.9.0.2:0").unwrap();
        socket.connect("10.9.0.1:4789").unwrap();
        socket
    });
    let reaches = || {
        tunnel.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let answered = || tunnel.send(b"one").and_then(|_| tunnel.recv(&mut [0; 9]));
        until("an answer", || match answered() {
            Ok(len) => len == 3,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        });
    };
    let mut worker = worker_process(&pair, &pins);
    said(b"while it starts");
    reaches();
    said(b"while it works");
    worker.kill().unwrap();
    said(b"while it dies");
    worker.wait().unwrap();
    while tunnel.recv(&mut [0; 9]).is_ok() {}
    assert_silent(&pair, &tunnel);
    said(b"while it is away");
    let mut worker = worker_process(&pair, &pins);
    reaches();
    said(b"when it is back");
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert!(steering.counters().unwrap().dropped > 1);
    steering.detach().unwrap();
    // The same questions are answered when nobody steers: so it was the program that kept the host silent.
    tunnel.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    until("a refusal", || {
        let _ = tunnel.send(b"two");
        tunnel.recv(&mut [0; 9]).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

/// Answers the peer's datagrams until it is killed; run as a test among others it does nothing.
#[test]
fn a_worker_process() {
    let (Ok(space), Ok(pins)) = (std::env::var(SPACE), std::env::var(PINS)) else { return };
    let space = ManuallyDrop::new(Space { name: space }); // it is the parent's
    let mut end = open(&space, Settings::new(OURS), Steering::open(Path::new(&pins)).unwrap(), frames());
    until("the end", || {
        let mut packets = end.receive();
        packets.iter_mut().for_each(answer);
        end.queue.send(&mut end.frames, &mut packets);
        if end.queue.rest(&mut end.frames) {
            wait_for_wake(end.queue.as_ref());
        }
        false
    });
}

fn worker_process(pair: &Pair, pins: &Path) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_worker_process"]).env(SPACE, &pair.ours.name).env(PINS, pins);
    command.stdout(Stdio::null()).spawn().unwrap()
}

const SPACE: &str = "MILLRACE_TEST_SPACE";
const PINS: &str = "MILLRACE_TEST_PINS";

/// No port-unreachable for the tunnel and no reset for a pod comes back.
fn assert_silent(pair: &Pair, tunnel: &UdpSocket) {
    tunnel.send(b"one").unwrap();
    let pod: SocketAddr = "10.77.3.9:80".parse().unwrap();
    let called = pair.peer.within(|| TcpStream::connect_timeout(&pod, Duration::from_millis(300)));
    assert_eq!(called.unwrap_err().kind(), ErrorKind::TimedOut);
    tunnel.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(tunnel.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_link_goes_down_comes_up_and_goes_for_good() {
    let Some(pair) = Pair::new("a_link", 1500, QUEUES) else { return };
    let mut a = owned(&pair.ours, OURS, Attach::Native, &pair.pins());
    let becomes = |end: &mut End, state| until("the link", || end.queue.link() == state);
    becomes(&mut a, LinkState::Up);
    pair.peer.ip(&format!("link set {PEERS} down"));
    becomes(&mut a, LinkState::Down);
    let mut packets: Vec<_> = (0..50).map(|n| a.frames.copy(&numbered(n, 60)).unwrap()).collect();
    a.queue.send(&mut a.frames, &mut packets);
    packets.drain(..).for_each(|packet| a.frames.put(packet));
    pair.ours.ip(&format!("link set {OURS} down"));
    let mut packets = vec![super_frame(&mut a.frames)];
    a.queue.send(&mut a.frames, &mut packets);
    a.queue.rest(&mut a.frames);
    assert!(packets.is_empty() && a.queue.events().contains(&("send_rest_dropped", 1)), "{:?}", a.queue.events());
    pair.ours.ip(&format!("link set {OURS} up"));
    pair.peer.ip(&format!("link set {PEERS} up"));
    becomes(&mut a, LinkState::Up);
    let mut b = owned(&pair.peer, PEERS, Attach::Native, &pair.pins());
    let mut passed = false;
    until("a packet after the link came up", || {
        let mut packets = vec![a.frames.copy(&numbered(7, 100)).unwrap()];
        a.queue.send(&mut a.frames, &mut packets);
        packets.drain(..).for_each(|packet| a.frames.put(packet));
        for packet in b.receive() {
            passed |= number(&packet) == Some(7);
            b.frames.put(packet);
        }
        passed
    });
    pair.ours.ip(&format!("link del {OURS}"));
    becomes(&mut a, LinkState::Gone);
    a.close();
    b.close();
}

/// UDP in IPv4, of more segments than a send ring holds.
fn super_frame(frames: &mut Frames) -> Packet {
    let mut bytes = [&[2; 12][..], &[8, 0, 0x45, 0, 0x75, 0x4c, 0, 0, 0x40, 0, 64, 17, 0, 0]].concat();
    bytes.extend([10, 9, 0, 1, 10, 9, 0, 2, 0, 53, 0, 53, 0, 0, 0, 0]);
    bytes.resize(42 + 30_000, 0);
    let mut packet = frames.copy(&bytes).unwrap();
    let start = u16::try_from(packet.start()).unwrap();
    let meta = packet.meta_mut();
    meta.l3 = start + 14;
    let (checksum_start, checksum_offset, segmentation) = (start + 34, 6, Segmentation::Udp);
    meta.offload = Offload { checksum_start, checksum_offset, segmentation, segment_size: 300 };
    packet
}

#[test]
fn what_cannot_be_had_is_said() {
    let Some(pair) = Pair::new("what_cannot_be_had", 1500, QUEUES) else { return };
    let pins = pair.pins();
    let steering = pair.ours.within(|| Steering::attach(OURS, Attach::Auto, Mode::Owned, &pins)).unwrap();
    let steering = Arc::new(steering);
    let mut frames = frames();
    let mut refusal = |change: fn(&mut Settings)| {
        let mut settings = Settings::new(OURS);
        change(&mut settings);
        let port = Box::new(AfXdp::new(settings, steering.clone()));
        let opened = pair.ours.within(|| port.open(std::slice::from_mut(&mut frames)));
        let Err(error) = opened else { panic!("it opened") };
        assert!(frames.all_home());
        error.to_string()
    };
    assert!(refusal(|settings| settings.receive_ring = 1000).contains("receive_ring: 1000 is no power of two"));
    assert!(refusal(|settings| settings.queues = Some(3)).contains("queues: 3 for 1 workers, and the device has 2"));
    assert!(refusal(|settings| settings.interface = "nowhere0".into()).contains("find the device"));
    assert!(refusal(|settings| settings.interface = "lo".into()).contains("steering: is on device"));
    assert!(frames.stock(Class::Small).1 == 4096);
}
