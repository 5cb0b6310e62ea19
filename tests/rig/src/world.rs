//! A small world to send packets through: two pods, an uplink, a tunnel to another host that has a third pod.
use engine::PortId;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use tables::told::{
    Arrival, Forward, Landing, Leaf, LeafId, NextHop, NextHopId, Port, Prefix, Role, Told, Tunnel, TunnelId, VrfId,
};
use wire::{Mac, Vni};

/// A pod on this host: 10.0.1.1, fd00:1::1.
pub const POD_A: PortId = PortId(1);
/// Another pod on this host: 10.0.1.2, fd00:1::2.
pub const POD_B: PortId = PortId(2);
/// The wire to other hosts: 192.168.0.1, fd99::1.
pub const UPLINK: PortId = PortId(3);
/// The host.
pub const HOST: PortId = PortId(4);
/// The tunnel to the other host, 192.168.0.2, which has the pods 10.0.2.0/24 and fd00:2::/64.
pub const TUNNEL: TunnelId = TunnelId(0);
/// The dataplane's own address on pod ports.
pub const GATEWAY: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(169, 254, 1, 1), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// The outer addresses of this host and the other one.
pub const UNDERLAY: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(192, 168, 0, 2));

/// The dataplane's own link address on a port.
pub fn own_mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0xee, port.0.to_be_bytes()[1]])
}

/// The link address of whoever is behind a port.
pub fn mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 0, port.0.to_be_bytes()[1]])
}

/// A pod's addresses: host 1 is this one, host 2 the other.
pub fn pod(host: u8, number: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 0, host, number), Ipv6Addr::new(0xfd00, host.into(), 0, 0, 0, 0, 0, number.into()))
}

/// The world: what the nodes are told of it.
pub fn two_pods() -> Told {
    let mut told = Told { generation: 1, ..Told::default() };
    told.vrfs.slot(0).no_route = LeafId(1);
    told.leaves.slot(1).epoch = 1;
    for (port, number) in [(POD_A, 1), (POD_B, 2)] {
        let (v4, v6) = pod(1, number);
        let allowed = [Prefix::host(v4.into()), Prefix::host(v6.into())];
        let gateways: [IpAddr; 2] = [GATEWAY.0.into(), GATEWAY.1.into()];
        *told.ports.slot(port.0.into()) = Port {
            role: Role::Pod,
            mac: own_mac(port),
            mtu: 1450,
            allowed: Arc::new(allowed),
            gateways: Arc::new(gateways),
            ..Port::default()
        };
        let hop = link(&mut told, port, 1450);
        route(&mut told, v4.into(), 32, hop);
        route(&mut told, v6.into(), 128, hop);
    }
    for (port, role) in [(UPLINK, Role::Uplink), (HOST, Role::Host)] {
        *told.ports.slot(port.0.into()) = Port { role, mac: own_mac(port), mtu: 1500, ..Port::default() };
    }
    let wire = link(&mut told, UPLINK, 1500);
    let host = link(&mut told, HOST, 1500);
    route(&mut told, Ipv4Addr::new(10, 0, 1, 254).into(), 32, host);
    tunnel(&mut told, wire);
    told
}

/// A next hop on a port, whose neighbour is known.
pub fn link(told: &mut Told, port: PortId, mtu: u16) -> NextHopId {
    let hop = NextHop {
        forward: Forward::Port,
        resolved: true,
        port,
        mtu,
        mac: mac(port),
        source: own_mac(port),
        ..NextHop::default()
    };
    add_next_hop(told, hop)
}

/// A next hop in a slot of its own.
pub fn add_next_hop(told: &mut Told, hop: NextHop) -> NextHopId {
    let slot = told.next_hops.len().max(1);
    *told.next_hops.slot(slot) = hop;
    NextHopId(u32::try_from(slot).unwrap_or(0))
}

/// A route in VRF 0 with a leaf of its own; the leaf that it splits is bumped, as the compile step does.
pub fn route(told: &mut Told, address: IpAddr, len: u8, next_hop: NextHopId) -> LeafId {
    let leaf = LeafId(u32::try_from(told.leaves.len().max(2)).unwrap_or(0));
    *told.leaves.slot(leaf.0 as usize) = Leaf { next_hop, epoch: 1 };
    let vrf = told.vrfs.slot(0);
    let split = match address {
        IpAddr::V4(address) => {
            let split = vrf.v4.covering(address.to_bits(), len);
            let _replaced = vrf.v4.insert(address.to_bits(), len, leaf, next_hop);
            split
        }
        IpAddr::V6(address) => {
            let split = vrf.v6.covering(address.to_bits(), len);
            let _replaced = vrf.v6.insert(address.to_bits(), len, leaf, next_hop);
            split
        }
    };
    let split = split.unwrap_or(vrf.no_route);
    told.leaves.slot(split.0 as usize).epoch += 1;
    leaf
}

fn tunnel(told: &mut Told, wire: NextHopId) {
    let vni = Vni::new(42).unwrap_or_default();
    let (here, there) = (Mac([2, 1, 0, 0, 0, 1]), Mac([2, 1, 0, 0, 0, 2]));
    let ends = (UNDERLAY.0.into(), UNDERLAY.1.into());
    *told.tunnels.slot(0) = Tunnel::vxlan(vni, 4789, ends, (here, there), wire, 1450).unwrap_or_default();
    let enter = NextHop { forward: Forward::Tunnel, tunnel: TUNNEL, mtu: 1450, ..NextHop::default() };
    let enter = add_next_hop(told, enter);
    route(told, Ipv4Addr::new(10, 0, 2, 0).into(), 24, enter);
    route(told, Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0).into(), 64, enter);
    told.decaps = Arc::new([(UNDERLAY.0.into(), 4789)]);
    let arrival = Arrival { local: UNDERLAY.0.into(), udp_port: 4789, vni };
    let landing = Landing { vrf: VrfId(0), port: UPLINK, mac: here, remotes: Arc::new([UNDERLAY.1.into()]) };
    told.arrivals = Arc::new(HashMap::from([(arrival, landing)]));
}
