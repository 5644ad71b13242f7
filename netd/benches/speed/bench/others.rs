//! Networks beside the one that is measured.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use netd_tests::Lab;

/// Writes definitions of further networks, to be started by the next agent.
///
/// # Errors
/// They cannot be written.
pub fn write_definitions(lab: &Lab, numbers: std::ops::Range<u32>) -> Result<()> {
    let networks = lab.agent.config_dir().join("networks");
    let autostart = lab.agent.config_dir().join("autostart");
    for directory in [&networks, &autostart] {
        std::fs::create_dir_all(directory)?;
    }
    for n in numbers {
        let uuid = format!("<uuid>0ddba11a-0000-4000-8000-{n:012x}</uuid>");
        let mac = format!(
            "<mac address='52:54:01:00:{:02x}:{:02x}'/>",
            n >> 8,
            n & 255
        );
        let (name, xml) = other_network(n, &(uuid + &mac));
        let file = networks.join(&name).with_extension("xml");
        std::fs::write(&file, xml)?;
        let link = autostart.join(&name).with_extension("xml");
        std::os::unix::fs::symlink(&file, &link)
            .with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(())
}

/// Name and definition of another network, without dnsmasq.
pub fn other_network(n: u32, more: &str) -> (String, String) {
    let name = format!("other{n}");
    let (device, [a, b, c, _]) = (other_bridge(n), other_subnet(n).octets());
    let xml = format!(
        "<network><name>{name}</name>{more}<forward mode='nat'/><bridge name='{device}'/>\
         <dns enable='no'/><ip address='{a}.{b}.{c}.1' netmask='255.255.255.0'/></network>"
    );
    (name, xml)
}

/// The bridge of another network.
pub fn other_bridge(n: u32) -> String {
    format!("virbr{}", 100 + n)
}

/// The /24 of another network.
pub fn other_subnet(n: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 20 + (n >> 8) as u8, (n & 255) as u8, 0)
}
