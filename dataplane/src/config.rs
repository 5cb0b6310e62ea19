//! The configuration file: what cannot change while the dataplane runs.
use engine::Mode;
use hugepages::{PageKind, Want};
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Cores are numbered below this (`CPU_SETSIZE` of sched.h).
const MOST_CORES: usize = 1024;

/// The most frames of a class: 256 GiB of the largest.
const MOST_FRAMES: usize = 1 << 22;
/// The longest path of a socket (`sun_path` of unix(7) with its final zero), in bytes.
const LONGEST_SOCKET: usize = 107;

/// What the dataplane runs with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The workers; today one.
    pub workers: Vec<Worker>,
    /// Frames of each worker.
    pub frames: Frames,
    /// Pages of frames and flows.
    pub pages: Pages,
    /// Flow halves that fit, per family.
    pub flows: usize,
    /// Where the last desired state is kept.
    pub state_dir: PathBuf,
    /// Where the socket is: `dataplane.sock`.
    pub run_dir: PathBuf,
    /// A bpf file system, in which the steering of uplinks is pinned.
    pub bpf_dir: PathBuf,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// The core that it is pinned to; none: wherever the kernel likes.
    pub core: Option<usize>,
    /// When it rests.
    pub mode: Idle,
    /// The NUMA node of its memory; none: its core's, where there are several.
    pub numa_node: Option<u32>,
    /// Its priority as nice(2) counts: below zero goes before the pods that it works for, which else wake between two
    /// packets that it hands over and take its core.
    pub nice: i32,
}

impl Default for Worker {
    fn default() -> Self {
        Worker { core: None, mode: Idle::default(), numa_node: None, nice: -5 }
    }
}

/// When a worker rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Never.
    Poll,
    /// After a few turns without a packet.
    #[default]
    Adaptive,
    /// As soon as a turn brings nothing.
    Interrupt,
}

impl Idle {
    /// The engine's mode, and its word.
    pub fn mode(self) -> (Mode, &'static str) {
        match self {
            Idle::Poll => (Mode::Poll, "poll"),
            Idle::Adaptive => (Mode::Adaptive, "adaptive"),
            Idle::Interrupt => (Mode::Interrupt, "interrupt"),
        }
    }
}

/// How many frames of each class a worker has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Frames {
    /// Of 2 KiB.
    pub small: usize,
    /// Of 10 KiB.
    pub jumbo: usize,
    /// Of 64 KiB.
    #[serde(rename = "super")]
    pub super_: usize,
}

/// Pages of frames and flows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pages {
    /// Which kind.
    pub kind: Kind,
    /// They are not to be swapped out. Where the limit of locked memory is too low, the status says so. Tables of
    /// routes, which grow as they are told, may be swapped out nevertheless.
    pub lock: bool,
}

/// Kinds of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Kind {
    /// The largest that the host has.
    #[default]
    #[serde(rename = "best")]
    Best,
    /// 1 GiB pages, or nothing; each region takes whole ones.
    #[serde(rename = "1G")]
    Gigantic,
    /// 2 MiB pages, or nothing.
    #[serde(rename = "2M")]
    Huge,
    /// Transparent huge pages.
    #[serde(rename = "transparent")]
    Transparent,
    /// 4 KiB pages.
    #[serde(rename = "plain")]
    Plain,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {text}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        text: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Config {
            workers: vec![Worker::default()],
            frames: Frames::default(),
            pages: Pages::default(),
            flows: 262_144,
            state_dir: "/var/lib/millrace".into(),
            run_dir: "/run/millrace".into(),
            bpf_dir: "/sys/fs/bpf/millrace".into(),
        }
    }
}

impl Default for Frames {
    fn default() -> Self {
        Frames { small: 16_384, jumbo: 512, super_: 256 }
    }
}

impl Default for Pages {
    fn default() -> Self {
        Pages { kind: Kind::default(), lock: true }
    }
}

