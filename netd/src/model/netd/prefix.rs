//! `<netd:prefix>`: by which IPv6 prefix guests are known outside.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use netd_common::abi::{Addr6, PrefixPair};
use netd_common::prefix::MAX_LEN;
use roxmltree::Node;

use super::reader::{Reader, refusal};
use super::section::{Section, Surroundings};
use serde::{Deserialize, Serialize};

use crate::model::element::{Dhcp, Family, ForwardMode, Ip, IpMask};
use crate::model::error::XmlError;
use crate::model::prefix::Prefix;
use crate::model::xml::{shown, write_attribute};

/// `<netd:prefix>`: where the prefix that guests are known by outside comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestPrefix {
    /// `outside`: their own addresses are translated to it (NPTv6, RFC 6296).
    Translated(Prefix),
    /// `from`: an uplink is delegated it (RFC 8415), and it is theirs.
    Delegated(Delegated),
}

/// A prefix that a network is to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegated {
    /// The device by which it comes.
    pub from: String,
    /// The length that is asked for. The network has the first 64 bits.
    pub length: u8,
}

/// A prefix that a network was given while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenPrefix {
    /// The prefix.
    pub prefix: Prefix,
    /// It is good for new connections; else there is another one, or soon none.
    pub is_preferred: bool,
}

/// The subnet that a network has of such a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenSubnet {
    /// Of which.
    pub given: GivenPrefix,
    /// As a definition would say it.
    pub ip: Ip,
}

impl GivenPrefix {
    /// The first subnet of the prefix, in which the bridge has ::1.
    #[must_use]
    pub fn subnet(self) -> Option<GivenSubnet> {
        let IpAddr::V6(address) = self.prefix.address() else {
            return None;
        };
        let ip = Ip {
            address: IpAddr::V6(Ipv6Addr::from(u128::from(address) | 1)),
            family: Some(Family::Ipv6),
            mask: IpMask::Prefix(MAX_LEN),
            local_ptr: None,
            tftp_root: None,
            dhcp: Dhcp::default(),
        };
        Some(GivenSubnet { given: self, ip })
    }
}

/// The shortest prefix that is translated: nobody is given more.
const MIN_LEN: u8 = 16;
/// The shortest one that is asked for.
const MIN_ASKED: u8 = 48;
/// Up to this length the number of the subnet changes, not that of the interface.
const KEEPS_INTERFACES: u8 = 48;
/// The longest name of a device.
const MAX_NAME: usize = 15;

impl GuestPrefix {
    /// The prefix that addresses are translated to.
    #[must_use]
    pub fn outside(&self) -> Option<Prefix> {
        match self {
            Self::Translated(outside) => Some(*outside),
            Self::Delegated(_) => None,
        }
    }

    /// What an uplink is to be delegated.
    #[must_use]
    pub fn delegated(&self) -> Option<&Delegated> {
        match self {
            Self::Translated(_) => None,
            Self::Delegated(delegated) => Some(delegated),
        }
    }

    /// Both prefixes of a network with these addresses; `None` where nothing is translated, or the definition's
    /// rules are broken.
    pub(in crate::model) fn pair(&self, ips: &[Ip]) -> Option<PrefixPair<Addr6>> {
        let octets = |prefix: Prefix| match prefix.address() {
            IpAddr::V6(address) => Some(address.octets()),
            IpAddr::V4(_) => None,
        };
        let outside = self.outside()?;
        let own = octets(inside(outside, ips).ok()?)?;
        Some(PrefixPair::new(own, octets(outside)?, outside.bits()))
    }

    fn rules(&self, definition: &Surroundings<'_>) -> Result<(), String> {
        match definition.ipv6_mode {
            ForwardMode::Route => {}
            ForwardMode::Nat => {
                return Err(
                    "guests hide behind the host's address already (<nat ipv6='yes'>)".to_owned(),
                );
            }
            mode => {
                return Err(format!(
                    "stands only in mode='route' and 'nat', not '{mode}'"
                ));
            }
        }
        match self {
            Self::Translated(outside) => inside(*outside, definition.ips).map(|_| ()),
            Self::Delegated(_) => Ok(()),
        }
    }
}

