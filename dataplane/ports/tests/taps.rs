//! What the keeper does with taps: they outlive worker processes and keep their carrier, and go when they are removed.
mod netns;

use engine::{Device, FrameCounts, Frames, LinkState, OpenError, Queue};
use netns::Space;
use ports::tap::{CreateSettings, Created, Tap, create, remove};
use std::{net::UdpSocket, os::fd::AsFd, process::Command};

const NAME: &str = "eth0";

fn make(space: &Space, queues: u16) -> Result<Created, OpenError> {
    let netns = space.open();
    create(CreateSettings { netns: Some(netns.as_fd()), name: NAME, mac: Some([2, 0, 0, 0, 0, 1]), mtu: 1450, queues })
}

type Opened = (Vec<Box<dyn Queue>>, Vec<Frames>);

fn open(created: Created, workers: usize) -> Result<Opened, OpenError> {
    let counts = FrameCounts { small: 64, jumbo: 0, super_: 2, packets: 64 };
    let frames = |i| Frames::new(i, counts, hugepages::Settings::new(0)).unwrap();
    let mut workers: Vec<_> = (0..u8::try_from(workers).unwrap()).map(frames).collect();
    let tap = Tap::from_fds("pod", created.queues, created.control);
    Ok((Box::new(tap).open(&mut workers)?, workers))
}

/// What `ip` says of the device; nothing when there is none.
fn shown(space: &Space) -> String {
    let out = Command::new("ip").args(["-n", &space.name, "link", "show", NAME]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// The numbers of the datagrams that arrive at the queues, of those which `space` sends to `flows` ports.
fn arrived(space: &Space, queues: &mut [Box<dyn Queue>], frames: &mut [Frames], flows: u8) -> Vec<u8> {
    space.within(|| {
        for flow in 0..flows {
            let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
            socket.send_to(&[flow; 10], ("10.9.0.2", 2000 + u16::from(flow))).unwrap();
        }
    });
    let mut got = Vec::new();
    for (queue, frames) in queues.iter_mut().zip(frames) {
        let mut into = Vec::new();
        queue.receive(frames, &mut into, 64);
        for packet in into {
            got.extend(packet.data().get(42).filter(|_| packet.data()[12..14] == [8, 0]));
            frames.put(packet);
        }
    }
    got.sort_unstable();
    got
}

#[test]
fn a_tap_outlives_its_worker_process_and_keeps_its_carrier() {
    let Some(space) = Space::new("a_tap_outlives_its_worker_process") else { return };
    let mut first = make(&space, 1).unwrap();
    space.ip("addr add 10.9.0.1/24 dev eth0");
    space.ip("neigh add 10.9.0.2 dev eth0 lladdr 02:00:00:00:00:02");
    assert!(shown(&space).contains("mtu 1450") && shown(&space).contains("02:00:00:00:00:01"));
    let index = shown(&space).split(':').next().unwrap().to_owned();

    first.queues.clear(); // the worker process died
    assert!(shown(&space).contains("LOWER_UP"), "{}", shown(&space));
    let second = make(&space, 1).unwrap();
    assert!(shown(&space).starts_with(&format!("{index}:")), "the same device");
    drop(first);
    let (mut queues, mut frames) = open(second, 1).unwrap();
    assert_eq!(arrived(&space, &mut queues, &mut frames, 20), Vec::from_iter(0..20));
    assert_eq!(queues[0].can().longest, 1464);

    drop(queues); // the keeper died, too
    assert!(shown(&space).contains("NO-CARRIER"), "{}", shown(&space));
    let third = make(&space, 1).unwrap();
    assert!(shown(&space).starts_with(&format!("{index}:")) && shown(&space).contains("LOWER_UP"));
    let Created { queues, kept, .. } = third;
    remove(kept).unwrap();
    drop(queues);
    assert_eq!(shown(&space), "");
}

#[test]
fn several_queues_share_what_comes() {
    let Some(space) = Space::new("several_queues_share_what_comes") else { return };
    let (mut queues, mut frames) = open(make(&space, 3).unwrap(), 3).unwrap();
    space.ip("addr add 10.9.0.1/24 dev eth0");
    space.ip("neigh add 10.9.0.2 dev eth0 lladdr 02:00:00:00:00:02");
    assert_eq!(arrived(&space, &mut queues, &mut frames, 40), Vec::from_iter(0..40), "none goes to the kept queue");
}

#[test]
fn a_device_that_is_deleted_is_gone() {
    let Some(space) = Space::new("a_device_that_is_deleted_is_gone") else { return };
    let (mut queues, mut frames) = open(make(&space, 1).unwrap(), 1).unwrap();
    space.ip("link del eth0");
    let (queue, frames) = (&mut queues[0], &mut frames[0]);
    let mut from = vec![frames.copy(&[2; 60]).unwrap()];
    queue.send(frames, &mut from);
    assert_eq!((from.len(), queue.link()), (1, LinkState::Gone));
    let mut into = Vec::new();
    queue.receive(frames, &mut into, 8);
    queue.close(frames);
    assert!(into.is_empty());
    frames.put(from.remove(0));
    assert!(frames.all_home());
}

#[test]
fn what_cannot_be_had_is_named() {
    let Some(space) = Space::new("what_cannot_be_had_is_named") else { return };
    let netns = space.open();
    let settings = CreateSettings { netns: Some(netns.as_fd()), name: NAME, mac: None, mtu: 1500, queues: 1 };
    let error = |settings| create(settings).unwrap_err().to_string();
    let long = error(CreateSettings { name: "a_name_of_16_bytes", ..settings });
    assert!(long.starts_with("port a_name_of_16_bytes: cannot attach a queue:"), "{long}");
    let small = error(CreateSettings { mtu: 10, ..settings });
    assert!(small.starts_with("port eth0: cannot set the MTU:"), "{small}");
    let file = std::fs::File::open("/dev/null").unwrap();
    let nowhere = error(CreateSettings { netns: Some(file.as_fd()), ..settings });
    assert!(nowhere.starts_with("port eth0: cannot enter the network namespace:"), "{nowhere}");

    let few = open(make(&space, 1).unwrap(), 2).err().unwrap().to_string();
    assert_eq!(few, "port pod: queues: 1 for 2 workers");
    let mut strange = make(&space, 1).unwrap();
    strange.queues = vec![file.into()];
    let strange = open(strange, 1).err().unwrap().to_string();
    assert!(strange.starts_with("port pod: cannot ask for the device's name:"), "{strange}");
}

#[test]
fn what_a_killed_test_has_left_goes_when_the_next_one_begins() {
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let left = format!("mrp{}-0", ended.id());
    let _needs_root = Command::new("ip").args(["netns", "add", &left]).output();
    let Some(space) = Space::new("sweep") else { return };
    let names = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let names = String::from_utf8(names.stdout).unwrap();
    assert!(names.contains(&space.name) && !names.contains(&left), "{names}");
}
