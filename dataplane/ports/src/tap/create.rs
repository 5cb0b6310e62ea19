use super::sys;
use engine::OpenError;
use rustix::{
    fs::{Mode, OFlags, open},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// A tap to be made, or to be opened again when it is there.
#[derive(Clone, Copy, Debug)]
pub struct CreateSettings<'a> {
    /// The network namespace; none: this thread's.
    pub netns: Option<BorrowedFd<'a>>,
    /// The device's name in there, at most 15 bytes.
    pub name: &'a str,
    /// Its Ethernet address; none: the kernel's choice.
    pub mac: Option<[u8; 6]>,
    /// The longest network packet, in bytes.
    pub mtu: u16,
    /// How many queues, one for each worker.
    pub queues: u16,
}

/// The descriptors of a tap, which is up and persists.
#[derive(Debug)]
pub struct Created {
    /// The queues that a worker process reads and writes. Whoever passes them on closes its own: a queue that is open
    /// but not read swallows packets.
    pub queues: Vec<OwnedFd>,
    /// A queue out of use: while it is open the device has a carrier.
    pub kept: OwnedFd,
    /// A socket in the device's namespace, through which its state is asked.
    pub control: OwnedFd,
}

/// Makes a tap in its namespace, or opens it again, with queues that are new in both cases.
pub fn create(settings: CreateSettings<'_>) -> Result<Created, OpenError> {
    let Some(netns) = settings.netns else { return create_here(settings) };
    let there = || {
        let entered = move_into_link_name_space(netns, Some(LinkNameSpaceType::Network));
        entered.map_err(|errno| settings.cannot("enter the network namespace")(errno.into()))?;
        create_here(settings)
    };
    // A thread is in one namespace: one of its own goes there, and ends.
    std::thread::scope(|scope| match std::thread::Builder::new().spawn_scoped(scope, there) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(error) => Err(settings.cannot("start a thread")(error)),
    })
}

/// Lets a tap end with its last queue, which may be this one.
pub fn remove(kept: OwnedFd) -> io::Result<()> {
    sys::persist(kept.as_fd(), false)
}

fn create_here(settings: CreateSettings<'_>) -> Result<Created, OpenError> {
    let CreateSettings { name, mac, mtu, queues, .. } = settings;
    let queue = || {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let queue = open("/dev/net/tun", flags, Mode::empty());
        let queue = queue.map_err(|errno| settings.cannot("open /dev/net/tun")(errno.into()))?;
        sys::attach(queue.as_fd(), name).map_err(settings.cannot("attach a queue"))?;
        Ok(queue)
    };
    let kept = queue()?;
    sys::offload(kept.as_fd()).map_err(settings.cannot("set offloads"))?;
    sys::persist(kept.as_fd(), true).map_err(settings.cannot("make it persist"))?;
    let queues = (0..queues).map(|_| queue()).collect::<Result<Vec<_>, OpenError>>()?;
    sys::detach(kept.as_fd()).map_err(settings.cannot("detach the kept queue"))?;
    let control = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let control = control.map_err(|errno| settings.cannot("open a socket")(errno.into()))?;
    if let Some(mac) = mac {
        sys::set_address(control.as_fd(), name, mac).map_err(settings.cannot("set the Ethernet address"))?;
    }
    sys::set_mtu(control.as_fd(), name, mtu).map_err(settings.cannot("set the MTU"))?;
    sys::set_up(control.as_fd(), name, true).map_err(settings.cannot("set it up"))?;
    Ok(Created { queues, kept, control })
}

impl CreateSettings<'_> {
    fn cannot(&self, step: &'static str) -> impl FnOnce(io::Error) -> OpenError {
        let port = self.name.to_owned();
        move |source| OpenError::System { port, step, source }
    }
}
