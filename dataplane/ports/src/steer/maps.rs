//! The maps that program and dataplane share, their keys, and how they are brought to what is wanted.
use super::program::KINDS;
use super::sys::{Map, MapKind, Shape};
use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

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
    tunnels: Told<TUNNEL_KEY>,
    pods4: Told<PREFIX4_KEY>,
    pods6: Told<PREFIX6_KEY>,
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
            tunnels: Told::new(|key| map("tunnels", MapKind::Hash, key, 4, TUNNELS))?,
            pods4: Told::new(|key| map("pods4", MapKind::Prefixes, key, 4, PREFIXES))?,
            pods6: Told::new(|key| map("pods6", MapKind::Prefixes, key, 4, PREFIXES))?,
            fragments: map("fragments", MapKind::LruHash, 40, 4, FRAGMENTS)?,
            counters: map("counters", MapKind::PerCpuArray, 4, 8, u32::try_from(KINDS).map_err(io::Error::other)?)?,
        })
    }

    pub(super) fn descriptors(&self) -> Descriptors {
        Descriptors {
            sockets: self.sockets.raw(),
            tunnels: self.tunnels.map.raw(),
            pods4: self.pods4.map.raw(),
            pods6: self.pods6.map.raw(),
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
        self.tunnels.become_these(tunnels.iter().map(|(address, port)| tunnel_key(*address, *port)).collect())
    }

    pub(super) fn set_pods(&self, prefixes: &[(IpAddr, u8)]) -> io::Result<()> {
        let (mut v4, mut v6) = (HashSet::new(), HashSet::new());
        for (address, length) in prefixes {
            match address {
                IpAddr::V4(address) => drop(v4.insert(prefix_key(address.octets(), *length))),
                IpAddr::V6(address) => drop(v6.insert(prefix_key(address.octets(), *length))),
            }
        }
        self.pods4.become_these(v4)?;
        self.pods6.become_these(v6)
    }

    pub(super) fn count(&self, kind: usize, cpus: usize) -> io::Result<u64> {
        let key = u32::try_from(kind).map_err(io::Error::other)?;
        Ok(self.counters.per_cpu(&key.to_ne_bytes(), cpus)?.iter().sum())
    }
}

/// A map whose keys the dataplane alone says. It remembers them: a change costs what differs, not the map.
#[derive(Debug)]
struct Told<const KEY: usize> {
    map: Map,
    there: Mutex<Option<HashSet<[u8; KEY]>>>, // none: not known, so the map is asked
}

impl<const KEY: usize> Told<KEY> {
    fn new(get: impl FnOnce(u32) -> io::Result<Map>) -> io::Result<Self> {
        Ok(Told { map: get(u32::try_from(KEY).map_err(io::Error::other)?)?, there: Mutex::default() })
    }

    /// Adds what is missing, then removes what is too much: what stays is never missing.
    fn become_these(&self, wanted: HashSet<[u8; KEY]>) -> io::Result<()> {
        let mut place = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        // Until all is done the map is not known: what fails is mended by the next change.
        let there = place.take().map_or_else(|| self.map.keys(), Ok)?;
        for key in wanted.difference(&there) {
            self.map.set(key, &1u32.to_ne_bytes())?;
        }
        there.difference(&wanted).try_for_each(|key| self.map.remove(key))?;
        *place = Some(wanted);
        Ok(())
    }
}

/// 16 bytes of address (IPv4: the last four), the port as on the wire, the family.
fn tunnel_key(address: IpAddr, port: u16) -> [u8; TUNNEL_KEY] {
    let (address, family) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), V4),
        IpAddr::V6(v6) => (v6.to_bits(), V6),
    };
    let parts = [&address.to_be_bytes()[..], &port.to_be_bytes(), &u16::from(family).to_ne_bytes()];
    filled(parts.into_iter().flatten().copied())
}

/// The length in bits, then the address with all bits behind it cleared (`struct bpf_lpm_trie_key`): so one prefix has
/// one key.
fn prefix_key<const ADDRESS: usize, const KEY: usize>(address: [u8; ADDRESS], length: u8) -> [u8; KEY] {
    let masked = address.into_iter().zip((0..).step_by(8)).map(|(byte, before)| {
        let kept = usize::from(length).saturating_sub(before).min(8);
        byte & u8::try_from(0xff00u16 >> kept & 0xff).unwrap_or(0)
    });
    filled(u32::from(length).to_ne_bytes().into_iter().chain(masked))
}

fn filled<const N: usize>(bytes: impl Iterator<Item = u8>) -> [u8; N] {
    let mut key = [0; N];
    key.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    key
}

/// Under which names the maps are pinned.
pub(super) const NAMES: [&str; 6] = ["sockets", "tunnels", "pods4", "pods6", "fragments", "counters"];

const TUNNEL_KEY: usize = 20;
const PREFIX4_KEY: usize = 8;
const PREFIX6_KEY: usize = 20;
const QUEUES: u32 = 256;
const TUNNELS: u32 = 256;
const PREFIXES: u32 = 4096;
const FRAGMENTS: u32 = 8192;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn keys_are_as_the_program_reads_them() {
        let key = tunnel_key("10.1.2.3".parse().unwrap(), 4789);
        assert_eq!(key, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 1, 2, 3, 0x12, 0xb5, 4, 0]);
        let four = |address: Ipv4Addr, length| prefix_key(address.octets(), length);
        assert_eq!(four(Ipv4Addr::new(10, 77, 255, 9), 17), [17, 0, 0, 0, 10, 77, 128, 0]);
        assert_eq!(four(Ipv4Addr::new(10, 77, 255, 9), 0), [0; 8]);
        assert_eq!(four(Ipv4Addr::new(10, 77, 255, 9), 32), [32, 0, 0, 0, 10, 77, 255, 9]);
        let six: [u8; PREFIX6_KEY] = prefix_key("fd00:1:2:3::9".parse::<Ipv6Addr>().unwrap().octets(), 64);
        assert_eq!(six, [64, 0, 0, 0, 0xfd, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
