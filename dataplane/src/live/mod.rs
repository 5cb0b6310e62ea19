//! The running dataplane as its control side sees it: what is told, the workers, the ports that are open.
mod apply;
mod flows;
mod look;
mod open;
mod ports;
mod trace;

pub use flows::flows;
pub use trace::{TraceError, Tracing};

use crate::{
    compile::{Link, State},
    store::Store,
    talk::Line,
};
use engine::{Frames, Handle, PortId, Publisher, Queue};
use open::{Open, Opening, Ours};
use ports::Ports;
use proto::v1::{self, Event, event};
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tables::{learned::Learned, told::Told};
use tokio::sync::{Notify, broadcast};
use wire::Mac;

/// How many events a slow watcher may be behind.
const EVENTS: usize = 1024;

/// A worker, from outside.
pub struct Worker {
    /// The engine's hold of it.
    pub handle: Handle<Told, Learned>,
    /// The memory of its frames.
    pub outline: Frames,
    /// The core that it is pinned to.
    pub core: Option<usize>,
    /// How it idles.
    pub mode: &'static str,
}

/// What is the same for as long as the process runs.
pub struct Fixed {
    /// How often the keeper has started a worker process.
    pub starts: u64,
    /// Where steerings are pinned.
    pub bpf_dir: PathBuf,
    /// Arcs that end packets: node and arc.
    pub drops: HashSet<(&'static str, &'static str)>,
    /// Memory beside frames: what for, and what was got.
    pub regions: Vec<(String, hugepages::Got)>,
    /// What cannot be as it was asked, for people.
    pub notes: Vec<String>,
}

/// The running dataplane.
pub struct Live {
    state: State,
    publisher: Publisher<Told>,
    workers: Vec<Worker>,
    outlines: Vec<Frames>,
    ports: Ports,
    store: Option<Store>,
    line: Option<Line>,
    fixed: Fixed,
    events: broadcast::Sender<Event>,
    links: HashMap<String, &'static str>, // of taps, when they were last looked at
    wanted: Arc<Notify>,
    started: (Instant, u64), // by this process's clock, and by the workers' in nanoseconds
    busy: Vec<look::Busy>,
    traces: u64,
    tracing: bool,
}

/// What a running dataplane is made of.
pub struct Beginning {
    /// What is desired so far.
    pub state: State,
    /// Publishes to the workers.
    pub publisher: Publisher<Told>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// Keeps what is desired; none: nothing is kept.
    pub store: Option<Store>,
    /// The keeper; none: there are no taps and no uplinks.
    pub line: Option<Line>,
    /// What does not change.
    pub fixed: Fixed,
}

/// A dataplane that several tasks share.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Live>>);

impl Shared {
    /// Shares `live`.
    pub fn new(live: Live) -> Self {
        Shared(Arc::new(Mutex::new(live)))
    }

    /// The dataplane, for a moment. Never across an await.
    pub fn lock(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// Opens every port of the state and begins to tell. A port that cannot be opened is tried again.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { state, publisher, workers, store, line, fixed } = beginning;
        let outlines = workers.iter().map(|worker| worker.outline.outline()).collect();
        let busy = workers.iter().map(|_| look::Busy::default()).collect();
        let mut live = Live {
            state,
            publisher,
            workers,
            outlines,
            ports: Ports::default(),
            store,
            line,
            fixed,
            events: broadcast::channel(EVENTS).0,
            links: HashMap::new(),
            wanted: Arc::new(Notify::new()),
            started: (Instant::now(), look::monotonic()),
            busy,
            traces: 0,
            tracing: false,
        };
        live.publish();
        let ports: Vec<_> = live.state.ports().map(|(id, port)| (id, port.clone())).collect();
        for (id, port) in ports {
            let opening = live.open(&port, &live.state.clone());
            live.attach(id, port, opening);
        }
        live.steer(&Ours::default());
        live
    }

    /// Shows a text with the status from now on.
    pub fn note(&mut self, text: String) {
        self.fixed.notes.push(text);
    }

    /// Whether every worker has taken a version.
    pub fn is_live(&mut self, version: u64) -> bool {
        self.publisher.reclaim();
        self.publisher.oldest() >= version
    }

    /// What happens from now on.
    pub fn watch(&mut self) -> broadcast::Receiver<Event> {
        self.report_taps(); // so that what is told from now on is news
        self.events.subscribe()
    }

    /// What is desired, and its tables.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Rings when next hops may need neighbours that nobody asked the kernel for.
    pub fn wanted(&self) -> Arc<Notify> {
        self.wanted.clone()
    }

    /// The kernel's news about neighbours: interface, address, link address.
    pub fn hear(&mut self, news: &[(String, IpAddr, Option<Mac>)]) {
        let told = news.iter().fold(false, |told, (on, ip, mac)| self.state.hear(on, *ip, *mac) | told);
        if told {
            self.publish();
        }
    }

