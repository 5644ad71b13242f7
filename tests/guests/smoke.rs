//! One guest, one libvirt: this machine's.

use anyhow::ensure;
use netd_tests::libvirt::{Root, check};

use crate::scenario::{COCKPIT_PY, ensure_ports, members, start_libvirt_dbus, up_with_guest};

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_guest_gets_its_network_from_netd() {
    check(Root::Machine, |host| {
        let guest = up_with_guest(host)?;
        assert_eq!(members(host, "virbr0")?, [guest.port("default")?]);
        host.virsh(["destroy", "vm1"])?;
        ensure_ports(host, 0)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn cockpits_page_of_networks_works() {
    check(Root::Machine, |host| {
        host.start_netd()?;
        host.use_module()?;
        start_libvirt_dbus(host)?;
        let script = host.file("/tmp/cockpit.py", COCKPIT_PY)?;
        let said = host.run(["python3", script])?;
        // Defined, started, stopped, undefined.
        let events: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("events:"))
            .collect();
        let numbers: String = events
            .concat()
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        ensure!(numbers == "0231", "{said}");
        for refused in ["activate again", "add it again", "delete it again"] {
            let line = format!("{refused}: error [\"org.libvirt.Error\", ");
            ensure!(
                said.contains(&line),
                "no error where there should be one: {said}"
            );
        }
        for done in [
            "define",
            "activate",
            "autostart",
            "add a host",
            "delete it",
            "undefine",
        ] {
            ensure!(said.contains(&format!("\n{done}:  [")), "{done}: {said}");
        }
        Ok(())
    });
}
