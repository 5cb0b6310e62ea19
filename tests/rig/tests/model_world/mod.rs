//! One world told to both the product and the model, packets to send through it, and changes to it.
mod changes;
mod drops;
mod frames;

use engine::PortId;
use model::{
    Model, Out, Why,
    config::{Config, Hop, Port, Range, Role, Route, Translation, Tunnel},
    packet,
};
use proptest::test_runner::TestCaseError;
use rig::{Rig, Sent};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};
use tables::told::{self, Arrival, Landing, Limits, NextHopId, Told, VrfId};
use wire::{Mac, Vni};

/// A world in few numbers, so that a disagreement shrinks.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// How many pods.
    pub(crate) pods: u8,
    /// How many tunnels.
    pub(crate) tunnels: u8,
    /// MTUs, and where the last pod and the last tunnel are routed.
    pub(crate) pick: [u8; 4],
    /// Random routes.
    pub(crate) routes: Vec<[u8; 5]>,
    /// Static translations.
    pub(crate) translations: Vec<[u8; 5]>,
}

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A turn with these packets.
    Turn(Vec<Raw>),
    /// What is told changes.
    Change(Change),
}

/// A packet in few numbers.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// What kind of packet.
    pub(crate) kind: u8,
    /// Its fields.
    pub(crate) pick: [u8; 8],
    /// Whether it is IPv6.
    pub(crate) six: bool,
    /// Bytes of payload.
    pub(crate) len: u16,
}

/// A change in few numbers.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// What changes.
    pub(crate) kind: u8,
    /// How.
    pub(crate) pick: [u8; 5],
}

/// The wire.
pub(crate) const UPLINK: u16 = 9;
/// The host.
pub(crate) const HOST: u16 = 10;
/// The dataplane's own addresses on pod ports.
pub(crate) const GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)), IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))];
/// The next hop to the wire, and the first tunnel's, among the model's.
const WIRE: usize = 4;
const BLACKHOLE: usize = 6;
const FIRST_TUNNEL: usize = 9;

/// The product and the model, told the same.
pub(crate) struct Both {
    /// The product.
    pub(crate) rig: Rig,
    /// The model.
    pub(crate) model: Model,
    /// How many frames were sent and received.
    pub(crate) sent: usize,
    /// Which arcs were taken.
    pub(crate) arcs: BTreeSet<String>,
    /// How many frames were received.
    pub(crate) received: usize,
    pods: u8, // that are there now, or can be
    recent: VecDeque<Sent>,
    spread: HashMap<String, u16>,
    fragmented: u16,
}

impl Both {
    /// A world, told to both.
    pub(crate) fn new(world: &World) -> Both {
        let config = config(world);
        let rig = Rig::new(told(&config));
        let mut model = Model::default();
        model.config = Config { routes: Vec::new(), ..config.clone() };
        let (pods, recent, spread, arcs) = (world.pods, VecDeque::new(), HashMap::new(), BTreeSet::new());
        let mut both = Both { rig, model, sent: 0, received: 0, arcs, pods, recent, spread, fragmented: 0 };
        config.routes.iter().for_each(|route| both.add_route(*route));
        world.routes.iter().for_each(|pick| both.random_route(*pick));
        world.translations.iter().for_each(|pick| both.translate(*pick));
        both
    }

