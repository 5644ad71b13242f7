//! Builds Ethernet frames with IPv6 packets.

use netd_common::abi::{Addr6, MacAddr};

use crate::body::{Body, Tcp};
use crate::packet::ICMPV6;

/// Hop-by-hop options, destination options, routing, fragment, authentication headers.
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION: u8 = 60;

/// The fields of a fragment header.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub id: u32,
    /// In units of eight bytes.
    pub offset: u16,
    pub more: bool,
}

/// An IPv6 packet in an Ethernet frame. Tests change a copy's fields to say what they expect.
#[derive(Clone, Debug)]
pub struct Packet6 {
    pub to: MacAddr,
    pub from: MacAddr,
    pub src: Addr6,
    pub dst: Addr6,
    pub hops: u8,
    /// Traffic class and flow label.
    pub class: u8,
    pub label: u32,
    /// Extension headers before the fragment header: their numbers, and their bytes without the
    /// first, which says what follows.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub piece: Option<Piece>,
    pub body: Body,
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
    pub fn new(src: Addr6, dst: Addr6, body: Body) -> Self {
        Self {
            to: [0; 6],
            from: [0; 6],
            src,
            dst,
            hops: 64,
            class: 0,
            label: 0x12345,
            extensions: Vec::new(),
            piece: None,
            body,
        }
    }

    pub fn macs(mut self, to: MacAddr, from: MacAddr) -> Self {
        (self.to, self.from) = (to, from);
        self
    }

    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    pub fn src(mut self, src: Addr6) -> Self {
        self.src = src;
        self
    }

    pub fn dst(mut self, dst: Addr6) -> Self {
        self.dst = dst;
        self
    }

    /// One more extension header.
    pub fn with(mut self, extension: (u8, Vec<u8>)) -> Self {
        self.extensions.push(extension);
        self
    }

    pub fn piece(mut self, id: u32, offset: u16, more: bool) -> Self {
        self.piece = Some(Piece { id, offset, more });
        self
    }

    pub fn sport(mut self, port: u16) -> Self {
        self.body.set_sport(port);
        self
    }

    pub fn dport(mut self, port: u16) -> Self {
        self.body.set_dport(port);
        self
    }

    pub fn data(mut self, bytes: Vec<u8>) -> Self {
        self.body.set_data(bytes);
        self
    }

    /// Other TCP header fields.
    pub fn tcp(mut self, change: impl FnOnce(&mut Tcp)) -> Self {
        match &mut self.body {
            Body::Tcp(tcp) => change(tcp),
            other => panic!("no TCP: {other:?}"),
        }
        self
    }

    pub fn segment(&self) -> Vec<u8> {
        self.body.segment(&self.src, &self.dst, ICMPV6)
    }

    /// Length of all headers before the transport header.
    pub fn header_len(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|(_, b)| b.len() + 1).sum();
        40 + extensions + if self.piece.is_some() { 8 } else { 0 }
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        if self.piece.is_some() {
            kinds.push(FRAGMENT);
        }
        kinds.push(self.body.protocol(ICMPV6));
        let word = 6 << 28 | u32::from(self.class) << 20 | self.label;
        let mut out = word.to_be_bytes().to_vec();
        let payload = self.header_len() - 40 + segment.len();
        out.extend((payload as u16).to_be_bytes());
        out.extend([kinds[0], self.hops]);
        out.extend(self.src);
        out.extend(self.dst);
        for ((_, bytes), next) in self.extensions.iter().zip(&kinds[1..]) {
            out.push(*next);
            out.extend(bytes);
        }
        if let Some(piece) = self.piece {
            out.extend([self.body.protocol(ICMPV6), 0]);
            out.extend((piece.offset << 3 | u16::from(piece.more)).to_be_bytes());
            out.extend(piece.id.to_be_bytes());
        }
        out.extend(segment);
        out
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.to);
        out.extend(self.from);
        out.extend([0x86, 0xdd]);
        out.extend(self.ip());
        out
    }

    /// What an ICMPv6 error quotes of the packet: its headers and `bytes` of what follows.
    pub fn quote(&self, bytes: usize) -> Vec<u8> {
        let mut out = self.ip();
        out.truncate(self.header_len() + bytes);
        out
    }

    /// The packet in fragments of at most `size` bytes (a multiple of eight), in order.
    pub fn split(&self, id: u32, size: usize) -> Vec<Self> {
        let segment = self.segment();
        let protocol = self.body.protocol(ICMPV6);
        let count = segment.len().div_ceil(size);
        segment
            .chunks(size)
            .enumerate()
            .map(|(i, bytes)| Self {
                piece: Some(Piece {
                    id,
                    offset: (i * size / 8) as u16,
                    more: i + 1 < count,
                }),
                body: Body::Raw {
                    protocol,
                    bytes: bytes.to_vec(),
                },
                ..self.clone()
            })
            .collect()
    }
}

