//! The rig itself, on libvirt's own network driver.

use netd_tests::libvirt::{Root, check};

use crate::scenario::{guest_with_lease, reaches_everything};

on_each!(libvirts_own_driver_serves_a_guest);

fn libvirts_own_driver_serves_a_guest(root: Root) {
    check(root, |host| {
        host.libvirtd.start()?;
        host.virsh(["net-start", "default"])?;
        let mut guest = guest_with_lease(host, 1)?;
        reaches_everything(&mut guest)
    });
}
