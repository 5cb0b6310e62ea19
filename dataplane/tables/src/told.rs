//! What nodes were told: one immutable snapshot, made by the compile step, read by every worker once a turn.
//!
//! Whatever a flow's answer was computed from has a counter that only grows ([`Port::epoch`], [`Leaf::epoch`],
//! [`Endpoint::incarnation`]); an answer is valid while the sum of its four counters is what it was ([`Told::stamp`]).
//! So a change invalidates what it touches and nothing else.
use crate::{routes4::Routes4, routes6::Routes6, slots::Slots};
use engine::PortId;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use wire::{Mac, Outer4, Outer6, Vni};

/// A slot number among [`Told::next_hops`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHopId(pub u32);

/// A slot number among [`Told::leaves`]. Zero is "no route anywhere", which never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafId(pub u32);

/// A slot number among [`Told::tunnels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u16);

impl TunnelId {
    /// No tunnel.
    pub const NONE: TunnelId = TunnelId(u16::MAX);
}

/// A slot number among [`Told::endpoints`]. Zero is "none", which never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u32);

/// A virtual routing table's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VrfId(pub u16);

/// One immutable version of everything that nodes are told. A clone costs a few references; changing the clone copies
/// only what is changed.
#[derive(Clone, Default)]
pub struct Told {
    /// The version's number, as the API counts it.
    pub generation: u64,
    /// Ports by number.
    pub ports: Slots<Port>,
    /// Virtual routing tables by number.
    pub vrfs: Slots<Vrf, 16>,
    /// What routes lead to.
    pub leaves: Slots<Leaf, 1024>,
    /// Where packets go next.
    pub next_hops: Slots<NextHop>,
    /// Tunnels to other hosts.
    pub tunnels: Slots<Tunnel>,
    /// Where tunnels' packets arrive: outer destination and UDP port. Few.
    pub decaps: Arc<[(IpAddr, u16)]>,
    /// Which tunnel a packet from the underlay belongs to.
    pub arrivals: Arc<HashMap<Arrival, Landing>>,
    /// Endpoints that translations lead to.
    pub endpoints: Slots<Endpoint, 1024>,
    /// Static translations by virtual address.
    pub translations: Arc<HashMap<Virtual, Translation>>,
    /// Link addresses of neighbours that are not a next hop's own.
    pub neighbours: Arc<HashMap<(PortId, IpAddr), Mac>>,
    /// Which packets to trace.
    pub trace: Option<TraceFilter>,
    /// Limits and time-outs.
    pub limits: Limits,
}

impl Told {
    /// The counters that an answer depends on, as one number: it differs as soon as one of them has moved.
    #[inline(always)]
    pub fn stamp(&self, port_in: PortId, port_out: PortId, endpoint: EndpointId, leaf: LeafId) -> u32 {
        let port = |id: PortId| self.ports.get(usize::from(id.0)).map_or(0, |port| port.epoch);
        let incarnation = if endpoint.0 == 0 { 0 } else { self.incarnation(endpoint) };
        let leaf = self.leaves.get(leaf.0 as usize).map_or(0, |leaf| leaf.epoch);
        port(port_in).wrapping_add(port(port_out)).wrapping_add(incarnation).wrapping_add(leaf)
    }

    /// The incarnation of an endpoint; zero for none.
    pub fn incarnation(&self, endpoint: EndpointId) -> u32 {
        self.endpoints.get(endpoint.0 as usize).map_or(0, |endpoint| endpoint.incarnation)
    }

