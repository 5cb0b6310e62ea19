//! Facts: what the world says about this node and its peers, and where they come from.
pub mod standalone;

use std::{future::Future, net::IpAddr, path::PathBuf};

use ipnet::IpNet;

/// Everything that the plan needs to know, but for the pods of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The name of this node, one of `nodes`.
    pub node: String,
    /// How this node meets the others.
    pub uplink: Uplink,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// What holds for all.
    pub options: Options,
    /// The largest IP packet of the uplink, in bytes; none when it is not known.
    pub uplink_mtu: Option<u32>,
}

/// How this node meets the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The interface.
    pub interface: String,
    /// Who owns it.
    pub mode: proto::v1::af_xdp::Ownership,
    /// How the steering program is attached.
    pub attach: proto::v1::af_xdp::Attach,
    /// Whether frames are shared with the driver.
    pub zero_copy: proto::v1::af_xdp::ZeroCopy,
    /// How many of its queues are used; zero: all.
    pub queues: u32,
    /// Whether system calls drive the driver.
    pub busy_poll: bool,
    /// Gateways to nodes that are not on its link, at most one of each family.
    pub gateways: Vec<IpAddr>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, unique.
    pub name: String,
    /// Its addresses on the uplink, with the length of their network where it is known.
    pub addresses: Vec<NodeAddress>,
    /// The ranges of its pods.
    pub pod_ranges: Vec<IpNet>,
    /// The MAC address of its end of tunnels, where it is not derived from the name.
    pub mac: Option<[u8; 6]>,
}

/// An address of a node on the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The address.
    pub ip: IpAddr,
    /// The network it lies in; none: every other node is on its link.
    pub network: Option<IpNet>,
}

/// What holds for all nodes, and where this one keeps things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The network identifier of tunnels.
    pub vni: u32,
    /// The UDP port of tunnels.
    pub udp_port: u16,
    /// The largest IP packet of pods, in bytes; none: the uplink's without the encapsulation.
    pub mtu: Option<u32>,
    /// The family of tunnels.
    pub underlay: Underlay,
    /// The host's own interface to pods.
    pub host_interface: String,
    /// Where the dataplane listens.
    pub dataplane_socket: PathBuf,
    /// Where the agent listens.
    pub agent_socket: PathBuf,
    /// Where the agent keeps its journal and finds tombstones.
    pub state_dir: PathBuf,
}

/// The family of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// IPv4 where all nodes have it, else IPv6.
    Auto,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Where facts come from.
pub trait Source {
    /// Why there are none.
    type Error: std::error::Error;

    /// Waits for the next facts that differ from the last ones; the first call returns at once.
    fn next(&mut self) -> impl Future<Output = Result<Facts, Self::Error>>;
}
