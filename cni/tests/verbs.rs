//! The binary as a runtime sees it: each verb in each version, each error by its code, and the agent in each state.
mod fake;

use fake::{Fake, Namespace, VERSIONS, attached};
use proto::attach::{Refused, Reply, Request};
use serde_json::{Value, json};

const NETNS: &str = "/run/netns/none";

fn refused(code: u32) -> Reply {
    Reply::Refused(Refused { code, message: "no".into(), details: "because".into() })
}

fn error_of(call: &fake::Call) -> (i32, u64) {
    assert!(call.json["msg"].is_string() && call.json["details"].is_string(), "{}", call.json);
    assert!(!call.stderr.is_empty());
    (call.exit, call.json["code"].as_u64().unwrap())
}

#[test]
fn version_lists_all_and_needs_nothing() {
    let fake = Fake::new();
    for input in ["", "{}", "nonsense", r#"{"cniVersion":"0.3.1"}"#, r#"{"cniVersion":"7.0.0"}"#] {
        let call = fake.call(&[("CNI_COMMAND", "VERSION")], input.as_bytes());
        assert_eq!((call.exit, &call.json["supportedVersions"]), (0, &json!(VERSIONS)), "{input}");
        let expected = if input.contains("0.3.1") { "0.3.1" } else { "1.1.0" };
        assert_eq!(call.json["cniVersion"], expected);
    }
}

#[test]
fn without_a_verb_it_introduces_itself() {
    let call = Fake::new().call(&[], b"");
    assert_eq!((call.exit, &call.json), (0, &Value::Null));
    assert!(call.stderr.contains("0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{}", call.stderr);
}

#[test]
fn the_environment_is_checked() {
    let fake = Fake::new();
    let config = fake.config("1.1.0", json!({})).to_string();
    let missing =
        [("ADD", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"), ("CHECK", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME")];
    for (verb, names) in missing.into_iter().chain([("DEL", "CNI_CONTAINERID, CNI_IFNAME"), ("GC", "CNI_PATH")]) {
        let call = fake.call(&[("CNI_COMMAND", verb)], config.as_bytes());
        assert_eq!(error_of(&call), (1, 4), "{verb}");
        assert!(call.json["msg"].as_str().unwrap().ends_with(names), "{}", call.json);
    }
    assert_eq!(error_of(&fake.call(&[("CNI_COMMAND", "FROB")], b"")), (1, 4));
}

#[test]
fn every_verb_refuses_what_it_cannot_read_or_do() {
    let fake = Fake::with_agent(|_| Some(Reply::Done));
    let inputs = [
        ("{", 6),
        (r#"{"cniVersion":"2.0.0","name":"n"}"#, 1),
        (r#"{"cniVersion":"1.1.0"}"#, 7),
        (r#"{"cniVersion":"1.1.0","name":"n","ipMasq":true}"#, 2),
        (
            r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80}]}}"#,
            2,
        ),
        (r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"deviceID":"0000:00:01.0"}}"#, 2),
    ];
    let common = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", NETNS), ("CNI_PATH", "/bin")];
    for verb in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
        for (input, code) in inputs {
            let environment: Vec<_> = common.iter().copied().chain([("CNI_COMMAND", verb)]).collect();
            assert_eq!(error_of(&fake.call(&environment, input.as_bytes())), (1, code), "{verb} {input}");
        }
    }
    assert!(fake.heard().is_empty());
}

#[test]
fn a_configuration_that_never_ends_is_given_up() {
    let fake = Fake::with_agent(|_| Some(Reply::Done));
    let config = fake.config("1.1.0", json!({})).to_string();
    let more = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", NETNS)];
    for (verb, input) in [("STATUS", ""), ("STATUS", config.as_str()), ("VERSION", "{}"), ("CHECK", &config)] {
        let environment: Vec<_> = more.iter().copied().chain([("CNI_COMMAND", verb)]).collect();
        let call = fake.call_without_end(&environment, input.as_bytes());
        assert_eq!(error_of(&call), (1, 5), "{verb} {input}");
    }
    assert!(fake.heard().is_empty());
}

