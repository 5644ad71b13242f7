//! What the host looks like with an IPv6 network: bridge, addresses, forwarding, and what would
//! have made the start harmful.

use anyhow::{Result, ensure};
use netd_tests::lab::check;
use netd_tests::{Lab, Network, SOON, eventually};

const GATEWAY: &str = "fd00:10:1::1";

fn dual_stack(network: Network) -> Network {
    network.with(&format!(
        "<ip family='ipv6' address='{GATEWAY}' prefix='64'/>"
    ))
}

fn forwarding(lab: &Lab) -> Result<String> {
    lab.hv.read_sysctl("net/ipv6/conf/all/forwarding")
}

/// The bridge has its address, and may use it.
fn has_address(lab: &Lab, bridge: &str) -> Result<()> {
    let shown = lab.hv.run(["ip", "-6", "addr", "show", "dev", bridge])?;
    ensure!(
        shown.contains(&format!("{GATEWAY}/64 scope global")),
        "{shown}"
    );
    ensure!(
        !shown.contains(&format!("{GATEWAY}/64 scope global tentative")),
        "{shown}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ipv6_comes_with_the_network_and_goes_with_it() {
    check(|lab| {
        let network = dual_stack(Network::default().dns());
        let bridge = network.bridge();
        lab.agent.start()?;
        lab.up(&Network::nat("other", 2))?;
        ensure!(forwarding(lab)? == "0", "no network has IPv6");
        let key = |name: &str| format!("net/ipv6/conf/{bridge}/{name}");
        ensure!(lab.hv.read_sysctl("net/ipv6/conf/virbr2/disable_ipv6")? == "1");

        lab.agent.define(&network.xml())?;
        let plan = lab.agent.ok(["plan", "default"])?;
        for step in [
            "switch IPv6 on on virbr1",
            "add address fd00:10:1::1/64 to virbr1",
            "set net.ipv6.conf.all.forwarding to 1",
        ] {
            ensure!(plan.contains(step), "no '{step}' in\n{plan}");
        }
        lab.agent.ok(["net-start", "default"])?;
        has_address(lab, &bridge)?;
        for (name, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("autoconf", "0")] {
            ensure!(
                lab.hv.read_sysctl(&key(name))? == value,
                "{name} is not {value}"
            );
        }
        ensure!(forwarding(lab)? == "1");
        let plan = lab.agent.ok(["plan"])?;
        ensure!(
            plan.contains("Nothing to do"),
            "a second run finds work: {plan}"
        );

        // The gateway answers, and is known by what it advertises (`advertised`).
        let guest = lab.member(1, &network)?;
        guest.netns().run([
            "ip",
            "-6",
            "addr",
            "add",
            "fd00:10:1::11/64",
            "dev",
            "eth0",
            "nodad",
        ])?;
        eventually(SOON, || {
            guest.netns().run(["ping", "-6", "-c1", "-W1", GATEWAY])
        })?;
        eventually(2 * SOON, || {
            let routes = guest.netns().run(["ip", "-6", "route"])?;
            ensure!(routes.contains("proto ra"), "{routes}");
            Ok(())
        })?;

        // Somebody switches it off.
        lab.hv.sysctl(&key("disable_ipv6"), "1")?;
        eventually(SOON, || has_address(lab, &bridge))?;

        // A restart keeps what is to be given back.
        lab.agent.stop()?;
        lab.agent.start()?;
        ensure!(forwarding(lab)? == "1");
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(forwarding(lab)? == "0", "it was not given back");
        ensure!(
            lab.hv.read_sysctl("net/ipv4/ip_forward")? == "1",
            "it is still needed"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn teardown_gives_ipv6_forwarding_back() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&dual_stack(Network::route("default", 1)))?;
        ensure!(forwarding(lab)? == "1");
        // The frame tears down and compares.
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_ipv6_subnet_in_use_is_refused_with_the_interface() {
    check(|lab| {
        let address = ["addr", "add", "fd00:10:1::99/64", "dev", "uplink", "nodad"];
        lab.hv.run(["ip", "-6"].iter().chain(&address).copied())?;
        lab.agent.start()?;
        let network = dual_stack(Network::default());
        lab.agent.define(&network.xml())?;
        let error = lab.agent.fails(["net-start", "default"])?;
        ensure!(
            error.contains("already in use by interface uplink (fd00:10:1::/64)"),
            "{error}"
        );
        // A part of the host's own prefix is its to give.
        let part = network.xml().replace("prefix='64'", "prefix='80'");
        lab.agent.ok(["net-undefine", "default"])?;
        lab.agent.up("default", &part)?;
        lab.agent.ok(["net-destroy", "default"])?;
        lab.hv.run([
            "ip",
            "-6",
            "addr",
            "del",
            "fd00:10:1::99/64",
            "dev",
            "uplink",
        ])?;
        Ok(())
    });
}
