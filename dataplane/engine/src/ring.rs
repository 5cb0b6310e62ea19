//! A bounded queue from one thread to another.
// UNSAFETY: two threads touch the same cells; head and tail say whose each is, which the borrow checker cannot see.
#![expect(unsafe_code, reason = "a ring shared by two threads")]
use crate::sync::{AtomicUsize, Ordering, UnsafeCell};
use crossbeam::utils::CachePadded;
use std::{mem::MaybeUninit, sync::Arc};

struct Shared<T> {
    head: CachePadded<AtomicUsize>, // the next cell to read; the consumer alone advances it
    tail: CachePadded<AtomicUsize>, // the next cell to write; the producer alone advances it
    cells: Box<[UnsafeCell<MaybeUninit<T>>]>,
}
// SAFETY: cells from head to tail are the consumer's, the others the producer's; each side hands over by a release
// store that the other acquires, so values move between threads and are never shared.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; the ring owns its values.
unsafe impl<T: Send> Send for Shared<T> {}

/// A ring that holds at least `capacity` values (rounded up to a power of two): where they go in, where they come out.
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let cells = (0..capacity.next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let zero = || CachePadded::new(AtomicUsize::new(0));
    let shared = Arc::new(Shared { head: zero(), tail: zero(), cells });
    (Producer { shared: shared.clone(), tail: 0, head: 0 }, Consumer { shared, head: 0, tail: 0 })
}

/// The end of a ring at which values go in.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    head: usize, // as last seen: looked at again only when the ring seems full
}

/// The end of a ring at which values come out.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    tail: usize, // as last seen: looked at again only when the ring seems empty
}

impl<T> Shared<T> {
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "masked by the length, a power of two")]
    fn cell(&self, at: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.cells[at & (self.cells.len() - 1)]
    }
}

impl<T: Send> Producer<T> {
    /// Puts a value in; it comes back when the ring is full.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.room() == 0 {
            return Err(value);
        }
        self.shared.cell(self.tail).with_mut(|cell| {
            // SAFETY: the cell at `tail` is the producer's while fewer than `len` values are inside, as just checked.
            unsafe { (*cell).write(value) };
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// How many values can be put in now, at least.
    #[inline]
    pub fn room(&mut self) -> usize {
        let capacity = self.shared.cells.len();
        if self.tail.wrapping_sub(self.head) == capacity {
            self.head = self.shared.head.load(Ordering::Acquire);
        }
        capacity - self.tail.wrapping_sub(self.head)
    }
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest value out.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let value = self.shared.cell(self.head).with(|cell| {
            // SAFETY: the cell at `head` is the consumer's while the ring is not empty, as just checked.
            let cell = unsafe { &*cell };
            // SAFETY: it holds a value, and advancing `head` gives the cell back, so that the value is read once.
            unsafe { cell.assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        self.shared.head.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Whether nothing is inside now.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        if self.head == self.tail {
            self.tail = self.shared.tail.load(Ordering::Acquire);
        }
        self.head == self.tail
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let (mut head, tail) = (self.head.load(Ordering::Acquire), self.tail.load(Ordering::Acquire));
        while head != tail {
            self.cell(head).with_mut(|cell| {
                // SAFETY: both ends are gone: nobody else has the cell.
                let cell = unsafe { &mut *cell };
                // SAFETY: cells from head to tail hold values that nobody took out.
                unsafe { cell.assume_init_drop() };
            });
            head = head.wrapping_add(1);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_in_order_and_a_full_ring_gives_them_back() {
        let (mut to, mut from) = ring(3);
        for round in 0..10 {
            assert_eq!((0..4).map(|i| to.push(round * 10 + i)).filter(Result::is_err).count(), 0);
            assert_eq!(to.push(99), Err(99));
            assert_eq!(
                (0..5).map_while(|_| from.pop()).collect::<Vec<_>>(),
                (0..4).map(|i| round * 10 + i).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn what_is_left_inside_is_dropped_once() {
        let value = Arc::new(());
        let (mut to, mut from) = ring(4);
        (0..3).for_each(|_| assert!(to.push(value.clone()).is_ok()));
        drop(from.pop());
        drop((to, from));
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
