//! The differences that are meant: each with its reason.

use super::arrival::{Arrival, Origin};
use super::cast::{self, CAST, Family, Place, UPLINK_MTU};
use super::compare::{Difference, UNSEEN};
use super::header::Header;
use super::step::{Body, Cut, Oddity, Options, tcp};

/// A deliberate difference.
#[derive(Debug)]
pub struct Known {
    /// Name, for the summary.
    pub name: &'static str,
    /// Why it is so.
    pub why: &'static str,
    /// Does the conversation go on the same on both sides?
    pub goes_on: bool,
    applies: fn(&Difference) -> bool,
}

/// All of them.
pub const KNOWN: &[Known] = &[
    Known {
        name: "private source leaks, netd translates",
        why: "what conntrack calls invalid leaves a NAT network under libvirt's rules with the \
              guest's own address",
        goes_on: true,
        applies: |difference| {
            kernel_leaks(difference)
                && matches!(
                    (difference.kernel, difference.netd),
                    ([leak], [one]) if !leaks(one) && is_same_but_translated(leak, one)
                )
        },
    },
    Known {
        name: "private source leaks, netd drops",
        why: "the same of a packet that netd drops by name, as it belongs to nothing it knows",
        goes_on: true,
        applies: |difference| kernel_leaks(difference) && difference.netd.is_empty(),
    },
    Known {
        name: "host gets the guest's answer, netd passes it on",
        why: "what conntrack calls invalid is not translated back under libvirt's rules, so the \
              host itself gets it, and may reset the connection",
        goes_on: true,
        applies: |difference| {
            kernel_keeps(difference)
                && matches!(difference.netd, [one] if one.origin == Origin::Sender)
        },
    },
    Known {
        name: "host resets the guest's connection, netd drops",
        why: "the same of a packet that netd drops by name",
        goes_on: true,
        applies: |difference| {
            kernel_keeps(difference) && !difference.kernel.is_empty() && difference.netd.is_empty()
        },
    },
    Known {
        name: "refusal despite checksum",
        why: "the kernel's REJECT verifies the transport checksum before it answers, and takes \
              protocols it does not know for such as have one over everything; netd's does not \
              look at the payload of what it refuses",
        goes_on: false,
        applies: |difference| {
            let unknown = matches!(difference.step.body, Body::Other { protocol: 253, .. });
            (unknown || difference.step.oddity == Some(Oddity::Checksum))
                && difference.kernel.is_empty()
                && is_refusal(difference.netd)
        },
    },
    Known {
        name: "refusal before TTL",
        why: "netd asks the policy first and refuses what the kernel lets die of its TTL",
        goes_on: false,
        applies: |difference| {
            difference.step.twist.ttl == 1
                && matches!(difference.kernel, [one] if is_too_old(one))
                && is_refusal(difference.netd)
        },
    },
    Known {
        name: "no refusal with options",
        why: "netd refuses packets with IP options or extension headers in silence",
        goes_on: false,
        applies: |difference| {
            difference.step.twist.options != Options::None
                && is_refusal(difference.kernel)
                && difference.netd.is_empty()
        },
    },
    Known {
        name: "no refusal of fragments",
        why: "netd refuses fragments in silence, where the kernel puts them together first and \
              answers about the whole",
        goes_on: false,
        applies: |difference| {
            difference.step.twist.cut != Cut::Whole
                && is_refusal(difference.kernel)
                && difference.netd.is_empty()
        },
    },
    Known {
        name: "fragments before their first are dropped",
        why: "the kernel puts fragments together in whatever order they come; netd translates \
              each one as it comes, and drops by name (frag_without_first) what comes before the first \
              one, which alone has ports",
        goes_on: true,
        applies: |difference| {
            matches!(difference.step.twist.cut, Cut::Reversed(_))
                && passed_whole(difference.kernel)
                && matches!(difference.netd, [one] if is_first_fragment(one))
        },
    },
    Known {
        name: "a TCP header in two fragments is dropped",
        why: "netd does not translate a TCP header that is not in one fragment, which nobody \
              sends who does not want to get past a filter (RFC 1858, RFC 7112); the kernel puts \
              it together in IPv4, and in IPv6 lets the first fragment out with the guest's own \
              address",
        goes_on: true,
        applies: |difference| {
            splits_tcp_header(difference)
                && (passed_whole(difference.kernel)
                    || matches!(difference.kernel, [one] if is_first_fragment(one)))
                && difference.netd.is_empty()
        },
    },
    Known {
        name: "a TCP header in two fragments is routed",
        why: "the same where nothing is translated: netd routes fragments as they are, the kernel \
              drops all but the first in IPv6",
        goes_on: true,
        applies: |difference| {
            splits_tcp_header(difference)
                && matches!(difference.kernel, [one] if is_first_fragment(one))
                && passed_whole(difference.netd)
        },
    },
    Known {
        name: "the second guest of a protocol without ports is told",
        why: "both translate such a protocol for one guest per peer; the kernel drops what \
              another guest sends without a word, netd answers that it is prohibited",
        goes_on: false,
        applies: |difference| {
            matches!(difference.step.body, Body::Other { .. })
                && difference.sender.place == Place::Nat
                && difference.kernel.is_empty()
                && matches!(difference.netd, [one] if is_prohibition(one))
        },
    },
    Known {
        name: "what the host was sent takes no protocol",
        why: "connection tracking keeps a protocol without ports for the host after a single \
              packet to it; netd gives it to the guest that uses it, unless the host has sent \
              something itself",
        goes_on: false,
        applies: |difference| {
            let passed = matches!(difference.netd, [one] if one.origin == Origin::Sender);
            let guests = difference.sender.place == Place::Nat && difference.kernel.is_empty();
            let hosts = difference.receiver.place == Place::Host
                && !difference.kernel.is_empty()
                && difference
                    .kernel
                    .iter()
                    .all(|arrival| arrival.origin != Origin::Sender);
            difference.host_was_sent && passed && (guests || hosts)
        },
    },
    Known {
        name: "what the host was sent took no protocol before",
        why: "the same, when connection tracking has forgotten the packet to the host: netd has \
              given the protocol to another guest meanwhile",
        goes_on: false,
        applies: |difference| {
            difference.host_was_sent
                && difference.another_was_given
                && difference.sender.place == Place::Nat
                && matches!(difference.kernel, [one] if one.origin == Origin::Sender)
                && matches!(difference.netd, [one] if is_prohibition(one))
        },
    },
    Known {
        name: "a range of ports is SCTP's, too",
        why: "libvirt's rules hide TCP and UDP alone behind the ports of a network's <port>; netd \
              does so with every protocol that has ports",
        goes_on: true,
        applies: |difference| {
            let replaced = "only Netd replaced the source port";
            matches!(difference.step.body, Body::Sctp { .. })
                && difference.sender.has_pool()
                && difference.note.as_deref() == Some(replaced)
        },
    },
    Known {
        name: "a port that nobody saw",
        why: "where a port is taken, each side draws another one, and it is not seen which, when \
              the packet dies of its TTL: a later flow may find it in use on that side alone",
        goes_on: true,
        applies: |difference| {
            let unseen = |note: &String| note.ends_with(UNSEEN);
            difference.note.as_ref().is_some_and(unseen)
        },
    },
    Known {
        name: "simultaneous open after a reset",
        why: "when a connection was reset and its ports are used again, connection tracking \
              compares the other side's SYN with the old sequence numbers, and the host resets \
              the new connection; netd forgets the old one",
        goes_on: false,
        applies: |difference| {
            matches!(
                difference.step.body,
                Body::Tcp {
                    flags: tcp::SYN,
                    ..
                }
            ) && difference.answers_translated()
                && matches!(difference.kernel, [one] if one.origin == Origin::Answer)
                && matches!(difference.netd, [one] if one.origin == Origin::Sender)
        },
    },
    Known {
        name: "the host's path MTU is not the guests'",
        why: "an error to the host itself, or one that connection tracking leaves to it, lowers \
              the MTU that the stack uses towards an address; netd goes by the bridge's towards a \
              guest, and gives guests errors that connection tracking does not",
        // The other end quotes what it got.
        goes_on: false,
        applies: |difference| {
            let big = |arrival: &Arrival| is_error(arrival, (3, 4), (2, 0));
            let fits = |packet: &Vec<u8>| {
                difference.receiver.network.is_some() || packet.len() <= UPLINK_MTU
            };
            difference.sent[1].iter().all(fits)
                && matches!(difference.kernel, [one] if big(one))
                && matches!(difference.netd, [one] if one.origin == Origin::Sender)
        },
    },
    Known {
        name: "too big for the path, from another of the host's addresses",
        why: "connection tracking translates before the stack finds a packet too big for a path \
              whose MTU it has learned, so the error comes from the address that hides the guest; \
              netd translates after that, and it comes from the gateway's",
        goes_on: true,
        applies: |difference| {
            matches!((difference.kernel, difference.netd), ([one], [other])
                if is_error(one, (3, 4), (2, 0)) && one.is_same_but_from(other))
        },
    },
];

