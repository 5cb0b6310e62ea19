//! Outer headers come off: what arrives by a tunnel goes back to the front as the frame that it carried.
pub mod vxlan;

pub use vxlan::VxlanDecap;