#[test]
fn verbs_begin_with_their_version() {
    let fake = Fake::with_agent(|_| Some(Reply::Done));
    for version in VERSIONS {
        let config = fake.config(version, json!({ "cni.dev/valid-attachments": [] }));
        for (verb, since) in [("CHECK", "0.4.0"), ("STATUS", "1.1.0"), ("GC", "1.1.0")] {
            let call = fake.verb(verb, NETNS, &config);
            let before = VERSIONS.iter().position(|v| *v == version) < VERSIONS.iter().position(|v| *v == since);
            // A CHECK that is new enough stumbles on the missing prevResult.
            let expected = if before {
                1
            } else if verb == "CHECK" {
                7
            } else {
                0
            };
            assert_eq!(call.json["code"].as_u64().unwrap_or(0), expected, "{verb} {version}: {}", call.json);
        }
        assert_eq!(fake.verb("DEL", "", &config).exit, 0, "{version}");
    }
}

#[test]
fn add_answers_in_the_version_that_was_asked() {
    let Some(netns) = Namespace::new("true") else { return };
    let fake = Fake::with_agent(|_| Some(attached()));
    for version in VERSIONS {
        let call =
            fake.verb("ADD", &netns.path(), &fake.config(version, json!({ "dns": { "nameservers": ["10.0.0.10"] } })));
        assert_eq!((call.exit, call.json["cniVersion"].as_str()), (0, Some(version)), "{}", call.json);
        assert_eq!(call.json["dns"]["nameservers"][0], "10.0.0.10");
        if version < "0.3.0" {
            assert_eq!(
                (&call.json["ip4"]["ip"], &call.json["ip6"]["gateway"]),
                (&json!("10.1.1.2/32"), &json!("fe80::1"))
            );
            continue;
        }
        let interface = &call.json["interfaces"][0];
        assert_eq!((&interface["name"], &interface["sandbox"]), (&json!("eth0"), &json!(netns.path())));
        assert_eq!(interface.get("mtu").is_some(), version == "1.1.0");
        assert_eq!(call.json["ips"][1]["address"], "fd00::2/128");
        assert_eq!(call.json["ips"][1].get("version").is_some(), version < "1.0.0");
    }
    let Request::Add(add) = &fake.heard()[0] else { panic!("{:?}", fake.heard()) };
    assert_eq!((add.key.container.as_str(), add.key.network.as_str(), add.interface_exists), ("c1", "millrace", false));
}

#[test]
fn add_behind_another_plugin_keeps_its_result() {
    let Some(netns) = Namespace::new("true") else { return };
    let fake = Fake::with_agent(|_| Some(attached()));
    let before = json!({ "interfaces": [{ "name": "net1", "sandbox": netns.path() }], "ips": [{ "address": "192.0.2.9/24", "interface": 0 }] });
    let call = fake.verb("ADD", &netns.path(), &fake.config("1.0.0", json!({ "prevResult": before })));
    assert_eq!(call.json["interfaces"][0]["name"], "net1");
    assert_eq!((&call.json["ips"][0]["interface"], &call.json["ips"][1]["interface"]), (&json!(0), &json!(1)));
}

#[test]
fn add_says_when_the_interface_is_there_already() {
    let Some(netns) = Namespace::new("ip link add eth0 type veth peer name other") else { return };
    let fake = Fake::with_agent(|_| Some(refused(4)));
    assert_eq!(error_of(&fake.verb("ADD", &netns.path(), &fake.config("1.1.0", json!({})))), (1, 4));
    assert!(matches!(&fake.heard()[0], Request::Add(add) if add.interface_exists));
}

