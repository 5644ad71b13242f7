//! DHCP replies: one field that is right as a complete checksum and as a partial one.

use crate::checker::{check, internet_checksum};
use crate::fixture::{Fixture, Verdict, run};
use crate::lab::lab;
use crate::names::*;
use crate::packet::{ETH, Packet, udp};

fn reply(data: Vec<u8>) -> Packet {
    udp(NAT_GW, 67, GUEST, 68)
        .data(data)
        .macs(GUEST_MAC, NAT_MAC)
}

/// The folded sum of the pseudo-header, which a partial checksum field holds.
fn pseudo_header_sum(ip: &[u8]) -> u16 {
    let length = (ip.len() - 20) as u16;
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend(length.to_be_bytes());
    !internet_checksum(&pseudo)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_checksum_is_right_both_ways() {
    let lab = lab();
    for length in (240..380).chain([1, 2, 3, 0, 1400, 1401, 1470]) {
        for seed in 0..3u8 {
            let data: Vec<u8> = (0..length)
                .map(|i: usize| (i as u8).wrapping_mul(7).wrapping_add(seed))
                .collect();
            let mut frame = reply(data.clone()).bytes();
            // As the stack leaves it: the pseudo-header's sum in the field.
            let partial = pseudo_header_sum(&frame[ETH..]);
            frame[ETH + 26..ETH + 28].copy_from_slice(&partial.to_be_bytes());
            let outcome = run(
                &lab,
                "bridge_egress",
                lab.ifindex("br-nat"),
                0,
                0,
                1,
                &frame,
            );
            assert_eq!(outcome.verdict, Verdict::Pass);
            let ip = &outcome.packet[ETH..];
            assert_eq!(check(ip), Ok(()), "complete, {length} bytes");
            let field = u16::from_be_bytes([ip[26], ip[27]]);
            assert_eq!(field, pseudo_header_sum(ip), "partial, {length} bytes");
            assert_ne!(field, 0);
            // Two bytes more, three where the length was odd; the message itself is the same.
            let added = 2 + length % 2;
            assert_eq!(ip.len(), 28 + length + added);
            assert_eq!(&ip[28..28 + length], &data[..]);
            assert_eq!(u16::from_be_bytes([ip[24], ip[25]]) as usize, ip.len() - 20);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn other_packets_are_left_alone() {
    let mut lab = lab();
    let data = vec![5; 300];
    let dns = udp(NAT_GW, 53, GUEST, 68).data(data.clone());
    let relay = udp(NAT_GW, 67, GUEST, 67).data(data.clone());
    let options = reply(data.clone()).with_options();
    let fragment = reply(data).fragment(0x2000);
    for (name, packet) in [
        ("DNS", dns),
        ("to a relay", relay),
        ("with IP options", options),
        ("fragment", fragment),
    ] {
        let packet = packet.macs(GUEST_MAC, NAT_MAC);
        Fixture::new(name, "bridge_egress", "br-nat", packet.bytes()).run(&mut lab);
    }
}
