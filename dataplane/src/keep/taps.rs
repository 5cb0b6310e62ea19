//! The taps and steerings that the keeper keeps.
use super::kernel_side;
use crate::talk::{Answer, Ask, Tap};
use ports::{
    steer::{Attach, Mode, Steering, mount_bpffs},
    tap::{CreateSettings, create, remove},
};
use std::{
    collections::HashMap,
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

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
                kept.map_or(Ok(()), remove).map(|()| Vec::new()).map_err(|error| error.to_string())
            }
            Ask::Steer { interface, native, owned } => self.steer(interface, *native, *owned),
            Ask::Unsteer { interface } => {
                let dir = steering_dir(&self.bpf_dir, interface);
                let detached = Steering::open(&dir).and_then(Steering::detach);
                detached.map(|()| Vec::new()).map_err(|error| error.to_string())
            }
        };
        match done {
            Ok(fds) => (Answer::Done, fds),
            Err(text) => {
                tracing::debug!("{text}"); // whoever asked tells it, and asks again and again
                (Answer::Failed { text }, Vec::new())
            }
        }
    }

    fn open(&mut self, tap: &Tap) -> Result<Vec<OwnedFd>, String> {
        let Tap { netns, name, mac, mtu, queues, .. } = tap;
        let place = if netns.is_empty() { "the host".into() } else { netns.clone() };
        let space = if netns.is_empty() {
            None
        } else {
            Some(File::open(netns).map_err(|e| format!("cannot open {netns}: {e}"))?)
        };
        let netns_fd = space.as_ref().map(File::as_fd);
        let created = create(CreateSettings { netns: netns_fd, name, mac: *mac, mtu: *mtu, queues: *queues });
        let created = created.map_err(|error| format!("{error} (in {place})"))?;
        let key = (netns.clone(), name.clone());
        let new = !self.kept.contains_key(&key);
        if let Err(error) = kernel_side::set_up(tap, netns_fd) {
            if new {
                let _ends_with_its_queues = remove(created.kept);
            }
            return Err(format!("port {name}: {error} (in {place})"));
        }
        self.kept.insert(key, created.kept);
        Ok(created.queues.into_iter().chain([created.control]).collect())
    }

    fn steer(&mut self, interface: &str, native: Option<bool>, owned: bool) -> Result<Vec<OwnedFd>, String> {
        mount_bpffs(&self.bpf_dir).map_err(|error| error.to_string())?;
        let dir = steering_dir(&self.bpf_dir, interface);
        let attach = match native {
            None => Attach::Auto,
            Some(true) => Attach::Native,
            Some(false) => Attach::Generic,
        };
        let mode = if owned { Mode::Owned } else { Mode::Shared };
        // What is pinned stays when this handle is dropped.
        let steering = Steering::attach(interface, attach, mode, &dir).map_err(|error| error.to_string())?;
        tracing::info!(interface, native = steering.native(), "steering");
        Ok(Vec::new())
    }
}

/// Where the steering of an interface is pinned.
pub fn steering_dir(bpf_dir: &Path, interface: &str) -> PathBuf {
    bpf_dir.join(format!("steer-{interface}"))
}
