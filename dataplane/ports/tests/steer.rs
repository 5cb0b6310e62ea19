//! The steering program takes what is ours, and only that, whatever the packet looks like.
mod netns;
#[path = "netns/pair.rs"]
mod pair;

use pair::{OURS, Pair};
use ports::steer::{Attach, Counters, Mode, Steering, Verdict};
use std::net::IpAddr;

const HOST: &str = "10.9.0.1";
const HOST6: &str = "fd09::1";
const POD: &str = "10.77.3.9";
const POD6: &str = "fd77::3:9";
const OTHER: &str = "192.0.2.1";
const OTHER6: &str = "2001:db8::1";
const TUNNEL: u16 = 4789;

fn steered(test: &str, check: impl FnOnce(&Steering) + Send) {
    let Some(pair) = Pair::new(test, 1500, 1) else { return };
    let pins = pair.pins();
    pair.ours.within(|| {
        let steering = Steering::attach(OURS, Attach::Native, Mode::Shared, &pins).unwrap();
        steering.set_tunnels(&[(address(HOST), TUNNEL), (address(HOST6), TUNNEL)]).unwrap();
        steering.set_pod_prefixes(&[(address("10.77.3.0"), 24), (address("fd77::3:0"), 112)]).unwrap();
        check(&steering);
        steering.detach().unwrap();
    });
}

/// Ours is dropped here: no socket is bound.
fn ours(steering: &Steering, what: &str, frame: &[u8]) {
    assert_eq!(steering.judge(frame).unwrap(), Verdict::Drop, "{what} is ours");
}

fn hosts(steering: &Steering, what: &str, frame: &[u8]) {
    assert_eq!(steering.judge(frame).unwrap(), Verdict::Pass, "{what} is the host's");
}

#[test]
fn tunnels_and_pods_are_ours_and_the_rest_passes() {
    steered("tunnels_and_pods", |steering| {
        ours(steering, "VXLAN", &v4(OTHER, HOST, 17, 0, &udp(1, TUNNEL)));
        ours(steering, "VXLAN over IPv6", &v6(OTHER6, HOST6, 17, &udp(1, TUNNEL)));
        hosts(steering, "UDP to another port", &v4(OTHER, HOST, 17, 0, &udp(TUNNEL, 53)));
        hosts(steering, "UDP to another port over IPv6", &v6(OTHER6, HOST6, 17, &udp(TUNNEL, 53)));
        hosts(steering, "VXLAN to another address", &v4(HOST, OTHER, 17, 0, &udp(1, TUNNEL)));
        hosts(steering, "VXLAN to another IPv6 address", &v6(HOST6, OTHER6, 17, &udp(1, TUNNEL)));
        hosts(steering, "VXLAN to the IPv6 picture of our address", &v6(OTHER6, "::10.9.0.1", 17, &udp(1, TUNNEL)));
        hosts(steering, "TCP to the tunnel's port", &v4(OTHER, HOST, 6, 0, &tcp(TUNNEL)));
        hosts(steering, "ssh", &v4(OTHER, HOST, 6, 0, &tcp(22)));
        for protocol in [1, 6, 17, 47, 255] {
            ours(steering, "anything to a pod", &v4(OTHER, POD, protocol, 0, &[]));
            ours(steering, "anything to a pod", &v6(OTHER6, POD6, protocol, &[]));
            hosts(steering, "anything past the pods", &v4(POD, "10.77.4.0", protocol, 0, &[0; 40]));
            hosts(steering, "anything past the pods", &v6(POD6, "fd77::4:0", protocol, &[0; 40]));
        }
        hosts(steering, "ARP", &ethernet(0x0806, &[0; 28]));
        hosts(steering, "a neighbour solicitation", &v6(OTHER6, "ff02::1:ff03:9", 58, &[135; 32]));
        hosts(
            steering,
            "a VLAN's",
            &ethernet(0x8100, &[&[0, 5, 8, 0], &v4(OTHER, POD, 6, 0, &tcp(80))[14..]].concat()),
        );
        hosts(steering, "no protocol", &ethernet(0xffff, &[]));
        let counters = steering.counters().unwrap();
        let passed = counters.passed; // the peer says a thing or two by itself
        assert!(passed >= 21, "{passed}");
        assert_eq!(counters, Counters { passed, tunnel: 2, pod: 10, quoted: 0, fragment: 0, dropped: 12 });
    });
}

