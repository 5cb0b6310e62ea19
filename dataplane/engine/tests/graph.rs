//! How packets move: exact accounting, stages, held and emitted packets, laps, trace, and what a turn never does.
// UNSAFETY: an allocator that counts, and a child under seccomp, are unsafe by nature.
#![expect(unsafe_code, reason = "a counting allocator, and a fork under seccomp")]
use engine::{Arcs, Builder, FrameCounts, Frames, Graph, Instant, Node, NodeId, Packet, Turn, arcs};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
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

/// What the nodes of these tests learn: who was seen at which stage.
type Seen = [Vec<u64>; 4];
const MOST: usize = 1024;
const SEND: NodeId = Graph::<(), Seen>::SEND;
const DROP: NodeId = Graph::<(), Seen>::DROP;
const HOLD: NodeId = Graph::<(), Seen>::HOLD;

fn frames() -> Frames {
    let counts = FrameCounts { small: 2048, jumbo: 4, super_: 4, packets: 1536 };
    Frames::new(0, counts, hugepages::Settings { prefault: false, ..hugepages::Settings::new(0) }).unwrap()
}

fn numbered(frames: &mut Frames, n: u64) -> Packet {
    let mut packet = frames.copy(&n.to_be_bytes()).unwrap();
    packet.meta_mut().hash = n;
    packet
}

fn walk(graph: &mut Graph<(), Seen>, seen: &mut Seen, frames: &mut Frames) {
    graph.walk(&(), seen, Instant::from_nanoseconds(1), frames);
}

fn counts(graph: &Graph<(), Seen>) -> Vec<(&'static str, &'static str, u64)> {
    let counters = graph.counters();
    let moved = || {
        let all = counters.iter().flat_map(|node| node.read().map(|(arc, n)| (node.node(), arc, n)));
        all.filter(|count| count.2 != 0).collect()
    };
    std::thread::scope(|scope| scope.spawn(moved).join().unwrap()) // any thread may read them
}

arcs!(Parity { Even, Odd });
/// Writes down who is seen in `one`; stage `K` leaves its mark in the packet.
struct Witness<const STAGES: usize>;
impl<const STAGES: usize> Node<(), Seen> for Witness<STAGES> {
    const NAME: &'static str = "witness";
    const STAGES: usize = STAGES;
    type Next = Parity;
    fn ahead<const K: usize>(&self, _: &Turn<'_, (), Seen>, packet: &mut Packet) {
        assert_eq!(usize::from(packet.meta().early), K, "stages come in order");
        packet.meta_mut().early += 1;
    }
    fn one(&mut self, turn: &mut Turn<'_, (), Seen>, packet: &mut Packet) -> Parity {
        assert_eq!(usize::from(packet.meta().early), STAGES, "every stage once");
        turn.learned[0].push(packet.meta().hash);
        if packet.meta().hash.is_multiple_of(2) { Parity::Even } else { Parity::Odd }
    }
}

fn stages_are_seen_once_in_order<const STAGES: usize>() {
    for size in [0, 1, 2, 11, 12, 13, 37, 256, 257, 700] {
        let (mut frames, mut seen) = (frames(), Seen::default());
        let mut builder = Builder::default();
        let node = builder.add(Witness::<STAGES>);
        builder.arcs(node, |arc| match arc {
            Parity::Even => SEND,
            Parity::Odd => DROP,
        });
        let mut graph = builder.finish(MOST);
        let mut packets = (0..size).map(|n| numbered(&mut frames, n)).collect();
        graph.admit(node, &mut packets);
        walk(&mut graph, &mut seen, &mut frames);
        assert_eq!(seen[0], (0..size).collect::<Vec<_>>(), "{STAGES} stages, {size} packets");
        let sent: Vec<_> = graph.sent().iter().map(|packet| packet.meta().hash).collect();
        assert_eq!(sent, (0..size).step_by(2).collect::<Vec<_>>());
        graph.sent().drain(..).for_each(|packet| frames.put(packet));
        assert!(frames.all_home());
        let (even, odd) = (size.div_ceil(2), size / 2);
        let expected = [("witness", "Even", even), ("witness", "Odd", odd)];
        assert_eq!(counts(&graph), expected.into_iter().filter(|count| count.2 != 0).collect::<Vec<_>>());
    }
}

