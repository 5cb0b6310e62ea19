//! The socket that the CNI binary talks to.
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use proto::attach::{Refused, Reply, Request, code, decode, encode, frame_length};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use super::lock::{Lock, LockError};
use crate::agent::Agent;

/// How many requests are served at once; more wait in the socket's backlog.
const AT_ONCE: usize = 256;
/// The CNI binary says its request at once.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// After a connection that could not be accepted: descriptors or memory may be there again.
const PAUSE: Duration = Duration::from_millis(200);

/// The socket, which is ours until this is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    _lock: Lock,
}

/// Listens on `socket`, which only this user can open. A socket that an earlier agent left is replaced.
///
/// # Errors
/// When another agent listens there (`AddrInUse`), something else is there, or the path cannot be used.
pub fn listen(socket: &Path) -> io::Result<Listener> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder)?;
    }
    let lock = Lock::take(&socket.with_added_extension("lock"), socket).map_err(|error| match error {
        LockError::Taken { .. } => io::Error::new(io::ErrorKind::AddrInUse, error),
        LockError::Io { .. } => io::Error::other(error),
    })?;
    if fs::symlink_metadata(socket).is_ok_and(|left| left.file_type().is_socket()) {
        fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(Listener { listener, _lock: lock })
}

/// Serves for ever: the next connection may be accepted when one cannot.
pub async fn serve(listener: Listener, agent: Arc<Agent>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!("a connection to the CNI socket cannot be accepted: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let agent = Arc::clone(&agent);
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &agent).await {
                tracing::warn!("a request on the CNI socket failed: {error}");
            }
            drop(place);
        });
    }
}

async fn answer(mut stream: UnixStream, agent: &Agent) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {peer} may not ask")));
    }
    let reply = match timeout(READ_LIMIT, read(&mut stream)).await {
        Ok(Ok(request)) => agent.answer(request).await,
        Ok(Err(error)) => refuse(error.to_string()),
        Err(_) => refuse("the request is not complete".to_owned()),
    };
    stream.write_all(&encode(&reply)?).await?;
    stream.shutdown().await
}

async fn read(stream: &mut UnixStream) -> io::Result<Request> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let mut json = vec![0; frame_length(length)?];
    stream.read_exact(&mut json).await?;
    decode(&json)
}

fn refuse(details: String) -> Reply {
    Reply::Refused(Refused { code: code::DECODING, message: "the agent cannot read the request".into(), details })
}