#[test]
fn options_and_extension_headers_are_walked() {
    steered("options", |steering| {
        let options = [&[1u8; 12][..], &udp(1, TUNNEL)].concat();
        let mut frame = v4(OTHER, HOST, 17, 0, &options);
        frame[14] = 0x48;
        ours(steering, "VXLAN behind IPv4 options", &frame);
        frame[14] = 0x44;
        hosts(steering, "a header that is too short", &frame);
        frame[14] = 0x58;
        hosts(steering, "IP version 5", &frame);
        let hop = |next: u8, words: u8| [vec![next, words], vec![0; 6 + 8 * usize::from(words)]].concat();
        let two = [hop(60, 0), hop(17, 3), udp(1, TUNNEL)].concat();
        ours(steering, "VXLAN behind two extension headers", &v6(OTHER6, HOST6, 0, &two));
        let routed = [hop(17, 2), udp(1, TUNNEL)].concat();
        ours(steering, "VXLAN behind a routing header", &v6(OTHER6, HOST6, 43, &routed));
        let four = [hop(60, 0), hop(60, 0), hop(60, 0), hop(17, 0), udp(1, TUNNEL)].concat();
        hosts(steering, "VXLAN behind too many extension headers", &v6(OTHER6, HOST6, 0, &four));
        let far = [hop(17, 255), udp(1, TUNNEL)].concat();
        hosts(steering, "an extension header past the end", &v6(OTHER6, HOST6, 0, &far[..200]));
        ours(steering, "VXLAN behind the longest extension header", &v6(OTHER6, HOST6, 0, &far));
    });
}

