//! A queue of a tap. A batch is what one turn brings: it is read together, walked together and written together, with
//! one look at the descriptors; each packet is a `readv` and a `writev` of its own.
//!
//! One `io_uring_enter` for all writes of a turn was measured, in turns with what is here. Between pods on a node the
//! kernel's way took 0.69 (0.59 to 0.78) of its CPU, and 0.69 (0.65 to 0.75) of ours. Across nodes, with packets of 1.4
//! KiB, it took 19 % less (-6 to 25), but only because a receiver, woken by one write, takes the core before the next:
//! a worker of three times the pods' weight took 25 % less (18 to 28), and no less again with the ring. So there is
//! none.
//! `IFF_NAPI` took 13 % more on a node.
use super::{
    header::{HEADER, Header},
    sys,
};
use crate::cut::Cutter;
use engine::{Abilities, Class, Frame, Frames, HEADROOM, LinkState, Packet, Queue, Segmentation};
use rustix::io::{Errno, readv, writev};
use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// How many bytes one `receive` takes. With a quarter of it a stream takes 8 % more CPU, as all sides wake each other
/// more often; with four times as many up to 4 % less, but others wait longer.
const MOST_BYTES: usize = 256 * 1024;

/// How often the link's state is answered from memory before the system is asked again.
const LINK_CALLS: u32 = 64;

const ETHERNET: usize = 14;
const SMALL: usize = Class::Small.payload();
const FIRST: usize = HEADROOM as usize; // where the first byte of a received packet lies in its frame

/// A link header, and all that lies between it and the inner network header of the shortest tunnel.
const SHORTEST_TUNNEL: usize = ETHERNET + 20 + 8 + 8 + ETHERNET;

/// What all queues of a tap know.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) control: OwnedFd,
    pub(super) mtu: u16,
    pub(super) udp_segmentation: bool,
}

pub(super) struct TapQueue {
    queue: OwnedFd,
    shared: Arc<Shared>,
    link: LinkState,
    asked: u32,
    cutting: Option<(Packet, Cutter)>, // a super-frame of which some segments are sent
    segment: Box<[u8]>,
    counts: [u64; EVENTS.len()],
}

const EVENTS: [&str; 7] = [
    "tap_bad_header",
    "tap_no_super_frame",
    "tap_cut",
    "tap_cannot_cut",
    "tap_refused",
    "tap_bad_offload",
    "tap_rest_dropped",
];
const BAD_HEADER: usize = 0;
const NO_SUPER_FRAME: usize = 1;
const CUT: usize = 2;
const CANNOT_CUT: usize = 3;
const REFUSED: usize = 4;
const BAD_OFFLOAD: usize = 5;
const REST_DROPPED: usize = 6; // of a super-frame, when its link went down or its port was closed

impl TapQueue {
    pub(super) fn new(queue: OwnedFd, shared: Arc<Shared>) -> Self {
        let segment = vec![0; Class::Jumbo.payload()].into();
        TapQueue { queue, shared, link: LinkState::Up, asked: 0, cutting: None, segment, counts: [0; EVENTS.len()] }
    }

    /// Asks the system for the state of the link.
    fn ask(&self) -> LinkState {
        match sys::runs(self.shared.control.as_fd(), &self.shared.name) {
            Ok(true) => LinkState::Up,
            Ok(false) => LinkState::Down,
            Err(_) => LinkState::Gone,
        }
    }

    fn count(&mut self, event: usize) {
        if let Some(count) = self.counts.get_mut(event) {
            *count += 1;
        }
    }

