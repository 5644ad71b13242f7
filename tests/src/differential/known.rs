//! The differences that are meant: each with its reason.

use std::time::Duration;

use super::arrival::{Arrival, Origin};
use super::cast::{self, CAST, Family, Place};
use super::compare::{CHANGED, Difference, HOSTS, UNSEEN, same};
use super::outcome::{
    all, can_be_answered, is_error, is_first_fragment, is_prohibition, is_refusal, is_reset,
    is_same_but_translated, is_too_old, kernel_keeps, kernel_leaks, leaks, passed_whole,
    splits_tcp_header,
};
use super::step::{Body, Cut, End, Oddity, Options, tcp};
use super::topology::Side;

/// How long netd's agent holds fragments that come before the first one of their packet.
const FRAGMENTS_WAIT: Duration = Duration::from_millis(124);

/// What follows a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The same on both sides.
    GoesOn,
    /// The same on both sides, once the opener has spoken again.
    Anew,
    /// Only consequences.
    Ends,
}

/// A deliberate difference.
#[derive(Debug)]
pub struct Known {
    /// Name, for the summary.
    pub name: &'static str,
    /// Why it is so.
    pub why: &'static str,
    /// What follows in the conversation.
    pub then: Then,
    applies: fn(&Difference) -> bool,
}

