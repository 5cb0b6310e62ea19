//! The CNI socket: what the CNI binary asks of the agent, as length-prefixed JSON over a unix stream.
//!
//! A frame is four bytes of length (big endian) and as many of JSON. One connection carries one [`Request`] and one
//! [`Reply`]. Fields that one side does not know are ignored, so that binary and agent of two versions understand each
//! other during an upgrade.
use std::{
    io::{self, Read, Write},
    net::IpAddr,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Where the agent listens unless it was told otherwise.
pub const SOCKET: &str = "/run/millrace/agent.sock";

/// Where the agent and the CNI binary keep what must survive, unless they were told otherwise.
pub const STATE: &str = "/var/lib/millrace";

/// The folder of tombstones below the state folder.
pub const TOMBSTONES: &str = "tombstones";

/// The file in the folder of tombstones that whoever writes or replays them locks (`flock`, exclusive).
///
/// The agent listens before it replays, and a CNI binary that holds the lock asks the agent once more before it writes:
/// so no tombstone is left behind an agent that serves.
pub const TOMBSTONE_LOCK: &str = "lock";

/// The most bytes of JSON in a frame: a GC request with 10,000 attachments fits.
pub const FRAME_LIMIT: u32 = 4 << 20;

/// What the CNI binary asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Request {
    /// Attach a container. Asked again for the same key, it answers the same.
    Add(Add),
    /// Detach it; gone already is success.
    Del(Key),
    /// Is it as it was made?
    Check(Check),
    /// Would an ADD work?
    Status,
    /// Detach all of one network but these.
    Gc(Gc),
}

/// Names an attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The network's name in the CNI configuration.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The interface's name in the container.
    pub ifname: String,
}

/// A container to attach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Which.
    pub key: Key,
    /// Path of its network namespace.
    pub netns: String,
    /// An interface of that name was there before: only an attachment that is known already may be.
    #[serde(default)]
    pub interface_exists: bool,
    /// What CNI_ARGS says about it, such as K8S_POD_NAME; for people.
    #[serde(default)]
    pub args: std::collections::BTreeMap<String, String>,
    /// Addresses it must get (capability `ips`); empty: any.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The MAC address it must have (capability `mac`); empty: any.
    #[serde(default)]
    pub mac: String,
}

/// A container to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which.
    pub key: Key,
    /// The addresses that the result of its ADD named.
    pub addresses: Vec<IpAddr>,
}

/// Which attachments of a network live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// The network's name.
    pub network: String,
    /// Container and interface of those that live; all others go.
    pub valid: Vec<(String, String)>,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// ADD: it is attached, and packets pass.
    Attached(Attached),
    /// It is done, or it is as it should be.
    Done,
    /// It is not.
    Refused(Refused),
}

/// An attachment that is live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The container's MAC address.
    pub mac: String,
    /// The interface's MTU, in bytes.
    pub mtu: u32,
    /// Its addresses, at least one; at most one of each family.
    pub addresses: Vec<Address>,
    /// The routes that were set.
    pub routes: Vec<Route>,
}

/// An address of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// The prefix length that the interface shows.
    pub length: u8,
    /// The gateway of its family.
    pub gateway: IpAddr,
}

/// A route of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination as `address/length`.
    pub to: String,
    /// The next hop; none: on-link.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// Why something is not done, in the codes of CNI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One of [`code`].
    pub code: u32,
    /// One sentence.
    pub message: String,
    /// What to look at or do; may be empty.
    #[serde(default)]
    pub details: String,
}