impl Config {
    /// Reads the file at `path`; what it does not say is as by default.
    ///
    /// # Errors
    /// A file that cannot be read, unknown fields, values out of range.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let parse = |text| ConfigError::Parse { path: path.into(), text };
        let config: Config = serde_saphyr::from_str(&text).map_err(|error| parse(error.to_string()))?;
        config.check().map_err(parse)?;
        Ok(config)
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("dataplane.sock")
    }

    /// How regions of `worker` are mapped; their sizes come with them.
    pub fn map(&self, worker: &Worker) -> hugepages::Settings {
        let want = match self.pages.kind {
            Kind::Best => Want::Best,
            Kind::Gigantic => Want::Only(PageKind::Huge1G),
            Kind::Huge => Want::Only(PageKind::Huge2M),
            Kind::Transparent => Want::Only(PageKind::Transparent),
            Kind::Plain => Want::Only(PageKind::Plain),
        };
        let several = || hugepages::pools().nodes.len() > 1;
        let near = || worker.core.filter(|_| several()).and_then(|core| node_of(Path::new(CORES), core));
        let numa_node = worker.numa_node.or_else(near);
        hugepages::Settings { want, lock: self.pages.lock, numa_node, ..hugepages::Settings::new(0) }
    }

    fn check(&self) -> Result<(), String> {
        match self.workers.len() {
            1 => {}
            many => return Err(format!("workers: {many} are listed, and this build runs one")),
        }
        if let Some(core) = self.workers.iter().filter_map(|worker| worker.core).find(|core| *core >= MOST_CORES) {
            return Err(format!("workers: core {core} is not below {MOST_CORES}"));
        }
        if let Some(nice) = self.workers.iter().map(|worker| worker.nice).find(|nice| !(-20..=19).contains(nice)) {
            return Err(format!("workers: nice: {nice} is not between -20 and 19"));
        }
        let Frames { small, jumbo, super_ } = self.frames;
        for (class, frames, least) in [("small", small, 1024), ("jumbo", jumbo, 0), ("super", super_, 16)] {
            if !(least..=MOST_FRAMES).contains(&frames) {
                return Err(format!("frames: {class}: {frames} is not between {least} and {MOST_FRAMES}"));
            }
        }
        let socket = self.socket();
        if socket.as_os_str().len() > LONGEST_SOCKET {
            return Err(format!("run_dir: {} is too long for a socket: {LONGEST_SOCKET} bytes", socket.display()));
        }
        if !(1024..=1 << 28).contains(&self.flows) {
            return Err(format!("flows: {} is not between 1024 and {}", self.flows, 1 << 28));
        }
        Ok(())
    }
}

/// Where the kernel shows which node a core is on (Documentation/ABI/stable/sysfs-devices-node).
const CORES: &str = "/sys/devices/system/cpu";

/// The NUMA node of a core, as `cores` shows it.
fn node_of(cores: &Path, core: usize) -> Option<u32> {
    let entries = fs::read_dir(cores.join(format!("cpu{core}"))).ok()?;
    entries.flatten().find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dataplane.yaml");
        fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn what_is_not_said_is_as_by_default() {
        let config =
            read("workers: [{core: 1, mode: poll}]\npages: {kind: 2M, lock: true}\nframes: {super: 32}\n").unwrap();
        assert_eq!(config.workers, [Worker { core: Some(1), mode: Idle::Poll, ..Worker::default() }]);
        assert_eq!((config.frames.super_, config.frames.small), (32, Frames::default().small));
        assert_eq!(config.map(&config.workers[0]).want, Want::Only(PageKind::Huge2M));
        assert_eq!(config.socket(), Path::new("/run/millrace/dataplane.sock"));
    }

    #[test]
    fn the_file_that_is_shipped_says_the_defaults() {
        assert_eq!(read(include_str!("../../deploy/standalone/dataplane.yaml")).unwrap(), Config::default());
        let unit = include_str!("../../deploy/systemd/millrace-dataplane.service");
        let map = Config::default().map(&Worker::default());
        assert!(map.lock && unit.contains("LimitMEMLOCK=infinity"), "memory is locked, and may be");
    }

    #[test]
    fn memory_lies_where_it_is_asked_for_or_where_its_core_is() {
        let config = read("workers: [{numa_node: 7}]\npages: {kind: 1G}\n").unwrap();
        let map = config.map(&config.workers[0]);
        assert_eq!((map.want, map.numa_node), (Want::Only(PageKind::Huge1G), Some(7)));
        let cores = tempfile::tempdir().unwrap();
        for place in ["cpu3/node1", "cpu3/topology", "cpu4/cache"] {
            fs::create_dir_all(cores.path().join(place)).unwrap();
        }
        assert_eq!([3, 4, 5].map(|core| node_of(cores.path(), core)), [Some(1), None, None]);
        let here = Config::default().map(&Worker { core: Some(0), ..Worker::default() }).numa_node;
        assert_eq!(here.is_some(), hugepages::pools().nodes.len() > 1, "one node needs no binding");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("wrokers: []", "wrokers"),
            ("workers: []", "workers"),
            ("workers: [{mode: lazy}]", "lazy"),
            ("workers: [{core: 1024}]", "core 1024"),
            ("workers: [{nice: 20}]", "nice: 20"),
            ("frames: {small: 1}", "frames: small"),
            ("frames: {jumbo: 9223372036854775807}", "frames: jumbo"),
            (&format!("run_dir: /{}", "r".repeat(92)), "run_dir"),
            ("flows: 1", "flows"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("dataplane.yaml"), "{error}");
        }
        assert!(matches!(Config::read(Path::new("/nowhere")), Err(ConfigError::Read { .. })));
    }
}
