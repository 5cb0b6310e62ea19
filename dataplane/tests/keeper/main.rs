//! Keeper and worker process as they run on hosts, in network namespaces of their own.
mod lab;
mod steered;

use lab::{Lab, Node, Pod, between, peer_of};
use proto::{
    Refusal,
    v1::{self, Delta, Desired, apply_request::Change},
};

#[test]
fn pods_keep_their_carrier_and_traffic_returns_by_itself_when_the_worker_process_is_killed() {
    let Some(lab) = Lab::new("keeper", &["h", "a", "b"]) else { return };
    let mut node = lab.node("h", "");
    let pods = [Pod::new(&lab, "a", "10.1.0.2", "fd01::2"), Pod::new(&lab, "b", "10.1.0.3", "fd01::3")];
    let desired = lab::desired(&pods);
    let reply = node.apply(Change::Whole(desired)).unwrap();
    assert_eq!(reply.generation, 1);
    for target in ["10.1.0.3", "fd01::3", "169.254.1.1"] {
        lab.ping("a", target);
    }
    let before = (node.status(), lab.read("a", "carrier_down_count"));
    assert_eq!((before.0.starts, lab.read("a", "carrier").as_str()), (1, "1"));
    let pid = before.0.pid.to_string();
    lab::run("kill", &["-9", &pid]);
    let after = node.status_of_another(before.0.pid);
    assert_eq!((after.starts, after.generation, after.keeper_pid), (2, 1, before.0.keeper_pid));
    assert!(after.notes.iter().any(|note| note.contains("SIGKILL")), "it says why: {:?}", after.notes);
    for target in ["10.1.0.3", "fd01::3"] {
        lab.ping("a", target);
    }
    assert_eq!(lab.read("a", "carrier_down_count"), before.1, "the carrier was never away");
    assert!(node.stop().success());
    assert_eq!(lab.read("a", "mtu"), "1450", "the device outlives the keeper");
    assert!(node.uninstall().status.success());
    assert!(!lab.has("a", "eth0"), "and goes when told");
}

