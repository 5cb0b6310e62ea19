//! Any bytes through the product's graph neither panic nor leak, whatever is told meanwhile; a warm turn allocates
//! nothing and asks the system for nothing.
// UNSAFETY: allocations can only be counted in a global allocator, and system calls only be forbidden to a child.
#![expect(unsafe_code, reason = "a counting allocator, and a fork under seccomp")]
mod traffic;

use engine::{FrameCounts, Frames, Graph, Instant, Offload, PortId, Segmentation};
use proptest::{
    prelude::*,
    sample::Index,
    strategy::ValueTree,
    test_runner::{RngSeed, TestRunner},
};
use rig::{
    Rig,
    world::{self, HOST, TUNNEL, UPLINK, pod, two_pods},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::BTreeSet,
    sync::Arc,
    time::Duration,
};
use tables::{
    learned::Learned,
    told::{EndpointId, Forward, NextHop, Resolution, Role, Told, Translation, Virtual, VrfId},
};

struct Counting;
thread_local!(static ALLOCATIONS: Cell<usize> = const { Cell::new(0) });
// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `memory` is from the system allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}
#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A frame that arrives: what it was, and what was done to it.
#[derive(Clone, Debug)]
struct Wild {
    port: u16,
    base: Index,
    changed: Vec<(Index, u8)>,
    cut: Option<Index>,
    more: Vec<u8>,
    offload: Option<Offload>,
}

/// What happens, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Turn(Vec<Wild>),
    Pass(u16),
    Change(u8, [u8; 4]),
}

fn offload() -> impl Strategy<Value = Offload> {
    let segmentation =
        prop::sample::select(vec![Segmentation::None, Segmentation::Tcp4, Segmentation::Tcp6, Segmentation::Udp]);
    let start = prop_oneof![2 => 256u16..400, 1 => any::<u16>()];
    // Ports refuse what would be too many segments; everything else may be anything.
    (start, any::<u8>(), segmentation, prop_oneof![64u16..100, any::<u16>().prop_map(|size| size.max(64))]).prop_map(
        |(checksum_start, checksum_offset, segmentation, size)| {
            let segment_size = if segmentation == Segmentation::None { 0 } else { size };
            Offload { checksum_start, checksum_offset, segmentation, segment_size }
        },
    )
}

fn wild() -> impl Strategy<Value = Wild> {
    let changed = prop_oneof![
        2 => Just(Vec::new()),
        5 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        1 => prop::collection::vec((any::<Index>(), any::<u8>()), 1..40),
    ];
    let more = prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(any::<u8>(), 1..2000)];
    let (cut, offload) = (prop::option::weighted(0.2, any::<Index>()), prop::option::weighted(0.2, offload()));
    (0u16..7, any::<Index>(), changed, cut, more, offload).prop_map(|(port, base, changed, cut, more, offload)| Wild {
        port,
        base,
        changed,
        cut,
        more,
        offload,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(wild(), 1..40).prop_map(Step::Turn),
        1 => (0u16..5000).prop_map(Step::Pass),
        2 => (any::<u8>(), any::<[u8; 4]>()).prop_map(|(kind, pick)| Step::Change(kind, pick)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100, failure_persistence: None, rng_seed: RngSeed::Fixed(5), max_shrink_iters: 2000, ..ProptestConfig::default()
    })]
    #[test]
    fn any_bytes_neither_panic_nor_leak(steps in prop::collection::vec(step(), 1..30)) {
        let mut rig = Rig::new(wide_world());
        endure(&mut rig, &steps);
        prop_assert!(rig.nothing_is_lost());
    }

    #[test]
    fn noise_neither_panics_nor_leaks(frames in prop::collection::vec((0u16..7, prop::collection::vec(any::<u8>(), 0..200)), 1..100)) {
        let mut rig = Rig::new(wide_world());
        for (port, bytes) in &frames {
            rig.send(PortId(*port), bytes);
        }
        rig.turn();
        rig.pass(Duration::from_secs(10));
        prop_assert!(rig.nothing_is_lost());
    }
}

