//! What other threads hold of a worker: to start it, hand it work, look at it, stop it.
#![expect(clippy::disallowed_macros, clippy::disallowed_methods, reason = "other threads may allocate and wait")]
use crate::{
    counters::Counters,
    instant::Instant,
    pool::Class,
    port::{PortCounters, PortId, Queue},
    ring::{Consumer, Producer, ring},
    snapshot::Bell,
    trace::Step,
    worker::{Attached, BELL, EVENTS, Mode, Parts, Worker},
};
use rustix::event::{EventfdFlags, epoll, eventfd};
use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

/// How many commands may be under way to a worker.
const COMMANDS: usize = 256;

/// How many steps of traced packets wait to be read.
const STEPS: usize = 4096;

/// How a worker runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The worker's number.
    pub number: u8,
    /// The core that it is pinned to; none: wherever the kernel likes.
    pub core: Option<usize>,
    /// When it rests.
    pub mode: Mode,
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The core does not exist, or this process may not run on it.
    #[error("worker {worker}: cannot run on core {core}: this process may not use it")]
    Core {
        /// The worker's number.
        worker: u8,
        /// The core.
        core: usize,
    },
    /// The system refused a step.
    #[error("worker {worker}: cannot {step}: {source}")]
    System {
        /// The worker's number.
        worker: u8,
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

pub(crate) enum Command<T, L> {
    Attach(Option<Box<Attached>>),
    Detach(PortId, Option<Box<Attached>>),
    Inject { port: PortId, bytes: Vec<u8>, mark: u8 },
    Ask(Ask<T, L>),
    Look(Vec<PortEvents>),
    Nudge,
    Stop,
}

/// What a port's driver counted: each event's name and count.
pub type PortEvents = (PortId, Vec<(&'static str, u64)>);

/// Something to be done by a worker between two turns, with what it was told and what it learned. Short, or in parts:
/// packets wait meanwhile.
type Ask<T, L> = Box<dyn FnMut(&T, &mut L, Instant) + Send>;

/// Starts a worker on a thread of its own.
pub fn start<T, L>(settings: &Settings, parts: Parts<T, L>) -> Result<Handle<T, L>, StartError>
where
    T: Send + Sync + 'static,
    L: Send + 'static,
{
    let number = settings.number;
    let system = |step| move |source: std::io::Error| StartError::System { worker: number, step, source };
    let bell =
        eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|e| system("make an eventfd")(e.into()))?;
    let bell = Arc::new(bell);
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| system("make an epoll")(e.into()))?;
    epoll::add(&poll, &bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)
        .map_err(|e| system("wait for the eventfd")(e.into()))?;
    let (commands, obeyed) = (ring(COMMANDS), ring(COMMANDS));
    let steps = ring(STEPS);
    let gauges = Arc::new(Gauges::default());
    let handle_parts = (parts.told.bell(), parts.graph.counters());
    let worker = Worker {
        inbox: Vec::with_capacity(parts.graph.room() + COMMANDS),
        graph: parts.graph,
        entry: parts.entry,
        told: Some(parts.told),
        learned: parts.learned,
        frames: parts.frames,
        mode: settings.mode,
        ports: (0..=usize::from(u16::MAX)).map(|_| None).collect(),
        cheap: Vec::with_capacity(usize::from(u16::MAX)),
        driven: 0,
        sending: Vec::with_capacity(usize::from(u16::MAX)),
        ready: Vec::with_capacity(EVENTS),
        quiet: 0,
        epoll: poll,
        bell: bell.clone(),
        commands: commands.1,
        done: obeyed.0,
        steps: steps.0,
        gauges: gauges.clone(),
        now: Instant::default(),
        due: None,
        stopped: false,
    };
    let thread = spawn(settings, worker)?;
    let (mark, counters) = handle_parts;
    Ok(Handle {
        commands: commands.0,
        done: obeyed.1,
        steps: steps.1,
        mark,
        bell,
        gauges,
        counters,
        under_way: 0,
        seen: Vec::new(),
        thread: Some(thread),
    })
}

fn spawn<T, L>(settings: &Settings, worker: Worker<T, L>) -> Result<JoinHandle<()>, StartError>
where
    T: Send + Sync + 'static,
    L: Send + 'static,
{
    let (number, core) = (settings.number, settings.core);
    let (pinned, wait) = std::sync::mpsc::channel();
    let run = move || {
        let ok = core.is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id }));
        let _ = pinned.send(ok);
        if ok {
            worker.run();
        }
    };
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(run);
    let thread = thread.map_err(|source| StartError::System { worker: number, step: "start its thread", source })?;
    match (wait.recv(), core) {
        (Ok(true), _) | (_, None) => Ok(thread),
        (_, Some(core)) => Err(StartError::Core { worker: number, core }),
    }
}

/// The other threads' hold of a worker. Dropping it stops the worker.
pub struct Handle<T, L> {
    commands: Producer<Command<T, L>>,
    done: Consumer<Command<T, L>>,
    steps: Consumer<Step>,
    mark: Bell,
    bell: Arc<OwnedFd>,
    gauges: Arc<Gauges>,
    counters: Vec<Arc<Counters>>,
    under_way: usize,
    seen: Vec<PortEvents>,
    thread: Option<JoinHandle<()>>,
}

