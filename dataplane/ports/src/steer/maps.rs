//! The maps that program and dataplane share, their keys, and how they are brought to what is wanted.
use super::program::KINDS;
use super::sys::{Map, MapKind, Shape};
use std::collections::HashMap;
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
        self.tunnels.become_these(tunnels.iter().map(|(address, port)| tunnel_key(*address, *port)))
    }

    pub(super) fn set_pods(&self, prefixes: &[(IpAddr, u8)]) -> io::Result<()> {
        self.pods4.become_these(keys4(prefixes))?;
        self.pods6.become_these(keys6(prefixes))
    }

    pub(super) fn change_pods(&self, added: &[(IpAddr, u8)], removed: &[(IpAddr, u8)]) -> io::Result<()> {
        self.pods4.change(keys4(added), keys4(removed))?;
        self.pods6.change(keys6(added), keys6(removed))
    }

    pub(super) fn count(&self, kind: usize, cpus: usize) -> io::Result<u64> {
        let key = u32::try_from(kind).map_err(io::Error::other)?;
        Ok(self.counters.per_cpu(&key.to_ne_bytes(), cpus)?.iter().sum())
    }
}

/// A map whose keys the dataplane alone says, some of them several times. It remembers how often: a change costs what
/// differs, not the map.
#[derive(Debug)]
struct Told<const KEY: usize> {
    map: Map,
    there: Mutex<Option<HashMap<[u8; KEY], u32>>>, // none: not known, so the map is asked
}

impl<const KEY: usize> Told<KEY> {
    fn new(get: impl FnOnce(u32) -> io::Result<Map>) -> io::Result<Self> {
        Ok(Told { map: get(u32::try_from(KEY).map_err(io::Error::other)?)?, there: Mutex::default() })
    }

    /// Adds what is missing, then removes what is too much: what stays is never missing. What finds no room is added
    /// when that is gone.
    fn become_these(&self, keys: impl Iterator<Item = [u8; KEY]>) -> io::Result<()> {
        let mut wanted = HashMap::new();
        keys.for_each(|key| *wanted.entry(key).or_default() += 1);
        let mut place = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        // Until all is done the map is not known: what fails is mended by the next time.
        let there = match place.take() {
            Some(there) => there,
            None => self.map.keys()?.into_iter().map(|key| (key, 1)).collect(),
        };
        let add = || wanted.keys().filter(|key| !there.contains_key(*key)).try_for_each(|key| self.add(key));
        let no_room = add().is_err();
        there.keys().filter(|key| !wanted.contains_key(*key)).try_for_each(|key| self.map.remove(key))?;
        if no_room {
            add()?;
        }
        *place = Some(wanted);
        Ok(())
    }

    /// The same, when only these differ from what is known.
    fn change(
        &self,
        added: impl Iterator<Item = [u8; KEY]>,
        removed: impl Iterator<Item = [u8; KEY]>,
    ) -> io::Result<()> {
        let mut place = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let mut there = place.take().ok_or_else(|| io::Error::other("not known what is there: set all of it"))?;
        for key in added {
            if !there.contains_key(&key) {
                self.add(&key)?;
            }
            *there.entry(key).or_default() += 1;
        }
        for key in removed {
            let left = there.get(&key).map_or(0, |times| times.saturating_sub(1));
            if left == 0 {
                self.map.remove(&key)?;
                there.remove(&key);
            } else {
                there.insert(key, left);
            }
        }
        *place = Some(there);
        Ok(())
    }

    fn add(&self, key: &[u8; KEY]) -> io::Result<()> {
        self.map.set(key, &1u32.to_ne_bytes())
    }
}

fn keys4(prefixes: &[(IpAddr, u8)]) -> impl Iterator<Item = [u8; PREFIX4_KEY]> {
    prefixes.iter().filter_map(|(address, length)| match address {
        IpAddr::V4(address) => Some(prefix_key(address.octets(), *length)),
        IpAddr::V6(_) => None,
    })
}

fn keys6(prefixes: &[(IpAddr, u8)]) -> impl Iterator<Item = [u8; PREFIX6_KEY]> {
    prefixes.iter().filter_map(|(address, length)| match address {
        IpAddr::V6(address) => Some(prefix_key(address.octets(), *length)),
        IpAddr::V4(_) => None,
    })
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
