//! What guests get from dnsmasq.

use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{OUTSIDE, check};
use netd_tests::packet::UDP;
use netd_tests::{Network, SOON, Sniffer, eventually};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills a process and waits for its end.
fn kill(pid: i32) -> Result<()> {
    let pid = Pid::from_raw(pid).context("a process number")?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_send_signal(&process, Signal::KILL)?;
    // It is readable from then on.
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    let limit = Timespec::try_from(Duration::from_millis(100))?;
    eventually(SOON, || {
        ensure!(poll(&mut ended, Some(&limit))? == 1, "{pid:?} does not end");
        Ok(())
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_lease_holds_what_the_definition_says() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default()
            .with("<domain name='lab.example' localOnly='yes'/><mtu size='1400'/>")
            .dhcp("<host mac='52:54:00:00:00:02' name='web' ip='10.10.1.20'/>");
        lab.up(&network)?;
        let guest = lab.plugged(1, "virbr1")?;
        let lease = guest.dhcp()?;
        ensure!(
            (100..=200).contains(&lease.address.octets()[3]),
            "{lease:?}"
        );
        ensure!(lease.prefix == 24 && lease.mtu == Some(1400), "{lease:?}");
        ensure!(lease.router == Some(network.gateway()), "{lease:?}");
        ensure!(lease.dns == Some(network.gateway()), "{lease:?}");
        ensure!(lease.domain.as_deref() == Some("lab.example"), "{lease:?}");
        guest.ping(&OUTSIDE.to_string())?;

        let web = lab.plugged(2, "virbr1")?;
        let fixed = web.dhcp()?;
        ensure!(fixed.address == network.address(20), "{fixed:?}");
        ensure!(fixed.hostname.as_deref() == Some("web"), "{fixed:?}");

        let server = network.gateway();
        for name in ["web", "web.lab.example"] {
            ensure!(guest.resolve(name, server)? == fixed.address, "{name}");
        }
        ensure!(web.resolve("vm1.lab.example", server)? == lease.address);

        lab.leases_with("default", lease.address)?;
        let table = lab.leases_with("default", fixed.address)?;
        for text in [
            format!("52:54:00:00:00:01   ipv4       {}/24", lease.address),
            format!("52:54:00:00:00:02   ipv4       {}/24", fixed.address),
        ] {
            ensure!(table.contains(&text), "{text} is not in:\n{table}");
        }
        ensure!(table.contains("vm1") && table.contains("web"), "{table}");
        let one = lab
            .agent
            .ok(["net-dhcp-leases", "default", "--mac", "52:54:00:00:00:02"])?;
        ensure!(
            one.contains("10.10.1.20/24") && !one.contains("00:00:01"),
            "{one}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_isolated_guest_gets_an_address_and_no_way_out() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::isolated("inside", 1).dhcp(""))?;
        let lease = lab.plugged(1, "virbr1")?.dhcp()?;
        ensure!(lease.router.is_none(), "{lease:?}");
        Ok(())
    });
}

/// A network without addresses is the guests' own: nothing of the host serves there.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t56_guests_of_a_network_without_addresses_serve_each_other() {
    check(|lab| {
        lab.agent.start()?;
        let xml = "<network><name>own</name><bridge name='virbr9'/><mtu size='9000'/></network>";
        lab.agent.up("own", xml)?;
        ensure!(lab.dnsmasqs()?.is_empty(), "{:?}", lab.dnsmasqs()?);
        let (guest, server) = (lab.plugged(1, "virbr9")?, lab.plugged(2, "virbr9")?);
        for guest in [&guest, &server] {
            lab.hv
                .run(["ip", "link", "set", &guest.port, "mtu", "9000"])?;
            guest
                .netns()
                .run(["ip", "link", "set", "eth0", "mtu", "9000"])?;
        }
        server.address("172.20.0.1/24", None)?;
        let file = |name: &str| lab.directory().join(name).display().to_string();
        server.netns().run([
            "dnsmasq",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=eth0",
            "--bind-interfaces",
            "--user=root",
            "--dhcp-range=172.20.0.10,172.20.0.20,1h",
            &format!("--pid-file={}", file("server.pid")),
            &format!("--dhcp-leasefile={}", file("server.leases")),
        ])?;
        let lease = guest.dhcp()?;
        ensure!(lease.address.octets()[..3] == [172, 20, 0], "{lease:?}");
        let jumbo = [
            "ping",
            "-c",
            "1",
            "-W",
            "3",
            "-M",
            "do",
            "-s",
            "8900",
            "172.20.0.1",
        ];
        eventually(SOON, || guest.netns().run(jumbo))?;
        Ok(())
    });
}

