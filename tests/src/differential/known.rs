//! The differences that are meant: each with its reason.

use super::arrival::{Arrival, Origin};
use super::cast::{OUTSIDE_WIRE, Place};
use super::compare::Difference;

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
        name: "private source leaks",
        why: "what conntrack calls invalid leaves a NAT network under libvirt's rules with the \
              guest's own address; netd translates it or drops it by name",
        goes_on: true,
        applies: |difference| {
            difference.step.oddity.is_some()
                && !difference.kernel.is_empty()
                && difference.kernel.iter().all(leaks)
                && !difference.netd.iter().any(leaks)
        },
    },
    Known {
        name: "host answers for guest",
        why: "what conntrack calls invalid is not translated back under libvirt's rules, so the \
              host itself gets an answer meant for a guest, and may reset the connection; netd \
              translates it or drops it by name",
        goes_on: true,
        applies: |difference| {
            difference.step.oddity.is_some()
                && difference.sender.place == Place::Outside
                && difference
                    .kernel
                    .iter()
                    .all(|arrival| arrival.origin == Origin::Answer)
                && difference
                    .netd
                    .iter()
                    .all(|arrival| arrival.origin == Origin::Sender)
        },
    },
];

/// Does it show a private address to the outside?
fn leaks(arrival: &Arrival) -> bool {
    arrival.wire == OUTSIDE_WIRE
        && arrival
            .header()
            .is_some_and(|header| header.source.to_string().starts_with("192.168.122."))
}

/// The entry that explains a difference.
#[must_use]
pub fn explain(difference: &Difference) -> Option<&'static Known> {
    KNOWN.iter().find(|known| (known.applies)(difference))
}
