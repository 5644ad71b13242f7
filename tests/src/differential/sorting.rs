//! Which packets that came in belong to which step.

use std::collections::HashMap;
use std::ops::Range;

use super::arrival::{Arrival, Origin, join};
use super::cast::{OUTSIDE_WIRE, SECOND_WIRE, WIRES};
use super::conversation::Conversation;
use super::craft;
use super::event::Event;
use super::fragment;
use super::header::{Header, ICMP, ICMP6, SCTP, TCP, UDP, word};
use super::topology::{SIDES, Side};

/// Frames by side and wire.
pub(super) type Frames = [[Vec<Vec<u8>>; WIRES]; 2];
/// What came in about an event, or about none, by side: its maker, its wire and the frame.
pub(super) type Sorted = HashMap<(Option<usize>, usize), Vec<(Origin, usize, Vec<u8>)>>;

/// Which event each frame belongs to.
pub(super) fn sort(events: &[Event], frames: &Frames) -> Sorted {
    let tags: HashMap<u16, usize> = events
        .iter()
        .enumerate()
        .map(|(at, event)| (event.tag, at))
        .collect();
    let mut sorted = Sorted::new();
    for side in SIDES {
        let side = side as usize;
        // Answers of the hypervisor itself are found by the ports of what they answer.
        let mut answered = HashMap::new();
        for (at, event) in events.iter().enumerate() {
            for packet in &event.sent[side] {
                if let Some((from, to, protocol)) = ends(packet) {
                    answered.insert((to, from, protocol, line(event.wire)), at);
                }
            }
        }
        // Later fragments of the hypervisor's answers have no ports: they go with the first.
        let mut heads = HashMap::new();
        for (wire, frames) in frames[side].iter().enumerate() {
            let renumbered = fragment::renumbered(frames, wire, events, side);
            for frame in frames {
                let mut frame = frame.clone();
                let packet = frame.get_mut(14..).unwrap_or_default();
                if let Some(tag) = fragment::whole(packet).and_then(|(of, _)| renumbered.get(&of)) {
                    fragment::number(packet, *tag);
                }
                let (mut event, mut origin) = cause(packet, wire, events, side, &tags, &answered);
                if origin != Origin::Sender
                    && let Some((of, is_first)) = fragment::whole(packet)
                {
                    if is_first {
                        heads.insert(of, (event, origin));
                    } else if let Some(first) = heads.get(&of) {
                        (event, origin) = *first;
                    }
                }
                sorted
                    .entry((event, side))
                    .or_default()
                    .push((origin, wire, frame));
            }
        }
    }
    sorted
}

/// What came in about one event on one side, in an order that is the same on both.
pub(super) fn arrivals(
    frames: &[(Origin, usize, Vec<u8>)],
    conversation: &Conversation,
    side: Side,
) -> Vec<Arrival> {
    let seen = conversation.seen[side as usize];
    let own_port = conversation.plan.opener_port;
    let mut groups: HashMap<(Origin, usize), Vec<Vec<u8>>> = HashMap::new();
    for (origin, wire, frame) in frames {
        let group = groups.entry((*origin, *wire)).or_default();
        group.push(frame.clone());
    }
    let mut list: Vec<Arrival> = groups
        .into_iter()
        .flat_map(|((origin, wire), frames)| {
            join(frames).into_iter().map(move |(frame, pieces)| {
                Arrival::new(origin, wire, &frame, seen, own_port).in_pieces(pieces)
            })
        })
        .collect();
    list.sort_by(|a, b| a.key().cmp(&b.key()));
    list
}

/// Source, destination and protocol of a packet.
pub(super) fn ends(packet: &[u8]) -> Option<(craft::Spot, craft::Spot, u8)> {
    let header = Header::read(packet)?;
    let (source, destination) = header.ports(packet);
    let port = |at: Option<usize>| at.and_then(|at| word(packet, at)).unwrap_or_default();
    let from = (header.source, port(source));
    Some((
        from,
        (header.destination, port(destination)),
        header.protocol,
    ))
}

