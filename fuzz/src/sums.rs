//! Checksums: what an incremental update gives is what a computation of the whole gives.

use netd_common::checksum::{difference, fold, sum, sum2, sum4, sum6, update};
use netd_common::crc32c;

use super::input::Input;

/// Input: new address, new port, then a header of which the address and port at its start are
/// replaced.
pub fn checksum(data: &[u8]) {
    let mut input = Input(data);
    let (Some(new), Some(port)) = (input.take::<16>(), input.take::<2>()) else {
        return;
    };
    let mut packet = input.0.to_vec();
    if packet.len() < 20 {
        return;
    }
    packet.truncate(packet.len() & !1);
    // A header always holds something that is not zero, and goes on to.
    packet[18] |= 0x40;
    let before = (!fold(sum(&packet))).to_ne_bytes();
    let old: [u8; 16] = packet[..16].try_into().expect("sixteen bytes");
    let old_port = [packet[16], packet[17]];
    packet[..16].copy_from_slice(&new);
    packet[16..18].copy_from_slice(&port);
    let after = (!fold(sum(&packet))).to_ne_bytes();

    let six = difference(sum6(&old) + sum2(old_port), sum6(&new) + sum2(port));
    same(update(before, six), after, &packet);
    // The same change in five steps, as IPv4 addresses and ports.
    let mut stepwise = update(before, difference(sum2(old_port), sum2(port)));
    for (old, new) in old.as_chunks::<4>().0.iter().zip(new.as_chunks::<4>().0) {
        stepwise = update(stepwise, difference(sum4(*old), sum4(*new)));
    }
    same(stepwise, after, &packet);
    // And back.
    let back = difference(sum6(&new) + sum2(port), sum6(&old) + sum2(old_port));
    same(update(after, back), before, &packet);
}

/// Checksums are the same, or the two zeros of one's complement.
fn same(updated: [u8; 2], whole: [u8; 2], packet: &[u8]) {
    let zeros = [[0, 0], [0xff, 0xff]];
    assert!(
        updated == whole || (zeros.contains(&updated) && zeros.contains(&whole)),
        "{updated:?} in place of {whole:?} for {packet:?}"
    );
}

/// Input: new ports, then an SCTP packet.
pub fn sctp_checksum(data: &[u8]) {
    let mut input = Input(data);
    let Some(ports) = input.take::<4>() else {
        return;
    };
    let mut packet = input.0.to_vec();
    let Some(old) = packet.first_chunk::<4>().copied() else {
        return;
    };
    let before = crc32c(&packet);
    packet[..4].copy_from_slice(&ports);
    let change = packet
        .iter()
        .fold(crc32c::begin(old, ports), |crc, _| crc32c::step(crc));
    assert_eq!(before ^ change, crc32c(&packet), "{packet:?}");
}

/// CRC32c bit by bit, as RFC 9260, appendix A, defines it.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
