//! Facts from a YAML file: nodes without a cluster.
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use proto::v1::af_xdp::{Attach, Ownership, ZeroCopy};
use serde::Deserialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Facts, Node, NodeAddress, Options, Source, Underlay, Uplink};

/// The file, read again when it changes or on SIGHUP.
#[derive(Debug)]
pub struct Standalone {
    path: PathBuf,
    hangup: Signal,
    seen: Option<(SystemTime, u64)>,
    last: Option<Facts>,
}

/// Why the file gives no facts.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {text}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        text: String,
    },
}

impl Standalone {
    /// Watches the file at `path`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When SIGHUP cannot be caught.
    pub fn new(path: &Path) -> io::Result<Self> {
        Ok(Standalone { path: path.to_owned(), hangup: signal(SignalKind::hangup())?, seen: None, last: None })
    }

    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let file = fs::metadata(&self.path).ok()?;
        Some((file.modified().ok()?, file.len()))
    }
}

impl Source for Standalone {
    type Error = StandaloneError;

    async fn next(&mut self) -> Result<Facts, StandaloneError> {
        let mut asked = self.seen.is_none();
        loop {
            let stamp = self.stamp();
            if asked || stamp != self.seen {
                // Also when it cannot be read: the same mistake is told once.
                self.seen = stamp.or(Some((SystemTime::UNIX_EPOCH, 0)));
                let facts = read(&self.path)?;
                if self.last.as_ref() != Some(&facts) {
                    self.last = Some(facts.clone());
                    return Ok(facts);
                }
            }
            asked = tokio::select! {
                _ = self.hangup.recv() => true,
                () = tokio::time::sleep(POLL) => false,
            };
        }
    }
}

const POLL: Duration = Duration::from_secs(2);

/// Reads the file at `path`, and the MTU of the uplink that it names.
///
/// # Errors
/// When it cannot be read or is not what it should be.
pub fn read(path: &Path) -> Result<Facts, StandaloneError> {
    let text = fs::read_to_string(path).map_err(|source| StandaloneError::Read { path: path.to_owned(), source })?;
    let mut facts = parse(&text).map_err(|text| StandaloneError::Parse { path: path.to_owned(), text })?;
    let mtu = fs::read_to_string(format!("/sys/class/net/{}/mtu", facts.uplink.interface));
    facts.uplink_mtu = mtu.ok().and_then(|text| text.trim().parse().ok());
    Ok(facts)
}

