//! IPv6 between guests, host and outside; who may talk to whom stands in `modes`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use netd_tests::lab6::{HOST6, OUTSIDE6, at6, check6};
use netd_tests::packet::{TCP, UDP};
use netd_tests::packet6::{ICMPV6, Ipv6};
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Netns, Network, SOON, Sniffer, eventually};

/// Port of the UDP and the TCP server that every party runs.
const PORT: u16 = 7000;

fn serve(netns: &Netns, address: Ipv6Addr) -> Result<(Server, Server)> {
    Ok((
        Server::udp(netns, at6(address, PORT))?,
        Server::tcp_echo(netns, at6(address, PORT))?,
    ))
}

fn ping(from: &Netns, to: Ipv6Addr) -> Result<()> {
    let ping = ["ping", "-6", "-c1", "-W2", &to.to_string()].map(str::to_owned);
    eventually(SOON, || from.run(ping.iter().map(String::as_str))).map(drop)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn ipv6_guests_of_one_network_and_their_host_talk_in_every_mode() {
    check6(|lab| {
        lab.agent.start()?;
        let _on_uplink = Server::udp(&lab.hv, at6(HOST6, PORT))?;
        for (number, network) in [
            (1, Network::nat6("nat6", 1)),
            (3, Network::route("route", 2).ipv6()),
            (5, Network::isolated("isolated", 3).ipv6()),
            (7, Network::open("open", 4).ipv6()),
        ] {
            lab.up(&network)?;
            let (one, other) = (
                lab.member6(number, &network)?,
                lab.member6(number + 1, &network)?,
            );
            let number = u16::from(number);
            let gateway = network.address6(1);
            let (mine, yours) = (network.address6(10 + number), network.address6(11 + number));
            let _on_bridge = Server::udp(&lab.hv, at6(gateway, PORT))?;
            let _servers = serve(other.netns(), yours)?;
            for (from, source, to) in [
                (one.netns(), mine, yours),
                (one.netns(), mine, gateway),
                // Every service of the host, on every address it has.
                (one.netns(), mine, HOST6),
                // And the host's own way to its guests.
                (&lab.hv, gateway, yours),
            ] {
                let seen = traffic::answered(from, at6(to, PORT))?;
                let plain = seen.ip() == source;
                ensure!(plain, "{}: {source} asks {to}: {seen}", network.name);
                ping(from, to)?;
            }
            traffic::transfer(one.netns(), at6(yours, PORT), 100_000)?;
            traffic::transfer(&lab.hv, at6(yours, PORT), 100_000)?;
        }
        Ok(())
    });
}

/// The capture outside while one guest, number 1, of that network talks to it.
fn watched(network: &Network, test: impl FnOnce(&Lab, &Guest) -> Result<()>) -> Capture {
    let mut capture = Vec::new();
    check6(|lab| {
        lab.agent.start()?;
        lab.up(network)?;
        lab.route6(network)?;
        let guest = lab.member6(1, network)?;
        let sniffer = Sniffer::start6(&lab.wan)?;
        test(lab, &guest)?;
        capture = sniffer.finish()?;
        Ok(())
    });
    capture
}
type Capture = Vec<Ipv6>;

/// How many packets of that protocol came from there.
fn count(packets: &[Ipv6], source: Ipv6Addr, protocol: u8) -> usize {
    let of_it = packets.iter().filter(|packet| packet.source == source);
    of_it.filter(|packet| packet.protocol == protocol).count()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn tcp_udp_and_ping_leave_behind_the_hosts_ipv6_address() {
    let network = Network::nat6("default", 1);
    let packets = watched(&network, |lab, guest| {
        let (_udp, _tcp) = serve(&lab.wan, OUTSIDE6)?;
        guest.ping(&OUTSIDE6.to_string())?;
        for port in [5000, 5001, 65535] {
            let seen = traffic::answered_from(guest.netns(), port, at6(OUTSIDE6, PORT))?;
            let wanted = SocketAddr::from((HOST6, port));
            ensure!(seen == wanted, "{seen}, not {wanted}");
        }
        // Never privileged, and never another guest's.
        let seen = traffic::answered_from(guest.netns(), 700, at6(OUTSIDE6, PORT))?;
        ensure!(seen.port() >= 1024, "from port 700: {seen}");
        let sibling = lab.member6(2, &network)?;
        let seen = traffic::answered_from(sibling.netns(), 5000, at6(OUTSIDE6, PORT))?;
        ensure!(seen.ip() == IpAddr::V6(HOST6), "the sibling: {seen}");
        ensure!(seen.port() != 5000, "two guests have one port");
        sibling.ping(&OUTSIDE6.to_string())?;
        traffic::transfer(guest.netns(), at6(OUTSIDE6, PORT), 1 << 20)?;
        traffic::refused(guest.netns(), at6(OUTSIDE6, PORT + 1)).context("a closed port")
    });
    for protocol in [ICMPV6, UDP, TCP] {
        let seen = count(&packets, HOST6, protocol);
        assert!(seen > 0, "protocol {protocol} was never captured");
    }
    let private = |packet: &&Ipv6| packet.source.segments()[0] == 0xfd00;
    assert_eq!(packets.iter().find(private), None);
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn routed_ipv6_guests_are_reached_from_outside() {
    for network in [Network::route("default", 1), Network::default()] {
        let network = network.ipv6();
        let own = network.address6(11);
        let packets = watched(&network, |lab, guest| {
            let (_udp, _tcp) = serve(&lab.wan, OUTSIDE6)?;
            let _servers = serve(guest.netns(), own)?;
            guest.ping(&OUTSIDE6.to_string())?;
            ping(&lab.wan, own)?;
            traffic::transfer(guest.netns(), at6(OUTSIDE6, PORT), 1 << 20).context("out")?;
            traffic::transfer(&lab.wan, at6(own, PORT), 1 << 20).context("in")?;
            traffic::answered(&lab.wan, at6(own, PORT))?;
            traffic::refused(&lab.wan, at6(own, PORT + 1)).context("a closed port")
        });
        assert!(count(&packets, own, TCP) > 20 && count(&packets, own, ICMPV6) > 0);
        assert_eq!(count(&packets, HOST6, UDP), 0);
    }
}

/// A large datagram to outside, its echo, and one from outside for the answer's port.
fn large_datagrams(lab: &Lab, guest: &Guest) -> Result<()> {
    let _server = Server::udp(&lab.wan, at6(OUTSIDE6, PORT))?;
    let outside = lab.wan.udp(at6(OUTSIDE6, PORT + 1))?;
    let inside = guest.netns().udp("[::]:5000")?;
    let mut buffer = vec![0; 65_536];
    // The first packet of a flow, and later ones.
    for round in 0..3_u8 {
        let data: Vec<u8> = (0..8000_u32).map(|at| (at >> 3) as u8 ^ round).collect();
        inside.send_to(&data, at6(OUTSIDE6, PORT))?;
        let (length, _) = inside
            .recv_from(&mut buffer)
            .with_context(|| format!("the echo of round {round}"))?;
        ensure!(buffer[..length] == data, "round {round}: another content");
        inside.send_to(&data, at6(OUTSIDE6, PORT + 1))?;
        let (length, peer) = outside
            .recv_from(&mut buffer)
            .with_context(|| format!("round {round} outside"))?;
        ensure!(buffer[..length] == data, "round {round}: another content");
        outside.send_to(&data[..5000], peer)?;
        let (length, _) = inside
            .recv_from(&mut buffer)
            .with_context(|| format!("the answer of round {round}"))?;
        ensure!(buffer[..length] == data[..5000], "round {round}: answer");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p25_large_ipv6_datagrams_pass_in_fragments_both_ways() {
    let own = Network::nat6("default", 1).address6(11);
    for (network, source) in [
        (Network::nat6("default", 1), HOST6),
        (Network::route("default", 1).ipv6(), own),
    ] {
        let packets = watched(&network, large_datagrams);
        for from in [source, OUTSIDE6] {
            let of_it = packets.iter().filter(|packet| packet.source == from);
            let fragments = of_it.filter(|packet| packet.fragment.is_some()).count();
            // 3 rounds of two datagrams, of 4 fragments at least.
            assert!(fragments >= 24, "only {fragments} fragments from {from}");
        }
    }
}
