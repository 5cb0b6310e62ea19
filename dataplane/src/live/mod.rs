//! The running dataplane as its control side sees it: what is told, the workers, the ports that are open.
mod flows;
mod look;
mod open;
mod trace;

pub use flows::flows;
pub use trace::{TraceError, Tracing};

use crate::{
    compile::{Link, Outcome, State},
    store::Store,
    talk::{Ask, Line},
};
use engine::{Frames, Handle, PortId, Publisher, Queue};
use open::{Open, Opening};
use proto::{
    Refusal,
    v1::{self, ApplyReply, ApplyRequest, Event, Kind, Reason, event},
};
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
    ports: HashMap<PortId, Open>,
    store: Option<Store>,
    line: Option<Line>,
    fixed: Fixed,
    events: broadcast::Sender<Event>,
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
            ports: HashMap::new(),
            store,
            line,
            fixed,
            events: broadcast::channel(EVENTS).0,
            wanted: Arc::new(Notify::new()),
            started: (Instant::now(), look::monotonic()),
            busy,
            traces: 0,
            tracing: false,
        };
        let ports: Vec<_> = live.state.ports().map(|(id, port)| (id, port.clone())).collect();
        for (id, port) in ports {
            let opening = live.open(&port, &live.state.clone());
            live.attach(id, port, opening);
        }
        live.steer();
        live.publish();
        live
    }

    /// Shows a text with the status from now on.
    pub fn note(&mut self, text: String) {
        self.fixed.notes.push(text);
    }

    /// Makes what is desired live. Gives the reply and the version that every worker must have taken before it is sent.
    ///
    /// # Errors
    /// What cannot be; nothing has changed then.
    pub fn apply(&mut self, request: ApplyRequest) -> Result<(ApplyReply, u64), Refusal> {
        let no_change = || Refusal::new(Kind::Unspecified, "", "change", Reason::Missing, "must be there");
        let change = request.change.ok_or_else(no_change)?;
        let (next, outcome) = self.state.apply(change.clone())?;
        if request.dry_run || next.generation() == self.state.generation() {
            return Ok((reply(self.state.generation(), outcome), self.publisher.generation()));
        }
        let mut opened = self.open_changed(&next, &outcome)?;
        if let Some(store) = &mut self.store
            && let Err(error) = store.keep(&change, &next)
        {
            opened.drain(..).for_each(|(_, port, opening)| self.undo(&port, opening));
            return Err(Refusal::new(Kind::Unspecified, "", "", Reason::System, error.to_string()));
        }
        self.commit(next, &outcome, opened);
        let generation = self.state.generation();
        let live = event::Kind::GenerationLive(event::GenerationLive { generation });
        let _nobody_watches = self.events.send(Event { kind: Some(live) });
        self.wanted.notify_one();
        Ok((reply(generation, outcome), self.publisher.generation()))
    }

    /// Whether every worker has taken a version.
    pub fn is_live(&mut self, version: u64) -> bool {
        self.publisher.reclaim();
        self.publisher.oldest() >= version
    }

    /// What happens from now on.
    pub fn watch(&self) -> broadcast::Receiver<Event> {
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

    /// Once a second: tries ports again that could not be opened, and takes the workers' pulse.
    pub fn tick(&mut self) {
        self.publisher.reclaim();
        self.retry();
        if self.ports.values().any(Open::is_unsteered) {
            self.steer();
        }
        for (busy, worker) in self.busy.iter_mut().zip(&self.workers) {
            busy.sample(worker.handle.gauges().turns());
        }
    }

    /// Tries to open the ports whose turn it is.
    fn retry(&mut self) {
        let due = self.ports.iter_mut().filter_map(|(id, open)| open.is_due().then(|| (*id, open.port.clone())));
        for (id, port) in due.collect::<Vec<_>>() {
            let opening = self.open(&port, &self.state);
            match opening.result {
                Ok(_) => {
                    tracing::info!(port = port.id, "open");
                    self.attach(id, port, opening);
                    self.steer();
                }
                Err(failure) => {
                    if let Some(open) = self.ports.get_mut(&id) {
                        open.still(failure);
                    }
                }
            }
        }
    }

    /// Closes the uplinks on an interface (none: all of them); they are to be opened again.
    fn close_on(&mut self, interface: Option<&str>, why: &str) {
        let on = |open: &Open| open.interface().is_some_and(|on| interface.is_none_or(|interface| interface == on));
        let ids: Vec<_> = self.ports.iter().filter(|(_, open)| on(open) && !open.failed()).map(|(id, _)| *id).collect();
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
        let ports: Vec<_> = self.ports.drain().map(|(id, _)| id).collect();
        ports.into_iter().for_each(|id| self.workers.iter_mut().for_each(|worker| worker.handle.detach(id)));
        self.workers.clear();
    }

    /// Opens what a change adds. A tap that cannot be opened refuses the change: whoever wants it waits for the answer.
    fn open_changed(&self, next: &State, outcome: &Outcome) -> Result<Vec<(PortId, Arc<v1::Port>, Opening)>, Refusal> {
        let mut opened: Vec<(PortId, Arc<v1::Port>, Opening)> = Vec::new();
        for key in outcome.added.iter().chain(&outcome.changed).filter(|key| key.kind() == Kind::Port) {
            let Some((id, port)) = next.port(&key.id) else { continue };
            let same = self.ports.get(&id).is_some_and(|open| open.port.id == port.id && open.port.kind == port.kind);
            if same {
                continue;
            }
            let opening = self.open(port, next);
            let failure =
                opening.result.as_ref().err().cloned().filter(|_| matches!(port.kind, Some(v1::port::Kind::Tap(_))));
            opened.push((id, port.clone(), opening));
            if let Some(failure) = failure {
                // The one that failed too: the keeper may have been late, and have it.
                opened.drain(..).for_each(|(_, port, opening)| self.undo(&port, opening));
                return Err(failure.refusal(&port.id));
            }
        }
        Ok(opened)
    }

    /// Closes what was opened for a change that is not to be. A device that was there before keeps its queues.
    fn undo(&self, port: &v1::Port, opening: Opening) {
        let there = self.ports.values().any(|open| open.device() == device_of(port));
        drop(opening);
        if !there {
            self.forget(port);
        }
    }

    fn commit(&mut self, next: State, outcome: &Outcome, opened: Vec<(PortId, Arc<v1::Port>, Opening)>) {
        let old = std::mem::replace(&mut self.state, next);
        let ports = |keys: &[v1::ObjectKey]| {
            let ports = keys.iter().filter(|key| key.kind() == Kind::Port);
            ports.map(|key| key.id.clone()).collect::<Vec<_>>()
        };
        let removed: Vec<_> = ports(&outcome.removed).iter().filter_map(|id| old.port(id)).map(|(id, _)| id).collect();
        let mut gone: Vec<Open> = Vec::new();
        for (id, port, opening) in opened {
            gone.extend(self.detach(id));
            self.attach(id, port, opening);
        }
        for id in ports(&outcome.changed) {
            if let Some((id, port)) = self.state.port(&id)
                && let Some(open) = self.ports.get_mut(&id)
            {
                open.port = port.clone();
            }
        }
        self.publish();
        // A slot that was used again has its new port already.
        let removed = removed.into_iter().filter(|id| self.state.port_name(*id).is_none()).collect::<Vec<_>>();
        gone.extend(removed.into_iter().filter_map(|id| self.detach(id)).collect::<Vec<_>>());
        for open in gone {
            if !self.ports.values().any(|other| other.device() == open.device()) {
                self.forget(&open.port);
            }
        }
        let steered = |key: &v1::ObjectKey| matches!(key.kind(), Kind::Port | Kind::Tunnel);
        if outcome.added.iter().chain(&outcome.changed).chain(&outcome.removed).any(steered) {
            let ports = open::vxlan_ports(&self.state);
            if self.ports.values().any(|open| open.interface().is_some() && !open.failed() && open.vxlan_ports != ports)
            {
                self.close_on(None, "tunnels use other UDP ports now");
                self.retry();
            }
            self.steer();
        }
    }

    /// Tells the keeper that a device is not ours any more.
    fn forget(&self, port: &v1::Port) {
        let ask = match &port.kind {
            Some(v1::port::Kind::Tap(tap)) => Ask::Close { netns: tap.netns_path.clone(), name: tap.name.clone() },
            Some(v1::port::Kind::AfXdp(af_xdp)) => Ask::Unsteer { interface: af_xdp.interface.clone() },
            _ => return,
        };
        if let Some(Err(error)) = self.line.as_ref().map(|line| line.ask(&ask)) {
            tracing::warn!(port = port.id, "not forgotten: {error}");
        }
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
        let open = self.ports.remove(&id)?;
        if !open.failed() {
            self.workers.iter_mut().for_each(|worker| worker.handle.detach(id));
        }
        Some(open)
    }

    fn report_port(&self, port: &str, up: bool, reason: String) {
        let state = event::PortState { port: port.into(), up, reason };
        let _nobody_watches = self.events.send(Event { kind: Some(event::Kind::PortState(state)) });
    }

    fn report_link(&self, interface: &str, up: bool) {
        let on = self.ports.values().filter(|open| open.interface() == Some(interface));
        on.for_each(|open| self.report_port(&open.port.id, up, format!("link of {interface}")));
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

fn reply(generation: u64, outcome: Outcome) -> ApplyReply {
    ApplyReply { generation, added: outcome.added, changed: outcome.changed, removed: outcome.removed }
}
