//! What IPv6 packets have that others have not: extension headers, and errors of their own.

use netd_common::abi::Addr6;

use crate::packet::{ICMPV6, Packet, Version, icmp};

/// Hop-by-hop options, destination options, routing, fragment, authentication headers.
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION: u8 = 60;

/// An IPv6 packet in an Ethernet frame.
pub type Packet6 = Packet<Addr6>;

/// The fields of a fragment header.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub id: u32,
    /// In units of eight bytes.
    pub offset: u16,
    pub more: bool,
}

/// What else is in IPv6's headers.
#[derive(Clone, Debug)]
pub struct Header6 {
    /// Traffic class and flow label.
    pub class: u8,
    pub label: u32,
    /// Extension headers before the fragment header: their numbers, and their bytes without the
    /// first, which says what follows.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub piece: Option<Piece>,
}

impl Default for Header6 {
    fn default() -> Self {
        Self {
            class: 0,
            label: 0x12345,
            extensions: Vec::new(),
            piece: None,
        }
    }
}

impl Version for Addr6 {
    type Header = Header6;
    const ICMP: u8 = ICMPV6;
    const ETHER_TYPE: [u8; 2] = [0x86, 0xdd];
    const ECHO: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const TIME_EXCEEDED: u8 = 3;
    const UNREACHABLE: (u8, u8, u8) = (1, 4, 1);

    fn headers(packet: &Packet6, segment: &[u8]) -> Vec<u8> {
        let header = &packet.header;
        let mut kinds: Vec<u8> = header.extensions.iter().map(|(kind, _)| *kind).collect();
        if header.piece.is_some() {
            kinds.push(FRAGMENT);
        }
        kinds.push(packet.protocol());
        let extensions: usize = header.extensions.iter().map(|(_, b)| b.len() + 1).sum();
        let payload = extensions + if header.piece.is_some() { 8 } else { 0 } + segment.len();
        let word = 6 << 28 | u32::from(header.class) << 20 | header.label;
        let mut out = word.to_be_bytes().to_vec();
        out.extend((payload as u16).to_be_bytes());
        out.extend([kinds[0], packet.ttl]);
        out.extend(packet.src);
        out.extend(packet.dst);
        for ((_, bytes), next) in header.extensions.iter().zip(&kinds[1..]) {
            out.push(*next);
            out.extend(bytes);
        }
        if let Some(piece) = header.piece {
            out.extend([packet.protocol(), 0]);
            out.extend((piece.offset << 3 | u16::from(piece.more)).to_be_bytes());
            out.extend(piece.id.to_be_bytes());
        }
        out
    }

    fn header_of_answers() -> Header6 {
        Header6 {
            label: 0,
            ..Header6::default()
        }
    }

    fn header_of_resets() -> Header6 {
        Self::header_of_answers()
    }
}

/// An extension header of `words` times eight bytes, filled with padding options (for the kinds
/// that have options).
pub fn extension(kind: u8, words: u8) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; usize::from(words) * 8 - 1];
    bytes[0] = if kind == AUTHENTICATION {
        words * 2 - 2
    } else {
        words - 1
    };
    // PadN.
    if matches!(kind, HOP_BY_HOP | DESTINATION) {
        bytes[1] = 1;
        bytes[2] = (usize::from(words) * 8 - 4) as u8;
    }
    (kind, bytes)
}

impl Packet6 {
    /// One more extension header.
    pub fn with(mut self, extension: (u8, Vec<u8>)) -> Self {
        self.header.extensions.push(extension);
        self
    }

    pub fn piece(mut self, id: u32, offset: u16, more: bool) -> Self {
        self.header.piece = Some(Piece { id, offset, more });
        self
    }

    /// The packet in fragments of at most `size` bytes (a multiple of eight), in order.
    pub fn split(&self, id: u32, size: usize) -> Vec<Self> {
        self.pieces(size, |offset, more| Header6 {
            piece: Some(Piece {
                id,
                offset: (offset / 8) as u16,
                more,
            }),
            ..self.header.clone()
        })
    }
}

pub fn packet_too_big(src: Addr6, dst: Addr6, mtu: u32, quote: Vec<u8>) -> Packet6 {
    icmp(src, dst, 2, 0, mtu.to_be_bytes(), quote)
}