    /// The kernel's news about an interface. A port on one that went, or whose MTU changed, is opened anew.
    pub fn see(&mut self, interface: &str, link: Option<Link>) {
        let before = self.state.link(interface);
        if !self.state.see(interface, link) {
            return;
        }
        self.publish();
        if before.map(|link| link.up) != link.map(|link| link.up) {
            self.report_link(interface, link.is_some_and(|link| link.up));
        }
        if before.is_some_and(|before| link.is_none_or(|now| now.mtu != before.mtu)) {
            self.close_on(Some(interface), if link.is_some() { "its MTU changed" } else { "its interface is gone" });
            self.retry();
        }
    }

    /// Once a second: tries ports again that could not be opened, takes the workers' pulse, and looks for those who
    /// watch whether taps' links are up, which nobody tells.
    pub fn tick(&mut self) {
        self.publisher.reclaim();
        if let Some(line) = &self.line {
            line.settle();
        }
        self.retry();
        if self.ports.uplinks().any(|(_, open)| open.is_unsteered()) {
            self.steer(&Ours { tunnels: true, ..Ours::default() });
        }
        for (busy, worker) in self.busy.iter_mut().zip(&self.workers) {
            busy.sample(worker.handle.gauges().turns());
        }
        if self.events.receiver_count() > 0 {
            self.report_taps();
        }
    }

    /// Tries to open the ports whose turn it is.
    fn retry(&mut self) {
        for id in self.ports.failed() {
            let Some(port) = self.ports.get_mut(id).and_then(|open| open.is_due().then(|| open.port.clone())) else {
                continue;
            };
            let opening = self.open(&port, &self.state);
            match opening.result {
                Ok(_) => {
                    tracing::info!(port = port.id, "open");
                    self.attach(id, port, opening);
                    self.steer(&Ours::default());
                }
                Err(failure) => {
                    if let Some(open) = self.ports.get_mut(id) {
                        open.still(failure);
                    }
                }
            }
        }
    }

    /// Closes the uplinks on an interface (none: all of them); they are to be opened again.
    fn close_on(&mut self, interface: Option<&str>, why: &str) {
        let on = |open: &Open| open.interface().is_some_and(|on| interface.is_none_or(|interface| interface == on));
        let ids: Vec<_> =
            self.ports.uplinks().filter(|(_, open)| on(open) && !open.failed()).map(|(id, _)| id).collect();
        for id in ids {
            if let Some(mut open) = self.detach(id) {
                tracing::warn!(port = open.port.id, "closed: {why}");
                open.fail(why);
                self.ports.insert(id, open);
            }
        }
    }

    /// Closes every port, so that taps keep their carrier by the keeper alone, and ends the workers.
    pub fn stop(&mut self) {
        let ports = std::mem::take(&mut self.ports);
        ports.iter().for_each(|(id, _)| self.workers.iter_mut().for_each(|worker| worker.handle.detach(*id)));
        self.workers.clear();
    }

    fn publish(&mut self) {
        self.publisher.publish(self.state.told().clone());
    }

    fn attach(&mut self, id: PortId, port: Arc<v1::Port>, opening: Opening) {
        let (open, queues) = Open::new(port, opening, self.workers.len());
        if let Some(text) = open.error() {
            tracing::warn!(port = open.port.id, "{text}");
        }
        let counters = open.counters.clone();
        for ((worker, queue), counters) in self.workers.iter_mut().zip(queues).zip(counters) {
            worker.handle.attach(id, queue, counters);
        }
        let reason = open.error().unwrap_or_default().to_owned();
        self.report_port(&open.port.id, reason.is_empty(), reason);
        self.ports.insert(id, open);
    }

    fn detach(&mut self, id: PortId) -> Option<Open> {
        let open = self.ports.remove(id)?;
        if !open.failed() {
            self.workers.iter_mut().for_each(|worker| worker.handle.detach(id));
        }
        Some(open)
    }

    fn report_port(&self, port: &str, up: bool, reason: String) {
        let state = event::PortState { port: port.into(), up, reason };
        let _nobody_watches = self.events.send(Event { kind: Some(event::Kind::PortState(state)) });
    }

    fn report_taps(&mut self) {
        let now = self.tap_links();
        let before = std::mem::replace(&mut self.links, now);
        for (port, obstacle) in &self.links {
            // What is new and can pass packets was told already.
            if before.get(port).copied().unwrap_or_default() != *obstacle {
                self.report_port(port, obstacle.is_empty(), (*obstacle).to_owned());
            }
        }
    }

    fn report_link(&self, interface: &str, up: bool) {
        let on = self.ports.uplinks().filter(|(_, open)| open.interface() == Some(interface));
        on.for_each(|(_, open)| self.report_port(&open.port.id, up, format!("link of {interface}")));
    }
}

type Queues = Vec<Box<dyn Queue>>;

/// The device that a port is: network namespace (empty: the host's) and name.
fn device_of(port: &v1::Port) -> Option<(&str, &str)> {
    match &port.kind {
        Some(v1::port::Kind::Tap(tap)) => Some((&tap.netns_path, &tap.name)),
        Some(v1::port::Kind::AfXdp(af_xdp)) => Some(("", &af_xdp.interface)),
        _ => None,
    }
}
