//! A run's namespaces, files and processes: one name begins all of them, and all of them go, however the run ends.
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const RUNS: &str = "/run/millrace-bench";
const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "mrbench";

/// A run.
pub(super) struct Space {
    name: String,
    /// A folder for its files.
    pub(super) dir: PathBuf,
}

impl Space {
    /// Begins one. An interrupt removes it too.
    pub(super) fn new() -> Result<Self> {
        let name = format!("{PREFIX}{}", std::process::id());
        let dir = Path::new(RUNS).join(&name);
        let mut signals = signal_hook::iterator::Signals::new(signal_hook::consts::TERM_SIGNALS)?;
        let removed = name.clone();
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                remove(&removed);
                std::process::exit(128 + signal);
            }
        });
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Space { name, dir })
    }

    /// The path of a namespace of this run.
    pub(super) fn path(&self, space: &str) -> String {
        format!("{NAMESPACES}/{}", self.of(space))
    }

    /// The name of a namespace of this run.
    pub(super) fn of(&self, space: &str) -> String {
        format!("{}-{space}", self.name)
    }

    /// Makes namespaces whose loopback is up.
    pub(super) fn add(&self, spaces: &[&str]) -> Result<()> {
        for space in spaces {
            let name = self.of(space);
            run(&["ip", "netns", "add", &name])?;
            run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    /// A command, its words apart by blanks, in a namespace.
    pub(super) fn inside(&self, space: &str, command: &str) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.of(space)]).args(command.split_whitespace()).stdin(Stdio::null());
        inside
    }

    /// Runs one and gives what it prints.
    pub(super) fn run(&self, space: &str, command: &str) -> Result<String> {
        output(self.inside(space, command))
    }

    /// Starts one whose output goes to a file of this run.
    pub(super) fn start(&self, space: &str, command: &str, log: &str) -> Result<Child> {
        let log = fs::File::create(self.dir.join(log))?;
        let mut command = self.inside(space, command);
        command.stdout(log.try_clone()?).stderr(log).spawn().with_context(|| format!("cannot start {command:?}"))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes runs whose process is gone: it was killed.
pub(super) fn remove_what_others_left() {
    for entry in fs::read_dir(RUNS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let gone = |pid: &str| !Path::new("/proc").join(pid).exists();
        if name.strip_prefix(PREFIX).is_some_and(gone) {
            remove(&name);
        }
    }
}

/// Runs a command to its end and gives what it prints.
pub(super) fn output(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(output.status.success(), "{command:?}: {} {}", said(&output.stderr), said(&output.stdout));
    Ok(said(&output.stdout))
}

/// Runs a command to its end.
pub(super) fn run(words: &[&str]) -> Result<String> {
    let mut command = Command::new(words.first().context("no command")?);
    command.args(words.get(1..).unwrap_or_default()).stdin(Stdio::null());
    output(command)
}

/// Waits until something holds, or says what did not.
pub(super) fn until(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + patience;
    while !holds() {
        ensure!(Instant::now() < end, "{what}: not within {} s", patience.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Best effort: whatever is left of it goes, in the order in which it can.
fn remove(name: &str) {
    let namespaces = || {
        let all = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
        let all = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
        all.filter(|other| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')))
    };
    let pids = || namespaces().filter_map(|space| run(&["ip", "netns", "pids", &space]).ok());
    for signal in ["-TERM", "-KILL"] {
        for pid in pids().flat_map(|pids| pids.lines().map(str::to_owned).collect::<Vec<_>>()) {
            let _ended_meanwhile = run(&["kill", signal, &pid]);
        }
        let _tries_harder = until(Duration::from_secs(5), "processes end", || pids().all(|pids| pids.is_empty()));
    }
    for space in namespaces().collect::<Vec<_>>() {
        let _gone = run(&["ip", "netns", "del", &space]);
    }
    let dir = Path::new(RUNS).join(name);
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let bpf = entry.path().join("bpf");
        if bpf.exists() {
            let _not_mounted = run(&["umount", &bpf.to_string_lossy()]);
        }
    }
    let _gone = fs::remove_dir_all(&dir);
    let _others_run = fs::remove_dir(RUNS);
}
