//! Traces: packets are marked as they enter, and every node they meet leaves a step.
use super::{Live, Shared};
use engine::Step;
use proto::v1::{self, TraceRequest, trace_request::What};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};
use tables::told::TraceFilter;

/// How long a trace lasts that does not say.
const USUAL: u32 = 10;
/// The longest that a trace may last, in seconds.
const LONGEST: u32 = 3600;
/// A trace whose packets have all been seen ends when nothing came for so long.
const QUIET: Duration = Duration::from_millis(300);

/// Why there is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// Someone else traces.
    #[error("another trace runs: wait for its end")]
    Busy,
    /// The request cannot be followed.
    #[error("{field}: {text}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong.
        text: String,
    },
}

/// A trace that runs; it ends when dropped.
pub struct Tracing {
    shared: Shared,
    packets: usize,
    until: Instant,
    seen: HashSet<u8>,
    last: Instant,
}

impl Tracing {
    /// Begins what `request` asks.
    ///
    /// # Errors
    /// When another trace runs, or a filter cannot be followed.
    pub fn begin(shared: &Shared, request: TraceRequest) -> Result<Self, TraceError> {
        let mut live = shared.lock();
        if live.tracing {
            return Err(TraceError::Busy);
        }
        let what = request.what.ok_or_else(|| invalid("what", "must be there".into()))?;
        live.workers.iter_mut().for_each(|worker| while worker.handle.step().is_some() {});
        let packets = match what {
            What::Live(wanted) => {
                let count = u8::try_from(wanted.count)
                    .map_err(|_| invalid("live.count", format!("{} is above 255", wanted.count)))?;
                let filter = live.filter(wanted.filter.unwrap_or_default(), count.max(1))?;
                live.state.trace(Some(filter));
                live.publish();
                count.max(1)
            }
            What::Inject(wanted) => live.inject(&wanted)?,
        };
        live.tracing = true;
        drop(live);
        let seconds = if request.seconds == 0 { USUAL } else { request.seconds.min(LONGEST) };
        let (now, lasts) = (Instant::now(), Duration::from_secs(seconds.into()));
        Ok(Tracing {
            shared: shared.clone(),
            packets: packets.into(),
            until: now + lasts,
            seen: HashSet::new(),
            last: now,
        })
    }

    /// The steps since the last call; none when the trace is over.
    pub fn steps(&mut self) -> Option<Vec<v1::Step>> {
        let (mut live, now) = (self.shared.lock(), Instant::now());
        let mut steps = Vec::new();
        for number in 0..live.workers.len() {
            let began = live.started.1;
            let Some(worker) = live.workers.get_mut(number) else { continue };
            while let Some(step) = worker.handle.step() {
                self.seen.insert(step.mark);
                steps.push(describe(&step, u32::try_from(number).unwrap_or(u32::MAX), began));
            }
        }
        if !steps.is_empty() {
            self.last = now;
        }
        let complete = self.seen.len() >= self.packets && now - self.last > QUIET;
        if steps.is_empty() && (complete || now >= self.until) { None } else { Some(steps) }
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        let mut live = self.shared.lock();
        live.tracing = false;
        if live.state.told().trace.is_some() {
            live.state.trace(None);
            live.publish();
        }
    }
}

impl Live {
    fn filter(&mut self, filter: v1::Filter, count: u8) -> Result<TraceFilter, TraceError> {
        if filter.vrf.is_some() {
            return Err(invalid(
                "live.filter.vrf",
                "packets are marked before their VRF is known: name the port".into(),
            ));
        }
        let address = match filter.address.as_ref().map(|prefix| (prefix.get(), prefix)) {
            None => None,
            Some((Some((address, length)), _)) if length == if address.is_ipv4() { 32 } else { 128 } => Some(address),
            Some((_, prefix)) => {
                return Err(invalid("live.filter.address", format!("{} is not one address", prefix.text())));
            }
        };
        let port = match filter.port.as_str() {
            "" => None,
            id => {
                let port = self.state.port(id).map(|(port, _)| port);
                Some(port.ok_or_else(|| invalid("live.filter.port", format!("there is no port \"{id}\"")))?)
            }
        };
        let protocol =
            u8::try_from(filter.protocol).map_err(|_| invalid("live.filter.protocol", "is above 255".into()))?;
        let l4 = u16::try_from(filter.l4_port).map_err(|_| invalid("live.filter.l4_port", "is above 65535".into()))?;
        self.traces += 1;
        Ok(TraceFilter {
            number: self.traces,
            count,
            port,
            address,
            transport_port: Some(l4).filter(|port| *port != 0),
            protocol: Some(protocol).filter(|protocol| *protocol != 0),
        })
    }

    fn inject(&mut self, wanted: &v1::trace_request::Inject) -> Result<u8, TraceError> {
        let port = self.state.port(&wanted.port).map(|(port, _)| port);
        let port = port.ok_or_else(|| invalid("inject.port", format!("there is no port \"{}\"", wanted.port)))?;
        let longest = engine::Class::Super.payload();
        if !(14..=longest).contains(&wanted.frame.len()) {
            let text = format!("{} bytes are not between 14 and {longest}", wanted.frame.len());
            return Err(invalid("inject.frame", text));
        }
        if let Some(worker) = self.workers.first_mut() {
            worker.handle.inject(port, &wanted.frame, 1);
        }
        Ok(1)
    }
}

fn invalid(field: &'static str, text: String) -> TraceError {
    TraceError::Invalid { field, text }
}

fn describe(step: &Step, worker: u32, began: u64) -> v1::Step {
    // As long as the packet is: what was not kept of it is behind its headers, and its length fields are right.
    let mut whole = step.bytes().to_vec();
    whole.resize(usize::try_from(step.len).unwrap_or(whole.len()), 0);
    v1::Step {
        packet: step.mark.into(),
        worker,
        node: step.node.into(),
        arc: step.arc.into(),
        time_ns: step.at.nanoseconds().saturating_sub(began),
        bytes: step.bytes().to_vec(),
        length: step.len,
        summary: wire::describe(&whole),
    }
}
