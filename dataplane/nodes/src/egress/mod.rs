//! The way out: a packet's next hop becomes a link header and a port.
mod ask;
pub mod fragment;
pub(crate) mod length;
pub(crate) mod link;

pub use fragment::Fragment;

use crate::{Complaint, Turn};
use engine::{Instant, Meta, Node, Packet, PortId, arcs};
use length::Fit;
use std::{net::IpAddr, time::Duration};
use tables::{
    learned::{Learned, Resolved},
    told::{Forward, NextHop, NextHopId, Resolution, Told},
};
use wire::{Ethernet, FromBytes, Ipv4, Ipv6, Mac};

/// Sends a packet by the port of its next hop, with the neighbour's link address, which it looks for when that is not
/// known.
///
/// Where the dataplane resolves by itself it asks, and the packet waits for the answer; elsewhere it waits until the
/// address is told. A packet that waits in vain goes back to its sender as an ICMP error.
pub struct Egress {
    waits: Vec<Wait>, // where addresses are told; all room is taken at start
    forget_at: Instant,
}

arcs! {
    /// Where packets go from [`Egress`].
    pub EgressNext {
        /// To be sent by the port.
        Send,
        /// To wait for the neighbour's link address.
        Held,
        /// Made here: a question for the neighbour's link address, to be sent by the port.
        Solicit,
        /// Waited, and the address may be known now: through egress again.
        Released,
        /// Waited in vain: its sender is told.
        Unreachable,
        /// Longer than the port takes, and not to be fragmented: its sender is told.
        TooBig,
        /// Longer than the port takes: to be fragmented, and its pieces come back.
        Fragment,
        /// Dropped: others wait for the same neighbour, or its port has its share of those that wait.
        Displaced,
        /// Dropped: its port has its share of the neighbours that are looked for.
        TableFull,
        /// Dropped: no packet was left to ask with.
        NoRoom,
        /// Dropped: the next hop is gone, or is no port.
        NoNextHop,
        /// Dropped: the port is gone.
        NoPort,
        /// Dropped: it is for a group or for everyone, and those are not forwarded.
        Multicast,
        /// Dropped: it is no IP packet behind a link header.
        NotIp,
    }
}

/// A neighbour whose link address will be told.
#[derive(Clone, Copy)]
struct Wait {
    hop: NextHopId,
    at: (PortId, IpAddr),
    by: u16,        // the port whose packet was the first to wait
    until: Instant, // no packet waits longer
}

/// How many neighbours can be waited for where addresses are told.
const MOST_WAITS: usize = 256;
/// How long a wait outlives the last packet that was held for it: longer than any packet is held.
const WAIT: Duration = Duration::from_secs(5);
/// How many packets a tick lets go at most: together less than a turn's reserve.
const MOST_RELEASED: usize = 96;
/// How often neighbours that were not heard of for long are forgotten.
const FORGET: Duration = Duration::from_secs(10);

impl Default for Egress {
    fn default() -> Self {
        Egress { waits: Vec::with_capacity(MOST_WAITS), forget_at: Instant::default() }
    }
}

impl Node<Told, Learned> for Egress {
    const NAME: &'static str = "egress";
    const STAGES: usize = 0; // the front left the headers in the cache
    const TICKS: bool = true;
    type Next = EgressNext;

    #[inline(always)]
    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> EgressNext {
        let hop = turn.told.next_hop(NextHopId(packet.meta().next_hop));
        let Some(hop) = hop.filter(|hop| hop.forward == Forward::Port) else { return EgressNext::NoNextHop };
        match length::fit(packet, hop.mtu) {
            Fit::Fits => {}
            misfit => return refuse(packet, hop, misfit),
        }
        if hop.resolved { send(packet, hop, &hop.mac) } else { self.resolve(turn, packet, hop) }
    }