#[test]
fn add_passes_on_what_is_asked_for() {
    let Some(netns) = Namespace::new("true") else { return };
    let fake = Fake::with_agent(|_| Some(attached()));
    let asked = json!({ "runtimeConfig": { "ips": ["10.1.1.9/24"], "mac": "02:00:00:00:00:09",
        "io.kubernetes.cri.pod-annotations": { "a": "b" } } });
    let config = fake.config("1.1.0", asked).to_string();
    let path = netns.path();
    let environment = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", path.as_str()),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
        ("TRACEPARENT", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    assert_eq!(fake.call(&environment, config.as_bytes()).exit, 0);
    let Request::Add(add) = &fake.heard()[0] else { panic!("{:?}", fake.heard()) };
    assert_eq!((add.addresses[0].to_string().as_str(), add.mac.as_str()), ("10.1.1.9", "02:00:00:00:00:09"));
    assert_eq!(add.args["K8S_POD_NAME"], "web");
    assert!(fake.log().contains("trace=00-4bf92f3577b34da6"), "{}", fake.log());
}

#[test]
fn what_the_agent_refuses_has_its_code() {
    let netns = Namespace::new("true");
    let path = netns.as_ref().map_or_else(|| NETNS.to_owned(), Namespace::path);
    for code in [3, 11, 50, 51, 101, 102, 104, 105] {
        let fake = Fake::with_agent(move |_| Some(refused(code)));
        let config = fake.config("1.1.0", json!({ "cni.dev/valid-attachments": [] }));
        for verb in ["ADD", "DEL", "STATUS", "GC"].into_iter().filter(|verb| *verb != "ADD" || netns.is_some()) {
            assert_eq!(error_of(&fake.verb(verb, &path, &config)), (1, code.into()), "{verb}");
        }
        assert!(fake.log().contains(&format!("(code {code}): because")), "{}", fake.log());
    }
}

#[test]
fn with_the_agent_down_each_verb_does_what_it_can() {
    let fake = Fake::new();
    let config = fake.config("1.1.0", json!({ "cni.dev/attachments": [] }));
    assert_eq!(error_of(&fake.verb("STATUS", "", &config)), (1, 50));
    assert_eq!(error_of(&fake.verb("GC", "", &config)), (1, 100));
    assert_eq!(error_of(&fake.verb("ADD", NETNS, &config)), (1, 8));
    if let Some(netns) = Namespace::new("true") {
        assert_eq!(error_of(&fake.verb("ADD", &netns.path(), &config)), (1, 100));
    }
    assert!(fake.tombstones().is_empty(), "an ADD that nobody heard leaves nothing to undo");
    for _ in 0..3 {
        assert_eq!(fake.verb("DEL", "", &config).exit, 0);
    }
    let key = json!({ "network": "millrace", "container": "c1", "ifname": "eth0" });
    assert_eq!(fake.tombstones(), [json!({ "key": key })]);
}

#[test]
fn an_agent_that_hangs_does_not_hold_up_a_del() {
    let fake = Fake::with_agent(|_| None);
    assert_eq!(fake.verb("DEL", "", &fake.config("1.1.0", json!({}))).exit, 0);
    assert_eq!((fake.heard().len(), fake.tombstones().len()), (1, 1));
}

#[test]
fn an_agent_that_comes_up_meanwhile_is_told() {
    let fake = Fake::new();
    let config = fake.config("1.1.0", json!({}));
    std::fs::create_dir(fake.state().join("tombstones")).unwrap();
    let lock = std::fs::File::create(fake.state().join("tombstones/lock")).unwrap();
    lock.lock().unwrap();
    // The DEL finds nobody and waits for the lock that an agent holds while it replays.
    let ended = std::thread::scope(|scope| {
        let del = scope.spawn(|| fake.verb("DEL", "", &config).exit);
        std::thread::sleep(std::time::Duration::from_millis(300));
        fake.start(|_| Some(Reply::Done));
        lock.unlock().unwrap();
        del.join().unwrap()
    });
    assert_eq!((ended, fake.heard().len(), fake.tombstones().len()), (0, 1, 0));
}

#[test]
fn del_fails_when_it_can_neither_tell_nor_remember() {
    let fake = Fake::new();
    let config = fake.config("1.1.0", json!({ "stateDir": "/dev/null" }));
    assert_eq!(error_of(&fake.verb("DEL", "", &config)), (1, 5));
}

#[test]
fn an_agent_that_breaks_off_leaves_an_add_to_undo() {
    let Some(netns) = Namespace::new("true") else { return };
    let fake = Fake::new();
    let socket =
        std::os::unix::net::UnixListener::bind(fake.config("1.1.0", json!({}))["agentSocket"].as_str().unwrap())
            .unwrap();
    std::thread::spawn(move || socket.incoming().for_each(|stream| drop(stream.unwrap())));
    let config = fake.config("1.1.0", json!({}));
    assert_eq!(error_of(&fake.verb("ADD", &netns.path(), &config)), (1, 11));
    assert_eq!(fake.tombstones().len(), 1);
    assert_eq!(fake.verb("DEL", "", &config).exit, 0);
}

#[test]
fn status_has_a_time_limit_of_its_own() {
    let fake = Fake::with_agent(|_| None);
    let call = fake.verb("STATUS", "", &fake.config("1.1.0", json!({})));
    assert_eq!(error_of(&call), (1, 50));
    assert!(call.json["msg"].as_str().unwrap().ends_with("did not answer in time"), "{}", call.json);
}

#[test]
fn gc_sends_what_lives_and_does_nothing_when_it_is_not_told() {
    let fake = Fake::with_agent(|_| Some(Reply::Done));
    assert_eq!(fake.verb("GC", "", &fake.config("1.1.0", json!({}))).exit, 0);
    assert!(fake.heard().is_empty());
    let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "eth0" }] });
    assert_eq!(fake.verb("GC", "", &fake.config("1.1.0", valid)).exit, 0);
    let Request::Gc(gc) = &fake.heard()[0] else { panic!("{:?}", fake.heard()) };
    assert_eq!((gc.network.as_str(), gc.valid.as_slice()), ("millrace", &[("c1".to_owned(), "eth0".to_owned())][..]));
}

