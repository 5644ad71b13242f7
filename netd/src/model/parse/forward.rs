//! `<forward>`.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use super::element::Element;
use crate::model::address::check_range;
use crate::model::error::XmlError;
use crate::model::types::{
    AddressRange, Forward, ForwardDriver, ForwardMode, Nat, PciAddress, PortRange,
};

/// Reads `<forward>`; mode 'none' is as good as no element.
pub fn forward(element: Element<'_>) -> Result<Option<Forward>, XmlError> {
    let mode = mode(element)?;
    let forward = Forward {
        mode,
        interfaces: interfaces(element)?,
        addresses: addresses(element)?,
        pf: match element.single("pf")? {
            Some(pf) => Some(pf.required("dev")?.to_owned()),
            None => None,
        },
        managed: element
            .attr("managed")
            .is_some_and(|managed| managed.eq_ignore_ascii_case("yes")),
        driver: element.child("driver").map(driver).transpose()?.flatten(),
        nat: nat(element, mode)?,
    };
    if element.attr("dev").is_some() && (forward.pf.is_some() || !forward.addresses.is_empty()) {
        return Err(element.error("'dev' cannot be given together with <address> or <pf>"));
    }
    Ok((mode != ForwardMode::None).then_some(Forward {
        // Printed for hostdev only.
        managed: forward.managed && mode == ForwardMode::Hostdev,
        ..forward
    }))
}

fn mode(element: Element<'_>) -> Result<ForwardMode, XmlError> {
    Ok(match element.attr("mode") {
        None | Some("nat") => ForwardMode::Nat,
        Some("none") => ForwardMode::None,
        Some("route") => ForwardMode::Route,
        Some("open") => ForwardMode::Open,
        Some("bridge") => ForwardMode::Bridge,
        Some("private") => ForwardMode::Private,
        Some("vepa") => ForwardMode::Vepa,
        Some("passthrough") => ForwardMode::Passthrough,
        Some("hostdev") => ForwardMode::Hostdev,
        Some(_) => {
            return Err(element.bad(
                "mode",
                "nat, route, open, none, bridge, private, vepa, passthrough or hostdev",
            ));
        }
    })
}

/// The devices of the pool. A `dev` attribute is the first of them, whether repeated or not.
fn interfaces(element: Element<'_>) -> Result<Vec<String>, XmlError> {
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    let first = element.non_empty("dev");
    if let Some(dev) = first {
        seen.insert(dev);
        names.push(dev.to_owned());
    }
    for (index, interface) in element.children("interface").enumerate() {
        // What libvirt prints of a network that runs.
        interface.attr("connections");
        let dev = interface_device(interface)?;
        match first {
            Some(first) if index == 0 => {
                if dev != first {
                    return Err(element.error(format!(
                        "dev='{first}' must be the device of the first <interface>, not '{dev}'"
                    )));
                }
            }
            _ => {
                if !seen.insert(dev) {
                    return Err(interface.error(format!("device '{dev}' is listed twice")));
                }
                names.push(dev.to_owned());
            }
        }
    }
    Ok(names)
}

/// Reads `<interface>`: the name of the device.
pub fn interface_device(element: Element<'_>) -> Result<&str, XmlError> {
    element.required("dev")
}

fn addresses(element: Element<'_>) -> Result<Vec<PciAddress>, XmlError> {
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    for child in element.children("address") {
        if child.required("type")? != "pci" {
            return Err(child.bad("type", "'pci'"));
        }
        let address = PciAddress {
            domain: pci_number(child, "domain", u32::MAX)?,
            // The limits make the casts exact.
            bus: pci_number(child, "bus", 0xff)? as u8,
            slot: pci_number(child, "slot", 0x1f)? as u8,
            function: pci_number(child, "function", 7)? as u8,
        };
        if (address.domain, address.bus, address.slot) == (0, 0, 0) {
            return Err(child.error("one of domain, bus and slot must not be zero"));
        }
        if !seen.insert(address) {
            return Err(child.error("the same PCI address is listed twice"));
        }
        list.push(address);
    }
    Ok(list)
}

/// A number as C writes it: hexadecimal after 0x, octal after 0, else decimal; absent is zero.
fn pci_number(element: Element<'_>, name: &str, max: u32) -> Result<u32, XmlError> {
    let Some(text) = element.attr(name) else {
        return Ok(0);
    };
    let number = if let Some(hex) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        u32::from_str_radix(hex, 16)
    } else if text.len() > 1 && text.starts_with('0') {
        u32::from_str_radix(text, 8)
    } else {
        text.parse()
    };
    match number {
        Ok(number) if number <= max => Ok(number),
        _ => Err(element.bad(name, &format!("a number from 0 to 0x{max:x}"))),
    }
}

fn driver(element: Element<'_>) -> Result<Option<ForwardDriver>, XmlError> {
    let name = element.attr("name");
    if name.is_some_and(|name| !matches!(name, "kvm" | "vfio" | "xen")) {
        return Err(element.bad("name", "kvm, vfio or xen"));
    }
    let driver = ForwardDriver {
        name: name.map(str::to_owned),
        model: element.non_empty("model").map(str::to_owned),
    };
    Ok((driver != ForwardDriver::default()).then_some(driver))
}

fn nat(element: Element<'_>, mode: ForwardMode) -> Result<Option<Nat>, XmlError> {
    let Some(child) = element.single("nat")? else {
        return Ok(None);
    };
    if mode != ForwardMode::Nat {
        return Err(child.error(format!("stands only in mode='nat', not '{mode}'")));
    }
    let nat = Nat {
        ipv6: child.yes_no("ipv6")?,
        address: child.single("address")?.map(nat_address).transpose()?,
        port: child.single("port")?.map(nat_port).transpose()?,
    };
    Ok((nat != Nat::default()).then_some(nat))
}

fn nat_address(element: Element<'_>) -> Result<AddressRange, XmlError> {
    let end_of = |name| -> Result<Ipv4Addr, XmlError> {
        element.required(name)?;
        let address: Option<Ipv4Addr> = element.parsed(name, "an IPv4 address")?;
        address.ok_or_else(|| element.bad(name, "an IPv4 address"))
    };
    let (start, end) = (end_of("start")?, end_of("end")?);
    check_range(IpAddr::V4(start), IpAddr::V4(end))
        .map_err(|why| element.error(format!("the range {start} - {end} {why}")))?;
    Ok(AddressRange { start, end })
}

fn nat_port(element: Element<'_>) -> Result<PortRange, XmlError> {
    let end_of = |name| -> Result<u16, XmlError> {
        element.required(name)?;
        let port: Option<u16> = element.parsed(name, "a port from 0 to 65535")?;
        port.ok_or_else(|| element.bad(name, "a port from 0 to 65535"))
    };
    let (start, end) = (end_of("start")?, end_of("end")?);
    if end < start {
        return Err(element.error(format!("the range {start} - {end} runs backwards")));
    }
    Ok(PortRange { start, end })
}
