//! From its start to its end.

use anyhow::{Context, Result, ensure};
use netd_tests::lab::HOST;
use netd_tests::libvirt::{Host, PATIENCE, Root, check};

use crate::scenario::{ensure_ports, guest_with_lease, members, up_with_guest};

on_each!(
    a_guest_has_lease_names_outside_and_forwards,
    guests_talk_to_each_other,
);

/// Asks the guest's service from outside, by the host's address.
fn asked_from_outside(host: &Host) -> Result<()> {
    let (address, port) = (HOST.to_string(), "8080");
    netd_tests::eventually(PATIENCE, || {
        let said = host.wan.run(["busybox", "nc", "-w", "5", &address, port])?;
        ensure!(said.trim() == "hello", "{said}");
        Ok(())
    })
}

fn a_guest_has_lease_names_outside_and_forwards(root: Root) {
    check(root, |host| {
        let mut guest = up_with_guest(host)?;
        let port = guest.port("default")?;
        assert_eq!(members(host, "virbr0")?, [port.as_str()]);

        let forward = "netd forward add default tcp 8080 vm1:80";
        host.run(forward.split(' '))?;
        guest.run("nc -ll -p 80 -e echo hello > /tmp/nc 2>&1 & sleep 0.2")?;
        asked_from_outside(host).context("the forward")?;

        host.virsh(["destroy", "vm1"])?;
        ensure_ports(host, 0)?;
        let gone = host.output(["ip", "link", "show", "dev", &port])?;
        ensure!(!gone.status.success(), "{port} is still there");
        Ok(())
    });
}

fn guests_talk_to_each_other(root: Root) {
    check(root, |host| {
        let _first = up_with_guest(host)?;
        let mut second = guest_with_lease(host, 2)?;
        ensure_ports(host, 2)?;
        let address = second.run("nslookup -type=a vm1. 192.168.122.1")?;
        let (_, address) = address.rsplit_once("Address: ").context("an answer")?;
        second.reaches(address.trim())?;
        Ok(())
    });
}
