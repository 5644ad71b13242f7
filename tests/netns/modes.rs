//! Who may talk to whom: the truth table of the forward modes, in both families.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::lab6::{HOST_LAN, HOST6, LAN, OUTSIDE6, check6};
use netd_tests::packet::{Ipv4, TCP, UDP};
use netd_tests::packet6::Ipv6;
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Frame, Frame6, Guest, Lab, Netns, Network, SOON, Sniffer, Wire, eventually};

/// Port of the UDP and the TCP server that every party runs.
const PORT: u16 = 7000;
/// A packet from this port looks like the answer of a server; it goes to ports from the other one on,
/// of which each sender has its own.
const SERVER: u16 = 443;
const UNASKED: u16 = 40_000;
/// TCP's control bits.
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What becomes of the first packet of a flow. Answers take the same way back in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It is delivered, with the sender's own address.
    Plain,
    /// It is delivered, with the address of the host's on the way out.
    Translated,
    /// It is refused by ICMP, and nothing is delivered.
    Refused,
    /// Neither end is a network of netd's.
    NotOurs,
}
const OWN: Expected = Expected::Plain;
const NAT: Expected = Expected::Translated;
const NO: Expected = Expected::Refused;
const ANY: Expected = Expected::NotOurs;

/// A row for who sends, a column, in the same order, for who receives; where both are of one kind
/// they are two networks. `outside` is reached by the device that the networks with `dev` are bound
/// to, `lan` by another one.
type Table = [(&'static str, &'static [Expected])];

/// libvirt's table, except that what leaves an isolated network, or one with `dev`, for another
/// network is refused at once; libvirt lets it pass into a routed network and refuses the answers.
#[rustfmt::skip]
const IPV4: &Table = &[
    //               nat  nat-dev route route-dev isolated open outside lan
    ("nat",       &[ NO,  NO,     NAT,  NO,       NO,      NAT, NAT,    NAT ]),
    ("nat-dev",   &[ NO,  NO,     NO,   NO,       NO,      NO,  NAT,    NO  ]),
    ("route",     &[ NO,  NO,     OWN,  NO,       NO,      OWN, OWN,    OWN ]),
    ("route-dev", &[ NO,  NO,     NO,   NO,       NO,      NO,  OWN,    NO  ]),
    ("isolated",  &[ NO,  NO,     NO,   NO,       NO,      NO,  NO,     NO  ]),
    ("open",      &[ NO,  NO,     OWN,  NO,       NO,      OWN, OWN,    OWN ]),
    ("outside",   &[ NO,  NO,     OWN,  OWN,      NO,      OWN, ANY,    ANY ]),
    ("lan",       &[ NO,  NO,     OWN,  NO,       NO,      OWN, ANY,    ANY ]),
];

/// The same of IPv6, which a NAT network routes unless it says `<nat ipv6='yes'/>` (`nat6`).
#[rustfmt::skip]
const IPV6: &Table = &[
    //               nat  nat6 nat-dev route route-dev isolated open outside lan
    ("nat",       &[ OWN, NO,  NO,     OWN,  NO,       NO,      OWN, OWN,    OWN ]),
    ("nat6",      &[ NAT, NO,  NO,     NAT,  NO,       NO,      NAT, NAT,    NAT ]),
    ("nat-dev",   &[ NO,  NO,  NO,     NO,   NO,       NO,      NO,  OWN,    NO  ]),
    ("route",     &[ OWN, NO,  NO,     OWN,  NO,       NO,      OWN, OWN,    OWN ]),
    ("route-dev", &[ NO,  NO,  NO,     NO,   NO,       NO,      NO,  OWN,    NO  ]),
    ("isolated",  &[ NO,  NO,  NO,     NO,   NO,       NO,      NO,  NO,     NO  ]),
    ("open",      &[ OWN, NO,  NO,     OWN,  NO,       NO,      OWN, OWN,    OWN ]),
    ("outside",   &[ OWN, NO,  OWN,    OWN,  OWN,      NO,      OWN, ANY,    ANY ]),
    ("lan",       &[ OWN, NO,  NO,     OWN,  NO,       NO,      OWN, ANY,    ANY ]),
];

