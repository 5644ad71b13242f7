//! Frames as no well-behaved host would send them.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::Netns;
use crate::packet::{TCP, UDP, checksum, transport_checksum};

/// EtherType of an IEEE 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of an IEEE 802.1ad tag.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// An Ethernet frame with an IPv4 packet, built from what each layer is to hold. Lengths and the
/// header's checksum are right, whatever else is not.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination MAC address.
    pub to: [u8; 6],
    /// Source MAC address.
    pub from: [u8; 6],
    /// VLAN tags, outermost first: EtherType and number.
    pub tags: Vec<(u16, u16)>,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// IP options, whole words.
    pub options: Vec<u8>,
    /// Identification, which the fragments of one packet share.
    pub id: u16,
    /// Time to live.
    pub ttl: u8,
    /// Flags and fragment offset, as the header holds them.
    pub fragment: u16,
    /// Protocol number.
    pub protocol: u8,
    /// What follows the IP header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A UDP datagram without checksum.
    #[must_use]
    pub fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), data: &[u8]) -> Self {
        let mut payload = ports(source.1, destination.1);
        payload.extend((data.len() as u16 + 8).to_be_bytes());
        payload.extend([0, 0]);
        payload.extend(data);
        Self::ip(source.0, destination.0, UDP, payload)
    }

    /// A TCP segment with the control bits `control` and no data; its header claims to be
    /// `words` long.
    #[must_use]
    pub fn tcp(
        source: (Ipv4Addr, u16),
        destination: (Ipv4Addr, u16),
        control: u8,
        words: u8,
    ) -> Self {
        let mut payload = ports(source.1, destination.1);
        payload.extend([0, 0, 0, 1, 0, 0, 0, 0, words << 4, control, 0x20, 0]);
        payload.extend([0; 4]);
        let mut pseudo = source.0.octets().to_vec();
        pseudo.extend(destination.0.octets());
        pseudo.extend([0, TCP, 0, payload.len() as u8]);
        pseudo.extend(&payload);
        payload[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        Self::ip(source.0, destination.0, TCP, payload)
    }

    /// Any packet.
    #[must_use]
    pub fn ip(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            to: [0; 6],
            from: [0; 6],
            tags: Vec::new(),
            source,
            destination,
            options: Vec::new(),
            id: 0x1234,
            ttl: 64,
            fragment: 0,
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

    /// Fills in the checksum of a UDP datagram.
    #[must_use]
    pub fn with_udp_checksum(mut self) -> Self {
        self.payload[6..8].fill(0);
        let sum = transport_checksum(self.source, self.destination, UDP, &self.payload);
        // A sum of 0 would say that there is none.
        let sum = sum.map_or(0, |sum| if sum == 0 { 0xffff } else { sum });
        self.payload[6..8].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// The same packet cut up, in order; `room` is what a fragment holds, a multiple of 8.
    #[must_use]
    pub fn fragments(&self, room: usize) -> Vec<Self> {
        let count = self.payload.len().div_ceil(room);
        let pieces = self.payload.chunks(room).enumerate();
        pieces
            .map(|(number, piece)| {
                let more = if number + 1 < count { 0x2000 } else { 0 };
                let mut fragment = self.clone();
                fragment.fragment = more | (number * room / 8) as u16;
                fragment.payload = piece.to_vec();
                fragment
            })
            .collect()
    }

    /// The packet without the frame.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(((header + self.payload.len()) as u16).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(&self.payload);
        packet
    }

    /// The frame as it goes on the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        for (ether_type, number) in &self.tags {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(number.to_be_bytes());
        }
        frame.extend([0x08, 0x00]);
        frame.extend(self.packet());
        frame
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// A device to put frames on, past the namespace's own stack.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    device: LinkAddr,
}

impl Wire {
    /// The device `device` of a namespace.
    ///
    /// # Errors
    /// There is none, or no packet socket can be opened.
    pub fn new(netns: &Netns, device: &str) -> Result<Self> {
        netns.enter(|| {
            let address = nix::ifaddrs::getifaddrs()?
                .filter(|interface| interface.interface_name == device)
                .find_map(|interface| interface.address?.as_link_addr().copied())
                .with_context(|| format!("no device {device}"))?;
            // Without a protocol the socket receives nothing.
            let socket = socket_with(
                AddressFamily::PACKET,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                None,
            )
            .context("opening a packet socket")?;
            Ok(Self {
                socket,
                device: address,
            })
        })?
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The device is down, or the frame too long for it.
    pub fn send(&self, frame: &Frame) -> Result<()> {
        self.send_bytes(&frame.bytes())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub fn send_bytes(&self, frame: &[u8]) -> Result<()> {
        let fd = self.socket.as_raw_fd();
        let sent = sendto(fd, frame, &self.device, MsgFlags::empty()).context("sending a frame")?;
        ensure!(sent == frame.len(), "{sent} of {} bytes sent", frame.len());
        Ok(())
    }
}