    /// Does what a step says.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Turn(raws) => self.turn(raws),
            Step::Change(change) => {
                self.change(change);
                Ok(())
            }
        }
    }

    fn turn(&mut self, raws: &[Raw]) -> Result<(), TestCaseError> {
        let groups: Vec<Vec<Sent>> = raws.iter().map(|raw| self.frames(raw)).collect();
        let all: Vec<&Vec<Sent>> = groups.iter().collect();
        if self.order_matters(&all) {
            // A turn does not say in which order it takes packets that concern each other.
            return groups.iter().try_for_each(|group| self.compare(&[group]));
        }
        self.compare(&all)
    }

    fn order_matters(&self, groups: &[&Vec<Sent>]) -> bool {
        let mut orders = vec![groups.to_vec(), groups.iter().rev().copied().collect()];
        let (tunnelled, plain): (Vec<_>, Vec<_>) =
            groups.iter().copied().partition(|group| group.iter().any(|sent| sent.0.0 == UPLINK));
        orders.push([plain.clone(), tunnelled.clone()].concat());
        orders.push([tunnelled, plain].concat());
        let outcome = |order: &Vec<&Vec<Sent>>| {
            let mut model = self.model.clone();
            (expect(&mut model, order), model.memory())
        };
        let first = outcome(&orders[0]);
        orders.iter().skip(1).any(|order| outcome(order) != first)
    }

    fn compare(&mut self, groups: &[&Vec<Sent>]) -> Result<(), TestCaseError> {
        let (expected, mut why) = expect(&mut self.model, groups);
        for (port, frame) in groups.iter().copied().flatten() {
            self.rig.send(*port, frame);
            self.received += 1;
        }
        self.rig.moved();
        let sent = self.rig.turn();
        let moved = self.rig.moved();
        self.arcs.extend(moved.iter().map(|(node, arc, _)| format!("{node}.{arc}")));
        let mut actual: Vec<(u16, Vec<u8>, Option<u16>)> = Vec::new();
        for (port, bytes) in &sent {
            let (bytes, outer) = self.without_outer_port(port.0, bytes)?;
            actual.push((port.0, bytes, outer));
        }
        actual.sort();
        let missing: Vec<_> = expected.iter().map(|out| (out.port, &out.bytes)).collect();
        let surplus: Vec<_> = actual.iter().map(|(port, bytes, _)| (*port, bytes)).collect();
        proptest::prop_assert!(missing == surplus, "{}\n{moved:?}", differences(groups, missing, surplus));
        self.check_spread(&expected, &actual)?;
        proptest::prop_assert_eq!(self.rig.audit(), Ok(0), "{:?}", moved);
        let mut told = drops::reasons(&moved);
        drops::settle(&mut why, &told);
        if moved.iter().any(|(node, ..)| *node == "fragment") {
            // A packet that came through may have lost fragments, of which the model says nothing.
            told.retain(|reason| *reason != Why::Untold);
            why.retain(|reason| *reason != Why::Untold);
        }
        proptest::prop_assert!(
            told == why,
            "dropped: {told:?}, and not {why:?}; {}\n{moved:?}",
            differences(groups, Vec::new(), Vec::new())
        );
        self.sent += sent.len();
        self.recent.extend(sent);
        self.recent.drain(..self.recent.len().saturating_sub(24));
        self.rig.pass(Duration::from_micros(100));
        Ok(())
    }

    /// A tunnel's packet without its outer source port and checksum, which were right; and that port.
    fn without_outer_port(&self, port: u16, bytes: &[u8]) -> Result<(Vec<u8>, Option<u16>), TestCaseError> {
        let seen = packet::see(bytes).filter(|seen| {
            let ends = (seen.source, seen.destination);
            port == UPLINK && self.model.config.tunnels.iter().any(|t| (t.local, t.remote) == ends)
        });
        let Some(seen) = seen else { return Ok((bytes.to_vec(), None)) };
        let outer = u16::from_be_bytes([bytes[seen.l4], bytes[seen.l4 + 1]]);
        proptest::prop_assert!(outer >= 49152, "{outer}");
        let sum = u16::from_be_bytes([bytes[seen.l4 + 6], bytes[seen.l4 + 7]]);
        proptest::prop_assert_eq!(if seen.six { packet::transport_sum(bytes, &seen) } else { sum }, 0);
        let mut bytes = bytes.to_vec();
        bytes[seen.l4..seen.l4 + 2].fill(0);
        bytes[seen.l4 + 6..seen.l4 + 8].fill(0);
        Ok((bytes, Some(outer)))
    }

    /// Packets of a flow have one outer source port for ever.
    fn check_spread(&mut self, expected: &[Out], actual: &[(u16, Vec<u8>, Option<u16>)]) -> Result<(), TestCaseError> {
        for (out, (.., outer)) in expected.iter().zip(actual) {
            let is_one =
                expected.iter().filter(|other| (other.port, &other.bytes) == (out.port, &out.bytes)).count() == 1;
            if let (Some(flow), Some(outer), true) = (&out.flow, outer, is_one && out.tunnelled) {
                let before = *self.spread.entry(flow.clone()).or_insert(*outer);
                proptest::prop_assert_eq!(before, *outer, "{}", flow);
            }
        }
        Ok(())
    }
}

