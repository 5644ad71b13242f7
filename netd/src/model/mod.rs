//! Network XML: the definition of a network as libvirt's users write it.
//!
//! No I/O happens here. [`parse()`] reads XML into [`Network`], [`format()`] prints the canonical
//! text, and [`check_define`] and [`check_start`] hold the rules that apply when a definition is
//! stored or started. The three layers stay apart because a definition may be readable, and may
//! even be kept, without being startable. An [`Update`] changes one entry of a definition.

mod address;
mod check;
mod element;
mod encoding;
mod error;
mod format;
mod metadata;
mod name;
mod namespace;
mod netd;
mod network;
mod network_port;
mod parse;
mod prefix;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod update;
mod write;
mod xml;

pub use address::{in_subnet, network_address};
pub use check::{check_define, check_start, check_take_over};
pub use element::*;
pub use encoding::decode;
pub use error::{UpdateError, XmlError};
pub use format::{FormatOptions, format, format_live};
pub use metadata::MetadataElement;
pub use name::{check_interface_name, check_name};
pub use namespace::NETD_NAMESPACE;
#[cfg(test)]
pub(crate) use netd::samples;
pub use netd::{
    AntiSpoof, Checks, Clash, Delegated, Filtering, Firewall, ForwardAction, ForwardGuest,
    ForwardProtocol, ForwardRange, ForwardScope, GivenPrefix, GivenSubnet, GuestPrefix, HostAccess,
    HostRelation, Mapping, NatBehaviour, NetdExtensions, PortForward, ProtocolError, Published,
    Span, find_clash,
};
pub use network::Network;
pub use network_port::{
    BridgePlug, MAX_PORTS, NetworkPort, NetworkPorts, Owner, ParsedPort, Plug, PortError, TapOwner,
    format_port, parse_port,
};
pub use parse::{Parsed, parse, parse_whole};
pub use prefix::{Prefix, PrefixError};
pub use read::UnknownPiece;
pub use schema::{validate, validate_port};
pub use update::{Section, Update, UpdateCommand};
pub use xml::fits;
