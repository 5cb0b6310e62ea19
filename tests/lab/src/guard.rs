//! What removes a lab, however its test ends.
use std::{
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
