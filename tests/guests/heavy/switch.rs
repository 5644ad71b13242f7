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

fn end(guest: &mut Domain, what: &str) -> Result<()> {
    let lost = guest.end_stream()?;
    eprintln!("{what}: {lost:?}");
    ensure!(lost.longest < OUTAGE, "{what}: {lost:?}");
    Ok(())
}

/// The guest has the device, the port and the lease that it had, and is asked for nothing.
fn is_served(host: &Host, guest: &mut Domain, port: &str, uuids: &[String]) -> Result<()> {
    ensure!(members(host, "virbr0")? == [port]);
    let now = ports(host)?;
    ensure!(now == uuids, "ports {uuids:?}, then {now:?}");
    let leases = host.virsh(["domifaddr", &guest.name, "--source", "lease"])?;
    ensure!(leases.contains("192.168.122."), "{leases}");
    reaches_everything(guest)
}

/// Guests start and stop, and links are set down and up, as ever.
fn goes_on(host: &Host, guest: &mut Domain) -> Result<()> {
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

fn a_running_guest_changes_hands_and_back(root: Root) {
    check(root, |host| {
        host.define_default()?;
        host.libvirtd.start()?;
        host.virsh(["net-start", "default"])?;
        host.virsh(["net-autostart", "default"])?;
        let mut guest = guest_with_lease(host, 1)?;
        let (port, uuids) = (guest.port("default")?, ports(host)?);
        host.install_module()?;
        host.start_netd()?;

        guest.stream(&OUTSIDE.to_string())?;
        host.run(["netd", "libvirt", "adopt"])?;
        restart_libvirtd(host)?;
        end(&mut guest, "to netd")?;
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
        is_served(host, &mut guest, &port, &uuids).context("by libvirt")?;
        goes_on(host, &mut guest).context("by libvirt")
    });
}
