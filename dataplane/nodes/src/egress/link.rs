//! The link header in front of an IP packet.
use engine::Packet;
use wire::{EtherType, Ethernet, FromBytes, Mac, U16};

/// What the first two bytes of an IP packet say.
pub(crate) struct Start {
    /// The type of the packet.
    pub(crate) ethertype: U16,
    /// Its type of service or traffic class.
    pub(crate) class: u8,
}

impl Start {
    /// What `first` and `second` say, the packet's first bytes.
    #[inline(always)]
    pub(crate) fn of(first: u8, second: u8) -> Start {
        let six = first & 0xf0 == 0x60;
        let ethertype = if six { EtherType::IPV6 } else { EtherType::IPV4 };
        Start { ethertype: U16::new(ethertype.0), class: if six { first << 4 | second >> 4 } else { second } }
    }
}

/// Writes the link header of the IP packet behind it; `None`, and nothing written, when the packet is too short.
#[inline(always)]
pub(crate) fn write(packet: &mut Packet, src: &Mac, dst: &Mac) -> Option<()> {
    let (header, ip) = Ethernet::mut_from_prefix(packet.data_mut()).ok()?;
    let [first, second, ..] = *ip else { return None };
    (header.dst, header.src) = (*dst, *src);
    header.kind = Start::of(first, second).ethertype;
    Some(())
}
