//! Bad input and bad surroundings: a clear error each, and nothing half-applied.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{Lab, check};
use netd_tests::{Agent, Network};

/// Refuses the definition with a message that has all these words, and keeps nothing of it.
fn refused(lab: &Lab, xml: &str, words: &[&str]) -> Result<()> {
    let file = lab.agent.file("bad.xml", xml)?;
    let shown: String = xml.chars().take(200).collect();
    for verb in ["net-define", "net-create"] {
        let error = lab
            .agent
            .fails([verb, &file])
            .with_context(|| shown.clone())?;
        ensure!(
            error.len() < 2000,
            "{verb} of {shown}: the message is too long: {error}"
        );
        for word in words {
            ensure!(
                error.contains(word),
                "{verb} of {shown}\nno {word:?} in: {error}"
            );
        }
    }
    let list = lab.agent.ok(["net-list", "--all", "--name"])?;
    ensure!(list.trim().is_empty(), "{shown}\nleft {list:?}");
    Ok(())
}

/// A definition around a piece.
fn network(piece: &str) -> String {
    format!("<network><name>bad</name>{piece}</network>")
}

/// A definition around a piece of its `<ip>`.
fn ip(piece: &str) -> String {
    network(&format!(
        "<forward/><bridge name='virbr1'/>\
         <ip address='10.1.1.1' netmask='255.255.255.0'>{piece}</ip>"
    ))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn malformed_and_contradictory_definitions_are_refused_by_element() {
    check(|lab| {
        lab.agent.start()?;
        let before = lab.snapshot()?;
        let range = |start, end| {
            ip(&format!(
                "<dhcp><range start='{start}' end='{end}'/></dhcp>"
            ))
        };
        let cases: &[(String, &[&str])] = &[
            (String::new(), &[]),
            ("not XML".into(), &[]),
            ("<network><name>a</name>".into(), &[]),
            ("<domain><name>a</name></domain>".into(), &["domain"]),
            ("<network/>".into(), &["name"]),
            ("<network><name>a/b</name></network>".into(), &["name", "/"]),
            ("<network><name>..</name></network>".into(), &[".."]),
            ("<network><name>a\nb</name></network>".into(), &["name"]),
            (network("<uuid>1234</uuid>"), &["uuid"]),
            (network("<forward mode='magic'/>"), &["forward", "magic"]),
            (network("<forward mode='nat'/>"), &["forward"]),
            (network("<forward mode='open' dev='uplink'/>"), &["forward"]),
            (
                network("<forward mode='bridge'/><bridge name='br0' stp='on'/>"),
                &["bridge"],
            ),
            (network("<mac address='nonsense'/>"), &["mac", "nonsense"]),
            (network("<mac address='01:00:5e:00:00:01'/>"), &["mac"]),
            (network("<mtu size='many'/>"), &["mtu"]),
            (
                network("<bridge name='a-name-that-is-too-long-for-linux'/>"),
                &["bridge"],
            ),
            (network("<bridge name='../../etc'/>"), &["bridge"]),
            (network("<ip netmask='255.255.255.0'/>"), &["address"]),
            (
                network("<ip address='10.1.1.1' netmask='255.0.255.0'/>"),
                &["netmask"],
            ),
            (network("<ip address='10.1.1.1' prefix='33'/>"), &["prefix"]),
            (
                network("<ip address='10.1.1.1' prefix='8' netmask='255.0.0.0'/>"),
                &["<ip>", "prefix", "netmask"],
            ),
            (network("<ip address='fd00::1' prefix='64'/>"), &["fd00::1"]),
            (range("10.1.2.2", "10.1.2.9"), &["10.1.2.2"]),
            (range("10.1.1.9", "10.1.1.2"), &["10.1.1.9", "10.1.1.2"]),
            (range("10.1.1.0", "10.1.1.9"), &["10.1.1.0"]),
            (range("10.1.1.2", "10.1.1.255"), &["10.1.1.255"]),
            (
                ip("<dhcp><host mac='01:00:5e:00:00:01' ip='10.1.1.5'/></dhcp>"),
                &["mac"],
            ),
            (ip("<dhcp><host mac='52:54:00:00:00:01'/></dhcp>"), &["ip"]),
            (
                network("<dns enable='no'><txt name='a' value='b'/></dns>"),
                &["dns"],
            ),
            (network("<dns><host ip='10.1.1.5'/></dns>"), &["hostname"]),
            (network("<dns><forwarder/></dns>"), &["forwarder"]),
        ];
        for (xml, words) in cases {
            refused(lab, xml, words)?;
        }
        before.wait_for_same(&lab.hv, lab.directory())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn hostile_definitions_are_refused_and_the_agent_lives_on() {
    check(|lab| {
        lab.agent.start()?;
        let before = lab.snapshot()?;
        let pid = lab.agent.pid();
        let bomb = "<!DOCTYPE network [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;'>]>\
                    <network><name>&b;</name></network>";
        let file = "<!DOCTYPE network [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>\
                    <network><name>&x;</name></network>";
        let deep = format!(
            "<network><name>deep</name><metadata>{}{}</metadata></network>",
            "<a>".repeat(100_000),
            "</a>".repeat(100_000)
        );
        let large = network(&format!("<title>{}</title>", "x".repeat(3 << 20)));
        let larger = network(&format!("<title>{}</title>", "x".repeat(40 << 20)));
        let many = network(&"<ip address='10.0.0.1' prefix='8'/>".repeat(50_000));
        for xml in [bomb, file, &deep, &large, &larger, &many] {
            refused(lab, xml, &[])?;
        }
        // Within the limits as it comes, and not as netd would keep it.
        let route = |n: u32| {
            let subnet = std::net::Ipv4Addr::from(0x0a80_0000 + (n << 8));
            format!("<route address='{subnet}' prefix='24' gateway='10.1.1.9'/>")
        };
        let routes: String = (0..17_000).map(route).collect();
        ensure!(
            routes.len() < 1 << 20,
            "{} bytes are too much",
            routes.len()
        );
        let almost = ip("").replace("</network>", &format!("{routes}</network>"));
        refused(lab, &almost, &["besides <metadata> are more than"])?;
        // Lines that would become options of dnsmasq.
        for piece in [
            "<forward/><domain name='a&#10;dhcp-script=/bin/sh'/>",
            "<forward/><dns><txt name='a' value='b&#10;conf-file=/etc/passwd'/></dns>",
            "<forward/><dns><host ip='10.1.1.5'><hostname>a&#10;b</hostname></host></dns>",
        ] {
            refused(
                lab,
                &network(&format!("{piece}<ip address='10.1.1.1' prefix='24'/>")),
                &[],
            )?;
        }
        let list = lab.agent.ok(["net-list", "--all"]);
        ensure!(list.is_ok() && lab.agent.pid() == pid, "{list:?}");
        before.wait_for_same(&lab.hv, lab.directory())
    });
}

/// Starting the network must fail with these words and leave everything as it was.
fn start_refused(lab: &Lab, name: &str, words: &[&str]) -> Result<()> {
    let before = lab.snapshot()?;
    let error = lab.agent.fails(["net-start", name])?;
    for word in words {
        ensure!(error.contains(word), "no {word:?} in: {error}");
    }
    let info = lab.agent.ok(["net-info", name])?;
    ensure!(info.contains("Active:         no"), "{info}");
    before.wait_for_same(&lab.hv, lab.directory())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_is_not_acted_upon_yet_is_refused_by_name_at_start() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().with("<virtualport type='openvswitch'/>");
        lab.agent.define(&network.xml())?;
        start_refused(lab, "default", &["virtualport", "default"])
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_bridge_name_in_use_is_refused() {
    check(|lab| {
        lab.agent.start()?;
        lab.hv
            .run(["ip", "link", "add", "virbr1", "type", "bridge"])?;
        lab.agent.define(&Network::default().xml())?;
        start_refused(lab, "default", &["virbr1"])?;
        lab.hv.run(["ip", "link", "del", "virbr1"])?;
        lab.agent.ok(["net-start", "default"])?;
        // Another network cannot have it either.
        let file = lab.agent.file(
            "second.xml",
            &Network::nat("second", 1)
                .xml()
                .replace("10.10.1.1", "10.10.77.1"),
        )?;
        let error = lab.agent.fails(["net-define", &file])?;
        ensure!(error.contains("virbr1"), "{error}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_subnet_in_use_is_refused_with_the_interface() {
    check(|lab| {
        lab.agent.start()?;
        lab.hv
            .run(["ip", "addr", "add", "10.10.3.1/24", "dev", "uplink"])?;
        lab.hv
            .run(["ip", "route", "add", "10.10.128.0/17", "dev", "uplink"])?;
        let base = Network::default().xml();
        for (address, mask) in [
            ("10.10.3.99", "255.255.255.0"),   // equal
            ("10.10.3.99", "255.255.255.128"), // within, with the host's address
            ("10.10.1.1", "255.255.0.0"),      // around
            ("10.10.128.1", "255.255.128.0"),  // a route's
        ] {
            let xml = base
                .replace("10.10.1.1", address)
                .replace("255.255.255.0", mask);
            lab.agent.define(&xml)?;
            start_refused(lab, "default", &["uplink"]).with_context(|| address.to_owned())?;
            lab.agent.ok(["net-undefine", "default"])?;
        }
        // Two networks of ours.
        lab.up(&Network::nat("first", 5))?;
        let second = Network::nat("second", 6)
            .xml()
            .replace("10.10.6.1", "10.10.5.2");
        lab.agent.define(&second)?;
        start_refused(lab, "second", &["virbr5"])?;
        lab.hv
            .run(["ip", "addr", "del", "10.10.3.1/24", "dev", "uplink"])?;
        lab.hv
            .run(["ip", "route", "del", "10.10.128.0/17", "dev", "uplink"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_missing_or_outdated_dnsmasq_is_named() {
    check(|lab| {
        let old = lab.agent.script(
            "old-dnsmasq",
            "#!/bin/sh\necho 'Dnsmasq version 2.60  Copyright (c) 2000-2012 Simon Kelley'\n",
        )?;
        lab.agent.start()?;
        lab.agent.define(&Network::default().dhcp("").xml())?;
        lab.agent.stop()?;
        for (program, words) in [
            ("/nonexistent/dnsmasq", ["dnsmasq", "/nonexistent/dnsmasq"]),
            (old.as_str(), ["2.60", "2.81"]),
        ] {
            lab.agent.set_env("NETD_DNSMASQ", program);
            lab.agent.start()?;
            start_refused(lab, "default", &words)?;
            lab.agent.stop()?;
        }
        // A network that needs none starts all the same.
        lab.agent.start()?;
        lab.up(&Network::nat("plain", 2))
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_second_agent_on_the_same_directories_is_refused() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let before = lab.snapshot()?;
        for netns in [&lab.hv, &lab.wan] {
            let mut second = Agent::new(netns, lab.directory(), &netd_tests::agent::binary()?)?;
            second.spawn()?;
            let status = second.wait()?;
            ensure!(!status.success(), "it ran: {status}");
        }
        let log = lab.agent.log();
        ensure!(log.contains("error: "), "no error was shown: {log}");
        lab.agent.ok(["net-info", "default"])?;
        before.wait_for_same(&lab.hv, lab.directory())?;
        // What a killed one left does not keep the next from starting.
        lab.agent.kill()?;
        lab.agent.start()?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_full_disk_keeps_the_last_good_definition() {
    check(|lab| {
        let etc = lab.agent.config_dir();
        let mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"];
        netd_tests::run(Command::new(mount[0]).args(&mount[1..]).arg(&etc))?;
        let result = on_a_full_disk(lab);
        lab.agent.end();
        netd_tests::run(Command::new("umount").arg(&etc))?;
        result
    });
}

fn on_a_full_disk(lab: &mut Lab) -> Result<()> {
    lab.agent.start()?;
    let network = Network::default();
    lab.agent.define(&network.xml())?;
    let definition = lab.agent.config_dir().join("networks/default.xml");
    let good = fs::read_to_string(&definition)?;
    let ballast = lab.agent.config_dir().join("ballast");
    // Filled to the last byte: the error is the purpose.
    let filled = fs::write(&ballast, vec![0; 1 << 20]);
    ensure!(filled.is_err(), "the disk is not full");

    let uuid = lab.agent.ok(["net-uuid", "default"])?;
    let uuid = format!("<uuid>{}</uuid><title>changed</title>", uuid.trim());
    let changed = lab.agent.file("changed.xml", &network.with(&uuid).xml())?;
    let error = lab.agent.fails(["net-define", &changed])?;
    ensure!(
        error.contains("default") && error.contains("space"),
        "{error}"
    );
    let other = lab
        .agent
        .file("other.xml", &Network::nat("other", 2).xml())?;
    lab.agent.fails(["net-define", &other])?;
    ensure!(
        fs::read_to_string(&definition)? == good,
        "the good definition was damaged"
    );
    let dump = lab.agent.ok(["net-dumpxml", "default"])?;
    ensure!(!dump.contains("changed"), "{dump}");
    let names: Vec<_> = fs::read_dir(lab.agent.config_dir().join("networks"))?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    ensure!(
        names.len() == 1,
        "more than the good definition is there: {names:?}"
    );

    fs::remove_file(&ballast)?;
    lab.agent.stop()?;
    lab.agent.start()?;
    lab.agent.ok(["net-start", "default"])?;
    lab.agent.ok(["net-define", &changed])?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_damaged_definition_on_disk_is_named_and_the_others_start() {
    check(|lab| {
        lab.agent.start()?;
        for network in [Network::default(), Network::nat("damaged", 2)] {
            lab.agent.define(&network.xml())?;
            lab.agent.ok(["net-autostart", &network.name])?;
        }
        lab.agent.stop()?;
        let networks = lab.agent.config_dir().join("networks");
        fs::write(networks.join("damaged.xml"), "<network><name>dam")?;
        fs::write(networks.join("not-a-network.txt"), "leave me")?;
        lab.agent.start()?;
        let active = lab.agent.ok(["net-list", "--name"])?;
        ensure!(active.trim() == "default", "{active}");
        ensure!(
            lab.agent.log().contains("damaged.xml"),
            "{}",
            lab.agent.log()
        );
        ensure!(
            networks.join("damaged.xml").exists(),
            "it is the owner's to repair"
        );
        ensure!(networks.join("not-a-network.txt").exists());
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn without_the_right_to_load_programs_the_agent_says_so() {
    check(|lab| {
        // What a kernel without the feature, or a container without the right, answers.
        let output = netd_tests::output(
            lab.hv
                .command("timeout")
                .args(["300", "setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon"])
                .args(["--inh-caps=-sys_admin,-bpf,-perfmon", "--no-new-privs"])
                .arg(lab.directory().join("bin/netd"))
                .arg("--socket")
                .arg(lab.agent.socket())
                .arg("run")
                .args(lab.agent.directories()),
        )?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{}: {error}",
            output.status
        );
        ensure!(
            error.contains("error: ") && error.contains("bpf"),
            "{error}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn settings_that_are_wrong_keep_the_agent_from_starting() {
    check(|lab| {
        let file = lab.agent.config_dir().join("netd.toml");
        fs::create_dir_all(lab.agent.config_dir())?;
        for (text, words) in [
            (
                "[flows]\nmaximum = 5\n",
                "line 2, column 1: unknown field `maximum`",
            ),
            (
                "[timeouts]\nudp = 0\n",
                "line 2, column 7: 0 is not within 1 to 2000000 seconds",
            ),
        ] {
            fs::write(&file, text)?;
            lab.agent.spawn()?;
            let status = lab.agent.wait()?;
            ensure!(status.code() == Some(1), "{status}");
            let wanted = format!("error: {}, {words}", file.display());
            ensure!(lab.agent.log().contains(&wanted), "{}", lab.agent.log());
        }
        fs::write(&file, include_str!("../../dist/netd.toml"))?;
        lab.agent.start()?;
        fs::remove_file(&file)?;
        Ok(())
    });
}