/// A wire, or one that stands for both outside: the hypervisor may answer by another uplink.
fn line(wire: usize) -> usize {
    if wire == SECOND_WIRE {
        OUTSIDE_WIRE
    } else {
        wire
    }
}

/// The event that made a packet come in on a wire.
fn cause(
    packet: &[u8],
    wire: usize,
    events: &[Event],
    side: usize,
    tags: &HashMap<u16, usize>,
    answered: &HashMap<(craft::Spot, craft::Spot, u8, usize), usize>,
) -> (Option<usize>, Origin) {
    let Some(header) = Header::read(packet) else {
        return (None, Origin::Unknown);
    };
    // Errors that somebody sends are about packets of earlier rounds.
    if let Some(at) = header.quote(packet)
        && let Some(quoted) = Header::read(&packet[at..header.end])
        && let Some(event) = tags.get(&quoted.tag)
    {
        return (Some(*event), Origin::Error);
    }
    if let Some(event) = tags.get(&header.tag) {
        let sent = &events[*event].sent[side];
        if sent.iter().any(|sent| carries(packet, &header, sent)) {
            return (Some(*event), Origin::Sender);
        }
    }
    // Later fragments have no ports to be found by.
    let answer = ends(packet)
        .filter(|_| header.has_start())
        .and_then(|(from, to, protocol)| answered.get(&(from, to, protocol, line(wire))).copied());
    match answer {
        Some(event) => (Some(event), Origin::Answer),
        None => (None, Origin::Unknown),
    }
}

/// Is a packet that came in the one that was sent, whatever its addresses and ports are now?
fn carries(packet: &[u8], header: &Header, sent: &[u8]) -> bool {
    let Some(origin) = Header::read(sent) else {
        return false;
    };
    if origin.protocol != header.protocol {
        return false;
    }
    // Fragments have nothing but their tag and an end that no translation changes: the tag alone
    // may be an identification that the hypervisor chose for an answer of its own.
    if header.fragment.is_some() || origin.fragment.is_some() {
        return header.source == origin.source || header.destination == origin.destination;
    }
    // What no translation changes: the hypervisor's own answer may have the tag by chance.
    let marks = match header.protocol {
        TCP => [4..13, 20..usize::MAX],
        UDP => [4..6, 8..usize::MAX],
        SCTP => [4..8, 12..usize::MAX],
        ICMP | ICMP6 if header.quote(packet).is_some() => [0..2, 0..0],
        ICMP | ICMP6 => [0..2, 6..usize::MAX],
        _ => [0..0, 0..usize::MAX],
    };
    let part = |bytes: &[u8], header: &Header| -> Option<Vec<u8>> {
        let transport = bytes.get(header.l4..header.end)?;
        let mark = |mark: &Range<usize>| {
            let end = mark.end.min(transport.len());
            transport.get(mark.start..end).unwrap_or_default()
        };
        Some(marks.each_ref().map(mark).concat())
    };
    header.end - header.l4 == origin.end - origin.l4 && part(packet, header) == part(sent, &origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::step::{Body, Query, Twist};

    #[test]
    fn an_answer_with_the_tag_of_another_packet_is_not_that() {
        let reply = Body::Echo {
            query: Query::Echo,
            reply: true,
            sequence: 1,
            length: 32,
        };
        let ends = [1, 2].map(|last| ([192, 0, 2, last].into(), 7));
        let packet = |tag| {
            let packets = craft::packets(&reply, ends[0], ends[1], &Twist::default(), tag, None);
            packets.into_iter().next().unwrap()
        };
        let (sent, mut other) = (packet(7), packet(8));
        fragment::number(&mut other, 7);
        let is_sent = |packet: &[u8]| carries(packet, &Header::read(packet).unwrap(), &sent);
        assert!(is_sent(&sent));
        assert!(!is_sent(&other));
    }
}
