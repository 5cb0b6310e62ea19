//! Changes, told to both: the model by changing a list, the product as its compile step would.
use super::{Both, Change, HOST, Hop, Port, Range, Role, Route, Translation, place};
use engine::PortId;
use std::{net::IpAddr, sync::Arc};
use tables::told::{self, EndpointId, Forward, Leaf, LeafId, NextHop, NextHopId, Prefix, TunnelId, Virtual, VrfId};
use wire::Mac;

impl Both {
    pub(super) fn change(&mut self, change: &Change) {
        let pick = change.pick;
        match change.kind {
            0 | 1 => self.random_route(pick),
            2 => self.remove_route(pick[0]),
            3 => self.translate(pick),
            4 => self.end_translation(pick[0]),
            5 => self.allow(pick),
            6 => self.end_endpoint(pick[0]),
            7 => self.come_or_go(pick),
            8 => self.keep_nothing(pick[0]),
            _ => self.move_neighbour(pick),
        }
    }

    pub(super) fn random_route(&mut self, pick: [u8; 5]) {
        let [vrf, to, len, hop, six] = pick;
        let (six, to) = (six % 2 == 1, to % 12);
        let lens: [u8; 6] = if six { [0, 16, 32, 64, 112, 128] } else { [0, 8, 16, 24, 28, 32] };
        let hop = usize::from(hop) % self.model.config.hops.len();
        if matches!(self.model.config.hops[hop], Hop::Port { port, .. } if self.model.config.port(port).is_none()) {
            return; // no route leads to a port that is not there
        }
        let range = Range(place(to, six), lens[usize::from(len) % 6]);
        self.add_route(Route { vrf: u16::from(vrf % 4 == 0), range, hop });
    }

    pub(super) fn add_route(&mut self, route: Route) {
        let prefix = Prefix::new(route.range.0, route.range.1).unwrap();
        let leaf = LeafId(u32::try_from(self.rig.told.leaves.len().max(3)).unwrap());
        let next_hop = NextHopId(u32::try_from(route.hop).unwrap() + 1);
        *self.rig.told.leaves.slot(leaf.0 as usize) = Leaf { next_hop, epoch: 1 };
        let vrf = self.rig.told.vrfs.slot(route.vrf.into());
        let (covering, replaced) = match prefix.address() {
            IpAddr::V4(a) => {
                (vrf.v4.covering(a.to_bits(), prefix.len()), vrf.v4.insert(a.to_bits(), prefix.len(), leaf, next_hop))
            }
            IpAddr::V6(a) => {
                (vrf.v6.covering(a.to_bits(), prefix.len()), vrf.v6.insert(a.to_bits(), prefix.len(), leaf, next_hop))
            }
        };
        let stale = replaced.or(covering).unwrap_or(vrf.no_route);
        self.rig.told.leaves.slot(stale.0 as usize).epoch += 1;
        let routes = &mut self.model.config.routes;
        let is_same =
            |other: &Route| other.vrf == route.vrf && Prefix::new(other.range.0, other.range.1) == Some(prefix);
        routes.retain(|other| !is_same(other));
        routes.push(route);
    }

    fn remove_route(&mut self, pick: u8) {
        self.remove_route_at(usize::from(pick) % self.model.config.routes.len());
    }

    fn remove_route_at(&mut self, at: usize) {
        let route = self.model.config.routes.remove(at);
        let prefix = Prefix::new(route.range.0, route.range.1).unwrap();
        let vrf = self.rig.told.vrfs.slot(route.vrf.into());
        let removed = match prefix.address() {
            IpAddr::V4(a) => vrf.v4.remove(a.to_bits(), prefix.len()),
            IpAddr::V6(a) => vrf.v6.remove(a.to_bits(), prefix.len()),
        };
        self.rig.told.leaves.slot(removed.unwrap().0 as usize).epoch += 1;
    }

    /// A translation of its own or in the place of another one; flows that went to the virtual address are judged anew.
    pub(super) fn translate(&mut self, pick: [u8; 5]) {
        let [address, to, how, source, endpoint] = pick;
        let (six, protocol) = (how & 1 == 1, if how & 2 == 0 { 6 } else { 17 });
        let from = (place(6 + address % 2, six), 80);
        let to = (place([0, 1, 2, 3, 4, 11][usize::from(to) % 6], six), if how & 4 == 0 { 8080 } else { 80 });
        let source = (how & 24 == 0).then(|| (place(8, six), 40_000 + u16::from(source % 4)));
        let endpoint = usize::from(endpoint) % self.model.config.incarnations.len();
        let new = Translation { vrf: u16::from(how & 96 == 0), from, protocol, endpoint, to, source };
        self.model.config.translations.retain(|old| (old.vrf, old.from, old.protocol) != (new.vrf, from, protocol));
        self.model.config.translations.push(new);
        self.tell_translations();
        let leaf = self.rig.told.route(VrfId(new.vrf), from.0);
        self.rig.told.leaves.slot(leaf.0 as usize).epoch += 1;
    }

    fn end_translation(&mut self, pick: u8) {
        let translations = &mut self.model.config.translations;
        if !translations.is_empty() {
            translations.remove(usize::from(pick) % translations.len());
            self.tell_translations();
        }
    }

    fn tell_translations(&mut self) {
        let told = self.model.config.translations.iter().map(|t| {
            let from = Virtual { vrf: VrfId(t.vrf), address: t.from.0, port: t.from.1, protocol: t.protocol };
            let endpoint = EndpointId(u32::try_from(t.endpoint).unwrap() + 1);
            (from, told::Translation { endpoint, destination: t.to, source: t.source })
        });
        self.rig.told.translations = Arc::new(told.collect());
    }

