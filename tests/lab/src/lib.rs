//! Whole nodes in network namespaces, with real peers: what tests need to make them, and to be rid of them.
//!
//! A [`Lab`] owns a folder and a prefix of names. Whatever bears that prefix (namespaces, processes, mounts, cgroups)
//! is removed by a process of its own when the lab is dropped, and also when the test is interrupted or killed; where
//! that process was killed too, the next lab removes it. What goes wrong here is a failure of the test or bench: it
//! panics.
#![forbid(unsafe_code)]
mod capture;
mod guard;
mod kernel;
mod node;
mod pod;
mod space;
mod traffic;

pub use capture::Capture;
pub use kernel::KernelNode;
pub use node::{Node, Underlay};
pub use pod::{Pod, ip_of};
pub use space::Space;
pub use traffic::{Chat, EchoServer, UdpStream, ping, tcp, udp};

use guard::Guard;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// How long anything may take that has no limit of its own: generous, since it is waited for, not measured.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What names of labs begin with, before the test's pid.
const KIND: &str = "mrl";
/// Not below /run: container runtimes of a test get one of their own.
const FOLDERS: &str = "/tmp";

/// A test's own names and folder.
pub struct Lab {
    prefix: String,
    dir: PathBuf,
    bin: PathBuf,
    guard: Guard,
}

impl Lab {
    /// Begins, or prints why the test `name` is skipped: it needs root, `tools` and the binaries.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new(name: &str, tools: &[&str]) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let bin = binaries();
        if let Some(reason) = lacking(&bin, tools) {
            println!("SKIP lab::{name}: {reason}");
            return None;
        }
        guard::sweep();
        let prefix = format!("{KIND}{}x{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let dir = Path::new(FOLDERS).join(&prefix);
        std::fs::create_dir(&dir).unwrap();
        let guard = Guard::start(&prefix, &dir);
        Some(Lab { prefix, dir, bin, guard })
    }

    /// The folder for whatever the test writes.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What names of this lab begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The path of a binary of ours.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Makes a network namespace.
    pub fn space(&self, name: &str) -> Space {
        Space::new(format!("{}-{name}", self.prefix))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tell_logs(&self.dir);
        }
        self.guard.finish();
    }
}

/// Waits until `done` is true.
///
/// # Panics
/// When it is not within [`PATIENCE`].
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a command and gives what it prints.
///
/// # Panics
/// When it fails.
pub fn run(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{command:?}: {}: {text}{}", done.status, String::from_utf8_lossy(&done.stderr));
    text
}

/// Whether a command succeeds.
pub fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|done| done.status.success())
}

/// `MILLRACE_BIN`, or the folder where this program's own build put binaries.
fn binaries() -> PathBuf {
    std::env::var_os("MILLRACE_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let own = std::env::current_exe().unwrap_or_default(); // target/debug/deps/name-hash, or target/release/bench
        let folder = own.parent().filter(|folder| !folder.ends_with("deps")).or(own.ancestors().nth(2));
        folder.unwrap_or(Path::new(".")).to_owned()
    })
}

fn lacking(bin: &Path, tools: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, to make network namespaces".into());
    }
    let ours = ["millrace", "millrace-agent", "millrace-cni", "millrace-dataplane"];
    if let Some(missing) = ours.iter().find(|name| !bin.join(name).exists()) {
        return Some(format!("{} is not built", bin.join(missing).display()));
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &str| std::env::split_paths(&paths).any(|path| path.join(tool).exists());
    let missing = ["ip", "bridge", "ping", "sh"].iter().chain(tools).find(|tool| !there(tool))?;
    Some(format!("{missing} is missing"))
}

fn tell_logs(dir: &Path) {
    const LINES: usize = 25;
    let mut logs: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    logs.retain(|path| path.extension().is_some_and(|end| end == "log"));
    logs.sort();
    for log in logs {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
        eprintln!("--- the end of {}\n{}", log.display(), last.join("\n"));
    }
}
