//! Published ports: who reaches them, from where, and as whom.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::lab6::{HOST6, OUTSIDE6, check6};
use netd_tests::published::{Service, forward, forwards, range, reached, seen};
use netd_tests::socket::Receive as _;
use netd_tests::traffic::{self, Load, Server};
use netd_tests::{Guest, Lab, Losses, Netns, Network, SOON, eventually};

/// The guest's ports.
const SINGLE: u16 = 80;
const RANGE: u16 = 7000;
/// Where they are published.
const PUBLIC: u16 = 8080;
const FIRST: u16 = 9000;
const LAST: u16 = 9010;
const EXCLUDED: u16 = 9005;

/// Forwards of a single port and of a range, of both protocols.
fn everything(guest: &str) -> String {
    let ranges = range(PUBLIC, PUBLIC, SINGLE)
        + &range(FIRST, LAST, RANGE)
        + &format!("<netd:range start='{EXCLUDED}' exclude='yes'/>");
    forward("tcp", "", guest, &ranges) + &forward("udp", "", guest, &ranges)
}

/// A guest's services, by port.
type Services = BTreeMap<u16, Service>;

/// Services behind the single port, the range's ends, and wherever a port that is not published
/// would lead.
fn serve_all(guest: &Guest, address: IpAddr) -> Result<Services> {
    let end = RANGE + (LAST - FIRST);
    let leaks = [SINGLE + 1, RANGE - 1, end + 1, RANGE + (EXCLUDED - FIRST)];
    [SINGLE, RANGE, end]
        .into_iter()
        .chain(leaks)
        .map(|port| {
            let service = Service::start(guest.netns(), SocketAddr::new(address, port))?;
            Ok((port, service))
        })
        .collect()
}

/// How often each port of the guest was asked.
fn asked(services: &Services, proto: &str) -> BTreeMap<u16, u64> {
    services
        .iter()
        .map(|(port, service)| (*port, service.received(proto)))
        .collect()
}

/// One who asks: name, namespace, whom the guest sees, at which address.
type Asker<'a> = (&'a str, &'a Netns, IpAddr, IpAddr);

