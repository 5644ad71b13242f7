//! Networks and daemons that go and come back while a guest runs.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Domain, Host, PATIENCE, Root, check};

use crate::scenario::{
    ensure_ports, guest_with_lease, members, ports, reaches_everything, up_with_guest,
};

on_each!(
    a_network_is_stopped_and_started_under_its_guest,
    netd_is_killed_and_upgraded,
    libvirtd_is_restarted,
    both_daemons_are_restarted,
    libvirtd_starts_without_netd,
    netd_is_killed_while_a_guest_starts,
);

/// What a guest and its port were before, and are again.
struct Before {
    ports: Vec<String>,
    port: String,
}

impl Before {
    fn note(host: &Host, guest: &Domain) -> Result<Self> {
        Ok(Self {
            ports: ports(host)?,
            port: guest.port("default")?,
        })
    }

    /// All is as it was, and a guest that is started now is served too.
    fn is_again(&self, host: &Host, guest: &mut Domain) -> Result<()> {
        let now = Self::note(host, guest)?;
        ensure!(
            now.ports == self.ports && now.port == self.port,
            "ports {:?}, then {:?}; device {}, then {}",
            self.ports,
            now.ports,
            self.port,
            now.port
        );
        ensure!(members(host, "virbr0")? == [self.port.as_str()]);
        reaches_everything(guest)?;
        let mut another = guest_with_lease(host, 2)?;
        reaches_everything(&mut another)?;
        host.virsh(["destroy", "vm2"])?;
        host.virsh(["destroy", "vm1"])?;
        ensure_ports(host, 0)
    }
}

fn a_network_is_stopped_and_started_under_its_guest(root: Root) {
    check(root, |host| {
        let mut guest = up_with_guest(host)?;
        guest.stream(&OUTSIDE.to_string())?;
        host.virsh(["net-destroy", "default"])?;
        guest.reaches_not(&OUTSIDE.to_string())?;
        host.virsh(["net-start", "default"])?;
        guest.reaches(&OUTSIDE.to_string())?;
        let lost = guest.end_stream()?;
        ensure!(
            lost.packets > 0,
            "a stream is to show what was lost: {lost:?}"
        );
        ensure!(members(host, "virbr0")? == [guest.port("default")?]);
        reaches_everything(&mut guest)?;
        // Its port went with the network, as libvirt's driver has it; its end must do no harm.
        host.virsh(["destroy", "vm1"])?;
        ensure_ports(host, 0)
    });
}

fn netd_is_killed_and_upgraded(root: Root) {
    check(root, |host| {
        let mut guest = up_with_guest(host)?;
        let before = Before::note(host, &guest)?;
        guest.stream(&OUTSIDE.to_string())?;
        host.netd.kill()?;
        guest.reaches(&OUTSIDE.to_string())?;
        let error = host.virsh_fails(["net-list", "--all"])?;
        ensure!(error.contains("netd"), "who is away? {error}");
        host.start_netd()?;
        let lost = guest.end_stream()?;
        ensure!(lost.packets == 0, "{lost:?}");
        before.is_again(host, &mut guest)
    });
}

fn libvirtd_is_restarted(root: Root) {
    check(root, |host| {
        let mut guest = up_with_guest(host)?;
        let before = Before::note(host, &guest)?;
        guest.stream(&OUTSIDE.to_string())?;
        host.libvirtd.restart()?;
        host.libvirtd.kill()?;
        host.libvirtd.start()?;
        let lost = guest.end_stream()?;
        ensure!(lost.packets == 0, "{lost:?}");
        before.is_again(host, &mut guest)
    });
}

fn both_daemons_are_restarted(root: Root) {
    check(root, |host| {
        let mut guest = up_with_guest(host)?;
        let before = Before::note(host, &guest)?;
        guest.stream(&OUTSIDE.to_string())?;
        host.libvirtd.stop()?;
        host.netd.stop()?;
        host.netd.start()?;
        host.libvirtd.start()?;
        let lost = guest.end_stream()?;
        ensure!(lost.packets == 0, "{lost:?}");
        before.is_again(host, &mut guest)
    });
}

fn libvirtd_starts_without_netd(root: Root) {
    check(root, |host| {
        let mut guest = up_with_guest(host)?;
        let before = Before::note(host, &guest)?;
        host.libvirtd.stop()?;
        host.netd.stop()?;
        host.libvirtd.start()?;
        let running = host.virsh(["domstate", "vm1"])?;
        ensure!(running.trim() == "running", "{running}");
        let error = host.virsh_fails(["net-list", "--all"])?;
        ensure!(error.contains("netd"), "who is away? {error}");
        host.netd.start()?;
        before.is_again(host, &mut guest)
    });
}

/// The guest starts, or is told why not and can be started afterwards; nothing is left of it either way.
fn netd_is_killed_while_a_guest_starts(root: Root) {
    check(root, |host| {
        drop(up_with_guest(host)?);
        host.virsh(["destroy", "vm1"])?;
        let mut outcomes = [0, 0];
        for pause in [0, 20, 40, 80, 120, 160, 240, 320] {
            let inside = host.inside();
            let starting = thread::spawn(move || inside.output(["virsh", "start", "vm1"]));
            // What is tried is the moment, which may be any.
            thread::sleep(Duration::from_millis(pause));
            host.netd.kill()?;
            host.netd.start()?;
            let output = starting
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            outcomes[usize::from(output.status.success())] += 1;
            let port = match output.status.success() {
                true => Domain::port_of(host, "vm1", "default")?,
                false => {
                    ensure!(error.contains("netd"), "after {pause} ms: {error}");
                    let port = host.virsh(["domstate", "vm1"])?;
                    ensure!(port.trim() == "shut off", "{port}");
                    String::new()
                }
            };
            let expected: Vec<String> =
                [port].into_iter().filter(|port| !port.is_empty()).collect();
            netd_tests::eventually(PATIENCE, || {
                let found = members(host, "virbr0")?;
                ensure!(found == expected, "{expected:?}, not {found:?}");
                Ok(())
            })?;
            if output.status.success() {
                host.virsh(["destroy", "vm1"])?;
            }
        }
        println!(
            "{} starts were refused, {} were not",
            outcomes[0], outcomes[1]
        );
        // A port whose guest was never told of it is the only thing that may be left.
        let left = ports(host)?;
        ensure!(left.len() <= outcomes[0], "{left:?}");
        let mut guest = Domain::boot(host, "vm1")?;
        guest.dhcp("eth0")?;
        reaches_everything(&mut guest)
    });
}
