//! Tunnels: what is sent into them, what arrives by them, and the way to their other ends.
use super::{
    Difference, Entry, HopKey, Kind, PortId, Put, State, Touched, check::Tunnel, full, port_id, ports::last, v1,
};
use proto::{Refusal, v1::Reason};
use rpds::RedBlackTreeMapSync;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};
use tables::told::{self, Arrival, Forward, Landing, NextHopId, Prefix, Role, TunnelId, VrfId};
use wire::Mac;

/// Tunnels whose packets arrive alike: one per remote.
#[derive(Clone)]
pub(super) struct Group {
    remotes: RedBlackTreeMapSync<IpAddr, Arc<str>>,
    vrf: VrfId,
    underlay: VrfId,
    mac: Mac,
}

impl State {
    /// Takes out tunnels that go away; of those that change, what others may now have.
    pub(super) fn take_tunnels(&mut self, tunnels: &Difference<v1::Tunnel>, touched: &mut Touched) {
        let replaced = tunnels.put.iter().filter_map(|put| put.old.as_ref().map(|old| (&put.id, old)));
        for (id, old) in replaced.chain(tunnels.gone.iter().map(|(id, entry)| (id, entry))) {
            let at = arrival(&old.checked);
            self.remotes.remove_mut(&(old.checked.underlay.0, old.checked.remote, id.clone()));
            if let Some(group) = self.groups.get_mut(&at) {
                group.remotes.remove_mut(&old.checked.remote);
                if group.remotes.is_empty() {
                    self.groups.remove_mut(&at);
                }
            }
            touched.arrivals.push(at);
        }
        for (id, entry) in &tunnels.gone {
            let number = port_id(entry.slot).0;
            let gone = std::mem::take(self.told.tunnels.slot(usize::from(number)));
            if gone.next_hop.0 != 0 {
                self.release(gone.next_hop);
            }
            self.tunnels.remove_mut(id);
            self.tunnel_ids.remove_mut(&number);
            self.tunnel_numbers.give(entry.slot);
        }
    }

    pub(super) fn put_tunnels(&mut self, tunnels: Vec<Put<v1::Tunnel>>, touched: &mut Touched) -> Result<(), Refusal> {
        for Put { id, object, checked, old } in tunnels {
            self.vrf(checked.vrf)?;
            self.vrf(checked.underlay)?;
            self.join(&id, &checked)?;
            let slot = match &old {
                Some(old) => old.slot,
                None => self.tunnel_numbers.take().ok_or_else(|| full(Kind::Tunnel, &id, &self.tunnel_numbers))?,
            };
            let number = port_id(slot).0;
            let told = self.told.tunnels.slot(usize::from(number));
            let (ends, next_hop) = ((checked.local, checked.remote), told.next_hop);
            let new = told::Tunnel::vxlan(checked.vni, checked.udp_port, ends, checked.inner, next_hop, checked.mtu);
            *told = new.unwrap_or_default(); // the ends were checked to be of one family
            self.fill(HopKey::Tunnel(number));
            self.remotes.insert_mut((checked.underlay.0, checked.remote, id.clone()));
            touched.arrivals.push(arrival(&checked));
            touched.tunnels.push(id.clone());
            self.tunnel_ids.insert_mut(number, id.clone());
            self.tunnels.insert_mut(id, Entry { object, checked, slot });
        }
        Ok(())
    }

    /// Finds the ways of tunnels that a change may have turned, and tells what arrives.
    pub(super) fn settle_tunnels(&mut self, touched: Touched) {
        let mut turned: BTreeSet<Arc<str>> = touched.tunnels.into_iter().collect();
        for (vrf, prefix) in &touched.prefixes {
            let (first, last) = (prefix.address(), last_address(prefix));
            let within =
                self.remotes.range((vrf.0, first, Arc::from(""))..).take_while(|(v, ip, _)| (*v, *ip) <= (vrf.0, last));
            turned.extend(within.map(|(_, _, id)| id.clone()));
        }
        turned.iter().for_each(|id| self.turn(id));
        let mut arrivals = touched.arrivals;
        if !touched.underlays.is_empty() {
            let over = self.groups.iter().filter(|(_, group)| touched.underlays.contains(&group.underlay));
            arrivals.extend(over.map(|(at, _)| *at));
        }
        if !arrivals.is_empty() {
            arrivals.iter().for_each(|at| self.tell_arrival(at));
            let ends: BTreeSet<_> = self.groups.keys().map(|at| (at.local, at.udp_port)).collect();
            if !self.told.decaps.iter().eq(&ends) {
                self.told.decaps = ends.into_iter().collect();
            }
        }
    }

