//! Slot numbers: stable while in use, used again afterwards.
use rpds::StackSync;

/// Hands out numbers from a first one up to a limit; a clone costs a reference.
#[derive(Clone)]
pub(super) struct Numbers {
    free: StackSync<u32>,
    first: u32,
    next: u32,
    limit: u32,
}

impl Numbers {
    /// Numbers from `first` to below `limit`.
    pub(super) fn new(first: u32, limit: u32) -> Self {
        Numbers { free: StackSync::new_sync(), first, next: first, limit }
    }

    /// A number that is not in use; none when all are.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(free) = self.free.peek().copied() {
            self.free.pop_mut();
            return Some(free);
        }
        let next = Some(self.next).filter(|next| *next < self.limit)?;
        self.next += 1;
        Some(next)
    }

    /// Gives a number back.
    pub(super) fn give(&mut self, number: u32) {
        self.free.push_mut(number);
    }

    /// How many there are in all.
    pub(super) fn capacity(&self) -> u32 {
        self.limit - self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_and_end() {
        let mut numbers = Numbers::new(1, 3);
        assert_eq!((numbers.take(), numbers.take(), numbers.take()), (Some(1), Some(2), None));
        let before = numbers.clone();
        numbers.give(1);
        assert_eq!((numbers.take(), numbers.take()), (Some(1), None));
        assert_eq!((before.next, before.capacity()), (3, 2));
    }
}
