//! Programs of others that know libvirt alone: what they print is the same on libvirt's own driver and
//! on netd, under the newest libvirt.

use std::cell::OnceCell;
use std::fs;

use anyhow::{Context, Result, ensure};
use netd_tests::libvirt::{Host, PATIENCE, Root, check};

use crate::scenario::{COCKPIT_PY, ensure_ports, members, start_libvirt_dbus, up};

const NETWORKS_PY: &str = include_str!("../third_parties/networks.py");
const NETWORKS_YML: &str = include_str!("../third_parties/networks.yml");
const NETWORKS_GO: &str = include_str!("../third_parties/networks.go");
const FOG_RB: &str = include_str!("../third_parties/fog.rb");
const VAGRANTFILE: &str = include_str!("../third_parties/Vagrantfile");

/// What a command prints with libvirt's own driver, and with netd.
fn on_both(root: Root, command: impl Fn(&mut Host) -> Result<String>) -> Result<(String, String)> {
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
                fs::remove_file(host.path(stock))?;
            }
            command(&mut host)
        })();
        said.map(Some).with_context(|| host.logs())
    };
    let both = said(false)?.zip(said(true)?);
    both.context("cargo xtask could not make the file system")
}

/// Each line the same; `command` starts libvirtd.
fn same(root: Root, command: impl Fn(&mut Host) -> Result<String>) {
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
        host.libvirtd.start()?;
        let script = host.file("/tmp/networks.py", NETWORKS_PY)?;
        host.run(["python3", script, "qemu:///system"])
    });
}

/// A program that is built from Debian's Go packages alone.
fn built(host: &Host) -> Result<Vec<u8>> {
    host.file("/tmp/networks.go", NETWORKS_GO)?;
    let go = "HOME=/tmp GOCACHE=/tmp/cache GO111MODULE=off GOPATH=/usr/share/gocode CGO_ENABLED=0 \
              go build -o /tmp/networks /tmp/networks.go";
    // Longer than what else is run inside: it compiles Go's library, too.
    netd_tests::run(host.inside().command("env").args(go.split(' ')))?;
    Ok(fs::read(host.path("/tmp/networks"))?)
}

/// What Terraform's provider and others are made with; through libvirtd, and with netd's socket its own.
#[test]
#[ignore = "starts libvirtd: cargo xtask test --clients"]
fn go_libvirt_is_answered_the_same() {
    let program = OnceCell::new();
    same(Root::Sid, |host| {
        if program.get().is_none() {
            let _ = program.set(built(host)?);
        }
        let program = program.get().context("a program")?;
        fs::write(host.path("/tmp/networks"), program)?;
        host.run(["chmod", "755", "/tmp/networks"])?;
        host.libvirtd.start()?;
        let ask = |socket, uri| host.run(["/tmp/networks", socket, uri]);
        let said = ask("/run/libvirt/libvirt-sock", "qemu:///system")?;
        for done in [
            "define: one",
            "running: active: 1",
            "title is: a title",
            "ports: 1 1",
        ] {
            ensure!(said.contains(done), "{done} is not in:\n{said}");
        }
        if host.netd.is_running() {
            let direct = ask("/run/netd/netd-sock", "network:///system")?;
            ensure!(
                direct == said,
                "by libvirtd:\n{said}\nby netd itself:\n{direct}"
            );
        }
        Ok(said)
    });
}

#[test]
#[ignore = "starts libvirtd: cargo xtask test --clients"]
fn ansible_does_the_same() {
    same(Root::Sid, |host| {
        host.libvirtd.start()?;
        let book = host.file("/tmp/networks.yml", NETWORKS_YML)?;
        let inside = host.path("/usr/bin/ansible-playbook");
        ensure!(inside.is_file(), "no ansible in the file system");
        host.run(["env", "ANSIBLE_NOCOLOR=1", "ansible-playbook", "-v", book])
    });
}

#[test]
#[ignore = "starts libvirtd: cargo xtask test --clients"]
fn cockpits_page_of_networks_shows_the_same() {
    same(Root::Sid, |host| {
        start_libvirt_dbus(host)?;
        let script = host.file("/tmp/cockpit.py", COCKPIT_PY)?;
        host.run(["python3", script])
    });
}

#[test]
#[ignore = "starts libvirtd: cargo xtask test --clients"]
fn fog_is_answered_the_same() {
    same(Root::Sid, |host| {
        host.libvirtd.start()?;
        let script = host.file("/tmp/fog.rb", FOG_RB)?;
        host.run(["ruby", script, "qemu:///system"])
    });
}

#[test]
#[ignore = "boots guests: cargo xtask test --clients"]
fn vagrant_makes_a_guest_and_its_networks() {
    check(Root::Sid, |host| {
        host.start_netd()?;
        host.use_module()?;
        host.libvirtd.start()?;
        let images = "/var/lib/libvirt/images";
        host.run(["mkdir", "-p", images, "/root/guest"])?;
        host.virsh(["pool-create-as", "default", "dir", "--target", images])?;
        host.file("/root/guest/Vagrantfile", VAGRANTFILE)?;
        let vagrant = |words: &str| {
            let vagrant = format!("cd /root/guest && exec vagrant {words}");
            host.run(["sh", "-c", &vagrant])
        };
        vagrant("up --provider=libvirt")?;
        for (network, bridge) in [("vagrant-libvirt", "virbr0"), ("private", "virbr1")] {
            let info = host.virsh(["net-info", network])?;
            ensure!(info.contains(bridge), "{info}");
            let taps = members(host, bridge)?;
            ensure!(taps.len() == 1, "{network}: {taps:?}");
        }
        // Vagrant takes the networks away only where no guest uses them, as their XML says.
        vagrant("destroy --force")?;
        let left = host.virsh(["net-list", "--all", "--name"])?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
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
        host.start_netd()?;
        host.use_module()?;
        start_libvirt_dbus(host)?;
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
