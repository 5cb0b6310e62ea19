//! A worker: a pinned thread that owns port queues, one graph and one shard of what is learned. Its turn, its sleep.
use crate::{
    graph::{Graph, LOST_PORT, NodeId},
    handle::{Command, Gauges},
    instant::Instant,
    node::BATCH,
    packet::Packet,
    pool::{Class, Frames},
    port::{Abilities, LinkState, PortCounters, PortId, Queue},
    ring::{Consumer, Producer},
    snapshot::Reader,
    trace::Step,
};
use rustix::{
    event::epoll,
    time::{ClockId, Timespec, clock_gettime},
};
use std::{os::fd::OwnedFd, sync::Arc};

/// How many turns an adaptive worker takes, before it sleeps, without a packet from a port that costs nothing to ask.
/// Packets of other ports do not keep it awake: to look for them is a system call each turn, and to be woken by them is
/// one. A stream between two taps costs less that way.
const SPIN: u32 = 32;

/// How many packets at most may be about to be sent by a port; what comes on top is dropped and counted.
const BACKLOG: usize = 1024;

/// The most descriptors that one look at the ready ones gives; the others come with the next look.
pub(crate) const EVENTS: usize = 64;

/// The token of the eventfd that wakes a worker; all others are port numbers.
pub(crate) const BELL: u64 = u64::MAX;

/// When a worker rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Never: for cores that do nothing else.
    Poll,
    /// After a few turns without a packet from a port that is asked every turn.
    #[default]
    Adaptive,
    /// As soon as a turn brings nothing from such a port.
    Interrupt,
}

/// What a worker runs.
pub struct Parts<T, L> {
    /// The nodes.
    pub graph: Graph<T, L>,
    /// Where received packets enter the graph.
    pub entry: NodeId,
    /// What it is told.
    pub told: Reader<T>,
    /// What it learned.
    pub learned: L,
    /// Its frames.
    pub frames: Frames,
}

/// A port's queue as its worker sees it; made by the other threads so that the worker allocates nothing.
pub(crate) struct Attached {
    pub(crate) port: PortId,
    pub(crate) queue: Box<dyn Queue>,
    pub(crate) counters: Arc<PortCounters>,
    pub(crate) can: Abilities,
    backlog: Vec<Packet>,
    waiting: usize, // how many packets of the backlog were there before this turn
}

impl Attached {
    pub(crate) fn new(port: PortId, queue: Box<dyn Queue>, counters: Arc<PortCounters>) -> Box<Self> {
        let can = queue.can();
        Box::new(Attached { port, queue, counters, can, backlog: Vec::with_capacity(BACKLOG), waiting: 0 })
    }
}

pub(crate) struct Worker<T, L> {
    pub(crate) graph: Graph<T, L>,
    pub(crate) entry: NodeId,
    pub(crate) told: Option<Reader<T>>, // none only inside `sleep`
    pub(crate) learned: L,
    pub(crate) frames: Frames,
    pub(crate) mode: Mode,
    pub(crate) ports: Box<[Option<Box<Attached>>]>, // by port
    pub(crate) cheap: Vec<u16>,                     // ports asked every turn
    pub(crate) driven: usize,                       // how many ports are asked when their descriptor is readable
    pub(crate) sending: Vec<u16>,                   // ports with a backlog
    pub(crate) ready: Vec<u64>,                     // tokens of readable descriptors
    pub(crate) quiet: u32,                          // turns since a packet came from a port that is asked every turn
    pub(crate) epoll: OwnedFd,
    pub(crate) bell: Arc<OwnedFd>,
    pub(crate) inbox: Vec<Packet>,
    pub(crate) commands: Consumer<Command<T, L>>,
    pub(crate) done: Producer<Command<T, L>>,
    pub(crate) steps: Producer<Step>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) now: Instant,
    pub(crate) due: Option<Instant>,
    pub(crate) stopped: bool,
}

impl<T, L> Worker<T, L> {
    pub(crate) fn run(mut self) {
        loop {
            let busy = self.turn();
            let rests = match self.mode {
                Mode::Poll => false,
                Mode::Adaptive => self.quiet >= SPIN,
                Mode::Interrupt => self.quiet > 0,
            };
            if self.stopped {
                break; // a command of this turn: there is nobody who would wake it
            }
            if !(rests && self.sleep() || busy) {
                std::hint::spin_loop();
            }
        }
        for port in 0..self.ports.len() {
            self.detach(port);
        }
    }

    /// One turn: commands, receive, walk, send. Gives whether there was anything to do.
    fn turn(&mut self) -> bool {
        let commanded = self.obey();
        self.receive();
        let busy = commanded || !self.inbox.is_empty();
        let now = clock();
        let passed = now != self.now;
        self.now = now;
        if !self.inbox.is_empty() {
            self.graph.admit(self.entry, &mut self.inbox);
            let Some(told) = self.told.as_mut() else { return false };
            self.graph.walk(told.turn(), &mut self.learned, now, &mut self.frames);
        }
        if passed {
            self.tick();
        }
        self.send();
        for step in self.graph.steps().drain(..) {
            let _full = self.steps.push(step); // whoever traces reads slower than this: the rest is not kept
        }
        self.gauges.turn(busy);
        busy || !self.sending.is_empty()
    }