impl<T, L> Handle<T, L>
where
    T: Send + Sync + 'static,
    L: Send + 'static,
{
    /// Gives the worker a queue of `port`; its counters are whatever the caller keeps of them.
    pub fn attach(&mut self, port: PortId, queue: Box<dyn Queue>, counters: Arc<PortCounters>) {
        self.command(Command::Attach(Some(Attached::new(port, queue, counters))));
    }

    /// Takes the worker's queue of `port` away and waits until it is closed.
    pub fn detach(&mut self, port: PortId) {
        self.command(Command::Detach(port, None));
        self.settle();
    }

    /// Lets `bytes` enter as if `port` had received them, marked for the trace with `mark` (zero: not traced).
    pub fn inject(&mut self, port: PortId, bytes: &[u8], mark: u8) {
        self.command(Command::Inject { port, bytes: bytes.to_vec(), mark });
    }

    /// Runs `ask` on the worker, between two turns, and waits for it. Short, or in parts: packets wait meanwhile.
    pub fn ask(&mut self, ask: impl FnMut(&T, &mut L, Instant) + Send + 'static) {
        self.command(Command::Ask(Box::new(ask)));
        self.settle();
    }

    /// What the drivers of the worker's ports counted, as [`Queue::events`] says.
    pub fn events(&mut self) -> Vec<PortEvents> {
        self.command(Command::Look(Vec::new()));
        self.settle();
        std::mem::take(&mut self.seen)
    }

    /// Makes the worker take a turn, as after something new was published.
    pub fn nudge(&mut self) {
        self.command(Command::Nudge);
    }

    /// The next step of a traced packet.
    pub fn step(&mut self) -> Option<Step> {
        self.steps.pop()
    }

    /// What the worker says of itself.
    pub fn gauges(&self) -> &Arc<Gauges> {
        &self.gauges
    }

    /// The counters of all nodes.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    fn command(&mut self, command: Command<T, L>) {
        self.collect();
        while self.under_way == COMMANDS {
            std::thread::yield_now();
            self.collect();
        }
        if self.commands.push(command).is_ok() {
            self.under_way += 1;
        }
        if self.mark.must_ring() {
            let _full = rustix::io::write(&*self.bell, &1u64.to_ne_bytes()); // full: it is awake anyway
        }
    }

    /// Waits until the worker obeyed everything.
    fn settle(&mut self) {
        while self.under_way > 0 && self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            self.collect();
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
    }

    /// Drops here what the worker is done with.
    fn collect(&mut self) {
        while let Some(command) = self.done.pop() {
            self.under_way -= 1;
            if let Command::Look(seen) = command {
                self.seen = seen;
            }
        }
    }
}

impl<T, L> Drop for Handle<T, L> {
    fn drop(&mut self) {
        while let Err(Command::Stop) = self.commands.push(Command::Stop) {
            while self.done.pop().is_some() {}
            std::thread::yield_now();
        }
        let _full = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// What a worker says of itself. It alone writes; any thread may read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Gauges {
    turns: AtomicU64,
    busy: AtomicU64,
    sleeps: AtomicU64,
    generation: AtomicU64,
    free: [AtomicU64; 3],
    must_poll: AtomicU64, // a port's number plus one
    deaf: AtomicU64,
}

impl Gauges {
    /// How many turns it took, and in how many of them there was something to do.
    pub fn turns(&self) -> (u64, u64) {
        (self.turns.load(Relaxed), self.busy.load(Relaxed))
    }

    /// How often it slept.
    pub fn sleeps(&self) -> u64 {
        self.sleeps.load(Relaxed)
    }

    /// The generation of what it was told that it used last.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// How many frames of each class were free a tick ago.
    pub fn free(&self) -> [(Class, u64); 3] {
        let [small, jumbo, super_] = &self.free;
        [(Class::Small, small), (Class::Jumbo, jumbo), (Class::Super, super_)]
            .map(|(class, n)| (class, n.load(Relaxed)))
    }

    /// The port that keeps this worker from sleeping, as it has no descriptor to wait for.
    pub fn must_poll(&self) -> Option<PortId> {
        u16::try_from(self.must_poll.load(Relaxed).checked_sub(1)?).ok().map(PortId)
    }

    /// How many ports' descriptors could not be waited for: their packets are found late.
    pub fn deaf_ports(&self) -> u64 {
        self.deaf.load(Relaxed)
    }

    #[inline(always)]
    pub(crate) fn turn(&self, busy: bool) {
        add(&self.turns, 1);
        add(&self.busy, u64::from(busy));
    }

    pub(crate) fn slept(&self) {
        add(&self.sleeps, 1);
    }

    pub(crate) fn stock(&self, free: [usize; 3], generation: u64) {
        self.free.iter().zip(free).for_each(|(gauge, free)| gauge.store(free as u64, Relaxed));
        self.generation.store(generation, Relaxed);
    }

    pub(crate) fn polls(&self, port: PortId) {
        self.must_poll.store(u64::from(port.0) + 1, Relaxed);
    }

    pub(crate) fn cannot_wake(&self, cannot: bool) {
        add(&self.deaf, u64::from(cannot));
    }
}

#[inline(always)]
fn add(count: &AtomicU64, n: u64) {
    count.store(count.load(Relaxed).wrapping_add(n), Relaxed);
}
