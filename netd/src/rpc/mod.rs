//! libvirt's remote protocol: XDR, messages, the server behind the agent's socket and the client
//! behind the command line.

pub mod driver;
