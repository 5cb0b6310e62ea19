//! What the graph is told, and the packets that it gets.
use anyhow::{Context, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tables::{
    flows::Key4,
    told::{Forward, Leaf, LeafId, NextHop, NextHopId, Port, Prefix, Role, Told, Tunnel, TunnelId},
};
use wire::{
    Mac, Ports, Vni,
    build::{self, Addresses, Path},
};

/// The port that packets come by, and the one that they leave by.
pub(super) const IN: u16 = 1;
pub(super) const OUT: u16 = 2;
const NEXT_HOPS: u32 = 1024;
const UDP: u8 = 17;
const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

/// A port in and a port out, next hops whose neighbours are known.
pub(super) fn told(stateless: bool) -> Told {
    let mut told = Told { generation: 1, ..Told::default() };
    told.vrfs.slot(0).no_route = LeafId(1);
    told.leaves.slot(1).epoch = 1;
    let pod = Prefix::host(POD.into());
    let (role, allowed) = if stateless { (Role::Uplink, vec![]) } else { (Role::Pod, vec![pod]) };
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    *told.ports.slot(IN.into()) = Port { role, mac, mtu: 1500, stateless, allowed: allowed.into(), ..Port::default() };
    *told.ports.slot(OUT.into()) = Port { role: Role::Uplink, mac, mtu: 1500, ..Port::default() };
    for hop in 1..=NEXT_HOPS {
        let [.., high, low] = hop.to_be_bytes();
        *told.next_hops.slot(hop as usize) = NextHop {
            forward: Forward::Port,
            resolved: true,
            port: engine::PortId(OUT),
            mtu: 1500,
            mac: Mac([2, 0, 0, 1, high, low]),
            source: mac,
            ..NextHop::default()
        };
    }
    (told.limits.first_packets, told.limits.guaranteed_halves) = (u32::MAX, u32::MAX);
    told
}

/// A pod whose flows go to the world, directly or through a tunnel.
pub(super) fn pod_world(tunnelled: bool) -> Result<Told> {
    let mut told = told(false);
    let mut hop = NextHopId(1);
    if tunnelled {
        let ends = (Ipv4Addr::new(192, 168, 0, 1).into(), Ipv4Addr::new(192, 168, 0, 2).into());
        let macs = (Mac([2, 1, 0, 0, 0, 1]), Mac([2, 1, 0, 0, 0, 2]));
        *told.tunnels.slot(0) =
            Tunnel::vxlan(Vni::default(), 4789, ends, macs, NextHopId(1), 1450).context("a tunnel")?;
        hop = NextHopId(NEXT_HOPS + 1);
        *told.next_hops.slot(hop.0 as usize) =
            NextHop { forward: Forward::Tunnel, tunnel: TunnelId(0), mtu: 1450, ..NextHop::default() };
    }
    add_route(&mut told, Ipv4Addr::UNSPECIFIED.into(), 0, hop);
    Ok(told)
}

/// A million random routes as on the Internet: 60 % /24, 25 % /17 to /23, 10 % /25 to /32, 5 % /9 to /16; for IPv6 half
/// /48, the rest /32 to /64. Gives destinations inside of them.
pub(super) fn add_routes(told: &mut Told, v6: bool, count: u32, random: &mut Random) -> Vec<IpAddr> {
    let mut destinations = Vec::new();
    for n in 0..count {
        let hop = NextHopId(n % NEXT_HOPS + 1);
        let dice = random.below(100);
        let (address, len): (IpAddr, u8) = if v6 {
            let len = match dice {
                0..50 => 48,
                50..70 => 32 + u8::try_from(random.below(4) * 4).unwrap_or(0),
                70..90 => 64,
                _ => 40 + u8::try_from(random.below(5) * 4).unwrap_or(0),
            };
            let bits = u128::from(random.next()) << 64 | u128::from(random.next());
            (Ipv6Addr::from_bits((0x2 << 124) | (bits >> 4)).into(), len)
        } else {
            let len = match dice {
                0..60 => 24,
                60..85 => 17 + u8::try_from(random.below(7)).unwrap_or(0),
                85..95 => 25 + u8::try_from(random.below(8)).unwrap_or(0),
                _ => 9 + u8::try_from(random.below(8)).unwrap_or(0),
            };
            (unicast(random.next()).into(), len)
        };
        add_route(told, address, len, hop);
        destinations.push(address); // inside its own prefix, its low bits random
    }
    destinations
}

pub(super) fn add_route(told: &mut Told, address: IpAddr, len: u8, next_hop: NextHopId) {
    let leaf = LeafId(u32::try_from(told.leaves.len().max(2)).unwrap_or(0));
    *told.leaves.slot(leaf.0 as usize) = Leaf { next_hop, epoch: 1 };
    let vrf = told.vrfs.slot(0);
    match address {
        IpAddr::V4(address) => drop(vrf.v4.insert(address.to_bits(), len, leaf, next_hop)),
        IpAddr::V6(address) => drop(vrf.v6.insert(address.to_bits(), len, leaf, next_hop)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "takes the low half")]
pub(super) fn unicast(random: u64) -> Ipv4Addr {
    let bits = random as u32;
    Ipv4Addr::from_bits((((bits >> 24) % 110 + 11) << 24) | (bits & 0x00ff_ffff))
}

/// Flow `n` of the pod: a 64-byte UDP frame.
pub(super) fn write_flow(room: &mut [u8], n: u32) -> usize {
    let (to, port) = flow(n);
    write_udp(room, POD.into(), to.into(), (port, 53))
}

/// What names both halves of flow `n` of the pod.
pub(super) fn keys_of(n: u32) -> [Key4; 2] {
    let (to, port) = flow(n);
    let (pod, to, port) = (POD.to_bits(), to.to_bits(), u32::from(port));
    [Key4::new(pod, to, port << 16 | 53, UDP, 0), Key4::new(to, pod, 53 << 16 | port, UDP, 0)]
}

/// Where flow `n` goes, and its source port.
fn flow(n: u32) -> (Ipv4Addr, u16) {
    let [high @ .., low] = n.to_be_bytes();
    let [a, b, c] = high;
    (Ipv4Addr::from_bits(0x1400_0000 + u32::from_be_bytes([0, a, b, c])), 20_000 + u16::from(low))
}

pub(super) fn write_udp(room: &mut [u8], from: IpAddr, to: IpAddr, ports: (u16, u16)) -> usize {
    let macs = (Mac([2, 0, 0, 0, 0, 9]), Mac([2, 0, 0, 0, 0, 1]));
    let Some(addresses) = Addresses::of(from, to) else { return 0 };
    let payload: &[u8] = if from.is_ipv4() { &[0; 22] } else { &[0; 2] };
    build::udp(room, &Path::new(macs, addresses), Ports::new(ports.0, ports.1), payload).unwrap_or(0)
}

/// A small generator of numbers that repeat with their seed (xorshift64*).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    #[expect(clippy::cast_possible_truncation, reason = "below a u32")]
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u32
    }
}