/// The prefix that the guests' own addresses have, as long as the one outside; the error says why there is
/// none.
fn inside(outside: Prefix, ips: &[Ip]) -> Result<Prefix, String> {
    let len = outside.bits();
    let mut inside = BTreeSet::new();
    for ip in ips.iter().filter(|ip| is_translated(ip)) {
        let subnet = ip.prefix_len();
        let address = ip.address;
        if subnet < len {
            return Err(format!(
                "{outside} is longer than the prefix of {address}/{subnet}, so not all guests would have \
                 an address outside"
            ));
        }
        if len > KEEPS_INTERFACES && subnet > MAX_LEN {
            return Err(format!(
                "{address}/{subnet} leaves no room for what makes good the checksums: its prefix may \
                 have {MAX_LEN} bits where the one outside has more than {KEEPS_INTERFACES}"
            ));
        }
        inside.extend(Prefix::new(address, len));
    }
    let mut inside = inside.into_iter();
    match (inside.next(), inside.next()) {
        (None, _) => Err("needs an <ip family='ipv6'> in the network".to_owned()),
        (Some(first), Some(second)) => Err(format!(
            "{first} and {second} of the network cannot both be {outside} outside"
        )),
        (Some(only), None) if only.overlaps(outside) => {
            Err(format!("{only} is the network's own prefix"))
        }
        (Some(only), None) => Ok(only),
    }
}

/// Does the address mean something beyond its link, to hosts of IPv6?
fn is_translated(ip: &Ip) -> bool {
    matches!(ip.address, IpAddr::V6(address) if !address.is_unicast_link_local())
}

fn is_usable(address: Ipv6Addr) -> bool {
    !(address.is_multicast()
        || address.is_unicast_link_local()
        || address.is_unspecified()
        || address.segments()[0] == 0)
}

/// The value of `outside`; the error is what it should be.
fn read_outside(text: &str) -> Result<Prefix, String> {
    let wanted = || {
        format!(
            "an IPv6 prefix of {MIN_LEN} to {MAX_LEN} bits, 2001:db8:1::/48 say, with zeros behind them"
        )
    };
    let prefix: Prefix = text.parse().map_err(|_| wanted())?;
    let (IpAddr::V6(address), Some((given, _))) = (prefix.address(), text.split_once('/')) else {
        return Err(wanted());
    };
    let fits = (MIN_LEN..=MAX_LEN).contains(&prefix.bits());
    // What stands behind the prefix was meant to say something.
    if !fits || given.parse() != Ok(address) || !is_usable(address) {
        return Err(wanted());
    }
    Ok(prefix)
}

impl Section for GuestPrefix {
    const NAME: &'static str = "prefix";

