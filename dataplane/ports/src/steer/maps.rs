//! The maps that program and dataplane share, their keys, and how they are brought to what is wanted.
use super::program::KINDS;
use super::sys::{Map, MapKind, Shape};
use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::Path;

/// The family in a key, so that no IPv6 address stands for an IPv4 one.
pub(super) const V4: u8 = 4;
/// The family in a key.
pub(super) const V6: u8 = 6;

/// The maps' descriptors, as a program names them.
pub(super) struct Descriptors {
    pub(super) sockets: RawFd,
    pub(super) tunnels: RawFd,
    pub(super) pods4: RawFd,
    pub(super) pods6: RawFd,
    pub(super) fragments: RawFd,
    pub(super) counters: RawFd,
}

/// All maps of one steering.
#[derive(Debug)]
pub(super) struct Maps {
    sockets: Map,
    tunnels: Map,
    pods4: Map,
    pods6: Map,
    fragments: Map,
    counters: Map,
}

impl Maps {
    /// Opens each map where it is pinned in `dir`, or makes and pins it.
    pub(super) fn ensure(dir: &Path) -> io::Result<Self> {
        Self::each(|name, shape| match Map::open(&dir.join(name), shape) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let map = Map::new(name, shape)?;
                map.pin(&dir.join(name))?;
                Ok(map)
            }
            found => found,
        })
    }

    /// Opens the maps that are pinned in `dir`.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        Self::each(|name, shape| Map::open(&dir.join(name), shape))
    }

    fn each(mut get: impl FnMut(&str, Shape) -> io::Result<Map>) -> io::Result<Self> {
        let mut map = |name, kind, key, value, entries| get(name, Shape { kind, key, value, entries });
        Ok(Maps {
            sockets: map("sockets", MapKind::Sockets, 4, 4, QUEUES)?,
            tunnels: map("tunnels", MapKind::Hash, TUNNEL_KEY, 4, TUNNELS)?,
            pods4: map("pods4", MapKind::Prefixes, 8, 4, PREFIXES)?,
            pods6: map("pods6", MapKind::Prefixes, 20, 4, PREFIXES)?,
            fragments: map("fragments", MapKind::LruHash, 40, 4, FRAGMENTS)?,
            counters: map("counters", MapKind::PerCpuArray, 4, 8, u32::try_from(KINDS).map_err(io::Error::other)?)?,
        })
    }

    pub(super) fn descriptors(&self) -> Descriptors {
        Descriptors {
            sockets: self.sockets.raw(),
            tunnels: self.tunnels.raw(),
            pods4: self.pods4.raw(),
            pods6: self.pods6.raw(),
            fragments: self.fragments.raw(),
            counters: self.counters.raw(),
        }
    }

    pub(super) fn bind(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        self.sockets.set(&queue.to_ne_bytes(), &socket.to_ne_bytes())
    }

    pub(super) fn unbind(&self, queue: u32) -> io::Result<()> {
        self.sockets.remove(&queue.to_ne_bytes())
    }

    pub(super) fn set_tunnels(&self, tunnels: &[(IpAddr, u16)]) -> io::Result<()> {
        become_these(&self.tunnels, tunnels.iter().map(|(address, port)| tunnel_key(*address, *port)))
    }

    pub(super) fn set_pods(&self, prefixes: &[(IpAddr, u8)]) -> io::Result<()> {
        let (v4, v6): (Vec<_>, Vec<_>) = prefixes.iter().partition(|(address, _)| address.is_ipv4());
        let key = |(address, length): &(IpAddr, u8)| prefix_key(*address, *length);
        become_these(&self.pods4, v4.iter().map(key))?;
        become_these(&self.pods6, v6.iter().map(key))
    }

    pub(super) fn count(&self, kind: usize, cpus: usize) -> io::Result<u64> {
        let key = u32::try_from(kind).map_err(io::Error::other)?;
        Ok(self.counters.per_cpu(&key.to_ne_bytes(), cpus)?.iter().sum())
    }
}

/// Adds what is missing, then removes what is too much: what stays is never missing.
fn become_these(map: &Map, wanted: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
    let there: HashSet<Vec<u8>> = map.keys()?.into_iter().collect();
    let wanted: HashSet<Vec<u8>> = wanted.collect();
    for key in wanted.difference(&there) {
        map.set(key, &1u32.to_ne_bytes())?;
    }
    there.difference(&wanted).try_for_each(|key| map.remove(key))
}

/// 16 bytes of address (IPv4: the last four), the port as on the wire, the family.
fn tunnel_key(address: IpAddr, port: u16) -> Vec<u8> {
    let (mut key, family) = match address {
        IpAddr::V4(v4) => ([&[0; 12][..], &v4.octets()].concat(), V4),
        IpAddr::V6(v6) => (v6.octets().to_vec(), V6),
    };
    key.extend_from_slice(&port.to_be_bytes());
    key.extend_from_slice(&u16::from(family).to_ne_bytes());
    key
}

/// The length in bits, then the address with all bits behind it cleared (`struct bpf_lpm_trie_key`): so one prefix has
/// one key.
fn prefix_key(address: IpAddr, length: u8) -> Vec<u8> {
    let mut bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    for (at, byte) in bytes.iter_mut().enumerate() {
        let kept = usize::from(length).saturating_sub(at * 8).min(8);
        *byte &= u8::try_from(0xff00u16 >> kept & 0xff).unwrap_or(0);
    }
    [&u32::from(length).to_ne_bytes()[..], &bytes].concat()
}

/// Under which names the maps are pinned.
pub(super) const NAMES: [&str; 6] = ["sockets", "tunnels", "pods4", "pods6", "fragments", "counters"];

const TUNNEL_KEY: u32 = 20;
const QUEUES: u32 = 256;
const TUNNELS: u32 = 256;
const PREFIXES: u32 = 4096;
const FRAGMENTS: u32 = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_the_program_reads_them() {
        let key = tunnel_key("10.1.2.3".parse().unwrap(), 4789);
        assert_eq!(key, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 1, 2, 3, 0x12, 0xb5, 4, 0]);
        assert_eq!(prefix_key("10.77.255.9".parse().unwrap(), 17), [17, 0, 0, 0, 10, 77, 128, 0]);
        assert_eq!(prefix_key("10.77.255.9".parse().unwrap(), 0), [0; 8]);
        assert_eq!(prefix_key("10.77.255.9".parse().unwrap(), 32), [32, 0, 0, 0, 10, 77, 255, 9]);
        let key = prefix_key("fd00:1:2:3::9".parse().unwrap(), 64);
        assert_eq!(key[4..], [0xfd, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
