//! Work on netd itself.
fn main() {}
