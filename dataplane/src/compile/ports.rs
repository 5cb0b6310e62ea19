//! Ports: slots, epochs, and what no two of them may share.
use super::{Difference, Entry, Put, State, Target, Touched, full, port_id, v1};
use proto::{
    Refusal,
    v1::{Kind, Reason},
};
use std::{net::IpAddr, sync::Arc};
use tables::told::{self, Prefix, Role};

/// The MTU of a port whose interface is not known yet, in bytes: Ethernet's.
const USUAL_MTU: u16 = 1500;

impl State {
    /// Takes out what goes away; of ports that change, what others may now have.
    pub(super) fn take_ports(&mut self, ports: &Difference<v1::Port>, touched: &mut Touched) {
        let replaced = ports.put.iter().filter_map(|put| put.old.as_ref().map(|old| (&put.id, old)));
        for (id, old) in replaced.chain(ports.gone.iter().map(|(id, entry)| (id, entry))) {
            if let Some(device) = &old.checked.device {
                self.devices.remove_mut(device);
            }
            for prefix in &*old.checked.allowed {
                self.allowed.remove_mut(&place(old.checked.vrf.0, prefix));
            }
            if old.checked.role == Role::Uplink {
                self.uplinks.remove_mut(&(old.checked.vrf.0, id.clone()));
                touched.underlays.push(old.checked.vrf);
            }
        }
        for (id, entry) in &ports.gone {
            self.remove_port(id, entry);
        }
    }

    pub(super) fn put_ports(&mut self, ports: Vec<Put<v1::Port>>, touched: &mut Touched) -> Result<(), Refusal> {
        for put in ports {
            self.claim(&put)?;
            let slot = match &put.old {
                Some(old) => old.slot,
                None => self.port_numbers.take().ok_or_else(|| full(Kind::Port, &put.id, &self.port_numbers))?,
            };
            self.vrf(put.checked.vrf)?;
            if put.checked.role == Role::Uplink {
                self.uplinks.insert_mut((put.checked.vrf.0, put.id.clone()));
                touched.underlays.push(put.checked.vrf);
            }
            let entry = Entry { object: put.object, checked: put.checked, slot };
            self.port_ids.insert_mut(port_id(slot).0, put.id.clone());
            self.ports.insert_mut(put.id.clone(), entry);
            self.tell_port(&put.id);
        }
        Ok(())
    }

    /// Tells what a port is now, and what its interface adds.
    pub(super) fn tell_port(&mut self, id: &Arc<str>) {
        let Some(Entry { object, checked, slot }) = self.ports.get(id).cloned() else { return };
        let link = checked.interface.as_ref().filter(|_| is_on(&object)).and_then(|name| self.links.get(name)).copied();
        let asked = checked.mtu.or(tap_mtu(&object));
        let longest = link.map_or(u16::MAX, |link| link.mtu);
        let mtu = asked.or(link.map(|link| link.mtu)).or(lossless(&object)).unwrap_or(USUAL_MTU).min(longest);
        let mac = checked.mac.or(link.map(|link| link.mac)).unwrap_or_default();
        let at = usize::from(port_id(slot).0);
        let old = self.told.ports.get(at).cloned().unwrap_or_default();
        let new = told::Port {
            epoch: old.epoch,
            role: checked.role,
            vrf: checked.vrf,
            mac,
            mtu,
            stateless: checked.stateless,
            resolution: checked.resolution,
            allowed: checked.allowed.clone(),
            gateways: checked.gateways.clone(),
        };
        let answers_depend = |port: &told::Port| {
            (port.role, port.vrf, port.stateless, port.allowed.clone(), port.gateways.clone(), port.resolution)
        };
        let stale = old.role == Role::Absent || answers_depend(&old) != answers_depend(&new);
        *self.told.ports.slot(at) = told::Port { epoch: old.epoch.wrapping_add(u32::from(stale)), ..new };
        if old.role != Role::Absent {
            self.refill_port(port_id(slot));
        }
    }

    fn remove_port(&mut self, id: &Arc<str>, entry: &Entry<v1::Port>) {
        let port = port_id(entry.slot);
        let epoch = self.told.ports.get(usize::from(port.0)).map_or(0, |port| port.epoch);
        let gone = told::Port { epoch: epoch.wrapping_add(1), ..told::Port::default() };
        *self.told.ports.slot(usize::from(port.0)) = gone;
        self.ports.remove_mut(id);
        self.port_ids.remove_mut(&port.0);
        self.port_numbers.give(entry.slot);
    }

