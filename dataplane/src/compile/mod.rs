//! From what the agent says to what nodes are told.
//!
//! A [`State`] is a value whose clone shares all that does not change: an Apply changes a clone, and a refused or dry
//! one throws it away. Work is in proportion to the change: every object has a slot that it keeps, and every index that
//! a change must find its way by is kept beside the objects.
//!
//! Whatever the history, the same objects give the same tables; only slot numbers and epochs tell histories apart.
mod check;
mod difference;
mod hops;
mod numbers;
mod ports;
mod routes;
mod tunnels;

pub use check::{MOST_VRFS, Neighbour, Port, Route, Tunnel};
pub use difference::Outcome;
pub use hops::Link;

use check::{Device, port_id};
use difference::{Deletes, Difference, Put};
use engine::PortId;
use hops::HopKey;
use numbers::Numbers;
use proto::{
    Refusal,
    v1::{self, Desired, Kind, ObjectKey, Reason, apply_request::Change},
};
use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};
use std::{net::IpAddr, sync::Arc};
use tables::told::{Arrival, Limits, Prefix, Told, TraceFilter, TunnelId, VrfId};
use wire::Mac;

/// How full a table of flows may be before a flow may not find a place although there are some, in percent.
const FULL_PERCENT: usize = 70;

/// An object of the API.
pub trait Object: Clone + PartialEq + Send + Sync {
    /// Its kind.
    const KIND: Kind;
    /// What it says, checked.
    type Checked: Send + Sync;

    /// The caller's id.
    fn id(&self) -> &str;

    /// Checks it on its own.
    ///
    /// # Errors
    /// What is wrong with it, by field.
    fn check(&self) -> Result<Self::Checked, Refusal>;
}

/// An object that is there, and its slot.
struct Entry<T: Object> {
    object: Arc<T>,
    checked: Arc<T::Checked>,
    slot: u32,
}

impl<T: Object> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Entry { object: self.object.clone(), checked: self.checked.clone(), slot: self.slot }
    }
}

type Ids<T> = HashTrieMapSync<Arc<str>, Entry<T>>;

/// What is referred to: a port or a tunnel.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Port(Arc<str>),
    Tunnel(Arc<str>),
}

