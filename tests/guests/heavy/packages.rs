//! netd's packages, installed, upgraded, removed and purged by the distribution's own means.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use netd_tests::eventually;
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Domain, Host, PATIENCE, Root, check_booted};

use super::switch::{end, goes_on, is_served};
use crate::scenario::{guest_with_lease, ports};

on_each!(
    a_guest_has_its_network_after_two_commands_and_keeps_it,
    a_libvirt_host_is_switched_upgraded_and_given_back,
);

/// A guest of a bridge, as somebody without networks of libvirt's has it.
const NIC: &str = "<interface type='bridge'><mac address='52:54:00:00:00:01'/>\
                   <source bridge='virbr0'/><model type='virtio'/></interface>";

/// Where the host finds the packages.
const DEBS: &str = "/tmp/debs";

/// Lays the packages that were made where the host finds them.
pub fn provide(host: &Host, folder: &str) -> Result<()> {
    let debs = std::env::var_os("NETD_DEBS")
        .context("NETD_DEBS is not set: run these tests with `cargo xtask test --clients`")?;
    host.run(["mkdir", "-p", folder])?;
    let mut found = 0;
    for entry in std::fs::read_dir(PathBuf::from(debs))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let name = path
                .file_name()
                .context("a name")?
                .to_string_lossy()
                .into_owned();
            host.install(&path, &format!("{folder}/{name}"))?;
            found += 1;
        }
    }
    ensure!(
        found == 2,
        "{found} packages instead of netd and netd-libvirt"
    );
    Ok(())
}

/// apt, which has to be content without asking anybody.
fn apt(host: &Host, words: &str) -> Result<String> {
    let line = format!(
        "DEBIAN_FRONTEND=noninteractive apt-get --yes --no-install-recommends --allow-downgrades {words}"
    );
    host.run(["sh", "-c", &line])
}

/// The same packages as a later version.
fn make_later(host: &Host) -> Result<()> {
    let script = format!(
        "set -e; cd {DEBS}; mkdir later; for deb in netd*.deb; do rm -rf tree; dpkg-deb -R $deb tree; \
         sed -i -E 's/^Version: .*/&+later/; s/netd \\(= [^)]*/&+later/' tree/DEBIAN/control; \
         dpkg-deb --build --root-owner-group tree later/$deb; done"
    );
    host.run(["sh", "-c", &script]).map(drop)
}

/// The process of the network's dnsmasq.
fn dnsmasq(host: &Host) -> Result<String> {
    Ok(host.read("/run/netd/default.pid")?.trim().to_owned())
}

fn a_guest_has_its_network_after_two_commands_and_keeps_it(root: Root) {
    check_booted(root, |host| {
        provide(host, DEBS)?;
        host.run(["sh", "-c", "rm -rf /etc/libvirt/qemu/networks/*"])?;
        apt(host, &format!("install {DEBS}/netd_*.deb"))?;
        host.run(["netd", "net-start", "default"])?;

        host.systemctl(["start", "libvirtd"])?;
        let mut guest = Domain::start(host, "vm1", NIC)?;
        guest.dhcp("eth0")?;
        guest.reaches(&OUTSIDE.to_string())?;

        let (served, agent) = (dnsmasq(host)?, host.main_pid("netd")?);
        make_later(host)?;
        guest.stream(&OUTSIDE.to_string())?;
        apt(host, &format!("install {DEBS}/later/netd_*.deb"))?;
        end(&mut guest, "by an upgrade")?;
        ensure!(host.main_pid("netd")? != agent, "the old agent runs on");
        ensure!(dnsmasq(host)? == served, "dnsmasq is another one");

        guest.stream(&OUTSIDE.to_string())?;
        let said = apt(host, "remove netd")?;
        end(&mut guest, "by a removal")?;
        ensure!(said.contains("networks go on"), "{said}");
        ensure!(host.output(["netd", "status"])?.status.code() == Some(127));
        ensure!(dnsmasq(host)? == served, "dnsmasq is another one");
        guest.dhcp("eth0").context("from a network without agent")?;
        let leases = host.read("/var/lib/netd/dnsmasq/virbr0.status")?;
        ensure!(leases.contains("52:54:00:00:00:01"), "{leases}");

        apt(host, &format!("install {DEBS}/netd_*.deb"))?;
        let listed = host.run(["netd", "net-list", "--name"])?;
        ensure!(listed.trim() == "default", "{listed}");
        guest.reaches(&OUTSIDE.to_string())?;

        apt(host, "purge netd")?;
        for path in [
            "/etc/netd",
            "/var/lib/netd",
            "/run/netd",
            "/sys/fs/bpf/netd",
        ] {
            ensure!(!host.path(path).exists(), "{path} is left");
        }
        let links = host.run(["ip", "-o", "link"])?;
        ensure!(!links.contains("virbr0"), "{links}");
        eventually(PATIENCE, || {
            let left = host.run(["sh", "-c", "cat /proc/[0-9]*/comm"])?;
            let own = left.lines().find(|name| ["netd", "dnsmasq"].contains(name));
            ensure!(own.is_none(), "{own:?} runs on");
            Ok(())
        })
    });
}

fn a_libvirt_host_is_switched_upgraded_and_given_back(root: Root) {
    check_booted(root, |host| {
        host.define_default()?;
        host.systemctl(["start", "libvirtd"])?;
        host.virsh(["net-start", "default"])?;
        let mut guest = guest_with_lease(host, 1)?;
        let (port, uuids) = (guest.port("default")?, ports(host)?);
        provide(host, DEBS)?;
        apt(
            host,
            &format!("install {DEBS}/netd_*.deb {DEBS}/netd-libvirt_*.deb"),
        )?;
        let own = host.run(["netd", "net-list", "--all", "--name"])?;
        ensure!(own.trim().is_empty(), "libvirt has the network: {own}");
        host.run(["netd", "libvirt", "adopt"])?;
        is_served(host, &mut guest, &port, &uuids).context("by netd")?;

        make_later(host)?;
        let served = dnsmasq(host)?;
        guest.stream(&OUTSIDE.to_string())?;
        apt(
            host,
            &format!("install {DEBS}/later/netd_*.deb {DEBS}/later/netd-libvirt_*.deb"),
        )?;
        end(&mut guest, "by an upgrade")?;
        ensure!(dnsmasq(host)? == served, "dnsmasq is another one");
        is_served(host, &mut guest, &port, &uuids).context("after the upgrade")?;

        guest.stream(&OUTSIDE.to_string())?;
        apt(host, "remove netd netd-libvirt")?;
        end(&mut guest, "back to libvirt")?;
        is_served(host, &mut guest, &port, &uuids).context("by libvirt")?;
        apt(host, "purge netd netd-libvirt")?;
        goes_on(host, &mut guest).context("by libvirt alone")
    });
}
