//! Steering: an XDP program on the uplink takes what is ours and leaves the rest to the host.
//!
//! Ours is, in shared mode: UDP to one of our tunnels; what goes to our pods; ICMP errors that quote a packet of ours;
//! the later fragments of what was ours. It goes to the socket bound to the queue that received it, and is *dropped*
//! where none is bound: if the host saw it while the worker is away, it would answer with a reset or port-unreachable.
//! ARP and neighbour discovery pass: the host resolves. So do frames with a VLAN tag; a device that takes the tag off
//! before XDP sees the frame must have that switched off where VLANs and pods share it.
//!
//! Link, program and maps are pinned in a bpf file system: they outlive crash and upgrade, until [`Steering::detach`].
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::disallowed_types,
    reason = "runs at start and when settings change"
)]
mod asm;
mod maps;
mod program;
mod sys;

use maps::Maps;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// In the driver where it can, else before the host's stack.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// Before the host's stack: works on every device, at a copy and an allocation per packet.
    Generic,
}

/// Who owns the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The host keeps it; only what is ours is taken.
    #[default]
    Shared,
    /// All is taken while a socket is bound; the host gets it while none is.
    Owned,
}

/// Why steering cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The system refused a step.
    #[error("steering {object}: cannot {step}: {source}")]
    System {
        /// The device or the path that it is about.
        object: String,
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel's verifier refused the program.
    #[error("steering {object}: the kernel refuses the program: {source}: {log}")]
    Refused {
        /// The device.
        object: String,
        /// The system's answer.
        source: io::Error,
        /// The end of what the verifier said.
        log: String,
    },
    /// Another XDP program is on the device.
    #[error("steering {0}: another XDP program is attached; detach it first (ip link set dev {0} xdp off)")]
    Taken(String),
}

/// How often the program decided what. A dropped packet counts as what it was, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Left to the host.
    pub passed: u64,
    /// Taken for a tunnel.
    pub tunnel: u64,
    /// Taken for a pod (owned mode: all that was taken).
    pub pod: u64,
    /// Taken as an ICMP error that quotes a packet of ours.
    pub quoted: u64,
    /// Taken because its first fragment was.
    pub fragment: u64,
    /// Ours, but dropped: no socket was bound.
    pub dropped: u64,
}

/// What the program does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host gets it.
    Pass,
    /// Nobody gets it.
    Drop,
    /// The socket of its queue gets it.
    Take,
}

/// Steering on one device.
#[derive(Debug)]
pub struct Steering {
    maps: Maps,
    program: OwnedFd,
    link: OwnedFd,
    native: bool,
    note: Option<String>,
    dir: PathBuf,
}

impl Steering {
    /// Attaches to device `interface` of this network namespace and pins all of it in `pin_dir`, which must lie in a
    /// bpf file system ([`mount_bpffs`]). Where that holds a steering of this device already, it only gets the new
    /// program: maps, sockets and the way of attaching stay, and no packet is missed.
    pub fn attach(interface: &str, attach: Attach, mode: Mode, pin_dir: &Path) -> Result<Self, SteerError> {
        let failed = |step| move |source| SteerError::System { object: interface.into(), step, source };
        let device = sys::device(interface).map_err(failed("find the device"))?;
        match Pinned::open(pin_dir) {
            Ok(pinned) if pinned.device == device => return Self::upgrade(pinned, interface, mode, pin_dir),
            _ => clear(pin_dir).map_err(failed("clear what is left in the pin directory"))?,
        }
        std::fs::create_dir_all(pin_dir).map_err(failed("make the pin directory"))?;
        Self::fresh(interface, device, attach, mode, pin_dir).inspect_err(|_| drop(clear(pin_dir)))
    }

    /// Opens what an earlier [`Steering::attach`] pinned.
    pub fn open(pin_dir: &Path) -> Result<Self, SteerError> {
        let failed = |step| move |source| SteerError::System { object: pin_dir.display().to_string(), step, source };
        let Pinned { link, native, .. } = Pinned::open(pin_dir).map_err(failed("open the pinned link"))?;
        let maps = Maps::open(pin_dir).map_err(failed("open the pinned maps"))?;
        let program = sys::open(&pin_dir.join(PROGRAM)).map_err(failed("open the pinned program"))?;
        Ok(Steering { maps, program, link, native, note: None, dir: pin_dir.into() })
    }

    /// Whether the program runs in the driver.
    pub fn native(&self) -> bool {
        self.native
    }

