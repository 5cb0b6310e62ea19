//! Clocks per packet, end to end figures, and the report: `make bench`, or `bench turn.pod` for those that begin so.
//!
//! Each part of the figures is measured by a process of its own, `bench measure ID...`, so that one figure's memory is
//! given back before the next one's is taken, and no figure finds the heap as another one left it.
mod allocations;
mod apply;
mod peers;
mod report;
mod turn;

use anyhow::{Context, Result, bail, ensure};
use report::{Figure, Machine};
use rustix::time::{ClockId, clock_gettime};
use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, ids)) if first == "measure" => measure(ids),
        _ => measure_all(&arguments),
    }
}

/// Has every figure measured that is wanted, part by part, and writes the report.
fn measure_all(wanted: &[String]) -> Result<()> {
    let (machine, mut figures) = (Machine::now(), Vec::new());
    println!("{}", machine.line());
    report::remove()?;
    let wants = |id: &&str| wanted.is_empty() || wanted.iter().any(|prefix| begins(id, prefix));
    let singly = turn::IDS.iter().chain(&[apply::ID]).map(std::slice::from_ref);
    let parts = singly.chain([&peers::IDS[..]]).map(|part| part.iter().copied().filter(wants).collect::<Vec<_>>());
    let parts: Vec<_> = parts.filter(|ids| !ids.is_empty()).collect();
    ensure!(!parts.is_empty(), "no figure begins with {}", wanted.join(" or "));
    if let Some(peers) = parts.last().filter(|ids| peers::IDS.contains(&ids[0])) {
        let root = rustix::process::geteuid().is_root();
        ensure!(root, "{} need root, for network namespaces; `bench turn apply` does not", peers.join(", "));
    }
    for ids in parts {
        have_measured(&ids, &mut figures).with_context(|| format!("{} failed", ids.join(", ")))?;
    }
    report::write(&figures, &machine)
}

/// Has some figures measured by a process of its own, and prints each as it comes.
fn have_measured(ids: &[&str], figures: &mut Vec<Figure>) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut process = command.arg("measure").args(ids).stdout(Stdio::piped()).spawn()?;
    let before = figures.len();
    for line in BufReader::new(process.stdout.take().context("stdout is piped")?).lines() {
        let line = line?;
        match serde_json::from_str::<Figure>(&line) {
            Ok(figure) => {
                println!("{}", figure.line());
                figures.push(figure);
            }
            Err(_) => println!("{line}"), // something for people
        }
    }
    let status = process.wait()?;
    ensure!(status.success(), "the process that measures ended with {status}");
    let measured = figures.iter().skip(before).map(|figure| figure.id.as_str());
    ensure!(measured.eq(ids.iter().copied()), "other figures came");
    Ok(())
}

/// Measures, and prints a line for each figure.
fn measure(ids: &[String]) -> Result<()> {
    let keep = |figure: Figure| {
        println!("{}", serde_json::to_string(&figure)?);
        Ok(())
    };
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    if ids.iter().all(|id| peers::IDS.contains(id)) {
        return peers::measure(&ids, keep);
    }
    let cores = core_affinity::get_core_ids().context("no core may be used")?;
    if let Some(last) = cores.last() {
        core_affinity::set_for_current(*last); // the first one takes most interrupts
    }
    let [id] = ids[..] else { bail!("one figure for each process") };
    let figure = if id == apply::ID { apply::measure() } else { turn::measure(id) };
    keep(figure?.with_peak()?)
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Whether an id is `prefix`, or one of those below it.
fn begins(id: &str, prefix: &str) -> bool {
    id.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
