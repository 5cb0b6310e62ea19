//! ICMP errors: what a packet that cannot go on is answered with.
use super::{Addresses, Path, icmp4, icmp6};
use crate::{FromBytes, Icmp, Icmpv6, Ipv4, Ipv6, Protocol, icmp, icmpv6};

/// Why a packet cannot go on, in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No route to the destination.
    NoRoute,
    /// The neighbour does not answer.
    NoNeighbour,
    /// Nobody listens on the port.
    NoPort,
    /// A policy forbids it.
    Prohibited,
    /// It is larger than this many bytes, headers of IP included, and must not be fragmented.
    TooBig(u16),
    /// Its hops ran out.
    NoHops,
}

/// Ethernet, IP and the ICMP or ICMPv6 error for `packet`, which begins with its IP header and is quoted up to 576
/// bytes in all (RFC 1812, section 4.3.2.3) or 1,280 (RFC 4443, section 2.4 c).
///
/// Ask [`may_cause_error`] first. None when the path's family is not the packet's.
pub fn icmp_error(into: &mut [u8], path: &Path, reason: Reason, packet: &[u8]) -> Option<usize> {
    match path.addresses {
        Addresses::V4(..) => {
            let (ip, _) = Ipv4::ref_from_prefix(packet).ok().filter(|(ip, _)| ip.version() == 4)?;
            let quote = packet.len().min(usize::from(ip.total_len.get())).min(576 - Ipv4::LEN - Icmp::LEN);
            icmp4(into, path, reason.v4(), packet.get(..quote)?)
        }
        Addresses::V6(..) => {
            let (ip, _) = Ipv6::ref_from_prefix(packet).ok().filter(|(ip, _)| ip.version() == 6)?;
            let quote = packet.len().min(ip.total_len()).min(1280 - Ipv6::LEN - Icmpv6::LEN);
            icmp6(into, path, reason.v6(), packet.get(..quote)?)
        }
    }
}

/// Whether an error may be sent for `packet`, which begins with its IP header and was not sent to a link-layer group:
/// not for errors, later fragments, and what came from or went to no single host (RFC 1812, section 4.3.2.7; RFC 4443,
/// section 2.4 e, whose exception for too big packets to groups is not used).
#[must_use]
pub fn may_cause_error(packet: &[u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => may_cause_error4(packet).unwrap_or(false),
        Some(6) => may_cause_error6(packet).unwrap_or(false),
        _ => false,
    }
}

fn may_cause_error4(packet: &[u8]) -> Option<bool> {
    let (ip, _) = Ipv4::ref_from_prefix(packet).ok()?;
    let (src, dst) = (ip.src.get().to_be_bytes(), ip.dst.get().to_be_bytes());
    // Networks 0 and 127, groups, and what is reserved above them name no single host (RFC 1122, section 3.2.1.3).
    let single = |[first, ..]: [u8; 4]| first != 0 && first != 127 && first < 224;
    if ip.is_later_fragment() || !single(src) || !single(dst) {
        return Some(false);
    }
    if ip.protocol != Protocol::ICMP {
        return Some(true);
    }
    let (icmp, _) = Icmp::ref_from_prefix(packet.get(ip.header_len()..)?).ok()?;
    Some(!icmp.kind.is_error())
}

fn may_cause_error6(packet: &[u8]) -> Option<bool> {
    let (ip, _) = Ipv6::ref_from_prefix(packet).ok()?;
    let found = crate::ipv6::transport(packet).ok()?;
    let group = |address: u128| address >> 120 == 0xff;
    let later = found.fragment.is_some_and(|part| part.is_later_fragment());
    if later || ip.src.get() <= 1 || group(ip.src.get()) || group(ip.dst.get()) {
        return Some(false);
    }
    if found.protocol != Protocol::ICMPV6 {
        return Some(true);
    }
    let (icmp, _) = Icmpv6::ref_from_prefix(packet.get(found.offset..)?).ok()?;
    Some(!icmp.kind.is_error() && icmp.kind != icmpv6::Kind::REDIRECT)
}

impl Reason {
    fn v4(self) -> Icmp {
        let unreachable = |code| Icmp::new(icmp::Kind::UNREACHABLE, code, 0);
        match self {
            Self::NoRoute => unreachable(icmp::NET_UNREACHABLE),
            Self::NoNeighbour => unreachable(icmp::HOST_UNREACHABLE),
            Self::NoPort => unreachable(icmp::PORT_UNREACHABLE),
            Self::Prohibited => unreachable(icmp::PROHIBITED),
            Self::TooBig(mtu) => Icmp::new(icmp::Kind::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, u32::from(mtu)),
            Self::NoHops => Icmp::new(icmp::Kind::TIME_EXCEEDED, 0, 0),
        }
    }

