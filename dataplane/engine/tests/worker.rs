//! A worker on a thread: ports come and go, it rests and wakes, it does what it is asked between turns.
use engine::{
    Abilities, Builder, FrameCounts, Frames, Graph, Handle, Instant, Mode, Node, Packet, Parts, PortCounters, PortId,
    Publisher, Queue, Settings, Turn, arcs, start,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant as Clock},
};

arcs!(Only { Out });
/// Sends every packet back by the port that it came by.
struct Echo;
impl Node<u64, u64> for Echo {
    const NAME: &'static str = "echo";
    type Next = Only;
    fn one(&mut self, turn: &mut Turn<'_, u64, u64>, packet: &mut Packet) -> Only {
        *turn.learned += *turn.told;
        packet.meta_mut().port_out = packet.meta().port_in;
        Only::Out
    }
}

/// The far end of a test's port: frames wait in `inside`, and `outside` holds what was sent.
#[derive(Default)]
struct Far {
    inside: Mutex<Vec<Vec<u8>>>,
    outside: Mutex<Vec<Vec<u8>>>,
    closed: AtomicUsize,
    room: AtomicUsize,
}

struct Near {
    far: Arc<Far>,
    event: Arc<OwnedFd>,
    cheap: bool,
}

impl Queue for Near {
    fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, room: usize) {
        let _ = rustix::io::read(&*self.event, &mut [0; 8]);
        let mut inside = self.far.inside.lock().unwrap();
        let n = inside.len().min(room);
        into.extend(inside.drain(..n).filter_map(|bytes| frames.copy(&bytes)));
    }
    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        let n = self.far.room.load(SeqCst).min(from.len());
        self.far.room.fetch_sub(n, SeqCst);
        for packet in from.drain(..n) {
            self.far.outside.lock().unwrap().push(packet.data().to_vec());
            frames.put(packet);
        }
    }
    fn can(&self) -> Abilities {
        let longest = 1514;
        Abilities {
            longest,
            checksum: true,
            tcp_segmentation: false,
            udp_segmentation: false,
            cheap_receive: self.cheap,
        }
    }
    fn wake(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }
    fn rest(&mut self, _: &mut Frames) -> bool {
        self.far.inside.lock().unwrap().is_empty()
    }
    fn events(&self) -> Vec<(&'static str, u64)> {
        vec![("sent", self.far.outside.lock().unwrap().len() as u64)]
    }
    fn close(&mut self, _: &mut Frames) {
        self.far.closed.fetch_add(1, SeqCst);
    }
}

struct Rig {
    publisher: Publisher<u64>,
    handle: Handle<u64, u64>,
}

fn rig(mode: Mode) -> Rig {
    rig_of(mode, FrameCounts { small: 512, jumbo: 0, super_: 0, packets: 512 })
}

fn rig_of(mode: Mode, counts: FrameCounts) -> Rig {
    let mut publisher = Publisher::new(1);
    let mut builder = Builder::default();
    let entry = builder.add(Echo);
    builder.arcs(entry, |Only::Out| Graph::<u64, u64>::SEND);
    let frames = Frames::new(0, counts, hugepages::Settings::new(0)).unwrap();
    let parts = Parts { graph: builder.finish(256), entry, told: publisher.reader(), learned: 0, frames };
    let handle = start(&Settings { mode, ..Settings::default() }, parts).unwrap();
    Rig { publisher, handle }
}

fn port(rig: &mut Rig, number: u16, cheap: bool) -> (Arc<Far>, Arc<OwnedFd>, Arc<PortCounters>) {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let (far, event, counters) = (Arc::new(Far::default()), Arc::new(event), Arc::new(PortCounters::default()));
    far.room.store(usize::MAX / 2, SeqCst);
    let near = Near { far: far.clone(), event: event.clone(), cheap };
    rig.handle.attach(PortId(number), Box::new(near), counters.clone());
    (far, event, counters)
}

