//! The taps and steerings that the keeper keeps.
use super::kernel_side;
use crate::talk::{Answer, Ask, Obstacle, Tap};
use engine::OpenError;
use ports::{
    steer::{Attach, Mode, Steering, mount_bpffs},
    tap::{CreateSettings, create, remove},
};
use rustix::{
    fs::{Mode as Permissions, OFlags, fstatfs, open, statfs},
    io::Errno,
};
use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The file system of namespaces (`NSFS_MAGIC` of linux/magic.h).
const NSFS: i64 = 0x6e73_6673;

/// What the keeper holds for as long as it lives: a queue of each tap, which gives it a carrier.
pub struct Taps {
    kept: HashMap<(String, String), OwnedFd>, // by namespace and name
    bpf_dir: PathBuf,
}

impl Taps {
    /// None yet; steerings are pinned below `bpf_dir`.
    pub fn new(bpf_dir: &Path) -> Self {
        Taps { kept: HashMap::new(), bpf_dir: bpf_dir.into() }
    }

    /// Does what the worker process asks; gives what to answer, and the descriptors that go with it.
    pub fn obey(&mut self, ask: &Ask) -> (Answer, Vec<OwnedFd>) {
        let done = match ask {
            Ask::Open(tap) => self.open(tap),
            Ask::Close { netns, name } => {
                let kept = self.kept.remove(&(netns.clone(), name.clone()));
                kept.map_or(Ok(()), remove).map(|()| Vec::new()).map_err(system)
            }
            Ask::Steer { interface, native, owned } => self.steer(interface, *native, *owned),
            Ask::Unsteer { interface } => {
                let dir = steering_dir(&self.bpf_dir, interface);
                let detached = Steering::open(&dir).and_then(Steering::detach);
                detached.map(|()| Vec::new()).map_err(system)
            }
        };
        match done {
            Ok(fds) => (Answer::Done, fds),
            Err((obstacle, text)) => {
                tracing::debug!("{text}"); // whoever asked tells it, and asks again and again
                (Answer::Failed { obstacle, text }, Vec::new())
            }
        }
    }

    fn open(&mut self, tap: &Tap) -> Result<Vec<OwnedFd>, Failure> {
        let Tap { netns, name, mac, mtu, queues, .. } = tap;
        let place = if netns.is_empty() { "the host" } else { netns };
        let space = if netns.is_empty() { None } else { Some(namespace(netns)?) };
        let netns_fd = space.as_ref().map(OwnedFd::as_fd);
        let created = create(CreateSettings { netns: netns_fd, name, mac: *mac, mtu: *mtu, queues: *queues });
        let created = created.map_err(|error| (obstacle(&error), format!("{error} (in {place})")))?;
        let key = (netns.clone(), name.clone());
        let new = !self.kept.contains_key(&key);
        if let Err(error) = kernel_side::set_up(tap, netns_fd) {
            if new {
                let _ends_with_its_queues = remove(created.kept);
            }
            return Err((Obstacle::System, format!("port {name}: {error} (in {place})")));
        }
        self.kept.insert(key, created.kept);
        Ok(created.queues.into_iter().chain([created.control]).collect())
    }

    fn steer(&mut self, interface: &str, native: Option<bool>, owned: bool) -> Result<Vec<OwnedFd>, Failure> {
        mount_bpffs(&self.bpf_dir).map_err(system)?;
        let dir = steering_dir(&self.bpf_dir, interface);
        let attach = match native {
            None => Attach::Auto,
            Some(true) => Attach::Native,
            Some(false) => Attach::Generic,
        };
        let mode = if owned { Mode::Owned } else { Mode::Shared };
        // What is pinned stays when this handle is dropped.
        let steering = Steering::attach(interface, attach, mode, &dir).map_err(system)?;
        tracing::info!(interface, native = steering.native(), "steering");
        Ok(Vec::new())
    }
}

/// What stood in the way, and what was tried and answered.
type Failure = (Obstacle, String);

/// Opens a network namespace. What is none is refused before it is entered, and does not hold us up: a pipe that nobody
/// writes would, opened as a file is.
fn namespace(path: &str) -> Result<OwnedFd, Failure> {
    let failed = |text| (Obstacle::Namespace, text);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = open(path, flags, Permissions::empty()).map_err(|errno| failed(format!("cannot open {path}: {errno}")))?;
    match fstatfs(&fd) {
        Ok(found) if found.f_type == NSFS => Ok(fd),
        Ok(_) => Err(failed(format!("{path} is no network namespace"))),
        Err(errno) => Err(failed(format!("cannot see what {path} is: {errno}"))),
    }
}

/// Whether a path still names a network namespace, as far as can be seen; empty: the host's. A path of a process says
/// nothing about its namespace when that ends.
pub(crate) fn is_namespace(path: &str) -> bool {
    path.is_empty()
        || path.starts_with("/proc/")
        || match statfs(path) {
            Ok(found) => found.f_type == NSFS,
            Err(errno) => errno != Errno::NOENT,
        }
}

fn system(error: impl ToString) -> Failure {
    (Obstacle::System, error.to_string())
}

fn obstacle(error: &OpenError) -> Obstacle {
    let OpenError::System { source, .. } = error else { return Obstacle::System };
    match Errno::from_io_error(source) {
        Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::TOOBIG) => Obstacle::Room,
        _ => Obstacle::System,
    }
}

/// Where the steering of an interface is pinned.
pub fn steering_dir(bpf_dir: &Path, interface: &str) -> PathBuf {
    bpf_dir.join(format!("steer-{interface}"))
}
