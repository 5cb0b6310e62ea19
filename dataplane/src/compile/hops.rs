//! Next hops and the neighbours that they lead to.
use super::{Difference, Entry, Kind, PortId, Put, State, Target, full, port_id, v1};
use proto::{Refusal, v1::Reason};
use std::{net::IpAddr, sync::Arc};
use tables::told::{Forward, NextHop, NextHopId, TunnelId};
use wire::Mac;

/// What is known of an interface of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its link address.
    pub mac: Mac,
    /// Its longest IP packet, in bytes.
    pub mtu: u16,
    /// It carries packets.
    pub up: bool,
}

/// What makes two next hops the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HopKey {
    /// Out of a port, to a neighbour; none: the destination, on the link.
    Via(u16, Option<IpAddr>),
    Tunnel(u16),
    Local,
    Blackhole,
    Unreachable,
}

impl State {
    /// The slot of a next hop, for one more user.
    pub(super) fn acquire(&mut self, key: HopKey) -> Option<NextHopId> {
        if let Some((slot, uses)) = self.hops.get(&key).copied() {
            self.hops.insert_mut(key, (slot, uses + 1));
            return Some(NextHopId(slot));
        }
        let slot = self.hop_numbers.take()?;
        self.hops.insert_mut(key, (slot, 1));
        self.fill(key);
        if let HopKey::Via(port, None) = key {
            self.tell_neighbours(PortId(port));
        }
        Some(NextHopId(slot))
    }

    /// One user less.
    pub(super) fn release(&mut self, hop: NextHopId) {
        let Some(key) = self.told.next_hop(hop).and_then(key_of) else { return };
        let Some((slot, uses)) = self.hops.get(&key).copied() else { return };
        if uses > 1 {
            self.hops.insert_mut(key, (slot, uses - 1));
            return;
        }
        self.hops.remove_mut(&key);
        *self.told.next_hops.slot(slot as usize) = NextHop::default();
        self.hop_numbers.give(slot);
        if let HopKey::Via(port, None) = key {
            self.tell_neighbours(PortId(port));
        }
    }

    /// Writes anew every next hop out of a port, whose addresses or limits changed.
    pub(super) fn refill_port(&mut self, port: PortId) {
        let through: Vec<_> = self.through(port).map(|(key, _)| *key).collect();
        if through.contains(&HopKey::Via(port.0, None)) {
            self.tell_neighbours(port);
        }
        through.into_iter().for_each(|key| self.fill(key));
    }

    /// Writes a next hop anew, in the slot that it has.
    pub(super) fn fill(&mut self, key: HopKey) {
        let Some((slot, _)) = self.hops.get(&key).copied() else { return };
        let plain = |forward| NextHop { forward, ..NextHop::default() };
        let hop = match key {
            HopKey::Via(number, gateway) => {
                let port = self.told.port(PortId(number));
                let (source, mtu) = port.map(|port| (port.mac, port.mtu)).unwrap_or_default();
                let mac = gateway.and_then(|gateway| self.mac(PortId(number), gateway));
                let (mac, resolved) = (mac.unwrap_or_default(), mac.is_some());
                NextHop { port: PortId(number), gateway, source, mtu, mac, resolved, ..plain(Forward::Port) }
            }
            HopKey::Tunnel(number) => {
                let mtu = self.told.tunnel(TunnelId(number)).map_or(0, |tunnel| tunnel.mtu);
                NextHop { tunnel: TunnelId(number), mtu, ..plain(Forward::Tunnel) }
            }
            HopKey::Local => plain(Forward::Local),
            HopKey::Blackhole => plain(Forward::Blackhole),
            HopKey::Unreachable => plain(Forward::Unreachable),
        };
        *self.told.next_hops.slot(slot as usize) = hop;
    }

    /// Takes out neighbours that go away or change.
    pub(super) fn take_neighbours(&mut self, neighbours: &Difference<v1::Neighbour>) {
        let replaced = neighbours.put.iter().filter_map(|put| put.old.as_ref().map(|old| (&put.id, old)));
        for (id, old) in replaced.chain(neighbours.gone.iter().map(|(id, entry)| (id, entry))) {
            self.neighbours.remove_mut(id);
            self.unrefer(Target::Port(old.checked.port.clone()), (Kind::Neighbour.into(), id.clone(), "port"));
            let Some(port) = self.ports.get(&old.checked.port).map(|entry| port_id(entry.slot)) else { continue };
            self.told_macs.remove_mut(&(port.0, old.checked.address));
            self.refresh(port, old.checked.address);
        }
    }

    pub(super) fn put_neighbours(&mut self, neighbours: Vec<Put<v1::Neighbour>>) -> Result<(), Refusal> {
        for Put { id, object, checked, .. } in neighbours {
            let port = self.port_of((Kind::Neighbour, &id), "port", &checked.port)?;
            let at = (port.0, checked.address);
            if let Some((_, other)) = self.told_macs.get(&at) {
                let text = format!("neighbour \"{other}\" has {} on this port already", checked.address);
                return Err(Refusal::new(Kind::Neighbour, &*id, "address", Reason::Conflict, text));
            }
            self.told_macs.insert_mut(at, (checked.mac, id.clone()));
            self.refer_port(&checked.port, (Kind::Neighbour.into(), id.clone(), "port"));
            let address = checked.address;
            self.neighbours.insert_mut(id, Entry { object, checked, slot: 0 });
            self.refresh(port, address);
        }
        Ok(())
    }

