//! Programs of others that know libvirt alone: what they print is the same on libvirt's own driver and
//! on netd, under the newest libvirt.

use anyhow::{Context, Result, ensure};
use netd_tests::libvirt::{Host, PATIENCE, Root, check};

use crate::scenario::{ensure_ports, up};

const NETWORKS_PY: &str = include_str!("../third_parties/networks.py");
const NETWORKS_YML: &str = include_str!("../third_parties/networks.yml");

/// What a command prints with libvirt's own driver, and with netd.
fn on_both(root: Root, command: impl Fn(&Host) -> Result<String>) -> Result<(String, String)> {
    let said = |by_netd: bool| -> Result<Option<String>> {
        let Some(mut host) = Host::new(root, "host1")? else {
            return Ok(None);
        };
        let said = (|| {
            if by_netd {
                host.start_netd()?;
                host.use_module()?;
            } else {
                // What Debian defines at first; netd has nothing defined.
                let stock = "/etc/libvirt/qemu/networks/default.xml";
                std::fs::remove_file(host.path(stock))?;
            }
            host.libvirtd.start()?;
            command(&host)
        })();
        said.map(Some).with_context(|| host.logs())
    };
    let both = said(false)?.zip(said(true)?);
    both.context("cargo xtask could not make the file system")
}

/// Each line the same.
fn same(root: Root, command: impl Fn(&Host) -> Result<String>) {
    let compared = on_both(root, command).and_then(|(stock, netd)| {
        ensure!(stock.lines().count() > 10, "it says little: {stock}");
        let differ = |(stock, netd): (&str, &str)| {
            (stock != netd).then(|| format!("libvirt: {stock}\nnetd:    {netd}\n"))
        };
        let differences: String = stock.lines().zip(netd.lines()).filter_map(differ).collect();
        ensure!(differences.is_empty(), "{differences}");
        ensure!(stock == netd, "libvirt:\n{stock}\nnetd:\n{netd}");
        Ok(())
    });
    compared.unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
#[ignore = "starts libvirtd: cargo xtask test --clients"]
fn libvirt_python_hears_the_same() {
    same(Root::Sid, |host| {
        let script = host.file("/tmp/networks.py", NETWORKS_PY)?;
        host.run(["python3", script, "qemu:///system"])
    });
}

#[test]
#[ignore = "starts libvirtd: cargo xtask test --clients"]
fn ansible_does_the_same() {
    same(Root::Sid, |host| {
        let book = host.file("/tmp/networks.yml", NETWORKS_YML)?;
        let inside = host.path("/usr/bin/ansible-playbook");
        ensure!(inside.is_file(), "no ansible in the file system");
        host.run(["env", "ANSIBLE_NOCOLOR=1", "ansible-playbook", "-v", book])
    });
}

#[test]
#[ignore = "boots guests: cargo xtask test --clients"]
fn virt_install_makes_a_guest() {
    check(Root::Sid, |host| {
        up(host)?;
        let install = "virt-install --name made --memory 96 --virt-type qemu --disk none \
                       --osinfo detect=off,require=off --network network=default --graphics none \
                       --noautoconsole --boot kernel=/guest/vmlinuz,initrd=/guest/initramfs";
        host.run(install.split_whitespace())?;
        ensure_ports(host, 1)?;
        host.virsh(["destroy", "made"])?;
        ensure_ports(host, 0)
    });
}

#[test]
#[ignore = "starts libvirtd: cargo xtask test --clients"]
fn libvirt_dbus_tells_of_networks() {
    check(Root::Sid, |host| {
        host.run(["mkdir", "-p", "/run/dbus"])?;
        host.run(["dbus-daemon", "--system", "--fork"])?;
        // libvirt-dbus runs as a user of its own, whom polkit would let in.
        let path = "/etc/libvirt/libvirtd.conf";
        let open = host.read(path)? + "unix_sock_rw_perms = \"0777\"\n";
        host.file(path, &open)?;
        host.start_netd()?;
        host.use_module()?;
        host.libvirtd.start()?;
        let script = "dbus-monitor --system interface=org.libvirt.Connect > /tmp/signals 2>&1 &";
        host.run(["sh", "-c", script])?;
        let call = |words: &str| {
            let call = "busctl --system call org.libvirt /org/libvirt/QEMU org.libvirt.Connect";
            host.run(call.split(' ').chain(words.split(' ')))
        };
        let none = call("ListNetworks u 0")?;
        ensure!(none.trim() == "ao 0", "{none}");
        host.virsh([
            "net-define",
            host.file("/tmp/default.xml", crate::scenario::DEFAULT)?,
        ])?;
        host.virsh(["net-start", "default"])?;
        let one = call("ListNetworks u 0")?;
        ensure!(
            one.starts_with("ao 1 \"/org/libvirt/QEMU/network/"),
            "{one}"
        );
        netd_tests::eventually(PATIENCE, || {
            let signals = host.read("/tmp/signals")?;
            ensure!(signals.contains("member=NetworkEvent"), "{signals}");
            Ok(())
        })
    });
}
