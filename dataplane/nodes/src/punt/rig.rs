//! Single nodes under test: a turn around one packet.
use crate::{Turn, flag};
use engine::{Arcs, FrameCounts, Frames, Instant, Node, Packet, PortId};
use hugepages::{PageKind, Settings, Want};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tables::{
    learned::Learned,
    told::{Forward, NextHop, Port, Prefix, Resolution, Role, Told, VrfId},
};
use wire::{
    Ethernet, FromBytes, Ipv4, Ipv6, Mac, Protocol,
    build::{Addresses, Path},
    ethernet::carried,
};

/// The dataplane's own link address on every port.
pub(crate) const OURS: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);
/// A neighbour's link address.
pub(crate) const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// A pod's port, an uplink where the dataplane resolves by itself, and one where neighbours are told.
pub(crate) const POD: PortId = PortId(1);
pub(crate) const OWN: PortId = PortId(2);
pub(crate) const SHARED: PortId = PortId(3);

pub(crate) struct Rig {
    pub(crate) told: Told,
    pub(crate) learned: Learned,
    pub(crate) frames: Frames,
    pub(crate) now: Instant,
    emitted: Vec<(u8, Packet)>,
}

impl Rig {
    /// Three ports, each with a gateway of both families (10.0.x.1 and fd00::x:1).
    pub(crate) fn new() -> Rig {
        // Frames are never unmapped, and a property makes many rigs: only what is touched costs memory.
        let settings = || Settings { want: Want::Only(PageKind::Plain), prefault: false, ..Settings::new(0) };
        let counts = FrameCounts { small: 400, jumbo: 4, super_: 2, packets: 400 };
        let mut told = Told::default();
        for (id, role, resolution) in [
            (POD, Role::Pod, Resolution::Told),
            (OWN, Role::Uplink, Resolution::Own),
            (SHARED, Role::Uplink, Resolution::Told),
        ] {
            *told.ports.slot(id.0.into()) = Port {
                role,
                resolution,
                vrf: VrfId(7),
                mac: OURS,
                mtu: 1500,
                allowed: Arc::new([Prefix::host(ip("10.0.1.2")), Prefix::host(ip("fd00::1:2"))]),
                gateways: Arc::new([ip(&format!("10.0.{}.1", id.0)), ip(&format!("fd00::{}:1", id.0))]),
                ..Port::default()
            };
        }
        let learned = Learned::new(1024, 1, &settings()).unwrap();
        let frames = Frames::new(0, counts, settings()).unwrap();
        let now = Instant::from_nanoseconds(1_000_000_000_000);
        Rig { told, learned, frames, now, emitted: Vec::with_capacity(256) }
    }

    /// A next hop by `port`, in slot `id`.
    pub(crate) fn hop(&mut self, id: u32, port: PortId) -> &mut NextHop {
        let hop = self.told.next_hops.slot(id as usize);
        *hop = NextHop { forward: Forward::Port, port, mtu: 1500, source: OURS, ..NextHop::default() };
        hop
    }

    /// A packet as the front gives it on: offsets, protocol, flags.
    pub(crate) fn packet(&mut self, frame: &[u8], port: PortId) -> Packet {
        let mut packet = self.frames.copy(frame).unwrap();
        inspect(&mut packet);
        packet.meta_mut().port_in = port.0;
        packet
    }

    pub(crate) fn pass(&mut self, milliseconds: u64) {
        self.now = self.now.after(Duration::from_millis(milliseconds));
    }

    pub(crate) fn turn<R>(&mut self, run: impl FnOnce(&mut Turn<'_>) -> R) -> R {
        let Rig { told, learned, frames, now, emitted } = self;
        run(&mut Turn::new(told, learned, *now, frames, emitted))
    }

    /// One packet through a node.
    pub(crate) fn one<N: Node<Told, Learned>>(&mut self, node: &mut N, packet: &mut Packet) -> N::Next {
        self.turn(|turn| node.one(turn, packet))
    }

    /// What a node emitted, in order.
    pub(crate) fn emitted<A: Arcs>(&mut self) -> Vec<(A, Packet)> {
        self.emitted.drain(..).map(|(arc, packet)| (A::ALL[usize::from(arc)], packet)).collect()
    }

    /// The only packet that a node emitted.
    pub(crate) fn made<A: Arcs>(&mut self) -> (A, Packet) {
        let mut all = self.emitted::<A>();
        assert_eq!(all.len(), 1, "one packet is emitted");
        all.pop().unwrap()
    }

    /// Leaves a turn room for `n` emitted packets only.
    pub(crate) fn limit(&mut self, n: usize) {
        self.emitted = Vec::with_capacity(n);
    }

    pub(crate) fn put(&mut self, packet: Packet) {
        self.frames.put(packet);
    }

    /// Ends everything and checks that no frame was lost.
    pub(crate) fn finish(mut self) {
        self.emitted.drain(..).for_each(|(_, packet)| self.frames.put(packet));
        self.learned.neighbours.clear(&mut self.frames);
        assert!(self.frames.all_home(), "every frame came home");
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A path from the neighbour to us.
pub(crate) fn path(from: &str, to: &str) -> Path {
    Path::new((THEIRS, OURS), Addresses::of(ip(from), ip(to)).unwrap())
}

/// Fills in what the front says of a packet; what is no IP is left alone.
pub(crate) fn inspect(packet: &mut Packet) {
    let start = packet.start();
    let found = carried(packet.data()).and_then(|at| {
        let bytes = packet.data().get(at.offset..)?;
        match bytes.first()? >> 4 {
            4 => {
                let (ip, _) = Ipv4::ref_from_prefix(bytes).ok()?;
                let fragment = if ip.is_fragment() { flag::FRAGMENT } else { 0 };
                Some((at.offset, at.offset + ip.header_len(), ip.protocol, fragment))
            }
            6 => {
                let found = wire::ipv6::transport(bytes).ok()?;
                let fragment = if found.fragment.is_some() { flag::FRAGMENT } else { 0 };
                Some((at.offset, at.offset + found.offset, found.protocol, flag::V6 | fragment))
            }
            _ => None,
        }
    });
    if let Some((l3, l4, protocol, flags)) = found {
        let meta = packet.meta_mut();
        (meta.l3, meta.l4) = (u16::try_from(start + l3).unwrap(), u16::try_from(start + l4).unwrap());
        (meta.protocol, meta.flags) = (protocol.0, flags);
    }
}

/// Asserts that every checksum of a frame is right and its lengths are what it has.
#[track_caller]
pub(crate) fn assert_sound(frame: &[u8]) {
    let bytes = &frame[Ethernet::LEN..];
    let (protocol, pseudo, segment) = match bytes[0] >> 4 {
        4 => {
            let (ip, _) = Ipv4::parse(bytes).expect("a sound IPv4 header");
            let segment = &bytes[ip.header_len()..usize::from(ip.total_len.get())];
            if ip.is_fragment() {
                return;
            }
            (ip.protocol, ip.pseudo(u32::try_from(segment.len()).unwrap()), segment)
        }
        _ => {
            let (ip, found) = Ipv6::parse(bytes).expect("a sound IPv6 header");
            let segment = &bytes[found.offset..ip.total_len()];
            (found.protocol, ip.pseudo(found.protocol, u32::try_from(segment.len()).unwrap()), segment)
        }
    };
    let sum = match protocol {
        Protocol::ICMP => wire::checksum::checksum(segment),
        Protocol::UDP if segment[6..8] == [0, 0] => 0,
        _ => pseudo.bytes(segment).checksum(),
    };
    assert_eq!(sum, 0, "the checksum of {protocol:?}");
}
