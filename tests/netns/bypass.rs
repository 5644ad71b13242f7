//! Frames that no well-behaved guest sends, on a host that would forward them all: nothing gets
//! past the policy. Networks without one show that each of them would get through.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use netd_common::abi::{Flow4, FlowKey4, VERSION};
use netd_common::clock::ticks;
use netd_common::state::State;
use netd_common::timeout::{DEFAULT_TIMEOUTS, Timeout};
use netd_tests::frame::{Frame, SERVICE_VLAN, VLAN, Wire};
use netd_tests::lab::{HOST, OUTSIDE, at, check, check_router};
use netd_tests::packet::{ICMP, Ipv4};
use netd_tests::traffic::Server;
use netd_tests::{Guest, Lab, Network, SOON, Sniffer, eventually};

const PORT: u16 = 7000;
const SYN: u8 = 2;

/// A guest of each mode; the number is part of its addresses and ports.
struct Player {
    network: Network,
    number: u8,
    guest: Guest,
    wire: Wire,
    /// Addresses its frames can be sent to: the bridge's, and that of the port's own device.
    bridge: [u8; 6],
    port: [u8; 6],
    own: [u8; 6],
}

impl Player {
    fn new(lab: &Lab, network: Network, number: u8) -> Result<Self> {
        lab.up(&network)?;
        let guest = lab.member(number, &network)?;
        // Everybody knows everybody's MAC address now.
        guest.ping(&network.gateway().to_string())?;
        Ok(Self {
            number,
            wire: Wire::new(guest.netns(), "eth0")?,
            bridge: lab.hv.mac(&network.bridge())?,
            port: lab.hv.mac(&guest.port)?,
            own: guest.netns().mac("eth0")?,
            network,
            guest,
        })
    }

    fn inside(&self) -> Ipv4Addr {
        self.network.address(10 + self.number)
    }

    /// Source port of all it sends.
    fn sport(&self) -> u16 {
        4000 + u16::from(self.number)
    }

    /// Source addresses that are not its network's.
    fn foreign(&self) -> [Ipv4Addr; 3] {
        [[192, 0, 2], [240, 1, 1], [0, 9, 9]].map(|[a, b, c]| Ipv4Addr::new(a, b, c, self.number))
    }
}

/// What each guest sends, by source address, and does the stack forward it by itself?
struct Trick {
    name: &'static str,
    works: bool,
    frame: fn(&Player, Ipv4Addr) -> Frame,
}

fn datagram(player: &Player, source: Ipv4Addr, destination: Ipv4Addr) -> Frame {
    let mut frame = Frame::udp((source, player.sport()), (destination, PORT), b"out");
    (frame.to, frame.from) = (player.bridge, player.own);
    frame
}

fn plain(player: &Player, source: Ipv4Addr) -> Frame {
    datagram(player, source, OUTSIDE)
}

fn segment(player: &Player, source: Ipv4Addr, words: u8) -> Frame {
    let mut frame = Frame::tcp((source, player.sport()), (OUTSIDE, PORT), SYN, words);
    (frame.to, frame.from) = (player.bridge, player.own);
    frame
}

fn tagged(mut frame: Frame, tags: &[(u16, u16)]) -> Frame {
    frame.tags = tags.to_vec();
    frame
}

fn to_port(player: &Player, mut frame: Frame) -> Frame {
    frame.to = player.port;
    frame
}

const fn trick(name: &'static str, frame: fn(&Player, Ipv4Addr) -> Frame) -> Trick {
    let works = true;
    Trick { name, works, frame }
}

/// A trick of which Linux lets nothing through, or netd wherever it is.
const fn dud(name: &'static str, frame: fn(&Player, Ipv4Addr) -> Frame) -> Trick {
    let works = false;
    Trick { name, works, frame }
}

