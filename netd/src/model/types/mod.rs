//! The elements of a definition as they are read: one type per element, one field per attribute.

mod bridge;
mod dns;
mod forward;
mod ip;
mod port;

pub use bridge::*;
pub use dns::*;
pub use forward::*;
pub use ip::*;
pub use port::*;
