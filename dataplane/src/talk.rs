//! What the worker process and the keeper say to each other: JSON with a length in front, and descriptors beside it.
use proto::v1;
use rustix::{
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recv, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    cell::Cell,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::IpAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

/// The longest message, in bytes: a host tap with a route to each of many thousand hosts.
const LONGEST: u32 = 16 << 20;
/// The most descriptors beside a message: more than a tap has queues.
const MOST_FDS: usize = 64;
/// How long the keeper may take for an answer: well below the time that an agent waits for an Apply.
const LIMIT: Duration = Duration::from_secs(10);
/// How long, while an answer that it owes has not come.
const OWING: Duration = Duration::from_millis(100);

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
        /// What stood in the way.
        obstacle: Obstacle,
        /// What was tried and what the system said, for people.
        text: String,
    },
}

/// What stood in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Obstacle {
    /// The network namespace cannot be opened, or is none.
    Namespace,
    /// Memory, descriptors or queues are used up.
    Room,
    /// Anything else that the system refuses.
    System,
}

/// A question or an answer, and which: an answer that comes after its time is not taken for another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// The question's number.
    pub number: u64,
    /// What is asked or answered.
    pub what: T,
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
    let sent = retry_on_intr(|| sendmsg(to, &[IoSlice::new(&length)], &mut beside, SendFlags::NOSIGNAL))?;
    let mut to = to;
    to.write_all(length.get(sent..).unwrap_or_default())?;
    to.write_all(&body)
}

/// Receives one message with its descriptors; none when the other end is gone. `WouldBlock`: the socket's time limit is
/// over, and nothing of a message was there.
pub fn receive<T: DeserializeOwned>(from: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let got = retry_on_intr(|| {
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(from.as_fd(), &mut [IoSliceMut::new(&mut length)], &mut beside, flags).map(|message| message.bytes)
    })?;
    if got == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let cut = |error| io::Error::new(io::ErrorKind::InvalidData, format!("a message was cut short: {error}"));
    let mut from = from;
    from.read_exact(length.get_mut(got..).unwrap_or_default()).map_err(cut)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?];
    from.read_exact(&mut body).map_err(cut)?;
    Ok(Some((serde_json::from_slice(&body)?, fds)))
}

/// The worker process's line to the keeper.
pub struct Line {
    socket: UnixStream,
    limit: Duration,
    asked: Cell<u64>,
    owing: Cell<bool>,
    lost: Cell<bool>,
}

/// Why the keeper did not do it.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// It tried.
    #[error("{text}")]
    Failed {
        /// What stood in the way.
        obstacle: Obstacle,
        /// What was tried and what the system said, for people.
        text: String,
    },
    /// It may still do it.
    #[error("the keeper does not answer: it was given {limit:?}")]
    Late {
        /// How long it had.
        limit: Duration,
    },
    /// It could not be asked.
    #[error("the keeper cannot be asked: {0}")]
    Lost(#[from] io::Error),
}

impl Line {
    /// Over this socket.
    pub fn new(socket: UnixStream) -> Self {
        Line::with_limit(socket, LIMIT)
    }

    /// The same, with `limit` for each answer.
    pub fn with_limit(socket: UnixStream, limit: Duration) -> Self {
        Line { socket, limit, asked: Cell::new(0), owing: Cell::new(false), lost: Cell::new(false) }
    }

    /// Asks, and waits for the answer and its descriptors; hardly at all while an earlier answer has not come.
    ///
    /// # Errors
    /// When the keeper failed, is late, or is gone.
    pub fn ask(&self, what: &Ask) -> Result<Vec<OwnedFd>, LineError> {
        if self.lost.get() {
            return Err(LineError::Lost(io::ErrorKind::NotConnected.into()));
        }
        let limit = if self.owing.get() { OWING.min(self.limit) } else { self.limit };
        let answer = self.exchange(what, limit);
        // After half a message, or a lost one, nothing that follows can be understood.
        self.lost.set(matches!(answer, Err(LineError::Lost(_))));
        answer
    }

    /// Takes answers that came after their time: what comes with them, such as the queues of a tap, ends here.
    pub fn settle(&self) {
        let is_there = || recv(&self.socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok();
        while self.owing.get() && !self.lost.get() && is_there() {
            match receive::<Numbered<Answer>>(&self.socket) {
                Ok(Some((answer, _))) => self.owing.set(answer.number != self.asked.get()),
                Ok(None) | Err(_) => self.lost.set(true),
            }
        }
    }

    fn exchange(&self, what: &Ask, limit: Duration) -> Result<Vec<OwnedFd>, LineError> {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        let until = Instant::now() + limit;
        self.socket.set_write_timeout(Some(limit))?;
        send(&self.socket, &Numbered { number, what }, &[])?;
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left))?;
            let (answer, fds) = match receive::<Numbered<Answer>>(&self.socket) {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(LineError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.owing.set(true);
                    return Err(LineError::Late { limit });
                }
                Err(error) => return Err(LineError::Lost(error)),
            };
            if answer.number != number {
                continue; // it came after its time; its descriptors end here
            }
            self.owing.set(false);
            return match answer.what {
                Answer::Done => Ok(fds),
                Answer::Failed { obstacle, text } => Err(LineError::Failed { obstacle, text }),
            };
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

    #[test]
    fn a_keeper_that_is_late_is_told_so_and_its_late_answer_is_nobody_elses() {
        let (here, keeper) = UnixStream::pair().unwrap();
        let line = Line::with_limit(here, Duration::from_millis(50));
        let ask = Ask::Unsteer { interface: "u0".into() };
        assert!(matches!(line.ask(&ask), Err(LineError::Late { .. })));
        let (carried, mut other) = UnixStream::pair().unwrap();
        send(&keeper, &Numbered { number: 1, what: Answer::Done }, &[carried.as_fd()]).unwrap();
        drop(carried);
        let what = Answer::Failed { obstacle: Obstacle::System, text: "second".into() };
        send(&keeper, &Numbered { number: 2, what }, &[]).unwrap();
        assert!(matches!(line.ask(&ask), Err(LineError::Failed { text, .. }) if text == "second"));
        assert_eq!(other.read(&mut [0]).unwrap(), 0, "the descriptor of the late answer is closed");
        assert!(matches!(line.ask(&ask), Err(LineError::Late { .. })));
        let (carried, mut other) = UnixStream::pair().unwrap();
        send(&keeper, &Numbered { number: 3, what: Answer::Done }, &[carried.as_fd()]).unwrap();
        drop(carried);
        line.settle();
        assert_eq!(other.read(&mut [0]).unwrap(), 0, "nobody has to ask again for that");
        (&keeper).write_all(&[0, 0]).unwrap();
        assert!(matches!(line.ask(&ask), Err(LineError::Lost(error)) if error.kind() == io::ErrorKind::InvalidData));
        assert!(matches!(line.ask(&ask), Err(LineError::Lost(error)) if error.kind() == io::ErrorKind::NotConnected));
    }
}
