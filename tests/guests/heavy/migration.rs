//! A guest that moves to another host while it runs.

use anyhow::{Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Console, Host, Root, check};

use crate::scenario::{ensure_ports, members, up, up_with_guest};

on_each!(a_guest_moves_to_another_host);

/// A libvirtd that takes guests over TCP, and knows that it is another host although the machine is one.
fn takes_guests(host: &mut Host, uuid: &str) -> Result<()> {
    let path = "/etc/libvirt/libvirtd.conf";
    let settings = host.read(path)?;
    let more =
        format!("listen_tls = 0\nlisten_tcp = 1\nauth_tcp = \"none\"\nhost_uuid = \"{uuid}\"\n");
    host.file(path, &(settings + &more))?;
    host.libvirtd.set_arguments(&["--listen"]);
    Ok(())
}

fn a_guest_moves_to_another_host(root: Root) {
    check(root, |here| {
        let Some(mut there) = Host::new(root, "host2")? else {
            return Ok(()); // cannot be: `here` is one
        };
        here.hv.veth("between", &there.hv, "between")?;
        here.hv.address("between", "192.0.2.1/24")?;
        there.hv.address("between", "192.0.2.2/24")?;
        takes_guests(here, "6695eb01-f6a4-8304-79aa-97f2502e1931")?;
        takes_guests(&mut there, "6695eb01-f6a4-8304-79aa-97f2502e1932")?;
        let moved = (|| {
            up(&mut there)?;
            let guest = up_with_guest(here)?;
            drop(guest);
            let move_it = "migrate vm1 --live --undefinesource --persistent \
                           qemu+tcp://192.0.2.2/system --migrateuri tcp://192.0.2.2";
            here.virsh(move_it.split_whitespace())?;
            ensure_ports(here, 0)?;
            ensure!(members(here, "virbr0")?.is_empty());
            ensure_ports(&there, 1)?;
            ensure!(members(&there, "virbr0")?.len() == 1);
            let mut shell = Console::reconnect(&there.path("/guest/vm1.shell"))?;
            // It has the other host's outside and gateway, by the addresses that it knows.
            netd_tests::eventually(netd_tests::libvirt::PATIENCE, || {
                shell.run(&format!("ping -c 1 -W 3 {OUTSIDE}"))
            })?;
            there.virsh(["destroy", "vm1"])?;
            ensure_ports(&there, 0)
        })();
        if moved.is_err() {
            eprintln!("the other host:\n{}", there.logs());
        }
        moved
    });
}
