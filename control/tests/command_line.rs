//! What the command line prints, against files that people have looked at: UPDATE=1 writes them anew.
mod fake;

use std::{path::Path, process::Stdio};

use control::cli::view::View;
use fake::FakeDataplane;
use proto::{
    ip_bytes,
    v1::{
        ArcCount, CountersReply, Endpoint, Flow, Pool, PortCounters, PortStatus, Region, Role, StatusReply, Step,
        Table, Worker,
    },
};

const TABLE: View = View { json: false, colour: false };
const JSON: View = View { json: true, colour: false };

fn same_as(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{text}\n")).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(format!("{text}\n"), expected, "{} differs; if that is right: UPDATE=1", path.display());
}

fn bytes(address: &str) -> Vec<u8> {
    ip_bytes(address.parse().unwrap())
}

fn ports() -> Vec<PortCounters> {
    let count = |port: &str, n: u64| PortCounters {
        port: port.into(),
        rx_packets: n,
        rx_bytes: n * 1400,
        rx_drops: 0,
        tx_packets: n / 2,
        tx_bytes: n * 33,
        tx_drops: n / 1000,
    };
    vec![count("uplink", 123_456), count("pod/c1/eth0", 12)]
}

fn status() -> StatusReply {
    let port = |counters: PortCounters, driver: &str, interface: &str, role: Role, up: bool, note: &str| PortStatus {
        id: counters.port.clone(),
        driver: driver.into(),
        interface: interface.into(),
        role: role.into(),
        up,
        queues: 1,
        mtu: 1500,
        mac: vec![2, 0, 0, 0, 0, 1],
        notes: Some(note.to_owned()).filter(|note| !note.is_empty()).into_iter().collect(),
        counters: Some(counters),
    };
    let [uplink, pod] = <[PortCounters; 2]>::try_from(ports()).unwrap();
    StatusReply {
        version: "0.1.0".into(),
        generation: 7,
        pid: 4242,
        keeper_pid: 4241,
        uptime_seconds: 3_700,
        starts: 2,
        workers: vec![Worker {
            number: 0,
            core: 1,
            mode: "adaptive".into(),
            turns: 99,
            busy: 0.125,
            generation: 7,
            sleeps: 3,
        }],
        ports: vec![
            port(uplink, "af_xdp", "eth0", Role::Uplink, true, "copy mode: driver has no zero-copy"),
            port(pod, "tap", "eth0", Role::Pod, false, ""),
        ],
        regions: vec![Region {
            name: "frames".into(),
            bytes: 64 << 20,
            asked: "the best pages".into(),
            got: "4 KiB".into(),
            shortfall: "no 2 MiB page is reserved: more TLB misses".into(),
            locked: true,
            numa_node: Some(1),
        }],
        pools: vec![Pool { class: "small".into(), total: 8192, free: 1000, worker: 0 }],
        tables: vec![Table { name: "flows".into(), used: 10, capacity: 1 << 20 }],
        notes: vec!["plain pages: run hugepages reserve".into()],
    }
}

fn flows() -> Vec<Flow> {
    let first = Flow {
        source: bytes("10.1.1.2"),
        destination: bytes("10.96.0.10"),
        protocol: 6,
        source_port: 40_000,
        destination_port: 80,
        answered: true,
        state: "established".into(),
        verdict: "forward".into(),
        tunnel: "node/b".into(),
        rewritten_destination: Some(Endpoint { address: bytes("10.1.2.9"), l4_port: 8080 }),
        packets: 1200,
        bytes: 1_500_000,
        idle_seconds: 0.25,
        ..Flow::default()
    };
    let second = Flow {
        source: bytes("fd00:1:1::2"),
        destination: bytes("fd00:1:2::9"),
        protocol: 58,
        reply: true,
        verdict: "no route".into(),
        packets: 1,
        bytes: 104,
        idle_seconds: 12.0,
        ..Flow::default()
    };
    vec![first, second]
}

fn counters() -> CountersReply {
    let arc = |node: &str, arc: &str, count, drop| ArcCount { node: node.into(), arc: arc.into(), count, drop };
    let arcs = vec![
        arc("ingress", "flow", 500, false),
        arc("ingress", "bad checksum", 3, true),
        arc("route", "no route", 0, true),
    ];
    CountersReply { arcs, ports: ports() }
}

