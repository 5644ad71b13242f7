//! `<ip>` with its DHCP section, and `<route>`.

use std::net::{IpAddr, Ipv4Addr};

use super::element::{Element, Extent};
use crate::model::address::{
    broadcast_address, check_range, in_subnet, netmask_len, network_address,
};
use crate::model::error::XmlError;
use crate::model::network::Network;
use crate::model::types::{
    Bootp, Dhcp, DhcpHost, DhcpRange, Family, Ip, IpMask, LeaseTime, LeaseUnit, Mac, Route,
};

/// Reads `<ip>`.
pub fn ip(element: Element<'_>) -> Result<Ip, XmlError> {
    let (family, address) = address(element)?;
    let mut mask = mask(element, address)?;
    // Zero is what libvirt takes for no prefix here, though not in a route.
    if mask == IpMask::Prefix(0) {
        mask = IpMask::Implied;
    }
    let ip = Ip {
        address,
        family,
        mask,
        local_ptr: element.yes_no("localPtr")?,
        tftp_root: tftp_root(element, address)?,
        dhcp: Dhcp::default(),
    };
    if let (IpMask::Implied, IpAddr::V4(a)) = (ip.mask, ip.address)
        && a.octets()[0] >= 224
    {
        return Err(element.bad(
            "address",
            "given with a netmask or prefix, as no class implies one",
        ));
    }
    let dhcp = element
        .child("dhcp")
        .map(|e| dhcp(e, &ip))
        .transpose()?
        .unwrap_or_default();
    Ok(Ip { dhcp, ..ip })
}

/// The address, of the family that is given; no family means IPv4 even for an IPv6 address.
fn address(element: Element<'_>) -> Result<(Option<Family>, IpAddr), XmlError> {
    let family = match element.attr("family") {
        None => None,
        Some("ipv4") => Some(Family::Ipv4),
        Some("ipv6") => Some(Family::Ipv6),
        Some(_) => return Err(element.bad("family", "'ipv4' or 'ipv6'")),
    };
    element.required("address")?;
    let address = element
        .ip("address")?
        .ok_or_else(|| element.bad("address", "an IP address"))?;
    match (family.unwrap_or(Family::Ipv4), address) {
        (Family::Ipv4, IpAddr::V4(_)) | (Family::Ipv6, IpAddr::V6(_)) => Ok((family, address)),
        (Family::Ipv4, IpAddr::V6(_)) => {
            Err(element.bad("address", "an IPv4 address, or given with family='ipv6'"))
        }
        (Family::Ipv6, IpAddr::V4(_)) => {
            Err(element.bad("address", "an IPv6 address, as family='ipv6' says"))
        }
    }
}

fn mask(element: Element<'_>, address: IpAddr) -> Result<IpMask, XmlError> {
    let max = if address.is_ipv4() { 32 } else { 128 };
    let prefix: Option<u8> = element.number("prefix")?;
    if prefix.is_some_and(|prefix| prefix > max) {
        return Err(element.bad("prefix", &format!("at most {max}")));
    }
    let Some(netmask) = element.attr("netmask") else {
        return Ok(prefix.map_or(IpMask::Implied, IpMask::Prefix));
    };
    if address.is_ipv6() {
        return Err(element.error("an IPv6 address takes a prefix, not a netmask"));
    }
    if prefix.is_some_and(|prefix| prefix > 0) {
        return Err(element.error("give either netmask or prefix, not both"));
    }
    match netmask.parse::<Ipv4Addr>() {
        Ok(mask) if netmask_len(mask).is_some() => Ok(IpMask::Netmask(mask)),
        _ => Err(element.bad("netmask", "an IPv4 netmask without holes")),
    }
}

fn tftp_root(element: Element<'_>, address: IpAddr) -> Result<Option<String>, XmlError> {
    let Some(tftp) = element.child("tftp") else {
        return Ok(None);
    };
    if address.is_ipv6() {
        return Err(tftp.error("stands only in an IPv4 <ip>"));
    }
    Ok(tftp.non_empty("root").map(str::to_owned))
}

fn dhcp(element: Element<'_>, ip: &Ip) -> Result<Dhcp, XmlError> {
    Ok(Dhcp {
        ranges: element
            .children("range")
            .map(|e| range(e, ip))
            .collect::<Result<_, _>>()?,
        hosts: element
            .children("host")
            .map(|e| host(e, ip, Extent::Whole))
            .collect::<Result<_, _>>()?,
        bootp: match element.child("bootp") {
            Some(e) if ip.address.is_ipv4() => Some(bootp(e)?),
            // libvirt passes over it, too.
            Some(e) => {
                e.pass_over();
                None
            }
            None => None,
        },
    })
}

