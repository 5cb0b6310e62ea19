//! Opening ports: by the keeper where it takes privileges, with the workers' frames in sight.
use super::{Live, Queues, v1};
use crate::{
    compile::State,
    keep::steering_dir,
    talk::{Ask, LineError, Obstacle, Tap},
};
use engine::{Device, PortCounters};
use ports::{
    Loopback, Null,
    af_xdp::{AfXdp, BusyPoll, Report, Settings, ZeroCopy},
    steer::Steering,
    tap,
};
use proto::{
    Refusal,
    v1::{Kind, Reason},
};
use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
};

/// How many packets a loopback holds.
const LOOPBACK: usize = 1024;
/// The most rounds between two tries to open a port.
const MOST_ROUNDS: u32 = 32;
/// The work of one busy-polling call.
const BUSY: BusyPoll = BusyPoll { microseconds: 20, budget: 64 };

/// Why a port could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    obstacle: Obstacle,
    text: String,
}

/// A port as it was opened, or why it was not.
pub(super) struct Opening {
    pub(super) result: Result<Queues, Failure>,
    steering: Option<Arc<Steering>>,
    report: Option<Arc<OnceLock<Report>>>,
    vxlan_ports: Vec<u16>,
}

/// A port that is open, or is to be.
pub(super) struct Open {
    pub(super) port: Arc<v1::Port>,
    pub(super) counters: Vec<Arc<PortCounters>>, // by worker
    pub(super) steering: Option<Arc<Steering>>,
    pub(super) vxlan_ports: Vec<u16>, // that its driver looks behind
    error: Option<Failure>,
    unsteered: Option<String>,
    report: Option<Arc<OnceLock<Report>>>,
    rounds: (u32, u32), // until it is tried again, and between the tries
}

/// What changed of what is ours.
#[derive(Default)]
pub(super) struct Ours {
    pub(super) tunnels: bool,
    pub(super) added: Vec<(IpAddr, u8)>, // prefixes of pods
    pub(super) removed: Vec<(IpAddr, u8)>,
}

impl Ours {
    /// Whether a steering that could not be told all may hold it now: what only comes makes no room.
    fn may_help(&self) -> bool {
        self.tunnels || !self.removed.is_empty()
    }
}

impl Open {
    pub(super) fn new(port: Arc<v1::Port>, opening: Opening, workers: usize) -> (Self, Queues) {
        let counters = (0..workers).map(|_| Arc::default()).collect();
        let (queues, error) = match opening.result {
            Ok(queues) => (queues, None),
            Err(failure) => (Vec::new(), Some(failure)),
        };
        let Opening { steering, report, vxlan_ports, .. } = opening;
        let unsteered = None;
        (Open { port, counters, steering, vxlan_ports, error, unsteered, report, rounds: (0, 1) }, queues)
    }

    /// It is open no longer.
    pub(super) fn fail(&mut self, text: &str) {
        (self.error, self.report, self.steering, self.rounds) = (Some(failure(text)), None, None, (0, 1));
        self.unsteered = None;
    }

    /// Whether it is to be tried again in this round: ever more rarely.
    pub(super) fn is_due(&mut self) -> bool {
        let (left, between) = self.rounds;
        self.rounds = if left == 0 { (between, (between * 2).min(MOST_ROUNDS)) } else { (left - 1, between) };
        self.failed() && left == 0
    }

    /// It was tried again in vain.
    pub(super) fn still(&mut self, failure: Failure) {
        if self.error.as_ref() != Some(&failure) {
            tracing::warn!(port = self.port.id, "{}", failure.text);
            self.error = Some(failure);
        }
    }

    pub(super) fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Why it is not open.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_ref().map(|failure| &*failure.text)
    }

    /// What is not as it should be.
    pub(super) fn complaints(&self) -> impl Iterator<Item = &str> {
        self.error().into_iter().chain(self.unsteered.as_deref())
    }

    /// Its steering was not told what is ours.
    pub(super) fn is_unsteered(&self) -> bool {
        self.unsteered.is_some()
    }

    /// Tells its steering, if it has one, what is ours: what changed, or all of it where that is not enough.
    fn steer(&mut self, state: &State, change: &Ours) {
        let Some(steering) = &self.steering else { return };
        let tunnels = || steering.set_tunnels(&state.tunnel_ends());
        let all = || tunnels().and_then(|()| steering.set_pod_prefixes(&state.pod_prefixes()));
        let told = match &self.unsteered {
            Some(_) if !change.may_help() => return,
            Some(_) => all(),
            None => {
                let told = if change.tunnels { tunnels() } else { Ok(()) };
                told.and_then(|()| steering.change_pod_prefixes(&change.added, &change.removed)).or_else(|_| all())
            }
        };
        let unsteered = told.err().map(|error| format!("what is ours may not come here: {error}"));
        if let Some(text) = unsteered.as_ref().filter(|text| self.unsteered.as_ref() != Some(text)) {
            tracing::error!(port = self.port.id, "{text}");
        }
        self.unsteered = unsteered;
    }

    pub(super) fn report(&self) -> Option<&Report> {
        self.report.as_ref()?.get()
    }

    /// Namespace and name of its device.
    pub(super) fn device(&self) -> Option<(&str, &str)> {
        super::device_of(&self.port)
    }

    /// The interface of the host that it runs on.
    pub(super) fn interface(&self) -> Option<&str> {
        match &self.port.kind {
            Some(v1::port::Kind::AfXdp(af_xdp)) => Some(&af_xdp.interface),
            _ => None,
        }
    }
}

