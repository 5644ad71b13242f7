//! Builds Ethernet frames with packets of either IP version. Every checksum is computed from scratch.

use std::fmt::Debug;

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

/// What differs between the IP versions, by their addresses.
pub trait Version: Copy + Debug + AsRef<[u8]> {
    /// What else is in the header.
    type Header: Clone + Debug + Default;
    /// ICMP's protocol number.
    const ICMP: u8;
    /// The number of the version in Ethernet's header.
    const ETHER_TYPE: [u8; 2];
    /// Types of ICMP messages.
    const ECHO: u8;
    const ECHO_REPLY: u8;
    const TIME_EXCEEDED: u8;
    /// Type of the error "unreachable", and its codes for a port and for what is prohibited.
    const UNREACHABLE: (u8, u8, u8);

    /// All headers before the transport header, with what is in `segment` behind them.
    fn headers(packet: &Packet<Self>, segment: &[u8]) -> Vec<u8>;
    /// The header of an error that a program makes itself.
    fn header_of_answers() -> Self::Header;
    /// The header of a RST that a program makes itself.
    fn header_of_resets() -> Self::Header;
}

/// A packet in an Ethernet frame. Tests change a copy's fields to say what they expect.
#[derive(Clone, Debug)]
pub struct Packet<A: Version = Addr4> {
    pub to: MacAddr,
    pub from: MacAddr,
    pub src: A,
    pub dst: A,
    /// The hop limit, too.
    pub ttl: u8,
    pub header: A::Header,
    pub body: Body,
}

/// What else is in an IPv4 header.
#[derive(Clone, Debug)]
pub struct Header4 {
    pub tos: u8,
    pub id: u16,
    /// Flags and offset.
    pub fragment: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
}

impl Default for Header4 {
    fn default() -> Self {
        Self {
            tos: 0,
            id: 0x1234,
            fragment: DONT_FRAGMENT,
            options: Vec::new(),
        }
    }
}

impl Version for Addr4 {
    type Header = Header4;
    const ICMP: u8 = ICMP;
    const ETHER_TYPE: [u8; 2] = [0x08, 0x00];
    const ECHO: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const TIME_EXCEEDED: u8 = 11;
    const UNREACHABLE: (u8, u8, u8) = (3, 3, 13);

    fn headers(packet: &Packet, segment: &[u8]) -> Vec<u8> {
        let header = &packet.header;
        let header_len = 20 + header.options.len();
        let mut out = vec![0x40 | (header_len / 4) as u8, header.tos];
        out.extend(((header_len + segment.len()) as u16).to_be_bytes());
        out.extend(header.id.to_be_bytes());
        out.extend(header.fragment.to_be_bytes());
        out.extend([packet.ttl, packet.protocol(), 0, 0]);
        out.extend(packet.src);
        out.extend(packet.dst);
        out.extend(&header.options);
        let sum = internet_checksum(&out);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out
    }

    fn header_of_answers() -> Header4 {
        Header4 {
            tos: 0xc0,
            id: 0,
            fragment: 0,
            options: Vec::new(),
        }
    }

    fn header_of_resets() -> Header4 {
        Header4 {
            id: 0,
            ..Header4::default()
        }
    }
}

