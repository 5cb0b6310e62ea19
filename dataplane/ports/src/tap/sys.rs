// UNSAFETY: the tun driver and network devices are configured by ioctl alone, which takes pointers to C structures.
#![expect(unsafe_code, reason = "ioctl")]
use super::header::HEADER;
use libc::{
    IFF_DETACH_QUEUE, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_RUNNING, IFF_TAP, IFF_UP, IFF_VNET_HDR, Ioctl, SIOCGIFFLAGS,
    SIOCGIFHWADDR, SIOCGIFMTU, SIOCSIFFLAGS, SIOCSIFHWADDR, SIOCSIFMTU, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4,
    TUN_F_USO6, TUNGETIFF, TUNSETIFF, TUNSETOFFLOAD, TUNSETPERSIST, TUNSETQUEUE, TUNSETVNETHDRSZ, c_int, c_short,
    c_uint, c_ulong, ifreq,
};
use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Makes `queue`, an open `/dev/net/tun`, a queue of the tap `name`, which is made when it is not there.
pub(super) fn attach(queue: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = flags(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
    ask(queue, TUNSETIFF, &mut request)
}

/// Takes `queue` out of use; the device keeps its carrier as long as any queue is open.
pub(super) fn detach(queue: BorrowedFd<'_>) -> io::Result<()> {
    let mut request = request("")?;
    request.ifr_ifru.ifru_flags = flags(IFF_DETACH_QUEUE);
    ask(queue, TUNSETQUEUE, &mut request)
}

/// The name of the device of `queue`, and whether it has virtio headers.
pub(super) fn name(queue: BorrowedFd<'_>) -> io::Result<(String, bool)> {
    let mut request = request("")?;
    ask(queue, TUNGETIFF, &mut request)?;
    // SAFETY: every bit pattern is a number, and the kernel has written this member.
    let got = unsafe { request.ifr_ifru.ifru_flags };
    let bytes = request.ifr_name.map(c_char_byte);
    let name = CStr::from_bytes_until_nul(&bytes).map_err(io::Error::other)?;
    Ok((name.to_string_lossy().into_owned(), c_int::from(got) & IFF_VNET_HDR != 0))
}

/// Lets the device outlive its last queue, or not.
pub(super) fn persist(queue: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    ask_value(queue, TUNSETPERSIST, c_ulong::from(on))
}

/// The length of the virtio header, and what of offloads the reader of the device's queues takes; gives whether UDP
/// super-frames are among them: Linux before 6.2 refuses them.
pub(super) fn offload(queue: BorrowedFd<'_>) -> io::Result<bool> {
    let mut size: c_int = HEADER.try_into().map_err(io::Error::other)?;
    ask(queue, TUNSETVNETHDRSZ, &mut size)?;
    let tcp: c_uint = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    if ask_value(queue, TUNSETOFFLOAD, (tcp | TUN_F_USO4 | TUN_F_USO6).into()).is_ok() {
        return Ok(true);
    }
    ask_value(queue, TUNSETOFFLOAD, tcp.into())?;
    Ok(false)
}

/// Sets the address of the device `name` in the namespace of `control`, any socket. When it has that already nothing is
/// done: the kernel would forget its neighbours.
pub(super) fn set_address(control: BorrowedFd<'_>, name: &str, mac: [u8; 6]) -> io::Result<()> {
    let mut request = request(name)?;
    ask(control, SIOCGIFHWADDR, &mut request)?;
    // SAFETY: every bit pattern is a number, and the kernel has written this member.
    let mut address = unsafe { request.ifr_ifru.ifru_hwaddr };
    if address.sa_data.map(c_char_byte).starts_with(&mac) {
        return Ok(());
    }
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_hwaddr = address;
    ask(control, SIOCSIFHWADDR, &mut request)
}

/// Sets the longest network packet of the device `name`, in bytes.
pub(super) fn set_mtu(control: BorrowedFd<'_>, name: &str, mtu: u16) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = mtu.into();
    ask(control, SIOCSIFMTU, &mut request)
}

/// The longest network packet of the device `name`, in bytes.
pub(super) fn mtu(control: BorrowedFd<'_>, name: &str) -> io::Result<u16> {
    let mut request = request(name)?;
    ask(control, SIOCGIFMTU, &mut request)?;
    // SAFETY: every bit pattern is a number, and the kernel has written this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u16::try_from(mtu).map_err(io::Error::other)
}

/// Sets the device `name` up or down.
pub(super) fn set_up(control: BorrowedFd<'_>, name: &str, up: bool) -> io::Result<()> {
    let mut request = request(name)?;
    ask(control, SIOCGIFFLAGS, &mut request)?;
    // SAFETY: every bit pattern is a number, and the kernel has written this member.
    let old = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = if up { old | flags(IFF_UP) } else { old & !flags(IFF_UP) };
    ask(control, SIOCSIFFLAGS, &mut request)
}

/// Whether the device `name` is up and has a carrier.
pub(super) fn runs(control: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let mut request = request(name)?;
    ask(control, SIOCGIFFLAGS, &mut request)?;
    // SAFETY: every bit pattern is a number, and the kernel has written this member.
    let got = unsafe { request.ifr_ifru.ifru_flags };
    let both = flags(IFF_UP | IFF_RUNNING);
    Ok(got & both == both)
}

fn request(name: &str) -> io::Result<ifreq> {
    // SAFETY: the structure consists of numbers and arrays of them, for which zero is valid.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    let too_long = name.len() >= request.ifr_name.len();
    if too_long || name.bytes().any(|byte| byte == 0) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn c_char_byte(c: libc::c_char) -> u8 {
    let [byte] = c.to_ne_bytes();
    byte
}

/// The kernel's field for flags is a `short`, although one of them is its sign.
fn flags(bits: c_int) -> c_short {
    let [low, high, ..] = bits.to_le_bytes();
    c_short::from_le_bytes([low, high])
}

/// One of the requests of this file whose argument is a structure of type `T`.
fn ask<T>(fd: BorrowedFd<'_>, what: Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: the descriptor is open, and each request that this file passes reads and writes no more than a `T`: an
    // `ifreq`, or an `int` for TUNSETVNETHDRSZ.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), what, std::ptr::from_mut(argument)) })
}

/// One of the requests of this file whose argument is a number.
fn ask_value(fd: BorrowedFd<'_>, what: Ioctl, value: c_ulong) -> io::Result<()> {
    // SAFETY: the descriptor is open, and TUNSETPERSIST and TUNSETOFFLOAD take their argument as a number.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), what, value) })
}

fn done(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
