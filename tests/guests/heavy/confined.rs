//! netd by its own unit, with all of the limits that the unit sets.

use anyhow::{Context as _, Result, ensure};
use netd_tests::eventually;
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Host, PATIENCE, Root, check_booted};

use super::systemd::hypervisor;

on_each!(
    what_serves_guests_outlives_the_agent,
    an_agent_that_is_silent_is_replaced,
);

/// Files that say by which process a network is served.
const SERVERS: [&str; 2] = ["/run/netd/default.pid", "/run/netd/relay/virbr0.pid"];

/// The processes that serve the network `default`.
fn servers(host: &Host) -> Result<Vec<String>> {
    let pid = |path: &str| {
        let text = host.read(path)?;
        let pid = text.lines().next().context("a process number")?.to_owned();
        ensure!(
            host.path(&format!("/proc/{pid}")).is_dir(),
            "{path}: {pid} is gone"
        );
        Ok(pid)
    };
    SERVERS.into_iter().map(pid).collect()
}

/// systemd before 254 keeps no namespace of a unit that is stopped.
fn keeps_what_is_stopped(root: Root) -> bool {
    root != Root::Bookworm
}

fn what_serves_guests_outlives_the_agent(root: Root) {
    check_booted(root, |host| {
        let mut guest = hypervisor(host)?.into_domain();
        host.run(["netd", "libvirt", "adopt"])?;
        let before = servers(host)?;
        let agent = host.main_pid("netd")?.context("netd does not run")?;
        let limits = host.read(&format!("/proc/{agent}/status"))?;
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            ensure!(limits.contains(line), "no {line} in\n{limits}");
        }
        let mounts = |pid: &str| host.run(["readlink", &format!("/proc/{pid}/ns/mnt")]);
        ensure!(
            mounts(&agent.to_string())? != mounts("1")?,
            "netd has the host's mounts"
        );
        ensure!(host.output(["netd", "doctor"])?.status.code() != Some(2));

        host.systemctl(["reload", "netd"])?;
        ensure!(
            host.main_pid("netd")? == Some(agent),
            "a reload is no restart"
        );
        guest.stream(&OUTSIDE.to_string())?;
        for _ in 0..2 {
            host.systemctl(["restart", "netd"])?;
            ensure!(
                servers(host)? == before,
                "{:?} instead of {before:?}",
                servers(host)?
            );
        }
        super::switch::end(&mut guest, "by restarts")?;

        host.systemctl(["stop", "netd"])?;
        ensure!(servers(host)? == before);
        host.systemctl(["start", "netd"])?;
        let after = servers(host)?;
        if keeps_what_is_stopped(root) {
            ensure!(after == before, "{after:?} instead of {before:?}");
        }
        guest.dhcp("eth0").context("after a stop and a start")?;
        guest.reaches(&OUTSIDE.to_string())
    });
}

/// As an agent whose loop hangs is.
fn an_agent_that_is_silent_is_replaced(root: Root) {
    check_booted(root, |host| {
        host.install_units()?;
        std::fs::create_dir_all(host.path("/etc/systemd/system/netd.service.d"))?;
        let soon = "[Service]\nWatchdogSec=6s\n";
        host.file("/etc/systemd/system/netd.service.d/soon.conf", soon)?;
        host.systemctl(["daemon-reload"])?;
        host.systemctl(["start", "netd"])?;
        let first = host.main_pid("netd")?.context("netd does not run")?;
        // Longer than the limit, in which it tells that it is alive.
        std::thread::sleep(std::time::Duration::from_secs(15));
        ensure!(
            host.main_pid("netd")? == Some(first),
            "an agent that is alive was replaced"
        );
        host.run(["kill", "-s", "STOP", &first.to_string()])?;
        eventually(PATIENCE, || {
            let now = host.main_pid("netd")?.context("netd does not run yet")?;
            ensure!(now != first, "the silent one is still there");
            host.run(["netd", "net-list"]).map(drop)
        })
    });
}
