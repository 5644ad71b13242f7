//! Where a packet goes next.

pub mod endpoint;
pub mod lookup;
pub mod next_hop;
pub mod redirect;
pub mod source;
