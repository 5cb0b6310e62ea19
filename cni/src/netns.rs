//! What is in the container's network namespace.
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    thread,
};

use nix::{
    libc::O_NONBLOCK,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use proto::attach::code;

use crate::fault::Fault;

/// One interface and the destinations of all routes, as the kernel shows them inside.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The interface is there.
    pub(crate) exists: bool,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Destinations of all interfaces, `address/length`.
    pub(crate) routes: BTreeSet<String>,
}

/// Looks at `ifname` in the namespace at `path`, from a thread that enters it and ends there.
pub(crate) fn look(path: &str, ifname: &str) -> Result<View, Fault> {
    let invalid = |error: &io::Error| {
        Fault::new(code::INVALID_NETNS, format!("CNI_NETNS {path} is not a network namespace"))
            .details(error.to_string())
    };
    // A pipe that nobody writes would hold us up, opened as a file is.
    let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path).map_err(|error| invalid(&error))?;
    match fstatfs(&file) {
        Ok(found) if found.filesystem_type() == NSFS_MAGIC => {}
        Ok(_) => return Err(invalid(&io::Error::other("it is another kind of file"))),
        Err(errno) => return Err(invalid(&errno.into())),
    }
    let (there, here) = (file.metadata(), fs::metadata("/proc/self/ns/net"));
    if let (Ok(there), Ok(here)) = (there, here)
        && (there.dev(), there.ino()) == (here.dev(), here.ino())
    {
        return Err(Fault::new(code::INVALID_NETNS, format!("CNI_NETNS {path} is the host's own network namespace")));
    }
    let ifname = ifname.to_owned();
    let inside = thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        view(&ifname)
    });
    match inside.join() {
        Ok(view) => view.map_err(|error| invalid(&error)),
        Err(_) => Err(Fault::new(code::IO, format!("looking into {path} failed"))),
    }
}

fn view(ifname: &str) -> io::Result<View> {
    let mut view = View::default();
    for entry in nix::ifaddrs::getifaddrs()?.filter(|entry| entry.interface_name == ifname) {
        view.exists = true;
        let Some(address) = entry.address else { continue };
        view.mac = address.as_link_addr().and_then(|link| link.addr()).or(view.mac);
        view.addresses.extend(address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip())));
        view.addresses.extend(address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())));
    }
    // The files of this thread's namespace, not of the process's.
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    view.routes.extend(read("route").lines().skip(1).filter_map(route4));
    view.routes.extend(read("ipv6_route").lines().filter_map(route6));
    Ok(view)
}

/// A line of /proc/net/route: destination and mask are the second and eighth word, in the machine's byte order.
fn route4(line: &str) -> Option<String> {
    let word = |n: usize| u32::from_str_radix(line.split_whitespace().nth(n)?, 16).ok();
    let address = std::net::Ipv4Addr::from(word(1)?.to_ne_bytes());
    Some(format!("{address}/{}", word(7)?.count_ones()))
}

/// A line of /proc/net/ipv6_route: destination and length are the first two words.
fn route6(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let address = std::net::Ipv6Addr::from(u128::from_str_radix(words.next()?, 16).ok()?);
    Some(format!("{address}/{}", u8::from_str_radix(words.next()?, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        assert_eq!(route4("eth0 00000000 0101FEA9 0003 0 0 0 00000000 0 0 0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!(route4("eth0 0101FEA9 00000000 0005 0 0 0 FFFFFFFF 0 0 0").as_deref(), Some("169.254.1.1/32"));
        let line = "fd000000000000000000000000000002 80 00000000000000000000000000000000 00 0 0 0 0 0 eth0";
        assert_eq!(route6(line).as_deref(), Some("fd00::2/128"));
        assert_eq!((route4("junk"), route6("")), (None, None));
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        assert_eq!(look("/nonexistent/netns", "eth0").unwrap_err().code, 8);
        assert_eq!(look("/dev/null", "eth0").unwrap_err().code, 8);
        assert_eq!(look("/proc/self/ns/net", "eth0").unwrap_err().code, 8);
        let folder = tempfile::tempdir().unwrap();
        let (pipe, file) = (folder.path().join("pipe"), folder.path().join("file"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(&file, "").unwrap();
        for path in [pipe, file] {
            let fault = look(path.to_str().unwrap(), "eth0").unwrap_err();
            assert!(fault.code == 8 && fault.details.contains("another kind"), "{fault}");
        }
    }
}
