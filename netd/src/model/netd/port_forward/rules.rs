//! The rules that forwards keep, whether they were read or made.

use std::net::{IpAddr, Ipv4Addr};

use super::{ForwardGuest, ForwardProtocol, ForwardRange, ForwardScope, PortForward, find_clash};
use crate::model::address::{broadcast_address, in_subnet, network_address};
use crate::model::element::{Family, subnet_of};
use crate::model::error::XmlError;
use crate::model::name::check_interface_name;
use crate::model::netd::reader::refusal;
use crate::model::netd::section::{Surroundings, is_judged};
use crate::model::xml::shown;

/// Most forwards of a network.
const MAX_FORWARDS: usize = 16_384;
/// Most ranges of a forward.
const MAX_RANGES: usize = 1024;
/// Longest name of a host.
const MAX_HOST: usize = 253;

/// May the network have these forwards?
///
/// # Errors
/// A rule is broken. The message says in which forward, counted from 1.
pub fn check(definition: &Surroundings<'_>, forwards: &[PortForward]) -> Result<(), XmlError> {
    let refuse = |detail: String| Err(refusal(definition.name, "forwards", detail));
    is_judged(definition).or_else(refuse)?;
    if forwards.len() > MAX_FORWARDS {
        return refuse(format!(
            "holds {} forwards, {MAX_FORWARDS} at most",
            forwards.len()
        ));
    }
    for (number, forward) in (1..).zip(forwards) {
        let checker = ForwardChecker {
            definition,
            forward,
        };
        checker.check().map_err(|detail| {
            refusal(
                definition.name,
                "portForward",
                format!("{detail} (forward {number})"),
            )
        })?;
    }
    if let Some(clash) = find_clash(forwards) {
        let of_which = match clash.port {
            0 => "all ports are".to_owned(),
            port => format!("port {port} is"),
        };
        return refuse(format!(
            "{of_which} published twice, by forward {} ({}) and forward {} ({}); remove one or \
             exclude the port",
            clash.first + 1,
            forwards[clash.first],
            clash.second + 1,
            forwards[clash.second],
        ));
    }
    Ok(())
}

/// What follows the name of the element in a message.
type Rule = Result<(), String>;

/// One forward of a network, under check.
struct ForwardChecker<'a> {
    definition: &'a Surroundings<'a>,
    forward: &'a PortForward,
}

