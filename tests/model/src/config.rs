//! What the model is told: plain lists, looked through from front to back.
use std::net::IpAddr;
use wire::Mac;

/// Everything that the model is told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Ports.
    pub ports: Vec<Port>,
    /// Routes of all VRFs.
    pub routes: Vec<Route>,
    /// Where routes lead.
    pub hops: Vec<Hop>,
    /// Tunnels.
    pub tunnels: Vec<Tunnel>,
    /// Static translations.
    pub translations: Vec<Translation>,
    /// The incarnation of every endpoint, by its number.
    pub incarnations: Vec<u32>,
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A pod, which may send only from its own addresses.
    Pod,
    /// The wire to other hosts, where tunnels end.
    Uplink,
    /// The host.
    Host,
}

/// A port.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// What it is for.
    pub role: Role,
    /// Where its packets are routed.
    pub vrf: u16,
    /// The dataplane's own link address on it.
    pub mac: Mac,
    /// Packets from it are routed, and nothing else: no policy, no translation, no flow.
    pub stateless: bool,
    /// What a pod may send from.
    pub allowed: Vec<Range>,
    /// The dataplane's own addresses on it.
    pub gateways: Vec<IpAddr>,
}

/// The addresses that have the first so many bits of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(pub IpAddr, pub u8);

impl Range {
    /// Whether it holds an address.
    pub fn holds(self, address: IpAddr) -> bool {
        let alike = match (self.0, address) {
            (IpAddr::V4(mine), IpAddr::V4(other)) => (mine.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(mine), IpAddr::V6(other)) => (mine.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        alike >= u32::from(self.1)
    }
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its VRF.
    pub vrf: u16,
    /// To where.
    pub range: Range,
    /// By which of [`Config::hops`].
    pub hop: usize,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Out by a port.
    Port {
        /// Its number.
        port: u16,
        /// The longest IP packet.
        mtu: u16,
        /// The neighbour.
        mac: Mac,
        /// The dataplane's own link address there.
        source: Mac,
    },
    /// Into one of [`Config::tunnels`].
    Tunnel(usize),
    /// To the dataplane itself.
    Local,
    /// Nowhere, and nobody is told.
    Blackhole,
    /// Nowhere, and the sender is told.
    Unreachable,
}

/// A VXLAN tunnel to another host, and what comes from there.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// Its network.
    pub vni: wire::Vni,
    /// The UDP port of both ends.
    pub udp_port: u16,
    /// This host's end.
    pub local: IpAddr,
    /// The other end.
    pub remote: IpAddr,
    /// The inner link addresses: of this host, of the other one.
    pub macs: (Mac, Mac),
    /// The way to the other end, one of [`Config::hops`].
    pub hop: usize,
    /// The longest inner IP packet.
    pub mtu: u16,
    /// Where packets from there are routed.
    pub vrf: u16,
    /// The port that they come by.
    pub port: u16,
}

/// What becomes of packets to a virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Its VRF.
    pub vrf: u16,
    /// The virtual address and port.
    pub from: (IpAddr, u16),
    /// Its transport.
    pub protocol: u8,
    /// Which endpoint stands behind it.
    pub endpoint: usize,
    /// The endpoint's address and port.
    pub to: (IpAddr, u16),
    /// The new source, if it is translated too.
    pub source: Option<(IpAddr, u16)>,
}

impl Config {
    /// The port of this number.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Where the longest matching route leads.
    pub fn way(&self, vrf: u16, to: IpAddr) -> Option<Hop> {
        let matching = self.routes.iter().filter(|route| route.vrf == vrf && route.range.holds(to));
        let longest = matching.max_by_key(|route| route.range.1)?;
        Some(self.hops[longest.hop])
    }
}
