//! The rules: policy, service, route, in this order; and the answer that they leave for the packets that follow.
use super::{
    FrontNext, Tuple, error,
    family::Family,
    front::{flags_of, is_valid, replay},
};
use crate::{
    Complaint, Turn, flag,
    policy::{self, Verdict},
    route::{self, Way},
    service,
};
use engine::{Node, Packet, PortId, arcs};
use tables::{
    flows::{Age, Hot4, Hot6, Tcp, kind},
    learned::Learned,
    table::{Full, Newcomer},
    told::{EndpointId, Forward, Told, VrfId},
};
use wire::Protocol;

arcs!(
    /// Where packets go that have no valid answer yet.
    pub LearnNext {
        /// Out by a port.
        Forward,
        /// Into a tunnel.
        Tunnel,
        /// To one of the dataplane's own addresses.
        Local,
        /// To the worker where the reply half is at home.
        HandOff,
        /// There is no route: the sender is told.
        NoRoute,
        /// The route says that nobody can be reached: the sender is told.
        Unreachable,
        /// The route says to drop.
        Blackhole,
        /// The flow's answer is to drop.
        Denied,
        /// Addresses that no packet on its way bears (RFC 6890).
        Martian,
        /// A source address that the port may not use.
        Spoofed,
        /// A TCP reply, or the end of a connection, of which no flow is known.
        ReplyWithoutFlow,
        /// An ICMP error about a packet that no flow sent.
        ErrorWithoutFlow,
        /// More first packets of flows than the port may send in a second.
        TooManyFirst,
        /// The port has used its share of the flow table, and the rest is used too.
        BudgetUsed,
        /// No flow may be evicted for this one.
        TableFull,
        /// Its headers are not what they should be.
        Malformed,
        /// The port has gone.
        NoPort,
    }
);

/// Walks policy, service and route for a packet without a valid answer, and keeps the answer as two halves.
pub struct Learn;

impl Node<Told, Learned> for Learn {
    const NAME: &'static str = "learn";
    const STAGES: usize = 2;
    type Next = LearnNext;

    /// Fetches the sets of both halves, then the lines that they will be written to; of a translated flow only those of
    /// the first half are known so early.
    #[inline(always)]
    fn ahead<const K: usize>(&self, turn: &Turn<'_>, packet: &mut Packet) {
        match packet.meta().flags & flag::V6 {
            0 => ahead::<K, Hot4>(turn, packet),
            _ => ahead::<K, Hot6>(turn, packet),
        }
    }

    fn one(&mut self, turn: &mut Turn<'_>, packet: &mut Packet) -> LearnNext {
        let next = match packet.meta().flags & flag::V6 {
            0 => decide::<Hot4>(turn, packet),
            _ => decide::<Hot6>(turn, packet),
        };
        match next {
            LearnNext::NoRoute => packet.meta_mut().early = Complaint::NoRoute as u8,
            LearnNext::Unreachable => packet.meta_mut().early = Complaint::Unreachable as u8,
            _ => packet.meta_mut().early = 0,
        }
        next
    }
}

fn ahead<const K: usize, F: Family>(turn: &Turn<'_>, packet: &Packet) {
    let Some(key) = F::key_of(packet) else { return };
    let table = F::table(turn.learned);
    for hash in [table.hash(key), table.hash(F::reversed(key))] {
        if K == 0 { table.fetch_tags(hash) } else { table.fetch_room(hash) }
    }
}

fn decide<F: Family>(turn: &mut Turn<'_>, packet: &mut Packet) -> LearnNext {
    let Some(key) = F::key_of(packet) else { return LearnNext::Malformed };
    let hash = F::table(turn.learned).hash(key);
    packet.meta_mut().hash = hash;
    let (tuple, told): (Tuple, _) = (key.into(), turn.told);
    let known = F::table(turn.learned).find(key, hash);
    if let Some(slot) = known
        && answered::<F>(turn, slot, packet.meta().port_in)
    {
        return replayed::<F>(turn, packet, slot); // an earlier packet of this batch learned it
    }
    let Some(port) = told.port(PortId(packet.meta().port_in)) else { return LearnNext::NoPort };
    let decapped = packet.meta().flags & flag::DECAPPED != 0;
    if crate::ingress::is_martian(tuple.source, tuple.destination) {
        return LearnNext::Martian;
    }
    let own = packet.meta().flags & flag::OWN != 0; // an error about a packet that was rewritten
    if !own && policy::judge(port, tuple.source, decapped) == Verdict::Spoofed {
        return LearnNext::Spoofed;
    }
    if port.gateways.contains(&tuple.destination) {
        return LearnNext::Local;
    }
    if error::is_error(packet) {
        return error::forward::<F>(turn, packet);
    }
    match known {
        Some(slot) => walk_again::<F>(turn, packet, slot, &tuple),
        None => walk::<F>(turn, packet, &tuple, key),
    }
}

