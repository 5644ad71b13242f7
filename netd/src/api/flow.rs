//! Connections as clients see and end them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use netd_common::proto;
use netd_common::state::State;
use serde::{Deserialize, Serialize};

use crate::model::Prefix;

/// Most addresses in a [`FlowFilter`].
pub const FILTER_GUESTS: usize = 4096;

/// Most addresses in [`FlowNames`].
pub const MAX_GUEST_ADDRESSES: usize = 131_072;

/// One connection: what its two directions are, and how it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// Its state.
    pub state: State,
    /// Seconds since its last packet.
    pub idle: u32,
    /// Seconds until it ends if it stays silent.
    pub expires: u32,
    /// What its opener sends.
    pub sent: Direction,
    /// What comes back.
    pub received: Direction,
}

/// One direction of a [`Flow`], as its packets arrive. What the other one's are turned round is how
/// they go on: where that differs they are translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Source address and port; for ICMP one of the ports is the identifier, for protocols without
    /// ports both are 0. Port and address of a peer who may be anybody are 0 as well.
    pub source: SocketAddr,
    /// Destination likewise.
    pub destination: SocketAddr,
    /// Bridge (ifindex) of the network whose guest sends it; 0 for others.
    pub bridge: u32,
    /// Device (ifindex) that it leaves by; 0 where the host's stack routes it.
    pub way_out: u32,
    /// The host's stack carries it.
    pub by_stack: bool,
    /// Packets so far.
    pub packets: u64,
    /// Their bytes, link-layer header included.
    pub bytes: u64,
}

impl Flow {
    /// Whom its opener's packets seem to come from, to who gets them.
    #[must_use]
    pub fn translated_source(&self) -> Option<SocketAddr> {
        let seen = self.received.destination;
        (seen != self.sent.source).then_some(seen)
    }

    /// Who gets its opener's packets, where that is not whom these were sent to.
    #[must_use]
    pub fn translated_destination(&self) -> Option<SocketAddr> {
        let reached = self.received.source;
        (reached != self.sent.destination).then_some(reached)
    }

    /// The state in the words of netfilter, which are those of `[timeouts]` in netd.toml, too.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match (self.protocol, self.state) {
            (proto::TCP, State::New) => "syn_sent",
            (proto::TCP, State::Answered) => "syn_recv",
            (_, State::New) => "new",
            (_, State::Answered) => "answered",
            (_, State::Established) => "established",
            (proto::TCP, State::FinWait) => "fin_wait",
            (_, State::FinWait) => "closing",
            (_, State::CloseWait) => "close_wait",
            (_, State::LastAck) => "last_ack",
            (_, State::TimeWait) => "time_wait",
            (_, State::Close) => "close",
        }
    }
}

/// One of the two entries that a connection has in the flow table. [`FlowJoin`] puts them together: they
/// lie far apart there, and whoever lists a million connections had better not look each up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowHalf {
    /// IP protocol number.
    pub protocol: u8,
    /// Its state.
    pub state: State,
    /// It is what comes back to the connection's opener.
    pub answers: bool,
    /// Seconds since its last packet.
    pub idle: u32,
    /// Seconds that the connection may be silent for.
    pub timeout: u32,
    /// Its packets, as they arrive.
    pub packets: Direction,
    /// Their source when they go on.
    pub new_source: SocketAddr,
    /// Their destination then.
    pub new_destination: SocketAddr,
    /// The host's stack carries what comes from outside in answer, because of somebody's filters there.
    pub is_filtered: bool,
}

/// Protocol, source and destination in so many bytes: 13 of IPv4, 37 of IPv6.
type Key<const N: usize> = [u8; N];

/// Halves that wait for their other half. At most half of all connections wait at a time; of a million of IPv4
/// that takes some 100 MB.
#[derive(Debug, Default)]
pub struct FlowJoin {
    v4: HashMap<Key<13>, Waiting<13>>,
    v6: HashMap<Key<37>, Waiting<37>>,
}

/// A [`FlowHalf`] that waits, but for what it is found by.
#[derive(Debug)]
struct Waiting<const N: usize> {
    /// What its other half is found by.
    other: Key<N>,
    idle: u32,
    timeout: u32,
    bridge: u32,
    way_out: u32,
    packets: u64,
    bytes: u64,
    state: State,
    answers: bool,
    by_stack: bool,
    is_filtered: bool,
}

