//! IPv6 frames as no well-behaved host would send them.

use std::net::Ipv6Addr;

use crate::packet::{TCP, UDP};
use crate::packet6::{ICMPV6, transport_checksum};

/// An Ethernet frame with an IPv6 packet, built from what each layer is to hold. Lengths are
/// right, whatever else is not.
#[derive(Clone, Debug)]
pub struct Frame6 {
    /// Destination MAC address.
    pub to: [u8; 6],
    /// Source MAC address.
    pub from: [u8; 6],
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// Extension headers in their order: type, and what follows the two bytes of next header and
    /// length (6 bytes, or 8 more each time).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Protocol number.
    pub protocol: u8,
    /// What follows the extension headers.
    pub payload: Vec<u8>,
}

impl Frame6 {
    /// A UDP datagram with its checksum.
    #[must_use]
    pub fn udp(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16), data: &[u8]) -> Self {
        let mut payload = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
        payload.extend((data.len() as u16 + 8).to_be_bytes());
        payload.extend([0, 0]);
        payload.extend(data);
        let sum = transport_checksum(source.0, destination.0, UDP, &payload);
        // A sum of 0 would say that there is none.
        let sum = if sum == 0 { 0xffff } else { sum };
        payload[6..8].copy_from_slice(&sum.to_be_bytes());
        Self::ip(source.0, destination.0, UDP, payload)
    }

    /// A TCP segment with the control bits `control` and no data.
    #[must_use]
    pub fn tcp(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16), control: u8) -> Self {
        let mut payload = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
        payload.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, control, 0x20, 0]);
        payload.extend([0; 4]);
        let sum = transport_checksum(source.0, destination.0, TCP, &payload);
        payload[16..18].copy_from_slice(&sum.to_be_bytes());
        Self::ip(source.0, destination.0, TCP, payload)
    }

    /// An ICMPv6 message, whose checksum is filled in.
    #[must_use]
    pub fn icmp(source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Self {
        message[2..4].fill(0);
        let sum = transport_checksum(source, destination, ICMPV6, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        Self::ip(source, destination, ICMPV6, message)
    }

    /// Any packet.
    #[must_use]
    pub fn ip(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            to: [0; 6],
            from: [0; 6],
            source,
            destination,
            hop_limit: 64,
            extensions: Vec::new(),
            protocol,
            payload,
        }
    }

    /// From one MAC address to another.
    #[must_use]
    pub fn between(mut self, from: [u8; 6], to: [u8; 6]) -> Self {
        (self.from, self.to) = (from, to);
        self
    }

    /// With that extension header behind those it has.
    #[must_use]
    pub fn with(mut self, kind: u8, content: &[u8]) -> Self {
        self.extensions.push((kind, content.to_vec()));
        self
    }

    /// The packet without the frame.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let mut rest = Vec::new();
        let kinds = self.extensions.iter().map(|(kind, _)| *kind);
        let mut next = kinds.chain([self.protocol]);
        let first = next.next().unwrap_or(self.protocol);
        for ((_, content), next) in self.extensions.iter().zip(next) {
            rest.extend([next, ((content.len() + 2) / 8) as u8 - 1]);
            rest.extend(content);
        }
        rest.extend(&self.payload);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((rest.len() as u16).to_be_bytes());
        packet.extend([first, self.hop_limit]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(rest);
        packet
    }

    /// The frame as it goes on the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        frame.extend([0x86, 0xdd]);
        frame.extend(self.packet());
        frame
    }
}
