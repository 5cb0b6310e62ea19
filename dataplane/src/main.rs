//! The binary: keeper, worker process, compile, serve.
fn main() {}
