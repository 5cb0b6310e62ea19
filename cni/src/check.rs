//! Is a container as the result of its ADD says?
use std::net::IpAddr;

use proto::attach::code;

use crate::{fault::Fault, netns::View, result::Outcome};

/// The addresses of `ifname` in the result of its ADD.
pub(crate) fn promised(outcome: &Outcome, ifname: &str, netns: &str) -> Result<Vec<IpAddr>, Fault> {
    let Some(index) = position(outcome, ifname, netns) else {
        return Err(Fault::new(code::INVALID_CONFIG, format!("prevResult has no interface {ifname} in {netns}")));
    };
    let ips = outcome.ips.iter().filter(|ip| ip.interface == Some(index));
    ips.map(|ip| {
        let text = ip.address.split('/').next().unwrap_or_default();
        text.parse().map_err(|_| Fault::new(code::DECODING, format!("prevResult: {:?} is not an address", ip.address)))
    })
    .collect()
}

/// Compares what was promised with what is there. What others added is not looked at.
pub(crate) fn compare(outcome: &Outcome, ifname: &str, netns: &str, view: &View) -> Result<(), Fault> {
    let differs = |what: String| Err(Fault::new(code::DIFFERS, what).details(format!("in {netns}")));
    if !view.exists {
        return differs(format!("interface {ifname} is gone"));
    }
    for address in promised(outcome, ifname, netns)? {
        if !view.addresses.contains(&address) {
            return differs(format!("interface {ifname} has lost its address {address}"));
        }
    }
    let promised = position(outcome, ifname, netns).and_then(|i| outcome.interfaces.get(i));
    if let (Some(promised), Some(mac)) = (promised.map(|one| one.mac.to_ascii_lowercase()), view.mac) {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        if !promised.is_empty() && promised != mac {
            return differs(format!("interface {ifname} has MAC address {mac}, not {promised}"));
        }
    }
    match outcome.routes.iter().find(|route| !view.routes.contains(&route.dst)) {
        Some(lost) => differs(format!("the route to {} is gone", lost.dst)),
        None => Ok(()),
    }
}

fn position(outcome: &Outcome, ifname: &str, netns: &str) -> Option<usize> {
    // The sandbox's path may be another one than at ADD (a bind mount); the name must fit, and be the container's.
    let named = |strict: bool| {
        outcome
            .interfaces
            .iter()
            .position(|one| one.name == ifname && if strict { one.sandbox == netns } else { !one.sandbox.is_empty() })
    };
    named(true).or_else(|| named(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome() -> Outcome {
        Outcome::previous(&json!({
            "interfaces": [{ "name": "eth0", "sandbox": "" }, { "name": "eth0", "mac": "02:00:00:00:00:0A", "sandbox": "/n" }],
            "ips": [{ "address": "10.1.1.2/32", "interface": 1 }, { "address": "192.0.2.1/24", "interface": 0 }],
            "routes": [{ "dst": "0.0.0.0/0" }],
        }))
        .unwrap()
    }

    fn view() -> View {
        View {
            exists: true,
            mac: Some([2, 0, 0, 0, 0, 10]),
            addresses: ["10.1.1.2".parse().unwrap(), "10.9.9.9".parse().unwrap()].into(),
            routes: ["0.0.0.0/0".to_owned(), "10.0.0.0/8".to_owned()].into(),
        }
    }

    #[test]
    fn additions_are_fine_and_losses_are_named() {
        assert_eq!(compare(&outcome(), "eth0", "/n", &view()), Ok(()));
        let lost = |change: fn(&mut View)| {
            let mut view = view();
            change(&mut view);
            compare(&outcome(), "eth0", "/n", &view).unwrap_err().message
        };
        assert_eq!(lost(|v| v.exists = false), "interface eth0 is gone");
        assert_eq!(lost(|v| v.addresses.clear()), "interface eth0 has lost its address 10.1.1.2");
        assert_eq!(lost(|v| v.routes.clear()), "the route to 0.0.0.0/0 is gone");
        assert!(lost(|v| v.mac = Some([2, 0, 0, 0, 0, 11])).contains("not 02:00:00:00:00:0a"));
    }

    #[test]
    fn only_the_containers_own_interface_counts() {
        assert_eq!(promised(&outcome(), "eth0", "/n").unwrap(), ["10.1.1.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(promised(&outcome(), "net1", "/n").unwrap_err().code, 7);
    }
}