impl ForwardChecker<'_> {
    fn check(&self) -> Rule {
        if let Some(address) = self.forward.address {
            self.address(address)
                .map_err(|why| format!("address='{address}' {why}"))?;
        }
        if let Some(dev) = &self.forward.dev {
            check_interface_name(dev).map_err(|why| format!("dev='{}' {why}", shown(dev)))?;
        }
        let guest = &self.forward.guest;
        self.guest()
            .map_err(|why| format!("guest='{}' {why}", shown(&guest.to_string())))?;
        ranges(&self.forward.ranges)?;
        self.whole()?;
        self.families()
    }

    /// What address, device, protocol and ranges say together.
    fn whole(&self) -> Rule {
        let forward = self.forward;
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
            _ => return Ok(()),
        };
        Err(detail.to_owned())
    }

    /// Guest and address are of one family, which the network has.
    fn families(&self) -> Rule {
        let Some(address) = self.forward.address else {
            return Ok(());
        };
        let family = Family::of(address);
        match self.forward.guest {
            ForwardGuest::Address(guest) if Family::of(guest) != family => Err(format!(
                "address='{address}' is {family} and guest='{guest}' is not; nothing is \
                 translated from one family to the other"
            )),
            ForwardGuest::Host(_) if !self.has(family) => Err(format!(
                "address='{address}' is {family}, but the network has no {family} <ip>"
            )),
            _ => Ok(()),
        }
    }

    /// Has the network addresses of this family?
    fn has(&self, family: Family) -> bool {
        let mut ips = self.definition.ips.iter();
        ips.any(|ip| Family::of(ip.address) == family)
    }

    fn address(&self, address: IpAddr) -> Result<(), &'static str> {
        let (special, mapped) = match address {
            IpAddr::V4(a) => (a == Ipv4Addr::BROADCAST, false),
            IpAddr::V6(a) => (a.is_unicast_link_local(), a.to_ipv4_mapped().is_some()),
        };
        if mapped {
            return Err("is an IPv4 address; write it as one");
        }
        if special || address.is_unspecified() || address.is_multicast() {
            return Err("is not an address that is one host's alone; leave it out for all");
        }
        let all = self.forward.protocol == ForwardProtocol::All;
        if address.is_loopback() && all {
            return Err("is a loopback address, which is the host's whole");
        }
        for ip in self.definition.ips {
            if ip.address == address && all {
                return Err("is the bridge's own, and guests need its DHCP and DNS");
            }
            if ip.address != address && in_subnet(address, ip.address, ip.prefix_len()) {
                return Err("is where the guests are, not an address of the host's");
            }
        }
        Ok(())
    }

    fn guest(&self) -> Result<(), &'static str> {
        let address = match &self.forward.guest {
            ForwardGuest::Address(address) => *address,
            ForwardGuest::Host(name) if is_host_name(name) => return Ok(()),
            ForwardGuest::Host(_) => return Err("is neither an address nor the name of a host"),
        };
        let Some(ip) = subnet_of(self.definition.ips.iter(), address) else {
            return Err("is in no <ip> of the network; give the address that the guest has there");
        };
        if self.definition.ips.iter().any(|ip| ip.address == address) {
            return Err("is the bridge's own address; give the guest's");
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
            return Err("is not an address that a guest can have");
        }
        Ok(())
    }
}

/// What the ranges of a forward say, each and together.
fn ranges(ranges: &[ForwardRange]) -> Rule {
    if ranges.len() > MAX_RANGES {
        return Err(format!(
            "holds {} ranges, {MAX_RANGES} at most",
            ranges.len()
        ));
    }
    for range in ranges {
        let ForwardRange {
            start,
            end,
            to,
            exclude,
        } = *range;
        if start == 0 || to == Some(0) {
            return Err("ports are from 1 to 65535".to_owned());
        }
        if end < start {
            return Err(format!("end='{end}' is before start='{start}'"));
        }
        if exclude && to.is_some() {
            return Err("to has no meaning beside exclude='yes'".to_owned());
        }
        if let Some(to) = to.filter(|to| to.checked_add(end - start).is_none()) {
            return Err(format!(
                "to='{to}' leads beyond port 65535 for {start} to {end}"
            ));
        }
    }
    let mut published: Vec<&ForwardRange> = ranges.iter().filter(|r| !r.exclude).collect();
    published.sort_by_key(|range| range.start);
    if let Some([a, b]) = published
        .windows(2)
        .filter_map(|pair| <[&ForwardRange; 2]>::try_from(pair).ok())
        .find(|[a, b]| a.overlaps(b))
    {
        return Err(format!("the ranges {a} and {b} overlap"));
    }
    for range in ranges.iter().filter(|range| range.exclude) {
        // Sorted and disjoint: of those that begin before it, the last one reaches furthest.
        let before = published.partition_point(|other| other.start <= range.start);
        let around = before.checked_sub(1).map(|last| published[last]);
        if !around.is_some_and(|other| other.holds(range)) {
            return Err(format!(
                "{range} is not within one of the ranges it is to leave out of"
            ));
        }
    }
    Ok(())
}

/// Can DHCP know a host by this name? Digits and dots alone are an address gone wrong.
fn is_host_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (1..=MAX_HOST).contains(&name.len())
        && name.chars().all(word)
        && !name.starts_with(['-', '.'])
        && name.contains(|c: char| c.is_ascii_alphabetic())
}
