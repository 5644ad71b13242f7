//! Opening flows, and translating by them.

pub mod dnat;
pub mod entries;
pub mod forwards;
pub mod icmp_error;
pub mod inbound;
pub mod mapping;
pub mod open;
pub mod port_alloc;
pub mod prefix;
pub mod rewrite;
pub mod snat;
pub mod tracked;
