//! What can be seen: status and counters.
use super::{Live, open::Open};
use crate::{keep::is_namespace, store::Store};
use engine::{Class, PortId};
use hugepages::Got;
use ports::tap::{LINK_DOWN, LINK_GONE};
use proto::v1::{self, ArcCount, CountersReply, Pool, PortCounters, PortStatus, Region, StatusReply, Table};
use std::{collections::HashMap, sync::mpsc};

/// Events of drivers that each cost a received packet.
const LOST_RECEIVED: [&str; 6] = [
    "receive_no_frame",
    "too_long",
    "kernel_receive_dropped",
    "kernel_receive_ring_full",
    "tap_bad_header",
    "tap_no_super_frame",
];
/// Events of drivers that each cost a packet to send.
const LOST_SENT: [&str; 7] = [
    "send_refused",
    "send_rest_dropped",
    "kernel_send_invalid",
    "tap_cannot_cut",
    "tap_refused",
    "tap_bad_offload",
    "tap_rest_dropped",
];
/// Events of drivers that cost nothing.
const HARMLESS: [&str; 1] = ["tap_cut"];
/// What drivers say of links that carry no packets, and what that is for people.
const LINKS: [(&str, &str); 2] =
    [(LINK_DOWN, "its link is down: it was set down on the pod's side"), (LINK_GONE, "its device is gone")];

/// What the drivers of each port counted, but for what never happened.
type Events = HashMap<PortId, Vec<(&'static str, u64)>>;

/// The share of turns in the last second that had something to do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Busy {
    last: (u64, u64),
    share: f64,
}

impl Busy {
    /// Turns, and those with something to do, since the worker began.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub(super) fn sample(&mut self, (turns, busy): (u64, u64)) {
        let (all, some) = (turns.saturating_sub(self.last.0), busy.saturating_sub(self.last.1));
        self.share = if all == 0 { 0.0 } else { some as f64 / all as f64 };
        self.last = (turns, busy);
    }
}

/// The workers' clock, in nanoseconds.
pub(super) fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

impl Live {
    /// What runs, with what, and how full it is.
    pub fn status(&mut self) -> StatusReply {
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        StatusReply {
            version: env!("CARGO_PKG_VERSION").into(),
            generation: self.state.generation(),
            pid: std::process::id(),
            keeper_pid: if self.line.is_some() { parent.cast_unsigned() } else { 0 },
            uptime_seconds: self.started.0.elapsed().as_secs(),
            starts: self.fixed.starts,
            workers: self.workers(),
            ports: self.port_states(),
            regions: self.regions(),
            pools: self.pools(),
            tables: self.tables(),
            notes: self.notes(),
        }
    }

    /// Every arc's and every port's counters, summed over workers.
    pub fn counters(&mut self) -> CountersReply {
        let events = self.events();
        let mut arcs: Vec<ArcCount> = Vec::new();
        for worker in &self.workers {
            let counts =
                worker.handle.counters().iter().flat_map(|node| node.read().map(|(arc, n)| (node.node(), arc, n)));
            for (at, (node, arc, count)) in counts.enumerate() {
                match arcs.get_mut(at) {
                    Some(sum) => sum.count += count,
                    None => {
                        let drop = self.fixed.drops.contains(&(node, arc));
                        arcs.push(ArcCount { node: node.into(), arc: arc.into(), count, drop });
                    }
                }
            }
        }
        let mut ports: Vec<_> = self.ports.iter().map(|(id, open)| count(open, events_of(&events, *id))).collect();
        ports.sort_by(|a, b| a.port.cmp(&b.port));
        CountersReply { arcs, ports }
    }

    /// The state of every port, in order of their ids.
    pub fn port_states(&mut self) -> Vec<PortStatus> {
        let events = self.events();
        let state = |(id, open): (&PortId, &Open)| self.port_state(*id, open, events_of(&events, *id));
        let mut ports: Vec<_> = self.ports.iter().map(state).collect();
        ports.sort_by(|a, b| a.id.cmp(&b.id));
        ports
    }

