//! How published ports change: with a guest's name, with the definition, and under a dead agent.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::lab6::{HOST6, OUTSIDE6, at6, check6};
use netd_tests::published::{forward, forwards, range, reached, seen};
use netd_tests::socket::Receive as _;
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Netns, Network, SOON, eventually};

/// The guests' port, and where it is published.
const INSIDE: u16 = 80;
const PUBLIC: u16 = 8080;

/// A forward of UDP port [`PUBLIC`].
fn udp_to(guest: &str) -> String {
    forwards(&forward("udp", "", guest, &range(PUBLIC, PUBLIC, INSIDE)))
}

fn everywhere(guest: &Guest) -> Result<Server> {
    Server::udp(guest.netns(), at(Ipv4Addr::UNSPECIFIED, INSIDE))
}

/// Does the port lead somewhere, and is it open to nobody but outside's own address?
fn is_published(netns: &Netns, port: u16) -> Result<bool> {
    let who = seen(netns, "udp", at(HOST, port))?;
    ensure!(
        who.is_none_or(|who| who == IpAddr::from(OUTSIDE)),
        "{who:?}"
    );
    Ok(who.is_some())
}

/// Asks until somebody answers, who sees outside's own address.
fn becomes_published(lab: &Lab, port: u16) -> Result<()> {
    let who = reached(&lab.wan, "udp", at(HOST, port))?;
    ensure!(who == OUTSIDE, "{who}");
    Ok(())
}

/// Asks until that server alone hears it.
fn reaches(lab: &Lab, server: &Server, other: &Server) -> Result<()> {
    eventually(SOON, || {
        let before = (server.received(), other.received());
        ensure!(is_published(&lab.wan, PUBLIC)?, "nobody answers");
        ensure!(
            server.received() > before.0 && other.received() == before.1,
            "another guest answers"
        );
        Ok(())
    })
}

