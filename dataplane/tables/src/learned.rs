//! What one worker learned: flows, neighbours, fragments, and who used up which rate.
use crate::{
    flows::{Hot4, Hot6},
    fragments::Fragments,
    table::Table,
};
use engine::{Class, Frames, Instant, Packet, PortId};
use hugepages::{MapError, Settings};
use std::{collections::HashMap, net::IpAddr, time::Duration};
use wire::Mac;

/// How many neighbours can be known at once.
const NEIGHBOURS: usize = 4096;
/// How many packets can wait for neighbours at once, and for one of them.
const HELD: (usize, usize) = (256, 4);
/// How long a packet waits for a neighbour, and how long a neighbour stays known.
const PATIENCE: Duration = Duration::from_secs(3);
const FRESH: Duration = Duration::from_secs(30);
/// How long an asked neighbour is not asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What one worker learned. It alone reads and writes this, so there is no lock.
pub struct Learned {
    /// Flows over IPv4.
    pub flows4: Table<Hot4>,
    /// Flows over IPv6.
    pub flows6: Table<Hot6>,
    /// Neighbours on ports where the dataplane asks for itself, and packets that wait for them.
    pub neighbours: Neighbours,
    /// Fragmented packets under way.
    pub fragments: Fragments,
    /// First packets of flows, by port.
    pub first_packets: Rates,
    /// ICMP errors sent, by port.
    pub icmp_errors: Rates,
    /// The trace that packets are marked for: its number, and how many more.
    pub tracing: (u64, u8),
}

impl Learned {
    /// Room for `flows` halves of each family, hashed with `seed`, in memory as `map` asks.
    pub fn new(flows: usize, seed: u128, map: &Settings) -> Result<Self, MapError> {
        Self::sized([flows; 2], seed, map)
    }

    /// The same with room for so many halves over IPv4, and for so many over IPv6.
    pub fn sized([v4, v6]: [usize; 2], seed: u128, map: &Settings) -> Result<Self, MapError> {
        Ok(Learned {
            flows4: Table::new(v4, seed, map)?,
            flows6: Table::new(v6, seed.rotate_left(1), map)?,
            neighbours: Neighbours::default(),
            fragments: Fragments::new(seed.rotate_left(2)),
            first_packets: Rates::new(),
            icmp_errors: Rates::new(),
            tracing: (0, 0),
        })
    }
}

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its link address, once it answered.
    pub mac: Option<Mac>,
    heard: Instant, // when it last spoke; the start of time: never
    asked: Instant,
    by: u16, // the port whose packet was the first to look for it
}

/// What an egress node learns when it looks for a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Here it is.
    Known(Mac),
    /// Here it is, but it has not spoken for long: ask it again.
    Stale(Mac),
    /// Ask for it.
    Ask,
    /// It was asked a moment ago.
    Asked,
    /// There is no room for another.
    Full,
}

struct Held {
    at: (PortId, IpAddr),
    since: Instant,
    packet: Packet,
}

/// Neighbours on ports where the dataplane asks for itself (ARP, ND), and packets that wait for their answers. All room
/// is taken at start. Of what nobody uses a port may use as much as it leaves: one may use up half, and no number of
/// ports all.
pub struct Neighbours {
    known: HashMap<(PortId, IpAddr), Neighbour>,
    asking: Box<[u16]>, // by port: for how many neighbours that never answered its packets looked first
    held: Vec<Held>,
}

impl Default for Neighbours {
    fn default() -> Self {
        let (known, asking) = (HashMap::with_capacity(NEIGHBOURS), vec![0; 1 << 16].into());
        Neighbours { known, asking, held: Vec::with_capacity(HELD.0) }
    }
}

impl Neighbours {
    /// Looks a neighbour up for a packet that came by port `by`, and says whether to ask for it.
    pub fn resolve(&mut self, port: PortId, address: IpAddr, by: u16, now: Instant) -> Resolved {
        let room = NEIGHBOURS.saturating_sub(self.known.len());
        let Some(neighbour) = self.known.get_mut(&(port, address)) else {
            let Some(asking) = self.asking.get_mut(usize::from(by)).filter(|asking| usize::from(**asking) < room)
            else {
                return Resolved::Full;
            };
            *asking += 1;
            self.known.insert((port, address), Neighbour { mac: None, heard: Instant::default(), asked: now, by });
            return Resolved::Ask;
        };
        let again = now.since(neighbour.asked) >= ASK_AGAIN;
        let fresh = now.since(neighbour.heard) < FRESH;
        if again && !fresh {
            neighbour.asked = now;
        }
        match neighbour.mac {
            Some(mac) if fresh || !again => Resolved::Known(mac),
            Some(mac) => Resolved::Stale(mac),
            None if again => Resolved::Ask,
            None => Resolved::Asked,
        }
    }