#[test]
fn a_tap_is_what_its_object_says_and_goes_with_it() {
    let Some(lab) = Lab::new("taps", &["h", "a"]) else { return };
    let mut node = lab.node("h", "");
    let mut pod = Pod::new(&lab, "a", "10.1.0.2", "fd01::2");
    node.apply(Change::Whole(lab::desired(std::slice::from_ref(&pod)))).unwrap();
    let shown = lab.shows("a", "addr show dev eth0");
    for part in ["10.1.0.2/32", "fd01::2/128", "mtu 1450", "02:00:00:00:0a:02"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let ours = shown.lines().find(|line| line.contains("fd01::2")).unwrap();
    assert!(!ours.contains("tentative"), "nobody looks for duplicates: {ours}");
    let routes = lab.shows("a", "route show");
    assert!(routes.contains("default via 169.254.1.1") && routes.contains("169.254.1.1 dev eth0"), "{routes}");
    assert!(lab.shows("a", "-6 route show").contains("default via fe80::1"));
    pod.port.mac = vec![2, 0, 0, 0, 9, 9];
    let Some(v1::port::Kind::Tap(tap)) = &mut pod.port.kind else { unreachable!() };
    tap.addresses.remove(0);
    tap.routes.truncate(1);
    tap.mtu = 1400;
    let change = Desired { ports: vec![pod.port.clone()], ..Desired::default() };
    let reply =
        node.apply(Change::Delta(Delta { expected_generation: 1, upserts: Some(change), deletes: vec![] })).unwrap();
    assert_eq!(reply.changed.len(), 1);
    let shown = lab.shows("a", "addr show dev eth0");
    assert!(!shown.contains("10.1.0.2/32") && shown.contains("fd01::2/128") && shown.contains("mtu 1400"), "{shown}");
    assert!(!lab.shows("a", "route show").contains("default"), "the route is gone");
    let nowhere = Pod::new(&lab, "nowhere", "10.1.0.9", "fd01::9");
    let change = Desired { ports: vec![nowhere.port], ..Desired::default() };
    let refused = node.apply(Change::Delta(Delta { expected_generation: 2, upserts: Some(change), deletes: vec![] }));
    let refusal = Refusal::of(&refused.unwrap_err()).unwrap();
    assert_eq!((refusal.id.as_str(), refusal.may_pass()), ("nowhere", true));
    assert!(refusal.text.contains("nowhere"), "{refusal}");
    for made in [lab.file("pipe", "mkfifo"), lab.file("file", "touch")] {
        let mut odd = Pod::new(&lab, "odd", "10.1.0.9", "fd01::9");
        let Some(v1::port::Kind::Tap(tap)) = &mut odd.port.kind else { unreachable!() };
        tap.netns_path = made.display().to_string();
        let change = Desired { ports: vec![odd.port], ..Desired::default() };
        let change = Change::Delta(Delta { expected_generation: 2, upserts: Some(change), deletes: vec![] });
        let refusal = Refusal::of(&node.apply(change).unwrap_err()).unwrap();
        // What the agent looks for, to tell the container runtime that its namespace is none.
        assert_eq!((refusal.id.as_str(), refusal.field.as_str()), ("odd", proto::NETNS_PATH));
        assert!(refusal.text.contains("is no network namespace"), "{refusal}");
    }
    node.apply(Change::Whole(Desired::default())).unwrap();
    assert!(!lab.has("a", "eth0"), "the tap went with its port");
}

#[test]
fn a_tap_that_can_pass_nothing_is_down_in_the_status_and_for_watchers() {
    let Some(lab) = Lab::new("down", &["h", "a", "b"]) else { return };
    let mut node = lab.node("h", "");
    let pods = [Pod::new(&lab, "a", "10.1.0.2", "fd01::2"), Pod::new(&lab, "b", "10.1.0.3", "fd01::3")];
    node.apply(Change::Whole(lab::desired(&pods))).unwrap();
    let is = |status: &v1::StatusReply, up: bool, note: &str| {
        let port = status.ports.iter().find(|port| port.id == "a").unwrap();
        assert!(status.ports.iter().all(|port| port.id == "a" || port.up), "{:?}", status.ports);
        port.up == up && (note.is_empty() && port.notes.is_empty() || port.notes.iter().any(|said| said.contains(note)))
    };
    node.wait("a link that is up", |status| is(status, true, ""));
    let mut watcher = node.watch();
    lab.set("a", "link set eth0 down");
    assert!(is(&node.status(), false, "set down"));
    assert!(node.hears(&mut watcher, "a", false).contains("set down"));
    lab.set("a", "link set eth0 up");
    node.wait("a link that is up again", |status| is(status, true, ""));
    node.hears(&mut watcher, "a", true);
    lab.set("a", "link del eth0");
    assert!(is(&node.status(), false, "its device is gone"));
    assert!(node.hears(&mut watcher, "a", false).contains("gone"));
}

#[test]
fn a_tap_whose_namespace_was_deleted_is_down() {
    let Some(lab) = Lab::new("deleted", &["h", "a"]) else { return };
    let mut node = lab.node("h", "");
    node.apply(Change::Whole(lab::desired(&[Pod::new(&lab, "a", "10.1.0.2", "fd01::2")]))).unwrap();
    node.wait("a link that is up", |status| status.ports[0].up);
    lab::run("ip", &["netns", "del", &lab.space("a")]);
    node.wait("a lost namespace", |status| !status.ports[0].up && status.ports[0].notes[0].contains("gone"));
}

#[test]
fn two_hosts_carry_pods_traffic_over_af_xdp_and_vxlan_while_the_kernel_keeps_the_uplink() {
    let Some(lab) = Lab::new("across", &["h", "i", "a", "b"]) else { return };
    lab.join("h", "i");
    let mut nodes: Vec<Node> = ["h", "i"].iter().map(|name| lab.node(name, "")).collect();
    let pods = [Pod::new(&lab, "a", "10.1.0.2", "fd01::2"), Pod::new(&lab, "b", "10.2.0.2", "fd02::2")];
    for ((own, node), pod) in (1u8..).zip(&mut nodes).zip(&pods) {
        let mut desired = lab::desired(std::slice::from_ref(pod));
        between(&mut desired, own, peer_of(own));
        node.apply(Change::Whole(desired)).unwrap();
    }
    for target in ["10.2.0.2", "fd02::2"] {
        lab.ping("a", target);
    }
    let status = nodes[0].status();
    let uplink = status.ports.iter().find(|port| port.id == "uplink").unwrap();
    assert!(uplink.up && uplink.mtu == 1500, "{uplink:?}");
    let counters = uplink.counters.as_ref().unwrap();
    assert!(counters.rx_packets >= 2 && counters.tx_packets >= 2, "the packets went by the uplink: {counters:?}");
    lab.ping("h", "192.0.2.2"); // the kernel's own traffic passes
    lab::run("kill", &["-9", &status.pid.to_string()]);
    let after = nodes[0].status_of_another(status.pid);
    assert_eq!(after.starts, 2);
    lab.ping("h", "192.0.2.2");
    for target in ["10.2.0.2", "fd02::2"] {
        lab.ping("a", target);
    }
    nodes.iter_mut().for_each(|node| assert!(node.stop().success()));
}

#[test]
fn an_uplink_that_goes_and_comes_back_carries_traffic_again() {
    let Some(lab) = Lab::new("uplink", &["h", "i", "a", "b"]) else { return };
    lab.join("h", "i");
    let mut nodes: Vec<Node> = ["h", "i"].iter().map(|name| lab.node(name, "")).collect();
    let pods = [Pod::new(&lab, "a", "10.1.0.2", "fd01::2"), Pod::new(&lab, "b", "10.2.0.2", "fd02::2")];
    for ((own, node), pod) in (1u8..).zip(&mut nodes).zip(&pods) {
        let mut desired = lab::desired(std::slice::from_ref(pod));
        between(&mut desired, own, peer_of(own));
        node.apply(Change::Whole(desired)).unwrap();
    }
    lab.ping("a", "10.2.0.2");
    lab.set("h", "link set u0 mtu 9000");
    lab.set("i", "link set u0 mtu 9000");
    nodes.iter_mut().for_each(|node| node.wait("a longer MTU", |status| lab::uplink(status).mtu == 9000));
    lab.ping("a", "10.2.0.2");
    lab.set("h", "link del u0");
    nodes.iter_mut().for_each(|node| node.wait("a lost uplink", |status| !lab::uplink(status).up));
    lab.join("h", "i");
    for target in ["10.2.0.2", "fd02::2"] {
        lab.ping("a", target);
    }
}

#[test]
fn a_worker_process_ends_with_its_keeper_and_the_next_keeper_finds_the_taps() {
    let Some(lab) = Lab::new("orphan", &["h", "a", "b"]) else { return };
    let mut node = lab.node("h", "");
    let pods = [Pod::new(&lab, "a", "10.1.0.2", "fd01::2"), Pod::new(&lab, "b", "10.1.0.3", "fd01::3")];
    node.apply(Change::Whole(lab::desired(&pods))).unwrap();
    let (pid, index) = (node.status().pid, lab.read("a", "ifindex"));
    drop(node); // kill -9
    lab::wait_for_end(pid);
    let mut node = lab.node("h", "");
    assert_eq!(node.status_of_another(pid).generation, 1);
    lab.ping("a", "10.1.0.3");
    assert_eq!(lab.read("a", "ifindex"), index, "it is the same device");
    assert!(node.stop().success());
}

#[test]
fn the_host_reaches_pods_by_its_own_tap_and_they_reach_it() {
    let Some(lab) = Lab::new("host", &["h", "a"]) else { return };
    let mut node = lab.node("h", "");
    let host = Pod::new(&lab, "host", "10.1.0.1", "fd01::1").on_the_host(["10.1.0.0/16", "fd01::/16"]);
    let pods = [host, Pod::new(&lab, "a", "10.1.0.2", "fd01::2")];
    node.apply(Change::Whole(lab::desired(&pods))).unwrap();
    let routes = lab.shows("h", "route show");
    assert!(routes.contains("10.1.0.0/16 via 169.254.1.1 dev mr-host") && routes.contains("src 10.1.0.1"), "{routes}");
    for (from, to) in [("h", "10.1.0.2"), ("h", "fd01::2"), ("a", "10.1.0.1"), ("a", "fd01::1")] {
        lab.ping(from, to);
    }
    assert!(node.stop().success());
}

#[test]
fn a_second_dataplane_and_an_uninstall_are_turned_away_while_one_runs() {
    let Some(lab) = Lab::new("rival", &["h"]) else { return };
    let mut node = lab.node("h", "");
    let first = node.status();
    let taken = format!("another dataplane (pid {}) uses ", node.keeper_pid());
    for arguments in [&[][..], &["uninstall"]] {
        let rival = node.another(arguments);
        let said = String::from_utf8_lossy(&rival.stderr);
        assert!(!rival.status.success() && said.contains(&taken), "{arguments:?}: {said}");
    }
    let still = node.status();
    assert_eq!((still.pid, still.keeper_pid, still.starts), (first.pid, first.keeper_pid, 1));
    assert!(node.stop().success());
    assert!(node.uninstall().status.success());
    for folder in ["state", "run"] {
        let left: Vec<_> = std::fs::read_dir(node.folder().join(folder)).unwrap().flatten().collect();
        assert!(left.is_empty(), "nothing is left: {left:?}");
    }
}

#[test]
fn a_worker_process_that_ran_out_of_descriptors_serves_again() {
    let Some(lab) = Lab::new("crowd", &["h"]) else { return };
    let mut node = lab.node("h", "");
    let pid = node.status().pid;
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let most = open() + 8;
    lab::run("prlimit", &["--pid", &pid.to_string(), &format!("--nofile={most}")]);
    let crowd = node.crowd(64);
    lab::wait_until("all descriptors are in use", || open() >= most);
    drop(crowd);
    let status = node.status();
    assert_eq!((status.pid, status.starts), (pid, 1));
    assert!(node.stop().success());
}

#[test]
fn a_worker_process_that_cannot_run_is_started_ever_more_rarely_and_the_log_says_why() {
    let mut log = lab::log_of("workers: [{core: 1023}]");
    let mut expect = |words: &[&str]| {
        let line = log.find(|line| words.iter().any(|word| line.contains(word))).unwrap();
        assert!(line.contains(words[0]), "{line} and not {words:?}");
    };
    for pause in ["at once", "in 50 ms", "in 100 ms", "in 200 ms"] {
        expect(&["cannot run on core 1023", "started again"]);
        expect(&[&format!("it is started again {pause}, and flows begin anew"), "started again"]);
    }
}

#[test]
fn an_uplink_that_cannot_be_told_what_is_ours_says_so_until_it_can() {
    let Some(lab) = Lab::new("unsteered", &["h", "i"]) else { return };
    lab.join("h", "i");
    let mut node = lab.node("h", "");
    let mut desired = Desired::default();
    between(&mut desired, 1, 2);
    // More than the map of pods' prefixes holds.
    let addresses = (0..5000u32).map(|n| v1::Prefix::host(std::net::Ipv4Addr::from(0x0a01_0000 + n).into()));
    desired.ports.push(v1::Port {
        id: "crowded".into(),
        kind: Some(v1::port::Kind::Null(v1::Null {})),
        role: v1::Role::Pod.into(),
        mac: vec![2, 0, 0, 0, 1, 1],
        allowed_addresses: addresses.collect(),
        ..v1::Port::default()
    });
    node.apply(Change::Whole(desired.clone())).unwrap();
    let told =
        |status: &v1::StatusReply| lab::uplink(status).notes.iter().any(|note| note.contains("may not come here"));
    node.wait("a note of what is not steered", |status| lab::uplink(status).up && told(status));
    desired.ports.retain(|port| port.id != "crowded");
    node.apply(Change::Whole(desired)).unwrap();
    assert!(!told(&node.status()), "and no longer than it is so");
}

/// A port that needs nothing.
fn null(id: &str) -> v1::Port {
    let kind = Some(v1::port::Kind::Null(v1::Null {}));
    v1::Port { id: id.into(), kind, role: v1::Role::Host.into(), mac: vec![2, 0, 0, 0, 1, 1], ..v1::Port::default() }
}

fn add(expected_generation: u64, ports: Vec<v1::Port>) -> Change {
    let upserts = Some(Desired { ports, ..Desired::default() });
    Change::Delta(Delta { expected_generation, upserts, deletes: vec![] })
}

#[test]
fn a_full_disk_refuses_changes_until_there_is_room_and_loses_none() {
    let Some(mut lab) = Lab::new("full", &["h"]) else { return };
    let state = lab.small_disk("h");
    let mut node = lab.node("h", "");
    node.apply(Change::Whole(Desired { ports: vec![null("first")], ..Desired::default() })).unwrap();
    let filler = state.join("filler");
    let full = std::fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let long = "x".repeat(1000);
    let many = || (0..20).map(|n| null(&format!("{long}{n}"))).collect();
    for change in [add(1, many()), Change::Whole(Desired { ports: many(), ..Desired::default() })] {
        let refusal = Refusal::of(&node.apply(change).unwrap_err()).unwrap();
        assert!(refusal.may_pass() && refusal.text.contains("No space left"), "{refusal}");
    }
    let status = node.status();
    assert_eq!((status.generation, status.ports.len()), (1, 1));
    std::fs::remove_file(filler).unwrap();
    node.apply(add(1, many())).unwrap();
    lab::run("kill", &["-9", &status.pid.to_string()]);
    let status = node.status_of_another(status.pid);
    assert_eq!((status.generation, status.ports.len()), (2, 21));
}

#[test]
fn a_state_that_can_only_be_read_carries_packets_and_refuses_changes_until_it_can_be_written() {
    let Some(lab) = Lab::new("readonly", &["h", "a", "b"]) else { return };
    let mut node = lab.node("h", "");
    let pods = [Pod::new(&lab, "a", "10.1.0.2", "fd01::2"), Pod::new(&lab, "b", "10.1.0.3", "fd01::3")];
    node.apply(Change::Whole(lab::desired(&pods))).unwrap();
    let pid = node.status().pid;
    let state = node.folder().join("state").display().to_string();
    node.mount(&["--bind", &state, &state]);
    node.mount(&["-o", "remount,bind,ro", &state]);
    lab::run("kill", &["-9", &pid.to_string()]);
    let status = node.status_of_another(pid);
    assert_eq!((status.starts, status.generation, status.ports.len()), (2, 1, 2));
    let told = |status: &v1::StatusReply| status.notes.iter().any(|note| note.contains("Read-only file system"));
    assert!(told(&status), "{:?}", status.notes);
    lab.ping("a", "10.1.0.3");
    let refusal = Refusal::of(&node.apply(add(1, vec![null("more")])).unwrap_err()).unwrap();
    assert!(refusal.may_pass() && refusal.text.contains("Read-only file system"), "{refusal}");
    assert_eq!(node.status().generation, 1);
    node.mount(&["-o", "remount,bind,rw", &state]);
    assert!(!told(&node.status()), "and no longer than it is so");
    node.apply(add(1, vec![null("more")])).unwrap();
    lab::run("kill", &["-9", &status.pid.to_string()]);
    assert_eq!(node.status_of_another(status.pid).ports.len(), 3);
    assert!(node.stop().success());
}

#[test]
fn what_was_answered_is_there_whenever_the_worker_process_is_killed() {
    let Some(lab) = Lab::new("killed", &["h"]) else { return };
    let mut node = lab.node("h", "");
    let mut generation = 0;
    for round in 1..=5u64 {
        let pid = node.status().pid;
        let killer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(7 * round));
            lab::run("kill", &["-9", &pid.to_string()]);
        });
        while let Some(reply) = node.try_apply(add(generation, vec![null(&format!("{round}-{generation}"))])) {
            generation = reply.generation;
        }
        killer.join().unwrap();
        let status = node.status_of_another(pid);
        // The last one may have been kept and not answered.
        assert!((generation..=generation + 1).contains(&status.generation), "{generation}: {}", status.generation);
        assert_eq!(status.ports.len() as u64, status.generation);
        generation = status.generation;
    }
    assert!(generation > 0);
}

