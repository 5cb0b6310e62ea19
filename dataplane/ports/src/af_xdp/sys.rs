//! AF_XDP sockets: memory, rings, wake-ups; and what the system says of a device.
// UNSAFETY: rings are memory that the kernel writes too; sockets of this family are set up through raw addresses.
#![expect(unsafe_code, reason = "rings are mapped memory, shared with the kernel")]
use engine::Memory;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// A received or sent piece of a packet.
pub(super) use libc::xdp_desc as Descriptor;
/// What the kernel counts for a socket.
pub(super) use libc::xdp_statistics as Statistics;

/// What socket to open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) memory: Memory,
    pub(super) receive: u32,
    pub(super) send: u32,
    pub(super) device: u32,
    pub(super) queue: u32,
    pub(super) flags: u16,
}

/// A bound socket and its rings. The fill ring is twice as long as the receive ring: it ran empty otherwise, whenever
/// the worker was elsewhere.
pub(super) struct Socket {
    fd: OwnedFd,
    pub(super) received: Consumer<Descriptor>,
    pub(super) sending: Producer<Descriptor>,
    pub(super) fill: Producer<u64>,
    pub(super) done: Consumer<u64>,
}

impl Socket {
    /// Opens and binds a socket; says which step failed.
    pub(super) fn open(plan: &Plan) -> Result<Self, (&'static str, io::Error)> {
        let at = |step| move |error| (step, error);
        let fd = socket(libc::AF_XDP, libc::SOCK_RAW).map_err(at("open a socket"))?;
        let register = libc::xdp_umem_reg {
            addr: plan.memory.base as u64,
            len: plan.memory.len as u64,
            chunk_size: u32::try_from(plan.memory.stride).unwrap_or(u32::MAX),
            headroom: 0,
            flags: libc::XDP_UMEM_UNALIGNED_CHUNK_FLAG,
            tx_metadata_len: 0,
        };
        set(&fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &register).map_err(at("register the frames"))?;
        for (option, size) in [
            (libc::XDP_RX_RING, plan.receive),
            (libc::XDP_TX_RING, plan.send),
            (libc::XDP_UMEM_FILL_RING, 2 * plan.receive),
            (libc::XDP_UMEM_COMPLETION_RING, 2 * plan.send),
        ] {
            set(&fd, libc::SOL_XDP, option, &size).map_err(at("size the rings"))?;
        }
        let offsets: libc::xdp_mmap_offsets = get(&fd, libc::XDP_MMAP_OFFSETS).map_err(at("ask for the rings"))?;
        let map = |offset, size, page| Ring::map(&fd, offset, size, page).map_err(at("map the rings"));
        let received = map(&offsets.rx, plan.receive, libc::XDP_PGOFF_RX_RING.cast_unsigned())?;
        let sending = map(&offsets.tx, plan.send, libc::XDP_PGOFF_TX_RING.cast_unsigned())?;
        let map = |offset, size, page| Ring::map(&fd, offset, size, page).map_err(at("map the rings"));
        let fill = map(&offsets.fr, 2 * plan.receive, libc::XDP_UMEM_PGOFF_FILL_RING)?;
        let done = map(&offsets.cr, 2 * plan.send, libc::XDP_UMEM_PGOFF_COMPLETION_RING)?;
        bind(&fd, plan).map_err(at("bind the socket"))?;
        Ok(Socket {
            received: Consumer(received),
            sending: Producer(sending),
            fill: Producer(fill),
            done: Consumer(done),
            fd,
        })
    }