/// What arrived; what should have come out of it and did not; what came out and should not have.
fn differences(groups: &[&Vec<Sent>], mut missing: Vec<(u16, &Vec<u8>)>, surplus: Vec<(u16, &Vec<u8>)>) -> String {
    let describe = |title: &str, frames: &[(u16, &Vec<u8>)]| -> String {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let lines =
            frames.iter().map(|(port, bytes)| format!("\n  {port}: {}\n    {}", wire::describe(bytes), hex(bytes)));
        format!("\n{title}:{}", lines.collect::<String>())
    };
    let arrived: Vec<_> = groups.iter().copied().flatten().map(|(port, bytes)| (port.0, bytes)).collect();
    let mut only_sent = Vec::new();
    for frame in surplus {
        match missing.iter().position(|other| *other == frame) {
            Some(at) => drop(missing.remove(at)),
            None => only_sent.push(frame),
        }
    }
    [describe("arrived", &arrived), describe("missing", &missing), describe("surplus", &only_sent)].concat()
}

/// What must come out, in order of bytes; and why the rest does not.
fn expect(model: &mut Model, groups: &[&Vec<Sent>]) -> (Vec<Out>, Vec<Why>) {
    let (mut out, mut why) = (Vec::new(), Vec::new());
    for (port, frame) in groups.iter().copied().flatten() {
        match model.receive(port.0, frame) {
            Ok(sent) => out.extend(sent),
            Err(reason) => why.push(reason),
        }
    }
    out.sort();
    why.sort();
    (out, why)
}

/// The dataplane's own link address on a port.
pub(crate) fn own_mac(port: u16) -> Mac {
    Mac([2, 0, 0, 0, 0xee, port.to_be_bytes()[1]])
}

/// The link address of whoever is behind a port.
pub(crate) fn mac(port: u16) -> Mac {
    Mac([2, 0, 0, 0, 0, port.to_be_bytes()[1]])
}

/// Places that packets go to and come from: four pods, two pods of each other host, two virtual addresses, the host,
/// one that is blackholed, and one that is far away.
pub(crate) fn place(number: u8, six: bool) -> IpAddr {
    let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    let v6 = |a, b, z| IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, z));
    match (number % 12, six) {
        (n @ 0..4, false) => v4(10, 0, 1, n + 1),
        (n @ 0..4, true) => v6(0xfd00, 1, u16::from(n) + 1),
        (n @ 4..6, false) => v4(10, 0, n - 2, 7),
        (n @ 4..6, true) => v6(0xfd00, u16::from(n) - 2, 7),
        (n @ 6..8, false) => v4(10, 96, 0, n),
        (n @ 6..8, true) => v6(0xfd00, 0xffff, n.into()),
        (8, false) => v4(10, 0, 1, 254),
        (8, true) => v6(0xfd00, 1, 0xfe),
        (9, false) => v4(10, 9, 0, 1),
        (9, true) => v6(0xfd00, 9, 1),
        (10, false) => v4(8, 8, 8, 8),
        (10, true) => v6(0x2001, 0xdb8, 8),
        (_, false) => v4(10, 0, 2, 8),
        (_, true) => v6(0xfd00, 2, 8),
    }
}

/// A pod's port.
fn pod(number: u16, vrf: u16) -> Port {
    let at = u8::try_from(number).unwrap() - 1;
    let allowed = vec![Range(place(at, false), 32), Range(place(at, true), 128)];
    Port { number, role: Role::Pod, vrf, mac: own_mac(number), allowed, gateways: GATEWAYS.to_vec(), stateless: false }
}

