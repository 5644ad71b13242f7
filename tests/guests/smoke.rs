//! One guest, one libvirt: this machine's.

use netd_tests::libvirt::{Root, check};

use crate::scenario::{ensure_ports, members, up_with_guest};

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
