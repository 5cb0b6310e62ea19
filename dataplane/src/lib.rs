//! The dataplane's control side: what keeps, starts, tells and shows the workers.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "no packet passes here"
)]

pub mod compile;
pub mod config;
pub mod keep;
pub mod live;
pub mod neighbours;
pub mod serve;
pub mod start;
pub mod store;
pub mod talk;
