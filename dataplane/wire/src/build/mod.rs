//! Whole frames: what tests send, and what nodes answer with.
//!
//! Each function writes one frame to the start of the caller's bytes, allocates nothing, fills every byte of the frame
//! and every checksum, and returns its length; none when it does not fit. [`frame`] makes a `Vec` of it for tests.
use crate::tcp::Tcp;
use crate::{
    Arp, EtherType, Ethernet, Icmp, Icmpv6, IntoBytes, Ipv4, Ipv6, Mac, Ports, Protocol, Sum, U16, U32, U128, Udp,
    Vlan, Vni, Vxlan, icmp, icmpv6,
};
use core::net::IpAddr;

pub mod answer;
mod discovery;
mod error;
pub use discovery::{neighbour_advertisement, neighbour_solicitation, router_solicitation};
pub use error::{Reason, icmp_error, may_cause_error};

/// Between whom a packet travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The sender on the link.
    pub src_mac: Mac,
    /// The receiver on the link.
    pub dst_mac: Mac,
    /// The network's addresses.
    pub addresses: Addresses,
    /// TTL or hop limit.
    pub hops: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// The VLAN of an 802.1Q tag.
    pub vlan: Option<u16>,
}

/// Source and destination of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4(U32, U32),
    /// IPv6.
    V6(U128, U128),
}

impl Path {
    /// A path with 64 hops and no tag; source first in both pairs.
    #[inline]
    #[must_use]
    pub const fn new((src_mac, dst_mac): (Mac, Mac), addresses: Addresses) -> Self {
        Self { src_mac, dst_mac, addresses, hops: 64, tos: 0, vlan: None }
    }

    /// The path back.
    #[inline]
    #[must_use]
    pub const fn reversed(self) -> Self {
        let addresses = match self.addresses {
            Addresses::V4(src, dst) => Addresses::V4(dst, src),
            Addresses::V6(src, dst) => Addresses::V6(dst, src),
        };
        Self { src_mac: self.dst_mac, dst_mac: self.src_mac, addresses, ..self }
    }
}

impl Addresses {
    /// Both addresses; none when their families differ.
    #[inline]
    #[must_use]
    pub fn of(src: IpAddr, dst: IpAddr) -> Option<Self> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Self::V4(src.to_bits().into(), dst.to_bits().into())),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Self::V6(src.to_bits().into(), dst.to_bits().into())),
            _ => None,
        }
    }

    #[inline]
    fn pseudo(self, protocol: Protocol, len: usize) -> Option<Sum> {
        let len = u32::try_from(len).ok()?;
        Some(match self {
            Self::V4(src, dst) => Sum::pseudo_v4(src, dst, protocol, len),
            Self::V6(src, dst) => Sum::pseudo_v6(src, dst, protocol, len),
        })
    }
}

