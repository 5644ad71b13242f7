//! From `<netd:forwards>` to the forwards, and the rules that they keep.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};

use roxmltree::Node;

use super::{ForwardGuest, ForwardProtocol, ForwardRange, ForwardScope, PortForward, find_clash};
use crate::model::address::{broadcast_address, in_subnet, network_address, subnet_of};
use crate::model::check::check_interface_name;
use crate::model::error::XmlError;
use crate::model::extension::{Reader, shown};
use crate::model::types::{Family, ForwardMode, Network};

/// Most forwards of a network.
pub const MAX_FORWARDS: usize = 16_384;
/// Most ranges of a forward.
pub const MAX_RANGES: usize = 1024;
/// Longest name of a host.
const MAX_HOST: usize = 253;

/// Reads `<netd:forwards>` of the reader's network.
///
/// # Errors
/// The grammar or a rule is broken. The message says in which forward, counted from 1.
pub fn read(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<Vec<PortForward>, XmlError> {
    reader.attributes(node, &[])?;
    let mode = reader.network().mode();
    if !matches!(
        mode,
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::None
    ) {
        let detail =
            format!("stands only in mode='nat' and 'route' and isolated networks, not '{mode}'");
        return Err(reader.refuse(node, detail));
    }
    let children = reader.children(node)?;
    if children.len() > MAX_FORWARDS {
        let detail = format!("holds {} forwards, {MAX_FORWARDS} at most", children.len());
        return Err(reader.refuse(node, detail));
    }
    let mut forwards = Vec::new();
    for (number, child) in children.into_iter().enumerate() {
        reader.named(child, "portForward")?;
        let one = One {
            reader,
            number: number + 1,
        };
        forwards.push(one.forward(child)?);
    }
    if let Some(clash) = find_clash(&forwards) {
        let of_which = match clash.port {
            0 => "all ports are".to_owned(),
            port => format!("port {port} is"),
        };
        let detail = format!(
            "{of_which} published twice, by forward {} ({}) and forward {} ({}); remove one or \
             exclude the port",
            clash.first + 1,
            forwards[clash.first],
            clash.second + 1,
            forwards[clash.second],
        );
        return Err(reader.refuse(node, detail));
    }
    Ok(forwards)
}

/// Reads one `<netd:portForward>`.
struct One<'a> {
    reader: &'a Reader<'a>,
    number: usize,
}