    /// Reads one packet into a small frame and, what is beyond, into `rest`. `None`: there is none, or no place for it.
    fn read(&mut self, frames: &mut Frames, rest: &mut Option<Frame>) -> Option<Result<Packet, Malformed>> {
        if frames.idle_packets() == 0 {
            return None;
        }
        let mut small = frames.take(Class::Small)?;
        if rest.is_none() {
            *rest = frames.take(Class::Super);
        }
        let read = match read_into(self.queue.as_fd(), &mut small, rest.as_mut()) {
            Ok(read) => read,
            Err(errno) => {
                frames.give(small);
                if !self.failed(errno) {
                    self.count(BAD_HEADER); // the kernel had a packet that no header describes
                }
                return None;
            }
        };
        let header = small.bytes_mut().get(FIRST - HEADER..)?.first_chunk().copied()?;
        let len = read.saturating_sub(HEADER);
        let frame = match rest.take() {
            Some(mut long) if len > SMALL => {
                let (from, to) = (small.bytes_mut(), long.bytes_mut());
                to.get_mut(FIRST..FIRST + SMALL)?.copy_from_slice(from.get(FIRST..FIRST + SMALL)?);
                frames.give(small);
                long
            }
            unused => {
                *rest = unused;
                small
            }
        };
        if len > SMALL && frame.class() == Class::Small {
            frames.give(frame);
            self.count(NO_SUPER_FRAME);
            return Some(Err(Malformed));
        }
        match frames.packet(frame, HEADROOM.into(), u32::try_from(len).ok()?) {
            Ok(packet) => Some(self.accept(frames, packet, Header::read(header))),
            Err(frame) => {
                frames.give(frame);
                self.count(BAD_HEADER);
                Some(Err(Malformed))
            }
        }
    }

    fn accept(&mut self, frames: &mut Frames, mut packet: Packet, header: Header) -> Result<Packet, Malformed> {
        match header.offload(packet.len(), HEADROOM) {
            Some(offload) if packet.len() >= ETHERNET => {
                packet.meta_mut().offload = offload;
                Ok(packet)
            }
            _ => {
                frames.put(packet);
                self.count(BAD_HEADER);
                Err(Malformed)
            }
        }
    }

    /// What an error says of the link; gives whether the packet is to wait.
    fn failed(&mut self, errno: Errno) -> bool {
        match errno {
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR => return true,
            Errno::IO | Errno::NETDOWN => self.link = LinkState::Down,
            Errno::BADFD | Errno::NODEV => self.link = LinkState::Gone,
            _ => return false,
        }
        true
    }

    /// Sends one packet whole; false: there is no room for it.
    fn whole(&mut self, packet: &Packet) -> bool {
        let Some(header) = Header::of(packet.data(), packet.start(), packet.meta().offload) else {
            self.count(BAD_OFFLOAD);
            return true;
        };
        self.write(header, packet.data())
    }

    fn write(&mut self, header: Header, bytes: &[u8]) -> bool {
        match writev(&self.queue, &[IoSlice::new(&header.write()), IoSlice::new(bytes)]) {
            Ok(_) => true,
            Err(errno) if self.failed(errno) => false,
            Err(_) => {
                self.count(REFUSED);
                true
            }
        }
    }

    /// Sends the segments that are left of a packet; false: there is no room for all of them.
    fn segments(&mut self, packet: &Packet, cutter: &mut Cutter) -> bool {
        let mut segment = std::mem::take(&mut self.segment);
        let mut room = true;
        while room && cutter.left() > 0 {
            let before = cutter.clone();
            let Some(len) = cutter.next(packet, &mut segment) else {
                self.count(CANNOT_CUT);
                break;
            };
            room = self.write(Header::default(), segment.get(..len).unwrap_or_default());
            if !room {
                *cutter = before;
            }
        }
        self.segment = segment;
        room
    }

    /// Sends one packet, cut when it must be. When there is room for only some of its segments the cutter comes back.
    fn one(&mut self, packet: &Packet) -> (bool, Option<Cutter>) {
        if !self.must_cut(packet) {
            return (self.whole(packet), None);
        }
        let mut cutter = match Cutter::new(packet) {
            Ok(cutter) if cutter.longest() <= self.segment.len() => cutter,
            _ => {
                self.count(CANNOT_CUT);
                return (true, None);
            }
        };
        self.count(CUT);
        let room = self.segments(packet, &mut cutter);
        (room, Some(cutter))
    }

