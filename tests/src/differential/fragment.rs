//! What fragments belong to.
//!
//! Whoever hides several guests behind one address may choose new identifications, as two guests
//! may use the same one at the same time. All else is known by its identification; such fragments
//! of IPv4 packets are known by their data, and get back the identification they had.

use std::collections::HashMap;
use std::net::IpAddr;

use super::cast::Family;
use super::event::Event;
use super::header::{Header, SCTP, TCP};
use crate::packet::checksum;

/// The tag of the event whose fragment this is, where it does not bear it. `renumbered` says which
/// event has which identification: there is one for all fragments of a packet.
pub(super) fn of(
    packet: &[u8],
    wire: usize,
    events: &[Event],
    side: usize,
    renumbered: &mut HashMap<u16, u16>,
) -> Option<u16> {
    let header = Header::read(packet)?;
    let (offset, _) = header.fragment?;
    if header.family != Family::V4 {
        return None;
    }
    let holds = |event: &&Event| {
        // What comes back to where it was sent is an answer, which may hold the same.
        event.wire != wire && is_part(packet, &header, offset, &event.sent[side])
    };
    if events
        .iter()
        .any(|event| event.tag == header.tag && holds(&event))
    {
        return None;
    }
    let tag = events.iter().find(holds)?.tag;
    (*renumbered.entry(tag).or_insert(header.tag) == header.tag).then_some(tag)
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

/// Do the fragments that were sent, or the packet, hold what this one holds behind the transport
/// header?
fn is_part(packet: &[u8], header: &Header, offset: usize, sent: &[Vec<u8>]) -> bool {
    let transport = match header.protocol {
        TCP => 20,
        SCTP => 12,
        _ => 8,
    };
    let from = offset.max(transport);
    let Some(here) = packet
        .get(header.l4 + from - offset..header.end)
        .filter(|here| !here.is_empty())
    else {
        return false;
    };
    // Each of its bytes was sent.
    let mut found = 0;
    for other in sent {
        let Some(origin) = Header::read(other) else {
            return false;
        };
        let start = origin.fragment.map_or(0, |(offset, _)| offset);
        let payload = &other[origin.l4..origin.end];
        if origin.protocol != header.protocol {
            return false;
        }
        let (low, high) = (
            from.max(start),
            (from + here.len()).min(start + payload.len()),
        );
        if low < high {
            if here[low - from..high - from] != payload[low - start..high - start] {
                return false;
            }
            found += high - low;
        }
    }
    found == here.len()
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

    fn fits(fragment: &[u8], sent: &[Vec<u8>]) -> bool {
        let header = Header::read(fragment).unwrap();
        is_part(fragment, &header, header.fragment.unwrap().0, sent)
    }

    #[test]
    fn fragments_are_known_by_their_data() {
        for fragment in sent(Cut::InOrder(3), 5) {
            assert!(fits(&fragment, &sent(Cut::InOrder(3), 5)));
            assert!(fits(&fragment, &sent(Cut::Whole, 5)), "cut on the way");
            assert!(!fits(&fragment, &sent(Cut::InOrder(3), 6)));
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
