//! A guest that is gone gives its lease back: the message that it would have sent (DHCPRELEASE, RFC 2131,
//! section 4.4.6).

use std::net::Ipv4Addr;

use crate::model::Mac;

/// The fixed part of a BOOTP message and the magic cookie (RFC 951, RFC 2131).
const BOOTP: usize = 240;

/// The packet, without the header's checksum, by which `guest` gives `address` back to the server at
/// `server`. It is for everybody on the link, which takes no question who has the server's address.
#[must_use]
pub fn packet(guest: Mac, address: Ipv4Addr, server: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0; BOOTP];
    // BOOTREQUEST by Ethernet, with addresses of six bytes.
    message[..3].copy_from_slice(&[1, 1, 6]);
    // Which transaction it is concerns nobody: nothing is answered.
    message[4..8].copy_from_slice(&guest.0[2..]);
    message[12..16].copy_from_slice(&address.octets());
    message[28..34].copy_from_slice(&guest.0);
    message[236..240].copy_from_slice(&[99, 130, 83, 99]);
    // DHCPRELEASE, to that server; the end.
    message.extend([53, 1, 7, 54, 4]);
    message.extend(server.octets());
    message.push(255);

    let udp_length = 8 + message.len();
    let length = 20 + udp_length;
    let mut packet = vec![0x45, 0];
    packet.extend((length as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(address.octets());
    packet.extend(Ipv4Addr::BROADCAST.octets());
    // From the client's port to the server's, without a checksum.
    packet.extend([0, 68, 0, 67]);
    packet.extend((udp_length as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(message);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_says_who_gives_what_back_to_whom() {
        let guest = Mac([0x52, 0x54, 0, 0, 0, 9]);
        let address = Ipv4Addr::new(10, 0, 0, 5);
        let packet = packet(guest, address, Ipv4Addr::new(10, 0, 0, 1));
        let (ip, rest) = packet.split_at(20);
        let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        assert_eq!(length, packet.len());
        assert_eq!(ip[12..], [10, 0, 0, 5, 255, 255, 255, 255]);
        let (udp, message) = rest.split_at(8);
        assert_eq!(udp, [0, 68, 0, 67, 1, 2, 0, 0]);
        assert_eq!(message.len(), 0x102 - 8);
        assert_eq!(message[12..16], address.octets());
        assert_eq!(message[28..34], guest.0);
        assert_eq!(message[240..], [53, 1, 7, 54, 4, 10, 0, 0, 1, 255]);
    }
}
