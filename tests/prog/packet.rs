//! Builds Ethernet frames with right checksums, all of them computed from scratch.

use netd_common::abi::{Addr4, MacAddr};

use crate::checker::internet_checksum;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

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

/// What an IPv4 packet carries.
#[derive(Clone, Debug)]
pub enum Body {
    Tcp {
        sport: u16,
        dport: u16,
        control: u8,
        data: Vec<u8>,
    },
    Udp {
        sport: u16,
        dport: u16,
        data: Vec<u8>,
        /// `false` leaves the checksum out (0), as RFC 768 allows.
        checksum: bool,
    },
    Icmp {
        kind: u8,
        code: u8,
        /// The four bytes after the checksum.
        rest: [u8; 4],
        data: Vec<u8>,
    },
    /// Any protocol: bytes as they are.
    Raw { protocol: u8, bytes: Vec<u8> },
}

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
        match &mut self.body {
            Body::Tcp { sport, .. } | Body::Udp { sport, .. } => *sport = port,
            Body::Icmp { rest, .. } => rest[..2].copy_from_slice(&port.to_be_bytes()),
            Body::Raw { .. } => panic!("no port in a raw body"),
        }
        self
    }

    /// Another destination port; for an echo message, another identifier.
    pub fn dport(mut self, port: u16) -> Self {
        match &mut self.body {
            Body::Tcp { dport, .. } | Body::Udp { dport, .. } => *dport = port,
            Body::Icmp { rest, .. } => rest[..2].copy_from_slice(&port.to_be_bytes()),
            Body::Raw { .. } => panic!("no port in a raw body"),
        }
        self
    }

    /// Other data.
    pub fn data(mut self, bytes: Vec<u8>) -> Self {
        match &mut self.body {
            Body::Tcp { data, .. } | Body::Udp { data, .. } | Body::Icmp { data, .. } => {
                *data = bytes;
            }
            Body::Raw { bytes: raw, .. } => *raw = bytes,
        }
        self
    }

    fn protocol(&self) -> u8 {
        match &self.body {
            Body::Tcp { .. } => TCP,
            Body::Udp { .. } => UDP,
            Body::Icmp { .. } => ICMP,
            Body::Raw { protocol, .. } => *protocol,
        }
    }

    /// The pseudo-header of TCP and UDP (RFC 9293, 3.1) in front of `segment`.
    fn with_pseudo_header(&self, segment: &[u8]) -> Vec<u8> {
        let mut all = Vec::with_capacity(segment.len() + 12);
        all.extend(self.src);
        all.extend(self.dst);
        all.extend([0, self.protocol()]);
        all.extend((segment.len() as u16).to_be_bytes());
        all.extend(segment);
        all
    }

    /// The transport header and its data.
    pub fn segment(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match &self.body {
            Body::Tcp {
                sport,
                dport,
                control,
                data,
            } => {
                out.extend(sport.to_be_bytes());
                out.extend(dport.to_be_bytes());
                out.extend(0x0102_0304u32.to_be_bytes());
                out.extend(0x0506_0708u32.to_be_bytes());
                out.extend([0x50, *control]);
                out.extend(64240u16.to_be_bytes());
                out.extend([0; 4]);
                out.extend(data);
                let sum = internet_checksum(&self.with_pseudo_header(&out));
                out[16..18].copy_from_slice(&sum.to_be_bytes());
            }
            Body::Udp {
                sport,
                dport,
                data,
                checksum,
            } => {
                out.extend(sport.to_be_bytes());
                out.extend(dport.to_be_bytes());
                out.extend((data.len() as u16 + 8).to_be_bytes());
                out.extend([0; 2]);
                out.extend(data);
                if *checksum {
                    let sum = internet_checksum(&self.with_pseudo_header(&out));
                    let sum = if sum == 0 { 0xffff } else { sum };
                    out[6..8].copy_from_slice(&sum.to_be_bytes());
                }
            }
            Body::Icmp {
                kind,
                code,
                rest,
                data,
            } => {
                out.extend([*kind, *code, 0, 0]);
                out.extend(rest);
                out.extend(data);
                let sum = internet_checksum(&out);
                out[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            Body::Raw { bytes, .. } => out.extend(bytes),
        }
        out
    }

    /// The IP packet.
    pub fn ip(&self) -> Vec<u8> {
        let segment = self.segment();
        let header_len = 20 + self.options.len();
        let mut out = vec![0x40 | (header_len / 4) as u8, self.tos];
        out.extend(((header_len + segment.len()) as u16).to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.extend(self.fragment.to_be_bytes());
        out.extend([self.ttl, self.protocol(), 0, 0]);
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
}

pub fn tcp(src: Addr4, sport: u16, dst: Addr4, dport: u16, control: u8) -> Packet {
    Packet::new(
        src,
        dst,
        Body::Tcp {
            sport,
            dport,
            control,
            data: b"abc".to_vec(),
        },
    )
}

pub fn udp(src: Addr4, sport: u16, dst: Addr4, dport: u16) -> Packet {
    Packet::new(
        src,
        dst,
        Body::Udp {
            sport,
            dport,
            data: b"0123456789abcdefghijklmno".to_vec(),
            checksum: true,
        },
    )
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

pub fn raw(src: Addr4, dst: Addr4, protocol: u8) -> Packet {
    Packet::new(
        src,
        dst,
        Body::Raw {
            protocol,
            bytes: (0..24).collect(),
        },
    )
}

fn icmp(src: Addr4, dst: Addr4, kind: u8, code: u8, rest: [u8; 4], data: Vec<u8>) -> Packet {
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

/// The answer to a refused packet: from `own`, back the way the packet came.
pub fn port_unreachable(own: Addr4, refused: &Packet) -> Packet {
    let mut answer = icmp(own, refused.src, 3, 3, [0; 4], refused.quote(8));
    answer.tos = 0xc0;
    answer.id = 0;
    answer.fragment = 0;
    answer.macs(refused.from, refused.to)
}
