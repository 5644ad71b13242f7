//! What a definition says to netd alone: elements of its own namespace under `<metadata>`, which
//! libvirt keeps and passes over.
//!
//! libvirt keeps one element of each namespace, so several stand in a `<netd:network>` together:
//!
//! ```xml
//! <metadata>
//!   <netd:network xmlns:netd='urn:netd:network:1'>
//!     <netd:nat mapping='endpoint-independent'/>
//!     <netd:forwards>…</netd:forwards>
//!   </netd:network>
//! </metadata>
//! ```

use std::collections::VecDeque;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use roxmltree::Node;

use super::error::XmlError;
use super::guard::{self, AntiSpoof, HostAccess};
use super::port_forward::{self, PortForward};
use super::types::{ForwardMode, MetadataElement, Network};
use super::xml::{self, METADATA_LEVEL};

/// Namespace of the elements that speak to netd.
pub const NETD_NAMESPACE: &str = "urn:netd:network:1";

/// The element that holds several others.
const CONTAINER: &str = "network";

/// Longest piece of a definition that a message repeats, in characters.
const SHOWN: usize = 64;

/// All that a definition says to netd alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// `<netd:nat>`.
    pub nat: Option<NatBehaviour>,
    /// `<netd:forwards>`.
    pub forwards: Vec<PortForward>,
    /// `<netd:host>`.
    pub host: Option<HostAccess>,
    /// `<netd:antispoof>`.
    pub antispoof: Option<AntiSpoof>,
}

/// `<netd:nat>`: how a translated port may be used, in the words of RFC 4787. The default is what
/// netfilter does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatBehaviour {
    /// `mapping`.
    pub mapping: Mapping,
    /// `filtering`.
    pub filtering: Filtering,
}

/// Which packets of a guest's port leave with the same outside port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// Those to one address and port.
    #[default]
    AddressAndPortDependent,
    /// All of them.
    EndpointIndependent,
}

/// Who may send to the outside port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// The addresses and ports that the guest has sent to.
    #[default]
    AddressAndPortDependent,
    /// The addresses that the guest has sent to.
    AddressDependent,
    /// Everybody.
    EndpointIndependent,
}

const MAPPINGS: [(&str, Mapping); 2] = [
    (
        "address-and-port-dependent",
        Mapping::AddressAndPortDependent,
    ),
    ("endpoint-independent", Mapping::EndpointIndependent),
];

const FILTERINGS: [(&str, Filtering); 3] = [
    (
        "address-and-port-dependent",
        Filtering::AddressAndPortDependent,
    ),
    ("address-dependent", Filtering::AddressDependent),
    ("endpoint-independent", Filtering::EndpointIndependent),
];

/// What long elements were found to say. A definition is asked for it at every look at the kernel,
/// and changes seldom, while ten thousand forwards take tens of milliseconds to read.
static KNOWN: Mutex<VecDeque<Known>> = Mutex::new(VecDeque::new());
/// Elements from this length on, in bytes, are remembered …
const LONG: usize = 4096;
/// … so many of them.
const KNOWN_MOST: usize = 16;
/// Most of them that are of one network.
const KNOWN_OF_ONE: usize = 3;

/// All that the reading of a network's elements looks at, and what came of it.
struct Known {
    name: String,
    mode: ForwardMode,
    /// The bridge's addresses, with the lengths of their prefixes.
    addresses: Vec<(IpAddr, u8)>,
    elements: Vec<MetadataElement>,
    said: Result<Arc<Extensions>, XmlError>,
}

fn is_long(elements: &[&MetadataElement]) -> bool {
    elements
        .iter()
        .map(|element| element.xml.len())
        .sum::<usize>()
        >= LONG
}

fn addresses(network: &Network) -> impl Iterator<Item = (IpAddr, u8)> {
    network.ips.iter().map(|ip| (ip.address, ip.prefix_len()))
}

impl Known {
    fn is_of(&self, network: &Network, elements: &[&MetadataElement]) -> bool {
        self.name == network.name
            && self.mode == network.mode()
            && self.addresses.iter().copied().eq(addresses(network))
            && self.elements.iter().eq(elements.iter().copied())
    }
}

