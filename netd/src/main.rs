//! The netd binary.
fn main() {}
