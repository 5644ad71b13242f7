//! What a port of a guest gets: `<portgroup>`, `<bandwidth>`, `<vlan>` and `<virtualport>`.

use crate::model::error::XmlError;
use crate::model::read::{Element, parse_uuid};
use crate::model::write::{Tag, Writer};

/// `<bandwidth>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Towards the guests.
    pub inbound: Option<Rate>,
    /// From the guests.
    pub outbound: Option<Rate>,
}

/// One direction of `<bandwidth>`: rates in kilobytes per second, burst in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// `average`.
    pub average: u64,
    /// `peak`.
    pub peak: Option<u64>,
    /// `burst`.
    pub burst: Option<u64>,
    /// `floor` (ports only).
    pub floor: Option<u64>,
}

/// `<vlan>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vlan {
    /// `trunk` as printed: given, or implied by several tags.
    pub trunk: bool,
    /// `<tag>` list.
    pub tags: Vec<VlanTag>,
}

/// `<tag>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanTag {
    /// `id`.
    pub id: u16,
    /// `nativeMode`.
    pub native: Option<NativeVlan>,
}

/// `nativeMode` of a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeVlan {
    /// `tagged`.
    Tagged,
    /// `untagged`.
    Untagged,
}

/// `<virtualport>`: its type and parameters as written, in canonical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualPort {
    /// `type`.
    pub kind: Option<String>,
    /// Attributes of `<parameters>` in the order of the canonical text.
    pub parameters: Vec<(String, String)>,
}

/// `<portgroup>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortGroup {
    /// `name`.
    pub name: String,
    /// `default='yes'`.
    pub default: bool,
    /// `trustGuestRxFilters`.
    pub trust_guest_rx_filters: Option<bool>,
    /// `<vlan>`.
    pub vlan: Option<Vlan>,
    /// `<virtualport>`.
    pub virtualport: Option<VirtualPort>,
    /// `<bandwidth>`.
    pub bandwidth: Option<Bandwidth>,
}

/// Reads `<vlan>`.
pub fn read_vlan(element: Element<'_>) -> Result<Vlan, XmlError> {
    let tags = element
        .children("tag")
        .map(read_vlan_tag)
        .collect::<Result<Vec<_>, _>>()?;
    let natives = tags.iter().filter(|tag| tag.native.is_some()).count();
    if tags.is_empty() {
        return Err(element.error("needs at least one <tag>"));
    }
    if natives > 1 {
        return Err(element.error("only one <tag> may have a nativeMode"));
    }
    let trunk = match element.attr("trunk") {
        None => tags.len() > 1,
        Some(trunk) if trunk.eq_ignore_ascii_case("yes") => true,
        Some(trunk) if trunk.eq_ignore_ascii_case("no") => {
            if tags.len() > 1 || natives > 0 {
                return Err(element.bad("trunk", "'yes' with several tags or a nativeMode"));
            }
            false
        }
        Some(_) => return Err(element.bad("trunk", "'yes' or 'no'")),
    };
    Ok(Vlan { trunk, tags })
}

fn read_vlan_tag(element: Element<'_>) -> Result<VlanTag, XmlError> {
    element
        .required("id")
        .map_err(|error| error.of_kind(XmlError::Value))?;
    let id = element
        .number::<u16>("id")?
        .filter(|id| *id <= 4095)
        .ok_or_else(|| element.bad("id", "at most 4095"))?;
    let native = match element.attr("nativeMode") {
        None => None,
        Some("tagged") => Some(NativeVlan::Tagged),
        Some("untagged") => Some(NativeVlan::Untagged),
        Some(_) => {
            let error = element.bad("nativeMode", "'tagged' or 'untagged'");
            return Err(error.of_kind(XmlError::Value));
        }
    };
    Ok(VlanTag { id, native })
}

