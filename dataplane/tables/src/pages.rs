//! A large growing array on large pages whose versions share what did not change.
use crate::slab::{NONE, Slab};
use hugepages::Got;
use std::{
    marker::PhantomData,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed},
};

/// Words of a page: 16 KiB.
const PAGE: usize = 2048;

/// What can be kept in words. All zeros are the default.
pub(crate) trait Item: Copy + Default {
    /// How many words it takes, a power of two.
    const WORDS: usize;
    /// What `WORDS` words say.
    fn load(words: &[AtomicU64]) -> Self;
    /// Writes `WORDS` words.
    fn store(self, words: &[AtomicU64]);
}

impl Item for u64 {
    const WORDS: usize = 1;
    #[inline(always)]
    fn load(words: &[AtomicU64]) -> Self {
        words.first().map_or(0, |word| word.load(Relaxed))
    }
    fn store(self, words: &[AtomicU64]) {
        words.iter().for_each(|word| word.store(self, Relaxed));
    }
}

/// Items of `T`, numbered from zero, in pages of a slab. A clone costs one reference; a change to a clone copies one
/// page and the list of pages, which for a table of 64 MiB is 16 KiB long.
pub(crate) struct Pages<T> {
    list: Arc<List>,
    items: PhantomData<T>,
}

#[derive(Default)]
struct List {
    pages: Vec<u32>, // NONE: all items have the default value
    slab: Arc<Slab<PAGE>>,
}

impl Clone for List {
    fn clone(&self) -> Self {
        let mut writer = self.slab.writer();
        self.pages.iter().for_each(|page| writer.share(*page));
        List { pages: self.pages.clone(), slab: self.slab.clone() }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let mut writer = self.slab.writer();
        self.pages.iter().for_each(|page| writer.release(*page, |_| None));
    }
}

impl<T> Clone for Pages<T> {
    fn clone(&self) -> Self {
        Pages { list: self.list.clone(), items: PhantomData }
    }
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Pages { list: Arc::default(), items: PhantomData }
    }
}

impl<T: Item> Pages<T> {
    /// How many items there are in a page.
    pub(crate) const PER_PAGE: usize = {
        assert!(T::WORDS.is_power_of_two() && T::WORDS < PAGE);
        PAGE / T::WORDS
    };

    /// Item `at`; the default where there is none.
    #[inline(always)]
    pub(crate) fn get(&self, at: usize) -> T {
        T::load(self.words(at))
    }

    /// Starts loading item `at`.
    #[inline(always)]
    pub(crate) fn fetch(&self, at: usize) {
        engine::fetch(self.words(at));
    }

    /// Changes item `at`; items up to it are made when they are not there.
    pub(crate) fn set(&mut self, at: usize, item: T) {
        self.grow(at + 1);
        let List { pages, slab } = Arc::make_mut(&mut self.list);
        let Some(page) = pages.get_mut(at / Self::PER_PAGE) else { return };
        let mut writer = slab.writer();
        *page = if *page == NONE { writer.take(0) } else { writer.own(*page, |_| None) };
        item.store(slab.words(*page, at % Self::PER_PAGE * T::WORDS, T::WORDS));
    }

    /// Makes items with the default value until there are at least `len`.
    pub(crate) fn grow(&mut self, len: usize) {
        let pages = len.div_ceil(Self::PER_PAGE);
        if pages > self.list.pages.len() {
            Arc::make_mut(&mut self.list).pages.resize(pages, NONE);
        }
    }

    /// How many items there are.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.list.pages.len() * Self::PER_PAGE
    }

    /// Every item.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// The most memory that the pages may take, in bytes, shared or not.
    pub(crate) fn bytes(&self) -> usize {
        self.list.slab.bytes() + self.list.pages.len() * size_of::<u32>()
    }

    /// The memory of the pages, shared or not.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.list.slab.got()
    }

    #[inline(always)]
    fn words(&self, at: usize) -> &[AtomicU64] {
        let page = self.list.pages.get(at / Self::PER_PAGE).copied().unwrap_or(NONE);
        self.list.slab.words(page, at % Self::PER_PAGE * T::WORDS, T::WORDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_versions_stay_as_they_were() {
        let mut new: Pages<u64> = Pages::default();
        new.set(9, 9);
        let old = new.clone();
        new.set(9, 10);
        new.set(PAGE + 1, 1);
        assert_eq!((old.get(9), old.get(PAGE + 1), old.len()), (9, 0, PAGE));
        assert_eq!((new.get(9), new.get(PAGE + 1), new.len()), (10, 1, 2 * PAGE));
        drop(old);
        assert_eq!(new.list.slab.writer().in_use(), 2);
    }
}
