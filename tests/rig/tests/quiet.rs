//! A warm turn of a worker, as it runs on a host, allocates nothing and asks the system for nothing.
//!
//! Each test runs in a process of its own, whose worker forbids itself every system call once it is warm: whatever
//! makes one ends the process.
// UNSAFETY: allocations can only be counted in a global allocator, and system calls only be forbidden by one.
#![expect(unsafe_code, reason = "a counting allocator, and a seccomp filter")]
mod traffic;

use engine::{
    Abilities, Device, FrameCounts, Frames, Handle, Mode, Packet, Parts, PortCounters, PortId, Publisher, Queue,
    Settings,
};
use ports::{Loopback, Null, Replay, Replayed};
use rig::world::{HOST, POD_A, POD_B, UPLINK};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    os::{fd::BorrowedFd, unix::process::ExitStatusExt},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};
use tables::{learned::Learned, told::Told};

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
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `dealloc`'s contract, and `memory` is from the system allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}
#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_turn_allocates_nothing_and_makes_no_system_call() {
    let ended = alone("a_warm_turn_allocates_nothing_and_makes_no_system_call", || {
        let [received, sent, allocations] = run(&traffic::established(), |_| {});
        assert!(sent >= received, "all of it goes somewhere: {sent} of {received}");
        assert_eq!(allocations, 0);
    });
    assert!(ended.success(), "{ended}");
}

#[test]
fn nor_do_hostile_packets_and_first_ones_make_it() {
    let ended = alone("nor_do_hostile_packets_and_first_ones_make_it", || {
        assert_eq!(run(&[traffic::families(), traffic::unknown()].concat(), |_| {})[2], 0);
    });
    assert!(ended.success(), "{ended}");
}

#[test]
fn an_allocation_would_be_seen() {
    let ended = alone("an_allocation_would_be_seen", || {
        let allocate = |packet: &mut Packet| drop(std::hint::black_box(packet.data().to_vec()));
        assert_ne!(run(&traffic::established(), allocate)[2], 0);
    });
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_system_call_would_be_seen() {
    let ended = alone("a_system_call_would_be_seen", || {
        run(&traffic::established(), |_| drop(std::fs::metadata("/")));
    });
    assert_eq!(ended.signal(), Some(libc::SIGSYS), "{ended}");
}

/// Runs a test's `body` in a process of its own.
fn alone(test: &str, body: fn()) -> ExitStatus {
    const ALONE: &str = "MILLRACE_ALONE";
    if std::env::var_os(ALONE).is_some() {
        body();
        std::process::exit(0);
    }
    let me = std::env::current_exe().unwrap();
    Command::new(me).args(["--exact", test, "--nocapture"]).env(ALONE, "1").stdout(Stdio::null()).status().unwrap()
}

/// A worker on ports that receive `arriving` over and over, with `meanwhile` done to each packet. Gives what it
/// received, sent and allocated after it was warm, and could ask the system for nothing.
fn run(arriving: &[(PortId, Vec<u8>)], meanwhile: fn(&mut Packet)) -> [usize; 3] {
    let map = hugepages::Settings { prefault: false, ..hugepages::Settings::new(0) };
    let counts = FrameCounts { small: 4096, jumbo: 64, super_: 16, packets: 2048 };
    let (graph, entry) = nodes::graph::build(1024);
    let mut publisher = Publisher::new(traffic::wide_world());
    let mut frames = [Frames::new(0, counts, map.clone()).unwrap()];
    let mut opened: Vec<(PortId, Box<dyn Queue>)> = Vec::new();
    for port in [POD_A, POD_B, UPLINK] {
        let mine = arriving.iter().filter(|(at, _)| *at == port);
        let replay = Replay::cycle(mine.map(|(_, bytes)| Replayed::from(&bytes[..])).collect());
        let [receive, send] = [Box::new(replay) as Box<dyn Device>, Box::new(Null)]
            .map(|device| device.open(&mut frames).unwrap().remove(0));
        opened.push((port, Box::new(Both { receive, send, meanwhile })));
    }
    opened.push((HOST, Box::new(Loopback { depth: 64 }).open(&mut frames).unwrap().remove(0)));
    let [frames] = frames;
    let learned = Learned::new(4096, 0x5eed, &map).unwrap();
    let parts = Parts { graph, entry, told: publisher.reader(), learned, frames };
    let settings = Settings { mode: Mode::Poll, ..Settings::default() };
    let mut worker = engine::start(&settings, parts).unwrap();
    let counters: Vec<_> = opened.iter().map(|_| Arc::new(PortCounters::default())).collect();
    for ((port, queue), counters) in opened.into_iter().zip(&counters) {
        worker.attach(port, queue, counters.clone());
    }
    let sum = |which: usize| counters.iter().map(|port| usize::try_from(port.read()[which]).unwrap()).sum::<usize>();
    let wait = |for_: usize| {
        let until = sum(0) + for_ * arriving.len();
        let since = Instant::now();
        while sum(0) < until {
            assert!(since.elapsed().as_secs() < 100, "the worker stopped");
            std::thread::yield_now();
        }
    };
    wait(10);
    let before = forbid(&mut worker);
    let (received, sent) = (sum(0), sum(2));
    wait(200);
    let gone = [sum(0) - received, sum(2) + 1024 - sent]; // as much as may be inside
    let after = allocations(&mut worker);
    std::mem::forget(worker); // it cannot even end
    [gone[0], gone[1], after - before]
}

/// From its next turn on the worker may ask the system for nothing; gives how often it allocated before.
fn forbid(worker: &mut Handle<Told, Learned>) -> usize {
    worker.ask(|_, _, _| {
        let kill = libc::sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS }; // BPF_RET | BPF_K
        let program = libc::sock_fprog { len: 1, filter: (&raw const kill).cast_mut() };
        // SAFETY: takes no pointers.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: the kernel copies `program` and its one instruction, which outlive the call.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    });
    allocations(worker)
}

fn allocations(worker: &mut Handle<Told, Learned>) -> usize {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    worker.ask(|_, _, _| SEEN.store(ALLOCATIONS.with(Cell::get), SeqCst));
    SEEN.load(SeqCst)
}

/// Receives from one queue and sends by another.
struct Both {
    receive: Box<dyn Queue>,
    send: Box<dyn Queue>,
    meanwhile: fn(&mut Packet),
}

impl Queue for Both {
    fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, room: usize) {
        let before = into.len();
        self.receive.receive(frames, into, room);
        into[before..].iter_mut().for_each(self.meanwhile);
    }
    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        self.send.send(frames, from);
    }
    fn can(&self) -> Abilities {
        self.send.can()
    }
    fn wake(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn close(&mut self, frames: &mut Frames) {
        self.receive.close(frames);
    }
}
