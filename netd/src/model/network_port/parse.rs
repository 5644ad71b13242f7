//! From text to [`NetworkPort`].

use uuid::Uuid;

use super::{BridgePlug, NetworkPort, Owner, Plug, PortError};
use crate::model::element::bridge::read_mac_table_manager;
use crate::model::element::forward::{read_forward_driver, read_pci_address};
use crate::model::element::port::{read_port_bandwidth, read_virtual_port, read_vlan};
use crate::model::element::{Mac, MacvtapMode};
use crate::model::error::XmlError;
use crate::model::read::{Element, Reading, UnknownPiece, parse_uuid};
use crate::model::xml;

/// Longest text of a port that is read: a trunk of all VLANs is 100 KiB.
const MAX_TEXT: usize = 256 << 10;

/// A port, and what of its text is not known to netd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedPort {
    /// The port without that.
    pub port: NetworkPort,
    /// Elements and attributes that nobody knows, in the order of the text.
    pub unknown: Vec<UnknownPiece>,
}

/// Reads a port. Elements and attributes that nobody knows are passed over, as libvirt does.
///
/// # Errors
/// The text is no XML, lacks what every port has, or breaks a rule.
pub fn parse_port(text: &str) -> Result<ParsedPort, PortError> {
    if text.len() > MAX_TEXT {
        return Err(PortError::Malformed(format!(
            "{} bytes are more than the {MAX_TEXT} allowed",
            text.len()
        )));
    }
    let document = xml::open(text)?;
    let root = document.root_element();
    xml::expect_root(root, "networkport")?;
    // Errors name the port by its UUID, as far as it has one.
    let nameless = Reading::of_port("");
    let name = filled(Element::new(root, &nameless), "uuid").unwrap_or_default();
    let name = xml::shown(name.trim());
    let reading = Reading::of_port(&name);
    let port = port(Element::new(root, &reading))?;
    Ok(ParsedPort {
        port,
        unknown: reading.unknown(&document)?,
    })
}

fn port(root: Element<'_>) -> Result<NetworkPort, PortError> {
    let missing = |what: &str| PortError::Internal(format!("network port has no {what}"));
    let uuid = filled(root, "uuid").ok_or_else(|| missing("uuid"))?;
    let uuid = read_uuid(&uuid)?;
    let owner = root.child("owner");
    let of_owner = |name| owner.and_then(|owner| filled(owner, name));
    let owner = Owner {
        name: of_owner("name").ok_or_else(|| missing("owner name"))?,
        uuid: read_uuid(&of_owner("uuid").ok_or_else(|| missing("owner UUID"))?)?,
    };
    let mac = root.child("mac").and_then(|mac| mac.non_empty("address"));
    let mac = read_mac(mac.ok_or_else(|| missing("mac"))?)?;
    let virtualport = match root.child("virtualport") {
        Some(element) => read_virtual_port(element, false)?,
        None => None,
    };
    let (bandwidth, class_id) = match root.child("bandwidth") {
        Some(element) => read_port_bandwidth(element)?,
        None => (None, None),
    };
    // A class of no limits means nothing.
    let class_id = bandwidth.as_ref().and(class_id);
    Ok(NetworkPort {
        uuid,
        owner,
        group: filled(root, "group"),
        mac,
        virtualport,
        bandwidth,
        class_id,
        vlan: root.child("vlan").map(read_vlan).transpose()?,
        isolated: match root.child("port") {
            Some(port) => port.yes_no("isolated")?,
            None => None,
        },
        trust_guest_rx_filters: match root.child("rxfilters") {
            Some(filters) => filters.yes_no("trustGuest")?,
            None => None,
        },
        plug: root.child("plug").map(plug).transpose()?.flatten(),
    })
}

/// The text of a child, where it has one.
fn filled(element: Element<'_>, name: &'static str) -> Option<String> {
    let text = element.child(name).map(Element::text);
    text.filter(|text| !text.is_empty())
}

fn read_uuid(text: &str) -> Result<Uuid, PortError> {
    parse_uuid(text)
        .ok_or_else(|| PortError::Internal(format!("Unable to parse UUID '{}'", xml::shown(text))))
}

/// The address of one interface: a group's would be everybody's.
fn read_mac(text: &str) -> Result<Mac, PortError> {
    match text.parse::<Mac>() {
        Ok(mac) if !mac.is_multicast() => Ok(mac),
        _ => Err(PortError::Internal(format!(
            "Unable to parse MAC '{}'",
            xml::shown(text)
        ))),
    }
}

/// Reads `<plug>`; `type='none'` is as good as no element.
fn plug(element: Element<'_>) -> Result<Option<Plug>, XmlError> {
    let plug = match element.attr("type") {
        None | Some("none") => return Ok(None),
        Some("network") => Plug::Network(bridge_plug(element)?),
        Some("bridge") => Plug::Bridge(bridge_plug(element)?),
        Some("direct") => Plug::Direct {
            dev: element.required("dev")?.to_owned(),
            mode: match element.attr("mode") {
                None => MacvtapMode::default(),
                Some(mode) => MacvtapMode::from_name(mode)
                    .ok_or_else(|| element.bad("mode", "vepa, private, bridge or passthrough"))?,
            },
        },
        Some("hostdev-pci") => Plug::HostdevPci {
            managed: element.yes_no("managed")?,
            driver: match element.child("driver") {
                Some(driver) => read_forward_driver(driver)?,
                None => None,
            },
            address: match element.child("address") {
                Some(address) => read_pci_address(address)?,
                None => return Err(element.error("has no <address>")),
            },
        },
        Some(_) => {
            return Err(element.bad("type", "none, network, bridge, direct or hostdev-pci"));
        }
    };
    Ok(Some(plug))
}

fn bridge_plug(element: Element<'_>) -> Result<BridgePlug, XmlError> {
    Ok(BridgePlug {
        bridge: element.required("bridge")?.to_owned(),
        mac_table_manager: read_mac_table_manager(element)?,
    })
}