    fn read(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<Self, XmlError> {
        reader.attributes(node, &["outside", "from", "length"])?;
        reader.childless(node)?;
        let bad = |name: &str, text: &str, wanted: String| {
            let text = shown(text);
            reader.refuse(node, format!("{name}='{text}' should be {wanted}"))
        };
        let length = node.attribute("length");
        match (node.attribute("outside"), node.attribute("from")) {
            (Some(text), None) if length.is_none() => {
                let outside = read_outside(text).map_err(|wanted| bad("outside", text, wanted))?;
                Ok(Self::Translated(outside))
            }
            (None, Some(from)) => {
                if !is_device(from) {
                    return Err(bad("from", from, "the name of a device".to_owned()));
                }
                let length = match length {
                    None => MAX_LEN,
                    Some(text) => read_length(text).ok_or_else(|| {
                        bad(
                            "length",
                            text,
                            format!("a number from {MIN_ASKED} to {MAX_LEN}"),
                        )
                    })?,
                };
                let from = from.to_owned();
                Ok(Self::Delegated(Delegated { from, length }))
            }
            (None, None) => Err(reader.refuse(node, "needs the attribute outside, or from")),
            _ => Err(reader.refuse(node, "has outside alone, or from and length")),
        }
    }

    fn write(&self, out: &mut String, _: usize) {
        out.push_str("<netd:prefix");
        match self {
            Self::Translated(outside) => write_attribute(out, "outside", &outside.to_string()),
            Self::Delegated(Delegated { from, length }) => {
                write_attribute(out, "from", from);
                write_attribute(out, "length", &length.to_string());
            }
        }
        out.push_str("/>");
    }

    fn check(&self, definition: &Surroundings<'_>) -> Result<(), XmlError> {
        self.rules(definition)
            .map_err(|detail| refusal(definition.name, Self::NAME, detail))
    }
}

fn read_length(text: &str) -> Option<u8> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let length = text.parse().ok().filter(|_| digits)?;
    (MIN_ASKED..=MAX_LEN).contains(&length).then_some(length)
}

