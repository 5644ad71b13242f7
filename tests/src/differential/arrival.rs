//! What came in on a wire, and what of it must be the same on both sides.

use std::net::IpAddr;

use super::cast::{Family, WIRE_NAMES};
use super::craft::{Spot, crc32c, transport_sum};
use super::header::{Header, SCTP, Shown, UDP, announces_fragment, checksum_at, word};
use crate::packet::checksum;

/// Who made a packet that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The sender of the event; the hypervisor passed it on.
    Sender,
    /// The hypervisor, in an ICMP error about the event.
    Error,
    /// The hypervisor, in any other answer.
    Answer,
    /// Nobody knows.
    Unknown,
}

/// A packet that came in, without what may differ: ports that a translation chose stand as the
/// opener's own, and the checksums follow.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Who made it.
    pub origin: Origin,
    /// On which wire.
    pub wire: usize,
    /// Destination and source MAC address.
    macs: Vec<u8>,
    /// The packet as it is compared.
    packet: Vec<u8>,
    /// What is wrong with it.
    pub faults: Vec<&'static str>,
    /// Offsets and lengths of the fragments it came in.
    pieces: Pieces,
    /// The packet as it came.
    pub raw: Vec<u8>,
}

/// What is compared.
type Key<'a> = (
    Origin,
    usize,
    &'a [u8],
    &'a [u8],
    &'a [&'static str],
    &'a [(usize, usize)],
);

impl Arrival {
    /// Reads a frame. `seen` is where the other end sees the opener; it is replaced by `own_port`.
    #[must_use]
    pub fn new(
        origin: Origin,
        wire: usize,
        frame: &[u8],
        seen: Option<Spot>,
        own_port: u16,
    ) -> Self {
        let raw = frame.get(14..).unwrap_or_default().to_vec();
        let mut packet = raw.clone();
        let mut faults = Vec::new();
        normalise(&mut packet, seen, own_port, &mut faults);
        if matches!(origin, Origin::Error | Origin::Answer | Origin::Unknown) {
            forget_maker(&mut packet, origin);
        }
        if origin == Origin::Answer && faults.contains(&"transport") {
            forget_checksum(&mut packet);
        }
        Self {
            origin,
            wire,
            macs: frame.get(..12).unwrap_or_default().to_vec(),
            packet,
            faults,
            pieces: Vec::new(),
            raw,
        }
    }

