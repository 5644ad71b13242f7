//! IPv6 on its way: path MTU, hop limits and neighbours.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab6::{FAR6, HOST6, OUTSIDE6, at6, check_guest6};
use netd_tests::packet::UDP;
use netd_tests::packet6::Ipv6;
use netd_tests::traffic::{self, Load, Server};
use netd_tests::{Losses, Network, SOON, Sniffer, eventually};

const PORT: u16 = 7000;
const TOO_BIG: (u8, u8) = (2, 0);

fn own() -> Ipv6Addr {
    Network::nat6("default", 1).address6(11)
}

fn gateway() -> Ipv6Addr {
    Network::nat6("default", 1).address6(1)
}

/// The ICMPv6 errors of that kind in a capture, each with its quote; checksums must be right.
fn errors(packets: &[Ipv6], kind: (u8, u8)) -> Result<Vec<(Ipv6, Ipv6)>> {
    let of_kind = packets.iter().filter(|packet| packet.icmp() == Some(kind));
    of_kind
        .map(|packet| {
            ensure!(packet.checksum_is_right(), "checksum: {packet:?}");
            let quoted = packet.quoted().context("an error quotes nothing")?;
            Ok((packet.clone(), quoted))
        })
        .collect()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p17_an_ipv6_guest_learns_of_a_narrow_link() {
    for network in [
        Network::nat6("default", 1),
        Network::route("default", 1).ipv6(),
    ] {
        check_guest6(&network, |lab, guest| {
            let far = lab.far6(1300)?;
            let _tcp = Server::tcp_echo(&far, at6(FAR6, PORT))?;
            let sniffer = Sniffer::start6(guest.netns())?;
            traffic::transfer(guest.netns(), at6(FAR6, PORT), 1 << 20)?;
            let route = ["ip", "route", "get", &FAR6.to_string()].map(str::to_owned);
            let route = guest.netns().run(route.iter().map(String::as_str))?;
            ensure!(route.contains("mtu 1300"), "the guest knows {route}");
            let complaints = errors(&sniffer.finish()?, TOO_BIG)?;
            ensure!(!complaints.is_empty(), "no router complained");
            for (complaint, quoted) in complaints {
                ensure!(
                    complaint.source == OUTSIDE6 && complaint.destination == own(),
                    "{complaint:?}"
                );
                ensure!(complaint.payload[4..8] == 1300_u32.to_be_bytes(), "the MTU");
                // As the guest sent it, ports included.
                ensure!(
                    quoted.source == own() && quoted.destination == FAR6,
                    "{quoted:?}"
                );
                ensure!(quoted.destination_port() == Some(PORT), "{quoted:?}");
            }
            Ok(())
        });
    }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p33_an_ipv6_guest_is_told_that_the_uplink_takes_less() {
    check_guest6(&Network::nat6("default", 1), |lab, guest| {
        // A sniffer is to see whole checksums.
        guest.netns().run(["ethtool", "-K", "eth0", "tx", "off"])?;
        let _tcp = Server::tcp_echo(&lab.wan, at6(OUTSIDE6, PORT))?;
        lab.hv.run(["ip", "link", "set", "uplink", "mtu", "1300"])?;
        // The outside sends no more than the cable takes, but does not say so: the guest is to be told by
        // the host.
        let wan = |words: &str| lab.wan.run(words.split(' '));
        wan("ip link set wan0 mtu 1300")?;
        wan(&format!(
            "ip -6 route replace {HOST6}/128 dev wan0 metric 1 advmss 1440"
        ))?;
        std::thread::sleep(Duration::from_millis(500));
        let sniffer = Sniffer::start6(guest.netns())?;
        let outcome = traffic::transfer(guest.netns(), at6(OUTSIDE6, PORT), 1 << 20);
        lab.hv.run(["ip", "link", "set", "uplink", "mtu", "1500"])?;
        outcome?;
        let complaints = errors(&sniffer.finish()?, TOO_BIG)?;
        ensure!(!complaints.is_empty(), "the host did not complain");
        for (complaint, quoted) in complaints {
            ensure!(complaint.source == gateway(), "{complaint:?}");
            ensure!(quoted.source == own(), "{quoted:?}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p18_traceroute_shows_every_ipv6_hop() {
    for network in [
        Network::nat6("default", 1),
        Network::route("default", 1).ipv6(),
    ] {
        check_guest6(&network, |lab, guest| {
            let far = lab.far6(1500)?;
            let _tcp = Server::tcp_echo(&far, at6(FAR6, PORT))?;
            let hops = [gateway(), OUTSIDE6, FAR6].map(|hop| hop.to_string());
            let (far, port) = (FAR6.to_string(), PORT.to_string());
            for method in [[].as_slice(), &["-I"], &["-T", "-p", &port]] {
                // Who answers late on a busy machine has not answered.
                eventually(SOON, || {
                    let command = ["traceroute", "-6", "-n", "-q", "2", "-w", "2"].into_iter();
                    let command = command.chain(method.iter().copied()).chain([far.as_str()]);
                    let text = guest.netns().run(command)?;
                    let lines = text.lines().skip(1);
                    let seen: Vec<_> = lines
                        .filter_map(|line| line.split_whitespace().nth(1))
                        .collect();
                    ensure!(
                        seen == hops && !text.contains('*'),
                        "traceroute {method:?}:\n{text}"
                    );
                    Ok(())
                })?;
            }
            Ok(())
        });
    }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p34_an_ipv6_packet_loses_one_hop() {
    check_guest6(&Network::nat6("default", 1), |lab, guest| {
        let _server = Server::udp(&lab.wan, at6(OUTSIDE6, PORT))?;
        let (at_wan, at_guest) = (Sniffer::start6(&lab.wan)?, Sniffer::start6(guest.netns())?);
        for _ in 0..3 {
            traffic::answered_from(guest.netns(), 5000, at6(OUTSIDE6, PORT))?;
        }
        for (packets, source) in [(at_wan.finish()?, HOST6), (at_guest.finish()?, OUTSIDE6)] {
            let of_it = packets.iter().filter(|packet| packet.source == source);
            let hops: Vec<_> = of_it
                .filter(|packet| packet.protocol == UDP)
                .map(|packet| packet.hop_limit)
                .collect();
            // A question may have been asked again.
            let right = hops.len() >= 3 && hops.iter().all(|hop| *hop == 63);
            ensure!(right, "from {source}: {hops:?}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p54_ipv6_flows_go_on_while_neighbours_are_forgotten() {
    for network in [
        Network::nat6("default", 1),
        Network::route("default", 1).ipv6(),
    ] {
        check_guest6(&network, |lab, guest| {
            let _udp = Server::udp(&lab.wan, at6(OUTSIDE6, PORT))?;
            let _tcp = Server::tcp_echo(&lab.wan, at6(OUTSIDE6, PORT))?;
            let all = [&lab.hv, &lab.wan, guest.netns()];
            for (netns, device) in [(0, "virbr1"), (0, "uplink"), (1, "wan0"), (2, "eth0")] {
                all[netns].wait_for_neighbours(device)?;
            }
            let before = Losses::look(&all)?;
            // The host's own traffic goes on as well.
            let loads = [
                Load::udp(guest.netns(), at6(OUTSIDE6, PORT))?,
                Load::tcp(guest.netns(), at6(OUTSIDE6, PORT))?,
                Load::udp(&lab.hv, at6(OUTSIDE6, PORT))?,
                Load::tcp(&lab.hv, at6(OUTSIDE6, PORT))?,
            ];
            for _ in 0..5 {
                guest.netns().forget_neighbours("eth0")?;
                lab.hv.forget_neighbours("virbr1")?;
                lab.hv.forget_neighbours("uplink")?;
                lab.wan.forget_neighbours("wan0")?;
                std::thread::sleep(Duration::from_millis(300));
            }
            for load in &loads {
                load.reach(201)?;
            }
            for load in loads {
                before.account_for(&load.finish()?, &all)?;
            }
            Ok(())
        });
    }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p42_duplicate_addresses_of_guests_are_detected() {
    check_guest6(&Network::nat6("default", 1), |lab, _| {
        let other = lab.member6(2, &Network::nat6("default", 1))?;
        let netns = other.netns();
        netns.sysctl("net/ipv6/conf/eth0/accept_dad", "1")?;
        let add = |address: Ipv6Addr| netns.address("eth0", &format!("{address}/64"));
        let shown = || netns.run(["ip", "-6", "addr", "show", "dev", "eth0"]);
        for taken in [own(), gateway()] {
            add(taken)?;
            eventually(SOON, || {
                let shown = shown()?;
                ensure!(shown.contains("dadfailed"), "{taken} is taken:\n{shown}");
                Ok(())
            })?;
            netns.run(["ip", "addr", "del", &format!("{taken}/64"), "dev", "eth0"])?;
        }
        let free = Network::nat6("default", 1).address6(77);
        add(free)?;
        eventually(SOON, || {
            let shown = shown()?;
            let line = shown.lines().find(|line| line.contains(&free.to_string()));
            let line = line.context("the address is not there")?;
            ensure!(
                !line.contains("tentative") && !line.contains("dadfailed"),
                "{line}"
            );
            Ok(())
        })?;
        let from = ["ping", "-6", "-c1", "-W2", "-I"].into_iter();
        let (free, outside) = (free.to_string(), OUTSIDE6.to_string());
        let ping: Vec<&str> = from.chain([free.as_str(), outside.as_str()]).collect();
        eventually(SOON, || netns.run(ping.iter().copied())).map(drop)
    });
}
