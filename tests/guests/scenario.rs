//! What guests go through, whoever drives their networks.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Domain, Host, PATIENCE, nic};

/// Where guests of the network `default` have their gateway and name server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 122, 1);

/// A guest of the network `default` that has booted and has its lease, which libvirt shows.
pub fn guest_with_lease(host: &Host, number: u8) -> Result<Domain> {
    let name = format!("vm{number}");
    let mut guest = Domain::start(host, &name, &nic("default", number))?;
    let lease = guest.dhcp("eth0")?;
    ensure!(
        lease.router == Some(GATEWAY) && lease.dns == Some(GATEWAY),
        "{lease:?}"
    );
    // dnsmasq notes a lease after it has answered the guest.
    netd_tests::eventually(PATIENCE, || {
        let address = format!("{}/24", lease.address);
        for command in [
            ["net-dhcp-leases", "default"].as_slice(),
            &["domifaddr", &name, "--source", "lease"],
        ] {
            let shown = host.virsh(command.iter().copied())?;
            ensure!(shown.contains(&address), "no {address} in:\n{shown}");
        }
        Ok(())
    })?;
    Ok(guest)
}

/// The guest knows its own name by DNS, and reaches host and outside.
pub fn reaches_everything(guest: &mut Domain) -> Result<()> {
    guest.reaches(&GATEWAY.to_string())?;
    guest.reaches(&OUTSIDE.to_string())?;
    let name = guest.name.clone();
    let answer = guest.run(&format!("nslookup -type=a {name}. {GATEWAY}"))?;
    ensure!(answer.contains("Address: 192.168.122."), "{answer}");
    Ok(())
}
