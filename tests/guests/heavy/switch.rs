//! A running hypervisor changes from libvirt's own network driver to netd and back.

use std::panic::resume_unwind;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Domain, Host, PATIENCE, Root, check};

use crate::scenario::{
    DEFAULTS, ensure_ports, guest_with_lease, members, ports, reaches_everything, restart_libvirtd,
};

on_each!(a_running_guest_changes_hands_and_back);

/// What a change may cost the guest's stream.
const OUTAGE: Duration = Duration::from_secs(1);

pub fn end(guest: &mut Domain, what: &str) -> Result<()> {
    let lost = guest.end_stream()?;
    eprintln!("{what}: {lost:?}");
    ensure!(lost.longest < OUTAGE, "{what}: {lost:?}");
    Ok(())
}

/// The guest has the device, the port and the lease that it had, and is asked for nothing.
pub fn is_served(host: &Host, guest: &mut Domain, port: &str, uuids: &[String]) -> Result<()> {
    ensure!(members(host, "virbr0")? == [port]);
    let now = ports(host)?;
    ensure!(now == uuids, "ports {uuids:?}, then {now:?}");
    let leases = host.virsh(["domifaddr", &guest.name, "--source", "lease"])?;
    ensure!(leases.contains("192.168.122."), "{leases}");
    reaches_everything(guest)
}

/// Guests start and stop, and links are set down and up, as ever.
pub fn goes_on(host: &Host, guest: &mut Domain) -> Result<()> {
    let mut another = guest_with_lease(host, 2)?;
    reaches_everything(&mut another)?;
    host.virsh(["destroy", "vm2"])?;
    host.virsh(["undefine", "vm2"])?;
    for state in ["down", "up"] {
        host.virsh(["domif-setlink", "vm1", "52:54:00:00:00:01", state])?;
    }
    guest.reaches(&OUTSIDE.to_string())?;
    ensure_ports(host, 1)
}

/// libvirt's choice of where its rules are; without one, Debian's is iptables.
const SETTINGS: &str = "/etc/libvirt/network.conf";

/// That backend has the kernel put checksums right that DHCP clients of old days look at. Without `act_csum`
/// in the kernel no network would start; guests of today do without.
const TC: &str = r#"#!/bin/sh
case "$*" in
    *' action csum '*) /usr/sbin/tc "$@" || : ;;
    *) exec /usr/sbin/tc "$@" ;;
esac
"#;

/// Which tables of the kernel's hold rules of libvirt's.
fn tables(host: &Host) -> Result<Vec<String>> {
    let listed = host.hv.run(["nft", "list", "ruleset"])?;
    let mut tables = Vec::new();
    let mut table = "";
    for line in listed.lines() {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        }
        let is_libvirts = table.contains("libvirt_network") || line.contains("LIBVIRT_");
        if is_libvirts && !tables.iter().any(|known| known == table) {
            tables.push(table.to_owned());
        }
    }
    Ok(tables)
}

fn a_running_guest_changes_hands_and_back(root: Root) {
    changes_hands_and_back(root, None);
}

#[test]
#[ignore = "boots guests: cargo xtask test --clients"]
fn a_running_guest_changes_hands_and_back_beside_nftables_on_trixie() {
    changes_hands_and_back(Root::Trixie, Some("nftables"));
}

#[test]
#[ignore = "boots guests: cargo xtask test --clients"]
fn a_running_guest_changes_hands_and_back_beside_nftables_on_sid() {
    changes_hands_and_back(Root::Sid, Some("nftables"));
}

fn changes_hands_and_back(root: Root, backend: Option<&str>) {
    check(root, |host| {
        if let Some(backend) = backend {
            host.file(SETTINGS, &format!("firewall_backend = \"{backend}\"\n"))?;
            host.file("/usr/local/sbin/tc", TC)?;
            host.run(["chmod", "755", "/usr/local/sbin/tc"])?;
        }
        host.define_default()?;
        host.libvirtd.start()?;
        host.virsh(["net-start", "default"])?;
        host.virsh(["net-autostart", "default"])?;
        let mut guest = guest_with_lease(host, 1)?;
        let (port, uuids) = (guest.port("default")?, ports(host)?);
        let rules = tables(host)?;
        ensure!(!rules.is_empty(), "no rules of libvirt's");
        let by_nftables = rules.iter().any(|table| table.contains("libvirt_network"));
        ensure!(by_nftables == backend.is_some(), "{rules:?}");
        host.install_module()?;
        host.start_netd()?;

        guest.stream(&OUTSIDE.to_string())?;
        host.run(["netd", "libvirt", "adopt"])?;
        restart_libvirtd(host)?;
        end(&mut guest, "to netd")?;
        let left = tables(host)?;
        ensure!(left.is_empty(), "rules of libvirt's are left: {left:?}");
        is_served(host, &mut guest, &port, &uuids).context("by netd")?;
        goes_on(host, &mut guest).context("by netd")?;

        let uuids = ports(host)?;
        guest.stream(&OUTSIDE.to_string())?;
        let inside = host.inside();
        let released = std::thread::spawn(move || inside.run(["netd", "libvirt", "release"]));
        netd_tests::eventually(PATIENCE, || {
            let defaults = host.read(DEFAULTS).unwrap_or_default();
            let set = |line: &str| line.starts_with("LIBVIRT_DRIVER_DIR=");
            ensure!(!defaults.lines().any(set), "{defaults}");
            Ok(())
        })?;
        restart_libvirtd(host)?;
        released
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))?;
        end(&mut guest, "back to libvirt")?;
        let back = tables(host)?;
        ensure!(back == rules, "{rules:?}, then {back:?}");
        is_served(host, &mut guest, &port, &uuids).context("by libvirt")?;
        goes_on(host, &mut guest).context("by libvirt")
    });
}