    /// What is compared.
    #[must_use]
    pub fn key(&self) -> Key<'_> {
        (
            self.origin,
            self.wire,
            &self.macs,
            &self.packet,
            &self.faults,
            &self.pieces,
        )
    }

    /// Was it put together from fragments?
    #[must_use]
    pub fn is_joined(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Is another one like it, but for the source address?
    #[must_use]
    pub fn is_same_but_from(&self, other: &Self) -> bool {
        let (Some(header), Some(others)) = (self.header(), other.header()) else {
            return false;
        };
        let mut packet = self.packet.clone();
        let at = match header.family {
            Family::V4 => 12..16,
            Family::V6 => 8..24,
        };
        if header.family != others.family || other.packet.len() < at.end {
            return false;
        }
        packet[at.clone()].copy_from_slice(&other.packet[at]);
        let mut moved = self.clone();
        moved.packet = packet;
        moved.key() == other.key()
    }

    /// Is another one like it, but for the fragments that it came in?
    #[must_use]
    pub fn is_same_but_cut(&self, other: &Self) -> bool {
        self.clone().in_pieces(other.pieces.clone()).key() == other.key()
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> Option<Header> {
        Header::read(&self.raw)
    }

    /// Type and code, where it is ICMP.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        self.header()?.icmp(&self.raw)
    }

    /// The MTU that it tells, where it is an error of a packet too big.
    #[must_use]
    pub fn mtu(&self) -> Option<usize> {
        let header = self.header()?;
        word(&self.raw, header.l4 + 6).map(usize::from)
    }

    /// Where and what, without numbers: "passed to outside", "error 3/3 to vm1".
    #[must_use]
    pub fn outcome(&self) -> String {
        let wire = WIRE_NAMES[self.wire];
        let place = if wire.starts_with("vm") {
            "guest"
        } else {
            wire
        };
        match self.origin {
            Origin::Sender if self.pieces.is_empty() => format!("passed to {place}"),
            Origin::Sender => format!("passed in fragments to {place}"),
            Origin::Error => {
                let (kind, code) = self.icmp().unwrap_or_default();
                format!("error {kind}/{code} to {place}")
            }
            Origin::Answer => format!("host's answer to {place}"),
            Origin::Unknown => format!("unknown to {place}"),
        }
    }

    /// Names of the parts in which two arrivals differ.
    #[must_use]
    pub fn difference(&self, other: &Self) -> String {
        let mut parts: Vec<String> = Vec::new();
        if self.wire != other.wire {
            parts.push("wire".into());
        }
        if self.macs != other.macs {
            parts.push("MAC addresses".into());
        }
        if self.faults != other.faults {
            parts.push(format!("checksums {:?} {:?}", self.faults, other.faults));
        }
        if self.pieces != other.pieces {
            parts.push("fragmentation".into());
        }
        if self.packet.len() != other.packet.len() {
            parts.push("length".into());
        }
        let pairs = self.packet.iter().zip(&other.packet).enumerate();
        let bytes: Vec<String> = pairs
            .filter(|(_, (a, b))| a != b)
            .take(6)
            .map(|(at, _)| at.to_string())
            .collect();
        if !bytes.is_empty() {
            parts.push(format!("bytes {}", bytes.join(" ")));
        }
        parts.join(", ")
    }

    /// For people.
    #[must_use]
    pub fn shown(&self) -> String {
        let faults = if self.faults.is_empty() {
            String::new()
        } else {
            format!(" wrong: {}", self.faults.join(", "))
        };
        let pieces = if self.pieces.is_empty() {
            String::new()
        } else {
            format!(" in fragments {:?}", self.pieces)
        };
        let wire = WIRE_NAMES[self.wire];
        let outcome = self.outcome();
        format!("{outcome} at {wire}: {}{faults}{pieces}", Shown(&self.raw))
    }
}

/// Offsets and lengths of the fragments a packet came in; none where it came whole.
pub type Pieces = Vec<(usize, usize)>;

/// Puts the fragments of one packet together; what is not complete stays as it is.
#[must_use]
pub fn join(frames: Vec<Vec<u8>>) -> Vec<(Vec<u8>, Pieces)> {
    let mut joined = Vec::new();
    let mut parts: Vec<(usize, bool, Header, Vec<u8>)> = Vec::new();
    for frame in frames {
        let header = Header::read(frame.get(14..).unwrap_or_default());
        if let Some(header) = header
            && let Some((offset, more)) = header.fragment
        {
            parts.push((offset, more, header, frame));
        } else {
            joined.push((frame, Vec::new()));
        }
    }
    parts.sort_by_key(|(offset, ..)| *offset);
    let mut end = 0;
    let whole = parts.iter().all(|(offset, _, header, _)| {
        let follows = *offset == end;
        end = offset + header.end - header.l4;
        follows
    }) && parts.last().is_some_and(|(_, more, ..)| !more);
    if !whole {
        joined.extend(parts.into_iter().map(|(.., frame)| (frame, Vec::new())));
        return joined;
    }
    let pieces = parts
        .iter()
        .map(|(offset, _, header, _)| (*offset, header.end - header.l4))
        .collect();
    let (_, _, first, frame) = &parts[0];
    let mut packet = frame[..14 + first.l4].to_vec();
    for (_, _, header, frame) in &parts {
        packet.extend(&frame[14 + header.l4..14 + header.end]);
    }
    if first.family == Family::V4 {
        let length = (packet.len() - 14) as u16;
        packet[16..18].copy_from_slice(&length.to_be_bytes());
        packet[20] &= 0xc0; // no more fragments, offset 0
        packet[21] = 0;
        packet[24..26].fill(0);
        let sum = checksum(&packet[14..14 + first.l4]);
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        // Others come without the header that tells of fragments.
        packet.drain(14 + first.l4 - 8..14 + first.l4);
        packet[14 + announces_fragment(&frame[14..])] = first.protocol;
        let length = (packet.len() - 54) as u16;
        packet[18..20].copy_from_slice(&length.to_be_bytes());
    }
    joined.push((packet, pieces));
    joined
}

