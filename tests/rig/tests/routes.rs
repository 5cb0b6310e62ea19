//! Very many routes, some of which change while a worker forwards: each packet goes where its route leads before or
//! after the changes that were under way, and none is lost.
use engine::{Device, FrameCounts, Frames, Handle, Mode, Parts, PortCounters, PortId, Publisher, Settings};
use model::{config::Range, history::History};
use ports::{Replay, Replayed, Sent};
use rig::world::{self, mac, own_mac};
use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tables::{
    learned::Learned,
    told::{Forward, LeafId, NextHop, NextHopId, Port, Role, Told},
};
use wire::{
    Ports,
    build::{self, Addresses, Path},
};

/// Packets enter where no flows are kept, and where they are.
const IN: [PortId; 2] = [PortId(1), PortId(2)];
/// The first port that packets leave by, and how many there are.
const OUT: (u16, usize) = (10, 8);
/// The way that says to drop.
const HOLE: usize = OUT.1;

/// How many routes there are: fewer where nothing is optimised.
fn count() -> usize {
    let asked = std::env::var("MILLRACE_ROUTES").ok().and_then(|count| count.parse().ok());
    asked.unwrap_or(if cfg!(debug_assertions) { 100_000 } else { 1_000_000 })
}

/// Numbers without order that are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    /// An address of which no bits are special.
    fn address(&mut self) -> IpAddr {
        let bits = |numbers: &mut Numbers| u32::try_from(numbers.next(1 << 30)).unwrap();
        if self.next(2) == 0 {
            IpAddr::V4((0x1400_0000 + bits(self) % 0x2000_0000).into())
        } else {
            let [a, b, c] = [bits(self), bits(self), bits(self)].map(u128::from);
            IpAddr::V6((0x2001_u128 << 112 | a << 82 | b << 40 | c).into())
        }
    }

    /// As lengths are in the Internet: most often 24, or 48.
    fn range(&mut self) -> Range {
        let address = self.address();
        let lens: [u8; 6] = if address.is_ipv4() { [16, 20, 22, 24, 24, 32] } else { [32, 40, 44, 48, 48, 64] };
        Range(address, lens[self.next(6)])
    }
}

/// What is told, and the model of it.
struct World {
    told: Told,
    numbers: Numbers,
    ranges: Vec<Range>,
    hops: Vec<NextHopId>,
}

impl World {
    fn new(history: &mut History) -> World {
        let mut told = Told { generation: 1, ..Told::default() };
        told.limits.first_packets = u32::MAX;
        told.vrfs.slot(0).no_route = LeafId(1);
        told.leaves.slot(1).epoch = 1;
        for port in IN {
            let stateless = port == IN[0];
            let there = Port { role: Role::Uplink, mac: own_mac(port), mtu: 1500, stateless, ..Port::default() };
            *told.ports.slot(port.0.into()) = there;
        }
        let mut hops = Vec::new();
        for port in (OUT.0..).map(PortId).take(OUT.1) {
            let there = Port { role: Role::Uplink, mac: own_mac(port), mtu: 1500, ..Port::default() };
            *told.ports.slot(port.0.into()) = there;
            hops.push(world::link(&mut told, port, 1500));
        }
        let hole = NextHop { forward: Forward::Blackhole, ..NextHop::default() };
        hops.push(world::add_next_hop(&mut told, hole));
        let mut world = World { told, numbers: Numbers(1), ranges: Vec::new(), hops };
        // Everybody can answer, so that flows have two halves.
        for default in ["0.0.0.0", "::"] {
            world.set(Range(default.parse().unwrap(), 0), 1, Some(0), history);
        }
        for _ in 0..count() {
            let (range, way) = (world.numbers.range(), world.numbers.next(HOLE + 1));
            world.set(range, 1, Some(way), history);
            world.ranges.push(range);
        }
        world
    }

