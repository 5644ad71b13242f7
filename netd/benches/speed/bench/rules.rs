//! The rules that libvirt's driver (nftables backend) makes for NAT networks.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// A published UDP port.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The host's port.
    pub port: u16,
    /// The guest.
    pub guest: Ipv4Addr,
    /// The guest's port.
    pub guest_port: u16,
}

impl Published {
    /// The first published port, which is the measured guest's.
    pub const FIRST: u16 = 20_000;

    /// Published port number `n`. Each leads somewhere else, so that none is part of another.
    pub fn new(n: u16) -> Self {
        Self {
            port: Self::FIRST + n,
            guest: Ipv4Addr::new(10, 10, 1, 11 + (n % 200) as u8),
            guest_port: 1000 + n,
        }
    }
}

/// The table with all networks (bridge and subnet) and published ports, in place of the one before.
/// A flowtable is between that bridge and the uplink.
///
/// Published ports are a map, which is the best that nftables has for many of them.
pub fn text(
    networks: &[(String, String)],
    published: &[Published],
    flowtable: Option<&str>,
) -> String {
    let [mut cross, mut input, mut output, mut nat] = [const { String::new() }; 4];
    for (device, subnet) in networks {
        let leaving = format!("ip saddr {subnet} ip daddr != {subnet} counter masquerade");
        // Writing to a string does not fail.
        let _ = writeln!(cross, "iif {device} oif {device} counter accept");
        let _ = writeln!(
            input,
            "oif {device} ip daddr {subnet} ct state related,established counter accept\n\
             oif {device} counter reject"
        );
        let _ = writeln!(
            output,
            "iif {device} ip saddr {subnet} counter accept\niif {device} counter reject"
        );
        let _ = writeln!(
            nat,
            "ip saddr {subnet} ip daddr 224.0.0.0/24 counter return\n\
             ip saddr {subnet} ip daddr 255.255.255.255 counter return\n\
             meta l4proto tcp {leaving} to :1024-65535\n\
             meta l4proto udp {leaving} to :1024-65535\n{leaving}"
        );
    }
    let [mut table, mut offload, mut forwarded] = [const { String::new() }; 3];
    if let Some(bridge) = flowtable {
        table = format!(
            "flowtable fast {{ hook ingress priority 0; devices = {{ {bridge}, uplink }}; }}\n"
        );
        offload = "meta l4proto { tcp, udp } ct state established flow add @fast\n".to_owned();
    }
    if !published.is_empty() {
        let pairs: Vec<_> = published
            .iter()
            .map(|one| format!("{} : {} . {}", one.port, one.guest, one.guest_port))
            .collect();
        let _ = write!(
            table,
            "map published {{ type inet_service : ipv4_addr . inet_service; elements = {{ {} }} }}\n\
             chain publish {{\ntype nat hook prerouting priority -100; policy accept;\n\
             fib daddr type local dnat ip to udp dport map @published\n}}\n",
            pairs.join(", ")
        );
        forwarded = "ct status dnat counter accept\n".to_owned();
    }
    format!(
        "table ip libvirt_network\ndelete table ip libvirt_network\n\
         table ip libvirt_network {{\n{table}\
         chain guest_cross {{\n{cross}}}\n\
         chain guest_input {{\n{input}}}\n\
         chain guest_output {{\n{output}}}\n\
         chain forward {{\ntype filter hook forward priority 0; policy accept;\n{offload}{forwarded}\
         counter jump guest_cross\ncounter jump guest_input\ncounter jump guest_output\n}}\n\
         chain guest_nat {{\ntype nat hook postrouting priority 100; policy accept;\n{nat}}}\n}}\n"
    )
}
