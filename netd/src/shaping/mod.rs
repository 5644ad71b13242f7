//! Holding what a device sends to rates: `<bandwidth>` of networks, and the floors of their guests.
//!
//! A device that is held has the kernel's hierarchical token bucket (`htb`) as its queue, under netd's
//! own handle. Packets wait there for their turn; what has waited too long is dropped, so senders slow
//! down. [`Shape`] is what a definition asks for, in the kernel's numbers; [`tc`] reads and writes that.
//! What goes to guests waits at their bridge. What they send has no queue to wait in there, so it
//! goes through a device made for that: [`shaper`].

mod rates;
pub mod shaper;
pub mod tc;

pub use rates::{Class, OTHERS, Shape, WHOLE};
