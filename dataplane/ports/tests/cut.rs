//! Cut super-frames: every segment stands on its own, and together they are what was cut.
use engine::{FrameCounts, Frames, Offload, Packet, Segmentation};
use ports::cut::{Cutter, LEAST_SEGMENT, Refusal, finish_checksum};
use proptest::prelude::*;

/// A super-frame to be cut.
#[derive(Clone, Debug)]
struct Shape {
    tcp: bool,
    six: bool,
    tunnel: Option<Tunnel>,
    options: usize, // of TCP, in words
    flags: u8,
    id: u16,
    sequence: u32,
    size: u16,
    payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Tunnel {
    six: bool,
    checksum: bool,
}

/// Super-frame and metadata, as nodes hand them to a port.
struct Built {
    bytes: Vec<u8>,
    l3: usize,
    l4: usize,
}

impl Shape {
    fn build(&self) -> Built {
        let mut transport = if self.tcp { self.tcp_header() } else { vec![0x12, 0x34, 0x00, 0x35, 0, 0, 0, 0] };
        transport.extend(&self.payload);
        if !self.tcp {
            let len = u16::try_from(transport.len()).unwrap();
            transport[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let ip = ip_header(self.six, if self.tcp { 6 } else { 17 }, transport.len(), self.id);
        let at = if self.tcp { 16 } else { 6 };
        let pseudo = fold(pseudo_sum(&ip, transport.len()));
        transport[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let mut inner = ethernet(self.six);
        let (mut l3, mut l4) = (14, 14 + ip.len());
        inner.extend(ip);
        inner.extend(transport);
        let Some(tunnel) = self.tunnel else { return Built { bytes: inner, l3, l4 } };
        let mut bytes = ethernet(tunnel.six);
        let mut outer = ip_header(tunnel.six, 17, 16 + inner.len(), 0xfff0);
        bytes.append(&mut outer);
        let check = if tunnel.checksum { [0xaa, 0xbb] } else { [0, 0] };
        bytes.extend([0xc0, 0x01, 0x12, 0xb5, 0, 0, check[0], check[1]]);
        bytes.extend([8, 0, 0, 0, 0, 1, 2, 0]);
        (l3, l4) = (l3 + bytes.len(), l4 + bytes.len());
        bytes.extend(inner);
        Built { bytes, l3, l4 }
    }

    fn tcp_header(&self) -> Vec<u8> {
        let mut header = vec![0x12, 0x34, 0x01, 0xbb];
        header.extend(self.sequence.to_be_bytes());
        header.extend([1, 2, 3, 4, u8::try_from((5 + self.options) << 4).unwrap(), self.flags, 0xff, 0, 0, 0, 0, 0]);
        header.extend((0..self.options * 4).map(|_| 1));
        header
    }

    fn segmentation(&self) -> Segmentation {
        match (self.tcp, self.six) {
            (true, false) => Segmentation::Tcp4,
            (true, true) => Segmentation::Tcp6,
            _ => Segmentation::Udp,
        }
    }

    fn packet(&self, frames: &mut Frames) -> (Packet, Built) {
        let built = self.build();
        let mut packet = frames.copy(&built.bytes).unwrap();
        let at = |offset: usize| u16::try_from(packet.start() + offset).unwrap();
        let (l3, l4) = (at(built.l3), at(built.l4));
        packet.meta_mut().l3 = l3;
        packet.meta_mut().offload = Offload {
            checksum_start: l4,
            checksum_offset: if self.tcp { 16 } else { 6 },
            segmentation: self.segmentation(),
            segment_size: self.size,
        };
        (packet, built)
    }
}

fn ethernet(six: bool) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    bytes.extend(if six { [0x86, 0xdd] } else { [8, 0] });
    bytes
}

fn ip_header(six: bool, protocol: u8, len: usize, id: u16) -> Vec<u8> {
    let short = |len: usize| u16::try_from(len).unwrap_or(0).to_be_bytes();
    if six {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(short(len));
        bytes.extend([protocol, 64]);
        bytes.extend((0..32u8).map(|i| i.wrapping_mul(7).wrapping_add(0x20)));
        return bytes;
    }
    let mut bytes = vec![0x45, 0];
    bytes.extend(short(20 + len));
    bytes.extend(id.to_be_bytes());
    bytes.extend([0x40, 0, 64, protocol, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6]);
    bytes
}

/// The sum of RFC 1071, word by word.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// Of a bare IP header without options or extensions.
fn pseudo_sum(ip: &[u8], len: usize) -> u64 {
    let (addresses, protocol) = if ip[0] >> 4 == 4 { (&ip[12..20], ip[9]) } else { (&ip[8..40], ip[6]) };
    sum(addresses) + u64::from(protocol) + len as u64
}

/// Reads an IP packet as its receiver would: gives its transport segment, all lengths and checksums verified.
fn received(ip: &[u8]) -> &[u8] {
    let (len, header) = match ip[0] >> 4 {
        4 => (usize::from(u16::from_be_bytes([ip[2], ip[3]])), 20),
        _ => (usize::from(u16::from_be_bytes([ip[4], ip[5]])) + 40, 40),
    };
    assert_eq!(len, ip.len(), "length of IP");
    assert!(header == 40 || fold(sum(&ip[..20])) == 0xffff, "checksum of IPv4");
    let (head, transport) = ip.split_at(header);
    let protocol = if header == 20 { ip[9] } else { ip[6] };
    if protocol == 17 {
        assert_eq!(usize::from(u16::from_be_bytes([transport[4], transport[5]])), transport.len(), "length of UDP");
        if transport[6..8] == [0, 0] {
            return transport;
        }
    }
    assert_eq!(fold(sum(transport) + pseudo_sum(head, transport.len())), 0xffff, "checksum of {protocol}");
    transport
}

fn frames() -> Frames {
    let counts = FrameCounts { small: 4, jumbo: 4, super_: 4, packets: 8 };
    Frames::new(0, counts, hugepages::Settings::new(0)).unwrap()
}

fn shapes() -> impl Strategy<Value = Shape> {
    let tunnel = prop::option::of((any::<bool>(), any::<bool>()).prop_map(|(six, checksum)| Tunnel { six, checksum }));
    let lens = prop_oneof![1..3000usize, 1..65_000usize];
    let kind = (any::<bool>(), any::<bool>(), tunnel, 0..=10usize);
    (kind, any::<u8>(), any::<u16>(), any::<u32>(), LEAST_SEGMENT..9000, lens, any::<u8>()).prop_map(
        |((tcp, six, tunnel, options), flags, id, sequence, size, len, salt)| {
            let payload = (0..len).map(|i| (i.wrapping_mul(31) >> 3).to_le_bytes()[0] ^ salt).collect();
            Shape { tcp, six, tunnel, options, flags: flags & 0xd9, id, sequence, size, payload }
        },
    )
}

/// Cuts the whole packet; every buffer is dirty.
fn cut(packet: &Packet) -> Vec<Vec<u8>> {
    let mut cutter = Cutter::new(packet).unwrap();
    let mut segments = Vec::new();
    while cutter.left() > 0 {
        let (left, mut out) = (cutter.left(), vec![0xa5; cutter.longest()]);
        assert_eq!(cutter.next(packet, &mut out[..10]), None, "no room");
        let len = cutter.next(packet, &mut out).unwrap();
        assert!(cutter.left() == left - 1 && len <= cutter.longest());
        out.truncate(len);
        segments.push(out);
    }
    assert_eq!(cutter.next(packet, &mut [0; 10_000]), None, "finished");
    segments
}

fn check(shape: &Shape, built: &Built, segments: &[Vec<u8>]) {
    let size = usize::from(shape.size);
    assert_eq!(segments.len(), shape.payload.len().div_ceil(size));
    let mut payload = Vec::<u8>::new();
    for (i, segment) in segments.iter().enumerate() {
        if let Some(tunnel) = shape.tunnel {
            let udp = received(&segment[14..]);
            assert_eq!(udp[6..8] != [0, 0], tunnel.checksum);
            assert_eq!(udp[8..16], [8, 0, 0, 0, 0, 1, 2, 0]);
            if !tunnel.six {
                assert_eq!(segment[18..20], 0xfff0u16.wrapping_add(u16::try_from(i).unwrap()).to_be_bytes());
            }
        }
        assert_eq!(segment[built.l3 - 14..built.l3], built.bytes[built.l3 - 14..built.l3], "inner Ethernet");
        let transport = received(&segment[built.l3..]);
        if !shape.six {
            let id = shape.id.wrapping_add(u16::try_from(i).unwrap());
            assert_eq!(segment[built.l3 + 4..built.l3 + 6], id.to_be_bytes(), "identification");
        }
        let last = i + 1 == segments.len();
        let header = if shape.tcp { 20 + 4 * shape.options } else { 8 };
        assert!(transport[6..8] != [0, 0] || shape.tcp, "a checksum");
        if shape.tcp {
            let sequence = shape.sequence.wrapping_add(u32::try_from(i * size).unwrap());
            assert_eq!(transport[4..8], sequence.to_be_bytes());
            let gone = if last { 0 } else { 0x09 } | if i == 0 { 0 } else { 0x80 };
            assert_eq!(transport[13], shape.flags & !gone, "flags");
            assert_eq!(transport[20..header], built.bytes[built.l4 + 20..built.l4 + header], "options");
        }
        let body = &transport[header..];
        assert!(body.len() == size || last);
        payload.extend(body);
    }
    assert!(payload == shape.payload, "the payload again");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_segment_stands_on_its_own(shape in shapes()) {
        let mut frames = frames();
        if shape.payload.len().div_ceil(shape.size.into()) <= 1024 {
            let (packet, built) = shape.packet(&mut frames);
            check(&shape, &built, &cut(&packet));
            prop_assert!(packet.data() == built.bytes, "the super-frame is as it was");
            frames.put(packet);
        }
        prop_assert!(frames.all_home());
    }

    #[test]
    fn partial_checksums_are_completed(shape in shapes()) {
        let mut frames = frames();
        let (mut packet, built) = Shape { tunnel: None, ..shape }.packet(&mut frames);
        packet.meta_mut().offload.segmentation = Segmentation::None;
        finish_checksum(&mut packet).unwrap();
        prop_assert_eq!(packet.meta().offload, Offload::default());
        let mut ip = packet.data()[14..].to_vec();
        if ip[0] >> 4 == 4 {
            let header = !fold(sum(&ip[..20]));
            ip[10..12].copy_from_slice(&header.to_be_bytes());
        }
        received(&ip);
        prop_assert_eq!(packet.len(), built.bytes.len());
        frames.put(packet);
    }

    /// Any bytes with any offsets: refused, or cut into as many segments as said, of no more bytes than said.
    #[test]
    fn hostile_headers_do_no_harm(
        shape in shapes(),
        spoiled in prop::collection::vec((0..120usize, any::<u8>()), 0..4),
        len in prop::option::of(0..200usize),
        offsets in prop::option::of((any::<u16>(), any::<u16>(), any::<u8>(), any::<u16>())),
    ) {
        let mut frames = frames();
        let (mut packet, _) = shape.packet(&mut frames);
        for (at, byte) in spoiled {
            packet.data_mut().iter_mut().skip(at).take(1).for_each(|old| *old = byte);
        }
        if let Some(len) = len {
            packet.resize(len).unwrap();
        }
        if let Some((l3, start, offset, size)) = offsets {
            packet.meta_mut().l3 = l3;
            let offload = &mut packet.meta_mut().offload;
            (offload.checksum_start, offload.checksum_offset, offload.segment_size) = (start, offset, size);
        }
        if let Ok(cutter) = Cutter::new(&packet) {
            let (longest, left) = (cutter.longest(), cutter.left());
            let segments = cut(&packet);
            prop_assert!(segments.len() == left && segments.iter().all(|segment| segment.len() <= longest));
        }
        packet.meta_mut().offload.segmentation = Segmentation::None;
        let _any = finish_checksum(&mut packet);
        frames.put(packet);
        prop_assert!(frames.all_home());
    }
}

fn plain() -> Shape {
    let (payload, tunnel) = (vec![7; 5000], None);
    Shape { tcp: true, six: false, tunnel, options: 3, flags: 0x18, id: 0xffff, sequence: !10, size: 1448, payload }
}

/// What [`Cutter::new`] says after `spoil`.
fn refusal(shape: &Shape, spoil: impl FnOnce(&mut Packet)) -> Option<Refusal> {
    let mut frames = frames();
    let (mut packet, _) = shape.packet(&mut frames);
    spoil(&mut packet);
    let refusal = Cutter::new(&packet).err();
    frames.put(packet);
    refusal
}

#[test]
fn each_refusal_has_its_case() {
    let (tcp, udp) = (plain(), Shape { tcp: false, ..plain() });
    let over = Shape { tunnel: Some(Tunnel { six: false, checksum: false }), ..plain() };
    assert_eq!(refusal(&tcp, |_| ()), None);
    assert_eq!(refusal(&tcp, |p| p.meta_mut().offload = Offload::default()), Some(Refusal::Whole));
    assert_eq!(refusal(&tcp, |p| p.meta_mut().offload.segment_size = LEAST_SEGMENT), None);
    assert_eq!(refusal(&tcp, |p| p.meta_mut().offload.segment_size = LEAST_SEGMENT - 1), Some(Refusal::SegmentSize));
    assert_eq!(refusal(&udp, |p| p.meta_mut().offload.segment_size = 0), Some(Refusal::SegmentSize));
    assert_eq!(refusal(&udp, |p| p.meta_mut().offload.segment_size = 1), Some(Refusal::SegmentSize));
    assert_eq!(refusal(&tcp, |p| p.meta_mut().l3 = 0), Some(Refusal::Headers));
    assert_eq!(refusal(&tcp, |p| p.meta_mut().offload.checksum_start += 4), Some(Refusal::Headers));
    assert_eq!(refusal(&tcp, |p| p.meta_mut().offload.checksum_offset = 6), Some(Refusal::Headers));
    assert_eq!(refusal(&tcp, |p| p.meta_mut().offload.segmentation = Segmentation::Tcp6), Some(Refusal::Headers));
    assert_eq!(refusal(&tcp, |p| p.data_mut()[16] ^= 1), Some(Refusal::Headers), "length");
    assert_eq!(refusal(&tcp, |p| p.data_mut()[20] |= 0x20), Some(Refusal::Indivisible), "more fragments");
    assert_eq!(refusal(&tcp, |p| p.data_mut()[14 + 20 + 13] |= 2), Some(Refusal::Indivisible), "SYN");
    assert_eq!(refusal(&tcp, |p| p.data_mut()[14 + 20 + 12] = 0x40), Some(Refusal::Headers), "TCP header of 16 bytes");
    assert_eq!(refusal(&over, |_| ()), None);
    assert_eq!(refusal(&over, |p| p.data_mut()[12] = 9), Some(Refusal::Tunnel), "ethertype");
    assert_eq!(refusal(&over, |p| p.data_mut()[23] = 47), Some(Refusal::Tunnel), "GRE");
}

#[test]
fn what_nodes_put_in_front_may_be_longer_than_ip_can_say() {
    let tunnel = Some(Tunnel { six: false, checksum: false });
    let shape = Shape { tunnel, payload: vec![9; 65_535 - 20 - 32], ..plain() };
    let mut frames = frames();
    let built = shape.build();
    assert!(built.bytes.len() > 65_535 + 14);
    let mut packet = frames.copy(&built.bytes[50..]).unwrap();
    packet.push(50).unwrap().copy_from_slice(&built.bytes);
    let at = |offset: usize| u16::try_from(packet.start() + offset).unwrap();
    let (l3, checksum_start) = (at(built.l3), at(built.l4));
    packet.meta_mut().l3 = l3;
    let segmentation = Segmentation::Tcp4;
    packet.meta_mut().offload = Offload { checksum_start, checksum_offset: 16, segmentation, segment_size: 1398 };
    check(&Shape { size: 1398, ..shape }, &built, &cut(&packet));
    frames.put(packet);
}
