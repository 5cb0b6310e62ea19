//! What nodes know: what they were *told* (one immutable snapshot, shared by all workers) and what they *learned* (one
//! worker's own).
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod flows;
pub mod fragments;
pub mod learned;
#[cfg(test)]
mod naive;
mod pages;
mod rib;
pub mod routes4;
pub mod routes6;
mod slab;
pub mod slots;
pub mod table;
pub mod told;
pub mod way;