/// The networks' kinds.
const KINDS: [(&str, &str); 7] = [
    ("nat", "<forward mode='nat'/>"),
    ("nat6", "<forward mode='nat'><nat ipv6='yes'/></forward>"),
    ("nat-dev", "<forward mode='nat' dev='uplink'/>"),
    ("route", "<forward mode='route'/>"),
    ("route-dev", "<forward mode='route' dev='uplink'/>"),
    ("isolated", ""),
    ("open", "<forward mode='open'/>"),
];

/// One who takes part. Of pairs of addresses the first is the IPv4 one.
struct Party<'a> {
    /// Its place in the table.
    kind: &'static str,
    /// Is it the other one of its kind?
    second: bool,
    netns: &'a Netns,
    own: [IpAddr; 2],
    /// What a translated packet has for a source when it goes to this party.
    host: [IpAddr; 2],
    wire: Wire,
    mac: [u8; 6],
    next_hop: [u8; 6],
    ears: (Sniffer<Ipv4>, Sniffer<Ipv6>),
    _servers: [Server; 2],
}

/// A packet of TCP or UDP that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    source: IpAddr,
    protocol: u8,
    port: u16,
}

impl<'a> Party<'a> {
    fn new(
        kind: (&'static str, bool),
        (netns, device): (&'a Netns, &str),
        own: [IpAddr; 2],
        host: [IpAddr; 2],
        next_hop: [u8; 6],
    ) -> Result<Self> {
        // One socket hears both families.
        let everywhere = (Ipv6Addr::UNSPECIFIED, PORT);
        Ok(Self {
            kind: kind.0,
            second: kind.1,
            netns,
            own,
            host,
            wire: Wire::new(netns, device)?,
            mac: netns.mac(device)?,
            next_hop,
            ears: (Sniffer::start(netns)?, Sniffer::start6(netns)?),
            _servers: [
                Server::udp(netns, everywhere)?,
                Server::tcp_echo(netns, everywhere)?,
            ],
        })
    }

    /// Sends what answers of this party's would look like, although nobody asked: a datagram, the
    /// second segment of a handshake, and one of a connection.
    fn answer_unasked(&self, to: &Self, family: usize, port: u16) -> Result<()> {
        let frames = match (self.own[family], to.own[family]) {
            (IpAddr::V4(own), IpAddr::V4(to)) => {
                let tcp = |port, bits| Frame::tcp((own, SERVER), (to, port), bits, 5);
                [
                    Frame::udp((own, SERVER), (to, port), b"unasked"),
                    tcp(port, SYN | ACK),
                    tcp(port + 1, ACK),
                ]
                .map(|frame| frame.between(self.mac, self.next_hop).bytes())
            }
            (IpAddr::V6(own), IpAddr::V6(to)) => {
                let tcp = |port, bits| Frame6::tcp((own, SERVER), (to, port), bits);
                [
                    Frame6::udp((own, SERVER), (to, port), b"unasked"),
                    tcp(port, SYN | ACK),
                    tcp(port + 1, ACK),
                ]
                .map(|frame| frame.between(self.mac, self.next_hop).bytes())
            }
            other => bail!("two families: {other:?}"),
        };
        frames
            .iter()
            .try_for_each(|frame| self.wire.send_bytes(frame))
    }

    /// All that came from others, once what is awaited has come.
    fn heard(self, awaited: &[Heard]) -> Result<Vec<Heard>> {
        let (of4, of6): (Vec<Heard>, Vec<Heard>) =
            awaited.iter().partition(|heard| heard.source.is_ipv4());
        let has = |packets: Vec<Heard>, awaited: &[Heard]| {
            awaited.iter().all(|heard| packets.contains(heard))
        };
        let v4 = self.ears.0.finish_when(|all| has(heard4(all), &of4))?;
        let v6 = self.ears.1.finish_when(|all| has(heard6(all), &of6))?;
        let all = heard4(&v4).into_iter().chain(heard6(&v6));
        Ok(all
            .filter(|heard| !self.own.contains(&heard.source))
            .collect())
    }
}

fn heard4(packets: &[Ipv4]) -> Vec<Heard> {
    let heard = packets.iter().map(|packet| {
        Some(Heard {
            source: packet.source.into(),
            protocol: packet.protocol,
            port: packet.destination_port()?,
        })
    });
    heard.flatten().collect()
}

fn heard6(packets: &[Ipv6]) -> Vec<Heard> {
    let heard = packets.iter().map(|packet| {
        Some(Heard {
            source: packet.source.into(),
            protocol: packet.protocol,
            port: packet.destination_port()?,
        })
    });
    heard.flatten().collect()
}

/// Starts two networks of each kind, each with one guest.
fn populate(lab: &Lab) -> Result<Vec<(&'static str, Network, Guest)>> {
    let all = KINDS.iter().chain(&KINDS);
    let members = (1..).zip(all).map(|(number, (kind, forward))| {
        let network = Network::isolated(&format!("{kind}-{number}"), number);
        let network = network.forward(forward).ipv6();
        lab.up(&network)?;
        let guest = lab.member6(number, &network)?;
        let route = format!("ip route add {} via {HOST}", network.subnet());
        lab.wan.run(route.split(' '))?;
        lab.route6(&network)?;
        guest.ping(&network.gateway().to_string())?;
        Ok((*kind, network, guest))
    });
    members.collect()
}

/// Everybody who takes part, with servers running: the first ones of each kind, and then the others.
fn parties<'a>(
    lab: &'a Lab,
    lan: &'a Netns,
    members: &'a [(&'static str, Network, Guest)],
) -> Result<Vec<Party<'a>>> {
    let mut parties = vec![
        Party::new(
            ("outside", false),
            (&lab.wan, "wan0"),
            [OUTSIDE.into(), OUTSIDE6.into()],
            [HOST.into(), HOST6.into()],
            lab.hv.mac("uplink")?,
        )?,
        Party::new(
            ("lan", false),
            (lan, "lan0"),
            [LAN.0.into(), LAN.1.into()],
            [HOST_LAN.0.into(), HOST_LAN.1.into()],
            lab.hv.mac("lan")?,
        )?,
    ];
    for (number, (kind, network, guest)) in (1u8..).zip(members) {
        let host = 10 + number;
        parties.push(Party::new(
            (kind, usize::from(number) > KINDS.len()),
            (guest.netns(), "eth0"),
            [
                network.address(host).into(),
                network.address6(host.into()).into(),
            ],
            [network.gateway().into(), network.address6(1).into()],
            lab.hv.mac(&network.bridge())?,
        )?);
    }
    Ok(parties)
}

