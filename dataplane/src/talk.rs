//! What the worker process and the keeper say to each other: JSON with a length in front, and descriptors beside it.
use proto::v1;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::IpAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// The longest message, in bytes: a host tap with a route to each of many thousand hosts.
const LONGEST: u32 = 16 << 20;
/// The most descriptors beside a message: more than a tap has queues.
const MOST_FDS: usize = 64;

/// A tap, as the keeper makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The path of its network namespace; empty: the host's.
    pub netns: String,
    /// Its name there.
    pub name: String,
    /// The link address of the kernel's side.
    pub mac: Option<[u8; 6]>,
    /// Its longest IP packet, in bytes.
    pub mtu: u16,
    /// How many queues.
    pub queues: u16,
    /// Addresses with the length of their networks.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes out of it.
    pub routes: Vec<TapRoute>,
}

/// A route on the kernel's side of a tap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapRoute {
    /// The destination.
    pub to: (IpAddr, u8),
    /// The next hop, which is on the link; none: the destination is.
    pub gateway: Option<IpAddr>,
    /// The preferred source.
    pub source: Option<IpAddr>,
    /// The longest IP packet; none: the interface's.
    pub mtu: Option<u16>,
}

impl Tap {
    /// The tap that a checked message describes, with a queue for each of `workers`.
    pub fn of(tap: &v1::Tap, workers: u16) -> Self {
        let prefix = |prefix: &v1::Prefix| prefix.get();
        let route = |route: &v1::TapRoute| {
            let to = route.to.as_ref().and_then(prefix)?;
            let mtu = u16::try_from(route.mtu).ok().filter(|mtu| *mtu != 0);
            Some(TapRoute { to, gateway: proto::ip(&route.gateway), source: proto::ip(&route.source), mtu })
        };
        Tap {
            netns: tap.netns_path.clone(),
            name: tap.name.clone(),
            mac: proto::mac(&tap.mac),
            mtu: u16::try_from(tap.mtu).unwrap_or(u16::MAX),
            queues: workers,
            addresses: tap.addresses.iter().filter_map(prefix).collect(),
            routes: tap.routes.iter().filter_map(route).collect(),
        }
    }
}

/// What the worker process asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Make this tap, or open it again, and set it up. Its queues come with the answer, then its control socket.
    Open(Tap),
    /// Forget this tap: it ends with its last queue.
    Close {
        /// The path of its network namespace.
        netns: String,
        /// Its name.
        name: String,
    },
    /// Attach the steering program to an interface, or renew it.
    Steer {
        /// The interface.
        interface: String,
        /// In the driver (true), before the stack (false), or wherever it can be.
        native: Option<bool>,
        /// Everything comes to us.
        owned: bool,
    },
    /// Take the steering program off an interface.
    Unsteer {
        /// The interface.
        interface: String,
    },
}

/// What the keeper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// It cannot be done.
    Failed {
        /// What was tried and what the system said, for people.
        text: String,
    },
}

/// Sends one message with descriptors.
pub fn send(to: &UnixStream, what: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(what)?;
    let length =
        u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST).ok_or(io::ErrorKind::InvalidInput)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = length.to_be_bytes();
    let sent = sendmsg(to, &[IoSlice::new(&length)], &mut beside, SendFlags::NOSIGNAL)?;
    let mut to = to;
    to.write_all(length.get(sent..).unwrap_or_default())?;
    to.write_all(&body)
}

/// Receives one message with its descriptors; none when the other end is gone.
pub fn receive<T: DeserializeOwned>(from: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(from.as_fd(), &mut [IoSliceMut::new(&mut length)], &mut beside, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if got == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let mut from = from;
    from.read_exact(length.get_mut(got..).unwrap_or_default())?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?];
    from.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, fds)))
}

/// The worker process's line to the keeper.
pub struct Line(UnixStream);

/// Why the keeper did not do it.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// It tried.
    #[error("{0}")]
    Failed(String),
    /// It could not be asked.
    #[error("the keeper cannot be asked: {0}")]
    Lost(#[from] io::Error),
}

impl Line {
    /// Over this socket.
    pub fn new(socket: UnixStream) -> Self {
        Line(socket)
    }

    /// Asks, and waits for the answer and its descriptors.
    ///
    /// # Errors
    /// When the keeper failed, or is gone.
    pub fn ask(&self, what: &Ask) -> Result<Vec<OwnedFd>, LineError> {
        send(&self.0, what, &[])?;
        match receive::<Answer>(&self.0)? {
            Some((Answer::Done, fds)) => Ok(fds),
            Some((Answer::Failed { text }, _)) => Err(LineError::Failed(text)),
            None => Err(LineError::Lost(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (here, there) = UnixStream::pair().unwrap();
        let (carried, _other) = UnixStream::pair().unwrap();
        let ask = Ask::Close { netns: "/run/netns/a".into(), name: "eth0".into() };
        send(&here, &ask, &[carried.as_fd(), carried.as_fd()]).unwrap();
        send(&here, &Answer::Done, &[]).unwrap();
        let (got, fds) = receive::<Ask>(&there).unwrap().unwrap();
        assert_eq!((got, fds.len()), (ask, 2));
        assert_eq!(receive::<Answer>(&there).unwrap().unwrap().1.len(), 0);
        drop(here);
        assert!(receive::<Answer>(&there).unwrap().is_none());
    }
}
