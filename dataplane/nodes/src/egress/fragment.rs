//! IPv4 fragmentation.
use crate::{Turn, flag};
use engine::{Node, Offload, Packet, Segmentation, arcs};
use tables::{
    learned::Learned,
    told::{Forward, NextHopId, Told},
};
use wire::{Ethernet, FromBytes, IntoBytes, Ipv4, checksum};

/// Cuts an IPv4 packet into fragments that fit into the MTU in its `flow` (RFC 791, section 3.2).
///
/// The fragments are new packets and go back to where the packet came from; the packet itself ends here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fragment;

arcs! {
    /// Where packets go from [`Fragment`].
    pub FragmentNext {
        /// Made here: a fragment, to egress.
        PieceToEgress,
        /// Made here: a fragment, to the tunnel that its next hop names.
        PieceToTunnel,
        /// Dropped: its fragments are under way.
        Cut,
        /// Dropped: no packets were left for all of its fragments.
        NoRoom,
        /// Dropped: it is no IPv4 packet that may be fragmented, or the MTU is too small.
        CannotCut,
    }
}

/// The most fragments of one packet: half of a turn's reserve.
const MOST_PIECES: usize = 128;
const MOST_HEADER: usize = 60;

impl Node<Told, Learned> for Fragment {
    const NAME: &'static str = "fragment";
    type Next = FragmentNext;

    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> FragmentNext {
        let Some(plan) = Plan::of(packet) else { return FragmentNext::CannotCut };
        let hop = turn.told.next_hop(NextHopId(packet.meta().next_hop));
        let to = match hop.map(|hop| hop.forward) {
            Some(Forward::Tunnel) => FragmentNext::PieceToTunnel,
            _ => FragmentNext::PieceToEgress,
        };
        for number in 0..plan.pieces {
            let Some(mut piece) = turn.fresh(Ethernet::LEN + MOST_HEADER + plan.chunk) else {
                return FragmentNext::NoRoom;
            };
            if plan.write(packet, number, &mut piece).is_none() {
                turn.frames.put(piece);
                return FragmentNext::CannotCut;
            }
            if !turn.emit(to, piece) {
                return FragmentNext::NoRoom;
            }
        }
        FragmentNext::Cut
    }
}

/// How a packet is cut.
struct Plan {
    header: Ipv4,
    first: Options,
    later: Options,
    chunk: usize,  // payload bytes of every fragment but the last
    pieces: usize, // how many fragments
}

/// A header's options, padded to words.
#[derive(Clone, Copy)]
struct Options {
    bytes: [u8; Options::MOST],
    len: usize,
}

impl Plan {
    /// Checks a packet, finishes what its fragments could not finish any more, and plans the cuts.
    fn of(packet: &mut Packet) -> Option<Plan> {
        let (header, whole) = {
            let ip = packet.data().get(Ethernet::LEN..)?;
            let (header, _) = Ipv4::read_from_prefix(ip).ok()?;
            let len = usize::from(header.total_len.get());
            let right = header.version() == 4 && !header.dont_fragment() && header.header_len() >= Ipv4::LEN;
            (header, Some(len).filter(|len| right && *len <= ip.len() && *len > header.header_len())?)
        };
        packet.resize(Ethernet::LEN + whole)?; // without the link's padding
        finish(packet)?;
        let options = packet.data().get(Ethernet::LEN + Ipv4::LEN..Ethernet::LEN + header.header_len())?;
        let (first, later) = (Options::all(options)?, Options::copied(options)?);
        let mtu = usize::try_from(packet.meta().flow).ok()?;
        // The last eight bytes of offset that 13 bits hold end at 65,536, which no packet reaches.
        let chunk = (mtu.checked_sub(header.header_len())? / 8 * 8).min(header.payload_len().next_multiple_of(8));
        let pieces = header.payload_len().div_ceil(Some(chunk).filter(|chunk| *chunk > 0)?);
        let end = header.fragment_offset() + header.payload_len();
        (pieces <= MOST_PIECES && end <= usize::from(u16::MAX)).then_some(Plan { header, first, later, chunk, pieces })
    }

