//! A node that is the kernel's own VXLAN device.
use crate::{Space, Underlay, node::tunnel_mac, run};
use std::net::IpAddr;

/// Host `b`, whose pods' addresses are on a VXLAN device of the kernel, which learns nothing and is told all.
pub struct KernelNode {
    space: Space,
}

impl KernelNode {
    /// Makes the device on host `b` of `underlay`: `vx0`, 10.1.2.5 and fd00:1:2::5, with routes to the pods of node
    /// `a`.
    pub fn new(underlay: &Underlay) -> Self {
        let space = underlay.b.clone();
        let (here, there) = (underlay.address(2), underlay.address(1));
        let (own_mac, mac) = (tunnel_mac(2), tunnel_mac(1));
        let mtu = underlay.pod_mtu();
        space.ip(&format!(
            "link add vx0 mtu {mtu} address {own_mac} type vxlan id 1 dstport 4789 local {here} dev eth0 nolearning"
        ));
        space.ip("link set vx0 up");
        run(space.command("bridge").args(["fdb", "append", &mac, "dev", "vx0", "dst", &there.to_string()]));
        for (own, gateway, range) in
            [("10.1.2.5/32", "10.1.1.1", "10.1.1.0/24"), ("fd00:1:2::5/128", "fd00:1:1::1", "fd00:1:1::/64")]
        {
            let nodad = if own.contains(':') { " nodad" } else { "" };
            space.ip(&format!("address add {own} dev vx0{nodad}"));
            space.ip(&format!("neighbour replace {gateway} lladdr {mac} nud permanent dev vx0"));
            let source = own.split('/').next().unwrap_or(own);
            space.ip(&format!("route add {range} via {gateway} dev vx0 onlink src {source}"));
        }
        KernelNode { space }
    }

    /// The host.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Its address inside of tunnels.
    pub fn address(&self, v6: bool) -> IpAddr {
        if v6 { IpAddr::from([0xfd00, 1, 2, 0, 0, 0, 0, 5]) } else { [10, 1, 2, 5].into() }
    }
}
