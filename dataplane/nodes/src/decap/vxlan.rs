//! VXLAN, inwards.
use crate::{Turn, flag};
use engine::{Arcs, Node, Packet, Segmentation, arcs};
use std::net::IpAddr;
use tables::{
    learned::Learned,
    told::{Arrival, Told, VrfId},
};
use wire::{Ecn, EtherType, Ethernet, FromBytes, Ipv4, Ipv6, Mac, Udp, Vxlan};

/// Takes the inner frame out of a VXLAN packet (RFC 7348) that the front has checked and that is for one of
/// [`Told::decaps`].
///
/// Only hosts that the network lists may send, and only to the network's own link address. A congestion mark is carried
/// inwards (RFC 6040, section 4.2).
#[derive(Clone, Copy, Debug, Default)]
pub struct VxlanDecap;

arcs! {
    /// Where packets go from [`VxlanDecap`].
    pub VxlanDecapNext {
        /// Back to the front, as the frame that was inside.
        Inner,
        /// Dropped: no VXLAN header with a network's number, or lengths that contradict each other.
        NotVxlan,
        /// Dropped: nobody listens for this network at this address and port.
        UnknownNetwork,
        /// Dropped: the sender is none of the network's hosts.
        UnknownRemote,
        /// Dropped: the inner frame is for another station.
        WrongAddress,
        /// Dropped: the inner frame is for a group of stations, and a routed network has none.
        Group,
        /// Dropped: what is inside is shorter than a link header.
        NotEthernet,
        /// Dropped: congestion was experienced, and the inner packet's transport would not hear of it.
        Congested,
    }
}

impl Node<Told, Learned> for VxlanDecap {
    const NAME: &'static str = "vxlan-decap";
    const STAGES: usize = 0; // the front left the headers in the cache
    type Next = VxlanDecapNext;

    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> VxlanDecapNext {
        decap(turn.told, packet, &mut None).unwrap_or_else(|drop| drop)
    }

    /// Neighbours in a batch mostly came by the same tunnel: what was found for one is tried first for the next.
    fn many(&mut self, turn: &mut Turn<'_>, batch: &mut [Packet], arcs: &mut [u8]) {
        let mut last = None;
        for (packet, arc) in batch.iter_mut().zip(arcs) {
            *arc = decap(turn.told, packet, &mut last).unwrap_or_else(|drop| drop).index();
        }
    }
}

/// Where packets from one host in one network land.
#[derive(Clone, Copy)]
struct Found {
    arrival: Arrival,
    remote: IpAddr,
    vrf: VrfId,
    port: u16,
    mac: Mac,
}

/// What the outer headers say.
struct Outside {
    arrival: Arrival,
    remote: IpAddr,
    ecn: Ecn,
    headers: u16, // bytes up to the inner frame
    len: usize,   // of the inner frame
}

#[inline(always)]
fn decap(told: &Told, packet: &mut Packet, last: &mut Option<Found>) -> Result<VxlanDecapNext, VxlanDecapNext> {
    let outside = outside(packet).ok_or(VxlanDecapNext::NotVxlan)?;
    let known = last.filter(|found| found.arrival == outside.arrival && found.remote == outside.remote);
    let found = match known {
        Some(found) => found,
        None => *last.insert(find(told, &outside)?),
    };
    let Ok((ethernet, _)) = Ethernet::ref_from_prefix(packet.data().get(outside.headers.into()..).unwrap_or_default())
    else {
        return Err(VxlanDecapNext::NotEthernet);
    };
    if ethernet.dst != found.mac {
        return Err(if ethernet.dst.is_group() { VxlanDecapNext::Group } else { VxlanDecapNext::WrongAddress });
    }
    packet.pull(outside.headers).ok_or(VxlanDecapNext::NotVxlan)?;
    if packet.len() > outside.len {
        packet.resize(outside.len); // the outer frame was padded
    }
    if !carry_mark(packet.data_mut(), outside.ecn) {
        return Err(VxlanDecapNext::Congested);
    }
    land(packet, &found);
    Ok(VxlanDecapNext::Inner)
}

