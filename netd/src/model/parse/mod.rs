//! From text to [`Network`]: the rules that hold for every definition, whatever its mode.

pub(super) mod dns;
pub(super) mod element;
pub(super) mod forward;
pub(super) mod ip;
pub(super) mod port;
mod reading;

use uuid::Uuid;

use super::error::XmlError;
use super::metadata::{self, MetadataElement};
use super::netd::{NETD_NAMESPACE, NetdExtensions};
use super::network::Network;
use super::types::{Bridge, Domain, ForwardMode, Mac, MacTableManager};
use super::xml;
use element::Element;
pub(super) use reading::Reading;
pub use reading::UnknownPiece;

/// Namespace of the options that are passed to dnsmasq.
pub const DNSMASQ_NAMESPACE: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// Longest definition that is read, without what stands in its `<metadata>`.
const MAX_WITHOUT_METADATA: usize = 1 << 20;

/// A definition, and what of its text is not known to netd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The definition without that.
    pub network: Network,
    /// Elements and attributes that nobody knows, in the order of the text.
    pub unknown: Vec<UnknownPiece>,
}

/// Reads a definition. Elements and attributes that nobody knows are passed over, as libvirt does,
/// but for those of netd's own namespaces.
///
/// What has no meaning is not kept, so that a network read from its own canonical text is equal:
/// `<forward mode='none'/>`, an empty `<dns>` or `<nat>`, a zero MTU, rate, weight or prefix.
///
/// # Errors
/// The text is no XML, or breaks a rule.
pub fn parse(text: &str) -> Result<Network, XmlError> {
    parse_whole(text).map(|parsed| parsed.network)
}

/// Reads a definition, and tells what in it nobody knows.
///
/// # Errors
/// As [`parse`].
pub fn parse_whole(text: &str) -> Result<Parsed, XmlError> {
    let document = xml::open(text)?;
    let root = document.root_element();
    if root.tag_name().name() != "network" {
        return Err(XmlError::Invalid(format!(
            "the root element is <{}>, not <network>",
            root.tag_name().name()
        )));
    }
    let metadata = root.children().filter(|n| n.has_tag_name("metadata"));
    let metadata: usize = metadata.map(|node| node.range().len()).sum();
    if text.len() - metadata > MAX_WITHOUT_METADATA {
        return Err(XmlError::Malformed(format!(
            "{} bytes besides <metadata> are more than the {MAX_WITHOUT_METADATA} allowed",
            text.len() - metadata
        )));
    }
    let name = Element::new(root, &Reading::new(""))
        .child("name")
        .map(Element::text)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| XmlError::Invalid("<network> has no <name>".to_owned()))?;
    let reading = Reading::new(&name);
    let network = network(Element::new(root, &reading))?;
    Ok(Parsed {
        network,
        unknown: reading.unknown(&document)?,
    })
}

fn network(root: Element<'_>) -> Result<Network, XmlError> {
    let filled = |name| {
        root.child(name)
            .map(Element::text)
            .filter(|t| !t.is_empty())
    };
    let name = root.child("name").map(Element::text).unwrap_or_default();
    if name.contains('/') {
        return Err(root.error("<name> must not contain '/'"));
    }
    let title = filled("title");
    if title.as_ref().is_some_and(|title| title.contains('\n')) {
        return Err(root.error("<title> must be one line"));
    }
    // What libvirt prints of a network that runs.
    root.attr("connections");
    let (metadata, netd) = match root.child("metadata") {
        Some(element) => metadata(element, &name)?,
        None => Default::default(),
    };
    let network = Network {
        name,
        uuid: uuid(root)?,
        title,
        description: filled("description"),
        metadata,
        netd,
        ipv6: root.yes_no("ipv6")?.unwrap_or(false),
        trust_guest_rx_filters: root.yes_no("trustGuestRxFilters")?,
        forward: root
            .child("forward")
            .map(forward::forward)
            .transpose()?
            .flatten(),
        bridge: root
            .child("bridge")
            .map(bridge)
            .transpose()?
            .unwrap_or_default(),
        mac: root.child("mac").map(mac).transpose()?.flatten(),
        mtu: match root.child("mtu") {
            Some(mtu) => mtu.number("size")?.filter(|size| *size != 0),
            None => None,
        },
        domain: root.child("domain").map(domain).transpose()?.flatten(),
        dns: root.child("dns").map(dns::dns).transpose()?.flatten(),
        vlan: root.child("vlan").map(port::vlan).transpose()?,
        bandwidth: root
            .child("bandwidth")
            .map(port::bandwidth)
            .transpose()?
            .flatten(),
        port_isolated: match root.child("port") {
            Some(port) => port.yes_no("isolated")?,
            None => None,
        },
        ips: root.children("ip").map(ip::ip).collect::<Result<_, _>>()?,
        routes: root
            .children("route")
            .map(ip::route)
            .collect::<Result<_, _>>()?,
        virtualport: root
            .child("virtualport")
            .map(|e| port::virtual_port(e, true))
            .transpose()?
            .flatten(),
        portgroups: root
            .children("portgroup")
            .map(port::port_group)
            .collect::<Result<_, _>>()?,
        dnsmasq_options: root
            .children_in(Some(DNSMASQ_NAMESPACE), "options")
            .flat_map(|options| options.children_in(Some(DNSMASQ_NAMESPACE), "option"))
            .map(|option| option.required("value").map(str::to_owned))
            .collect::<Result<_, _>>()?,
    };
    ip::check_gateways(root, &network)?;
    check_mode(root, &network)?;
    Ok(network)
}

