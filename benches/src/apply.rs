//! What one change costs a dataplane that holds 100,000 objects, from the decoded request to the published snapshot.
//!
//! Counted: the CPU time of the thread that applies: the difference, the tables, the record in the journal of desired
//! states, the new snapshot, and freeing the old one. Not counted: gRPC and the decoding of the message.
use crate::{cpu_time, report::Figure};
use anyhow::{Context, Result};
use dataplane::{
    live::{Beginning, Fixed, Live},
    store::Store,
};
use engine::Publisher;
use proto::v1::{
    ApplyRequest, Delta, Desired, Kind, Neighbour, Null, ObjectKey, Port, Prefix, Role, Route, apply_request::Change,
    port, route,
};
use std::{collections::HashSet, net::IpAddr};

/// Pods with a port, each with two addresses; each other object belongs to one of them.
const PORTS: u32 = 20_000;
/// Addresses, each with a route and a neighbour: 100,000 objects with the ports.
const ADDRESSES: u32 = 40_000;
/// Changes of each kind that are measured.
const CHANGES: u32 = 201;

/// The only figure of this kind.
pub(crate) const ID: &str = "apply.change";

/// Measures it.
pub(crate) fn measure() -> Result<Figure> {
    let dir = std::env::temp_dir().join(format!("millrace-bench-{}", std::process::id()));
    let measured = changes(&dir);
    let removed = std::fs::remove_dir_all(&dir);
    let figure = measured?;
    removed.with_context(|| format!("cannot remove {}", dir.display()))?;
    Ok(figure)
}

fn changes(dir: &std::path::Path) -> Result<Figure> {
    let mut bench = Bench::new(dir)?;
    let loaded = bench.apply(Change::Whole(world()))?;
    let (mut added, mut moved, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..CHANGES {
        let pod = pod(PORTS + n * 37 % CHANGES);
        let keys = keys(&pod);
        let mut neighbour = neighbour(n * 211 % ADDRESSES);
        if let Some(last) = neighbour.mac.last_mut() {
            *last ^= 0xff;
        }
        added.push(bench.change(pod, Vec::new())?);
        moved.push(bench.change(Desired { neighbours: vec![neighbour], ..Desired::default() }, Vec::new())?);
        gone.push(bench.change(Desired::default(), keys)?);
    }
    let parts = [("a neighbour moved", &moved), ("the pod removed", &gone)];
    let parts = parts.map(|(what, samples)| (what.to_owned(), crate::report::median(samples)));
    let note = format!(
        "a pod added (port, route, neighbour) to {} objects ({PORTS} ports, {ADDRESSES} host routes, {ADDRESSES} \
         neighbours): thread CPU time of Live::apply, journal and freeing the old snapshot counted, gRPC not; \
         the whole state took {loaded:.2} s",
        PORTS + 2 * ADDRESSES
    );
    Ok(Figure::new(ID, "s", added, &note).with_parts(parts.into()))
}

/// A dataplane without workers, and somebody who reads what it tells.
struct Bench {
    live: Live,
    reader: engine::Reader<tables::told::Told>,
}

impl Bench {
    fn new(dir: &std::path::Path) -> Result<Self> {
        let (store, state) = Store::open(dir)?;
        let mut publisher = Publisher::new(state.told().clone());
        let reader = publisher.reader();
        let (bpf_dir, drops) = (dir.to_owned(), HashSet::new());
        let fixed = Fixed { starts: 1, bpf_dir, drops, regions: Vec::new(), notes: Vec::new() };
        let live =
            Live::new(Beginning { state, publisher, workers: Vec::new(), store: Some(store), line: None, fixed });
        Ok(Bench { live, reader })
    }

    /// The CPU time of a change, in seconds.
    fn change(&mut self, upserts: Desired, deletes: Vec<ObjectKey>) -> Result<f64> {
        let expected_generation = self.live.state().generation();
        self.apply(Change::Delta(Delta { expected_generation, upserts: Some(upserts), deletes }))
    }

    fn apply(&mut self, change: Change) -> Result<f64> {
        let before = self.live.state().generation();
        let request = ApplyRequest { change: Some(change), dry_run: false };
        let start = cpu_time();
        let applied = self.live.apply(request);
        let spent = cpu_time() - start;
        let (reply, version) = applied?;
        anyhow::ensure!(reply.generation == before + 1, "a change of nothing");
        self.reader.turn();
        anyhow::ensure!(self.reader.generation() == version && self.live.is_live(version), "not published");
        Ok(spent.as_secs_f64())
    }
}

fn world() -> Desired {
    let mut desired = Desired::default();
    for n in 0..PORTS {
        let addresses = [n, PORTS + n].map(|n| Prefix::host(address(n)));
        desired.ports.push(port(n, addresses.into()));
    }
    for n in 0..ADDRESSES {
        desired.routes.push(route(&format!("pod/{n}"), n % PORTS, address(n)));
        desired.neighbours.push(neighbour(n));
    }
    desired
}

fn pod(n: u32) -> Desired {
    let address = address(ADDRESSES + n);
    let neighbour = Neighbour { port: port_id(n), address: proto::ip_bytes(address), ..neighbour(ADDRESSES + n) };
    Desired {
        ports: vec![port(n, vec![Prefix::host(address)])],
        routes: vec![route(&format!("pod/{}", ADDRESSES + n), n, address)],
        neighbours: vec![neighbour],
        ..Desired::default()
    }
}

fn keys(pod: &Desired) -> Vec<ObjectKey> {
    let ports = pod.ports.iter().map(|port| ObjectKey::new(Kind::Port, &port.id));
    let routes = pod.routes.iter().map(|route| ObjectKey::new(Kind::Route, &route.id));
    let neighbours = pod.neighbours.iter().map(|neighbour| ObjectKey::new(Kind::Neighbour, &neighbour.id));
    ports.chain(routes).chain(neighbours).collect()
}

fn port(n: u32, allowed_addresses: Vec<Prefix>) -> Port {
    Port {
        id: port_id(n),
        kind: Some(port::Kind::Null(Null {})),
        role: Role::Pod.into(),
        mac: vec![2, 0, 0, 0, 0, 1],
        mtu: 1450,
        allowed_addresses,
        gateways: vec![vec![169, 254, 1, 1]],
        ..Port::default()
    }
}

fn port_id(n: u32) -> String {
    format!("pod/container-{n}/eth0")
}

fn route(id: &str, port: u32, to: IpAddr) -> Route {
    let via = route::NextHop::Via(route::Via { port: port_id(port), gateway: Vec::new() });
    Route { id: id.into(), vrf: 0, prefix: Some(Prefix::host(to)), next_hop: Some(via) }
}

fn neighbour(n: u32) -> Neighbour {
    let [.., high, low] = n.to_be_bytes();
    let mac = vec![2, 0, 1, 0, high, low];
    Neighbour { id: format!("pod/{n}"), port: port_id(n % PORTS), address: proto::ip_bytes(address(n)), mac }
}

fn address(n: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + n).to_be_bytes())
}
