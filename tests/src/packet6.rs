//! Just enough of an IPv6 packet to say what was seen.

use std::net::Ipv6Addr;

use crate::packet::{TCP, UDP, checksum};

/// ICMPv6's protocol number.
pub const ICMPV6: u8 = 58;
/// Extension headers (IANA protocol numbers).
pub const HOP_BY_HOP: u8 = 0;
/// A routing header.
pub const ROUTING: u8 = 43;
/// The fragment header.
pub const FRAGMENT: u8 = 44;
/// Destination options.
pub const DESTINATION: u8 = 60;

/// An IPv6 packet as captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// Extension headers in their order.
    pub extensions: Vec<u8>,
    /// Protocol behind the extension headers.
    pub protocol: u8,
    /// Offset in bytes and "more" of a fragment.
    pub fragment: Option<(u16, bool)>,
    /// Bytes of the whole packet, however few of them were captured.
    pub length: usize,
    /// What follows the extension headers, as far as it was captured.
    pub payload: Vec<u8>,
}

impl Ipv6 {
    /// Reads an Ethernet frame; `None` where it carries no complete IPv6 header.
    #[must_use]
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        Self::from_packet(frame.get(12..)?.strip_prefix(&[0x86, 0xdd])?)
    }

    /// Reads a packet without its frame, as an ICMP error quotes it.
    #[must_use]
    pub fn from_packet(packet: &[u8]) -> Option<Self> {
        if packet.first()? >> 4 != 6 || packet.len() < 40 {
            return None;
        }
        let address = |at: usize| -> Option<Ipv6Addr> {
            let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            Some(bytes.into())
        };
        let length = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        let mut found = Self {
            source: address(8)?,
            destination: address(24)?,
            hop_limit: packet[7],
            extensions: Vec::new(),
            protocol: packet[6],
            fragment: None,
            length,
            payload: Vec::new(),
        };
        let mut rest = &packet[40..length.min(packet.len())];
        while matches!(
            found.protocol,
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION
        ) {
            let later = found.fragment.is_some_and(|(offset, _)| offset != 0);
            let &[next, words, third, fourth, ..] = rest else {
                break;
            };
            if later {
                break;
            }
            let mut size = 8 * (usize::from(words) + 1);
            if found.protocol == FRAGMENT {
                let field = u16::from_be_bytes([third, fourth]);
                found.fragment = Some((field & 0xfff8, field & 1 != 0));
                size = 8;
            }
            found.extensions.push(found.protocol);
            found.protocol = next;
            rest = rest.get(size..)?;
        }
        found.payload = rest.to_vec();
        Some(found)
    }

    /// Is the transport header there to be read?
    fn has_transport(&self) -> bool {
        self.fragment.is_none_or(|(offset, _)| offset == 0)
    }

    fn port(&self, at: usize) -> Option<u16> {
        if !matches!(self.protocol, TCP | UDP) || !self.has_transport() {
            return None;
        }
        let bytes = self.payload.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Source port of TCP and UDP.
    #[must_use]
    pub fn source_port(&self) -> Option<u16> {
        self.port(0)
    }

    /// Destination port of TCP and UDP.
    #[must_use]
    pub fn destination_port(&self) -> Option<u16> {
        self.port(2)
    }

    /// Type and code of ICMPv6.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        match self.payload.get(..2) {
            Some(&[kind, code]) if self.protocol == ICMPV6 && self.has_transport() => {
                Some((kind, code))
            }
            _ => None,
        }
    }

    /// The packet an ICMPv6 error quotes.
    #[must_use]
    pub fn quoted(&self) -> Option<Self> {
        (self.icmp()?.0 < 128).then(|| Self::from_packet(self.payload.get(8..)?))?
    }

    /// Does the checksum of a whole packet fit its content?
    #[must_use]
    pub fn checksum_is_right(&self) -> bool {
        self.fragment.is_none()
            && transport_checksum(self.source, self.destination, self.protocol, &self.payload) == 0
    }
}

/// Checksum of a transport header with its pseudo header.
pub(crate) fn transport_checksum(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    payload: &[u8],
) -> u16 {
    let mut pseudo = Vec::with_capacity(payload.len() + 40);
    pseudo.extend(source.octets());
    pseudo.extend(destination.octets());
    pseudo.extend((payload.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo.extend(payload);
    checksum(&pseudo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Frame6;

    #[test]
    fn headers_are_walked_to_the_ports() {
        let (one, two) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        let mut frame = Frame6::udp((one, 1000), (two, 53), b"hi");
        frame.extensions = vec![
            (HOP_BY_HOP, vec![1, 4, 0, 0, 0, 0]),
            (DESTINATION, vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        let packet = Ipv6::from_frame(&frame.bytes()).expect("an IPv6 frame");
        assert_eq!(packet.extensions, [HOP_BY_HOP, DESTINATION]);
        assert_eq!((packet.source, packet.destination), (one, two));
        assert_eq!(packet.source_port(), Some(1000));
        assert_eq!(packet.destination_port(), Some(53));
        assert!(packet.checksum_is_right());
        assert!(
            !Ipv6 {
                payload: [packet.payload, vec![7]].concat(),
                ..packet
            }
            .checksum_is_right()
        );
    }

    #[test]
    fn later_fragments_show_no_ports() {
        let mut frame = Frame6::udp((Ipv6Addr::LOCALHOST, 1), (Ipv6Addr::LOCALHOST, 2), b"x");
        frame.extensions = vec![(FRAGMENT, vec![0, 8, 0, 0, 0, 7])];
        let packet = Ipv6::from_frame(&frame.bytes()).expect("an IPv6 frame");
        assert_eq!(packet.fragment, Some((8, false)));
        assert_eq!(packet.source_port(), None);
    }
}
