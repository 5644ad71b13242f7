//! Who may talk to whom: the truth table of the forward modes.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Guest, Lab, Netns, Network, Sniffer};

/// Port of the UDP and the TCP server that every party runs.
const PORT: u16 = 7000;

/// What is to happen between two parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Delivered, with the sender's own address.
    Plain,
    /// Delivered, with the host's address on the way out.
    Translated,
    /// Refused by ICMP, and nothing was delivered.
    Refused,
}
use Expected::{Plain, Refused, Translated};

/// One party of the table.
struct Party<'a> {
    name: &'a str,
    address: Ipv4Addr,
    /// What a translated packet has for a source when it goes to this party.
    host_address: Ipv4Addr,
    netns: &'a Netns,
    udp: Server,
    tcp: Server,
}

/// The networks of the table, one guest in each.
fn networks() -> Vec<Network> {
    vec![
        Network::nat("nat", 1),
        Network::nat("nat-dev", 2).forward("<forward mode='nat' dev='uplink'/>"),
        Network::route("route", 3),
        Network::route("route-dev", 4).forward("<forward mode='route' dev='uplink'/>"),
        Network::isolated("isolated", 5),
        Network::open("open", 6),
        Network::isolated("isolated-2", 7),
        Network::nat("nat-2", 8),
    ]
}

/// The table: libvirt's, except that what leaves an isolated network, or one with `dev`, for
/// another network is refused at once, where libvirt lets the way there pass and refuses replies.
fn expected(from: &str, to: &str) -> Expected {
    match (from, to) {
        ("isolated" | "isolated-2", _) | (_, "isolated" | "isolated-2") => Refused,
        (_, "nat" | "nat-2" | "nat-dev") => Refused,
        ("nat" | "nat-2" | "nat-dev", "outside") => Translated,
        ("route" | "route-dev" | "open", "outside") => Plain,
        ("outside", "route" | "route-dev" | "open") => Plain,
        ("nat-dev" | "route-dev", _) | (_, "route-dev") => Refused,
        ("nat" | "nat-2", "route" | "open") => Translated,
        ("route", "open") | ("open", "route") => Plain,
        _ => unreachable!("{from} to {to} is not in the table"),
    }
}

fn serve(netns: &Netns, address: Ipv4Addr) -> Result<(Server, Server)> {
    Ok((
        Server::udp(netns, at(address, PORT))?,
        Server::tcp_echo(netns, at(address, PORT))?,
    ))
}

/// Starts the networks, each with one guest.
fn populate(lab: &Lab) -> Result<Vec<(Network, Guest)>> {
    let mut members = Vec::new();
    for (number, network) in (1..).zip(networks()) {
        lab.up(&network)?;
        let guest = lab.member(number, &network)?;
        lab.wan.run([
            "ip",
            "route",
            "add",
            &network.subnet(),
            "via",
            &HOST.to_string(),
        ])?;
        guest.ping(&network.gateway().to_string())?;
        members.push((network, guest));
    }
    Ok(members)
}

/// Everybody who takes part, with servers running.
fn parties<'a>(lab: &'a Lab, members: &'a [(Network, Guest)]) -> Result<Vec<Party<'a>>> {
    let mut parties = Vec::new();
    for (number, (network, guest)) in (1..).zip(members) {
        let address = network.address(10 + number);
        let (udp, tcp) = serve(guest.netns(), address)?;
        parties.push(Party {
            name: &network.name,
            address,
            host_address: network.gateway(),
            netns: guest.netns(),
            udp,
            tcp,
        });
    }
    let (udp, tcp) = serve(&lab.wan, OUTSIDE)?;
    parties.push(Party {
        name: "outside",
        address: OUTSIDE,
        host_address: HOST,
        netns: &lab.wan,
        udp,
        tcp,
    });
    Ok(parties)
}