fn arrive(far: &Far, event: &OwnedFd, bytes: &[u8]) {
    far.inside.lock().unwrap().push(bytes.to_vec());
    rustix::io::write(event, &1u64.to_ne_bytes()).unwrap();
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Clock::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn asleep(rig: &Rig) {
    let mut before = rig.handle.gauges().turns();
    eventually("it rests", || {
        std::thread::sleep(Duration::from_millis(20));
        let now = rig.handle.gauges().turns();
        std::mem::replace(&mut before, now) == now
    });
}

#[test]
fn ports_that_do_not_send_leave_half_of_all_packets_and_large_frames() {
    let counts = FrameCounts { small: 512, jumbo: 16, super_: 16, packets: 512 };
    let mut rig = rig_of(Mode::Adaptive, counts);
    let stuck: Vec<_> = (0..5).map(|number| port(&mut rig, number, true)).collect();
    let (whole, event, counters) = port(&mut rig, 9, true);
    stuck.iter().for_each(|(far, ..)| far.room.store(0, SeqCst));
    for len in [60, 60_000] {
        for (far, event, counters) in &stuck {
            let received = counters.read()[0];
            far.inside.lock().unwrap().extend(vec![vec![1; len]; 400]);
            rustix::io::write(event, &1u64.to_ne_bytes()).unwrap();
            eventually("it takes all in", || far.inside.lock().unwrap().is_empty() && counters.read()[0] > received);
        }
        let waits = |of: &Arc<PortCounters>| of.read()[0] - of.read()[2] - of.read()[4];
        let waiting: Vec<_> = stuck.iter().map(|(.., counters)| waits(counters)).collect();
        let (all, first) = (waiting.iter().sum::<u64>(), waiting[0]);
        assert!(all <= 256 && first > 0, "{waiting:?}");
        arrive(&whole, &event, &vec![2; len]);
        eventually("another port goes on", || whole.outside.lock().unwrap().pop().is_some_and(|b| b.len() == len));
    }
    assert_eq!(counters.read()[4], 0);
    stuck.iter().for_each(|(far, ..)| far.room.store(usize::MAX / 2, SeqCst));
    let gone =
        |(.., counters): &(_, _, Arc<PortCounters>)| counters.read()[0] == counters.read()[2] + counters.read()[4];
    eventually("what waited goes on", || stuck.iter().all(gone));
}

#[test]
fn packets_come_in_and_go_out_in_every_mode_asleep_or_not() {
    for (mode, cheap) in [(Mode::Poll, true), (Mode::Adaptive, true), (Mode::Adaptive, false), (Mode::Interrupt, false)]
    {
        let mut rig = rig(mode);
        let (far, event, counters) = port(&mut rig, 7, cheap);
        for round in 0..3u8 {
            if mode != Mode::Poll {
                asleep(&rig);
            }
            arrive(&far, &event, &[round; 60]);
            eventually("it comes back", || far.outside.lock().unwrap().len() == usize::from(round) + 1);
        }
        assert_eq!(far.outside.lock().unwrap()[2], [2; 60]);
        assert_eq!(rig.handle.events(), [(PortId(7), vec![("sent", 3)])], "what its driver counts can be asked");
        eventually("it is counted", || counters.read() == [3, 180, 3, 180, 0]);
        drop(rig);
        assert_eq!(far.closed.load(SeqCst), 1, "a worker that stops closes its ports");
    }
}

#[test]
fn a_port_without_descriptor_keeps_its_worker_awake_and_status_says_so() {
    struct Silent;
    impl Queue for Silent {
        fn receive(&mut self, _: &mut Frames, _: &mut Vec<Packet>, _: usize) {}
        fn send(&mut self, _: &mut Frames, _: &mut Vec<Packet>) {}
        fn can(&self) -> Abilities {
            let cheap_receive = true;
            Abilities { longest: 0, checksum: false, tcp_segmentation: false, udp_segmentation: false, cheap_receive }
        }
        fn wake(&self) -> Option<BorrowedFd<'_>> {
            None
        }
        fn close(&mut self, _: &mut Frames) {}
    }
    let mut rig = rig(Mode::Interrupt);
    rig.handle.attach(PortId(3), Box::new(Silent), Arc::default());
    eventually("it says which port", || rig.handle.gauges().must_poll() == Some(PortId(3)));
    let (before, sleeps) = (rig.handle.gauges().turns().0, rig.handle.gauges().sleeps());
    eventually("it turns on", || rig.handle.gauges().turns().0 > before + 10_000);
    assert!(rig.handle.gauges().sleeps() <= sleeps + 1);
}