/// A frame of its own, for tests: `frame(|into| udp(into, &path, ports, b"hello"))`. The bytes that `write` gets are
/// dirty (0xa5), so what it leaves out shows; none when it returns none, as for a frame above 65,600 bytes.
pub fn frame(write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Option<Vec<u8>> {
    let mut bytes = vec![0xa5; 65_600];
    let len = write(&mut bytes)?;
    bytes.truncate(len);
    Some(bytes)
}

/// Ethernet, IP and any payload; its checksum, if it has one, is the caller's.
pub fn ip(into: &mut [u8], path: &Path, protocol: Protocol, payload: &[u8]) -> Option<usize> {
    let mut out = headers(into, path, protocol, payload.len())?;
    out.push(payload)?;
    Some(out.len)
}

/// Ethernet, IP and UDP, with checksum.
pub fn udp(into: &mut [u8], path: &Path, ports: Ports, payload: &[u8]) -> Option<usize> {
    let header = Udp::new(ports.src.get(), ports.dst.get(), payload.len());
    let len = Udp::LEN + payload.len();
    let sum = path.addresses.pseudo(Protocol::UDP, len)?.bytes(header.as_bytes()).bytes(payload);
    let mut out = headers(into, path, Protocol::UDP, len)?;
    out.push(Udp { checksum: U16::new(sum.checksum_udp()), ..header }.as_bytes())?;
    out.push(payload)?;
    Some(out.len)
}

/// Ethernet, IP and TCP, with checksum; `options` are whole words, at most ten, and set the header's length.
pub fn tcp(into: &mut [u8], path: &Path, header: &Tcp, options: &[u8], payload: &[u8]) -> Option<usize> {
    let words =
        u8::try_from(options.len() / 4 + 5).ok().filter(|words| *words < 16 && options.len().is_multiple_of(4))?;
    let header = Tcp { words: words << 4 | header.words & 0x0f, checksum: U16::ZERO, ..*header };
    let len = Tcp::LEN + options.len() + payload.len();
    let sum = path.addresses.pseudo(Protocol::TCP, len)?.bytes(header.as_bytes()).bytes(options).bytes(payload);
    let mut out = headers(into, path, Protocol::TCP, len)?;
    out.push(Tcp { checksum: U16::new(sum.checksum()), ..header }.as_bytes())?;
    out.push(options)?;
    out.push(payload)?;
    Some(out.len)
}

/// Ethernet, IP and an echo request of ICMP or ICMPv6, with `ids` (who, which).
pub fn echo_request(into: &mut [u8], path: &Path, (id, seq): (u16, u16), payload: &[u8]) -> Option<usize> {
    match path.addresses {
        Addresses::V4(..) => icmp4(into, path, Icmp::echo(icmp::Kind::ECHO_REQUEST, id, seq), payload),
        Addresses::V6(..) => icmp6(into, path, Icmpv6::echo(icmpv6::Kind::ECHO_REQUEST, id, seq), payload),
    }
}

/// Ethernet, IP and an echo reply of ICMP or ICMPv6, with `ids` (who, which).
pub fn echo_reply(into: &mut [u8], path: &Path, (id, seq): (u16, u16), payload: &[u8]) -> Option<usize> {
    match path.addresses {
        Addresses::V4(..) => icmp4(into, path, Icmp::echo(icmp::Kind::ECHO_REPLY, id, seq), payload),
        Addresses::V6(..) => icmp6(into, path, Icmpv6::echo(icmpv6::Kind::ECHO_REPLY, id, seq), payload),
    }
}

/// Ethernet and ARP, from the ARP packet's sender to `dst`.
pub fn arp(into: &mut [u8], dst: Mac, arp: &Arp) -> Option<usize> {
    let mut out = Out { bytes: into, len: 0 };
    out.push(Ethernet::new(arp.sender_mac, dst, EtherType::ARP).as_bytes())?;
    out.push(arp.as_bytes())?;
    Some(out.len)
}

/// A frame inside VXLAN over `path`; the UDP checksum is zero over IPv4 and real over IPv6.
pub fn vxlan(into: &mut [u8], path: &Path, source_port: u16, vni: Vni, inner: &[u8]) -> Option<usize> {
    let tunnel = Vxlan::new(vni);
    let len = Vxlan::LEN + inner.len();
    let mut header = Udp::new(source_port, crate::vxlan::PORT, len);
    if let Addresses::V6(..) = path.addresses {
        let sum = path.addresses.pseudo(Protocol::UDP, Udp::LEN + len)?;
        let sum = sum.bytes(header.as_bytes()).bytes(tunnel.as_bytes()).bytes(inner);
        header.checksum = U16::new(sum.checksum_udp());
    }
    let mut out = headers(into, path, Protocol::UDP, Udp::LEN + len)?;
    out.push(header.as_bytes())?;
    out.push(tunnel.as_bytes())?;
    out.push(inner)?;
    Some(out.len)
}

/// Ethernet, IPv4 and any ICMP message.
fn icmp4(into: &mut [u8], path: &Path, header: Icmp, payload: &[u8]) -> Option<usize> {
    let sum = Sum::new().bytes(header.as_bytes()).bytes(payload);
    let mut out = headers(into, path, Protocol::ICMP, Icmp::LEN + payload.len())?;
    out.push(Icmp { checksum: U16::new(sum.checksum()), ..header }.as_bytes())?;
    out.push(payload)?;
    Some(out.len)
}

/// Ethernet, IPv6 and any ICMPv6 message.
fn icmp6(into: &mut [u8], path: &Path, header: Icmpv6, payload: &[u8]) -> Option<usize> {
    let len = Icmpv6::LEN + payload.len();
    let sum = path.addresses.pseudo(Protocol::ICMPV6, len)?.bytes(header.as_bytes()).bytes(payload);
    let mut out = headers(into, path, Protocol::ICMPV6, len)?;
    out.push(Icmpv6 { checksum: U16::new(sum.checksum()), ..header }.as_bytes())?;
    out.push(payload)?;
    Some(out.len)
}

/// Link and network headers in front of `len` bytes.
fn headers<'a>(into: &'a mut [u8], path: &Path, protocol: Protocol, len: usize) -> Option<Out<'a>> {
    let ethertype = match path.addresses {
        Addresses::V4(..) => EtherType::IPV4,
        Addresses::V6(..) => EtherType::IPV6,
    };
    let mut out = Out { bytes: into, len: 0 };
    match path.vlan {
        None => out.push(Ethernet::new(path.src_mac, path.dst_mac, ethertype).as_bytes())?,
        Some(id) => {
            out.push(Ethernet::new(path.src_mac, path.dst_mac, EtherType::VLAN).as_bytes())?;
            out.push(Vlan::new(id, ethertype).as_bytes())?;
        }
    }
    match path.addresses {
        Addresses::V4(src, dst) => {
            u16::try_from(len + Ipv4::LEN).ok()?;
            let header = Ipv4 { ttl: path.hops, tos: path.tos, ..Ipv4::new(src, dst, protocol, len) };
            out.push(header.with_checksum().as_bytes())?;
        }
        Addresses::V6(src, dst) => {
            u16::try_from(len).ok()?;
            let mut header = Ipv6 { hop_limit: path.hops, ..Ipv6::new(src, dst, protocol, len) };
            header.set_traffic_class(path.tos);
            out.push(header.as_bytes())?;
        }
    }
    Some(out)
}