/// Can a device have this name?
fn is_device(name: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    !name.is_empty() && name.len() <= MAX_NAME && !matches!(name, "." | "..") && !name.contains(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FormatOptions, Network, check_define, format, parse};

    /// A network in this mode with these addresses.
    fn network(mode: &str, prefix: &str, ips: &str) -> Result<Network, XmlError> {
        let network = parse(&format!(
            "<network><name>net</name><metadata><n:network xmlns:n='urn:netd:network:1'>\
             <n:prefix {prefix}/></n:network></metadata>{mode}{ips}</network>"
        ))?;
        check_define(&network)?;
        Ok(network)
    }

    fn ip(address: &str, prefix: u8) -> String {
        format!("<ip family='ipv6' address='{address}' prefix='{prefix}'/>")
    }

    const ROUTE: &str = "<forward mode='route'/>";
    const OUTSIDE: &str = "outside='2001:db8:1::/48'";

    #[test]
    fn the_inside_prefix_is_the_networks_at_the_same_length() {
        let v4 = "<ip address='10.0.0.1' prefix='24'/>".to_owned();
        let two = ip("fd01:203:405:1::1", 64) + &ip("fd01:203:405:2::1", 64);
        for (mode, ips) in [
            (ROUTE, ip("fd01:203:405:1::1", 64)),
            (ROUTE, ip("fd01:203:405::1", 48)),
            (ROUTE, ip("fd01:203:405:1::1", 80)),
            (ROUTE, two.clone()),
            ("<forward mode='nat'/>", v4 + &two),
            (ROUTE, ip("fe80::1", 64) + &two),
        ] {
            let network = network(mode, OUTSIDE, &ips).unwrap();
            let pair = network.prefix_pair().unwrap();
            let inside: Ipv6Addr = "fd01:203:405::".parse().unwrap();
            let outside: Ipv6Addr = "2001:db8:1::".parse().unwrap();
            assert_eq!(pair, PrefixPair::new(inside.octets(), outside.octets(), 48));
            let text = format(&network, FormatOptions::default());
            assert_eq!(parse(&text).unwrap(), network);
            let mut network = network;
            network.set_forwards(Vec::new()).unwrap();
            let text = format(&network, FormatOptions::default());
            assert!(
                text.contains("<netd:prefix outside=\"2001:db8:1::/48\"/>"),
                "{text}"
            );
        }
        assert_eq!(
            parse("<network><name>n</name></network>")
                .unwrap()
                .prefix_pair(),
            None
        );
    }

    #[test]
    fn a_delegated_prefix_is_a_subnet_of_the_network() {
        let v4 = "<ip address='10.0.0.1' prefix='24'/>";
        let mut network = network(ROUTE, "from='eth0' length='56'", v4).unwrap();
        let delegated = network
            .netd
            .prefix
            .as_ref()
            .and_then(GuestPrefix::delegated);
        let wanted = Delegated {
            from: "eth0".to_owned(),
            length: 56,
        };
        assert_eq!(delegated, Some(&wanted));
        let text = format(&network, FormatOptions::default());
        assert_eq!(parse(&text).unwrap(), network);
        assert_eq!(network.ipv6_subnets().count(), 0);
        let given = GivenPrefix {
            prefix: "2001:db8:5:aa00::/56".parse().unwrap(),
            is_preferred: true,
        };
        network.given = given.subnet().into_iter().collect();
        let subnets: Vec<_> = network.ipv6_subnets().collect();
        assert_eq!(subnets, [("2001:db8:5:aa00::1".parse().unwrap(), 64)]);
        // It is no part of the definition.
        assert_eq!(format(&network, FormatOptions::default()), text);
        assert_eq!(network.prefix_pair(), None);
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused() {
        for (prefix, words) in [
            (
                "outside='2001:db8:1::/48' from='eth0'",
                "has outside alone, or from and length",
            ),
            ("length='64'", "needs the attribute outside, or from"),
            ("from='eth0/1'", "should be the name of a device"),
            ("from=''", "should be the name of a device"),
            ("from='eth0' length='65'", "a number from 48 to 64"),
            ("from='eth0' length='+60'", "length='+60'"),
        ] {
            let error = network(ROUTE, prefix, &ip("fd01::1", 64)).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_translated_is_refused() {
        let ula = || ip("fd01:203:405:1::1", 64);
        let nat6 = "<forward mode='nat'><nat ipv6='yes'/></forward>";
        let route = |prefix: &str, ips: &str| network(ROUTE, prefix, ips).unwrap_err();
        let mode = |mode: &str| network(mode, OUTSIDE, &ula()).unwrap_err();
        for (error, words) in [
            (route("", &ula()), "needs the attribute outside, or from"),
            (
                route("inside='fd00::/48'", &ula()),
                "has no attribute 'inside'; it takes outside, from and length",
            ),
            (mode(nat6), "<nat ipv6='yes'>"),
            (
                mode(""),
                "stands only in mode='route' and 'nat', not 'none'",
            ),
            (mode("<forward mode='open'/>"), "not 'open'"),
            (
                route(OUTSIDE, "<ip address='10.0.0.1' prefix='24'/>"),
                "needs an <ip family='ipv6'>",
            ),
            (
                route(OUTSIDE, &ip("fe80::1", 64)),
                "needs an <ip family='ipv6'>",
            ),
            (
                route(OUTSIDE, &(ula() + &ip("fd02::1", 64))),
                "fd01:203:405::/48 and fd02::/48 of the network cannot both be 2001:db8:1::/48",
            ),
            (
                route("outside='2001:db8:1:2::/64'", &ip("fd01::1", 60)),
                "is longer than the prefix of fd01::1/60",
            ),
            (
                route("outside='2001:db8:1:2::/64'", &ip("fd01::1", 80)),
                "leaves no room",
            ),
            (
                route("outside='fd01:203:405::/48'", &ula()),
                "fd01:203:405::/48 is the network's own prefix",
            ),
        ] {
            let error = error.to_string();
            assert!(
                error.contains("network 'net', <netd:prefix> in <metadata>: "),
                "{error}"
            );
            assert!(error.contains(words), "{error}");
        }
        for outside in [
            "",
            "2001:db8:1::",
            "2001:db8:1::/15",
            "2001:db8:1::/65",
            "2001:db8:1::1/48",
            "2001:db8:1:1::/48",
            "203.0.113.0/24",
            "::ffff:203.0.113.0/120",
            "fe80::/64",
            "ff05::/48",
            "::/48",
            "2001:db8:1::/+48",
            "eth0",
        ] {
            let error = route(&format!("outside='{outside}'"), &ula()).to_string();
            assert!(
                error.contains("should be an IPv6 prefix of 16 to 64 bits"),
                "{error}"
            );
        }
    }
}
