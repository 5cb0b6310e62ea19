//! The API: gRPC over a unix socket that only root, and whoever runs the dataplane, may use.
use crate::live::{Shared, TraceError, Tracing, flows};
use futures_util::stream;
use proto::{
    Refusal,
    v1::{
        ApplyReply, ApplyRequest, CountersReply, CountersRequest, Event, Flow, FlowsRequest, StatusReply,
        StatusRequest, Step, TraceRequest, WatchRequest,
        dataplane_server::{Dataplane, DataplaneServer},
        event,
    },
};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{broadcast::error::RecvError, mpsc, oneshot},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, transport::Server};

/// The largest request: a whole state of many hundred thousand objects.
const LARGEST: usize = 256 << 20;
/// How often it is asked whether all workers took a version.
const GLANCE: Duration = Duration::from_micros(200);
/// How often steps of a trace are collected.
const COLLECT: Duration = Duration::from_millis(5);
/// After a connection that could not be accepted: descriptors or memory may be there again.
const PAUSE: Duration = Duration::from_millis(200);
/// How many replies of a stream wait for a slow reader.
const AHEAD: usize = 256;

/// Serves `shared` at `socket` for ever.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(socket: &Path, shared: Shared) -> io::Result<()> {
    let incoming = stream::unfold(listen(socket)?, |listener| async {
        let accepted = accept(&listener).await;
        Some((Ok::<_, io::Error>(accepted), listener))
    });
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<DataplaneServer<Api>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(io::Error::other)?;
    let api = DataplaneServer::new(Api { shared, waiting: Arc::default() })
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST);
    tracing::info!(socket = %socket.display(), "serving");
    let server = Server::builder().add_service(api).add_service(health_service).add_service(reflection);
    server.serve_with_incoming(Box::pin(incoming)).await.map_err(io::Error::other)
}

/// A listener at `socket`, mode 0600; what an earlier process left there goes away.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = socket.parent() {
        fs::create_dir_all(dir)?;
    }
    // Made under another name, so that nobody can connect before the mode is right.
    let new = socket.with_extension("new");
    let _none_left = fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    fs::rename(&new, socket)?;
    Ok(listener)
}

/// The next connection of somebody trusted. One that cannot be accepted is no reason to end: the next one may be.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if is_trusted(&stream) => return stream,
            Ok(_) => {}
            Err(error) => {
                tracing::error!("a connection to the API cannot be accepted: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == own => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "a stranger was turned away");
            false
        }
        Err(error) => {
            tracing::warn!("a peer without credentials was turned away: {error}");
            false
        }
    }
}

/// An Apply that waits, and who waits for its answer.
type Waiting = (ApplyRequest, oneshot::Sender<Result<(ApplyReply, u64), Refusal>>);

/// The service.
struct Api {
    shared: Shared,
    waiting: Arc<Mutex<Vec<Waiting>>>,
}

/// Applies all that waits, unless somebody else has.
fn apply_waiting(shared: &Shared, waiting: &Mutex<Vec<Waiting>>) {
    let mut live = shared.lock();
    let taken = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
    if taken.is_empty() {
        return;
    }
    let (requests, askers): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
    for (answer, asker) in live.apply_all(requests).into_iter().zip(askers) {
        let _asker_gone = asker.send(answer);
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Dataplane for Api {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        let (send, receive) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((request.into_inner(), send));
        let (shared, waiting) = (self.shared.clone(), self.waiting.clone());
        tokio::task::spawn_blocking(move || apply_waiting(&shared, &waiting));
        let (reply, version) = receive.await.map_err(|error| Status::internal(error.to_string()))??;
        while !self.shared.lock().is_live(version) {
            tokio::time::sleep(GLANCE).await;
        }
        Ok(Response::new(reply))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(self.shared.lock().status()))
    }

    type WatchStream = Replies<Event>;
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (mut events, first) = {
            let mut live = self.shared.lock();
            (live.watch(), now(&mut live))
        };
        let (send, receive) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            for event in first {
                if send.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = send.closed() => return,
                };
                let event = match event {
                    Ok(event) => Ok(event),
                    Err(RecvError::Lagged(missed)) => {
                        Err(Status::data_loss(format!("{missed} events were missed: watch again")))
                    }
                    Err(RecvError::Closed) => return,
                };
                let lost = event.is_err();
                if send.send(event).await.is_err() || lost {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn counters(&self, _: Request<CountersRequest>) -> Result<Response<CountersReply>, Status> {
        Ok(Response::new(self.shared.lock().counters()))
    }

    type FlowsStream = Replies<Flow>;
    async fn flows(&self, request: Request<FlowsRequest>) -> Result<Response<Self::FlowsStream>, Status> {
        let FlowsRequest { filter, limit } = request.into_inner();
        let filter = filter.unwrap_or_default();
        if filter.address.as_ref().is_some_and(|prefix| prefix.get().is_none()) {
            return Err(Status::invalid_argument("filter.address: is no prefix"));
        }
        let (send, receive) = mpsc::channel(AHEAD);
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            let mut left = if limit == 0 { u32::MAX } else { limit };
            flows(&shared, &filter, |flow| {
                left -= 1;
                send.blocking_send(Ok(flow)).is_ok() && left > 0
            });
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    type TraceStream = Replies<Step>;
    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        let tracing = Tracing::begin(&self.shared, request.into_inner()).map_err(|error| match error {
            TraceError::Busy => Status::resource_exhausted(error.to_string()),
            TraceError::Invalid { .. } => Status::invalid_argument(error.to_string()),
        });
        let (mut tracing, (send, receive)) = (tracing?, mpsc::channel(AHEAD));
        tokio::spawn(async move {
            while let Some(steps) = tracing.steps() {
                for step in steps {
                    if send.send(Ok(step)).await.is_err() {
                        return;
                    }
                }
                if send.is_closed() {
                    return;
                }
                tokio::time::sleep(COLLECT).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

/// What a watcher hears first: how things are.
fn now(live: &mut crate::live::Live) -> Vec<Event> {
    let generation = live.state().generation();
    let generation = event::Kind::GenerationLive(event::GenerationLive { generation });
    let ports = live.port_states().into_iter().map(|port| {
        let reason = port.notes.join("; ");
        event::Kind::PortState(event::PortState { port: port.id, up: port.up, reason })
    });
    std::iter::once(generation).chain(ports).map(|kind| Event { kind: Some(kind) }).collect()
}