fn ask_all(askers: &[Asker<'_>], services: &Services) -> Result<()> {
    for (name, netns, source, address) in askers {
        for proto in ["tcp", "udp"] {
            for (port, inside) in [
                (PUBLIC, SINGLE),
                (FIRST, RANGE),
                (LAST, RANGE + (LAST - FIRST)),
            ] {
                let to = SocketAddr::new(*address, port);
                let mut before = asked(services, proto);
                let who = reached(netns, proto, to).with_context(|| format!("{name}, {proto}"))?;
                ensure!(who == *source, "{name}, {proto} {to}: {who}, not {source}");
                let mut after = asked(services, proto);
                // The first datagram may have been asked for again.
                ensure!(
                    after.remove(&inside) > before.remove(&inside) && after == before,
                    "{name}, {proto} {to} is not the guest's {inside}"
                );
            }
            for port in [EXCLUDED, PUBLIC + 1, FIRST - 1, LAST + 1] {
                let to = SocketAddr::new(*address, port);
                let who = seen(netns, proto, to)?;
                ensure!(
                    who.is_none(),
                    "{name}, {proto} {to} reaches the guest: {who:?}"
                );
            }
        }
    }
    Ok(())
}

/// Another outside host, at another device of the hypervisor's.
fn second_nic(lab: &Lab) -> Result<Netns> {
    let lan = Netns::new("lan")?;
    lab.hv.veth("lan", &lan, "lan0")?;
    lab.hv.address("lan", "192.0.2.1/24")?;
    lan.address("lan0", "192.0.2.9/24")?;
    lab.hv.address("lan", "2001:db8:9::1/64")?;
    lan.address("lan0", "2001:db8:9::9/64")?;
    for netns in [(&lab.hv, "lan"), (&lan, "lan0")] {
        netns.0.wait_for_addresses(netns.1)?;
    }
    let via = ["ip", "route", "add", "default", "via", "192.0.2.1"];
    lan.run(via)?;
    Ok(lan)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p35_p62_published_ports_are_reached_from_everywhere() {
    check6(|lab| {
        lab.agent.start()?;
        let lan = second_nic(lab)?;
        let network = Network::default().ipv6().with(&forwards(
            &(everything("10.10.1.11") + &everything("fd00:10:1::b")),
        ));
        lab.up(&network)?;
        let target = lab.member6(1, &network)?;
        let sibling = lab.member6(2, &network)?;
        let services = serve_all(&target, Ipv4Addr::UNSPECIFIED.into())?;
        let services6 = serve_all(&target, network.address6(11).into())?;
        let others: Vec<Network> = vec![
            Network::nat("nat", 3).ipv6(),
            Network::route("route", 4).ipv6(),
            Network::isolated("isolated", 5).ipv6(),
            Network::open("open", 6).ipv6(),
        ];
        let mut guests = Vec::new();
        for (number, other) in (3..).zip(&others) {
            lab.up(other)?;
            guests.push(lab.member6(number, other)?);
        }
        let (host, gateway) = (IpAddr::from(HOST), IpAddr::from(network.gateway()));
        let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut askers: Vec<Asker<'_>> = vec![
            ("outside", &lab.wan, OUTSIDE.into(), host),
            ("second NIC", &lan, Ipv4Addr::new(192, 0, 2, 9).into(), host),
            (
                "second NIC, its address",
                &lan,
                Ipv4Addr::new(192, 0, 2, 9).into(),
                Ipv4Addr::new(192, 0, 2, 1).into(),
            ),
            ("host", &lab.hv, gateway, host),
            ("host by 127.0.0.1", &lab.hv, gateway, localhost),
            ("sibling", sibling.netns(), gateway, host),
            ("sibling by the gateway", sibling.netns(), gateway, gateway),
            ("target", target.netns(), gateway, host),
        ];
        for ((number, other), guest) in (3u8..).zip(&others).zip(&guests) {
            let own = IpAddr::from(other.address(10 + number));
            askers.push((&other.name, guest.netns(), own, host));
        }
        ask_all(&askers, &services)?;
        let (host, gateway) = (IpAddr::from(HOST6), IpAddr::from(network.address6(1)));
        let localhost = IpAddr::from(Ipv6Addr::LOCALHOST);
        let mut askers: Vec<Asker<'_>> = vec![
            ("outside", &lab.wan, OUTSIDE6.into(), host),
            (
                "second NIC",
                &lan,
                "2001:db8:9::9".parse()?,
                "2001:db8:9::1".parse()?,
            ),
            ("host", &lab.hv, gateway, host),
            ("host by ::1", &lab.hv, gateway, localhost),
            ("sibling", sibling.netns(), gateway, host),
            ("target", target.netns(), gateway, host),
        ];
        for ((number, other), guest) in (3u16..).zip(&others).zip(&guests) {
            let own = IpAddr::from(other.address6(10 + number));
            askers.push((&other.name, guest.netns(), own, host));
        }
        ask_all(&askers, &services6)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p36_p38_a_port_may_belong_to_one_address() {
    check(|lab| {
        lab.agent.start()?;
        lab.hv.address("uplink", "198.51.100.3/24")?;
        let one =
            |scope: &str, guest: &str| forward("udp", scope, guest, &range(PUBLIC, PUBLIC, SINGLE));
        let network = Network::default().with(&forwards(
            &(one("address='198.51.100.2'", "10.10.1.11")
                + &one("address='198.51.100.3'", "10.10.1.12")
                + &forward(
                    "udp",
                    "address='127.0.0.1'",
                    "10.10.1.11",
                    &range(81, 81, SINGLE),
                )),
        ));
        lab.up(&network)?;
        let guests = [lab.member(1, &network)?, lab.member(2, &network)?];
        let services: Vec<Server> = guests
            .iter()
            .map(|guest| Server::udp(guest.netns(), at(Ipv4Addr::UNSPECIFIED, SINGLE)))
            .collect::<Result<_>>()?;
        let second = Ipv4Addr::new(198, 51, 100, 3);
        for (address, guest) in [(HOST, 0), (second, 1)] {
            let before = services[guest].received();
            let who = reached(&lab.wan, "udp", at(address, PUBLIC))?;
            ensure!(who == OUTSIDE, "{address}: {who}");
            ensure!(
                services[guest].received() > before,
                "{address}: the wrong guest"
            );
        }
        // At loopback for the host alone.
        let who = reached(&lab.hv, "udp", at(Ipv4Addr::LOCALHOST, 81))?;
        ensure!(who == network.gateway(), "{who}");
        for netns in [&lab.wan, guests[1].netns()] {
            let who = seen(netns, "udp", at(HOST, 81))?;
            ensure!(
                who.is_none(),
                "a port at loopback is reached from elsewhere: {who:?}"
            );
        }
        // One goes, the other stays.
        let delete = "forward delete default udp 8080 --address 198.51.100.2";
        lab.agent.ok(delete.split(' '))?;
        ensure!(
            seen(&lab.wan, "udp", at(HOST, PUBLIC))?.is_none(),
            "deleted, and there"
        );
        let who = reached(&lab.wan, "udp", at(second, PUBLIC))?;
        ensure!(who == OUTSIDE, "{who}");
        lab.hv
            .run(["ip", "addr", "del", "198.51.100.3/24", "dev", "uplink"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p40_p41_modes_publish_and_keep_their_policy() {
    check(|lab| {
        lab.agent.start()?;
        for (number, network) in [
            (1, Network::isolated("isolated", 1)),
            (2, Network::route("route", 2)),
            (3, Network::nat("nat", 3)),
        ] {
            let guest = network.address(10 + number).to_string();
            let public = PUBLIC + u16::from(number);
            let network = network.with(&forwards(&forward(
                "tcp",
                "",
                &guest,
                &range(public, public, SINGLE),
            )));
            lab.up(&network)?;
        }
        let guests: Vec<Guest> = [
            Network::isolated("", 1),
            Network::route("", 2),
            Network::nat("", 3),
        ]
        .iter()
        .zip(1..)
        .map(|(network, number)| lab.member(number, network))
        .collect::<Result<_>>()?;
        let mut services = Vec::new();
        for guest in &guests {
            services.push(Service::start(
                guest.netns(),
                at(Ipv4Addr::UNSPECIFIED, SINGLE),
            )?);
        }
        for number in 1..=3u8 {
            let to = at(HOST, PUBLIC + u16::from(number));
            let who = reached(&lab.wan, "tcp", to)?;
            ensure!(who == OUTSIDE, "{number}: {who}");
        }
        // B's forward shows A's address; B's private address is nobody's business.
        let own = IpAddr::from(Ipv4Addr::new(10, 10, 1, 11));
        let who = reached(guests[0].netns(), "tcp", at(HOST, PUBLIC + 3))?;
        ensure!(who == own, "{who}");
        let private = at(Ipv4Addr::new(10, 10, 3, 13), SINGLE);
        ensure!(
            seen(guests[0].netns(), "tcp", private)?.is_none(),
            "past the policy"
        );
        // The isolated guest reaches nothing outside by itself.
        let _outside = Server::udp(&lab.wan, at(OUTSIDE, 7000))?;
        traffic::refused(guests[0].netns(), at(OUTSIDE, 7000))
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p37_p08_other_traffic_is_untouched() {
    check(|lab| {
        lab.agent.start()?;
        let ranges = range(PUBLIC, PUBLIC, SINGLE) + &range(53, 53, SINGLE);
        let known = "<dns><host ip='10.10.1.77'><hostname>known</hostname></host></dns>";
        let network = Network::default()
            .dns()
            .with(known)
            .with(&forwards(&forward("udp", "", "10.10.1.11", &ranges)));
        lab.up(&network)?;
        let target = lab.member(1, &network)?;
        let other = lab.member(2, &network)?;
        let inside = Server::udp(target.netns(), at(Ipv4Addr::UNSPECIFIED, SINGLE))?;
        // Another host's port of that number.
        let _outside = Server::udp(&lab.wan, at(OUTSIDE, PUBLIC))?;
        let who = reached(other.netns(), "udp", at(OUTSIDE, PUBLIC))?;
        ensure!(who == HOST, "{who}");
        // A guest's own port that is published is not what it leaves with.
        let who = traffic::answered_from(other.netns(), PUBLIC, at(OUTSIDE, PUBLIC))?;
        ensure!(who.port() != PUBLIC, "{who}");
        ensure!(inside.received() == 0, "the target got what was not for it");
        // The gateway's DNS is the network's own.
        let known = other.resolve("known", network.gateway())?;
        ensure!(known == network.address(77), "{known}");
        ensure!(inside.received() == 0, "the gateway's DNS is gone");
        let who = reached(&lab.wan, "udp", at(HOST, 53))?;
        ensure!(who == OUTSIDE, "{who}");
        // A service at loopback keeps its clients, and a socket its answers.
        let local = Server::udp(&lab.hv, at(Ipv4Addr::LOCALHOST, PUBLIC))?;
        let who = reached(&lab.hv, "udp", at(Ipv4Addr::LOCALHOST, PUBLIC))?;
        ensure!(who == Ipv4Addr::LOCALHOST, "{who}");
        ensure!(local.received() > 0, "it was not asked");
        let socket = lab.hv.udp(at(HOST, PUBLIC))?;
        socket.send_to(b"who am I?", at(OUTSIDE, PUBLIC))?;
        let (length, from) = socket.receive_from(&mut [0; 64])?;
        ensure!(length > 0 && from == at(OUTSIDE, PUBLIC).into(), "{from}");
        Ok(())
    });
}

/// All that reaches an address that no device has.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_whole_address_is_a_guests() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().with(&forwards(&forward(
            "all",
            "address='198.51.100.40'",
            "10.10.1.11",
            "",
        )));
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let address = Ipv4Addr::new(198, 51, 100, 40);
        let _services = Service::start(guest.netns(), at(Ipv4Addr::UNSPECIFIED, 4000))?;
        for proto in ["tcp", "udp"] {
            let who = reached(&lab.wan, proto, at(address, 4000))?;
            ensure!(who == OUTSIDE, "{proto}: {who}");
        }
        let address = address.to_string();
        eventually(SOON, || {
            lab.wan.run(["busybox", "ping", "-c1", "-W3", &address])
        })?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p39_a_stream_follows_its_forward_and_others_notice_nothing() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let guests = [lab.member(1, &network)?, lab.member(2, &network)?];
        for guest in &guests {
            // A bridge that has just got its port may lose the first packet, and each one counts.
            guest.ping(&network.gateway().to_string())?;
        }
        let services: Vec<Server> = guests
            .iter()
            .map(|guest| Server::udp(guest.netns(), at(Ipv4Addr::UNSPECIFIED, SINGLE)))
            .collect::<Result<_>>()?;
        let _echo = Server::tcp_echo(guests[0].netns(), at(Ipv4Addr::UNSPECIFIED, 81))?;
        let run = |words: &str| lab.agent.ok(words.split(' '));
        run("forward add default udp 8080 10.10.1.11:80")?;
        run("forward add default tcp 8081 10.10.1.11:81")?;
        let untouched: Vec<Load> = (0..20)
            .map(|_| Load::tcp(&lab.wan, at(HOST, 8081)))
            .collect::<Result<_>>()?;
        let socket = lab.wan.udp(at(OUTSIDE, 0))?;
        socket.connect(at(HOST, 8080))?;
        let ask = || -> Result<()> {
            socket.send(b"?")?;
            socket.receive(&mut [0; 8])?;
            Ok(())
        };
        ask()?;
        ensure!(
            services[0].received() == 1 && services[1].received() == 0,
            "the first target"
        );
        for round in 0..10 {
            run("forward delete default udp 8080")?;
            let (new, old) = if round % 2 == 0 { (1, 0) } else { (0, 1) };
            run(&format!(
                "forward add default udp 8080 10.10.1.1{}:80",
                new + 1
            ))?;
            let before = services[old].received();
            ask()?;
            ensure!(
                services[old].received() == before,
                "round {round}: the old target"
            );
            run(&format!(
                "forward add default tcp {} 10.10.1.12:80",
                20_000 + round
            ))?;
        }
        for load in untouched {
            load.reach(11)?;
            let report = load.finish()?;
            ensure!(report.lost.is_empty(), "{report:?}");
        }
        let table = run("forward list default")?;
        ensure!(table.contains("8081") && table.contains("20009"), "{table}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p49_forwards_outlive_the_agent() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().with(&forwards(&everything("10.10.1.11")));
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let services = serve_all(&guest, Ipv4Addr::UNSPECIFIED.into())?;
        // The load has a port of its own beside those that are counted.
        let _answer = Server::udp(guest.netns(), at(Ipv4Addr::UNSPECIFIED, RANGE + 1))?;
        let before = Losses::look(&[&lab.hv, &lab.wan, guest.netns()])?;
        let load = Load::udp(&lab.wan, at(HOST, FIRST + 1))?;
        let gateway = IpAddr::from(network.gateway());
        let all = |lab: &Lab| -> Result<()> {
            let host = IpAddr::from(HOST);
            ask_all(
                &[
                    ("outside", &lab.wan, OUTSIDE.into(), host),
                    ("host", &lab.hv, gateway, host),
                    ("target", guest.netns(), gateway, host),
                ],
                &services,
            )
        };
        all(lab)?;
        lab.agent.kill()?;
        all(lab)?;
        lab.agent.start()?;
        all(lab)?;
        lab.agent.stop()?;
        lab.agent.start()?;
        before.account_for(&load.finish()?, &[&lab.hv, &lab.wan, guest.netns()])?;
        lab.agent.ok(["net-destroy", "default"])?;
        for netns in [&lab.wan, &lab.hv] {
            let who = seen(netns, "udp", at(HOST, PUBLIC))?;
            ensure!(who.is_none(), "still published: {who:?}");
        }
        Ok(())
    });
}

/// A guest by its DHCP name: a reserved one, and one that asks under it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn forwards_follow_names() {
    check(|lab| {
        lab.agent.start()?;
        let by_name = forward("udp", "", "vm1", &range(PUBLIC, PUBLIC, SINGLE))
            + &forward("udp", "", "fixed", &range(81, 81, SINGLE));
        let network = Network::default()
            .dhcp("<host mac='52:54:00:00:00:99' name='fixed' ip='10.10.1.50'/>")
            .with(&forwards(&by_name));
        lab.up(&network)?;
        let to = at(HOST, PUBLIC);
        ensure!(
            seen(&lab.wan, "udp", to)?.is_none(),
            "nobody has the name yet"
        );
        let guest = lab.plugged(1, &network.bridge())?;
        let lease = guest.dhcp()?;
        ensure!(
            lease.hostname.as_deref() == Some("vm1") || lease.hostname.is_none(),
            "{lease:?}"
        );
        let _server = Server::udp(guest.netns(), at(Ipv4Addr::UNSPECIFIED, SINGLE))?;
        let who = reached(&lab.wan, "udp", to)?;
        ensure!(who == OUTSIDE, "{who}");
        let fixed = lab.plugged(2, &network.bridge())?;
        fixed.address("10.10.1.50/24", Some(&network.gateway().to_string()))?;
        let _fixed = Server::udp(fixed.netns(), at(Ipv4Addr::UNSPECIFIED, SINGLE))?;
        let who = reached(&lab.wan, "udp", at(HOST, 81))?;
        ensure!(who == OUTSIDE, "{who}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn conflicts_are_refused_and_definitions_are_read_again() {
    check(|lab| {
        lab.agent.start()?;
        lab.hv
            .sysctl("net/ipv4/ip_local_reserved_ports", "4789,6000-6010")?;
        let first = Network::nat("first", 1);
        let second = Network::nat("second", 2);
        lab.up(&first)?;
        lab.up(&second)?;
        let run = |words: &str| lab.agent.ok(words.split(' '));
        let refused = |words: &str| lab.agent.fails(words.split(' '));
        run("forward add first tcp 8080-8090 10.10.1.11")?;
        let error = refused("forward add second tcp 8085 10.10.2.11:80")?;
        ensure!(
            error.contains("network 'first'") && error.contains("8085"),
            "{error}"
        );
        let error = refused("forward add first tcp 8090 10.10.1.12")?;
        ensure!(error.contains("8090"), "{error}");
        let error = refused("forward add first udp 6005 10.10.1.12")?;
        ensure!(error.contains("ip_local_reserved_ports"), "{error}");
        let error = refused("forward add first udp 70 10.10.9.12")?;
        ensure!(error.contains("10.10.9.12"), "{error}");
        let error = refused("forward delete first udp 8080-8090")?;
        ensure!(error.contains("no udp range 8080-8090"), "{error}");
        // More exact goes beside.
        run("forward add second tcp 8085 10.10.2.11:80 --address 198.51.100.2")?;
        let table = run("forward list")?;
        ensure!(table.lines().count() >= 4, "{table}");
        // The stored definition has none of it; reading it again takes it away.
        let said = run("reload")?;
        ensure!(said.contains("network 'first'"), "{said}");
        let table = run("forward list first")?;
        ensure!(!table.contains("8080"), "{table}");
        let xml = first.with(&forwards(&everything("10.10.1.11"))).xml();
        let uuid = run("net-uuid first")?;
        let xml = xml.replacen(
            "</name>",
            &format!("</name><uuid>{}</uuid>", uuid.trim()),
            1,
        );
        let file = lab.agent.file("first.xml", &xml)?;
        run(&format!("net-define {file}"))?;
        ensure!(
            !run("net-dumpxml first")?.contains("portForward"),
            "at once"
        );
        run("reload")?;
        ensure!(
            run("net-dumpxml first")?.contains("portForward"),
            "not at all"
        );
        lab.hv.sysctl("net/ipv4/ip_local_reserved_ports", "\n")
    });
}