/// Does the kernel let out what it has not translated?
fn kernel_leaks(difference: &Difference) -> bool {
    difference.step.oddity.is_some()
        && difference.sender.place == Place::Nat
        && !difference.kernel.is_empty()
        && difference.kernel.iter().all(leaks)
}

/// Does the kernel take for its own what was for a guest behind it?
fn kernel_keeps(difference: &Difference) -> bool {
    difference.step.oddity.is_some()
        && difference.answers_translated()
        && all(difference.kernel, Origin::Answer)
}

/// The same packet to the same place, but for addresses, ports and what follows from them?
fn is_same_but_translated(one: &Arrival, other: &Arrival) -> bool {
    let (Some(a), Some(b)) = (one.header(), other.header()) else {
        return false;
    };
    other.origin == Origin::Sender
        && one.wire == other.wire
        && one.faults == other.faults
        && (a.destination, a.protocol, a.ttl, a.tag, a.l4, a.claimed)
            == (b.destination, b.protocol, b.ttl, b.tag, b.l4, b.claimed)
}

/// Is there one answer, an ICMP port unreachable by the hypervisor?
fn is_refusal(arrivals: &[Arrival]) -> bool {
    matches!(arrivals, [one] if is_error(one, (3, 3), (1, 4)))
}

/// Is it the hypervisor's answer "communication administratively prohibited"?
fn is_prohibition(arrival: &Arrival) -> bool {
    is_error(arrival, (3, 13), (1, 1))
}

