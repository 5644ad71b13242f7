//! From text to [`Network`]: the rules that hold for every definition, whatever its mode.

use uuid::Uuid;

use super::address::in_subnet;
use super::element::ForwardMode;
use super::element::bridge::{read_bridge, read_mac};
use super::element::dns::{read_dns, read_domain};
use super::element::forward::read_forward;
use super::element::ip::{read_ip, read_route};
use super::element::port::{read_bandwidth, read_port_group, read_virtual_port, read_vlan};
use super::error::XmlError;
use super::metadata::{self, MetadataElement};
use super::namespace::{DNSMASQ_NAMESPACE, NETD_NAMESPACE};
use super::netd::NetdExtensions;
use super::network::Network;
use super::read::{Element, Reading, UnknownPiece, parse_uuid};
use super::xml;

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
    xml::expect_root(root, "network")?;
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
        .ok_or(XmlError::NoName)?;
    let reading = Reading::new(&name);
    let network = network(Element::new(root, &reading))?;
    Ok(Parsed {
        network,
        unknown: reading.unknown(&document)?,
    })
}

fn network(root: Element<'_>) -> Result<Network, XmlError> {
    let name = root.child("name").map(Element::text).unwrap_or_default();
    if name.contains('/') {
        return Err(XmlError::Name('/'));
    }
    let title = filled(root, "title");
    if title.as_ref().is_some_and(|title| title.contains('\n')) {
        return Err(root.error("<title> must be one line"));
    }
    root.attr("connections"); // What libvirt prints of a network that runs.
    let (metadata, netd) = match root.child("metadata") {
        Some(element) => metadata(element, &name)?,
        None => Default::default(),
    };
    let uuid = uuid(root)?;
    let network = Network {
        name,
        uuid: uuid.unwrap_or_default(),
        zero_uuid: uuid.is_some_and(|uuid| uuid.is_nil()),
        title,
        description: filled(root, "description"),
        metadata,
        netd,
        ipv6: root
            .yes_no("ipv6")
            .map_err(|error| error.of_kind(XmlError::Invalid))?
            .unwrap_or(false),
        trust_guest_rx_filters: root.yes_no("trustGuestRxFilters")?,
        forward: root
            .child("forward")
            .map(read_forward)
            .transpose()?
            .flatten(),
        bridge: root
            .child("bridge")
            .map(read_bridge)
            .transpose()?
            .unwrap_or_default(),
        mac: root.child("mac").map(read_mac).transpose()?.flatten(),
        mtu: match root.child("mtu") {
            Some(mtu) => mtu
                .number("size")
                .map_err(|error| error.of_kind(XmlError::Invalid))?
                .filter(|size| *size != 0),
            None => None,
        },
        domain: root.child("domain").map(read_domain).transpose()?.flatten(),
        dns: root.child("dns").map(read_dns).transpose()?.flatten(),
        vlan: root.child("vlan").map(read_vlan).transpose()?,
        bandwidth: root
            .child("bandwidth")
            .map(read_bandwidth)
            .transpose()?
            .flatten(),
        port_isolated: match root.child("port") {
            Some(port) => port.yes_no("isolated")?,
            None => None,
        },
        ips: root.children("ip").map(read_ip).collect::<Result<_, _>>()?,
        routes: root
            .children("route")
            .map(read_route)
            .collect::<Result<_, _>>()?,
        virtualport: root
            .child("virtualport")
            .map(|e| read_virtual_port(e, true))
            .transpose()?
            .flatten(),
        portgroups: root
            .children("portgroup")
            .map(read_port_group)
            .collect::<Result<_, _>>()?,
        dnsmasq_options: dnsmasq_options(root)?,
        given: Vec::new(),
    };
    check_gateways(root, &network)?;
    check_mode(root, &network)?;
    Ok(network)
}

/// Raw lines for dnsmasq.
fn dnsmasq_options(root: Element<'_>) -> Result<Vec<String>, XmlError> {
    let options = root.children_in(Some(DNSMASQ_NAMESPACE), "options");
    let options = options.flat_map(|all| all.children_in(Some(DNSMASQ_NAMESPACE), "option"));
    let values = options.map(|option| option.required("value").map(str::to_owned));
    values.collect()
}

/// The text of a child; an empty one is none.
fn filled(root: Element<'_>, name: &'static str) -> Option<String> {
    let text = root.child(name).map(Element::text);
    text.filter(|text| !text.is_empty())
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
    for kept in elements().filter(|child| xml::namespace(*child).is_some()) {
        Element::new(kept, element.reading()).pass_over();
    }
    Ok((metadata::kept(node), netd))
}

/// Thirty-two hexadecimal digits; dashes and blanks between the bytes do not matter.
fn uuid(root: Element<'_>) -> Result<Option<Uuid>, XmlError> {
    let text = root.child("uuid").map(Element::text);
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| parse_uuid(&text).ok_or(XmlError::Uuid))
        .transpose()
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

/// Every gateway must be a neighbour: in the subnet of one of the network's addresses.
fn check_gateways(root: Element<'_>, network: &Network) -> Result<(), XmlError> {
    for (element, route) in root.children("route").zip(&network.routes) {
        let reachable = network
            .ips
            .iter()
            .any(|ip| in_subnet(route.gateway, ip.address, ip.prefix_len()));
        if !reachable {
            let error = element.bad("gateway", "within the subnet of an <ip> of this network");
            return Err(error.of_kind(XmlError::Unsupported));
        }
    }
    Ok(())
}
