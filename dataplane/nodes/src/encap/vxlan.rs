//! VXLAN, outwards.
use crate::{
    Turn,
    egress::{
        length::{self, Fit},
        link::Start,
    },
    flag,
};
use engine::{Node, Packet, Segmentation, arcs};
use tables::{
    learned::Learned,
    told::{Forward, NextHopId, Outer, Told, Tunnel},
};
use wire::{Ethernet, FromBytes, Mac, Outer4, Outer6, Protocol, Sum, U16, tcp, vxlan};

/// Puts a packet into the tunnel that its next hop names (RFC 7348), as an inner frame behind outer headers.
///
/// DSCP and ECN are copied outwards (RFC 6040, section 4.1), the source port spreads flows by their hash, and a SYN's
/// maximum segment size is lowered to what the tunnel carries. What is still to be done by a port stays to be done on
/// the inner packet. The outer UDP checksum is zero over IPv4 and real over IPv6, whose receivers may insist on it (RFC
/// 6935); that of a super-frame is only marked as wanted, for whoever cuts it to compute for each segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct VxlanEncap;

arcs! {
    /// Where packets go from [`VxlanEncap`].
    pub VxlanEncapNext {
        /// To egress, as a packet of the underlay.
        Out,
        /// Longer than the tunnel carries, and not to be fragmented: its sender is told.
        TooBig,
        /// Longer than the tunnel carries: to be fragmented, and its pieces come back.
        Fragment,
        /// Dropped: the next hop is no tunnel, or the tunnel is gone.
        NoTunnel,
        /// Dropped: there is no room for the outer headers in front of it.
        NoHeadroom,
        /// Dropped: the outer headers cannot say its length.
        TooLong,
        /// Dropped: it is no IP packet behind a link header.
        NotIp,
    }
}

impl Node<Told, Learned> for VxlanEncap {
    const NAME: &'static str = "vxlan-encap";
    const STAGES: usize = 0; // the front left the headers in the cache
    type Next = VxlanEncapNext;

    #[inline(always)]
    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> VxlanEncapNext {
        let hop = turn.told.next_hop(NextHopId(packet.meta().next_hop));
        let Some(hop) = hop.filter(|hop| hop.forward == Forward::Tunnel) else { return VxlanEncapNext::NoTunnel };
        let Some(tunnel) = turn.told.tunnel(hop.tunnel) else { return VxlanEncapNext::NoTunnel };
        match length::fit(packet, tunnel.mtu) {
            Fit::Fits => {}
            misfit => return refuse(packet, tunnel, misfit),
        }
        if packet.meta().protocol == Protocol::TCP.0 {
            clamp(packet, tunnel.mtu);
        }
        let arc = match &tunnel.outer {
            Outer::V4(outer) => push4(packet, outer, &tunnel.inner),
            Outer::V6(outer) => push6(packet, outer, &tunnel.inner),
            Outer::None => VxlanEncapNext::NoTunnel,
        };
        let meta = packet.meta_mut();
        (meta.next_hop, meta.tunnel) = (tunnel.next_hop.0, hop.tunnel.0);
        arc
    }
}

#[cold]
fn refuse(packet: &mut Packet, tunnel: &Tunnel, misfit: Fit) -> VxlanEncapNext {
    if misfit == Fit::Fragment {
        packet.meta_mut().flow = tunnel.mtu.into();
        return VxlanEncapNext::Fragment;
    }
    length::complain(packet, tunnel.mtu);
    VxlanEncapNext::TooBig
}

/// Lowers the maximum segment size of a SYN to what fits into `mtu`.
#[inline(always)]
fn clamp(packet: &mut Packet, mtu: u16) {
    const FLAGS: usize = 13;
    let meta = *packet.meta();
    let segment = packet.from_mut(meta.l4);
    let is_syn = segment.get(FLAGS).is_some_and(|flags| flags & tcp::Flags::SYN.0 != 0);
    if is_syn && meta.flags & flag::FRAGMENT == 0 {
        let headers = if meta.flags & flag::V6 == 0 { 40 } else { 60 };
        lower(segment, mtu.saturating_sub(headers), meta.offload.checksum_start == meta.l4);
    }
}

