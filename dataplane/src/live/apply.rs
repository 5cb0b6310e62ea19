//! Applies: what arrives together is told to the workers at once, and each is answered for itself.
use super::{
    Live, device_of,
    open::{self, Open, Opening, Ours},
};
use crate::{
    compile::{Outcome, State},
    talk::Ask,
};
use engine::PortId;
use proto::{
    Refusal,
    v1::{self, ApplyReply, ApplyRequest, Event, Kind, Reason, event},
};
use std::sync::Arc;

/// What can be done only when the workers are told: they must not look for a port that is gone.
#[derive(Default)]
struct Rest {
    changed: bool,
    ours: Ours,
    removed: Vec<PortId>,
    gone: Vec<Open>,
}

type Opened = Vec<(PortId, Arc<v1::Port>, Opening)>;

impl Live {
    /// Makes what is desired live. Gives the reply and the version that every worker must have taken before it is sent.
    ///
    /// # Errors
    /// What cannot be; nothing has changed then.
    pub fn apply(&mut self, request: ApplyRequest) -> Result<(ApplyReply, u64), Refusal> {
        let mut rest = Rest::default();
        let taken = self.take(request, &mut rest);
        self.finish(rest);
        taken.map(|reply| (reply, self.publisher.generation()))
    }

    /// Does the same with each of `requests` in turn, and tells the workers of all of them at once.
    pub fn apply_all(&mut self, requests: Vec<ApplyRequest>) -> Vec<Result<(ApplyReply, u64), Refusal>> {
        let mut rest = Rest::default();
        let taken: Vec<_> = requests.into_iter().map(|request| self.take(request, &mut rest)).collect();
        self.finish(rest);
        let version = self.publisher.generation();
        taken.into_iter().map(|taken| taken.map(|reply| (reply, version))).collect()
    }

    fn take(&mut self, request: ApplyRequest, rest: &mut Rest) -> Result<ApplyReply, Refusal> {
        let no_change = || Refusal::new(Kind::Unspecified, "", "change", Reason::Missing, "must be there");
        let change = request.change.ok_or_else(no_change)?;
        let (next, outcome) = self.state.apply(change.clone())?;
        if request.dry_run || next.generation() == self.state.generation() {
            return Ok(reply(self.state.generation(), outcome));
        }
        let mut opened = self.open_changed(&next, &outcome)?;
        if let Some(store) = &mut self.store
            && let Err(error) = store.keep(&change, &next)
        {
            opened.drain(..).for_each(|(_, port, opening)| self.undo(&port, opening));
            return Err(Refusal::new(Kind::Unspecified, "", "", Reason::System, error.to_string()));
        }
        self.commit(next, &outcome, opened, rest);
        Ok(reply(self.state.generation(), outcome))
    }

    /// Opens what a change adds. A tap that cannot be opened refuses the change: whoever wants it waits for the answer.
    fn open_changed(&self, next: &State, outcome: &Outcome) -> Result<Opened, Refusal> {
        let mut opened = Opened::new();
        for key in outcome.added.iter().chain(&outcome.changed).filter(|key| key.kind() == Kind::Port) {
            let Some((id, port)) = next.port(&key.id) else { continue };
            let same = self.ports.get(id).is_some_and(|open| open.port.id == port.id && open.port.kind == port.kind);
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
        drop(opening);
        if !self.ports.use_device(device_of(port)) {
            self.forget(port);
        }
    }

    fn commit(&mut self, next: State, outcome: &Outcome, opened: Opened, rest: &mut Rest) {
        let old = std::mem::replace(&mut self.state, next);
        let removed = ids(&outcome.removed).filter_map(|id| old.port(id)).map(|(id, _)| id);
        rest.removed.extend(removed);
        for (id, port, opening) in opened {
            rest.gone.extend(self.detach(id));
            self.attach(id, port, opening);
        }
        for id in ids(&outcome.changed).chain(ids(&outcome.added)) {
            if let Some((id, port)) = self.state.port(id)
                && let Some(open) = self.ports.get_mut(id)
            {
                open.port = port.clone();
            }
        }
        self.note_ours(&old, outcome, &mut rest.ours);
        rest.changed = true;
    }

    /// Notes what a change makes ours, and no longer ours, while anybody steers it.
    fn note_ours(&self, old: &State, outcome: &Outcome, ours: &mut Ours) {
        if self.ports.uplinks().next().is_none() {
            return;
        }
        let Outcome { added, changed, removed } = outcome;
        ours.added.extend(ids(added).chain(ids(changed)).flat_map(|id| self.state.prefixes_of(id)));
        ours.removed.extend(ids(removed).chain(ids(changed)).flat_map(|id| old.prefixes_of(id)));
        ours.tunnels |= [added, changed, removed].into_iter().flatten().any(|key| key.kind() == Kind::Tunnel);
    }

    /// Tells the workers, then closes what they look for no more.
    fn finish(&mut self, rest: Rest) {
        let Rest { changed, ours, removed, mut gone } = rest;
        if !changed {
            return;
        }
        self.publish();
        // A slot that was used again has its new port already.
        let removed = removed.into_iter().filter(|id| self.state.port_name(*id).is_none()).collect::<Vec<_>>();
        gone.extend(removed.into_iter().filter_map(|id| self.detach(id)));
        for open in gone {
            if !self.ports.use_device(open.device()) {
                self.forget(&open.port);
            }
        }
        self.steer(&ours);
        if ours.tunnels {
            let ports = open::vxlan_ports(&self.state);
            if self.ports.uplinks().any(|(_, open)| !open.failed() && open.vxlan_ports != ports) {
                self.close_on(None, "tunnels use other UDP ports now");
                self.retry();
            }
        }
        let live = event::GenerationLive { generation: self.state.generation() };
        let _nobody_watches = self.events.send(Event { kind: Some(event::Kind::GenerationLive(live)) });
        self.wanted.notify_one();
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
}

/// The ids of the ports among `keys`.
fn ids(keys: &[v1::ObjectKey]) -> impl Iterator<Item = &str> {
    keys.iter().filter(|key| key.kind() == Kind::Port).map(|key| key.id.as_str())
}

fn reply(generation: u64, outcome: Outcome) -> ApplyReply {
    ApplyReply { generation, added: outcome.added, changed: outcome.changed, removed: outcome.removed }
}
