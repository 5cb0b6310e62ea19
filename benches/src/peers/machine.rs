//! What the machine's cores did, and what a process took of them.
use anyhow::{Context, Result};
use std::{collections::HashMap, fs, time::Instant};

/// What all cores did since boot, in seconds.
#[derive(Clone, Copy)]
pub(super) struct Cores {
    at: Instant,
    /// user, nice, system, idle, iowait, irq, softirq, steal
    spent: [f64; 8],
}

const IDLE: usize = 3;
const IOWAIT: usize = 4;
const STEAL: usize = 7;

impl Cores {
    pub(super) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let all = stat.lines().next().context("/proc/stat is empty")?;
        let mut spent = [0.0; 8];
        for (spent, ticks) in spent.iter_mut().zip(all.split_whitespace().skip(1)) {
            *spent = ticks.parse::<f64>()? / 100.0; // USER_HZ
        }
        Ok(Cores { at: Instant::now(), spent })
    }

    /// CPU-seconds that were not idle since `before`; what the host took away is not ours.
    pub(super) fn busy_since(&self, before: &Cores) -> f64 {
        let cores =
            std::thread::available_parallelism().map_or(1.0, |n| f64::from(u32::try_from(n.get()).unwrap_or(1)));
        let since = |which: usize| self.spent[which] - before.spent[which];
        (self.at - before.at).as_secs_f64() * cores - since(IDLE) - since(IOWAIT) - since(STEAL)
    }

    /// How the tick saw the busy time since `before`, as shares: user, system, softirq with irq.
    pub(super) fn shares_since(&self, before: &Cores) -> [f64; 3] {
        let since = |which: usize| self.spent[which] - before.spent[which];
        let parts = [since(0) + since(1), since(2), since(5) + since(6)];
        let sum: f64 = parts.iter().sum();
        parts.map(|part| if sum > 0.0 { part / sum } else { 0.0 })
    }
}

/// The CPU time of each thread of some processes, in seconds, softirqs on their back included.
pub(super) struct Threads(HashMap<String, f64>);

impl Threads {
    pub(super) fn of(pids: &[u32]) -> Self {
        let mut threads = HashMap::new();
        for pid in pids {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                let spent = stat.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0);
                threads.insert(task.path().to_string_lossy().into_owned(), spent / 1e9);
            }
        }
        Threads(threads)
    }

    /// What they took since `before`. What a thread did that has ended meanwhile is not known.
    pub(super) fn since(&self, before: &Threads) -> f64 {
        self.0.iter().map(|(thread, spent)| spent - before.0.get(thread).unwrap_or(&0.0)).sum()
    }
}
