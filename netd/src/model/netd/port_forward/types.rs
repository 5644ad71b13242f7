//! What a forward is, and which packets it is for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::element::Family;

/// What arrives for some ports of the host, and the guest that gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// `proto`.
    pub protocol: ForwardProtocol,
    /// `address`: the host's address that packets are sent to.
    pub address: Option<IpAddr>,
    /// `dev`: the host's device that packets are sent to, by any of its addresses. Without it and
    /// `address`, every address of the host that is not a loopback one.
    pub dev: Option<String>,
    /// `guest`.
    pub guest: ForwardGuest,
    /// `<netd:range>` elements; none are all ports.
    pub ranges: Vec<ForwardRange>,
}

/// `proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardProtocol {
    /// `tcp`.
    Tcp,
    /// `udp`.
    Udp,
    /// `sctp`.
    Sctp,
    /// `all`: everything that is sent to an address, ICMP included.
    All,
}

/// `guest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum ForwardGuest {
    /// An address in one of the network's subnets.
    Address(IpAddr),
    /// The name of a host that DHCP knows.
    Host(String),
}

/// `<netd:range>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRange {
    /// `start`: the first published port.
    pub start: u16,
    /// `end`: the last one; absent in the XML is `start`.
    pub end: u16,
    /// `to`: the guest's port for the first one; absent is `start`.
    pub to: Option<u16>,
    /// `exclude='yes'`: the ports are left out of the other ranges.
    pub exclude: bool,
}

/// Published ports `first` to `last`, which go to the guest's ports from `to` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first published port.
    pub first: u16,
    /// The last one.
    pub last: u16,
    /// The guest's port for the first one.
    pub to: u16,
}

/// Which packets a forward looks at, by what they are sent to. One for an address goes before one
/// for a device, and that before one for all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ForwardScope<'a> {
    /// One address.
    Address(IpAddr),
    /// The addresses of one device.
    Device(&'a str),
    /// Every address of the host.
    All,
}

/// Two forwards for one port, by their places in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The earlier one.
    pub first: usize,
    /// The later one.
    pub second: usize,
    /// The lowest port that both are for.
    pub port: u16,
}

/// The words of `proto`.
const PROTOCOLS: [(&str, ForwardProtocol); 4] = [
    ("tcp", ForwardProtocol::Tcp),
    ("udp", ForwardProtocol::Udp),
    ("sctp", ForwardProtocol::Sctp),
    ("all", ForwardProtocol::All),
];

/// The word is none of `proto`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("should be tcp, udp, sctp or all")]
pub struct ProtocolError;

impl ForwardProtocol {
    /// The number of the protocol in IP headers; 0 for all of them.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::All => 0,
        }
    }
}

impl FromStr for ForwardProtocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        let found = PROTOCOLS.iter().find(|(word, _)| *word == text);
        found.map(|(_, protocol)| *protocol).ok_or(ProtocolError)
    }
}

impl fmt::Display for ForwardProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = PROTOCOLS.iter().find(|(_, protocol)| protocol == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

impl From<String> for ForwardGuest {
    fn from(text: String) -> Self {
        text.parse().map_or(Self::Host(text), Self::Address)
    }
}

impl From<ForwardGuest> for String {
    fn from(guest: ForwardGuest) -> Self {
        guest.to_string()
    }
}

impl fmt::Display for ForwardGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(name) => f.write_str(name),
        }
    }
}

/// `8080` or `8080-8090`.
impl fmt::Display for ForwardRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.start == self.end {
            return write!(f, "{}", self.start);
        }
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl ForwardRange {
    /// The guest's port for `start`.
    #[must_use]
    pub fn target(&self) -> u16 {
        self.to.unwrap_or(self.start)
    }

    /// Published ports from `first` to the one before `end`; nothing when there are none.
    fn piece(&self, first: u32, end: u32) -> Option<Span> {
        let last = end.checked_sub(1).filter(|last| first <= *last)?;
        let (first, last) = (u16::try_from(first).ok()?, u16::try_from(last).ok()?);
        Some(Span {
            first,
            last,
            // The sum was checked when the range was read.
            to: self.target().saturating_add(first - self.start),
        })
    }

    /// Is any port in both?
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Are all ports of the other in this one?
    pub(super) fn holds(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// The first ranges: a sentence is to stay one.
fn some_of(ranges: impl Iterator<Item = ForwardRange>) -> String {
    let mut words: Vec<String> = ranges.map(|range| range.to_string()).collect();
    if words.len() > 4 {
        words.truncate(4);
        words.push("…".to_owned());
    }
    words.join(",")
}

/// `tcp 203.0.113.5 8080-8090 to 192.168.122.10 port 80-90`: what is published, and for whom. The
/// guest's ports are named where one is another than the published one.
impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protocol)?;
        match self.scope() {
            ForwardScope::Address(address) => write!(f, " {address}")?,
            ForwardScope::Device(dev) => write!(f, " {}", dev.escape_debug())?,
            ForwardScope::All => {}
        }
        let included = || self.ranges.iter().filter(|range| !range.exclude).copied();
        if included().next().is_some() {
            write!(f, " {}", some_of(included()))?;
        }
        write!(f, " to {}", self.guest)?;
        if included().any(|range| range.target() != range.start) {
            let targets = included().map(|range| ForwardRange {
                start: range.target(),
                // The sum was checked when the range was read.
                end: range
                    .target()
                    .saturating_add(range.end.saturating_sub(range.start)),
                to: None,
                exclude: false,
            });
            write!(f, " port {}", some_of(targets))?;
        }
        Ok(())
    }
}