impl Failure {
    /// Refuses the tap of port `id`.
    pub(super) fn refusal(self, id: &str) -> Refusal {
        let (field, reason) = match self.obstacle {
            Obstacle::Namespace => (proto::NETNS_PATH, Reason::System),
            Obstacle::Room => ("tap", Reason::NoRoom),
            Obstacle::System => ("tap", Reason::System),
        };
        Refusal::new(Kind::Port, id, field, reason, self.text)
    }
}

fn failure(text: impl ToString) -> Failure {
    Failure { obstacle: Obstacle::System, text: text.to_string() }
}

/// The UDP ports of all tunnels.
pub(super) fn vxlan_ports(state: &State) -> Vec<u16> {
    let mut ports: Vec<_> = state.tunnel_ends().into_iter().map(|(_, port)| port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

impl Live {
    /// Opens `port` for the workers. `state`: where it is told.
    pub(super) fn open(&self, port: &v1::Port, state: &State) -> Opening {
        let mut opening = Opening { result: Ok(Vec::new()), steering: None, report: None, vxlan_ports: Vec::new() };
        opening.result = match &port.kind {
            Some(v1::port::Kind::Tap(tap)) => self.open_tap(&port.id, tap),
            Some(v1::port::Kind::AfXdp(af_xdp)) => self.open_af_xdp(af_xdp, state, &mut opening),
            Some(v1::port::Kind::Loopback(_)) => self.open_device(Box::new(Loopback { depth: LOOPBACK })),
            Some(v1::port::Kind::Null(_)) => self.open_device(Box::new(Null)),
            Some(v1::port::Kind::AfPacket(_)) | None => Err(failure("no driver")),
        };
        opening
    }

    fn open_device(&self, device: Box<dyn Device>) -> Result<Queues, Failure> {
        let mut outlines: Vec<_> = self.outlines.iter().map(engine::Frames::outline).collect();
        device.open(&mut outlines).map_err(failure)
    }

    fn open_tap(&self, id: &str, tap: &v1::Tap) -> Result<Queues, Failure> {
        let workers = u16::try_from(self.workers.len()).unwrap_or(u16::MAX);
        if tap.queues != 0 && tap.queues != u32::from(workers) {
            return Err(failure(format!("{} queues for {workers} workers: leave it zero", tap.queues)));
        }
        let mut fds = self.ask(&Ask::Open(Tap::of(tap, workers)))?;
        let control = fds.pop().ok_or_else(|| failure("the keeper sent no descriptor"))?;
        self.open_device(Box::new(tap::Tap::from_fds(id, fds, control)))
    }

    fn open_af_xdp(&self, port: &v1::AfXdp, state: &State, opening: &mut Opening) -> Result<Queues, Failure> {
        use v1::af_xdp::{Attach, Ownership};
        let native = match port.attach() {
            Attach::Unspecified | Attach::Auto => None,
            Attach::Native => Some(true),
            Attach::Generic => Some(false),
        };
        let owned = port.mode() == Ownership::Owned;
        self.ask(&Ask::Steer { interface: port.interface.clone(), native, owned })?;
        let steering = Steering::open(&steering_dir(&self.fixed.bpf_dir, &port.interface));
        let steering = Arc::new(steering.map_err(failure)?);
        let vxlan_ports = vxlan_ports(state);
        opening.vxlan_ports.clone_from(&vxlan_ports);
        let settings = Settings {
            zero_copy: if port.zero_copy() == v1::af_xdp::ZeroCopy::Never { ZeroCopy::Never } else { ZeroCopy::Auto },
            queues: u16::try_from(port.queues).ok().filter(|queues| *queues != 0),
            busy_poll: port.busy_poll.then_some(BUSY),
            vxlan_ports,
            ..Settings::new(&port.interface)
        };
        let device = AfXdp::new(settings, steering.clone());
        (opening.steering, opening.report) = (Some(steering), Some(device.report()));
        self.open_device(Box::new(device))
    }

    fn ask(&self, ask: &Ask) -> Result<Vec<OwnedFd>, Failure> {
        let line = self.line.as_ref().ok_or_else(|| failure("there is no keeper, which opens such ports"))?;
        line.ask(ask).map_err(|error| match error {
            LineError::Failed { obstacle, text } => Failure { obstacle, text },
            LineError::Late { .. } | LineError::Lost(_) => failure(error),
        })
    }

    /// Tells every steering what is ours and changed; one that is new, all that is ours.
    pub(super) fn steer(&mut self, change: &Ours) {
        let state = &self.state;
        self.ports.each_uplink(|open| open.steer(state, change));
    }
}
