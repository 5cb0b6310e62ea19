//! Kinds of pages, the order in which they are tried, and how sizes are written.

use std::fmt;
use std::str::FromStr;

use crate::pools::Pools;

/// What kind of pages backs a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageKind {
    /// Plain 4 KiB pages.
    Plain,
    /// Plain memory that the kernel backs by 2 MiB pages where it can (transparent huge pages).
    Transparent,
    /// 2 MiB pages of the hugetlb pool.
    Huge2M,
    /// 1 GiB pages of the hugetlb pool.
    Huge1G,
}

impl PageKind {
    /// Size of one page in bytes; of the large page for the transparent kind.
    pub const fn size(self) -> usize {
        match self {
            PageKind::Plain => 4 << 10,
            PageKind::Transparent | PageKind::Huge2M => 2 << 20,
            PageKind::Huge1G => 1 << 30,
        }
    }

    /// The smallest whole number of pages, in bytes, that holds `bytes`; none when that overflows.
    pub const fn round_up(self, bytes: usize) -> Option<usize> {
        bytes.checked_next_multiple_of(self.size())
    }

    /// Whether the pages come from the hugetlb pool: reserved beforehand, never swapped.
    pub const fn is_hugetlb(self) -> bool {
        matches!(self, PageKind::Huge2M | PageKind::Huge1G)
    }

    /// The kind of a hugetlb pool by the size of its pages in bytes.
    pub(crate) fn of_pool(page: usize) -> Option<PageKind> {
        [PageKind::Huge2M, PageKind::Huge1G].into_iter().find(|kind| kind.size() == page)
    }
}

impl fmt::Display for PageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PageKind::Plain => "4 KiB",
            PageKind::Transparent => "transparent 2 MiB",
            PageKind::Huge2M => "2 MiB",
            PageKind::Huge1G => "1 GiB",
        })
    }
}

/// Which kinds of pages are acceptable, and which first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// 2 MiB, then transparent, then plain; before them 1 GiB, where the size is a multiple of it and the host has
    /// enough of them free.
    #[default]
    Best,
    /// This kind or an error.
    Only(PageKind),
    /// This kind, or the next smaller one that can be had.
    AtMost(PageKind),
}

impl Want {
    /// The kinds to try for `bytes`, best first; never empty.
    pub(crate) fn kinds(self, bytes: usize, host: &Pools) -> Vec<PageKind> {
        use PageKind::{Huge1G, Huge2M, Plain, Transparent};
        let order = [Huge1G, Huge2M, Transparent, Plain];
        match self {
            Want::Only(kind) => vec![kind],
            Want::AtMost(largest) => order.into_iter().filter(|kind| *kind <= largest).collect(),
            Want::Best => {
                let gigantic = bytes.is_multiple_of(Huge1G.size()) && host.available(Huge1G) >= bytes / Huge1G.size();
                order.into_iter().filter(|kind| gigantic || *kind != Huge1G).collect()
            }
        }
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Want::Best => write!(f, "the best pages"),
            Want::Only(kind) => write!(f, "only {kind} pages"),
            Want::AtMost(kind) => write!(f, "at most {kind} pages"),
        }
    }
}

/// A number of bytes, as people write it: `64K`, `2M`, `1GiB`, `4096`; printed with the largest unit that divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(
    /// The number of bytes.
    pub usize,
);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(shift, _)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match unit {
            Some((shift, name)) => f.pad(&format!("{} {name}iB", self.0 >> shift)),
            None => f.pad(&format!("{} B", self.0)),
        }
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        let fail = || SizeError(text.to_owned());
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text.strip_prefix(digits).unwrap_or_default().trim().to_ascii_uppercase();
        let shift = match unit.trim_end_matches("IB") {
            "" | "B" => 0,
            letter => UNITS.iter().find(|(_, name)| *name == letter).ok_or_else(fail)?.0,
        };
        let number: usize = digits.parse().map_err(|_| fail())?;
        number.checked_mul(1 << shift).map(Size).ok_or_else(fail)
    }
}

/// A text that is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size: write a number of bytes, or one with K, M or G, for example 2M")]
pub struct SizeError(String);

/// Powers of two and their letters, largest first.
const UNITS: [(u32, &str); 3] = [(30, "G"), (20, "M"), (10, "K")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_printed() {
        for bytes in [1, 1000, 4096, 2 << 20, 3 << 20, 1 << 30, 5 << 30] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!("2M".parse(), Ok(Size(2 << 20)));
        assert_eq!("1g".parse(), Ok(Size(1 << 30)));
        for wrong in ["", "M", "2X", "-1", "2.5M", "99999999999999999999", "99999999999999999G", "1GM"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn best_is_two_mebibytes_first() {
        use PageKind::{Huge2M, Plain, Transparent};
        let none = Pools::default();
        assert_eq!(Want::Best.kinds(1 << 30, &none), [Huge2M, Transparent, Plain]);
        assert_eq!(Want::AtMost(Transparent).kinds(4096, &none), [Transparent, Plain]);
        assert_eq!(Want::Only(Plain).kinds(4096, &none), [Plain]);
    }
}