#[test]
fn a_port_that_is_detached_is_closed_and_its_packets_come_home() {
    let mut rig = rig(Mode::Adaptive);
    let (far, event, _) = port(&mut rig, 1, false);
    far.room.store(0, SeqCst);
    (0..10).for_each(|i| arrive(&far, &event, &[i; 60]));
    eventually("all came in", || far.inside.lock().unwrap().is_empty());
    rig.handle.detach(PortId(1));
    assert_eq!((far.closed.load(SeqCst), Arc::strong_count(&far)), (1, 1), "and it was freed by who detached it");
    eventually("frames are home", || {
        rig.handle.gauges().free()[0].1 == 512 || {
            rig.handle.nudge();
            false
        }
    });
}

#[test]
fn what_is_sent_by_a_port_that_is_gone_is_counted() {
    let mut rig = rig(Mode::Adaptive);
    let counters = rig.handle.counters().to_vec();
    for n in 1..3 {
        rig.handle.inject(PortId(7), &[0; 60], 0);
        eventually("is counted", || {
            rig.handle.events(); // commands are settled
            counters.iter().flat_map(|node| node.read()).any(|seen| seen == ("PortGone", n))
        });
    }
}

#[test]
fn what_is_published_is_used_and_what_is_asked_is_done() {
    let mut rig = rig(Mode::Adaptive);
    let (far, event, _) = port(&mut rig, 1, true);
    arrive(&far, &event, &[0; 60]);
    eventually("it comes back", || far.outside.lock().unwrap().len() == 1);
    asleep(&rig);
    rig.publisher.publish(100);
    assert_eq!(rig.publisher.reclaim(), 1, "a worker that sleeps pins nothing");
    rig.handle.nudge();
    arrive(&far, &event, &[0; 60]);
    eventually("it comes back", || far.outside.lock().unwrap().len() == 2);
    let seen = Arc::new(AtomicUsize::new(0));
    let told = seen.clone();
    rig.handle.ask(move |_, learned: &mut u64, now: Instant| {
        assert!(now > Instant::default());
        told.store(usize::try_from(*learned).unwrap(), SeqCst);
    });
    assert_eq!(seen.load(SeqCst), 101);
}

#[test]
fn an_injected_packet_is_traced() {
    let mut rig = rig(Mode::Adaptive);
    let (far, _, _) = port(&mut rig, 9, false);
    asleep(&rig);
    rig.handle.inject(PortId(9), &[5; 64], 3);
    eventually("it went out", || far.outside.lock().unwrap().len() == 1);
    let mut step = None;
    eventually("its step is there", || {
        step = rig.handle.step();
        step.is_some()
    });
    let step = step.unwrap();
    assert_eq!((step.mark, step.node, step.arc, step.bytes(), step.len), (3, "echo", "Out", &[5; 64][..], 64));
}

#[test]
fn a_core_that_is_not_there_is_named() {
    let mut publisher = Publisher::new(1);
    let mut builder = Builder::default();
    let entry = builder.add(Echo);
    builder.arcs(entry, |Only::Out| Graph::<u64, u64>::SEND);
    let counts = FrameCounts { small: 8, jumbo: 0, super_: 0, packets: 8 };
    let frames = Frames::new(0, counts, hugepages::Settings::new(0)).unwrap();
    let parts = Parts { graph: builder.finish(8), entry, told: publisher.reader(), learned: 0, frames };
    let settings = Settings { number: 2, core: Some(900), mode: Mode::Poll };
    let error = start(&settings, parts).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "worker 2: cannot run on core 900: this process may not use it");
}
