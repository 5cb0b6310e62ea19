//! `af_xdp`, in the driver and before the host's stack: the far side is a packet socket at the other end of a veth pair.
use super::{
    space::Space,
    suite::{Port, Rig, conformance},
    tap::{far_side, read},
};
use engine::{Device, Frames, OpenError, Queue};
use pnet_datalink::{DataLinkReceiver, DataLinkSender};
use ports::{
    af_xdp::{AfXdp, Settings},
    steer::{Attach, Mode, Steering, mount_bpffs},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

struct Far {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
    pins: PathBuf,
    _ours: Arc<Space>,
    theirs: Space,
}

impl Drop for Far {
    fn drop(&mut self) {
        let _none = std::fs::remove_dir_all(&self.pins);
    }
}

const OURS: &str = "u0";
const THEIRS: &str = "p0";

impl Far {
    fn set_up(attach: Attach, mtu: u16) -> Option<(Self, Box<dyn Device>)> {
        let (ours, theirs) = (Arc::new(Space::new("ports::af_xdp")?), Space::new("ports::af_xdp")?);
        let peer = format!("peer name {THEIRS} mtu {mtu} netns {}", theirs.name);
        ours.ip(&format!("link add {OURS} mtu {mtu} type veth {peer}"));
        for (space, device) in [(&theirs, THEIRS), (&*ours, OURS)] {
            space.ip(&format!("link set {device} addrgenmode none")); // so the kernel says nothing by itself
            space.ip(&format!("link set {device} up"));
        }
        let (sender, receiver) = theirs.within(|| far_side(THEIRS));
        let bpf = Path::new("/run/millrace-test/bpf");
        mount_bpffs(bpf).unwrap();
        let pins = bpf.join(&ours.name);
        let steering = ours.within(|| Steering::attach(OURS, attach, Mode::Owned, &pins)).unwrap();
        let settings = Settings { receive_ring: 512, send_ring: 256, ..Settings::new(OURS) };
        let port = Box::new(AfXdp::new(settings, Arc::new(steering)));
        let inside = Box::new(Inside { port, space: ours.clone() });
        Some((Far { sender, receiver, pins, _ours: ours, theirs }, inside))
    }
}

/// The port, which opens in its device's namespace.
struct Inside {
    port: Box<AfXdp>,
    space: Arc<Space>,
}

impl Device for Inside {
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError> {
        let Inside { port, space } = *self;
        space.within(|| port.open(workers))
    }
}

/// A rig for each way of attaching.
macro_rules! rig {
    ($rig:ident, $attach:expr, $mtu:expr) => {
        struct $rig(Far);

        impl Rig for $rig {
            const DEPTH: Option<usize> = None;

            fn set_up() -> Option<(Self, Box<dyn Device>)> {
                Far::set_up($attach, $mtu).map(|(far, device)| ($rig(far), device))
            }

            fn put(&mut self, _: &mut Port, frame: &[u8]) {
                // The first call after the device was down says so, once.
                let sent = self.0.sender.send_to(frame, None).unwrap();
                sent.or_else(|_| self.0.sender.send_to(frame, None).unwrap()).unwrap();
            }

            fn get(&mut self, _: &mut Port) -> Vec<Vec<u8>> {
                read(&mut *self.0.receiver)
            }

            fn set_link(&mut self, up: bool) -> bool {
                self.0.theirs.ip(&format!("link set {THEIRS} {}", if up { "up" } else { "down" }));
                true
            }
        }
    };
}

rig!(Native, Attach::Native, 1500);
rig!(Generic, Attach::Generic, 1500);
rig!(NativeJumbo, Attach::Native, 9000);
rig!(GenericJumbo, Attach::Generic, 9000);

conformance!(native, super::Native);
conformance!(generic, super::Generic);
conformance!(native_jumbo, super::NativeJumbo);
conformance!(generic_jumbo, super::GenericJumbo);