    /// The port of this number, if there is one now.
    #[inline(always)]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0)).filter(|port| port.role != Role::Absent)
    }

    /// The virtual routing table of this number.
    #[inline(always)]
    pub fn vrf(&self, id: VrfId) -> Option<&Vrf> {
        self.vrfs.get(usize::from(id.0))
    }

    /// The next hop in this slot.
    #[inline(always)]
    pub fn next_hop(&self, id: NextHopId) -> Option<&NextHop> {
        self.next_hops.get(id.0 as usize)
    }

    /// The tunnel in this slot, if there is one now.
    #[inline(always)]
    pub fn tunnel(&self, id: TunnelId) -> Option<&Tunnel> {
        self.tunnels.get(usize::from(id.0)).filter(|tunnel| tunnel.exists)
    }

    /// Longest prefix match in a VRF: the leaf, which is the VRF's "no route" leaf where no prefix matches.
    #[inline(always)]
    pub fn route(&self, vrf: VrfId, destination: IpAddr) -> LeafId {
        let Some(vrf) = self.vrfs.get(usize::from(vrf.0)) else { return LeafId(0) };
        let leaf = match destination {
            IpAddr::V4(address) => vrf.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => vrf.v6.lookup(address.to_bits()),
        };
        if leaf.0 == 0 { vrf.no_route } else { leaf }
    }

    /// Where packets to a leaf go; `None` for "no route".
    #[inline(always)]
    pub fn leaf(&self, id: LeafId) -> Option<NextHopId> {
        self.leaves.get(id.0 as usize).map(|leaf| leaf.next_hop).filter(|hop| hop.0 != 0)
    }
}

/// What a port is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// There is no port of this number now.
    #[default]
    Absent,
    /// A pod: untrusted, may send only from its own addresses.
    Pod,
    /// The wire to other hosts.
    Uplink,
    /// The host itself.
    Host,
}

/// How the link addresses of a port's neighbours become known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// They are told, and nobody is asked: pod ports, and shared uplinks where the kernel resolves.
    #[default]
    Told,
    /// The dataplane asks (ARP, ND) and learns.
    Own,
}

/// A port as nodes see it.
#[derive(Clone, Debug, Default)]
pub struct Port {
    /// Grows when something changes that answers depend on: role, VRF, addresses, policy.
    pub epoch: u32,
    /// What it is for.
    pub role: Role,
    /// Which routing table its packets are looked up in.
    pub vrf: VrfId,
    /// The dataplane's own link address on it.
    pub mac: Mac,
    /// The longest IP packet that may leave by it, in bytes.
    pub mtu: u16,
    /// Packets are forwarded without flows, service or policy.
    pub stateless: bool,
    /// How its neighbours become known.
    pub resolution: Resolution,
    /// The prefixes that a pod may send from; nothing else leaves it.
    pub allowed: Arc<[Prefix]>,
    /// The addresses that the dataplane answers for on it (ARP, ND, echo), and which it sends ICMP errors from.
    pub gateways: Arc<[IpAddr]>,
}

impl Port {
    /// Whether a packet from `source` may enter by this port.
    #[inline]
    pub fn allows(&self, source: IpAddr) -> bool {
        self.role != Role::Pod || self.allowed.iter().any(|prefix| prefix.contains(source))
    }
}

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr, // bits beyond `len` are zero
    len: u8,
}

impl Prefix {
    /// The range of the first `len` bits of `address`; `None` when it has fewer bits.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if len <= 32 => Ipv4Addr::from_bits(a.to_bits() & mask4(len)).into(),
            IpAddr::V6(a) if len <= 128 => Ipv6Addr::from_bits(a.to_bits() & mask6(len)).into(),
            _ => return None,
        };
        Some(Prefix { address, len })
    }

    /// The range of one address.
    pub fn host(address: IpAddr) -> Self {
        Prefix { address, len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The range's first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits all its addresses share.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether it holds every address of its family.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `address` lies in it.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(mine), IpAddr::V4(other)) => mine.to_bits() == other.to_bits() & mask4(self.len),
            (IpAddr::V6(mine), IpAddr::V6(other)) => mine.to_bits() == other.to_bits() & mask6(self.len),
            _ => false,
        }
    }
}

/// The mask of an IPv4 prefix of `len` bits.
#[inline(always)]
pub const fn mask4(len: u8) -> u32 {
    match len {
        0 => 0,
        1..=31 => u32::MAX << (32 - len),
        _ => u32::MAX,
    }
}

