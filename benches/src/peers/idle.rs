//! A dataplane at rest: what it costs, and how long it takes to wake up.
use super::{Pair, machine::Threads};
use crate::report::{Figure, median};
use anyhow::{Result, ensure};
use lab::Node;
use std::time::{Duration, Instant};

const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_secs(4);
const PAIRS: usize = 7;
/// Pings of a run, and how many milliseconds lie between two: long enough for a worker to fall asleep.
const PINGS: usize = 150;
const APART: usize = 20;

/// `idle.cpu`: cores that the dataplane's processes take while nothing happens, after traffic.
pub(super) fn cpu(a: &Node, ours: &Pair<'_>) -> Result<Figure> {
    ping(ours)?;
    std::thread::sleep(Duration::from_secs(2));
    let pids = a.dataplane();
    let mut samples = Vec::new();
    for _ in 0..WINDOWS {
        let (start, before) = (Instant::now(), Threads::of(&pids));
        std::thread::sleep(WINDOW);
        samples.push(Threads::of(&pids).since(&before) / start.elapsed().as_secs_f64());
    }
    let note = format!(
        "keeper and worker process with {} ports, adaptive, no traffic for 2 s after some; the scheduler's account over \
         windows of {} s",
        a.ports(),
        WINDOW.as_secs()
    );
    Ok(Figure::new("idle.cpu", "core", samples, &note))
}

/// `idle.wake`: round trips between two pods, each of which finds everybody asleep.
pub(super) fn wake(ours: &Pair<'_>, peer: &Pair<'_>) -> Result<Figure> {
    let (mut mine, mut theirs, mut middles) = (Vec::new(), Vec::new(), Vec::new());
    let _warm = (ping(ours)?, ping(peer)?);
    for pair in 0..PAIRS {
        let (our, their) = if pair % 2 == 0 {
            (ping(ours)?, ping(peer)?)
        } else {
            let their = ping(peer)?;
            (ping(ours)?, their)
        };
        middles.push((at(&our, 50), at(&their, 50)));
        mine.push(at(&our, 99));
        theirs.push(at(&their, 99));
    }
    let more: Vec<f64> = mine.iter().zip(&theirs).map(|(ours, theirs)| (ours - theirs) * 1e6).collect();
    let middle = |which: fn(&(f64, f64)) -> f64| median(&middles.iter().map(which).collect::<Vec<_>>()) * 1e6;
    let note = format!(
        "round trip of an echo, two wake-ups of the worker; each sample the p99 of {PINGS} pings {APART} ms apart; p99 more \
         than the kernel's: {:.1} us (median of pairs); medians {:.1} us, kernel {:.1} us",
        median(&more),
        middle(|pair| pair.0),
        middle(|pair| pair.1),
    );
    Ok(Figure::new("idle.wake", "s", mine, &note).against("kernel", theirs))
}

/// Round trips in seconds, in order of length.
fn ping(pair: &Pair<'_>) -> Result<Vec<f64>> {
    let said = pair.from.run(&format!("ping -n -c {PINGS} -i 0.0{APART} {}", pair.address));
    let times = said.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    let mut times: Vec<f64> = times.map(|milliseconds| milliseconds / 1000.0).collect();
    ensure!(times.len() * 100 >= PINGS * 99, "{} of {PINGS} pings to {} were answered", times.len(), pair.address);
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0.0)
}