fn answered<F: Family>(turn: &Turn<'_>, slot: u32, port_in: u16) -> bool {
    let table = F::table(turn.learned);
    table.hot(slot).zip(table.cold(slot)).is_some_and(|(half, cold)| is_valid(turn.told, half, cold, port_in))
}

/// The first packet of a flow.
fn walk<F: Family>(turn: &mut Turn<'_>, packet: &mut Packet, tuple: &Tuple, key: F::Key) -> LearnNext {
    const SYN_ACK_RST: (u8, u8) = (0x12, 0x04);
    let (told, port_in, flags) = (turn.told, packet.meta().port_in, flags_of(packet));
    if flags & SYN_ACK_RST.0 == SYN_ACK_RST.0 || flags & SYN_ACK_RST.1 != 0 {
        return LearnNext::ReplyWithoutFlow; // never answered with a reset: a restart must not end connections
    }
    if !turn.learned.first_packets.take(port_in, told.limits.first_packets, turn.now) {
        return LearnNext::TooManyFirst;
    }
    let translated = service::translate(told, tuple);
    let (endpoint, to) = translated.unwrap_or((EndpointId(0), *tuple));
    let way = route::way(told, VrfId(tuple.vrf), to.destination);
    let action = match action(way.forward) {
        Ok(action) => action,
        Err(next) => return next,
    };
    let back = route::way(told, VrfId(tuple.vrf), tuple.source);
    let rewrite = translated.map(|_| (*tuple, to));
    let here = Answer { key, way, port_in: PortId(port_in), kind: action, endpoint, rewrite };
    let replies = match back.forward {
        Forward::Tunnel => kind::REPLY | kind::TUNNEL,
        Forward::Port => kind::REPLY,
        _ => kind::REPLY | kind::DROP,
    };
    let rewrite = translated.map(|_| (to.reversed(), tuple.reversed()));
    let reply = match &rewrite {
        None => Some(F::reversed(key)),
        Some((from, _)) => F::key_from(from),
    };
    let Some(reply) = reply else { return LearnNext::Malformed };
    let there = Answer { key: reply, way: back, port_in: way.port_out, kind: replies, endpoint, rewrite };
    let flow = (key, port_in);
    let learned = if action == kind::DROP {
        keep::<F>(turn, &here, flow).map(|slot| (slot, slot))
    } else {
        // The reply half first: were its set full, the forward half could not be evicted for it.
        let replies = keep::<F>(turn, &there, flow);
        replies.and_then(|replies| Ok((keep::<F>(turn, &here, flow)?, replies)))
    };
    match learned {
        Ok((slot, twin)) => {
            F::table_mut(turn.learned).marry(slot, twin);
            if action == kind::DROP {
                return LearnNext::Blackhole;
            }
            replayed::<F>(turn, packet, slot)
        }
        Err(Full::Budget) => LearnNext::BudgetUsed,
        Err(Full::Set) => LearnNext::TableFull,
    }
}

/// What an answer does where the route leads so; an arc where no answer is kept.
fn action(forward: Forward) -> Result<u8, LearnNext> {
    match forward {
        Forward::Nowhere => Err(LearnNext::NoRoute),
        Forward::Unreachable => Err(LearnNext::Unreachable),
        Forward::Local => Err(LearnNext::Local),
        Forward::Blackhole => Ok(kind::DROP),
        Forward::Tunnel => Ok(kind::FORWARD | kind::TUNNEL),
        Forward::Port => Ok(kind::FORWARD),
    }
}

/// What the rules decided for one direction of a flow.
struct Answer<K> {
    key: K,
    way: Way,
    port_in: PortId,
    kind: u8,
    endpoint: EndpointId,
    rewrite: Option<(Tuple, Tuple)>, // what its packets are, and become
}