#[test]
fn check_compares_the_namespace_and_asks_the_agent() {
    let setup = "ip link add eth0 address 02:00:00:00:00:01 type veth peer name other; ip link set eth0 up; ip link set other up; \
                 ip addr add 10.1.1.2/32 dev eth0; ip -6 addr add fd00::2/128 dev eth0 nodad; \
                 ip route add default dev eth0; ip -6 route add default dev eth0";
    let Some(netns) = Namespace::new(setup) else { return };
    let fake =
        Fake::with_agent(|request| Some(if matches!(request, Request::Add(_)) { attached() } else { Reply::Done }));
    let result = fake.verb("ADD", &netns.path(), &fake.config("1.1.0", json!({}))).json;
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let call = fake.verb("CHECK", &netns.path(), &fake.config(version, json!({ "prevResult": result })));
        assert_eq!((call.exit, &call.json), (0, &Value::Null), "{version}: {}", call.stderr);
    }
    assert!(matches!(fake.heard().last(), Some(Request::Check(check)) if check.addresses.len() == 2));
    let mut other = result.clone();
    other["ips"][0]["address"] = "10.1.1.3/32".into();
    let call = fake.verb("CHECK", &netns.path(), &fake.config("1.1.0", json!({ "prevResult": other })));
    assert_eq!(error_of(&call), (1, 106));
    let empty = Namespace::new("true").unwrap();
    let call = fake.verb("CHECK", &empty.path(), &fake.config("1.1.0", json!({ "prevResult": result })));
    assert_eq!(error_of(&call), (1, 106));
}

#[test]
fn a_log_that_nobody_reads_holds_no_verb_up() {
    let fake = Fake::with_agent(|_| Some(Reply::Done));
    let pipe = fake.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let config = fake.config("1.1.0", json!({ "logFile": pipe })).to_string();
    let call = fake.call(&[("CNI_COMMAND", "STATUS")], config.as_bytes());
    assert_eq!(call.exit, 0, "{}", call.stderr);
}