/// The mask of an IPv6 prefix of `len` bits.
#[inline(always)]
pub const fn mask6(len: u8) -> u128 {
    match len {
        0 => 0,
        1..=127 => u128::MAX << (128 - len),
        _ => u128::MAX,
    }
}

/// A virtual routing table.
#[derive(Clone, Default)]
pub struct Vrf {
    /// IPv4 routes.
    pub v4: Routes4,
    /// IPv6 routes.
    pub v6: Routes6,
    /// The leaf of addresses that no prefix holds; its epoch grows when such addresses get a route.
    pub no_route: LeafId,
}

/// What a route leads to: the name that answers keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// Where to go next; slot zero is nowhere.
    pub next_hop: NextHopId,
    /// Grows when flows that matched this route may have to match another, or its next hop leads elsewhere.
    pub epoch: u32,
}

/// What happens to packets that were routed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forward {
    /// The slot is free.
    #[default]
    Nowhere,
    /// They leave by the port.
    Port,
    /// They enter the tunnel.
    Tunnel,
    /// They are for the dataplane's own addresses.
    Local,
    /// They are dropped without a word.
    Blackhole,
    /// They are dropped, and the sender is told.
    Unreachable,
}

/// Where packets go next. It is looked up for each packet, so that a change reaches flows without a re-walk.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct NextHop {
    /// What happens to packets.
    pub forward: Forward,
    /// Whether `mac` is known.
    pub resolved: bool,
    /// The port that they leave by.
    pub port: PortId,
    /// The longest IP packet that may leave, in bytes.
    pub mtu: u16,
    /// The neighbour's link address.
    pub mac: Mac,
    /// The dataplane's own link address on the port.
    pub source: Mac,
    /// The tunnel that they enter.
    pub tunnel: TunnelId,
    /// The neighbour to send to; none: the packet's own destination, which is on the link.
    pub gateway: Option<IpAddr>,
}

impl Default for NextHop {
    fn default() -> Self {
        NextHop {
            forward: Forward::Nowhere,
            resolved: false,
            port: PortId(0),
            mtu: 0,
            mac: Mac::default(),
            source: Mac::default(),
            tunnel: TunnelId::NONE,
            gateway: None,
        }
    }
}

/// A tunnel to another host (VXLAN, RFC 7348).
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// Whether the slot is in use.
    pub exists: bool,
    /// The network identifier on the wire.
    pub vni: Vni,
    /// The UDP port that the other host listens on.
    pub udp_port: u16,
    /// The outer source address.
    pub local: IpAddr,
    /// The outer destination address, of the same family.
    pub remote: IpAddr,
    /// The inner frame's source and destination link addresses.
    pub inner: (Mac, Mac),
    /// Where outer packets go: the underlay route to `remote`, resolved when it was told.
    pub next_hop: NextHopId,
    /// The longest inner IP packet, in bytes.
    pub mtu: u16,
    /// What all its packets have in front; [`Tunnel::vxlan`] makes it from the other fields.
    pub outer: Outer,
}

/// The headers that all packets of a tunnel share, ready to be copied in front of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outer {
    /// There is no tunnel.
    #[default]
    None,
    /// Over IPv4.
    V4(Outer4),
    /// Over IPv6.
    V6(Outer6),
}

impl Tunnel {
    /// A VXLAN tunnel in use, `ends` being the outer source and destination; `None` when these are of different
    /// families. The link header of its packets is left for egress to write.
    pub fn vxlan(
        vni: Vni,
        udp_port: u16,
        ends: (IpAddr, IpAddr),
        inner: (Mac, Mac),
        next_hop: NextHopId,
        mtu: u16,
    ) -> Option<Self> {
        let nobody = (Mac::ZERO, Mac::ZERO);
        let outer = match ends {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let mut outer = Outer4::template(nobody, (local.to_bits().into(), remote.to_bits().into()), vni);
                outer.udp.dst = udp_port.into();
                Outer::V4(outer)
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let mut outer = Outer6::template(nobody, (local.to_bits().into(), remote.to_bits().into()), vni);
                outer.udp.dst = udp_port.into();
                Outer::V6(outer)
            }
            _ => return None,
        };
        Some(Tunnel { exists: true, vni, udp_port, local: ends.0, remote: ends.1, inner, next_hop, mtu, outer })
    }
}