/// Who refers: kind, id, and the field by which it does.
type User = (i32, Arc<str>, &'static str);

/// All that is desired, and the tables that it compiles to.
#[derive(Clone)]
pub struct State {
    told: Told,
    settings: v1::Settings,
    ports: Ids<v1::Port>,
    routes: Ids<v1::Route>,
    neighbours: Ids<v1::Neighbour>,
    tunnels: Ids<v1::Tunnel>,
    port_numbers: Numbers,
    leaf_numbers: Numbers,
    hop_numbers: Numbers,
    tunnel_numbers: Numbers,
    /// Whose a slot is.
    port_ids: HashTrieMapSync<u16, Arc<str>>,
    tunnel_ids: HashTrieMapSync<u16, Arc<str>>,
    leaf_ids: HashTrieMapSync<u32, Arc<str>>,
    users: RedBlackTreeSetSync<(Target, User)>,
    devices: HashTrieMapSync<Device, Arc<str>>,
    /// The prefixes of pods, which never overlap: VRF, family (is it IPv6), first address, length.
    allowed: RedBlackTreeMapSync<(u16, bool, u128, u8), Arc<str>>,
    /// Next hops that something uses: slot, and how many use it.
    hops: RedBlackTreeMapSync<HopKey, (u32, u32)>,
    /// Neighbours as told, and whose object says so.
    told_macs: RedBlackTreeMapSync<(u16, IpAddr), (Mac, Arc<str>)>,
    /// Neighbours as the kernel has them, by interface.
    kernel_macs: RedBlackTreeMapSync<(Arc<str>, IpAddr), Mac>,
    links: HashTrieMapSync<Arc<str>, Link>,
    /// Tunnels by what their way depends on: underlay VRF, remote.
    remotes: RedBlackTreeSetSync<(u16, IpAddr, Arc<str>)>,
    groups: HashTrieMapSync<Arrival, tunnels::Group>,
    uplinks: RedBlackTreeSetSync<(u16, Arc<str>)>,
    /// Flow halves that fit into the table of a family.
    flows: usize,
}

impl Default for State {
    /// Nothing: generation zero.
    fn default() -> Self {
        State {
            told: Told::default(),
            settings: v1::Settings::default(),
            ports: Ids::new_sync(),
            routes: Ids::new_sync(),
            neighbours: Ids::new_sync(),
            tunnels: Ids::new_sync(),
            port_numbers: Numbers::new(1, u16::MAX.into()),
            leaf_numbers: Numbers::new(1, tables::way::MOST_LEAVES),
            hop_numbers: Numbers::new(1, u32::MAX),
            tunnel_numbers: Numbers::new(0, TunnelId::NONE.0.into()),
            port_ids: HashTrieMapSync::new_sync(),
            tunnel_ids: HashTrieMapSync::new_sync(),
            leaf_ids: HashTrieMapSync::new_sync(),
            users: RedBlackTreeSetSync::new_sync(),
            devices: HashTrieMapSync::new_sync(),
            allowed: RedBlackTreeMapSync::new_sync(),
            hops: RedBlackTreeMapSync::new_sync(),
            told_macs: RedBlackTreeMapSync::new_sync(),
            kernel_macs: RedBlackTreeMapSync::new_sync(),
            links: HashTrieMapSync::new_sync(),
            remotes: RedBlackTreeSetSync::new_sync(),
            groups: HashTrieMapSync::new_sync(),
            uplinks: RedBlackTreeSetSync::new_sync(),
            flows: usize::MAX,
        }
    }
}

/// What an Apply touched that others depend on.
#[derive(Default)]
struct Touched {
    prefixes: Vec<(VrfId, Prefix)>,
    tunnels: Vec<Arc<str>>,
    arrivals: Vec<Arrival>,
    underlays: Vec<VrfId>,
}

impl State {
    /// The state after `change`, and what is different; its generation is one more when anything is.
    ///
    /// # Errors
    /// The first object that cannot be: nothing of the change holds then.
    pub fn apply(&self, change: Change) -> Result<(State, Outcome), Refusal> {
        let (desired, keys) = match change {
            Change::Whole(desired) => (desired, None),
            Change::Delta(delta) => {
                self.expect(delta.expected_generation)?;
                (delta.upserts.unwrap_or_default(), Some(delta.deletes))
            }
        };
        let deletes = match &keys {
            None => Deletes::Rest,
            Some(keys) => Deletes::These(known(keys)?),
        };
        let mut next = self.clone();
        let mut outcome = next.change_settings(desired.settings, &deletes)?;
        let ports = Difference::new(&self.ports, desired.ports, &deletes)?;
        let routes = Difference::new(&self.routes, desired.routes, &deletes)?;
        let neighbours = Difference::new(&self.neighbours, desired.neighbours, &deletes)?;
        let tunnels = Difference::new(&self.tunnels, desired.tunnels, &deletes)?;
        ports.note(&mut outcome);
        routes.note(&mut outcome);
        neighbours.note(&mut outcome);
        tunnels.note(&mut outcome);
        outcome.sort();
        let mut touched = Touched::default();
        next.take_routes(&routes, &mut touched);
        next.take_neighbours(&neighbours);
        next.take_tunnels(&tunnels, &mut touched);
        next.take_ports(&ports, &mut touched);
        next.put_ports(ports.put, &mut touched)?;
        next.put_tunnels(tunnels.put, &mut touched)?;
        next.put_neighbours(neighbours.put)?;
        next.put_routes(routes.put, &mut touched)?;
        next.check_users(&ports.gone, Target::Port)?;
        next.check_users(&tunnels.gone, Target::Tunnel)?;
        next.settle_tunnels(touched);
        next.share_flows();
        if !outcome.is_empty() || self.generation() == 0 {
            next.told.generation += 1;
        }
        Ok((next, outcome))
    }

    /// What workers are told.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// How many Applies made it what it is. Zero: none.
    pub fn generation(&self) -> u64 {
        self.told.generation
    }

    /// Continues with the generation that an earlier process had.
    pub fn resume(&mut self, generation: u64) {
        self.told.generation = generation;
    }

    /// Says how many flow halves fit into the table of a family.
    pub fn limit_flows(&mut self, flows: usize) {
        self.flows = flows;
        self.share_flows();
    }

    /// How many flow halves every port is guaranteed, when that is less than what it should be: there are too many
    /// ports for the tables.
    pub fn meagre_guarantee(&self) -> Option<u32> {
        let guaranteed = self.told.limits.guaranteed_halves;
        Some(guaranteed).filter(|guaranteed| *guaranteed < Limits::default().guaranteed_halves)
    }

    /// What is guaranteed to all ports together has to fit.
    fn share_flows(&mut self) {
        let share = self.flows / 100 * FULL_PERCENT / self.ports.size().max(1);
        let usual = Limits::default().guaranteed_halves;
        self.told.limits.guaranteed_halves = u32::try_from(share).unwrap_or(u32::MAX).min(usual);
    }

    /// Marks packets for a trace from now on.
    pub fn trace(&mut self, filter: Option<TraceFilter>) {
        self.told.trace = filter;
    }

    /// All objects, in order of their ids.
    pub fn desired(&self) -> Desired {
        Desired {
            settings: Some(self.settings),
            ports: sorted(&self.ports),
            routes: sorted(&self.routes),
            neighbours: sorted(&self.neighbours),
            tunnels: sorted(&self.tunnels),
        }
    }

    /// The ports, in no order.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &Arc<v1::Port>)> {
        self.ports.values().map(|entry| (port_id(entry.slot), &entry.object))
    }

    /// A port by the caller's id.
    pub fn port(&self, id: &str) -> Option<(PortId, &Arc<v1::Port>)> {
        self.ports.get(id).map(|entry| (port_id(entry.slot), &entry.object))
    }

    /// The caller's id of a port.
    pub fn port_name(&self, port: PortId) -> Option<&str> {
        self.port_ids.get(&port.0).map(|id| &**id)
    }

    /// The caller's id of a tunnel.
    pub fn tunnel_name(&self, tunnel: TunnelId) -> Option<&str> {
        self.tunnel_ids.get(&tunnel.0).map(|id| &**id)
    }

    /// How full the tables are: name, used, capacity; zero: as memory allows.
    pub fn tables(&self) -> [(&'static str, u64, u64); 5] {
        let of = |used: usize, numbers: &Numbers| (used as u64, u64::from(numbers.capacity()));
        let (ports, routes) = (of(self.ports.size(), &self.port_numbers), of(self.routes.size(), &self.leaf_numbers));
        let tunnels = of(self.tunnels.size(), &self.tunnel_numbers);
        let hops = (self.hops.size() as u64, 0);
        let neighbours = (self.told_macs.size() as u64, 0);
        [("ports", ports), ("routes", routes), ("next_hops", hops), ("tunnels", tunnels), ("neighbours", neighbours)]
            .map(|(name, (used, capacity))| (name, used, capacity))
    }

    fn expect(&self, generation: u64) -> Result<(), Refusal> {
        if generation == self.generation() {
            return Ok(());
        }
        let text = format!("the delta expects generation {generation}, and {} is live", self.generation());
        Err(Refusal::new(Kind::Unspecified, "", "delta.expected_generation", Reason::Generation, text))
    }

    fn change_settings(&mut self, settings: Option<v1::Settings>, deletes: &Deletes<'_>) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome::default();
        let settings = match (settings, deletes) {
            (Some(settings), _) => settings,
            (None, Deletes::Rest) => v1::Settings::default(),
            (None, Deletes::These(keys)) if keys.iter().any(|key| key.kind() == Kind::Settings) => {
                v1::Settings::default()
            }
            (None, Deletes::These(_)) => return Ok(outcome),
        };
        if settings != self.settings {
            self.told.limits = check::limits(&settings)?;
            self.settings = settings;
            outcome.changed.push(ObjectKey::new(Kind::Settings, ""));
        }
        Ok(outcome)
    }

    fn refer(&mut self, target: Target, user: User) {
        self.users.insert_mut((target, user));
    }

    fn unrefer(&mut self, target: Target, user: User) {
        self.users.remove_mut(&(target, user));
    }

    /// Refuses that something which is gone is still referred to.
    fn check_users<T: Object>(
        &self,
        gone: &[(Arc<str>, Entry<T>)],
        target: fn(Arc<str>) -> Target,
    ) -> Result<(), Refusal> {
        for (id, _) in gone {
            let target = target(id.clone());
            let first = (target.clone(), (i32::MIN, Arc::from(""), ""));
            if let Some((_, (kind, user, field))) =
                self.users.range(first..).next().filter(|(other, _)| *other == target)
            {
                let kind = Kind::try_from(*kind).unwrap_or_default();
                return Err(unknown(kind, user, field, T::KIND, id));
            }
        }
        Ok(())
    }
}

/// The deletes of a delta, when all of them are of kinds that there are.
fn known(keys: &[ObjectKey]) -> Result<&[ObjectKey], Refusal> {
    match keys.iter().find(|key| key.kind() == Kind::Unspecified) {
        None => Ok(keys),
        Some(key) => {
            let text = format!("kind {} is none of ours", key.kind);
            Err(Refusal::new(Kind::Unspecified, &key.id, "delta.deletes", Reason::Invalid, text))
        }
    }
}

fn unknown(kind: Kind, id: &str, field: &str, of: Kind, name: &str) -> Refusal {
    Refusal::new(kind, id, field, Reason::Unknown, format!("there is no {} \"{name}\"", of.word()))
}

fn full(kind: Kind, id: &str, numbers: &Numbers) -> Refusal {
    Refusal::new(kind, id, "", Reason::NoRoom, format!("all {} slots are in use", numbers.capacity()))
}

fn sorted<T: Object>(ids: &Ids<T>) -> Vec<T> {
    let mut objects: Vec<_> = ids.values().map(|entry| T::clone(&entry.object)).collect();
    objects.sort_by(|a, b| a.id().cmp(b.id()));
    objects
}