#[test]
fn a_staged_node_sees_each_packet_once_per_stage_in_order() {
    stages_are_seen_once_in_order::<0>();
    stages_are_seen_once_in_order::<1>();
    stages_are_seen_once_in_order::<2>();
    stages_are_seen_once_in_order::<3>();
}

arcs!(Keeping { Kept, Released, Displaced, NoRoom });
/// Keeps up to two packets, gives the oldest up for a newer one, and lets all go at a tick.
#[derive(Default)]
struct Keeper(std::collections::VecDeque<Packet>);
impl Node<(), Seen> for Keeper {
    const NAME: &'static str = "keeper";
    const TICKS: bool = true;
    type Next = Keeping;
    fn one(&mut self, _: &mut Turn<'_, (), Seen>, _: &mut Packet) -> Keeping {
        Keeping::Kept
    }
    fn hold(&mut self, turn: &mut Turn<'_, (), Seen>, packet: Packet) {
        if self.0.len() == 2
            && let Some(oldest) = self.0.pop_front()
        {
            turn.emit(Keeping::Displaced, oldest);
        }
        self.0.push_back(packet);
    }
    fn tick(&mut self, turn: &mut Turn<'_, (), Seen>) -> Option<Instant> {
        for packet in self.0.drain(..) {
            turn.emit(Keeping::Released, packet);
        }
        None
    }
}

#[test]
fn a_node_holds_packets_and_lets_them_go_by_arcs_that_count() {
    let (mut frames, mut seen) = (frames(), Seen::default());
    let mut builder = Builder::default();
    let node = builder.add(Keeper::default());
    builder.arcs(node, |arc| match arc {
        Keeping::Kept => HOLD,
        Keeping::Released => SEND,
        Keeping::Displaced | Keeping::NoRoom => DROP,
    });
    let mut graph = builder.finish(MOST);
    let mut packets = (0..5).map(|n| numbered(&mut frames, n)).collect();
    graph.admit(node, &mut packets);
    walk(&mut graph, &mut seen, &mut frames);
    assert_eq!(counts(&graph), [("keeper", "Kept", 5), ("keeper", "Displaced", 3)]);
    assert!(graph.sent().is_empty() && !frames.all_home());
    let due = graph.tick(&(), &mut seen, Instant::from_nanoseconds(2), &mut frames);
    let sent: Vec<_> = graph.sent().iter().map(|packet| packet.meta().hash).collect();
    assert_eq!((due, sent), (None, vec![3, 4]), "in the order in which they were emitted");
    graph.sent().drain(..).for_each(|packet| frames.put(packet));
    assert!(frames.all_home());
}

arcs!(Copying { Original, Copy, NoRoom });
struct Copier;
impl Node<(), Seen> for Copier {
    const NAME: &'static str = "copier";
    type Next = Copying;
    fn one(&mut self, turn: &mut Turn<'_, (), Seen>, packet: &mut Packet) -> Copying {
        let Some(mut copy) = turn.fresh(packet.len()) else { return Copying::NoRoom };
        copy.resize(packet.len()).unwrap().copy_from_slice(packet.data());
        copy.meta_mut().hash = packet.meta().hash + 1000;
        if turn.emit(Copying::Copy, copy) { Copying::Original } else { Copying::NoRoom }
    }
}

#[test]
fn what_nodes_emit_is_bounded_by_the_reserve_and_goes_by_its_arc() {
    let (mut frames, mut seen) = (frames(), Seen::default());
    let mut builder = Builder::default();
    let node = builder.add(Copier);
    builder.arcs(node, |arc| match arc {
        Copying::Original | Copying::NoRoom => DROP,
        Copying::Copy => SEND,
    });
    let mut graph = builder.finish(MOST);
    for _ in 0..2 {
        let mut packets = (0..200).map(|n| numbered(&mut frames, n)).collect();
        graph.admit(node, &mut packets);
        walk(&mut graph, &mut seen, &mut frames);
        assert_eq!(graph.sent().len(), 200);
        assert!(graph.sent().iter().all(|packet| packet.data() == (packet.meta().hash - 1000).to_be_bytes()));
        graph.sent().drain(..).for_each(|packet| frames.put(packet));
    }
    assert_eq!(counts(&graph), [("copier", "Original", 400), ("copier", "Copy", 400)]);
    assert!(frames.all_home());
}