fn steps() -> Vec<Step> {
    let step = |packet, node: &str, arc: &str, time_ns, summary: &str| Step {
        packet,
        worker: 0,
        node: node.into(),
        arc: arc.into(),
        time_ns,
        bytes: vec![0xde, 0xad],
        length: 98,
        summary: summary.into(),
    };
    vec![
        step(1, "ingress", "flow", 1_000_001_000, "10.1.1.2 > 10.1.2.2 icmp echo request"),
        step(1, "flow", "encap", 1_000_001_000, "10.1.1.2 > 10.1.2.2 icmp echo request"),
        step(1, "encap", "egress", 1_000_001_000, "192.0.2.1 > 192.0.2.2 vxlan 1"),
        step(2, "ingress", "flow", 1_000_900_000, "10.1.1.2 > 10.1.2.2 icmp echo request"),
    ]
}

fn traced(view: View) -> String {
    let steps = steps();
    let lines = steps
        .iter()
        .enumerate()
        .map(|(i, step)| view.step(step, i.checked_sub(1).and_then(|before| steps.get(before))));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn tables_for_people() {
    same_as("status.txt", &TABLE.status(&status()));
    same_as("ports.txt", &TABLE.ports(&status()));
    same_as("flows.txt", &TABLE.flows(&flows()));
    same_as("counters.txt", &TABLE.counters(&counters(), &CountersReply::default(), false));
    same_as("counters-all.txt", &TABLE.counters(&counters(), &CountersReply::default(), true));
    same_as("trace.txt", &traced(TABLE));
}

#[test]
fn json_for_programs() {
    same_as("status.json", &JSON.status(&status()));
    same_as("ports.json", &JSON.ports(&status()));
    same_as("flows.json", &JSON.flows(&flows()));
    same_as("counters.json", &JSON.counters(&counters(), &CountersReply::default(), true));
    same_as("trace.json", &traced(JSON));
}

#[test]
fn differences_count_from_before_and_from_zero_after_a_restart() {
    let mut now = counters();
    now.arcs[0].count = 510;
    now.arcs[1].count = 1;
    now.ports[0].rx_packets += 5;
    same_as("counters-difference.txt", &TABLE.counters(&now, &counters(), false));
}

#[test]
fn colours_are_for_those_who_want_them() {
    let coloured = View { json: false, colour: true }.ports(&status());
    assert!(coloured.contains("\u{1b}["), "{coloured}");
    assert!(!TABLE.ports(&status()).contains('\u{1b}'));
}

/// Runs the program against a dataplane that says the above.
async fn run(arguments: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("dataplane.sock");
    let dataplane = FakeDataplane::default();
    dataplane.told(|told| (told.flows, told.steps, told.counters) = (flows(), steps(), counters()));
    let _serving = (!arguments.contains(&"--down")).then(|| dataplane.serve(&socket));
    let arguments = arguments.iter().filter(|argument| **argument != "--down");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_millrace"));
    let output = command.args(arguments).env("MILLRACE_SOCKET", &socket).stdin(Stdio::null()).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_program_prints_what_is_answered() {
    assert_eq!(run(&["flows"]).await, (0, TABLE.flows(&flows()) + "\n", String::new()));
    assert_eq!(run(&["flows", "--protocol", "icmpv6"]).await.1, TABLE.flows(&flows()[1..]) + "\n");
    assert_eq!(
        run(&["counters", "-o", "json", "--all"]).await.1,
        JSON.counters(&counters(), &CountersReply::default(), true) + "\n"
    );
    assert_eq!(run(&["trace", "--count", "2"]).await.1, traced(TABLE) + "\n");
    assert_eq!(run(&["-o", "json", "trace", "--on", "uplink", "--inject", "dead"]).await.1, traced(JSON) + "\n");
    assert!(run(&["status"]).await.1.starts_with("millrace-dataplane 0.1.0  generation 0"));
}

#[tokio::test]
async fn exit_codes_tell_scripts_what_happened() {
    let (code, _, stderr) = run(&["trace", "--on", "nowhere", "--inject", "dead"]).await;
    assert_eq!((code, stderr.as_str()), (1, "millrace: port \"nowhere\": there is no such port\n"));
    assert_eq!(run(&["frobnicate"]).await.0, 2);
    assert_eq!(run(&["trace", "--on", "uplink", "--inject", "xyz"]).await.0, 2);
    let (code, stdout, stderr) = run(&["--down", "status"]).await;
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(
        stderr.contains("cannot reach the dataplane on") && stderr.contains("systemctl status millrace-dataplane"),
        "{stderr}"
    );
}