/// Is it the hypervisor's answer "time exceeded in transit"?
fn is_too_old(arrival: &Arrival) -> bool {
    is_error(arrival, (11, 0), (3, 0))
}

/// Is it an ICMP error of the hypervisor's with this type and code, by family?
fn is_error(arrival: &Arrival, v4: (u8, u8), v6: (u8, u8)) -> bool {
    let message = match arrival.header().map(|header| header.family) {
        Some(Family::V4) => v4,
        Some(Family::V6) => v6,
        None => return false,
    };
    arrival.origin == Origin::Error && arrival.icmp() == Some(message)
}

/// Did a packet come through whole, in whatever fragments?
fn passed_whole(arrivals: &[Arrival]) -> bool {
    matches!(arrivals, [one] if one.origin == Origin::Sender && one.is_joined())
}

/// Is it the first fragment of a packet whose others are missing?
fn is_first_fragment(arrival: &Arrival) -> bool {
    arrival.origin == Origin::Sender
        && arrival.header().and_then(|header| header.fragment) == Some((0, true))
}

/// Is a TCP segment sent whose first fragment ends within the header?
fn splits_tcp_header(difference: &Difference) -> bool {
    let Body::Tcp { scale, .. } = difference.step.body else {
        return false;
    };
    let length = if scale.is_some() { 28 } else { 20 };
    difference.sent[1].iter().any(|packet| {
        Header::read(packet).is_some_and(|header| {
            header.fragment == Some((0, true)) && header.end < header.l4 + length
        })
    })
}

fn all(arrivals: &[Arrival], origin: Origin) -> bool {
    arrivals.iter().all(|arrival| arrival.origin == origin)
}

/// Does it show an address of the NAT network to somebody elsewhere?
fn leaks(arrival: &Arrival) -> bool {
    arrival.origin == Origin::Sender
        && cast::at(Place::Nat)
            .iter()
            .all(|guest| CAST[*guest].wire != arrival.wire)
        && arrival.header().is_some_and(|header| {
            let source = header.source;
            cast::at(Place::Nat)
                .iter()
                .any(|guest| CAST[*guest].address(header.family) == source)
        })
}

/// The entry that explains a difference.
#[must_use]
pub fn explain(difference: &Difference) -> Option<&'static Known> {
    KNOWN.iter().find(|known| (known.applies)(difference))
}