/// Replaces the definition of a network, as an editor does; what runs stays as it is.
fn edit(lab: &Lab, network: &Network) -> Result<()> {
    let uuid = lab.agent.ok(["net-uuid", &network.name])?;
    let uuid = format!("</name><uuid>{}</uuid>", uuid.trim());
    lab.agent
        .define(&network.xml().replacen("</name>", &uuid, 1))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_forward_follows_a_name_to_another_address() {
    check(|lab| {
        lab.agent.start()?;
        let network = |ip: &str| {
            let host = format!("<host mac='52:54:00:00:00:01' name='web' ip='{ip}'/>");
            Network::default().dhcp(&host).with(&udp_to("web"))
        };
        lab.up(&network("10.10.1.50"))?;
        let [first, second] = [lab.plugged(1, "virbr1")?, lab.plugged(2, "virbr1")?];
        first.address("10.10.1.50/24", Some("10.10.1.1"))?;
        second.address("10.10.1.60/24", Some("10.10.1.1"))?;
        let servers = [everywhere(&first)?, everywhere(&second)?];
        reaches(lab, &servers[0], &servers[1])?;
        // Entries for hosts change with the next start.
        edit(lab, &network("10.10.1.60"))?;
        lab.agent.ok(["reload"])?;
        reaches(lab, &servers[0], &servers[1])?;
        lab.agent.ok(["net-destroy", "default"])?;
        lab.agent.ok(["net-start", "default"])?;
        reaches(lab, &servers[1], &servers[0])
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_forward_follows_a_lease_to_another_address() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().dhcp("").with(&udp_to("vm1"));
        lab.up(&network)?;
        let guest = lab.plugged(1, "virbr1")?;
        let other = lab.plugged(2, "virbr1")?;
        let first = guest.dhcp()?.address;
        let servers = [everywhere(&guest)?, everywhere(&other)?];
        reaches(lab, &servers[0], &servers[1])?;
        // Another card of the same guest: another lease under the same name, once the old one is over.
        let renamed = ["sh", "-c", "ip addr flush dev eth0"];
        guest.netns().run(renamed)?;
        let card = ["ip", "link", "set", "eth0", "address", "52:54:00:00:00:77"];
        guest.netns().run(card)?;
        let second = guest.dhcp()?.address;
        ensure!(first != second, "the same address: {first}");
        reaches(lab, &servers[0], &servers[1])
            .with_context(|| format!("after {first} became {second}"))
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn config_alone_waits_for_the_next_start() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let _server = everywhere(&guest)?;
        let run = |words: &str| lab.agent.ok(words.split(' '));
        let said = run("forward add default udp 8080 10.10.1.11:80 --config")?;
        ensure!(said.contains("when it is next started"), "{said}");
        let state = |state: &str| -> Result<()> {
            let table = run("forward list default")?;
            let row = table.lines().find(|line| line.contains("8080"));
            let row = row.with_context(|| format!("not listed: {table}"))?;
            ensure!(row.trim_end().ends_with(state), "{row:?}, not {state}");
            Ok(())
        };
        state(" config")?;
        ensure!(!is_published(&lab.wan, PUBLIC)?, "published at once");
        // Neither another change nor another agent puts it into effect.
        run("forward add default udp 8081 10.10.1.11:80 --live")?;
        becomes_published(lab, 8081).context("the other one")?;
        ensure!(
            !is_published(&lab.wan, PUBLIC)?,
            "published by another change"
        );
        lab.agent.stop()?;
        lab.agent.start()?;
        ensure!(!is_published(&lab.wan, PUBLIC)?, "published by a new agent");
        for round in ["the first restart", "the second one"] {
            let run = |words: &str| lab.agent.ok(words.split(' '));
            run("net-destroy default")?;
            ensure!(!is_published(&lab.wan, PUBLIC)?, "published while stopped");
            run("net-start default")?;
            guest.ping(&network.gateway().to_string())?;
            becomes_published(lab, PUBLIC).context(round)?;
            ensure!(
                !is_published(&lab.wan, 8081)?,
                "live alone is kept: {round}"
            );
        }
        let table = lab.agent.ok(["forward", "list", "default"])?;
        ensure!(table.contains("live, config"), "{table}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p49_a_connection_through_a_forward_outlives_a_killed_agent() {
    check6(|lab| {
        // A look at a flow holds good for no longer than the shortest timeout.
        let settings = lab.agent.config_dir().join("netd.toml");
        std::fs::write(settings, "[timeouts]\nudp = 5\n")?;
        lab.agent.start()?;
        let to = |guest: &str| forward("tcp", "", guest, &range(PUBLIC, PUBLIC, INSIDE));
        let both = to("10.10.1.11") + &to("fd00:10:1::b");
        let network = Network::default().ipv6().with(&forwards(&both));
        lab.up(&network)?;
        let guest = lab.member6(1, &network)?;
        let _v4 = Server::tcp_echo(guest.netns(), at(network.address(11), INSIDE))?;
        let _v6 = Server::tcp_echo(guest.netns(), at6(network.address6(11), INSIDE))?;
        let mut streams = [
            traffic::connect(&lab.wan, at(HOST, PUBLIC))?,
            traffic::connect(&lab.wan, at6(HOST6, PUBLIC))?,
            // From the host itself, and from the guest by way of the gateway.
            traffic::connect(&lab.hv, at(HOST, PUBLIC))?,
            traffic::connect(guest.netns(), at(HOST, PUBLIC))?,
        ];
        let mut talk = |when: &str| -> Result<()> {
            for (number, stream) in streams.iter_mut().enumerate() {
                let mut back = [0; 8];
                let talk = stream
                    .write_all(b"question")
                    .and_then(|()| stream.read_exact(&mut back));
                talk.with_context(|| format!("connection {number} {when}"))?;
                ensure!(&back == b"question", "{back:?}");
            }
            Ok(())
        };
        talk("with the agent")?;
        lab.agent.kill()?;
        talk("without")?;
        // Longer than a flow goes without a second look.
        std::thread::sleep(Duration::from_secs(7));
        talk("without, later")?;
        lab.agent.start()?;
        talk("with the next one")?;
        std::thread::sleep(Duration::from_secs(7));
        talk("later")
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p39_an_edited_definition_moves_a_stream_with_its_next_packet() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        let before = network.clone().with(&udp_to("10.10.1.11"));
        lab.up(&before)?;
        let guests = [lab.member(1, &network)?, lab.member(2, &network)?];
        for guest in &guests {
            // A bridge that has just got its port may lose the first packet, and each one counts.
            guest.ping(&network.gateway().to_string())?;
        }
        let servers = [everywhere(&guests[0])?, everywhere(&guests[1])?];
        let socket = lab.wan.udp(at(OUTSIDE, 0))?;
        socket.connect(at(HOST, PUBLIC))?;
        let ask = || -> Result<[u64; 2]> {
            let before = [servers[0].received(), servers[1].received()];
            socket.send(b"?")?;
            socket.receive(&mut [0; 8]).context("no answer")?;
            Ok([0, 1].map(|n| servers[n].received() - before[n]))
        };
        ensure!(ask()? == [1, 0], "the first target");
        for round in 0..5_usize {
            let target = (round + 1) % 2;
            edit(
                lab,
                &network
                    .clone()
                    .with(&udp_to(&format!("10.10.1.1{}", target + 1))),
            )?;
            let mut should = [0, 0];
            should[1 - target] = 1;
            ensure!(ask()? == should, "round {round}: moved before the reload");
            lab.agent.ok(["reload"])?;
            should.reverse();
            // The very next packet, with no second chance.
            ensure!(ask()? == should, "round {round}: not moved");
        }
        Ok(())
    });
}

/// Whichever of the two is looked at first, the port is free when the other one gets it. What cannot
/// be is told, and the rest is done.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_port_moves_from_network_to_network() {
    check(|lab| {
        lab.agent.start()?;
        let networks = [Network::nat("one", 1), Network::nat("two", 2)];
        let publishing = |number: usize| {
            let guest = format!("10.10.{}.11", number + 1);
            networks[number].clone().with(&udp_to(&guest))
        };
        lab.up(&publishing(0))?;
        lab.up(&networks[1])?;
        for (from, to) in [(0, 1), (1, 0), (0, 1)] {
            edit(lab, &networks[from])?;
            edit(lab, &publishing(to))?;
            lab.agent.ok(["reload"])?;
            let list = lab.agent.ok(["forward", "list"])?;
            let holders: Vec<_> = list
                .lines()
                .filter(|line| line.contains("8080"))
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            ensure!(holders == [networks[to].name.as_str()], "{list}");
        }
        // Both want it: the one that has it keeps it.
        edit(lab, &publishing(0))?;
        let said = lab.agent.fails(["reload"])?;
        ensure!(
            said.contains("network 'one': left as it runs") && said.contains("8080"),
            "{said}"
        );
        // A file put there by hand is a network, with its link.
        let config = lab.agent.config_dir();
        let xml = Network::nat("three", 3).xml();
        std::fs::write(config.join("networks/three.xml"), xml)?;
        std::os::unix::fs::symlink("../networks/three.xml", config.join("autostart/three.xml"))?;
        std::fs::write(config.join("networks/four.xml"), "<network>")?;
        let said = lab.agent.fails(["reload"])?;
        ensure!(said.contains("four.xml"), "{said}");
        let info = lab.agent.ok(["net-info", "three"])?;
        let autostart = info.lines().find(|line| line.starts_with("Autostart"));
        ensure!(autostart.is_some_and(|l| l.ends_with("yes")), "{info}");
        Ok(())
    });
}

/// One port may lead to an IPv4 and to an IPv6 guest.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn one_of_two_families_is_deleted_by_its_guest() {
    check6(|lab| {
        lab.agent.start()?;
        let network = Network::default().ipv6();
        lab.up(&network)?;
        let guest = lab.member6(1, &network)?;
        let _v4 = Server::udp(guest.netns(), at(network.address(11), INSIDE))?;
        let _v6 = Server::udp(guest.netns(), at6(network.address6(11), INSIDE))?;
        let run = |words: &str| lab.agent.ok(words.split(' '));
        run("forward add default udp 8080 10.10.1.11:80 --live --config")?;
        run("forward add default udp 8080 [fd00:10:1::b]:80 --live --config")?;
        let answers = |v4: bool, v6: bool| -> Result<()> {
            let addresses = [
                (v4, at(HOST, PUBLIC).into(), IpAddr::from(OUTSIDE)),
                (v6, at6(HOST6, PUBLIC).into(), OUTSIDE6.into()),
            ];
            for (answers, to, outside) in addresses {
                let to: SocketAddr = to;
                if answers {
                    let who = reached(&lab.wan, "udp", to)?;
                    ensure!(who == outside, "{to}: {who}");
                } else {
                    let who = seen(&lab.wan, "udp", to)?;
                    ensure!(who.is_none(), "{to}: {who:?}");
                }
            }
            Ok(())
        };
        answers(true, true)?;
        let delete = "forward delete default udp 8080";
        let error = lab.agent.fails(delete.split(' '))?;
        ensure!(
            error.contains("10.10.1.11 and to fd00:10:1::b; name one guest after the port"),
            "{error}"
        );
        answers(true, true).context("refused, and gone")?;
        let wrong = format!("{delete} 10.10.1.12");
        let error = lab.agent.fails(wrong.split(' '))?;
        ensure!(error.contains("no udp port 8080 to 10.10.1.12"), "{error}");
        run(&format!("{delete} fd00:10:1::b --live --config"))?;
        answers(true, false)?;
        let kept = lab.agent.ok(["net-dumpxml", "default", "--inactive"])?;
        ensure!(
            kept.contains("10.10.1.11") && !kept.contains("fd00:10:1::b"),
            "{kept}"
        );
        // Where one is left it needs no name.
        run(&format!("{delete} --live --config"))?;
        answers(false, false)
    });
}

/// Who listens at a port is told when it is published, not again with every other change; the
/// network's own dnsmasq loses nothing and is not named.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn listeners_are_named_once() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().dhcp("");
        lab.up(&network)?;
        let _local = Server::udp(&lab.hv, at(HOST, PUBLIC))?;
        let add = |words: &str| -> Result<String> {
            let output = lab.agent.cli(words.split(' '))?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{words}: {said}");
            Ok(said)
        };
        let said = add("forward add default udp 53 10.10.1.11")?;
        ensure!(said.is_empty(), "dnsmasq loses nothing: {said}");
        let said = add("forward add default udp 67 10.10.1.11")?;
        ensure!(said.is_empty(), "dnsmasq loses nothing: {said}");
        let named = || lab.agent.log().matches("listens on udp port 8080").count();
        let said = add("forward add default udp 8080 10.10.1.11:80")?;
        ensure!(said.contains("listens on udp port 8080"), "{said:?}");
        let once = named();
        ensure!(once == 1, "named {once} times in the log");
        for port in [9001, 9002] {
            let said = add(&format!("forward add default tcp {port} 10.10.1.11:80"))?;
            ensure!(said.is_empty(), "{port}: {said}");
        }
        ensure!(named() == once, "named again by an unrelated change");
        let log = lab.agent.log();
        ensure!(!log.contains("dnsmasq (pid"), "dnsmasq is named");
        Ok(())
    });
}
