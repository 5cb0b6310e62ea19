//! Opening a port: the best sockets that can be had, and what was got.
#![expect(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros, reason = "runs at start")]
use super::budget::Budget;
use super::device::{Device as Found, Link};
use super::lane::{Lane, PIECE, Terms};
use super::lent::Lent;
use super::queue::{Lanes, XdpQueue};
use super::sys::{Control, Plan, Socket};
use super::{BusyPoll, Report, Settings, ZeroCopy};
use crate::steer::Steering;
use engine::{Class, Device, Frames, Memory, OpenError, Queue};
use rustix::event::epoll;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// An AF_XDP port, before it runs.
pub struct AfXdp {
    settings: Settings,
    steering: Arc<Steering>,
    report: Arc<OnceLock<Report>>,
}

impl AfXdp {
    /// A port on a device where `steering` is attached.
    pub fn new(settings: Settings, steering: Arc<Steering>) -> Self {
        AfXdp { settings, steering, report: Arc::default() }
    }

    /// Where it will say what was got, once it is open.
    pub fn report(&self) -> Arc<OnceLock<Report>> {
        self.report.clone()
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(io::Error) -> OpenError {
        let port = self.settings.interface.clone();
        move |source| OpenError::System { port, step, source }
    }

    fn refused(&self, field: &'static str, reason: String) -> OpenError {
        OpenError::Setting { port: self.settings.interface.clone(), field, reason }
    }

    fn check(&self, found: &Found, workers: usize) -> Result<u16, OpenError> {
        let Settings { receive_ring, send_ring, queues, .. } = self.settings;
        for (field, size) in [("receive_ring", receive_ring), ("send_ring", send_ring)] {
            if !size.is_power_of_two() || size > LONGEST_RING {
                return Err(self.refused(field, format!("{size} is no power of two up to {LONGEST_RING}")));
            }
        }
        let count = queues.unwrap_or(found.queues);
        if count > found.queues || usize::from(count) < workers || workers == 0 {
            let reason =
                format!("{count} for {workers} workers, and the device has {}: every worker needs one", found.queues);
            return Err(self.refused("queues", reason));
        }
        let on = self.steering.device().map_err(|error| self.refused("steering", error.to_string()))?;
        if on != found.number {
            return Err(self.refused("steering", format!("is on device {on}, and this is device {}", found.number)));
        }
        Ok(count)
    }

    /// One socket of the best kind that can be had, and its flags.
    fn socket(&self, found: &Found, memory: Memory, huge: bool, queue: u16, notes: &mut Vec<String>) -> Opened {
        let Settings { receive_ring: receive, send_ring: send, .. } = self.settings;
        let mut refusal = None;
        for (flags, name) in self.kinds(found, huge) {
            let flags = flags | libc::XDP_USE_NEED_WAKEUP;
            let plan = Plan { memory, receive, send, device: found.number, queue: queue.into(), flags };
            match open_retrying(&plan) {
                Ok(socket) => {
                    if let Some((better, step, error)) = refusal {
                        let note = format!("{name} instead of {better}: cannot {step}: {error}");
                        if !notes.contains(&note) {
                            notes.push(note);
                        }
                    }
                    return Ok((socket, flags));
                }
                Err((step, error)) => {
                    refusal.get_or_insert((name, step, error));
                }
            }
        }
        let (_, step, error) = refusal.unwrap_or(("", "open a socket", io::Error::from(io::ErrorKind::Unsupported)));
        Err(self.failed(step)(error))
    }

    /// The kinds of sockets to try, best first. Without pieces only where every packet fits into a frame.
    fn kinds(&self, found: &Found, huge: bool) -> Vec<(u16, &'static str)> {
        let zero_copy = self.settings.zero_copy == ZeroCopy::Auto && self.steering.native() && huge;
        let fits = found.mtu as usize + ETHERNET <= PIECE;
        let mut kinds = vec![
            (libc::XDP_ZEROCOPY | libc::XDP_USE_SG, "zero copy"),
            (libc::XDP_ZEROCOPY, "zero copy without multi-buffer"),
            (libc::XDP_COPY | libc::XDP_USE_SG, "copy mode"),
            (libc::XDP_COPY, "copy mode without multi-buffer"),
        ];
        kinds.retain(|(flags, _)| {
            (flags & libc::XDP_ZEROCOPY == 0 || zero_copy) && (flags & libc::XDP_USE_SG != 0 || fits)
        });
        kinds
    }

    /// A queue of the device at work, its socket not yet told to the program.
    fn lane(
        &self,
        got: &mut Got,
        found: &Found,
        (frames, budget): (&mut Frames, &mut Budget),
        queue: u16,
    ) -> Result<Lane, OpenError> {
        let memory = frames.memory(Class::Small);
        let huge = matches!(frames.got().kind, hugepages::PageKind::Huge2M | hugepages::PageKind::Huge1G);
        if !huge && self.settings.zero_copy == ZeroCopy::Auto && queue == 0 {
            got.notes.push("copy mode: zero copy needs the frames on huge pages".into());
        }
        let (socket, flags) = self.socket(found, memory, huge, queue, &mut got.notes)?;
        let zero_copy = socket.is_zero_copy().map_err(self.failed("ask for the socket's mode"))?;
        got.zero_copy &= zero_copy;
        got.multi_buffer &= flags & libc::XDP_USE_SG != 0;
        if let Some(BusyPoll { microseconds, budget }) = self.settings.busy_poll
            && let Err(error) = socket.busy_poll(microseconds, budget)
        {
            got.notes.push(format!("no busy polling: {error}"));
        }
        let longest = found.mtu as usize + ETHERNET;
        // Else the kernel sends no more than a few hundred packets ahead of the device; what it cannot set, it need
        // not.
        let _ = socket.send_room(self.settings.send_ring.saturating_mul(2 * 4096).min(i32::MAX.cast_unsigned()));
        let terms = Terms {
            longest,
            partial: found.is_virtual(),
            vxlan: self.settings.vxlan_ports.clone(),
            busy_poll: self.settings.busy_poll.is_some(),
        };
        let page = if zero_copy { HUGE_PAGE } else { u64::MAX };
        let mut lane = Lane::new(socket, Lent::new(memory, page), budget.share(2 * self.settings.receive_ring), terms);
        lane.refill(frames, budget, 1);
        Ok(lane)
    }

    fn open_all(&self, workers: &mut [Frames], shares: &mut [Lanes]) -> Result<(Found, Got), OpenError> {
        let control = Control::new().map_err(self.failed("open a control socket"))?;
        let found = Found::find(&control, &self.settings.interface).map_err(self.failed("find the device"))?;
        let queues = self.check(&found, workers.len())?;
        let share = queues.div_ceil(u16::try_from(workers.len()).unwrap_or(1));
        for ((_, budget), frames) in shares.iter_mut().zip(&*workers) {
            *budget = Budget::new(frames.stock(Class::Small).0, share);
        }
        let mut got = Got { zero_copy: true, multi_buffer: true, queues, notes: Vec::new() };
        let generic = (!self.steering.native()).then_some("XDP in generic mode: a copy and an allocation per packet");
        got.notes.extend(self.steering.note().or(generic).map(String::from));
        for queue in 0..queues {
            let at = usize::from(queue) % workers.len().max(1);
            let (Some(frames), Some((lanes, budget))) = (workers.get_mut(at), shares.get_mut(at)) else { continue };
            let lane = self.lane(&mut got, &found, (frames, budget), queue)?;
            lanes.push(lane);
            let socket = lanes.last().map(|lane| &lane.socket);
            let bound = socket.map_or(Ok(()), |socket| self.steering.bind(queue, socket));
            bound.map_err(|error| self.refused("steering", error.to_string()))?;
        }
        Ok((found, got))
    }

    fn queue(&self, lanes: Lanes, longest: usize) -> Result<XdpQueue, (Lanes, io::Error)> {
        let prepared = Control::new().and_then(|control| {
            let wake = if lanes.0.len() > 1 { Some(joined(&lanes.0)?) } else { None };
            Ok((wake, Link::new(control, self.settings.interface.clone())))
        });
        match prepared {
            Ok((wake, link)) => Ok(XdpQueue::new(lanes, wake, link, longest)),
            Err(error) => Err((lanes, error)),
        }
    }
}

impl Device for AfXdp {
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError> {
        let mut shares: Vec<Lanes> = workers.iter().map(|_| Lanes::default()).collect();
        let opened = self.open_all(workers, &mut shares);
        let mut queues: Vec<Box<dyn Queue>> = Vec::new();
        let result = opened.and_then(|(found, got)| {
            for share in &mut shares {
                match self.queue(std::mem::take(share), found.mtu as usize + ETHERNET) {
                    Ok(queue) => queues.push(Box::new(queue)),
                    Err((lanes, error)) => {
                        *share = lanes;
                        return Err(self.failed("join the sockets")(error));
                    }
                }
            }
            let native = self.steering.native();
            let Got { zero_copy, multi_buffer, queues, notes, .. } = got;
            let _ = self.report.set(Report { native, zero_copy, multi_buffer, queues, driver: found.driver, notes });
            Ok(())
        });
        match result {
            Ok(()) => Ok(queues),
            Err(error) => {
                // What was opened until then gives its frames back to the worker that they are of.
                queues.iter_mut().zip(&mut *workers).for_each(|(queue, frames)| queue.close(frames));
                for ((lanes, _), frames) in shares.into_iter().zip(workers) {
                    lanes.into_iter().for_each(|lane| lane.close(frames));
                }
                Err(error)
            }
        }
    }
}

type Opened = Result<(Socket, u16), OpenError>;

struct Got {
    zero_copy: bool,
    multi_buffer: bool,
    queues: u16,
    notes: Vec<String>,
}

// The kernel lets go of a queue some time after its last socket is closed: busy may mean "not yet".
fn open_retrying(plan: &Plan) -> Result<Socket, (&'static str, io::Error)> {
    let mut wait = Duration::from_millis(5);
    loop {
        match Socket::open(plan) {
            Err((_, error)) if error.raw_os_error() == Some(libc::EBUSY) && wait <= LONGEST_WAIT => {
                std::thread::sleep(wait);
                wait *= 2;
            }
            result => return result,
        }
    }
}

/// A descriptor that is readable when any of the sockets is.
fn joined(lanes: &[Lane]) -> io::Result<OwnedFd> {
    let all = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for lane in lanes {
        epoll::add(&all, lane.socket.as_fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    }
    Ok(all)
}

const ETHERNET: usize = 14;
const LONGEST_RING: u32 = 1 << 15;
const HUGE_PAGE: u64 = 2 << 20;
const LONGEST_WAIT: Duration = Duration::from_millis(640);