    /// Taps know no tunnels, and older ones no UDP.
    fn must_cut(&self, packet: &Packet) -> bool {
        let meta = packet.meta();
        let tunnel = usize::from(meta.l3) >= packet.start() + SHORTEST_TUNNEL;
        match meta.offload.segmentation {
            Segmentation::None => false,
            Segmentation::Tcp4 | Segmentation::Tcp6 => tunnel,
            Segmentation::Udp => tunnel || !self.shared.udp_segmentation,
        }
    }

    /// Goes on with a super-frame that was sent in part; gives whether others may follow.
    fn go_on(&mut self, frames: &mut Frames) -> bool {
        let Some((packet, mut cutter)) = self.cutting.take() else { return true };
        if self.segments(&packet, &mut cutter) {
            frames.put(packet);
            return true;
        }
        self.cutting = Some((packet, cutter));
        if self.link != LinkState::Up {
            self.drop_rest(frames);
        }
        false
    }

    fn drop_rest(&mut self, frames: &mut Frames) {
        if let Some((packet, _)) = self.cutting.take() {
            self.count(REST_DROPPED);
            frames.put(packet);
        }
    }
}

/// Counted by name already.
struct Malformed;

impl Queue for TapQueue {
    fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, room: usize) {
        let (mut rest, mut bytes) = (None, 0);
        for _ in 0..room {
            match self.read(frames, &mut rest) {
                None => break,
                Some(Err(Malformed)) => {}
                Some(Ok(packet)) => {
                    bytes += packet.len();
                    into.push(packet);
                }
            }
            if bytes >= MOST_BYTES {
                break;
            }
        }
        if let Some(unused) = rest {
            frames.give(unused);
        }
    }

    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        if !self.go_on(frames) {
            return;
        }
        let mut partial = None;
        let mut sent = 0;
        for packet in from.iter() {
            let (room, cutter) = self.one(packet);
            if !room {
                partial = cutter;
                break;
            }
            sent += 1;
        }
        let last = partial.is_some();
        let mut taken = from.drain(..sent + usize::from(last));
        taken.by_ref().take(sent).for_each(|packet| frames.put(packet));
        self.cutting = taken.next().zip(partial);
    }

    fn can(&self) -> Abilities {
        Abilities {
            longest: ETHERNET + usize::from(self.shared.mtu),
            checksum: true,
            tcp_segmentation: true,
            udp_segmentation: self.shared.udp_segmentation,
            cheap_receive: false,
        }
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        Some(self.queue.as_fd())
    }

    fn link(&mut self) -> LinkState {
        self.asked = self.asked.wrapping_add(1);
        let fresh = self.link == LinkState::Up && !self.asked.is_multiple_of(LINK_CALLS);
        if !fresh && self.link != LinkState::Gone {
            self.link = self.ask();
        }
        self.link
    }

    fn events(&self) -> Vec<(&'static str, u64)> {
        // Whoever asks for these asks seldom; and who sends nothing to a pod never asked for its link.
        let link = match self.ask() {
            LinkState::Up => None,
            LinkState::Down => Some((super::LINK_DOWN, 1)),
            LinkState::Gone => Some((super::LINK_GONE, 1)),
        };
        EVENTS.into_iter().zip(self.counts).chain(link).collect()
    }

    fn close(&mut self, frames: &mut Frames) {
        self.drop_rest(frames);
    }
}