    /// Claims what no two ports may share.
    fn claim(&mut self, put: &Put<v1::Port>) -> Result<(), Refusal> {
        let conflict = |field: &str, text: String| Refusal::new(Kind::Port, &*put.id, field, Reason::Conflict, text);
        if let Some(device) = &put.checked.device {
            if let Some(other) = self.devices.get(device) {
                let field = if matches!(put.object.kind, Some(v1::port::Kind::Tap(_))) {
                    "tap.name"
                } else {
                    "af_xdp.interface"
                };
                return Err(conflict(field, format!("port \"{other}\" has interface {} already", device.1)));
            }
            self.devices.insert_mut(device.clone(), put.id.clone());
        }
        for prefix in &*put.checked.allowed {
            if let Some(other) = self.overlap(put.checked.vrf.0, prefix) {
                let text = format!("{}/{} overlaps with addresses of port \"{other}\"", prefix.address(), prefix.len());
                return Err(conflict("allowed_addresses", text));
            }
            self.allowed.insert_mut(place(put.checked.vrf.0, prefix), put.id.clone());
        }
        Ok(())
    }

    /// A pod that has an address of `prefix`. As no two overlap, only the next one before it can hold it.
    fn overlap(&self, vrf: u16, prefix: &Prefix) -> Option<&Arc<str>> {
        let (vrf, v6, first, len) = place(vrf, prefix);
        let last = last(prefix);
        let inside = self.allowed.range((vrf, v6, first, 0)..=(vrf, v6, last, u8::MAX)).next();
        let before = self.allowed.range((vrf, v6, 0, 0)..(vrf, v6, first, len)).next_back();
        let holds = before.filter(|((_, _, start, len), _)| {
            let bits: u8 = if v6 { 128 } else { 32 };
            let rest = bits.saturating_sub(*len);
            rest >= 128 || (first >> rest) == (start >> rest)
        });
        inside.or(holds).map(|(_, id)| id)
    }

    /// The prefixes that this host's pods have, for whoever steers them here; one that several have, several times.
    pub fn pod_prefixes(&self) -> Vec<(IpAddr, u8)> {
        self.ports.values().flat_map(prefixes).collect()
    }

    /// Those of one port.
    pub fn prefixes_of(&self, port: &str) -> impl Iterator<Item = (IpAddr, u8)> {
        self.ports.get(port).into_iter().flat_map(prefixes)
    }

    pub(super) fn port_of(&self, user: (Kind, &str), field: &str, id: &str) -> Result<super::PortId, Refusal> {
        let port = self.ports.get(id).map(|entry| port_id(entry.slot));
        port.ok_or_else(|| super::unknown(user.0, user.1, field, Kind::Port, id))
    }

    pub(super) fn refer_port(&mut self, id: &Arc<str>, user: super::User) {
        self.refer(Target::Port(id.clone()), user);
    }
}

fn prefixes(port: &Entry<v1::Port>) -> impl Iterator<Item = (IpAddr, u8)> {
    port.checked.allowed.iter().map(|prefix| (prefix.address(), prefix.len()))
}

fn place(vrf: u16, prefix: &Prefix) -> (u16, bool, u128, u8) {
    match prefix.address() {
        IpAddr::V4(v4) => (vrf, false, v4.to_bits().into(), prefix.len()),
        IpAddr::V6(v6) => (vrf, true, v6.to_bits(), prefix.len()),
    }
}

/// The last address of a prefix, as a number.
pub(super) fn last(prefix: &Prefix) -> u128 {
    match prefix.address() {
        IpAddr::V4(v4) => (v4.to_bits() | !told::mask4(prefix.len())).into(),
        IpAddr::V6(v6) => v6.to_bits() | !told::mask6(prefix.len()),
    }
}

/// Runs on an interface that exists without it.
fn is_on(port: &v1::Port) -> bool {
    matches!(port.kind, Some(v1::port::Kind::AfXdp(_)))
}

fn tap_mtu(port: &v1::Port) -> Option<u16> {
    match &port.kind {
        Some(v1::port::Kind::Tap(tap)) => u16::try_from(tap.mtu).ok(),
        _ => None,
    }
}

fn lossless(port: &v1::Port) -> Option<u16> {
    matches!(port.kind, Some(v1::port::Kind::Loopback(_) | v1::port::Kind::Null(_))).then_some(u16::MAX)
}