    fn hold(&mut self, turn: &mut Turn<'_>, packet: Packet) {
        let hop = turn.told.next_hop(NextHopId(packet.meta().next_hop));
        let at = hop.and_then(|hop| Some((hop.port, neighbour(&packet, hop)?)));
        let displaced = match at {
            Some(at) => {
                let spare = turn.frames.spare(packet.class());
                turn.learned.neighbours.hold(at, packet, spare, turn.now)
            }
            None => Some(packet),
        };
        if let Some(packet) = displaced {
            turn.emit(EgressNext::Displaced, packet);
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) -> Option<Instant> {
        let more = self.release(turn) | give_up(turn);
        if turn.now >= self.forget_at {
            let told = turn.told;
            turn.learned.neighbours.forget(turn.now, |port| told.port(port).is_some());
            self.forget_at = turn.now.after(FORGET);
        }
        let neighbours = &turn.learned.neighbours;
        let forget = neighbours.iter().next().map(|_| self.forget_at);
        let now = more.then_some(turn.now);
        let waits = self.waits.iter().map(|wait| wait.until);
        waits.chain(neighbours.due()).chain(forget).chain(now).min()
    }
}

#[inline(always)]
fn send(packet: &mut Packet, hop: &NextHop, to: &Mac) -> EgressNext {
    packet.meta_mut().port_out = hop.port.0;
    match link::write(packet, &hop.source, to) {
        Some(()) => EgressNext::Send,
        None => EgressNext::NotIp,
    }
}

#[cold]
fn refuse(packet: &mut Packet, hop: &NextHop, misfit: Fit) -> EgressNext {
    if misfit == Fit::Fragment {
        packet.meta_mut().flow = hop.mtu.into();
        return EgressNext::Fragment;
    }
    length::complain(packet, hop.mtu);
    EgressNext::TooBig
}

impl Egress {
    #[inline(never)]
    fn resolve(&mut self, turn: &mut Turn<'_>, packet: &mut Packet, hop: &NextHop) -> EgressNext {
        let Some(port) = turn.told.port(hop.port) else { return EgressNext::NoPort };
        let Some(address) = neighbour(packet, hop) else { return EgressNext::NotIp };
        let at = (hop.port, address);
        if !is_single(address) {
            return EgressNext::Multicast;
        }
        if let Some(mac) = turn.told.neighbours.get(&at) {
            return send(packet, hop, mac);
        }
        if port.resolution == Resolution::Told {
            return self.wait(packet.meta(), at, turn.now);
        }
        match turn.learned.neighbours.resolve(hop.port, address, packet.meta().port_in, turn.now) {
            Resolved::Known(mac) => send(packet, hop, &mac),
            Resolved::Stale(mac) => {
                if let Some(question) = ask::question(turn, hop.port, port, address) {
                    turn.emit(EgressNext::Solicit, question);
                }
                send(packet, hop, &mac)
            }
            Resolved::Ask => {
                let question = ask::question(turn, hop.port, port, address);
                let asked = question.is_some_and(|question| turn.emit(EgressNext::Solicit, question));
                if asked { EgressNext::Held } else { EgressNext::NoRoom }
            }
            Resolved::Asked => EgressNext::Held,
            Resolved::Full => EgressNext::TableFull,
        }
    }

    fn wait(&mut self, meta: &Meta, at: (PortId, IpAddr), now: Instant) -> EgressNext {
        let (hop, until) = (NextHopId(meta.next_hop), now.after(WAIT));
        if let Some(known) = self.waits.iter_mut().find(|wait| wait.at == at) {
            (known.hop, known.until) = (hop, until);
            return EgressNext::Held;
        }
        let mine = self.waits.iter().filter(|wait| wait.by == meta.port_in).count();
        if mine >= MOST_WAITS - self.waits.len() {
            return EgressNext::TableFull; // a port may use as much as it leaves
        }
        self.waits.push(Wait { hop, at, by: meta.port_in, until });
        EgressNext::Held
    }

    /// Lets packets go whose neighbour was told meanwhile; `true` when there are more.
    fn release(&mut self, turn: &mut Turn<'_>) -> bool {
        let mut left = MOST_RELEASED;
        let Turn { told, now, .. } = *turn;
        let settled = |wait: &Wait| {
            let hop = told.next_hop(wait.hop);
            let still = hop.is_some_and(|hop| hop.forward == Forward::Port && hop.port == wait.at.0 && !hop.resolved);
            !still || told.neighbours.contains_key(&wait.at) || wait.until <= now
        };
        self.waits.retain(|wait| {
            if !settled(wait) {
                return true;
            }
            while left > 0 {
                let Some(packet) = turn.learned.neighbours.waiting(wait.at.0, wait.at.1) else { return false };
                turn.emit(EgressNext::Released, packet);
                left -= 1;
            }
            true
        });
        left == 0
    }
}

/// Gives packets back that have waited too long; `true` when there may be more.
fn give_up(turn: &mut Turn<'_>) -> bool {
    for _ in 0..MOST_RELEASED {
        let Some(mut packet) = turn.learned.neighbours.tired(turn.now) else { return false };
        packet.meta_mut().early = Complaint::Unreachable as u8;
        turn.emit(EgressNext::Unreachable, packet);
    }
    true
}

/// Whose link address the packet needs.
fn neighbour(packet: &Packet, hop: &NextHop) -> Option<IpAddr> {
    let destination = || {
        let ip = packet.data().get(Ethernet::LEN..)?;
        match ip.first()? >> 4 {
            4 => Some(IpAddr::V4(Ipv4::ref_from_prefix(ip).ok()?.0.dst.get().into())),
            6 => Some(IpAddr::V6(Ipv6::ref_from_prefix(ip).ok()?.0.dst.get().into())),
            _ => None,
        }
    };
    hop.gateway.or_else(destination)
}

/// Whether an address can be one station's on a link.
fn is_single(address: IpAddr) -> bool {
    let everyone = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(everyone || address.is_multicast() || address.is_unspecified() || address.is_loopback())
}

#[cfg(test)]
mod tests;
