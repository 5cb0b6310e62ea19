//! What the model reads in a frame and writes into it.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::{Ethernet, FromBytes, Icmp, IntoBytes, Ipv4, Ipv6, Mac, Ports, Protocol, checksum::checksum};

/// Where the IP header begins.
pub const L3: usize = Ethernet::LEN;

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The VRF.
    pub vrf: u16,
    /// The transport.
    pub protocol: u8,
    /// From; of an echo, the identifier stands for the port.
    pub source: (IpAddr, u16),
    /// To; of an echo, the identifier stands for the port.
    pub destination: (IpAddr, u16),
}

impl Tuple {
    /// The other direction.
    #[must_use]
    pub fn reversed(self) -> Self {
        Tuple { source: self.destination, destination: self.source, ..self }
    }
}

/// What the headers of an IP packet say.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Whether it is IPv6.
    pub six: bool,
    /// From.
    pub source: IpAddr,
    /// To.
    pub destination: IpAddr,
    /// The transport.
    pub protocol: Protocol,
    /// Hops left.
    pub hops: u8,
    /// Where the transport begins in the frame.
    pub l4: usize,
    /// Where the packet ends in the frame.
    pub end: usize,
    /// Of a fragment: which part of a packet it is.
    pub fragment: Option<Part>,
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// What names the packet.
    pub id: u32,
    /// Where the fragment begins in the packet's payload, in bytes.
    pub offset: usize,
}

impl Seen {
    /// Whether it is a fragment, and not the first one.
    pub fn is_later(&self) -> bool {
        self.fragment.is_some_and(|part| part.offset > 0)
    }
}

/// Reads the IP packet in a frame; `None` when it is malformed.
pub fn see(frame: &[u8]) -> Option<Seen> {
    let packet = frame.get(L3..)?;
    if packet.first()? >> 4 == 4 {
        let (ip, _) = Ipv4::parse(packet).ok()?;
        return Some(Seen {
            six: false,
            source: Ipv4Addr::from(ip.src.get()).into(),
            destination: Ipv4Addr::from(ip.dst.get()).into(),
            protocol: ip.protocol,
            hops: ip.ttl,
            l4: L3 + ip.header_len(),
            end: L3 + usize::from(ip.total_len.get()),
            fragment: ip.is_fragment().then(|| Part { id: ip.id.get().into(), offset: ip.fragment_offset() }),
        });
    }
    let (ip, found) = Ipv6::parse(packet).ok()?;
    let fragment = found.fragment.filter(|part| !part.is_whole());
    Some(Seen {
        six: true,
        source: Ipv6Addr::from(ip.src.get()).into(),
        destination: Ipv6Addr::from(ip.dst.get()).into(),
        protocol: found.protocol,
        hops: ip.hop_limit,
        l4: L3 + found.offset,
        end: L3 + ip.total_len(),
        fragment: fragment.map(|part| Part { id: part.id.get(), offset: part.offset() }),
    })
}

/// What stands for ports at the start of a transport: an echo's identifier twice, another ICMP message's type.
pub fn ports(protocol: Protocol, transport: &[u8]) -> Option<(u16, u16)> {
    if protocol.has_ports() {
        let (ports, _) = Ports::ref_from_prefix(transport).ok()?;
        return Some((ports.src.get(), ports.dst.get()));
    }
    let echo = |kinds: [u8; 2]| {
        let (icmp, _) = Icmp::ref_from_prefix(transport).ok()?;
        let id = icmp.echo_id();
        Some(if kinds.contains(&icmp.kind.0) { (id, id) } else { (icmp.kind.0.into(), u16::MAX) })
    };
    match protocol {
        Protocol::ICMP => echo([8, 0]),
        Protocol::ICMPV6 => echo([128, 129]),
        _ => Some((0, 0)),
    }
}

/// The checksum over a frame's transport and pseudo-header: zero when the frame's is right.
pub fn transport_sum(frame: &[u8], seen: &Seen) -> u16 {
    let transport = &frame[seen.l4..seen.end];
    if seen.protocol == Protocol::ICMP {
        return checksum(transport);
    }
    let mut all = match (seen.source, seen.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => unreachable!("one header has one family"),
    };
    all.extend(u32::try_from(transport.len()).expect("short").to_be_bytes());
    all.extend([0, 0, 0, seen.protocol.0]);
    all.extend(transport);
    checksum(&all)
}

/// Lowers the hops left by one.
pub fn age(frame: &mut [u8], six: bool) {
    if six {
        frame[L3 + 7] -= 1;
    } else {
        frame[L3 + 8] -= 1;
        seal(frame);
    }
}

