//! A hypervisor that was switched to netd comes up anew.

use anyhow::{Context as _, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Domain, Root, check_booted};

use super::switch::{goes_on, is_served};
use super::systemd::hypervisor;
use crate::reboot::lose_power_by_systemd;
use crate::scenario::ports;

on_each!(networks_and_guests_come_back_with_the_host);

/// What the units that are enabled are wanted by.
const TARGET: &str = "[Unit]
Wants=libvirtd.socket libvirtd.service netd.service
";

fn networks_and_guests_come_back_with_the_host(root: Root) {
    check_booted(root, |host| {
        let _guest = hypervisor(host)?;
        host.virsh(["autostart", "vm1"])?;
        host.systemctl(["enable", "netd.service", "libvirtd.service"])?;
        host.run(["netd", "libvirt", "adopt"])?;
        lose_power_by_systemd(host)?;
        // In one transaction, as at boot, where the units' own order decides; systemctl would ask for one
        // after the other.
        host.file("/etc/systemd/system/again.target", TARGET)?;
        host.systemctl(["daemon-reload"])?;
        host.systemctl(["start", "again.target"])?;
        let mut guest = Domain::autostarted(host, "vm1")?;
        let lease = guest.dhcp("eth0").context("a lease after the start")?;
        ensure!(lease.address.to_string().starts_with("192.168.122."));
        let (port, uuids) = (guest.port("default")?, ports(host)?);
        ensure!(uuids.len() == 1, "{uuids:?}");
        let status = host.run(["netd", "libvirt", "status"])?;
        ensure!(
            status.contains("with the network driver /usr/lib/netd"),
            "{status}"
        );
        is_served(host, &mut guest, &port, &uuids)?;
        guest.reaches(&OUTSIDE.to_string())?;
        goes_on(host, &mut guest)
    });
}
