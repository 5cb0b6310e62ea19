//! Opening ports: by the keeper where it takes privileges, with the workers' frames in sight.
use super::{Live, Queues, v1};
use crate::{
    compile::State,
    keep::steering_dir,
    talk::{Ask, Line, Tap},
};
use engine::{Device, PortCounters};
use ports::{
    Loopback, Null,
    af_xdp::{AfXdp, BusyPoll, Report, Settings, ZeroCopy},
    steer::Steering,
    tap,
};
use std::sync::{Arc, OnceLock};

/// How many packets a loopback holds.
const LOOPBACK: usize = 1024;
/// The work of one busy-polling call.
const BUSY: BusyPoll = BusyPoll { microseconds: 20, budget: 64 };

/// A port as it was opened, or why it was not.
pub(super) struct Opening {
    pub(super) result: Result<Queues, String>,
    steering: Option<Arc<Steering>>,
    report: Option<Arc<OnceLock<Report>>>,
}

/// A port that is open, or is to be.
pub(super) struct Open {
    pub(super) port: Arc<v1::Port>,
    pub(super) counters: Vec<Arc<PortCounters>>, // by worker
    pub(super) steering: Option<Arc<Steering>>,
    error: Option<String>,
    report: Option<Arc<OnceLock<Report>>>,
}

impl Open {
    pub(super) fn new(port: Arc<v1::Port>, opening: Opening, workers: usize) -> (Self, Queues) {
        let counters = (0..workers).map(|_| Arc::default()).collect();
        let (queues, error) = match opening.result {
            Ok(queues) => (queues, None),
            Err(text) => (Vec::new(), Some(text)),
        };
        let Opening { steering, report, .. } = opening;
        (Open { port, counters, steering, error, report }, queues)
    }

    pub(super) fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// Why it is not open.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub(super) fn report(&self) -> Option<&Report> {
        self.report.as_ref()?.get()
    }

    /// Namespace and name of its tap.
    pub(super) fn tap(&self) -> Option<(&str, &str)> {
        super::tap_of(&self.port)
    }

    /// The interface of the host that it runs on.
    pub(super) fn interface(&self) -> Option<&str> {
        match &self.port.kind {
            Some(v1::port::Kind::AfXdp(af_xdp)) => Some(&af_xdp.interface),
            _ => None,
        }
    }
}

impl Live {
    /// Opens `port` for the workers. `state`: where it is told.
    pub(super) fn open(&self, port: &v1::Port, state: &State) -> Opening {
        let mut opening = Opening { result: Ok(Vec::new()), steering: None, report: None };
        opening.result = match &port.kind {
            Some(v1::port::Kind::Tap(tap)) => self.open_tap(&port.id, tap),
            Some(v1::port::Kind::AfXdp(af_xdp)) => self.open_af_xdp(af_xdp, state, &mut opening),
            Some(v1::port::Kind::Loopback(_)) => self.open_device(Box::new(Loopback { depth: LOOPBACK })),
            Some(v1::port::Kind::Null(_)) => self.open_device(Box::new(Null)),
            Some(v1::port::Kind::AfPacket(_)) | None => Err("no driver".into()),
        };
        opening
    }

    fn open_device(&self, device: Box<dyn Device>) -> Result<Queues, String> {
        let mut outlines: Vec<_> = self.outlines.iter().map(engine::Frames::outline).collect();
        device.open(&mut outlines).map_err(|error| error.to_string())
    }

    fn open_tap(&self, id: &str, tap: &v1::Tap) -> Result<Queues, String> {
        let workers = u16::try_from(self.workers.len()).unwrap_or(u16::MAX);
        if tap.queues != 0 && tap.queues != u32::from(workers) {
            return Err(format!("{} queues for {workers} workers: leave it zero", tap.queues));
        }
        let mut fds = self.keeper()?.ask(&Ask::Open(Tap::of(tap, workers))).map_err(|error| error.to_string())?;
        let control = fds.pop().ok_or("the keeper sent no descriptor")?;
        self.open_device(Box::new(tap::Tap::from_fds(id, fds, control)))
    }

    fn open_af_xdp(&self, port: &v1::AfXdp, state: &State, opening: &mut Opening) -> Result<Queues, String> {
        use v1::af_xdp::{Attach, Ownership};
        let native = match port.attach() {
            Attach::Unspecified | Attach::Auto => None,
            Attach::Native => Some(true),
            Attach::Generic => Some(false),
        };
        let owned = port.mode() == Ownership::Owned;
        let ask = Ask::Steer { interface: port.interface.clone(), native, owned };
        self.keeper()?.ask(&ask).map_err(|error| error.to_string())?;
        let steering = Steering::open(&steering_dir(&self.fixed.bpf_dir, &port.interface));
        let steering = Arc::new(steering.map_err(|error| error.to_string())?);
        let mut vxlan_ports: Vec<_> = state.tunnel_ends().into_iter().map(|(_, port)| port).collect();
        vxlan_ports.dedup();
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

    fn keeper(&self) -> Result<&Line, String> {
        self.line.as_ref().ok_or_else(|| "there is no keeper, which opens such ports".into())
    }

    /// Tells every steering what is ours.
    pub(super) fn steer(&self) {
        let (tunnels, pods) = (self.state.tunnel_ends(), self.state.pod_prefixes());
        for open in self.ports.values() {
            let Some(steering) = &open.steering else { continue };
            let set = steering.set_tunnels(&tunnels).and_then(|()| steering.set_pod_prefixes(&pods));
            if let Err(error) = set {
                tracing::error!(port = open.port.id, "not steered: {error}");
            }
        }
    }
}
