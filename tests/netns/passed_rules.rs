//! The host's own rules that netd passes by: told where they name a network, or ban somebody, and not
//! where they do neither.

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::published::{both, forwards};
use netd_tests::traffic::{self, Server};
use netd_tests::{Lab, Network, SOON, Sniffer, eventually};

/// The network of all tests here, number 1: bridge, subnet and published port.
fn network(lab: &Lab) -> Result<Network> {
    let network = Network::nat("shop", 1).with(&forwards(&both("", "10.10.1.11", 8080, 80)));
    lab.up(&network)?;
    Ok(network)
}

/// What `netd doctor` says; nothing where it finds nothing.
fn doctor(lab: &Lab) -> Result<Vec<String>> {
    let output = lab.agent.cli(["--quiet", "doctor"])?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    ensure!(
        output.status.code() == Some(i32::from(!lines.is_empty())),
        "{:?} {text}",
        output.status
    );
    // Each has its remedy in the next line.
    Ok(lines.into_iter().step_by(2).collect())
}

fn nft(lab: &Lab, rules: &str) -> Result<()> {
    let file = lab.agent.file("rules.nft", rules)?;
    lab.hv.run(["nft", "-f", &file]).map(drop)
}

/// Nothing is to be left behind, not even by the test.
fn flush(lab: &Lab) -> Result<()> {
    lab.hv.run(["nft", "flush", "ruleset"]).map(drop)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rules_that_name_a_network_are_told_with_their_remedy() {
    check(|lab| {
        lab.agent.start()?;
        let network = network(lab)?;
        let guest = lab.member(1, &network)?;
        let bridge = network.bridge();
        eventually(SOON, || {
            let status = lab.agent.ok(["status"])?;
            ensure!(status.contains(&guest.port), "{status}");
            Ok(())
        })?;
        ensure!(doctor(lab)?.is_empty(), "no rules yet");
        nft(
            lab,
            &format!(
                "table inet b {{
                   set guests {{ type ipv4_addr; flags interval; elements = {{ 10.10.1.0/28 }} }}
                   chain f {{
                     type filter hook forward priority -10
                     iifname {bridge} ip daddr 10.0.0.0/8 counter drop
                     iifname {bridge} tcp dport 443 accept
                     oifname \"vnet*\" counter
                     iif {bridge} drop
                     iifname {{ lo, {bridge} }} limit rate over 5/second drop
                     ip saddr @guests log
                     ip daddr 10.10.0.0/16 reject
                     tcp dport {{ 25, 8080 }} drop
                     ip6 daddr 2001:db8::/32 drop
                     iifname eth0 drop
                   }}
                   chain p {{
                     type nat hook prerouting priority dstnat
                     iifname {bridge} tcp dport 80 redirect to :3128
                     tcp dport 2222 dnat ip to 10.10.1.11:22
                     tcp dport 2223 dnat ip to 10.99.1.11:22
                   }}
                   chain s {{
                     type nat hook postrouting priority srcnat
                     ip saddr 10.10.1.0/24 masquerade
                   }}
                 }}"
            ),
        )?;
        let hook = "iptables-nft -t nat -A PREROUTING -p tcp --dport 2224 -j DNAT --to-destination";
        for to in ["10.10.1.11:22", "10.99.1.11:22"] {
            lab.hv.run(hook.split(' ').chain([to]))?;
        }
        let found = doctor(lab)?;
        for (words, count) in [
            (
                format!(
                    "iifname \"{bridge}\" ip daddr 10.0.0.0/8 counter drop: names device {bridge} of network 'shop'"
                ),
                1,
            ),
            (
                "oifname \"vnet*\" counter: names device vnet1".to_owned(),
                1,
            ),
            (": names device".to_owned(), 5),
            (
                "ip saddr @guests log: names subnet 10.10.1.0/24".to_owned(),
                1,
            ),
            (
                "ip daddr 10.10.0.0/16 reject: names subnet 10.10.1.0/24".to_owned(),
                1,
            ),
            (
                "tcp dport { … } drop: names published port 8080".to_owned(),
                1,
            ),
            ("redirect: names device".to_owned(), 1),
            (
                "ip saddr 10.10.1.0/24 masquerade: names subnet".to_owned(),
                1,
            ),
            ("eth0".to_owned(), 0),
            ("2001:db8".to_owned(), 0),
            ("accept".to_owned(), 0),
        ] {
            let those = found.iter().filter(|line| line.contains(&words)).count();
            ensure!(
                those == count,
                "{words}: {those}, not {count}\n{}",
                found.join("\n")
            );
        }
        // As hook scripts for libvirt write them, of which iptables makes one or the other.
        let leads = found.iter().filter(|line| {
            [
                "dnat to …: names subnet 10.10.1.0/24",
                "-j DNAT: names subnet 10.10.1.0/24",
            ]
            .iter()
            .any(|words| line.contains(words))
        });
        ensure!(leads.count() == 2, "{}", found.join("\n"));
        let all = found
            .iter()
            .filter(|line| line.to_lowercase().contains("dnat"));
        ensure!(all.count() == 2, "{}", found.join("\n"));
        // Of the network that it is about.
        let status = lab.agent.ok(["status", "shop"])?;
        ensure!(
            status.matches("Problem:").count() == found.len(),
            "{status}"
        );
        // Whoever publishes a port is told.
        let output = lab
            .agent
            .cli(["forward", "add", "shop", "tcp", "25", "10.10.1.11"])?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(told.contains("names published port"), "{told}");
        flush(lab)
    });
}