impl Default for Tunnel {
    fn default() -> Self {
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Tunnel {
            exists: false,
            vni: Vni::default(),
            udp_port: 0,
            local: nobody,
            remote: nobody,
            inner: (Mac::default(), Mac::default()),
            next_hop: NextHopId(0),
            mtu: 0,
            outer: Outer::None,
        }
    }
}

/// What tells a tunnel's packets from the underlay's others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arrival {
    /// The outer destination.
    pub local: IpAddr,
    /// The outer UDP destination port.
    pub udp_port: u16,
    /// The network identifier.
    pub vni: Vni,
}

/// Where a tunnel's packets land.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landing {
    /// The VRF that inner packets are looked up in.
    pub vrf: VrfId,
    /// The port that inner packets count as coming from, for their flows' budgets and policy.
    pub port: PortId,
    /// The link address that inner frames are for.
    pub mac: Mac,
    /// The hosts that may send, in order.
    pub remotes: Arc<[IpAddr]>,
}

/// Something that a virtual address leads to. A slot that is used again has another incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Grows when the slot's endpoint goes or becomes another one.
    pub incarnation: u32,
}

/// A virtual address: what a translation matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Virtual {
    /// The VRF.
    pub vrf: VrfId,
    /// The destination address.
    pub address: IpAddr,
    /// The destination port.
    pub port: u16,
    /// The transport protocol (IANA number).
    pub protocol: u8,
}

/// How flows to a virtual address are rewritten; their replies are rewritten back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Which endpoint this is.
    pub endpoint: EndpointId,
    /// The new destination, of the virtual address's family.
    pub destination: (IpAddr, u16),
    /// The new source, when that is rewritten too.
    pub source: Option<(IpAddr, u16)>,
}

/// Which packets to mark for the trace, as they enter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    /// The trace's number: a new one starts anew.
    pub number: u64,
    /// How many packets to mark.
    pub count: u8,
    /// The port by which they enter.
    pub port: Option<PortId>,
    /// Either address.
    pub address: Option<IpAddr>,
    /// Either transport port.
    pub transport_port: Option<u16>,
    /// The transport protocol (IANA number).
    pub protocol: Option<u8>,
}

/// Limits and time-outs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flow halves that every port may have, whatever others do.
    pub guaranteed_halves: u32,
    /// First packets of flows a port may send in a second.
    pub first_packets: u32,
    /// ICMP errors that a worker makes in a second; those about packets of one port may be a tenth.
    pub icmp_errors: u32,
    /// Seconds after which a flow ends without packets: UDP that was not answered, and other protocols likewise.
    pub idle_unreplied: u32,
    /// Seconds: UDP and others that were answered.
    pub idle_replied: u32,
    /// Seconds: a TCP connection that is established.
    pub idle_established: u32,
    /// Seconds: a TCP connection that is being opened or closed.
    pub idle_transient: u32,
    /// Seconds: a drop that is remembered.
    pub idle_drop: u32,
}

impl Default for Limits {
    /// Time-outs as in RFC 5382 (TCP: at least 2 h 4 min established, 4 min transitory) and RFC 4787 (UDP: at least 2
    /// min); a cached drop lives for seconds.
    fn default() -> Self {
        Limits {
            guaranteed_halves: 1024,
            first_packets: 50_000,
            icmp_errors: 1000,
            idle_unreplied: 30,
            idle_replied: 180,
            idle_established: 8 * 3600,
            idle_transient: 240,
            idle_drop: 4,
        }
    }
}
