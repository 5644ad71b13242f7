//! What came of a step, in the words of the differences that are meant.

use super::arrival::{Arrival, Origin};
use super::cast::{self, CAST, Family, Place};
use super::compare::Difference;
use super::header::{Header, TCP};
use super::step::{Body, Cut, Options, tcp};

/// Does the kernel let out what it has not translated?
pub(super) fn kernel_leaks(difference: &Difference) -> bool {
    difference.step.oddity.is_some()
        && difference.sender.place == Place::Nat
        && !difference.kernel.is_empty()
        && difference.kernel.iter().all(leaks)
}

/// Does the kernel take for its own what was for a guest behind it?
pub(super) fn kernel_keeps(difference: &Difference) -> bool {
    difference.step.oddity.is_some()
        && difference.answers_translated()
        && all(difference.kernel, Origin::Answer)
}

/// The same packet to the same place, but for addresses, ports and what follows from them?
pub(super) fn is_same_but_translated(one: &Arrival, other: &Arrival) -> bool {
    let (Some(a), Some(b)) = (one.header(), other.header()) else {
        return false;
    };
    other.origin == Origin::Sender
        && one.wire == other.wire
        && one.faults == other.faults
        && (a.destination, a.protocol, a.ttl, a.tag, a.l4, a.claimed)
            == (b.destination, b.protocol, b.ttl, b.tag, b.l4, b.claimed)
}

/// Can netd tell the sender of a segment that its connection is over?
pub(super) fn can_be_answered(difference: &Difference) -> bool {
    let twist = &difference.step.twist;
    let is_reset = matches!(difference.step.body, Body::Tcp { flags, .. } if flags & tcp::RST != 0);
    !is_reset && twist.cut == Cut::Whole && twist.options == Options::None
}

/// Is it a TCP RST by the hypervisor?
pub(super) fn is_reset(arrival: &Arrival) -> bool {
    let flags = arrival
        .header()
        .filter(|header| header.protocol == TCP)
        .and_then(|header| arrival.raw.get(header.l4 + 13).copied());
    arrival.origin == Origin::Answer && flags.is_some_and(|flags| flags & tcp::RST != 0)
}

/// Is there one answer, an ICMP port unreachable by the hypervisor?
pub(super) fn is_refusal(arrivals: &[Arrival]) -> bool {
    matches!(arrivals, [one] if is_error(one, (3, 3), (1, 4)))
}

/// Is it the hypervisor's answer "communication administratively prohibited"?
pub(super) fn is_prohibition(arrival: &Arrival) -> bool {
    is_error(arrival, (3, 13), (1, 1))
}

/// Is it the hypervisor's answer "time exceeded in transit"?
pub(super) fn is_too_old(arrival: &Arrival) -> bool {
    is_error(arrival, (11, 0), (3, 0))
}

/// Is it an ICMP error of the hypervisor's with this type and code, by family?
pub(super) fn is_error(arrival: &Arrival, v4: (u8, u8), v6: (u8, u8)) -> bool {
    let message = match arrival.header().map(|header| header.family) {
        Some(Family::V4) => v4,
        Some(Family::V6) => v6,
        None => return false,
    };
    arrival.origin == Origin::Error && arrival.icmp() == Some(message)
}

/// Did a packet come through whole, in whatever fragments?
pub(super) fn passed_whole(arrivals: &[Arrival]) -> bool {
    matches!(arrivals, [one] if one.origin == Origin::Sender && one.is_joined())
}

/// Is it the first fragment of a packet whose others are missing?
pub(super) fn is_first_fragment(arrival: &Arrival) -> bool {
    arrival.origin == Origin::Sender
        && arrival.header().and_then(|header| header.fragment) == Some((0, true))
}

/// Is a TCP segment sent whose first fragment ends within the header?
pub(super) fn splits_tcp_header(difference: &Difference) -> bool {
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

/// Are all of them made by that one?
pub(super) fn all(arrivals: &[Arrival], origin: Origin) -> bool {
    arrivals.iter().all(|arrival| arrival.origin == origin)
}

/// Does it show an address of the NAT network to somebody elsewhere?
pub(super) fn leaks(arrival: &Arrival) -> bool {
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
