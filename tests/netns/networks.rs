//! Networks start, fail, end and are taken down whole.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{OUTSIDE, check};
use netd_tests::{Guest, Lab, Network, SOON, eventually};

use crate::hooks;

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn forwarding_is_switched_on_while_it_is_needed() {
    check(|lab| {
        let forwarding = |lab: &Lab| lab.hv.read_sysctl("net/ipv4/ip_forward");
        lab.agent.start()?;
        lab.up(&Network::isolated("inside", 3))?;
        ensure!(
            forwarding(lab)? == "0",
            "an isolated network forwards nothing"
        );
        lab.up(&Network::default())?;
        lab.up(&Network::route("other", 2))?;
        ensure!(forwarding(lab)? == "1");
        lab.agent.ok(["net-destroy", "default"])?;
        lab.agent.stop()?;
        lab.agent.start()?;
        ensure!(forwarding(lab)? == "1", "another network still needs it");
        lab.agent.ok(["net-destroy", "other"])?;
        ensure!(forwarding(lab)? == "0", "it was not given back");

        lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
        lab.agent.ok(["net-start", "default"])?;
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(forwarding(lab)? == "1", "it was the host's own before");
        lab.hv.sysctl("net/ipv4/ip_forward", "0")
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn destroying_a_network_leaves_nothing_of_it() {
    check(|lab| {
        lab.agent.start()?;
        let before = lab.snapshot()?;
        for network in [
            Network::default().dhcp(""),
            Network::isolated("inside", 2).dhcp(""),
        ] {
            lab.up(&network)?;
        }
        for name in ["default", "inside"] {
            lab.agent.ok(["net-destroy", name])?;
        }
        // Some removals end in the background.
        eventually(SOON, || {
            let difference = before.difference(&lab.snapshot()?);
            // The datapath itself stays loaded while the agent runs.
            let left: Vec<_> = difference
                .lines()
                .filter(|line| !line.starts_with(' '))
                .filter(|line| !line.starts_with("pin ") && !line.starts_with("mount "))
                .collect();
            ensure!(left.is_empty(), "{difference}");
            Ok(())
        })
    });
}

/// What dnsmasq does not start with.
const REFUSED_OPTION: &str = "<dnsmasq:options \
     xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>\
     <dnsmasq:option value='no-such-option'/></dnsmasq:options>";

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn networks_marked_for_it_start_with_the_agent() {
    check(|lab| {
        lab.agent.start()?;
        for network in [
            Network::default(),
            Network::nat("broken", 2),
            Network::nat("other", 3),
            Network::nat("same-subnet", 3),
            Network::nat("no-dns", 6).with(REFUSED_OPTION).dns(),
            Network::nat("zzz", 7),
        ] {
            let xml = network.xml();
            let xml = match network.name.as_str() {
                "same-subnet" => xml.replace("virbr3", "virbr5"),
                _ => xml,
            };
            lab.agent.define(&xml)?;
            lab.agent.ok(["net-autostart", &network.name])?;
        }
        lab.agent.define(&Network::nat("manual", 4).xml())?;
        let link = lab.agent.config_dir().join("autostart/default.xml");
        ensure!(link.is_symlink(), "{} is no link", link.display());
        lab.agent.stop()?;
        lab.hv
            .run(["ip", "link", "add", "virbr2", "type", "bridge"])?;
        lab.agent.start()?;
        // One that cannot start does not keep others from it, whether it is found out before
        // anything is made, by what starts with it, or last of all.
        // For a dnsmasq that takes its time nobody waits.
        eventually(SOON, || {
            let active = lab.agent.ok(["net-list", "--name"])?;
            let active: Vec<_> = active.split_whitespace().collect();
            ensure!(active == ["default", "other", "zzz"], "{active:?}");
            let log = lab.agent.log();
            for (name, why) in [
                ("broken", "bridge name 'virbr2' already in use"),
                ("same-subnet", "in use by interface virbr3 (10.10.3.0/24)"),
                ("no-dns", "bad option at line"),
            ] {
                let told = |line: &str| {
                    let failed = line.contains("autostart failed");
                    failed && line.contains(name) && line.contains(why)
                };
                ensure!(log.lines().any(told), "{name}: {log}");
            }
            for bridge in ["virbr5", "virbr6"] {
                let there = lab.hv.run(["ip", "link", "show", bridge]);
                ensure!(there.is_err(), "{bridge} is left");
            }
            Ok(())
        })?;
        lab.hv.run(["ip", "link", "del", "virbr2"])?;
        lab.agent.ok(["net-autostart", "default", "--disable"])?;
        ensure!(!link.is_symlink(), "{} is still there", link.display());
        Ok(())
    });
}

/// More subnets than the programs have room for, which shows only when all is put in force.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_network_that_is_too_large_starts_alone_and_fails_alone() {
    check(|lab| {
        let route = |n: u32| {
            let subnet = Ipv4Addr::from(0x0100_0000 + (n << 8));
            format!("<route address='{subnet}' prefix='24' gateway='10.10.2.9'/>")
        };
        let routes: String = (0..16_385).map(route).collect();
        lab.agent.start()?;
        for network in [
            Network::route("before", 1),
            Network::route("large", 2).with(&routes),
            Network::route("zzz", 3),
        ] {
            lab.agent.define(&network.xml())?;
            lab.agent.ok(["net-autostart", &network.name])?;
        }
        lab.agent.stop()?;
        lab.agent.start()?;
        let active = lab.agent.ok(["net-list", "--name"])?;
        let active: Vec<_> = active.split_whitespace().collect();
        ensure!(active == ["before", "zzz"], "{active:?}");
        let log = lab.agent.log();
        let told = |line: &str| {
            let failed = line.contains("autostart failed") && line.contains("large");
            failed && line.contains("cannot write eBPF map subnets4")
        };
        ensure!(log.lines().any(told), "{log}");
        let there = lab.hv.run(["ip", "link", "show", "virbr2"]);
        ensure!(there.is_err(), "virbr2 is left");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_transient_network_is_gone_when_it_is_destroyed() {
    check(|lab| {
        lab.agent.start()?;
        let file = lab.agent.file("transient.xml", &Network::default().xml())?;
        lab.agent.ok(["net-create", &file])?;
        let info = lab.agent.ok(["net-info", "default"])?;
        ensure!(info.contains("Persistent:     no"), "{info}");
        lab.agent.stop()?;
        lab.agent.start()?;
        lab.agent.ok(["net-info", "default"])?;
        lab.agent.ok(["net-destroy", "default"])?;
        lab.agent.fails(["net-info", "default"])?;
        Ok(())
    });
}

/// Starts the network, which must fail, and compares what is there before and after.
fn start_fails(lab: &Lab, name: &str) -> Result<String> {
    let before = lab.snapshot()?;
    let error = lab.agent.fails(["net-start", name])?;
    before
        .wait_for_same(&lab.hv, lab.directory())
        .context("a start that failed")?;
    let info = lab.agent.ok(["net-info", name])?;
    ensure!(info.contains("Active:         no"), "{info}");
    Ok(error)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_start_that_fails_half_way_is_rolled_back() {
    check(|lab| {
        // By then there is a bridge with programs attached.
        let broken = lab.agent.script(
            "broken-dnsmasq",
            "#!/bin/sh\n[ \"$1\" != --version ] || { echo 'Dnsmasq version 2.90'; exit; }\n\
             ip link show virbr1 >&2\nexit 3\n",
        )?;
        lab.agent.set_env("NETD_DNSMASQ", &broken);
        lab.agent.start()?;
        lab.agent.define(&Network::default().dhcp("").xml())?;
        let error = start_fails(lab, "default")?;
        ensure!(
            error.contains("dnsmasq") && error.contains(": virbr1@"),
            "{error}"
        );
        // Ports that wait for their network are still there for its next start.
        lab.agent.stop()?;
        lab.agent.set_env("NETD_DNSMASQ", "");
        lab.agent.start()?;
        lab.agent.ok(["net-start", "default"])?;
        let guest = lab.plugged(1, "virbr1")?;
        guest.dhcp()?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn teardown_needs_no_agent_and_leaves_no_program_attached() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let guest = lab.member(1, &Network::default())?;
        guest.ping(&OUTSIDE.to_string())?;
        for device in ["uplink", "vnet1"] {
            ensure!(
                !hooks::programs(&lab.hv, device)?.is_empty(),
                "nothing is attached to {device}"
            );
        }
        lab.agent.kill()?;
        lab.agent.teardown()?;
        for device in ["uplink", "vnet1"] {
            ensure!(
                hooks::programs(&lab.hv, device)?.is_empty(),
                "programs are left on {device}"
            );
        }
        ensure!(lab.dnsmasqs()?.is_empty());
        lab.agent.teardown().context("a second time")?;
        // Definitions stay: another agent starts from them.
        lab.agent.start()?;
        lab.agent.ok(["net-start", "default"])?;
        lab.plug(&guest, "virbr1")?;
        // Its port forwards a moment later, and a guest that knows its gateway does not ask twice.
        guest.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_bridge_deleted_by_somebody_can_be_started_again() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        lab.agent.stop()?;
        lab.hv.run(["ip", "link", "del", "virbr1"])?;
        lab.agent.start()?;
        // Made again at once, or shown as inactive and started: never active without a bridge.
        let active = lab.agent.ok(["net-list", "--name"])?;
        if active.trim().is_empty() {
            lab.agent.ok(["net-start", "default"])?;
        }
        plug_if_needed(lab, &guest)?;
        guest.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}

fn plug_if_needed(lab: &Lab, guest: &Guest) -> Result<()> {
    let link = lab.hv.run(["ip", "link", "show", &guest.port])?;
    if !link.contains("master virbr1") {
        lab.plug(guest, "virbr1")?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn two_agents_in_two_namespaces_never_meet() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let other = Lab::new()?;
        let mut agent = netd_tests::Agent::new(
            &other.hv,
            Path::new(other.directory()),
            &netd_tests::agent::binary()?,
        )?;
        agent.start()?;
        ensure!(agent.ok(["net-list", "--all", "--name"])?.trim().is_empty());
        agent.up("default", &Network::default().dhcp("").xml())?;
        let guest = other.plugged(1, "virbr1")?;
        guest.dhcp()?;
        agent.stop()?;
        agent.teardown()?;
        let here = lab.plugged(1, "virbr1")?;
        here.dhcp()?;
        here.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}
