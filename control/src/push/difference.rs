//! What must change to get from one state to another.
use std::collections::{BTreeMap, BTreeSet};

use proto::v1::{Desired, Kind, Neighbour, ObjectKey, Port, Route, Tunnel};

use crate::plan::owner;

/// The objects to create or replace, and to delete, to get from `old` to `new`.
pub fn difference(old: &Desired, new: &Desired) -> (Desired, Vec<ObjectKey>) {
    let mut deletes = Vec::new();
    let settings = if old.settings == new.settings { None } else { new.settings };
    if settings.is_none() && old.settings.is_some() && new.settings.is_none() {
        deletes.push(ObjectKey::new(Kind::Settings, ""));
    }
    let upserts = Desired {
        settings,
        ports: changed(Kind::Port, &old.ports, &new.ports, &mut deletes),
        routes: changed(Kind::Route, &old.routes, &new.routes, &mut deletes),
        neighbours: changed(Kind::Neighbour, &old.neighbours, &new.neighbours, &mut deletes),
        tunnels: changed(Kind::Tunnel, &old.tunnels, &new.tunnels, &mut deletes),
    };
    (upserts, deletes)
}

/// `desired` without the objects of the pods in `owners`.
pub fn without(desired: &Desired, owners: &BTreeSet<String>) -> Desired {
    let mut rest = desired.clone();
    let stays = |id: &str| owner(id).is_none_or(|owner| !owners.contains(owner));
    rest.ports.retain(|one| stays(&one.id));
    rest.routes.retain(|one| stays(&one.id));
    rest.neighbours.retain(|one| stays(&one.id));
    rest
}

trait Named: Clone + PartialEq {
    fn id(&self) -> &str;
}

macro_rules! named {
    ($($object:ty),*) => { $(impl Named for $object { fn id(&self) -> &str { &self.id } })* };
}
named!(Port, Route, Neighbour, Tunnel);

fn changed<T: Named>(kind: Kind, old: &[T], new: &[T], deletes: &mut Vec<ObjectKey>) -> Vec<T> {
    let before: BTreeMap<_, _> = old.iter().map(|one| (one.id(), one)).collect();
    let after: BTreeSet<_> = new.iter().map(Named::id).collect();
    deletes.extend(before.keys().filter(|id| !after.contains(*id)).map(|id| ObjectKey::new(kind, *id)));
    new.iter().filter(|one| before.get(one.id()) != Some(one)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::Settings;

    fn state(ports: &[(&str, u32)]) -> Desired {
        let port = |&(id, mtu): &(&str, u32)| Port { id: id.into(), mtu, ..Port::default() };
        Desired { ports: ports.iter().map(port).collect(), ..Desired::default() }
    }

    #[test]
    fn only_what_differs_is_said() {
        let (upserts, deletes) =
            difference(&state(&[("a", 1), ("b", 1), ("c", 1)]), &state(&[("a", 1), ("b", 2), ("d", 1)]));
        assert_eq!(upserts, state(&[("b", 2), ("d", 1)]));
        assert_eq!(deletes, [ObjectKey::new(Kind::Port, "c")]);
        let same = state(&[("a", 1)]);
        assert_eq!(difference(&same, &same), (Desired::default(), vec![]));
    }

    #[test]
    fn settings_come_and_go() {
        let with = Desired { settings: Some(Settings::default()), ..Desired::default() };
        assert_eq!(difference(&Desired::default(), &with), (with.clone(), vec![]));
        assert_eq!(difference(&with, &Desired::default()).1, [ObjectKey::new(Kind::Settings, "")]);
    }

    #[test]
    fn a_pod_is_left_out_with_all_its_objects() {
        let all = state(&[("uplink", 1), ("pod/c1/eth0", 1), ("pod/c1/eth0/10.0.0.1", 1), ("pod/c10/eth0", 1)]);
        let rest = without(&all, &["pod/c1/eth0".to_owned()].into());
        assert_eq!(rest, state(&[("uplink", 1), ("pod/c10/eth0", 1)]));
    }
}