fn config(world: &World) -> Config {
    let [mtu, far_mtu, vrfs, family] = world.pick;
    let mtu_of = |pick: u8| [1500, 1450, 1000, 1400][usize::from(pick % 4)];
    let vrf_of = |number: u16| u16::from(number == 4 && vrfs % 2 == 1);
    let mut ports: Vec<Port> = (1..=u16::from(world.pods)).map(|number| pod(number, vrf_of(number))).collect();
    let ends: [IpAddr; 2] = [Ipv4Addr::new(192, 168, 0, 1).into(), "fd99::1".parse().unwrap()];
    for (number, role, gateways) in [(UPLINK, Role::Uplink, ends.to_vec()), (HOST, Role::Host, GATEWAYS.to_vec())] {
        ports.push(Port {
            number,
            role,
            vrf: 0,
            mac: own_mac(number),
            allowed: Vec::new(),
            gateways,
            stateless: false,
        });
    }
    let link = |port: u16| Hop::Port { port, mtu: mtu_of(mtu), mac: mac(port), source: own_mac(port) };
    let mut hops: Vec<Hop> = (1..5).chain([UPLINK, HOST]).map(link).collect();
    hops.extend([Hop::Blackhole, Hop::Unreachable, Hop::Local]);
    let tunnel = |number: u8| {
        let (local, remote): (_, IpAddr) = match (number + family % 2) % 2 {
            0 => (ends[0], Ipv4Addr::new(192, 168, 0, number + 2).into()),
            _ => (ends[1], Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, u16::from(number) + 2).into()),
        };
        let vni = Vni::new(u32::from(number) + 42).unwrap();
        let macs = (Mac([2, 1, 0, 0, number, 1]), Mac([2, 1, 0, 0, number, 2]));
        let (hop, mtu) = (WIRE, mtu_of(far_mtu) - if far_mtu >= 128 { 70 } else { 0 });
        let vrf = u16::from(number == 1 && vrfs & 2 != 0);
        Tunnel { vni, udp_port: 4789, local, remote, macs, hop, mtu, vrf, port: UPLINK }
    };
    let tunnels: Vec<Tunnel> = (0..world.tunnels).map(tunnel).collect();
    hops.extend((0..tunnels.len()).map(Hop::Tunnel));
    let mut routes = Vec::new();
    for (six, host, net, wide) in [(false, 32, 24, 16), (true, 128, 64, 32)] {
        routes.extend((1..=world.pods).map(|n| Route {
            vrf: vrf_of(n.into()),
            range: Range(place(n - 1, six), host),
            hop: usize::from(n) - 1,
        }));
        for vrf in 0..2 {
            routes.push(Route { vrf, range: Range(place(8, six), host), hop: WIRE + 1 });
            routes.push(Route { vrf, range: Range(place(9, six), wide), hop: BLACKHOLE });
            let far = |n: u8| Route { vrf, range: Range(place(4 + n, six), net), hop: FIRST_TUNNEL + usize::from(n) };
            routes.extend((0..world.tunnels).map(far));
        }
    }
    Config { ports, routes, hops, tunnels, translations: Vec::new(), incarnations: vec![1; 4] }
}

/// What the product is told of it, but for routes and translations, which come one by one.
fn told(config: &Config) -> Told {
    let limits = Limits { icmp_errors: 1_000_000, first_packets: 1_000_000, ..Limits::default() };
    let mut told = Told { generation: 1, limits, ..Told::default() };
    for vrf in 0..2 {
        told.vrfs.slot(vrf).no_route = told::LeafId(u32::try_from(vrf).unwrap() + 1);
        told.leaves.slot(vrf + 1).epoch = 1;
    }
    for port in &config.ports {
        *told.ports.slot(port.number.into()) = changes::told_port(port);
    }
    for (number, hop) in config.hops.iter().enumerate() {
        *told.next_hops.slot(number + 1) = changes::next_hop(hop);
    }
    let (mut decaps, mut arrivals) = (Vec::new(), HashMap::new());
    for (number, tunnel) in config.tunnels.iter().enumerate() {
        let (ends, hop) = ((tunnel.local, tunnel.remote), NextHopId(u32::try_from(tunnel.hop).unwrap() + 1));
        let made = told::Tunnel::vxlan(tunnel.vni, tunnel.udp_port, ends, tunnel.macs, hop, tunnel.mtu);
        *told.tunnels.slot(number) = made.unwrap();
        decaps.push((tunnel.local, tunnel.udp_port));
        let arrival = Arrival { local: tunnel.local, udp_port: tunnel.udp_port, vni: tunnel.vni };
        let remotes = Arc::new([tunnel.remote]);
        let landing = Landing { vrf: VrfId(tunnel.vrf), port: PortId(tunnel.port), mac: tunnel.macs.0, remotes };
        arrivals.insert(arrival, landing);
    }
    (told.decaps, told.arrivals) = (decaps.into(), Arc::new(arrivals));
    for (number, incarnation) in config.incarnations.iter().enumerate() {
        told.endpoints.slot(number + 1).incarnation = *incarnation;
    }
    told
}