/// A tunnel stands for a network card: other hosts are behind it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn who_puts_an_uplink_into_a_bridge_with_dhcp_is_told_whom_it_serves() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        lab.up(&Network::nat("static", 2))?;
        let told = || {
            lab.agent
                .log()
                .matches("answers in the LAN behind this port")
                .count()
        };
        // Guests' devices are none of these, and neither is a port of a network without DHCP.
        let _guest = lab.plugged(1, "virbr1")?;
        for (number, bridge) in [("2", "virbr2"), ("1", "virbr1")] {
            let lan = format!("lan{number}");
            let words = [
                "ip", "link", "add", &lan, "type", "vxlan", "dstport", "0", "id", number,
            ];
            lab.hv.run(words)?;
            lab.hv
                .run(["ip", "link", "set", &lan, "master", bridge, "up"])?;
        }
        eventually(SOON, || {
            ensure!(told() > 0, "nobody is told:\n{}", lab.agent.log());
            Ok(())
        })?;
        let log = lab.agent.log();
        let line = log.lines().find(|line| line.contains("answers in the LAN"));
        let line = line.unwrap_or_default();
        ensure!(line.contains("lan1") && line.contains("default"), "{line}");
        lab.agent.ok(["net-list"])?;
        ensure!(told() == 1, "it is told {} times", told());
        let found = lab.agent.cli(["doctor"])?;
        ensure!(found.status.code() == Some(1), "{:?}", found.status);
        let found = String::from_utf8(found.stdout)?;
        let line = "port lan1 of bridge virbr1 leads out of the host";
        ensure!(
            found.matches("leads out").count() == 1 && found.contains(line),
            "{found}"
        );
        for lan in ["lan1", "lan2"] {
            lab.hv.run(["ip", "link", "del", lan])?;
        }
        eventually(SOON, || lab.agent.ok(["doctor"]))?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p29_replies_carry_complete_checksums() {
    check(|lab| {
        lab.agent.start()?;
        for (number, network) in [
            (1, Network::nat("nat", 1)),
            (2, Network::route("route", 2)),
            (3, Network::isolated("isolated", 3)),
            (4, Network::open("open", 4)),
        ] {
            lab.up(&network.clone().dhcp(""))?;
            let guest = lab.plugged(number, &network.bridge())?;
            let sniffer = Sniffer::start(guest.netns())?;
            guest.dhcp()?;
            let packets = sniffer.finish()?;
            let mut replies = packets
                .iter()
                .filter(|packet| packet.protocol == UDP && packet.destination_port() == Some(68))
                .peekable();
            ensure!(
                replies.peek().is_some(),
                "{}: no reply was captured",
                network.name
            );
            for reply in replies {
                ensure!(
                    reply.udp_checksum_is_complete(),
                    "{}: {reply:?}",
                    network.name
                );
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn names_of_the_definition_and_of_the_outside_are_answered() {
    check(|lab| {
        // A name server outside, that the definition forwards to.
        let file = |name: &str| lab.directory().join(name).display().to_string();
        lab.wan.run([
            "dnsmasq",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--listen-address=198.51.100.1",
            "--bind-interfaces",
            "--user=root",
            "--host-record=www.outside.example,192.0.2.80",
            &format!("--pid-file={}", file("upstream.pid")),
        ])?;
        lab.agent.start()?;
        let network = Network::default().with(
            "<dns><forwarder addr='198.51.100.1'/>\
             <host ip='10.10.1.9'><hostname>printer</hostname><hostname>lp</hostname></host></dns>",
        );
        let xml = network.dns().xml();
        lab.agent.up("default", &xml)?;
        let guest = lab.plugged(1, "virbr1")?;
        guest.address("10.10.1.11/24", Some("10.10.1.1"))?;
        let server = "10.10.1.1".parse()?;
        for (name, address) in [
            ("printer", "10.10.1.9"),
            ("lp", "10.10.1.9"),
            ("www.outside.example", "192.0.2.80"),
        ] {
            let answer = eventually(SOON, || guest.resolve(name, server))?;
            ensure!(answer.to_string() == address, "{name} is {answer}");
        }
        ensure!(guest.resolve("nobody.outside.example", server).is_err());
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_dnsmasq_that_dies_is_started_again() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let before = lab.dnsmasqs()?;
        ensure!(before.len() == 1, "{before:?}");
        kill(before[0])?;
        // It is not started more often than every few seconds.
        eventually(SOON, || {
            let now = lab.dnsmasqs()?;
            ensure!(now.len() == 1 && now != before, "{before:?}, then {now:?}");
            Ok(())
        })?;
        lab.plugged(1, "virbr1")?.dhcp()?;
        let starts = lab.agent.log().matches("dnsmasq started").count();
        ensure!(starts == 1, "it was started {starts} times");
        ensure!(lab.dnsmasqs()?.len() == 1, "{:?}", lab.dnsmasqs()?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn dnsmasq_outlives_the_agent_and_is_adopted() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let before = lab.dnsmasqs()?;
        lab.agent.kill()?;
        let guest = lab.plugged(1, "virbr1")?;
        let lease = guest.dhcp().context("while no agent runs")?;
        lab.agent.start()?;
        ensure!(lab.dnsmasqs()? == before, "it was replaced");
        lab.leases_with("default", lease.address)?;
        // The adopted one is looked after, too.
        kill(before[0])?;
        eventually(SOON, || {
            let now = lab.dnsmasqs()?;
            ensure!(now.len() == 1 && now != before, "{before:?}, then {now:?}");
            Ok(())
        })
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_dnsmasq_that_was_killed_leaves_nothing_to_teardown() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        // No agent sees it die; `check` tears down and compares.
        lab.agent.stop()?;
        kill(lab.dnsmasqs()?[0])
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_dnsmasq_that_cannot_be_started_again_leaves_nothing_to_net_destroy() {
    check(|lab| {
        // The link goes to the real one until it goes nowhere.
        let dnsmasq = lab.directory().join("dnsmasq");
        symlink("/usr/sbin/dnsmasq", &dnsmasq)?;
        lab.agent
            .set_env("NETD_DNSMASQ", &dnsmasq.display().to_string());
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let pid_file = lab.directory().join("run/default.pid");
        ensure!(pid_file.exists(), "no {}", pid_file.display());
        std::fs::remove_file(&dnsmasq)?;
        kill(lab.dnsmasqs()?[0])?;
        eventually(SOON, || {
            let log = lab.agent.log();
            ensure!(log.contains("no DHCP and DNS"), "not noticed:\n{log}");
            Ok(())
        })?;
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(!pid_file.exists(), "{} is left", pid_file.display());
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn leases_outlive_the_network() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default().dhcp(""))?;
        let guest = lab.plugged(1, "virbr1")?;
        let first = guest.dhcp()?;
        lab.leases_with("default", first.address)?;
        lab.agent.ok(["net-destroy", "default"])?;
        lab.agent.ok(["net-start", "default"])?;
        let table = lab.agent.ok(["net-dhcp-leases", "default"])?;
        ensure!(table.contains(&first.address.to_string()), "{table}");
        lab.plug(&guest, "virbr1")?;
        let second = guest.dhcp()?;
        ensure!(
            first.address == second.address,
            "{first:?}, then {second:?}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn without_dhcp_and_dns_there_is_no_dnsmasq() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        ensure!(lab.dnsmasqs()?.is_empty());
        Ok(())
    });
}
