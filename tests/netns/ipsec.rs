//! The host's IPsec policies: what they cover never leaves in clear, and what they do not is as fast as
//! without.
//!
//! A policy that wants protection which nobody has agreed upon lets nothing pass: so it needs no ESP in the
//! kernel to see that a packet met it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE};
use netd_tests::lab6::{HOST6, OUTSIDE6, check_guest6};
use netd_tests::published::{both, forwards};
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Guest, Lab, Network, SOON, Sniffer, eventually};

const PORT: u16 = 7;
const PUBLISHED: u16 = 5500;
/// Of a server that no policy is about.
const OTHER: [&str; 2] = ["198.51.100.77", "2001:db8:1::77"];

/// One family's addresses.
#[derive(Clone, Copy)]
struct Ends {
    guest: IpAddr,
    host: IpAddr,
    outside: IpAddr,
    other: IpAddr,
}

fn ends(network: &Network) -> Result<[Ends; 2]> {
    let [other4, other6] = OTHER;
    Ok([
        Ends {
            guest: network.address(11).into(),
            host: HOST.into(),
            outside: OUTSIDE.into(),
            other: other4.parse()?,
        },
        Ends {
            guest: network.address6(11).into(),
            host: HOST6.into(),
            outside: OUTSIDE6.into(),
            other: other6.parse()?,
        },
    ])
}

fn is_answered(netns: &netd_tests::Netns, to: IpAddr, port: u16) -> Result<bool> {
    let verdict = traffic::ask_udp(netns, SocketAddr::from((to, port)))?;
    Ok(matches!(verdict, Verdict::Answered(_)))
}

/// It answers sooner or later.
fn answers(netns: &netd_tests::Netns, to: IpAddr, port: u16) -> Result<()> {
    traffic::answered(netns, SocketAddr::from((to, port))).map(drop)
}

fn policy(lab: &Lab, words: &str) -> Result<()> {
    let words = format!("ip xfrm policy {words}");
    lab.hv.run(words.split_whitespace())?;
    Ok(())
}

/// What asks for ESP from end to end of the uplink.
fn protected(ends: &Ends) -> String {
    format!(
        "tmpl src {} dst {} proto esp mode tunnel",
        ends.host, ends.outside
    )
}

/// Datagrams to the server's port that were seen outside, by their destination, of either family.
fn seen(lab: &Lab, to: IpAddr, test: impl FnOnce() -> Result<()>) -> Result<usize> {
    if to.is_ipv4() {
        let sniffer = Sniffer::start(&lab.wan)?;
        test()?;
        let packets = sniffer.finish()?;
        let those = packets.iter().filter(|packet| {
            IpAddr::from(packet.destination) == to && packet.destination_port() == Some(PORT)
        });
        return Ok(those.count());
    }
    let sniffer = Sniffer::start6(&lab.wan)?;
    test()?;
    let packets = sniffer.finish()?;
    let those = packets.iter().filter(|packet| {
        IpAddr::from(packet.destination) == to && packet.destination_port() == Some(PORT)
    });
    Ok(those.count())
}

/// A guest of the network, outside with two servers that answer it.
fn with_servers(network: &Network, test: impl FnOnce(&mut Lab, &Guest, [Ends; 2]) -> Result<()>) {
    check_guest6(network, |lab, guest| {
        let ends = ends(network)?;
        let route = format!("ip route add {} via {HOST}", network.subnet());
        lab.wan.run(route.split(' '))?;
        for end in &ends {
            lab.wan.address(
                "wan0",
                &format!(
                    "{}/{}",
                    end.other,
                    if end.other.is_ipv4() { 32 } else { 128 }
                ),
            )?;
        }
        lab.wan.wait_for_addresses("wan0")?;
        let addresses = ends.iter().flat_map(|end| [end.outside, end.other]);
        let servers = addresses.map(|address| Server::udp(&lab.wan, (address, PORT)));
        let _servers = servers.collect::<Result<Vec<_>>>()?;
        for end in &ends {
            for to in [end.outside, end.other] {
                answers(guest.netns(), to, PORT)?;
            }
        }
        test(lab, guest, ends)
    });
}

