//! Recomputes every checksum of a packet, knowing nothing of how netd changes them.

use crate::body::pseudo_header;

/// The Internet checksum (RFC 1071) of `bytes`; 0 when they contain a right one.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// SCTP's checksum (RFC 9260, appendix A), bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low == 1 {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    !crc
}

/// An IP packet taken apart.
struct Parts<'a> {
    src: &'a [u8],
    dst: &'a [u8],
    protocol: u8,
    fragment: bool,
    /// Where the transport header begins.
    start: usize,
    /// Where the packet ends by its header.
    end: usize,
}

/// Check an IP packet (what follows it in the frame is padding).
pub fn check(packet: &[u8]) -> Result<(), String> {
    let parts = parts(packet)?;
    if parts.end > packet.len() {
        return Err(format!(
            "{} bytes by the header, {} there",
            parts.end,
            packet.len()
        ));
    }
    transport(&parts, &packet[parts.start..parts.end])
}

fn parts(packet: &[u8]) -> Result<Parts<'_>, String> {
    match packet.first().ok_or("empty")? >> 4 {
        4 => parts4(packet),
        6 => parts6(packet),
        other => Err(format!("no IP header: version {other}")),
    }
}

fn parts4(packet: &[u8]) -> Result<Parts<'_>, String> {
    let start = usize::from(packet[0] & 15) * 4;
    if start < 20 || packet.len() < start {
        return Err(format!("no IPv4 header: starts with {:#x}", packet[0]));
    }
    if internet_checksum(&packet[..start]) != 0 {
        return Err("IP header checksum is wrong".to_owned());
    }
    let end = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if end < start {
        return Err(format!("total length {end} is less than the header"));
    }
    Ok(Parts {
        src: &packet[12..16],
        dst: &packet[16..20],
        protocol: packet[9],
        fragment: u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0,
        start,
        end,
    })
}

const CUT_EXTENSION: &str = "extension header is cut short";

/// The length that an IPv6 header tells.
fn length6(packet: &[u8]) -> usize {
    40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))
}

fn parts6(packet: &[u8]) -> Result<Parts<'_>, String> {
    if packet.len() < 40 {
        return Err("IPv6 header is cut short".to_owned());
    }
    let end = length6(packet);
    let mut parts = Parts {
        src: &packet[8..24],
        dst: &packet[24..40],
        protocol: packet[6],
        fragment: false,
        start: 40,
        end,
    };
    // What is behind an authentication header no translation can keep right, since that covers the
    // addresses (RFC 3715, section 2.1): it is a protocol of its own, as in IPv4.
    loop {
        let words = match parts.protocol {
            0 | 43 | 60 => |len: u8| (usize::from(len) + 1) * 8,
            44 => |_| 8,
            _ => return Ok(parts),
        };
        let head = packet.get(parts.start..parts.start + 4);
        let head = head.ok_or(CUT_EXTENSION)?;
        if parts.protocol == 44 {
            parts.fragment |= u16::from_be_bytes([head[2], head[3]]) & 0xfff9 != 0;
        }
        parts.start += words(head[1]);
        parts.protocol = head[0];
        if parts.start > end {
            return Err("extension headers are longer than the packet".to_owned());
        }
        if parts.fragment {
            return Ok(parts);
        }
    }
}

