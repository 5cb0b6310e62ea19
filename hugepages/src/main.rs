//! millrace-hugepages: shows and reserves pages.
fn main() {}