impl Network {
    /// Reads the elements of netd's namespace. What passed [`check_define`](super::check_define)
    /// can be read.
    ///
    /// # Errors
    /// An element or attribute that does not exist, a value that is not allowed, or a
    /// contradiction: what is meant for netd is never passed over.
    pub fn extensions(&self) -> Result<Arc<Extensions>, XmlError> {
        let elements = self.own_elements();
        if !is_long(&elements) {
            return self.read_extensions(&elements).map(Arc::new);
        }
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|known| known.is_of(self, &elements));
        let said = found.map(|known| known.said.clone());
        drop(known);
        said.unwrap_or_else(|| {
            let said = self.read_extensions(&elements).map(Arc::new);
            self.remember(said.clone());
            said
        })
    }

    fn own_elements(&self) -> Vec<&MetadataElement> {
        let own = |m: &&MetadataElement| m.namespace == NETD_NAMESPACE;
        self.metadata.iter().filter(own).collect()
    }

    /// What the network's elements say needs not be read again, if that is long.
    fn remember(&self, said: Result<Arc<Extensions>, XmlError>) {
        let elements = self.own_elements();
        if !is_long(&elements) {
            return;
        }
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        // A definition, what runs, and one on its way to take their place.
        let mut own = known.iter().filter(|k| k.name == self.name).count();
        known.retain(|k| {
            let goes = k.name == self.name && own >= KNOWN_OF_ONE;
            own -= usize::from(goes);
            !goes
        });
        if known.len() == KNOWN_MOST {
            known.pop_front();
        }
        known.push_back(Known {
            name: self.name.clone(),
            mode: self.mode(),
            addresses: addresses(self).collect(),
            elements: elements.into_iter().cloned().collect(),
            said,
        });
    }

    fn read_extensions(&self, elements: &[&MetadataElement]) -> Result<Extensions, XmlError> {
        let mut found = Found::default();
        for element in elements {
            let document = xml::open(&element.xml)?;
            let reader = Reader(self);
            let root = document.root_element();
            if root.tag_name().name() != CONTAINER {
                reader.element(root, &mut found)?;
                continue;
            }
            reader.attributes(root, &[])?;
            for child in reader.children(root)? {
                reader.element(child, &mut found)?;
            }
        }
        Ok(Extensions {
            nat: found.nat,
            forwards: found.forwards.unwrap_or_default(),
            host: found.host,
            antispoof: found.antispoof,
        })
    }

    /// Puts these forwards in the place of those that the definition has. What it says to netd
    /// besides is written anew with them: comments in there are lost.
    ///
    /// # Errors
    /// A forward breaks a rule, or what the definition says already cannot be read. Nothing is
    /// changed then.
    pub fn set_forwards(&mut self, forwards: Vec<PortForward>) -> Result<(), XmlError> {
        let Extensions {
            nat,
            host,
            antispoof,
            ..
        } = *self.extensions()?;
        if !forwards.is_empty() {
            port_forward::check(self, &forwards)?;
        }
        let extensions = Extensions {
            nat,
            forwards,
            host,
            antispoof,
        };
        let element = extensions.to_xml().map(|xml| MetadataElement {
            namespace: NETD_NAMESPACE.to_owned(),
            xml,
        });
        self.set_metadata(NETD_NAMESPACE, element);
        self.remember(Ok(Arc::new(extensions)));
        Ok(())
    }

    /// Puts this element in the place of the one of that namespace; `None` removes it.
    pub fn set_metadata(&mut self, namespace: &str, element: Option<MetadataElement>) {
        let place = self.metadata.iter().position(|m| m.namespace == namespace);
        match (place, element) {
            (Some(place), Some(element)) => self.metadata[place] = element,
            (Some(place), None) => {
                self.metadata.remove(place);
            }
            (None, element) => self.metadata.extend(element),
        }
    }

    /// How translated ports may be used: `<netd:nat>` or the default.
    ///
    /// # Errors
    /// As [`Network::extensions`]. The default is the strictest behaviour there is.
    pub fn nat_behaviour(&self) -> Result<NatBehaviour, XmlError> {
        Ok(self.extensions()?.nat.unwrap_or_default())
    }
}

