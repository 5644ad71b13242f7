//! What guests go through, whoever drives their networks.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use netd_tests::lab::OUTSIDE;
use netd_tests::libvirt::{Domain, Host, PATIENCE, nic};

/// Where guests of the network `default` have their gateway and name server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 122, 1);

/// What libvirtd's unit gives it as its environment.
pub const DEFAULTS: &str = "/etc/default/libvirtd";

/// libvirt's stock network.
pub const DEFAULT: &str = include_str!("../../dist/default.xml");

/// What Cockpit does, see there.
pub const COCKPIT_PY: &str = include_str!("third_parties/cockpit.py");

/// libvirtd, and a bus over which libvirt-dbus is reached. That runs as a user of its own, whom polkit
/// would let in.
pub fn start_libvirt_dbus(host: &mut Host) -> Result<()> {
    host.run(["mkdir", "-p", "/run/dbus"])?;
    host.run(["dbus-daemon", "--system", "--fork"])?;
    let path = "/etc/libvirt/libvirtd.conf";
    let open = host.read(path)? + "unix_sock_rw_perms = \"0777\"\n";
    host.file(path, &open)?;
    host.libvirtd.start()
}

/// netd, libvirtd with netd's module, and the network `default` running.
pub fn up(host: &mut Host) -> Result<()> {
    host.start_netd()?;
    host.use_module()?;
    host.libvirtd.start()?;
    host.virsh(["net-define", host.file("/guest/default.xml", DEFAULT)?])?;
    host.virsh(["net-start", "default"])?;
    Ok(())
}

/// The same with guest number 1, which has its lease and reaches everything.
pub fn up_with_guest(host: &mut Host) -> Result<Domain> {
    up(host)?;
    let mut guest = guest_with_lease(host, 1)?;
    reaches_everything(&mut guest)?;
    ensure_ports(host, 1)?;
    Ok(guest)
}

/// A guest of the network `default` that has booted and has its lease, which libvirt shows.
pub fn guest_with_lease(host: &Host, number: u8) -> Result<Domain> {
    let name = format!("vm{number}");
    let mut guest = Domain::start(host, &name, &nic("default", number))?;
    let lease = guest.dhcp("eth0")?;
    ensure!(
        lease.router == Some(GATEWAY) && lease.dns == Some(GATEWAY),
        "{lease:?}"
    );
    // dnsmasq notes a lease after it has answered the guest.
    netd_tests::eventually(PATIENCE, || {
        let address = format!("{}/24", lease.address);
        for command in [
            ["net-dhcp-leases", "default"].as_slice(),
            &["domifaddr", &name, "--source", "lease"],
        ] {
            let shown = host.virsh(command.iter().copied())?;
            ensure!(shown.contains(&address), "no {address} in:\n{shown}");
        }
        Ok(())
    })?;
    Ok(guest)
}

/// The guest's name is known, and it reaches host and outside.
pub fn reaches_everything(guest: &mut Domain) -> Result<()> {
    guest.reaches(&GATEWAY.to_string())?;
    guest.reaches(&OUTSIDE.to_string())?;
    let name = guest.name.clone();
    let answer = guest.run(&format!("nslookup -type=a {name}. {GATEWAY}"))?;
    ensure!(answer.contains("Address: 192.168.122."), "{answer}");
    Ok(())
}

/// The UUIDs of the ports of the network `default`.
pub fn ports(host: &Host) -> Result<Vec<String>> {
    let list = host.virsh(["net-port-list", "default"])?;
    let uuids = list.lines().map(str::trim).filter(|line| line.len() == 36);
    Ok(uuids.map(str::to_owned).collect())
}

/// The network `default` has that many ports.
pub fn ensure_ports(host: &Host, wanted: usize) -> Result<()> {
    let ports = ports(host)?;
    ensure!(ports.len() == wanted, "{wanted} ports wanted: {ports:?}");
    Ok(())
}

/// The host's devices that belong to a bridge.
pub fn members(host: &Host, bridge: &str) -> Result<Vec<String>> {
    let shown = host.run(["ip", "-o", "link", "show", "master", bridge])?;
    let name = |line: &str| Some(line.split(": ").nth(1)?.to_owned());
    Ok(shown.lines().filter_map(name).collect())
}

/// libvirtd anew, with the environment that its unit gives it.
pub fn restart_libvirtd(host: &mut Host) -> Result<()> {
    host.libvirtd.stop()?;
    start_libvirtd(host)
}

/// libvirtd, with the environment that its unit gives it.
pub fn start_libvirtd(host: &mut Host) -> Result<()> {
    let defaults = host.read(DEFAULTS).unwrap_or_default();
    let setting = defaults
        .lines()
        .find_map(|line| line.strip_prefix("LIBVIRT_DRIVER_DIR="));
    match setting {
        Some(dir) => host.libvirtd.set_env("LIBVIRT_DRIVER_DIR", dir),
        None => host.libvirtd.unset_env("LIBVIRT_DRIVER_DIR"),
    }
    host.libvirtd.start()
}