/// Rules that masquerade the network, as another tool has left them: nothing is translated twice.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p47_a_host_that_masquerades_the_same_subnet_translates_nothing_twice() {
    check(|lab| {
        lab.agent.start()?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
        let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, 8))?;
        for (number, kind) in [(1, "bypass"), (2, "respect")] {
            let relation = format!("<n:host xmlns:n='urn:netd:network:1' firewall='{kind}'/>");
            let network = Network::nat(kind, number);
            lab.up(&network
                .clone()
                .with(&format!("<metadata>{relation}</metadata>")))?;
            let subnet = network.subnet();
            nft(
                lab,
                &format!(
                    "table ip own {{ chain s {{ type nat hook postrouting priority srcnat
                     ip saddr {subnet} ip daddr != {subnet} masquerade
                     }}\n}}"
                ),
            )?;
            let guest = lab.member(number, &network)?;
            let own = network.address(10 + number);
            let sniffer = Sniffer::start(&lab.wan)?;
            for port in 6000..6005 {
                for _ in 0..3 {
                    let seen = traffic::answered_from(guest.netns(), port, at(OUTSIDE, 7))
                        .with_context(|| kind.to_owned())?;
                    ensure!(seen.ip() == HOST, "{kind}: {seen}");
                }
            }
            traffic::transfer(guest.netns(), at(OUTSIDE, 8), 1 << 20)?;
            guest.ping(&OUTSIDE.to_string())?;
            let packets = sniffer.finish()?;
            let strange = packets.iter().find(|packet| packet.source == own);
            ensure!(strange.is_none(), "{kind}: untranslated: {strange:?}");
            let told = doctor(lab)?.iter().any(|line| line.contains("masquerade"));
            // Where rules are respected they are not passed by.
            ensure!(told == (kind == "bypass"), "{kind}: {:?}", doctor(lab)?);
            flush(lab)?;
            lab.agent.ok(["net-destroy", kind])?;
        }
        Ok(())
    });
}

