//! One line that says what a frame is, as tcpdump would, down through tunnels to what they carry.
use crate::tcp::{self, Tcp, TcpOption};
use crate::{
    Arp, EtherType, Ethernet, FromBytes, Icmp, Icmpv6, Ipv4, Ipv6, Ports, Protocol, Udp, Vxlan, ethernet, icmp, icmpv6,
    ipv4, nd, vxlan,
};
use core::fmt::{self, Display, Formatter};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Describes a frame in one line; any bytes have a description.
///
/// ```
/// assert_eq!(wire::describe(&[2; 7]), "truncated Ethernet, 7 bytes");
/// ```
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    Description(frame).to_string()
}

/// A frame that displays as its description, for writers that allocate nothing.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a>(pub &'a [u8]);

impl Display for Description<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        frame(f, self.0, MAX_TUNNELS)
    }
}

/// How many tunnels inside each other are followed.
const MAX_TUNNELS: usize = 4;

fn frame(f: &mut Formatter<'_>, bytes: &[u8], tunnels: usize) -> fmt::Result {
    let (Ok((header, _)), Some(at)) = (Ethernet::ref_from_prefix(bytes), ethernet::carried(bytes)) else {
        return write!(f, "truncated Ethernet, {} bytes", bytes.len());
    };
    write!(f, "{} > {}, ", header.src, header.dst)?;
    if let Some(vlan) = at.vlan {
        write!(f, "vlan {vlan}, ")?;
    }
    let payload = bytes.get(at.offset..).unwrap_or_default();
    match at.ethertype {
        EtherType::ARP => arp(f, payload),
        EtherType::IPV4 => ipv4(f, payload, tunnels),
        EtherType::IPV6 => ipv6(f, payload, tunnels),
        EtherType(kind) => write!(f, "ethertype {kind:#06x}, length {}", payload.len()),
    }
}

fn arp(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let Some(arp) = Arp::parse(bytes) else { return f.write_str("ARP malformed") };
    let (sender, target) = (Ipv4Addr::from_bits(arp.sender.get()), Ipv4Addr::from_bits(arp.target.get()));
    match arp.operation.get() {
        Arp::REQUEST => write!(f, "ARP who-has {target} tell {sender}"),
        Arp::REPLY => write!(f, "ARP {sender} is-at {}", arp.sender_mac),
        other => write!(f, "ARP operation {other}, {sender} to {target}"),
    }
}

fn ipv4(f: &mut Formatter<'_>, bytes: &[u8], tunnels: usize) -> fmt::Result {
    let wrong = Ipv4::parse(bytes).err();
    if let Some(wrong) = wrong.filter(|wrong| *wrong != ipv4::Malformed::Checksum) {
        return write!(f, "IPv4 malformed: {wrong:?}");
    }
    let Ok((ip, _)) = Ipv4::ref_from_prefix(bytes) else { return Ok(()) };
    f.write_str("IPv4 ")?;
    let packet = bytes.get(..usize::from(ip.total_len.get())).unwrap_or_default();
    let payload = packet.get(ip.header_len()..).unwrap_or_default();
    let (src, dst) = (Ipv4Addr::from_bits(ip.src.get()), Ipv4Addr::from_bits(ip.dst.get()));
    let between = Between { src: src.into(), dst: dst.into(), protocol: ip.protocol };
    if ip.is_later_fragment() {
        write!(f, "{src} > {dst}: {}", name(ip.protocol))?;
    } else {
        transport(f, between, payload, tunnels)?;
    }
    if ip.is_fragment() {
        part(f, u32::from(ip.id.get()), payload.len(), ip.fragment_offset(), ip.more_fragments())?;
    }
    if wrong.is_some() { f.write_str(" (bad IPv4 checksum)") } else { Ok(()) }
}

fn ipv6(f: &mut Formatter<'_>, bytes: &[u8], tunnels: usize) -> fmt::Result {
    let (ip, found) = match Ipv6::parse(bytes) {
        Ok(read) => read,
        Err(wrong) => return write!(f, "IPv6 malformed: {wrong:?}"),
    };
    f.write_str("IPv6 ")?;
    let payload = bytes.get(found.offset..ip.total_len()).unwrap_or_default();
    let (src, dst) = (Ipv6Addr::from_bits(ip.src.get()), Ipv6Addr::from_bits(ip.dst.get()));
    let between = Between { src: src.into(), dst: dst.into(), protocol: found.protocol };
    match found.fragment {
        Some(fragment) if fragment.is_later_fragment() => write!(f, "{src} > {dst}: {}", name(found.protocol))?,
        _ => transport(f, between, payload, tunnels)?,
    }
    match found.fragment {
        Some(it) => part(f, it.id.get(), payload.len(), it.offset(), it.more_fragments()),
        None => Ok(()),
    }
}