/// While the policy is there, nothing of the guest's reaches the server, and the other one answers.
fn holds(lab: &Lab, guest: &Guest, end: &Ends, words: &str) -> Result<()> {
    let rule = words.to_owned();
    policy(lab, &format!("add {rule}"))?;
    eventually(SOON, || {
        ensure!(
            !is_answered(guest.netns(), end.outside, PORT)?,
            "{} still answers under {rule}",
            end.outside
        );
        Ok(())
    })?;
    let in_clear = seen(lab, end.outside, || {
        for _ in 0..3 {
            let answered = is_answered(guest.netns(), end.outside, PORT)?;
            ensure!(!answered, "it answers under {rule}");
        }
        answers(guest.netns(), end.other, PORT).with_context(|| format!("the other under {rule}"))
    })?;
    ensure!(
        in_clear == 0,
        "{in_clear} datagrams left in clear under {rule}"
    );
    policy(lab, "flush")?;
    answers(guest.netns(), end.outside, PORT)
        .with_context(|| format!("without {rule}: {:?}", lab.agent.drops()))
}

fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn subnet(end: &Ends) -> String {
    format!(
        "{}/{}",
        end.guest,
        if end.guest.is_ipv4() { 24 } else { 64 }
    )
}

fn policies_of_guests_hold(network: &Network) {
    with_servers(network, |lab, guest, ends| {
        for end in &ends {
            let to = format!("{}/{}", end.outside, length(end.outside));
            let subnet = subnet(end);
            let protected = protected(end);
            for words in [
                format!("src {subnet} dst {to} dir out {protected}"),
                format!("src {subnet} dst {to} dir out action block"),
                format!("src {subnet} dst {to} dir fwd action block"),
                format!("src {subnet} dst {to} proto udp dport {PORT} dir out {protected}"),
                // Answers come in clear, when they should not.
                format!("src {to} dst {subnet} dir fwd {protected}"),
            ] {
                if words.starts_with(&format!("src {to}")) {
                    answers_do_not_come(lab, guest, end, &words)?;
                } else {
                    holds(lab, guest, end, &words)?;
                }
            }
        }
        Ok(())
    });
}

/// What should have come protected does not come in clear.
fn answers_do_not_come(lab: &Lab, guest: &Guest, end: &Ends, words: &str) -> Result<()> {
    policy(lab, &format!("add {words}"))?;
    let silent = eventually(SOON, || {
        ensure!(
            !is_answered(guest.netns(), end.outside, PORT)?,
            "{} still answers under {words}",
            end.outside
        );
        Ok(())
    });
    let other = answers(guest.netns(), end.other, PORT);
    policy(lab, "flush")?;
    silent?;
    other.with_context(|| format!("the other under {words}"))?;
    answers(guest.netns(), end.outside, PORT).with_context(|| format!("without {words}"))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn policies_for_a_nat_network_hold() {
    policies_of_guests_hold(&Network::nat6("default", 1));
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn policies_for_a_routed_network_hold() {
    policies_of_guests_hold(&Network::route("default", 1).ipv6());
}

/// A policy for the host's own address covers what leaves with it. The kernel's IPsec does not see that
/// address, so the packet is dropped by name.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_is_masqueraded_does_not_leave_in_clear() {
    with_servers(&Network::nat6("default", 1), |lab, guest, ends| {
        for end in &ends {
            let before = lab.agent.dropped("ipsec_policy")?;
            let words = format!(
                "src {}/{} dst {}/{} dir out {}",
                end.host,
                length(end.host),
                end.outside,
                length(end.outside),
                protected(end)
            );
            holds(lab, guest, end, &words)?;
            let dropped = lab.agent.dropped("ipsec_policy")? - before;
            ensure!(dropped >= 3, "{dropped} dropped by name");
        }
        Ok(())
    });
}

/// The first policy that matches counts, as in the kernel: a tunnel for all of a subnet's leaves out what a
/// policy before it says may pass in clear.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn exceptions_before_a_policy_hold_too() {
    with_servers(&Network::nat6("default", 1), |lab, guest, ends| {
        for end in &ends {
            let all = if end.guest.is_ipv4() {
                "0.0.0.0/0"
            } else {
                "::/0"
            };
            let other = format!("{}/{}", end.other, length(end.other));
            policy(
                lab,
                &format!("add src {all} dst {other} dir out priority 10"),
            )?;
            let words = format!(
                "src {} dst {all} dir out priority 20 {}",
                subnet(end),
                protected(end)
            );
            holds(lab, guest, end, &words)?;
        }
        Ok(())
    });
}

