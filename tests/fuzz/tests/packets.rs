//! Whatever the bytes: no parser of packets panics or reads past an end, and what is written from them is sound.
mod damage;

use damage::{Damage, damaged};
use engine::{FrameCounts, Frames, Offload, Segmentation};
use ports::cut::{Cutter, finish_checksum};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};
use wire::{
    Arp, Ethernet, FromBytes, Ipv4, Ipv6, Mac, Ports, Protocol, Tcp, Udp, Vlan, Vxlan,
    build::{self, Addresses, Path, Reason, frame},
    icmp, icmpv6, ipv6, nd, tcp,
};

/// Right packets of every kind that a parser reads.
fn packets() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let ends = Addresses::of(from.parse().unwrap(), to.parse().unwrap()).unwrap();
        let path = Path::new((Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])), ends);
        let make = |write: &dyn Fn(&mut [u8]) -> Option<usize>| frame(write).unwrap();
        let udp = make(&|into| build::udp(into, &path, Ports::new(1, 2), &[7; 300]));
        let options = [2, 4, 5, 180, 1, 3, 3, 7];
        all.push(make(&|into| build::tcp(into, &path, &Tcp::new(1, 2, tcp::Flags::SYN), &options, &[7; 300])));
        all.push(make(&|into| build::echo_request(into, &path, (7, 1), b"ping")));
        all.push(make(&|into| build::icmp_error(into, &path, Reason::TooBig(1400), &udp[14..])));
        all.push(make(&|into| build::vxlan(into, &path, 50_000, wire::Vni::new(42).unwrap(), &udp)));
        let tagged = Path { vlan: Some(5), ..path };
        all.push(make(&|into| build::udp(into, &tagged, Ports::new(1, 2), b"x")));
        let hop_by_hop = [&[43, 0, 1, 4, 0, 0, 0, 0][..], &[60, 0, 4, 0, 0, 0, 0, 0], &[44, 0, 1, 4, 0, 0, 0, 0]];
        let fragment = [&hop_by_hop.concat()[..], &[17, 0, 0, 1, 0, 0, 0, 9], &[0, 1, 0, 2, 0, 8, 0, 0]].concat();
        all.push(make(&|into| build::ip(into, &path, Protocol::HOP_BY_HOP, &fragment)));
        match ends {
            Addresses::V4(from, to) => {
                all.push(make(&|into| build::arp(into, Mac::BROADCAST, &Arp::request(Mac([2; 6]), from, to))));
            }
            Addresses::V6(from, to) => {
                all.push(make(&|into| build::neighbour_solicitation(into, Mac([2; 6]), from, to)));
                all.push(make(&|into| build::neighbour_advertisement(into, &path, from, nd::SOLICITED)));
            }
        }
        all.push(udp);
    }
    all
}

#[test]
fn parsers_of_headers() {
    let packets = packets();
    fuzz::target(20_000, |damage: &Damage| {
        let frame = damaged(&packets, damage);
        read(&frame);
        for at in [14, 18, 34, 42, 54, 62] {
            read_from_ip(frame.get(at..).unwrap_or_default());
        }
        // What is said to end somewhere ends within.
        let ip = frame.get(14..).unwrap_or_default();
        if let Ok((header, options)) = Ipv4::parse(ip) {
            assert!(usize::from(header.total_len.get()) <= ip.len() && header.header_len() <= ip.len());
            assert_eq!(options.len() + Ipv4::LEN, header.header_len());
        }
        if let Ok((header, found)) = Ipv6::parse(ip) {
            assert!(header.total_len() <= ip.len() && found.offset <= header.total_len());
        }
    });
}

fn read(frame: &[u8]) {
    assert!(!wire::describe(frame).is_empty());
    let _ = (Ethernet::ref_from_prefix(frame), Vlan::ref_from_prefix(frame), wire::ethernet::carried(frame));
}

/// Every reader of what may follow a link header, of the same bytes.
fn read_from_ip(bytes: &[u8]) {
    let _ = (Ipv4::parse(bytes).is_ok(), Ipv6::parse(bytes).is_ok(), ipv6::transport(bytes).is_ok());
    let _ = (Arp::parse(bytes), Udp::parse(bytes), Tcp::parse(bytes), Vxlan::ref_from_prefix(bytes));
    let _ = (icmp::quoted(bytes).is_some(), icmpv6::quoted(bytes).is_some(), nd::Neighbour::parse(bytes));
    let _ = (nd::link_layer(bytes, nd::SOURCE), nd::link_layer(bytes, nd::TARGET), build::may_cause_error(bytes));
    if let Some(at) = tcp::find_mss(bytes) {
        assert!(at + 2 <= bytes.len());
    }
    let mut copy = bytes.to_vec();
    let _ = (tcp::clamp_mss(&mut copy, 1000), tcp::lower_mss(&mut copy, 500));
    let _ = wire::checksum::complete(&mut copy, 20, 16);
    let back = Path::new((Mac([2; 6]), Mac([4; 6])), Addresses::V4(1.into(), 2.into()));
    let back6 = Path { addresses: Addresses::V6(1.into(), 2.into()), ..back };
    for path in [back, back6] {
        if let Some(error) = frame(|into| build::icmp_error(into, &path, Reason::TooBig(1280), bytes)) {
            let ip = &error[14..];
            assert!(Ipv4::parse(ip).is_ok() || Ipv6::parse(ip).is_ok(), "an error that nobody can read");
        }
    }
}