impl One<'_> {
    fn network(&self) -> &Network {
        self.reader.network()
    }

    fn refuse(&self, node: Node<'_, '_>, detail: impl Display) -> XmlError {
        self.reader
            .refuse(node, format!("{detail} (forward {})", self.number))
    }

    fn forward(&self, node: Node<'_, '_>) -> Result<PortForward, XmlError> {
        self.reader
            .attributes(node, &["proto", "address", "dev", "guest"])?;
        let protocol = self.required(node, "proto")?;
        let protocol = protocol
            .parse()
            .map_err(|error| self.refuse(node, format!("proto='{}' {error}", shown(protocol))))?;
        let forward = PortForward {
            protocol,
            address: self.address(node)?,
            dev: self.device(node)?,
            guest: self.guest(node)?,
            ranges: self.ranges(node)?,
        };
        self.whole(node, &forward)?;
        Ok(forward)
    }

    /// What the attributes and ranges of a forward say together.
    fn whole(&self, node: Node<'_, '_>, forward: &PortForward) -> Result<(), XmlError> {
        let all = forward.protocol == ForwardProtocol::All;
        let detail = match (forward.scope(), forward.ranges.as_slice()) {
            _ if forward.address.is_some() && forward.dev.is_some() => {
                "address and dev exclude each other; a device is known by its address"
            }
            (ForwardScope::Device(_) | ForwardScope::All, _) if all => {
                "proto='all' needs address, an address of the host that the guest gets for itself"
            }
            (_, [_, ..]) if all => "proto='all' takes no <netd:range>; there is no port to look at",
            (ForwardScope::Device(_) | ForwardScope::All, []) => {
                "publishes no port; give it a <netd:range>, or an address all of whose ports go \
                 to the guest"
            }
            _ => return self.families(node, forward),
        };
        Err(self.refuse(node, detail))
    }

    /// Guest and address are of one family, which the network has.
    fn families(&self, node: Node<'_, '_>, forward: &PortForward) -> Result<(), XmlError> {
        let Some(address) = forward.address else {
            return Ok(());
        };
        let family = Family::of(address);
        match forward.guest {
            ForwardGuest::Address(guest) if Family::of(guest) != family => Err(self.refuse(
                node,
                format!(
                    "address='{address}' is {family} and guest='{guest}' is not; nothing is \
                     translated from one family to the other"
                ),
            )),
            ForwardGuest::Host(_) if !self.network().has(family) => Err(self.refuse(
                node,
                format!("address='{address}' is {family}, but the network has no {family} <ip>"),
            )),
            _ => Ok(()),
        }
    }

    fn address(&self, node: Node<'_, '_>) -> Result<Option<IpAddr>, XmlError> {
        let Some(text) = node.attribute("address") else {
            return Ok(None);
        };
        let refuse = |why: &str| {
            let detail = format!("address='{}' {why}", shown(text));
            Err(self.refuse(node, detail))
        };
        let Ok(address) = text.parse::<IpAddr>() else {
            return refuse("is not an IPv4 or IPv6 address");
        };
        let (special, mapped) = match address {
            IpAddr::V4(a) => (a == Ipv4Addr::BROADCAST, false),
            IpAddr::V6(a) => (a.is_unicast_link_local(), a.to_ipv4_mapped().is_some()),
        };
        if mapped {
            return refuse("is an IPv4 address; write it as one");
        }
        if special || address.is_unspecified() || address.is_multicast() {
            return refuse("is not an address that is one host's alone; leave it out for all");
        }
        let all = node.attribute("proto") == Some("all");
        if address.is_loopback() && all {
            return refuse("is a loopback address, which is the host's whole");
        }
        for ip in &self.network().ips {
            if ip.address == address && all {
                return refuse("is the bridge's own, and guests need its DHCP and DNS");
            }
            if ip.address != address && in_subnet(address, ip.address, ip.prefix_len()) {
                return refuse("is where the guests are, not an address of the host's");
            }
        }
        Ok(Some(address))
    }

    fn device(&self, node: Node<'_, '_>) -> Result<Option<String>, XmlError> {
        let Some(dev) = node.attribute("dev") else {
            return Ok(None);
        };
        check_interface_name(dev)
            .map_err(|why| self.refuse(node, format!("dev='{}' {why}", shown(dev))))?;
        Ok(Some(dev.to_owned()))
    }

    fn guest(&self, node: Node<'_, '_>) -> Result<ForwardGuest, XmlError> {
        let text = self.required(node, "guest")?;
        let refuse = |why: &str| Err(self.refuse(node, format!("guest='{}' {why}", shown(text))));
        let guest = ForwardGuest::from(text.to_owned());
        let address = match &guest {
            ForwardGuest::Address(address) => *address,
            ForwardGuest::Host(name) => {
                return if is_host_name(name) {
                    Ok(guest)
                } else {
                    refuse("is neither an address nor the name of a host")
                };
            }
        };
        let Some(ip) = subnet_of(self.network(), address) else {
            return refuse(
                "is in no <ip> of the network; give the address that the guest has there",
            );
        };
        if self.network().ips.iter().any(|ip| ip.address == address) {
            return refuse("is the bridge's own address; give the guest's");
        }
        let prefix = ip.prefix_len();
        let is_none = match address {
            IpAddr::V4(a) if prefix < 31 => {
                a == broadcast_address(a, prefix) || address == network_address(address, prefix)
            }
            IpAddr::V4(_) => false,
            // The address of all routers.
            IpAddr::V6(_) => prefix < 127 && address == network_address(address, prefix),
        };
        if is_none || address.is_multicast() {
            return refuse("is not an address that a guest can have");
        }
        Ok(guest)
    }

    fn ranges(&self, node: Node<'_, '_>) -> Result<Vec<ForwardRange>, XmlError> {
        let children = self.reader.children(node)?;
        if children.len() > MAX_RANGES {
            let detail = format!("holds {} ranges, {MAX_RANGES} at most", children.len());
            return Err(self.refuse(node, detail));
        }
        let mut ranges = Vec::new();
        for child in &children {
            self.reader.named(*child, "range")?;
            ranges.push(self.range(*child)?);
        }
        let mut published: Vec<&ForwardRange> = ranges.iter().filter(|r| !r.exclude).collect();
        published.sort_by_key(|range| range.start);
        if let Some([a, b]) = published
            .windows(2)
            .filter_map(|pair| <[&ForwardRange; 2]>::try_from(pair).ok())
            .find(|[a, b]| a.overlaps(b))
        {
            let detail = format!("the ranges {a} and {b} overlap");
            return Err(self.refuse(node, detail));
        }
        for (range, child) in ranges.iter().zip(&children).filter(|(r, _)| r.exclude) {
            // Sorted and disjoint: of those that begin before it, the last one reaches furthest.
            let before = published.partition_point(|other| other.start <= range.start);
            let around = before.checked_sub(1).map(|last| published[last]);
            if !around.is_some_and(|other| other.holds(range)) {
                let detail =
                    format!("{range} is not within one of the ranges it is to leave out of");
                return Err(self.refuse(*child, detail));
            }
        }
        Ok(ranges)
    }

    fn range(&self, node: Node<'_, '_>) -> Result<ForwardRange, XmlError> {
        let known = ["start", "end", "to", "exclude"];
        self.reader.attributes(node, &known)?;
        if let Some(child) = self.reader.children(node)?.first() {
            let name = shown(child.tag_name().name());
            return Err(self.refuse(node, format!("has no child <{name}>")));
        }
        self.required(node, "start")?;
        let start = self.port(node, "start")?.unwrap_or_default();
        let end = self.port(node, "end")?.unwrap_or(start);
        let to = self.port(node, "to")?;
        let exclude = match node.attribute("exclude") {
            None | Some("no") => false,
            Some("yes") => true,
            Some(other) => {
                let detail = format!("exclude='{}' should be yes or no", shown(other));
                return Err(self.refuse(node, detail));
            }
        };
        if end < start {
            let detail = format!("end='{end}' is before start='{start}'");
            return Err(self.refuse(node, detail));
        }
        if exclude && to.is_some() {
            return Err(self.refuse(node, "to has no meaning beside exclude='yes'"));
        }
        if let Some(to) = to.filter(|to| to.checked_add(end - start).is_none()) {
            let detail = format!("to='{to}' leads beyond port 65535 for {start} to {end}");
            return Err(self.refuse(node, detail));
        }
        Ok(ForwardRange {
            start,
            end,
            to,
            exclude,
        })
    }

    fn port(&self, node: Node<'_, '_>, name: &str) -> Result<Option<u16>, XmlError> {
        let Some(text) = node.attribute(name) else {
            return Ok(None);
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let port = text.parse().ok().filter(|port| digits && *port != 0);
        port.map(Some).ok_or_else(|| {
            let detail = format!("{name}='{}' should be a port from 1 to 65535", shown(text));
            self.refuse(node, detail)
        })
    }

    fn required<'n>(&self, node: Node<'n, '_>, name: &str) -> Result<&'n str, XmlError> {
        node.attribute(name)
            .ok_or_else(|| self.refuse(node, format!("needs the attribute {name}")))
    }
}

/// Can DHCP know a host by this name? Digits and dots alone are an address gone wrong.
fn is_host_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (1..=MAX_HOST).contains(&name.len())
        && name.chars().all(word)
        && !name.starts_with(['-', '.'])
        && name.contains(|c: char| c.is_ascii_alphabetic())
}
