//! Neighbour solicitations and advertisements, as RFC 4861 sections 7.1.1 and 7.1.2 let them pass.
use engine::{Offload, Packet};
use std::net::Ipv6Addr;
use tables::told::Port;
use wire::{
    Ethernet, FromBytes, Ipv6, Mac, U128,
    build::{self, Addresses, Path},
    nd::{self, Neighbour},
};

/// A valid message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The address asked for, or had.
    pub(super) target: Ipv6Addr,
    /// Who speaks; zero while it does not know whether it may.
    source: U128,
    /// The sender's link address (in a solicitation) or the target's (in an advertisement).
    pub(super) mac: Mac,
}

/// Reads a message whose checksum is right; `None` when it is not valid, and then it must be ignored.
pub(super) fn read(packet: &Packet) -> Option<Message> {
    let (ethernet, _) = Ethernet::ref_from_prefix(packet.data()).ok()?;
    let (ip, _) = Ipv6::ref_from_prefix(packet.from(packet.meta().l3)).ok()?;
    let before = usize::from(packet.meta().l4.checked_sub(packet.meta().l3)?);
    let message = packet.from(packet.meta().l4).get(..ip.total_len().checked_sub(before)?)?;
    let (neighbour, options) = Neighbour::parse(message)?;
    let whole: usize = nd::options(options).map(|(_, body)| body.len() + 2).sum();
    if ip.hop_limit != nd::HOP_LIMIT || whole != options.len() || is_group(neighbour.target) {
        return None;
    }
    let kind = if neighbour.is_solicitation() { nd::SOURCE } else { nd::TARGET };
    let option = nd::link_layer(options, kind);
    let is_right = if !neighbour.is_solicitation() {
        !(is_group(ip.dst) && neighbour.is_solicited())
    } else {
        // Whether an address is free is asked from none, and of everyone who might have it.
        ip.src != U128::ZERO || (ip.dst == nd::solicited_node(neighbour.target) && option.is_none())
    };
    let mac = option.unwrap_or(ethernet.src);
    let target = Ipv6Addr::from_bits(neighbour.target.get());
    (is_right && mac.is_station()).then_some(Message { target, source: ip.src, mac })
}

/// Turns the packet of a solicitation into the answer that its target is here.
pub(super) fn answer(packet: &mut Packet, asked: &Message, port: &Port) -> Option<()> {
    const LEN: usize = Ethernet::LEN + Ipv6::LEN + Neighbour::LEN + nd::LinkLayer::LEN;
    let target = U128::new(asked.target.to_bits());
    let (to, mac, flags) = if asked.source == U128::ZERO {
        (nd::ALL_NODES, Mac::of_ipv6_group(nd::ALL_NODES.get()), nd::ROUTER | nd::OVERRIDE)
    } else {
        (asked.source, asked.mac, nd::ROUTER | nd::OVERRIDE | nd::SOLICITED)
    };
    let path = Path::new((port.mac, mac), Addresses::V6(target, to));
    build::neighbour_advertisement(packet.resize(LEN)?, &path, target, flags)?;
    let l3 = u16::try_from(packet.start() + Ethernet::LEN).ok()?;
    let meta = packet.meta_mut();
    (meta.l3, meta.l4) = (l3, l3.checked_add(40)?);
    (meta.port_out, meta.offload) = (meta.port_in, Offload::default());
    Some(())
}

fn is_group(address: U128) -> bool {
    address.get() >> 120 == 0xff
}
