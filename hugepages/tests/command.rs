//! The command line, as a script sees it: exit codes and what is printed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use hugepages::{PageKind, pools, reserve};

#[test]
fn show_prints_what_the_library_reads() {
    let (code, out, _) = run(&["show", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    let host = pools();
    assert_eq!(code, 0);
    assert_eq!(shown["pools"].as_array().unwrap().len(), host.sizes.len());
    for (pool, shown) in host.sizes.iter().zip(shown["pools"].as_array().unwrap()) {
        assert_eq!(shown["page_bytes"], pool.page);
        assert_eq!(shown["nodes"].as_array().unwrap().len(), host.nodes.len());
    }
    assert_eq!(shown["transparent"]["anonymous"], host.anonymous.to_string());
    let (code, out, _) = run(&["show"]);
    assert_eq!(code, 0);
    let widths: Vec<usize> = out.lines().take(1 + host.sizes.len()).map(str::len).collect();
    assert!(out.starts_with("SIZE") && widths.iter().all(|width| *width == widths[0]), "aligned:\n{out}");
}

#[test]
fn try_says_what_it_got() {
    let (code, out, _) = run(&["try", "--size", "4M", "--pages", "4K"]);
    assert_eq!(code, 0);
    assert!(out.contains("4 KiB (1024 of them)") && out.contains("sealed      yes"), "{out}");
    let (code, out, _) = run(&["try", "--size", "2052K"]);
    assert_eq!(code, 1);
    assert!(out.contains("less:       not on 2 MiB pages"), "{out}");
    let (code, _, err) = run(&["try", "--size", "3"]);
    assert_eq!(code, 3);
    assert!(err.contains("multiple of 4 KiB"), "{err}");
    assert_eq!(run(&["try", "--size", "many"]).0, 2);
}

#[test]
fn reserve_names_what_the_host_lacks() {
    let (code, _, err) = run(&["reserve", "--size", "3M", "--count", "1"]);
    assert_eq!(code, 3);
    assert!(err.contains("no pool of 3 MiB pages") && err.contains("show lists"), "{err}");
}

#[test]
fn reserve_gets_pages() {
    let name = "reserve_gets_pages";
    let Some(before) = total() else { return skip(name, "this kernel has no pool of 2 MiB pages") };
    let _restore = Restore(before);
    let count = (before + 2).to_string();
    let (code, out, err) = run(&["reserve", "--size", "2M", "--count", &count]);
    if code == 3 && err.contains("permission") {
        return skip(name, "needs root");
    }
    if code == 1 {
        assert!(err.contains("got") && total() < Some(before + 2), "{err}");
        return skip(name, "memory is fragmented");
    }
    assert_eq!((code, total()), (0, Some(before + 2)));
    assert!(out.starts_with(&format!("{count} of {count} pages of 2 MiB")), "{out}");
}

/// A kernel that gives nothing: in a mount namespace of its own, /dev/null stands where the number of pages is written.
#[test]
fn reserve_says_when_it_got_fewer() {
    let name = "reserve_says_when_it_got_fewer";
    let file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let covered = format!("mount --bind /dev/null {file} || exit 77; exec {BINARY} reserve --size 2M --count 5");
    let Ok(done) = Command::new("unshare").args(["--mount", "sh", "-c", &covered]).output() else {
        return skip(name, "no unshare here");
    };
    let (code, out, err) = text(&done);
    if code == 77 || err.contains("unshare") {
        return skip(name, "needs root and 2 MiB pages");
    }
    assert_eq!(code, 1, "{err}");
    assert!(out.starts_with("0 of 5 pages of 2 MiB"), "{out}");
    assert!(err.contains("got 0 of 5 pages") && err.contains("hugepagesz=2M hugepages=5"), "{err}");
}

#[test]
fn without_rights_nothing_is_changed_and_the_limit_is_named() {
    let name = "without_rights";
    let Some(nobody) = Nobody::new(name) else { return };
    if let Some(before) = total() {
        let (code, _, err) = nobody.run(&["reserve", "--size", "2M", "--count", "1"]);
        assert_eq!((code, total()), (3, Some(before)), "{err}");
        assert!(err.contains("no permission") && err.contains("as root"), "{err}");
    }
    let attempt = ["try", "--size", "1M", "--pages", "4K", "--lock"];
    let (code, out, err) = nobody.run(&attempt);
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("locked      no") && out.contains("limit 65536"), "{out}");
    let (code, _, err) = nobody.run(&[&attempt[..], &["--strict"]].concat());
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("asked for strictly, but not locked"), "{err}");
    let (code, _, err) = nobody.run(&["try", "--size", "1M", "--file", "/dev/shm/../millrace-no-permission"]);
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("no permission"), "{err}");
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    text(&Command::new(BINARY).args(arguments).output().unwrap())
}

fn text(done: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code().unwrap_or(-1), text(&done.stdout), text(&done.stderr))
}

/// The configured number of pages: those above it go back by themselves.
fn total() -> Option<usize> {
    pools().pool(PageKind::Huge2M).map(|pool| pool.total - pool.surplus)
}

fn skip(name: &str, reason: &str) {
    println!("SKIP {name}: {reason}");
}

/// Sets the host's pool to what it was when dropped.
struct Restore(usize);

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = reserve(PageKind::Huge2M.size(), self.0, None);
    }
}

/// A user without rights, who may lock 64 KiB, with a copy of the program where that user can read it.
struct Nobody(PathBuf);

impl Nobody {
    fn new(name: &str) -> Option<Nobody> {
        let copy = std::env::temp_dir().join(format!("millrace-hugepages-{}", std::process::id()));
        fs::copy(BINARY, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        let nobody = Nobody(copy);
        let works = nobody.command().arg("--version").output().is_ok_and(|done| done.status.success());
        if !works {
            skip(name, "needs root and prlimit, to become another user");
        }
        works.then_some(nobody)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("prlimit");
        command.arg("--memlock=65536:65536").arg(&self.0).uid(65534).gid(65534);
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        text(&self.command().args(arguments).output().unwrap())
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_millrace-hugepages");
