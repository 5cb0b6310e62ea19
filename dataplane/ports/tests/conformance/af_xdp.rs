//! `af_xdp`, in the driver and before the host's stack: the far side is a packet socket at the other end of a veth
//! pair.
use super::{
    suite::{Port, Rig, conformance},
    tap::{far_side, read},
};
use crate::pair::{OURS, PEERS, Pair};
use engine::{Device, Frames, OpenError, Queue};
use pnet_datalink::{DataLinkReceiver, DataLinkSender};
use ports::{
    af_xdp::{AfXdp, Settings},
    steer::{Attach, Mode, Steering},
};
use std::sync::Arc;

struct Far {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
    pair: Arc<Pair>,
}

impl Far {
    fn set_up(attach: Attach, mtu: usize) -> Option<(Self, Box<dyn Device>)> {
        let pair = Arc::new(Pair::new("ports::af_xdp", mtu, 1)?);
        let (sender, receiver) = pair.peer.within(|| far_side(PEERS));
        let steering = pair.ours.within(|| Steering::attach(OURS, attach, Mode::Owned, &pair.pins())).unwrap();
        let settings = Settings { receive_ring: 512, send_ring: 256, ..Settings::new(OURS) };
        let port = Box::new(AfXdp::new(settings, Arc::new(steering)));
        let inside = Box::new(Inside { port, pair: pair.clone() });
        Some((Far { sender, receiver, pair }, inside))
    }
}

/// The port, which opens in its device's namespace.
struct Inside {
    port: Box<AfXdp>,
    pair: Arc<Pair>,
}

impl Device for Inside {
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError> {
        let Inside { port, pair } = *self;
        pair.ours.within(|| port.open(workers))
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
                self.0.pair.peer.ip(&format!("link set {PEERS} {}", if up { "up" } else { "down" }));
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
