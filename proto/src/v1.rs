//! The dataplane's API, `millrace.v1`: messages, client and server as generated from the `.proto` files.
#![expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/millrace.v1.rs"));
