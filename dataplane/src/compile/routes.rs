//! Routes: leaves and their epochs.
use super::{
    Difference, Entry, HopKey, Kind, Put, State, Target, Touched,
    check::{Route, Way},
    full, port_id, unknown, v1,
};
use proto::{Refusal, v1::Reason};
use std::{net::IpAddr, sync::Arc};
use tables::told::{Leaf, LeafId, NextHopId, Prefix, Vrf, VrfId};

impl State {
    /// Takes out routes that go away, and the prefixes and ways of those that change.
    pub(super) fn take_routes(&mut self, routes: &Difference<v1::Route>, touched: &mut Touched) {
        for put in &routes.put {
            let Some(old) = &put.old else { continue };
            self.unrefer_way(&put.id, &old.checked);
            if moves(&old.checked, &put.checked) {
                self.unroute(&old.checked, LeafId(old.slot), touched);
            }
        }
        for (id, entry) in &routes.gone {
            let leaf = LeafId(entry.slot);
            self.unrefer_way(id, &entry.checked);
            self.unroute(&entry.checked, leaf, touched);
            let _led_somewhere = self.lead(leaf, NextHopId(0));
            self.routes.remove_mut(id);
            self.leaf_ids.remove_mut(&leaf.0);
            self.leaf_numbers.give(leaf.0);
        }
    }

    pub(super) fn put_routes(&mut self, routes: Vec<Put<v1::Route>>, touched: &mut Touched) -> Result<(), Refusal> {
        for Put { id, object, checked, old } in routes {
            let key = self.way(&id, &checked.way, &checked.prefix)?;
            let slot = match &old {
                Some(old) => old.slot,
                None => self.leaf_numbers.take().ok_or_else(|| full(Kind::Route, &id, &self.leaf_numbers))?,
            };
            let leaf = LeafId(slot);
            let moved = old.as_ref().is_none_or(|old| moves(&old.checked, &checked));
            if moved {
                self.split(&id, &checked)?;
            }
            let hop = self.acquire(key).ok_or_else(|| self.no_hop(Kind::Route, &id))?;
            if self.lead(leaf, hop) || moved {
                self.insert_route(&checked, leaf, hop);
            }
            self.refer_way(&id, &checked);
            touched.prefixes.push((checked.vrf, checked.prefix));
            self.leaf_ids.insert_mut(slot, id.clone());
            self.routes.insert_mut(id, Entry { object, checked, slot });
        }
        Ok(())
    }

    /// Makes sure that there is a VRF of this number.
    pub(super) fn vrf(&mut self, id: VrfId) -> Result<(), Refusal> {
        let at = usize::from(id.0);
        if self.told.vrfs.get(at).is_some_and(|vrf| vrf.no_route.0 != 0) {
            return Ok(());
        }
        let leaf = self.leaf_numbers.take().ok_or_else(|| full(Kind::Route, "", &self.leaf_numbers))?;
        *self.told.leaves.slot(leaf as usize) = Leaf { epoch: self.epoch(LeafId(leaf)), ..Leaf::default() };
        self.told.vrfs.slot(at).no_route = LeafId(leaf);
        Ok(())
    }

    /// Ends the answers of the route that a new prefix takes addresses from; refuses a prefix that is there already.
    fn split(&mut self, id: &Arc<str>, route: &Route) -> Result<(), Refusal> {
        self.vrf(route.vrf)?;
        let (prefix, len) = (route.prefix.address(), route.prefix.len());
        let vrf = self.told.vrfs.slot(usize::from(route.vrf.0));
        if let Some(other) = get(vrf, &route.prefix) {
            let other = self.leaf_ids.get(&other.0).map_or("", |id| &**id);
            let text = format!("route \"{other}\" has {prefix}/{len} in VRF {} already", route.vrf.0);
            return Err(Refusal::new(Kind::Route, &**id, "prefix", Reason::Conflict, text));
        }
        let parent = match prefix {
            IpAddr::V4(v4) => vrf.v4.covering(v4.to_bits(), len),
            IpAddr::V6(v6) => vrf.v6.covering(v6.to_bits(), len),
        };
        let split = parent.unwrap_or(vrf.no_route);
        self.bump(split);
        Ok(())
    }

