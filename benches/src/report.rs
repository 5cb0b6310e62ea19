//! Samples, medians, and the report that `make bench` leaves behind.
use anyhow::{Context, Result};
use serde::Serialize;
use std::{path::Path, process::Command};

/// One figure: what was measured, in paired runs with a peer where there is one.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// Its name, such as `turn.pod.1m`.
    pub(crate) id: String,
    /// `clk` (TSC clocks per packet), `s`, `core`, `MiB`, `Mpps`, `Gbit/cpu-s`, `1/cpu-s`, `share` or `count`.
    pub(crate) unit: &'static str,
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
    /// How it was measured, in a sentence.
    pub(crate) note: String,
    /// The commit that was measured.
    pub(crate) commit: String,
    /// Whether the tree had changes that were not committed.
    pub(crate) dirty: bool,
    /// The processor and kernel.
    pub(crate) machine: String,
}

impl Figure {
    /// A figure of ours alone.
    pub(crate) fn new(id: &str, unit: &'static str, samples: Vec<f64>, note: &str) -> Self {
        let (min, max) = samples.iter().fold((f64::MAX, f64::MIN), |(min, max), s| (min.min(*s), max.max(*s)));
        Figure {
            id: id.to_owned(),
            unit,
            median: median(&samples),
            min,
            max,
            peer: None,
            peer_median: None,
            ratio: None,
            samples,
            peer_samples: Vec::new(),
            parts: Vec::new(),
            note: note.to_owned(),
            commit: said(&["git", "rev-parse", "--short=12", "HEAD"]),
            dirty: !said(&["git", "status", "--porcelain"]).is_empty(),
            machine: machine(),
        }
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

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let peer = self.peer.as_ref().zip(self.peer_median).zip(self.ratio);
        let peer = peer
            .map_or(String::new(), |((peer, median), ratio)| format!("   {peer} {}   ratio {ratio:.2}", shown(median)));
        let parts: Vec<_> = self.parts.iter().map(|(node, clocks)| format!("{node} {}", shown(*clocks))).collect();
        let parts = if parts.is_empty() { String::new() } else { format!("   ({})", parts.join(", ")) };
        let [median, min, max] = [self.median, self.min, self.max].map(shown);
        format!("{:<20} {median:>9} {:<10} {min:>9} to {max:<9}{peer}{parts}", self.id, self.unit)
    }
}

/// Writes the report to `target/bench/report.json` under the repository, wherever builds go.
pub(crate) fn write(figures: &[Figure]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the bench crate has a parent")?;
    let folder = root.join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join("report.json");
    std::fs::write(&path, serde_json::to_vec_pretty(figures)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("report: {}", path.display());
    Ok(())
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

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpus.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown").to_owned();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{name}, {cores} cores, Linux {}", kernel.trim())
}