fn part(f: &mut Formatter<'_>, id: u32, len: usize, offset: usize, more: bool) -> fmt::Result {
    write!(f, ", fragment {id}:{len}@{offset}{}", if more { "+" } else { "" })
}

/// The two ends of a packet, and what they speak.
#[derive(Clone, Copy)]
struct Between {
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
}

fn transport(f: &mut Formatter<'_>, between: Between, bytes: &[u8], tunnels: usize) -> fmt::Result {
    let Between { src, dst, protocol } = between;
    match Ports::ref_from_prefix(bytes) {
        Ok((ports, _)) if protocol.has_ports() => write!(f, "{src}.{} > {dst}.{}: ", ports.src, ports.dst)?,
        _ => write!(f, "{src} > {dst}: ")?,
    }
    match protocol {
        Protocol::TCP => tcp(f, bytes),
        Protocol::UDP => udp(f, bytes, tunnels),
        Protocol::ICMP => icmp4(f, bytes),
        Protocol::ICMPV6 => icmp6(f, bytes),
        _ => write!(f, "{}, length {}", name(protocol), bytes.len()),
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::ICMP => "ICMP",
        Protocol::IPV4 => "IPv4",
        Protocol::TCP => "TCP",
        Protocol::UDP => "UDP",
        Protocol::IPV6 => "IPv6",
        Protocol::ESP => "ESP",
        Protocol::ICMPV6 => "ICMPv6",
        Protocol::NO_NEXT_HEADER => "no next header",
        Protocol::SCTP => "SCTP",
        _ => "other protocol",
    }
}

fn udp(f: &mut Formatter<'_>, bytes: &[u8], tunnels: usize) -> fmt::Result {
    let Ok((header, payload)) = Udp::ref_from_prefix(bytes) else { return f.write_str("UDP truncated") };
    write!(f, "UDP, length {}", header.payload_len())?;
    let inside = Vxlan::ref_from_prefix(payload).ok().filter(|_| header.dst.get() == vxlan::PORT && tunnels > 0);
    match inside.and_then(|(tunnel, inner)| Some((tunnel.vni()?, inner))) {
        Some((vni, inner)) => {
            write!(f, ", VXLAN vni {vni}: ")?;
            frame(f, inner, tunnels - 1)
        }
        None => Ok(()),
    }
}

fn tcp(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let Some((header, options, payload)) = Tcp::parse(bytes) else { return f.write_str("TCP malformed") };
    write!(f, "TCP {:?}, seq {}", header.flags, header.seq)?;
    if header.flags.contains(tcp::Flags::ACK) {
        write!(f, ", ack {}", header.ack)?;
    }
    write!(f, ", win {}", header.window)?;
    for option in tcp::options(options) {
        match option {
            TcpOption::MaxSegmentSize(bytes) => write!(f, ", mss {bytes}")?,
            TcpOption::WindowScale(shift) => write!(f, ", wscale {shift}")?,
            TcpOption::SackPermitted => f.write_str(", sackOK")?,
            TcpOption::Sack(blocks) => write!(f, ", sack {}", blocks.len() / 8)?,
            TcpOption::Timestamps(value, echo) => write!(f, ", TS val {value} ecr {echo}")?,
            TcpOption::Nothing | TcpOption::Other(..) => {}
        }
    }
    write!(f, ", length {}", payload.len())
}

