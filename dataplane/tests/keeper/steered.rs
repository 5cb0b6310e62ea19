//! Steering follows the pods that come and go, one change after another.
use crate::lab::{self, Lab, Node, between};
use ports::steer::{Steering, Verdict};
use proto::v1::{self, Delta, Desired, Kind, ObjectKey, Prefix, apply_request::Change};
use std::net::Ipv4Addr;

#[test]
fn what_goes_to_pods_is_taken_from_the_host_as_they_come_and_go() {
    let Some(lab) = Lab::new("steered", &["h", "i"]) else { return };
    lab.join("h", "i");
    let mut node = lab.node("h", "");
    let mut desired = Desired::default();
    between(&mut desired, 1, 2);
    desired.ports.push(pod("first", &[1]));
    node.apply(Change::Whole(desired)).unwrap();
    node.wait("an uplink", |status| lab::uplink(status).up);
    let pins = format!("/proc/{}/root{}/bpf/steer-u0", node.status().keeper_pid, node.folder().display());
    let steering = Steering::open(pins.as_ref()).unwrap();
    assert_eq!(taken(&steering), [1]);
    change(&mut node, vec![pod("second", &[2, 3])], &[]);
    assert_eq!(taken(&steering), [1, 2, 3]);
    change(&mut node, vec![pod("second", &[3, 4]), pod("third", &[2])], &[]);
    assert_eq!(taken(&steering), [1, 2, 3, 4]);
    change(&mut node, vec![pod("first", &[3]), pod("third", &[5])], &["second"]);
    assert_eq!(taken(&steering), [3, 5]);
    change(&mut node, vec![], &["first"]);
    assert_eq!(taken(&steering), [5]);
}

fn pod(id: &str, last: &[u8]) -> v1::Port {
    let address = |last: &u8| Prefix::host(Ipv4Addr::new(10, 1, 0, *last).into());
    v1::Port {
        id: id.into(),
        kind: Some(v1::port::Kind::Null(v1::Null {})),
        role: v1::Role::Pod.into(),
        mac: vec![2, 0, 0, 0, 1, 1],
        allowed_addresses: last.iter().map(address).collect(),
        ..v1::Port::default()
    }
}

fn change(node: &mut Node, ports: Vec<v1::Port>, gone: &[&str]) {
    let deletes = gone.iter().map(|id| ObjectKey::new(Kind::Port, *id)).collect();
    let upserts = Some(Desired { ports, ..Desired::default() });
    let expected_generation = node.status().generation;
    node.apply(Change::Delta(Delta { expected_generation, upserts, deletes })).unwrap();
}

/// The last bytes of the addresses in 10.1.0.0/29 whose packets the host does not get.
fn taken(steering: &Steering) -> Vec<u8> {
    let to = |last: u8| {
        let ip = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 9, 10, 1, 0, last];
        [&[2; 12][..], &[8, 0], &ip, &[0, 1, 0, 2, 0, 8, 0, 0]].concat()
    };
    (0..8).filter(|last| steering.judge(&to(*last)).unwrap() != Verdict::Pass).collect()
}