impl Arrival {
    /// The same, come in those fragments.
    #[must_use]
    pub fn in_pieces(mut self, pieces: Pieces) -> Self {
        self.pieces = pieces;
        self
    }
}

/// Replaces a chosen port by the opener's own wherever it stands, and notes wrong checksums.
fn normalise(packet: &mut [u8], seen: Option<Spot>, own_port: u16, faults: &mut Vec<&'static str>) {
    let Some(header) = Header::read(packet) else {
        return;
    };
    if header.family == Family::V4 {
        if checksum(&packet[..header.l4]) != 0 {
            faults.push("IP header");
        }
        packet[10..12].fill(0);
    }
    if let Some(at) = header.quote(packet) {
        if transport_sum(
            header.protocol,
            &packet[header.l4..header.end],
            header.source,
            header.destination,
        ) != 0
        {
            faults.push("ICMP");
        }
        packet[header.l4 + 2..header.l4 + 4].fill(0);
        normalise_quote(&mut packet[at..header.end], seen, own_port, faults);
        return;
    }
    if header
        .fragment
        .is_none_or(|(offset, more)| offset == 0 && !more)
        && header.end == header.claimed
    {
        let payload = &packet[header.l4..header.end];
        if !is_right(&header, payload) {
            faults.push("transport");
        }
    }
    rename(packet, &header, seen, own_port);
}

/// The same for the packet in an error. Its checksum cannot be verified where it was cut.
fn normalise_quote(
    packet: &mut [u8],
    seen: Option<Spot>,
    own_port: u16,
    faults: &mut Vec<&'static str>,
) {
    let Some(header) = Header::read(packet) else {
        return;
    };
    if header.family == Family::V4 {
        if checksum(&packet[..header.l4]) != 0 {
            faults.push("quoted IP header");
        }
        packet[10..12].fill(0);
    }
    rename(packet, &header, seen, own_port);
}

/// Is the transport's checksum right?
fn is_right(header: &Header, payload: &[u8]) -> bool {
    match header.protocol {
        SCTP => word_le(payload, 8) == Some(crc32c(payload)),
        UDP if word(payload, 6) == Some(0) => header.family == Family::V4,
        protocol if checksum_at(protocol).is_some() => {
            transport_sum(protocol, payload, header.source, header.destination) == 0
        }
        _ => true,
    }
}

