//! One gate: every check that a commit passes.
fn main() {}