/// Does what the steps say, and waits until nothing waits any more.
fn endure(rig: &mut Rig, steps: &[Step]) {
    let bases = traffic::families();
    for step in steps {
        match step {
            Step::Turn(wilds) => {
                wilds.iter().for_each(|wild| arrive(rig, &bases, wild));
                rig.turn();
            }
            Step::Pass(milliseconds) => drop(rig.pass(Duration::from_millis((*milliseconds).into()))),
            Step::Change(kind, pick) => change(&mut rig.told, *kind, *pick),
        }
    }
    for _ in 0..6 {
        rig.pass(Duration::from_secs(2));
    }
}

/// What never happens in such histories is not tested by them.
#[test]
fn hostile_packets_get_nearly_everywhere() {
    let mut runner = TestRunner::deterministic();
    let mut missing: BTreeSet<_> = nodes::graph::build(1).0.map().iter().map(|(node, arc, _)| (*node, *arc)).collect();
    for _ in 0..60 {
        let mut rig = Rig::new(wide_world());
        endure(&mut rig, &prop::collection::vec(step(), 30).new_tree(&mut runner).unwrap().current());
        let moved = rig.moved();
        missing.retain(|(node, arc)| !moved.iter().any(|moved| (moved.0, moved.1) == (*node, *arc)));
    }
    assert!(missing.len() < 26, "{} are not taken: {missing:?}", missing.len());
}