    /// Tells both of a route, or that it is gone.
    fn set(&mut self, range: Range, generation: u64, way: Option<usize>, history: &mut History) {
        let Range(address, len) = range;
        let vrf = self.told.vrfs.slot(0);
        let old = match address {
            IpAddr::V4(address) => vrf.v4.get(address.to_bits(), len),
            IpAddr::V6(address) => vrf.v6.get(address.to_bits(), len),
        };
        match way {
            Some(way) => drop(world::route(&mut self.told, address, len, self.hops[way])),
            None if old.is_none() => return,
            None => {
                let _gone = match address {
                    IpAddr::V4(address) => vrf.v4.remove(address.to_bits(), len),
                    IpAddr::V6(address) => vrf.v6.remove(address.to_bits(), len),
                };
            }
        }
        if let Some(old) = old {
            self.told.leaves.slot(old.0 as usize).epoch += 1;
        }
        history.set(range, generation, way);
    }

    /// One of the routes changes: it leads elsewhere, goes, comes back, or is split by a longer one.
    fn change(&mut self, generation: u64, history: &mut History) {
        let Range(address, len) = self.ranges[self.numbers.next(HOT)];
        let way = (self.numbers.next(4) != 0).then(|| self.numbers.next(HOLE + 1));
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let len = if self.numbers.next(2) == 0 { len } else { (len + 8).min(longest) };
        self.told.generation = generation;
        self.set(Range(address, len), generation, way, history);
    }
}

/// How often packets are sent to all of these while routes change.
const ROUNDS: u16 = 100;
/// How many of the routes change; packets go to these.
const HOT: usize = 200;

/// What the two threads and the worker share.
struct Shared {
    history: Mutex<History>,
    begun: AtomicU64, // generations that may be out
    live: AtomicU64,  // the generation that is out for sure
    done: AtomicBool,
}