    /// Why the program does not run in the driver although it was to, where possible.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The number of the device that it is on; zero when the device is gone.
    pub fn device(&self) -> Result<u32, SteerError> {
        sys::device_of(&self.link).map_err(|source| self.failed("ask about the link", source))
    }

    /// From now on, UDP to exactly these addresses and ports is a tunnel of ours. What stays is never missing
    /// meanwhile, and only what differs from the last time is written: nobody else may change the pinned maps while
    /// this is open.
    pub fn set_tunnels(&self, tunnels: &[(IpAddr, u16)]) -> Result<(), SteerError> {
        self.maps.set_tunnels(tunnels).map_err(|source| self.failed("set the tunnels", source))
    }

    /// From now on, exactly these prefixes (address and length in bits) are our pods', as with
    /// [`Steering::set_tunnels`]. Where two pods have the same prefix, it stands there twice.
    pub fn set_pod_prefixes(&self, prefixes: &[(IpAddr, u8)]) -> Result<(), SteerError> {
        self.maps.set_pods(prefixes).map_err(|source| self.failed("set the pod prefixes", source))
    }

    /// The same, when all that differs are prefixes of pods that are added and removed: what several pods have stays
    /// until the last of them is gone. Fails also where what is there is not known, at first and after an error: only
    /// [`Steering::set_pod_prefixes`] helps then.
    pub fn change_pod_prefixes(&self, added: &[(IpAddr, u8)], removed: &[(IpAddr, u8)]) -> Result<(), SteerError> {
        self.maps.change_pods(added, removed).map_err(|source| self.failed("change the pod prefixes", source))
    }

    /// What queue `queue` receives and is ours goes to this AF_XDP socket until it is closed.
    pub fn bind(&self, queue: u16, socket: impl AsFd) -> Result<(), SteerError> {
        let socket = socket.as_fd().as_raw_fd();
        self.maps.bind(queue.into(), socket).map_err(|source| self.failed("bind a socket", source))
    }

    /// What queue `queue` receives and is ours is dropped from now on.
    pub fn unbind(&self, queue: u16) -> Result<(), SteerError> {
        self.maps.unbind(queue.into()).map_err(|source| self.failed("unbind a socket", source))
    }

    /// How often the program decided what.
    pub fn counters(&self) -> Result<Counters, SteerError> {
        let cpus = possible_cpus().map_err(|source| self.failed("count CPUs", source))?;
        let read =
            |kind| self.maps.count(kind as usize, cpus).map_err(|source| self.failed("read the counters", source));
        Ok(Counters {
            passed: read(program::Kind::Passed)?,
            tunnel: read(program::Kind::Tunnel)?,
            pod: read(program::Kind::Pod)?,
            quoted: read(program::Kind::Quoted)?,
            fragment: read(program::Kind::Fragment)?,
            dropped: read(program::Kind::Dropped)?,
        })
    }

    /// What the program does with `frame`, of at least 14 bytes, from queue 0; it counts as received, and nothing else
    /// happens.
    pub fn judge(&self, frame: &[u8]) -> Result<Verdict, SteerError> {
        match sys::run(&self.program, frame).map_err(|source| self.failed("run the program", source))? {
            2 => Ok(Verdict::Pass),
            4 => Ok(Verdict::Take),
            _ => Ok(Verdict::Drop),
        }
    }

    /// Takes it off the device, whoever else has it open: from now on the host gets everything.
    pub fn detach(self) -> Result<(), SteerError> {
        sys::detach(&self.link).map_err(|source| self.failed("detach", source))?;
        clear(&self.dir).map_err(|source| self.failed("unpin", source))
    }

    fn fresh(interface: &str, device: u32, attach: Attach, mode: Mode, dir: &Path) -> Result<Self, SteerError> {
        let failed = |step| move |source| SteerError::System { object: interface.into(), step, source };
        let maps = Maps::ensure(dir).map_err(failed("make the maps"))?;
        let program = load(interface, mode, &maps)?;
        let (link, native, note) = attach_retrying(&program, interface, device, attach)?;
        sys::pin(&program, &dir.join(PROGRAM)).map_err(failed("pin the program"))?;
        sys::pin(&link, &dir.join(link_name(native))).map_err(failed("pin the link"))?;
        Ok(Steering { maps, program, link, native, note, dir: dir.into() })
    }