    /// Of every tap that is open, what stands in its packets' way; empty: nothing.
    pub(super) fn tap_links(&mut self) -> HashMap<String, &'static str> {
        let is_tap = |open: &Open| matches!(open.port.kind, Some(v1::port::Kind::Tap(_))) && !open.failed();
        if !self.ports.values().any(is_tap) {
            return HashMap::new(); // no worker is woken for nothing
        }
        let events = self.events();
        let taps = self.ports.iter().filter(|(_, open)| is_tap(open));
        let link = |open, id| tap_obstacle(open, events_of(&events, id)).unwrap_or_default();
        taps.map(|(id, open)| (open.port.id.clone(), link(open, *id))).collect()
    }

    fn events(&mut self) -> Events {
        let mut events = Events::new();
        for (port, counted) in self.workers.iter_mut().flat_map(|worker| worker.handle.events()) {
            events.entry(port).or_default().extend(counted.into_iter().filter(|(_, count)| *count != 0));
        }
        events
    }

    fn port_state(&self, id: PortId, open: &Open, events: &[(&str, u64)]) -> PortStatus {
        let told = self.state.told().port(id);
        let (driver, interface) = match &open.port.kind {
            Some(v1::port::Kind::Tap(tap)) => ("tap", tap.name.as_str()),
            Some(v1::port::Kind::AfXdp(af_xdp)) => ("af_xdp", af_xdp.interface.as_str()),
            Some(v1::port::Kind::AfPacket(af_packet)) => ("af_packet", af_packet.interface.as_str()),
            Some(v1::port::Kind::Loopback(_)) => ("loopback", ""),
            Some(v1::port::Kind::Null(_)) | None => ("null", ""),
        };
        let link = open.interface().map(|interface| self.state.link(interface));
        let obstacle = tap_obstacle(open, events);
        let up = !open.failed() && obstacle.is_none() && link.is_none_or(|link| link.is_some_and(|link| link.up));
        let mut notes: Vec<String> = open.complaints().chain(obstacle).map(String::from).collect();
        let report = open.report();
        if let Some(report) = report {
            notes.push(if report.native { "native" } else { "generic" }.into());
            if report.zero_copy {
                notes.push("zero copy".into());
            } else if !report.notes.iter().any(|note| note.starts_with("copy mode")) {
                notes.push("copy mode".into());
            }
            notes.extend(report.notes.iter().cloned());
        }
        let is_link = |event: &str| LINKS.iter().any(|(link, _)| *link == event);
        let unwanted = events.iter().filter(|(event, _)| !HARMLESS.contains(event) && !is_link(event));
        notes.extend(unwanted.map(|(event, times)| format!("{event} {times}")));
        PortStatus {
            id: open.port.id.clone(),
            driver: driver.into(),
            interface: interface.into(),
            role: open.port.role,
            up,
            queues: report.map_or(u32::try_from(self.workers.len()).unwrap_or(0), |report| report.queues.into()),
            mtu: told.map_or(0, |port| port.mtu.into()),
            mac: told.map(|port| port.mac.0.to_vec()).unwrap_or_default(),
            notes,
            counters: Some(count(open, events)),
        }
    }

    fn workers(&self) -> Vec<v1::Worker> {
        let worker = |(number, (worker, busy)): (u32, (&super::Worker, &Busy))| {
            let gauges = worker.handle.gauges();
            v1::Worker {
                number,
                core: worker.core.and_then(|core| i32::try_from(core).ok()).unwrap_or(-1),
                mode: worker.mode.into(),
                turns: gauges.turns().0,
                busy: busy.share,
                generation: self.state.generation(),
                sleeps: gauges.sleeps(),
            }
        };
        (0..).zip(self.workers.iter().zip(&self.busy)).map(worker).collect()
    }

    fn regions(&self) -> Vec<Region> {
        let frames = (0..)
            .zip(&self.workers)
            .map(|(n, worker): (u32, _)| (format!("frames of worker {n}"), worker.outline.got()));
        let others = self.fixed.regions.iter().map(|(name, got)| (name.clone(), got));
        let vrfs = || self.state.told().vrfs.iter();
        let (v4, v6) = (vrfs().flat_map(|vrf| vrf.v4.got()), vrfs().flat_map(|vrf| vrf.v6.got()));
        let routes = by_pages("IPv4 routes", v4).into_iter().chain(by_pages("IPv6 routes", v6));
        frames.chain(others).map(|(name, got)| region(name, got)).chain(routes).collect()
    }

    fn pools(&self) -> Vec<Pool> {
        let pools = |(number, worker): (u32, &super::Worker)| {
            let (free, outline) = (worker.handle.gauges().free(), &worker.outline);
            free.map(|(class, free)| {
                let name = match class {
                    Class::Small => "small",
                    Class::Jumbo => "jumbo",
                    Class::Super => "super",
                };
                Pool { class: name.into(), total: outline.stock(class).0 as u64, free, worker: number }
            })
        };
        (0..).zip(&self.workers).flat_map(pools).collect()
    }

    fn tables(&mut self) -> Vec<Table> {
        let table = |name: &str, used, capacity| Table { name: name.into(), used, capacity };
        let told = self.state.tables().map(|(name, used, capacity)| table(name, used, capacity));
        let (mut v4, mut v6) = ((0, 0), (0, 0));
        for worker in &mut self.workers {
            let (send, receive) = mpsc::channel();
            worker.handle.ask(move |_, learned, _| {
                let count = |used: u32, capacity: usize| (u64::from(used), capacity as u64);
                let flows = (&learned.flows4, &learned.flows6);
                let (v4, v6) = (
                    count(flows.0.budgets.total(), flows.0.capacity()),
                    count(flows.1.budgets.total(), flows.1.capacity()),
                );
                let _asker_gone = send.send((v4, v6));
            });
            if let Ok((more4, more6)) = receive.try_recv() {
                v4 = (v4.0 + more4.0, v4.1 + more4.1);
                v6 = (v6.0 + more6.0, v6.1 + more6.1);
            }
        }
        told.into_iter().chain([table("flows4", v4.0, v4.1), table("flows6", v6.0, v6.1)]).collect()
    }

    fn notes(&mut self) -> Vec<String> {
        let mut notes = self.fixed.notes.clone();
        notes.extend(self.store.as_mut().and_then(Store::failure).map(String::from));
        for open in self.ports.values() {
            notes.extend(open.complaints().map(|text| format!("port \"{}\": {text}", open.port.id)));
        }
        for (number, worker) in (0..).zip(&self.workers) {
            let (number, gauges): (u32, _) = (number, worker.handle.gauges());
            if let Some(port) = gauges.must_poll() {
                let name = self.state.port_name(port).unwrap_or("?");
                notes.push(format!("worker {number} cannot sleep: port \"{name}\" has no descriptor to wait for"));
            }
            if gauges.deaf_ports() > 0 {
                notes.push(format!("worker {number} cannot be woken by {} of its ports", gauges.deaf_ports()));
            }
        }
        notes.extend(self.state.meagre_guarantee().map(|guaranteed| {
            let ports = self.ports.len();
            format!(
                "each of {ports} ports is guaranteed {guaranteed} flow halves only: give the configuration more flows"
            )
        }));
        notes.extend(
            self.state
                .lost_tunnels()
                .map(|(id, to)| format!("tunnel \"{id}\" has no way to {to}: add a route in its underlay VRF")),
        );
        let unknown = self.state.wanted().into_iter().filter(|(_, _, known)| !known);
        notes.extend(unknown.map(|(on, address, _)| format!("the kernel does not know who has {address} on {on}")));
        notes
    }
}

