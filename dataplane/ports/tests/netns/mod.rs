//! Two network namespaces joined by a veth pair, gone when the test ends, however it ends.
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Namespaces `ours` and `peer`, with the devices `u0` (ours, 10.9.0.1, fd09::1) and `p0` (the peer's, .2, ::2).
pub(crate) struct Pair {
    name: String,
}

/// Our end of the pair.
pub(crate) const OURS: &str = "u0";
/// The peer's end.
pub(crate) const PEERS: &str = "p0";

impl Pair {
    /// Makes them, or says on one line why the test cannot run.
    pub(crate) fn new(test: &str, mtu: u32) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("mrx{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let pair = Pair { name };
        if let Err(why) = ip(&format!("netns add {}", pair.ours())) {
            eprintln!("SKIP {test}: no network namespace can be made: {why}");
            return None;
        }
        let (ours, peer) = (pair.ours(), pair.peer());
        let mtu = format!("mtu {mtu}");
        for line in [
            format!("netns add {peer}"),
            format!(
                "link add {OURS} {mtu} netns {ours} numrxqueues 2 numtxqueues 2 type veth peer name {PEERS} {mtu} netns {peer} numrxqueues 2 numtxqueues 2"
            ),
            format!("-n {ours} link set lo up"),
            format!("-n {ours} addr add 10.9.0.1/24 dev {OURS}"),
            format!("-n {ours} addr add fd09::1/64 dev {OURS} nodad"),
            format!("-n {ours} link set {OURS} up"),
            format!("-n {peer} addr add 10.9.0.2/24 dev {PEERS}"),
            format!("-n {peer} addr add fd09::2/64 dev {PEERS} nodad"),
            format!("-n {peer} link set {PEERS} up"),
        ] {
            ip(&line).unwrap_or_else(|why| panic!("ip {line}: {why}"));
        }
        Some(pair)
    }

    /// The name of our namespace.
    pub(crate) fn ours(&self) -> String {
        format!("{}-o", self.name)
    }

    /// The name of the peer's.
    pub(crate) fn peer(&self) -> String {
        format!("{}-p", self.name)
    }

    /// A fresh directory for pins, in a bpf file system of this test run.
    pub(crate) fn pins(&self) -> std::path::PathBuf {
        let root = std::path::Path::new("/run/millrace-test/bpf");
        ports::steer::mount_bpffs(root).unwrap();
        root.join(&self.name)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(format!("/run/millrace-test/bpf/{}", self.name));
        for name in [self.ours(), self.peer()] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// Does `what` in the network namespace `name`, on a thread of its own.
pub(crate) fn within<T: Send>(name: &str, what: impl FnOnce() -> T + Send) -> T {
    let space = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(space.as_fd(), kind).unwrap();
            what()
        });
        inside.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    })
}

/// Runs `ip`.
pub(crate) fn ip(line: &str) -> Result<(), String> {
    let out = Command::new("ip").args(line.split(' ')).output().map_err(|error| error.to_string())?;
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).trim().into()) }
}