/// Error codes of CNI 1.1.0, and ours from 100 on.
pub mod code {
    /// The version of the configuration is not one of ours.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A value of the configuration is known and not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong.
    pub const BAD_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// What was read cannot be decoded.
    pub const DECODING: u32 = 6;
    /// The configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is not one.
    pub const INVALID_NETNS: u32 = 8;
    /// Something is not there yet: try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: an ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: an ADD would fail, and attached containers may be impaired.
    pub const NOT_AVAILABLE_IMPAIRED: u32 = 51;
    /// The agent cannot be reached.
    pub const AGENT_UNREACHABLE: u32 = 100;
    /// No address is left.
    pub const NO_ADDRESS: u32 = 101;
    /// No memory or no hugepages are left.
    pub const NO_MEMORY: u32 = 102;
    /// No queue is left.
    pub const NO_QUEUE: u32 = 103;
    /// The dataplane refused the attachment.
    pub const REFUSED: u32 = 104;
    /// The address that was asked for is taken.
    pub const ADDRESS_TAKEN: u32 = 105;
    /// CHECK: what is there is not what was made.
    pub const DIFFERS: u32 = 106;
}

/// A DEL that the agent has not seen: a file that the CNI binary leaves and the agent replays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// What was to be detached.
    pub key: Key,
}

impl Tombstone {
    /// Its file's name: the same for the same key, so that repeated DELs leave one file; safe whatever the key holds.
    pub fn file_name(&self) -> String {
        // FNV-1a (64 bit) over the parts and a byte that none of them holds.
        let hash = |seed: u64| {
            let parts = [&self.key.network, &self.key.container, &self.key.ifname];
            parts
                .into_iter()
                .flat_map(|part| part.bytes().chain([0xff]))
                .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        };
        format!("{:016x}{:016x}.json", hash(0xcbf2_9ce4_8422_2325), hash(0x6c62_272e_07bb_0142))
    }
}

/// Writes one frame.
pub fn write_frame(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let bytes = encode(what)?;
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads one frame.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; frame_length(length)?];
    from.read_exact(&mut bytes)?;
    decode(&bytes)
}

/// A whole frame: length and JSON.
pub fn encode(what: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, what)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|l| *l <= FRAME_LIMIT).ok_or_else(too_long)?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// How many bytes of JSON follow this length; more than [`FRAME_LIMIT`] is an error.
pub fn frame_length(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(length);
    if length > FRAME_LIMIT {
        return Err(too_long());
    }
    usize::try_from(length).map_err(|_| too_long())
}

/// Reads the JSON of a frame.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> io::Result<T> {
    serde_json::from_slice(json).map_err(io::Error::from)
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame holds at most {FRAME_LIMIT} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(container: &str) -> Key {
        Key { network: "millrace".into(), container: container.into(), ifname: "eth0".into() }
    }

    #[test]
    fn a_request_survives_its_frame() {
        let add = Request::Add(Add {
            key: key("c1"),
            netns: "/run/netns/a".into(),
            interface_exists: false,
            args: [("K8S_POD_NAME".to_owned(), "web".to_owned())].into(),
            addresses: vec!["fd00::7".parse().unwrap()],
            mac: String::new(),
        });
        for request in [add, Request::Del(key("c1")), Request::Status] {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, &request).unwrap();
            assert_eq!(read_frame::<Request>(&mut bytes.as_slice()).unwrap(), request);
        }
    }

    #[test]
    fn unknown_fields_pass_and_long_frames_do_not() {
        let json = br#"{"verb":"del","network":"n","container":"c","ifname":"eth0","later":1}"#;
        assert!(matches!(decode::<Request>(json).unwrap(), Request::Del(_)));
        let mut long = (FRAME_LIMIT + 1).to_be_bytes().to_vec();
        long.extend([0; 16]);
        assert_eq!(read_frame::<Request>(&mut long.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(read_frame::<Request>(&mut [0, 0, 0, 9, b'{'].as_slice()).is_err());
    }

    #[test]
    fn a_tombstone_has_one_name_per_key() {
        let name = |container| Tombstone { key: key(container) }.file_name();
        assert_eq!(name("c1"), name("c1"));
        assert_ne!(name("c1"), name("c2"));
        assert!(name("../../etc/passwd").bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'));
        let split = |network: &str, container: &str| {
            Tombstone { key: Key { network: network.into(), container: container.into(), ifname: "e".into() } }
                .file_name()
        };
        assert_ne!(split("a", "bc"), split("ab", "c"));
    }
}
