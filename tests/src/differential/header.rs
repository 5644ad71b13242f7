//! Reading packets.

use std::fmt;
use std::net::IpAddr;

use super::cast::Family;

/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// TCP's.
pub const TCP: u8 = 6;
/// UDP's.
pub const UDP: u8 = 17;
/// ICMPv6's.
pub const ICMP6: u8 = 58;
/// SCTP's.
pub const SCTP: u8 = 132;
/// IPv6's hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// IPv6's destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
/// IPv6's header of fragments.
pub const FRAGMENT: u8 = 44;
/// Types of echo request and reply, by family.
pub const ECHO: [(u8, u8); 2] = [(8, 0), (128, 129)];

/// What the harness reads of an IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Address family.
    pub family: Family,
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Protocol, after extension headers.
    pub protocol: u8,
    /// Identification, or the low half of the flow label.
    pub tag: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Offset of what follows the header.
    pub l4: usize,
    /// End by the header's own account, within the bytes there are.
    pub end: usize,
    /// Length by the header's own account.
    pub claimed: usize,
    /// Offset in bytes and "more fragments", where it is a fragment.
    pub fragment: Option<(usize, bool)>,
}

impl Header {
    /// Reads a packet's header; `None` where there is none, or only a part.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read4(packet),
            6 => Self::read6(packet),
            _ => None,
        }
    }

    fn read4(packet: &[u8]) -> Option<Self> {
        let l4 = usize::from(packet[0] & 0x0f) * 4;
        if l4 < 20 || packet.len() < l4 {
            return None;
        }
        let address = |at: usize| -> Option<[u8; 4]> { packet[at..at + 4].try_into().ok() };
        let field = word(packet, 6)?;
        let claimed = usize::from(word(packet, 2)?);
        Some(Self {
            family: Family::V4,
            source: address(12)?.into(),
            destination: address(16)?.into(),
            protocol: packet[9],
            tag: word(packet, 4)?,
            ttl: packet[8],
            l4,
            end: claimed.clamp(l4, packet.len()),
            claimed,
            fragment: (field & 0x3fff != 0)
                .then_some((usize::from(field & 0x1fff) * 8, field & 0x2000 != 0)),
        })
    }

    fn read6(packet: &[u8]) -> Option<Self> {
        if packet.len() < 40 {
            return None;
        }
        let address = |at: usize| -> Option<[u8; 16]> { packet[at..at + 16].try_into().ok() };
        let claimed = usize::from(word(packet, 4)?) + 40;
        let (mut protocol, mut l4, mut fragment) = (packet[6], 40, None);
        while matches!(protocol, HOP_BY_HOP | DESTINATION_OPTIONS) {
            protocol = *packet.get(l4)?;
            l4 += (usize::from(*packet.get(l4 + 1)?) + 1) * 8;
        }
        if protocol == FRAGMENT {
            let field = word(packet, l4 + 2)?;
            fragment = Some((usize::from(field & 0xfff8), field & 1 != 0));
            protocol = packet[l4];
            l4 += 8;
        }
        Some(Self {
            family: Family::V6,
            source: address(8)?.into(),
            destination: address(24)?.into(),
            protocol,
            tag: word(packet, 2)?,
            ttl: packet[7],
            l4,
            end: claimed.clamp(l4, packet.len().max(l4)),
            claimed,
            fragment,
        })
    }

    /// Is the beginning of the transport header here?
    #[must_use]
    pub fn has_start(&self) -> bool {
        self.fragment.is_none_or(|(offset, _)| offset == 0)
    }

    /// Is it ICMP or ICMPv6?
    #[must_use]
    pub fn is_icmp(&self) -> bool {
        self.protocol
            == match self.family {
                Family::V4 => ICMP,
                Family::V6 => ICMP6,
            }
    }

    /// Type and code of ICMP.
    #[must_use]
    pub fn icmp(&self, packet: &[u8]) -> Option<(u8, u8)> {
        if !self.is_icmp() || !self.has_start() {
            return None;
        }
        Some((*packet.get(self.l4)?, *packet.get(self.l4 + 1)?))
    }

    /// The packet that an ICMP error quotes starts there.
    #[must_use]
    pub fn quote(&self, packet: &[u8]) -> Option<usize> {
        let (kind, _) = self.icmp(packet)?;
        let is_error = match self.family {
            Family::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
            Family::V6 => kind < 128,
        };
        (is_error && self.end > self.l4 + 8).then_some(self.l4 + 8)
    }

    /// Offsets of the ports of source and destination, as far as the bytes reach: an ICMP
    /// query has one identifier, which is the port of whoever asked.
    #[must_use]
    pub fn ports(&self, packet: &[u8]) -> (Option<usize>, Option<usize>) {
        let there = |at: usize| (at + 2 <= packet.len()).then_some(at);
        if !self.has_start() {
            return (None, None);
        }
        match self.protocol {
            TCP | UDP | SCTP => (there(self.l4), there(self.l4 + 2)),
            _ => match (self.family, self.icmp(packet)) {
                (Family::V4, Some((8 | 13 | 15 | 17, 0))) | (Family::V6, Some((128, 0))) => {
                    (there(self.l4 + 4), None)
                }
                (Family::V4, Some((0 | 14 | 16 | 18, 0))) | (Family::V6, Some((129, 0))) => {
                    (None, there(self.l4 + 4))
                }
                _ => (None, None),
            },
        }
    }
}

