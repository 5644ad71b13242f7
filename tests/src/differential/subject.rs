//! The side under test: an agent with the two networks.

use anyhow::Result;

use super::cast::{
    NAT_BRIDGE, NAT_GATEWAY, NAT_GATEWAY6, ROUTED_BRIDGE, ROUTED_GATEWAY, ROUTED_GATEWAY6,
};
use super::topology::{NAT_DEVICE, ROUTED_DEVICE, mac_text};
use crate::Lab;

/// Starts the agent and both networks.
///
/// # Errors
/// The agent does not start, or refuses a network.
pub fn build(lab: &mut Lab, ipv6: bool) -> Result<()> {
    lab.agent.start()?;
    let six = |address: String| {
        if ipv6 {
            format!("<ip family='ipv6' address='{address}' prefix='64'/>")
        } else {
            String::new()
        }
    };
    let nat = if ipv6 { "<nat ipv6='yes'/>" } else { "" };
    let networks = [
        (
            "nat",
            format!("<forward mode='nat'>{nat}</forward>"),
            NAT_DEVICE,
            NAT_BRIDGE,
            NAT_GATEWAY,
            six(NAT_GATEWAY6.to_string()),
        ),
        (
            "routed",
            "<forward mode='route'/>".to_owned(),
            ROUTED_DEVICE,
            ROUTED_BRIDGE,
            ROUTED_GATEWAY,
            six(ROUTED_GATEWAY6.to_string()),
        ),
    ];
    for (name, forward, device, mac, gateway, six) in networks {
        let mac = mac_text(mac);
        let xml = format!(
            "<network><name>{name}</name>{forward}<bridge name='{device}' stp='off' delay='0'/>\
             <mac address='{mac}'/><dns enable='no'/>\
             <ip address='{gateway}' netmask='255.255.255.0'/>{six}</network>"
        );
        lab.agent.up(name, &xml)?;
    }
    Ok(())
}