const TRICKS: &[Trick] = &[
    trick("plain", plain),
    trick("to the port's device", |player, source| {
        to_port(player, plain(player, source))
    }),
    trick("priority tag", |player, source| {
        tagged(plain(player, source), &[(VLAN, 0)])
    }),
    trick("service tag 0", |player, source| {
        tagged(plain(player, source), &[(SERVICE_VLAN, 0)])
    }),
    trick("priority tag with a priority", |player, source| {
        tagged(plain(player, source), &[(VLAN, 0xe000)])
    }),
    trick("priority tag to the port's device", |player, source| {
        to_port(player, tagged(plain(player, source), &[(VLAN, 0)]))
    }),
    dud("two priority tags", |player, source| {
        tagged(plain(player, source), &[(VLAN, 0), (VLAN, 0)])
    }),
    dud("two tags of two kinds", |player, source| {
        tagged(plain(player, source), &[(SERVICE_VLAN, 0), (VLAN, 0)])
    }),
    dud("two tags to the port's device", |player, source| {
        let tags = [(VLAN, 0), (VLAN, 0)];
        to_port(player, tagged(plain(player, source), &tags))
    }),
    dud("three tags", |player, source| {
        tagged(plain(player, source), &[(VLAN, 0); 3])
    }),
    dud("a tag of a VLAN that is not there", |player, source| {
        tagged(plain(player, source), &[(VLAN, 5)])
    }),
    dud("broadcast frame", |player, source| {
        let mut frame = plain(player, source);
        frame.to = [0xff; 6];
        frame
    }),
    dud("multicast frame", |player, source| {
        let mut frame = plain(player, source);
        frame.to = [1, 0, 0x5e, 1, 2, 3];
        frame
    }),
    trick("class E", |player, source| {
        datagram(player, source, Ipv4Addr::new(240, 0, 0, 1))
    }),
    trick("network 0", |player, source| {
        datagram(player, source, Ipv4Addr::new(0, 1, 2, 3))
    }),
    trick("TCP", |player, source| segment(player, source, 5)),
    trick("TCP header beyond the packet", |player, source| {
        segment(player, source, 15)
    }),
    trick("TCP header of no length", |player, source| {
        segment(player, source, 0)
    }),
    trick("TCP cut short", |player, source| {
        let mut frame = segment(player, source, 5);
        frame.payload.truncate(13);
        frame
    }),
    trick("UDP length beyond the packet", |player, source| {
        let mut frame = plain(player, source);
        frame.payload[4..6].copy_from_slice(&900_u16.to_be_bytes());
        frame
    }),
    trick("IP options", |player, source| {
        let mut frame = plain(player, source);
        frame.options = vec![1; 40];
        frame
    }),
    trick("IP options to the port's device", |player, source| {
        let mut frame = to_port(player, plain(player, source));
        frame.options = vec![1; 4];
        frame
    }),
    trick("IP options and nothing else", |player, source| {
        let mut frame = plain(player, source);
        frame.options = vec![1; 40];
        frame.payload.clear();
        frame
    }),
    trick("no payload", |player, source| {
        let mut frame = plain(player, source);
        frame.payload.clear();
        frame
    }),
    trick("first fragment", |player, source| {
        let mut frame = plain(player, source);
        frame.fragment = 0x2000;
        frame
    }),
    trick("later fragment", |player, source| {
        let mut frame = plain(player, source);
        frame.fragment = 100;
        frame
    }),
    trick("unknown protocol", |player, source| {
        let mut frame = plain(player, source);
        frame.protocol = 253;
        frame
    }),
    trick("ICMP error about nothing", |player, source| {
        let mut frame = plain(player, source);
        frame.protocol = ICMP;
        frame.payload = vec![3, 1, 0xfc, 0xfe, 0, 0, 0, 0];
        frame
    }),
    trick("ICMP echo reply", |player, source| {
        let mut frame = plain(player, source);
        frame.protocol = ICMP;
        frame.payload = vec![0, 0, 0xff, 0xfe, 0, 1, 0, 0];
        frame
    }),
    trick("loose source route by the gateway", |player, source| {
        let mut frame = datagram(player, source, player.network.gateway());
        frame.options = vec![1, 131, 7, 4];
        frame.options.extend(OUTSIDE.octets());
        frame
    }),
    trick("strict source route by the host", |player, source| {
        let mut frame = datagram(player, source, HOST);
        frame.options = vec![1, 137, 7, 4];
        frame.options.extend(OUTSIDE.octets());
        frame
    }),
];

/// All modes, numbered, each with a guest.
struct Players {
    isolated: Player,
    nat: Player,
    route: Player,
    open: Player,
}