/// Both protocols from one party to another: what happened, or why that cannot be said.
fn probe(from: &Party, to: &Party) -> Result<Expected> {
    let (udp_before, tcp_before) = (to.udp.received(), to.tcp.received());
    let udp = match traffic::ask_udp(from.netns, at(to.address, PORT))? {
        Verdict::Answered(seen) if seen.ip() == from.address => Plain,
        Verdict::Answered(seen) if seen.ip() == to.host_address => Translated,
        Verdict::Answered(seen) => bail!("a datagram came from {seen}"),
        Verdict::Refused => Refused,
        Verdict::Unreachable | Verdict::Silent => bail!("UDP was neither answered nor refused"),
    };
    let limit = Duration::from_secs(3);
    let target = at(to.address, PORT).into();
    let tcp = from
        .netns
        .enter(|| TcpStream::connect_timeout(&target, limit))?;
    match (udp, tcp) {
        (Refused, Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            std::thread::sleep(Duration::from_millis(10));
            ensure!(
                to.udp.received() == udp_before,
                "UDP was refused but delivered"
            );
            ensure!(
                to.tcp.received() == tcp_before,
                "TCP was refused but delivered"
            );
        }
        (Plain | Translated, Ok(_)) => {}
        (udp, tcp) => bail!("UDP: {udp:?}, but TCP: {tcp:?}"),
    }
    Ok(udp)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_truth_table_holds_between_networks_and_to_the_outside() {
    check(|lab| {
        lab.agent.start()?;
        let members = populate(lab)?;
        let sniffer = Sniffer::start(&lab.wan)?;
        let parties = parties(lab, &members)?;
        let mut wrong = String::new();
        let mut compare = |from: &Party, to: &Party| {
            let (is, should) = (probe(from, to), expected(from.name, to.name));
            if !matches!(&is, Ok(is) if *is == should) {
                wrong += &format!("{} -> {}: {is:?}, not {should:?}\n", from.name, to.name);
            }
        };
        for from in &parties {
            for to in parties.iter().filter(|to| to.name != from.name) {
                // Two networks of one kind say nothing that the first one does not.
                if !(from.name.ends_with("-2") && to.name != from.name.trim_end_matches("-2")) {
                    compare(from, to);
                }
            }
        }
        ensure!(wrong.is_empty(), "{wrong}");
        let leaked: Vec<_> = sniffer
            .finish()?
            .into_iter()
            .filter(|packet| {
                let network = packet.source.octets();
                network[..2] == [10, 10] && ![3, 4, 6].contains(&network[2])
            })
            .collect();
        ensure!(leaked.is_empty(), "private sources outside: {leaked:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_of_one_network_and_their_host_talk_in_every_mode() {
    check(|lab| {
        lab.agent.start()?;
        let _on_uplink = Server::udp(&lab.hv, at(HOST, PORT))?;
        for (number, network) in [
            (1, Network::nat("nat", 1)),
            (3, Network::route("route", 2)),
            (5, Network::isolated("isolated", 3)),
            (7, Network::open("open", 4)),
        ] {
            lab.up(&network)?;
            let one = lab.member(number, &network)?;
            let other = lab.member(number + 1, &network)?;
            let (mine, yours) = (network.address(10 + number), network.address(11 + number));
            let _on_bridge = Server::udp(&lab.hv, at(network.gateway(), PORT))?;
            let _server = Server::udp(other.netns(), at(yours, PORT))?;
            expect_plain(one.netns(), mine, yours)?;
            // Every service of the host, on every address it has.
            expect_plain(one.netns(), mine, network.gateway())?;
            expect_plain(one.netns(), mine, HOST)?;
            // And the host's own way to its guests.
            expect_plain(&lab.hv, network.gateway(), yours)?;
            one.ping(&yours.to_string())?;
        }
        Ok(())
    });
}

fn expect_plain(from: &Netns, source: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
    match traffic::ask_udp(from, at(to, PORT))? {
        Verdict::Answered(seen) if seen.ip() == IpAddr::V4(source) => Ok(()),
        other => bail!("{source} asks {to}: {other:?}"),
    }
}

/// Has a guest send from an address that is not of its network.
fn spoof(guest: &Guest, source: &str, gateway: Ipv4Addr) -> Result<()> {
    let netns = guest.netns();
    netns.run(["ip", "addr", "add", source, "dev", "eth0"])?;
    let source = source.trim_end_matches("/32");
    let gateway = gateway.to_string();
    netns.run([
        "ip", "route", "replace", "default", "via", &gateway, "dev", "eth0", "src", source,
    ])?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_source_that_is_not_of_the_network_does_not_leave() {
    check(|lab| {
        lab.agent.start()?;
        for (number, network) in [
            (1, Network::nat("nat", 1)),
            (2, Network::route("route", 2)),
            (3, Network::isolated("isolated", 3)),
        ] {
            lab.up(&network)?;
            let guest = lab.member(number, &network)?;
            guest.ping(&network.gateway().to_string())?;
            let server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
            let sniffer = Sniffer::start(&lab.wan)?;
            let spoofed = format!("10.99.0.{number}");
            spoof(&guest, &format!("{spoofed}/32"), network.gateway())?;
            lab.hv
                .run(["ip", "route", "add", &spoofed, "dev", &network.bridge()])?;
            let verdict = traffic::ask_udp(guest.netns(), at(OUTSIDE, PORT))?;
            lab.hv
                .run(["ip", "route", "del", &spoofed, "dev", &network.bridge()])?;
            ensure!(
                !matches!(verdict, Verdict::Answered(_)),
                "{}: {verdict:?}",
                network.name
            );
            ensure!(server.received() == 0, "{}: delivered", network.name);
            let seen = sniffer.finish()?;
            let spoofed: Ipv4Addr = spoofed.parse()?;
            ensure!(
                seen.iter().all(|packet| packet.source != spoofed),
                "{seen:?}"
            );
        }
        Ok(())
    });
}
