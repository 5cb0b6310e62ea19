//! A dataplane that forwards nothing, but takes and refuses as the real one does.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use control::push::{difference, without};
use proto::{
    Refusal,
    v1::{
        ApplyReply, ApplyRequest, CountersReply, CountersRequest, Desired, Event, Flow, FlowsRequest, Kind, PortStatus,
        Reason, StatusReply, StatusRequest, Step, TraceRequest, WatchRequest,
        apply_request::Change,
        dataplane_server::{Dataplane, DataplaneServer},
        port,
    },
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status};

/// What a test looks at and changes.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) desired: Desired,
    pub(crate) generation: u64,
    /// Applies that named the whole state, and those that named a difference.
    pub(crate) wholes: usize,
    pub(crate) deltas: usize,
    /// Ports of this interface name or namespace are refused.
    pub(crate) refuse_netns: BTreeSet<String>,
    /// Applies are refused as a whole.
    pub(crate) refuse_all: bool,
    pub(crate) flows: Vec<Flow>,
    pub(crate) steps: Vec<Step>,
    pub(crate) counters: CountersReply,
    watchers: Vec<mpsc::Sender<Result<Event, Status>>>,
}

#[derive(Clone, Default)]
pub(crate) struct FakeDataplane {
    told: Arc<Mutex<Told>>,
}

/// A dataplane that serves until this is dropped: then its connections break as those of a process that ended.
pub(crate) struct Serving {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl FakeDataplane {
    pub(crate) fn told<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        look(&mut self.told.lock().unwrap())
    }

    pub(crate) fn serve(&self, socket: &Path) -> Serving {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let service = DataplaneServer::new(self.clone());
        let (end, ended) = oneshot::channel::<()>();
        // A runtime of its own, because connections outlive the future that accepted them.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
                let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
                tokio::select! {
                    served = server => served.unwrap(),
                    _ = ended => {}
                }
            });
        });
        Serving { end: Some(end), thread: Some(thread), socket: socket.to_owned() }
    }
}

impl Told {
    fn apply(&mut self, request: ApplyRequest) -> Result<ApplyReply, Refusal> {
        let whole = |reason, text: &str| Refusal::new(Kind::Unspecified, "", "", reason, text);
        if self.refuse_all {
            return Err(whole(Reason::System, "everything is refused"));
        }
        let next = match request.change {
            None => return Err(whole(Reason::Missing, "no change")),
            Some(Change::Whole(desired)) => {
                self.wholes += 1;
                desired
            }
            Some(Change::Delta(delta)) if delta.expected_generation != self.generation => {
                return Err(whole(Reason::Generation, "another generation is live"));
            }
            Some(Change::Delta(delta)) => {
                self.deltas += 1;
                let ids: BTreeSet<_> = delta.deletes.iter().map(|key| (key.kind, key.id.clone())).collect();
                merged(&self.desired, &ids, delta.upserts.unwrap_or_default())
            }
        };
        for port in &next.ports {
            if let Some(port::Kind::Tap(tap)) = &port.kind
                && self.refuse_netns.contains(&tap.netns_path)
            {
                return Err(Refusal::new(Kind::Port, &port.id, proto::NETNS_PATH, Reason::System, "no such namespace"));
            }
        }
        if difference(&self.desired, &next) != (Desired::default(), Vec::new()) {
            self.generation += 1;
        }
        self.desired = next;
        Ok(ApplyReply { generation: self.generation, ..ApplyReply::default() })
    }
}

fn merged(old: &Desired, deletes: &BTreeSet<(i32, String)>, upserts: Desired) -> Desired {
    let mut next = without(old, &BTreeSet::new());
    macro_rules! merge {
        ($field:ident, $kind:expr) => {
            next.$field.retain(|one| {
                !deletes.contains(&($kind.into(), one.id.clone())) && upserts.$field.iter().all(|new| new.id != one.id)
            });
            next.$field.extend(upserts.$field);
        };
    }
    merge!(ports, Kind::Port);
    merge!(routes, Kind::Route);
    merge!(neighbours, Kind::Neighbour);
    merge!(tunnels, Kind::Tunnel);
    next.settings = upserts.settings.or(next.settings);
    next
}

type Many<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Dataplane for FakeDataplane {
    type WatchStream = Many<Event>;
    type FlowsStream = Many<Flow>;
    type TraceStream = Many<Step>;

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        Ok(Response::new(self.told(|told| told.apply(request.into_inner()))?))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let port = |port: &proto::v1::Port| PortStatus { id: port.id.clone(), up: true, ..PortStatus::default() };
        let reply = self.told(|told| StatusReply {
            version: "0.1.0".into(),
            generation: told.generation,
            ports: told.desired.ports.iter().map(port).collect(),
            ..StatusReply::default()
        });
        Ok(Response::new(reply))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Many<Event>>, Status> {
        let (watcher, events) = mpsc::channel(1);
        self.told(|told| told.watchers.push(watcher));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(events))))
    }

    async fn counters(&self, _: Request<CountersRequest>) -> Result<Response<CountersReply>, Status> {
        Ok(Response::new(self.told(|told| told.counters.clone())))
    }

    async fn flows(&self, request: Request<FlowsRequest>) -> Result<Response<Many<Flow>>, Status> {
        let wanted = request.into_inner().filter.unwrap_or_default();
        let flows = self.told(|told| told.flows.clone()).into_iter();
        let flows = flows.filter(move |flow| wanted.protocol == 0 || flow.protocol == wanted.protocol).map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(flows.collect::<Vec<_>>()))))
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<Many<Step>>, Status> {
        if let Some(proto::v1::trace_request::What::Inject(inject)) = request.into_inner().what
            && inject.port != "uplink"
        {
            return Err(Refusal::new(Kind::Port, inject.port, "", Reason::Unknown, "there is no such port").into());
        }
        let steps = self.told(|told| told.steps.clone()).into_iter().map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(steps.collect::<Vec<_>>()))))
    }
}
