//! Headers that come together, as one struct each: one length check, then constant offsets.
//!
//! Reading one says nothing about its fields: [`Ethernet::ethertype`], [`Ipv4::has_options`] and the protocol decide
//! whether the later headers are what the struct calls them.
use crate::checksum::Sum;
use crate::{
    Delta, EtherType, Ethernet, FromBytes, Immutable, IntoBytes, Ipv4, Ipv6, KnownLayout, Mac, Protocol, Tcp, U16, U32,
    U128, Udp, Unaligned, Vni, Vxlan, vxlan,
};

/// Ethernet and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Eth4 {
    /// Link.
    pub ethernet: Ethernet,
    /// Network.
    pub ip: Ipv4,
}

/// Ethernet and IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Eth6 {
    /// Link.
    pub ethernet: Ethernet,
    /// Network.
    pub ip: Ipv6,
}

/// Ethernet, IPv4 without options, UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Eth4Udp {
    /// Link.
    pub ethernet: Ethernet,
    /// Network.
    pub ip: Ipv4,
    /// Transport.
    pub udp: Udp,
}

/// Ethernet, IPv4 without options, TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Eth4Tcp {
    /// Link.
    pub ethernet: Ethernet,
    /// Network.
    pub ip: Ipv4,
    /// Transport.
    pub tcp: Tcp,
}

/// Ethernet, IPv6 without extension headers, UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Eth6Udp {
    /// Link.
    pub ethernet: Ethernet,
    /// Network.
    pub ip: Ipv6,
    /// Transport.
    pub udp: Udp,
}

/// Ethernet, IPv6 without extension headers, TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Eth6Tcp {
    /// Link.
    pub ethernet: Ethernet,
    /// Network.
    pub ip: Ipv6,
    /// Transport.
    pub tcp: Tcp,
}

/// What goes in front of a frame that travels through VXLAN over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Outer4 {
    /// Link.
    pub ethernet: Ethernet,
    /// Network.
    pub ip: Ipv4,
    /// Transport; its checksum is zero (RFC 7348, section 5).
    pub udp: Udp,
    /// Tunnel.
    pub vxlan: Vxlan,
}

/// What goes in front of a frame that travels through VXLAN over IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Outer6 {
    /// Link.
    pub ethernet: Ethernet,
    /// Network.
    pub ip: Ipv6,
    /// Transport.
    pub udp: Udp,
    /// Tunnel.
    pub vxlan: Vxlan,
}

impl Outer4 {
    /// Bytes in front of the inner frame.
    pub const LEN: usize = size_of::<Self>();
    /// The largest inner frame, in bytes.
    pub const MAX_INNER: u16 = u16::MAX - Self::IN_IP;
    const IN_IP: u16 = 20 + Self::IN_UDP;
    const IN_UDP: u16 = 8 + 8;

    /// A tunnel's template: everything that its packets share, for [`Outer4::finish`] to complete.
    #[inline]
    #[must_use]
    pub fn template(macs: (Mac, Mac), addresses: (U32, U32), vni: Vni) -> Self {
        let (src, dst) = addresses;
        let ip = Ipv4 { total_len: U16::ZERO, ..Ipv4::new(src, dst, Protocol::UDP, 0) };
        Self {
            ethernet: Ethernet::new(macs.0, macs.1, EtherType::IPV4),
            ip: ip.with_checksum(),
            udp: Udp { len: U16::ZERO, ..Udp::new(0, vxlan::PORT, 0) },
            vxlan: Vxlan::new(vni),
        }
    }

    /// Completes a copy of a template for an inner frame of `inner_len` bytes: lengths, the source port
    /// ([`vxlan::source_port`]), the type of service (RFC 6040, section 4.1), and the header's checksum.
    ///
    /// False, and nothing changed, when the frame is longer than [`Outer4::MAX_INNER`].
    #[inline]
    #[must_use]
    pub fn finish(&mut self, inner_len: usize, source_port: u16, tos: u8) -> bool {
        let Some(inner) = u16::try_from(inner_len).ok().filter(|len| *len <= Self::MAX_INNER) else { return false };
        let total_len = inner + Self::IN_IP;
        let delta =
            Delta::u16(u16::from(self.ip.tos), u16::from(tos)).and(Delta::u16(self.ip.total_len.get(), total_len));
        self.ip.checksum = delta.apply(self.ip.checksum);
        self.ip.tos = tos;
        self.ip.total_len = U16::new(total_len);
        self.udp.src = U16::new(source_port);
        self.udp.len = U16::new(inner + Self::IN_UDP);
        true
    }
}

impl Outer6 {
    /// Bytes in front of the inner frame.
    pub const LEN: usize = size_of::<Self>();
    /// The largest inner frame, in bytes.
    pub const MAX_INNER: u16 = u16::MAX - Self::IN_UDP;
    const IN_UDP: u16 = 8 + 8;

