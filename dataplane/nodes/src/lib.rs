//! What happens to packets, in order of travel: ingress, decap, flow, policy, service, route, encap, egress, punt.
//!
//! [`graph`] shows every node and every arc on one page. Between nodes a packet's metadata says what is known:
//!
//! - The data begins with the Ethernet header of what is to be sent; the outermost network header lies 14 bytes behind.
//! - `l3` and `l4` are the frame offsets of the *innermost* network and transport header; encapsulation leaves them.
//! - `next_hop` names where the packet goes; `port_out` is set by egress alone.
//! - `flags` are the bits of [`flag`].
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod decap;
pub mod egress;
pub mod encap;
pub mod flow;
pub mod graph;
pub mod ingress;
pub mod policy;
pub mod punt;
pub mod route;
pub mod service;

use tables::{learned::Learned, told::Told};

/// A turn with what the nodes were told and what their worker learned.
pub type Turn<'a> = engine::Turn<'a, Told, Learned>;

/// Bits of a packet's `flags`.
pub mod flag {
    /// It is IPv6; else IPv4.
    pub const V6: u8 = 1;
    /// It is a fragment; its ports, which only the first one carries, stand in `flow`.
    pub const FRAGMENT: u8 = 2;
    /// It came out of a tunnel.
    pub const DECAPPED: u8 = 4;
    /// The dataplane itself made it.
    pub const OWN: u8 = 8;
    /// It is forwarded without a flow; `flow` holds how far its route lookup has come.
    pub const STATELESS: u8 = 16;
    /// Its IP header has neither options nor extensions, it is no fragment, and its transport begins with ports: all
    /// that a flow needs lies at constant places behind the Ethernet header.
    pub const PLAIN: u8 = 32;
    /// Its addresses or ports were rewritten: its sender knows it by others.
    pub const REWRITTEN: u8 = 64;
}

/// Why an ICMP error is sent: kept in `early` on the way to [`punt::error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Complaint {
    /// Its time to live ran out.
    Expired = 1,
    /// There is no route.
    NoRoute = 2,
    /// The route, or the neighbour, cannot be reached.
    Unreachable = 3,
    /// It is longer than the MTU in `flow`, and may not be cut.
    TooBig = 4,
    /// Nobody listens at this port of the dataplane's own address.
    PortUnreachable = 5,
}
