//! The side that is compared with: bridges, forwarding, and the rules that libvirt's driver makes
//! for the networks (nftables backend).

use std::fmt::Write as _;

use anyhow::Result;

use super::cast::{Family, NETWORKS, Network, POOL, POOL_PORTS, mac_text};
use crate::Lab;

/// Makes the networks in the hypervisor. Only a `careful` one keeps guests from privileged ports.
///
/// # Errors
/// A tool is missing or refuses.
pub fn build(lab: &Lab, ipv6: bool, careful: bool) -> Result<()> {
    for network in &NETWORKS {
        let Network {
            device,
            gateway,
            gateway6,
            ..
        } = network;
        let mac = mac_text(network.mac);
        let add =
            format!("ip link add {device} address {mac} type bridge stp_state 0 forward_delay 0");
        lab.hv.run(add.split(' '))?;
        let off = if ipv6 { "0" } else { "1" };
        lab.hv
            .sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), off)?;
        lab.hv
            .sysctl(&format!("net/ipv6/conf/{device}/accept_ra"), "0")?;
        lab.hv.address(device, &format!("{gateway}/24"))?;
        if ipv6 {
            lab.hv.address(device, &format!("{gateway6}/64"))?;
        }
    }
    lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
    if ipv6 {
        lab.hv.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    let file = lab.directory().join("rules.nft");
    let mut rules = rules(Family::V4);
    if ipv6 {
        rules += &self::rules(Family::V6);
    }
    if !careful {
        rules = rules.replace("masquerade to :1024-65535", "masquerade");
    }
    std::fs::write(&file, rules)?;
    let file = file.display().to_string();
    lab.hv.run(["nft", "-f", &file])?;
    Ok(())
}

/// One table: first what stays on a bridge, then what goes to one, then what comes from one. Who
/// may not pass gets an ICMP port unreachable. Multicast and broadcast keep their source; a guest
/// never appears with a privileged port.
fn rules(family: Family) -> String {
    let ip = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let [mut cross, mut input, mut output, mut nat] = [const { String::new() }; 4];
    for network in &NETWORKS {
        let Network { device, .. } = network;
        let subnet = network.subnets[family as usize];
        let answers = if network.nat {
            "ct state related,established "
        } else {
            ""
        };
        // Writing to a string does not fail.
        let _ = writeln!(cross, "iif {device} oif {device} accept");
        let _ = writeln!(
            input,
            "oif {device} {ip} daddr {subnet} {answers}accept\noif {device} reject"
        );
        let _ = writeln!(
            output,
            "iif {device} {ip} saddr {subnet} accept\niif {device} reject"
        );
        if network.nat {
            nat += &hiding(network, family, ip, subnet);
        }
    }
    format!(
        "table {ip} libvirt_network {{
chain guest_cross {{
{cross}}}
chain guest_input {{
{input}}}
chain guest_output {{
{output}}}
chain forward {{
type filter hook forward priority 0; policy accept;
jump guest_cross
jump guest_input
jump guest_output
}}
chain guest_nat {{
type nat hook postrouting priority 100; policy accept;
{nat}}}
}}
"
    )
}

/// The rules that hide the guests of a network.
fn hiding(network: &Network, family: Family, ip: &str, subnet: &str) -> String {
    let exempt: &[&str] = match family {
        Family::V4 => &["224.0.0.0/24", "255.255.255.255"],
        Family::V6 => &["ff02::/16"],
    };
    let exempt: String = exempt
        .iter()
        .map(|group| format!("{ip} saddr {subnet} {ip} daddr {group} return\n"))
        .collect();
    let (first, last) = if network.pool {
        POOL_PORTS
    } else {
        (1024, 65_535)
    };
    let (ported, other) = match family {
        Family::V4 if network.pool => (
            format!("snat to {POOL}:{first}-{last}"),
            format!("snat to {POOL}"),
        ),
        _ => (
            format!("masquerade to :{first}-{last}"),
            "masquerade".to_owned(),
        ),
    };
    let leaving = format!("{ip} saddr {subnet} {ip} daddr != {subnet}");
    format!(
        "{exempt}meta l4proto tcp {leaving} {ported}\nmeta l4proto udp {leaving} {ported}\n\
         {leaving} {other}\n"
    )
}