impl Extensions {
    /// The element that says all this, as it stands in a definition; `None` when there is nothing
    /// to say.
    fn to_xml(&self) -> Option<String> {
        let Self {
            nat,
            forwards,
            host,
            antispoof,
        } = self;
        let small = [
            nat.map(NatBehaviour::to_xml),
            host.map(guard::write_host),
            antispoof.map(guard::write_antispoof),
        ];
        let small: Vec<String> = small.into_iter().flatten().collect();
        let is_alone = small.len() + usize::from(!forwards.is_empty()) == 1;
        let level = METADATA_LEVEL + usize::from(!is_alone);
        let forwards = (!forwards.is_empty()).then(|| port_forward::write(forwards, level));
        let mut elements: Vec<String> = small.into_iter().chain(forwards).collect();
        let declaration = format!(" xmlns:netd=\"{NETD_NAMESPACE}\"");
        match elements.as_mut_slice() {
            [] => None,
            [only] => {
                // Behind the name of the element.
                let end = only.find([' ', '>', '/']).unwrap_or(only.len());
                only.insert_str(end, &declaration);
                Some(std::mem::take(only))
            }
            several => {
                let mut out = format!("<netd:{CONTAINER}{declaration}>");
                for element in several {
                    xml::line(&mut out, level);
                    out.push_str(element);
                }
                xml::line(&mut out, METADATA_LEVEL);
                out.push_str(&format!("</netd:{CONTAINER}>"));
                Some(out)
            }
        }
    }
}

impl NatBehaviour {
    fn to_xml(self) -> String {
        let mut out = "<netd:nat".to_owned();
        if let Some((word, _)) = MAPPINGS.iter().find(|(_, m)| *m == self.mapping) {
            xml::write_attribute(&mut out, "mapping", word);
        }
        if let Some((word, _)) = FILTERINGS.iter().find(|(_, f)| *f == self.filtering) {
            xml::write_attribute(&mut out, "filtering", word);
        }
        out.push_str("/>");
        out
    }
}

/// An error at an element of that name in the network's metadata.
pub(super) fn refusal(network: &Network, element: &str, detail: impl Display) -> XmlError {
    XmlError::Invalid(format!(
        "network '{}', <netd:{element}> in <metadata>: {detail}",
        network.name.escape_debug(),
    ))
}

/// A piece of a definition for a message: no more of it than can be read, and nothing in it that
/// a terminal would obey.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// What was read so far; each element may stand there once.
#[derive(Default)]
struct Found {
    nat: Option<NatBehaviour>,
    forwards: Option<Vec<PortForward>>,
    host: Option<HostAccess>,
    antispoof: Option<AntiSpoof>,
}

/// Reads elements of netd's namespace, knowing for its errors whose they are.
pub(super) struct Reader<'a>(&'a Network);

