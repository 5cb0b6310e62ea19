//! bpf(2): maps, programs, links, pins.
// UNSAFETY: the kernel reads and writes through addresses that stand in bpf(2)'s attributes; no safe wrapper of it is
// small enough to carry.
#![expect(unsafe_code, reason = "bpf(2) is a system call on raw addresses")]
use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What kind of map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MapKind {
    Hash = 1,
    PerCpuArray = 6,
    LruHash = 9,
    Prefixes = 11,
    Sockets = 17,
}

/// A map's shape; the buffers of every call are checked against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: MapKind,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
}

/// A map of the kernel.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    shape: Shape,
}

impl Map {
    /// Makes an empty map.
    pub(super) fn new(name: &str, shape: Shape) -> io::Result<Self> {
        let mut attr = Attr::new();
        attr.u32(0, shape.kind as u32);
        attr.u32(4, shape.key);
        attr.u32(8, shape.value);
        attr.u32(12, shape.entries);
        attr.u32(16, if shape.kind == MapKind::Prefixes { NO_PREALLOC } else { 0 });
        attr.name(28, name);
        Ok(Map { fd: descriptor(bpf(Command::MapCreate, &mut attr)?), shape })
    }

    /// Opens the map pinned at `path`, which must have this shape.
    pub(super) fn open(path: &Path, shape: Shape) -> io::Result<Self> {
        let map = Map { fd: open(path)?, shape };
        let mut found = [0u8; 24]; // struct bpf_map_info: type, id, key, value, entries, flags
        information(&map.fd, &mut found)?;
        let word =
            |at: usize| found.get(at..at + 4).map(|bytes| bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)));
        let same = [(0, shape.kind as u32), (8, shape.key), (12, shape.value), (16, shape.entries)]
            .into_iter()
            .all(|(at, value)| word(at) == Some(value));
        same.then_some(map)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a map of another shape is pinned"))
    }

    /// Its descriptor, as a program names it.
    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        pin(&self.fd, path)
    }

    pub(super) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut attr = self.element(key)?;
        check(value.len() == self.shape.value as usize)?;
        attr.u64(16, value.as_ptr().addr() as u64);
        bpf(Command::MapUpdate, &mut attr).map(drop)
    }

    /// Removes a key; one that is not there is no error.
    pub(super) fn remove(&self, key: &[u8]) -> io::Result<()> {
        match bpf(Command::MapDelete, &mut self.element(key)?) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// One value for every possible CPU (`cpus`), each of 8 bytes.
    pub(super) fn per_cpu(&self, key: &[u8], cpus: usize) -> io::Result<Vec<u64>> {
        check(self.shape.kind == MapKind::PerCpuArray && self.shape.value == 8)?;
        let mut values = vec![0u64; cpus];
        let mut attr = self.element(key)?;
        attr.u64(16, values.as_mut_ptr().addr() as u64);
        bpf(Command::MapLookup, &mut attr)?;
        Ok(values)
    }

    /// All keys, which are of `KEY` bytes.
    pub(super) fn keys<const KEY: usize>(&self) -> io::Result<HashSet<[u8; KEY]>> {
        check(KEY == self.shape.key as usize)?;
        let (mut keys, mut last) = (HashSet::new(), None::<[u8; KEY]>);
        loop {
            let mut next = [0u8; KEY];
            let mut attr = Attr::new();
            attr.u32(0, self.raw().cast_unsigned());
            attr.u64(8, last.as_ref().map_or(0, |key| key.as_ptr().addr() as u64));
            attr.u64(16, next.as_mut_ptr().addr() as u64);
            match bpf(Command::MapNextKey, &mut attr) {
                Ok(_) if keys.insert(next) => last = Some(next),
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                _ => return Ok(keys),
            }
        }
    }

    fn element(&self, key: &[u8]) -> io::Result<Attr> {
        check(key.len() == self.shape.key as usize)?;
        let mut attr = Attr::new();
        attr.u32(0, self.raw().cast_unsigned());
        attr.u64(8, key.as_ptr().addr() as u64);
        Ok(attr)
    }
}

/// Loads an XDP program that takes packets of several buffers; what the verifier said comes with the error.
pub(super) fn load(name: &str, code: &[u64]) -> Result<OwnedFd, (io::Error, String)> {
    let mut attr = Attr::new();
    let licence = c"Apache-2.0";
    attr.u32(0, PROGRAM_XDP);
    attr.u32(4, u32::try_from(code.len()).unwrap_or(u32::MAX));
    attr.u64(8, code.as_ptr().addr() as u64);
    attr.u64(16, licence.as_ptr().addr() as u64);
    attr.u32(44, XDP_HAS_FRAGS);
    attr.name(48, name);
    attr.u32(68, ATTACH_XDP);
    match bpf(Command::ProgramLoad, &mut attr) {
        Ok(fd) => return Ok(descriptor(fd)),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Err((error, String::new())),
        Err(_) => {}
    }
    let mut log = vec![0u8; 1 << 20]; // asked for only now: a program that loads needs none
    attr.u32(24, 1);
    attr.u32(28, 1 << 20);
    attr.u64(32, log.as_mut_ptr().addr() as u64);
    let result = bpf(Command::ProgramLoad, &mut attr).map(descriptor);
    result.map_err(|error| {
        log.truncate(log.iter().position(|byte| *byte == 0).unwrap_or(0));
        (error, String::from_utf8_lossy(&log).into_owned())
    })
}