    fn end_endpoint(&mut self, pick: u8) {
        let endpoint = usize::from(pick) % self.model.config.incarnations.len();
        self.model.config.incarnations[endpoint] += 1;
        self.rig.told.endpoints.slot(endpoint + 1).incarnation += 1;
    }

    /// A pod's port goes with all routes to it, or comes again, perhaps into another VRF.
    fn come_or_go(&mut self, pick: [u8; 5]) {
        let number = u16::from(pick[0] % self.pods) + 1;
        let hop = usize::from(number) - 1;
        let slot = self.rig.told.ports.slot(number.into());
        let epoch = slot.epoch + 1;
        if self.model.config.port(number).is_some() {
            *slot = told::Port { epoch, ..told::Port::default() };
            self.model.config.ports.retain(|port| port.number != number);
            while let Some(at) = self.model.config.routes.iter().position(|route| route.hop == hop) {
                self.remove_route_at(at);
            }
            return;
        }
        let port = super::pod(number, u16::from(pick[1].is_multiple_of(4)));
        *slot = told::Port { epoch, ..told_port(&port) };
        for (six, len) in [(false, 32), (true, 128)] {
            self.add_route(Route { vrf: port.vrf, range: Range(place(pick[0] % self.pods, six), len), hop });
        }
        self.model.config.ports.push(port);
    }

    /// A port keeps no flows any more, or does again.
    fn keep_nothing(&mut self, pick: u8) {
        let ports = &mut self.model.config.ports;
        let at = usize::from(pick) % ports.len();
        ports[at].stateless ^= true;
        let told = self.rig.told.ports.slot(ports[at].number.into());
        (told.stateless, told.epoch) = (ports[at].stateless, told.epoch + 1);
    }

    /// A pod gets or loses the right to send from some addresses.
    fn allow(&mut self, pick: [u8; 5]) {
        let pods: Vec<usize> =
            (0..self.model.config.ports.len()).filter(|at| self.model.config.ports[*at].role == Role::Pod).collect();
        let Some(at) = pods.get(usize::from(pick[0]) % pods.len().max(1)) else { return };
        let port = &mut self.model.config.ports[*at];
        let six = pick[1] % 2 == 1;
        let range = match pick[2] % 3 {
            0 => Range(place(pick[3], six), if six { 128 } else { 32 }),
            1 => Range(place(u8::try_from(port.number).unwrap() - 1, six), if six { 128 } else { 32 }),
            _ => Range(place(0, six), if six { 64 } else { 24 }),
        };
        match port.allowed.iter().position(|allowed| *allowed == range) {
            Some(at) => drop(port.allowed.remove(at)),
            None => port.allowed.push(range),
        }
        let told = self.rig.told.ports.slot(port.number.into());
        (told.allowed, told.epoch) = (prefixes(port), told.epoch + 1);
    }

    /// A neighbour has another link address, or a link or a tunnel another MTU.
    fn move_neighbour(&mut self, pick: [u8; 5]) {
        let at = usize::from(pick[0] % 8);
        if let Some(tunnel) = at.checked_sub(6).and_then(|number| self.model.config.tunnels.get_mut(number)) {
            tunnel.mtu = [1500, 1430, 930, 1280][usize::from(pick[2] % 4)];
            self.rig.told.tunnels.slot(at - 6).mtu = tunnel.mtu;
            return;
        }
        let Hop::Port { mac, mtu, port, .. } = &mut self.model.config.hops[at] else { return };
        if pick[1].is_multiple_of(2) {
            *mac = Mac([2, 7, pick[2], pick[3], 0, 1]);
        } else if *port != HOST {
            *mtu = [1500, 1450, 1000, 1400][usize::from(pick[2] % 4)];
        }
        *self.rig.told.next_hops.slot(at + 1) = next_hop(&self.model.config.hops[at]);
    }
}

/// What the product is told of a port.
pub(super) fn told_port(port: &Port) -> told::Port {
    let role = match port.role {
        Role::Pod => told::Role::Pod,
        Role::Uplink => told::Role::Uplink,
        Role::Host => told::Role::Host,
    };
    let (vrf, gateways, allowed) = (VrfId(port.vrf), port.gateways.clone().into(), prefixes(port));
    told::Port {
        role,
        vrf,
        mac: port.mac,
        mtu: 1500,
        stateless: port.stateless,
        gateways,
        allowed,
        ..told::Port::default()
    }
}

/// What the product is told of a pod's addresses.
fn prefixes(port: &Port) -> Arc<[Prefix]> {
    port.allowed.iter().map(|range| Prefix::new(range.0, range.1).unwrap()).collect()
}

/// What the product is told of a next hop.
pub(super) fn next_hop(hop: &Hop) -> NextHop {
    let only = |forward| NextHop { forward, ..NextHop::default() };
    match *hop {
        Hop::Port { port, mtu, mac, source } => {
            NextHop { resolved: true, port: PortId(port), mtu, mac, source, ..only(Forward::Port) }
        }
        Hop::Tunnel(number) => {
            NextHop { tunnel: TunnelId(u16::try_from(number).unwrap()), mtu: 1450, ..only(Forward::Tunnel) }
        }
        Hop::Local => only(Forward::Local),
        Hop::Blackhole => only(Forward::Blackhole),
        Hop::Unreachable => only(Forward::Unreachable),
    }
}
