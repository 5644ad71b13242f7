//! Network XML: the definition of a network as libvirt's users write it.
//!
//! No I/O happens here. [`parse()`] reads XML into [`Network`], [`format()`] prints the canonical
//! text, and [`check_define`] and [`check_start`] hold the rules that apply when a definition is
//! stored or started. The three layers stay apart because a definition may be readable, and may
//! even be kept, without being startable. An [`Update`] changes one entry of a definition.

mod address;
mod check;
mod error;
mod format;
mod metadata;
mod name;
mod netd;
mod network;
mod parse;
#[cfg(test)]
mod tests;
pub mod types;
mod update;
mod xml;

pub use address::{in_subnet, network_address, subnet_of};
pub use check::{check_define, check_start};
pub use error::{UpdateError, XmlError};
pub use format::{FormatOptions, format};
pub use metadata::MetadataElement;
pub use name::{check_interface_name, check_name};
pub use netd::{
    AntiSpoof, Clash, Filtering, ForwardAction, ForwardGuest, ForwardProtocol, ForwardRange,
    ForwardScope, HostAccess, Mapping, NETD_NAMESPACE, NatBehaviour, NetdExtensions, PortForward,
    ProtocolError, Published, Span, find_clash,
};
pub use network::Network;
pub use parse::{Parsed, UnknownPiece, parse, parse_whole};
pub use types::*;
pub use update::{Section, Update, UpdateCommand};
pub use xml::fits;