fn arrive(rig: &mut Rig, bases: &[(PortId, Vec<u8>)], wild: &Wild) {
    let (port, base) = wild.base.get(bases);
    let mut bytes = base.clone();
    for (at, value) in &wild.changed {
        *at.get_mut(&mut bytes) = *value;
    }
    bytes.truncate(wild.cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
    bytes.extend(&wild.more);
    let port = if wild.changed.len() > 2 { PortId(wild.port) } else { *port };
    rig.send_packet(port, &bytes, |packet| packet.meta_mut().offload = wild.offload.unwrap_or_default());
}

/// Two pods, and all that is unusual: a virtual address, neighbours that are not known, a port that asks for itself.
fn wide_world() -> Told {
    let mut told = two_pods();
    let (a4, a6) = pod(1, 2);
    for (address, to) in [("10.96.0.1", a4.into()), ("fd00:ffff::1", a6.into())] {
        for protocol in [6, 17] {
            let from = Virtual { vrf: VrfId(0), address: address.parse().unwrap(), port: 80, protocol };
            let new = Translation { endpoint: EndpointId(1), destination: (to, 8080), source: None };
            Arc::make_mut(&mut told.translations).insert(from, new);
        }
    }
    told.endpoints.slot(1).incarnation = 1;
    told.ports.slot(HOST.0.into()).resolution = Resolution::Own;
    told.ports.slot(HOST.0.into()).gateways = Arc::new(["10.0.8.1".parse().unwrap(), "fd00:8::1".parse().unwrap()]);
    for (port, net) in [(HOST, 8), (UPLINK, 7)] {
        let hop =
            NextHop { forward: Forward::Port, port, mtu: 1500, source: world::own_mac(port), ..NextHop::default() };
        let hop = world::add_next_hop(&mut told, hop);
        world::route(&mut told, pod(net, 0).0.into(), 24, hop);
        world::route(&mut told, pod(net, 0).1.into(), 64, hop);
    }
    for (forward, net) in [(Forward::Blackhole, 9), (Forward::Unreachable, 11), (Forward::Local, 12)] {
        let hop = world::add_next_hop(&mut told, NextHop { forward, ..NextHop::default() });
        world::route(&mut told, pod(net, 0).0.into(), 24, hop);
        world::route(&mut told, pod(net, 0).1.into(), 64, hop);
    }
    told
}

/// Anything that the compile step may tell, and some that it should not.
fn change(told: &mut Told, kind: u8, [a, b, c, d]: [u8; 4]) {
    let hop = usize::from(a) % told.next_hops.len();
    let port = usize::from(a % 6);
    match kind % 12 {
        0 => told.next_hops.slot(hop).mtu = [0, 20, 68, 100, 600, 1280, 1500, 9000][usize::from(b % 8)],
        1 => told.next_hops.slot(hop).resolved ^= true,
        2 => {
            let all = [Forward::Nowhere, Forward::Port, Forward::Tunnel, Forward::Local, Forward::Unreachable];
            told.next_hops.slot(hop).forward = all[usize::from(b % 5)];
        }
        3 => told.ports.slot(port).epoch += 1,
        4 => {
            let roles = [Role::Absent, Role::Pod, Role::Uplink, Role::Host];
            told.ports.slot(port).role = roles[usize::from(b % 4)];
        }
        5 => told.endpoints.slot(1).incarnation += 1,
        6 => told.tunnels.slot(TUNNEL.0.into()).exists ^= true,
        7 => told.tunnels.slot(TUNNEL.0.into()).mtu = [0, 40, 68, 576, 1280, 1450, 9000][usize::from(b % 7)],
        8 => {
            let len = [8, 16, 24, 32][usize::from(b % 4)];
            let hop = tables::told::NextHopId(u32::try_from(hop).unwrap());
            world::route(told, pod(c % 13, d % 4).0.into(), len, hop);
        }
        9 => told.ports.slot(port).stateless ^= true,
        10 => told.next_hops.slot(hop).port = PortId((b % 6).into()),
        _ => told.limits.first_packets = if b.is_multiple_of(2) { 3 } else { 50_000 },
    }
}

/// A worker's graph with what it needs, without anything that allocates.
struct Worker {
    graph: Graph<Told, Learned>,
    entry: engine::NodeId,
    told: Told,
    learned: Learned,
    frames: Frames,
    now: Instant,
    waiting: Vec<engine::Packet>,
}

impl Worker {
    const MOST: usize = 1024;

    fn new() -> Worker {
        let counts = FrameCounts { small: 2048, jumbo: 64, super_: 16, packets: Self::MOST + 512 };
        let map = hugepages::Settings { prefault: false, ..hugepages::Settings::new(0) };
        let (graph, entry) = nodes::graph::build(Self::MOST);
        let frames = Frames::new(0, counts, map.clone()).unwrap();
        let learned = Learned::new(4096, 0x5eed, &map).unwrap();
        let now = Instant::default().after(Duration::from_secs(1_000_000));
        Worker { graph, entry, told: wide_world(), learned, frames, now, waiting: Vec::with_capacity(Self::MOST) }
    }

    /// One turn with these frames; gives how many packets were sent.
    fn turn(&mut self, arriving: &[(PortId, Vec<u8>)]) -> usize {
        for (port, bytes) in arriving {
            let Some(mut packet) = self.frames.copy(bytes) else { return 0 };
            packet.meta_mut().port_in = port.0;
            self.waiting.push(packet);
        }
        self.now = self.now.after(Duration::from_micros(50));
        self.graph.admit(self.entry, &mut self.waiting);
        self.graph.walk(&self.told, &mut self.learned, self.now, &mut self.frames);
        let _due = self.graph.tick(&self.told, &mut self.learned, self.now, &mut self.frames);
        let sent = self.graph.sent().len();
        self.graph.sent().drain(..).for_each(|packet| self.frames.put(packet));
        sent
    }
}

#[test]
fn a_warm_turn_allocates_nothing() {
    let (mut worker, arriving) = (Worker::new(), traffic::established());
    let first = worker.turn(&arriving);
    assert_eq!(worker.turn(&arriving), first);
    assert!(first >= arriving.len(), "all of it goes somewhere: {first}");
    let before = ALLOCATIONS.with(Cell::get);
    let sent: usize = (0..10).map(|_| worker.turn(&arriving)).sum();
    assert_eq!((ALLOCATIONS.with(Cell::get), sent), (before, 10 * first));
}

#[test]
fn even_hostile_packets_and_first_ones_make_nobody_allocate() {
    let (mut worker, arriving) = (Worker::new(), traffic::families());
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..10 {
        worker.turn(&arriving);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
}

#[test]
fn a_turn_makes_no_system_call() {
    let (mut worker, arriving) = (Worker::new(), traffic::established());
    let first = worker.turn(&arriving);
    // SAFETY: the child runs only turns, which neither lock nor allocate, and leaves by `exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes no pointers; from here on any system call but read, write and exit kills the child.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
        let wrong = (0..100).any(|_| worker.turn(&arriving) != first) || !worker.frames.all_home();
        // SAFETY: never returns.
        unsafe { libc::syscall(libc::SYS_exit, i64::from(wrong)) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "killed, or lost a packet: {status:#x}");
}
