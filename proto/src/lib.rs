//! What the agent says to the dataplane, and the CNI binary to the agent.
//!
//! [`v1`] is the dataplane's gRPC API (feature `grpc`), generated from `millrace/v1/*.proto`; [`Refusal`] is how it
//! says no. [`attach`] is the CNI socket (feature `attach`), which needs no async runtime.
#![forbid(unsafe_code)]

#[cfg(feature = "attach")]
pub mod attach;
#[cfg(feature = "grpc")]
mod convert;
#[cfg(feature = "grpc")]
mod refusal;
#[cfg(feature = "grpc")]
pub mod v1;

#[cfg(feature = "grpc")]
pub use convert::{ip, ip_bytes, mac, mac_text, parse_mac};
#[cfg(feature = "grpc")]
pub use refusal::{NETNS_PATH, Refusal};

/// The descriptors of `millrace.v1`, encoded as a `FileDescriptorSet`: what gRPC reflection serves.
#[cfg(feature = "grpc")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/millrace.v1.bin"));
