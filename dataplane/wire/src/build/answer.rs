//! Answers written over the frame that asked: same length, nothing copied.
use crate::ethernet::{Carried, carried};
use crate::{Arp, Delta, EtherType, Ethernet, FromBytes, Icmp, Icmpv6, Ipv4, Ipv6, Mac, Protocol, icmp, icmpv6};
use core::mem::swap;

/// Turns an ARP request into the reply that its target is at `mac` (RFC 826); none, and nothing changed, when the frame
/// is no request.
#[inline]
pub fn arp(frame: &mut [u8], mac: Mac) -> Option<()> {
    let at = carried(frame).filter(|at| at.ethertype == EtherType::ARP)?;
    let (asked, _) = Arp::mut_from_prefix(frame.get_mut(at.offset..)?).ok()?;
    if !asked.is_ipv4_over_ethernet() || !asked.is_request() {
        return None;
    }
    *asked = asked.reply(mac);
    let to = asked.target_mac;
    let (ethernet, _) = Ethernet::mut_from_prefix(frame).ok()?;
    (ethernet.dst, ethernet.src) = (to, mac);
    Some(())
}

/// Turns an echo request into its reply, with 64 hops to go (RFC 1122, section 3.2.2.6; RFC 4443, section 4.2); none,
/// and nothing changed, when the frame is no whole echo request. Checksums are corrected, not verified, so a wrong one
/// stays wrong.
#[inline]
pub fn echo(frame: &mut [u8]) -> Option<()> {
    let Carried { ethertype, offset, .. } = carried(frame)?;
    let packet = frame.get_mut(offset..)?;
    match ethertype {
        EtherType::IPV4 => echo4(packet)?,
        EtherType::IPV6 => echo6(packet)?,
        _ => return None,
    }
    let (ethernet, _) = Ethernet::mut_from_prefix(frame).ok()?;
    swap(&mut ethernet.src, &mut ethernet.dst);
    Some(())
}

#[inline]
fn echo4(packet: &mut [u8]) -> Option<()> {
    let (ip, _) = Ipv4::ref_from_prefix(packet).ok()?;
    if ip.version() != 4 || ip.protocol != Protocol::ICMP || ip.is_fragment() {
        return None;
    }
    let header_len = ip.header_len();
    if header_len < Ipv4::LEN {
        return None;
    }
    let (icmp, _) = Icmp::mut_from_prefix(packet.get_mut(header_len..)?).ok()?;
    if icmp.kind != icmp::Kind::ECHO_REQUEST {
        return None;
    }
    icmp.kind = icmp::Kind::ECHO_REPLY;
    icmp.checksum = Delta::u16(0x0800, 0).apply(icmp.checksum);
    let (ip, _) = Ipv4::mut_from_prefix(packet).ok()?;
    swap(&mut ip.src, &mut ip.dst);
    ip.checksum = Delta::u16(u16::from(ip.ttl) << 8, HOPS << 8).apply(ip.checksum);
    ip.ttl = 64;
    Some(())
}

#[inline]
fn echo6(packet: &mut [u8]) -> Option<()> {
    let (ip, rest) = Ipv6::mut_from_prefix(packet).ok()?;
    if ip.version() != 6 || ip.next_header != Protocol::ICMPV6 {
        return None;
    }
    let (icmp, _) = Icmpv6::mut_from_prefix(rest).ok()?;
    if icmp.kind != icmpv6::Kind::ECHO_REQUEST {
        return None;
    }
    icmp.kind = icmpv6::Kind::ECHO_REPLY;
    icmp.checksum = Delta::u16(0x8000, 0x8100).apply(icmp.checksum);
    swap(&mut ip.src, &mut ip.dst);
    ip.hop_limit = 64;
    Some(())
}

const HOPS: u16 = 64;

#[cfg(test)]
mod tests {
    use super::super::tests::{MACS, path4, path6};
    use super::*;
    use crate::build::{self, Path, frame};
    use proptest::prelude::*;

    #[test]
    fn arp_is_answered() {
        let asked = Arp::request(MACS.0, 1.into(), 2.into());
        let mut bytes = frame(|into| build::arp(into, Mac::BROADCAST, &asked)).unwrap();
        arp(&mut bytes, MACS.1).unwrap();
        assert_eq!(Some(&bytes), frame(|into| build::arp(into, MACS.0, &asked.reply(MACS.1))).as_ref());
        let before = bytes.clone();
        assert_eq!((arp(&mut bytes, MACS.0), bytes), (None, before));
    }

    proptest! {
        #[test]
        fn echo_is_what_the_builder_writes(
            v6: bool, vlan in prop::option::of(0_u16..4096), ids: (u16, u16), hops: u8,
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let path = Path { vlan, ..if v6 { path6() } else { path4() } };
            let asked = Path { hops, ..path };
            let mut bytes = frame(|into| build::echo_request(into, &asked, ids, &payload)).unwrap();
            prop_assert_eq!(echo(&mut bytes), Some(()));
            let expected = frame(|into| build::echo_reply(into, &path.reversed(), ids, &payload)).unwrap();
            prop_assert_eq!(&bytes, &expected);
            prop_assert_eq!(echo(&mut bytes), None);
            prop_assert_eq!(&bytes, &expected);
        }

        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..100), kind in prop::sample::select(vec![0x0800_u16, 0x0806, 0x86dd, 0x8100])) {
            if bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&kind.to_be_bytes());
            }
            let _ = (echo(&mut bytes), arp(&mut bytes, Mac::ZERO));
        }
    }
}
