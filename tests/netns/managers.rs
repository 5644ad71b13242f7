//! The real systemd-networkd, told to manage everything, leaves netd's bridges and ports alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use netd_tests::lab::check;
use netd_tests::{Lab, Netns, Network, SOON, eventually};

use crate::polkit::{Running, bus, spawn};
use crate::sockets::open_directory;

const NETWORKD: &str = "/usr/lib/systemd/systemd-networkd";

/// What an administrator writes who means "all that there is". The way out is left to the test.
const EVERYTHING: &str = "[Match]\nName=!lo uplink\n[Network]\nLinkLocalAddressing=no\n";

/// Makes a place for networkd in namespaces of its own: its folders are the test's, and the machine's
/// devices have no udev that it would wait for.
const PLACE: &str = "set -e
mount -t tmpfs tmpfs /run
mkdir /run/systemd
ln -s \"$1/network\" /run/systemd/network
ln -s \"$1/netif\" /run/systemd/netif
mount -t tmpfs tmpfs /etc/systemd/network
cp \"$1/everything\" /etc/systemd/network/50-everything.network
mount -t sysfs -o ro sysfs /sys
exec \"$2\"";

/// Starts networkd in a namespace, with one `.network` file.
pub(crate) fn networkd(netns: &Netns, directory: &Path, settings: &str) -> Result<Running> {
    fs::write(directory.join("everything"), settings)?;
    let netif = directory.join("netif");
    for folder in ["", "links", "leases", "lldp"] {
        let folder = netif.join(folder);
        fs::create_dir_all(&folder)?;
        netd_tests::run(Command::new("chown").arg("systemd-network").arg(&folder))?;
    }
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", netns.path().display()))
        .args(["unshare", "--mount", "sh", "-c", PLACE, "sh"])
        .arg(directory)
        .arg(NETWORKD)
        .env(
            "DBUS_SYSTEM_BUS_ADDRESS",
            format!("unix:path={}", directory.join("bus").display()),
        );
    spawn(&mut command, &directory.join("networkd.log"))
}

/// What networkd says that a device is to it.
fn is_to_networkd(lab: &Lab, directory: &Path, device: &str, state: &str) -> Result<()> {
    let index = lab.hv.ifindex(device)?;
    let file = directory.join(format!("netif/links/{index}"));
    eventually(SOON, || {
        let text = fs::read_to_string(&file)?;
        ensure!(
            text.contains(&format!("ADMIN_STATE={state}\n")),
            "{device}: {text}"
        );
        Ok(())
    })
}

/// Is a device a port of that bridge?
fn is_port(lab: &Lab, device: &str, bridge: &str) -> Result<bool> {
    let link = lab.hv.run(["ip", "-o", "link", "show", device])?;
    Ok(link.contains(&format!("master {bridge} ")))
}

/// A bridge of the administrator's with a port: networkd takes it out.
fn foreign_bridge(lab: &Lab) -> Result<()> {
    for command in [
        "ip link add brx type bridge",
        "ip link set brx up",
        "ip link add portx type veth peer name endx",
        "ip link set endx up",
        "ip link set portx master brx up",
    ] {
        lab.hv.run(command.split(' '))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn networkd_leaves_bridges_and_ports_alone_whatever_its_files_say() {
    check(|lab| {
        let place = open_directory()?;
        let place = place.path();
        let bus_address = format!("unix:path={}", place.join("bus").display());
        let folder = place.join("network").display().to_string();
        lab.agent.set_env("DBUS_SYSTEM_BUS_ADDRESS", &bus_address);
        lab.agent.set_env("NETD_NETWORKD_DIR", &folder);
        let _bus = bus(place)?;
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let bridge = network.bridge();
        let guest = lab.member(1, &network)?;
        guest.ping(&network.gateway().to_string())?;
        foreign_bridge(lab)?;

        // It starts, and goes through all devices.
        let running = networkd(&lab.hv, place, EVERYTHING)?;
        is_to_networkd(lab, place, "portx", "configured")?;
        eventually(SOON, || {
            ensure!(!is_port(lab, "portx", "brx")?, "networkd took out nothing");
            Ok(())
        })?;
        for device in [&bridge, &guest.port] {
            is_to_networkd(lab, place, device, "unmanaged")?;
        }
        ensure!(
            is_port(lab, &guest.port, &bridge)?,
            "it took the guest's port"
        );
        guest.ping(&network.gateway().to_string())?;

        // A network that starts while it runs, and a guest of it.
        let second = Network::nat("second", 2);
        lab.up(&second)?;
        let other = lab.member(2, &second)?;
        is_to_networkd(lab, place, &second.bridge(), "unmanaged")?;
        is_to_networkd(lab, place, &other.port, "unmanaged")?;
        other.ping(&second.gateway().to_string())?;
        // What libvirt makes, as soon as it is there.
        lab.hv.run("ip tuntap add vnet7 mode tap".split(' '))?;
        is_to_networkd(lab, place, "vnet7", "unmanaged")?;
        lab.hv.run(["ip", "link", "del", "vnet7"])?;

        // A restart of it.
        drop(running);
        let running = networkd(&lab.hv, place, EVERYTHING)?;
        for (port, bridge) in [(&guest.port, &bridge), (&other.port, &second.bridge())] {
            is_to_networkd(lab, place, port, "unmanaged")?;
            ensure!(is_port(lab, port, bridge)?, "{port} is out of {bridge}");
        }
        drop(running);
        for device in ["portx", "brx"] {
            lab.hv.run(["ip", "link", "del", device])?;
        }
        let file = place.join("network/00-netd.network");
        ensure!(file.exists());
        for network in ["default", "second"] {
            lab.agent.ok(["net-destroy", network])?;
        }
        ensure!(!file.exists(), "the file outlives the networks");
        Ok(())
    });
}
