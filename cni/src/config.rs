//! What the runtime says on stdin.
use std::{net::IpAddr, path::PathBuf};

use proto::attach::{self, code};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{fault::Fault, version::Version};

/// A network configuration, checked: what is known and not supported is refused, what is unknown is left alone.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) version: Version,
    pub(crate) network: String,
    pub(crate) agent_socket: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) log_file: PathBuf,
    pub(crate) previous: Option<Value>,
    /// Addresses that the container must get.
    pub(crate) addresses: Vec<IpAddr>,
    /// The MAC address that it must have.
    pub(crate) mac: String,
    /// The result's `dns`, as configured.
    pub(crate) dns: Option<Value>,
    /// Attachments that live, when the runtime says so.
    pub(crate) valid: Option<Vec<(String, String)>>,
}

impl Config {
    pub(crate) fn read(input: &[u8]) -> Result<Self, Fault> {
        let decoding = |error: serde_json::Error| {
            Fault::new(code::DECODING, "cannot decode the configuration on stdin").details(error.to_string())
        };
        let all: Map<String, Value> = serde_json::from_slice(input).map_err(decoding)?;
        let version = Version::of(all.get("cniVersion").and_then(Value::as_str).unwrap_or_default())?;
        let raw: Raw = serde_json::from_value(Value::Object(all)).map_err(decoding)?;
        raw.check(version)
    }
}

const LOG: &str = "/var/log/millrace/cni.log";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    name: String,
    #[serde(default)]
    agent_socket: Option<PathBuf>,
    #[serde(default)]
    state_dir: Option<PathBuf>,
    #[serde(default)]
    log_file: Option<PathBuf>,
    #[serde(default)]
    prev_result: Option<Value>,
    #[serde(default)]
    runtime_config: Map<String, Value>,
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    ipam: Map<String, Value>,
    #[serde(default)]
    dns: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Live>>,
    // What libcni sent before the specification had a name for it.
    #[serde(rename = "cni.dev/attachments")]
    valid_before: Option<Vec<Live>>,
}

#[derive(Deserialize)]
struct Live {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

impl Raw {
    fn check(self, version: Version) -> Result<Config, Fault> {
        if self.name.is_empty() {
            return Err(Fault::new(code::INVALID_CONFIG, "the configuration has no name"));
        }
        if self.ip_masq {
            return Err(Fault::unsupported("ipMasq", &Value::Bool(true)));
        }
        // The agent gives addresses; another plugin's would be unknown to it.
        match self.ipam.get("type") {
            None => {}
            Some(Value::String(kind)) if kind.is_empty() => {}
            Some(kind) => return Err(Fault::unsupported("ipam.type", kind)),
        }
        let agent_socket = absolute("agentSocket", self.agent_socket, attach::SOCKET)?;
        if agent_socket.as_os_str().len() > SOCKET_PATH_LIMIT {
            let message = format!("agentSocket is longer than {SOCKET_PATH_LIMIT} bytes: {}", agent_socket.display());
            return Err(Fault::new(code::INVALID_CONFIG, message));
        }
        let (addresses, mac, asked_dns) = capabilities(&self.runtime_config)?;
        let live = self.valid.or(self.valid_before);
        Ok(Config {
            version,
            network: self.name,
            agent_socket,
            state_dir: absolute("stateDir", self.state_dir, attach::STATE)?,
            log_file: absolute("logFile", self.log_file, LOG)?,
            previous: self.prev_result.filter(|result| !result.is_null()),
            addresses,
            mac,
            dns: asked_dns.or(self.dns).filter(|dns| dns.as_object().is_some_and(|dns| !dns.is_empty())),
            valid: live.map(|live| live.into_iter().map(|one| (one.container, one.ifname)).collect()),
        })
    }
}

/// The path that `key` gives, or else the usual one: what a relative one names depends on where the runtime happens to
/// be.
fn absolute(key: &str, given: Option<PathBuf>, usual: &str) -> Result<PathBuf, Fault> {
    let path = given.unwrap_or_else(|| usual.into());
    if !path.is_absolute() {
        let message = format!("{key} is not an absolute path: \"{}\"", path.display());
        return Err(Fault::new(code::INVALID_CONFIG, message));
    }
    Ok(path)
}

/// The kernel's limit for the path of a unix socket.
const SOCKET_PATH_LIMIT: usize = 107;

/// What the runtime asks for by capability: addresses, MAC address, DNS. What Millrace cannot do yet is refused, so
/// that nobody believes it is done; what only informs is ignored.
fn capabilities(asked: &Map<String, Value>) -> Result<(Vec<IpAddr>, String, Option<Value>), Fault> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(|v| v.is_null() || v.as_u64() == Some(0)),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    for key in ["portMappings", "bandwidth", "ipRanges", "aliases", "deviceID", "infinibandGUID"] {
        if let Some(value) = asked.get(key).filter(|value| !empty(value)) {
            return Err(Fault::unsupported(&format!("runtimeConfig.{key}"), value));
        }
    }
    let ips = asked.get("ips").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let addresses = ips.iter().map(|ip| address(ip).ok_or_else(|| Fault::unsupported("runtimeConfig.ips", ip)));
    let mac = asked.get("mac").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((addresses.collect::<Result<_, _>>()?, mac, asked.get("dns").cloned()))
}