/// What libvirt keeps of `<metadata>`, and what is meant for netd.
fn metadata(
    element: Element<'_>,
    network: &str,
) -> Result<(Vec<MetadataElement>, NetdExtensions), XmlError> {
    let node = element.node();
    // Only the first would be kept, and the others lost without a word.
    if xml::children_in(node, NETD_NAMESPACE).count() > 1 {
        return Err(element.error(format!(
            "holds one element of {NETD_NAMESPACE} only; put several into one \
             <network> of that namespace"
        )));
    }
    let elements = || node.children().filter(roxmltree::Node::is_element);
    let netd = NetdExtensions::read(network, elements())?;
    for kept in elements().filter(|child| child.tag_name().namespace().is_some()) {
        Element::new(kept, element.reading()).pass_over();
    }
    Ok((metadata::kept(node), netd))
}

/// Thirty-two hexadecimal digits; dashes and blanks between the bytes do not matter.
fn uuid(root: Element<'_>) -> Result<Uuid, XmlError> {
    let Some(element) = root.child("uuid") else {
        return Ok(Uuid::nil());
    };
    let text = element.text();
    if text.is_empty() {
        return Ok(Uuid::nil());
    }
    parse_uuid(&text).ok_or_else(|| {
        element.error(format!(
            "'{}' is not 32 hexadecimal digits",
            text.escape_debug()
        ))
    })
}

/// As libvirt reads a UUID: more forgiving than the `uuid` crate about dashes and blanks.
fn parse_uuid(text: &str) -> Option<Uuid> {
    let mut bytes = [0; 16];
    let mut rest = text.trim();
    for byte in &mut bytes {
        rest = rest.trim_start_matches(['-', ' ']);
        let digits = rest.get(..2)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(digits, 16).ok()?;
        rest = &rest[2..];
    }
    rest.is_empty().then(|| Uuid::from_bytes(bytes))
}

fn bridge(element: Element<'_>) -> Result<Bridge, XmlError> {
    Ok(Bridge {
        name: element.non_empty("name").map(str::to_owned),
        zone: element.non_empty("zone").map(str::to_owned),
        stp: element.attr("stp") != Some("off"),
        delay: element.number("delay")?.unwrap_or(0),
        mac_table_manager: match element.attr("macTableManager") {
            None => None,
            Some("kernel") => Some(MacTableManager::Kernel),
            Some("libvirt") => Some(MacTableManager::Libvirt),
            Some(_) => return Err(element.bad("macTableManager", "'kernel' or 'libvirt'")),
        },
    })
}

fn mac(element: Element<'_>) -> Result<Option<Mac>, XmlError> {
    let mac: Option<Mac> = element.parsed("address", "a MAC address")?;
    match mac {
        Some(mac) if mac.is_multicast() => {
            Err(element.bad("address", "a unicast MAC address, not multicast"))
        }
        mac => Ok(mac),
    }
}

fn domain(element: Element<'_>) -> Result<Option<Domain>, XmlError> {
    let domain = Domain {
        name: element.non_empty("name").map(str::to_owned),
        local_only: element.yes_no("localOnly")?,
        register: element.yes_no("register")?,
    };
    if domain.register == Some(true) && domain.local_only != Some(true) {
        return Err(element.error("register='yes' needs localOnly='yes'"));
    }
    Ok(domain.name.is_some().then_some(domain))
}

/// What must, or must not, stand beside each forward mode.
fn check_mode(root: Element<'_>, network: &Network) -> Result<(), XmlError> {
    let mode = network.mode();
    let at = |name| root.child(name).unwrap_or(root);
    let (interfaces, has_pf) = match &network.forward {
        Some(forward) => (forward.interfaces.len(), forward.pf.is_some()),
        None => (0, false),
    };
    match mode {
        ForwardMode::None => {}
        ForwardMode::Nat | ForwardMode::Route => {
            if network.ips.is_empty() {
                let detail = format!("mode='{mode}' needs at least one <ip>");
                return Err(at("forward").error(detail));
            }
            if interfaces > 1 {
                let detail = format!("mode='{mode}' takes one device, not {interfaces}");
                return Err(at("forward").error(detail));
            }
        }
        ForwardMode::Open => {
            if interfaces > 0 {
                return Err(at("forward").error("mode='open' takes no device"));
            }
        }
        ForwardMode::Bridge => {
            if network.bridge.name.is_some() && (interfaces > 0 || has_pf) {
                let detail = "mode='bridge' takes either a <bridge> name or devices, not both";
                return Err(at("forward").error(detail));
            }
        }
        ForwardMode::Private
        | ForwardMode::Vepa
        | ForwardMode::Passthrough
        | ForwardMode::Hostdev => {
            if let Some(element) = root.child("bridge")
                && let Some(attribute) = ["name", "macTableManager"]
                    .into_iter()
                    .find(|attribute| element.non_empty(attribute).is_some())
            {
                let detail = format!("{attribute} has no place beside forward mode='{mode}'");
                return Err(element.error(detail));
            }
        }
    }
    if !network.is_managed() {
        if let Some(element) = root.child("bridge") {
            let given = if element.attr("stp").is_some() {
                Some("stp")
            } else if network.bridge.delay != 0 {
                Some("delay")
            } else {
                network.bridge.zone.as_ref().map(|_| "zone")
            };
            if let Some(attribute) = given {
                let detail = format!("{attribute} has no place beside forward mode='{mode}'");
                return Err(element.error(detail));
            }
        }
        if network.mtu.is_some() {
            let detail = format!("has no place beside forward mode='{mode}'");
            return Err(at("mtu").error(detail));
        }
    }
    Ok(())
}
