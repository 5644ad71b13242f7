//! The bytes of a packet.

use std::net::IpAddr;

use super::cast::Family;
use super::header::{
    DESTINATION_OPTIONS, ECHO, HOP_BY_HOP, Header, ICMP, ICMP6, SCTP, TCP, UDP, checksum_at,
};
use super::step::{Body, Cut, ErrorKind, Options, Query, Quote, Twist};
use crate::packet::checksum;

/// An address and a port (or an echo's identifier).
pub type Spot = (IpAddr, u16);

/// What is sent: a packet as one piece or in fragments, without frames. `tag` is found again in
/// the header of whatever becomes of it; `quoted` is the packet an error is about.
#[must_use]
pub fn packets(
    body: &Body,
    source: Spot,
    destination: Spot,
    twist: &Twist,
    tag: u16,
    quoted: Option<&[u8]>,
) -> Vec<Vec<u8>> {
    let family = family(source.0);
    let protocol = protocol(body, family);
    let mut payload = transport(body, source, destination, tag, quoted);
    complete(protocol, &mut payload, source.0, destination.0, body);
    if twist.bad_checksum {
        spoil(protocol, &mut payload);
    }
    let header = Network {
        source: source.0,
        destination: destination.0,
        protocol,
        tag,
        twist,
    };
    match twist.cut {
        Cut::Whole => vec![header.whole(&payload)],
        Cut::InOrder(count) => header.fragments(&payload, count),
        Cut::Reversed(count) => {
            let mut fragments = header.fragments(&payload, count);
            fragments.reverse();
            fragments
        }
    }
}

