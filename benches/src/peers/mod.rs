//! End to end, side by side with the kernel's own way: pods are network namespaces of this machine, ours attached by the
//! CNI binary to nodes that run the product, the peer's joined by veth pairs that the kernel routes between.
//!
//! Throughput is per CPU-second of the whole machine: all that its cores did not idle, whoever ran (`/proc/stat`: idle
//! time is measured there, the shares of busy time are sampled by the tick). Ours and the peer run in turns.
mod idle;
mod kernel;
mod machine;
mod node;
mod space;
mod tcp;

use crate::report::Figure;
use anyhow::Result;
use node::Node;
use space::Space;

/// How many pods lie idle beside ours when TCP is measured.
const IDLE_PODS: usize = 200;
/// How many ports a dataplane has when its rest is measured: pods, the uplink, the host's.
const RESTING_PORTS: usize = 100;

const NODE: [&str; 3] = ["tcp.node", "idle.cpu", "idle.wake"];
const ACROSS: [&str; 2] = ["tcp.across", "tcp.across_gso"];

/// Measures `tcp` and `idle`, those that are wanted.
pub(crate) fn measure(wants: &dyn Fn(&str) -> bool, keep: &mut dyn FnMut(Figure)) -> Result<()> {
    let wanted = |ids: &[&str]| ids.iter().any(|id| wants(id));
    if !wanted(&NODE) && !wanted(&ACROSS) {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        println!("{:<20} SKIP: network namespaces need root", "tcp, idle");
        return Ok(());
    }
    machine::use_every_core()?;
    space::remove_what_others_left();
    let space = Space::new()?;
    let a = Node::start(&space, "a")?;
    let mut first = a.pods(&["a1", "a2"])?;
    if wanted(&ACROSS) {
        let b = Node::start(&space, "b")?;
        let far = b.pods(&["b1"])?;
        let pids = [a.dataplane(), b.dataplane()].concat();
        across(&space, wants, ((&first[0], &far[0]), &pids), keep)?;
    }
    if wanted(&NODE) {
        first.truncate(2);
        beside(&space, &a, wants, (&first[0], &first[1]), keep)?;
    }
    Ok(())
}

fn across(
    space: &Space,
    wants: &dyn Fn(&str) -> bool,
    ours: ((&node::Pod, &node::Pod), &[u32]),
    keep: &mut dyn FnMut(Figure),
) -> Result<()> {
    let peer = kernel::Tunnelled::new(space)?;
    let (off, on) = tcp::across(space, ours, &peer)?;
    for figure in [off, on] {
        if wants(&figure.id) {
            keep(figure);
        }
    }
    Ok(())
}

/// What is measured on one node: first at rest with a hundred ports, then TCP beside more pods.
fn beside(
    space: &Space,
    a: &Node<'_>,
    wants: &dyn Fn(&str) -> bool,
    ours: (&node::Pod, &node::Pod),
    keep: &mut dyn FnMut(Figure),
) -> Result<()> {
    let peer = kernel::Routed::new(space)?;
    let names: Vec<String> = (0..IDLE_PODS).map(|n| format!("idle{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (few, more) = names.split_at(RESTING_PORTS - 4); // with our two, the uplink and the host's port
    if wants("idle.cpu") || wants("idle.wake") {
        a.pods(few)?;
    }
    if wants("idle.cpu") {
        keep(idle::cpu(space, a, ours)?);
    }
    if wants("idle.wake") {
        keep(idle::wake(space, ours, &peer)?);
    }
    if wants("tcp.node") {
        let rest = if wants("idle.cpu") || wants("idle.wake") { more } else { &names[..] };
        a.pods(rest)?;
        keep(tcp::node(space, a, ours, &peer)?);
    }
    Ok(())
}
