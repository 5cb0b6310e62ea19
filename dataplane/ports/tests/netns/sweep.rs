//! Removes what tests have left that were killed: a test that is interrupted drops nothing.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const SPACES: &str = "/run/netns";

/// Removes the network namespaces, the processes in them, and the entries of `folder` that are named `<kind><pid>-...`
/// after a process that is no more.
pub(crate) fn sweep(kind: &str, folder: &Path) {
    for space in left(Path::new(SPACES), kind) {
        let name = space.file_name().unwrap_or_default();
        let pids = Command::new("ip").args(["netns", "pids"]).arg(name).output();
        let pids = pids.map(|done| String::from_utf8_lossy(&done.stdout).into_owned()).unwrap_or_default();
        if !pids.trim().is_empty() {
            let _ended = Command::new("kill").arg("-9").args(pids.split_whitespace()).output();
        }
        // Another test may be faster, here and below.
        let _gone = Command::new("ip").args(["netns", "del"]).arg(name).output();
    }
    for entry in left(folder, kind) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|mount| mount.split(' ').nth(1));
        for place in places.filter(|place| Path::new(place).starts_with(&entry)) {
            let _gone = Command::new("umount").args(["-l", place]).output();
        }
        let _gone = fs::remove_dir_all(&entry);
    }
}

fn left(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_left(name, kind)))
        .collect()
}

fn is_left(name: &str, kind: &str) -> bool {
    let pid =
        name.strip_prefix(kind).and_then(|rest| rest.split_once('-')).and_then(|(pid, _)| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}
