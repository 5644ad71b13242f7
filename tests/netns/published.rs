//! Network XML as people publish it works as given: define, start, a guest, the outside.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use netd_tests::Lab;
use netd_tests::lab::{HOST, OUTSIDE, check};

/// Defines and starts a definition, and plugs a guest with a DHCP client in.
fn works(lab: &mut Lab, xml: &str, name: &str, bridge: &str, outside: bool) -> Result<()> {
    lab.agent.start()?;
    lab.agent.up(name, xml)?;
    let info = lab.agent.ok(["net-info", name])?;
    ensure!(
        info.contains(&format!("Bridge:         {bridge}\n")),
        "{info}"
    );
    let guest = lab.plugged(1, bridge)?;
    let lease = guest.dhcp()?;
    let gateway = lease.dns.context("a name server")?.to_string();
    guest.ping(&gateway)?;
    if outside {
        guest.ping(&OUTSIDE.to_string())?;
    } else {
        let ping = guest.try_ping(&OUTSIDE.to_string())?;
        ensure!(!ping.status.success(), "{lease:?}");
    }
    // What it prints is what it takes.
    let dump = lab.agent.ok(["net-dumpxml", name, "--inactive"])?;
    lab.agent.define(&dump)?;
    ensure!(lab.agent.ok(["net-dumpxml", name, "--inactive"])? == dump);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_smallest_default() {
    check(|lab| {
        let xml = r#"<network>
            <name>default</name>
            <bridge name="virbr0" />
            <forward/>
            <ip address="192.168.122.1" netmask="255.255.255.0">
              <dhcp><range start="192.168.122.2" end="192.168.122.254" /></dhcp>
            </ip>
          </network>"#;
        works(lab, xml, "default", "virbr0", true)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_stock_default_with_everything_libvirt_stores() {
    check(|lab| {
        let xml = "<?xml version='1.0'?>
            <!-- a comment, as libvirt puts one on top of the files it stores -->
            <network>
              <name>default</name>
              <uuid>4f1a8d0c-0f1e-4b55-9a0e-0a2b3c4d5e6f</uuid>
              <forward mode='nat'/>
              <bridge name='virbr0' stp='on' delay='0'/>
              <mac address='52:54:00:1E:D8:35'/>
              <ip address='192.168.122.1' netmask='255.255.255.0'>
                <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
              </ip>
            </network>";
        works(lab, xml, "default", "virbr0", true)?;
        let uuid = lab.agent.ok(["net-uuid", "default"])?;
        ensure!(
            uuid.trim() == "4f1a8d0c-0f1e-4b55-9a0e-0a2b3c4d5e6f",
            "{uuid}"
        );
        let link = lab.hv.run(["ip", "link", "show", "virbr0"])?;
        ensure!(link.contains("52:54:00:1e:d8:35"), "{link}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_default_of_this_project() {
    check(|lab| {
        let xml = include_str!("../../dist/default.xml");
        works(lab, xml, "default", "virbr0", true)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_routed_network() {
    check(|lab| {
        let xml = "<network>
              <name>routed</name>
              <forward mode='route' dev='uplink'/>
              <bridge name='virbr1' stp='on' delay='0' />
              <ip address='192.168.100.51' prefix='24'>
                <dhcp><range start='192.168.100.128' end='192.168.100.254' /></dhcp>
              </ip>
            </network>";
        lab.wan.run([
            "ip",
            "route",
            "add",
            "192.168.100.0/24",
            "via",
            &HOST.to_string(),
        ])?;
        works(lab, xml, "routed", "virbr1", true)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_isolated_network() {
    check(|lab| {
        let xml = "<network>
              <name>private</name>
              <bridge name='virbr2' stp='on' delay='0'/>
              <mac address='52:54:00:eb:99:b0'/>
              <ip address='172.16.1.1' netmask='255.255.255.0'>
                <dhcp><range start='172.16.1.2' end='172.16.1.254'/></dhcp>
              </ip>
            </network>";
        works(lab, xml, "private", "virbr2", false)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_network_that_leaves_uuid_mac_and_bridge_to_us() {
    check(|lab| {
        let xml = "<network><name>short</name><forward/>
              <ip address='10.4.0.1' netmask='255.255.0.0'>
                <dhcp><range start='10.4.0.2' end='10.4.1.254'/></dhcp></ip></network>";
        works(lab, xml, "short", "virbr0", true)?;
        let dump = lab.agent.ok(["net-dumpxml", "short"])?;
        ensure!(dump.contains("<mac address='52:54:00:"), "{dump}");
        ensure!(dump.contains("<uuid>"), "{dump}");
        let mac = dump
            .split("<mac address='")
            .nth(1)
            .and_then(|rest| rest.split('\'').next())
            .context("a MAC address")?;
        let link = lab.hv.run(["ip", "link", "show", "virbr0"])?;
        ensure!(link.contains(mac), "{mac} is not that of {link}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_bridge_mode_network_on_a_host_bridge() {
    check(|lab| {
        lab.hv.run(["ip", "link", "add", "br0", "type", "bridge"])?;
        lab.hv.run(["ip", "link", "set", "br0", "up"])?;
        // The outside is on the host's bridge.
        lab.hv.veth("leg", &lab.wan, "leg0")?;
        lab.hv
            .run(["ip", "link", "set", "leg", "up", "master", "br0"])?;
        lab.wan.address("leg0", "192.0.2.1/24")?;
        lab.agent.start()?;
        let xml = "<network><name>host-bridge</name>
            <forward mode='bridge'/><bridge name='br0'/></network>";
        lab.agent.up("host-bridge", xml)?;
        let info = lab.agent.ok(["net-info", "host-bridge"])?;
        ensure!(info.contains("Bridge:         br0\n"), "{info}");
        let guest = lab.plugged(1, "br0")?;
        guest.address("192.0.2.50/24", None)?;
        guest.ping("192.0.2.1")?;
        lab.agent.ok(["net-destroy", "host-bridge"])?;
        guest
            .ping("192.0.2.1")
            .context("the bridge is the host's")?;
        lab.hv.run(["ip", "link", "del", "leg"])?;
        lab.hv.run(["ip", "link", "del", "br0"])?;
        Ok(())
    });
}

/// Definitions as their users published them, kept outside the project.
fn published() -> Option<PathBuf> {
    let directory = std::env::var_os("NETD_PEER_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/peer"),
        PathBuf::from,
    );
    let directory = directory.join("published");
    directory.is_dir().then_some(directory)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn definitions_that_were_published() -> Result<()> {
    let Some(directory) = published() else {
        eprintln!("SKIPPED: no published definitions here; set NETD_PEER_DATA");
        return Ok(());
    };
    let mut count = 0;
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        let xml = std::fs::read_to_string(&path)?;
        println!("{}", path.display());
        let after = |start: &str| xml.split(start).nth(1);
        let name = after("<name>").and_then(|rest| rest.split('<').next());
        let name = name.context("a name")?;
        let bridge = after("<bridge name=").and_then(|rest| rest.split(['\'', '"']).nth(1));
        let bridge = bridge.context("a bridge")?;
        check(|lab| {
            // The way back to a routed network is the outside's own business.
            for subnet in ["192.168.1.0/24", "192.168.122.0/24", "172.16.1.0/24"] {
                lab.wan
                    .run(["ip", "route", "add", subnet, "via", &HOST.to_string()])?;
            }
            works(lab, &xml, name, bridge, xml.contains("<forward"))
        });
        count += 1;
    }
    ensure!(count > 0, "no definition in {}", directory.display());
    Ok(())
}
