//! The peer: pods behind veth pairs, between which the kernel routes, on one node or over VXLAN devices.
use super::Pair;
use lab::{Lab, Space, run};
use std::process::Command;

/// The MTU of pods, as ours have it: an underlay of 1500 bytes less a tunnel's headers.
const MTU: u32 = 1450;
const ADDRESSES: [&str; 2] = ["10.210.1.2", "10.210.2.2"];

/// Two pods on one node.
pub(super) struct Routed {
    pods: [Space; 2],
}

impl Routed {
    pub(super) fn new(lab: &Lab) -> Self {
        let node = node(lab, "k");
        Routed { pods: [pod(lab, &node, "k1", 1), pod(lab, &node, "k2", 2)] }
    }

    pub(super) fn pair(&self) -> Pair<'_> {
        pair(&self.pods)
    }
}

/// Two pods on two nodes, whose underlays are the ends of a veth pair.
pub(super) struct Tunnelled {
    nodes: [Space; 2],
    pods: [Space; 2],
}

impl Tunnelled {
    pub(super) fn new(lab: &Lab) -> Self {
        let nodes = [node(lab, "va"), node(lab, "vb")];
        let [a, b] = &nodes;
        let link =
            ["link", "add", "eth0", "netns", a.name(), "type", "veth", "peer", "name", "eth0", "netns", b.name()];
        run(Command::new("ip").args(link));
        for (node, own, other) in [(a, 1, 2), (b, 2, 1)] {
            node.ip(&format!("address add 192.0.2.{own}/24 dev eth0"));
            node.ip("link set eth0 up");
            let ends = format!("local 192.0.2.{own} remote 192.0.2.{other}");
            node.ip(&format!("link add vxlan0 type vxlan id 1 dstport 4789 {ends}"));
            node.ip(&format!("link set vxlan0 mtu {MTU} up"));
            node.ip(&format!("address add 10.211.0.{own}/24 dev vxlan0"));
            node.ip(&format!("route add 10.210.{other}.0/24 via 10.211.0.{other} dev vxlan0"));
        }
        let pods = [pod(lab, a, "v1", 1), pod(lab, b, "v2", 2)];
        Tunnelled { nodes, pods }
    }

    /// Lets both underlay devices take super-frames, or not, as a NIC without tunnel offload.
    pub(super) fn segmentation(&self, on: bool) {
        let on = if on { "on" } else { "off" };
        self.nodes.iter().for_each(|node| drop(node.run(&format!("ethtool -K eth0 tso {on} gso {on}"))));
    }

    pub(super) fn pair(&self) -> Pair<'_> {
        pair(&self.pods)
    }
}

fn pair([from, to]: &[Space; 2]) -> Pair<'_> {
    Pair { from, to, address: ADDRESSES[1].to_owned() }
}

fn node(lab: &Lab, name: &str) -> Space {
    let node = lab.space(name);
    node.run("sysctl -qw net.ipv4.ip_forward=1");
    node
}

/// Joins a pod to its node by a veth pair; the node is its gateway.
fn pod(lab: &Lab, node: &Space, name: &str, subnet: u8) -> Space {
    let pod = lab.space(name);
    let inside = pod.name();
    node.ip(&format!("link add {name} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {inside}"));
    node.ip(&format!("address add 10.210.{subnet}.1/24 dev {name}"));
    node.ip(&format!("link set {name} up"));
    pod.ip(&format!("address add 10.210.{subnet}.2/24 dev eth0"));
    pod.ip("link set eth0 up");
    pod.ip(&format!("route add default via 10.210.{subnet}.1"));
    pod
}