/// The family of an address.
#[must_use]
pub fn family(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// The protocol number of a body.
#[must_use]
pub fn protocol(body: &Body, family: Family) -> u8 {
    match body {
        Body::Tcp { .. } => TCP,
        Body::Udp { .. } => UDP,
        Body::Echo { .. } | Body::Error { .. } if family == Family::V4 => ICMP,
        Body::Echo { .. } | Body::Error { .. } => ICMP6,
        Body::Sctp { .. } => SCTP,
        Body::Other { protocol, .. } => *protocol,
    }
}

/// Header and data of the transport, its checksum still 0.
fn transport(
    body: &Body,
    source: Spot,
    destination: Spot,
    tag: u16,
    quoted: Option<&[u8]>,
) -> Vec<u8> {
    let family = family(source.0);
    let ports = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
    match *body {
        Body::Tcp {
            flags,
            sequence,
            acknowledgement,
            length,
            window,
            scale,
        } => {
            let mut segment = ports;
            segment.extend(sequence.to_be_bytes());
            segment.extend(acknowledgement.to_be_bytes());
            // A maximal segment size and, after a byte of padding, the shift count.
            let options: &[u8] = match scale {
                Some(shift) => &[2, 4, 5, 0, 1, 3, 3, shift],
                None => &[],
            };
            segment.extend([0x50 + (options.len() as u8) * 4, flags]);
            segment.extend(window.to_be_bytes());
            segment.extend([0; 4]);
            segment.extend(options);
            segment.extend(data(length, tag));
            segment
        }
        Body::Udp { length, .. } => {
            let mut datagram = ports;
            datagram.extend((length as u16 + 8).to_be_bytes());
            datagram.extend([0, 0]);
            datagram.extend(data(length, tag));
            datagram
        }
        Body::Echo {
            query,
            reply,
            sequence,
            length,
        } => {
            let (request, answer) = query_types(query, family);
            // The identifier is the port of whoever asked.
            let (kind, id) = if reply {
                (answer, destination.1)
            } else {
                (request, source.1)
            };
            let mut message = vec![kind, 0, 0, 0];
            message.extend(id.to_be_bytes());
            message.extend(sequence.to_be_bytes());
            message.extend(data(length, tag));
            message
        }
        Body::Error { kind, quote, .. } => {
            let (kind, code, rest) = error_numbers(kind, family);
            let mut message = vec![kind, code, 0, 0];
            message.extend(rest.to_be_bytes());
            message.extend(quotation(quoted.unwrap_or_default(), quote));
            message
        }
        Body::Sctp { chunk, tag } => {
            let mut packet = ports;
            packet.extend(tag.to_be_bytes());
            packet.extend([0; 4]);
            // INIT and INIT ACK have 16 bytes after the chunk's header; others need none.
            let value: &[u8] = match chunk {
                1 | 2 => &[0, 0, 0, 77, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1],
                _ => &[],
            };
            packet.extend([chunk, 0]);
            packet.extend((value.len() as u16 + 4).to_be_bytes());
            packet.extend(value);
            packet
        }
        // GRE without options begins with zeros and the EtherType of IPv4.
        Body::Other { length, .. } => [&[0, 0, 8, 0], data(length, tag).as_slice()].concat(),
    }
}

/// Types of a query and its answer.
fn query_types(query: Query, family: Family) -> (u8, u8) {
    match (family, query) {
        (Family::V6, _) | (_, Query::Echo) => ECHO[family as usize],
        (_, Query::Timestamp) => (13, 14),
        (_, Query::Information) => (15, 16),
        (_, Query::AddressMask) => (17, 18),
    }
}

/// Data in which every two bytes differ from their neighbours, and that tells one event's from
/// another's.
fn data(length: usize, tag: u16) -> Vec<u8> {
    let marks = tag.to_be_bytes();
    (0..length)
        .map(|at| ((at * 7 + 13) as u8) ^ marks[at % 2])
        .collect()
}

fn error_numbers(kind: ErrorKind, family: Family) -> (u8, u8, u32) {
    match (family, kind) {
        (Family::V4, ErrorKind::HostUnreachable) => (3, 1, 0),
        (Family::V4, ErrorKind::PortUnreachable) => (3, 3, 0),
        (Family::V4, ErrorKind::TooBig) => (3, 4, 1280),
        (Family::V4, ErrorKind::TimeExceeded) => (11, 0, 0),
        (Family::V4, ErrorKind::ParameterProblem) => (12, 0, 1 << 24),
        (Family::V6, ErrorKind::HostUnreachable) => (1, 3, 0),
        (Family::V6, ErrorKind::PortUnreachable) => (1, 4, 0),
        (Family::V6, ErrorKind::TooBig) => (2, 0, 1280),
        (Family::V6, ErrorKind::TimeExceeded) => (3, 0, 0),
        (Family::V6, ErrorKind::ParameterProblem) => (4, 0, 4),
    }
}

/// The part of `packet` that an error quotes.
fn quotation(packet: &[u8], quote: Quote) -> Vec<u8> {
    let Some(header) = Header::read(packet) else {
        return packet.to_vec();
    };
    let mut packet = packet.to_vec();
    if let (Family::V6, Some(_)) = (header.family, header.fragment) {
        // Who cuts a packet anew chooses its identification: the quotes shall be the same.
        let identification = u32::from(header.tag).to_be_bytes();
        packet[header.l4 - 4..header.l4].copy_from_slice(&identification);
    }
    let upto = |length: usize| packet[..length.min(packet.len())].to_vec();
    match quote {
        Quote::Full => upto(548),
        Quote::Eight => upto(header.l4 + 8),
        Quote::Short => upto(header.l4 + 3),
        Quote::Unknown => {
            let mut copy = upto(548);
            // A port or identifier that nobody uses: the harness gives out none above 60000.
            let at = match header.protocol {
                ICMP | ICMP6 => header.l4 + 4,
                _ => header.l4,
            };
            for end in [at, at + 2] {
                if let Some(bytes) = copy.get_mut(end..end + 2) {
                    bytes.copy_from_slice(&65_000u16.to_be_bytes());
                }
            }
            copy
        }
    }
}

/// Puts the checksum in.
fn complete(protocol: u8, payload: &mut [u8], from: IpAddr, to: IpAddr, body: &Body) {
    let Some(at) = checksum_at(protocol) else {
        return;
    };
    if let Body::Udp {
        checksum: false, ..
    } = body
    {
        return;
    }
    if protocol == SCTP {
        let sum = crc32c(payload).to_le_bytes();
        payload[at..at + 4].copy_from_slice(&sum);
        return;
    }
    let mut sum = transport_sum(protocol, payload, from, to);
    if sum == 0 && protocol == UDP {
        sum = 0xffff;
    }
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum of a transport header, its data and its pseudo-header: what belongs into
/// a checksum field that holds 0, and 0 where the field is right.
#[must_use]
pub fn transport_sum(protocol: u8, payload: &[u8], from: IpAddr, to: IpAddr) -> u16 {
    let mut sum = Vec::with_capacity(payload.len() + 40);
    match (from, to) {
        (IpAddr::V4(_), _) | (_, IpAddr::V4(_)) if protocol == ICMP => {}
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            sum.extend(from.octets());
            sum.extend(to.octets());
            sum.extend([0, protocol]);
            sum.extend((payload.len() as u16).to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            sum.extend(from.octets());
            sum.extend(to.octets());
            sum.extend((payload.len() as u32).to_be_bytes());
            sum.extend([0, 0, 0, protocol]);
        }
        _ => {}
    }
    sum.extend(payload);
    checksum(&sum)
}

/// CRC-32C, SCTP's checksum (RFC 9260, appendix A), of a packet whose checksum field counts as 0.
#[must_use]
pub fn crc32c(packet: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for (at, byte) in packet.iter().enumerate() {
        crc ^= u32::from(if (8..12).contains(&at) { 0 } else { *byte });
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Makes the checksum wrong, yet not 0, which would mean "none" in UDP.
fn spoil(protocol: u8, payload: &mut [u8]) {
    if let Some(at) = checksum_at(protocol) {
        payload[at] ^= 0x55;
        if payload[at..at + 2] == [0, 0] {
            payload[at + 1] = 1;
        }
    }
}

/// The IP header.
struct Network<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    tag: u16,
    twist: &'a Twist,
}

impl Network<'_> {
    fn whole(&self, payload: &[u8]) -> Vec<u8> {
        self.piece(payload, None)
    }

    fn fragments(&self, payload: &[u8], count: usize) -> Vec<Vec<u8>> {
        let size = payload.len().div_ceil(count).next_multiple_of(8);
        let mut at = 0;
        let mut fragments = Vec::new();
        for part in payload.chunks(size) {
            let more = at + part.len() < payload.len();
            fragments.push(self.piece(part, Some((at, more))));
            at += part.len();
        }
        fragments
    }

    fn piece(&self, payload: &[u8], fragment: Option<(usize, bool)>) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let options = options(self.twist.options);
                let header = 20 + options.len();
                let mut packet = vec![0x40 | (header / 4) as u8, 0];
                packet.extend(((header + payload.len()) as u16).to_be_bytes());
                packet.extend(self.tag.to_be_bytes());
                let field = match fragment {
                    Some((at, more)) => (at / 8) as u16 | u16::from(more) << 13,
                    None => u16::from(self.twist.dont_fragment) << 14,
                };
                packet.extend(field.to_be_bytes());
                packet.extend([self.twist.ttl, self.protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet.extend(options);
                let sum = checksum(&packet) ^ u16::from(self.twist.bad_header);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                packet.extend(payload);
                packet
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let after = if fragment.is_some() {
                    44
                } else {
                    self.protocol
                };
                let (first, headers) = extensions(self.twist.options, after);
                let extension = headers.len() + fragment.map_or(0, |_| 8);
                let mut packet = (0x6000_0000 | u32::from(self.tag)).to_be_bytes().to_vec();
                packet.extend(((payload.len() + extension) as u16).to_be_bytes());
                packet.extend([first, self.twist.ttl]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet.extend(headers);
                if let Some((at, more)) = fragment {
                    packet.extend([self.protocol, 0]);
                    packet.extend((at as u16 | u16::from(more)).to_be_bytes());
                    packet.extend(u32::from(self.tag).to_be_bytes());
                }
                packet.extend(payload);
                packet
            }
            _ => Vec::new(), // the cast has no conversation between families
        }
    }
}

fn options(options: Options) -> &'static [u8] {
    match options {
        Options::None => &[],
        Options::Nothing => &[1, 1, 1, 1],
        Options::RecordRoute => &[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        Options::RouterAlert => &[148, 4, 0, 0],
    }
}

/// The first one's type and the bytes of the extension headers before what is of type `after`.
fn extensions(options: Options, after: u8) -> (u8, Vec<u8>) {
    // Eight bytes each, of which six are padding (RFC 8200, section 4.2).
    let header = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    match options {
        Options::None => (after, Vec::new()),
        Options::Nothing => (HOP_BY_HOP, header(after).to_vec()),
        Options::RouterAlert => (DESTINATION_OPTIONS, header(after).to_vec()),
        Options::RecordRoute => {
            let both = [header(DESTINATION_OPTIONS), header(after)];
            (HOP_BY_HOP, both.concat())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_standard_one() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn checksums_are_right_and_fragments_join() {
        let at = |last, port| (IpAddr::from([192, 0, 2, last]), port);
        let body = Body::Udp {
            length: 100,
            checksum: true,
        };
        let twist = Twist {
            cut: Cut::Reversed(3),
            ..Twist::default()
        };
        let mut pieces = packets(&body, at(1, 7), at(2, 9), &twist, 5, None);
        pieces.reverse();
        assert_eq!(pieces.len(), 3);
        let payload: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece[20..].to_vec())
            .collect();
        assert_eq!(payload.len(), 108);
        assert_eq!(transport_sum(UDP, &payload, at(1, 0).0, at(2, 0).0), 0);
        assert!(pieces.iter().all(|piece| checksum(&piece[..20]) == 0));
    }
}