/// Keeps an answer as a half of the flow whose first packet had the key `original`, counted against port `budget`.
fn keep<F: Family>(
    turn: &mut Turn<'_>,
    answer: &Answer<F::Key>,
    (original, budget): (F::Key, u16),
) -> Result<u32, Full> {
    let (told, now) = (turn.told, Age::of(turn.now));
    let table = F::table_mut(turn.learned);
    let new = Newcomer { key: answer.key, hash: table.hash(answer.key), budget };
    let slot = table.place_for(&new, now, &told.limits)?;
    let Some((half, cold)) = table.lines(slot) else { return Err(Full::Set) };
    F::set_original(cold, original);
    F::rest_mut(cold).incarnation = told.incarnation(answer.endpoint);
    let life = half.life_mut();
    life.kind = answer.kind;
    life.tcp = if F::protocol(answer.key) == Protocol::TCP { Tcp::Opening } else { Tcp::None } as u8;
    if let Some((from, to)) = &answer.rewrite {
        life.kind |= kind::REWRITE;
        half.set_rewrite(cold, from, to);
        half.set_endpoint(cold, answer.endpoint.0);
    }
    lead::<F>(told, half, answer.way, (answer.port_in, answer.endpoint));
    if answer.kind & kind::REPLY != 0 {
        // Not valid yet: who replies, and by which way, is judged when the first reply comes.
        half.life_mut().stamp ^= 1 << 31;
    }
    Ok(slot)
}

/// Makes a half lead along `way`, and stamps it with what that depends on.
fn lead<F: Family>(told: &Told, half: &mut F, way: Way, (port_in, endpoint): (PortId, EndpointId)) {
    let life = half.life_mut();
    life.stamp = told.stamp(port_in, way.port_out, endpoint, way.leaf);
    (life.next_hop, life.leaf) = (way.next_hop.0, way.leaf.0);
    (life.port_in, life.port_out) = (port_in.0, way.port_out.0);
}

/// A packet of a flow whose answer may no longer hold. Sticky: the endpoint stays while it lives; the route is found
/// again.
fn walk_again<F: Family>(turn: &mut Turn<'_>, packet: &mut Packet, slot: u32, tuple: &Tuple) -> LearnNext {
    let (told, port_in) = (turn.told, PortId(packet.meta().port_in));
    let table = F::table_mut(turn.learned);
    let (Some(mut half), Some(cold)) = (table.hot(slot).copied(), table.cold(slot).copied()) else {
        return LearnNext::Malformed;
    };
    let translated = half.life().kind & kind::REWRITE != 0;
    let endpoint = EndpointId(if translated { half.endpoint(&cold) } else { 0 });
    let moved = translated && told.incarnation(endpoint) != F::rest(&cold).incarnation;
    let now_translated =
        !translated && half.life().kind & kind::REPLY == 0 && service::translate(told, tuple).is_some();
    if moved || now_translated {
        let reply = half.life().kind & kind::REPLY != 0;
        table.end(slot);
        return if reply { LearnNext::ReplyWithoutFlow } else { walk::<F>(turn, packet, tuple, half.key()) };
    }
    if half.life().kind & (kind::ACTION | kind::REPLY) == kind::DROP {
        table.end(slot); // it was alone: should it lead somewhere now, replies need a half too
        return walk::<F>(turn, packet, tuple, half.key());
    }
    let to = half.rewritten(&cold, tuple);
    let way = route::way(told, VrfId(tuple.vrf), to.destination);
    let action = match action(way.forward) {
        Ok(action) => action,
        Err(next) => return next,
    };
    let life = half.life_mut();
    life.kind = life.kind & !(kind::ACTION | kind::TUNNEL) | action;
    lead::<F>(told, &mut half, way, (port_in, endpoint));
    if let Some(to) = table.hot_mut(slot) {
        *to = half;
    }
    replayed::<F>(turn, packet, slot)
}

fn replayed<F: Family>(turn: &mut Turn<'_>, packet: &mut Packet, slot: u32) -> LearnNext {
    match replay::<F>(turn, packet, slot) {
        FrontNext::Forward => LearnNext::Forward,
        FrontNext::Tunnel => LearnNext::Tunnel,
        FrontNext::Local => LearnNext::Local,
        FrontNext::Denied => LearnNext::Denied,
        _ => LearnNext::Malformed,
    }
}