    /// Sets what a prefix leads to.
    fn insert_route(&mut self, route: &Route, leaf: LeafId, hop: NextHopId) {
        let vrf = self.told.vrfs.slot(usize::from(route.vrf.0));
        let _old = match route.prefix.address() {
            IpAddr::V4(v4) => vrf.v4.insert(v4.to_bits(), route.prefix.len(), leaf, hop),
            IpAddr::V6(v6) => vrf.v6.insert(v6.to_bits(), route.prefix.len(), leaf, hop),
        };
    }

    /// Removes a prefix; flows that matched it must match another.
    fn unroute(&mut self, route: &Route, leaf: LeafId, touched: &mut Touched) {
        let vrf = self.told.vrfs.slot(usize::from(route.vrf.0));
        let _leaf = match route.prefix.address() {
            IpAddr::V4(v4) => vrf.v4.remove(v4.to_bits(), route.prefix.len()),
            IpAddr::V6(v6) => vrf.v6.remove(v6.to_bits(), route.prefix.len()),
        };
        self.bump(leaf);
        touched.prefixes.push((route.vrf, route.prefix));
    }

    /// Lets a leaf lead to `hop`, for which one use was acquired; says whether it led elsewhere. Answers keep the next
    /// hop's slot, so they end when it is another one.
    fn lead(&mut self, leaf: LeafId, hop: NextHopId) -> bool {
        let slot = self.told.leaves.slot(leaf.0 as usize);
        let old = std::mem::replace(&mut slot.next_hop, hop);
        if old != hop {
            slot.epoch = slot.epoch.wrapping_add(1);
        }
        if old.0 != 0 {
            self.release(old);
        }
        old != hop
    }

    fn bump(&mut self, leaf: LeafId) {
        let slot = self.told.leaves.slot(leaf.0 as usize);
        slot.epoch = slot.epoch.wrapping_add(1);
    }

    fn epoch(&self, leaf: LeafId) -> u32 {
        self.told.leaves.get(leaf.0 as usize).map_or(0, |leaf| leaf.epoch)
    }

    /// The next hop of a way. One address on a link is a neighbour like a gateway is, so that its route knows its link
    /// address.
    fn way(&self, id: &str, way: &Way, prefix: &Prefix) -> Result<HopKey, Refusal> {
        let host = *prefix == Prefix::host(prefix.address());
        match way {
            Way::Via { port, gateway } => {
                let port = self.port_of((Kind::Route, id), "via.port", port)?;
                Ok(HopKey::Via(port.0, gateway.or(host.then_some(prefix.address()))))
            }
            Way::Tunnel(tunnel) => {
                let entry = self.tunnels.get(tunnel);
                let entry = entry.ok_or_else(|| unknown(Kind::Route, id, "tunnel", Kind::Tunnel, tunnel))?;
                Ok(HopKey::Tunnel(port_id(entry.slot).0))
            }
            Way::Local => Ok(HopKey::Local),
            Way::Blackhole => Ok(HopKey::Blackhole),
            Way::Unreachable => Ok(HopKey::Unreachable),
        }
    }

    fn refer_way(&mut self, id: &Arc<str>, route: &Route) {
        if let Some((target, field)) = target(&route.way) {
            self.refer(target, (Kind::Route.into(), id.clone(), field));
        }
    }

    fn unrefer_way(&mut self, id: &Arc<str>, route: &Route) {
        if let Some((target, field)) = target(&route.way) {
            self.unrefer(target, (Kind::Route.into(), id.clone(), field));
        }
    }
}

fn get(vrf: &Vrf, prefix: &Prefix) -> Option<LeafId> {
    match prefix.address() {
        IpAddr::V4(v4) => vrf.v4.get(v4.to_bits(), prefix.len()),
        IpAddr::V6(v6) => vrf.v6.get(v6.to_bits(), prefix.len()),
    }
}

fn moves(old: &Route, new: &Route) -> bool {
    (old.vrf, old.prefix) != (new.vrf, new.prefix)
}

fn target(way: &Way) -> Option<(Target, &'static str)> {
    match way {
        Way::Via { port, .. } => Some((Target::Port(port.clone()), "via.port")),
        Way::Tunnel(tunnel) => Some((Target::Tunnel(tunnel.clone()), "tunnel")),
        Way::Local | Way::Blackhole | Way::Unreachable => None,
    }
}
