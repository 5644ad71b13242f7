//! Hosts whose administrator runs a firewall by its unit: libvirt's guests are served by netd whatever it
//! does, and whatever happens to it.

use anyhow::{Result, ensure};
use netd_tests::eventually;
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Domain, Host, PATIENCE, Root, check_booted};

use super::systemd::hypervisor;
use crate::scenario::reaches_everything;

on_each!(
    guests_are_served_beside_firewalld,
    guests_are_served_beside_ufw,
);

const FIREWALLD: &str = "firewalld.service";

/// Its lease anew, names and the outside.
fn all_of(guest: &mut Domain) -> Result<()> {
    guest.dhcp("eth0")?;
    reaches_everything(guest)
}

/// The zone of libvirt's packages, which firewalld itself keeps for the bridge.
fn has_its_zone(host: &Host) -> Result<()> {
    eventually(PATIENCE, || {
        let zone = host.run(["firewall-cmd", "--get-zone-of-interface=virbr0"])?;
        ensure!(zone.trim() == "libvirt", "virbr0 is in zone {zone}");
        Ok(())
    })
}

fn guests_are_served_beside_firewalld(root: Root) {
    check_booted(root, |host| {
        host.systemctl(["start", FIREWALLD])?;
        let mut guest = hypervisor(host)?.domain;
        host.run(["netd", "libvirt", "adopt"])?;
        has_its_zone(host)?;
        all_of(&mut guest)?;
        for words in [&["--reload"][..], &["--complete-reload"]] {
            guest.stream(&OUTSIDE.to_string())?;
            host.run(["firewall-cmd"].into_iter().chain(words.iter().copied()))?;
            has_its_zone(host)?;
            super::switch::end(&mut guest, words[0])?;
            all_of(&mut guest)?;
        }
        host.systemctl(["restart", FIREWALLD])?;
        has_its_zone(host)?;
        all_of(&mut guest)?;
        host.systemctl(["stop", FIREWALLD])?;
        all_of(&mut guest)?;
        host.systemctl(["start", FIREWALLD])?;
        has_its_zone(host)?;
        all_of(&mut guest)?;
        // The way back leads to a network that is served by firewalld's leave.
        host.run(["netd", "libvirt", "release"])?;
        has_its_zone(host)?;
        all_of(&mut guest)?;
        // netd leaves it there.
        has_its_zone(host)
    });
}

/// What ufw does by itself: nothing comes in, nothing is forwarded.
fn guests_are_served_beside_ufw(root: Root) {
    check_booted(root, |host| {
        let mut guest = hypervisor(host)?.domain;
        host.run(["netd", "libvirt", "adopt"])?;
        host.run(["ufw", "--force", "enable"])?;
        let status = host.run(["ufw", "status", "verbose"])?;
        ensure!(status.contains("deny (incoming)"), "{status}");
        all_of(&mut guest)?;
        for words in [
            &["reload"][..],
            &["default", "deny", "routed"],
            &["default", "reject", "incoming"],
        ] {
            guest.stream(&OUTSIDE.to_string())?;
            host.run(["ufw"].into_iter().chain(words.iter().copied()))?;
            super::switch::end(&mut guest, words[0])?;
            all_of(&mut guest)?;
        }
        host.run(["ufw", "disable"])?;
        all_of(&mut guest)
    });
}

/// Docker itself, which lets nothing be forwarded but what is its own.
#[test]
#[ignore = "boots guests: cargo xtask test --clients"]
fn guests_reach_outside_beside_docker() {
    check_booted(Root::Sid, |host| {
        host.systemctl(["start", "docker.service"])?;
        let policy = host.run(["iptables", "-S", "FORWARD"])?;
        ensure!(policy.contains("-P FORWARD DROP"), "{policy}");
        let mut guest = hypervisor(host)?.domain;
        host.run(["netd", "libvirt", "adopt"])?;
        all_of(&mut guest)?;
        guest.stream(&OUTSIDE.to_string())?;
        host.systemctl(["restart", "docker.service"])?;
        super::switch::end(&mut guest, "docker anew")?;
        all_of(&mut guest)
    });
}
