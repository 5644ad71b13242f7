//! Network XML: the definition of a network as libvirt's users write it.
//!
//! No I/O happens here. [`parse()`] reads XML into [`Network`], [`format()`] prints the canonical
//! text, and [`check_define`] and [`check_start`] hold the rules that apply when a definition is
//! stored or started. The three layers stay apart because a definition may be readable, and may
//! even be kept, without being startable. An [`Update`] changes one entry of a definition.

mod address;
mod check;
mod error;
mod extension;
mod format;
mod guard;
mod metadata;
mod parse;
mod port_forward;
#[cfg(test)]
mod tests;
pub mod types;
mod update;
mod xml;

pub use address::{in_subnet, network_address, subnet_of};
pub use check::{check_define, check_interface_name, check_name, check_start};
pub use error::XmlError;
pub use extension::{Extensions, Filtering, Mapping, NETD_NAMESPACE, NatBehaviour};
pub use format::{FormatOptions, format};
pub use guard::{AntiSpoof, HostAccess};
pub use parse::parse;
pub use port_forward::{
    Clash, ForwardGuest, ForwardProtocol, ForwardRange, ForwardScope, PortForward, ProtocolError,
    Span, find_clash,
};
pub use types::*;
pub use update::{Section, Update, UpdateCommand, UpdateError};
pub use xml::fits;
