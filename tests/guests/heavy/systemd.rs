//! The switch on hosts that systemd runs: it restarts libvirtd by itself; and netd's own units.

use std::panic::resume_unwind;

use anyhow::{Context as _, Result, ensure};
use netd_tests::eventually;
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Domain, Host, PATIENCE, Root, check_booted};

use super::switch::{end, goes_on, is_served};
use crate::scenario::{DEFAULTS, guest_with_lease, ports};

on_each!(
    adopt_and_release_restart_libvirtd,
    without_restart_libvirtd_is_left_alone,
    a_driver_that_libvirtd_does_not_load_is_taken_back,
    sockets_start_netd_for_those_who_may,
);

const LIBVIRTD: &str = "libvirtd.service";
const STOCK: &str = "with libvirt's own network driver";
const NETDS: &str = "with the network driver /usr/lib/netd/libvirt_driver_network.so";

/// A running guest of libvirt's, its port and the UUIDs of the network's.
pub struct Guest {
    pub domain: Domain,
    port: String,
    uuids: Vec<String>,
}

impl Guest {
    /// The guest alone.
    pub fn into_domain(self) -> Domain {
        self.domain
    }
}

/// A host as its administrator has it before the switch: libvirtd by its unit with one guest, netd by its.
pub fn hypervisor(host: &Host) -> Result<Guest> {
    host.define_default()?;
    host.systemctl(["start", LIBVIRTD])?;
    host.virsh(["net-start", "default"])?;
    host.virsh(["net-autostart", "default"])?;
    let domain = guest_with_lease(host, 1)?;
    let (port, uuids) = (domain.port("default")?, ports(host)?);
    host.install_module()?;
    host.install_units()?;
    host.systemctl(["start", "netd"])?;
    drives(host, STOCK)?;
    Ok(Guest {
        domain,
        port,
        uuids,
    })
}

fn drives(host: &Host, driver: &str) -> Result<()> {
    let status = host.run(["netd", "libvirt", "status"])?;
    ensure!(status.contains(driver), "not {driver}:\n{status}");
    Ok(())
}

fn libvirtds_pid(host: &Host) -> Result<u32> {
    let pid = host.main_pid(LIBVIRTD)?;
    pid.context("libvirtd does not run")
}

fn adopt_and_release_restart_libvirtd(root: Root) {
    check_booted(root, |host| {
        let Guest {
            domain: mut guest,
            port,
            uuids,
        } = hypervisor(host)?;

        let before = libvirtds_pid(host)?;
        guest.stream(&OUTSIDE.to_string())?;
        let said = host.run(["netd", "libvirt", "adopt"])?;
        end(&mut guest, "to netd")?;
        ensure!(said.contains("restart libvirtd.service"), "{said}");
        ensure!(libvirtds_pid(host)? != before, "libvirtd is the old one");
        drives(host, NETDS)?;
        is_served(host, &mut guest, &port, &uuids).context("by netd")?;
        goes_on(host, &mut guest).context("by netd")?;

        let (before, uuids) = (libvirtds_pid(host)?, ports(host)?);
        guest.stream(&OUTSIDE.to_string())?;
        let said = host.run(["netd", "libvirt", "release"])?;
        end(&mut guest, "back to libvirt")?;
        ensure!(said.contains("restart libvirtd.service"), "{said}");
        ensure!(libvirtds_pid(host)? != before, "libvirtd is the old one");
        drives(host, STOCK)?;
        is_served(host, &mut guest, &port, &uuids).context("by libvirt")?;
        // As the command said.
        host.systemctl(["stop", "netd"])?;
        goes_on(host, &mut guest).context("by libvirt alone")
    });
}

fn without_restart_libvirtd_is_left_alone(root: Root) {
    check_booted(root, |host| {
        let Guest {
            domain: mut guest,
            port,
            uuids,
        } = hypervisor(host)?;
        let before = libvirtds_pid(host)?;
        let said = host.run(["netd", "libvirt", "adopt", "--no-restart"])?;
        ensure!(said.contains("systemctl restart libvirtd"), "{said}");
        ensure!(libvirtds_pid(host)? == before, "libvirtd was restarted");
        drives(host, STOCK)?;
        guest.reaches(&OUTSIDE.to_string())?;
        host.systemctl(["restart", LIBVIRTD])?;
        drives(host, NETDS)?;
        is_served(host, &mut guest, &port, &uuids).context("by netd")?;

        let before = libvirtds_pid(host)?;
        let inside = host.inside();
        let released =
            std::thread::spawn(move || inside.run(["netd", "libvirt", "release", "--no-restart"]));
        eventually(PATIENCE, || {
            let defaults = host.read(DEFAULTS)?;
            let set = |line: &str| line.starts_with("LIBVIRT_DRIVER_DIR=");
            ensure!(!defaults.lines().any(set), "{defaults}");
            Ok(())
        })?;
        ensure!(!released.is_finished(), "nobody has restarted libvirtd yet");
        ensure!(libvirtds_pid(host)? == before, "libvirtd was restarted");
        host.systemctl(["restart", LIBVIRTD])?;
        released
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))?;
        drives(host, STOCK)?;
        is_served(host, &mut guest, &port, &uuids).context("by libvirt")
    });
}

