//! Pods, attached by the CNI binary as a runtime calls it.
use crate::{Lab, Node, Space, node::succeeds_with};
use serde_json::Value;
use std::{net::IpAddr, process::Command};

/// A pod's namespace, attached to a node.
pub struct Pod {
    name: String,
    space: Space,
    result: Value,
}

impl Pod {
    /// Makes a namespace and attaches it: CNI ADD.
    ///
    /// # Panics
    /// When the binary refuses.
    pub fn attach(lab: &Lab, node: &Node, name: &str) -> Self {
        let space = lab.space(name);
        let name = space.name().to_owned();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), node.cni_config().to_string()).unwrap();
        let mut command = with_pod(node.cni("ADD"), &name, &space);
        let done = command.stdin(file.reopen().unwrap()).output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "CNI ADD: {text}{}", String::from_utf8_lossy(&done.stderr));
        let result = serde_json::from_str(&text).unwrap();
        Pod { name, space, result }
    }

    /// Detaches it, CNI DEL, and gives its namespace.
    ///
    /// # Panics
    /// When the binary refuses.
    pub fn detach(self, node: &Node) -> Space {
        let mut config = node.cni_config();
        config["prevResult"] = self.result;
        assert!(succeeds_with(&mut with_pod(node.cni("DEL"), &self.name, &self.space), &config), "CNI DEL");
        self.space
    }

    /// Its namespace.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Its IPv4 or IPv6 address.
    pub fn address(&self, v6: bool) -> IpAddr {
        ip_of(&self.result, v6)
    }
}

/// The IPv4 or IPv6 address in a CNI result.
///
/// # Panics
/// When it has none.
pub fn ip_of(result: &Value, v6: bool) -> IpAddr {
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bare = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse::<IpAddr>().ok();
    ips.iter().filter_map(bare).find(|ip| ip.is_ipv6() == v6).unwrap_or_else(|| panic!("no address in {result}"))
}

fn with_pod(mut command: Command, name: &str, space: &Space) -> Command {
    command.env("CNI_CONTAINERID", name).env("CNI_NETNS", space.path()).env("CNI_IFNAME", "eth0");
    command
}
