//! libvirt's remote protocol: XDR, messages, the server behind the agent's socket and the client
//! behind the command line.
//!
//! [`crate::api::Driver`] is what the server asks of the agent; nothing below knows how networks work.

pub mod client;
mod connection;
mod dispatch;
mod limits;
pub mod message;
pub mod procedures;
pub mod remote_error;
pub mod server;
pub mod socket;
pub mod xdr;

pub use client::{Client, ClientError};
pub use limits::Limits;
pub use server::serve;
pub use socket::bind;