    /// Whether the driver works on the frames themselves.
    pub(super) fn is_zero_copy(&self) -> io::Result<bool> {
        let options: libc::xdp_options = get(&self.fd, libc::XDP_OPTIONS)?;
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    pub(super) fn statistics(&self) -> io::Result<Statistics> {
        get(&self.fd, libc::XDP_STATISTICS)
    }

    /// Lets the worker drive the device's queue: for `microseconds` at most, `budget` packets at a time.
    pub(super) fn busy_poll(&self, microseconds: u32, budget: u32) -> io::Result<()> {
        set(&self.fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1u32)?;
        set(&self.fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &microseconds)?;
        set(&self.fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &budget)
    }

    /// How many bytes may be under way to the device in copy mode.
    pub(super) fn send_room(&self, bytes: u32) -> io::Result<()> {
        set(&self.fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
    }

    /// Asks the kernel to send what is in the ring.
    pub(super) fn kick_send(&self) -> io::Result<()> {
        // SAFETY: a living descriptor; no bytes and no address.
        let sent =
            unsafe { libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Asks the kernel to look at the fill ring.
    pub(super) fn kick_receive(&self) {
        let (fd, null) = (self.fd.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: a living descriptor; no bytes and no address. What it answers changes nothing for us.
        let _ = unsafe { libc::recvfrom(fd, null, 0, libc::MSG_DONTWAIT, null.cast(), std::ptr::null_mut()) };
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A ring that we fill and the kernel empties.
pub(super) struct Producer<T>(Ring<T>);

impl<T: Copy> Producer<T> {
    /// How many entries fit.
    #[inline(always)]
    pub(super) fn room(&self) -> u32 {
        self.0.size - self.held()
    }

    /// How many entries the kernel has not yet taken, unpublished ones included.
    #[inline(always)]
    pub(super) fn held(&self) -> u32 {
        self.0.ours.wrapping_sub(self.0.consumer().load(Acquire)).min(self.0.size)
    }

    /// Writes an entry, not yet for the kernel to see. Only where there is room.
    #[inline(always)]
    pub(super) fn put(&mut self, entry: T) {
        let at = self.0.entry(self.0.ours);
        // SAFETY: `at` is inside the mapped ring, aligned for T; the kernel does not read it before it is published.
        unsafe { at.write(entry) };
        self.0.ours = self.0.ours.wrapping_add(1);
    }

    /// Shows the kernel all entries written.
    #[inline(always)]
    pub(super) fn publish(&self) {
        self.0.producer().store(self.0.ours, Release);
    }

    /// Whether the kernel sleeps on this ring until it is called.
    #[inline(always)]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.0.flags().load(Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that the kernel fills and we empty.
pub(super) struct Consumer<T>(Ring<T>);

impl<T: Copy> Consumer<T> {
    /// How many entries wait.
    #[inline(always)]
    pub(super) fn waiting(&self) -> u32 {
        self.0.producer().load(Acquire).wrapping_sub(self.0.ours).min(self.0.size)
    }

    /// Takes an entry, which stays in the ring until `release`. Only where one waits.
    #[inline(always)]
    pub(super) fn take(&mut self) -> T {
        let at = self.0.entry(self.0.ours);
        self.0.ours = self.0.ours.wrapping_add(1);
        // SAFETY: `at` is inside the mapped ring, aligned for T, which is plain numbers; the kernel leaves it alone
        // until it is released.
        unsafe { at.read() }
    }

    /// Gives the places of all entries taken back to the kernel.
    #[inline(always)]
    pub(super) fn release(&self) {
        self.0.consumer().store(self.0.ours, Release);
    }
}

struct Ring<T> {
    start: NonNull<u8>,
    len: usize,
    producer: usize, // where in the mapping
    consumer: usize,
    flags: usize,
    entries: NonNull<T>,
    size: u32, // a power of two
    ours: u32, // our counter, ahead of what the kernel was shown
}
// SAFETY: a ring is the only owner of its mapping; what the kernel does to it does not depend on the thread.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Ring<T> {
    fn map(fd: &OwnedFd, offset: &libc::xdp_ring_offset, size: u32, page: u64) -> io::Result<Self> {
        let field = |at: u64| usize::try_from(at).map_err(io::Error::other);
        let len = field(offset.desc)? + size as usize * size_of::<T>();
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        let page = page.cast_signed();
        // SAFETY: a new mapping where the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), page) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel says that the entries begin there; the mapping was made long enough for them.
        let entries = unsafe { start.add(field(offset.desc)?) }.cast();
        let [producer, consumer, flags] =
            [field(offset.producer)?, field(offset.consumer)?, field(offset.flags)?].map(|at| at.min(len - 4) & !3);
        Ok(Ring { start, len, producer, consumer, flags, entries, size, ours: 0 })
    }

    #[inline(always)]
    fn producer(&self) -> &AtomicU32 {
        self.number(self.producer)
    }

    #[inline(always)]
    fn consumer(&self) -> &AtomicU32 {
        self.number(self.consumer)
    }

    #[inline(always)]
    fn flags(&self) -> &AtomicU32 {
        self.number(self.flags)
    }

    #[inline(always)]
    fn number(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `map` has put the three places inside the mapping.
        let number = unsafe { self.start.add(at) }.cast::<AtomicU32>();
        // SAFETY: aligned, mapped as long as `self`, and only accessed atomically by both sides.
        unsafe { number.as_ref() }
    }

    #[inline(always)]
    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: below `size`, and the mapping has room for `size` entries.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }.as_ptr()
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody can refer to it any more.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A socket by which the network devices of its namespace are asked.
pub(super) struct Control(OwnedFd);

impl Control {
    /// Of the network namespace that the calling thread is in.
    pub(super) fn new() -> io::Result<Self> {
        socket(libc::AF_INET, libc::SOCK_DGRAM).map(Control)
    }

    /// The device's flags (`IFF_...`).
    pub(super) fn flags(&self, name: &str) -> io::Result<i32> {
        let [a, b, ..] = self.ask(libc::SIOCGIFFLAGS, name, [0; 24])?;
        Ok(i32::from(u16::from_ne_bytes([a, b])))
    }

    /// The longest network packet, in bytes.
    pub(super) fn mtu(&self, name: &str) -> io::Result<u32> {
        let [a, b, c, d, ..] = self.ask(libc::SIOCGIFMTU, name, [0; 24])?;
        Ok(u32::from_ne_bytes([a, b, c, d]))
    }

    /// The device's number.
    pub(super) fn number(&self, name: &str) -> io::Result<u32> {
        let [a, b, c, d, ..] = self.ask(libc::SIOCGIFINDEX, name, [0; 24])?;
        Ok(u32::from_ne_bytes([a, b, c, d]))
    }

    /// What the driver answers: at most 196 bytes.
    pub(super) fn driver(&self, name: &str, what: Ask) -> io::Result<[u8; 256]> {
        let mut answer = Answer([0; 256]);
        if let Some(command) = answer.0.first_chunk_mut() {
            *command = (what as u32).to_ne_bytes();
        }
        let mut value = [0; 24];
        if let Some(pointer) = value.first_chunk_mut() {
            *pointer = (&raw mut answer).expose_provenance().to_ne_bytes();
        }
        self.ask(libc::SIOCETHTOOL, name, value)?;
        Ok(answer.0)
    }

    fn ask(&self, request: libc::Ioctl, name: &str, value: [u8; 24]) -> io::Result<[u8; 24]> {
        let mut record = Record { name: [0; 16], value };
        let place = record.name.get_mut(..name.len()).filter(|place| place.len() < 16);
        place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
        // SAFETY: as large as the kernel's `struct ifreq`; a pointer in it is to an answer larger than any asked for.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, &raw mut record) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(record.value) }
    }
}

/// What a driver can be asked (linux/ethtool.h).
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Ask {
    Name = 0x03,
    Link = 0x0a,
    Channels = 0x3c,
}

#[repr(C, align(8))]
struct Answer([u8; 256]);

#[repr(C, align(8))]
struct Record {
    name: [u8; 16],
    value: [u8; 24],
}

fn bind(fd: &OwnedFd, plan: &Plan) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).unwrap_or(0),
        sxdp_flags: plan.flags,
        sxdp_ifindex: plan.device,
        sxdp_queue_id: plan.queue,
        sxdp_shared_umem_fd: 0,
    };
    let (at, len) = ((&raw const address).cast(), size::<libc::sockaddr_xdp>());
    // SAFETY: a complete address of this family.
    let result = unsafe { libc::bind(fd.as_raw_fd(), at, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn socket(family: i32, kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let at = std::ptr::from_ref(value).cast();
    // SAFETY: the kernel reads no more than the value. Frames whose registration this may be are mapped for ever, and
    // the kernel writes only to those that are lent to it.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, at, size::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn get<T>(fd: &OwnedFd, option: i32) -> io::Result<T> {
    // SAFETY: only called for structures of numbers, for which zeroes are valid.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut len = size::<T>();
    let at = (&raw mut value).cast();
    // SAFETY: the kernel writes no more than `len`, which is the value's size.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, at, &raw mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn size<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
