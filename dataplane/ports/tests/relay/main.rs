//! Taps between kernels: super-frames pass from tap to tap uncut, both ways, and are cut where a tunnel makes it
//! needful.
#[path = "../netns/mod.rs"]
mod netns;
mod taps;

use netns::Space;
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};
use taps::{Relay, Tunnel, pods};

const FOUR: [&str; 2] = ["10.9.0.1", "10.9.0.2"];
const SIX: [&str; 2] = ["fd09::1", "fd09::2"];
const LENGTH: usize = 24 << 20;

fn address(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse::<IpAddr>().unwrap(), port)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 11).to_le_bytes()[0]).collect()
}

/// Sends [`LENGTH`] bytes by TCP from one pod to the other, and they arrive.
fn transfer(from: &Space, to: &Space, to_address: &str) {
    let listener = to.within(|| TcpListener::bind(address(to_address, 0)).unwrap());
    let there = listener.local_addr().unwrap();
    let stream = from.within(|| TcpStream::connect_timeout(&there, Duration::from_secs(20)).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = stream;
            stream.write_all(&pattern(LENGTH)).unwrap();
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == pattern(LENGTH), "{} of {LENGTH} bytes, or others", got.len());
    });
}

/// Datagrams of 1,000 bytes that the kernel hands out as one super-frame arrive as 40 whole ones.
fn datagrams(from: &Space, to: &Space, to_address: &str) {
    const SEND: &str = "import socket,sys; a=(sys.argv[1],int(sys.argv[2])); \
        s=socket.socket(socket.AF_INET6 if ':' in a[0] else socket.AF_INET,socket.SOCK_DGRAM); \
        s.setsockopt(17,103,1000); s.sendto(bytes(i//1000 for i in range(40000)),a)";
    let socket = to.within(|| UdpSocket::bind(address(to_address, 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let run = ["netns", "exec", &from.name, "python3", "-c", SEND, to_address, &port];
    let done = Command::new("ip").args(run).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for i in 0..40 {
        let mut got = [0; 2000];
        let len = socket.recv(&mut got).unwrap_or_else(|error| panic!("datagram {i}: {error}"));
        assert_eq!((len, got[0], got[999]), (1000, i, i));
    }
}

#[test]
fn super_frames_pass_uncut() {
    let Some((left, right, devices)) = pods("super_frames_pass_uncut", None) else { return };
    let relay = Relay::start(devices, None);
    for ends in [FOUR, SIX] {
        transfer(&left, &right, ends[1]);
        transfer(&right, &left, ends[0]);
        datagrams(&left, &right, ends[1]);
    }
    let seen = relay.stop();
    assert!(seen.longest > 30_000, "the longest frame had {} bytes", seen.longest);
    assert!(seen.frames < 4 * LENGTH / 5000, "{} frames for {} bytes: they came cut", seen.frames, 4 * LENGTH);
    assert!(seen.udp_longest > 40_000, "datagrams came cut");
    assert_eq!(seen.events, [], "the driver refused or cut something");
}

/// The right pod's kernel has a VXLAN device, the left one's frames are put into the tunnel by the relay: the tap must
/// cut them, and the right kernel judges every checksum and length.
fn through(tunnel: Tunnel) {
    let Some((left, right, devices)) = pods("super_frames_are_cut_for_a_tunnel", Some(tunnel)) else { return };
    let relay = Relay::start(devices, Some(tunnel));
    for ends in [FOUR, SIX] {
        transfer(&left, &right, ends[1]);
        transfer(&right, &left, ends[0]);
        datagrams(&left, &right, ends[1]);
    }
    let seen = relay.stop();
    assert!(seen.longest > 30_000 && seen.udp_longest > 40_000, "they came cut: {seen:?}");
    assert!(seen.events.iter().all(|(name, _)| *name == "tap_cut") && seen.events.len() == 1, "{:?}", seen.events);
}

#[test]
fn super_frames_are_cut_for_a_tunnel_over_ipv4() {
    through(Tunnel { six: false });
}

#[test]
fn super_frames_are_cut_for_a_tunnel_over_ipv6() {
    through(Tunnel { six: true });
}
