//! The result of an ADD: 1.1.0 inside, converted down to what the runtime speaks.
use std::net::IpAddr;

use proto::attach::{Attached, code};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{fault::Fault, version::Version};

/// A result of version 0.3.0 or later, as other plugins gave it or as we do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Outcome {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) ips: Vec<Ip>,
    #[serde(deserialize_with = "none_is_empty")]
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) sandbox: String,
    /// What 1.1.0 added (`mtu`, `socketPath`, `pciID`) and what we do not know.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ip {
    pub(crate) address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) dst: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    /// What 1.1.0 added (`mtu`, `advmss`, `priority`, `table`, `scope`) and what we do not know.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

impl Outcome {
    /// Reads a previous plugin's result, of 0.3.0 or later.
    pub(crate) fn previous(value: &Value) -> Result<Self, Fault> {
        serde_json::from_value(value.clone())
            .map_err(|error| Fault::new(code::DECODING, "cannot decode prevResult").details(error.to_string()))
    }

    /// Adds the container's interface behind what earlier plugins made.
    pub(crate) fn add(&mut self, attached: &Attached, ifname: &str, netns: &str, dns: Option<Value>) {
        let index = self.interfaces.len();
        let more = [("mtu".to_owned(), json!(attached.mtu))].into_iter().collect();
        self.interfaces.push(Interface {
            name: ifname.to_owned(),
            mac: attached.mac.clone(),
            sandbox: netns.to_owned(),
            more,
        });
        self.ips.extend(attached.addresses.iter().map(|one| Ip {
            address: format!("{}/{}", one.address, one.length),
            gateway: Some(one.gateway),
            interface: Some(index),
        }));
        let routes =
            attached.routes.iter().map(|route| Route { dst: route.to.clone(), gw: route.gateway, more: Map::new() });
        self.routes.extend(routes);
        if let Some(dns) = dns {
            self.dns = dns;
        }
    }

    /// The result in the runtime's version.
    pub(crate) fn json(&self, version: Version) -> Value {
        let mut result = match version {
            Version::V0_1_0 | Version::V0_2_0 => self.by_family(),
            _ => self.by_interface(version),
        };
        result["cniVersion"] = version.text().into();
        result["dns"] = if self.dns.is_null() { json!({}) } else { self.dns.clone() };
        result
    }

    fn by_interface(&self, version: Version) -> Value {
        let mut older = self.clone();
        if version < Version::V1_1_0 {
            older.interfaces.iter_mut().for_each(|interface| interface.more.clear());
            older.routes.iter_mut().for_each(|route| route.more.clear());
        }
        let mut ips: Vec<Value> = older.ips.iter().map(|ip| json!(ip)).collect();
        if version < Version::V1_0_0 {
            for ip in &mut ips {
                let v6 = ip["address"].as_str().is_some_and(|address| address.contains(':'));
                ip["version"] = if v6 { "6" } else { "4" }.into();
            }
        }
        json!({ "interfaces": older.interfaces, "ips": ips, "routes": older.routes })
    }

    /// Before 0.3.0 a result has one address of each family, with that family's routes.
    fn by_family(&self) -> Value {
        let mut result = json!({});
        for (key, v6) in [("ip4", false), ("ip6", true)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.contains(':') == v6) else { continue };
            let routes = self.routes.iter().filter(|route| route.dst.contains(':') == v6);
            let routes: Vec<_> = routes.map(|route| Route { more: Map::new(), ..route.clone() }).collect();
            result[key] = json!({ "ip": ip.address, "routes": routes });
            if let Some(gateway) = ip.gateway {
                result[key]["gateway"] = json!(gateway);
            }
        }
        result
    }
}

/// Go writes an empty list as null.
fn none_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Route>, D::Error> {
    Ok(Option::<Vec<Route>>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached() -> Attached {
        let json = json!({
            "mac": "02:00:00:00:00:01", "mtu": 1450,
            "addresses": [
                { "address": "10.1.1.2", "length": 32, "gateway": "169.254.1.1" },
                { "address": "fd00::2", "length": 128, "gateway": "fe80::1" },
            ],
            "routes": [{ "to": "0.0.0.0/0", "gateway": "169.254.1.1" }, { "to": "::/0", "gateway": "fe80::1" }],
        });
        serde_json::from_value(json).unwrap()
    }

    fn outcome() -> Outcome {
        let mut outcome = Outcome::default();
        outcome.add(&attached(), "eth0", "/run/netns/a", None);
        outcome
    }

    #[test]
    fn newest_has_everything() {
        assert_eq!(
            outcome().json(Version::V1_1_0),
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [{ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/a", "mtu": 1450 }],
                "ips": [
                    { "address": "10.1.1.2/32", "gateway": "169.254.1.1", "interface": 0 },
                    { "address": "fd00::2/128", "gateway": "fe80::1", "interface": 0 },
                ],
                "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }, { "dst": "::/0", "gw": "fe80::1" }],
                "dns": {},
            })
        );
    }

    #[test]
    fn older_versions_lose_what_they_do_not_know() {
        let v1_0 = outcome().json(Version::V1_0_0);
        assert!(v1_0["interfaces"][0].get("mtu").is_none() && v1_0["ips"][0].get("version").is_none());
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let old = outcome().json(version);
            assert_eq!((&old["ips"][0]["version"], &old["ips"][1]["version"]), (&json!("4"), &json!("6")));
            assert_eq!(old["cniVersion"], version.text());
            assert!(old["interfaces"][0].get("mtu").is_none());
        }
    }

    #[test]
    fn the_oldest_go_by_family() {
        assert_eq!(
            outcome().json(Version::V0_2_0),
            json!({
                "cniVersion": "0.2.0",
                "ip4": { "ip": "10.1.1.2/32", "gateway": "169.254.1.1", "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }] },
                "ip6": { "ip": "fd00::2/128", "gateway": "fe80::1", "routes": [{ "dst": "::/0", "gw": "fe80::1" }] },
                "dns": {},
            })
        );
    }

    #[test]
    fn a_chain_keeps_what_came_before() {
        let before = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "net1", "mac": "02:00:00:00:00:09", "sandbox": "/n", "pciID": "0000:00:01.0" }],
            "ips": [{ "address": "192.0.2.9/24", "interface": 0 }],
            "routes": null,
        });
        let mut outcome = Outcome::previous(&before).unwrap();
        outcome.add(&attached(), "eth0", "/n", Some(json!({ "nameservers": ["10.0.0.10"] })));
        let result = outcome.json(Version::V1_1_0);
        assert_eq!(result["interfaces"][0]["pciID"], "0000:00:01.0");
        assert_eq!((&result["ips"][0]["interface"], &result["ips"][1]["interface"]), (&json!(0), &json!(1)));
        assert_eq!(result["dns"]["nameservers"][0], "10.0.0.10");
        assert_eq!(Outcome::previous(&json!({ "ips": 7 })).unwrap_err().code, 6);
    }
}