    fn v6(self) -> Icmpv6 {
        let unreachable = |code| Icmpv6::new(icmpv6::Kind::UNREACHABLE, code, 0);
        match self {
            Self::NoRoute => unreachable(icmpv6::NO_ROUTE),
            Self::NoNeighbour => unreachable(icmpv6::ADDRESS_UNREACHABLE),
            Self::NoPort => unreachable(icmpv6::PORT_UNREACHABLE),
            Self::Prohibited => unreachable(icmpv6::PROHIBITED),
            Self::TooBig(mtu) => Icmpv6::new(icmpv6::Kind::TOO_BIG, 0, u32::from(mtu)),
            Self::NoHops => Icmpv6::new(icmpv6::Kind::TIME_EXCEEDED, 0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{path4, path6, transport_sum};
    use super::*;
    use crate::build::{echo_request, frame, ip, udp};
    use crate::{Ports, U128, ipv6};
    use proptest::prelude::*;

    #[test]
    fn quotes_are_cut() {
        for (path, at, limit) in [(path4(), 14, 576), (path6(), 14, 1280)] {
            let long = frame(|into| udp(into, &path, Ports::new(1, 2), &[7; 3000])).unwrap();
            let error = |packet: &[u8]| frame(|into| icmp_error(into, &path.reversed(), Reason::TooBig(1400), packet));
            let sent = error(&long[at..]).unwrap();
            assert_eq!((sent.len() - at, transport_sum(&sent)), (limit, 0xffff));
            assert!(may_cause_error(&long[at..]) && !may_cause_error(&sent[at..]));
            let short = frame(|into| udp(into, &path, Ports::new(1, 2), b"")).unwrap();
            let padded = [&short[at..], &[0; 18]].concat();
            assert_eq!(error(&padded), error(&short[at..]));
        }
        let packet = frame(|into| udp(into, &path6(), Ports::new(1, 2), b"")).unwrap();
        assert_eq!(frame(|into| icmp_error(into, &path4(), Reason::NoRoute, &packet[14..])), None);
    }

    #[test]
    fn quotes_are_read_back() {
        let packet = frame(|into| udp(into, &path4(), Ports::new(5, 6), b"payload")).unwrap();
        let sent = frame(|into| icmp_error(into, &path4(), Reason::TooBig(1400), &packet[14..])).unwrap();
        let (icmp, rest) = Icmp::ref_from_prefix(&sent[34..]).unwrap();
        let quote = icmp::quoted(rest).unwrap();
        assert!(icmp.is_too_big() && icmp.mtu() == 1400 && quote.ip.protocol == Protocol::UDP);
        assert_eq!(Ports::ref_from_prefix(quote.transport).unwrap().0, &Ports::new(5, 6));
        let packet = frame(|into| udp(into, &path6(), Ports::new(5, 6), b"payload")).unwrap();
        let sent = frame(|into| icmp_error(into, &path6(), Reason::TooBig(1400), &packet[14..])).unwrap();
        let (icmp, rest) = Icmpv6::ref_from_prefix(&sent[54..]).unwrap();
        assert_eq!((icmp.kind, icmp.mtu()), (icmpv6::Kind::TOO_BIG, 1400));
        assert_eq!(icmpv6::quoted(rest).unwrap().found.protocol, Protocol::UDP);
    }

    #[test]
    fn silence_where_it_is_due() {
        let changed4 = |change: fn(&mut Ipv4)| {
            let mut bytes = frame(|into| echo_request(into, &path4(), (1, 1), b"")).unwrap().split_off(14);
            change(Ipv4::mut_from_prefix(&mut bytes).unwrap().0);
            may_cause_error(&bytes)
        };
        assert!(changed4(|_| {}));
        assert!(!changed4(|ip| ip.fragment = 1.into()));
        assert!(!changed4(|ip| ip.src = 0.into()));
        assert!(!changed4(|ip| ip.dst = 0xe000_0001.into()));
        assert!(!changed4(|ip| ip.src = u32::MAX.into()));
        let changed6 = |change: fn(&mut Ipv6)| {
            let mut bytes = frame(|into| echo_request(into, &path6(), (1, 1), b"")).unwrap().split_off(14);
            change(Ipv6::mut_from_prefix(&mut bytes).unwrap().0);
            may_cause_error(&bytes)
        };
        assert!(changed6(|_| {}));
        assert!(!changed6(|ip| ip.src = U128::ZERO));
        assert!(!changed6(|ip| ip.dst = crate::nd::ALL_NODES));
        let later = ipv6::Fragment::new(Protocol::UDP, 8, false, 1);
        let bytes =
            frame(|into| ip(into, &path6(), Protocol::FRAGMENT, zerocopy::IntoBytes::as_bytes(&later))).unwrap();
        assert!(!may_cause_error(&bytes[14..]) && !may_cause_error(&[]));
    }

    proptest! {
        #[test]
        fn any_bytes(packet in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = may_cause_error(&packet);
            for path in [path4(), path6()] {
                if let Some(sent) = frame(|into| icmp_error(into, &path, Reason::NoHops, &packet)) {
                    prop_assert_eq!(transport_sum(&sent), 0xffff);
                }
            }
        }
    }
}