    /// Where tunnels' packets arrive, for whoever steers them here.
    pub fn tunnel_ends(&self) -> Vec<(IpAddr, u16)> {
        self.told.decaps.to_vec()
    }

    /// Tunnels without a way to their other end.
    pub fn lost_tunnels(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let lost = |entry: &&Entry<v1::Tunnel>| {
            self.told.tunnel(TunnelId(port_id(entry.slot).0)).is_none_or(|tunnel| tunnel.next_hop.0 == 0)
        };
        self.tunnels.values().filter(lost).map(|entry| (entry.object.id.as_str(), entry.checked.remote))
    }

    /// Leads a tunnel's outer packets as the underlay's routes say.
    fn turn(&mut self, id: &Arc<str>) {
        let Some(Entry { checked, slot, .. }) = self.tunnels.get(id) else { return };
        let (number, remote) = (usize::from(port_id(*slot).0), checked.remote);
        let hop = self.told.leaf(self.told.route(checked.underlay, remote)).and_then(|hop| self.told.next_hop(hop));
        let key = hop.filter(|hop| hop.forward == Forward::Port);
        let key = key.map(|hop| HopKey::Via(hop.port.0, Some(hop.gateway.unwrap_or(remote))));
        let new = key.and_then(|key| self.acquire(key)).unwrap_or(NextHopId(0));
        let old = std::mem::replace(&mut self.told.tunnels.slot(number).next_hop, new);
        if old.0 != 0 {
            self.release(old);
        }
    }

    /// Adds a tunnel to those whose packets arrive alike.
    fn join(&mut self, id: &Arc<str>, tunnel: &Tunnel) -> Result<(), Refusal> {
        let conflict = |field: &str, text: String| Refusal::new(Kind::Tunnel, &**id, field, Reason::Conflict, text);
        let at = arrival(tunnel);
        let mut group = self.groups.get(&at).cloned().unwrap_or_else(|| Group {
            remotes: RedBlackTreeMapSync::new_sync(),
            vrf: tunnel.vrf,
            underlay: tunnel.underlay,
            mac: tunnel.inner.0,
        });
        if let Some(other) = group.remotes.get(&tunnel.remote) {
            let text = format!("tunnel \"{other}\" has the same ends, port and network");
            return Err(conflict("vxlan.remote", text));
        }
        let other = group.remotes.values().next().map_or("", |id| &**id).to_owned();
        let mine = (tunnel.vrf, tunnel.underlay, tunnel.inner.0);
        for (field, same) in [
            ("vrf", mine.0 == group.vrf),
            ("underlay_vrf", mine.1 == group.underlay),
            ("vxlan.local_mac", mine.2 == group.mac),
        ] {
            if !same {
                return Err(conflict(field, format!("differs from tunnel \"{other}\", whose packets arrive alike")));
            }
        }
        group.remotes.insert_mut(tunnel.remote, id.clone());
        self.groups.insert_mut(at, group);
        Ok(())
    }

    /// Tells where packets of a group land. They count as coming by the underlay's uplink, the first by id.
    fn tell_arrival(&mut self, at: &Arrival) {
        let landing = self.groups.get(at).map(|group| Landing {
            vrf: group.vrf,
            port: self.uplink(group.underlay),
            mac: group.mac,
            remotes: group.remotes.keys().copied().collect(),
        });
        if self.told.arrivals.get(at) == landing.as_ref() {
            return;
        }
        let arrivals = Arc::make_mut(&mut self.told.arrivals);
        match landing {
            Some(landing) => drop(arrivals.insert(*at, landing)),
            None => drop(arrivals.remove(at)),
        }
    }

    fn uplink(&self, vrf: VrfId) -> PortId {
        let first = self.uplinks.range((vrf.0, Arc::from(""))..).next().filter(|(of, _)| *of == vrf.0);
        let entry = first.and_then(|(_, id)| self.ports.get(id)).filter(|entry| entry.checked.role == Role::Uplink);
        entry.map(|entry| port_id(entry.slot)).unwrap_or_default()
    }
}

fn arrival(tunnel: &Tunnel) -> Arrival {
    Arrival { local: tunnel.local, udp_port: tunnel.udp_port, vni: tunnel.vni }
}

fn last_address(prefix: &Prefix) -> IpAddr {
    match prefix.address() {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(last(prefix)).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(last(prefix)).into(),
    }
}