/// Attaches a program to a device of this network namespace until the link goes.
pub(super) fn attach(program: &OwnedFd, device: u32, native: bool) -> io::Result<OwnedFd> {
    let mut attr = Attr::new();
    attr.u32(0, program.as_raw_fd().cast_unsigned());
    attr.u32(4, device);
    attr.u32(8, ATTACH_XDP);
    attr.u32(12, if native { DRIVER_MODE } else { SKB_MODE });
    bpf(Command::LinkCreate, &mut attr).map(descriptor)
}

/// Puts `program` in the place of the link's, without a packet between them.
pub(super) fn replace(link: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    let mut attr = Attr::new();
    attr.u32(0, link.as_raw_fd().cast_unsigned());
    attr.u32(4, program.as_raw_fd().cast_unsigned());
    bpf(Command::LinkUpdate, &mut attr).map(drop)
}

/// Takes the link's program off the device, whoever else holds the link.
pub(super) fn detach(link: &OwnedFd) -> io::Result<()> {
    let mut attr = Attr::new();
    attr.u32(0, link.as_raw_fd().cast_unsigned());
    bpf(Command::LinkDetach, &mut attr).map(drop)
}

/// The number of the device that a link is on; zero when the device is gone.
pub(super) fn device_of(link: &OwnedFd) -> io::Result<u32> {
    let mut found = [0u8; 24]; // struct bpf_link_info: type, id, program, padding, device
    information(link, &mut found)?;
    Ok(found.iter().skip(16).take(4).rev().fold(0, |n, byte| n << 8 | u32::from(*byte)))
}

/// Runs a program on `frame` as if queue 0 of device 1 had received it: what it returns.
pub(super) fn run(program: &OwnedFd, frame: &[u8]) -> io::Result<u32> {
    let mut attr = Attr::new();
    attr.u32(0, program.as_raw_fd().cast_unsigned());
    attr.u32(8, u32::try_from(frame.len()).map_err(io::Error::other)?);
    attr.u64(16, frame.as_ptr().addr() as u64);
    attr.u32(32, 1);
    bpf(Command::ProgramRun, &mut attr)?;
    Ok(attr.read(4))
}

/// Keeps an object at `path` of a bpf file system, whoever ends.
pub(super) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Attr::new();
    attr.u64(0, path.as_ptr().addr() as u64);
    attr.u32(8, object.as_raw_fd().cast_unsigned());
    bpf(Command::Pin, &mut attr).map(drop)
}

/// Opens what is pinned at `path`.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Attr::new();
    attr.u64(0, path.as_ptr().addr() as u64);
    bpf(Command::Open, &mut attr).map(descriptor)
}

/// Whether `dir` lies in a bpf file system.
pub(super) fn is_bpf(dir: &Path) -> io::Result<bool> {
    let path = c_path(dir)?;
    // SAFETY: all zeroes is a valid statfs.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero and `found` is a statfs; the kernel writes no more than that.
    let result = unsafe { libc::statfs(path.as_ptr(), &raw mut found) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(found.f_type == BPF_FS) }
}

/// Mounts a bpf file system at `dir`.
pub(super) fn mount(dir: &Path) -> io::Result<()> {
    let path = c_path(dir)?;
    let bpf = c"bpf".as_ptr();
    // SAFETY: three strings that end with a zero, and no data.
    let result = unsafe { libc::mount(bpf, path.as_ptr(), bpf, 0, std::ptr::null()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of a device of this network namespace.
pub(super) fn device(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: a string that ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        number => Ok(number),
    }
}

/// bpf(2)'s attributes: fields at the offsets of `union bpf_attr` (linux/bpf.h), all else zero.
#[repr(C, align(8))]
struct Attr([u8; 144]);

impl Attr {
    fn new() -> Self {
        Attr([0; 144])
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_ne_bytes());
    }

    fn u64(&mut self, at: usize, value: u64) {
        self.bytes(at, &value.to_ne_bytes());
    }

    fn name(&mut self, at: usize, name: &str) {
        self.bytes(at, name.as_bytes().get(..15).unwrap_or(name.as_bytes()));
    }

    fn read(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

#[derive(Clone, Copy)]
#[repr(i64)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgramLoad = 5,
    Pin = 6,
    Open = 7,
    ProgramRun = 10,
    Information = 15,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

// Private: every caller above has checked that each address in `attr` is that of a living buffer of the length that the
// kernel takes from the attributes or from the map's shape.
fn bpf(command: Command, attr: &mut Attr) -> io::Result<RawFd> {
    // SAFETY: the attributes are 144 bytes, the unused ones zero; the buffers that they name outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i64, attr.0.as_mut_ptr(), size_of::<Attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { RawFd::try_from(result).map_err(io::Error::other) }
}

fn descriptor(fd: RawFd) -> OwnedFd {
    // SAFETY: bpf(2) has just given this descriptor, and to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn information(object: &OwnedFd, found: &mut [u8]) -> io::Result<()> {
    let mut attr = Attr::new();
    attr.u32(0, object.as_raw_fd().cast_unsigned());
    attr.u32(4, u32::try_from(found.len()).map_err(io::Error::other)?);
    attr.u64(8, found.as_mut_ptr().addr() as u64);
    bpf(Command::Information, &mut attr).map(drop)
}

fn check(fits: bool) -> io::Result<()> {
    if fits { Ok(()) } else { Err(io::Error::from(io::ErrorKind::InvalidInput)) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

// linux/bpf.h, linux/if_link.h, linux/magic.h
const NO_PREALLOC: u32 = 1;
const PROGRAM_XDP: u32 = 6;
const XDP_HAS_FRAGS: u32 = 1 << 5;
const ATTACH_XDP: u32 = 37;
const SKB_MODE: u32 = 2;
const DRIVER_MODE: u32 = 4;
const BPF_FS: i64 = 0xcafe_4a11;
