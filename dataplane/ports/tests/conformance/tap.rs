//! `tap`: the far side is a packet socket in the pod's namespace.
use super::suite::{Port, Rig, conformance, ours};
use crate::netns::Space;
use engine::Device;
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, channel, interfaces};
use ports::tap::{CreateSettings, Created, Tap, create};
use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

struct Tapped {
    sender: Box<dyn DataLinkSender>,
    receiver: Box<dyn DataLinkReceiver>,
    _kept: OwnedFd,
    space: Space,
}

const DEVICE: &str = "eth0";

impl Rig for Tapped {
    const DEPTH: Option<usize> = None;

    fn set_up() -> Option<(Self, Box<dyn Device>)> {
        let space = Space::new("ports::tap")?;
        let netns = space.open();
        let mac = Some([2, 0, 0, 0, 0, 1]);
        let settings = CreateSettings { netns: Some(netns.as_fd()), name: DEVICE, mac, mtu: 4000, queues: 1 };
        let Created { queues, kept, control } = create(settings).unwrap();
        let (sender, receiver) = space.within(|| far_side(DEVICE));
        let tap = Tap::from_fds("tap", queues, control);
        Some((Tapped { sender, receiver, _kept: kept, space }, Box::new(tap)))
    }

    fn put(&mut self, _: &mut Port, frame: &[u8]) {
        // A packet socket says once that its device was down, be it up again (packet(7)).
        if self.sender.send_to(frame, None).unwrap().is_err() {
            self.sender.send_to(frame, None).unwrap().unwrap();
        }
    }

    fn get(&mut self, _: &mut Port) -> Vec<Vec<u8>> {
        read(&mut *self.receiver)
    }

    fn set_link(&mut self, up: bool) -> bool {
        self.space.ip(&format!("link set {DEVICE} {}", if up { "up" } else { "down" }));
        true
    }
}

/// A packet socket on `device` of this thread's namespace, both directions.
pub(crate) fn far_side(device: &str) -> (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>) {
    let interface = interfaces().into_iter().find(|interface| interface.name == device).unwrap();
    let read_timeout = Some(Duration::from_millis(100));
    let config = Config { read_timeout, write_buffer_size: 65_600, read_buffer_size: 65_600, ..Config::default() };
    match channel(&interface, config).unwrap() {
        Channel::Ethernet(sender, receiver) => (sender, receiver),
        _ => panic!("no Ethernet"),
    }
}

/// What has come, and what comes soon when nothing has.
pub(crate) fn read(receiver: &mut dyn DataLinkReceiver) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    while got.len() < 32 {
        match receiver.next() {
            Ok(frame) if ours(frame) => got.push(frame.to_vec()),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    got
}

conformance!(tap, super::Tapped);
