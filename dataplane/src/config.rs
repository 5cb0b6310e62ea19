//! The configuration file: what cannot change while the dataplane runs.
use engine::Mode;
use hugepages::{PageKind, Want};
use serde::Deserialize;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Cores are numbered below this (`CPU_SETSIZE` of sched.h).
const MOST_CORES: usize = 1024;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    /// The core that it is pinned to; none: wherever the kernel likes.
    pub core: Option<usize>,
    /// When it rests.
    pub mode: Idle,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pages {
    /// Which kind.
    pub kind: Kind,
    /// They must not be swapped out.
    pub lock: bool,
}

/// Kinds of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Kind {
    /// The largest that the host has.
    #[default]
    #[serde(rename = "best")]
    Best,
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

impl Config {
    /// Reads the file at `path`; what it does not say is as by default.
    ///
    /// # Errors
    /// A file that cannot be read, unknown fields, values out of range.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let parse = |text| ConfigError::Parse { path: path.into(), text };
        let config: Config = serde_saphyr::from_str(&text).map_err(|error| parse(error.to_string()))?;
        config.check().map_err(parse)?;
        Ok(config)
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("dataplane.sock")
    }

    /// How regions are mapped; their sizes come with them.
    pub fn map(&self) -> hugepages::Settings {
        let want = match self.pages.kind {
            Kind::Best => Want::Best,
            Kind::Huge => Want::Only(PageKind::Huge2M),
            Kind::Transparent => Want::Only(PageKind::Transparent),
            Kind::Plain => Want::Only(PageKind::Plain),
        };
        hugepages::Settings { want, lock: self.pages.lock, ..hugepages::Settings::new(0) }
    }

    fn check(&self) -> Result<(), String> {
        match self.workers.len() {
            1 => {}
            many => return Err(format!("workers: {many} are listed, and this build runs one")),
        }
        if let Some(core) = self.workers.iter().filter_map(|worker| worker.core).find(|core| *core >= MOST_CORES) {
            return Err(format!("workers: core {core} is not below {MOST_CORES}"));
        }
        if self.frames.small < 1024 || self.frames.super_ < 16 {
            return Err("frames: at least 1024 small and 16 super ones are needed".into());
        }
        if !(1024..=1 << 28).contains(&self.flows) {
            return Err(format!("flows: {} is not between 1024 and {}", self.flows, 1 << 28));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dataplane.yaml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn what_is_not_said_is_as_by_default() {
        let config =
            read("workers: [{core: 1, mode: poll}]\npages: {kind: 2M, lock: true}\nframes: {super: 32}\n").unwrap();
        assert_eq!(config.workers, [Worker { core: Some(1), mode: Idle::Poll }]);
        assert_eq!((config.frames.super_, config.frames.small), (32, Frames::default().small));
        assert_eq!(config.map().want, Want::Only(PageKind::Huge2M));
        assert_eq!(config.socket(), Path::new("/run/millrace/dataplane.sock"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("wrokers: []", "wrokers"),
            ("workers: []", "workers"),
            ("workers: [{mode: lazy}]", "lazy"),
            ("workers: [{core: 1024}]", "core 1024"),
            ("frames: {small: 1}", "frames"),
            ("flows: 1", "flows"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("dataplane.yaml"), "{error}");
        }
        assert!(matches!(Config::read(Path::new("/nowhere")), Err(ConfigError::Read { .. })));
    }
}
