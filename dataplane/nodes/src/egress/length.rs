//! How long a packet will be on a wire, and what becomes of it where that is too long.
use crate::Complaint;
use engine::{Packet, Segmentation};
use wire::{Ethernet, FromBytes, Ipv4, Ipv6, Tcp, Udp};

/// What an MTU means for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It may leave.
    Fits,
    /// It may leave in fragments.
    Fragment,
    /// It may not leave, and its sender is told.
    TooBig,
}

/// Whether the IP packet behind the link header fits into `mtu` bytes. A TCP super-frame over IPv4 that may be
/// fragmented is given shorter segments instead, which its receiver cannot tell from the sender's own.
#[inline(always)]
pub(crate) fn fit(packet: &mut Packet, mtu: u16) -> Fit {
    if packet.len() <= usize::from(mtu) + Ethernet::LEN { Fit::Fits } else { fit_exactly(packet, mtu) }
}

/// Notes that the packet is longer than `mtu`. The sender is told what its own packets may have, without what
/// encapsulation added to this one.
#[cold]
pub(crate) fn complain(packet: &mut Packet, mtu: u16) {
    let added = usize::from(packet.meta().l3).saturating_sub(packet.start().saturating_add(Ethernet::LEN));
    let meta = packet.meta_mut();
    meta.early = Complaint::TooBig as u8;
    meta.flow = u32::try_from(usize::from(mtu).saturating_sub(added)).unwrap_or(0);
}

#[inline(never)]
fn fit_exactly(packet: &mut Packet, mtu: u16) -> Fit {
    let Some(len) = ip_len(packet) else { return Fit::TooBig };
    if len <= usize::from(mtu) {
        return Fit::Fits;
    }
    let may_cut = match packet.data().get(Ethernet::LEN..).map(Ipv4::ref_from_prefix) {
        Some(Ok((ip, _))) => ip.version() == 4 && !ip.dont_fragment(),
        _ => false,
    };
    match (may_cut, packet.meta().offload.segmentation) {
        (false, _) | (true, Segmentation::Udp) => Fit::TooBig,
        (true, Segmentation::None) => Fit::Fragment,
        (true, Segmentation::Tcp4 | Segmentation::Tcp6) => shorten(packet, len, mtu),
    }
}

/// How long the longest IP packet of this one will be on a wire, from the first IP header on, in bytes; `None` when
/// headers and metadata contradict each other.
fn ip_len(packet: &Packet) -> Option<usize> {
    let offload = packet.meta().offload;
    let ip = packet.data().get(Ethernet::LEN..)?;
    if offload.segmentation != Segmentation::None {
        let headers = segment_headers(packet)?;
        let payload = ip.len().checked_sub(headers)?;
        return Some(headers + payload.min(offload.segment_size.into()));
    }
    // What is behind the packet by its own word is the link's padding.
    let says = match ip.first()? >> 4 {
        4 => Ipv4::ref_from_prefix(ip).ok()?.0.total_len.get().into(),
        _ => Ipv6::ref_from_prefix(ip).ok()?.0.total_len(),
    };
    Some(ip.len().min(says))
}

/// The bytes that every segment of a super-frame has in front of its payload, from the first IP header on.
fn segment_headers(packet: &Packet) -> Option<usize> {
    let offload = packet.meta().offload;
    let l4 = usize::from(offload.checksum_start).checked_sub(packet.start())?.checked_sub(Ethernet::LEN)?;
    let transport = match offload.segmentation {
        Segmentation::Udp => Udp::LEN,
        _ => Tcp::ref_from_prefix(packet.from(offload.checksum_start)).ok()?.0.header_len(),
    };
    Some(l4 + transport)
}

/// Fewer payload bytes in each segment of a super-frame whose segments are `len` bytes long.
fn shorten(packet: &mut Packet, len: usize, mtu: u16) -> Fit {
    const LEAST: u16 = 64; // below that there would be too many: ports refuse it
    let Some(headers) = segment_headers(packet) else { return Fit::TooBig };
    let size = u16::try_from(usize::from(mtu).saturating_sub(headers)).unwrap_or(u16::MAX);
    debug_assert!(len > usize::from(mtu));
    if size < LEAST {
        return Fit::TooBig;
    }
    packet.meta_mut().offload.segment_size = size;
    Fit::Fits
}