/// Where the header of an IPv6 fragment is announced: in the first header, or in the last one of options
/// before it.
#[must_use]
pub fn announces_fragment(packet: &[u8]) -> usize {
    let (mut at, mut next) = (6, 40);
    while let (Some(&protocol), Some(&length)) = (packet.get(at), packet.get(next + 1))
        && protocol != FRAGMENT
    {
        at = next;
        next += (usize::from(length) + 1) * 8;
    }
    at
}

/// A number of two bytes.
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Offset of the checksum in a transport header.
#[must_use]
pub fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMP6 => Some(2),
        SCTP => Some(8),
        _ => None,
    }
}

/// A packet for people.
#[derive(Clone, Copy)]
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packet = self.0;
        let Some(header) = Header::read(packet) else {
            return write!(out, "{} bytes {packet:02x?}", packet.len());
        };
        let (source, destination) = header.ports(packet);
        let port = |at: Option<usize>| {
            at.and_then(|at| word(packet, at))
                .map_or(String::new(), |port| format!(":{port}"))
        };
        write!(
            out,
            "{}{} > {}{} ",
            header.source,
            port(source),
            header.destination,
            port(destination)
        )?;
        let byte = |at: usize| packet.get(header.l4 + at).copied().unwrap_or_default();
        match header.protocol {
            TCP if header.has_start() => {
                let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
                let set: Vec<&str> = (0..6)
                    .filter(|bit| byte(13) & (1 << bit) != 0)
                    .map(|bit| names[bit])
                    .collect();
                let number = |at: usize| {
                    u32::from_be_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)])
                };
                write!(
                    out,
                    "TCP [{}] seq {} ack {}",
                    set.join(" "),
                    number(4),
                    number(8)
                )?;
            }
            TCP => write!(out, "TCP")?,
            UDP => write!(out, "UDP")?,
            SCTP => write!(out, "SCTP chunk {}", byte(12))?,
            protocol => match header.icmp(packet) {
                Some((kind, code)) => write!(out, "ICMP {kind}/{code}")?,
                None => write!(out, "protocol {protocol}")?,
            },
        }
        write!(
            out,
            " length {} ttl {} id {:#06x}",
            header.claimed, header.ttl, header.tag
        )?;
        if header.family == Family::V4 {
            if packet[6] & 0x40 != 0 {
                write!(out, " DF")?;
            }
            if packet[1] != 0 {
                write!(out, " tos {:#x}", packet[1])?;
            }
            if header.l4 > 20 {
                write!(out, " options {:02x?}", &packet[20..header.l4])?;
            }
        }
        if let Some((offset, more)) = header.fragment {
            write!(
                out,
                " fragment at {offset}{}",
                if more { ", more" } else { "" }
            )?;
        }
        if let Some(at) = checksum_at(header.protocol)
            && header.has_start()
            && let Some(sum) = word(packet, header.l4 + at)
        {
            write!(out, " sum {sum:#06x}")?;
        }
        if packet.len() != header.claimed {
            write!(out, " ({} bytes here)", packet.len())?;
        }
        if let Some(at) = header.quote(packet) {
            write!(out, " rest {:02x?}", &packet[header.l4 + 4..at])?;
            write!(out, " quoting {{{}}}", Shown(&packet[at..header.end]))?;
        }
        Ok(())
    }
}