impl Reader<'_> {
    /// The network that is read.
    pub fn network(&self) -> &Network {
        self.0
    }

    /// An error at this element.
    pub fn refuse(&self, node: Node<'_, '_>, detail: impl Display) -> XmlError {
        refusal(self.0, &shown(node.tag_name().name()), detail)
    }

    /// Reads one element that is not the container.
    fn element(&self, node: Node<'_, '_>, found: &mut Found) -> Result<(), XmlError> {
        let own = node.tag_name().namespace() == Some(NETD_NAMESPACE);
        let given = match node.tag_name().name() {
            "nat" if own => found.nat.replace(self.nat(node)?).is_some(),
            "forwards" if own => {
                let forwards = port_forward::read(self, node)?;
                found.forwards.replace(forwards).is_some()
            }
            "host" if own => {
                let host = guard::read_host(self, node)?;
                found.host.replace(host).is_some()
            }
            "antispoof" if own => {
                let antispoof = guard::read_antispoof(self, node)?;
                found.antispoof.replace(antispoof).is_some()
            }
            _ => {
                let detail = format!(
                    "is not an element of {NETD_NAMESPACE}, which has <network>, <nat>, \
                     <forwards>, <host> and <antispoof>"
                );
                return Err(self.refuse(node, detail));
            }
        };
        if given {
            return Err(self.refuse(node, "may be given once only"));
        }
        Ok(())
    }

    /// Is the node an element of that name in netd's namespace?
    pub fn named(&self, node: Node<'_, '_>, name: &str) -> Result<(), XmlError> {
        if node.has_tag_name((NETD_NAMESPACE, name)) {
            return Ok(());
        }
        Err(self.refuse(
            node,
            format!("is not a <{name}> of {NETD_NAMESPACE}, which belongs here"),
        ))
    }

    /// Does the element hold nothing?
    pub fn childless(&self, node: Node<'_, '_>) -> Result<(), XmlError> {
        match self.children(node)?.first() {
            None => Ok(()),
            Some(child) => {
                let detail = format!("has no child <{}>", child.tag_name().name());
                Err(self.refuse(node, detail))
            }
        }
    }

    fn nat(&self, node: Node<'_, '_>) -> Result<NatBehaviour, XmlError> {
        self.attributes(node, &["mapping", "filtering"])?;
        self.childless(node)?;
        let mode = self.0.mode();
        if mode != ForwardMode::Nat {
            return Err(self.refuse(node, format!("stands only in mode='nat', not '{mode}'")));
        }
        let behaviour = NatBehaviour {
            mapping: self.choice(node, "mapping", &MAPPINGS)?,
            filtering: self.choice(node, "filtering", &FILTERINGS)?,
        };
        // With a port for each destination there is nobody else who could send to it.
        if behaviour.filtering != Filtering::default()
            && behaviour.mapping != Mapping::EndpointIndependent
        {
            let filtering = node.attribute("filtering").unwrap_or_default();
            return Err(self.refuse(
                node,
                format!("filtering='{filtering}' needs mapping='endpoint-independent'"),
            ));
        }
        Ok(behaviour)
    }

    /// The value of an attribute that has a word for each of its values.
    pub fn choice<T: Copy + Default>(
        &self,
        node: Node<'_, '_>,
        name: &str,
        values: &[(&str, T)],
    ) -> Result<T, XmlError> {
        let Some(given) = node.attribute(name) else {
            return Ok(T::default());
        };
        let found = values.iter().find(|(word, _)| *word == given);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = values.iter().map(|(word, _)| *word).collect();
            let given = shown(given);
            self.refuse(
                node,
                format!("{name}='{given}' should be one of {}", words.join(", ")),
            )
        })
    }

    /// No attribute but these.
    pub fn attributes(&self, node: Node<'_, '_>, known: &[&str]) -> Result<(), XmlError> {
        let unknown = |a: &roxmltree::Attribute<'_, '_>| {
            a.namespace().is_some() || !known.contains(&a.name())
        };
        match node.attributes().find(unknown) {
            None => Ok(()),
            Some(attribute) => {
                let known = match known {
                    [] => "none".to_owned(),
                    [only] => (*only).to_owned(),
                    [first @ .., last] => format!("{} and {last}", first.join(", ")),
                };
                let name = shown(attribute.name());
                Err(self.refuse(node, format!("has no attribute '{name}'; it takes {known}")))
            }
        }
    }

    /// The child elements; text among them is an error.
    pub fn children<'a, 'i>(&self, node: Node<'a, 'i>) -> Result<Vec<Node<'a, 'i>>, XmlError> {
        let is_text = |n: &Node<'_, '_>| {
            let text = n.text().filter(|_| n.is_text()).unwrap_or_default();
            !text.trim().is_empty()
        };
        if node.children().any(|n| is_text(&n)) {
            return Err(self.refuse(node, "holds no text"));
        }
        Ok(node.children().filter(Node::is_element).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{check_define, parse};

    fn definition(mode: &str, metadata: &str) -> String {
        format!(
            "<network><name>net</name><metadata xmlns:n='{NETD_NAMESPACE}'>{metadata}</metadata>\
             <forward mode='{mode}'/><ip address='10.0.0.1' prefix='24'/></network>"
        )
    }

    fn read(metadata: &str) -> Result<NatBehaviour, XmlError> {
        let network = parse(&definition("nat", metadata)).unwrap();
        let behaviour = network.nat_behaviour();
        assert_eq!(check_define(&network).err(), behaviour.clone().err());
        behaviour
    }

    #[test]
    fn the_default_is_netfilters() {
        let default = NatBehaviour {
            mapping: Mapping::AddressAndPortDependent,
            filtering: Filtering::AddressAndPortDependent,
        };
        for metadata in [
            "",
            "<o:nat xmlns:o='urn:other' mapping='sideways'/>",
            "<n:nat/>",
            "<n:network/>",
            "<n:nat mapping='address-and-port-dependent'/>",
            "<n:nat filtering='address-and-port-dependent'/>",
        ] {
            assert_eq!(read(metadata), Ok(default), "{metadata}");
        }
    }

    #[test]
    fn every_behaviour_has_its_words() {
        let independent = "mapping='endpoint-independent'";
        for (words, filtering) in FILTERINGS {
            assert_eq!(
                read(&format!("<n:nat {independent} filtering='{words}'/>")),
                Ok(NatBehaviour {
                    mapping: Mapping::EndpointIndependent,
                    filtering,
                })
            );
        }
        // Any prefix, or none, and in the container as well as alone.
        for metadata in [
            format!("<nat xmlns='{NETD_NAMESPACE}' {independent}/>"),
            format!("<x:nat xmlns:x='{NETD_NAMESPACE}' {independent}/>"),
            format!("<n:network>\n  <!-- why -->\n  <n:nat {independent}/>\n</n:network>"),
        ] {
            let behaviour = read(&metadata).unwrap();
            assert_eq!(behaviour.mapping, Mapping::EndpointIndependent);
            assert_eq!(behaviour.filtering, Filtering::AddressAndPortDependent);
        }
    }

    #[test]
    fn what_is_meant_for_netd_is_never_passed_over() {
        for (metadata, words) in [
            ("<n:nta/>", "<netd:nta> in <metadata>: is not an element"),
            (
                "<n:nta/>",
                "which has <network>, <nat>, <forwards>, <host> and <antispoof>",
            ),
            ("<n:network><n:nta/></n:network>", "<netd:nta>"),
            ("<n:network><nat/></n:network>", "is not an element of"),
            (
                "<n:network><n:network/></n:network>",
                "is not an element of",
            ),
            ("<n:network a='b'/>", "has no attribute 'a'; it takes none"),
            ("<n:network>x<n:nat/></n:network>", "holds no text"),
            ("<n:network><n:nat/><n:nat/></n:network>", "once only"),
            (
                "<n:network><n:forwards/><n:forwards/></n:network>",
                "<netd:forwards> in <metadata>: may be given once only",
            ),
            ("<n:nat><n:x/></n:nat>", "has no child <x>"),
            ("<n:nat>x</n:nat>", "holds no text"),
            (
                "<n:nat maping='endpoint-independent'/>",
                "has no attribute 'maping'; it takes mapping and filtering",
            ),
            (
                "<n:nat n:mapping='endpoint-independent'/>",
                "has no attribute",
            ),
            (
                "<n:nat mapping='address-dependent'/>",
                "mapping='address-dependent' should be one of address-and-port-dependent, \
                 endpoint-independent",
            ),
            (
                "<n:nat mapping='endpoint-independent' filtering=''/>",
                "filtering='' should be one of address-and-port-dependent, address-dependent, \
                 endpoint-independent",
            ),
            (
                "<n:nat filtering='address-dependent'/>",
                "filtering='address-dependent' needs mapping='endpoint-independent'",
            ),
            (
                "<n:nat mapping='address-and-port-dependent' filtering='endpoint-independent'/>",
                "needs mapping=",
            ),
        ] {
            let error = read(metadata).expect_err(metadata);
            assert!(matches!(error, XmlError::Invalid(_)), "{error:?}");
            let error = error.to_string();
            assert!(error.contains("network 'net'"), "{error}");
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn only_a_nat_network_translates() {
        for mode in ["route", "open", "none"] {
            let network = parse(&definition(mode, "<n:nat/>")).unwrap();
            let error = network.nat_behaviour().expect_err(mode).to_string();
            assert!(
                error.contains(&format!("mode='nat', not '{mode}'")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_second_element_that_libvirt_would_lose_is_refused() {
        let error = parse(&definition("nat", "<n:nat/><n:nat/>"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("<network>"), "{error}");
        // Nothing is read into what others keep there.
        parse(&definition(
            "nat",
            "<o:a xmlns:o='urn:o'/><o:a xmlns:o='urn:o'/>",
        ))
        .unwrap();
    }
}
