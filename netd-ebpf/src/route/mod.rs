//! Where a packet goes next.

pub mod lookup;
pub mod next_hop;
pub mod redirect;