    /// A tunnel's template: everything that its packets share, for [`Outer6::finish`] to complete.
    #[inline]
    #[must_use]
    pub fn template(macs: (Mac, Mac), addresses: (U128, U128), vni: Vni) -> Self {
        let (src, dst) = addresses;
        Self {
            ethernet: Ethernet::new(macs.0, macs.1, EtherType::IPV6),
            ip: Ipv6::new(src, dst, Protocol::UDP, 0),
            udp: Udp { len: U16::ZERO, ..Udp::new(0, vxlan::PORT, 0) },
            vxlan: Vxlan::new(vni),
        }
    }

    /// Completes a copy of a template as [`Outer4::finish`] does; the UDP checksum becomes zero, which a receiver may
    /// refuse (RFC 6935, section 5): [`Outer6::checksum`] gives a real one.
    #[inline]
    #[must_use]
    pub fn finish(&mut self, inner_len: usize, source_port: u16, traffic_class: u8) -> bool {
        let Some(inner) = u16::try_from(inner_len).ok().filter(|len| *len <= Self::MAX_INNER) else { return false };
        let len = U16::new(inner + Self::IN_UDP);
        self.ip.set_traffic_class(traffic_class);
        self.ip.payload_len = len;
        self.udp.src = U16::new(source_port);
        self.udp.len = len;
        self.udp.checksum = U16::ZERO;
        true
    }

    /// The UDP checksum of finished headers in front of an inner frame whose sum is `inner`.
    ///
    /// `Sum::new().bytes(frame)` gives `inner`; where the inner transport's checksum is known to be right, its bytes
    /// sum to the complement of its pseudo-header's ([`Sum::transport`]), and only the headers before it need be read.
    #[inline]
    #[must_use]
    pub fn checksum(&self, inner: Sum) -> U16 {
        let udp = Udp { checksum: U16::ZERO, ..self.udp };
        let sum = self.ip.pseudo(Protocol::UDP, u32::from(self.udp.len.get()));
        let sum = sum.bytes(udp.as_bytes()).bytes(self.vxlan.as_bytes()).u16(inner.folded());
        U16::new(sum.checksum_udp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::checksum;
    use proptest::prelude::*;

    const MACS: (Mac, Mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));

    #[test]
    fn sizes() {
        assert_eq!((size_of::<Eth4>(), size_of::<Eth6>(), size_of::<Eth4Udp>()), (34, 54, 42));
        assert_eq!((size_of::<Eth4Tcp>(), size_of::<Eth6Udp>(), size_of::<Eth6Tcp>()), (54, 62, 74));
        assert_eq!((Outer4::LEN, Outer6::LEN), (50, 70));
    }

    #[test]
    fn too_long_is_refused() {
        let mut outer4 = Outer4::template(MACS, (1.into(), 2.into()), Vni::MAX);
        let mut outer6 = Outer6::template(MACS, (1.into(), 2.into()), Vni::MAX);
        let before = (outer4, outer6);
        assert!(!outer4.finish(65_500, 1, 0) && !outer6.finish(65_520, 1, 0));
        assert_eq!((outer4, outer6), before);
        assert!(outer4.finish(65_499, 1, 0) && outer6.finish(65_519, 1, 0));
        assert_eq!((outer4.ip.total_len.get(), outer6.udp.len.get()), (65_535, 65_535));
    }

    proptest! {
        #[test]
        fn round_trip(src: u128, dst: u128, port: u16, tos: u8, inner in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut outer = Outer6::template(MACS, (src.into(), dst.into()), Vni::MAX);
            prop_assert!(outer.finish(inner.len(), port, tos));
            outer.udp.checksum = outer.checksum(Sum::new().bytes(&inner));
            let mut dirty = [0xa5; 300];
            outer.write_to_prefix(&mut dirty).unwrap();
            prop_assert_eq!(Outer6::ref_from_prefix(&dirty).unwrap().0, &outer);
            let segment = [outer.udp.as_bytes(), outer.vxlan.as_bytes(), &inner].concat();
            let len = u32::try_from(segment.len()).unwrap();
            prop_assert_eq!(outer.ip.pseudo(Protocol::UDP, len).bytes(&segment).checksum(), 0);
            prop_assert_eq!((outer.ip.traffic_class(), dirty[70]), (tos, 0xa5));
        }

        #[test]
        fn finished_again_and_again(src: u32, dst: u32, lens in prop::collection::vec(0_usize..65_500, 3), tos: u8) {
            let mut outer = Outer4::template(MACS, (src.into(), dst.into()), Vni::MAX);
            for len in lens {
                prop_assert!(outer.finish(len, 50_000, tos));
                prop_assert_eq!(checksum(outer.ip.as_bytes()), 0);
                prop_assert_eq!(outer.ip.payload_len(), len + 16);
                prop_assert_eq!(outer.udp.payload_len(), len + 8);
            }
            let mut dirty = [0xa5; 60];
            outer.write_to_prefix(&mut dirty).unwrap();
            prop_assert_eq!(Outer4::ref_from_prefix(&dirty).unwrap().0, &outer);
            prop_assert_eq!(&dirty[50..], &[0xa5; 10]);
        }
    }
}