#[test]
fn the_cutter() {
    let counts = FrameCounts { small: 4, jumbo: 4, super_: 4, packets: 8 };
    let map = hugepages::Settings { prefault: false, ..hugepages::Settings::new(0) };
    let frames = Mutex::new(Frames::new(0, counts, map).unwrap());
    let mut bases = packets();
    for base in &mut bases {
        base.extend([9; 3000]); // as super-frames are
    }
    type Input = (Damage, u8, u8, u16, u8);
    fuzz::target(10_000, |(damage, start, offset, size, kind): &Input| {
        let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = damaged(&bases, damage);
        let Some(mut packet) = frames.copy(&bytes) else { return };
        let likely = [34, 54, 84, 104, u16::from(*start)][usize::from(*start) % 5];
        let kinds = [Segmentation::None, Segmentation::Tcp4, Segmentation::Tcp6, Segmentation::Udp];
        packet.meta_mut().offload = Offload {
            checksum_start: u16::try_from(packet.start()).unwrap() + likely,
            checksum_offset: [6, 16, *offset][usize::from(*offset) % 3],
            segmentation: kinds[usize::from(*kind) % 4],
            segment_size: if size % 2 == 0 { *size } else { size % 2000 },
        };
        if let Ok(mut cutter) = Cutter::new(&packet) {
            cut_all(&mut cutter, &packet);
        }
        let _ = finish_checksum(&mut packet);
        frames.put(packet);
        assert!(frames.all_home());
    });
}

fn cut_all(cutter: &mut Cutter, packet: &engine::Packet) {
    let (segments, longest) = (cutter.left(), cutter.longest());
    let mut out = vec![0; longest];
    let (mut count, mut bytes) = (0, 0);
    while let Some(len) = cutter.next(packet, &mut out) {
        assert!(len <= longest);
        (count, bytes) = (count + 1, bytes + len);
    }
    if cutter.left() == 0 {
        assert_eq!(count, segments);
        let headers = (bytes + count).checked_sub(packet.len()).unwrap() / count.max(1);
        assert!(headers <= ports::cut::MOST_HEADERS + 1 && bytes >= packet.len(), "payload is lost");
    }
}

/// A tap's header is private to its driver, so that its file is a part of this test.
#[path = "../../../dataplane/ports/src/tap/header.rs"]
mod header;
mod cut {
    pub(crate) use ports::cut::{LEAST_SEGMENT, MOST_SEGMENTS};
}

#[test]
fn a_taps_header() {
    type Input = ([u8; 12], u16, u16);
    let packet = packets().swap_remove(0);
    fuzz::target(50_000, |(bytes, len, at): &Input| {
        let mut bytes = *bytes;
        if bytes[11] % 4 != 0 {
            // As a kernel would write it, but for what is random.
            (bytes[0], bytes[1]) = (bytes[0] & 1, [0, 1, 4, 5][usize::from(bytes[1] % 4)]);
            bytes[6..10].copy_from_slice(&[34, 0, 16, 0]);
        }
        let (len, at) = (usize::from(*len), *at);
        let Some(offload) = header::Header::read(bytes).offload(len, at) else { return };
        if offload.checksum_start != 0 {
            let end = usize::from(offload.checksum_start - at) + usize::from(offload.checksum_offset) + 2;
            assert!(end <= len, "the checksum is outside of the packet");
        }
        assert_eq!(offload.segmentation == Segmentation::None, offload.segment_size == 0);
        let _ = header::Header::of(&packet, at.into(), offload);
    });
}

#[test]
fn a_ring_gives_what_it_was_given() {
    fuzz::target(2000, |(capacity, steps): &(u8, Vec<u8>)| {
        let capacity = usize::from(capacity % 9) + 1;
        let (mut producer, mut consumer) = engine::ring(capacity);
        let (mut model, mut next) = (VecDeque::new(), 0_u64);
        for step in steps {
            if step % 3 == 0 {
                assert_eq!(consumer.pop(), model.pop_front());
            } else {
                match producer.push(Box::new(next)) {
                    Ok(()) => model.push_back(Box::new(next)),
                    Err(back) => assert!(*back == next && model.len() == capacity.next_power_of_two()),
                }
                next += 1;
            }
            assert_eq!(consumer.is_empty(), model.is_empty());
        }
    });
}