/// An address, with or without a prefix length.
fn address(ip: &Value) -> Option<IpAddr> {
    ip.as_str()?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(json: &str) -> u32 {
        Config::read(json.as_bytes()).map_or_else(|fault| fault.code, |_| 0)
    }

    #[test]
    fn what_is_unknown_passes_and_what_is_unsupported_is_named() {
        assert_eq!(code_of(r#"{"cniVersion":"1.1.0","name":"n","type":"millrace-cni","later":{"a":1}}"#), 0);
        let json = r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"portMappings":[{"hostPort":80}]}}"#;
        let fault = Config::read(json.as_bytes()).unwrap_err();
        assert_eq!(fault.code, 2);
        assert!(fault.message.contains("portMappings") && fault.message.contains("80"), "{}", fault.message);
        assert_eq!(code_of(r#"{"name":"n","runtimeConfig":{"portMappings":[],"bandwidth":{"ingressRate":0}}}"#), 0);
        assert_eq!(code_of(r#"{"name":"n","ipMasq":true}"#), 2);
        assert_eq!(code_of(r#"{"name":"n","ipam":{"type":"host-local"}}"#), 2);
        assert_eq!(code_of(r#"{"name":"n","runtimeConfig":{"ips":["nonsense"]}}"#), 2);
    }

    #[test]
    fn what_cannot_be_read_has_a_code() {
        assert_eq!(code_of("{"), 6);
        assert_eq!(code_of("[]"), 6);
        assert_eq!(code_of(r#"{"cniVersion":"9.9.9","name":"n"}"#), 1);
        assert_eq!(code_of(r#"{"cniVersion":"1.0.0"}"#), 7);
        assert_eq!(code_of(&format!(r#"{{"name":"n","agentSocket":"/{}"}}"#, "a".repeat(107))), 7);
    }

    #[test]
    fn paths_are_absolute() {
        for key in ["agentSocket", "stateDir", "logFile"] {
            for path in ["", "state", "./state", "../state"] {
                let json = format!(r#"{{"name":"n","{key}":"{path}"}}"#);
                let fault = Config::read(json.as_bytes()).unwrap_err();
                assert_eq!(fault.code, 7);
                assert!(fault.message.starts_with(key), "{}", fault.message);
            }
            assert_eq!(code_of(&format!(r#"{{"name":"n","{key}":"/run/state"}}"#)), 0);
        }
    }

    #[test]
    fn either_key_names_what_lives() {
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let json = format!(r#"{{"name":"n","{key}":[{{"containerID":"c","ifname":"eth0"}}]}}"#);
            assert_eq!(Config::read(json.as_bytes()).unwrap().valid, Some(vec![("c".into(), "eth0".into())]));
        }
        assert_eq!(Config::read(br#"{"name":"n"}"#).unwrap().valid, None);
    }

    #[test]
    fn addresses_come_with_and_without_length() {
        let json = br#"{"name":"n","runtimeConfig":{"ips":["10.1.1.9/24","fd00::9"],"mac":"02:00:00:00:00:01"}}"#;
        let config = Config::read(json).unwrap();
        assert_eq!(config.addresses, ["10.1.1.9".parse::<IpAddr>().unwrap(), "fd00::9".parse().unwrap()]);
        assert_eq!(config.mac, "02:00:00:00:00:01");
    }
}
