//! Recomputes every checksum of a packet, knowing nothing of how netd changes them.

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

/// Check an IPv4 packet (what follows it in the frame is padding).
pub fn check(packet: &[u8]) -> Result<(), String> {
    let (header_len, total) = header(packet)?;
    if total > packet.len() {
        return Err(format!(
            "{total} bytes by the header, {} there",
            packet.len()
        ));
    }
    transport(&packet[..header_len], &packet[header_len..total])
}

fn header(packet: &[u8]) -> Result<(usize, usize), String> {
    let first = *packet.first().ok_or("empty")?;
    let header_len = usize::from(first & 15) * 4;
    if first >> 4 != 4 || header_len < 20 || packet.len() < header_len {
        return Err(format!("no IPv4 header: starts with {first:#x}"));
    }
    if internet_checksum(&packet[..header_len]) != 0 {
        return Err("IP header checksum is wrong".to_owned());
    }
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if total < header_len {
        return Err(format!("total length {total} is less than the header"));
    }
    Ok((header_len, total))
}

fn transport(header: &[u8], segment: &[u8]) -> Result<(), String> {
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Ok(());
    }
    match header[9] {
        6 => {
            if segment.len() < 20 || usize::from(segment[12] >> 4) * 4 > segment.len() {
                return Err("TCP header is cut short".to_owned());
            }
            if with_pseudo_header(header, segment) != 0 {
                return Err("TCP checksum is wrong".to_owned());
            }
        }
        17 => {
            if segment.len() < 8 {
                return Err("UDP header is cut short".to_owned());
            }
            if segment[6..8] != [0, 0] && with_pseudo_header(header, segment) != 0 {
                return Err("UDP checksum is wrong".to_owned());
            }
        }
        1 => {
            if segment.len() < 8 {
                return Err("ICMP header is cut short".to_owned());
            }
            if internet_checksum(segment) != 0 {
                return Err("ICMP checksum is wrong".to_owned());
            }
            if matches!(segment[0], 3 | 4 | 5 | 11 | 12) {
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
    let (header_len, total) = header(packet)?;
    if total <= packet.len() {
        transport(&packet[..header_len], &packet[header_len..total])
    } else {
        Ok(())
    }
}

fn with_pseudo_header(header: &[u8], segment: &[u8]) -> u16 {
    let mut all = Vec::with_capacity(12 + segment.len());
    all.extend(&header[12..20]);
    all.extend([0, header[9]]);
    all.extend((segment.len() as u16).to_be_bytes());
    all.extend(segment);
    internet_checksum(&all)
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
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return " not IPv4".to_owned();
    }
    let dots = |at: usize| {
        let a: [u8; 4] = packet[at..at + 4].try_into().expect("four bytes");
        std::net::Ipv4Addr::from(a)
    };
    let mut out = format!(
        " {} -> {} protocol {} ttl {} length {}",
        dots(12),
        dots(16),
        packet[9],
        packet[8],
        u16::from_be_bytes([packet[2], packet[3]])
    );
    let l4 = packet
        .get(usize::from(packet[0] & 15) * 4..)
        .unwrap_or_default();
    let word = |at: usize| l4.get(at..at + 2).map(|w| u16::from_be_bytes([w[0], w[1]]));
    match packet[9] {
        1 => {
            out += &format!(" ICMP {:?} id {:?}", l4.get(..2), word(4));
            if matches!(l4.first(), Some(3 | 4 | 5 | 11 | 12)) {
                out += &format!(
                    " quoting{{{}}}",
                    describe_ip(l4.get(8..).unwrap_or_default())
                );
            }
        }
        6 | 17 => out += &format!(" ports {:?} -> {:?}", word(0), word(2)),
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
    use crate::packet::{tcp, time_exceeded};

    /// The checker has to find a wrong bit wherever it is.
    #[test]
    fn every_flipped_bit_is_found() {
        let inner = tcp([10, 0, 0, 1], 1000, [10, 0, 0, 2], 80, 2);
        let error = time_exceeded([10, 0, 0, 3], [10, 0, 0, 1], inner.ip());
        for packet in [inner.ip(), error.ip()] {
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
