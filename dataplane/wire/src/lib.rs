//! What a packet looks like: zero-copy views of headers, checksums, whole frames, and a one-line description.
//!
//! A view is a plain struct of bytes in network order, read in place with `ref_from_prefix` or `mut_from_prefix`
//! ([`FromBytes`]) and written with [`IntoBytes`]. Multi-byte fields are [`U16`], [`U32`] and [`U128`]: `get` gives the
//! host's number. Nothing here holds state, allocates , or trusts a length.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod arp;
pub mod build;
pub mod checksum;
pub mod describe;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod stack;
pub mod tcp;
pub mod udp;
pub mod vxlan;

pub use arp::Arp;
pub use checksum::{Delta, Sum};
pub use describe::describe;
pub use ethernet::{EtherType, Ethernet, Mac, Vlan};
pub use icmp::Icmp;
pub use icmpv6::Icmpv6;
pub use ip::{Ecn, Ports, Protocol};
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use stack::{Eth4, Eth4Tcp, Eth4Udp, Eth6, Eth6Tcp, Eth6Udp, Outer4, Outer6};
pub use tcp::Tcp;
pub use udp::Udp;
pub use vxlan::{Vni, Vxlan};
pub use zerocopy::network_endian::{U16, U32, U128};
pub use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};