/// What a policy covers and lets pass goes by the stack, whose hooks see it; what none covers goes the short
/// way.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_is_covered_goes_by_the_stack_and_the_rest_does_not() {
    with_servers(&Network::route("default", 1).ipv6(), |lab, guest, ends| {
        let rules = "table inet t {\n counter covered {}\n chain c {\n\
                     type filter hook forward priority 0; policy accept;\n\
                     udp dport 7 counter name covered\n udp sport 7 counter name covered\n}\n}";
        let file = lab.agent.file("count.nft", rules)?;
        for end in &ends {
            let to = format!("{}/{}", end.outside, length(end.outside));
            let subnet = subnet(end);
            // Where nothing was agreed upon they pass in clear, by the policy's own word.
            let optional = "tmpl proto esp mode transport level use";
            policy(
                lab,
                &format!("add src {subnet} dst {to} dir out {optional}"),
            )?;
            policy(
                lab,
                &format!("add src {to} dst {subnet} dir fwd {optional}"),
            )?;
            lab.hv.run(["nft", "-f", &file])?;
            let counted = || -> Result<u64> {
                let text = lab
                    .hv
                    .run(["nft", "list", "counter", "inet", "t", "covered"])?;
                let mut words = text
                    .split_whitespace()
                    .skip_while(|word| *word != "packets");
                words
                    .nth(1)
                    .context("no counter")?
                    .parse()
                    .context("not a number")
            };
            eventually(SOON, || {
                let before = counted()?;
                ensure!(is_answered(guest.netns(), end.outside, PORT)?, "no answer");
                let passed = counted()? - before;
                ensure!(passed == 2, "{passed} of question and answer met FORWARD");
                Ok(())
            })?;
            answers(guest.netns(), end.other, PORT)?;
            let before = counted()?;
            for _ in 0..5 {
                answers(guest.netns(), end.other, PORT)?;
            }
            let passed = counted()? - before;
            ensure!(
                passed == 0,
                "{passed} packets that no policy covers met FORWARD"
            );
            lab.hv.run(["nft", "flush", "ruleset"])?;
            policy(lab, "flush")?;
        }
        Ok(())
    });
}

/// Who may reach a published port in clear is the policies' to say, too.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_published_port_is_not_reached_in_clear() {
    let network = Network::nat6("default", 1);
    let [guest4, guest6] = [
        network.address(11).to_string(),
        network.address6(11).to_string(),
    ];
    let published = both("", &guest4, PUBLISHED, PORT) + &both("", &guest6, PUBLISHED, PORT);
    with_servers(&network.with(&forwards(&published)), |lab, guest, ends| {
        for end in &ends {
            let _service = Server::udp(guest.netns(), (end.guest, PORT))?;
            let reached = || is_answered(&lab.wan, end.host, PUBLISHED);
            answers(&lab.wan, end.host, PUBLISHED)?;
            let all = if end.guest.is_ipv4() {
                "0.0.0.0/0"
            } else {
                "::/0"
            };
            policy(
                lab,
                &format!(
                    "add src {all} dst {} dir fwd {}",
                    subnet(end),
                    protected(end)
                ),
            )?;
            eventually(SOON, || {
                ensure!(!reached()?, "{} is still reached in clear", end.host);
                Ok(())
            })?;
            policy(lab, "flush")?;
            answers(&lab.wan, end.host, PUBLISHED)?;
        }
        Ok(())
    });
}
