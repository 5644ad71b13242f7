//! `<netd:forwards>`: ports of the host that lead to a guest.
//!
//! ```xml
//! <netd:forwards xmlns:netd='urn:netd:network:1'>
//!   <netd:portForward proto='tcp' address='203.0.113.5' guest='192.168.122.10'>
//!     <netd:range start='8080' to='80'/>
//!     <netd:range start='9000' end='9010'/>
//!     <netd:range start='9005' exclude='yes'/>
//!   </netd:portForward>
//!   <netd:portForward proto='udp' dev='eth0' guest='web'>
//!     <netd:range start='53'/>
//!   </netd:portForward>
//! </netd:forwards>
//! ```

mod edit;
mod rules;
#[cfg(test)]
pub(crate) mod samples;
mod types;
mod xml;

use roxmltree::Node;

use super::reader::Reader;
use super::section::{Section, Surroundings};
use crate::model::error::XmlError;
pub use edit::{ForwardAction, Published, change_forwards};
pub use types::{
    Clash, ForwardGuest, ForwardProtocol, ForwardRange, ForwardScope, PortForward, ProtocolError,
    Span, find_clash,
};

impl Section for Vec<PortForward> {
    const NAME: &'static str = "forwards";

    fn read(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<Self, XmlError> {
        xml::read(reader, node)
    }

    fn write(&self, out: &mut String, level: usize) {
        xml::write(self, out, level);
    }

    fn check(&self, definition: &Surroundings<'_>) -> Result<(), XmlError> {
        rules::check(definition, self)
    }
}