    /// Writes fragment `number` of `packet` to `piece`.
    fn write(&self, packet: &Packet, number: usize, piece: &mut Packet) -> Option<()> {
        let options = if number == 0 { &self.first } else { &self.later };
        let from = number * self.chunk;
        let len = self.chunk.min(self.header.payload_len().checked_sub(from)?);
        let is_last = number + 1 == self.pieces;
        let header_len = Ipv4::LEN + options.len;
        let mut header = self.header;
        header.version_words = 0x40 | u8::try_from(header_len / 4).ok()?;
        header.total_len = u16::try_from(header_len + len).ok()?.into();
        let more = !is_last || self.header.more_fragments();
        let offset = u16::try_from((self.header.fragment_offset() + from) / 8).ok()?;
        header.fragment = (offset | if more { Ipv4::MORE_FRAGMENTS } else { 0 }).into();
        let data = packet.data();
        let payload = data.get(Ethernet::LEN + self.header.header_len() + from..)?.get(..len)?;
        let out = piece.resize(Ethernet::LEN + header_len + len)?;
        let (link, out) = out.split_at_mut_checked(Ethernet::LEN)?;
        link.copy_from_slice(data.get(..Ethernet::LEN)?);
        let (head, body) = out.split_at_mut_checked(header_len)?;
        body.copy_from_slice(payload);
        header.checksum = 0.into();
        header.write_to_prefix(head).ok()?;
        head.get_mut(Ipv4::LEN..)?.copy_from_slice(options.bytes.get(..options.len)?);
        let sum = checksum::checksum(head);
        let (header, _) = Ipv4::mut_from_prefix(head).ok()?;
        header.checksum = sum.into();
        describe(packet, piece, header_len)
    }
}

/// A fragment is what its packet was, but for what it says of itself.
fn describe(packet: &Packet, piece: &mut Packet, header_len: usize) -> Option<()> {
    let l3 = u16::try_from(piece.start() + Ethernet::LEN).ok()?;
    let meta = piece.meta_mut();
    *meta = *packet.meta();
    (meta.l3, meta.l4) = (l3, l3.checked_add(u16::try_from(header_len).ok()?)?);
    meta.flags = meta.flags & (flag::DECAPPED | flag::OWN) | flag::FRAGMENT; // the rest describes whole packets
    meta.offload = Offload::default();
    Some(())
}

/// Completes a partial checksum: no fragment holds all that it covers. `None` for super-frames, which are cut
/// otherwise.
fn finish(packet: &mut Packet) -> Option<()> {
    let offload = packet.meta().offload;
    if offload.segmentation != Segmentation::None {
        return None;
    }
    if offload.checksum_start != 0 {
        let at = usize::from(offload.checksum_start).checked_sub(packet.start())?;
        checksum::complete(packet.data_mut(), at, offload.checksum_offset.into())?;
        packet.meta_mut().offload = Offload::default();
    }
    Some(())
}

impl Options {
    const MOST: usize = 40;
    const NONE: Options = Options { bytes: [0; Options::MOST], len: 0 };

    fn all(options: &[u8]) -> Option<Options> {
        let mut all = Options::NONE;
        all.push(options)?;
        Some(all)
    }

    /// Those that every fragment has: whose kind has the copied flag (RFC 791, section 3.1). `None` when a length among
    /// them is wrong.
    fn copied(options: &[u8]) -> Option<Options> {
        const END: u8 = 0;
        const NOTHING: u8 = 1;
        const COPIED: u8 = 0x80;
        let mut copied = Options::NONE;
        let mut rest = options;
        for _ in 0..Options::MOST {
            rest = match *rest {
                [] | [END, ..] => break,
                [NOTHING, ref behind @ ..] => behind,
                [kind, len, ..] if len >= 2 => {
                    let (option, behind) = rest.split_at_checked(len.into())?;
                    if kind & COPIED != 0 {
                        copied.push(option)?;
                    }
                    behind
                }
                _ => return None,
            };
        }
        copied.len = copied.len.next_multiple_of(4); // what pads them is zero, the end of options
        Some(copied)
    }

