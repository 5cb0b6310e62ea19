//! The API over a unix socket, in this process, with ports that need no privileges.
mod rig;
mod together;

use proto::{
    Refusal,
    v1::{self, Delta, Desired, Kind, Reason, apply_request::Change, event, trace_request::What},
};
use rig::{Rig, delta, loopback, null, ping, route_to};
use tonic::Code;

#[tokio::test]
async fn what_is_applied_is_live_and_seen() {
    let mut rig = Rig::new().await;
    let status = rig.status().await;
    assert_eq!((status.generation, status.ports.len(), status.workers.len()), (0, 0, 1));
    let reply = rig.apply(Change::Whole(rig::pair())).await.unwrap();
    assert_eq!((reply.generation, reply.added.len()), (1, 6));
    let status = rig.status().await;
    assert_eq!(status.generation, 1);
    let ports: Vec<_> = status.ports.iter().map(|port| (port.id.as_str(), port.driver.as_str(), port.up)).collect();
    assert_eq!(ports, [("in", "null", true), ("out", "null", true)]);
    assert!(status.pools.iter().any(|pool| pool.class == "small" && pool.total == 2048));
    assert!(status.tables.iter().any(|table| table.name == "flows4" && table.capacity >= 1024), "{:?}", status.tables);
    assert!(status.regions.iter().any(|region| region.name.starts_with("IPv6 flows") && region.got == "4 KiB"));
    let routes = status.regions.iter().find(|region| region.name == "IPv4 routes").unwrap();
    assert!(routes.bytes > 0 && routes.got == "4 KiB" && !routes.locked, "{routes:?}");
    let meagre = "each of 2 ports is guaranteed 350 flow halves only";
    assert!(status.notes.iter().any(|note| note.contains(meagre)), "1024 fit: {:?}", status.notes);
    assert!(
        status.notes.iter().any(|note| note.contains("cannot sleep")),
        "a null port has no descriptor: {:?}",
        status.notes
    );
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let mut rig = Rig::new().await;
    let request = v1::ApplyRequest { change: Some(Change::Whole(rig::pair())), dry_run: true };
    let reply = rig.client.apply(request).await.unwrap().into_inner();
    assert_eq!((reply.generation, reply.added.len()), (0, 6));
    assert_eq!(rig.status().await.generation, 0);
    assert!(rig.status().await.ports.is_empty());
}

