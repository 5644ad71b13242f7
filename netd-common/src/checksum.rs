//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept in native byte order: one's complement addition does not care (RFC 1071,
//! section 2 B), as long as every 16-bit word is read the same way. A *difference* is what has to
//! be added to a sum when bytes change; `!checksum` is such a sum.

/// `BPF_F_IPV6` of `bpf_l4_csum_replace` (Linux 6.16): the addresses that changed are not made good
/// by a header checksum, so the sum over the whole packet that a device may have handed up changes,
/// too.
pub const BPF_F_IPV6: u64 = 1 << 7;

/// Fold a sum into 16 bits with end-around carry.
#[inline(always)]
#[must_use]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sum of an address (its two 16-bit words, native order).
#[inline(always)]
#[must_use]
pub fn sum4(address: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(address))
}

/// Sum of an IPv6 address (its eight 16-bit words, native order).
#[inline(always)]
#[must_use]
pub fn sum6(address: &[u8; 16]) -> u64 {
    let (words, _) = address.as_chunks::<4>();
    sum4(words[0]) + sum4(words[1]) + sum4(words[2]) + sum4(words[3])
}

/// Sum of one 16-bit word.
#[inline(always)]
#[must_use]
pub fn sum2(word: [u8; 2]) -> u64 {
    u64::from(u16::from_ne_bytes(word))
}

/// Difference made by replacing words that sum to `old` by words that sum to `new`; both sums of
/// at most a few 32-bit values.
#[inline(always)]
#[must_use]
pub fn difference(old: u64, new: u64) -> u16 {
    // -x is ~x in one's complement (RFC 1071, section 1).
    fold(u64::from(!fold(old)) + new)
}

/// RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), with ~m + m' given as `difference`.
#[inline(always)]
#[must_use]
pub fn update(checksum: [u8; 2], difference: u16) -> [u8; 2] {
    let sum = u64::from(!u16::from_ne_bytes(checksum)) + u64::from(difference);
    (!fold(sum)).to_ne_bytes()
}

/// Sum of `bytes`; an odd last byte is padded with zero (RFC 1071, section 1).
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let mut sum: u64 = words
        .by_ref()
        .map(|w| u64::from(u16::from_ne_bytes([w[0], w[1]])))
        .sum();
    if let [last] = words.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checksum(bytes: &[u8]) -> [u8; 2] {
        (!fold(sum(bytes))).to_ne_bytes()
    }

    #[test]
    fn rfc_1071_example() {
        let sum = fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]));
        assert_eq!(sum.to_ne_bytes(), [0xdd, 0xf2]);
    }

    proptest! {
        /// Updating equals computing anew, for any header and any change in it.
        #[test]
        fn update_equals_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..64),
            address in any::<[u8; 4]>(),
            port in any::<[u8; 2]>(),
        ) {
            bytes.truncate(bytes.len() & !1);
            // A header always holds something that is not zero (its version, a port).
            bytes[0] |= 0x40;
            let before = checksum(&bytes);
            let old_address: [u8; 4] = bytes[12..16].try_into().unwrap();
            let old_port: [u8; 2] = bytes[16..18].try_into().unwrap();
            let diff = difference(
                sum4(old_address) + sum2(old_port),
                sum4(address) + sum2(port),
            );
            bytes[12..16].copy_from_slice(&address);
            bytes[16..18].copy_from_slice(&port);
            let updated = update(before, diff);
            // Both zeros of one's complement verify alike.
            let mut all = bytes.clone();
            all.extend(updated);
            prop_assert_eq!(fold(sum(&all)), 0xffff);
            let whole = checksum(&bytes);
            prop_assert!(updated == whole || (u16::from_ne_bytes(updated) | u16::from_ne_bytes(whole)) == 0xffff);
        }
    }
}
