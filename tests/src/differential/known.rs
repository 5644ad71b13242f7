//! The differences that are meant: each with its reason.

use super::arrival::{Arrival, Origin};
use super::cast::{self, CAST, Place};
use super::compare::Difference;
use super::step::{Oddity, Options};

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
        why: "the kernel's REJECT verifies the transport checksum before it answers; netd's does \
              not look at the payload of what it refuses",
        goes_on: false,
        applies: |difference| {
            difference.step.oddity == Some(Oddity::Checksum)
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
                && matches!(difference.kernel, [one] if one.icmp() == Some((11, 0)))
                && is_refusal(difference.netd)
        },
    },
    Known {
        name: "no refusal with options",
        why: "netd refuses packets with IP options in silence",
        goes_on: false,
        applies: |difference| {
            difference.step.twist.options != Options::None
                && is_refusal(difference.kernel)
                && difference.netd.is_empty()
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
    matches!(arrivals, [one] if one.origin == Origin::Error && one.icmp() == Some((3, 3)))
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