/// Reads `<range>` of the `<dhcp>` of `ip`.
pub fn range(element: Element<'_>, ip: &Ip) -> Result<DhcpRange, XmlError> {
    let end_of = |name| -> Result<IpAddr, XmlError> {
        element.required(name)?;
        element
            .ip(name)?
            .ok_or_else(|| element.bad(name, "an IP address"))
    };
    let (start, end) = (end_of("start")?, end_of("end")?);
    let refuse = |why: &str| Err(element.error(format!("the range {start} - {end} {why}")));
    if start.is_ipv4() != ip.address.is_ipv4() {
        return refuse("is not of the family of its <ip>");
    }
    if let Err(why) = check_range(start, end) {
        return refuse(why);
    }
    let prefix = ip.prefix_len();
    if !in_subnet(start, ip.address, prefix) || !in_subnet(end, ip.address, prefix) {
        return refuse(&format!(
            "is not within {}/{prefix}",
            network_address(ip.address, prefix)
        ));
    }
    if let IpAddr::V4(address) = ip.address {
        if start == network_address(ip.address, prefix) {
            return refuse("starts at the address of the network itself");
        }
        if end == IpAddr::V4(broadcast_address(address, prefix)) {
            return refuse("ends at the broadcast address");
        }
    }
    Ok(DhcpRange {
        start,
        end,
        lease: lease(element)?,
    })
}

/// Reads `<host>` of the `<dhcp>` of `ip`.
pub fn host(element: Element<'_>, ip: &Ip, extent: Extent) -> Result<DhcpHost, XmlError> {
    let is_v6 = ip.address.is_ipv6();
    if let Some(mac) = element.parsed::<Mac>("mac", "a MAC address")? {
        if mac.is_multicast() {
            return Err(element.bad("mac", "a unicast MAC address, not multicast"));
        }
        if is_v6 {
            return Err(element.error("an IPv6 host is known by id or name, not by mac"));
        }
    }
    let id_char = |b: u8| b.is_ascii_hexdigit() || b == b':';
    if element
        .attr("id")
        .is_some_and(|id| !id.bytes().all(id_char))
    {
        return Err(element.bad("id", "hexadecimal digits and ':'"));
    }
    let name = element.attr("name");
    if name.is_some_and(|name| !name.starts_with(|c: char| c.is_ascii_alphanumeric())) {
        return Err(element.bad("name", "a host name, starting with a letter or digit"));
    }
    let known_by = if is_v6 { "id" } else { "mac" };
    let is_known = element.attr(known_by).is_some() || name.is_some();
    match extent {
        Extent::Whole if !is_known => {
            return Err(element.error(format!("one of {known_by} and name must be given")));
        }
        Extent::Part if !is_known && element.attr("ip").is_none() => {
            return Err(element.error(format!("one of {known_by}, name and ip must be given")));
        }
        Extent::Whole => drop(element.required("ip")?),
        Extent::Part => {}
    }
    let owned = |name| element.attr(name).map(str::to_owned);
    Ok(DhcpHost {
        mac: owned("mac"),
        id: owned("id"),
        name: owned("name"),
        ip: element.ip("ip")?,
        lease: lease(element)?,
    })
}

/// `<lease>`; without an expiry it says nothing.
fn lease(parent: Element<'_>) -> Result<Option<LeaseTime>, XmlError> {
    let Some(element) = parent.child("lease") else {
        return Ok(None);
    };
    let Some(expiry) = element.number::<u32>("expiry")? else {
        element.pass_over();
        return Ok(None);
    };
    let unit = match element.attr("unit") {
        None | Some("minutes") => LeaseUnit::Minutes,
        Some("seconds") => LeaseUnit::Seconds,
        Some("hours") => LeaseUnit::Hours,
        Some(_) => return Err(element.bad("unit", "seconds, minutes or hours")),
    };
    match (expiry, unit) {
        // Infinite: the unit has no meaning.
        (0, _) => Ok(Some(LeaseTime {
            expiry,
            unit: LeaseUnit::default(),
        })),
        (1..120, LeaseUnit::Seconds) | (1, LeaseUnit::Minutes) => {
            Err(element.error("a lease lasts at least two minutes"))
        }
        _ => Ok(Some(LeaseTime { expiry, unit })),
    }
}

fn bootp(element: Element<'_>) -> Result<Bootp, XmlError> {
    Ok(Bootp {
        file: element.required("file")?.to_owned(),
        server: element.ip("server")?.map(|server| server.to_string()),
    })
}

/// Reads `<route>`, all but whether its gateway can be reached.
pub fn route(element: Element<'_>) -> Result<Route, XmlError> {
    let (family, address) = address(element)?;
    element.required("gateway")?;
    let gateway = element
        .ip("gateway")?
        .filter(|gateway| gateway.is_ipv4() == address.is_ipv4())
        .ok_or_else(|| element.bad("gateway", "an address of the destination's family"))?;
    let route = Route {
        family,
        address,
        mask: mask(element, address)?,
        gateway,
        metric: element.number("metric")?,
    };
    if route.metric == Some(0) {
        return Err(element.bad("metric", "at least 1"));
    }
    // A destination without a size counts as the default route here.
    let prefix = match route.mask {
        IpMask::Implied => 0,
        _ => route.prefix_len(),
    };
    if network_address(address, prefix) != address {
        return Err(element.error(format!(
            "{address}/{prefix} is not a network address: bits after the prefix are set"
        )));
    }
    Ok(route)
}

/// Every gateway must be a neighbour: in the subnet of one of the network's addresses.
pub fn check_gateways(root: Element<'_>, network: &Network) -> Result<(), XmlError> {
    for (element, route) in root.children("route").zip(&network.routes) {
        let reachable = network
            .ips
            .iter()
            .any(|ip| in_subnet(route.gateway, ip.address, ip.prefix_len()));
        if !reachable {
            return Err(element.bad("gateway", "within the subnet of an <ip> of this network"));
        }
    }
    Ok(())
}
