//! What the world outside sees of a worker process and a keeper that die: nothing that it would not get over.
use lab::{Capture, Chat, EchoServer, KernelNode, Lab, Node, Pod, UdpStream, Underlay, ping, succeeds, until};
use rustix::process::Signal;
use std::{
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

/// What would tell a peer that nobody is there, outside of tunnels and in them. That a network has no route (code 0) is
/// what our own worker says of pods' addresses outside of a tunnel, while it runs.
const REFUSALS: &str =
    "tcp.flags.reset == 1 || (icmp.type == 3 && icmp.code != 0) || (icmpv6.type == 1 && icmpv6.code != 0)";
const HOST: [u8; 4] = [192, 0, 2, 1];
const NOBODY: u16 = 9;
const HEARD: u16 = 99;

#[test]
fn outsiders_do_not_notice_that_worker_or_keeper_die() {
    let Some(lab) = Lab::new("outsiders_do_not_notice_that_worker_or_keeper_die", &["tcpdump", "tshark"]) else {
        return;
    };
    let underlay = Underlay::new(&lab, 1500, false);
    let mut node = Node::new(&lab, &underlay, "a");
    let mut wire = Capture::start(&lab, &underlay.b, "eth0");
    let shell = EchoServer::tcp(node.space(), (HOST, 22).into());
    let ssh = Chat::start(&underlay.b, shell.address);
    ssh.goes_on("before the dataplane starts");
    node.start();
    ssh.goes_on("once the dataplane runs");
    let (pod, peer) = (Pod::attach(&lab, &node, "a1"), KernelNode::new(&underlay));
    let in_pod = EchoServer::tcp(pod.space(), (pod.address(false), 7).into());
    ping(peer.space(), pod.address(false), 56);
    let to_pod = Chat::start(peer.space(), in_pod.address);
    to_pod.goes_on("before anything dies");
    let hears = EchoServer::udp(pod.space(), (pod.address(false), HEARD).into());
    let streams = stream_on(&pod, &peer);
    node.stop_agent();
    worker_dies(&node, &pod, &peer, &ssh);
    to_pod.goes_on("with the next worker process");
    keeper_dies(&mut node, &pod, &peer, &ssh);
    to_pod.goes_on("with the next keeper");
    wire.end();
    let refusals = wire.describe(REFUSALS);
    assert!(refusals.is_empty(), "somebody was refused:\n{refusals}");
    drop((streams, hears));
    for port in [HEARD, NOBODY] {
        let filter = format!("ip.dst == {} && udp.dstport == {port}", pod.address(false));
        let sent = wire.find(&filter, &["frame.number"]).len();
        assert!(sent > 50, "only {sent} packets to port {port} that could have been refused");
    }
    to_pod.end();
    refusals_are_seen(&lab, &pod, &peer);
    without_steering_there_are_refusals(&lab, &mut node, &peer);
    ssh.end();
}

/// Datagrams all the while: through the tunnel to a socket of the pod, and past the tunnel to where the pod has none.
fn stream_on(pod: &Pod, peer: &KernelNode) -> [UdpStream; 2] {
    peer.space().ip("rule add from 192.0.2.2 lookup 77");
    peer.space().ip("route add 10.1.1.0/24 via 192.0.2.1 dev eth0 table 77");
    let (past, through) = (IpAddr::from([192, 0, 2, 2]), peer.address(false));
    [(through, HEARD), (past, NOBODY)]
        .map(|(from, port)| UdpStream::start(peer.space(), from, (pod.address(false), port).into()))
}

fn worker_dies(node: &Node, pod: &Pod, peer: &KernelNode, ssh: &Chat) {
    let carriers = pod.space().sysfs("eth0", "carrier_changes");
    let old = node.kill_worker();
    until("another worker process answers", || node.worker().is_some_and(|pid| pid != old));
    node.wait_for_ports();
    ssh.goes_on("after the worker process was killed");
    ping(peer.space(), pod.address(false), 56);
    ping(pod.space(), peer.address(true), 56);
    assert_eq!(pod.space().sysfs("eth0", "carrier"), "1");
    assert_eq!(pod.space().sysfs("eth0", "carrier_changes"), carriers, "the pod's carrier went");
}

/// With the keeper goes the worker process, and with it the pods' carriers. Interfaces, addresses and steering stay.
fn keeper_dies(node: &mut Node, pod: &Pod, peer: &KernelNode, ssh: &Chat) {
    let before = pod.space().ip("-o address show dev eth0 scope global");
    let worker = node.worker().unwrap();
    node.stop_keeper(Signal::KILL);
    until("the worker process follows the keeper", || !Path::new(&format!("/proc/{worker}")).exists());
    until("the pod's carrier is gone", || pod.space().sysfs("eth0", "carrier") == "0");
    assert_eq!(pod.space().ip("-o address show dev eth0 scope global"), before);
    ssh.goes_on("after the keeper was killed");
    assert!(!reaches(peer, pod.address(false)), "who answers without a worker process?");
    node.start_keeper();
    until("another worker process answers", || node.worker().is_some_and(|pid| pid != worker));
    node.wait_for_ports();
    ping(peer.space(), pod.address(false), 56);
    ping(pod.space(), peer.address(true), 56);
    assert_eq!(pod.space().sysfs("eth0", "carrier"), "1");
    ssh.goes_on("with the next keeper");
}

/// The same capture and the same filter see what they must: a host's refusals, and a pod's inside of the tunnel.
fn refusals_are_seen(lab: &Lab, pod: &Pod, peer: &KernelNode) {
    let mut wire = Capture::start(lab, peer.space(), "eth0");
    for at in [HOST.into(), pod.address(false)] {
        let to = SocketAddr::new(at, NOBODY);
        let refused = peer.space().inside(move || TcpStream::connect_timeout(&to, Duration::from_secs(10)));
        assert_eq!(refused.map(drop).map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionRefused), "{to}");
    }
    let refused = peer.space().inside(|| {
        let socket = UdpSocket::bind(SocketAddr::from(([192, 0, 2, 2], 0))).unwrap();
        socket.connect(SocketAddr::from((HOST, NOBODY))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send(b"lab").and_then(|_| socket.recv(&mut [0; 8]))
    });
    assert_eq!(refused.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionRefused));
    wire.end();
    let resets = wire.find("tcp.flags.reset == 1", &["vxlan.vni"]);
    assert!(resets.iter().any(|fields| fields[0].is_empty()), "no reset of the host");
    assert!(resets.iter().any(|fields| !fields[0].is_empty()), "no reset of the pod");
    assert!(!wire.find("icmp.type == 3", &["frame.number"]).is_empty(), "no unreachable port of the host");
}

/// What the steering is good for: once it is removed, the host refuses what belonged to pods.
fn without_steering_there_are_refusals(lab: &Lab, node: &mut Node, peer: &KernelNode) {
    node.stop_keeper(Signal::TERM);
    node.uninstall();
    let mut wire = Capture::start(lab, peer.space(), "eth0");
    assert!(!reaches(peer, [10, 1, 1, 1].into()));
    wire.end();
    let refusals = wire.find("icmp.type == 3 && icmp.code == 3 && udp.dstport == 4789", &["frame.number"]);
    assert!(!refusals.is_empty(), "the host did not refuse packets of a tunnel that nobody has");
}

fn reaches(peer: &KernelNode, to: IpAddr) -> bool {
    succeeds(peer.space().command("ping").args(["-n", "-c", "2", "-W", "1", &to.to_string()]))
}