/// The memory of tables that grow, one region for each kind of pages.
fn by_pages(name: &str, all: impl Iterator<Item = Got>) -> Vec<Region> {
    let mut sums: Vec<Got> = Vec::new();
    for got in all {
        match sums.iter_mut().find(|sum| Got { bytes: got.bytes, ..(*sum).clone() } == got) {
            Some(sum) => sum.bytes += got.bytes,
            None => sums.push(got),
        }
    }
    sums.iter().map(|got| region(name.into(), got)).collect()
}

fn region(name: String, got: &Got) -> Region {
    let shortfalls: Vec<_> = got.shortfalls.iter().map(ToString::to_string).collect();
    Region {
        name,
        bytes: got.bytes as u64,
        asked: got.asked.to_string(),
        got: got.kind.to_string(),
        shortfall: shortfalls.join("; "),
        locked: got.locked,
        numa_node: got.numa_node,
    }
}

/// What stands in the way of an open tap's packets, although its driver runs.
fn tap_obstacle(open: &Open, events: &[(&str, u64)]) -> Option<&'static str> {
    let Some(v1::port::Kind::Tap(tap)) = &open.port.kind else { return None };
    if open.failed() {
        return None; // it says why
    }
    let is = |link: &str| events.iter().any(|(event, _)| *event == link);
    let link = LINKS.iter().find_map(|(link, text)| is(link).then_some(*text));
    // A namespace whose name is gone lives on by our descriptors, and nobody is in it.
    link.or_else(|| (!is_namespace(&tap.netns_path)).then_some("its network namespace is gone"))
}

fn events_of(events: &Events, port: PortId) -> &[(&'static str, u64)] {
    events.get(&port).map_or(&[], Vec::as_slice)
}

fn count(open: &Open, events: &[(&str, u64)]) -> PortCounters {
    let (rx_drops, refused) = (sum_of(events, &LOST_RECEIVED), sum_of(events, &LOST_SENT));
    let sum = open.counters.iter().map(|counters| counters.read()).fold([0; 5], |mut sum, counts| {
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        sum
    });
    let [rx_packets, rx_bytes, tx_packets, tx_bytes, displaced] = sum;
    let (port, tx_drops) = (open.port.id.clone(), displaced + refused);
    PortCounters { port, rx_packets, rx_bytes, rx_drops, tx_packets, tx_bytes, tx_drops }
}

fn sum_of(events: &[(&str, u64)], kinds: &[&str]) -> u64 {
    events.iter().filter(|(event, _)| kinds.contains(event)).map(|(_, times)| times).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_drivers_are_sums_of_their_events() {
        let received = [("kernel_receive_ring_full", 2), ("tap_cut", 9), ("receive_no_frame", 3), ("too_long", 10)];
        let sent = [("send_refused", 4), ("tap_rest_dropped", 20), ("kernel_fill_ring_empty", 100)];
        let events = [&received[..], &sent].concat();
        assert_eq!((sum_of(&events, &LOST_RECEIVED), sum_of(&events, &LOST_SENT)), (15, 24));
    }
}