/// libvirtd starts without networks then: that is found out, and the host is as it was.
fn a_driver_that_libvirtd_does_not_load_is_taken_back(root: Root) {
    check_booted(root, |host| {
        let Guest {
            domain: mut guest,
            port,
            uuids,
        } = hypervisor(host)?;
        let defaults = host.read(DEFAULTS)?;
        let broken = host.file("/usr/lib/netd/broken.so", "not a library\n")?;
        let output = host.output(["netd", "libvirt", "adopt", "--module", broken])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(error.contains("nothing was changed"), "{error}");
        drives(host, STOCK)?;
        ensure!(host.read(DEFAULTS)? == defaults, "{}", host.read(DEFAULTS)?);
        ensure!(!host.path("/var/lib/netd/libvirt/journal.json").exists());
        let own = host.run(["netd", "net-list", "--all", "--name"])?;
        ensure!(own.trim().is_empty(), "netd has: {own}");
        is_served(host, &mut guest, &port, &uuids)?;
        goes_on(host, &mut guest)
    });
}

/// Mode, user and group of a file.
fn access(host: &Host, path: &str) -> Result<String> {
    let told = host.run(["stat", "--format=%a %U %G", path])?;
    Ok(told.trim().to_owned())
}

/// The URI of one of libvirt's sockets that netd serves.
fn uri(socket: &str) -> String {
    format!("network+unix:///system?socket={socket}")
}

/// virsh of somebody who is not root, and in that group.
fn virsh_of(host: &Host, group: &str, words: &[&str]) -> Result<std::process::Output> {
    let user = [
        "setpriv",
        "--reuid=65534",
        &format!("--regid={group}"),
        "--clear-groups",
        "virsh",
    ];
    host.output(user.into_iter().chain(words.iter().copied()))
}

fn sockets_start_netd_for_those_who_may(root: Root) {
    check_booted(root, |host| {
        host.install_units()?;
        let units = [
            "netd.socket",
            "netd-libvirt.socket",
            "netd-libvirt-ro.socket",
        ];
        host.systemctl(std::iter::once("start").chain(units))?;
        ensure!(host.main_pid("netd")?.is_none(), "netd runs already");
        let (own, rw, ro) = (
            "/run/netd/netd-sock",
            "/run/libvirt/virtnetworkd-sock",
            "/run/libvirt/virtnetworkd-sock-ro",
        );
        let found = [own, rw, ro].map(|path| access(host, path));
        let found: Vec<String> = found.into_iter().collect::<Result<_>>()?;
        let wanted = ["600 root root", "660 root libvirt", "666 root root"];
        ensure!(found == wanted, "{found:?} instead of {wanted:?}");

        // Who may not even connect starts nothing.
        let output = virsh_of(host, "nogroup", &["-c", &uri(rw), "net-list", "--all"])?;
        ensure!(!output.status.success(), "{output:?}");
        ensure!(host.main_pid("netd")?.is_none(), "nobody has started netd");

        let output = virsh_of(host, "libvirt", &["-c", &uri(rw), "net-list", "--all"])?;
        ensure!(output.status.success(), "{output:?}");
        let pid = host.main_pid("netd")?.context("netd was not started")?;
        let xml = host.file("/tmp/default.xml", crate::scenario::DEFAULT)?;
        let output = virsh_of(host, "libvirt", &["-c", &uri(rw), "net-define", xml])?;
        ensure!(output.status.success(), "{output:?}");

        let output = virsh_of(
            host,
            "nogroup",
            &["-c", &uri(ro), "-r", "net-list", "--all"],
        )?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && said.contains("default"),
            "{output:?}"
        );
        let output = virsh_of(
            host,
            "nogroup",
            &["-c", &uri(ro), "net-undefine", "default"],
        )?;
        ensure!(!output.status.success(), "{output:?}");
        let listed = host.run(["netd", "net-list", "--all", "--name"])?;
        ensure!(listed.trim() == "default", "{listed}");

        // A new netd has the sockets that systemd kept open meanwhile.
        host.systemctl(["restart", "netd"])?;
        ensure!(host.main_pid("netd")? != Some(pid), "netd is the old one");
        let listed = host.virsh(["-c", &uri(rw), "net-list", "--all", "--name"])?;
        ensure!(listed.trim() == "default", "{listed}");
        let all = ["stop", "netd.service"].into_iter().chain(units);
        host.systemctl(all)?;
        for path in [own, rw, ro] {
            ensure!(!host.path(path).exists() || path == own, "{path} is left");
        }
        Ok(())
    });
}
