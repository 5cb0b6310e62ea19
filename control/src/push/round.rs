//! One connection after the other.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proto::{
    Refusal,
    v1::{
        ApplyRequest, Delta, Desired, Event, Port, Reason, StatusRequest, WatchRequest, apply_request::Change,
        dataplane_client::DataplaneClient,
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{Progress, Wanted, difference, without};
use crate::plan::owner;

/// An Apply that makes many taps takes its time; one that takes longer is lost.
const APPLY_LIMIT: Duration = Duration::from_secs(20);
const ASK_LIMIT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a refused pod is left out.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Pushes until nobody wants anything any more.
pub(super) async fn run(channel: Channel, mut wants: watch::Receiver<Wanted>, reports: watch::Sender<Progress>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut round = Round::new(channel.clone(), &reports);
        let Err(status) = round.run(&mut wants).await else { return };
        let trouble = told(&status);
        if round.applied.is_some() {
            pause = FIRST_PAUSE;
        }
        // Said once, not at each attempt.
        if reports.borrow().trouble.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
        }
        reports.send_modify(|progress| {
            progress.connected = false;
            progress.trouble = Some(trouble);
        });
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

struct Round<'a> {
    client: DataplaneClient<Channel>,
    reports: &'a watch::Sender<Progress>,
    /// What the dataplane has, as far as this connection knows.
    applied: Option<Desired>,
    generation: u64,
    /// The ports of pods that are left out, as they were refused.
    out: BTreeMap<String, Port>,
    /// When they are tried again.
    again: Instant,
}

impl<'a> Round<'a> {
    fn new(channel: Channel, reports: &'a watch::Sender<Progress>) -> Self {
        let client = DataplaneClient::new(channel);
        Round { client, reports, applied: None, generation: 0, out: BTreeMap::new(), again: Instant::now() }
    }

    /// Ends well when nobody wants anything any more.
    async fn run(&mut self, wants: &mut watch::Receiver<Wanted>) -> Result<(), Status> {
        let status = within(ASK_LIMIT, self.client.status(StatusRequest {})).await?;
        let mut events: Streaming<Event> = within(ASK_LIMIT, self.client.watch(WatchRequest {})).await?;
        tracing::info!(version = status.version, generation = status.generation, "connected to the dataplane");
        self.reports.send_modify(|progress| {
            progress.connected = true;
            progress.trouble = None;
            progress.refused.clear();
        });
        let mut pause = FIRST_PAUSE;
        loop {
            let wanted = wants.borrow_and_update().clone();
            let behind = match self.catch_up(&wanted).await {
                Ok(()) => false,
                Err(status) => {
                    self.trouble(&status)?;
                    true
                }
            };
            pause = if behind { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            let again = self.again;
            tokio::select! {
                changed = wants.changed() => if changed.is_err() { return Ok(()) },
                event = lost(&mut events) => return Err(event),
                () = sleep(pause), if behind => {}
                () = sleep_until(again), if !self.out.is_empty() => self.out.clear(),
            }
        }
    }

    /// Applies what is wanted, leaving out pods that are refused until the rest is live.
    async fn catch_up(&mut self, wanted: &Wanted) -> Result<(), Status> {
        let Some(desired) = &wanted.desired else { return Ok(()) };
        let ports: BTreeMap<_, _> = desired.ports.iter().map(|port| (port.id.as_str(), port)).collect();
        // Whoever went or changed since is tried again.
        self.out.retain(|id, refused| ports.get(id.as_str()) == Some(&&*refused));
        loop {
            let out: BTreeSet<String> = self.out.keys().cloned().collect();
            let Err(status) = self.apply(without(desired, &out)).await else { break };
            let Some(refusal) = Refusal::of(&status) else { return Err(status) };
            if refusal.reason == Reason::Generation && self.applied.is_some() {
                self.applied = None;
                continue;
            }
            let culprit = owner(&refusal.id).filter(|owner| !out.contains(*owner)).and_then(|owner| ports.get(owner));
            let Some(port) = culprit else { return Err(status) };
            self.leave_out(port, wanted.revision, refusal);
        }
        let out: BTreeSet<_> = self.out.keys().cloned().collect();
        self.reports.send_modify(|progress| {
            (progress.live, progress.generation, progress.trouble) = (wanted.revision, self.generation, None);
            progress.refused.retain(|id, _| out.contains(id));
            progress.refused.values_mut().for_each(|(revision, _)| *revision = wanted.revision);
        });
        Ok(())
    }

    fn leave_out(&mut self, port: &Port, revision: u64, refusal: Refusal) {
        tracing::warn!("left out for now: {refusal}");
        if self.out.is_empty() {
            self.again = Instant::now() + REFUSED_PAUSE;
        }
        self.out.insert(port.id.clone(), port.clone());
        self.reports.send_modify(|progress| {
            progress.refused.insert(port.id.clone(), (revision, refusal));
        });
    }

    async fn apply(&mut self, desired: Desired) -> Result<(), Status> {
        let change = match &self.applied {
            None => Change::Whole(desired.clone()),
            Some(applied) => {
                let (upserts, deletes) = difference(applied, &desired);
                if upserts == Desired::default() && deletes.is_empty() {
                    return Ok(());
                }
                Change::Delta(Delta { expected_generation: self.generation, upserts: Some(upserts), deletes })
            }
        };
        let request = ApplyRequest { change: Some(change), dry_run: false };
        let reply = within(APPLY_LIMIT, self.client.apply(request)).await?;
        tracing::debug!(generation = reply.generation, "applied");
        (self.applied, self.generation) = (Some(desired), reply.generation);
        Ok(())
    }

    /// What is refused is told and tried again; a dataplane that cannot be asked ends the round.
    fn trouble(&mut self, status: &Status) -> Result<(), Status> {
        if Refusal::of(status).is_none()
            && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::DeadlineExceeded)
        {
            return Err(status.clone());
        }
        // Whatever went wrong, the next attempt says everything.
        self.applied = None;
        let trouble = told(status);
        if self.reports.borrow().trouble.as_ref() != Some(&trouble) {
            tracing::error!("the dataplane refuses: {trouble}");
        }
        self.reports.send_modify(|progress| progress.trouble = Some(trouble));
        Ok(())
    }
}

/// Returns when the stream of events ends: the dataplane is gone.
async fn lost(events: &mut Streaming<Event>) -> Status {
    loop {
        match events.message().await {
            Ok(Some(event)) => tracing::debug!(?event, "event"),
            Ok(None) => return Status::unavailable("the dataplane ended the stream of events"),
            Err(status) => return status,
        }
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(reply) => reply.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs()))),
    }
}

fn told(status: &Status) -> String {
    match Refusal::of(status) {
        Some(refusal) => refusal.to_string(),
        None => format!("the dataplane cannot be reached: {} (is millrace-dataplane running?)", status.message()),
    }
}
