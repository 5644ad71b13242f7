//! The side that is compared with: bridges, forwarding, and the rules that libvirt's driver makes
//! for the two networks (nftables backend).

use anyhow::Result;

use super::cast::{
    NAT_BRIDGE, NAT_GATEWAY, NAT_GATEWAY6, ROUTED_BRIDGE, ROUTED_GATEWAY, ROUTED_GATEWAY6,
};
use super::topology::{NAT_DEVICE, NAT_SUBNETS, ROUTED_DEVICE, ROUTED_SUBNETS, mac_text};
use crate::Lab;

/// Makes both networks in the hypervisor. Only a `careful` one keeps guests from privileged ports.
///
/// # Errors
/// A tool is missing or refuses.
pub fn build(lab: &Lab, ipv6: bool, careful: bool) -> Result<()> {
    let networks = [
        (
            NAT_DEVICE,
            NAT_BRIDGE,
            format!("{NAT_GATEWAY}/24"),
            format!("{NAT_GATEWAY6}/64"),
        ),
        (
            ROUTED_DEVICE,
            ROUTED_BRIDGE,
            format!("{ROUTED_GATEWAY}/24"),
            format!("{ROUTED_GATEWAY6}/64"),
        ),
    ];
    for (device, mac, gateway, gateway6) in networks {
        let mac = mac_text(mac);
        let add =
            format!("ip link add {device} address {mac} type bridge stp_state 0 forward_delay 0");
        lab.hv.run(add.split(' '))?;
        let off = if ipv6 { "0" } else { "1" };
        lab.hv
            .sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), off)?;
        lab.hv
            .sysctl(&format!("net/ipv6/conf/{device}/accept_ra"), "0")?;
        lab.hv.address(device, &gateway)?;
        if ipv6 {
            lab.hv.address(device, &gateway6)?;
        }
    }
    lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
    if ipv6 {
        lab.hv.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    let file = lab.directory().join("rules.nft");
    let mut rules = rules("ip", NAT_SUBNETS[0], ROUTED_SUBNETS[0]);
    if ipv6 {
        rules += &self::rules("ip6", NAT_SUBNETS[1], ROUTED_SUBNETS[1]);
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
fn rules(family: &str, nat: &str, routed: &str) -> String {
    let exempt = if family == "ip" {
        format!(
            "ip saddr {nat} ip daddr 224.0.0.0/24 return\n\
             ip saddr {nat} ip daddr 255.255.255.255 return"
        )
    } else {
        format!("ip6 saddr {nat} ip6 daddr ff02::/16 return")
    };
    format!(
        r#"
table {family} libvirt_network {{
  chain guest_cross {{
    iif "{NAT_DEVICE}" oif "{NAT_DEVICE}" accept
    iif "{ROUTED_DEVICE}" oif "{ROUTED_DEVICE}" accept
  }}
  chain guest_input {{
    oif "{NAT_DEVICE}" {family} daddr {nat} ct state related,established accept
    oif "{NAT_DEVICE}" reject
    oif "{ROUTED_DEVICE}" {family} daddr {routed} accept
    oif "{ROUTED_DEVICE}" reject
  }}
  chain guest_output {{
    iif "{NAT_DEVICE}" {family} saddr {nat} accept
    iif "{NAT_DEVICE}" reject
    iif "{ROUTED_DEVICE}" {family} saddr {routed} accept
    iif "{ROUTED_DEVICE}" reject
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    jump guest_cross
    jump guest_input
    jump guest_output
  }}
  chain guest_nat {{
    type nat hook postrouting priority 100; policy accept;
    {exempt}
    meta l4proto tcp {family} saddr {nat} {family} daddr != {nat} masquerade to :1024-65535
    meta l4proto udp {family} saddr {nat} {family} daddr != {nat} masquerade to :1024-65535
    {family} saddr {nat} {family} daddr != {nat} masquerade
  }}
}}
"#
    )
}