#[test]
fn routes_change_while_packets_are_forwarded() {
    let mut history = History::default();
    let mut world = World::new(&mut history);
    let mut publisher = Publisher::new(world.told.clone());
    let (mut worker, fed, sent) = start(&mut publisher);
    let targets: Vec<IpAddr> = world.ranges[..HOT].iter().map(|range| range.0).collect();
    let shared = Shared { history: Mutex::new(history), begun: 1.into(), live: 1.into(), done: false.into() };
    let (changes, dropped, forwarded) = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let mut generation = 1;
            while !shared.done.load(SeqCst) {
                generation += 1;
                world.change(generation, &mut shared.history.lock().unwrap());
                shared.begun.store(generation, SeqCst);
                publisher.publish(world.told.clone());
                shared.live.store(generation, SeqCst);
                std::thread::sleep(Duration::from_micros(100));
            }
            generation
        });
        let mut totals = (0, 0);
        for round in 0..ROUNDS {
            let (dropped, forwarded) = send(&shared, &targets, round, (&fed, &sent), &mut worker);
            totals = (totals.0 + dropped, totals.1 + forwarded);
        }
        shared.done.store(true, SeqCst);
        (publishing.join().unwrap(), totals.0, totals.1)
    });
    // Nothing changes any more: there is one answer.
    send(&shared, &targets, ROUNDS, (&fed, &sent), &mut worker);
    assert!(changes > 100 && dropped > 100 && forwarded > 10_000, "{changes} changes, {dropped}, {forwarded}");
    let free = || worker.gauges().free().map(|(_, free)| free);
    let since = Instant::now();
    while free() != [8192, 16, 4] {
        assert!(since.elapsed().as_secs() < 20, "frames are missing: {:?}", free());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A worker on all ports; a way to feed it by each port of [`IN`], and what it sent by each of [`OUT`].
fn start(publisher: &mut Publisher<Told>) -> (Handle<Told, Learned>, Vec<Sent>, Vec<Sent>) {
    let map = hugepages::Settings { prefault: false, ..hugepages::Settings::new(0) };
    let counts = FrameCounts { small: 8192, jumbo: 16, super_: 4, packets: 2048 };
    let mut frames = [Frames::new(0, counts, map.clone()).unwrap()];
    let (graph, entry) = nodes::graph::build(1024);
    let ports: Vec<PortId> = IN.into_iter().chain((OUT.0..).map(PortId).take(OUT.1)).collect();
    let devices: Vec<Replay> = ports.iter().map(|_| Replay::once(Vec::new())).collect();
    let mut sent: Vec<Sent> = devices.iter().map(Replay::sent).collect();
    let queues: Vec<_> =
        devices.into_iter().map(|device| Box::new(device).open(&mut frames).unwrap().remove(0)).collect();
    let [frames] = frames;
    let learned = Learned::new(16_384, 0x5eed, &map).unwrap();
    let parts = Parts { graph, entry, told: publisher.reader(), learned, frames };
    let mut worker = engine::start(&Settings { mode: Mode::Poll, ..Settings::default() }, parts).unwrap();
    for (port, queue) in ports.iter().zip(queues) {
        worker.attach(*port, queue, Arc::new(PortCounters::default()));
    }
    let out = sent.split_off(IN.len());
    (worker, sent, out)
}

/// Sends a packet to every target by either port, and checks where each went; gives how many were dropped, how many
/// forwarded.
fn send(
    shared: &Shared,
    targets: &[IpAddr],
    round: u16,
    (fed, sent): (&[Sent], &[Sent]),
    worker: &mut Handle<Told, Learned>,
) -> (usize, usize) {
    let before = shared.live.load(SeqCst);
    let number = |port: usize, target: usize| port * targets.len() + target;
    for (port, fed) in fed.iter().enumerate() {
        fed.feed(targets.iter().enumerate().map(|(at, to)| packet(IN[port], *to, (round, number(port, at)))));
    }
    settle(worker);
    let after = shared.begun.load(SeqCst);
    let mut went = vec![None; number(fed.len(), 0)];
    for (port, sent) in sent.iter().enumerate() {
        for frame in sent.take() {
            let tail: [u8; 8] = *frame.bytes.last_chunk().unwrap();
            let told = usize::try_from(u64::from_be_bytes(tail)).unwrap();
            assert_eq!(told >> 32, usize::from(round), "a packet of another round");
            let before = went[told & 0xffff_ffff].replace(port);
            assert_eq!(before, None, "a packet was sent twice");
        }
    }
    fed.iter().for_each(|fed| drop(fed.take())); // what senders were told
    let history = shared.history.lock().unwrap();
    for (at, went) in went.iter().enumerate() {
        let to = targets[at % targets.len()];
        let ways = history.ways(to, before..=after);
        let right = ways.iter().any(|way| way.filter(|way| *way != HOLE) == *went);
        assert!(
            right,
            "round {round}: to {to} by {:?}: sent {went:?}, in {before}..={after} {ways:?}",
            at / targets.len()
        );
    }
    let forwarded = went.iter().flatten().count();
    (went.len() - forwarded, forwarded)
}

/// Waits until the worker is done with what it was fed: a turn in which there was nothing to do.
fn settle(worker: &mut Handle<Told, Learned>) {
    let since = Instant::now();
    let mut idle = 0;
    let mut last = worker.gauges().turns();
    while idle < 2 {
        assert!(since.elapsed().as_secs() < 20, "the worker stopped");
        let now = worker.gauges().turns();
        // Turns passed, and none of them was busy.
        if now.0 > last.0 + 2 {
            idle = if now.1 == last.1 { idle + 1 } else { 0 };
            last = now;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn packet(port: PortId, to: IpAddr, (round, number): (u16, usize)) -> Replayed {
    let from: IpAddr = if to.is_ipv4() { "10.1.1.1".parse().unwrap() } else { "fd00::1".parse().unwrap() };
    let path = Path::new((mac(port), own_mac(port)), Addresses::of(from, to).unwrap());
    let tail = (u64::from(round) << 32 | u64::try_from(number).unwrap()).to_be_bytes();
    let bytes = build::frame(|into| build::udp(into, &path, Ports::new(port.0, 53), &tail)).unwrap();
    Replayed::from(&bytes[..])
}
