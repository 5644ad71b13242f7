//! What fragments belong to.
//!
//! Whoever hides several guests behind one address may choose new identifications, as two guests
//! may use the same one at the same time. All else is known by its identification; such fragments
//! of IPv4 packets are known by their data, and get back the identification they had.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::cast::Family;
use super::event::Event;
use super::header::{Header, SCTP, TCP};
use crate::packet::checksum;

/// The tags of the events whose packets came in on a wire in fragments that do not bear them. What is
/// known of one fragment goes for all of the same packet: the last one may be of a single byte, which
/// others hold as well.
pub(super) fn renumbered(
    frames: &[Vec<u8>],
    wire: usize,
    events: &[Event],
    side: usize,
) -> HashMap<Whole, u16> {
    let mut packets: HashMap<Whole, Vec<&[u8]>> = HashMap::new();
    for frame in frames {
        let packet = frame.get(14..).unwrap_or_default();
        let is_v4 = Header::read(packet).is_some_and(|header| header.family == Family::V4);
        if let Some((of, _)) = whole(packet).filter(|_| is_v4) {
            packets.entry(of).or_default().push(packet);
        }
    }
    let mut packets: Vec<(Whole, Vec<&[u8]>)> = packets.into_iter().collect();
    // Who holds more is mistaken less easily.
    packets.sort_by_key(|(_, parts)| {
        std::cmp::Reverse(parts.iter().map(|part| part.len()).sum::<usize>())
    });
    let (mut tags, mut found) = (HashMap::new(), HashSet::new());
    for (of, parts) in packets {
        // What comes back to where it was sent is an answer, which may hold the same.
        let holds = |event: &&Event| {
            let mut told = parts
                .iter()
                .filter_map(|part| is_part(part, &event.sent[side]));
            event.wire != wire && told.next() == Some(true) && told.all(|is| is)
        };
        let own = u16::from_be_bytes([of.3[0], of.3[1]]);
        let holders: Vec<u16> = events.iter().filter(holds).map(|event| event.tag).collect();
        if holders.contains(&own) {
            found.insert(own);
        } else if let Some(tag) = holders.into_iter().find(|tag| !found.contains(tag)) {
            found.insert(tag);
            tags.insert(of, tag);
        }
    }
    tags
}

/// May a packet be a fragment of what was sent, by its tag or its data?
pub(super) fn may_be_of(packet: &[u8], tag: u16, sent: &[Vec<u8>]) -> bool {
    Header::read(packet).is_some_and(|header| match header.family {
        Family::V4 => is_part(packet, sent) == Some(true),
        Family::V6 => header.tag == tag,
    })
}

/// What all fragments of a packet have in common: addresses, protocol, identification.
pub(super) type Whole = (IpAddr, IpAddr, u8, Vec<u8>);

/// Which packet a fragment is of, and whether it is the first one.
pub(super) fn whole(packet: &[u8]) -> Option<(Whole, bool)> {
    let header = Header::read(packet)?;
    let (offset, _) = header.fragment?;
    let id = match header.family {
        Family::V4 => packet[4..6].to_vec(),
        Family::V6 => packet[header.l4 - 4..header.l4].to_vec(),
    };
    let of = (header.source, header.destination, header.protocol, id);
    Some((of, offset == 0))
}

/// Writes the identification of a packet, its header's checksum staying as right or wrong as it is.
pub(super) fn number(packet: &mut [u8], tag: u16) {
    let Some(header) = Header::read(packet) else {
        return;
    };
    let was_right = checksum(&packet[..header.l4]) == 0;
    packet[4..6].copy_from_slice(&tag.to_be_bytes());
    if was_right {
        packet[10..12].fill(0);
        let sum = checksum(&packet[..header.l4]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Do the fragments that were sent, or the packet, hold what this fragment holds behind the transport
/// header? `None` where it holds nothing there.
fn is_part(packet: &[u8], sent: &[Vec<u8>]) -> Option<bool> {
    let header = Header::read(packet)?;
    let (offset, _) = header.fragment?;
    let transport = match header.protocol {
        TCP => 20,
        SCTP => 12,
        _ => 8,
    };
    let from = offset.max(transport);
    let here = packet
        .get(header.l4 + from - offset..header.end)
        .filter(|here| !here.is_empty())?;
    // Each of its bytes was sent.
    let mut found = 0;
    for other in sent {
        let origin = Header::read(other)?;
        let start = origin.fragment.map_or(0, |(offset, _)| offset);
        let payload = &other[origin.l4..origin.end];
        if origin.protocol != header.protocol {
            return Some(false);
        }
        let (low, high) = (
            from.max(start),
            (from + here.len()).min(start + payload.len()),
        );
        if low < high {
            if here[low - from..high - from] != payload[low - start..high - start] {
                return Some(false);
            }
            found += high - low;
        }
    }
    Some(found == here.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::craft::packets;
    use crate::differential::step::{Body, Cut, Twist};

    fn sent(cut: Cut, tag: u16) -> Vec<Vec<u8>> {
        let at = |last: u8| ([192, 0, 2, last].into(), 7);
        let body = Body::Udp {
            length: 200,
            checksum: true,
        };
        let twist = Twist {
            cut,
            dont_fragment: false,
            ..Twist::default()
        };
        packets(&body, at(1), at(2), &twist, tag, None)
    }

    #[test]
    fn fragments_are_known_by_their_data() {
        for fragment in sent(Cut::InOrder(3), 5) {
            let is_of = |cut, tag| is_part(&fragment, &sent(cut, tag));
            assert_eq!(is_of(Cut::InOrder(3), 5), Some(true));
            assert_eq!(is_of(Cut::Whole, 5), Some(true), "cut on the way");
            assert_eq!(is_of(Cut::InOrder(3), 6), Some(false));
        }
    }

    #[test]
    fn a_new_number_leaves_the_checksum_right_or_wrong() {
        let mut fragment = sent(Cut::InOrder(3), 5).remove(1);
        number(&mut fragment, 99);
        assert_eq!(Header::read(&fragment).unwrap().tag, 99);
        assert_eq!(checksum(&fragment[..20]), 0);
        fragment[11] ^= 1;
        number(&mut fragment, 98);
        assert_ne!(checksum(&fragment[..20]), 0);
    }
}
