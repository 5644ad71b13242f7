//! `<netd:prefix>`: by which IPv6 prefix guests are known outside.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use netd_common::abi::{Addr6, PrefixPair};
use netd_common::prefix::MAX_LEN;
use roxmltree::Node;

use super::reader::{Reader, refusal};
use super::section::{Section, Surroundings};
use crate::model::element::{ForwardMode, Ip};
use crate::model::error::XmlError;
use crate::model::prefix::Prefix;
use crate::model::xml::{shown, write_attribute};

/// `<netd:prefix>`: the prefix that the addresses of guests have outside (NPTv6, RFC 6296).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPrefix {
    /// `outside`, an IPv6 prefix.
    outside: Prefix,
}

/// The shortest prefix that is translated: nobody is given more.
const MIN_LEN: u8 = 16;
/// Up to this length the number of the subnet changes, not that of the interface.
const KEEPS_INTERFACES: u8 = 48;

impl GuestPrefix {
    /// The prefix outside.
    #[must_use]
    pub fn outside(self) -> Prefix {
        self.outside
    }

    /// The prefix that the guests' own addresses have, of the same length; the error says why there is none.
    fn inside(self, ips: &[Ip]) -> Result<Prefix, String> {
        let len = self.outside.bits();
        let mut inside = BTreeSet::new();
        for ip in ips.iter().filter(|ip| is_translated(ip)) {
            let subnet = ip.prefix_len();
            let address = ip.address;
            if subnet < len {
                return Err(format!(
                    "{} is longer than the prefix of {address}/{subnet}, so not all guests would have an \
                     address outside",
                    self.outside
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
                "{first} and {second} of the network cannot both be {} outside",
                self.outside
            )),
            (Some(only), None) if only.overlaps(self.outside) => {
                Err(format!("{only} is the network's own prefix"))
            }
            (Some(only), None) => Ok(only),
        }
    }

    /// Both prefixes, in a network with these addresses; `None` where the definition's rules are broken.
    pub(in crate::model) fn pair(self, ips: &[Ip]) -> Option<PrefixPair<Addr6>> {
        let octets = |prefix: Prefix| match prefix.address() {
            IpAddr::V6(address) => Some(address.octets()),
            IpAddr::V4(_) => None,
        };
        let inside = octets(self.inside(ips).ok()?)?;
        Some(PrefixPair::new(
            inside,
            octets(self.outside)?,
            self.outside.bits(),
        ))
    }

    fn rules(self, definition: &Surroundings<'_>) -> Result<(), String> {
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
        self.inside(definition.ips).map(|_| ())
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
        reader.attributes(node, &["outside"])?;
        reader.childless(node)?;
        let Some(text) = node.attribute("outside") else {
            return Err(reader.refuse(node, "needs the attribute outside"));
        };
        let outside = read_outside(text).map_err(|wanted| {
            reader.refuse(
                node,
                format!("outside='{}' should be {wanted}", shown(text)),
            )
        })?;
        Ok(Self { outside })
    }

    fn write(&self, out: &mut String, _: usize) {
        out.push_str("<netd:prefix");
        write_attribute(out, "outside", &self.outside.to_string());
        out.push_str("/>");
    }

    fn check(&self, definition: &Surroundings<'_>) -> Result<(), XmlError> {
        self.rules(definition)
            .map_err(|detail| refusal(definition.name, Self::NAME, detail))
    }
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
    fn what_cannot_be_translated_is_refused() {
        let ula = || ip("fd01:203:405:1::1", 64);
        let nat6 = "<forward mode='nat'><nat ipv6='yes'/></forward>";
        let route = |prefix: &str, ips: &str| network(ROUTE, prefix, ips).unwrap_err();
        let mode = |mode: &str| network(mode, OUTSIDE, &ula()).unwrap_err();
        for (error, words) in [
            (route("", &ula()), "needs the attribute outside"),
            (
                route("inside='fd00::/48'", &ula()),
                "has no attribute 'inside'; it takes outside",
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
