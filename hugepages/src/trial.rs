//! Maps a region as asked, and says what was got and what it costs.

use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hugepages::{Backing, Got, PageKind, Region, Settings, Size, Want};

use crate::{FAILED, LESS};

#[derive(Args)]
pub(crate) struct Trial {
    /// Size of the region
    #[arg(long, default_value = "64M")]
    size: Size,
    /// Pages that the region must have
    #[arg(long, value_enum, default_value_t = Pages::Best)]
    pages: Pages,
    /// A private region instead of one that can be shared
    #[arg(long, conflicts_with = "file")]
    private: bool,
    /// A file on hugetlbfs or tmpfs; it is left there
    #[arg(long)]
    file: Option<PathBuf>,
    /// Lock the pages in memory
    #[arg(long)]
    lock: bool,
    /// Bind the region to this NUMA node
    #[arg(long)]
    node: Option<u32>,
    /// Fail where the region could not be locked, sealed, prefaulted or bound
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Pages {
    Best,
    #[value(name = "1G")]
    Huge1G,
    #[value(name = "2M")]
    Huge2M,
    Transparent,
    #[value(name = "4K")]
    Plain,
}

impl Trial {
    pub(crate) fn run(self) -> ExitCode {
        let want = match self.pages {
            Pages::Best => Want::Best,
            Pages::Huge1G => Want::Only(PageKind::Huge1G),
            Pages::Huge2M => Want::Only(PageKind::Huge2M),
            Pages::Transparent => Want::Only(PageKind::Transparent),
            Pages::Plain => Want::Only(PageKind::Plain),
        };
        let backing = match self.file {
            Some(path) => Backing::File { path },
            None if self.private => Backing::Anonymous,
            None => Backing::Memfd { name: "millrace-try".into() },
        };
        let (lock, numa_node, strict) = (self.lock, self.node, self.strict);
        let settings = Settings { want, backing, lock, numa_node, strict, ..Settings::new(self.size.0) };
        let before = Instant::now();
        match Region::map(settings) {
            Ok(region) => {
                let took = before.elapsed();
                report(region.got(), took, random_read(region.bytes()))
            }
            Err(error) => {
                eprintln!("error: {error}");
                eprintln!("millrace-hugepages show lists what the host has; --pages best takes what can be had");
                ExitCode::from(FAILED)
            }
        }
    }
}

fn report(got: &Got, took: Duration, read: Duration) -> ExitCode {
    let yes = |is: bool| if is { "yes" } else { "no" };
    println!("size        {}", Size(got.bytes));
    println!("pages       {} ({} of them)", got.kind, got.pages());
    println!("sealed      {}", yes(got.sealed));
    println!("locked      {}", yes(got.locked));
    println!("prefaulted  {}", yes(got.prefaulted));
    println!("NUMA node   {}", got.numa_node.map_or_else(|| "any".to_owned(), |node| node.to_string()));
    println!("existing    {}", yes(got.existing));
    println!("mapped in   {:.1} ms", took.as_secs_f64() * 1e3);
    println!("random read {} ns", read.as_nanos());
    for shortfall in &got.shortfalls {
        println!("less:       {shortfall}");
    }
    if got.shortfalls.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LESS) }
}

/// The mean time of a read that depends on the one before it, all over the region: mostly cache and address
/// translation misses, so it shows what the pages cost.
fn random_read(bytes: &[u8]) -> Duration {
    let mut at = 1u64;
    let before = Instant::now();
    for _ in 0..READS {
        // A step of a full-period generator; the byte read (always zero in a new region) makes the next step wait.
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = (u128::from(at) * bytes.len() as u128) >> 64;
        let byte = usize::try_from(place).ok().and_then(|place| bytes.get(place)).copied();
        at = at.wrapping_add(u64::from(byte.unwrap_or_default()));
    }
    black_box(at);
    before.elapsed() / READS
}

const READS: u32 = 1 << 20;