    fn tick(&mut self) {
        let Some(told) = self.told.as_mut() else { return };
        self.due = self.graph.tick(told.turn(), &mut self.learned, self.now, &mut self.frames);
        let stock = Class::ALL.map(|class| self.frames.stock(class).1);
        self.gauges.stock(stock, told.generation());
    }

    fn receive(&mut self) {
        if self.driven > 0 && self.ready.is_empty() {
            self.look(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        }
        let before = self.inbox.len();
        for i in 0..self.cheap.len() {
            if let Some(port) = self.cheap.get(i).copied() {
                self.receive_from(port);
            }
        }
        self.quiet = if self.inbox.len() > before { 0 } else { self.quiet.saturating_add(1) };
        while let Some(token) = self.ready.pop() {
            if let Ok(port) = u16::try_from(token) {
                self.receive_from(port);
            }
        }
        if self.cheap.len() > 1 {
            self.cheap.rotate_left(1); // another port is first in the next turn: none lives on what the others leave
        }
    }

    fn receive_from(&mut self, port: u16) {
        let room = self.graph.room().saturating_sub(self.inbox.len()).min(BATCH);
        let Some(Some(attached)) = self.ports.get_mut(usize::from(port)) else { return };
        let before = self.inbox.len();
        attached.queue.receive(&mut self.frames, &mut self.inbox, room);
        let (mut packets, mut bytes) = (0, 0);
        for packet in self.inbox.iter_mut().skip(before) {
            packet.meta_mut().port_in = port;
            (packets, bytes) = (packets + 1, bytes + packet.len() as u64);
        }
        if packets != 0 {
            attached.counters.add(PortCounters::RECEIVED_PACKETS, packets);
            attached.counters.add(PortCounters::RECEIVED_BYTES, bytes);
        }
    }

    /// Gives what the walk sent to the ports, and what they left before.
    fn send(&mut self) {
        for packet in self.graph.handed_off().drain(..) {
            self.frames.put(packet); // there is no other worker yet
        }
        let mut gone = 0;
        for packet in self.graph.sent().drain(..) {
            let port = packet.meta().port_out;
            let attached = match self.ports.get_mut(usize::from(port)) {
                Some(Some(attached)) => attached,
                _ => {
                    gone += 1;
                    self.frames.put(packet);
                    continue;
                }
            };
            if attached.backlog.len() == BACKLOG {
                attached.counters.add(PortCounters::SEND_DROPPED, 1);
                self.frames.put(packet);
                continue;
            }
            if attached.backlog.is_empty() {
                self.sending.push(port);
            }
            attached.backlog.push(packet);
        }
        self.graph.lost().add(LOST_PORT, gone);
        let (ports, frames) = (&mut self.ports, &mut self.frames);
        self.sending.retain(|port| match ports.get_mut(usize::from(*port)) {
            Some(Some(attached)) => attached.flush(frames),
            _ => false,
        });
        for port in &self.sending {
            if let Some(Some(attached)) = ports.get_mut(usize::from(*port)) {
                attached.wait(frames); // now that every port has sent what it could
            }
        }
    }

    /// Obeys what other threads ask; what they handed over goes back to them, so that nothing is freed here.
    fn obey(&mut self) -> bool {
        let mut any = false;
        while let Some(mut command) = self.commands.pop() {
            any = true;
            match &mut command {
                Command::Attach(attached) => {
                    if let Some(attached) = attached.take() {
                        self.attach(attached);
                    }
                }
                Command::Detach(port, detached) => *detached = self.detach(usize::from(port.0)),
                Command::Inject { port, bytes, mark } => {
                    if let Some(mut packet) = self.frames.copy(bytes) {
                        (packet.meta_mut().port_in, packet.meta_mut().trace) = (port.0, *mark);
                        self.inbox.push(packet);
                    }
                }
                Command::Ask(ask) => {
                    if let Some(told) = self.told.as_mut() {
                        ask(told.turn(), &mut self.learned, clock());
                    }
                }
                Command::Look(seen) => {
                    let ports = self.ports.iter().flatten();
                    seen.extend(ports.map(|attached| (attached.port, attached.queue.events())));
                }
                Command::Nudge => {}
                Command::Stop => self.stopped = true,
            }
            let _ = self.done.push(command); // as large as the ring of commands: there is room
        }
        any
    }

    fn attach(&mut self, attached: Box<Attached>) {
        let port = attached.port;
        let flags = epoll::EventFlags::IN;
        if let Some(wake) = attached.queue.wake()
            && (self.mode != Mode::Poll || !attached.can.cheap_receive)
        {
            let added = epoll::add(&self.epoll, wake, epoll::EventData::new_u64(port.0.into()), flags);
            self.gauges.cannot_wake(added.is_err());
        }
        // A port without a descriptor is polled, and a worker that must poll never sleeps.
        let polled = attached.can.cheap_receive || attached.queue.wake().is_none();
        if attached.queue.wake().is_none() {
            self.gauges.polls(port);
        }
        if polled {
            self.cheap.push(port.0)
        } else {
            self.driven += 1
        }
        if let Some(place) = self.ports.get_mut(usize::from(port.0)) {
            *place = Some(attached);
        }
    }

    fn detach(&mut self, port: usize) -> Option<Box<Attached>> {
        let mut attached = self.ports.get_mut(port)?.take()?;
        if let Some(wake) = attached.queue.wake() {
            let _never_added = epoll::delete(&self.epoll, wake);
        }
        let polled = self.cheap.len();
        self.cheap.retain(|other| usize::from(*other) != port);
        self.driven -= usize::from(self.cheap.len() == polled);
        attached.drop_backlog(&mut self.frames, 0);
        attached.queue.close(&mut self.frames);
        Some(attached)
    }

    /// Rests until there is something to do; gives false when there is already. DESIGN.md section 8: reap, flush, mark
    /// offline, fence, look at every ring once more, block. Whoever hands work over fences, then rings the bell.
    fn sleep(&mut self) -> bool {
        if self.stopped || !self.sending.is_empty() || !self.inbox.is_empty() || self.graph.room() == 0 {
            return false;
        }
        self.tick();
        self.send();
        let Self { ports, frames, cheap, .. } = self;
        let mut quiet = self.sending.is_empty();
        for port in cheap.iter() {
            if let Some(Some(attached)) = ports.get_mut(usize::from(*port)) {
                quiet &= attached.queue.wake().is_some() && attached.queue.rest(frames);
            }
        }
        if !quiet {
            return false; // and keeps what it was told
        }
        let Some(told) = self.told.take() else { return false };
        let asleep = told.sleep();
        if self.commands.is_empty() {
            let timeout = self.due.map(|due| due.since(clock_fine()));
            let timeout = timeout
                .map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) });
            self.gauges.slept();
            self.look(timeout.as_ref());
        }
        self.told = Some(asleep.wake());
        true
    }

    /// Looks which descriptors are readable, waiting for one up to `timeout`.
    fn look(&mut self, timeout: Option<&Timespec>) {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; EVENTS];
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout) else { return }; // interrupted
        for event in events {
            match event.data.u64() {
                BELL => drop(rustix::io::read(&*self.bell, &mut [0u8; 8])),
                token => self.ready.push(token),
            }
        }
    }
}

