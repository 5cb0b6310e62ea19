//! What the plan says, by facts.
use std::{collections::BTreeSet, net::IpAddr};

use control::{
    plan::{self, PlanError, Pod, mac_of, owner, plan, pod_mtu},
    watch::{Facts, Underlay, standalone},
};
use proto::v1::{self, port, route::NextHop, tunnel};

const SAMPLE: &str = include_str!("../../deploy/standalone/node-a.yaml");

fn facts() -> Facts {
    let mut facts = standalone::parse(SAMPLE).unwrap();
    facts.uplink_mtu = Some(1500);
    facts
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod() -> Pod {
    Pod {
        container: "c1".into(),
        ifname: "eth0".into(),
        netns: "/run/netns/c1".into(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1450,
        addresses: vec![ip("10.1.1.2"), ip("fd00:1:1::2")],
    }
}

fn routes(desired: &v1::Desired, vrf: u32) -> Vec<String> {
    let mut lines: Vec<_> = desired.routes.iter().filter(|route| route.vrf == vrf).map(line).collect();
    lines.sort();
    lines
}

fn line(route: &v1::Route) -> String {
    let to = route.prefix.as_ref().unwrap().text();
    match route.next_hop.as_ref().unwrap() {
        NextHop::Via(via) if via.gateway.is_empty() => format!("{to} port {}", via.port),
        NextHop::Via(via) => format!("{to} port {} by {}", via.port, proto::ip(&via.gateway).unwrap()),
        NextHop::Tunnel(tunnel) => format!("{to} tunnel {tunnel}"),
        NextHop::Local(_) => format!("{to} local"),
        NextHop::Blackhole(_) => format!("{to} blackhole"),
        NextHop::Unreachable(_) => format!("{to} unreachable"),
    }
}

fn vxlan(desired: &v1::Desired) -> &v1::Vxlan {
    let Some(tunnel::Kind::Vxlan(vxlan)) = &desired.tunnels[0].kind else { panic!("{:?}", desired.tunnels) };
    vxlan
}

fn tap<'a>(desired: &'a v1::Desired, id: &str) -> (&'a v1::Port, &'a v1::Tap) {
    let port = desired.ports.iter().find(|port| port.id == id).unwrap();
    let Some(port::Kind::Tap(tap)) = &port.kind else { panic!("{port:?}") };
    (port, tap)
}

#[test]
fn both_families_are_routed_to_host_pods_and_nodes() {
    let desired = plan(&facts(), &[pod()]).unwrap();
    assert_eq!(
        routes(&desired, plan::PODS),
        [
            "10.1.1.0/24 unreachable",
            "10.1.1.1/32 port host",
            "10.1.1.2/32 port pod/c1/eth0",
            "10.1.2.0/24 tunnel node/b",
            "192.0.2.1/32 port host",
            "192.0.2.2/32 tunnel node/b",
            "2001:db8::1/128 port host",
            "2001:db8::2/128 tunnel node/b",
            "fd00:1:1::/64 unreachable",
            "fd00:1:1::1/128 port host",
            "fd00:1:1::2/128 port pod/c1/eth0",
            "fd00:1:2::/64 tunnel node/b",
        ]
    );
    assert_eq!(
        routes(&desired, plan::UNDERLAY),
        ["192.0.2.1/32 local", "192.0.2.2/32 port uplink", "2001:db8::1/128 local"]
    );
    let neighbours: BTreeSet<_> =
        desired.neighbours.iter().map(|n| (n.port.as_str(), proto::ip(&n.address).unwrap())).collect();
    assert_eq!(neighbours.len(), 6);
    assert!(
        neighbours.contains(&("pod/c1/eth0", ip("fd00:1:1::2"))) && neighbours.contains(&("host", ip("192.0.2.1")))
    );
}

#[test]
fn ids_are_unique_and_say_whose_they_are() {
    let desired =
        plan(&facts(), &[pod(), Pod { container: "c2".into(), addresses: vec![ip("10.1.1.3")], ..pod() }]).unwrap();
    let ids: Vec<_> = desired.routes.iter().map(|route| &route.id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    let of_pod = ids.iter().filter(|id| owner(id) == Some("pod/c1/eth0")).count();
    assert_eq!(of_pod, 2);
    assert_eq!((owner("pod/c2/eth0"), owner("host/10.1.1.1"), owner("pod/x")), (Some("pod/c2/eth0"), None, None));
}

#[test]
fn a_pod_sees_its_addresses_its_gateways_and_nothing_else() {
    let desired = plan(&facts(), &[pod()]).unwrap();
    let (port, tap) = tap(&desired, "pod/c1/eth0");
    assert_eq!((tap.netns_path.as_str(), tap.name.as_str(), tap.mtu, port.mtu), ("/run/netns/c1", "eth0", 1450, 1450));
    let text = |prefixes: &[v1::Prefix]| prefixes.iter().map(v1::Prefix::text).collect::<Vec<_>>();
    assert_eq!(text(&tap.addresses), ["10.1.1.2/32", "fd00:1:1::2/128"]);
    assert_eq!(text(&port.allowed_addresses), ["10.1.1.2/32", "fd00:1:1::2/128"]);
    let routes: Vec<_> = tap.routes.iter().map(|r| (r.to.as_ref().unwrap().text(), proto::ip(&r.gateway))).collect();
    let expected = [("169.254.1.1/32", None), ("0.0.0.0/0", Some("169.254.1.1")), ("::/0", Some("fe80::1"))];
    assert_eq!(routes, expected.map(|(to, by)| (to.to_owned(), by.map(ip))));
    assert_eq!(
        port.gateways.iter().map(|g| proto::ip(g).unwrap()).collect::<Vec<_>>(),
        [ip("169.254.1.1"), ip("fe80::1")]
    );
    assert_eq!((port.role(), port.resolve(), port.mac.len()), (v1::Role::Pod, v1::Resolve::Static, 6));
}

#[test]
fn a_pod_of_one_family_sees_only_its_gateway() {
    let desired = plan(&facts(), &[Pod { addresses: vec![ip("fd00:1:1::9")], ..pod() }]).unwrap();
    let (port, tap) = tap(&desired, "pod/c1/eth0");
    assert_eq!((port.gateways.len(), tap.routes.len()), (1, 1));
}

#[test]
fn the_host_reaches_all_ranges_with_its_own_source() {
    let desired = plan(&facts(), &[]).unwrap();
    let (port, tap) = tap(&desired, "host");
    assert_eq!((port.role(), tap.name.as_str(), tap.netns_path.as_str()), (v1::Role::Host, "millrace0", ""));
    assert!(port.allowed_addresses.is_empty());
    let routes: Vec<_> =
        tap.routes.iter().map(|r| (r.to.as_ref().unwrap().text(), proto::ip(&r.source).unwrap())).collect();
    let (v4, v6) = (ip("10.1.1.1"), ip("fd00:1:1::1"));
    let expected = [
        ("169.254.1.1/32", v4),
        ("10.1.1.0/24", v4),
        ("10.1.2.0/24", v4),
        ("fd00:1:1::/64", v6),
        ("fd00:1:2::/64", v6),
    ];
    assert_eq!(routes, expected.map(|(to, source)| (to.to_owned(), source)));
}

#[test]
fn two_nodes_agree_on_their_tunnel() {
    let (a, b) = (facts(), Facts { node: "b".into(), ..facts() });
    let (a, b) = (plan(&a, &[]).unwrap(), plan(&b, &[]).unwrap());
    let (a, b) = (vxlan(&a), vxlan(&b));
    assert_eq!((&a.local, &a.local_mac, a.vni, a.udp_port), (&b.remote, &b.remote_mac, b.vni, b.udp_port));
    assert_eq!((&a.remote, &a.remote_mac), (&b.local, &b.local_mac));
    assert_ne!(a.local_mac, a.remote_mac);
    assert_eq!(a.local_mac[0] & 3, 2, "unicast, locally administered");
    let mut given = facts();
    given.nodes[1].mac = Some([2, 9, 9, 9, 9, 9]);
    assert_eq!(vxlan(&plan(&given, &[]).unwrap()).remote_mac, [2, 9, 9, 9, 9, 9]);
}

#[test]
fn the_underlay_is_ipv6_where_one_node_has_nothing_else_or_it_is_asked_for() {
    let mut facts = facts();
    assert_eq!((vxlan(&plan(&facts, &[]).unwrap()).local.len(), pod_mtu(&facts)), (4, Ok(1450)));
    facts.options.underlay = Underlay::Ipv6;
    assert_eq!((vxlan(&plan(&facts, &[]).unwrap()).local.len(), pod_mtu(&facts)), (16, Ok(1430)));
    facts.options.underlay = Underlay::Auto;
    facts.nodes[1].addresses.retain(|address| address.ip.is_ipv6());
    let desired = plan(&facts, &[]).unwrap();
    assert_eq!((vxlan(&desired).local.len(), desired.tunnels[0].mtu), (16, 1430));
    assert!(routes(&desired, plan::UNDERLAY).contains(&"2001:db8::2/128 port uplink".to_owned()));
    facts.options.underlay = Underlay::Ipv4;
    assert!(matches!(plan(&facts, &[]), Err(PlanError::NoWay { name, .. }) if name == "b"));
}

#[test]
fn nodes_behind_a_router_are_reached_by_it() {
    let mut facts = facts();
    facts.nodes[1].addresses[0].ip = ip("198.51.100.2");
    let error = plan(&facts, &[]).unwrap_err().to_string();
    assert!(error.contains("198.51.100.2 is outside of 192.0.2.0/24"), "{error}");
    facts.uplink.gateways = vec![ip("2001:db8::fe"), ip("192.0.2.254")];
    let underlay = routes(&plan(&facts, &[]).unwrap(), plan::UNDERLAY);
    assert!(underlay.contains(&"198.51.100.2/32 port uplink by 192.0.2.254".to_owned()), "{underlay:?}");
}

#[test]
fn contradictions_are_named() {
    let error = |change: fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        plan(&facts, &[]).unwrap_err().to_string()
    };
    assert_eq!(error(|f| f.node = "z".into()), "node \"z\" is not one of the nodes");
    assert_eq!(error(|f| f.nodes[1].name = "a".into()), "nodes \"a\" and \"a\" share their name");
    assert_eq!(
        error(|f| f.nodes[1].addresses[0].ip = ip("192.0.2.1")),
        "nodes \"a\" and \"b\" share address 192.0.2.1"
    );
    assert!(
        error(|f| f.nodes[1].pod_ranges[0] = "10.1.0.0/16".parse().unwrap()).contains("share pod range 10.1.0.0/16")
    );
    assert!(error(|f| f.uplink_mtu = None).contains("MTU of eth0"));
    assert!(error(|f| f.uplink_mtu = Some(1300)).contains("would be 1250"));
    assert!(error(|f| f.options.vni = 1 << 24).contains("vni"));
}

#[test]
fn an_owned_uplink_speaks_for_itself() {
    let mut facts = facts();
    let shared = plan(&facts, &[]).unwrap();
    assert_eq!((shared.ports[0].resolve(), shared.ports[0].gateways.len()), (v1::Resolve::Kernel, 0));
    facts.uplink.mode = v1::af_xdp::Ownership::Owned;
    let owned = plan(&facts, &[]).unwrap();
    assert_eq!((owned.ports[0].resolve(), owned.ports[0].gateways.len()), (v1::Resolve::Own, 2));
}

#[test]
fn derived_addresses_never_change() {
    // Nodes of two versions derive each other's: a change here cuts them off from each other.
    assert_eq!(proto::mac_text(&mac_of("tunnel", "a")), "02:22:4b:ae:ea:95");
}
