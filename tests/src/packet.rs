//! Just enough of a frame to say what was seen.

use std::net::Ipv4Addr;

/// Protocol numbers the tests look for.
pub const ICMP: u8 = 1;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;

/// An IPv4 packet as captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Is it a fragment other than the first?
    pub later_fragment: bool,
    /// Flags and fragment offset, as the header holds them.
    pub fragment: u16,
    /// Bytes of the whole packet, however few of them were captured.
    pub length: usize,
    /// What follows the header, as far as it was captured.
    pub payload: Vec<u8>,
}

impl Ipv4 {
    /// Reads an Ethernet frame, whatever VLAN tags it has; `None` where it carries no complete
    /// IPv4 header.
    #[must_use]
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        let mut rest = frame.get(12..)?;
        while let [0x81, 0x00, _, _, ..] | [0x88, 0xa8, _, _, ..] = rest {
            rest = &rest[4..];
        }
        Self::from_packet(rest.strip_prefix(&[0x08, 0x00])?)
    }

    /// Reads a packet without its frame, as an ICMP error quotes it.
    #[must_use]
    pub fn from_packet(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let header = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header < 20 || packet.len() < header {
            return None;
        }
        let address = |at: usize| -> Option<Ipv4Addr> {
            let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(bytes.into())
        };
        // The length field is 0 in frames that the kernel will cut up later.
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let fragment = u16::from_be_bytes([packet[6], packet[7]]);
        let end = if total < header {
            packet.len()
        } else {
            total.min(packet.len())
        };
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            protocol: packet[9],
            ttl: packet[8],
            later_fragment: fragment & 0x1fff != 0,
            fragment,
            length: total.max(end),
            payload: packet[header..end].to_vec(),
        })
    }

    /// Is it a fragment, first, middle or last?
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fragment & 0x3fff != 0
    }

    fn port(&self, at: usize) -> Option<u16> {
        if !matches!(self.protocol, TCP | UDP) || self.later_fragment {
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

    /// Type and code of ICMP.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        match self.payload.get(..2) {
            Some(&[kind, code]) if self.protocol == ICMP && !self.later_fragment => {
                Some((kind, code))
            }
            _ => None,
        }
    }

    /// The packet an ICMP error quotes.
    #[must_use]
    pub fn quoted(&self) -> Option<Self> {
        matches!(self.icmp()?.0, 3 | 4 | 5 | 11 | 12)
            .then(|| Self::from_packet(self.payload.get(8..)?))?
    }

    /// Does the checksum of a whole UDP datagram fit its content?
    #[must_use]
    pub fn udp_checksum_is_complete(&self) -> bool {
        self.protocol == UDP && self.payload.len() >= 8 && self.sums_up()
    }

    /// Does the checksum of a whole TCP segment fit its content?
    #[must_use]
    pub fn tcp_checksum_is_complete(&self) -> bool {
        self.protocol == TCP && self.payload.len() >= 20 && self.sums_up()
    }

    fn sums_up(&self) -> bool {
        let sum = transport_checksum(self.source, self.destination, self.protocol, &self.payload);
        sum == Some(0)
    }

    /// Does the checksum of a whole ICMP message fit its content?
    #[must_use]
    pub fn icmp_checksum_is_right(&self) -> bool {
        self.protocol == ICMP && checksum(&self.payload) == 0
    }
}

/// Checksum of TCP and UDP with their pseudo header; `None` where the length has no room in it.
pub(crate) fn transport_checksum(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
) -> Option<u16> {
    let length = u16::try_from(payload.len()).ok()?;
    let mut pseudo = Vec::with_capacity(payload.len() + 12);
    pseudo.extend(source.octets());
    pseudo.extend(destination.octets());
    pseudo.extend([0, protocol]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(payload);
    Some(checksum(&pseudo))
}

/// The Internet checksum.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.0.0.1:1000 -> 10.0.0.2:53 "hi", with the checksum given.
    fn datagram(sum: [u8; 2]) -> Ipv4 {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([
            0x45, 0, 0, 30, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([0x03, 0xe8, 0, 53, 0, 10]);
        frame.extend(sum);
        frame.extend(b"hi");
        frame.extend([0; 16]); // padding of a short frame is no part of the packet
        Ipv4::from_frame(&frame).expect("an IPv4 frame")
    }

    #[test]
    fn a_complete_checksum_is_told_from_a_partial_one() {
        assert!(datagram([0x7f, 0x51]).udp_checksum_is_complete());
        // Only the pseudo header summed up, as the kernel leaves it to the card.
        assert!(!datagram([0x14, 0x1e]).udp_checksum_is_complete());
    }

    #[test]
    fn ports_and_addresses_are_read() {
        let packet = datagram([0, 0]);
        assert_eq!(packet.source, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(packet.source_port(), Some(1000));
        assert_eq!(packet.destination_port(), Some(53));
        assert_eq!(packet.icmp(), None);
    }
}