impl Attached {
    /// Sends from the backlog; gives whether something is left.
    fn flush(&mut self, frames: &mut Frames) -> bool {
        let sum = |backlog: &[Packet]| (backlog.len(), backlog.iter().map(|packet| packet.len() as u64).sum::<u64>());
        let before = sum(&self.backlog);
        self.queue.send(frames, &mut self.backlog);
        let after = sum(&self.backlog);
        self.counters.add(PortCounters::SENT_PACKETS, (before.0 - after.0) as u64);
        self.counters.add(PortCounters::SENT_BYTES, before.1 - after.1);
        self.waiting = self.waiting.saturating_sub(before.0 - after.0);
        if after.0 != 0 && self.queue.link() != LinkState::Up {
            self.drop_backlog(frames, 0);
        }
        !self.backlog.is_empty()
    }

    /// Keeps what waits already, and of the rest what may. One half of the packets, and of the larger frames, is never
    /// for what waits; of the other half a port may use as much as it leaves: one alone half, no number of ports all.
    fn wait(&mut self, frames: &mut Frames) {
        let packets = frames.idle_packets().saturating_sub(frames.packets / 2);
        let mut spare = Class::ALL.map(|class| if class == Class::Small { packets } else { frames.spare(class) });
        let mut take = |n: &mut usize| std::mem::replace(n, n.saturating_sub(1)) != 0;
        let fits = |packet: &&Packet| spare.get_mut(packet.class() as usize).is_some_and(&mut take);
        let kept = self.backlog.iter().take(packets).take_while(fits).count();
        self.drop_backlog(frames, kept.max(self.waiting));
    }

    fn drop_backlog(&mut self, frames: &mut Frames, kept: usize) {
        self.counters.add(PortCounters::SEND_DROPPED, self.backlog.len().saturating_sub(kept) as u64);
        self.backlog.drain(kept.min(self.backlog.len())..).for_each(|packet| frames.put(packet));
        self.waiting = self.backlog.len();
    }
}

/// The time, to the kernel's tick (1 to 10 ms): four times cheaper to read than the exact one.
fn clock() -> Instant {
    instant(ClockId::MonotonicCoarse)
}

fn clock_fine() -> Instant {
    instant(ClockId::Monotonic)
}

fn instant(clock: ClockId) -> Instant {
    let time = clock_gettime(clock);
    Instant::from_nanoseconds(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}
