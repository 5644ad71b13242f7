//! Frames that are none of netd's business pass untouched.

use crate::fixture::Fixture;
use crate::lab::lab;
use crate::names::*;
use crate::nat::{down, up};
use crate::packet::{SYN, tcp, udp};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn p43_what_is_not_routed_passes_untouched() {
    let mut lab = lab();
    let packet = || udp(GUEST, 40000, SERVER, 80);
    let mut arp = up(packet()).bytes();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut ipv6 = up(packet()).bytes();
    ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
    let mut vlan = up(packet()).bytes();
    vlan.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    let mut length = up(packet()).bytes();
    length[12..14].copy_from_slice(&[0x00, 0x40]);
    let mut short = up(packet()).bytes();
    short.truncate(14 + 20 + 4);
    let mut lies = up(packet()).bytes();
    lies[17] = 250;
    let mut version = up(packet()).bytes();
    version[14] = 0x65;
    let broadcast = [0xff; 6];
    for (name, frame) in [
        ("ARP", arp),
        ("IPv6", ipv6),
        ("VLAN tag", vlan),
        ("802.3 length", length),
        ("cut short", short),
        ("longer by its header", lies),
        ("version 6 in an IPv4 frame", version),
        (
            "for another MAC",
            packet().macs(GUEST2_MAC, GUEST_MAC).bytes(),
        ),
        (
            "broadcast frame",
            packet().macs(broadcast, GUEST_MAC).bytes(),
        ),
        (
            "DHCP discover",
            udp([0; 4], 68, [255; 4], 67)
                .macs(broadcast, GUEST_MAC)
                .bytes(),
        ),
        (
            "multicast",
            packet()
                .dst([224, 0, 0, 251])
                .macs([1, 0, 0x5e, 0, 0, 0xfb], GUEST_MAC)
                .bytes(),
        ),
        (
            "multicast in a unicast frame",
            up(packet().dst([239, 1, 1, 1])).bytes(),
        ),
        (
            "limited broadcast in a unicast frame",
            up(packet().dst([255; 4])).bytes(),
        ),
        ("loopback", up(packet().dst([127, 0, 0, 1])).bytes()),
        ("to the gateway", up(packet().dst(NAT_GW)).bytes()),
        (
            "to the host's address outside",
            up(packet().dst(UP0)).bytes(),
        ),
        (
            "to a sibling by the gateway",
            up(packet().dst(GUEST2)).bytes(),
        ),
        ("no way there", up(packet().dst(NOWHERE)).bytes()),
    ] {
        Fixture::new(name, "port_ingress", "nat1", frame.clone())
            .flows([])
            .run(&mut lab);
        Fixture::new(
            format!("{name}, at the bridge"),
            "bridge_ingress",
            "br-nat",
            frame,
        )
        .flows([])
        .run(&mut lab);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn traffic_between_others_passes_untouched() {
    let mut lab = lab();
    for (name, packet) in [
        ("to the host", down(tcp(SERVER, 80, UP0, 22, SYN))),
        ("through the host", down(udp(SERVER, 80, PEER1, 9))),
        (
            "for another MAC",
            udp(SERVER, 80, ROUTE_GUEST, 9).macs([2, 9, 9, 9, 9, 9], ROUTER_MAC),
        ),
        (
            "broadcast",
            udp(SERVER, 80, ROUTE_GUEST, 9).macs([0xff; 6], ROUTER_MAC),
        ),
        ("to a gateway", down(udp(SERVER, 80, ROUTE_GW, 9))),
        ("to the NAT gateway", down(udp(SERVER, 80, NAT_GW, 9))),
    ] {
        Fixture::new(name, "uplink_ingress", "up0", packet.bytes())
            .flows([])
            .run(&mut lab);
    }
}

/// A port whose network is gone (its record, or the port's) is no concern of netd's.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_network_that_is_not_there_has_no_rules() {
    let mut lab = lab();
    lab.remove_network("br-nat");
    let packet = up(udp(GUEST, 40000, SERVER, 80));
    Fixture::new("at the port", "port_ingress", "nat1", packet.bytes())
        .flows([])
        .run(&mut lab);
    Fixture::new("at the bridge", "bridge_ingress", "br-nat", packet.bytes())
        .flows([])
        .run(&mut lab);
    lab.clear_records();
    Fixture::new("no port", "port_ingress", "nat1", packet.bytes())
        .flows([])
        .run(&mut lab);
}