fn transport(parts: &Parts<'_>, segment: &[u8]) -> Result<(), String> {
    if parts.fragment {
        return Ok(());
    }
    let v6 = parts.src.len() == 16;
    let with_pseudo_header = || {
        let mut all = pseudo_header(parts.src, parts.dst, parts.protocol, segment.len());
        all.extend(segment);
        internet_checksum(&all)
    };
    match parts.protocol {
        6 => {
            if segment.len() < 20 || usize::from(segment[12] >> 4) * 4 > segment.len() {
                return Err("TCP header is cut short".to_owned());
            }
            if with_pseudo_header() != 0 {
                return Err("TCP checksum is wrong".to_owned());
            }
        }
        17 => {
            if segment.len() < 8 {
                return Err("UDP header is cut short".to_owned());
            }
            if segment[6..8] == [0, 0] {
                // RFC 8200, section 8.1, forbids it.
                return if v6 {
                    Err("UDP over IPv6 without checksum".to_owned())
                } else {
                    Ok(())
                };
            }
            if with_pseudo_header() != 0 {
                return Err("UDP checksum is wrong".to_owned());
            }
        }
        132 => {
            if segment.len() < 12 {
                return Err("SCTP header is cut short".to_owned());
            }
            let mut zeroed = segment.to_vec();
            zeroed[8..12].fill(0);
            if crc32c(&zeroed).to_le_bytes() != segment[8..12] {
                return Err("SCTP checksum is wrong".to_owned());
            }
        }
        1 | 58 if (parts.protocol == 58) == v6 => {
            if segment.len() < 8 {
                return Err("ICMP header is cut short".to_owned());
            }
            let sum = if v6 {
                with_pseudo_header()
            } else {
                internet_checksum(segment)
            };
            if sum != 0 {
                return Err("ICMP checksum is wrong".to_owned());
            }
            let is_error = if v6 {
                matches!(segment[0], 1..=4)
            } else {
                matches!(segment[0], 3 | 4 | 5 | 11 | 12)
            };
            if is_error {
                quoted(&segment[8..]).map_err(|why| format!("quoted packet: {why}"))?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The packet that an ICMP error quotes: its header, and its transport checksum where all of it
/// is there.
fn quoted(packet: &[u8]) -> Result<(), String> {
    let parts = match parts(packet) {
        // A quote of the first bytes may end in the middle of an extension header.
        Err(why) if why == CUT_EXTENSION && packet.len() < length6(packet) => return Ok(()),
        parts => parts?,
    };
    // SCTP's covers all of the packet, and is quoted as it was before translation: nobody reads it.
    if parts.end <= packet.len() && parts.protocol != 132 {
        transport(&parts, &packet[parts.start..parts.end])
    } else {
        Ok(())
    }
}

/// A frame for people: what it is, whether it is right, and its bytes.
pub fn describe(frame: &[u8], l3: usize) -> String {
    let mut out = String::new();
    if l3 == 14 && frame.len() >= 14 {
        out += &format!("{} <- {}", mac(&frame[..6]), mac(&frame[6..12]));
    }
    out += &describe_ip(frame.get(l3..).unwrap_or_default());
    for (i, line) in frame.chunks(16).enumerate() {
        out += &format!("\n    {:04x} ", i * 16);
        for byte in line {
            out += &format!(" {byte:02x}");
        }
    }
    out
}

fn describe_ip(packet: &[u8]) -> String {
    let parts = match parts(packet) {
        Ok(parts) => parts,
        Err(why) => return format!(" {why}"),
    };
    let address = |bytes: &[u8]| -> String {
        match <[u8; 4]>::try_from(bytes) {
            Ok(v4) => std::net::Ipv4Addr::from(v4).to_string(),
            Err(_) => <[u8; 16]>::try_from(bytes)
                .map(|v6| std::net::Ipv6Addr::from(v6).to_string())
                .unwrap_or_default(),
        }
    };
    let v6 = parts.src.len() == 16;
    let mut out = format!(
        " {} -> {} protocol {} ttl {} length {}{}",
        address(parts.src),
        address(parts.dst),
        parts.protocol,
        packet[if v6 { 7 } else { 8 }],
        parts.end,
        if parts.fragment { " fragment" } else { "" }
    );
    let l4 = packet.get(parts.start..).unwrap_or_default();
    let word = |at: usize| l4.get(at..at + 2).map(|w| u16::from_be_bytes([w[0], w[1]]));
    match parts.protocol {
        1 | 58 => {
            out += &format!(" ICMP {:?} id {:?}", l4.get(..2), word(4));
            let error = matches!(
                (v6, l4.first()),
                (false, Some(3 | 4 | 5 | 11 | 12)) | (true, Some(1..=4))
            );
            if error {
                out += &format!(
                    " quoting{{{}}}",
                    describe_ip(l4.get(8..).unwrap_or_default())
                );
            }
        }
        6 | 17 | 33 | 132 | 136 => out += &format!(" ports {:?} -> {:?}", word(0), word(2)),
        _ => {}
    }
    match check(packet) {
        Ok(()) => out,
        Err(why) => format!("{out} BAD: {why}"),
    }
}

fn mac(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    hex.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{sctp, tcp, time_exceeded};
    use crate::packet6::{DESTINATION, extension, packet_too_big};

    /// The checker has to find a wrong bit wherever it is.
    #[test]
    fn every_flipped_bit_is_found() {
        let inner = tcp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 80, 2);
        let error = time_exceeded([10, 0, 0, 3], [10, 0, 0, 1], inner.ip());
        let other = sctp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 80, 1);
        for packet in [inner.ip(), error.ip(), other.ip()] {
            assert_eq!(check(&packet), Ok(()));
            for bit in 0..packet.len() * 8 {
                let mut broken = packet.clone();
                broken[bit / 8] ^= 1 << (bit % 8);
                // The fragment bits hide the rest, and an unknown protocol has no checksum;
                // both are in the IP header, whose own checksum speaks up.
                assert!(check(&broken).is_err(), "bit {bit} of {packet:02x?}");
            }
        }
    }

    /// IPv6 has no checksum of its header: the addresses and what the transport covers.
    #[test]
    fn every_flipped_bit_that_is_covered_is_found_in_ipv6() {
        let (a, b) = ([0x20; 16], [0x30; 16]);
        let inner = tcp(a, 1000, b, 80, 2).with(extension(DESTINATION, 2));
        let error = packet_too_big(b, a, 1280, inner.ip());
        for (packet, start) in [(inner.ip(), 56), (error.ip(), 40)] {
            assert_eq!(check(&packet), Ok(()));
            for bit in (8 * 8..40 * 8).chain(start * 8..packet.len() * 8) {
                let mut broken = packet.clone();
                broken[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&broken).is_err(), "bit {bit} of {packet:02x?}");
            }
        }
        assert_eq!(check(&sctp(a, 1, b, 2, 1).ip()), Ok(()));
    }

    #[test]
    fn the_crc_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_known_good_packet_is_good() {
        // Summed by hand: 4500 + 001c + 4011 + 0a00 + 0001 + 0a00 + 0002 = 9930, and 1427.
        let packet = [
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcf, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2,
            0, 8, 0xeb, 0xd8,
        ];
        assert_eq!(check(&packet), Ok(()));
    }
}