impl FlowJoin {
    /// One more half: the connection, where that is whole now and not over.
    pub fn add(&mut self, half: FlowHalf) -> Option<Flow> {
        let other = if half.packets.source.is_ipv4() {
            put_or_take(&mut self.v4, &half)
        } else {
            put_or_take(&mut self.v6, &half)
        };
        let other = other?;
        let (opener, answer) = if half.answers {
            (other, half)
        } else {
            (half, other)
        };
        let idle = opener.idle.min(answer.idle);
        let timeout = opener.timeout;
        let mut received = answer.packets;
        received.by_stack |= received.bridge == 0 && opener.is_filtered;
        let mut sent = opener.packets;
        sent.by_stack |= sent.bridge == 0 && answer.is_filtered;
        (idle <= timeout && !opener.answers && answer.answers).then(|| Flow {
            protocol: opener.protocol,
            state: opener.state,
            idle,
            expires: timeout - idle,
            sent,
            received,
        })
    }
}

/// The other half, where it waits; else this one does from now on.
fn put_or_take<const N: usize>(
    waiting: &mut HashMap<Key<N>, Waiting<N>>,
    half: &FlowHalf,
) -> Option<FlowHalf> {
    let own = key(half.protocol, half.packets.source, half.packets.destination);
    let other = key(half.protocol, half.new_destination, half.new_source);
    // One that leads elsewhere is what is left of another connection.
    if let Entry::Occupied(found) = waiting.entry(other)
        && found.get().other == own
    {
        let found = found.remove();
        return Some(FlowHalf {
            protocol: half.protocol,
            state: found.state,
            answers: found.answers,
            idle: found.idle,
            timeout: found.timeout,
            packets: Direction {
                source: half.new_destination,
                destination: half.new_source,
                bridge: found.bridge,
                way_out: found.way_out,
                by_stack: found.by_stack,
                packets: found.packets,
                bytes: found.bytes,
            },
            new_source: half.packets.destination,
            new_destination: half.packets.source,
            is_filtered: found.is_filtered,
        });
    }
    let Direction {
        bridge,
        way_out,
        by_stack,
        packets,
        bytes,
        ..
    } = half.packets;
    let waits = Waiting {
        other,
        idle: half.idle,
        timeout: half.timeout,
        bridge,
        way_out,
        packets,
        bytes,
        state: half.state,
        answers: half.answers,
        by_stack,
        is_filtered: half.is_filtered,
    };
    waiting.insert(own, waits);
    None
}

/// Both ends are of the family that has so many bytes; what does not fit is left out.
fn key<const N: usize>(protocol: u8, source: SocketAddr, destination: SocketAddr) -> Key<N> {
    let mut key = [0; N];
    let mut rest = key.as_mut_slice();
    let mut put = |bytes: &[u8]| {
        let length = bytes.len().min(rest.len());
        let (here, behind) = std::mem::take(&mut rest).split_at_mut(length);
        here.copy_from_slice(&bytes[..length]);
        rest = behind;
    };
    put(&[protocol]);
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(address) => put(&address.octets()),
            IpAddr::V6(address) => put(&address.octets()),
        }
        put(&end.port().to_be_bytes());
    }
    key
}

/// Some of the entries that there are, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowPiece {
    /// The entries; of which connections both are among all pieces.
    pub halves: Vec<FlowHalf>,
    /// What to ask for next; 0 when these were the last ones.
    pub next: u64,
}

/// Which connections are meant: those that are all of this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowFilter {
    /// A guest of this network is at one end.
    pub network: Option<String>,
    /// A guest with one of these addresses is at one end; none for any. At most [`FILTER_GUESTS`].
    pub guests: Vec<IpAddr>,
    /// This IP protocol.
    pub protocol: Option<u8>,
    /// This port is at one end, before or after translation.
    pub port: Option<u16>,
    /// An address in this prefix is at one end, before or after translation.
    pub address: Option<Prefix>,
}

impl FlowFilter {
    /// Are all connections meant?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which connections are to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowKill {
    /// Those that are meant; a filter that means all is refused.
    Matching(FlowFilter),
    /// Every one.
    All,
}

/// Names for what is a number in [`Flow`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowNames {
    /// Active networks by the number of their bridge.
    pub networks: BTreeMap<u32, String>,
    /// The host's devices by number.
    pub devices: BTreeMap<u32, String>,
    /// Guests' addresses.
    pub guests: Vec<GuestAddress>,
}

/// An address of a guest's, and what is known of who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestAddress {
    /// The address.
    pub address: IpAddr,
    /// Bridge (ifindex) of its network.
    pub bridge: u32,
    /// The guest's MAC address.
    pub mac: Option<String>,
    /// The name that its lease has, or its entry in the network's definition.
    pub hostname: Option<String>,
    /// The name of the domain whose interface has that MAC address.
    pub domain: Option<String>,
    /// The end of its lease in seconds since the epoch, 0 for never; none without a lease.
    pub lease: Option<i64>,
    /// Port (ifindex) at which netd last saw the address, or the bridge where the port is not known;
    /// none where it never did.
    pub seen_at: Option<u32>,
    /// Seconds since then.
    pub seen: Option<u32>,
}

