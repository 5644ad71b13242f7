//! What a definition says to netd alone: elements of its own namespace under `<metadata>`, which
//! libvirt keeps and passes over.
//!
//! libvirt keeps one element of each namespace, so several stand in a `<netd:network>` together. A
//! lone one is read as well:
//!
//! ```xml
//! <metadata>
//!   <netd:network xmlns:netd='urn:netd:network:1'>
//!     <netd:nat mapping='endpoint-independent'/>
//!     <netd:forwards>…</netd:forwards>
//!   </netd:network>
//! </metadata>
//! ```
//!
//! A new element is a file that says what a [`section::Section`] is, and a line in [`NetdExtensions`].

mod antispoof;
mod host;
mod nat;
mod port_forward;
mod prefix;
mod reader;
mod section;
#[cfg(test)]
mod tests;

use roxmltree::Node;

use super::error::XmlError;
use super::metadata::MetadataElement;
use super::namespace::NETD_NAMESPACE;
use super::xml::{self, METADATA_LEVEL};
pub use antispoof::{AntiSpoof, Checks};
pub use host::{Firewall, HostAccess, HostRelation};
pub use nat::{Filtering, Mapping, NatBehaviour};
#[cfg(test)]
pub(crate) use port_forward::samples;
pub use port_forward::{
    Clash, ForwardAction, ForwardGuest, ForwardProtocol, ForwardRange, ForwardScope, PortForward,
    ProtocolError, Published, Span, change_forwards, find_clash,
};
pub use prefix::{Delegated, GivenPrefix, GivenSubnet, GuestPrefix};
use reader::{Reader, check_namespace, enumeration};
use section::Section;
pub(super) use section::Surroundings;

/// The element that holds several others.
const CONTAINER: &str = "network";

/// The elements by the fields they are read into, in the order they are written.
macro_rules! extensions {
    ($($(#[$doc:meta])* $field:ident: $section:ty,)+) => {
        /// All that a definition says to netd alone.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct NetdExtensions {
            $($(#[$doc])* pub $field: Option<$section>,)+
        }

        impl NetdExtensions {
            /// Their names.
            const NAMES: &'static [&'static str] = &[$(<$section as Section>::NAME),+];

            /// Reads one of them; `None` when it is another element.
            fn read_known(
                &mut self,
                reader: &Reader<'_>,
                node: Node<'_, '_>,
            ) -> Option<Result<(), XmlError>> {
                $(if node.has_tag_name((NETD_NAMESPACE, <$section as Section>::NAME)) {
                    return Some(Section::read(reader, node).and_then(|section| {
                        match self.$field.replace(section) {
                            None => Ok(()),
                            Some(_) => Err(reader.refuse(node, "may be given once only")),
                        }
                    }));
                })+
                None
            }

            /// Each as text for that depth of a definition.
            fn write(&self, level: usize) -> Vec<String> {
                let mut elements = Vec::new();
                $(if let Some(section) = &self.$field {
                    let mut out = String::new();
                    section.write(&mut out, level);
                    elements.push(out);
                })+
                elements
            }

            /// May the network have these?
            ///
            /// # Errors
            /// One contradicts itself, or what else the definition says.
            pub(super) fn check(&self, definition: &Surroundings<'_>) -> Result<(), XmlError> {
                $(if let Some(section) = &self.$field {
                    section.check(definition)?;
                })+
                Ok(())
            }
        }
    };
}

extensions! {
    /// `<netd:nat>`.
    nat: NatBehaviour,
    /// `<netd:prefix>`.
    prefix: GuestPrefix,
    /// `<netd:forwards>`.
    forwards: Vec<PortForward>,
    /// `<netd:host>`.
    host: HostRelation,
    /// `<netd:antispoof>`.
    antispoof: AntiSpoof,
}

impl NetdExtensions {
    /// Reads the elements of netd's namespace among these, which stand under `<metadata>` in the
    /// definition of the network of that name.
    ///
    /// # Errors
    /// An element or attribute that does not exist, or a value that is not allowed: what is meant for
    /// netd is never passed over.
    pub(super) fn read<'a, 'i: 'a>(
        network: &str,
        elements: impl Iterator<Item = Node<'a, 'i>>,
    ) -> Result<Self, XmlError> {
        let reader = Reader { network };
        let mut read = Self::default();
        for node in elements {
            let tag = node.tag_name();
            let Some(namespace) = tag.namespace() else {
                continue;
            };
            check_namespace(network, tag.name(), namespace)?;
            if namespace != NETD_NAMESPACE {
                continue;
            }
            if tag.name() != CONTAINER {
                read.read_one(&reader, node)?;
                continue;
            }
            reader.attributes(node, &[])?;
            for child in reader.children(node)? {
                read.read_one(&reader, child)?;
            }
        }
        Ok(read)
    }

    /// Reads one element that is not the container.
    fn read_one(&mut self, reader: &Reader<'_>, node: Node<'_, '_>) -> Result<(), XmlError> {
        self.read_known(reader, node).unwrap_or_else(|| {
            let names = [CONTAINER].iter().chain(Self::NAMES);
            let names: Vec<String> = names.map(|name| format!("<{name}>")).collect();
            let detail = format!(
                "is not an element of {NETD_NAMESPACE}, which has {}",
                enumeration(&names)
            );
            Err(reader.refuse(node, detail))
        })
    }

    /// The forwards of `<netd:forwards>`; none without the element.
    #[must_use]
    pub fn forwards(&self) -> &[PortForward] {
        self.forwards.as_deref().unwrap_or_default()
    }

    /// The element that says all this, as it stands in a definition; `None` when there is nothing
    /// to say. It is always the one that holds the others, so that one more can be put in.
    pub(super) fn to_element(&self) -> Option<MetadataElement> {
        let level = METADATA_LEVEL + 1;
        let elements = self.write(level);
        if elements.is_empty() {
            return None;
        }
        let mut xml = format!("<netd:{CONTAINER} xmlns:netd=\"{NETD_NAMESPACE}\">");
        for element in &elements {
            xml::line(&mut xml, level);
            xml.push_str(element);
        }
        xml::line(&mut xml, METADATA_LEVEL);
        xml.push_str(&format!("</netd:{CONTAINER}>"));
        Some(MetadataElement {
            namespace: NETD_NAMESPACE.to_owned(),
            xml,
        })
    }
}
