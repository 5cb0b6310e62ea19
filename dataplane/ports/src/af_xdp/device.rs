//! What the system says of a network device: asked when it is opened, and now and then whether its link is up.
use super::sys::{Ask, Control};
use engine::LinkState;
use std::io;

/// A device as it was when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) number: u32,
    pub(super) mtu: u32,
    pub(super) queues: u16,
    pub(super) driver: String,
}

impl Device {
    pub(super) fn find(control: &Control, name: &str) -> io::Result<Self> {
        let (number, mtu) = (control.number(name)?, control.mtu(name)?);
        // Receiving ones and combined ones; a driver that does not say has one.
        let channels = control.driver(name, Ask::Channels);
        let queues = channels.map_or(1, |found| word(&found, 20) + word(&found, 32));
        let driver = control.driver(name, Ask::Name).map_or(String::new(), |found| {
            let name = found.get(4..36).unwrap_or_default();
            String::from_utf8_lossy(name).trim_end_matches('\0').into()
        });
        Ok(Device { number, mtu, queues: u16::try_from(queues).unwrap_or(u16::MAX).max(1), driver })
    }

    /// Whether what it receives may never have been on a wire: then a checksum may be partial, without a sign of it.
    pub(super) fn is_virtual(&self) -> bool {
        VIRTUAL.contains(&self.driver.as_str())
    }
}

/// Whether the link is up, asked at most every so many times.
pub(super) struct Link {
    control: Control,
    name: String,
    calls: u32,
    state: LinkState,
}

impl Link {
    pub(super) fn new(control: Control, name: String) -> Self {
        Link { control, name, calls: 0, state: LinkState::Up }
    }

    pub(super) fn state(&mut self) -> LinkState {
        if self.calls.is_multiple_of(CALLS) {
            self.state = match self.carrier() {
                Ok(true) => LinkState::Up,
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => LinkState::Gone,
                _ => LinkState::Down,
            };
        }
        self.calls = self.calls.wrapping_add(1);
        self.state
    }

    // The driver knows at once; the flags follow, up to a second later, and are there on every device.
    fn carrier(&self) -> io::Result<bool> {
        match self.control.driver(&self.name, Ask::Link) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let up = libc::IFF_UP | libc::IFF_RUNNING;
                Ok(self.control.flags(&self.name)? & up == up)
            }
            found => Ok(word(&found?, 4) != 0),
        }
    }

    /// Something failed: the next call asks.
    pub(super) fn doubt(&mut self) {
        self.calls = 0;
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_ne_bytes(*word))
}

const CALLS: u32 = 256;
const VIRTUAL: [&str; 6] = ["veth", "tun", "virtio_net", "netkit", "macvlan", "xen_netfront"];
