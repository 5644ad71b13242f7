//! libvirt's remote protocol: XDR, messages, the server behind the agent's socket and the client
//! behind the command line.
//!
//! [`crate::api::Driver`] is what the server asks of the agent; nothing below knows how networks work.

pub mod access;
mod activation;
mod answer;
mod backlog;
pub mod budget;
pub mod client;
mod connection;
mod crowd;
pub mod descriptors;
mod dispatch;
pub mod events;
mod flow_pieces;
pub mod identity;
mod limits;
pub mod message;
pub mod peer;
mod polkit;
pub mod procedures;
pub mod reader;
pub mod remote_error;
pub mod server;
mod session;
pub mod socket;
mod sparingly;
mod writer;
pub mod xdr;

pub use activation::inherited;
pub use client::{Client, ClientError};
pub use flow_pieces::FlowPieces;
pub use limits::Limits;
pub use server::{MoreDoors, serve};
pub use socket::{Door, SocketFile, bind};