/// All of them.
pub const KNOWN: &[Known] = &[
    Known {
        name: "private source leaks, netd translates",
        why: "what conntrack calls invalid leaves a NAT network under libvirt's rules with the \
              guest's own address",
        then: Then::GoesOn,
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
        then: Then::GoesOn,
        applies: |difference| kernel_leaks(difference) && difference.netd.is_empty(),
    },
    Known {
        name: "host gets the guest's answer, netd passes it on",
        why: "what conntrack calls invalid is not translated back under libvirt's rules, so the \
              host itself gets it, and may reset the connection",
        then: Then::GoesOn,
        applies: |difference| {
            kernel_keeps(difference)
                && matches!(difference.netd, [one] if one.origin == Origin::Sender)
        },
    },
    Known {
        name: "host resets the guest's connection, netd drops",
        why: "the same of a packet that netd drops by name",
        then: Then::GoesOn,
        applies: |difference| {
            kernel_keeps(difference) && !difference.kernel.is_empty() && difference.netd.is_empty()
        },
    },
    Known {
        name: "refusal despite checksum",
        why: "the kernel's REJECT verifies the transport checksum before it answers, and takes \
              protocols it does not know for such as have one over everything; netd's does not \
              look at the payload of what it refuses",
        then: Then::Ends,
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
        then: Then::Ends,
        applies: |difference| {
            difference.step.twist.ttl == 1
                && matches!(difference.kernel, [one] if is_too_old(one))
                && is_refusal(difference.netd)
        },
    },
    Known {
        name: "refusal before the host's own rules",
        why: "what no guest may send to another network netd refuses where it comes in; the host's own \
              rules come before libvirt's, and drop some of it without a word",
        then: Then::Ends,
        applies: |difference| {
            difference.is_dropped && difference.kernel.is_empty() && is_refusal(difference.netd)
        },
    },
    Known {
        name: "no refusal with options",
        why: "netd refuses packets with IP options or extension headers in silence",
        then: Then::Ends,
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
        then: Then::Ends,
        applies: |difference| {
            difference.step.twist.cut != Cut::Whole
                && is_refusal(difference.kernel)
                && difference.netd.is_empty()
        },
    },
    Known {
        name: "a TCP header in two fragments is dropped",
        why: "netd does not translate a TCP header that is not in one fragment, which nobody \
              sends who does not want to get past a filter (RFC 1858, RFC 7112); the kernel puts \
              it together in IPv4, and in IPv6 lets the first fragment out with the guest's own \
              address",
        // Connection tracking has a connection then.
        then: Then::Ends,
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
        then: Then::GoesOn,
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
        then: Then::Ends,
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
        then: Then::Ends,
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
        then: Then::Ends,
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
        then: Then::GoesOn,
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
        then: Then::GoesOn,
        applies: |difference| {
            let unseen = |note: &String| note.ends_with(UNSEEN);
            difference.note.as_ref().is_some_and(unseen)
        },
    },
    Known {
        name: "a port that the host was sent to",
        why: "when a flow has ended and its peer speaks on, the host itself is spoken to, and connection \
              tracking keeps the port for it; netd knows no flow of that, and asks the host's sockets",
        then: Then::GoesOn,
        applies: |difference| {
            let hosts = |note: &String| note.ends_with(HOSTS);
            difference.note.as_ref().is_some_and(hosts)
        },
    },
    Known {
        name: "simultaneous open after a reset",
        why: "when a connection was reset and its ports are used again, connection tracking \
              compares the other side's SYN with the old sequence numbers, and the host resets \
              the new connection; netd forgets the old one",
        then: Then::Ends,
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
        then: Then::Ends,
        applies: |difference| {
            let big = |arrival: &Arrival| is_error(arrival, (3, 4), (2, 0));
            let fits = |packet: &Vec<u8>| {
                difference.receiver.network.is_some() || packet.len() <= difference.mtu
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
        then: Then::GoesOn,
        applies: |difference| {
            matches!((difference.kernel, difference.netd), ([one], [other])
                if is_error(one, (3, 4), (2, 0)) && one.is_same_but_from(other))
        },
    },
    Known {
        name: "connection tracking drops the packet that finds its way moved",
        why: "where the way of a masqueraded flow has moved to another device, connection tracking \
              forgets the flow and drops that packet (nf_nat_oif_changed); netd has it open a new \
              flow, with the address of the new way",
        then: Then::Anew,
        applies: |difference| {
            difference.is_moved
                && !difference.step.body.has_states()
                && difference.kernel.is_empty()
                && !difference.netd.is_empty()
                && all(difference.netd, Origin::Sender)
        },
    },
    Known {
        name: "connection tracking drops what opens a connection and finds its way moved",
        why: "the same of TCP and SCTP, which connection tracking then takes up in the middle of a \
              connection, TCP without knowing its window, SCTP not at all",
        then: Then::Ends,
        applies: |difference| {
            difference.is_moved
                && difference.step.body.has_states()
                && difference.kernel.iter().all(leaks)
                && !difference.netd.is_empty()
                && all(difference.netd, Origin::Sender)
        },
    },
    Known {
        name: "the host's own rules see fragments one by one",
        why: "connection tracking puts packets together before rules see them; on a host without it \
              those that name ports see them in the first fragment alone, and the others pass, of \
              which nothing can be made",
        then: Then::Ends,
        applies: |difference| {
            let later = |one: &Arrival| {
                let fragment = one.header().and_then(|header| header.fragment);
                one.origin == Origin::Sender && fragment.is_some_and(|(offset, _)| offset > 0)
            };
            difference.is_forbidden
                && !difference.netd.is_empty()
                && difference.netd.iter().all(later)
                && (difference.kernel.is_empty() || is_refusal(difference.kernel))
        },
    },
    Known {
        name: "each side's own port for what moved out of its window",
        why: "what fits no connection opens one of its own where its way has moved, and the harness \
              does not ask which port each side gives it",
        then: Then::Ends,
        applies: |difference| {
            difference.is_moved
                && difference.step.oddity.is_some()
                && matches!((difference.kernel, difference.netd), ([one], [other])
                    if one.origin == Origin::Sender && is_same_but_translated(one, other))
        },
    },
    Known {
        name: "a protocol without ports whose flow moved",
        why: "where a guest's flow of such a protocol ends because its way has moved or the guest \
              was replaced, each side forgets it with the packet that it notices by; until then no \
              other guest has the protocol to that peer",
        then: Then::Ends,
        applies: |difference| {
            let settled = |arrivals: &[Arrival]| match arrivals {
                [] => true,
                [one] => matches!(one.origin, Origin::Sender | Origin::Error),
                _ => false,
            };
            matches!(difference.step.body, Body::Other { .. })
                && difference.holder_has_moved
                && settled(difference.kernel)
                && settled(difference.netd)
        },
    },
    Known {
        name: "an answer is not for another guest with the same address",
        why: "a guest whose MAC address is another one did not ask, so netd ends the flow with the \
              next answer; connection tracking gives it to whoever has the address",
        then: Then::Ends,
        applies: |difference| {
            // What the other guest sends of the connection finds none, where an answer ended it.
            let body = &difference.step.body;
            let goes_on = difference.step.from == End::Opener
                && (body.has_states() || matches!(body, Body::Error { .. }))
                && difference.netd.is_empty();
            difference.is_replaced
                && (difference.answers_translated() || goes_on)
                && difference
                    .kernel
                    .iter()
                    .all(|one| matches!(one.origin, Origin::Sender | Origin::Error))
                && difference
                    .netd
                    .iter()
                    .all(|one| one.origin != Origin::Sender)
        },
    },
    Known {
        name: "the path MTU that the host has learned is told to guests",
        why: "netd asks the kernel's routing for the path's MTU, which an error to the host itself \
              may have lowered; the kernel's forwarding of IPv6 goes by the device's, or by a route's \
              that is locked, alone",
        // The other end quotes what it got.
        then: Then::Ends,
        applies: |difference| {
            let lower = |one: &Arrival| {
                is_error(one, (3, 4), (2, 0)) && one.mtu().is_some_and(|mtu| mtu < difference.mtu)
            };
            let passed = |one: &Arrival| one.origin == Origin::Sender;
            let big = |one: &Arrival| is_error(one, (3, 4), (2, 0));
            // A locked route's exceptions are locked, too.
            matches!((difference.kernel, difference.netd), ([one], [other])
                if lower(other) && (passed(one) || big(one)) || lower(one) && big(other))
                && difference.conversation.plan.family == Family::V6
        },
    },
    Known {
        name: "the host's own answers are cut for the path that it knows",
        why: "an error to the host itself has lowered the path's MTU on one side; connection tracking \
              has given it to a guest on the other",
        then: Then::GoesOn,
        applies: |difference| {
            matches!((difference.kernel, difference.netd), ([one], [other])
                if one.origin == Origin::Answer && one.is_same_but_cut(other))
        },
    },
    Known {
        name: "a fragment waits for an eighth of a second",
        why: "netd drops fragments by name (frag_without_first) whose first one surely took longer to \
              follow, as it may when the harness gets no processor; connection tracking waits for 30 s",
        then: Then::GoesOn,
        applies: |difference| {
            matches!(difference.step.twist.cut, Cut::Reversed(_))
                && difference.apart > FRAGMENTS_WAIT
                && passed_whole(difference.kernel)
                && difference.netd.iter().any(is_first_fragment)
                && difference.netd.iter().all(|one| {
                    one.origin == Origin::Sender && one.wire == difference.kernel[0].wire
                })
        },
    },
    Known {
        name: "a packet that dies on a moved way ends the flow",
        why: "netd forgets a masqueraded flow with the first packet that finds its way moved; \
              connection tracking, with the first that leaves by it: until then it passes answers \
              to the old address",
        then: Then::Ends,
        applies: |difference| {
            difference.has_tried_another_way
                && difference.answers_translated()
                && matches!(difference.kernel, [one]
                    if matches!(one.origin, Origin::Sender | Origin::Error))
                && difference
                    .netd
                    .iter()
                    .all(|one| one.origin != Origin::Sender)
        },
    },
    Known {
        name: "a packet that dies on a moved way costs the flow its port",
        why: "the same when the way is the old one again: connection tracking has the flow as it was, \
              netd's next one may get another port",
        then: Then::Ends,
        applies: |difference| {
            let changed = |note: &String| *note == format!("{:?} {CHANGED}", Side::Netd);
            difference.has_tried_another_way
                && same(difference.kernel, difference.netd)
                && difference.note.as_ref().is_some_and(changed)
        },
    },
    Known {
        name: "a packet that dies on a moved way is not what an error is about",
        why: "the same of an error that the guest sends about what came before it: netd's next flow has \
              the address of the new way",
        then: Then::GoesOn,
        applies: |difference| {
            difference.has_tried_another_way
                && difference.step.from == End::Opener
                && matches!(difference.step.body, Body::Error { .. })
                && matches!((difference.kernel, difference.netd), ([one], [other])
                    if one.origin == Origin::Sender && is_same_but_translated(one, other))
        },
    },
    Known {
        name: "a connection whose address is gone is reset",
        why: "its peer would not know it by another address (RFC 9293, section 3.1): netd tells the \
              guest by a RST, so that it connects anew; connection tracking drops a packet and \
              takes the next ones for a connection of their own",
        then: Then::Ends,
        applies: |difference| {
            // Nobody answers a RST, nor netd fragments and options.
            let silent = difference.netd.is_empty() && !can_be_answered(difference);
            difference.is_moved
                && matches!(difference.step.body, Body::Tcp { .. })
                && (silent || matches!(difference.netd, [one] if is_reset(one)))
                && (all(difference.kernel, Origin::Sender) || all(difference.kernel, Origin::Error))
        },
    },
    Known {
        name: "answers to an address that is gone reach the guest",
        why: "connection tracking forgets masqueraded flows as soon as the host loses their \
              address; netd, when the guest's next packet finds it gone: until then what the \
              network brings for the old address is for the guest",
        then: Then::Ends,
        applies: |difference| {
            difference.is_known_elsewhere
                && difference.answers_translated()
                && difference
                    .netd
                    .iter()
                    .all(|one| matches!(one.origin, Origin::Sender | Origin::Error))
                && difference.kernel.iter().all(|one| {
                    cast::at(Place::Nat)
                        .iter()
                        .all(|nat| CAST[*nat].wire != one.wire)
                })
        },
    },
    Known {
        name: "an error about a flow whose address is gone",
        why: "the same of an error that the guest sends: connection tracking knows no flow for it, \
              and lets it out with the guest's own address",
        then: Then::GoesOn,
        applies: |difference| {
            difference.is_known_elsewhere
                && matches!(difference.step.body, Body::Error { .. })
                && difference.kernel.iter().all(leaks)
                && all(difference.netd, Origin::Sender)
        },
    },
    Known {
        name: "a refusal goes back the way it came",
        why: "netd's answer to what may not pass is the packet turned round, and leaves by the \
              device that it came in by; the kernel's is routed",
        then: Then::Ends,
        applies: |difference| {
            let outside = difference.sender.place == Place::Outside;
            let is_it = |one| is_error(one, (3, 3), (1, 4)) || is_too_old(one);
            matches!((difference.kernel, difference.netd), ([one], [other])
                if outside && one.wire != other.wire && is_it(one) && is_it(other))
        },
    },
    Known {
        name: "hops used up, from another of the host's addresses",
        why: "netd tells somebody outside that his packet's hops are used up from the address of the \
              interface that it came in by (RFC 1812, section 4.3.2.4); the kernel does, too, and connection tracking \
              puts in its place the address that the packet was for, one of the network's range",
        then: Then::GoesOn,
        applies: |difference| {
            difference.answers_translated()
                && difference.step.twist.ttl == 1
                && matches!((difference.kernel, difference.netd), ([one], [other])
                    if is_too_old(one) && one.is_same_but_from(other))
        },
    },
];

/// The entry that explains a difference.
#[must_use]
pub fn explain(difference: &Difference) -> Option<&'static Known> {
    KNOWN.iter().find(|known| (known.applies)(difference))
}
