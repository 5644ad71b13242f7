//! `<ip>` with its `<dhcp>`, and `<route>`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bridge::Mac;
use crate::model::address::{
    broadcast_address, check_range, in_subnet, netmask_len, network_address,
};
use crate::model::error::XmlError;
use crate::model::read::{Element, Extent};
use crate::model::write::{Tag, Writer};

/// `<ip>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// `address`: the bridge's own.
    pub address: IpAddr,
    /// `family` as written (printed again when given).
    pub family: Option<Family>,
    /// How the size of the subnet was written.
    pub mask: IpMask,
    /// `localPtr`.
    pub local_ptr: Option<bool>,
    /// `<tftp root>`.
    pub tftp_root: Option<String>,
    /// `<dhcp>`.
    pub dhcp: Dhcp,
}

/// Address family as written in XML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `ipv4`.
    Ipv4,
    /// `ipv6`.
    Ipv6,
}

/// How the size of a subnet is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpMask {
    /// Neither `netmask` nor `prefix`: classful for IPv4, 64 for IPv6.
    #[default]
    Implied,
    /// `netmask`.
    Netmask(Ipv4Addr),
    /// `prefix`.
    Prefix(u8),
}

/// `<dhcp>` of one `<ip>`; empty when the element is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// `<range>` list.
    pub ranges: Vec<DhcpRange>,
    /// `<host>` list.
    pub hosts: Vec<DhcpHost>,
    /// `<bootp>`.
    pub bootp: Option<Bootp>,
}

impl Dhcp {
    /// Is anything leased? A lone `<bootp>` is nothing that libvirt prints.
    #[must_use]
    pub fn serves(&self) -> bool {
        !self.ranges.is_empty() || !self.hosts.is_empty()
    }
}

/// `<range>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpRange {
    /// `start`.
    pub start: IpAddr,
    /// `end`, inclusive.
    pub end: IpAddr,
    /// `<lease>`.
    pub lease: Option<LeaseTime>,
}

/// `<host>` of `<dhcp>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhcpHost {
    /// `mac`, as written.
    pub mac: Option<String>,
    /// `id`: DUID, IPv6 only.
    pub id: Option<String>,
    /// `name`.
    pub name: Option<String>,
    /// `ip`.
    pub ip: Option<IpAddr>,
    /// `<lease>`.
    pub lease: Option<LeaseTime>,
}

/// `<lease expiry unit>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// `expiry`; 0 is infinite.
    pub expiry: u32,
    /// `unit`.
    pub unit: LeaseUnit,
}

/// `unit` of `<lease>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseUnit {
    /// `seconds`.
    Seconds,
    /// `minutes`.
    #[default]
    Minutes,
    /// `hours`.
    Hours,
}

/// `<bootp>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bootp {
    /// `file`.
    pub file: String,
    /// `server`.
    pub server: Option<String>,
}

/// `<route>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `family` as written.
    pub family: Option<Family>,
    /// `address`: a network address.
    pub address: IpAddr,
    /// Size of the destination.
    pub mask: IpMask,
    /// `gateway`.
    pub gateway: IpAddr,
    /// `metric`; absent is 1.
    pub metric: Option<u32>,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl Ip {
    /// Length of the subnet's prefix in bits; what libvirt implies when none is written.
    /// A class D or E address without a mask has none and gives 32 (the parser refuses it).
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        prefix_len(self.address, self.mask)
    }
}

impl Route {
    /// Length of the destination's prefix in bits.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        prefix_len(self.address, self.mask)
    }
}

fn prefix_len(address: IpAddr, mask: IpMask) -> u8 {
    match (mask, address) {
        (IpMask::Prefix(len), _) => len,
        // The parser refuses a netmask with holes.
        (IpMask::Netmask(mask), _) => u32::from(mask).leading_ones() as u8,
        (IpMask::Implied, IpAddr::V4(a)) => match a.octets()[0] {
            _ if a.is_unspecified() => 0,
            0..=127 => 8,
            128..=191 => 16,
            192..=223 => 24,
            _ => 32,
        },
        (IpMask::Implied, IpAddr::V6(a)) => {
            if a == Ipv6Addr::UNSPECIFIED {
                0
            } else {
                64
            }
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// The one of these `<ip>` in whose subnet the address is.
pub fn subnet_of<'a>(mut ips: impl Iterator<Item = &'a Ip>, address: IpAddr) -> Option<&'a Ip> {
    ips.find(|ip| in_subnet(address, ip.address, ip.prefix_len()))
}

/// Reads `<ip>`.
pub fn read_ip(element: Element<'_>) -> Result<Ip, XmlError> {
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
        .map(|e| read_dhcp(e, &ip))
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
            let error = element.bad("address", "an IPv4 address, or given with family='ipv6'");
            Err(error.of_kind(XmlError::Unsupported))
        }
        (Family::Ipv6, IpAddr::V4(_)) => {
            let error = element.bad("address", "an IPv6 address, as family='ipv6' says");
            Err(error.of_kind(XmlError::Unsupported))
        }
    }
}