#[inline(always)]
fn outside(packet: &Packet) -> Option<Outside> {
    let meta = packet.meta();
    let (local, remote, ecn) = if meta.flags & flag::V6 == 0 {
        let (ip, _) = Ipv4::ref_from_prefix(packet.from(meta.l3)).ok()?;
        (IpAddr::V4(ip.dst.get().into()), IpAddr::V4(ip.src.get().into()), ip.ecn())
    } else {
        let (ip, _) = Ipv6::ref_from_prefix(packet.from(meta.l3)).ok()?;
        (IpAddr::V6(ip.dst.get().into()), IpAddr::V6(ip.src.get().into()), ip.ecn())
    };
    let (udp, payload) = Udp::parse(packet.from(meta.l4))?;
    let (tunnel, inner) = Vxlan::ref_from_prefix(payload).ok()?;
    // A super-frame of whole outer packets cannot be taken apart here.
    let offload = meta.offload;
    if offload.segmentation != Segmentation::None && offload.checksum_start == meta.l4 {
        return None;
    }
    let l4 = usize::from(meta.l4).checked_sub(packet.start())?;
    Some(Outside {
        arrival: Arrival { local, udp_port: udp.dst.get(), vni: tunnel.vni()? },
        remote,
        ecn,
        headers: u16::try_from(l4 + Udp::LEN + Vxlan::LEN).ok()?,
        len: inner.len(),
    })
}

#[inline(never)]
fn find(told: &Told, outside: &Outside) -> Result<Found, VxlanDecapNext> {
    let landing = told.arrivals.get(&outside.arrival).ok_or(VxlanDecapNext::UnknownNetwork)?;
    if landing.remotes.binary_search(&outside.remote).is_err() {
        return Err(VxlanDecapNext::UnknownRemote);
    }
    let (arrival, remote) = (outside.arrival, outside.remote);
    Ok(Found { arrival, remote, vrf: landing.vrf, port: landing.port.0, mac: landing.mac })
}

/// Marks the inner packet as its outer one was; `false` when it must be dropped instead. What is no whole IP header is
/// left for the front to refuse.
#[inline(always)]
fn carry_mark(frame: &mut [u8], outer: Ecn) -> bool {
    if outer == Ecn::NotCapable {
        return true; // the inner mark stays, whatever it is
    }
    let Ok((ethernet, packet)) = Ethernet::mut_from_prefix(frame) else { return true };
    match ethernet.ethertype() {
        EtherType::IPV4 => {
            let Ok((ip, _)) = Ipv4::mut_from_prefix(packet) else { return true };
            let Some(ecn) = ip.ecn().decapsulated(outer) else { return false };
            if ecn != ip.ecn() {
                ip.set_ecn(ecn);
            }
        }
        EtherType::IPV6 => {
            let Ok((ip, _)) = Ipv6::mut_from_prefix(packet) else { return true };
            let Some(ecn) = ip.ecn().decapsulated(outer) else { return false };
            ip.set_ecn(ecn);
        }
        _ => {}
    }
    true
}