impl PortForward {
    /// Which packets it looks at.
    #[must_use]
    pub fn scope(&self) -> ForwardScope<'_> {
        match (self.address, &self.dev) {
            (Some(address), _) => ForwardScope::Address(address),
            (None, Some(dev)) => ForwardScope::Device(dev),
            (None, None) => ForwardScope::All,
        }
    }

    /// Can packets of this family be for it? A guest that goes by a name may have addresses of
    /// both.
    #[must_use]
    pub fn may_have(&self, family: Family) -> bool {
        let guest = match self.guest {
            ForwardGuest::Address(address) => Some(address),
            ForwardGuest::Host(_) => None,
        };
        guest
            .or(self.address)
            .is_none_or(|address| Family::of(address) == family)
    }

    /// The published ports in ascending order, none twice, without those that are left out. All
    /// ports are one span from 0 to 65535 that goes to 0.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        if self.ranges.is_empty() {
            return vec![Span {
                first: 0,
                last: u16::MAX,
                to: 0,
            }];
        }
        let sorted = |exclude: bool| {
            let ranges = self.ranges.iter().filter(|range| range.exclude == exclude);
            let mut ranges: Vec<ForwardRange> = ranges.copied().collect();
            ranges.sort_by_key(|range| range.start);
            ranges
        };
        let excluded = sorted(true);
        let mut spans = Vec::new();
        for range in sorted(false) {
            let end = u32::from(range.end) + 1;
            let mut first = u32::from(range.start);
            for hole in &excluded {
                spans.extend(range.piece(first, end.min(hole.start.into())));
                first = first.max(u32::from(hole.end) + 1);
            }
            spans.extend(range.piece(first, end));
        }
        spans
    }
}

/// The lowest port for which two of the forwards have the same protocol, scope and family.
#[must_use]
pub fn find_clash<'a>(forwards: impl IntoIterator<Item = &'a PortForward>) -> Option<Clash> {
    let mut published: BTreeMap<_, Vec<(Span, usize)>> = BTreeMap::new();
    for (number, forward) in forwards.into_iter().enumerate() {
        let spans = forward.spans();
        for family in [Family::Ipv4, Family::Ipv6] {
            if forward.may_have(family) {
                let key = (forward.protocol, forward.scope(), family);
                let spans = spans.iter().map(|span| (*span, number));
                published.entry(key).or_default().extend(spans);
            }
        }
    }
    let clashes = published.into_values().filter_map(|mut spans| {
        spans.sort_by_key(|(span, number)| (span.first, *number));
        // In this order the first overlap is one of neighbours.
        spans.windows(2).find_map(|pair| match pair {
            [(a, first), (b, second)] if b.first <= a.last => Some(Clash {
                first: *first.min(second),
                second: *first.max(second),
                port: b.first,
            }),
            _ => None,
        })
    });
    clashes.min_by_key(|clash| (clash.second, clash.port))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{forward, range};
    use super::*;

    #[test]
    fn a_forward_is_told_with_the_ports_of_its_guest() {
        let told = |ranges: &[ForwardRange]| forward("10.0.0.5", ranges).to_string();
        let (web, hole) = (
            range(8080, 8090, Some(80), false),
            range(8085, 8085, None, true),
        );
        assert_eq!(told(&[range(22, 22, None, false)]), "tcp 22 to 10.0.0.5");
        assert_eq!(
            told(&[range(2222, 2222, Some(22), false)]),
            "tcp 2222 to 10.0.0.5 port 22"
        );
        assert_eq!(
            told(&[web, hole, range(53, 53, None, false)]),
            "tcp 8080-8090,53 to 10.0.0.5 port 80-90,53"
        );
        let many: Vec<_> = (1..9)
            .map(|port| range(port, port, Some(port + 100), false))
            .collect();
        assert_eq!(
            told(&many),
            "tcp 1,2,3,4,… to 10.0.0.5 port 101,102,103,104,…"
        );
        let all = PortForward {
            protocol: ForwardProtocol::All,
            address: Some([203, 0, 113, 5].into()),
            ..forward("web", &[])
        };
        assert_eq!(all.to_string(), "all 203.0.113.5 to web");
    }
}
