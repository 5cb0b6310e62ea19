//! Every interleaving of a publisher and a worker, by loom.
// UNSAFETY: loom's cell must be shared to be checked.
use super::*;
use loom::{cell::UnsafeCell, thread};
use std::sync::{Weak, atomic::AtomicBool};

/// A snapshot that knows where it may be freed, and notices a use that comes after that or beside it.
struct Told {
    number: u64,
    home: thread::ThreadId,
    freed: AtomicBool,
    touched: UnsafeCell<()>,
}
// SAFETY: loom checks each access to `touched`; that is what it is for.
unsafe impl Sync for Told {}

fn told(number: u64) -> Told {
    Told { number, home: thread::current().id(), freed: AtomicBool::new(false), touched: UnsafeCell::new(()) }
}
impl Told {
    fn read(&self) -> u64 {
        assert!(!self.freed.load(Relaxed), "used after it was freed");
        self.touched.with(|_| self.number)
    }
}
impl Drop for Told {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.home, "freed by a worker");
        self.touched.with_mut(|_| self.freed.store(true, Relaxed));
    }
}

/// A publisher whose versions keep their memory (not their value) to the end, so that a late use shows.
struct Rig(Publisher<Told>, Vec<Weak<Version<Told>>>);
impl Rig {
    fn new() -> Self {
        let publisher = Publisher::new(told(0));
        let memory = publisher.versions.iter().map(Arc::downgrade).collect();
        Rig(publisher, memory)
    }
    fn publish(&mut self, number: u64) {
        self.0.publish(told(number));
        self.1.extend(self.0.versions.last().map(Arc::downgrade));
    }
}

#[test]
fn a_worker_never_frees_and_never_goes_back() {
    loom::model(|| {
        let mut rig = Rig::new();
        let mut reader = rig.0.reader();
        let worker = thread::spawn(move || {
            let first = reader.turn().read();
            let told = reader.turn();
            assert!(told.read() >= first);
            reader
        });
        rig.publish(1);
        rig.publish(2);
        let mut reader = worker.join().unwrap();
        assert_eq!(reader.turn().read(), 2);
        assert_eq!(rig.0.reclaim(), 1, "all online readers have passed");
        drop(reader);
    });
}

#[test]
fn a_sleeping_reader_pins_nothing_and_wakes_to_the_newest() {
    loom::model(|| {
        let mut rig = Rig::new();
        let mut reader = rig.0.reader();
        assert_eq!(reader.turn().read(), 0);
        let sleeper = reader.sleep();
        rig.publish(1);
        rig.publish(2);
        assert_eq!(rig.0.versions.len(), 1, "only the current version is left");
        let worker = thread::spawn(move || {
            let mut reader = sleeper.wake();
            assert!(reader.turn().read() >= 2);
        });
        rig.publish(3);
        worker.join().unwrap();
        assert_eq!(rig.0.reclaim(), 1, "a reader that is gone pins nothing either");
    });
}

#[test]
fn a_reader_may_fall_asleep_and_wake_while_versions_change() {
    loom::model(|| {
        let mut rig = Rig::new();
        let mut reader = rig.0.reader();
        let worker = thread::spawn(move || {
            let first = reader.turn().read();
            let mut reader = reader.sleep().wake();
            let told = reader.turn();
            assert!(told.read() >= first);
            reader.sleep()
        });
        rig.publish(1);
        rig.publish(2);
        let sleeper = worker.join().unwrap();
        assert_eq!(rig.0.reclaim(), 1);
        drop(sleeper);
    });
}

#[test]
fn the_last_version_outlives_its_publisher_while_readers_are_left() {
    loom::model(|| {
        let mut rig = Rig::new();
        let mut reader = rig.0.reader();
        let worker = thread::spawn(move || reader.turn().read());
        let Rig(publisher, memory) = rig;
        drop(publisher);
        assert_eq!(worker.join().unwrap(), 0);
        drop(memory);
    });
}

#[test]
fn nobody_sleeps_beside_a_full_ring() {
    loom::model(|| {
        let mut rig = Rig::new();
        let reader = rig.0.reader();
        let bell = reader.bell();
        let (mut to, mut from) = crate::ring(2);
        let worker = thread::spawn(move || {
            let sleeper = reader.sleep();
            (from.is_empty(), from, sleeper)
        });
        assert!(to.push(1).is_ok());
        let rung = bell.must_ring();
        let (blocks, mut from, _sleeper) = worker.join().unwrap();
        assert!(!blocks || rung, "a packet lies in the ring, its worker sleeps, nobody rang");
        assert_eq!(from.pop(), Some(1));
    });
}

#[test]
fn a_ring_hands_values_over_in_order_and_drops_what_is_left() {
    loom::model(|| {
        let (mut to, mut from) = crate::ring(2);
        let producer = thread::spawn(move || {
            let mut sent = 0;
            for i in 0..3u64 {
                sent += u64::from(to.push(Box::new(i)).is_ok());
            }
            sent
        });
        let mut next = 0;
        for _ in 0..2 {
            if let Some(value) = from.pop() {
                assert_eq!(*value, next);
                next += 1;
            }
        }
        let sent = producer.join().unwrap();
        assert!(next <= sent && sent >= 2);
    });
}
