//! The side under test: an agent with the networks.

use anyhow::Result;

use super::cast::{NETWORKS, Network, POOL, POOL_PORTS, RULED_NETWORK, mac_text};
use crate::Lab;

/// Starts the agent and its networks. One of them respects the host's own `rules`, where there are to
/// be some.
///
/// # Errors
/// The agent does not start, or refuses a network.
pub fn build(lab: &mut Lab, ipv6: bool, rules: bool) -> Result<()> {
    lab.agent.start()?;
    for network in &NETWORKS {
        let Network {
            name,
            device,
            gateway,
            gateway6,
            ..
        } = network;
        let mac = mac_text(network.mac);
        let forward = forward(network, ipv6);
        let six = if ipv6 {
            format!("<ip family='ipv6' address='{gateway6}' prefix='64'/>")
        } else {
            String::new()
        };
        let metadata = if rules && std::ptr::eq(network, RULED_NETWORK) {
            "<metadata><n:host xmlns:n='urn:netd:network:1' firewall='respect'/></metadata>"
        } else {
            ""
        };
        let xml = format!(
            "<network><name>{name}</name>{metadata}{forward}<bridge name='{device}' stp='off' delay='0'/>\
             <mac address='{mac}'/><dns enable='no'/>\
             <ip address='{gateway}' netmask='255.255.255.0'/>{six}</network>"
        );
        lab.agent.up(name, &xml)?;
    }
    Ok(())
}

fn forward(network: &Network, ipv6: bool) -> String {
    if !network.nat {
        return "<forward mode='route'/>".to_owned();
    }
    let six = if ipv6 { " ipv6='yes'" } else { "" };
    let range = if network.pool {
        let (start, end) = POOL_PORTS;
        format!("<address start='{POOL}' end='{POOL}'/><port start='{start}' end='{end}'/>")
    } else {
        String::new()
    };
    format!("<forward mode='nat'><nat{six}>{range}</nat></forward>")
}