fn mask(element: Element<'_>, address: IpAddr) -> Result<IpMask, XmlError> {
    let max = if address.is_ipv4() { 32 } else { 128 };
    let refuse = |error: XmlError| Err(error.of_kind(XmlError::Unsupported));
    let prefix = match element.number::<u32>("prefix")?.map(u8::try_from) {
        None => None,
        Some(Ok(prefix)) if prefix <= max => Some(prefix),
        Some(_) => return refuse(element.bad("prefix", &format!("at most {max}"))),
    };
    let Some(netmask) = element.attr("netmask") else {
        return Ok(prefix.map_or(IpMask::Implied, IpMask::Prefix));
    };
    if address.is_ipv6() {
        return refuse(element.error("an IPv6 address takes a prefix, not a netmask"));
    }
    if prefix.is_some_and(|prefix| prefix > 0) {
        return refuse(element.error("give either netmask or prefix, not both"));
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
        let error = tftp.error("stands only in an IPv4 <ip>");
        return Err(error.of_kind(XmlError::Unsupported));
    }
    Ok(tftp.non_empty("root").map(str::to_owned))
}

fn read_dhcp(element: Element<'_>, ip: &Ip) -> Result<Dhcp, XmlError> {
    Ok(Dhcp {
        ranges: element
            .children("range")
            .map(|e| read_range(e, ip))
            .collect::<Result<_, _>>()?,
        hosts: element
            .children("host")
            .map(|e| read_host(e, ip, Extent::Whole))
            .collect::<Result<_, _>>()?,
        bootp: match element.child("bootp") {
            Some(e) if ip.address.is_ipv4() => Some(read_bootp(e)?),
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
pub fn read_range(element: Element<'_>, ip: &Ip) -> Result<DhcpRange, XmlError> {
    let end_of = |name| -> Result<IpAddr, XmlError> {
        element.required(name)?;
        let address = element.ip(name);
        address
            .map_err(|error| error.of_kind(XmlError::Address))?
            .ok_or_else(|| element.bad(name, "an IP address"))
    };
    let (start, end) = (end_of("start")?, end_of("end")?);
    let refuse = |why: &str| Err(XmlError::Range(format!("range {start} - {end} {why}")));
    if start.is_ipv4() != ip.address.is_ipv4() {
        return refuse("is not of the family of its <ip>");
    }
    if let Err(why) = check_range(start, end) {
        return refuse(why);
    }
    let prefix = ip.prefix_len();
    if !in_subnet(start, ip.address, prefix) || !in_subnet(end, ip.address, prefix) {
        return refuse(&format!(
            "is not entirely within network {}/{prefix}",
            ip.address
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
        lease: read_lease(element)?,
    })
}

/// Reads `<host>` of the `<dhcp>` of `ip`.
pub fn read_host(element: Element<'_>, ip: &Ip, extent: Extent) -> Result<DhcpHost, XmlError> {
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
        lease: read_lease(element)?,
    })
}

/// `<lease>`; without an expiry it says nothing.
fn read_lease(parent: Element<'_>) -> Result<Option<LeaseTime>, XmlError> {
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
        Some(_) => {
            let error = element.bad("unit", "seconds, minutes or hours");
            return Err(error.of_kind(XmlError::Value));
        }
    };
    match (expiry, unit) {
        // Infinite: the unit has no meaning.
        (0, _) => Ok(Some(LeaseTime {
            expiry,
            unit: LeaseUnit::default(),
        })),
        (1..120, LeaseUnit::Seconds) | (1, LeaseUnit::Minutes) => {
            let error = element.error("a lease lasts at least two minutes");
            Err(error.of_kind(XmlError::Unsupported))
        }
        _ => Ok(Some(LeaseTime { expiry, unit })),
    }
}

fn read_bootp(element: Element<'_>) -> Result<Bootp, XmlError> {
    Ok(Bootp {
        file: element
            .required("file")
            .map_err(|error| error.of_kind(XmlError::Value))?
            .to_owned(),
        server: element
            .ip("server")
            .map_err(|error| error.of_kind(XmlError::Address))?
            .map(|server| server.to_string()),
    })
}

/// Reads `<route>`, all but whether its gateway can be reached.
pub fn read_route(element: Element<'_>) -> Result<Route, XmlError> {
    // libvirt calls the same mistakes wrong here and unsupported in an `<ip>`.
    let wrong = |error: XmlError| match error {
        XmlError::Unsupported(text) => XmlError::Invalid(text),
        other => other,
    };
    let (family, address) = address(element).map_err(wrong)?;
    element.required("gateway")?;
    let gateway = element
        .ip("gateway")?
        .filter(|gateway| gateway.is_ipv4() == address.is_ipv4())
        .ok_or_else(|| element.bad("gateway", "an address of the destination's family"))?;
    let route = Route {
        family,
        address,
        mask: mask(element, address).map_err(wrong)?,
        gateway,
        metric: element.number("metric")?,
    };
    if route.metric == Some(0) {
        let error = element.bad("metric", "at least 1");
        return Err(error.of_kind(XmlError::Value));
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

pub fn write_ip(w: &mut Writer, ip: &Ip) {
    let tag = sized(Tag::new("ip"), ip.family, ip.address, ip.mask);
    let tag = tag.yes_no("localPtr", ip.local_ptr);
    if ip.tftp_root.is_none() && !ip.dhcp.serves() {
        w.empty(tag);
        return;
    }
    w.start(tag);
    if let Some(root) = &ip.tftp_root {
        w.empty(Tag::new("tftp").attr("root", root));
    }
    write_dhcp(w, &ip.dhcp);
    w.end("ip");
}

/// The attributes that `<ip>` and `<route>` begin with.
fn sized(tag: Tag, family: Option<Family>, address: IpAddr, mask: IpMask) -> Tag {
    let family = family.map(|family| match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    });
    let tag = tag.opt("family", family).attr("address", address);
    match mask {
        IpMask::Implied => tag,
        IpMask::Netmask(mask) => tag.attr("netmask", mask),
        IpMask::Prefix(prefix) => tag.attr("prefix", prefix),
    }
}

fn write_dhcp(w: &mut Writer, dhcp: &Dhcp) {
    if !dhcp.serves() {
        return;
    }
    let Dhcp {
        ranges,
        hosts,
        bootp,
    } = dhcp;
    w.start(Tag::new("dhcp"));
    for range in ranges {
        let tag = Tag::new("range")
            .attr("start", range.start)
            .attr("end", range.end);
        with_lease(w, tag, range.lease);
    }
    for host in hosts {
        let tag = Tag::new("host")
            .opt("mac", host.mac.as_ref())
            .opt("id", host.id.as_ref())
            .opt("name", host.name.as_ref())
            .opt("ip", host.ip);
        with_lease(w, tag, host.lease);
    }
    if let Some(bootp) = bootp {
        w.empty(
            Tag::new("bootp")
                .attr("file", &bootp.file)
                .opt("server", bootp.server.as_ref()),
        );
    }
    w.end("dhcp");
}

fn with_lease(w: &mut Writer, tag: Tag, lease: Option<LeaseTime>) {
    let Some(lease) = lease else {
        w.empty(tag);
        return;
    };
    let unit = match lease.unit {
        LeaseUnit::Seconds => "seconds",
        LeaseUnit::Minutes => "minutes",
        LeaseUnit::Hours => "hours",
    };
    let name = tag.name;
    w.start(tag);
    w.empty(
        Tag::new("lease")
            .attr("expiry", lease.expiry)
            .opt("unit", (lease.expiry != 0).then_some(unit)),
    );
    w.end(name);
}

pub fn write_route(w: &mut Writer, route: &Route) {
    w.empty(
        sized(Tag::new("route"), route.family, route.address, route.mask)
            .attr("gateway", route.gateway)
            .opt("metric", route.metric),
    );
}
