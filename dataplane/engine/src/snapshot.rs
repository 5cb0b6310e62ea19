//! What workers are told: one publisher, many readers. A reader touches shared memory once a turn, never waits and
//! never frees; while it sleeps it holds nothing back.
//!
//! Every reader has a mark that the publisher reads: the generation that it uses. A version is freed once every mark
//! is past it. A reader that is awake needs no fence: its old mark protects all that it may load before its new one.
// UNSAFETY: a reader uses a version that it does not own; the marks, which the borrow checker cannot see, keep it
// alive.
#![expect(unsafe_code, reason = "a version is read by those who do not own it")]
use crate::sync::{AtomicPtr, AtomicU64, Ordering::*, fence};
use crossbeam::utils::CachePadded;
use std::sync::Arc;

const WAKING: u64 = 0; // uses whatever is current: nothing may be freed
const ASLEEP: u64 = u64::MAX - 1; // uses nothing, and says so before it uses anything again
const GONE: u64 = u64::MAX; // will never use anything again

struct Version<S> {
    generation: u64, // counts from 1
    told: S,
}

/// One reader's mark, alone in its cache line.
type Mark = CachePadded<AtomicU64>;

/// Publishes versions and frees those that no reader uses any more.
pub struct Publisher<S> {
    current: Arc<AtomicPtr<Version<S>>>,
    versions: Vec<Arc<Version<S>>>, // oldest first, the current one last; readers own none of them
    marks: Vec<Arc<Mark>>,
}

impl<S: Send + Sync> Publisher<S> {
    /// Starts with `first`.
    pub fn new(first: S) -> Self {
        let version = Arc::new(Version { generation: 1, told: first });
        let current = Arc::new(AtomicPtr::new(Arc::as_ptr(&version).cast_mut()));
        Publisher { current, versions: vec![version], marks: vec![] }
    }

    /// One more reader, awake.
    pub fn reader(&mut self) -> Reader<S> {
        let generation = self.generation();
        let mark = Arc::new(CachePadded::new(AtomicU64::new(generation)));
        self.marks.push(mark.clone());
        Reader { generation, seat: Seat { current: self.current.clone(), mark } }
    }

    /// Makes `next` the current version. Never blocks.
    pub fn publish(&mut self, next: S) {
        let version = Arc::new(Version { generation: self.generation() + 1, told: next });
        self.current.store(Arc::as_ptr(&version).cast_mut(), Release);
        self.versions.push(version);
        self.reclaim();
    }
}

impl<S> Publisher<S> {
    /// The current version's number, counted from 1.
    pub fn generation(&self) -> u64 {
        self.versions.last().map_or(0, |version| version.generation)
    }

    /// The current version.
    pub fn current(&self) -> Option<&S> {
        self.versions.last().map(|version| &version.told)
    }

    /// Frees the versions that every reader has passed; gives how many are left. Never blocks.
    pub fn reclaim(&mut self) -> usize {
        fence(SeqCst); // with the one in `wake`: a waking reader's mark is seen here, or that reader sees `current`
        self.marks.retain(|mark| mark.load(Acquire) != GONE);
        let oldest = self.oldest();
        self.versions.retain(|version| version.generation >= oldest);
        self.versions.len()
    }

    /// The oldest version that a reader may still use: when this is the current one, it is live everywhere.
    pub fn oldest(&self) -> u64 {
        let marks = self.marks.iter().map(|mark| mark.load(Acquire));
        marks.fold(self.generation(), u64::min)
    }
}

impl<S> Drop for Publisher<S> {
    /// Readers that are left keep the current version: it is leaked, as no reader may run a destructor.
    fn drop(&mut self) {
        self.reclaim();
        if !self.marks.is_empty() {
            std::mem::forget(std::mem::take(&mut self.versions));
        }
    }
}

struct Seat<S> {
    current: Arc<AtomicPtr<Version<S>>>,
    mark: Arc<Mark>,
}

impl<S> Drop for Seat<S> {
    fn drop(&mut self) {
        self.mark.store(GONE, Release);
    }
}

/// A worker's view of what it is told.
pub struct Reader<S> {
    seat: Seat<S>,
    generation: u64,
}

impl<S> Reader<S> {
    /// What is told now. Called once a turn: one acquire load, and a store to a line of its own when something changed.
    #[inline]
    pub fn turn(&mut self) -> &S {
        let version = self.seat.current.load(Acquire);
        // SAFETY: the publisher frees a version only when all marks are past it. This reader's mark is at most the
        // generation loaded here, as `current` only moves forward, and stays so until `self` is borrowed again.
        let version = unsafe { &*version };
        if version.generation != self.generation {
            self.generation = version.generation;
            self.seat.mark.store(self.generation, Release);
        }
        &version.told
    }

    /// Which version the last turn used.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// For whoever hands work to this reader.
    pub fn bell(&self) -> Bell {
        Bell(self.seat.mark.clone())
    }

    /// Gives up what it was told. The caller then looks at every ring once more, and blocks if all are empty: the fence
    /// makes sure that whoever fills a ring after that look sees this reader asleep.
    pub fn sleep(self) -> Sleeper<S> {
        self.seat.mark.store(ASLEEP, Release);
        fence(SeqCst);
        Sleeper(self.seat)
    }
}

/// A reader that is asleep: it pins nothing, and there is nothing that it could read.
pub struct Sleeper<S>(Seat<S>);

impl<S> Sleeper<S> {
    /// Awake again; the next turn reads the newest version.
    pub fn wake(self) -> Reader<S> {
        self.0.mark.store(WAKING, Relaxed);
        fence(SeqCst); // with the one in `reclaim`: the mark can be seen before `current` is loaded
        Reader { seat: self.0, generation: WAKING }
    }
}

/// Tells whether a reader must be woken.
#[derive(Clone)]
pub struct Bell(Arc<Mark>);

impl Bell {
    /// Asked after work was put into a ring: the fence pairs with the one in `sleep`. True means: wake that thread.
    pub fn must_ring(&self) -> bool {
        fence(SeqCst);
        self.0.load(Relaxed) == ASLEEP
    }
}

#[cfg(all(test, loom))]
#[path = "check.rs"]
mod check;