#[cold]
fn lower(segment: &mut [u8], most: u16, partial: bool) {
    if partial {
        let _covered_later = tcp::lower_mss(segment, most); // a partial checksum holds only the pseudo-header's sum
    } else {
        let _changed = tcp::clamp_mss(segment, most);
    }
}

/// The template is copied in one piece, and what differs is written over it: a header is only written, never read back.
#[inline(always)]
fn push4(packet: &mut Packet, template: &Outer4, inner: &(Mac, Mac)) -> VxlanEncapNext {
    const LEN: u16 = 50;
    const _: () = assert!(LEN as usize == Outer4::LEN);
    let Some(start) = start(packet) else { return VxlanEncapNext::NotIp };
    let Some(len) = length_to_say(packet, Outer4::MAX_INNER) else { return VxlanEncapNext::TooLong };
    let port = vxlan::source_port(spread(packet.meta().hash));
    let Some(Ok((outer, frame))) = packet.push(LEN).map(Outer4::mut_from_prefix) else {
        return VxlanEncapNext::NoHeadroom;
    };
    let total_len = len + (LEN - 14); // `length_to_say` left room for it
    *outer = *template;
    outer.ip.tos = start.class;
    outer.ip.total_len = total_len.into();
    // The template's type of service and length are zero: they need only be added to what its header sums to.
    let added = u32::from(start.class) << 16 | u32::from(total_len);
    outer.ip.checksum = Sum::new().u16(!template.ip.checksum.get()).u32(added).checksum().into();
    outer.udp.src = port.into();
    outer.udp.len = (len + 16).into();
    dress(frame, inner, start.ethertype)
}

#[inline(always)]
fn push6(packet: &mut Packet, template: &Outer6, inner: &(Mac, Mac)) -> VxlanEncapNext {
    const LEN: u16 = 70;
    const _: () = assert!(LEN as usize == Outer6::LEN);
    let Some(start) = start(packet) else { return VxlanEncapNext::NotIp };
    let Some(len) = length_to_say(packet, Outer6::MAX_INNER) else { return VxlanEncapNext::TooLong };
    if dress(packet.data_mut(), inner, start.ethertype) != VxlanEncapNext::Out {
        return VxlanEncapNext::NotIp;
    }
    let port = vxlan::source_port(spread(packet.meta().hash));
    let sum = sum(packet);
    let Some(Ok((outer, _))) = packet.push(LEN).map(Outer6::mut_from_prefix) else {
        return VxlanEncapNext::NoHeadroom;
    };
    *outer = *template;
    if !outer.finish(len.into(), port, start.class) {
        return VxlanEncapNext::TooLong;
    }
    outer.udp.checksum = sum.map_or(WANTED, |inner| outer.checksum(inner));
    VxlanEncapNext::Out
}

/// What the IP packet behind the link header begins with.
#[inline(always)]
fn start(packet: &Packet) -> Option<Start> {
    let [.., first, second] = packet.data().first_chunk::<16>()?;
    Some(Start::of(*first, *second))
}

/// Gives the inner frame its link header.
#[inline(always)]
fn dress(frame: &mut [u8], (src, dst): &(Mac, Mac), ethertype: U16) -> VxlanEncapNext {
    let Ok((header, _)) = Ethernet::mut_from_prefix(frame) else { return VxlanEncapNext::NotIp };
    (header.dst, header.src, header.kind) = (*dst, *src, ethertype);
    VxlanEncapNext::Out
}

/// The inner frame's length for the outer headers, which can say `most`. Those of a super-frame are written anew for
/// each segment, and its own length need not fit them.
#[inline(always)]
fn length_to_say(packet: &Packet, most: u16) -> Option<u16> {
    let len = u16::try_from(packet.len()).ok().filter(|len| *len <= most);
    if packet.meta().offload.segmentation == Segmentation::None { len } else { Some(len.unwrap_or(most)) }
}

