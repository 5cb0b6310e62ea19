//! The keeper: small and privileged. It holds what must outlive a worker process (taps' carriers, the steering's link),
//! hands descriptors to the worker process on request, and starts it again when it dies.
mod kernel_side;
mod lock;
mod taps;

pub(crate) use lock::is_unwritable;
#[cfg(test)]
pub(crate) use lock::only_read;
pub use lock::{LockError, Locks};
pub(crate) use taps::is_namespace;
pub use taps::{Taps, steering_dir};

use crate::{
    config::Config,
    store::{Store, StoreError},
    talk::{Ask, Numbered, Tap, receive, send},
};
use proto::v1;
use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

/// A second crash within this time is no accident: the next start waits.
const SOON: Duration = Duration::from_secs(60);
/// The first pause before a worker process is started again; each is twice the one before.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause before a worker process is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a worker process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is nothing to keep, or to remove.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The directories are not ours.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The last desired state cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The worker process cannot be started, followed or ended.
    #[error("cannot keep a worker process: {0}")]
    Process(#[from] io::Error),
}

/// Keeps a worker process running until SIGTERM or SIGINT. `arguments`: how it is called, without the program.
///
/// # Errors
/// When another dataplane has the directories, signals cannot be caught, or not even the first worker process can be
/// started.
pub async fn keep(config: &Config, arguments: &[OsString]) -> Result<(), KeepError> {
    let _ours = Locks::take(config)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let taps = Arc::new(Mutex::new(Taps::new(&config.bpf_dir)));
    let mut restarts = Restarts::default();
    let mut starts = 1u64;
    let mut child = start(arguments, starts, None, &taps)?;
    loop {
        tracing::info!(pid = child.id(), starts, "worker process started");
        let ended = tokio::select! {
            status = child.wait() => status?,
            _ = terminate.recv() => return Ok(stop(child).await?),
            _ = interrupt.recv() => return Ok(stop(child).await?),
        };
        let pause = restarts.after(Instant::now());
        let again = if pause.is_zero() { "at once".into() } else { format!("in {} ms", pause.as_millis()) };
        tracing::error!("the worker process ended: {ended}; it is started again {again}, and flows begin anew");
        starts += 1;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
        child = tokio::select! {
            child = start_again(arguments, starts, ended, &taps) => child,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
    }
}

/// Starts a worker process, however often that takes: taps lose their carrier without a keeper.
async fn start_again(arguments: &[OsString], starts: u64, ended: ExitStatus, taps: &Arc<Mutex<Taps>>) -> Child {
    loop {
        match start(arguments, starts, Some(ended), taps) {
            Ok(child) => return child,
            Err(error) => tracing::error!("the worker process cannot be started: {error}"),
        }
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}

/// Removes what a dataplane that is stopped has left: taps, steering, the last desired state, its socket and locks.
/// What cannot be removed is told, and holds up nothing else.
///
/// # Errors
/// When a dataplane runs, or the state that says what there is cannot be read.
pub fn uninstall(config: &Config) -> Result<(), KeepError> {
    let ours = Locks::take(config)?;
    let state_ours = Locks::take_state(config)?;
    let (_, state) = Store::open(&config.state_dir)?;
    let mut taps = Taps::new(&config.bpf_dir);
    for (_, port) in state.ports() {
        match &port.kind {
            Some(v1::port::Kind::Tap(tap)) => {
                // Opened once more, for only who has a queue can let it end.
                let (_, _queues) = taps.obey(&Ask::Open(Tap::of(tap, 1)));
                taps.obey(&Ask::Close { netns: tap.netns_path.clone(), name: tap.name.clone() });
            }
            Some(v1::port::Kind::AfXdp(af_xdp)) => {
                taps.obey(&Ask::Unsteer { interface: af_xdp.interface.clone() });
            }
            _ => {}
        }
    }
    Store::clear(&config.state_dir)?;
    let _never_served = fs::remove_file(config.socket());
    state_ours.remove();
    ours.remove();
    Ok(())
}

/// Starts a worker process, and a thread that serves it until it ends. `ended`: how the one before did.
fn start(arguments: &[OsString], starts: u64, ended: Option<ExitStatus>, taps: &Arc<Mutex<Taps>>) -> io::Result<Child> {
    let (here, there) = UnixStream::pair()?;
    let child = Command::new("/proc/self/exe")
        .arg("worker")
        .arg(format!("--starts={starts}"))
        .args(ended.map(|ended| format!("--ended={ended}")))
        .args(arguments)
        .stdin(Stdio::from(OwnedFd::from(there))) // its line to the keeper
        .kill_on_drop(true)
        .spawn()?;
    let taps = taps.clone();
    std::thread::Builder::new().name("line".into()).spawn(move || serve(&here, &taps))?;
    Ok(child)
}

/// Answers a worker process until it is gone.
fn serve(line: &UnixStream, taps: &Mutex<Taps>) {
    loop {
        match receive::<Numbered<Ask>>(line) {
            Ok(Some((Numbered { number, what }, _))) => {
                let (what, fds) = taps.lock().unwrap_or_else(PoisonError::into_inner).obey(&what);
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                if let Err(error) = send(line, &Numbered { number, what }, &fds) {
                    return tracing::warn!("cannot answer the worker process: {error}");
                }
            }
            Ok(None) => return,
            Err(error) => return tracing::warn!("the worker process cannot be understood: {error}"),
        }
    }
}

async fn stop(mut child: Child) -> io::Result<()> {
    tracing::info!("stopping");
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        tracing::error!("the worker process does not end: it is killed");
        child.kill().await?;
    }
    Ok(())
}

/// When a worker process that died is started again: the first time at once, then ever later while it keeps dying.
#[derive(Default)]
struct Restarts {
    last: Option<Instant>,
    pause: Duration,
}

impl Restarts {
    fn after(&mut self, now: Instant) -> Duration {
        let soon = self.last.is_some_and(|last| now.duration_since(last) < SOON);
        self.last = Some(now);
        self.pause = if soon { (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE) } else { Duration::ZERO };
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait_longer_up_to_a_limit() {
        let (mut restarts, start) = (Restarts::default(), Instant::now());
        assert_eq!(restarts.after(start), Duration::ZERO);
        let pauses: Vec<_> = (1..20).map(|n| restarts.after(start + Duration::from_secs(n))).collect();
        assert!(pauses.is_sorted() && pauses[0] > Duration::ZERO);
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
        assert_eq!(restarts.after(start + Duration::from_secs(100)), Duration::ZERO);
    }
}
