//! The other node is the kernel: a VXLAN device, with its offloads as they come.
use lab::{Capture, KernelNode, Lab, Node, Pod, Underlay, ping, tcp, udp};
use std::collections::BTreeSet;

/// Fits, just fits, just does not fit, takes many fragments: 1450 and 1430 are the MTUs of pods here.
const PINGS: [u32; 5] = [0, 56, 1380, 1430, 6000];
const DATAGRAMS: &[usize] = &[1, 2, 999, 1382, 1383, 1402, 1403, 1422, 1423, 2901, 9000, 30_001];
const STREAM: usize = 6 << 20;

#[test]
fn the_kernel_is_the_other_node_on_an_ipv4_underlay() {
    interop("the_kernel_is_the_other_node_on_an_ipv4_underlay", false);
}

#[test]
fn the_kernel_is_the_other_node_on_an_ipv6_underlay() {
    interop("the_kernel_is_the_other_node_on_an_ipv6_underlay", true);
}

fn interop(test: &str, v6_underlay: bool) {
    let Some(lab) = Lab::new(test, &["tcpdump", "tshark"]) else { return };
    let underlay = Underlay::new(&lab, 1500, v6_underlay);
    let mut node = Node::new(&lab, &underlay, "a");
    node.start();
    let (pod, peer) = (Pod::attach(&lab, &node, "a1"), KernelNode::new(&underlay));
    let mut wire = Capture::start(&lab, peer.space(), "eth0");
    for v6 in [false, true] {
        let (at_pod, at_peer) = (pod.address(v6), peer.address(v6));
        for size in PINGS {
            ping(pod.space(), at_peer, size);
            ping(peer.space(), at_pod, size);
        }
        tcp(pod.space(), peer.space(), at_peer, STREAM);
        tcp(peer.space(), pod.space(), at_pod, STREAM);
        udp(pod.space(), peer.space(), at_peer, DATAGRAMS);
        udp(peer.space(), pod.space(), at_pod, DATAGRAMS);
    }
    wire.end();
    check(&wire, &underlay, &pod, &peer);
}

fn check(wire: &Capture, underlay: &Underlay, pod: &Pod, peer: &KernelNode) {
    for filter in ["_ws.malformed", "icmp.type == 3", "icmpv6.type == 1", "vxlan && vxlan.vni != 1"] {
        let found = wire.describe(filter);
        assert!(found.is_empty(), "{filter}:\n{found}");
    }
    let (ours, theirs) = (underlay.address(1).to_string(), underlay.address(2).to_string());
    let word = if underlay.v6 { "ipv6" } else { "ip" };
    // What the kernel sends may have checksums that its device would complete; what we send must be complete.
    for kind in CHECKED {
        let good =
            wire.find(&format!("{word}.src == {ours} && vxlan && {kind}.checksum.status == 1"), &["frame.number"]);
        assert!(!good.is_empty(), "no checksum of {kind} was checked");
    }
    let bad = CHECKED.map(|kind| format!("{kind}.checksum.status == 0")).join(" || ");
    let bad = format!("{word}.src == {ours} && vxlan && ({bad})");
    assert!(wire.find(&bad, &["frame.number"]).is_empty(), "bad checksums:\n{}", wire.describe(&bad));
    for v6 in [false, true] {
        let (pod, peer) = (pod.address(v6).to_string(), peer.address(v6).to_string());
        let found = inner(wire, underlay.v6, v6);
        let expected = [(&ours, &theirs, &pod, &peer), (&theirs, &ours, &peer, &pod)];
        let expected = expected.map(|(a, b, c, d)| [a, b, c, d].map(String::clone).to_vec());
        assert_eq!(found, BTreeSet::from(expected), "who speaks to whom");
    }
    // The inner hash is in the outer source port (RFC 7348): conversations spread.
    let ports: BTreeSet<_> =
        wire.find(&format!("{word}.src == {ours} && vxlan"), &["udp.srcport"]).into_iter().collect();
    assert!(ports.len() > 3, "source ports {ports:?}");
}

const CHECKED: [&str; 5] = ["ip", "udp", "tcp", "icmp", "icmpv6"];

/// Outer source and destination, inner source and destination, of all that is inside of VXLAN and of one family.
fn inner(wire: &Capture, v6_underlay: bool, v6: bool) -> BTreeSet<Vec<String>> {
    let filter = match (v6_underlay, v6) {
        (false, false) => "vxlan && !ipv6 && !arp",
        (true, true) => "vxlan && !ip && !arp",
        _ => "vxlan && ip && ipv6",
    };
    let packets = wire.find(filter, &["ip.src", "ip.dst", "ipv6.src", "ipv6.dst"]);
    // Each field lists the addresses of all headers of its family, the outer one first.
    let (outer, inner) = (if v6_underlay { 2 } else { 0 }, if v6 { 2 } else { 0 });
    let ends = packets.iter().map(|fields| {
        [fields[outer].first(), fields[outer + 1].first(), fields[inner].last(), fields[inner + 1].last()]
    });
    ends.map(|ends| ends.map(|end| end.cloned().unwrap_or_default()).to_vec()).collect()
}