/// Reads `<bandwidth>` of a network or port group; one without a direction says nothing.
pub fn read_bandwidth(element: Element<'_>) -> Result<Option<Bandwidth>, XmlError> {
    if element.attr("classID").is_some() {
        return Err(element.error("classID has no place here"));
    }
    let of_network = "floor is for a guest's own interface, not for a network";
    // A rate of 0 is none.
    let limits = |rate: &Rate| rate.average != 0;
    let bandwidth = Bandwidth {
        inbound: read_rate(element, "inbound", Some(of_network))?.filter(limits),
        outbound: read_rate(element, "outbound", Some(of_network))?.filter(limits),
    };
    Ok((bandwidth != Bandwidth::default()).then_some(bandwidth))
}

/// Reads `<bandwidth>` of a guest's port, with its `classID`.
pub fn read_port_bandwidth(
    element: Element<'_>,
) -> Result<(Option<Bandwidth>, Option<u32>), XmlError> {
    let class_id = element.number("classID")?.filter(|id| *id != 0);
    let bandwidth = Bandwidth {
        inbound: read_rate(element, "inbound", None)?,
        outbound: read_rate(element, "outbound", Some("floor is for <inbound> only"))?,
    };
    let bandwidth = (bandwidth != Bandwidth::default()).then_some(bandwidth);
    Ok((bandwidth, class_id))
}

/// Reads a direction. `no_floor` says why it has no `floor`, where that is so; one that has it needs no
/// `average`.
fn read_rate(
    bandwidth: Element<'_>,
    name: &'static str,
    no_floor: Option<&str>,
) -> Result<Option<Rate>, XmlError> {
    let Some(element) = bandwidth.single(name)? else {
        return Ok(None);
    };
    if let Some(why) = no_floor
        && element.attr("floor").is_some()
    {
        return Err(element.error(why));
    }
    let positive = |name| -> Result<Option<u64>, XmlError> {
        Ok(element.number(name)?.filter(|number| *number != 0))
    };
    let floor = positive("floor")?;
    if floor.is_none() {
        element.required("average")?;
    }
    Ok(Some(Rate {
        average: element.number("average")?.unwrap_or(0),
        peak: positive("peak")?,
        burst: positive("burst")?,
        floor,
    }))
}

/// The parameters of each type of virtual port; those without a type may be any of them.
pub const PARAMETERS: [&str; 6] = [
    "managerid",
    "typeid",
    "typeidversion",
    "instanceid",
    "interfaceid",
    "profileid",
];

/// Reads `<virtualport>`; one without type and parameters says nothing.
pub fn read_virtual_port(
    element: Element<'_>,
    needs_type: bool,
) -> Result<Option<VirtualPort>, XmlError> {
    let kind = element.attr("type");
    let allowed: &[&str] = match kind {
        None if needs_type => return Err(element.error("attribute 'type' is missing")),
        None => &PARAMETERS,
        Some("802.1Qbg") => &["managerid", "typeid", "typeidversion", "instanceid"],
        Some("802.1Qbh") => &["profileid"],
        Some("openvswitch") => &["interfaceid", "profileid"],
        Some("midonet") => &["interfaceid"],
        Some(_) => {
            let error = element.bad("type", "802.1Qbg, 802.1Qbh, openvswitch or midonet");
            return Err(error.of_kind(XmlError::Value));
        }
    };
    let mut parameters = Vec::new();
    if let Some(child) = element.child("parameters") {
        for name in PARAMETERS {
            let Some(value) = read_parameter(child, name)? else {
                continue;
            };
            if !allowed.contains(&name) {
                let kind = kind.unwrap_or_default();
                return Err(child.error(format!("{name} is not a parameter of type '{kind}'")));
            }
            parameters.push((name.to_owned(), value));
        }
    }
    let port = VirtualPort {
        kind: kind.map(str::to_owned),
        parameters,
    };
    Ok((port != VirtualPort::default()).then_some(port))
}

fn read_parameter(element: Element<'_>, name: &'static str) -> Result<Option<String>, XmlError> {
    let Some(text) = element.non_empty(name) else {
        return Ok(None);
    };
    let max = match name {
        "typeid" => 0xff_ffff,
        "managerid" | "typeidversion" => 0xff,
        "profileid" if text.len() > 39 => {
            return Err(element.bad(name, "at most 39 bytes"));
        }
        "profileid" => return Ok(Some(text.to_owned())),
        _ => {
            let wrong = || element.bad(name, "a UUID").of_kind(XmlError::Value);
            let uuid = parse_uuid(text).ok_or_else(wrong)?;
            return Ok(Some(uuid.to_string()));
        }
    };
    match element.number::<u32>(name)? {
        Some(number) if number <= max => Ok(Some(number.to_string())),
        _ => Err(element.bad(name, &format!("at most {max}"))),
    }
}

