//! A large growing array whose versions share what did not change.
use crate::slots::Slots;
use std::sync::Arc;

/// Items of `T`, numbered from zero, in pages of `PAGE` that begin on a cache line. A clone costs one reference; a
/// change to a clone copies one page and two lists of about the square root of the number of pages, so that a change
/// to a table of 100 MB costs microseconds.
#[derive(Clone)]
pub(crate) struct Pages<T, const PAGE: usize> {
    pages: Slots<Arc<Page<T, PAGE>>, 64>,
}

#[derive(Clone)]
#[repr(align(64))]
struct Page<T, const PAGE: usize>([T; PAGE]);

impl<T: Default, const PAGE: usize> Default for Page<T, PAGE> {
    fn default() -> Self {
        Page(std::array::from_fn(|_| T::default()))
    }
}

impl<T: Clone + Default, const PAGE: usize> Default for Pages<T, PAGE> {
    fn default() -> Self {
        Pages { pages: Slots::default() }
    }
}

impl<T: Clone + Default, const PAGE: usize> Pages<T, PAGE> {
    const IS_POWER_OF_TWO: () = assert!(PAGE.is_power_of_two());

    /// Item `at`.
    #[inline(always)]
    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        let () = Self::IS_POWER_OF_TWO;
        self.pages.get(at / PAGE)?.0.get(at % PAGE)
    }

    /// Item `at`, to be changed; items up to it are made when they are not there.
    pub(crate) fn slot(&mut self, at: usize) -> &mut T {
        let page = Arc::make_mut(self.pages.slot(at / PAGE));
        #[expect(clippy::indexing_slicing, reason = "a page has PAGE items")]
        &mut page.0[at % PAGE]
    }

    /// Makes items with the default value until there are at least `len`. Pages of nothing else share their memory.
    pub(crate) fn grow(&mut self, len: usize) {
        self.pages.grow(len.div_ceil(PAGE));
    }

    /// How many items there are.
    pub(crate) fn len(&self) -> usize {
        self.pages.len() * PAGE
    }

    /// Every item.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flat_map(|page| page.0.iter())
    }

    /// The most memory that the pages may take, in bytes, shared or not.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.len() * size_of::<Page<T, PAGE>>() + self.pages.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_versions_stay_as_they_were() {
        let mut new: Pages<u32, 4> = Pages::default();
        *new.slot(9) = 9;
        let old = new.clone();
        *new.slot(9) = 10;
        *new.slot(1) = 1;
        assert_eq!((old.get(9), old.get(1), old.get(4 * 64)), (Some(&9), Some(&0), None));
        assert_eq!((new.get(9), new.get(1), new.len()), (Some(&10), Some(&1), 12));
    }
}
