//! Clocks per packet and the report.
fn main() {}