#[test]
fn errors_follow_what_they_quote() {
    steered("errors", |steering| {
        let error =
            |kind: u8, quoted: &[u8]| v4(OTHER, HOST, 1, 0, &[&[kind, 0, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat());
        let outer = v4(HOST, OTHER, 17, 0, &udp(50_000, TUNNEL));
        let pods = v4(POD, OTHER, 6, 0, &tcp(80));
        for kind in [3, 11, 12] {
            ours(steering, "an error about our tunnel", &error(kind, &outer));
            ours(steering, "an error about a pod's packet", &error(kind, &pods));
            hosts(steering, "an error about the host's packet", &error(kind, &v4(HOST, OTHER, 17, 0, &udp(5, 53))));
            hosts(steering, "an error about the host's TCP", &error(kind, &v4(HOST, OTHER, 6, 0, &tcp(TUNNEL))));
            hosts(steering, "an error about another's tunnel", &error(kind, &v4(OTHER, HOST, 17, 0, &udp(5, TUNNEL))));
            hosts(steering, "an error about a later fragment", &error(kind, &v4(HOST, OTHER, 17, 7, &udp(5, TUNNEL))));
        }
        for kind in [0, 4, 5, 8, 13] {
            hosts(steering, "what is no error", &error(kind, &outer));
        }
        let error6 =
            |kind: u8, quoted: &[u8]| v6(OTHER6, HOST6, 58, &[&[kind, 0, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat());
        let outer = v6(HOST6, OTHER6, 17, &udp(50_000, TUNNEL));
        for kind in 1..5 {
            ours(steering, "an error about our tunnel over IPv6", &error6(kind, &outer));
            ours(steering, "an error about a pod's packet", &error6(kind, &v6(POD6, OTHER6, 6, &tcp(80))));
            hosts(steering, "an error about the host's packet", &error6(kind, &v6(HOST6, OTHER6, 17, &udp(5, 53))));
            let first = [&fragment6(17, 0, true, 5)[..], &udp(5, TUNNEL)].concat();
            ours(steering, "an error about a first fragment of ours", &error6(kind, &v6(HOST6, OTHER6, 44, &first)));
            let later = [&fragment6(17, 9, true, 5)[..], &udp(5, TUNNEL)].concat();
            hosts(steering, "an error about a later fragment", &error6(kind, &v6(HOST6, OTHER6, 44, &later)));
        }
        for kind in [0, 5, 128, 129, 135, 255] {
            hosts(steering, "what is no error", &error6(kind, &outer));
        }
    });
}

#[test]
fn fragments_follow_their_first() {
    steered("fragments", |steering| {
        let part = |id: u16, flags: u16, from: &str, payload: &[u8]| {
            let mut frame = v4(from, HOST, 17, flags, payload);
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            frame
        };
        hosts(steering, "a fragment before its first", &part(7, 0x2003, OTHER, &[1; 8]));
        ours(steering, "a first fragment", &part(7, 0x2000, OTHER, &udp(1, TUNNEL)));
        ours(steering, "its second", &part(7, 0x2003, OTHER, &[1; 8]));
        ours(steering, "its last", &part(7, 0x0006, OTHER, &[1; 8]));
        hosts(steering, "a fragment of another id", &part(8, 0x0006, OTHER, &[1; 8]));
        hosts(steering, "a fragment of another sender", &part(7, 0x0006, "192.0.2.2", &[1; 8]));
        hosts(steering, "a first fragment of the host's", &part(9, 0x2000, OTHER, &udp(1, 53)));
        hosts(steering, "its second", &part(9, 0x2003, OTHER, &[1; 8]));
        ours(steering, "a whole packet", &part(10, 0, OTHER, &udp(1, TUNNEL)));
        hosts(steering, "what would follow a whole packet", &part(10, 3, OTHER, &[1; 8]));
        ours(steering, "any fragment to a pod", &v4(OTHER, POD, 17, 0x2003, &[1; 8]));

        let part = |id: u32, at: u16, more: bool, payload: &[u8]| {
            v6(OTHER6, HOST6, 44, &[&fragment6(17, at, more, id)[..], payload].concat())
        };
        hosts(steering, "a fragment before its first", &part(7, 3, true, &[1; 8]));
        ours(steering, "a first fragment", &part(7, 0, true, &udp(1, TUNNEL)));
        ours(steering, "its last", &part(7, 3, false, &[1; 8]));
        hosts(steering, "a fragment of another id", &part(8, 3, false, &[1; 8]));
        ours(steering, "an atomic fragment", &part(9, 0, false, &udp(1, TUNNEL)));
        hosts(steering, "what would follow an atomic fragment", &part(9, 3, false, &[1; 8]));
        assert_eq!(steering.counters().unwrap().fragment, 3);
    });
}

#[test]
fn no_bytes_confuse_it() {
    steered("no_bytes", |steering| {
        let error = [&[3, 0, 0, 0, 0, 0, 0, 0][..], &v4(HOST, OTHER, 17, 0, &udp(1, TUNNEL))[14..]].concat();
        let error6 = [&[2, 0, 0, 0, 0, 0, 0, 0][..], &v6(HOST6, OTHER6, 17, &udp(1, TUNNEL))[14..]].concat();
        let whole = [
            v4(OTHER, HOST, 17, 0, &udp(1, TUNNEL)),
            v6(OTHER6, HOST6, 17, &udp(1, TUNNEL)),
            v4(OTHER, HOST, 1, 0, &error),
            v6(OTHER6, HOST6, 58, &error6),
        ];
        for (frame, least) in whole.iter().zip([42, 62, 66, 106]) {
            for len in 14..frame.len() {
                let expected = if len < least { Verdict::Pass } else { Verdict::Drop };
                assert_eq!(steering.judge(&frame[..len]).unwrap(), expected, "{len} bytes of {frame:x?}");
            }
        }
        let mut seed = 1u64;
        for round in 0..20_000usize {
            let mut frame = whole[round % whole.len()].clone();
            for _ in 0..1 + round % 4 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = usize::try_from(seed >> 33).unwrap() % frame.len();
                frame[at] = seed.to_le_bytes()[3];
            }
            assert_ne!(steering.judge(&frame).unwrap(), Verdict::Take);
        }
    });
}

#[test]
fn it_is_there_after_its_maker_and_can_be_changed_and_removed() {
    let Some(pair) = Pair::new("it_is_there", 9000, 1) else { return };
    let pins = pair.pins();
    let xdp = || pair.ours.ip(&format!("link show {OURS}")).contains("xdp");
    pair.ours.within(|| {
        let first = Steering::attach(OURS, Attach::Auto, Mode::Shared, &pins).unwrap();
        assert!(first.native() && first.note().is_none());
        first.set_tunnels(&[(address(HOST), TUNNEL)]).unwrap();
        drop(first);
        assert!(xdp());
        let again = Steering::open(&pins).unwrap();
        assert!(again.native() && again.device().unwrap() > 0);
        ours(&again, "what an earlier process said", &v4(OTHER, HOST, 17, 0, &udp(1, TUNNEL)));
        again.set_tunnels(&[(address(HOST), 8472), (address(HOST), 6081)]).unwrap();
        hosts(&again, "what was taken back", &v4(OTHER, HOST, 17, 0, &udp(1, TUNNEL)));
        ours(&again, "what was said instead", &v4(OTHER, HOST, 17, 0, &udp(1, 8472)));
        let upgraded = Steering::attach(OURS, Attach::Auto, Mode::Owned, &pins).unwrap();
        hosts(&upgraded, "anything while nobody owns", &v4(OTHER, HOST, 17, 0, &udp(1, 8472)));
        let back = Steering::attach(OURS, Attach::Auto, Mode::Shared, &pins).unwrap();
        ours(&back, "what was said before", &v4(OTHER, HOST, 17, 0, &udp(1, 8472)));
        let elsewhere = pins.with_file_name(format!("{}b", pair.ours.name));
        let other = Steering::attach(OURS, Attach::Auto, Mode::Shared, &elsewhere);
        let other = other.unwrap_err().to_string();
        assert!(other.contains("another XDP program"), "{other}");
        assert!(!elsewhere.exists());
        drop((again, upgraded));
        back.detach().unwrap();
    });
    assert!(!xdp() && !pins.exists());
}

#[test]
fn a_change_costs_what_differs() {
    let Some(pair) = Pair::new("a_change_costs", 1500, 1) else { return };
    let pins = pair.pins();
    pair.ours.within(|| {
        let steering = Steering::attach(OURS, Attach::Auto, Mode::Shared, &pins).unwrap();
        let set = |steering: &Steering, port| steering.set_tunnels(&[(address(HOST), port)]).unwrap();
        let vxlan = |port| v4(OTHER, HOST, 17, 0, &udp(1, port));
        set(&steering, 4789);
        let other = Steering::open(&pins).unwrap();
        set(&other, 8472);
        set(&steering, 4789);
        hosts(&steering, "what is there already, as far as it knows,", &vxlan(4789));
        set(&steering, 6081);
        ours(&steering, "what another one said", &vxlan(8472));
        let successor = Steering::open(&pins).unwrap();
        set(&successor, 4789);
        ours(&successor, "what was said last", &vxlan(4789));
        hosts(&successor, "what it found and took back", &vxlan(8472));
        hosts(&successor, "what it found and took back", &vxlan(6081));

        let many: Vec<_> = (1..=300).map(|port| (address(HOST), port)).collect();
        let full = successor.set_tunnels(&many).unwrap_err().to_string();
        assert!(full.contains("cannot set the tunnels"), "{full}");
        set(&successor, 4789);
        let left = many.iter().filter(|(_, port)| successor.judge(&vxlan(*port)).unwrap() != Verdict::Pass);
        assert_eq!(left.count(), 0, "what was added before the map was full is gone");
        ours(&successor, "what is wanted", &vxlan(4789));
        steering.detach().unwrap();
    });
}

#[test]
fn a_prefix_of_two_pods_stays_until_both_are_gone() {
    steered("a_prefix_of_two", |steering| {
        let to = |pod: &str| v4(OTHER, pod, 6, 0, &tcp(80));
        let (one, other, six) = ((address("10.78.0.1"), 32), (address("10.78.0.2"), 32), (address("fd78::1"), 128));
        steering.change_pod_prefixes(&[one, other, one, six], &[]).unwrap();
        steering.change_pod_prefixes(&[], &[one, other]).unwrap();
        ours(steering, "the address of the pod that is left", &to("10.78.0.1"));
        hosts(steering, "the address of a pod that is gone", &to("10.78.0.2"));
        ours(steering, "a pod that came by a change", &v6(OTHER6, "fd78::1", 6, &tcp(80)));
        ours(steering, "a pod that was there before", &to(POD));
        steering.change_pod_prefixes(&[one], &[one, six]).unwrap();
        ours(steering, "an address that moved from pod to pod", &to("10.78.0.1"));
        hosts(steering, "an IPv6 address that is gone", &v6(OTHER6, "fd78::1", 6, &tcp(80)));
        steering.change_pod_prefixes(&[], &[one, other]).unwrap();
        hosts(steering, "an address of which both pods are gone", &to("10.78.0.1"));
        steering.set_pod_prefixes(&[one, one]).unwrap();
        steering.change_pod_prefixes(&[], &[one]).unwrap();
        ours(steering, "what was set for two pods", &to("10.78.0.1"));
        hosts(steering, "what was not set again", &to(POD));

        let many: Vec<_> = (0..5000).map(|n| (IpAddr::from((0x0a50_0000u32 + n).to_be_bytes()), 32)).collect();
        steering.change_pod_prefixes(&many, &[]).unwrap_err();
        steering.change_pod_prefixes(&[other], &[]).unwrap_err();
        steering.set_pod_prefixes(&[other]).unwrap();
        steering.change_pod_prefixes(&[one], &[]).unwrap();
        ours(steering, "what came after a mended error", &to("10.78.0.1"));
        hosts(steering, "what failed", &to("10.80.0.1"));
    });
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn octets(text: &str) -> Vec<u8> {
    match address(text) {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind.to_be_bytes(), payload].concat()
}

fn v4(from: &str, to: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let flags = fragment.to_be_bytes();
    let header = [0x45, 0, len[0], len[1], 0, 1, flags[0], flags[1], 64, protocol, 0, 0];
    ethernet(0x0800, &[&header[..], &octets(from), &octets(to), payload].concat())
}

fn v6(from: &str, to: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [0x60, 0, 0, 0, len[0], len[1], next, 64];
    ethernet(0x86dd, &[&header[..], &octets(from), &octets(to), payload].concat())
}

fn fragment6(next: u8, at: u16, more: bool, id: u32) -> Vec<u8> {
    let place = (at << 3 | u16::from(more)).to_be_bytes();
    [&[next, 0, place[0], place[1]][..], &id.to_be_bytes()].concat()
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 16, 0, 0], &[8, 0, 0, 0, 0, 0, 1, 0]].concat()
}

fn tcp(to: u16) -> Vec<u8> {
    [&[0x99, 0x99][..], &to.to_be_bytes(), &[0; 8], &[0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat()
}