#[tokio::test]
async fn refusals_name_the_object_and_leave_all_as_it_was() {
    let mut rig = Rig::new().await;
    rig.apply(Change::Whole(rig::pair())).await.unwrap();
    let mut bad = Desired { ports: vec![null("third")], ..Desired::default() };
    bad.routes.push(route_to("r", "10.8.0.0/16", "nobody"));
    let status = rig.apply(delta(1, bad)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let refusal = Refusal::of(&status).unwrap();
    assert_eq!((refusal.kind, refusal.id.as_str(), refusal.field.as_str()), (Kind::Route, "r", "via.port"));
    let stale = rig.apply(delta(7, Desired::default())).await.unwrap_err();
    assert_eq!((stale.code(), Refusal::of(&stale).unwrap().reason), (Code::Aborted, Reason::Generation));
    let none = rig.client.apply(v1::ApplyRequest::default()).await.unwrap_err();
    assert_eq!(Refusal::of(&none).unwrap().field, "change");
    let status = rig.status().await;
    assert_eq!((status.generation, status.ports.len()), (1, 2));
}

#[tokio::test]
async fn a_tap_that_cannot_be_made_refuses_its_change() {
    let mut rig = Rig::new().await;
    rig.apply(Change::Whole(rig::pair())).await.unwrap();
    let tap = v1::Tap { netns_path: "/run/netns/none".into(), name: "eth0".into(), mtu: 1500, ..v1::Tap::default() };
    let port = v1::Port { kind: Some(v1::port::Kind::Tap(tap)), ..null("pod") };
    let status = rig.apply(delta(1, Desired { ports: vec![port], ..Desired::default() })).await.unwrap_err();
    let refusal = Refusal::of(&status).unwrap();
    assert_eq!((refusal.id.as_str(), refusal.field.as_str(), refusal.reason), ("pod", "tap", Reason::System));
    assert!(refusal.may_pass());
    assert_eq!(rig.status().await.generation, 1);
}

#[tokio::test]
async fn a_new_process_starts_from_the_last_state() {
    let mut rig = Rig::new().await;
    rig.apply(Change::Whole(rig::pair())).await.unwrap();
    let gone = Delta { expected_generation: 1, upserts: None, deletes: vec![] };
    let upserts = Some(Desired { ports: vec![null("third")], ..Desired::default() });
    rig.apply(Change::Delta(Delta { upserts, ..gone })).await.unwrap();
    let mut rig = rig.restarted().await;
    let status = rig.status().await;
    assert_eq!((status.generation, status.ports.len()), (2, 3));
    let reply = rig.apply(delta(2, Desired { ports: vec![null("fourth")], ..Desired::default() })).await.unwrap();
    assert_eq!(reply.generation, 3);
}

#[tokio::test]
async fn injected_packets_are_traced_counted_and_leave_flows() {
    let mut rig = Rig::new().await;
    rig.apply(Change::Whole(rig::pair())).await.unwrap();
    let before = rig.counters().await;
    let inject = v1::trace_request::Inject { port: "in".into(), frame: ping() };
    let request = v1::TraceRequest { what: Some(What::Inject(inject)), seconds: 20 };
    let mut steps = rig.client.trace(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(step) = steps.message().await.unwrap() {
        assert!(step.packet == 1 && !step.node.is_empty() && !step.arc.is_empty() && !step.summary.is_empty());
        seen.push(step);
    }
    assert!(!seen.is_empty(), "the packet met a node at least");
    let after = rig.counters().await;
    let moved = |node: &str, arc: &str| {
        let of = |reply: &v1::CountersReply| reply.arcs.iter().find(|c| c.node == node && c.arc == arc).unwrap().count;
        of(&after) - of(&before)
    };
    for step in &seen {
        assert!(moved(&step.node, &step.arc) >= 1, "{}.{} was counted", step.node, step.arc);
    }
    let sent = after.ports.iter().find(|port| port.port == "out").unwrap();
    assert_eq!(sent.tx_packets, 1, "{seen:?}");
    let mut found = rig.client.flows(v1::FlowsRequest::default()).await.unwrap().into_inner();
    let mut flows = Vec::new();
    while let Some(flow) = found.message().await.unwrap() {
        flows.push(flow);
    }
    assert_eq!(flows.len(), 2, "a half for each direction: {flows:?}");
    assert_eq!(flows.iter().filter(|flow| flow.reply).count(), 1);
    assert!(flows.iter().any(|flow| flow.port == "out" && flow.verdict == "forward" && flow.packets == 1));
    let filter = v1::Filter { protocol: 17, ..v1::Filter::default() };
    let mut none = rig.client.flows(v1::FlowsRequest { filter: Some(filter), limit: 0 }).await.unwrap().into_inner();
    assert!(none.message().await.unwrap().is_none(), "nothing was UDP");
}

#[tokio::test]
async fn a_packet_longer_than_what_a_trace_keeps_is_described_whole() {
    let mut rig = Rig::new().await;
    rig.apply(Change::Whole(rig::pair())).await.unwrap();
    let mut frame = ping();
    frame[16..18].copy_from_slice(&240u16.to_be_bytes());
    frame.resize(14 + 240, 0);
    let inject = v1::trace_request::Inject { port: "in".into(), frame };
    let request = v1::TraceRequest { what: Some(What::Inject(inject)), seconds: 20 };
    let mut steps = rig.client.trace(request).await.unwrap().into_inner();
    let step = steps.message().await.unwrap().unwrap();
    assert!(step.bytes.len() < 254 && step.length == 254, "{step:?}");
    assert!(step.summary.contains("length 200"), "{}", step.summary);
}

#[tokio::test]
async fn only_one_traces_at_a_time_and_odd_filters_are_named() {
    let mut rig = Rig::new().await;
    rig.apply(Change::Whole(rig::pair())).await.unwrap();
    let live = |filter| {
        let live = v1::trace_request::Live { filter: Some(filter), count: 3 };
        v1::TraceRequest { what: Some(What::Live(live)), seconds: 30 }
    };
    let odd = v1::Filter { port: "nobody".into(), ..v1::Filter::default() };
    let status = rig.client.trace(live(odd)).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("nobody"));
    let first = rig.client.trace(live(v1::Filter::default())).await.unwrap();
    let second = rig.client.trace(live(v1::Filter::default())).await.unwrap_err();
    assert_eq!(second.code(), Code::ResourceExhausted);
    drop(first);
    let mut again = rig.client.trace(live(v1::Filter::default())).await;
    while again.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted) {
        tokio::task::yield_now().await; // until the server has seen that the reader is gone
        again = rig.client.trace(live(v1::Filter::default())).await;
    }
    assert!(again.is_ok());
}

#[tokio::test]
async fn watchers_hear_how_things_are_and_what_happens() {
    let mut rig = Rig::new().await;
    rig.apply(Change::Whole(rig::pair())).await.unwrap();
    let mut events = rig.client.watch(v1::WatchRequest {}).await.unwrap().into_inner();
    let mut next = async || events.message().await.unwrap().unwrap().kind.unwrap();
    assert_eq!(next().await, event::Kind::GenerationLive(event::GenerationLive { generation: 1 }));
    for id in ["in", "out"] {
        let event::Kind::PortState(port) = next().await else { panic!("not a port") };
        assert_eq!((port.port.as_str(), port.up), (id, true));
    }
    rig.apply(delta(1, Desired { ports: vec![loopback("new")], ..Desired::default() })).await.unwrap();
    let event::Kind::PortState(port) = next().await else { panic!("not a port") };
    assert_eq!(port.port, "new");
    assert_eq!(next().await, event::Kind::GenerationLive(event::GenerationLive { generation: 2 }));
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new().await;
    let mode = std::fs::metadata(rig.config.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn ports_come_and_go_while_slots_are_used_again() {
    let mut rig = Rig::new().await;
    for round in 0..5u64 {
        let ports = (0..8).map(|n| loopback(&format!("{round}-{n}"))).collect();
        let reply = rig.apply(Change::Whole(Desired { ports, ..Desired::default() })).await.unwrap();
        assert_eq!(reply.generation, round + 1);
        assert_eq!(rig.status().await.ports.len(), 8);
    }
    rig.apply(Change::Whole(Desired::default())).await.unwrap();
    assert!(rig.status().await.ports.is_empty());
}
