//! What removes a lab, however its test ends.
use crate::{FOLDERS, KIND};
use std::{
    collections::BTreeSet,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

/// A process that waits for the end of the test and then removes what bears the lab's prefix.
pub(crate) struct Guard {
    process: Child,
    line: Option<ChildStdin>,
}

impl Guard {
    pub(crate) fn start(prefix: &str, dir: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "guard", prefix]).arg(dir).stdin(Stdio::piped());
        // An interrupt from a terminal goes to the test's group, not to this one.
        let mut process = command.process_group(0).spawn().unwrap();
        let line = process.stdin.take();
        Guard { process, line }
    }

    /// Removes it now, and waits until that is done.
    pub(crate) fn finish(&mut self) {
        drop(self.line.take());
        let _done = self.process.wait();
    }
}

/// Removes the labs whose tests were killed together with their guards.
pub(crate) fn sweep() {
    let entries = |folder| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries("/run/netns").chain(entries(FOLDERS)).filter_map(|entry| entry.file_name().into_string().ok());
    let left: BTreeSet<String> = names.filter_map(|name| left(&name).map(str::to_owned)).collect();
    for prefix in left {
        Guard::start(&prefix, &Path::new(FOLDERS).join(&prefix)).finish();
    }
}

/// The prefix of a name that belongs to a lab, if the process that had it is no more.
fn left(name: &str) -> Option<&str> {
    let prefix = name.split('-').next()?;
    let (pid, number) = prefix.strip_prefix(KIND)?.split_once('x')?;
    let (pid, _) = (pid.parse::<u32>().ok()?, number.parse::<u32>().ok()?);
    (!Path::new("/proc").join(pid.to_string()).exists()).then_some(prefix)
}

/// It reads until the other end of its standard input is gone. A process bears the prefix by its arguments or by its
/// namespace. All are stopped before anything is taken from them.
const SCRIPT: &str = r#"
prefix=$1 dir=$2
while read -r line; do :; done
bearers() {
    for process in /proc/[0-9]*; do
        case $(cat "$process/cmdline" 2>/dev/null | tr '\0' ' ') in
        *"guard $prefix "*) ;;
        *"$prefix"[!0-9]*) echo "${process#/proc/}" ;;
        esac
    done
    for space in $(spaces); do ip netns pids "$space"; done
}
spaces() { ip netns list | grep -oE "^$prefix-[a-z0-9]+"; }
tries=0
while found=$(bearers) && [ -n "$found" ] && [ $tries -lt 200 ]; do
    kill -9 $found 2>/dev/null
    tries=$((tries + 1))
    sleep 0.05
done
for space in $(spaces); do ip netns del "$space"; done
grep -o " $dir/[^ ]*" /proc/mounts | sort -r | while read -r mount; do umount "$mount"; done
for group in /sys/fs/cgroup/*/"$prefix"/* /sys/fs/cgroup/*/"$prefix" /sys/fs/cgroup/"$prefix"; do
    [ -d "$group" ] && rmdir "$group" 2>/dev/null
done
rm -rf "$dir"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lab_has_left_goes_once_its_process_is_gone() {
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let (gone, ours) = (format!("{KIND}{}x0", ended.id()), format!("{KIND}{}x9", std::process::id()));
        let [of_gone, of_ours] = [&gone, &ours].map(|prefix| Path::new(FOLDERS).join(prefix));
        for folder in [&of_gone, &of_ours] {
            std::fs::create_dir(folder).unwrap();
        }
        let space = format!("{gone}-a");
        let made = Command::new("ip").args(["netns", "add", &space]).output().is_ok_and(|made| made.status.success());
        sweep();
        let there = [of_gone.exists(), Path::new("/run/netns").join(&space).exists(), of_ours.exists()];
        std::fs::remove_dir(of_ours).unwrap();
        assert_eq!(there, [false, false, true], "a namespace was made: {made}");
    }
}
