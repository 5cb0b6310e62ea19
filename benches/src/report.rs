//! Samples, medians, and the report that `make bench` leaves behind.
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One figure: what was measured, in paired runs with a peer where there is one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Figure {
    /// Its name, such as `turn.pod.1m`.
    pub(crate) id: String,
    /// `clk` (TSC clocks per packet), `s`, `core`, `MiB`, `Mpps`, `Gbit/cpu-s`, `1/cpu-s`, `share` or `count`.
    pub(crate) unit: String,
    /// The median of ours.
    pub(crate) median: f64,
    /// The least of ours.
    pub(crate) min: f64,
    /// The most of ours.
    pub(crate) max: f64,
    /// Who ran interleaved in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    /// The median of theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_median: Option<f64>,
    /// The median of paired ratios, ours / peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    /// Ours, as they came.
    pub(crate) samples: Vec<f64>,
    /// Theirs, as they came.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) peer_samples: Vec<f64>,
    /// Where the clocks go: node and clocks per packet that entered the graph.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) parts: Vec<(String, f64)>,
    /// Packets per second on one core, in millions: the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mpps: Option<f64>,
    /// Allocations while all samples were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allocations: Option<u64>,
    /// The most memory that the process that measured it held, in MiB; absent where others did the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peak_mib: Option<f64>,
    /// How it was measured, in a sentence.
    pub(crate) note: String,
}

impl Figure {
    /// A figure of ours alone.
    pub(crate) fn new(id: &str, unit: &str, samples: Vec<f64>, note: &str) -> Self {
        let (min, max) = samples.iter().fold((f64::MAX, f64::MIN), |(min, max), s| (min.min(*s), max.max(*s)));
        let (median, note) = (median(&samples), note.to_owned());
        Figure { id: id.to_owned(), unit: unit.to_owned(), median, min, max, samples, note, ..Figure::default() }
    }

    /// The same with a peer's samples, taken in pairs with ours.
    #[must_use]
    pub(crate) fn against(mut self, peer: &str, theirs: Vec<f64>) -> Self {
        let ratios: Vec<f64> = self.samples.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        (self.peer, self.peer_median) = (Some(peer.to_owned()), Some(median(&theirs)));
        (self.ratio, self.peer_samples) = (Some(median(&ratios)), theirs);
        self
    }

    /// The same with where the clocks go.
    #[must_use]
    pub(crate) fn with_parts(mut self, parts: Vec<(String, f64)>) -> Self {
        self.parts = parts;
        self
    }

    /// The same with the most memory that this process has held so far.
    pub(crate) fn with_peak(mut self) -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        self.peak_mib = Some((of("VmHWM:") + of("HugetlbPages:")) / 1024.0); // the former leaves the latter out
        Ok(self)
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(shown);
        let mut line = format!("{:<18} {median:>9} {:<10} {min:>9} to {max:<9}", self.id, self.unit);
        if let (Some(peer), Some(median), Some(ratio)) = (&self.peer, self.peer_median, self.ratio) {
            line += &format!(" {peer} {}, ratio {ratio:.2}", shown(median));
        }
        if let Some(mpps) = self.mpps {
            line += &format!(" {mpps:>6.2} Mpps");
        }
        if let Some(allocations) = self.allocations {
            line += &format!(" {allocations:>3} allocations");
        }
        if let Some(mib) = self.peak_mib {
            line += &format!(" {mib:>6.0} MiB");
        }
        let parts: Vec<_> = self.parts.iter().map(|(node, clocks)| format!("{node} {}", shown(*clocks))).collect();
        if parts.is_empty() { line } else { format!("{line}  ({})", parts.join(", ")) }
    }
}

/// What was measured, and on what.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// The commit.
    commit: String,
    /// Whether the tree had changes that were not committed.
    dirty: bool,
    /// The host.
    machine: Host,
}

#[derive(Clone, Debug, Serialize)]
struct Host {
    cpu: String,
    cores: usize,
    kernel: String,
    /// Which large pages there are.
    pages: String,
    /// How many threads wanted to run before the bench did: the average of a minute.
    load: f64,
}

impl Machine {
    /// As it is now.
    pub(crate) fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let pools = hugepages::pools();
        let reserved = pools.sizes.iter().map(|pool| format!("{} x {} MiB", pool.total, pool.page >> 20));
        let reserved = reserved.collect::<Vec<_>>().join(", ");
        Machine {
            commit: said(&["git", "rev-parse", "--short=12", "HEAD"]),
            dirty: !said(&["git", "status", "--porcelain"]).is_empty(),
            machine: Host {
                cpu: cpus.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown").to_owned(),
                cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
                kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
                pages: format!("transparent: {}; reserved: {reserved}", pools.anonymous),
                load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            },
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Host { cpu, cores, kernel, pages, load } = &self.machine;
        let dirty = if self.dirty { " with changes" } else { "" };
        format!("{}{dirty}; {cpu}, {cores} cores, Linux {kernel}; pages {pages}; load {load}", self.commit)
    }
}

/// Removes the report of an earlier run: if this one fails, there is none.
pub(crate) fn remove() -> Result<()> {
    let path = path();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes the report.
pub(crate) fn write(figures: &[Figure], machine: &Machine) -> Result<()> {
    #[derive(Serialize)]
    struct Entry<'a> {
        #[serde(flatten)]
        figure: &'a Figure,
        #[serde(flatten)]
        machine: &'a Machine,
    }
    let path = path();
    let folder = path.parent().context("the report has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let entries: Vec<_> = figures.iter().map(|figure| Entry { figure, machine }).collect();
    fs::write(&path, serde_json::to_vec_pretty(&entries)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("report: {}", path.display());
    Ok(())
}

/// `target/bench/report.json` under the repository, wherever builds go.
fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/bench/report.json")
}

/// The middle of some samples; zero of none.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// A number for people: microseconds are not zero seconds.
fn shown(number: f64) -> String {
    match number.abs() {
        small if small > 0.0 && small < 0.1 => format!("{number:.2e}"),
        large if large >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

fn said(command: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [program, arguments @ ..] = command else { return String::new() };
    let output = Command::new(program).args(arguments).current_dir(root).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