/// Leaves the metadata as the front wants it for a fresh packet.
#[inline(always)]
fn land(packet: &mut Packet, found: &Found) {
    let inner = packet.start();
    let meta = packet.meta_mut();
    (meta.vrf, meta.port_in) = (found.vrf.0, found.port);
    meta.flags = flag::DECAPPED;
    (meta.l3, meta.l4) = (0, 0);
    if usize::from(meta.offload.checksum_start) < inner {
        meta.offload = Default::default(); // it was about the outer packet, which is gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::punt::rig::{self, OURS, Rig, THEIRS, ip, path};
    use engine::Offload;
    use proptest::prelude::*;
    use std::{collections::HashMap, sync::Arc};
    use tables::told::Landing;
    use wire::{Ports, Vni, build, build::Path};

    const ENDS: [(&str, &str); 2] = [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")];

    fn rig() -> Rig {
        let mut rig = Rig::new();
        let arrivals = ENDS.map(|(remote, local)| {
            let vni = Vni::new(77).unwrap();
            let mut remotes = [ip("203.0.113.9"), ip(remote)];
            remotes.sort_unstable();
            let remotes = Arc::new(remotes);
            let landing = Landing { vrf: VrfId(5), port: rig::SHARED, mac: OURS, remotes };
            (Arrival { local: ip(local), udp_port: 4789, vni }, landing)
        });
        rig.told.arrivals = Arc::new(HashMap::from(arrivals));
        rig
    }

    fn inner(to: Mac, tos: u8) -> Vec<u8> {
        let path = Path { dst_mac: to, tos, ..path("10.0.9.9", "10.0.1.2") };
        build::frame(|into| build::udp(into, &path, Ports::new(1, 2), b"hello")).unwrap()
    }

    fn outer(ends: (&str, &str), tos: u8, vni: u32, inner: &[u8]) -> Vec<u8> {
        let path = Path { tos, ..path(ends.0, ends.1) };
        build::frame(|into| build::vxlan(into, &path, 50_000, Vni::new(vni).unwrap(), inner)).unwrap()
    }

    fn decap(rig: &mut Rig, frame: &[u8]) -> (VxlanDecapNext, Packet) {
        let mut packet = rig.packet(frame, rig::OWN);
        (rig.one(&mut VxlanDecap, &mut packet), packet)
    }

    #[test]
    fn the_inner_frame_comes_out_and_lands_in_its_network() {
        let mut rig = rig();
        for ends in ENDS {
            let frame = inner(OURS, 0);
            let padded = [&outer(ends, 0, 77, &frame)[..], &[0; 9]].concat();
            let (arc, packet) = decap(&mut rig, &padded);
            assert_eq!((arc, packet.data()), (VxlanDecapNext::Inner, &frame[..]));
            let meta = packet.meta();
            assert_eq!((meta.vrf, meta.port_in, meta.flags), (5, rig::SHARED.0, flag::DECAPPED));
            assert_eq!((meta.l3, meta.l4), (0, 0));
            rig.put(packet);
        }
        rig.finish();
    }

    #[test]
    fn a_congestion_mark_goes_inwards_or_the_packet_goes() {
        let mut rig = rig();
        for (ecn_in, ecn_out, expected) in [(0, 3, None), (1, 3, Some(3)), (2, 1, Some(1)), (3, 0, Some(3))] {
            let (arc, packet) = decap(&mut rig, &outer(ENDS[0], ecn_out, 77, &inner(OURS, 0xa0 | ecn_in)));
            match expected {
                None => assert_eq!(arc, VxlanDecapNext::Congested),
                Some(ecn) => {
                    assert_eq!((arc, packet.data()[15]), (VxlanDecapNext::Inner, 0xa0 | ecn));
                    rig::assert_sound(packet.data());
                }
            }
            rig.put(packet);
        }
        let six = build::frame(|into| {
            build::udp(into, &Path { tos: 2, ..path("fd00::9", "fd00::1:2") }, Ports::new(1, 2), b"hello")
        });
        let (arc, packet) = decap(&mut rig, &outer(ENDS[0], 3, 77, &six.unwrap()));
        assert_eq!((arc, packet.data()[15] >> 4), (VxlanDecapNext::Inner, 3));
        rig.put(packet);
        rig.finish();
    }

    #[test]
    fn what_is_not_for_us_is_dropped_by_name() {
        let mut rig = rig();
        let good = inner(OURS, 0);
        let mut unmarked = outer(ENDS[0], 0, 77, &good);
        unmarked[42] = 0; // the flag that says there is a number
        let mut overlong = outer(ENDS[0], 0, 77, &good);
        overlong[38] = 0xff; // UDP length
        let cases = [
            (VxlanDecapNext::NotVxlan, unmarked),
            (VxlanDecapNext::NotVxlan, overlong),
            (VxlanDecapNext::UnknownNetwork, outer(ENDS[0], 0, 78, &good)),
            (VxlanDecapNext::UnknownNetwork, outer(("192.0.2.2", "192.0.2.3"), 0, 77, &good)),
            (VxlanDecapNext::UnknownRemote, outer(("192.0.2.4", "192.0.2.1"), 0, 77, &good)),
            (VxlanDecapNext::UnknownRemote, outer(("2001:db8::4", "2001:db8::1"), 0, 77, &good)),
            (VxlanDecapNext::WrongAddress, outer(ENDS[0], 0, 77, &inner(THEIRS, 0))),
            (VxlanDecapNext::Group, outer(ENDS[0], 0, 77, &inner(Mac::BROADCAST, 0))),
            (VxlanDecapNext::NotEthernet, outer(ENDS[0], 0, 77, &good[..13])),
        ];
        for (expected, frame) in cases {
            let (arc, packet) = decap(&mut rig, &frame);
            assert_eq!(arc, expected);
            rig.put(packet);
        }
        rig.finish();
    }

    #[test]
    fn nobody_may_send_where_no_host_is_listed() {
        let mut rig = rig();
        Arc::make_mut(&mut rig.told.arrivals).values_mut().for_each(|landing| landing.remotes = Arc::new([]));
        let (arc, packet) = decap(&mut rig, &outer(ENDS[0], 0, 77, &inner(OURS, 0)));
        assert_eq!(arc, VxlanDecapNext::UnknownRemote);
        rig.put(packet);
        rig.finish();
    }

    #[test]
    fn a_batch_of_several_senders_is_told_apart() {
        let mut rig = rig();
        let strange = outer(("192.0.2.4", "192.0.2.1"), 0, 77, &inner(OURS, 0));
        let frames = [outer(ENDS[0], 0, 77, &inner(OURS, 0)), strange, outer(ENDS[1], 0, 77, &inner(OURS, 0))];
        let order = [0, 0, 1, 2, 0, 1];
        let mut batch: Vec<_> = order.iter().map(|i| rig.packet(&frames[*i], rig::OWN)).collect();
        let mut arcs = [9; 6];
        rig.turn(|turn| VxlanDecap.many(turn, &mut batch, &mut arcs));
        let (inner, unknown) = (VxlanDecapNext::Inner.index(), VxlanDecapNext::UnknownRemote.index());
        assert_eq!(arcs, [inner, inner, unknown, inner, inner, unknown]);
        batch.into_iter().for_each(|packet| rig.put(packet));
        rig.finish();
    }

    #[test]
    fn only_what_is_about_the_inner_packet_is_still_to_be_done() {
        let mut rig = rig();
        let frame = outer(ENDS[0], 0, 77, &inner(OURS, 0));
        for (at, kept) in [(34, false), (50 + 34, true)] {
            let mut packet = rig.packet(&frame, rig::OWN);
            let checksum_start = u16::try_from(packet.start()).unwrap() + at;
            let offload = Offload { checksum_start, checksum_offset: 6, ..Offload::default() };
            packet.meta_mut().offload = offload;
            assert_eq!(rig.one(&mut VxlanDecap, &mut packet), VxlanDecapNext::Inner);
            assert_eq!(packet.meta().offload, if kept { offload } else { Offload::default() });
            packet.meta_mut().offload = Offload::default();
            rig.put(packet);
        }
        let mut packet = rig.packet(&frame, rig::OWN);
        let checksum_start = packet.meta().l4;
        let segmentation = Segmentation::Udp;
        packet.meta_mut().offload = Offload { checksum_start, checksum_offset: 6, segmentation, segment_size: 20 };
        assert_eq!(rig.one(&mut VxlanDecap, &mut packet), VxlanDecapNext::NotVxlan);
        rig.put(packet);
        rig.finish();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn any_bytes_pass_or_leave_by_name(
            bytes in prop::collection::vec(any::<u8>(), 0..120), at in 14usize..100, l3: u16, l4: u16, six: bool,
        ) {
            let mut rig = rig();
            let mut frame = outer(ENDS[usize::from(six)], 3, 77, &inner(OURS, 0));
            let at = at.min(frame.len());
            frame.truncate(at);
            frame.extend(bytes);
            let mut packet = rig.packet(&frame, rig::OWN);
            rig.one(&mut VxlanDecap, &mut packet);
            rig.put(packet);
            let mut packet = rig.packet(&frame, rig::OWN);
            (packet.meta_mut().l3, packet.meta_mut().l4) = (l3 % 512, l4 % 512);
            rig.one(&mut VxlanDecap, &mut packet);
            rig.put(packet);
            rig.finish();
        }
    }
}