/// Reads facts from YAML; the uplink's MTU stays unknown.
///
/// # Errors
/// What is wrong and where, for people.
pub fn parse(yaml: &str) -> Result<Facts, String> {
    let file: File = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    let nodes = file.nodes.into_iter().map(FileNode::check).collect::<Result<_, _>>()?;
    Ok(Facts { node: file.node, uplink: file.uplink.check(), nodes, options: file.options.check()?, uplink_mtu: None })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    node: String,
    uplink: FileUplink,
    nodes: Vec<FileNode>,
    #[serde(default)]
    options: FileOptions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileUplink {
    interface: String,
    #[serde(default)]
    mode: FileMode,
    #[serde(default)]
    attach: FileAttach,
    #[serde(default)]
    zero_copy: FileZeroCopy,
    #[serde(default)]
    queues: u32,
    #[serde(default)]
    busy_poll: bool,
    #[serde(default)]
    gateways: Vec<IpAddr>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileMode {
    #[default]
    Shared,
    Owned,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileAttach {
    #[default]
    Auto,
    Native,
    Generic,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileZeroCopy {
    #[default]
    Auto,
    Never,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileUnderlay {
    #[default]
    Auto,
    Ipv4,
    Ipv6,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileNode {
    name: String,
    addresses: Vec<String>,
    pod_ranges: Vec<IpNet>,
    #[serde(default)]
    mac: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct FileOptions {
    vni: u32,
    udp_port: u16,
    mtu: String,
    underlay: FileUnderlay,
    host_interface: String,
    dataplane_socket: PathBuf,
    agent_socket: PathBuf,
    state_dir: PathBuf,
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions {
            vni: 1,
            udp_port: 4789,
            mtu: "auto".into(),
            underlay: FileUnderlay::Auto,
            host_interface: "millrace0".into(),
            dataplane_socket: crate::cli::SOCKET.into(),
            agent_socket: proto::attach::SOCKET.into(),
            state_dir: proto::attach::STATE.into(),
        }
    }
}

impl FileUplink {
    fn check(self) -> Uplink {
        Uplink {
            interface: self.interface,
            mode: match self.mode {
                FileMode::Shared => Ownership::Shared,
                FileMode::Owned => Ownership::Owned,
            },
            attach: match self.attach {
                FileAttach::Auto => Attach::Auto,
                FileAttach::Native => Attach::Native,
                FileAttach::Generic => Attach::Generic,
            },
            zero_copy: match self.zero_copy {
                FileZeroCopy::Auto => ZeroCopy::Auto,
                FileZeroCopy::Never => ZeroCopy::Never,
            },
            queues: self.queues,
            busy_poll: self.busy_poll,
            gateways: self.gateways,
        }
    }
}

impl FileNode {
    fn check(self) -> Result<Node, String> {
        let name = self.name;
        let addresses = self.addresses.iter().map(|text| {
            let bare = text.parse().map(|ip| NodeAddress { ip, network: None });
            let with_length =
                |_| text.parse().map(|net: IpNet| NodeAddress { ip: net.addr(), network: Some(net.trunc()) });
            bare.or_else(with_length).map_err(|_| format!("node {name}: {text:?} is no address"))
        });
        let mac = self
            .mac
            .map(|text| proto::parse_mac(&text).ok_or_else(|| format!("node {name}: {text:?} is no MAC address")));
        let addresses = addresses.collect::<Result<_, _>>()?;
        let pod_ranges = self.pod_ranges.iter().map(IpNet::trunc).collect();
        Ok(Node { addresses, pod_ranges, mac: mac.transpose()?, name })
    }
}

impl FileOptions {
    fn check(self) -> Result<Options, String> {
        let mtu = match self.mtu.as_str() {
            "auto" => None,
            number => {
                Some(number.parse().map_err(|_| format!("options.mtu: {number:?} is neither \"auto\" nor a number"))?)
            }
        };
        Ok(Options {
            vni: self.vni,
            udp_port: self.udp_port,
            mtu,
            underlay: match self.underlay {
                FileUnderlay::Auto => Underlay::Auto,
                FileUnderlay::Ipv4 => Underlay::Ipv4,
                FileUnderlay::Ipv6 => Underlay::Ipv6,
            },
            host_interface: self.host_interface,
            dataplane_socket: self.dataplane_socket,
            agent_socket: self.agent_socket,
            state_dir: self.state_dir,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../../deploy/standalone/node-a.yaml");

    #[test]
    fn the_sample_is_read() {
        let facts = parse(SAMPLE).unwrap();
        assert_eq!((facts.node.as_str(), facts.nodes.len()), ("a", 2));
        assert_eq!(facts.options.udp_port, 4789);
        assert!(facts.nodes.iter().all(|node| node.pod_ranges.len() == 2));
    }

    #[test]
    fn addresses_are_bare_or_with_their_network() {
        let yaml = "node: a\nuplink: {interface: eth0}\nnodes: [{name: a, addresses: [192.0.2.1/24, \"2001:db8::1\"], podRanges: [10.1.1.7/24]}]\n";
        let node = parse(yaml).unwrap().nodes.remove(0);
        assert_eq!(node.addresses[0].network, Some("192.0.2.0/24".parse().unwrap()));
        assert_eq!(node.addresses[1], NodeAddress { ip: "2001:db8::1".parse().unwrap(), network: None });
        assert_eq!(node.pod_ranges, ["10.1.1.0/24".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn mistakes_are_named() {
        let with =
            |options: &str| parse(&format!("node: a\nuplink: {{interface: e}}\nnodes: []\noptions: {options}\n"));
        assert_eq!(with("{mtu: 1400}").unwrap().options.mtu, Some(1400));
        assert!(with("{mtu: big}").unwrap_err().contains("options.mtu"));
        assert!(with("{vnii: 1}").unwrap_err().contains("vnii"));
        assert!(parse("node: a\nuplink: {interface: e, mode: stolen}\nnodes: []\n").is_err());
        let yaml = "node: a\nuplink: {interface: e}\nnodes: [{name: b, addresses: [nonsense], podRanges: []}]\n";
        assert_eq!(parse(yaml).unwrap_err(), "node b: \"nonsense\" is no address");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_changed_file_gives_new_facts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.yaml");
        fs::write(&path, SAMPLE).unwrap();
        let mut source = Standalone::new(&path).unwrap();
        assert_eq!(source.next().await.unwrap().options.vni, 1);
        fs::write(&path, format!("{SAMPLE}# a comment changes nothing\n")).unwrap();
        fs::write(&path, SAMPLE.replace("vni: 1", "vni: 4242")).unwrap();
        assert_eq!(source.next().await.unwrap().options.vni, 4242);
        fs::write(&path, "nodes: nonsense").unwrap();
        assert!(matches!(source.next().await, Err(StandaloneError::Parse { .. })));
    }
}