/// A frame under way: what is written so far.
struct Out<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Out<'_> {
    fn push(&mut self, more: &[u8]) -> Option<()> {
        let end = self.len.checked_add(more.len())?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(more);
        self.len = end;
        Some(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{FromBytes, tcp::Flags};
    use proptest::prelude::*;

    pub(crate) const MACS: (Mac, Mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));

    pub(crate) fn path4() -> Path {
        Path::new(MACS, Addresses::V4(0x0a00_0001.into(), 0x0a00_0002.into()))
    }

    pub(crate) fn path6() -> Path {
        Path::new(MACS, Addresses::V6((0xfd00 << 112 | 1).into(), (0xfd00 << 112 | 2).into()))
    }

    /// The sum over a transport and its pseudo-header, which must be all ones.
    pub(crate) fn transport_sum(frame: &[u8]) -> u16 {
        let at = crate::ethernet::carried(frame).unwrap();
        let packet = &frame[at.offset..];
        if at.ethertype == EtherType::IPV4 {
            let (ip, _) = Ipv4::parse(packet).unwrap();
            let segment = &packet[ip.header_len()..];
            let sum =
                if ip.protocol == Protocol::ICMP { Sum::new() } else { ip.pseudo(segment.len().try_into().unwrap()) };
            sum.bytes(segment).folded()
        } else {
            let (ip, found) = Ipv6::parse(packet).unwrap();
            let segment = &packet[found.offset..];
            ip.pseudo(found.protocol, segment.len().try_into().unwrap()).bytes(segment).folded()
        }
    }

    #[test]
    fn too_small_is_none_and_too_long_is_none() {
        for path in [path4(), path6()] {
            let whole = frame(|into| udp(into, &path, Ports::new(1, 2), b"hello")).unwrap();
            for room in 0..whole.len() {
                assert_eq!(udp(&mut vec![0; room], &path, Ports::new(1, 2), b"hello"), None);
            }
            let mut huge = vec![0; 70_000];
            assert_eq!(udp(&mut huge, &path, Ports::new(1, 2), &vec![0; 65_530]), None);
            assert_eq!(tcp(&mut huge, &path, &Tcp::new(1, 2, Flags::SYN), &[1; 3], &[]), None);
            assert_eq!(tcp(&mut huge, &path, &Tcp::new(1, 2, Flags::SYN), &[1; 44], &[]), None);
        }
    }

    #[test]
    fn mixed_families_are_refused() {
        assert_eq!(Addresses::of("10.0.0.1".parse().unwrap(), "::1".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn every_checksum_is_right(
            v6: bool, vlan in prop::option::of(0_u16..4096), tos: u8, words in 0_usize..11,
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let path = Path { vlan, tos, ..if v6 { path6() } else { path4() } };
            let header = Tcp::new(1, 2, Flags::ACK);
            let frames = [
                frame(|into| udp(into, &path, Ports::new(1, 2), &payload)),
                frame(|into| tcp(into, &path, &header, &[1; 40][..words * 4], &payload)),
                frame(|into| echo_request(into, &path, (1, 2), &payload)),
                frame(|into| echo_reply(into, &path.reversed(), (1, 2), &payload)),
            ];
            for bytes in frames.into_iter().flatten() {
                prop_assert_eq!(transport_sum(&bytes), 0xffff);
                prop_assert_eq!(crate::ethernet::carried(&bytes).unwrap().vlan, vlan);
                prop_assert!(bytes.ends_with(&payload));
                if v6 {
                    let outer = frame(|into| vxlan(into, &path, 50_000, Vni::MAX, &bytes)).unwrap();
                    prop_assert_eq!(transport_sum(&outer), 0xffff);
                }
            }
        }
    }

    #[test]
    fn templates_write_what_the_builder_writes() {
        let inner = frame(|into| udp(into, &path4(), Ports::new(1, 2), b"inner")).unwrap();
        let (Addresses::V4(src, dst), vni) = (path4().addresses, Vni::new(7).unwrap()) else { unreachable!() };
        let mut outer = crate::Outer4::template(MACS, (src, dst), vni);
        assert!(outer.finish(inner.len(), 50_000, 3));
        let path = Path { tos: 3, ..path4() };
        let built = frame(|into| vxlan(into, &path, 50_000, vni, &inner)).unwrap();
        assert_eq!([outer.as_bytes(), &inner].concat(), built);

        let Addresses::V6(src, dst) = path6().addresses else { unreachable!() };
        let mut outer = crate::Outer6::template(MACS, (src, dst), vni);
        assert!(outer.finish(inner.len(), 50_000, 3));
        let (ip, _) = Ipv4::ref_from_prefix(&inner[14..]).unwrap();
        let sum = Sum::new().bytes(&inner[..34]).u16(Sum::transport(ip.pseudo(13)).folded());
        outer.udp.checksum = outer.checksum(sum);
        let built = frame(|into| vxlan(into, &Path { tos: 3, ..path6() }, 50_000, vni, &inner)).unwrap();
        assert_eq!([outer.as_bytes(), &inner].concat(), built);
    }
}
