//! The ports of a running dataplane, and what is asked about all of them: no change may cost a look at each.
use super::open::Open;
use engine::PortId;
use std::collections::{BTreeSet, HashMap};

/// Ports that are open, or are to be.
#[derive(Default)]
pub(super) struct Ports {
    open: HashMap<PortId, Open>,
    devices: HashMap<(String, String), usize>, // how many ports are on it
    uplinks: BTreeSet<PortId>,
    failed: BTreeSet<PortId>,
}

impl Ports {
    /// Puts a port in the place of what was there.
    pub(super) fn insert(&mut self, id: PortId, open: Open) {
        self.remove(id);
        if let Some(device) = open.device() {
            *self.devices.entry(owned(device)).or_default() += 1;
        }
        if open.interface().is_some() {
            self.uplinks.insert(id);
        }
        if open.failed() {
            self.failed.insert(id);
        }
        self.open.insert(id, open);
    }

    pub(super) fn remove(&mut self, id: PortId) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Some(device) = open.device().map(owned)
            && let Some(count) = self.devices.get_mut(&device)
        {
            *count -= 1;
            if *count == 0 {
                self.devices.remove(&device);
            }
        }
        self.uplinks.remove(&id);
        self.failed.remove(&id);
        Some(open)
    }

    pub(super) fn get(&self, id: PortId) -> Option<&Open> {
        self.open.get(&id)
    }

    /// A port, of which the device stays, and whether it is open.
    pub(super) fn get_mut(&mut self, id: PortId) -> Option<&mut Open> {
        self.open.get_mut(&id)
    }

    /// Whether a port is on this device.
    pub(super) fn use_device(&self, device: Option<(&str, &str)>) -> bool {
        device.is_some_and(|device| self.devices.contains_key(&owned(device)))
    }

    /// Those on interfaces of the host.
    pub(super) fn uplinks(&self) -> impl Iterator<Item = (PortId, &Open)> {
        self.uplinks.iter().filter_map(|id| Some((*id, self.open.get(id)?)))
    }

    /// Does something to each of those.
    pub(super) fn each_uplink(&mut self, mut change: impl FnMut(&mut Open)) {
        for id in &self.uplinks {
            if let Some(open) = self.open.get_mut(id) {
                change(open);
            }
        }
    }

    /// Those that are not open.
    pub(super) fn failed(&self) -> Vec<PortId> {
        self.failed.iter().copied().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PortId, &Open)> {
        self.open.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Open> {
        self.open.values()
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

fn owned((netns, name): (&str, &str)) -> (String, String) {
    (netns.into(), name.into())
}