/// What the finished inner frame sums to; `None` for a super-frame. Where its checksum is partial, what that covers
/// will sum to the complement of what the field holds now.
fn sum(packet: &Packet) -> Option<Sum> {
    let offload = packet.meta().offload;
    if offload.segmentation != Segmentation::None {
        return None;
    }
    let partial = || {
        let at = usize::from(offload.checksum_start).checked_sub(packet.start())?;
        let (before, covered) = packet.data().split_at_checked(at)?;
        let field = covered.get(offload.checksum_offset.into()..)?.first_chunk::<2>()?;
        let covered = Sum::transport(Sum::new().bytes(field)).folded();
        Some(Sum::new().bytes(before).bytes(&covered.to_be_bytes()))
    };
    partial().or_else(|| Some(Sum::new().bytes(packet.data())))
}

/// Both halves of a hash: of a stateless packet they are its addresses.
#[inline(always)]
fn spread(hash: u64) -> u32 {
    let [a, b, c, d, ..] = (hash ^ hash >> 32).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A checksum that is not zero: whoever cuts the super-frame computes the right one.
const WANTED: U16 = U16::MAX_VALUE;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Complaint,
        punt::rig::{self, Rig, path},
    };
    use engine::Offload;
    use proptest::prelude::*;
    use tables::told::TunnelId;
    use wire::{Ecn, Ipv4, Ports, Tcp, Vni, build};

    const INNER: (Mac, Mac) = (Mac([2, 0, 0, 0, 1, 1]), Mac([2, 0, 0, 0, 1, 2]));
    const V4: (&str, &str) = ("192.0.2.1", "192.0.2.2");
    const V6: (&str, &str) = ("2001:db8::1", "2001:db8::2");

    fn rig(ends: (&str, &str), mtu: u16) -> Rig {
        let mut rig = Rig::new();
        let ends = (rig::ip(ends.0), rig::ip(ends.1));
        let tunnel = Tunnel::vxlan(Vni::new(77).unwrap(), 8472, ends, INNER, NextHopId(9), mtu).unwrap();
        *rig.told.tunnels.slot(4) = tunnel;
        let hop = rig.hop(3, rig::POD);
        (hop.forward, hop.tunnel) = (Forward::Tunnel, TunnelId(4));
        rig
    }

    fn udp(len: usize) -> Vec<u8> {
        let path = build::Path { tos: 0b1010_1010, ..path("10.0.1.2", "10.0.9.9") };
        build::frame(|into| build::udp(into, &path, Ports::new(1, 2), &vec![7; len])).unwrap()
    }

    fn encap(rig: &mut Rig, frame: &[u8], change: impl FnOnce(&mut Packet)) -> (VxlanEncapNext, Packet) {
        let mut packet = rig.packet(frame, rig::POD);
        packet.meta_mut().next_hop = 3;
        packet.meta_mut().hash = 0x0001_2345;
        change(&mut packet);
        (rig.one(&mut VxlanEncap, &mut packet), packet)
    }

    #[test]
    fn an_outer_header_over_ipv4_says_what_is_inside() {
        let mut rig = rig(V4, 1450);
        let frame = udp(100);
        let (arc, packet) = encap(&mut rig, &frame, |_| ());
        assert_eq!(arc, VxlanEncapNext::Out);
        let (outer, inner) = Outer4::ref_from_prefix(packet.data()).unwrap();
        rig::assert_sound(packet.data());
        assert_eq!((outer.udp.src.get(), outer.udp.dst.get()), (vxlan::source_port(0x0001_2345), 8472));
        assert_eq!((outer.udp.checksum, outer.vxlan.vni()), (U16::ZERO, Vni::new(77)));
        assert_eq!(usize::from(outer.ip.total_len.get()), packet.len() - Ethernet::LEN);
        assert_eq!((outer.ip.tos, outer.ip.ecn(), outer.ip.dont_fragment()), (0b1010_1010, Ecn::Capable0, true));
        let (link, rest) = Ethernet::ref_from_prefix(inner).unwrap();
        assert_eq!((link.src, link.dst), INNER);
        assert_eq!(rest, &frame[14..]);
        let meta = packet.meta();
        assert_eq!((meta.next_hop, meta.tunnel, usize::from(meta.l3)), (9, 4, packet.start() + 50 + 14));
        rig.put(packet);
        rig.finish();
    }

    #[test]
    fn over_ipv6_the_checksum_is_real_also_where_the_inner_one_is_not_finished() {
        let mut rig = rig(V6, 1430);
        let frame = udp(101);
        let (arc, whole) = encap(&mut rig, &frame, |_| ());
        assert_eq!(arc, VxlanEncapNext::Out);
        rig::assert_sound(whole.data());
        let (arc, mut partial) = encap(&mut rig, &frame, |packet| {
            let l4 = packet.meta().l4;
            let (ip, _) = Ipv4::read_from_prefix(packet.from(packet.meta().l3)).unwrap();
            let pseudo = ip.pseudo(109).folded();
            packet.from_mut(l4)[6..8].copy_from_slice(&pseudo.to_be_bytes());
            packet.meta_mut().offload = Offload { checksum_start: l4, checksum_offset: 6, ..Offload::default() };
        });
        assert_eq!(arc, VxlanEncapNext::Out);
        let at = usize::from(partial.meta().l4) - partial.start();
        wire::checksum::complete(partial.data_mut(), at, 6).unwrap();
        assert_eq!(partial.data(), whole.data(), "a port that completes it sends what was sent complete");
        rig.put(whole);
        rig.put(partial);
        rig.finish();
    }

    #[test]
    fn a_super_frame_keeps_its_offload_and_leaves_lengths_and_checksum_to_the_cutter() {
        let mut rig = rig(V6, 1430);
        let frame = build::frame(|into| {
            build::tcp(into, &path("10.0.1.2", "10.0.9.9"), &Tcp::new(1, 2, tcp::Flags::ACK), &[], &vec![1; 65_495])
        });
        let offload = |packet: &mut Packet, segment_size| {
            let checksum_start = packet.meta().l4;
            let segmentation = Segmentation::Tcp4;
            packet.meta_mut().offload = Offload { checksum_start, checksum_offset: 16, segmentation, segment_size };
        };
        let frame = frame.unwrap();
        let (arc, packet) = encap(&mut rig, &frame, |packet| offload(packet, 1390));
        assert_eq!(arc, VxlanEncapNext::Out);
        let (outer, _) = Outer6::ref_from_prefix(packet.data()).unwrap();
        assert_ne!(outer.udp.checksum, U16::ZERO, "it asks for a checksum");
        assert_eq!(packet.meta().offload.segment_size, 1390);
        rig.put(packet);
        let (arc, packet) = encap(&mut rig, &frame, |packet| offload(packet, 1391));
        assert_eq!((arc, packet.meta().flow), (VxlanEncapNext::TooBig, 1430), "one byte more does not fit");
        rig.put(packet);
        let (arc, packet) = encap(&mut rig, &frame, |packet| {
            offload(packet, 1400);
            may_fragment(packet);
        });
        assert_eq!(
            (arc, packet.meta().offload.segment_size),
            (VxlanEncapNext::Out, 1390),
            "its segments are shortened"
        );
        rig.put(packet);
        rig.finish();
    }

    fn may_fragment(packet: &mut Packet) {
        let l3 = packet.meta().l3;
        let (ip, _) = Ipv4::mut_from_prefix(packet.from_mut(l3)).unwrap();
        ip.fragment = 0.into();
        *ip = ip.with_checksum();
    }

    #[test]
    fn what_is_too_long_is_complained_of_or_fragmented() {
        let mut rig = rig(V4, 1450);
        let (arc, packet) = encap(&mut rig, &udp(1450 - 28), |_| ());
        assert_eq!(arc, VxlanEncapNext::Out, "exactly as long as allowed");
        rig.put(packet);
        let (arc, packet) = encap(&mut rig, &udp(1450 - 27), |_| ());
        assert_eq!((arc, packet.meta().flow), (VxlanEncapNext::TooBig, 1450));
        assert_eq!(packet.meta().early, Complaint::TooBig as u8);
        assert_eq!(packet.data(), udp(1450 - 27), "it is left as it was, for its sender to see");
        rig.put(packet);
        let (arc, packet) = encap(&mut rig, &udp(1450 - 27), may_fragment);
        assert_eq!((arc, packet.meta().flow), (VxlanEncapNext::Fragment, 1450));
        rig.put(packet);
        rig.finish();
    }

    #[test]
    fn a_syn_learns_what_fits() {
        let mut rig = rig(V4, 1450);
        for (from, to, most) in [("10.0.1.2", "10.0.9.9", 1410), ("fd00::1", "fd00::2", 1390)] {
            let syn = Tcp::new(1, 2, tcp::Flags::SYN);
            let frame = build::frame(|into| build::tcp(into, &path(from, to), &syn, &[2, 4, 0x23, 0x28], &[])).unwrap();
            let (arc, packet) = encap(&mut rig, &frame, |_| ());
            assert_eq!(arc, VxlanEncapNext::Out);
            let (_, options, _) = Tcp::parse(packet.from(packet.meta().l4)).unwrap();
            assert_eq!(options, [&[2, 4][..], &u16::to_be_bytes(most)].concat());
            rig::assert_sound(&packet.data()[50..]);
            let sum = Tcp::parse(packet.from(packet.meta().l4)).unwrap().0.checksum;
            rig.put(packet);
            let mut before = U16::ZERO;
            let (_, packet) = encap(&mut rig, &frame, |packet| {
                let checksum_start = packet.meta().l4;
                packet.meta_mut().offload = Offload { checksum_start, checksum_offset: 16, ..Offload::default() };
                before = Tcp::parse(packet.from(checksum_start)).unwrap().0.checksum;
            });
            let after = Tcp::parse(packet.from(packet.meta().l4)).unwrap().0.checksum;
            assert_eq!(after, before, "a partial checksum does not cover it");
            assert_ne!(after, sum);
            rig.put(packet);
        }
        rig.finish();
    }

    #[test]
    fn what_cannot_enter_is_dropped_by_name() {
        let mut rig = rig(V4, 1450);
        type Change = fn(&mut Packet);
        let cases: [(VxlanEncapNext, Change); 4] = [
            (VxlanEncapNext::NoTunnel, |packet| packet.meta_mut().next_hop = 99),
            (VxlanEncapNext::NoHeadroom, |packet| {
                packet.push(230).unwrap();
            }),
            (VxlanEncapNext::NotIp, |packet| {
                packet.resize(15).unwrap();
            }),
            (VxlanEncapNext::NoTunnel, |packet| packet.meta_mut().next_hop = 5),
        ];
        rig.hop(5, rig::POD); // no tunnel
        for (expected, change) in cases {
            let (arc, packet) = encap(&mut rig, &udp(10), change);
            assert_eq!(arc, expected);
            rig.put(packet);
        }
        rig.told.tunnels.slot(4).mtu = u16::MAX;
        let (arc, packet) = encap(&mut rig, &udp(65_500), |_| ());
        assert_eq!(arc, VxlanEncapNext::TooLong);
        rig.put(packet);
        rig.told.tunnels.slot(4).exists = false;
        let (arc, packet) = encap(&mut rig, &udp(10), |_| ());
        assert_eq!(arc, VxlanEncapNext::NoTunnel);
        rig.put(packet);
        rig.finish();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_bytes_pass_or_leave_by_name(
            bytes in prop::collection::vec(any::<u8>(), 0..200), six: bool, l3: u16, l4: u16, protocol: u8, flags: u8,
            start: u16, offset: u8, size: u16,
        ) {
            let mut rig = rig(if six { V6 } else { V4 }, 120);
            let (_, packet) = encap(&mut rig, &bytes, |packet| {
                let meta = packet.meta_mut();
                (meta.l3, meta.l4, meta.protocol, meta.flags) = (l3 % 512, l4 % 512, protocol % 20, flags);
                let segmentation = if size % 3 == 0 { Segmentation::Tcp4 } else { Segmentation::None };
                meta.offload = Offload { checksum_start: start % 512, checksum_offset: offset, segmentation, segment_size: size };
            });
            rig.put(packet);
            rig.finish();
        }
    }
}
