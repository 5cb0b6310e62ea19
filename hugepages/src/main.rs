//! `millrace-hugepages`: shows the host's pages, reserves some, tries what a region would get.
//!
//! Exit codes: 0 as asked, 1 less than asked, 2 wrong usage, 3 failed.

mod show;
mod trial;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use hugepages::{PoolError, Size, pools, reserve};

use crate::trial::Trial;

fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Show { output } => {
            match output {
                Output::Table => print!("{}", show::table(&pools())),
                Output::Json => println!("{}", show::json(&pools())),
            }
            ExitCode::SUCCESS
        }
        Verb::Reserve { size, count, node } => reserve_pages(size, count, node),
        Verb::Try(trial) => trial.run(),
    }
}

/// Shows the host's memory pages, reserves some, and tries what a region would get.
#[derive(Parser)]
#[command(name = "millrace-hugepages", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show page sizes, NUMA nodes, how many pages are free, and the modes of transparent pages
    Show {
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Set how many pages the host keeps for us, and say how many it got
    Reserve {
        /// Size of a page: 2M or 1G
        #[arg(long)]
        size: Size,
        /// Number of pages that the pool shall have in all
        #[arg(long)]
        count: usize,
        /// Only on this NUMA node
        #[arg(long)]
        node: Option<u32>,
    },
    /// Map a region, print what was got and what it costs, and give it back
    Try(Trial),
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// Aligned columns, for people
    Table,
    /// One JSON object, for scripts
    Json,
}

fn reserve_pages(size: Size, count: usize, node: Option<u32>) -> ExitCode {
    let place = node.map_or_else(String::new, |node| format!(" on NUMA node {node}"));
    let done = match reserve(size.0, count, node) {
        Ok(done) => done,
        Err(error) => return failed(&error),
    };
    println!("{} of {count} pages of {size}{place} (before: {})", done.got, done.before);
    match done.got.cmp(&count) {
        std::cmp::Ordering::Equal => ExitCode::SUCCESS,
        std::cmp::Ordering::Greater => {
            eprintln!("{} pages more than asked are still in use; they go back when their users end", done.got - count);
            ExitCode::from(LESS)
        }
        std::cmp::Ordering::Less => {
            eprintln!("memory is used or fragmented: got {} of {count} pages. What to do:", done.got);
            eprintln!("  echo 1 > /proc/sys/vm/compact_memory    and reserve again");
            eprintln!("  or reserve at boot: hugepagesz={} hugepages={count} on the kernel's command line", word(size));
            ExitCode::from(LESS)
        }
    }
}

/// A size as the kernel's command line has it: `2M`.
fn word(size: Size) -> String {
    size.to_string().replace(' ', "").trim_end_matches("iB").to_owned()
}

fn failed(error: &PoolError) -> ExitCode {
    eprintln!("error: {error}");
    eprintln!(
        "{}",
        match error {
            PoolError::NoPool { .. } | PoolError::NoSuchNode { .. } => "millrace-hugepages show lists what there is",
            PoolError::NoPermission { .. } => "nothing was changed; Millrace works without huge pages too, at a cost",
            PoolError::System { .. } => "nothing was changed",
        }
    );
    ExitCode::from(FAILED)
}

/// Something was got, but less than asked.
const LESS: u8 = 1;

/// Nothing was got.
const FAILED: u8 = 3;

const EXIT_CODES: &str = "Exit codes: 0 as asked, 1 less than asked, 2 wrong usage, 3 failed";
