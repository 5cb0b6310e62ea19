//! The peer: pods behind veth pairs, between which the kernel routes, on one node or over VXLAN devices.
use super::space::{Space, run};
use anyhow::Result;

/// The MTU of pods, as ours have it: an underlay of 1500 bytes less a tunnel's headers.
const MTU: u32 = 1450;

/// Two pods on one node.
pub(super) struct Routed;

impl Routed {
    /// Their namespaces, and the second one's address.
    pub(super) const PODS: [&'static str; 2] = ["k1", "k2"];
    pub(super) const ADDRESS: &'static str = "10.210.2.2";

    pub(super) fn new(space: &Space) -> Result<Self> {
        space.add(&["k"])?;
        space.run("k", "sysctl -qw net.ipv4.ip_forward=1")?;
        space.add(&Self::PODS)?;
        pod(space, "k", "k1", 1)?;
        pod(space, "k", "k2", 2)?;
        Ok(Routed)
    }
}

/// Two pods on two nodes, whose underlays are the ends of a veth pair.
pub(super) struct Tunnelled<'a>(&'a Space);

impl<'a> Tunnelled<'a> {
    pub(super) const PODS: [&'static str; 2] = ["v1", "v2"];
    pub(super) const ADDRESS: &'static str = "10.210.2.2";

    pub(super) fn new(space: &'a Space) -> Result<Self> {
        space.add(&["va", "vb"])?;
        space.add(&Self::PODS)?;
        let [a, b] = ["va", "vb"].map(|name| space.of(name));
        run(&["ip", "link", "add", "eth0", "netns", &a, "type", "veth", "peer", "name", "eth0", "netns", &b])?;
        for (node, own, other, pod_name) in [("va", 1, 2, "v1"), ("vb", 2, 1, "v2")] {
            for command in [
                "sysctl -qw net.ipv4.ip_forward=1".to_owned(),
                format!("ip address add 192.0.2.{own}/24 dev eth0"),
                "ip link set eth0 up".to_owned(),
                format!("ip link add vxlan0 type vxlan id 1 dstport 4789 local 192.0.2.{own} remote 192.0.2.{other}"),
                format!("ip link set vxlan0 mtu {MTU} up"),
                format!("ip address add 10.211.0.{own}/24 dev vxlan0"),
                format!("ip route add 10.210.{other}.0/24 via 10.211.0.{other} dev vxlan0"),
            ] {
                space.run(node, &command)?;
            }
            pod(space, node, pod_name, own)?;
        }
        Ok(Tunnelled(space))
    }

    /// Lets both underlay devices take super-frames, or not, as a NIC without tunnel offload.
    pub(super) fn segmentation(&self, on: bool) -> Result<()> {
        let on = if on { "on" } else { "off" };
        for node in ["va", "vb"] {
            self.0.run(node, &format!("ethtool -K eth0 tso {on} gso {on}"))?;
        }
        Ok(())
    }
}

/// Joins a pod to its node by a veth pair; the node is its gateway.
fn pod(space: &Space, node: &str, pod: &str, subnet: u8) -> Result<()> {
    let (node_name, pod_name) = (space.of(node), space.of(pod));
    let pair = ["ip", "link", "add", pod, "mtu", &MTU.to_string(), "netns", &node_name, "type", "veth"];
    run(&[&pair[..], &["peer", "name", "eth0", "mtu", &MTU.to_string(), "netns", &pod_name]].concat())?;
    space.run(node, &format!("ip address add 10.210.{subnet}.1/24 dev {pod}"))?;
    space.run(node, &format!("ip link set {pod} up"))?;
    space.run(pod, &format!("ip address add 10.210.{subnet}.2/24 dev eth0"))?;
    space.run(pod, "ip link set eth0 up")?;
    space.run(pod, &format!("ip route add default via 10.210.{subnet}.1"))?;
    Ok(())
}