arcs!(Going { On, Back });
struct Turner;
impl Node<(), Seen> for Turner {
    const NAME: &'static str = "turner";
    const STAGES: usize = 0;
    type Next = Going;
    fn one(&mut self, turn: &mut Turn<'_, (), Seen>, packet: &mut Packet) -> Going {
        turn.learned[1].push(packet.meta().hash);
        if packet.meta().hash == 0 { Going::On } else { Going::Back }
    }
}

#[test]
fn a_packet_goes_back_a_few_times_and_is_then_dropped_by_name() {
    let (mut frames, mut seen) = (frames(), Seen::default());
    let mut builder = Builder::default();
    let node = builder.add(Turner);
    builder.arcs(node, |arc| match arc {
        Going::On => SEND,
        Going::Back => node,
    });
    let mut graph = builder.finish(MOST);
    let mut packets = (0..2).map(|n| numbered(&mut frames, n)).collect();
    graph.admit(node, &mut packets);
    walk(&mut graph, &mut seen, &mut frames);
    assert_eq!(counts(&graph), [("turner", "On", 1), ("turner", "Back", 5), ("graph", "TooManyLaps", 1)]);
    graph.sent().drain(..).for_each(|packet| frames.put(packet));
    assert!(frames.all_home());
    assert_eq!(graph.map(), [("turner", "On", "send"), ("turner", "Back", "turner")]);
}

fn two_nodes() -> (Graph<(), Seen>, NodeId) {
    let mut builder = Builder::default();
    let (first, second) = (builder.add(Turner), builder.add(Witness::<0>));
    builder.arcs(first, |arc| match arc {
        Going::On | Going::Back => second,
    });
    builder.arcs(second, |arc| match arc {
        Parity::Even => SEND,
        Parity::Odd => DROP,
    });
    (builder.finish(MOST), first)
}

#[test]
fn a_trace_names_every_step_and_keeps_its_bytes() {
    let (mut frames, mut seen) = (frames(), Seen::default());
    let (mut graph, entry) = two_nodes();
    let mut packets: Vec<_> = (0..40).map(|n| numbered(&mut frames, n)).collect();
    packets[8].meta_mut().trace = 9;
    graph.admit(entry, &mut packets);
    walk(&mut graph, &mut seen, &mut frames);
    let steps: Vec<_> =
        graph.steps().drain(..).map(|step| (step.mark, step.node, step.arc, step.bytes().to_vec())).collect();
    let bytes = 8u64.to_be_bytes().to_vec();
    assert_eq!(steps, [(9, "turner", "Back", bytes.clone()), (9, "witness", "Even", bytes)]);
    graph.sent().drain(..).for_each(|packet| frames.put(packet));
}

#[test]
fn admission_counts_segments_and_leaves_the_rest() {
    let (mut frames, mut seen) = (frames(), Seen::default());
    let (mut graph, entry) = two_nodes();
    let mut large = |n| {
        let mut packet = frames.fresh(60_000).unwrap();
        packet.resize(60_000).unwrap();
        (packet.meta_mut().hash, packet.meta_mut().offload.segment_size) = (n, 100);
        packet
    };
    let mut packets = vec![large(0), large(2), large(4)];
    graph.admit(entry, &mut packets);
    assert_eq!((packets.len(), packets[0].meta().hash), (2, 2), "600 segments each, 1024 at once");
    walk(&mut graph, &mut seen, &mut frames);
    graph.admit(entry, &mut packets);
    assert_eq!(packets.len(), 1);
    walk(&mut graph, &mut seen, &mut frames);
    graph.sent().drain(..).chain(packets).for_each(|packet| frames.put(packet));
    assert!(frames.all_home());
}