    /// A neighbour said where it is. Only one that was asked for is believed, so that nobody fills the table.
    pub fn heard(&mut self, port: PortId, address: IpAddr, mac: Mac, now: Instant) -> bool {
        let Some(neighbour) = self.known.get_mut(&(port, address)) else { return false };
        answered(&mut self.asking, neighbour);
        *neighbour = Neighbour { mac: Some(mac), heard: now, ..*neighbour };
        true
    }

    /// Lets a packet wait for a neighbour; `spare` more frames like its own may wait. A packet comes back when too many
    /// wait: one that has waited for the same neighbour, from the same port if there is one, or the packet itself.
    pub fn hold(
        &mut self,
        (port, address): (PortId, IpAddr),
        packet: Packet,
        spare: usize,
        now: Instant,
    ) -> Option<Packet> {
        let (at, port_in, class) = ((port, address), packet.meta().port_in, packet.class());
        let mine = |held: &&Held| held.packet.meta().port_in == port_in;
        let alike = self.held.iter().filter(mine).filter(|held| held.packet.class() == class).count();
        let room = self.held.iter().filter(mine).count() < HELD.0.saturating_sub(self.held.len());
        if class > Class::Small && alike >= spare {
            return Some(packet);
        }
        let displaced = if self.held.iter().filter(|held| held.at == at).count() >= HELD.1 {
            let own = self.held.iter().position(|held| held.at == at && mine(&held));
            let Some(oldest) = own.or_else(|| self.held.iter().position(|held| room && held.at == at)) else {
                return Some(packet);
            };
            Some(self.held.remove(oldest).packet)
        } else if !room {
            return Some(packet);
        } else {
            None
        };
        self.held.push(Held { at, since: now, packet });
        displaced
    }

    /// A packet that waited for this neighbour, the first one first.
    pub fn waiting(&mut self, port: PortId, address: IpAddr) -> Option<Packet> {
        let first = self.held.iter().position(|held| held.at == (port, address))?;
        Some(self.held.remove(first).packet)
    }

    /// A packet that has waited too long.
    pub fn tired(&mut self, now: Instant) -> Option<Packet> {
        let tired = self.held.iter().position(|held| now.since(held.since) >= PATIENCE)?;
        Some(self.held.remove(tired).packet)
    }

    /// When a packet will have waited too long.
    pub fn due(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.since.after(PATIENCE)).min()
    }

    /// Forgets neighbours that have not spoken for long or never answered, and those on a port that is gone.
    pub fn forget(&mut self, now: Instant, is_there: impl Fn(PortId) -> bool) {
        self.known.retain(|(port, _), neighbour| {
            let patience = if neighbour.mac.is_some() { 4 * FRESH } else { PATIENCE };
            let kept = is_there(*port) && now.since(neighbour.heard.max(neighbour.asked)) < patience;
            if !kept {
                answered(&mut self.asking, neighbour);
            }
            kept
        });
    }

    /// Gives every waiting packet back.
    pub fn clear(&mut self, frames: &mut Frames) {
        self.held.drain(..).for_each(|held| frames.put(held.packet));
    }

    /// Who is known, for people to look at.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, IpAddr, &Neighbour)> {
        self.known.iter().map(|((port, address), neighbour)| (*port, *address, neighbour))
    }
}

/// A neighbour is not asked for any more.
fn answered(asking: &mut [u16], neighbour: &Neighbour) {
    if let Some(asking) = asking.get_mut(usize::from(neighbour.by)).filter(|_| neighbour.mac.is_none()) {
        *asking = asking.saturating_sub(1);
    }
}

/// How much of a rate each port used, and all together: buckets that fill with time and hold a second's worth.
pub struct Rates {
    ports: Box<[Bucket]>,
    all: Bucket,
}

type Bucket = (u32, u64); // tokens left, and the millisecond of the last refill

impl Rates {
    fn new() -> Self {
        Rates { ports: vec![(0, 0); 1 << 16].into(), all: (0, 0) }
    }

    /// Takes one from `port`'s bucket, which gets `rate` a second; false when it is empty.
    #[inline]
    pub fn take(&mut self, port: u16, rate: u32, now: Instant) -> bool {
        self.ports.get_mut(usize::from(port)).is_some_and(|bucket| take(bucket, rate, now))
    }

    /// Takes one from the bucket of all ports, which gets `all` a second, and one from that of `port`, which gets a
    /// tenth.
    pub fn take_share(&mut self, port: u16, all: u32, now: Instant) -> bool {
        self.take(port, all.div_ceil(10), now) && take(&mut self.all, all, now)
    }
}

#[inline]
fn take((tokens, at): &mut Bucket, rate: u32, now: Instant) -> bool {
    let passed = now.milliseconds().saturating_sub(*at);
    let earned = passed.saturating_mul(u64::from(rate)) / 1000;
    if earned > 0 {
        *tokens = u32::try_from(u64::from(*tokens).saturating_add(earned)).unwrap_or(rate).min(rate);
        *at = now.milliseconds();
    }
    let left = tokens.checked_sub(1);
    *tokens = left.unwrap_or(0);
    left.is_some()
}
