//! Asking the dataplane, and what to say when it gives no answer.
use std::{fmt, path::Path, time::Duration};

use proto::{
    Refusal,
    v1::{
        CountersReply, CountersRequest, Flow, FlowsRequest, StatusReply, StatusRequest, Step, TraceRequest,
        dataplane_client::DataplaneClient,
    },
};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The dataplane refused.
    Refused(String),
    /// The arguments are wrong.
    Usage(String),
    /// The dataplane cannot be reached.
    Unreachable(String),
    /// Nobody reads what is printed.
    Closed,
}

impl Failure {
    pub(super) fn exit(&self) -> u8 {
        match self {
            Failure::Closed => 0,
            Failure::Refused(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(text) | Failure::Usage(text) | Failure::Unreachable(text) => f.write_str(text),
            Failure::Closed => f.write_str("output closed"),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        match (Refusal::of(&status), status.code()) {
            (Some(refusal), _) => Failure::Refused(refusal.to_string()),
            (None, Code::Unavailable) => {
                Failure::Unreachable(format!("the dataplane went away: {}\ntry: millrace status", status.message()))
            }
            (None, Code::Unimplemented) => {
                Failure::Refused("this dataplane cannot do that: is it an older version?".into())
            }
            (None, Code::PermissionDenied | Code::Unauthenticated) => {
                Failure::Refused(format!("not allowed: {}\ntry: sudo millrace …", status.message()))
            }
            (None, _) => Failure::Refused(format!("the dataplane refused: {}", status.message())),
        }
    }
}

/// A dataplane that answers.
pub(super) struct Dataplane(DataplaneClient<Channel>);

impl Dataplane {
    pub(super) async fn connect(socket: &Path) -> Result<Self, Failure> {
        let at = socket.display();
        // Asked first, because what tonic says about a socket names neither path nor reason.
        if let Err(error) = tokio::net::UnixStream::connect(socket).await {
            let hint = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "only its own user may ask: try sudo",
                std::io::ErrorKind::NotFound => {
                    "is millrace-dataplane running (systemctl status millrace-dataplane)? Another socket: --socket or MILLRACE_SOCKET"
                }
                _ => "it has ended: see journalctl -u millrace-dataplane",
            };
            return Err(Failure::Unreachable(format!("cannot reach the dataplane on {at}: {error}\n{hint}")));
        }
        let usage = |error: tonic::transport::Error| Failure::Usage(format!("--socket {at}: {error}"));
        let endpoint = Endpoint::from_shared(format!("unix://{at}")).map_err(usage)?;
        match endpoint.connect_timeout(CONNECT_LIMIT).connect().await {
            Ok(channel) => Ok(Dataplane(DataplaneClient::new(channel))),
            Err(error) => Err(Failure::Unreachable(format!("the dataplane on {at} does not answer: {error}"))),
        }
    }

    pub(super) async fn status(&mut self) -> Result<StatusReply, Failure> {
        Ok(self.0.status(StatusRequest {}).await?.into_inner())
    }

    pub(super) async fn counters(&mut self, request: CountersRequest) -> Result<CountersReply, Failure> {
        Ok(self.0.counters(request).await?.into_inner())
    }

    pub(super) async fn flows(&mut self, request: FlowsRequest) -> Result<Vec<Flow>, Failure> {
        let mut stream = self.0.flows(request).await?.into_inner();
        let mut flows = Vec::new();
        while let Some(flow) = next(&mut stream).await? {
            flows.push(flow);
        }
        Ok(flows)
    }

    pub(super) async fn trace(&mut self, request: TraceRequest) -> Result<Streaming<Step>, Failure> {
        Ok(self.0.trace(request).await?.into_inner())
    }
}

pub(super) async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
    Ok(stream.message().await?)
}
