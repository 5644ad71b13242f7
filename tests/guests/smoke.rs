//! One guest, one libvirt: this machine's.

use netd_tests::libvirt::{Root, check};

use crate::scenario::{guest_with_lease, reaches_everything};

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_guest_gets_its_lease_and_reaches_the_outside() {
    check(Root::Machine, |host| {
        host.define_default()?;
        host.libvirtd.start()?;
        host.virsh(["net-start", "default"])?;
        let mut guest = guest_with_lease(host, 1)?;
        reaches_everything(&mut guest)?;
        host.virsh(["destroy", "vm1"])?;
        Ok(())
    });
}
