//! The worker process: memory, workers, the last desired state, the API.
use crate::{
    compile::State,
    config::Config,
    keep::{LockError, Locks},
    live::{Beginning, Fixed, Live, Shared, Worker},
    neighbours,
    serve::serve,
    store::{Store, StoreError},
    talk::Line,
};
use engine::{FrameCounts, Frames, Parts, Publisher, Settings};
use rustix::net::{RecvFlags, recv};
use rustix::process::setpriority_process;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    os::unix::net::UnixStream,
};
use tables::{learned::Learned, told::Told};
use tokio::signal::unix::{SignalKind, signal};

/// Packets in flight at once, per worker: their metadata fits into the L2 cache.
const PACKETS: usize = 4096;
/// Packets inside the graph at once, super-frames counted by segments.
const MOST: usize = 2048;

/// Why the worker process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state is not ours.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The state cannot be kept or found.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Memory was not to be had.
    #[error("no memory for {what}: {source}")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// Why.
        source: hugepages::MapError,
    },
    /// A worker could not be started.
    #[error(transparent)]
    Worker(#[from] engine::StartError),
    /// The system refused a step.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Runs the worker process until SIGTERM or SIGINT. `line`: to the keeper, which has started it `starts` times, and
/// says how the one before ended.
///
/// # Errors
/// When it cannot begin, or the API's socket fails.
pub async fn run(config: &Config, (starts, ended): (u64, Option<String>), line: UnixStream) -> Result<(), StartError> {
    let failed = |step| move |source| StartError::System { step, source };
    // A worker process whose keeper is gone must not stay: nobody would hold its ports' carriers.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(|errno| failed("follow the keeper")(errno.into()))?;
    if is_closed(&line) {
        return Err(failed("follow the keeper")(io::Error::other("it is gone"))); // before it could be followed
    }
    // Else it would be called what the keeper executes: exe.
    rustix::thread::set_name(c"millrace-worker").map_err(|errno| failed("take a name")(errno.into()))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("catch SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("catch SIGINT"))?;
    drop_privileges().map_err(failed("drop capabilities"))?;
    let _ours = Locks::take_state(config)?;
    let (store, state) = Store::open(&config.state_dir)?;
    tracing::info!(generation = state.generation(), "starting from the last desired state");
    let mut live = begin(config, starts, (Some(store), state), Some(Line::new(line)))?;
    if let Some(ended) = ended {
        live.note(format!("the worker process before this one ended: {ended}; flows began anew"));
    }
    let shared = Shared::new(live);
    let follow = tokio::spawn(neighbours::follow(shared.clone()));
    let socket = config.socket();
    let served = tokio::select! {
        served = serve(&socket, shared.clone()) => served.map_err(failed("serve the API")),
        followed = follow => {
            let lost = followed.map_err(io::Error::other).and_then(|result| result);
            lost.map_err(failed("follow the kernel's neighbours"))
        }
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    shared.lock().stop();
    served
}

/// Starts the workers, and opens the ports of `kept`'s state.
///
/// # Errors
/// When memory or cores are not to be had.
pub fn begin(
    config: &Config,
    starts: u64,
    kept: (Option<Store>, State),
    line: Option<Line>,
) -> Result<Live, StartError> {
    let (store, mut state) = kept;
    state.limit_flows(config.flows);
    let mut publisher = Publisher::new(state.told().clone());
    let (bpf_dir, drops) = (config.bpf_dir.clone(), HashSet::new());
    let mut fixed = Fixed { starts, bpf_dir, drops, regions: Vec::new(), notes: Vec::new() };
    let mut workers = Vec::new();
    for (number, settings) in (0u8..).zip(&config.workers) {
        workers.push(start_worker(config, (number, settings), &mut publisher, &mut fixed)?);
    }
    Ok(Live::new(Beginning { state, publisher, workers, store, line, fixed }))
}

/// Whether the other end is gone.
fn is_closed(line: &UnixStream) -> bool {
    recv(line, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok_and(|(got, _)| got == 0)
}

/// Keeps what sockets of uplinks, their maps, locked memory, priorities and the kernel's neighbours take. Threads that
/// start later inherit it.
fn drop_privileges() -> io::Result<()> {
    let sockets = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::BPF;
    let needed = sockets | CapabilitySet::IPC_LOCK | CapabilitySet::SYS_NICE;
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    let sets = CapabilitySets {
        effective: effective & needed,
        permitted: permitted & needed,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

fn start_worker(
    config: &Config,
    (number, settings): (u8, &crate::config::Worker),
    publisher: &mut Publisher<Told>,
    fixed: &mut Fixed,
) -> Result<Worker, StartError> {
    let memory = |what| move |source| StartError::Memory { what, source };
    let frames = &config.frames;
    let counts = FrameCounts { small: frames.small, jumbo: frames.jumbo, super_: frames.super_, packets: PACKETS };
    let map = config.map(settings);
    let frames = Frames::new(number, counts, map.clone()).map_err(memory("frames"))?;
    let seed = random().map_err(|source| StartError::System { step: "read randomness", source })?;
    let learned = Learned::new(config.flows, seed, &map).map_err(memory("flows"))?;
    let (graph, entry) = nodes::graph::build(MOST);
    let drops = graph.map().into_iter().filter(|(_, _, to)| *to == "drop").map(|(node, arc, _)| (node, arc));
    fixed.drops.extend(drops);
    for (family, got) in [("IPv4", learned.flows4.got()), ("IPv6", learned.flows6.got())] {
        let name = |part: &str| format!("{family} flows of worker {number}, {part}");
        fixed.regions.extend(got.iter().map(|(part, got)| (name(part), got.clone())));
    }
    let (mode, word) = settings.mode.mode();
    let outline = frames.outline();
    let parts = Parts { graph, entry, told: publisher.reader(), learned, frames };
    let mut handle = engine::start(&Settings { number, core: settings.core, mode }, parts)?;
    let nice = settings.nice;
    handle.ask(move |_, _, _| {
        if let Err(error) = setpriority_process(None, nice) {
            tracing::warn!(nice, %error, "the worker keeps its priority");
        }
    });
    Ok(Worker { handle, outline, core: settings.core, mode: word })
}

/// What flows are hashed with: nobody outside may know it.
fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}
