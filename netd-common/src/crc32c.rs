//! SCTP's checksum (CRC32c, RFC 9260, appendix A) and how it changes with the first four bytes of
//! a packet, its ports, without reading the others.
//!
//! A CRC is linear: the CRC of two packets' difference is the difference of their CRCs, initial
//! value and final inversion left out. The ports' difference is followed by as many zero bytes as
//! the packet has others, and a zero byte is one [`step`].

/// Castagnoli's polynomial, bits reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The register after a byte, by the byte.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The register after one more zero byte.
#[inline(always)]
#[must_use]
pub fn step(crc: u32) -> u32 {
    TABLE[(crc & 255) as usize] ^ (crc >> 8)
}

/// The register to begin with when a packet's first four bytes change from `old` to `new`. After
/// as many [`step`]s as the packet has bytes it holds what to add (exclusive or) to the checksum,
/// which is stored with its lowest byte first.
#[inline(always)]
#[must_use]
pub fn begin(old: [u8; 4], new: [u8; 4]) -> u32 {
    u32::from_le_bytes(old) ^ u32::from_le_bytes(new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc = step(crc ^ u32::from(*byte));
        }
        !crc
    }

    /// RFC 3720, B.4: 32 bytes of zeros.
    #[test]
    fn known_values() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn update_equals_recomputation(
            mut packet in proptest::collection::vec(any::<u8>(), 12..1600),
            ports: [u8; 4],
        ) {
            let before = crc32c(&packet);
            let old = [packet[0], packet[1], packet[2], packet[3]];
            packet[..4].copy_from_slice(&ports);
            let difference = packet.iter().fold(begin(old, ports), |crc, _| step(crc));
            prop_assert_eq!(before ^ difference, crc32c(&packet));
        }
    }
}