impl GuestAddress {
    /// The guest's name: its domain's, else its host name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.domain.as_deref().or(self.hostname.as_deref())
    }
}

/// An IP protocol by name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

/// Those that have names here.
const PROTOCOLS: [(&str, u8); 9] = [
    ("tcp", proto::TCP),
    ("udp", proto::UDP),
    ("icmp", proto::ICMP),
    ("icmpv6", proto::ICMPV6),
    ("sctp", proto::SCTP),
    ("gre", proto::GRE),
    ("esp", 50),
    ("dccp", proto::DCCP),
    ("udplite", proto::UDP_LITE),
];

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "ip {}", self.0),
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = PROTOCOLS.iter().find(|(name, _)| *name == text);
        let number = text.strip_prefix("ip ").unwrap_or(text).parse().ok();
        let number = named.map(|(_, number)| *number).or(number);
        number.map(Self).ok_or_else(|| {
            let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
            format!("no such protocol; write {} or a number", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_come_back() {
        for number in 0..=255 {
            let text = Protocol(number).to_string();
            assert_eq!(text.parse(), Ok(Protocol(number)), "{text}");
            assert_eq!(number.to_string().parse(), Ok(Protocol(number)));
        }
        assert_eq!(Protocol(47).to_string(), "gre");
        assert_eq!(Protocol(2).to_string(), "ip 2");
        for text in ["", "TCP", "256", "-1", "ip", "tcp6"] {
            text.parse::<Protocol>().unwrap_err();
        }
    }

    fn halves() -> (FlowHalf, FlowHalf) {
        let at = |text: &str| text.parse().unwrap();
        let half = |ends: [&str; 4], answers| FlowHalf {
            protocol: proto::UDP,
            state: State::Established,
            answers,
            idle: if answers { 3 } else { 7 },
            timeout: 120,
            packets: Direction {
                source: at(ends[0]),
                destination: at(ends[1]),
                bridge: if answers { 0 } else { 5 },
                way_out: 2,
                by_stack: false,
                packets: 1,
                bytes: 100,
            },
            new_source: at(ends[2]),
            new_destination: at(ends[3]),
            is_filtered: false,
        };
        let (guest, peer, host) = ("10.0.0.2:5000", "192.0.2.1:53", "198.51.100.2:1024");
        (
            half([guest, peer, host, peer], false),
            half([peer, host, peer, guest], true),
        )
    }

    #[test]
    fn halves_find_each_other_in_either_order() {
        let (opener, answer) = halves();
        for (first, second) in [(&opener, &answer), (&answer, &opener)] {
            let mut join = FlowJoin::default();
            assert_eq!(join.add(first.clone()), None);
            let flow = join.add(second.clone()).unwrap();
            assert_eq!(
                (&flow.sent, &flow.received),
                (&opener.packets, &answer.packets)
            );
            assert_eq!((flow.idle, flow.expires), (3, 117));
            assert_eq!(
                flow.translated_source(),
                Some("198.51.100.2:1024".parse().unwrap())
            );
            assert_eq!(flow.translated_destination(), None);
            assert!(join.v4.is_empty());
        }
    }

    #[test]
    fn what_is_over_or_has_no_other_half_is_no_connection() {
        let (mut opener, mut answer) = halves();
        let mut join = FlowJoin::default();
        (opener.idle, answer.idle) = (121, 121);
        assert_eq!(join.add(opener.clone()), None);
        assert_eq!(join.add(answer.clone()), None);
        (opener.idle, answer.idle) = (121, 120);
        join.add(opener.clone());
        assert_eq!(join.add(answer.clone()).map(|flow| flow.expires), Some(0));
        // Somebody else has the port by now: the one leads to the other, and that elsewhere.
        let other = FlowHalf {
            new_destination: "10.0.0.3:5000".parse().unwrap(),
            ..answer
        };
        for (first, second) in [(&opener, &other), (&other, &opener)] {
            let mut join = FlowJoin::default();
            join.add(first.clone());
            assert_eq!(join.add(second.clone()), None);
        }
    }

    #[test]
    fn what_comes_by_a_device_with_filters_takes_the_stack() {
        let (opener, answer) = halves();
        let mut join = FlowJoin::default();
        join.add(FlowHalf {
            is_filtered: true,
            ..opener
        });
        let flow = join.add(answer).unwrap();
        assert_eq!((flow.sent.by_stack, flow.received.by_stack), (false, true));
    }

    #[test]
    fn a_filter_that_names_nothing_means_all() {
        assert!(FlowFilter::default().is_empty());
        let read: FlowFilter = serde_json::from_str("{}").unwrap();
        assert!(read.is_empty());
        let port = FlowFilter {
            port: Some(0),
            ..FlowFilter::default()
        };
        assert!(!port.is_empty());
    }
}
