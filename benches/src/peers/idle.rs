//! A dataplane at rest: what it costs, and how long it takes to wake up.
use super::{Pair, machine::Threads};
use crate::report::{Figure, median};
use anyhow::{Result, bail, ensure};
use lab::Node;
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_secs(4);
const PAIRS: usize = 7;
/// Pings of a run, and how many milliseconds lie between two: long enough for a worker to fall asleep.
const PINGS: usize = 300;
const APART: u64 = 10;

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
///
/// The kernel's own way needs no process but the two that speak. Ours needs one more, so that beside both stands what
/// it takes on this machine to wake a thread that does nothing.
pub(super) fn wake(ours: &Pair<'_>, peer: &Pair<'_>) -> Result<Figure> {
    let (mut mine, mut theirs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let _warm = (ping(ours)?, ping(peer)?);
    for pair in 0..PAIRS {
        if pair % 2 == 0 {
            mine.push(ping(ours)?);
            theirs.push(ping(peer)?);
        } else {
            theirs.push(ping(peer)?);
            mine.push(ping(ours)?);
        }
        bare.push(woken()?);
    }
    let of = |runs: &[Vec<f64>], percent| runs.iter().map(|run| at(run, percent)).collect::<Vec<_>>();
    let (mine_99, theirs_99) = (of(&mine, 99), of(&theirs, 99));
    let more: Vec<f64> = mine_99.iter().zip(&theirs_99).map(|(ours, theirs)| ours - theirs).collect();
    let parts = [
        ("p99 more than the kernel's", median(&more)),
        ("half of ours below", median(&of(&mine, 50))),
        ("half of the kernel's below", median(&of(&theirs, 50))),
        ("a bare thread woken, half below", median(&of(&bare, 50))),
        ("a bare thread woken, p99", median(&of(&bare, 99))),
    ];
    let parts = parts.map(|(what, seconds)| (format!("{what} us"), seconds * 1e6));
    let note = format!(
        "round trip of an echo between pods; the worker is woken once and finds the reply before it sleeps again; each \
         sample the p99 of {PINGS} pings {APART} ms apart"
    );
    Ok(Figure::new("idle.wake", "s", mine_99, &note).against("kernel", theirs_99).with_parts(parts.into()))
}

/// How long it takes in seconds, in order of length, until a thread runs that waits for a byte.
fn woken() -> Result<Vec<f64>> {
    let (mut here, mut there) = UnixStream::pair()?;
    let sleeper = std::thread::spawn(move || {
        let mut times = Vec::with_capacity(PINGS);
        while there.read_exact(&mut [0]).is_ok() {
            times.push(Instant::now());
        }
        times
    });
    let mut sent = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        std::thread::sleep(Duration::from_millis(APART));
        sent.push(Instant::now());
        here.write_all(&[0])?;
    }
    drop(here);
    let Ok(ran) = sleeper.join() else { bail!("the thread that sleeps died") };
    let mut times: Vec<f64> = ran.iter().zip(&sent).map(|(ran, sent)| (*ran - *sent).as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Round trips in seconds, in order of length.
fn ping(pair: &Pair<'_>) -> Result<Vec<f64>> {
    let said = pair.from.run(&format!("ping -n -c {PINGS} -i 0.{APART:03} {}", pair.address));
    let times = said.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    let mut times: Vec<f64> = times.map(|milliseconds| milliseconds / 1000.0).collect();
    ensure!(times.len() * 100 >= PINGS * 99, "{} of {PINGS} pings to {} were answered", times.len(), pair.address);
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0.0)
}
