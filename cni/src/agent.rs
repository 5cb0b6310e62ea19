//! The agent, asked with a time limit that holds whatever the agent does.
use std::{io, os::unix::net::UnixStream, path::Path, sync::mpsc, thread, time::Instant};

use proto::attach::{Reply, Request, code, read_frame, write_frame};

use crate::fault::Fault;

/// Why the agent gave no answer.
#[derive(Debug)]
pub(crate) enum Silence {
    /// Nobody listens: the request was not heard.
    Unreachable(io::Error),
    /// The request may have been heard, and the connection broke.
    Broken(io::Error),
    /// The request may have been heard, and the time is over.
    Late,
}

/// Asks the agent, and waits until `until` at the latest.
pub(crate) fn ask(socket: &Path, request: Request, until: Instant) -> Result<Reply, Silence> {
    let (answer, answered) = mpsc::channel();
    let socket = socket.to_owned();
    // A thread, because connecting to a full backlog and a reader that gets single bytes both escape socket time
    // limits.
    thread::spawn(move || {
        let _ = answer.send(exchange(&socket, &request));
    });
    answered.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_or(Err(Silence::Late))
}

fn exchange(socket: &Path, request: &Request) -> Result<Reply, Silence> {
    let mut stream = UnixStream::connect(socket).map_err(Silence::Unreachable)?;
    write_frame(&mut stream, request).map_err(Silence::Broken)?;
    read_frame(&mut stream).map_err(Silence::Broken)
}

impl Silence {
    /// As CNI reports it.
    pub(crate) fn fault(&self, socket: &Path) -> Fault {
        let at = socket.display();
        match self {
            Silence::Unreachable(error) => {
                Fault::new(code::AGENT_UNREACHABLE, format!("the Millrace agent does not listen on {at}"))
                    .details(format!("{error}; is millrace-agent running on this node?"))
            }
            Silence::Broken(error) => Fault::new(code::TRY_AGAIN, format!("the Millrace agent on {at} broke off"))
                .details(format!("{error}; see the agent's log")),
            Silence::Late => Fault::new(code::TRY_AGAIN, format!("the Millrace agent on {at} did not answer in time")),
        }
    }
}
