//! What an IP packet of either version carries.

use crate::checker::{crc32c, internet_checksum};
use crate::packet::{ICMPV6, SCTP, TCP, UDP};

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub control: u8,
    pub window: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    pub data: Vec<u8>,
}

impl Tcp {
    pub fn new(sport: u16, dport: u16, control: u8) -> Self {
        Self {
            sport,
            dport,
            seq: 0x0102_0304,
            ack: 0x0506_0708,
            control,
            window: 64240,
            options: Vec::new(),
            data: b"abc".to_vec(),
        }
    }
}

/// Transport header and data.
#[derive(Clone, Debug)]
pub enum Body {
    Tcp(Tcp),
    Udp {
        sport: u16,
        dport: u16,
        data: Vec<u8>,
        /// `false` leaves the checksum out (0), as RFC 768 allows for IPv4.
        checksum: bool,
    },
    /// ICMP or ICMPv6.
    Icmp {
        kind: u8,
        code: u8,
        /// The four bytes after the checksum.
        rest: [u8; 4],
        data: Vec<u8>,
    },
    Sctp {
        sport: u16,
        dport: u16,
        tag: u32,
        chunks: Vec<u8>,
    },
    /// UDP-Lite and DCCP: ports, a word, a checksum over everything.
    Lite {
        protocol: u8,
        sport: u16,
        dport: u16,
        word: [u8; 2],
        data: Vec<u8>,
    },
    /// Any protocol: bytes as they are.
    Raw {
        protocol: u8,
        bytes: Vec<u8>,
    },
}

impl Body {
    pub fn udp(sport: u16, dport: u16) -> Self {
        Self::Udp {
            sport,
            dport,
            data: b"0123456789abcdefghijklmno".to_vec(),
            checksum: true,
        }
    }

    /// One chunk of a type, of no content.
    pub fn sctp(sport: u16, dport: u16, chunk: u8) -> Self {
        Self::Sctp {
            sport,
            dport,
            tag: 0xabad_cafe,
            chunks: vec![chunk, 0, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8],
        }
    }

    pub fn lite(protocol: u8, sport: u16, dport: u16) -> Self {
        Self::Lite {
            protocol,
            sport,
            dport,
            word: [0; 2],
            data: b"0123456789abcdefghijklmno".to_vec(),
        }
    }

    pub fn raw(protocol: u8) -> Self {
        Self::Raw {
            protocol,
            bytes: (0..24).collect(),
        }
    }

    /// IP protocol number; ICMP's is the version's.
    pub fn protocol(&self, icmp: u8) -> u8 {
        match self {
            Self::Tcp(_) => TCP,
            Self::Udp { .. } => UDP,
            Self::Icmp { .. } => icmp,
            Self::Sctp { .. } => SCTP,
            Self::Lite { protocol, .. } | Self::Raw { protocol, .. } => *protocol,
        }
    }

    pub fn set_sport(&mut self, port: u16) {
        match self {
            Self::Tcp(Tcp { sport, .. })
            | Self::Udp { sport, .. }
            | Self::Sctp { sport, .. }
            | Self::Lite { sport, .. } => *sport = port,
            Self::Icmp { rest, .. } => rest[..2].copy_from_slice(&port.to_be_bytes()),
            Self::Raw { .. } => panic!("no port in a raw body"),
        }
    }

    pub fn set_dport(&mut self, port: u16) {
        match self {
            Self::Tcp(Tcp { dport, .. })
            | Self::Udp { dport, .. }
            | Self::Sctp { dport, .. }
            | Self::Lite { dport, .. } => *dport = port,
            Self::Icmp { rest, .. } => rest[..2].copy_from_slice(&port.to_be_bytes()),
            Self::Raw { .. } => panic!("no port in a raw body"),
        }
    }

    pub fn set_data(&mut self, bytes: Vec<u8>) {
        match self {
            Self::Tcp(Tcp { data, .. })
            | Self::Udp { data, .. }
            | Self::Icmp { data, .. }
            | Self::Lite { data, .. }
            | Self::Sctp { chunks: data, .. }
            | Self::Raw { bytes: data, .. } => *data = bytes,
        }
    }

    /// Header and data with the right checksum, between these addresses. `icmp` is the IP
    /// version's number of ICMP.
    pub fn segment(&self, src: &[u8], dst: &[u8], icmp: u8) -> Vec<u8> {
        let mut out = Vec::new();
        let sum = |out: &[u8]| {
            let mut all = pseudo_header(src, dst, self.protocol(icmp), out.len());
            all.extend(out);
            internet_checksum(&all)
        };
        match self {
            Self::Tcp(tcp) => {
                out.extend(tcp.sport.to_be_bytes());
                out.extend(tcp.dport.to_be_bytes());
                out.extend(tcp.seq.to_be_bytes());
                out.extend(tcp.ack.to_be_bytes());
                let words = 5 + tcp.options.len() / 4;
                out.extend([(words as u8) << 4, tcp.control]);
                out.extend(tcp.window.to_be_bytes());
                out.extend([0; 4]);
                out.extend(&tcp.options);
                out.extend(&tcp.data);
                let sum = sum(&out);
                out[16..18].copy_from_slice(&sum.to_be_bytes());
            }
            Self::Udp {
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
                    let sum = sum(&out);
                    let sum = if sum == 0 { 0xffff } else { sum };
                    out[6..8].copy_from_slice(&sum.to_be_bytes());
                }
            }
            Self::Icmp {
                kind,
                code,
                rest,
                data,
            } => {
                out.extend([*kind, *code, 0, 0]);
                out.extend(rest);
                out.extend(data);
                // ICMP has no pseudo-header, ICMPv6 has (RFC 4443, section 2.3).
                let sum = if icmp == ICMPV6 {
                    sum(&out)
                } else {
                    internet_checksum(&out)
                };
                out[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            Self::Sctp {
                sport,
                dport,
                tag,
                chunks,
            } => {
                out.extend(sport.to_be_bytes());
                out.extend(dport.to_be_bytes());
                out.extend(tag.to_be_bytes());
                out.extend([0; 4]);
                out.extend(chunks);
                // Least significant byte first (RFC 9260, appendix A).
                let sum = crc32c(&out);
                out[8..12].copy_from_slice(&sum.to_le_bytes());
            }
            Self::Lite {
                sport,
                dport,
                word,
                data,
                ..
            } => {
                out.extend(sport.to_be_bytes());
                out.extend(dport.to_be_bytes());
                out.extend(word);
                out.extend([0; 2]);
                out.extend(data);
                let sum = sum(&out);
                out[6..8].copy_from_slice(&sum.to_be_bytes());
            }
            Self::Raw { bytes, .. } => out.extend(bytes),
        }
        out
    }
}

/// The pseudo-header of either version (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub fn pseudo_header(src: &[u8], dst: &[u8], protocol: u8, len: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(len + 40);
    all.extend(src);
    all.extend(dst);
    if src.len() == 4 {
        all.extend([0, protocol]);
        all.extend((len as u16).to_be_bytes());
    } else {
        all.extend((len as u32).to_be_bytes());
        all.extend([0, 0, 0, protocol]);
    }
    all
}
