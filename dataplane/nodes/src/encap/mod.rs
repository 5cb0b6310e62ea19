//! Outer headers go on: what leaves by a tunnel becomes a packet of the underlay.
pub mod vxlan;

pub use vxlan::VxlanEncap;
