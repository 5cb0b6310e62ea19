//! End to end, side by side with the kernel's own way: pods are network namespaces of this machine, ours attached by
//! the CNI binary to nodes that run the product, the peer's joined by veth pairs that the kernel routes between.
//!
//! Throughput is per CPU-second of the whole machine: all that its cores did not idle, whoever ran (`/proc/stat`: idle
//! time is measured there, the shares of busy time are sampled by the tick). Ours and the peer run in turns.
mod idle;
mod kernel;
mod machine;
mod tcp;

use crate::report::Figure;
use anyhow::{Context, Result};
use lab::{Lab, Node, Pod, Space, Underlay};

/// All figures of this kind, in the order in which they are measured.
pub(crate) const IDS: [&str; 5] = ["tcp.across", "tcp.across_gso", "idle.cpu", "idle.wake", "tcp.node"];

/// How many pods lie idle beside ours when TCP is measured.
const IDLE_PODS: usize = 200;
/// How many ports a dataplane has when its rest is measured: pods, the uplink, the host's.
const RESTING_PORTS: usize = 100;
/// How many ADDs run at once, as on a node that a workload comes to.
const AT_ONCE: usize = 4;
const MTU: u32 = 1500;

/// Whom traffic goes from and to.
struct Pair<'a> {
    from: &'a Space,
    to: &'a Space,
    /// The second one's.
    address: String,
}

/// Measures some of them.
pub(crate) fn measure(ids: &[&str], mut keep: impl FnMut(Figure) -> Result<()>) -> Result<()> {
    let wanted = |these: &[&str]| these.iter().any(|id| ids.contains(id));
    let lab = Lab::new("bench", &["iperf3", "ss", "sysctl", "ethtool"]).context("it cannot run here")?;
    let underlay = Underlay::new(&lab, MTU, false);
    let mut a = Node::new(&lab, &underlay, "a").sized("");
    a.start();
    let pods = attach(&lab, &a, &["a1", "a2"].map(str::to_owned));
    if wanted(&IDS[..2]) {
        let mut b = Node::new(&lab, &underlay, "b").sized("");
        b.start();
        let far = Pod::attach(&lab, &b, "b1");
        let figures = tcp::across([&a, &b], &pair(&pods[0], &far), &kernel::Tunnelled::new(&lab))?;
        figures.into_iter().filter(|figure| ids.contains(&figure.id.as_str())).try_for_each(&mut keep)?;
    }
    let (ours, peer) = (pair(&pods[0], &pods[1]), kernel::Routed::new(&lab));
    let names: Vec<_> = (0..IDLE_PODS).map(|n| format!("idle{n}")).collect();
    let (few, more) = names.split_at(RESTING_PORTS - 4); // with our two, the uplink and the host's port
    let mut beside = Vec::new();
    if wanted(&IDS[2..]) {
        beside.extend(attach(&lab, &a, few));
    }
    if wanted(&["idle.cpu"]) {
        keep(idle::cpu(&a, &ours)?)?;
    }
    if wanted(&["idle.wake"]) {
        keep(idle::wake(&ours, &peer.pair())?)?;
    }
    if wanted(&["tcp.node"]) {
        beside.extend(attach(&lab, &a, more));
        keep(tcp::node(&a, &ours, &peer.pair())?)?;
    }
    Ok(())
}

fn pair<'a>(from: &'a Pod, to: &'a Pod) -> Pair<'a> {
    Pair { from: from.space(), to: to.space(), address: to.address(false).to_string() }
}

/// Attaches pods to a node of ours.
fn attach(lab: &Lab, node: &Node, names: &[String]) -> Vec<Pod> {
    let attach = |share: &[String]| share.iter().map(|name| Pod::attach(lab, node, name)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let shares = names.chunks(names.len().div_ceil(AT_ONCE).max(1));
        let threads: Vec<_> = shares.map(|share| scope.spawn(move || attach(share))).collect();
        let pods = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        pods.flatten().collect()
    })
}
