//! `tap`: a virtual Ethernet device, for ordinary pods and for the host. Super-frames pass whole, both ways.
//!
//! The keeper makes the device inside of the pod's namespace ([`create()`]) and keeps a queue of it that is out of use,
//! so that the pod never loses its carrier. The worker process gets the other descriptors and runs them ([`Tap`]).
//! Neither needs to be in the pod's namespace afterwards.
mod create;
mod header;
mod queue;
mod sys;

pub use create::{CreateSettings, Created, create, remove};

use engine::{Device, Frames, OpenError, Queue};
use queue::{Shared, TapQueue};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

/// Among a queue's events: its link carries no packets now, as after `ip link set eth0 down` in the pod.
pub const LINK_DOWN: &str = "link_down";
/// Among a queue's events: its device is gone.
pub const LINK_GONE: &str = "link_gone";

/// The device, as the worker process has it.
#[derive(Debug)]
pub struct Tap {
    port: String,
    queues: Vec<OwnedFd>,
    control: OwnedFd,
}

impl Tap {
    /// The tap of these queues, one for each worker, and any socket of its namespace; `port` is what errors call it.
    pub fn from_fds(port: &str, queues: Vec<OwnedFd>, control: OwnedFd) -> Self {
        Tap { port: port.into(), queues, control }
    }
}

impl Device for Tap {
    #[expect(clippy::disallowed_macros, reason = "at start")]
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError> {
        let Tap { port, queues, control } = *self;
        let setting = |field, reason| OpenError::Setting { port: port.clone(), field, reason };
        let system = |step| {
            let port = port.clone();
            move |source: io::Error| OpenError::System { port, step, source }
        };
        if queues.len() != workers.len() {
            // A queue that nobody reads would swallow what the kernel hashes to it.
            return Err(setting("queues", format!("{} for {} workers", queues.len(), workers.len())));
        }
        let Some(first) = queues.first() else { return Ok(Vec::new()) };
        let (name, virtio) = sys::name(first.as_fd()).map_err(system("ask for the device's name"))?;
        if !virtio {
            return Err(setting("virtio header", format!("{name} was made without")));
        }
        let udp_segmentation = sys::offload(first.as_fd()).map_err(system("set offloads"))?;
        let mtu = sys::mtu(control.as_fd(), &name).map_err(system("ask for the MTU"))?;
        for queue in &queues {
            rustix::io::ioctl_fionbio(queue, true)
                .map_err(|errno| system("make a queue non-blocking")(errno.into()))?;
        }
        let shared = Arc::new(Shared { name, control, mtu, udp_segmentation });
        Ok(queues.into_iter().map(|queue| Box::new(TapQueue::new(queue, shared.clone())) as _).collect())
    }
}