fn icmp4(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let Ok((header, rest)) = Icmp::ref_from_prefix(bytes) else { return f.write_str("ICMP truncated") };
    let echo = |f: &mut Formatter<'_>, what| {
        write!(f, "ICMP echo {what}, id {}, seq {}, length {}", header.echo_id(), header.echo_seq(), bytes.len())
    };
    match header.kind {
        icmp::Kind::ECHO_REQUEST => return echo(f, "request"),
        icmp::Kind::ECHO_REPLY => return echo(f, "reply"),
        icmp::Kind::UNREACHABLE if header.is_too_big() => write!(f, "ICMP too big, mtu {}", header.mtu())?,
        icmp::Kind::UNREACHABLE => write!(f, "ICMP unreachable, code {}", header.code)?,
        icmp::Kind::TIME_EXCEEDED => f.write_str("ICMP time exceeded")?,
        icmp::Kind(kind) => write!(f, "ICMP type {kind}, code {}", header.code)?,
    }
    let Some(quote) = icmp::quoted(rest).filter(|_| header.kind.is_error()) else { return Ok(()) };
    let (src, dst) = (Ipv4Addr::from_bits(quote.ip.src.get()), Ipv4Addr::from_bits(quote.ip.dst.get()));
    about(f, Between { src: src.into(), dst: dst.into(), protocol: quote.ip.protocol }, quote.transport)
}

fn icmp6(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let Ok((header, rest)) = Icmpv6::ref_from_prefix(bytes) else { return f.write_str("ICMPv6 truncated") };
    let echo = |f: &mut Formatter<'_>, what| {
        write!(f, "ICMPv6 echo {what}, id {}, seq {}, length {}", header.echo_id(), header.echo_seq(), bytes.len())
    };
    match header.kind {
        icmpv6::Kind::ECHO_REQUEST => return echo(f, "request"),
        icmpv6::Kind::ECHO_REPLY => return echo(f, "reply"),
        icmpv6::Kind::ROUTER_SOLICITATION => f.write_str("ICMPv6 router solicitation")?,
        icmpv6::Kind::NEIGHBOUR_SOLICITATION | icmpv6::Kind::NEIGHBOUR_ADVERTISEMENT => return neighbour(f, bytes),
        icmpv6::Kind::UNREACHABLE => write!(f, "ICMPv6 unreachable, code {}", header.code)?,
        icmpv6::Kind::TOO_BIG => write!(f, "ICMPv6 too big, mtu {}", header.mtu())?,
        icmpv6::Kind::TIME_EXCEEDED => f.write_str("ICMPv6 time exceeded")?,
        icmpv6::Kind(kind) => write!(f, "ICMPv6 type {kind}, code {}", header.code)?,
    }
    let Some(quote) = icmpv6::quoted(rest).filter(|_| header.kind.is_error()) else { return Ok(()) };
    let (src, dst) = (Ipv6Addr::from_bits(quote.ip.src.get()), Ipv6Addr::from_bits(quote.ip.dst.get()));
    about(f, Between { src: src.into(), dst: dst.into(), protocol: quote.found.protocol }, quote.transport)
}

fn about(f: &mut Formatter<'_>, between: Between, transport: &[u8]) -> fmt::Result {
    let Between { src, dst, protocol } = between;
    match Ports::ref_from_prefix(transport) {
        Ok((ports, _)) if protocol.has_ports() => {
            write!(f, ", about {} {src}.{} > {dst}.{}", name(protocol), ports.src, ports.dst)
        }
        _ => write!(f, ", about {} {src} > {dst}", name(protocol)),
    }
}