    fn upgrade(pinned: Pinned, interface: &str, mode: Mode, dir: &Path) -> Result<Self, SteerError> {
        let failed = |step| move |source| SteerError::System { object: interface.into(), step, source };
        let maps = Maps::ensure(dir).map_err(failed("open the pinned maps"))?;
        let program = load(interface, mode, &maps)?;
        sys::replace(&pinned.link, &program).map_err(failed("replace the program"))?;
        let pin = dir.join(PROGRAM);
        remove(&pin).map_err(failed("unpin the old program"))?;
        sys::pin(&program, &pin).map_err(failed("pin the program"))?;
        Ok(Steering { maps, program, link: pinned.link, native: pinned.native, note: None, dir: dir.into() })
    }

    fn failed(&self, step: &'static str, source: io::Error) -> SteerError {
        SteerError::System { object: self.dir.display().to_string(), step, source }
    }
}

/// Makes `dir` and mounts a bpf file system there, unless it lies in one.
pub fn mount_bpffs(dir: &Path) -> Result<(), SteerError> {
    let failed = |step| move |source| SteerError::System { object: dir.display().to_string(), step, source };
    std::fs::create_dir_all(dir).map_err(failed("make the directory"))?;
    if sys::is_bpf(dir).map_err(failed("look at the directory"))? {
        return Ok(());
    }
    sys::mount(dir).map_err(failed("mount a bpf file system"))
}

/// A link found where it was pinned.
struct Pinned {
    link: OwnedFd,
    device: u32,
    native: bool,
}

impl Pinned {
    fn open(dir: &Path) -> io::Result<Self> {
        let native = dir.join(link_name(true)).exists();
        let link = sys::open(&dir.join(link_name(native)))?;
        Ok(Pinned { device: sys::device_of(&link)?, link, native })
    }
}

fn load(interface: &str, mode: Mode, maps: &Maps) -> Result<OwnedFd, SteerError> {
    let (name, code) = match mode {
        Mode::Shared => ("millrace_shared", program::shared(&maps.descriptors())),
        Mode::Owned => ("millrace_owned", program::owned(&maps.descriptors())),
    };
    let refused = |source, log: String| {
        let end = log.char_indices().rev().nth(LOG_END).map_or(0, |(at, _)| at);
        SteerError::Refused { object: interface.into(), source, log: log.get(end..).unwrap_or_default().into() }
    };
    let code = code.map_err(|error| refused(io::Error::other(error), String::new()))?;
    sys::load(name, &code).map_err(|(source, log)| refused(source, log))
}

// The kernel lets go of a device some time after the last link's descriptor is closed: busy may mean "not yet".
fn attach_retrying(
    program: &OwnedFd,
    interface: &str,
    device: u32,
    attach: Attach,
) -> Result<(OwnedFd, bool, Option<String>), SteerError> {
    let mut wait = Duration::from_millis(5);
    loop {
        match attach_once(program, device, attach) {
            Err(error) if is_busy(&error) && wait > LONGEST_WAIT => return Err(SteerError::Taken(interface.into())),
            Err(error) if is_busy(&error) => std::thread::sleep(wait),
            Err(source) => return Err(SteerError::System { object: interface.into(), step: "attach", source }),
            Ok(attached) => return Ok(attached),
        }
        wait *= 2;
    }
}

fn attach_once(program: &OwnedFd, device: u32, attach: Attach) -> io::Result<(OwnedFd, bool, Option<String>)> {
    let mut note = None;
    if attach != Attach::Generic {
        match sys::attach(program, device, true) {
            Err(error) if attach == Attach::Auto && !is_busy(&error) => {
                note = Some(format!("XDP in generic mode: the driver refuses the native one: {error}"));
            }
            result => return result.map(|link| (link, true, None)),
        }
    }
    sys::attach(program, device, false).map(|link| (link, false, note))
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// Removes the pins, the link first: what it refers to is never missing while it is there.
fn clear(dir: &Path) -> io::Result<()> {
    let names = [link_name(true), link_name(false), PROGRAM];
    names.into_iter().chain(maps::NAMES).try_for_each(|name| remove(&dir.join(name)))?;
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn possible_cpus() -> io::Result<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = list.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| io::Error::other("no list of possible CPUs"))
}

// The link's name says how it is attached: the kernel does not tell later.
fn link_name(native: bool) -> &'static str {
    if native { "link_native" } else { "link_generic" }
}

const PROGRAM: &str = "program";
const LONGEST_WAIT: Duration = Duration::from_millis(640);
const LOG_END: usize = 600;
