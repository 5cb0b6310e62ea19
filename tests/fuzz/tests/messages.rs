//! Whatever other processes, files and people say: it is refused or understood, and nobody panics.
mod damage;

use damage::{Damage, damaged};
use dataplane::{
    compile::State,
    config,
    talk::{self, Answer, Ask, Numbered},
};
use prost::Message;
use proto::v1::{self, apply_request::Change};
use std::{io::Write, os::unix::net::UnixStream, path::Path};

/// What the samples say.
fn sample(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("../../deploy/standalone").join(name)).unwrap()
}

/// A host's desired state, as its agent would plan it, and an empty one.
fn desired() -> Vec<Vec<u8>> {
    let yaml = String::from_utf8(sample("node-a.yaml")).unwrap();
    let mut facts = control::watch::standalone::parse(&yaml).unwrap();
    facts.uplink_mtu = Some(1500);
    let planned = control::plan::plan(&facts, &[]).unwrap();
    let only = |change: fn(&mut v1::Desired)| {
        let mut desired = planned.clone();
        change(&mut desired);
        desired.encode_to_vec()
    };
    vec![only(|_| {}), only(|desired| desired.tunnels.clear()), only(|desired| desired.ports.clear())]
}

#[test]
fn desired_states() {
    let bases = desired();
    State::default().apply(Change::Whole(v1::Desired::decode(&bases[0][..]).unwrap())).expect("the sample is right");
    fuzz::target(800, |(first, second): &(Damage, Damage)| {
        let mut state = State::default();
        for damage in [first, second] {
            let Ok(desired) = v1::Desired::decode(&damaged(&bases, damage)[..]) else { continue };
            let Ok((next, _)) = state.apply(Change::Whole(desired)) else { continue };
            // What holds, said again, changes nothing; nor does it matter what was there before.
            let (again, outcome) = next.apply(Change::Whole(next.desired())).expect("what holds may be said");
            assert!(outcome.is_empty() && again.generation() == next.generation(), "{outcome:?}");
            let (fresh, _) = State::default().apply(Change::Whole(next.desired())).expect("it holds from nothing too");
            assert_eq!(fresh.desired(), next.desired());
            state = next;
        }
    });
}

#[test]
fn deltas() {
    let bases: Vec<_> = desired()
        .iter()
        .map(|desired| {
            let upsert = v1::Desired::decode(&desired[..]).unwrap();
            v1::Delta { upserts: Some(upsert), ..v1::Delta::default() }.encode_to_vec()
        })
        .collect();
    fuzz::target(800, |damages: &Vec<Damage>| {
        let mut state = State::default();
        for damage in damages.iter().take(4) {
            let Ok(mut delta) = v1::Delta::decode(&damaged(&bases, damage)[..]) else { continue };
            delta.expected_generation = state.generation();
            let Ok((next, _)) = state.apply(Change::Delta(delta)) else { continue };
            let (fresh, _) = State::default().apply(Change::Whole(next.desired())).expect("it holds from nothing too");
            assert_eq!(fresh.desired(), next.desired());
            state = next;
        }
    });
}

#[test]
fn a_keepers_line() {
    let ask = Ask::Steer { interface: "eth0".into(), native: Some(true), owned: false };
    let close = Ask::Close { netns: "/run/netns/a".into(), name: "eth0".into() };
    let bases: Vec<Vec<u8>> = [ask, close]
        .into_iter()
        .map(|what| {
            let body = serde_json::to_vec(&Numbered { number: 7, what }).unwrap();
            [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
        })
        .collect();
    fuzz::target(3000, |damage: &Damage| {
        let bytes = damaged(&bases, damage);
        for answers in [false, true] {
            let (mut one, other) = UnixStream::pair().unwrap();
            one.write_all(&bytes).unwrap();
            drop(one);
            let understood = if answers {
                talk::receive::<Numbered<Answer>>(&other).map(|message| message.is_some())
            } else {
                talk::receive::<Numbered<Ask>>(&other).map(|message| message.is_some())
            };
            assert!(!bytes.is_empty() || matches!(understood, Ok(false)), "the end of the line");
        }
    });
}

#[test]
fn the_files_of_a_host() {
    let node = [sample("node-a.yaml"), sample("node-b.yaml")];
    fuzz::target(3000, |damage: &Damage| {
        let Ok(yaml) = String::from_utf8(damaged(&node, damage)) else { return };
        if let Ok(facts) = control::watch::standalone::parse(&yaml) {
            let _ = control::plan::plan(&facts, &[]);
        }
    });
}

#[test]
fn the_file_of_a_dataplane() {
    let bases = [sample("dataplane.yaml")];
    let file = std::env::temp_dir().join(format!("millrace-fuzz-{}.yaml", std::process::id()));
    fuzz::target(1000, |damage: &Damage| {
        std::fs::write(&file, damaged(&bases, damage)).unwrap();
        let _ = config::Config::read(&file);
    });
    std::fs::remove_file(file).unwrap();
}

/// The CNI binary has no library, so that its readers are a part of this test.
#[path = "../../../cni/src/config.rs"]
#[expect(dead_code, reason = "only what stdin reaches is used")]
mod cni_config;
#[path = "../../../cni/src/fault.rs"]
#[expect(dead_code, reason = "only what stdin reaches is used")]
mod fault;
#[path = "../../../cni/src/version.rs"]
mod version;

#[test]
fn what_a_runtime_says_on_stdin() {
    let conflist: serde_json::Value = serde_json::from_slice(&sample("10-millrace.conflist")).unwrap();
    let mut plugin = conflist["plugins"][0].clone();
    (plugin["name"], plugin["cniVersion"]) = (conflist["name"].clone(), "1.1.0".into());
    plugin["runtimeConfig"] = serde_json::json!({"ips": ["10.1.1.5/24"], "mac": "02:00:00:00:00:01"});
    assert!(cni_config::Config::read(plugin.to_string().as_bytes()).is_ok(), "the sample is right");
    // A path is seldom damaged so that the rest is still read.
    let pathless = ["agentSocket", "stateDir", "logFile"].map(|key| {
        let mut plugin = plugin.clone();
        plugin[key] = "var/x".into();
        plugin
    });
    let bases: Vec<_> = std::iter::once(&plugin).chain(&pathless).map(|json| json.to_string().into_bytes()).collect();
    fuzz::target(5000, |damage: &Damage| {
        let bytes = damaged(&bases, damage);
        match cni_config::Config::read(&bytes) {
            Ok(config) => {
                assert!(config.agent_socket.as_os_str().len() <= 107, "longer than a socket's path may be");
                let paths = [&config.agent_socket, &config.state_dir, &config.log_file];
                assert!(paths.iter().all(|path| path.is_absolute()), "{paths:?}");
            }
            Err(fault) => assert!(fault.json(version::Version::NEWEST)["code"].is_u64()),
        }
        assert!(version::answer(&bytes)["supportedVersions"].is_array());
    });
}