pub fn tcp6(src: Addr6, sport: u16, dst: Addr6, dport: u16, control: u8) -> Packet6 {
    Packet6::new(src, dst, Body::Tcp(Tcp::new(sport, dport, control)))
}

pub fn udp6(src: Addr6, sport: u16, dst: Addr6, dport: u16) -> Packet6 {
    Packet6::new(src, dst, Body::udp(sport, dport))
}

pub fn sctp6(src: Addr6, sport: u16, dst: Addr6, dport: u16, chunk: u8) -> Packet6 {
    Packet6::new(src, dst, Body::sctp(sport, dport, chunk))
}

pub fn lite6(protocol: u8, src: Addr6, sport: u16, dst: Addr6, dport: u16) -> Packet6 {
    Packet6::new(src, dst, Body::lite(protocol, sport, dport))
}

pub fn raw6(src: Addr6, dst: Addr6, protocol: u8) -> Packet6 {
    Packet6::new(src, dst, Body::raw(protocol))
}

pub fn icmp6(src: Addr6, dst: Addr6, kind: u8, code: u8, rest: [u8; 4], data: Vec<u8>) -> Packet6 {
    Packet6::new(
        src,
        dst,
        Body::Icmp {
            kind,
            code,
            rest,
            data,
        },
    )
}

pub fn echo6(src: Addr6, dst: Addr6, id: u16) -> Packet6 {
    let [a, b] = id.to_be_bytes();
    icmp6(src, dst, 128, 0, [a, b, 0, 1], b"ping data".to_vec())
}

pub fn echo_reply6(src: Addr6, dst: Addr6, id: u16) -> Packet6 {
    let [a, b] = id.to_be_bytes();
    icmp6(src, dst, 129, 0, [a, b, 0, 1], b"ping data".to_vec())
}

pub fn time_exceeded6(src: Addr6, dst: Addr6, quote: Vec<u8>) -> Packet6 {
    icmp6(src, dst, 3, 0, [0; 4], quote)
}

pub fn packet_too_big(src: Addr6, dst: Addr6, mtu: u32, quote: Vec<u8>) -> Packet6 {
    icmp6(src, dst, 2, 0, mtu.to_be_bytes(), quote)
}

/// The answer to a packet that policy refuses: from `own`, back the way the packet came.
pub fn port_unreachable6(own: Addr6, refused: &Packet6) -> Packet6 {
    unreachable6(own, refused, 4)
}

/// The answer to a packet for which there is no port, room or address.
pub fn prohibited6(own: Addr6, refused: &Packet6) -> Packet6 {
    unreachable6(own, refused, 1)
}

fn unreachable6(own: Addr6, refused: &Packet6, code: u8) -> Packet6 {
    let mut answer = icmp6(own, refused.src, 1, code, [0; 4], refused.quote(8));
    answer.label = 0;
    answer.macs(refused.from, refused.to)
}