    fn push(&mut self, more: &[u8]) -> Option<()> {
        let end = self.len + more.len();
        self.bytes.get_mut(self.len..end)?.copy_from_slice(more);
        self.len = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::punt::rig::{self, Rig, path};
    use proptest::prelude::*;
    use wire::{Ports, Udp, build};

    /// UDP over IPv4 that may be fragmented, with options.
    fn packet(rig: &mut Rig, options: &[u8], len: usize, fragment: u16, mtu: u32) -> Packet {
        let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let plain = build::frame(|into| build::udp(into, &path("10.0.1.2", "10.0.9.9"), Ports::new(1, 2), &payload));
        let plain = plain.unwrap();
        let (ip, _) = Ipv4::read_from_prefix(&plain[14..]).unwrap();
        let words = u8::try_from(5 + options.len() / 4).unwrap();
        let total_len = ip.total_len.get() + u16::try_from(options.len()).unwrap();
        let (id, total_len) = (0x1234.into(), total_len.into());
        let mut ip = Ipv4 { version_words: 0x40 | words, total_len, id, fragment: fragment.into(), ..ip };
        ip.checksum = 0.into();
        ip.checksum = checksum::checksum(&[ip.as_bytes(), options].concat()).into();
        let mut packet = rig.packet(&[&plain[..14], ip.as_bytes(), options, &plain[34..]].concat(), rig::POD);
        (packet.meta_mut().flow, packet.meta_mut().next_hop) = (mtu, 3);
        packet
    }

    /// Puts fragments together: header of the first one, and the payload.
    fn reassemble(pieces: &[(FragmentNext, Packet)], mtu: usize) -> (Ipv4, Vec<u8>) {
        let (mut payload, mut first) = (Vec::new(), None);
        for (number, (_, piece)) in pieces.iter().enumerate() {
            let bytes = &piece.data()[14..];
            let (ip, _) = Ipv4::parse(bytes).expect("a sound header");
            assert_eq!((usize::from(ip.total_len.get()), bytes.len() <= mtu), (bytes.len(), true));
            let base = first.get_or_insert(*ip).fragment_offset();
            assert_eq!(ip.fragment_offset() - base, payload.len(), "fragments are in order and touch");
            assert_eq!((ip.id.get(), ip.more_fragments()), (0x1234, number + 1 < pieces.len()));
            assert_eq!(usize::from(piece.meta().l3), piece.start() + 14);
            assert_ne!(piece.meta().flags & flag::FRAGMENT, 0);
            payload.extend_from_slice(&bytes[ip.header_len()..]);
        }
        (first.unwrap(), payload)
    }

    #[test]
    fn fragments_make_the_packet_again() {
        let mut rig = Rig::new();
        rig.hop(3, rig::OWN);
        let mut whole = packet(&mut rig, &[], 3000, 0, 1280);
        let len = whole.len();
        whole.resize(len + 6).unwrap(); // the link's padding
        assert_eq!(rig.one(&mut Fragment, &mut whole), FragmentNext::Cut);
        let pieces = rig.emitted::<FragmentNext>();
        assert!(pieces.iter().all(|(arc, piece)| *arc == FragmentNext::PieceToEgress && piece.meta().next_hop == 3));
        assert_eq!(pieces.len(), 3);
        let (ip, payload) = reassemble(&pieces, 1280);
        assert_eq!(payload, &whole.data()[34..len]);
        assert_eq!(ip.pseudo(3008).bytes(&payload).checksum(), 0);
        pieces.into_iter().for_each(|(_, piece)| rig.put(piece));
        rig.put(whole);
        rig.finish();
    }

    #[test]
    fn pieces_for_a_tunnel_go_back_to_it() {
        let mut rig = Rig::new();
        rig.hop(3, rig::OWN).forward = Forward::Tunnel;
        let mut whole = packet(&mut rig, &[], 100, 0, 100);
        assert_eq!(rig.one(&mut Fragment, &mut whole), FragmentNext::Cut);
        let pieces = rig.emitted::<FragmentNext>();
        assert_eq!(pieces.len(), 2);
        for (arc, piece) in pieces {
            assert_eq!(arc, FragmentNext::PieceToTunnel);
            rig.put(piece);
        }
        rig.put(whole);
        rig.finish();
    }

    #[test]
    fn later_fragments_have_only_the_options_that_are_copied() {
        let mut rig = Rig::new();
        rig.hop(3, rig::OWN);
        let security = [0x82, 3, 9]; // copied
        let record = [0x07, 7, 4, 0, 0, 0, 0]; // not
        let mut whole = packet(&mut rig, &[&record[..], &[1], &security, &[0]].concat(), 200, 0, 120);
        assert_eq!(rig.one(&mut Fragment, &mut whole), FragmentNext::Cut);
        let pieces = rig.emitted::<FragmentNext>();
        assert_eq!(pieces[0].1.data()[34..46], [&record[..], &[1], &security, &[0]].concat());
        assert_eq!(pieces[1].1.data()[34..38], [&security[..], &[0]].concat());
        assert_eq!(reassemble(&pieces, 120).1, &whole.data()[46..]);
        pieces.into_iter().for_each(|(_, piece)| rig.put(piece));
        rig.put(whole);
        rig.finish();
    }

    #[test]
    fn a_fragment_is_cut_again_where_it_belongs() {
        let mut rig = Rig::new();
        rig.hop(3, rig::OWN);
        let mut middle = packet(&mut rig, &[], 192, Ipv4::MORE_FRAGMENTS | 50, 120);
        assert_eq!(rig.one(&mut Fragment, &mut middle), FragmentNext::Cut);
        let pieces = rig.emitted::<FragmentNext>();
        let offsets = pieces.iter().map(|(_, piece)| Ipv4::parse(&piece.data()[14..]).unwrap().0.fragment.get());
        let offsets: Vec<_> = offsets.collect();
        assert_eq!(offsets, [0x2000 | 50, 0x2000 | 62, 0x2000 | 74], "more fragments follow the last one");
        pieces.into_iter().for_each(|(_, piece)| rig.put(piece));
        rig.put(middle);
        rig.finish();
    }

    #[test]
    fn a_partial_checksum_is_completed_first() {
        let mut rig = Rig::new();
        rig.hop(3, rig::OWN);
        let mut whole = packet(&mut rig, &[], 300, 0, 200);
        let l4 = whole.meta().l4;
        let (ip, _) = Ipv4::read_from_prefix(whole.from(whole.meta().l3)).unwrap();
        let right = Udp::read_from_prefix(whole.from(l4)).unwrap().0.checksum;
        whole.from_mut(l4)[6..8].copy_from_slice(&ip.pseudo(308).folded().to_be_bytes());
        whole.meta_mut().offload = Offload { checksum_start: l4, checksum_offset: 6, ..Offload::default() };
        assert_eq!(rig.one(&mut Fragment, &mut whole), FragmentNext::Cut);
        let pieces = rig.emitted::<FragmentNext>();
        let first = pieces[0].1.from(pieces[0].1.meta().l4);
        assert_eq!(Udp::read_from_prefix(first).unwrap().0.checksum, right);
        assert!(pieces.iter().all(|(_, piece)| piece.meta().offload == Offload::default()));
        pieces.into_iter().for_each(|(_, piece)| rig.put(piece));
        rig.put(whole);
        rig.finish();
    }

    #[test]
    fn what_cannot_be_cut_is_dropped_by_name() {
        let mut rig = Rig::new();
        rig.hop(3, rig::OWN);
        let cases: [(u16, u32, &[u8]); 6] = [
            (Ipv4::DONT_FRAGMENT, 200, &[]),
            (0, 27, &[]),                    // no room for eight bytes
            (0, 28, &[]),                    // far too many fragments
            (0, u32::MAX, &[0x82, 1, 0, 0]), // an option shorter than its own header
            (0, 200, &[0x82, 9, 0, 0]),      // and one longer than the header
            (0x1fff, 200, &[]),              // ends beyond what a packet can be
        ];
        for (fragment, mtu, options) in cases {
            let mut whole = packet(&mut rig, options, 2000, fragment, mtu);
            assert_eq!(rig.one(&mut Fragment, &mut whole), FragmentNext::CannotCut, "{fragment:x} {mtu} {options:?}");
            rig.put(whole);
        }
        let mut super_frame = packet(&mut rig, &[], 2000, 0, 200);
        super_frame.meta_mut().offload.segmentation = Segmentation::Udp;
        assert_eq!(rig.one(&mut Fragment, &mut super_frame), FragmentNext::CannotCut);
        rig.put(super_frame);
        rig.limit(2);
        let mut long = packet(&mut rig, &[], 2000, 0, 200);
        assert_eq!(rig.one(&mut Fragment, &mut long), FragmentNext::NoRoom);
        rig.put(long);
        rig.finish();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_packet_makes_itself_again(len in 1usize..1900, mtu in 68u32..1500, words in 0usize..6) {
            let mut rig = Rig::new();
            rig.hop(3, rig::OWN);
            let mut whole = packet(&mut rig, &vec![1; words * 4], len, 0, mtu);
            prop_assert_eq!(rig.one(&mut Fragment, &mut whole), FragmentNext::Cut);
            let pieces = rig.emitted::<FragmentNext>();
            let (_, payload) = reassemble(&pieces, usize::try_from(mtu).unwrap());
            prop_assert_eq!(&payload[..], &whole.data()[34 + words * 4..]);
            pieces.into_iter().for_each(|(_, piece)| rig.put(piece));
            rig.put(whole);
            rig.finish();
        }

        #[test]
        fn any_bytes_are_cut_or_leave_by_name(
            bytes in prop::collection::vec(any::<u8>(), 0..300), mtu in 0u32..200, start: u16, four: bool,
        ) {
            let mut rig = Rig::new();
            let mut frame = [&[0; 14][..], &bytes].concat();
            if let (true, Some(first)) = (four, frame.get_mut(14)) {
                *first = 0x40 | *first & 0x0f;
            }
            let mut packet = rig.packet(&frame, rig::POD);
            packet.meta_mut().flow = mtu;
            packet.meta_mut().offload.checksum_start = if start % 2 == 0 { 0 } else { start % 600 };
            rig.one(&mut Fragment, &mut packet);
            rig.put(packet);
            rig.finish();
        }
    }
}