/// UDP, TCP and ping from one party to another: what happened, or why that cannot be said.
fn probe(from: &Party, to: &Party, family: usize) -> Result<Expected> {
    let target = (to.own[family], PORT).into();
    let udp = eventually(SOON, || match traffic::ask_udp(from.netns, target)? {
        Verdict::Answered(seen) if seen.ip().to_canonical() == from.own[family] => Ok(OWN),
        Verdict::Answered(seen) if seen.ip().to_canonical() == to.host[family] => Ok(NAT),
        Verdict::Refused => Ok(NO),
        verdict => bail!("UDP: {verdict:?}"),
    })?;
    let tcp = from
        .netns
        .enter(|| TcpStream::connect_timeout(&target, SOON))?;
    match (udp, tcp) {
        (NO, Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
        (OWN | NAT, Ok(_)) => {}
        (udp, tcp) => bail!("UDP: {udp:?}, but TCP: {tcp:?}"),
    }
    let address = to.own[family].to_string();
    let ping = || from.netns.output(["ping", "-c1", "-W2", &address]);
    if udp == NO {
        let ping = ping()?;
        ensure!(!ping.status.success(), "UDP: {udp:?}, but {ping:?}");
        return Ok(udp);
    }
    eventually(SOON, || {
        let ping = ping()?;
        ensure!(ping.status.success(), "UDP: {udp:?}, but {ping:?}");
        Ok(udp)
    })
}

/// One cell of a table, by which one party hears another.
struct Cell {
    should: Expected,
    receiver: usize,
    own: IpAddr,
    /// The sender's address when it is translated.
    host: IpAddr,
    /// Where the sender's answers go that nobody asked for.
    unasked: u16,
}

impl Cell {
    /// What nobody asked for is to be heard like this: by protocol, port and source, if from anybody.
    fn unasked(&self) -> [(u8, u16, Option<IpAddr>); 3] {
        [
            (UDP, self.unasked, true),
            // What answers a SYN opens no flow, so that it cannot be translated. Any segment of a
            // connection does, whose start may have been long ago (`nf_conntrack_tcp_loose`).
            (TCP, self.unasked, false),
            (TCP, self.unasked + 1, true),
        ]
        .map(|(protocol, port, opens)| {
            let source = match self.should {
                Expected::Plain => Some(self.own),
                Expected::Translated if opens => Some(self.host),
                _ => None,
            };
            (protocol, port, source)
        })
    }

    /// What is sure to come.
    fn awaited(&self) -> impl Iterator<Item = Heard> {
        let unasked = self.unasked().into_iter();
        unasked.filter_map(|(protocol, port, source)| {
            Some(Heard {
                source: source?,
                protocol,
                port,
            })
        })
    }

    /// Did the receiver hear what it should, and nothing else?
    fn compare(&self, heard: &[Heard]) -> Result<()> {
        let Self { own, host, .. } = *self;
        let asked = heard.iter().find(|h| h.source == own && h.port == PORT);
        ensure!(
            asked.is_none() || self.should == OWN,
            "the question was heard: {asked:?}"
        );
        for (protocol, port, source) in self.unasked() {
            let sources = heard
                .iter()
                .filter(|h| h.protocol == protocol && h.port == port)
                .map(|h| h.source);
            let mut sources = sources.filter(|from| [own, host].contains(from));
            let is = sources.next();
            ensure!(
                is == source,
                "protocol {protocol} to port {port}, which nobody asked for: heard from {is:?}, \
                 not {source:?}"
            );
        }
        Ok(())
    }
}

/// Goes through a table: the deviations from it, and what is to be heard of answers nobody asked for.
fn deviations(parties: &[Party], family: usize, table: &Table) -> Result<(String, Vec<Cell>)> {
    let party = |kind: &str, second: bool| {
        let mut all = parties.iter();
        all.position(|party| party.kind == kind && party.second == second)
            .with_context(|| format!("no party {kind}"))
    };
    let (mut wrong, mut cells) = (String::new(), Vec::new());
    for (row, (from, columns)) in table.iter().enumerate() {
        ensure!(columns.len() == table.len(), "the row of {from}");
        let sender = &parties[party(from, false)?];
        let mut probes = Vec::new();
        for ((to, _), should) in table.iter().zip(*columns) {
            if *should != ANY {
                probes.push((*to, *should, party(to, from == to)?));
            }
        }
        // At once: Linux takes note of a refused TCP connection over IPv6 with its second segment
        // only, a second later.
        let seen: Vec<Result<Expected>> = std::thread::scope(|scope| {
            let probe = |receiver| scope.spawn(move || probe(sender, receiver, family));
            let running: Vec<_> = probes.iter().map(|(.., to)| probe(&parties[*to])).collect();
            let end = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                let end = thread.join();
                end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            running.into_iter().map(end).collect()
        });
        for ((to, should, receiver), is) in probes.into_iter().zip(seen) {
            if !matches!(is, Ok(is) if is == should) {
                wrong += &format!("family {family}, {from} -> {to}: {is:?}, not {should:?}\n");
            }
            let cell = Cell {
                should,
                receiver,
                own: sender.own[family],
                host: parties[receiver].host[family],
                unasked: UNASKED + 2 * row as u16,
            };
            sender.answer_unasked(&parties[receiver], family, cell.unasked)?;
            cells.push(cell);
        }
    }
    Ok((wrong, cells))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_truth_table_holds_between_networks_and_to_the_outside() {
    check6(|lab| {
        lab.agent.start()?;
        let lan = lab.second_nic()?;
        let members = populate(lab)?;
        let parties = parties(lab, &lan, &members)?;
        let (mut wrong, mut cells) = deviations(&parties, 0, IPV4)?;
        let (wrong6, cells6) = deviations(&parties, 1, IPV6)?;
        wrong += &wrong6;
        cells.extend(cells6);
        let heard = parties.into_iter().enumerate().map(|(place, party)| {
            let of_it = cells.iter().filter(|cell| cell.receiver == place);
            let awaited: Vec<Heard> = of_it.flat_map(Cell::awaited).collect();
            party.heard(&awaited)
        });
        let heard: Vec<Vec<Heard>> = heard.collect::<Result<_>>()?;
        for cell in cells {
            if let Err(error) = cell.compare(&heard[cell.receiver]) {
                wrong += &format!("{} by {}: {error}\n", cell.own, cell.host);
            }
        }
        ensure!(wrong.is_empty(), "not as in the table:\n{wrong}");
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
    let seen = traffic::answered(from, at(to, PORT))?;
    ensure!(
        seen.ip() == IpAddr::V4(source),
        "{source} asks {to}: {seen}"
    );
    Ok(())
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
