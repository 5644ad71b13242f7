//! Networks and daemons that go and come back while a guest runs.

use anyhow::{Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Domain, Host, Root, check};

use crate::scenario::{
    ensure_ports, guest_with_lease, members, ports, reaches_everything, up_with_guest,
};

on_each!(
    a_network_is_stopped_and_started_under_its_guest,
    netd_is_killed_and_upgraded,
    libvirtd_is_restarted,
    both_daemons_are_restarted,
    libvirtd_starts_without_netd,
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
