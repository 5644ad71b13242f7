//! Who is who in the lab.

use netd_common::abi::{Addr4, Addr6, MacAddr, Mode};

const fn host_mac(last: u8) -> MacAddr {
    [0x52, 0x54, 0, 0, 0, last]
}

const fn guest_mac(last: u8) -> MacAddr {
    [0x52, 0x54, 0, 0xaa, 0, last]
}

const fn outside_mac(last: u8) -> MacAddr {
    [0x02, 0, 0, 0, 1, last]
}

/// Bridge, gateway, prefix length, mode, `<forward dev>`, MAC.
pub const NETWORKS: &[(&str, Addr4, u32, Mode, &str, MacAddr)] = &[
    ("br-nat", NAT_GW, 24, Mode::Nat, "", NAT_MAC),
    ("br-dev", [192, 168, 123, 1], 24, Mode::Nat, "up0", DEV_MAC),
    ("br-route", ROUTE_GW, 24, Mode::Route, "", ROUTE_MAC),
    (
        "br-isolated",
        ISOLATED_GW,
        24,
        Mode::Isolated,
        "",
        ISOLATED_MAC,
    ),
    ("br-open", [10, 30, 0, 1], 24, Mode::Open, "", OPEN_MAC),
    ("br-rdev", [10, 40, 0, 1], 24, Mode::Route, "up0", RDEV_MAC),
];

/// Bridge and its IPv6 gateway, of a /64 each. Modes are those of IPv4.
pub const GATEWAYS6: &[(&str, Addr6)] = &[
    ("br-nat", NAT_GW6),
    ("br-dev", private6(0x123, 1)),
    ("br-route", ROUTE_GW6),
    ("br-isolated", ISOLATED_GW6),
    ("br-open", OPEN_GW6),
    ("br-rdev", public6(0x40, 1)),
];

/// fd00:…, of a NAT network.
const fn private6(network: u16, host: u16) -> Addr6 {
    let [a, b] = network.to_be_bytes();
    let [c, d] = host.to_be_bytes();
    [0xfd, 0, a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, c, d]
}

/// 2001:db8:…
const fn public6(network: u16, host: u16) -> Addr6 {
    let [a, b] = network.to_be_bytes();
    let [c, d] = host.to_be_bytes();
    [0x20, 0x01, 0x0d, 0xb8, a, b, 0, 0, 0, 0, 0, 0, 0, 0, c, d]
}

/// Port and its bridge.
pub const PORTS: &[(&str, &str)] = &[
    ("nat1", "br-nat"),
    ("nat2", "br-nat"),
    ("dev1", "br-dev"),
    ("route1", "br-route"),
    ("isolated1", "br-isolated"),
    ("open1", "br-open"),
    ("rdev1", "br-rdev"),
];

pub const NAT_GW: Addr4 = [192, 168, 122, 1];
pub const NAT_MAC: MacAddr = host_mac(1);
pub const DEV_MAC: MacAddr = host_mac(2);
pub const ROUTE_GW: Addr4 = [10, 10, 0, 1];
pub const ROUTE_MAC: MacAddr = host_mac(3);
pub const ISOLATED_GW: Addr4 = [10, 20, 0, 1];
pub const ISOLATED_MAC: MacAddr = host_mac(4);
pub const OPEN_MAC: MacAddr = host_mac(5);
pub const RDEV_MAC: MacAddr = host_mac(6);

/// A guest at `nat1`, whose MAC address the host knows.
pub const GUEST: Addr4 = [192, 168, 122, 11];
pub const GUEST_MAC: MacAddr = guest_mac(0x11);
/// A guest at `nat2`, which the host knows nothing of.
pub const GUEST2: Addr4 = [192, 168, 122, 12];
pub const GUEST2_MAC: MacAddr = guest_mac(0x12);
pub const DEV_GUEST: Addr4 = [192, 168, 123, 11];
pub const DEV_GUEST_MAC: MacAddr = guest_mac(0x21);
pub const ROUTE_GUEST: Addr4 = [10, 10, 0, 11];
pub const ROUTE_GUEST_MAC: MacAddr = guest_mac(0x31);
pub const ISOLATED_GUEST: Addr4 = [10, 20, 0, 11];
pub const ISOLATED_GUEST_MAC: MacAddr = guest_mac(0x41);
pub const OPEN_GUEST: Addr4 = [10, 30, 0, 11];
pub const OPEN_GUEST_MAC: MacAddr = guest_mac(0x51);
pub const RDEV_GUEST: Addr4 = [10, 40, 0, 11];
pub const RDEV_GUEST_MAC: MacAddr = guest_mac(0x61);

/// The host's addresses outside.
pub const UP0: Addr4 = [198, 51, 100, 2];
pub const UP0_MAC: MacAddr = host_mac(0x80);
pub const UP1: Addr4 = [203, 0, 113, 2];
pub const UP1_MAC: MacAddr = host_mac(0x81);
/// A device without an Ethernet header, as far as its record says.
pub const PLAIN0: Addr4 = [100, 64, 0, 2];
pub const PLAIN0_MAC: MacAddr = host_mac(0x82);
pub const PLAIN_PEER: Addr4 = [100, 64, 0, 9];

/// The default gateway, at `up0`.
pub const ROUTER: Addr4 = [198, 51, 100, 1];
pub const ROUTER_MAC: MacAddr = outside_mac(1);
/// A neighbour at `up1`.
pub const PEER1: Addr4 = [203, 0, 113, 9];
pub const PEER1_MAC: MacAddr = outside_mac(2);
/// A host at `up0` whose MAC address nobody knows.
pub const SILENT: Addr4 = [198, 51, 100, 99];
/// Far away, behind the router.
pub const SERVER: Addr4 = [192, 0, 2, 80];
/// Behind the router, by a path of 600 bytes.
pub const NARROW: Addr4 = [192, 0, 2, 200];
/// The host has no way there.
pub const NOWHERE: Addr4 = [192, 0, 2, 99];

/// The same in IPv6.
pub const NAT_GW6: Addr6 = private6(0x122, 1);
pub const ROUTE_GW6: Addr6 = public6(0x10, 1);
pub const ISOLATED_GW6: Addr6 = public6(0x20, 1);
pub const OPEN_GW6: Addr6 = public6(0x30, 1);
pub const GUEST6: Addr6 = private6(0x122, 0x11);
pub const GUEST2_6: Addr6 = private6(0x122, 0x12);
pub const DEV_GUEST6: Addr6 = private6(0x123, 0x11);
pub const ROUTE_GUEST6: Addr6 = public6(0x10, 0x11);
pub const ISOLATED_GUEST6: Addr6 = public6(0x20, 0x11);
pub const OPEN_GUEST6: Addr6 = public6(0x30, 0x11);
pub const UP0_6: Addr6 = public6(0x100, 2);
pub const UP1_6: Addr6 = public6(0x113, 2);
pub const ROUTER6: Addr6 = public6(0x100, 1);
pub const PEER1_6: Addr6 = public6(0x113, 9);
pub const SILENT6: Addr6 = public6(0x100, 0x99);
pub const SERVER6: Addr6 = public6(0x80, 0x80);
/// Behind the router, by a path of 1300 bytes.
pub const NARROW6: Addr6 = public6(0x80, 0x200);
pub const NOWHERE6: Addr6 = public6(0x80, 0x99);