#[test]
fn a_warm_turn_allocates_nothing() {
    let (mut frames, mut seen) = (frames(), [const { Vec::new() }; 4]);
    seen.iter_mut().for_each(|seen: &mut Vec<u64>| seen.reserve(4096));
    let (mut graph, entry) = two_nodes();
    let mut packets: Vec<_> = (0..600).map(|n| numbered(&mut frames, n)).collect();
    let before = ALLOCATIONS.with(Cell::get);
    graph.admit(entry, &mut packets);
    walk(&mut graph, &mut seen, &mut frames);
    packets.append(graph.sent());
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
    assert_eq!(packets.len(), 300);
    packets.drain(..).for_each(|packet| frames.put(packet));
}

#[test]
fn a_turn_makes_no_system_call() {
    let (mut frames, mut seen) = (frames(), [const { Vec::new() }; 4]);
    seen.iter_mut().for_each(|seen: &mut Vec<u64>| seen.reserve(100_000));
    let (mut graph, entry) = two_nodes();
    let mut packets = Vec::with_capacity(MOST);
    // SAFETY: the child runs only turns, which neither lock nor allocate, and leaves by `exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes no pointers; from here on any system call but read, write and exit kills the child.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
        for _ in 0..100 {
            packets.extend((0..300).map(|n| numbered(&mut frames, n)));
            graph.admit(entry, &mut packets);
            walk(&mut graph, &mut seen, &mut frames);
            graph.sent().drain(..).for_each(|packet| frames.put(packet));
        }
        let lost = !packets.is_empty() || !frames.all_home();
        // SAFETY: never returns.
        unsafe { libc::syscall(libc::SYS_exit, i64::from(lost)) };
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "killed, or lost a packet: {status:#x}");
}

arcs!(Any { A, B, C, D });
/// Sends a packet by the arc that its first bytes name, and sometimes emits another.
struct Wild(u8);
impl Node<(), Seen> for Wild {
    const NAME: &'static str = "wild";
    type Next = Any;
    fn one(&mut self, turn: &mut Turn<'_, (), Seen>, packet: &mut Packet) -> Any {
        let byte = packet.data().first().copied().unwrap_or(self.0).rotate_left(self.0.into());
        if byte & 0x10 != 0
            && let Some(fresh) = turn.fresh(usize::from(byte))
        {
            turn.emit(Any::D, fresh);
        }
        match byte {
            0..64 => drop(packet.push(byte.into())),
            64..128 => drop(packet.pull(byte.into())),
            _ => drop(packet.resize(usize::from(byte) * 16)),
        }
        Any::ALL[usize::from(byte & 3)]
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    #[test]
    fn any_bytes_through_any_graph_neither_panic_nor_leak(
        ends in proptest::collection::vec(0usize..7, 12),
        bytes in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..80), 0..300),
    ) {
        let (mut frames, mut seen) = (frames(), Seen::default());
        let mut builder = Builder::default();
        let nodes: Vec<_> = (0..3).map(|n| builder.add(Wild(n))).collect();
        let places = [nodes[0], nodes[1], nodes[2], SEND, DROP, HOLD, Graph::<(), Seen>::HAND_OFF];
        for (i, node) in nodes.iter().enumerate() {
            builder.arcs(*node, |arc: Any| places[ends[i * 4 + usize::from(arc.index())]]);
        }
        let mut graph = builder.finish(MOST);
        for _ in 0..2 {
            let mut packets: Vec<_> = bytes.iter().map(|bytes| frames.copy(bytes).unwrap()).collect();
            graph.admit(nodes[0], &mut packets);
            walk(&mut graph, &mut seen, &mut frames);
            let left: Vec<_> = graph.sent().drain(..).collect();
            let left: Vec<_> = left.into_iter().chain(graph.handed_off().drain(..)).collect();
            left.into_iter().chain(packets).for_each(|packet| frames.put(packet));
            proptest::prop_assert!(frames.all_home());
        }
    }
}
