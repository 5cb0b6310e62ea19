//! The dataplane's control side: what keeps, starts, tells and shows the workers.
#![forbid(unsafe_code)]

pub mod compile;