impl Players {
    fn new(lab: &mut Lab) -> Result<Self> {
        lab.agent.start()?;
        eventually(SOON, || {
            lab.hv.run([
                "busybox",
                "ping",
                "-c",
                "1",
                "-W",
                "3",
                &OUTSIDE.to_string(),
            ])
        })?;
        let players = Self {
            isolated: Player::new(lab, Network::isolated("isolated", 1), 1)?,
            nat: Player::new(lab, Network::nat("nat", 2), 2)?,
            route: Player::new(lab, Network::route("route", 3), 3)?,
            open: Player::new(lab, Network::open("open", 4), 4)?,
        };
        // Answers would only be in the way.
        lab.wan
            .run(["ip", "route", "add", "blackhole", "10.10.0.0/16"])?;
        Ok(players)
    }

    fn all(&self) -> [&Player; 4] {
        [&self.isolated, &self.nat, &self.route, &self.open]
    }
}

/// Source of a datagram that is sent behind others, and arrives as they do.
const LAST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

fn has_last(packets: &[Ipv4]) -> bool {
    packets.iter().any(|packet| packet.source == LAST)
}

/// What of the packets that arrived outside should not have, and what is missing.
fn judge_outside(trick: &Trick, players: &Players, packets: &[Ipv4]) -> Vec<String> {
    let mut faults = Vec::new();
    let seen = |source: Ipv4Addr| packets.iter().any(|packet| packet.source == source);
    let mut fault = |who: &str, what: String| {
        faults.push(format!("{}: {who}: {what}", trick.name));
    };
    for (name, player) in [("isolated", &players.isolated), ("nat", &players.nat)] {
        if seen(player.inside()) {
            fault(name, "its own address is seen outside".into());
        }
    }
    let guarded = [
        ("isolated", &players.isolated),
        ("nat", &players.nat),
        ("route", &players.route),
    ];
    for (name, player) in guarded {
        for foreign in player.foreign().into_iter().filter(|&source| seen(source)) {
            fault(
                name,
                format!("the foreign source {foreign} is seen outside"),
            );
        }
    }
    let hidden = |player: &Player| {
        packets
            .iter()
            .any(|packet| packet.source == HOST && packet.source_port() == Some(player.sport()))
    };
    if hidden(&players.isolated) {
        fault("isolated", "it hides behind the host".into());
    }
    if trick.name == "plain" {
        if !hidden(&players.nat) {
            fault("nat", "is not translated".into());
        }
        if !seen(players.route.inside()) {
            fault("route", "is not routed".into());
        }
    }
    let open = [players.open.inside(), players.open.foreign()[0]];
    for source in open {
        if seen(source) != trick.works {
            let works = if trick.works { "is not" } else { "is" };
            fault(
                "open",
                format!("{source} {works} seen outside: the test tests nothing"),
            );
        }
    }
    faults
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn no_frame_of_a_guest_gets_past_its_networks_policy() {
    check_router(|lab| {
        let players = Players::new(lab)?;
        let mut faults = Vec::new();
        for trick in TRICKS {
            let sniffer = Sniffer::start(&lab.wan)?;
            for player in players.all() {
                let sources = [player.inside()].into_iter().chain(player.foreign());
                for source in sources {
                    player.wire.send(&(trick.frame)(player, source))?;
                }
            }
            players.open.wire.send(&plain(&players.open, LAST))?;
            let judge = |packets: &[Ipv4]| judge_outside(trick, &players, packets);
            let packets =
                sniffer.finish_when(|packets| has_last(packets) && judge(packets).is_empty())?;
            ensure!(has_last(&packets), "{}: nothing arrives", trick.name);
            faults.extend(judge(&packets));
        }
        ensure!(faults.is_empty(), "{:#?}", faults);
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn no_frame_from_outside_gets_past_a_networks_policy() {
    check_router(|lab| {
        let players = Players::new(lab)?;
        let wire = Wire::new(&lab.wan, "wan0")?;
        let uplink = lab.hv.mac("uplink")?;
        let wan = lab.wan.mac("wan0")?;
        let mut faults = Vec::new();
        for trick in TRICKS {
            // Sent to the port's device or by the host's address, it is no other trick from here.
            if trick.name.contains("to the port's device") || trick.name.contains("by the host") {
                continue;
            }
            let mut sniffers = Vec::new();
            for player in players.all() {
                sniffers.push(Sniffer::start(player.guest.netns())?);
            }
            let sources = [OUTSIDE, Ipv4Addr::new(240, 9, 9, 9)];
            for player in players.all() {
                for source in sources {
                    let mut frame = (trick.frame)(player, source);
                    if frame.destination == player.network.gateway() {
                        frame.destination = HOST;
                        frame.options = vec![1, 131, 7, 4];
                        frame.options.extend(player.inside().octets());
                    } else {
                        frame.destination = player.inside();
                    }
                    // The checksum of TCP is the guest's to look at.
                    if frame.to == player.bridge {
                        frame.to = uplink;
                    }
                    frame.from = wan;
                    wire.send(&frame)?;
                }
            }
            let mut last = datagram(&players.open, LAST, players.open.inside());
            (last.to, last.from) = (uplink, wan);
            wire.send(&last)?;
            let names = ["isolated", "nat", "route", "open"];
            let sniffed = names.into_iter().zip(sniffers).zip(players.all());
            // The last one's first: what was sent before is there then, too.
            for ((name, sniffer), player) in sniffed.rev() {
                let arrived = |packets: &[Ipv4]| {
                    packets.iter().any(|packet| {
                        sources.contains(&packet.source) && packet.destination == player.inside()
                    })
                };
                let packets = match name {
                    "open" => sniffer.finish_when(|packets| {
                        has_last(packets) && arrived(packets) == trick.works
                    })?,
                    "route" if trick.name == "plain" => sniffer.finish_when(arrived)?,
                    _ => sniffer.finish()?,
                };
                ensure!(
                    name != "open" || has_last(&packets),
                    "{}: nothing arrives",
                    trick.name
                );
                let seen = arrived(&packets);
                let expected = match name {
                    "isolated" | "nat" => false,
                    // What a routed network gets by a way other than its own is not asked here.
                    "route" if trick.name != "plain" => continue,
                    _ => trick.works,
                };
                if seen != expected {
                    faults.push(format!("{}: {name}: arrived: {seen}", trick.name));
                }
            }
        }
        ensure!(faults.is_empty(), "{faults:#?}");
        Ok(())
    });
}

/// The flows as the programs hold them.
fn flows(lab: &Lab) -> Result<Vec<(FlowKey4, Flow4)>> {
    let path = lab.agent.bpffs().join(format!("v{VERSION}/maps/flows4"));
    let data = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
    let map: HashMap<_, FlowKey4, Flow4> = HashMap::try_from(Map::from_map_data(data)?)?;
    map.iter().map(|entry| Ok(entry?)).collect()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_forged_syn_makes_no_lasting_flow() {
    check(|lab| {
        lab.agent.start()?;
        let player = Player::new(lab, Network::nat("nat", 2), 2)?;
        player.guest.ping(&OUTSIDE.to_string())?;
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        // Nobody has this address, so nobody answers the answer.
        let nobody = player.network.address(77);
        let mut frame = Frame::tcp((nobody, 4077), (OUTSIDE, PORT), SYN, 5);
        (frame.to, frame.from) = (player.bridge, player.own);
        let sniffer = Sniffer::start(player.guest.netns())?;
        player.wire.send(&frame)?;
        let answered = |packets: &[Ipv4]| packets.iter().any(|packet| packet.destination == nobody);
        let answered = answered(&sniffer.finish_when(answered)?);
        ensure!(
            answered,
            "no SYN with ACK came back: the test tests nothing"
        );
        let flows = flows(lab)?;
        let forged: Vec<_> = flows
            .iter()
            .filter(|(key, flow)| key.src == nobody.octets() || flow.new_dst == nobody.octets())
            .collect();
        ensure!(forged.len() == 2, "{forged:?}");
        for (key, flow) in forged {
            let state = State::from_u8(flow.state);
            ensure!(state != State::Established, "{key:?}: {flow:?}");
            let timeout = DEFAULT_TIMEOUTS[Timeout::of(key.proto, state) as usize];
            ensure!(timeout <= ticks(120), "{key:?}: {flow:?}");
        }
        Ok(())
    });
}
