//! At which addresses and by which devices a port is published, and what stays the host's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::frame::{Frame, Wire};
use netd_tests::frame6::Frame6;
use netd_tests::lab::{HOST, OUTSIDE, check};
use netd_tests::lab6::{HOST_LAN, HOST6, LAN, OUTSIDE6, check6};
use netd_tests::published::{Service, both, forward, forwards, reached, seen};
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Netns, Network, SOON, Sniffer, Tunnel, eventually};

/// The guests' port behind every forward.
const PORT: u16 = 80;
/// Published in three ways; see [`scopes`].
const EVERY: u16 = 8080;
/// Published at the uplink, at one address of it, at the second NIC.
const UPLINK: u16 = 8081;
const ADDRESS: u16 = 8082;
const SECOND_NIC: u16 = 8083;
/// Published at loopback.
const LOOPBACK: u16 = 8084;

/// An address of either family: what is tested of one holds of the other.
type Pair = (IpAddr, IpAddr);

fn pair(v4: Ipv4Addr, v6: Ipv6Addr) -> Pair {
    (v4.into(), v6.into())
}

const LOCALHOST: Pair = (
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
);
/// A second address of the uplink.
const MORE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 51, 100, 3),
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 3),
);

fn gateway(network: &Network) -> Pair {
    pair(network.gateway(), network.address6(1))
}

/// Forwards of one port in both families and protocols, at one kind of place.
fn at_both(network: &Network, scope: (&str, &str), host: u8, port: u16) -> String {
    let (v4, v6) = (network.address(host), network.address6(host.into()));
    both(scope.0, &v4.to_string(), port, PORT) + &both(scope.1, &v6.to_string(), port, PORT)
}

/// Guests with a service in both families, in the order of their numbers from 1 on.
struct Targets {
    guests: Vec<Guest>,
    services: Vec<[Service; 2]>,
}

impl Targets {
    fn start(lab: &Lab, network: &Network, count: u8) -> Result<Self> {
        let mut targets = Self {
            guests: Vec::new(),
            services: Vec::new(),
        };
        for number in 1..=count {
            let guest = lab.member6(number, network)?;
            let own6 = IpAddr::from(network.address6(10 + u16::from(number)));
            targets.services.push([
                Service::start(guest.netns(), (Ipv4Addr::UNSPECIFIED, PORT))?,
                Service::start(guest.netns(), (own6, PORT))?,
            ]);
            targets.guests.push(guest);
        }
        Ok(targets)
    }

    fn received(&self, proto: &str) -> Vec<u64> {
        let sum = |[v4, v6]: &[Service; 2]| v4.received(proto) + v6.received(proto);
        self.services.iter().map(sum).collect()
    }

    /// Which of them answers there; an error when that is another one than was reached.
    fn who_answers(&self, from: &Netns, proto: &str, to: SocketAddr) -> Result<Option<usize>> {
        let before = self.received(proto);
        let answer = seen(from, proto, to)?;
        let after = self.received(proto);
        let reached: Vec<usize> = (0..before.len())
            .filter(|&number| after[number] > before[number])
            .collect();
        match (answer, &reached[..]) {
            (None, []) => Ok(None),
            (Some(_), [one]) => Ok(Some(*one)),
            _ => anyhow::bail!("{answer:?} was answered, {reached:?} were reached"),
        }
    }
}

/// One who asks, where, and which target is to answer at which port.
type Row<'a> = (&'a str, &'a Netns, Pair, &'static [(u16, Option<usize>)]);