    /// The kernel has a neighbour on `interface`, or has it no longer. Gives whether anything is told differently.
    pub fn hear(&mut self, interface: &str, address: IpAddr, mac: Option<Mac>) -> bool {
        let at = (Arc::from(interface), address);
        if self.kernel_macs.get(&at).copied() == mac {
            return false;
        }
        match mac {
            Some(mac) => self.kernel_macs.insert_mut(at, mac),
            None => drop(self.kernel_macs.remove_mut(&at)),
        }
        let port = self.on(interface).filter(|(_, entry)| entry.checked.kernel).map(|(_, entry)| port_id(entry.slot));
        port.inspect(|port| self.refresh(*port, address)).is_some()
    }

    /// What the kernel says of an interface. Gives whether anything is told differently.
    pub fn see(&mut self, interface: &str, link: Option<Link>) -> bool {
        if self.links.get(interface).copied() == link {
            return false;
        }
        match link {
            Some(link) => self.links.insert_mut(interface.into(), link),
            None => drop(self.links.remove_mut(interface)),
        }
        let id = self.on(interface).map(|(id, _)| id);
        id.inspect(|id| self.tell_port(id)).is_some()
    }

    /// What is known of an interface.
    pub fn link(&self, interface: &str) -> Option<Link> {
        self.links.get(interface).copied()
    }

    /// Neighbours that next hops need and that the kernel is to find: interface, address, and whether it is known.
    pub fn wanted(&self) -> Vec<(Arc<str>, IpAddr, bool)> {
        let kernel = self.ports.values().filter(|entry| entry.checked.kernel);
        let hops = kernel.flat_map(|entry| {
            let interface = entry.checked.interface.clone();
            self.through(port_id(entry.slot)).filter_map(move |(key, (slot, _))| match key {
                HopKey::Via(_, Some(gateway)) => Some((interface.clone()?, *gateway, *slot)),
                _ => None,
            })
        });
        let known = |slot: u32| self.told.next_hop(NextHopId(slot)).is_some_and(|hop| hop.resolved);
        hops.map(|(interface, gateway, slot)| (interface, gateway, known(slot))).collect()
    }

    /// The port that runs on an interface of the host, or whose kernel side that is.
    fn on(&self, interface: &str) -> Option<(Arc<str>, &Entry<v1::Port>)> {
        let id = self.devices.get(&(Arc::from(""), Arc::from(interface)))?;
        self.ports.get(id).map(|entry| (id.clone(), entry))
    }

    fn through(&self, port: PortId) -> impl Iterator<Item = (&HopKey, &(u32, u32))> {
        let end = port.0.checked_add(1).map_or(HopKey::Tunnel(0), |next| HopKey::Via(next, None));
        self.hops.range(HopKey::Via(port.0, None)..end)
    }

    /// A neighbour's link address: as told, else as the kernel has it.
    fn mac(&self, port: PortId, address: IpAddr) -> Option<Mac> {
        if let Some((mac, _)) = self.told_macs.get(&(port.0, address)) {
            return Some(*mac);
        }
        let entry = self.ports.get(self.port_ids.get(&port.0)?)?;
        let interface = entry.checked.interface.clone().filter(|_| entry.checked.kernel)?;
        self.kernel_macs.get(&(interface, address)).copied()
    }

    /// Tells anew what depends on one neighbour.
    fn refresh(&mut self, port: PortId, address: IpAddr) {
        self.fill(HopKey::Via(port.0, Some(address)));
        if self.hops.contains_key(&HopKey::Via(port.0, None)) {
            let (mac, told) = (self.mac(port, address), Arc::make_mut(&mut self.told.neighbours));
            match mac {
                Some(mac) => drop(told.insert((port, address), mac)),
                None => drop(told.remove(&(port, address))),
            }
        }
    }

    /// Tells a port's neighbours when whole networks are on its link, else none: then each next hop knows its own.
    fn tell_neighbours(&mut self, port: PortId) {
        let told = Arc::make_mut(&mut self.told.neighbours);
        told.retain(|(other, _), _| *other != port);
        if !self.hops.contains_key(&HopKey::Via(port.0, None)) {
            return;
        }
        let entry = self.port_ids.get(&port.0).and_then(|id| self.ports.get(id));
        let interface = entry.filter(|entry| entry.checked.kernel).and_then(|entry| entry.checked.interface.clone());
        if let Some(interface) = interface {
            let heard = self.kernel_macs.iter().filter(|((on, _), _)| *on == interface);
            told.extend(heard.map(|((_, address), mac)| ((port, *address), *mac)));
        }
        let first = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let said = self.told_macs.range((port.0, first)..).take_while(|((other, _), _)| *other == port.0);
        told.extend(said.map(|((_, address), (mac, _))| ((port, *address), *mac)));
    }

    pub(super) fn no_hop(&self, kind: Kind, id: &str) -> Refusal {
        full(kind, id, &self.hop_numbers)
    }
}

/// The key of a next hop that is in use.
fn key_of(hop: &NextHop) -> Option<HopKey> {
    match hop.forward {
        Forward::Nowhere => None,
        Forward::Port => Some(HopKey::Via(hop.port.0, hop.gateway)),
        Forward::Tunnel => Some(HopKey::Tunnel(hop.tunnel.0)),
        Forward::Local => Some(HopKey::Local),
        Forward::Blackhole => Some(HopKey::Blackhole),
        Forward::Unreachable => Some(HopKey::Unreachable),
    }
}
