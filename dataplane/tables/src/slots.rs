//! A growing array whose versions share what did not change.
use std::sync::Arc;

/// Slots of `T`, numbered from zero. A clone costs one reference; a change to a clone copies one chunk and the list of
/// chunks, never the other chunks.
#[derive(Clone, Debug)]
pub struct Slots<T, const CHUNK: usize = 256> {
    chunks: Arc<[Arc<[T; CHUNK]>]>,
    len: usize,
}

impl<T: Clone + Default, const CHUNK: usize> Default for Slots<T, CHUNK> {
    fn default() -> Self {
        Slots { chunks: Arc::new([]), len: 0 }
    }
}

impl<T: Clone + Default, const CHUNK: usize> Slots<T, CHUNK> {
    const IS_POWER_OF_TWO: () = assert!(CHUNK.is_power_of_two());

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value in slot `at`.
    #[inline(always)]
    pub fn get(&self, at: usize) -> Option<&T> {
        let () = Self::IS_POWER_OF_TWO;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    /// The value in slot `at`, to be changed; slots up to it are made when they are not there.
    pub fn slot(&mut self, at: usize) -> &mut T {
        self.grow(at + 1);
        let chunk = Arc::make_mut(&mut self.chunks);
        #[expect(clippy::indexing_slicing, reason = "`grow` made the chunk")]
        let chunk = Arc::make_mut(&mut chunk[at / CHUNK]);
        #[expect(clippy::indexing_slicing, reason = "every chunk has CHUNK slots")]
        &mut chunk[at % CHUNK]
    }

    /// Makes slots with the default value until there are `len`.
    pub fn grow(&mut self, len: usize) {
        if len <= self.len {
            return;
        }
        self.len = len;
        let missing = len.div_ceil(CHUNK).saturating_sub(self.chunks.len());
        if missing > 0 {
            let fresh = || Arc::new(std::array::from_fn(|_| T::default()));
            self.chunks = self.chunks.iter().cloned().chain((0..missing).map(|_| fresh())).collect();
        }
    }

    /// Every value, in order of slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
    }

    /// How much memory the chunks take, in bytes, shared or not.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<T>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_older_versions_as_they_were_and_copies_one_chunk() {
        let mut new: Slots<u32, 4> = Slots::default();
        for at in 0..10u32 {
            *new.slot(at as usize) = at;
        }
        let old = new.clone();
        *new.slot(5) = 99;
        assert_eq!((old.get(5), new.get(5), new.get(10), new.len()), (Some(&5), Some(&99), Some(&0), 10));
        let shared = old.chunks.iter().zip(new.chunks.iter()).filter(|(old, new)| Arc::ptr_eq(old, new)).count();
        assert_eq!(shared, 2, "of three chunks one was copied");
    }
}
