//! What the programs do with a packet, one step after the other.

pub mod announced;
pub mod ban;
pub mod from_guest;
pub mod from_outside;
pub mod services;
pub mod shaper;
pub mod to_outside;
pub mod transmit;