fn word_le(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Replaces the chosen port, and makes the checksum follow.
fn rename(packet: &mut [u8], header: &Header, seen: Option<Spot>, own_port: u16) {
    let Some((address, port)) = seen else {
        blank_ambiguous(packet, header);
        return;
    };
    let (source, destination) = header.ports(packet);
    let ends: [(IpAddr, Option<usize>); 2] =
        [(header.source, source), (header.destination, destination)];
    for (whose, at) in ends {
        let Some(at) = at else { continue };
        if whose != address || word(packet, at) != Some(port) || port == own_port {
            continue;
        }
        packet[at..at + 2].copy_from_slice(&own_port.to_be_bytes());
        follow(packet, header, port, own_port);
    }
    blank_ambiguous(packet, header);
}

/// RFC 1624's update of a checksum, if it is here.
fn follow(packet: &mut [u8], header: &Header, old: u16, new: u16) {
    let Some(at) = checksum_at(header.protocol).map(|at| header.l4 + at) else {
        return;
    };
    let Some(sum) = word(packet, at) else {
        return;
    };
    if header.protocol == SCTP || (header.protocol == UDP && sum == 0) {
        return;
    }
    let mut total = u32::from(!sum) + u32::from(!old) + u32::from(new);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    let sum = !(total as u16);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Two checksums say the same, 0 and 0xffff; UDP's 0 alone means something else. SCTP's was
/// verified, and cannot be updated where it was cut.
fn blank_ambiguous(packet: &mut [u8], header: &Header) {
    let Some(at) = checksum_at(header.protocol).map(|at| header.l4 + at) else {
        return;
    };
    if !header.has_start() {
        return;
    }
    if header.protocol == SCTP {
        if let Some(field) = packet.get_mut(at..at + 4) {
            field.fill(0);
        }
        return;
    }
    if word(packet, at) == Some(0) && header.protocol != UDP {
        packet[at..at + 2].fill(0xff);
    }
}

/// What each maker of an answer chooses for itself: identification and, in an error, how much it
/// quotes beyond eight bytes and at which moment the TTL of the quoted packet was read.
fn forget_maker(packet: &mut Vec<u8>, origin: Origin) {
    let Some(header) = Header::read(packet) else {
        return;
    };
    if header.family == Family::V4 {
        packet[4..6].fill(0);
    } else {
        packet[1..4].fill(0);
        if header.fragment.is_some() {
            packet[header.l4 - 4..header.l4].fill(0);
        }
    }
    if origin != Origin::Error {
        return;
    }
    let Some(at) = header.quote(packet) else {
        return;
    };
    if let Some(quoted) = Header::read(&packet[at..]) {
        packet.truncate(at + quoted.l4 + 8);
        match quoted.family {
            Family::V4 => packet[at + 8] = 0,
            Family::V6 => packet[at + 7] = 0,
        }
    }
    match header.family {
        Family::V4 => packet[2..4].fill(0),
        Family::V6 => packet[4..6].fill(0),
    }
}

/// The stack leaves the checksums of its own segments to the device; what stands in the field does
/// not cover the ports.
fn forget_checksum(packet: &mut [u8]) {
    let Some(header) = Header::read(packet) else {
        return;
    };
    if let Some(at) = checksum_at(header.protocol).map(|at| header.l4 + at)
        && let Some(field) = packet.get_mut(at..at + 2)
    {
        field.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::differential::craft::packets;
    use crate::differential::step::{Body, Cut, ErrorKind, Quote, Twist};

    const PEER: Spot = (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5)), 53);

    fn translated(port: u16) -> Spot {
        (Ipv4Addr::new(198, 51, 100, 2).into(), port)
    }

    fn framed(packet: &[u8]) -> Vec<u8> {
        [&[0; 12][..], &[8, 0], packet].concat()
    }

    fn datagram(from: Spot, twist: &Twist) -> Vec<Vec<u8>> {
        let body = Body::Udp {
            length: 301,
            checksum: true,
        };
        packets(&body, from, PEER, twist, 9, None)
    }

    fn arrival(packet: &[u8], port: u16) -> Arrival {
        Arrival::new(
            Origin::Sender,
            3,
            &framed(packet),
            Some(translated(port)),
            5000,
        )
    }

    #[test]
    fn the_choice_of_a_port_does_not_show() {
        let whole = Twist::default();
        let seen = |port| arrival(&datagram(translated(port), &whole)[0], port);
        let (kept, chosen) = (seen(5000), seen(61_234));
        assert!(kept.faults.is_empty());
        assert_eq!(kept.key(), chosen.key());

        let error = |port| {
            let quoted = datagram(translated(port), &whole).remove(0);
            let body = Body::Error {
                kind: ErrorKind::TimeExceeded,
                quote: Quote::Full,
                router: false,
            };
            let sent = packets(&body, PEER, translated(0), &whole, 10, Some(&quoted));
            arrival(&sent[0], port)
        };
        assert!(error(5000).faults.is_empty());
        assert_eq!(error(5000).key(), error(40_000).key());
    }

    #[test]
    fn anything_else_does() {
        let packet = &datagram(translated(5000), &Twist::default())[0];
        let right = arrival(packet, 5000);
        for at in 0..packet.len() {
            let mut wrong = packet.clone();
            wrong[at] ^= 1;
            assert_ne!(arrival(&wrong, 5000).key(), right.key(), "byte {at}");
        }
    }

    #[test]
    fn fragments_are_compared_as_the_packet_they_make() {
        let pieces = |cut| {
            let twist = Twist {
                cut,
                dont_fragment: false,
                ..Twist::default()
            };
            let frames = datagram(translated(5000), &twist);
            join(frames.iter().map(|packet| framed(packet)).collect())
        };
        let whole = pieces(Cut::Whole);
        let mut cut = pieces(Cut::Reversed(3));
        assert_eq!(cut.len(), 1);
        let (packet, places) = cut.remove(0);
        assert_eq!(packet, whole[0].0);
        assert_eq!(places.len(), 3);
    }
}
