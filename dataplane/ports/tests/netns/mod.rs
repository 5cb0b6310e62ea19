//! A network namespace of its own for a test, gone when the test ends; what a killed test leaves, the next one removes.
mod sweep;

use std::{
    fs::File,
    os::fd::AsFd,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// What names of ours begin with, before the test's pid.
const KIND: &str = "mrp";
/// A bpf file system, with a folder of pins for each namespace that needs one.
pub(crate) const PINS: &str = "/run/millrace-test/bpf";

pub(crate) struct Space {
    pub(crate) name: String,
}

impl Space {
    /// Makes one, or says why the test of `what` cannot run here.
    pub(crate) fn new(what: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep::sweep(KIND, Path::new(PINS));
        let name = format!("{KIND}{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        if !rustix::process::geteuid().is_root() || !made.is_ok_and(|out| out.status.success()) {
            eprintln!("SKIP {what}: needs root and iproute2");
            return None;
        }
        let space = Space { name };
        space.ip("link set lo up");
        Some(space)
    }

    /// Its descriptor.
    pub(crate) fn open(&self) -> File {
        File::open(format!("/run/netns/{}", self.name)).unwrap()
    }

    /// Runs `ip` in it and gives what that prints.
    pub(crate) fn ip(&self, line: &str) -> String {
        let out = Command::new("ip").args(["-n", &self.name]).args(line.split(' ')).output().unwrap();
        assert!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Does `what` in it, on a thread of its own.
    pub(crate) fn within<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let space = self.open();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(space.as_fd(), kind).unwrap();
                what()
            });
            inside.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}