impl<A: Version> Packet<A> {
    pub fn new(src: A, dst: A, body: Body) -> Self {
        Self {
            to: [0; 6],
            from: [0; 6],
            src,
            dst,
            ttl: 64,
            header: A::Header::default(),
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

    pub fn src(mut self, src: A) -> Self {
        self.src = src;
        self
    }

    pub fn dst(mut self, dst: A) -> Self {
        self.dst = dst;
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

    /// The number of the transport protocol.
    pub fn protocol(&self) -> u8 {
        self.body.protocol(A::ICMP)
    }

    /// The transport header and its data.
    pub fn segment(&self) -> Vec<u8> {
        self.body
            .segment(self.src.as_ref(), self.dst.as_ref(), A::ICMP)
    }

    /// Length of all headers before the transport header.
    pub fn header_len(&self) -> usize {
        A::headers(self, &[]).len()
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut out = A::headers(self, &segment);
        out.extend(segment);
        out
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.to);
        out.extend(self.from);
        out.extend(A::ETHER_TYPE);
        out.extend(self.ip());
        out
    }

    /// What an ICMP error quotes of the packet: its headers and `bytes` of what follows.
    pub fn quote(&self, bytes: usize) -> Vec<u8> {
        let mut out = self.ip();
        out.truncate(self.header_len() + bytes);
        out
    }

    /// Pieces of at most `size` bytes of what follows the headers, in order; `header` is told of
    /// each where it begins, and whether more follow.
    pub fn pieces(&self, size: usize, header: impl Fn(usize, bool) -> A::Header) -> Vec<Self> {
        let (segment, protocol) = (self.segment(), self.protocol());
        let count = segment.len().div_ceil(size);
        let pieces = segment.chunks(size).enumerate().map(|(i, bytes)| Self {
            header: header(i * size, i + 1 < count),
            body: Body::Raw {
                protocol,
                bytes: bytes.to_vec(),
            },
            ..self.clone()
        });
        pieces.collect()
    }
}

impl Packet {
    pub fn fragment(mut self, fragment: u16) -> Self {
        self.header.fragment = fragment;
        self
    }

    /// A "no operation" option and the padding to four bytes.
    pub fn with_options(mut self) -> Self {
        self.header.options = vec![1, 1, 1, 0];
        self
    }

    /// The packet in fragments of at most `size` bytes (a multiple of eight) of what follows the IP
    /// header, in order.
    pub fn split(&self, size: usize) -> Vec<Self> {
        self.pieces(size, |offset, more| Header4 {
            fragment: (offset / 8) as u16 | if more { MORE_FRAGMENTS } else { 0 },
            ..self.header.clone()
        })
    }
}

pub fn tcp<A: Version>(src: A, sport: u16, dst: A, dport: u16, control: u8) -> Packet<A> {
    Packet::new(src, dst, Body::Tcp(Tcp::new(sport, dport, control)))
}

pub fn udp<A: Version>(src: A, sport: u16, dst: A, dport: u16) -> Packet<A> {
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

pub fn sctp<A: Version>(src: A, sport: u16, dst: A, dport: u16, chunk: u8) -> Packet<A> {
    Packet::new(src, dst, Body::sctp(sport, dport, chunk))
}

/// UDP-Lite or DCCP, whose checksum lies where UDP has its.
pub fn lite<A: Version>(protocol: u8, src: A, sport: u16, dst: A, dport: u16) -> Packet<A> {
    Packet::new(src, dst, Body::lite(protocol, sport, dport))
}

pub fn raw<A: Version>(src: A, dst: A, protocol: u8) -> Packet<A> {
    Packet::new(src, dst, Body::raw(protocol))
}

pub fn icmp<A: Version>(
    src: A,
    dst: A,
    kind: u8,
    code: u8,
    rest: [u8; 4],
    data: Vec<u8>,
) -> Packet<A> {
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

pub fn echo<A: Version>(src: A, dst: A, id: u16) -> Packet<A> {
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, A::ECHO, 0, [a, b, 0, 1], b"ping data".to_vec())
}

pub fn echo_reply<A: Version>(src: A, dst: A, id: u16) -> Packet<A> {
    let [a, b] = id.to_be_bytes();
    let data = b"ping data".to_vec();
    icmp(src, dst, A::ECHO_REPLY, 0, [a, b, 0, 1], data)
}

pub fn time_exceeded<A: Version>(src: A, dst: A, quote: Vec<u8>) -> Packet<A> {
    icmp(src, dst, A::TIME_EXCEEDED, 0, [0; 4], quote)
}

pub fn fragmentation_needed(src: Addr4, dst: Addr4, mtu: u16, quote: Vec<u8>) -> Packet {
    let [a, b] = mtu.to_be_bytes();
    icmp(src, dst, 3, 4, [0, 0, a, b], quote)
}

/// The answer to a packet that policy refuses: from `own`, back the way the packet came.
pub fn port_unreachable<A: Version>(own: A, refused: &Packet<A>) -> Packet<A> {
    unreachable(own, refused, A::UNREACHABLE.1)
}

/// The answer to a packet for which there is no port, room or address.
pub fn prohibited<A: Version>(own: A, refused: &Packet<A>) -> Packet<A> {
    unreachable(own, refused, A::UNREACHABLE.2)
}

/// The answer to a packet whose hops are used up.
pub fn hops_used_up<A: Version>(own: A, refused: &Packet<A>) -> Packet<A> {
    answer(time_exceeded(own, refused.src, refused.quote(8)), refused)
}

/// An ICMP error as netd answers with it, back the way the packet came.
pub fn answer<A: Version>(mut error: Packet<A>, refused: &Packet<A>) -> Packet<A> {
    error.header = A::header_of_answers();
    error.macs(refused.from, refused.to)
}

fn unreachable<A: Version>(own: A, refused: &Packet<A>, code: u8) -> Packet<A> {
    let (kind, ..) = A::UNREACHABLE;
    answer(
        icmp(own, refused.src, kind, code, [0; 4], refused.quote(8)),
        refused,
    )
}
