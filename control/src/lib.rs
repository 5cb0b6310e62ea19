//! The agent: what it [`watch`]es becomes a [`plan`], which it [`push`]es to the dataplane; [`attach`] serves the CNI
//! binary. And [`cli`], the command line.
#![forbid(unsafe_code)]

pub mod agent;
pub mod attach;
pub mod cli;
pub mod ipam;
pub mod plan;
pub mod push;
pub mod watch;
