//! Interfaces that come and go while a guest runs.

use anyhow::ensure;
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{PATIENCE, Root, check, nic};

use crate::scenario::{ensure_ports, members, ports, up_with_guest};

on_each!(
    an_interface_is_plugged_in_and_out,
    a_link_is_set_down_and_up,
);

fn an_interface_is_plugged_in_and_out(root: Root) {
    check(root, |host| {
        let mut guest = up_with_guest(host)?;
        let second = host.file("/guest/second.xml", &nic("default", 2))?;
        host.virsh(["attach-device", "vm1", second, "--live"])?;
        ensure_ports(host, 2)?;
        ensure!(members(host, "virbr0")?.len() == 2);
        netd_tests::eventually(PATIENCE, || guest.run("ip link show dev eth1"))?;
        let lease = guest.dhcp("eth1")?;
        // dnsmasq notes a lease after it has answered the guest.
        netd_tests::eventually(PATIENCE, || {
            let leases = host.virsh(["net-dhcp-leases", "default"])?;
            ensure!(leases.contains(&lease.address.to_string()), "{leases}");
            Ok(())
        })?;

        host.virsh(["detach-device", "vm1", second, "--live"])?;
        // The guest gives the card back when it gets to it.
        netd_tests::eventually(PATIENCE, || ensure_ports(host, 1))?;
        ensure!(members(host, "virbr0")?.len() == 1);
        guest.run("ip route replace default via 192.168.122.1 dev eth0")?;
        guest.reaches(&OUTSIDE.to_string())
    });
}

fn a_link_is_set_down_and_up(root: Root) {
    check(root, |host| {
        let mut guest = up_with_guest(host)?;
        for _ in 0..3 {
            let before = ports(host)?;
            host.virsh(["domif-setlink", "vm1", "52:54:00:00:00:01", "down"])?;
            guest.reaches_not(&OUTSIDE.to_string())?;
            host.virsh(["domif-setlink", "vm1", "52:54:00:00:00:01", "up"])?;
            guest.reaches(&OUTSIDE.to_string())?;
            // Later than 9.0 libvirt makes another port, and deletes the first one afterwards.
            let after = ports(host)?;
            let kept = after == before;
            let same = root == Root::Bookworm;
            ensure!(after.len() == 1 && kept == same, "{before:?} {after:?}");
        }
        ensure!(members(host, "virbr0")? == [guest.port("default")?]);
        Ok(())
    });
}