/// Reads `<portgroup>`.
pub fn read_port_group(element: Element<'_>) -> Result<PortGroup, XmlError> {
    Ok(PortGroup {
        name: element
            .non_empty("name")
            .ok_or_else(|| element.error("attribute 'name' is missing or empty"))?
            .to_owned(),
        default: element
            .attr("default")
            .is_some_and(|default| default.eq_ignore_ascii_case("yes")),
        trust_guest_rx_filters: element.yes_no("trustGuestRxFilters")?,
        vlan: element.child("vlan").map(read_vlan).transpose()?,
        virtualport: element
            .child("virtualport")
            .map(|e| read_virtual_port(e, false))
            .transpose()?
            .flatten(),
        bandwidth: element
            .child("bandwidth")
            .map(read_bandwidth)
            .transpose()?
            .flatten(),
    })
}

pub fn write_vlan(w: &mut Writer, vlan: Option<&Vlan>) {
    let Some(vlan) = vlan.filter(|vlan| !vlan.tags.is_empty()) else {
        return;
    };
    w.start(Tag::new("vlan").opt("trunk", vlan.trunk.then_some("yes")));
    for tag in &vlan.tags {
        let native = tag.native.map(|native| match native {
            NativeVlan::Tagged => "tagged",
            NativeVlan::Untagged => "untagged",
        });
        w.empty(Tag::new("tag").attr("id", tag.id).opt("nativeMode", native));
    }
    w.end("vlan");
}

pub fn write_bandwidth(w: &mut Writer, bandwidth: Option<&Bandwidth>) {
    write_port_bandwidth(w, bandwidth, None);
}

/// Writes `<bandwidth>` of a guest's port.
pub fn write_port_bandwidth(w: &mut Writer, bandwidth: Option<&Bandwidth>, class_id: Option<u32>) {
    let Some(bandwidth) = bandwidth.filter(|b| **b != Bandwidth::default()) else {
        return;
    };
    w.start(Tag::new("bandwidth").opt("classID", class_id));
    for (name, rate) in [
        ("inbound", &bandwidth.inbound),
        ("outbound", &bandwidth.outbound),
    ] {
        if let Some(Rate {
            average,
            peak,
            burst,
            floor,
        }) = rate
        {
            // A floor may stand alone.
            let average = (*average != 0 || floor.is_none()).then_some(average);
            w.empty(
                Tag::new(name)
                    .opt("average", average)
                    .opt("peak", *peak)
                    .opt("floor", *floor)
                    .opt("burst", *burst),
            );
        }
    }
    w.end("bandwidth");
}

pub fn write_virtual_port(w: &mut Writer, port: Option<&VirtualPort>) {
    let Some(port) = port.filter(|port| **port != VirtualPort::default()) else {
        return;
    };
    let tag = Tag::new("virtualport").opt("type", port.kind.as_ref());
    if port.parameters.is_empty() {
        w.empty(tag);
        return;
    }
    w.start(tag);
    w.empty(
        port.parameters
            .iter()
            .fold(Tag::new("parameters"), |tag, (name, value)| {
                tag.attr(name, value)
            }),
    );
    w.end("virtualport");
}

pub fn write_port_group(w: &mut Writer, group: &PortGroup) {
    w.start(
        Tag::new("portgroup")
            .attr("name", &group.name)
            .opt("default", group.default.then_some("yes"))
            .yes_no("trustGuestRxFilters", group.trust_guest_rx_filters),
    );
    write_vlan(w, group.vlan.as_ref());
    write_virtual_port(w, group.virtualport.as_ref());
    write_bandwidth(w, group.bandwidth.as_ref());
    w.end("portgroup");
}
