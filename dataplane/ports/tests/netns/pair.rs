//! Two network namespaces joined by a veth pair, and a place for the pins of a steering.
use crate::netns::{PINS, Space};
use std::path::{Path, PathBuf};

/// A namespace of ours with the device [`OURS`], and the peer's with [`PEERS`]; their kernels say nothing by
/// themselves.
pub(crate) struct Pair {
    pub(crate) ours: Space,
    pub(crate) peer: Space,
    pins: PathBuf,
}

/// Our end of the pair.
pub(crate) const OURS: &str = "u0";
/// The peer's end.
pub(crate) const PEERS: &str = "p0";

impl Pair {
    /// Makes them, their devices with so many queues, or says why the test of `what` cannot run here.
    pub(crate) fn new(what: &str, mtu: usize, queues: u8) -> Option<Self> {
        let (ours, peer) = (Space::new(what)?, Space::new(what)?);
        let pins = Path::new(PINS);
        ports::steer::mount_bpffs(pins).unwrap();
        let pair = Pair { pins: pins.join(&ours.name), ours, peer };
        let [of_ours, of_peer] =
            [OURS, PEERS].map(|name| format!("{name} mtu {mtu} numrxqueues {queues} numtxqueues {queues}"));
        pair.ours.ip(&format!("link add {of_ours} type veth peer name {of_peer} netns {}", pair.peer.name));
        for (space, device) in [(&pair.peer, PEERS), (&pair.ours, OURS)] {
            space.ip(&format!("link set {device} addrgenmode none"));
            space.ip(&format!("link set {device} up"));
        }
        Some(pair)
    }

    /// A fresh directory for pins, in a bpf file system of this test run.
    pub(crate) fn pins(&self) -> PathBuf {
        self.pins.clone()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _none = std::fs::remove_dir_all(&self.pins);
    }
}
