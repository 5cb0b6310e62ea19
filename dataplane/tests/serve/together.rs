//! Applies that arrive together are answered as if each had come alone.
use crate::rig::{self, delta, loopback, null, route_to};
use dataplane::{
    compile::State,
    live::{Beginning, Fixed, Live},
};
use engine::Publisher;
use proptest::prelude::*;
use proto::v1::{self, ApplyRequest, Delta, Desired, Kind, ObjectKey, apply_request::Change};
use std::collections::HashSet;

/// A request: ports with what is odd about them, deletions, how much the generation is missed, and whether it is whole
/// or dry.
type Wish = (Vec<(u8, u8)>, Vec<u8>, u8, bool, bool);

fn wish() -> impl Strategy<Value = Wish> {
    let ports = prop::collection::vec((0..4u8, 0..5u8), 0..4);
    let deletes = prop::collection::vec(0..4u8, 0..3);
    let missed = prop::sample::select(vec![0, 0, 0, 1]);
    (ports, deletes, missed, prop::bool::weighted(0.3), prop::bool::weighted(0.1))
}

fn request((ports, deletes, missed, whole, dry_run): &Wish, generation: u64) -> ApplyRequest {
    let mut desired = Desired::default();
    for (which, how) in ports {
        let id = which.to_string();
        let tap = v1::Tap { name: "eth0".into(), mtu: 1500, ..v1::Tap::default() };
        let port = match how {
            0 => loopback(&id),
            1 => v1::Port { kind: Some(v1::port::Kind::Tap(tap)), ..null(&id) }, // nobody can open it here
            how => v1::Port { mtu: 1300 + u32::from(*how), ..null(&id) },
        };
        desired.ports.retain(|other| other.id != id);
        desired.ports.push(port);
        if *how == 4 {
            let route = route_to(&id, &format!("10.{which}.0.0/16"), &((which + 1) % 4).to_string());
            desired.routes.retain(|other| other.id != id);
            desired.routes.push(route);
        }
    }
    let deletes = deletes.iter().map(|which| ObjectKey::new(Kind::Port, which.to_string())).collect();
    let expected_generation = generation + u64::from(*missed);
    let change = match whole {
        true => Change::Whole(desired),
        false => Change::Delta(Delta { expected_generation, upserts: Some(desired), deletes }),
    };
    ApplyRequest { change: Some(change), dry_run: *dry_run }
}

fn live() -> Live {
    let state = State::default();
    let publisher = Publisher::new(state.told().clone());
    let (bpf_dir, drops) = ("/nowhere".into(), HashSet::new());
    let fixed = Fixed { starts: 1, bpf_dir, drops, regions: Vec::new(), notes: Vec::new() };
    Live::new(Beginning { state, publisher, workers: Vec::new(), store: None, line: None, fixed })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn applies_together_are_as_one_after_the_other(wishes in prop::collection::vec(prop::collection::vec(wish(), 1..5), 1..5)) {
        let (mut together, mut alone) = (live(), live());
        for batch in &wishes {
            let mut requests = Vec::new();
            let mut answers = Vec::new();
            for wish in batch {
                let request = request(wish, alone.state().generation());
                requests.push(request.clone());
                answers.push(alone.apply(request).map(|(reply, _)| reply));
            }
            let same = ApplyRequest { change: Some(Change::Whole(together.state().desired())), dry_run: true };
            let (_, before) = together.apply(same).unwrap();
            let got = together.apply_all(requests);
            let versions: HashSet<_> = got.iter().flatten().map(|(_, version)| *version).collect();
            prop_assert!(versions.len() <= 1 && versions.iter().all(|version| *version <= before + 1), "told at once");
            let got: Vec<_> = got.into_iter().map(|answer| answer.map(|(reply, _)| reply)).collect();
            prop_assert_eq!(got, answers);
            prop_assert_eq!(together.state().desired(), alone.state().desired());
            prop_assert_eq!(together.state().generation(), alone.state().generation());
            prop_assert_eq!(together.port_states(), alone.port_states());
        }
    }
}

#[tokio::test]
async fn everyone_who_applies_at_once_hears_of_his_own() {
    let mut rig = rig::Rig::new().await;
    let asked: Vec<_> = (0..16)
        .map(|n| {
            let mut client = rig.client.clone();
            let change = delta(0, Desired { ports: vec![null(&n.to_string())], ..Desired::default() });
            let request = ApplyRequest { change: Some(change), dry_run: false };
            tokio::spawn(async move { (n, client.apply(request).await) })
        })
        .collect();
    let mut won = Vec::new();
    for asked in asked {
        let (n, answer) = asked.await.unwrap();
        match answer {
            Ok(reply) => won.push((n.to_string(), reply.into_inner().added[0].id.clone())),
            Err(status) => assert_eq!(status.code(), tonic::Code::Aborted),
        }
    }
    assert!(won.len() == 1 && won[0].0 == won[0].1, "generation zero was there once: {won:?}");
    let status = rig.status().await;
    assert_eq!((status.generation, status.ports[0].id.clone()), (1, won[0].0.clone()));
}
