//! Who is behind the ports of bridges, as the administrator is told.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{OUTSIDE, at, check};
use netd_tests::{Lab, Network, SOON, eventually, traffic};
use serde_json::Value;

fn ports(lab: &Lab, words: &[&str]) -> Result<Vec<Value>> {
    let words = [&["ports", "--json"][..], words].concat();
    let mut json: Value = serde_json::from_str(&lab.agent.ok(words)?)?;
    ensure!(json["schema"] == 1, "{json}");
    match json["ports"].take() {
        Value::Array(ports) => Ok(ports),
        other => anyhow::bail!("no list: {other}"),
    }
}

/// The port of this device.
fn port(lab: &Lab, device: &str) -> Result<Value> {
    let mut found = ports(lab, &[])?;
    found.retain(|port| port["device"] == device);
    found.pop().with_context(|| format!("no port {device}"))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ports_are_told_with_who_is_behind_them() {
    check(|lab| {
        lab.agent.start()?;
        let mac = "52:54:00:00:00:01";
        let reserved = Network::nat("shop", 1)
            .dhcp(&format!("<host mac='{mac}' name='web' ip='10.10.1.30'/>"));
        lab.up(&reserved)?;
        let other = Network::isolated("lab", 2);
        lab.up(&other)?;
        let guest = lab.plugged(1, &reserved.bridge())?;
        let silent = lab.plugged(2, &other.bridge())?;
        lab.settled()?;
        let lease = guest.dhcp()?;
        let address = Ipv4Addr::new(10, 10, 1, 30);
        ensure!(lease.address == address, "{lease:?}");
        lab.leases_with("shop", address)?;
        guest.ping(&OUTSIDE.to_string())?;

        let told = port(lab, &guest.port)?;
        for (field, value) in [
            ("network", "shop"),
            ("bridge", "virbr1"),
            ("link", "forwarding"),
        ] {
            ensure!(told[field] == value, "{field} is not {value}: {told}");
        }
        let who = &told["guests"][0];
        ensure!(who["mac"] == mac && who["hostname"] == "web", "{told}");
        ensure!(who["domain"].is_null(), "nobody said: {told}");
        let known = &who["addresses"][0];
        ensure!(known["address"] == "10.10.1.30", "{told}");
        ensure!(known["lease"].as_i64() > Some(0), "it is leased: {told}");
        ensure!(known["seen"].as_u64() < Some(300), "it was seen: {told}");
        ensure!(told["sent"]["packets"].as_u64() > Some(0), "{told}");
        ensure!(told["received"]["bytes"].as_u64() > Some(0), "{told}");

        // Whoever runs guests says whose interface it is.
        let id = "6f1e4bc2-2f8b-4a4e-9d0c-3f5a6e7b8c90";
        let xml = format!(
            "<networkport><uuid>{id}</uuid><owner><name>vm-web</name><uuid>{id}</uuid></owner>\
             <mac address='{mac}'/></networkport>"
        );
        let file = lab.agent.file("port.xml", &xml)?;
        lab.agent.ok(["net-port-create", "shop", &file])?;
        let told = port(lab, &guest.port)?;
        ensure!(told["guests"][0]["domain"] == "vm-web", "{told}");
        let table = lab.agent.ok(["ports", "shop"])?;
        ensure!(
            table.contains(" vm-web ") && !table.contains(&silent.port),
            "{table}"
        );

        // Drops that are on record are told, and so is a port that carries nothing.
        silent.address("10.10.2.12/24", Some("10.10.2.1"))?;
        eventually(SOON, || {
            traffic::refused(silent.netns(), at(OUTSIDE, 7000))?;
            let told = port(lab, &silent.port)?;
            ensure!(told["recent_drops"].as_u64() > Some(0), "{told}");
            Ok(())
        })?;
        lab.hv.run(["ip", "link", "set", &silent.port, "down"])?;
        ensure!(
            port(lab, &silent.port)?["link"] == "down",
            "it was switched off"
        );
        // What is netd's own in the bridge is no guest's.
        ensure!(ports(lab, &["shop"])?.len() == 1, "one guest, one port");
        let failure = lab.agent.fails(["ports", "nosuch"])?;
        ensure!(failure.contains("nosuch"), "{failure}");
        Ok(())
    });
}
