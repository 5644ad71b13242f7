//! Builds Ethernet frames with IPv4 packets. Every checksum is computed from scratch.

use netd_common::abi::{Addr4, MacAddr};

pub use crate::body::{Body, Tcp};
use crate::checker::internet_checksum;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const DCCP: u8 = 33;
pub const GRE: u8 = 47;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;
pub const UDP_LITE: u8 = 136;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// Length of an Ethernet header.
pub const ETH: usize = 14;

/// "Don't fragment" in the fragment word of an IPv4 header.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in it.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// An IPv4 packet in an Ethernet frame. Tests change a copy's fields to say what they expect.
#[derive(Clone, Debug)]
pub struct Packet {
    pub to: MacAddr,
    pub from: MacAddr,
    pub src: Addr4,
    pub dst: Addr4,
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    /// Flags and offset.
    pub fragment: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    pub body: Body,
}

impl Packet {
    pub fn new(src: Addr4, dst: Addr4, body: Body) -> Self {
        Self {
            to: [0; 6],
            from: [0; 6],
            src,
            dst,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            fragment: DONT_FRAGMENT,
            options: Vec::new(),
            body,
        }
    }

    pub fn macs(mut self, to: MacAddr, from: MacAddr) -> Self {
        (self.to, self.from) = (to, from);
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn src(mut self, src: Addr4) -> Self {
        self.src = src;
        self
    }

    pub fn dst(mut self, dst: Addr4) -> Self {
        self.dst = dst;
        self
    }

    pub fn fragment(mut self, fragment: u16) -> Self {
        self.fragment = fragment;
        self
    }

    /// A "no operation" option and the padding to four bytes.
    pub fn with_options(mut self) -> Self {
        self.options = vec![1, 1, 1, 0];
        self
    }

    /// Another source port; for an echo message, another identifier.
    pub fn sport(mut self, port: u16) -> Self {
        self.body.set_sport(port);
        self
    }

    /// Another destination port; for an echo message, another identifier.
    pub fn dport(mut self, port: u16) -> Self {
        self.body.set_dport(port);
        self
    }

    /// Other data.
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

    /// The transport header and its data.
    pub fn segment(&self) -> Vec<u8> {
        self.body.segment(&self.src, &self.dst, ICMP)
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let segment = self.segment();
        let header_len = 20 + self.options.len();
        let mut out = vec![0x40 | (header_len / 4) as u8, self.tos];
        out.extend(((header_len + segment.len()) as u16).to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.extend(self.fragment.to_be_bytes());
        out.extend([self.ttl, self.body.protocol(ICMP), 0, 0]);
        out.extend(self.src);
        out.extend(self.dst);
        out.extend(&self.options);
        let sum = internet_checksum(&out);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(segment);
        out
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.to);
        out.extend(self.from);
        out.extend([0x08, 0x00]);
        out.extend(self.ip());
        out
    }

    /// What an ICMP error quotes of the packet: its header and `bytes` of what follows.
    pub fn quote(&self, bytes: usize) -> Vec<u8> {
        let mut out = self.ip();
        out.truncate(20 + self.options.len() + bytes);
        out
    }

    /// The packet in fragments of at most `size` bytes (a multiple of eight) of what follows the IP
    /// header, in order.
    pub fn split(&self, size: usize) -> Vec<Self> {
        let segment = self.segment();
        let protocol = self.body.protocol(ICMP);
        let count = segment.len().div_ceil(size);
        segment
            .chunks(size)
            .enumerate()
            .map(|(i, bytes)| {
                let more = if i + 1 < count { MORE_FRAGMENTS } else { 0 };
                Self {
                    fragment: (i * size / 8) as u16 | more,
                    body: Body::Raw {
                        protocol,
                        bytes: bytes.to_vec(),
                    },
                    ..self.clone()
                }
            })
            .collect()
    }
}

pub fn tcp(src: Addr4, sport: u16, dst: Addr4, dport: u16, control: u8) -> Packet {
    Packet::new(src, dst, Body::Tcp(Tcp::new(sport, dport, control)))
}

pub fn udp(src: Addr4, sport: u16, dst: Addr4, dport: u16) -> Packet {
    Packet::new(src, dst, Body::udp(sport, dport))
}

pub fn udp_without_checksum(src: Addr4, sport: u16, dst: Addr4, dport: u16) -> Packet {
    Packet::new(
        src,
        dst,
        Body::Udp {
            sport,
            dport,
            data: b"none".to_vec(),
            checksum: false,
        },
    )
}

pub fn sctp(src: Addr4, sport: u16, dst: Addr4, dport: u16, chunk: u8) -> Packet {
    Packet::new(src, dst, Body::sctp(sport, dport, chunk))
}

/// UDP-Lite or DCCP, whose checksum lies where UDP has its.
pub fn lite(protocol: u8, src: Addr4, sport: u16, dst: Addr4, dport: u16) -> Packet {
    Packet::new(src, dst, Body::lite(protocol, sport, dport))
}

pub fn raw(src: Addr4, dst: Addr4, protocol: u8) -> Packet {
    Packet::new(src, dst, Body::raw(protocol))
}

pub fn icmp(src: Addr4, dst: Addr4, kind: u8, code: u8, rest: [u8; 4], data: Vec<u8>) -> Packet {
    Packet::new(
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

pub fn echo(src: Addr4, dst: Addr4, id: u16) -> Packet {
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, 8, 0, [a, b, 0, 1], b"ping data".to_vec())
}

pub fn echo_reply(src: Addr4, dst: Addr4, id: u16) -> Packet {
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, 0, 0, [a, b, 0, 1], b"ping data".to_vec())
}

pub fn time_exceeded(src: Addr4, dst: Addr4, quote: Vec<u8>) -> Packet {
    icmp(src, dst, 11, 0, [0; 4], quote)
}

pub fn fragmentation_needed(src: Addr4, dst: Addr4, mtu: u16, quote: Vec<u8>) -> Packet {
    let [a, b] = mtu.to_be_bytes();
    icmp(src, dst, 3, 4, [0, 0, a, b], quote)
}

/// The answer to a packet that policy refuses: from `own`, back the way the packet came.
pub fn port_unreachable(own: Addr4, refused: &Packet) -> Packet {
    unreachable(own, refused, 3)
}

/// The answer to a packet for which there is no port, room or address.
pub fn prohibited(own: Addr4, refused: &Packet) -> Packet {
    unreachable(own, refused, 13)
}

fn unreachable(own: Addr4, refused: &Packet, code: u8) -> Packet {
    let mut answer = icmp(own, refused.src, 3, code, [0; 4], refused.quote(8));
    answer.tos = 0xc0;
    answer.id = 0;
    answer.fragment = 0;
    answer.macs(refused.from, refused.to)
}