#[test]
fn a_worker_process_whose_keeper_is_gone_already_does_not_stay() {
    let dir = lab::folder();
    let config = dir.path().join("dataplane.yaml");
    let at = dir.path().display();
    std::fs::write(&config, format!("state_dir: {at}/state\nrun_dir: {at}/run\n")).unwrap();
    let (line, keeper) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(keeper);
    let mut worker = std::process::Command::new(env!("CARGO_BIN_EXE_millrace-dataplane"));
    let ended =
        worker.arg("worker").arg("--config").arg(config).stdin(std::os::fd::OwnedFd::from(line)).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("cannot follow the keeper: it is gone"), "{said}");
}

#[test]
fn what_a_killed_test_has_left_goes_when_the_next_one_begins() {
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let left = format!("mrk{}-0", ended.id());
    let folder = std::env::temp_dir().join(&left);
    std::fs::create_dir_all(folder.join("h/state")).unwrap();
    let ip = |words: &[&str]| std::process::Command::new("ip").args(words).stdin(std::process::Stdio::piped()).spawn();
    let made = ip(&["netns", "add", &left]).and_then(|mut made| made.wait());
    let inside = made.is_ok_and(|made| made.success()).then(|| ip(&["netns", "exec", &left, "cat"]).unwrap());
    if let Some(inside) = &inside {
        let is_cat = || std::fs::read_to_string(format!("/proc/{}/comm", inside.id())).unwrap() == "cat\n";
        lab::wait_until("the process is in the namespace", is_cat);
    }
    let lab = Lab::new("sweep", &["h"]);
    assert!(!folder.exists());
    let (Some(lab), Some(mut inside)) = (lab, inside) else { return };
    assert!(!inside.wait().unwrap().success(), "it was killed, its input being open");
    assert!(std::path::Path::new("/run/netns").join(lab.space("h")).exists());
    assert!(!std::path::Path::new("/run/netns").join(left).exists());
}
