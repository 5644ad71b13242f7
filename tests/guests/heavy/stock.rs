//! The rig itself, on libvirt's own network driver.

use netd_tests::libvirt::{Root, check};

use crate::scenario::{guest_with_lease, reaches_everything};

fn a_guest(root: Root) {
    check(root, |host| {
        host.libvirtd.start()?;
        host.virsh(["net-start", "default"])?;
        let mut guest = guest_with_lease(host, 1)?;
        reaches_everything(&mut guest)
    });
}

#[test]
#[ignore = "boots guests: cargo xtask test --clients"]
fn bookworm() {
    a_guest(Root::Bookworm);
}

#[test]
#[ignore = "boots guests: cargo xtask test --clients"]
fn trixie() {
    a_guest(Root::Trixie);
}

#[test]
#[ignore = "boots guests: cargo xtask test --clients"]
fn sid() {
    a_guest(Root::Sid);
}