fn neighbour(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let Some((message, options)) = nd::Neighbour::parse(bytes) else { return f.write_str("ICMPv6 ND malformed") };
    let target = Ipv6Addr::from_bits(message.target.get());
    let (what, kind) = if message.is_solicitation() { ("who-has", nd::SOURCE) } else { ("has", nd::TARGET) };
    write!(f, "ICMPv6 ND {what} {target}")?;
    match nd::link_layer(options, kind) {
        Some(mac) if message.is_solicitation() => write!(f, " tell {mac}"),
        Some(mac) => write!(f, " is-at {mac}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tests::{MACS, path4, path6};
    use crate::build::{self, Path, Reason};
    use crate::{IntoBytes, Mac, U16, Vni};
    use proptest::prelude::*;

    fn say(write: impl FnOnce(&mut [u8]) -> Option<usize>) -> String {
        describe(&build::frame(write).unwrap())
    }

    const LINK: &str = "02:00:00:00:00:01 > 02:00:00:00:00:02, ";

    #[test]
    fn down_through_a_tunnel() {
        let inner = build::frame(|into| build::echo_request(into, &path4(), (1, 2), &[0; 56])).unwrap();
        let outer = Path { vlan: Some(9), ..path6() };
        assert_eq!(
            say(|into| build::vxlan(into, &outer, 50_000, Vni::new(7).unwrap(), &inner)),
            "02:00:00:00:00:01 > 02:00:00:00:00:02, vlan 9, IPv6 fd00::1.50000 > fd00::2.4789: UDP, length 106, VXLAN vni 7: \
             02:00:00:00:00:01 > 02:00:00:00:00:02, IPv4 10.0.0.1 > 10.0.0.2: ICMP echo request, id 1, seq 2, length 64"
        );
    }

    #[test]
    fn each_kind() {
        let tcp = Tcp { ack: 9.into(), ..Tcp::new(80, 1234, tcp::Flags::SYN | tcp::Flags::ACK) };
        let expected = "IPv6 fd00::1.80 > fd00::2.1234: TCP [S.], seq 0, ack 9, win 65535, mss 1460, length 0";
        assert_eq!(say(|into| build::tcp(into, &path6(), &tcp, &[2, 4, 5, 180], &[])), format!("{LINK}{expected}"));
        let ask = Arp::request(MACS.0, 0x0a00_0001.into(), 0x0a00_0002.into());
        let expected = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, ARP who-has 10.0.0.2 tell 10.0.0.1";
        assert_eq!(say(|into| build::arp(into, Mac::BROADCAST, &ask)), expected);
        let ask = |into: &mut [u8]| build::neighbour_solicitation(into, MACS.0, 1.into(), (0xfd00 << 112 | 9).into());
        let expected = "IPv6 ::1 > ff02::1:ff00:9: ICMPv6 ND who-has fd00::9 tell 02:00:00:00:00:01";
        assert_eq!(say(ask), format!("02:00:00:00:00:01 > 33:33:ff:00:00:09, {expected}"));
        let packet = build::frame(|into| build::udp(into, &path4(), Ports::new(5, 6), b"hello")).unwrap();
        let expected = "IPv4 10.0.0.1 > 10.0.0.2: ICMP too big, mtu 1400, about UDP 10.0.0.1.5 > 10.0.0.2.6";
        let error = |into: &mut [u8]| build::icmp_error(into, &path4(), Reason::TooBig(1400), &packet[14..]);
        assert_eq!(say(error), format!("{LINK}{expected}"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut packet = build::frame(|into| build::udp(into, &path4(), Ports::new(5, 6), &[0; 16])).unwrap();
        packet[22] = 3;
        let expected = "IPv4 10.0.0.1.5 > 10.0.0.2.6: UDP, length 16 (bad IPv4 checksum)";
        assert_eq!(describe(&packet), format!("{LINK}{expected}"));
        let (ip, _) = Ipv4::mut_from_prefix(&mut packet[14..]).unwrap();
        *ip = Ipv4 { id: 7.into(), fragment: U16::new(0x2001), ..*ip }.with_checksum();
        assert_eq!(describe(&packet), format!("{LINK}IPv4 10.0.0.1 > 10.0.0.2: UDP, fragment 7:24@8+"));
        assert_eq!(describe(&packet[..40]), format!("{LINK}IPv4 malformed: TotalLen"));
    }

    proptest! {
        #[test]
        fn any_bytes_have_one_line(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in prop::sample::select(vec![0x0800_u16, 0x0806, 0x86dd]),
            protocol in prop::sample::select(vec![1_u8, 6, 17, 58, 44]),
        ) {
            if bytes.len() > 60 {
                let len = bytes.len();
                bytes[12..14].copy_from_slice(&kind.to_be_bytes());
                match kind {
                    0x0800 => drop(Ipv4::new(1.into(), 2.into(), Protocol(protocol), len - 34).write_to_prefix(&mut bytes[14..])),
                    0x86dd => drop(Ipv6::new(1.into(), 2.into(), Protocol(protocol), len - 54).write_to_prefix(&mut bytes[14..])),
                    _ => {}
                }
            }
            let line = describe(&bytes);
            prop_assert!(!line.is_empty() && !line.contains('\n'));
        }

        #[test]
        fn tunnels_end(depth in 0_usize..12) {
            let mut bytes = vec![0; 14];
            for _ in 0..depth {
                bytes = build::frame(|into| build::vxlan(into, &path4(), 50_000, Vni::MAX, &bytes)).unwrap();
            }
            prop_assert_eq!(describe(&bytes).matches("VXLAN").count(), depth.min(MAX_TUNNELS));
        }
    }
}