/// Fills the small frame first, header in the headroom; a longer packet goes on at the same place in the long frame.
/// Without a long one there is a byte more than fits, which shows that a packet was too long.
fn read_into(queue: BorrowedFd<'_>, small: &mut Frame, long: Option<&mut Frame>) -> Result<usize, Errno> {
    let one_more = usize::from(long.is_none());
    let front = small.bytes_mut().get_mut(FIRST - HEADER..FIRST + SMALL + one_more).unwrap_or_default();
    let back = long.and_then(|frame| frame.bytes_mut().get_mut(FIRST + SMALL..)).unwrap_or_default();
    readv(queue, &mut [IoSliceMut::new(front), IoSliceMut::new(back)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{FrameCounts, Offload};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// A queue whose device is a datagram socket: it keeps packets apart as a tap does, but can be filled and needs no
    /// privilege. The other end is the kernel's.
    fn queue(udp_segmentation: bool) -> (TapQueue, OwnedFd, Frames) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, kernels) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        let send_buffer = if udp_segmentation { 200_000 } else { 10_000 }; // bytes: some segments fit
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, send_buffer).unwrap();
        let control = rustix::fs::open("/dev/null", rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap();
        let shared = Shared { name: "none".into(), control, mtu: 1500, udp_segmentation };
        let counts = FrameCounts { small: 4, jumbo: 0, super_: 2, packets: 4 };
        let frames = Frames::new(0, counts, hugepages::Settings::new(0)).unwrap();
        (TapQueue::new(ours, Arc::new(shared)), kernels, frames)
    }

    fn receive(queue: &mut TapQueue, frames: &mut Frames) -> Vec<Packet> {
        let mut into = Vec::new();
        queue.receive(frames, &mut into, 4);
        into
    }

    fn counted(queue: &TapQueue) -> Vec<&'static str> {
        let happened =
            queue.events().into_iter().filter(|(name, count)| *count != 0 && *name != super::super::LINK_GONE);
        happened.map(|(name, _)| name).collect() // a socket is no device
    }

    /// An IPv4 UDP super-frame of 40,000 bytes, its partial checksum and the numbers 0, 1, .. as payload.
    fn super_frame(frames: &mut Frames, size: u16) -> Packet {
        let mut bytes = vec![2; 12];
        bytes.extend([8, 0, 0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend([0, 53, 0, 54, 0, 0, 0, 0]);
        bytes.extend((0..20_000u16).flat_map(u16::to_be_bytes));
        bytes[16..18].copy_from_slice(&40_028u16.to_be_bytes());
        let mut packet = frames.copy(&bytes).unwrap();
        let meta = packet.meta_mut();
        meta.l3 = HEADROOM + 14;
        let segmentation = Segmentation::Udp;
        let (checksum_start, checksum_offset) = (HEADROOM + 34, 6);
        meta.offload = Offload { checksum_start, checksum_offset, segmentation, segment_size: size };
        packet
    }

    #[test]
    fn a_super_frame_is_sent_in_part_and_then_on() {
        let (mut queue, kernels, mut frames) = queue(false);
        let mut from = vec![super_frame(&mut frames, 1000), frames.copy(&[3; 60]).unwrap()];
        let mut numbers = Vec::new();
        let mut calls = 0;
        while numbers.len() < 20_000 || !from.is_empty() {
            queue.send(&mut frames, &mut from);
            calls += 1;
            assert!(from.len() == 1 || calls > 1, "the full device holds up what follows");
            let mut segment = [0; 2000];
            while let Ok(len) = rustix::io::read(&kernels, &mut segment) {
                assert!(numbers.len() < 20_000 || len == HEADER + 60);
                if len > HEADER + 60 {
                    let body = &segment[HEADER + 42..len];
                    assert_eq!(
                        segment[HEADER + 18..HEADER + 20],
                        (7 + u16::try_from(numbers.len() / 500).unwrap()).to_be_bytes()
                    );
                    numbers.extend(body.as_chunks().0.iter().map(|word| u16::from_be_bytes(*word)));
                }
            }
        }
        assert!(calls > 2 && numbers == Vec::from_iter(0..20_000), "in {calls} calls");
        assert_eq!(counted(&queue), ["tap_cut"]);
        assert!(frames.all_home());
    }

    #[test]
    fn a_super_frame_half_sent_comes_home() {
        let (mut queue, _kernels, mut frames) = queue(false);
        let mut from = vec![super_frame(&mut frames, 1000)];
        queue.send(&mut frames, &mut from);
        assert!(from.is_empty() && queue.cutting.is_some());
        queue.close(&mut frames);
        assert_eq!(counted(&queue), ["tap_cut", "tap_rest_dropped"]);
        assert!(frames.all_home());
    }

    #[test]
    fn what_is_left_of_a_super_frame_goes_with_the_link() {
        let (mut queue, _kernels, mut frames) = queue(false);
        let mut from = vec![super_frame(&mut frames, 1000)];
        queue.send(&mut frames, &mut from);
        assert_eq!(queue.link(), LinkState::Up);
        queue.link = LinkState::Down;
        queue.send(&mut frames, &mut from);
        assert_eq!(counted(&queue), ["tap_cut", "tap_rest_dropped"]);
        assert!(frames.all_home());
    }

    #[test]
    fn a_super_frame_passes_whole_both_ways() {
        let (mut queue, kernels, mut frames) = queue(true);
        let mut from = vec![super_frame(&mut frames, 1000)];
        let bytes = from[0].data().to_vec();
        let offload = from[0].meta().offload;
        queue.send(&mut frames, &mut from);
        let mut sent = vec![0; 70_000];
        let len = rustix::io::read(&kernels, &mut sent[..]).unwrap();
        assert!(from.is_empty() && sent[HEADER..len] == bytes);
        rustix::io::write(&kernels, &sent[..len]).unwrap();
        let mut into = receive(&mut queue, &mut frames);
        assert!(into[0].data() == bytes && into[0].meta().offload == offload);
        frames.put(into.remove(0));
        assert!(counted(&queue).is_empty() && frames.all_home());
    }

    #[test]
    fn whatever_is_read_is_a_packet_or_counted() {
        let read = |bytes: &[u8], super_frames: bool| {
            let (mut queue, kernels, mut frames) = queue(true);
            let mut held: Vec<_> = (0..2).filter_map(|_| frames.take(Class::Super)).collect();
            if super_frames {
                held.drain(..).for_each(|frame| frames.give(frame));
            }
            rustix::io::write(&kernels, bytes).unwrap();
            let lens: Vec<_> = receive(&mut queue, &mut frames)
                .into_iter()
                .map(|packet| {
                    let len = packet.len();
                    frames.put(packet);
                    len
                })
                .collect();
            held.into_iter().for_each(|frame| frames.give(frame));
            assert!(frames.all_home());
            (lens, counted(&queue))
        };
        for len in [14, 1514, SMALL - 1, SMALL, SMALL + 1, 3000, 65_549] {
            let super_frames = len > SMALL;
            assert_eq!(read(&vec![0; HEADER + len], super_frames), (vec![len], vec![]));
        }
        assert_eq!(read(&[0; HEADER + SMALL + 1], false), (vec![], vec!["tap_no_super_frame"]));
        assert_eq!(read(&[0; HEADER + 13], false), (vec![], vec!["tap_bad_header"]));
        assert_eq!(read(&[0; 3], false), (vec![], vec!["tap_bad_header"]));
        assert_eq!(read(&[0xff; HEADER + 100], false), (vec![], vec!["tap_bad_header"]));
    }

    #[test]
    fn what_the_kernel_cannot_give_is_counted() {
        let (mut queue, _, mut frames) = queue(true);
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        queue.queue = rustix::fs::open("/", flags, rustix::fs::Mode::empty()).unwrap(); // refuses to be read
        assert!(receive(&mut queue, &mut frames).is_empty());
        assert_eq!((counted(&queue), queue.link), (vec!["tap_bad_header"], LinkState::Up));
        assert!(frames.all_home());
    }
}
