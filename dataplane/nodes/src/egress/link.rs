//! The link header in front of an IP packet.
use engine::Packet;
use wire::{EtherType, Ethernet, IntoBytes, Mac};

/// Writes the link header of the IP packet behind it, and gives that packet's type of service or traffic class; `None`,
/// and nothing written, when the packet is too short.
#[inline(always)]
pub(crate) fn write(packet: &mut Packet, src: Mac, dst: Mac) -> Option<u8> {
    let start = packet.data_mut().first_chunk_mut::<{ Ethernet::LEN + 2 }>()?;
    let [link @ .., first, second] = start;
    let six = *first >> 4 == 6;
    let class = if six { *first << 4 | *second >> 4 } else { *second };
    let header = Ethernet::new(src, dst, if six { EtherType::IPV6 } else { EtherType::IPV4 });
    link.copy_from_slice(header.as_bytes());
    Some(class)
}
