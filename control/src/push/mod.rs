//! The push: what is desired becomes live, whichever side restarts when.
//!
//! After each connection the whole state goes first; then changes, as deltas on the generation that was answered. A
//! stream of events is held open, so that a dataplane that goes away is noticed with nothing to push. A pod that the
//! dataplane refuses is left out, told to whoever waits for it, and tried again with its next change or after a while:
//! one bad pod holds up no other.
mod difference;
mod round;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use proto::{Refusal, v1};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

pub use difference::{difference, without};

/// A channel to the dataplane at `socket`, which connects when it is first used and again when it broke.
///
/// # Errors
/// When the path cannot be part of an address.
pub fn channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(5)).connect_lazy())
}

/// What is to be live.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Grows with each change.
    pub revision: u64,
    /// The whole state; none: nothing is known yet, and nothing is pushed.
    pub desired: Option<Arc<v1::Desired>>,
}

/// How far the dataplane is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The dataplane answers.
    pub connected: bool,
    /// The revision that is live, but for what was refused.
    pub live: u64,
    /// The dataplane's generation.
    pub generation: u64,
    /// Pods that the dataplane refused, by their id, with the revision in which it did.
    pub refused: BTreeMap<String, (u64, Refusal)>,
    /// Why nothing becomes live; none: all is well.
    pub trouble: Option<String>,
}

/// Both ends of the push as others see it.
#[derive(Clone, Debug)]
pub struct Push {
    wanted: watch::Sender<Wanted>,
    progress: watch::Receiver<Progress>,
}

impl Push {
    /// A push to `channel`, and the future that does it, which never ends.
    pub fn new(channel: Channel) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (wanted, wants) = watch::channel(Wanted::default());
        let (reports, progress) = watch::channel(Progress::default());
        (Push { wanted, progress }, round::run(channel, wants, reports))
    }

    /// Wants `desired`; the revision by which to wait for it.
    pub fn want(&self, desired: v1::Desired) -> u64 {
        let mut revision = 0;
        self.wanted.send_modify(|wanted| {
            wanted.revision += 1;
            revision = wanted.revision;
            wanted.desired = Some(Arc::new(desired));
        });
        revision
    }

    /// How far it is, to look at and to wait for.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}
