//! SCTP's checksum (CRC32c, RFC 9260, appendix A) and how it changes with the first four bytes of
//! a packet, its ports, without reading the others.
//!
//! A CRC is linear: the CRC of two packets' difference is the difference of their CRCs, initial
//! value and final inversion left out. The ports' difference is followed by as many zero bytes as
//! the packet has others, and each zero byte multiplies by x^8 modulo the polynomial.

/// Castagnoli's polynomial, bits reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Powers of two that a packet's length consists of.
const POWERS: usize = 16;

/// x^(8 * 2^k) modulo the polynomial.
const ZEROS: [u32; POWERS] = {
    let mut powers = [0; POWERS];
    // x^8 in reflected order: the highest bit is x^0.
    powers[0] = 1 << 23;
    let mut k = 1;
    while k < POWERS {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// Product modulo the polynomial. Without branches, for the verifier's sake.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let mut product = 0;
    let mut b = b;
    let mut i = 32;
    while i > 0 {
        i -= 1;
        product ^= b & ((a >> i) & 1).wrapping_neg();
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
    }
    product
}

/// What to add (exclusive or) to the checksum of an SCTP packet of `len` bytes when its first four
/// bytes change from `old` to `new`. The checksum is stored with its lowest byte first.
#[inline(always)]
#[must_use]
pub fn difference(old: [u8; 4], new: [u8; 4], len: u32) -> u32 {
    // The register after the four bytes' difference: 32 steps of x.
    let mut crc = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    let mut i = 0;
    while i < 32 {
        crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
        i += 1;
    }
    let zeros = len.wrapping_sub(4);
    let mut k = 0;
    while k < POWERS {
        if (zeros >> k) & 1 != 0 {
            crc = multiply(crc, ZEROS[k]);
        }
        k += 1;
    }
    crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
            }
        }
        !crc
    }

    /// RFC 3720, B.4: 32 bytes of zeros.
    #[test]
    fn known_value() {
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
            let len = packet.len() as u32;
            prop_assert_eq!(before ^ difference(old, ports, len), crc32c(&packet));
        }
    }
}