/// Writes the checksum of an IPv4 header without looking at the old one.
pub fn seal(frame: &mut [u8]) {
    let end = L3 + usize::from(frame[L3] & 15) * 4;
    frame[L3 + 10..L3 + 12].fill(0);
    let sum = checksum(&frame[L3..end]);
    frame[L3 + 10..L3 + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Makes a packet of one tuple that of another.
pub fn rewrite(frame: &mut [u8], seen: &Seen, to: &Tuple) {
    let later = seen.is_later();
    let addresses = if seen.six { L3 + 8..L3 + 40 } else { L3 + 12..L3 + 20 };
    let mut before = frame[addresses.clone()].to_vec();
    let mut after = octets(to.source.0, to.destination.0);
    frame[addresses].copy_from_slice(&after);
    if !seen.six {
        seal(frame);
    }
    if later {
        return;
    }
    let transport = &mut frame[seen.l4..];
    if seen.protocol.has_ports() {
        before.extend(&transport[..4]);
        transport[..4].copy_from_slice(Ports::new(to.source.1, to.destination.1).as_bytes());
        after.extend(&transport[..4]);
    }
    let at = match seen.protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        Protocol::ICMPV6 => 2,
        _ => return,
    };
    let old = u16::from_be_bytes([transport[at], transport[at + 1]]);
    if seen.protocol == Protocol::UDP && old == 0 {
        return; // the sender computed none
    }
    let new = adjusted(old, &before, &after);
    let new = if seen.protocol == Protocol::UDP && new == 0 { 0xffff } else { new };
    transport[at..at + 2].copy_from_slice(&new.to_be_bytes());
}

/// Both addresses as they stand in a header.
pub fn octets(from: IpAddr, to: IpAddr) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => unreachable!("a translation keeps the family"),
    }
}

/// The checksum that was `old` after the words `before` became `after`: one's complement by long division (RFC 1624).
fn adjusted(old: u16, before: &[u8], after: &[u8]) -> u16 {
    let sum = |bytes: &[u8]| bytes.chunks(2).map(|word| i64::from(word[0]) << 8 | i64::from(word[1])).sum::<i64>();
    let whole = (i64::from(!old) + sum(after) - sum(before)).rem_euclid(0xffff);
    let whole = u16::try_from(whole).expect("a remainder");
    !(if whole == 0 { 0xffff } else { whole })
}

/// Writes the link header.
pub fn address(frame: &mut [u8], from: Mac, to: Mac) {
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
}

/// Cuts an IPv4 packet that may be cut into fragments of at most `mtu` bytes (RFC 791, section 3.2).
pub fn cut(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let header = usize::from(frame[L3] & 15) * 4;
    let chunk = (usize::from(mtu) - header) / 8 * 8;
    let word = u16::from_be_bytes([frame[L3 + 6], frame[L3 + 7]]);
    let payload = &frame[L3 + header..];
    let count = payload.len().div_ceil(chunk);
    let piece = |(number, part): (usize, &[u8])| {
        let mut piece = [&frame[..L3 + header], part].concat();
        let len = u16::try_from(header + part.len()).expect("not above the MTU");
        let more = if number + 1 < count { Ipv4::MORE_FRAGMENTS } else { word & Ipv4::MORE_FRAGMENTS };
        let offset = (word & 0x1fff) + u16::try_from(number * chunk / 8).expect("below 8192");
        piece[L3 + 2..L3 + 4].copy_from_slice(&len.to_be_bytes());
        piece[L3 + 6..L3 + 8].copy_from_slice(&(more | offset).to_be_bytes());
        seal(&mut piece);
        piece
    };
    payload.chunks(chunk).enumerate().map(piece).collect()
}

/// Lowers the maximum segment size that a SYN offers to `most`.
pub fn clamp(frame: &mut [u8], seen: &Seen, most: u16) {
    const SYN: u8 = 2;
    let transport = &mut frame[seen.l4..seen.end];
    if seen.protocol != Protocol::TCP || seen.is_later() || transport.len() < 20 || transport[13] & SYN == 0 {
        return;
    }
    let end = usize::from(transport[12] >> 4) * 4;
    if let [2, 4, high, low, ..] = transport[20..end]
        && u16::from_be_bytes([high, low]) > most
    {
        let old = u16::from_be_bytes([transport[16], transport[17]]);
        let new = adjusted(old, &[high, low], &most.to_be_bytes());
        transport[22..24].copy_from_slice(&most.to_be_bytes());
        transport[16..18].copy_from_slice(&new.to_be_bytes());
    }
}

/// Writes the checksum of an ICMP or ICMPv6 message anew.
///
/// # Panics
/// When the packet is malformed.
pub fn sum_up(frame: &mut [u8]) {
    let seen = see(frame).expect("a packet that was read before");
    frame[seen.l4 + 2..seen.l4 + 4].fill(0);
    let sum = transport_sum(frame, &seen);
    frame[seen.l4 + 2..seen.l4 + 4].copy_from_slice(&sum.to_be_bytes());
}
