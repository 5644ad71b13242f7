//! What the programs do with a packet, one step after the other.

pub mod from_guest;
pub mod from_outside;
pub mod to_outside;
pub mod transmit;