/// As fail2ban's actions leave them, by iptables and by nft.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn bans_by_source_are_told_once_a_chain() {
    check(|lab| {
        lab.agent.start()?;
        let _network = network(lab)?;
        for arguments in [
            "-N f2b-sshd",
            "-A f2b-sshd -j RETURN",
            "-I INPUT -p tcp -m multiport --dports 22 -j f2b-sshd",
            "-I f2b-sshd 1 -s 203.0.113.1 -j REJECT --reject-with icmp-port-unreachable",
            "-I f2b-sshd 1 -s 203.0.113.2 -j REJECT --reject-with icmp-port-unreachable",
        ] {
            let mut all = vec!["iptables-nft"];
            all.extend(arguments.split(' '));
            lab.hv.run(all)?;
        }
        nft(
            lab,
            "table inet f2b-table {
               set addr-set-web { type ipv4_addr; }
               chain f2b-chain {
                 type filter hook input priority -1
                 tcp dport { 80 } ip saddr @addr-set-web reject
               }
             }
             table netdev n {
               chain i {
                 type filter hook ingress device uplink priority 0
                 ip saddr 198.51.100.77 drop
               }
             }",
        )?;
        let found = doctor(lab)?;
        for words in [
            "chain f2b-sshd, ",
            "-j REJECT: bans by source, which guests' packets do not pass; 1 more there",
            "ip saddr @addr-set-web reject: bans by source",
            "table netdev n, chain i, handle 2: ip saddr 198.51.100.77 drop: bans by source",
        ] {
            ensure!(
                found.iter().any(|line| line.contains(words)),
                "{words}\n{}",
                found.join("\n")
            );
        }
        ensure!(found.len() == 3, "{}", found.join("\n"));
        flush(lab)
    });
}

/// What other software does for itself, and rules that let pass, are no problem; nor is a policy.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rules_about_others_are_not_told() {
    check(|lab| {
        lab.agent.start()?;
        let network = network(lab)?;
        lab.hv
            .run(["ip", "link", "add", "docker0", "type", "bridge"])?;
        for arguments in [
            // Docker's.
            "-P FORWARD DROP",
            "-N DOCKER-USER",
            "-N DOCKER-FORWARD",
            "-N DOCKER",
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -j DOCKER-FORWARD",
            "-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A DOCKER-FORWARD -o docker0 -j DOCKER",
            "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
            "-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT",
            "-A DOCKER ! -i docker0 -o docker0 -j DROP",
            "-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
            "-t raw -A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP",
        ] {
            let mut all = vec!["iptables-nft"];
            all.extend(arguments.split(' '));
            lab.hv.run(all)?;
        }
        for direction in ["-i", "-o"] {
            let bridge = network.bridge();
            lab.hv.run([
                "iptables-nft",
                "-A",
                "DOCKER-USER",
                direction,
                &bridge,
                "-j",
                "ACCEPT",
            ])?;
        }
        nft(
            lab,
            "table inet filter {
               chain input {
                 type filter hook input priority 0; policy drop
                 ct state established,related accept
                 ip saddr 127.0.0.0/8 iifname != lo drop
               }
               chain forward {
                 type filter hook forward priority 0; policy drop
                 ct state invalid drop
                 ct state established,related accept
                 reject with icmpx admin-prohibited
               }
             }",
        )?;
        let found = doctor(lab)?;
        ensure!(found.is_empty(), "{}", found.join("\n"));
        lab.hv.run(["ip", "link", "del", "docker0"])?;
        flush(lab)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_log_tells_each_rule_once() {
    check(|lab| {
        nft(
            lab,
            "table inet b {
               chain f {
                 type filter hook forward priority 0
                 ip saddr 10.10.1.0/24 tcp dport 25 drop
               }
             }",
        )?;
        lab.agent.start()?;
        let _network = network(lab)?;
        let told = |lab: &Lab| lab.agent.log().matches("names subnet 10.10.1.0/24").count();
        eventually(SOON, || {
            ensure!(told(lab) == 1, "{} times after the start", told(lab));
            Ok(())
        })?;
        lab.up(&Network::nat("other", 2))?;
        ensure!(told(lab) == 1, "{} times after another start", told(lab));
        flush(lab)
    });
}