/// Every deviation from the table.
fn deviations(targets: &Targets, rows: &[Row<'_>]) -> String {
    let mut wrong = String::new();
    for (who, netns, address, ports) in rows {
        for address in [address.0, address.1] {
            for (port, should) in *ports {
                for proto in ["tcp", "udp"] {
                    let to = SocketAddr::from((address, *port));
                    let ask = || targets.who_answers(netns, proto, to);
                    let is = match should {
                        // On a busy machine one who answers may seem not to.
                        Some(_) => eventually(SOON, || ask()?.context("nobody")).map(Some),
                        None => ask(),
                    };
                    if !matches!(&is, Ok(is) if is == should) {
                        wrong += &format!(
                            "{who} asks {address} port {port}/{proto}: {is:?}, not {should:?}\n"
                        );
                    }
                }
            }
        }
    }
    wrong
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_device_publishes_by_itself_alone_and_the_more_exact_goes_first() {
    check6(|lab| {
        lab.hv.address("uplink", &format!("{}/24", MORE.0))?;
        lab.hv.address("uplink", &format!("{}/64", MORE.1))?;
        lab.hv.wait_for_addresses("uplink")?;
        lab.agent.start()?;
        let lan = lab.second_nic()?;
        for (to, via) in [
            ("192.0.2.0/24", HOST.to_string()),
            ("2001:db8:9::/64", HOST6.to_string()),
        ] {
            lab.wan.run(["ip", "route", "add", to, "via", &via])?;
        }
        let network = Network::default().ipv6();
        let one = (
            &*format!("address='{HOST}'"),
            &*format!("address='{HOST6}'"),
        );
        let (uplink, second) = (("dev='uplink'", "dev='uplink'"), ("dev='lan'", "dev='lan'"));
        let network = network.clone().with(&forwards(
            &[
                at_both(&network, ("", ""), 13, EVERY),
                at_both(&network, one, 11, EVERY),
                at_both(&network, uplink, 12, EVERY),
                at_both(&network, uplink, 12, UPLINK),
                at_both(&network, one, 11, ADDRESS),
                at_both(&network, second, 12, SECOND_NIC),
            ]
            .concat(),
        ));
        lab.up(&network)?;
        let targets = Targets::start(lab, &network, 3)?;
        let sibling = lab.member6(4, &network)?;
        let other = Network::isolated("other", 2).ipv6();
        lab.up(&other)?;
        let stranger = lab.member6(5, &other)?;

        // Who is numbered from 0 on: 0 is published at the one address, 1 at devices, 2 at all.
        const AT_HOST: &[(u16, Option<usize>)] = &[
            (EVERY, Some(0)),
            (UPLINK, Some(1)),
            (ADDRESS, Some(0)),
            (SECOND_NIC, None),
        ];
        const AT_MORE: &[(u16, Option<usize>)] = &[
            (EVERY, Some(1)),
            (UPLINK, Some(1)),
            (ADDRESS, None),
            (SECOND_NIC, None),
        ];
        const AT_LAN: &[(u16, Option<usize>)] = &[
            (EVERY, Some(2)),
            (UPLINK, None),
            (ADDRESS, None),
            (SECOND_NIC, Some(1)),
        ];
        // By a device that is not the one at which it is published.
        const FOREIGN_HOST: &[(u16, Option<usize>)] = &[
            (EVERY, Some(0)),
            (UPLINK, None),
            (ADDRESS, Some(0)),
            (SECOND_NIC, None),
        ];
        const ELSEWHERE: &[(u16, Option<usize>)] = &[
            (EVERY, Some(2)),
            (UPLINK, None),
            (ADDRESS, None),
            (SECOND_NIC, None),
        ];
        let (host, more) = (pair(HOST, HOST6), pair(MORE.0, MORE.1));
        let host_lan = pair(HOST_LAN.0, HOST_LAN.1);
        let mut rows: Vec<Row<'_>> = vec![
            ("outside", &lab.wan, host, AT_HOST),
            ("outside", &lab.wan, more, AT_MORE),
            ("outside", &lab.wan, host_lan, ELSEWHERE),
            ("the LAN", &lan, host, FOREIGN_HOST),
            ("the LAN", &lan, more, ELSEWHERE),
            ("the LAN", &lan, host_lan, AT_LAN),
            ("the host", &lab.hv, LOCALHOST, ELSEWHERE),
            ("a sibling", sibling.netns(), gateway(&network), ELSEWHERE),
            ("a stranger", stranger.netns(), gateway(&other), ELSEWHERE),
        ];
        for (who, netns) in [
            ("the host", &lab.hv),
            ("a sibling", sibling.netns()),
            ("a stranger", stranger.netns()),
            ("a target", targets.guests[1].netns()),
        ] {
            rows.push((who, netns, host, AT_HOST));
            rows.push((who, netns, more, AT_MORE));
            rows.push((who, netns, host_lan, AT_LAN));
        }
        let wrong = deviations(&targets, &rows);
        ensure!(wrong.is_empty(), "{wrong}");
        for address in [format!("{}/24", MORE.0), format!("{}/64", MORE.1)] {
            lab.hv
                .run(["ip", "addr", "del", &address, "dev", "uplink"])?;
        }
        Ok(())
    });
}

/// Sends datagrams to loopback addresses past the sender's own stack, and the same to the host's
/// address and a port that is published there, which shows that such frames are heard.
fn knock(netns: &Netns, device: &str, to: [u8; 6], own: (Ipv4Addr, Ipv6Addr)) -> Result<()> {
    let wire = Wire::new(netns, device)?;
    let from = netns.mac(device)?;
    for (v4, v6, port) in [
        (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, LOOPBACK),
        (HOST, HOST6, EVERY),
    ] {
        let frame = Frame::udp((own.0, 5000), (v4, port), b"knock").with_udp_checksum();
        wire.send(&frame.between(from, to))?;
        let frame = Frame6::udp((own.1, 5000), (v6, port), b"knock");
        wire.send_bytes(&frame.between(from, to).bytes())?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p36_a_port_at_loopback_is_for_the_host_alone() {
    check6(|lab| {
        lab.agent.start()?;
        let lan = lab.second_nic()?;
        let network = Network::default().ipv6();
        let loopback = ("address='127.0.0.1'", "address='::1'");
        let network = network.clone().with(&forwards(
            &(at_both(&network, loopback, 11, LOOPBACK) + &at_both(&network, ("", ""), 12, EVERY)),
        ));
        lab.up(&network)?;
        let targets = Targets::start(lab, &network, 2)?;
        let sibling = lab.member6(3, &network)?;
        let other = Network::nat("other", 2).ipv6();
        lab.up(&other)?;
        let stranger = lab.member6(4, &other)?;
        const REACHED: &[(u16, Option<usize>)] = &[(LOOPBACK, Some(0)), (EVERY, Some(1))];
        const NOT: &[(u16, Option<usize>)] = &[(LOOPBACK, None), (EVERY, Some(1))];
        let host = pair(HOST, HOST6);
        let wrong = deviations(
            &targets,
            &[
                ("the host", &lab.hv, LOCALHOST, REACHED),
                ("the host", &lab.hv, host, NOT),
                ("the host", &lab.hv, gateway(&network), NOT),
                ("outside", &lab.wan, host, NOT),
                ("the LAN", &lan, pair(HOST_LAN.0, HOST_LAN.1), NOT),
                ("a sibling", sibling.netns(), host, NOT),
                ("a sibling", sibling.netns(), gateway(&network), NOT),
                ("a target", targets.guests[0].netns(), host, NOT),
                ("a stranger", stranger.netns(), host, NOT),
            ],
        );
        ensure!(wrong.is_empty(), "{wrong}");
        // Nor by packets that claim to go to loopback already on the wire.
        let before = targets.received("udp");
        let bridge = |network: &Network| lab.hv.mac(&network.bridge());
        let of =
            |network: &Network, host: u8| (network.address(host), network.address6(host.into()));
        knock(&lab.wan, "wan0", lab.hv.mac("uplink")?, (OUTSIDE, OUTSIDE6))?;
        knock(&lan, "lan0", lab.hv.mac("lan")?, LAN)?;
        knock(sibling.netns(), "eth0", bridge(&network)?, of(&network, 13))?;
        knock(stranger.netns(), "eth0", bridge(&other)?, of(&other, 14))?;
        eventually(SOON, || {
            let heard = targets.received("udp")[1] - before[1];
            ensure!(heard == 8, "{heard} of 8 controls were heard");
            Ok(())
        })?;
        let heard = targets.received("udp")[0] - before[0];
        ensure!(heard == 0, "{heard} datagrams passed from elsewhere");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p62_a_tunnel_leads_to_published_ports() {
    check6(|lab| {
        lab.agent.start()?;
        let network = Network::default().ipv6();
        let tunnel = ("dev='tun0'", "dev='tun0'");
        let network = network.clone().with(&forwards(
            &(at_both(&network, ("", ""), 11, EVERY) + &at_both(&network, tunnel, 12, UPLINK)),
        ));
        lab.up(&network)?;
        let targets = Targets::start(lab, &network, 2)?;
        // It comes later than what is published by it.
        let road = Netns::new("road")?;
        let _tunnel = Tunnel::new(&lab.hv, &road, "tun0")?;
        let ends = [
            (
                &lab.hv,
                pair("192.0.2.65".parse()?, "2001:db8:8::1".parse()?),
            ),
            (&road, pair("192.0.2.66".parse()?, "2001:db8:8::2".parse()?)),
        ];
        for (netns, (v4, v6)) in &ends {
            netns.address("tun0", &format!("{v4}/30"))?;
            netns.address("tun0", &format!("{v6}/64"))?;
            netns.wait_for_addresses("tun0")?;
        }
        for to in ["default", "::/0"] {
            road.run(["ip", "route", "add", to, "dev", "tun0"])?;
        }
        let who = reached(&road, "udp", (ends[0].1.0, UPLINK)).context("by the tunnel")?;
        ensure!(who == ends[1].1.0, "{who}");
        const REACHED: &[(u16, Option<usize>)] = &[(EVERY, Some(0)), (UPLINK, Some(1))];
        const NOT: &[(u16, Option<usize>)] = &[(EVERY, Some(0)), (UPLINK, None)];
        let host = pair(HOST, HOST6);
        let wrong = deviations(
            &targets,
            &[
                ("the road", &road, ends[0].1, REACHED),
                ("the road", &road, host, NOT),
                ("outside", &lab.wan, host, NOT),
                ("the host", &lab.hv, ends[0].1, REACHED),
            ],
        );
        ensure!(wrong.is_empty(), "{wrong}");
        for (host_end, own) in [(ends[0].1.0, ends[1].1.0), (ends[0].1.1, ends[1].1.1)] {
            for proto in ["tcp", "udp"] {
                let who = reached(&road, proto, (host_end, EVERY))?;
                ensure!(who == own, "{own} is seen as {who} by {proto}");
            }
        }
        // Long ones as well: what goes through a tunnel has no Ethernet header to keep.
        let _echo = Server::tcp_echo(targets.guests[0].netns(), (network.address(11), 81))?;
        let add = "forward add default tcp 8090 10.10.1.11:81";
        lab.agent.ok(add.split(' '))?;
        let to: SocketAddr = (ends[0].1.0, 8090).into();
        traffic::transfer(&road, to, 1 << 20)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p41_other_networks_reach_what_is_published_and_nothing_else() {
    check6(|lab| {
        lab.agent.start()?;
        let masqueraded = "<forward mode='nat'><nat ipv6='yes'/></forward>";
        let targets = [
            Network::nat("b", 1).forward(masqueraded).ipv6(),
            Network::isolated("c", 2).ipv6(),
        ];
        let mut services = Vec::new();
        let mut guests = Vec::new();
        for (number, network) in (1u8..).zip(&targets) {
            let port = EVERY + u16::from(number);
            let published = at_both(network, ("", ""), 10 + number, port);
            lab.up(&network.clone().with(&forwards(&published)))?;
            let guest = lab.member6(number, network)?;
            let own = network.address6(10 + u16::from(number));
            services.push(Service::start(
                guest.netns(),
                (Ipv4Addr::UNSPECIFIED, PORT),
            )?);
            services.push(Service::start(guest.netns(), (own, PORT))?);
            guests.push(guest);
        }
        let mut wrong = String::new();
        for (number, network) in (3u8..).zip([
            Network::nat("nat", 3).ipv6(),
            Network::route("route", 4).ipv6(),
            Network::isolated("isolated", 5).ipv6(),
            Network::open("open", 6).ipv6(),
        ]) {
            lab.up(&network)?;
            let guest = lab.member6(number, &network)?;
            let own = pair(
                network.address(10 + number),
                network.address6(10 + u16::from(number)),
            );
            for (at, target) in (1u8..).zip(&targets) {
                let port = EVERY + u16::from(at);
                let private = pair(target.address(10 + at), target.address6(10 + u16::from(at)));
                let (host, mine) = (pair(HOST, HOST6), gateway(&network));
                let theirs = gateway(target);
                for (address, port, should) in [
                    (private, PORT, None),
                    (host, PORT, None),
                    (host, port, Some(own)),
                    (mine, port, Some(own)),
                    (theirs, port, Some(own)),
                ] {
                    let should = should.map_or((None, None), |(v4, v6)| (Some(v4), Some(v6)));
                    for (address, should) in [(address.0, should.0), (address.1, should.1)] {
                        for proto in ["tcp", "udp"] {
                            let to = SocketAddr::from((address, port));
                            let is = match should {
                                Some(_) => reached(guest.netns(), proto, to).ok(),
                                None => seen(guest.netns(), proto, to)?,
                            };
                            if is != should {
                                wrong += &format!(
                                    "{} -> {}: {address} port {port}/{proto}: {is:?}, not {should:?}\n",
                                    network.name, target.name
                                );
                            }
                        }
                    }
                }
            }
            guests.push(guest);
        }
        ensure!(wrong.is_empty(), "{wrong}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p40_an_isolated_guest_publishes_and_stays_isolated() {
    check6(|lab| {
        lab.agent.start()?;
        let network = Network::isolated("isolated", 1).ipv6();
        let published = at_both(&network, ("", ""), 11, EVERY);
        lab.up(&network.clone().with(&forwards(&published)))?;
        let targets = Targets::start(lab, &network, 1)?;
        let guest = &targets.guests[0];
        let (host, own) = (
            pair(HOST, HOST6),
            pair(network.address(11), network.address6(11)),
        );
        let _others = [
            Service::start(guest.netns(), (Ipv4Addr::UNSPECIFIED, 81))?,
            Service::start(guest.netns(), (own.1, 81))?,
        ];
        // The outside knows where the guest is.
        let subnet = network.subnet();
        lab.wan
            .run(["ip", "route", "add", &subnet, "via", &HOST.to_string()])?;
        lab.route6(&network)?;
        let outside = [
            Service::start(&lab.wan, (OUTSIDE, 7000))?,
            Service::start(&lab.wan, (OUTSIDE6, 7000))?,
        ];
        const PUBLISHED: &[(u16, Option<usize>)] = &[(EVERY, Some(0)), (PORT, None), (81, None)];
        const PRIVATE: &[(u16, Option<usize>)] = &[(EVERY, None), (PORT, None), (81, None)];
        let wrong = deviations(
            &targets,
            &[
                ("outside", &lab.wan, host, PUBLISHED),
                ("outside", &lab.wan, own, PRIVATE),
            ],
        );
        ensure!(wrong.is_empty(), "{wrong}");
        // A client that has just been answered is no way out, whatever port the guest sends from:
        // the service's own one needs another socket beside it, hence an address of its own.
        for (address, service) in [(IpAddr::from(OUTSIDE), 0), (OUTSIDE6.into(), 1)] {
            for proto in ["tcp", "udp"] {
                let who = seen(guest.netns(), proto, (address, 7000))?;
                ensure!(who.is_none(), "{proto} gets out to {address}: {who:?}");
                let came = outside[service].received(proto);
                ensure!(came == 0, "{came} by {proto} came out");
            }
            let ping = guest.try_ping(&address.to_string())?;
            ensure!(!ping.status.success(), "ping gets out to {address}");
        }
        let heard = lab.wan.udp((OUTSIDE, 7001))?;
        heard.set_read_timeout(Some(Duration::from_millis(500)))?;
        let wire = Wire::new(guest.netns(), "eth0")?;
        let frame = Frame::udp((network.address(11), PORT), (OUTSIDE, 7001), b"out");
        let (from, to) = (guest.netns().mac("eth0")?, lab.hv.mac(&network.bridge())?);
        wire.send(&frame.with_udp_checksum().between(from, to))?;
        let got = heard.recv_from(&mut [0; 16]);
        ensure!(got.is_err(), "the published port is a way out: {got:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_address_that_no_device_has_is_answered_for_as_long_as_it_is_published() {
    check(|lab| {
        lab.agent.start()?;
        let address = Ipv4Addr::new(198, 51, 100, 40);
        let text = address.to_string();
        let all = forward("all", &format!("address='{address}'"), "10.10.1.11", "");
        let network = Network::default().with(&forwards(&all));
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let ports = [1, 4000, 65535];
        let _services: Vec<Service> = ports
            .iter()
            .map(|port| Service::start(guest.netns(), (Ipv4Addr::UNSPECIFIED, *port)))
            .collect::<Result<_>>()?;
        let answered = || -> Result<bool> {
            lab.wan.run(["ip", "neigh", "flush", "dev", "wan0"])?;
            let ping = ["busybox", "ping", "-c1", "-W2", &text];
            Ok(lab.wan.output(ping)?.status.success())
        };
        let works = || -> Result<()> {
            let inside = Sniffer::start(guest.netns())?;
            eventually(SOON, || {
                ensure!(answered()?, "no answer to a ping");
                Ok(())
            })?;
            let neighbour = lab.wan.run(["ip", "neigh", "show", &text])?;
            let mac = lab.hv.mac("uplink")?.map(|byte| format!("{byte:02x}"));
            ensure!(neighbour.contains(&mac.join(":")), "{neighbour}");
            let packets = inside.finish()?;
            let echo = packets
                .iter()
                .find(|packet| packet.icmp() == Some((8, 0)) && packet.source == OUTSIDE);
            let echo = echo.context("the guest was not pinged")?;
            ensure!(echo.destination == network.address(11), "{echo:?}");
            for proto in ["tcp", "udp"] {
                for port in ports {
                    let who = reached(&lab.wan, proto, (address, port))?;
                    ensure!(who == OUTSIDE, "{port}/{proto}: {who}");
                }
                // The host's own address is the host's.
                let who = seen(&lab.wan, proto, (HOST, ports[1]))?;
                ensure!(who.is_none(), "at the host's address: {who:?}");
            }
            Ok(())
        };
        works()?;
        let run = |words: &str| lab.agent.ok(words.split(' '));
        run("forward delete default all --address 198.51.100.40")?;
        ensure!(!answered()?, "an address that is published no longer");
        run("forward add default all 10.10.1.11 --address 198.51.100.40")?;
        works().context("published while the network runs")?;
        run("net-destroy default")?;
        ensure!(!answered()?, "an address of a network that is gone");
        Ok(())
    });
}
