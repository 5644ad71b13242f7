//! What the host's own stack carries for guests, IP options say: it arrives, or is counted as lost.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::published::{both, forwards};
use netd_tests::traffic::{self, Load, Server};
use netd_tests::{Frame, Guest, Lab, Losses, Netns, Network, SOON, Wire, eventually};

const PORT: u16 = 7;
/// Time for an answer, before the question is sent again: by then the one before has come out of the stack.
const TRY: Duration = Duration::from_secs(1);

/// Somebody who asks with the option "record route", of no use to anybody (RFC 791, section 3.1), which
/// makes packets the stack's.
struct Asker {
    socket: UdpSocket,
    wire: Wire,
    frame: Frame,
}

impl Asker {
    fn new(
        lab: &Lab,
        (netns, device): (&Netns, &str),
        gateway: &str,
        to: SocketAddrV4,
    ) -> Result<Self> {
        let socket = netns.udp(at(Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(TRY))?;
        // Only whom it asks answers it.
        socket.connect(to)?;
        let SocketAddr::V4(own) = socket.local_addr()? else {
            bail!("an IPv4 socket has another address");
        };
        let macs = (netns.mac(device)?, lab.hv.mac(gateway)?);
        let own = (*own.ip(), own.port());
        let mut frame = Frame::udp(own, (*to.ip(), to.port()), b"x").between(macs.0, macs.1);
        frame.options = vec![7, 7, 4, 0, 0, 0, 0, 0];
        let wire = Wire::new(netns, device)?;
        Ok(Self {
            socket,
            wire,
            frame,
        })
    }

    fn guest(lab: &Lab, guest: &Guest, network: &Network, to: SocketAddrV4) -> Result<Self> {
        Self::new(lab, (guest.netns(), "eth0"), &network.bridge(), to)
    }

    fn send(&self) -> Result<()> {
        self.wire.send(&self.frame)
    }

    fn is_answered(&self) -> Result<()> {
        let mut asked = 0;
        eventually(SOON, || {
            self.send()?;
            asked += 1;
            self.socket.recv(&mut [0; 64])?;
            Ok(())
        })?;
        // None is on its way any more.
        for _ in 1..asked {
            if self.socket.recv(&mut [0; 64]).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// A network that publishes a port of its guest's, and that guest.
fn publisher(lab: &Lab, network: Network, number: u8) -> Result<(Network, Guest, Server)> {
    let guest = network.address(10 + number);
    let port = published(number).port();
    let network = network.with(&forwards(&both("", &guest.to_string(), port, PORT)));
    lab.up(&network)?;
    let member = lab.member(number, &network)?;
    let server = Server::udp(member.netns(), at(guest, PORT))?;
    // Each neighbour is known: a packet that waits in the stack until one is would count as lost there when the
    // next one comes.
    member.ping(&network.gateway().to_string())?;
    lab.settled()?;
    Ok((network, member, server))
}

fn published(number: u8) -> SocketAddrV4 {
    at(HOST, 5000 + u16::from(number))
}

fn drop_forwarded(lab: &Lab) -> Result<()> {
    let drop = "table inet t { chain c { type filter hook forward priority 0; policy drop; }\n}";
    let file = lab.agent.file("drop.nft", drop)?;
    lab.hv.run(["nft", "-f", &file]).map(|_| ())
}

/// Sends three, of which two are known to be lost by then, and counts from `before`.
fn two_are_lost(lab: &Lab, asker: &Asker, before: u64) -> Result<()> {
    for _ in 0..3 {
        asker.send()?;
    }
    eventually(SOON, || {
        let lost = lab.agent.dropped("lost_in_stack")? - before;
        ensure!(lost == 2, "{lost}: the last is not known to be lost yet");
        Ok(())
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn options_reach_what_another_network_publishes() {
    check(|lab| {
        lab.agent.start()?;
        let networks = [
            Network::nat("one", 1),
            Network::nat("two", 2),
            Network::route("three", 3),
            Network::route("four", 4),
        ];
        let mut all = Vec::new();
        for (network, number) in networks.into_iter().zip(1..) {
            all.push((publisher(lab, network, number)?, number));
        }
        for ((network, guest, _), from) in &all {
            for (_, to) in all.iter().filter(|(_, to)| to != from) {
                let asker = Asker::guest(lab, guest, network, published(*to))?;
                for _ in 0..3 {
                    asker
                        .is_answered()
                        .map_err(|error| error.context(format!("network {from} to {to}")))?;
                }
            }
        }
        ensure!(lab.agent.drops()?.is_empty(), "{:?}", lab.agent.drops()?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn options_to_something_published_are_counted_when_they_are_lost() {
    check(|lab| {
        lab.agent.start()?;
        let (network, guest, _server) = publisher(lab, Network::default(), 1)?;
        let (_, _other, _others) = publisher(lab, Network::nat("other", 2), 2)?;
        let askers = [
            Asker::new(lab, (&lab.wan, "wan0"), "uplink", published(1))?,
            Asker::guest(lab, &guest, &network, published(2))?,
        ];
        for asker in &askers {
            asker.is_answered()?;
        }
        let mut before = lab.agent.dropped("lost_in_stack")?;
        drop_forwarded(lab)?;
        for asker in &askers {
            two_are_lost(lab, asker, before)?;
            before += 2;
        }
        lab.hv.run(["nft", "flush", "ruleset"])?;
        for asker in &askers {
            for _ in 0..3 {
                asker.is_answered()?;
            }
        }
        let lost = lab.agent.dropped("lost_in_stack")?;
        ensure!(lost == before + 2, "{lost}: what comes out is not lost");
        Ok(())
    });
}

/// What comes by an uplink at which somebody has filters takes the stack behind them.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_comes_by_a_filtered_uplink_is_counted_when_it_is_lost() {
    check(|lab| {
        lab.agent.start()?;
        let (_, guest, _server) = publisher(lab, Network::default(), 1)?;
        let _outside = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        guest.ping(&OUTSIDE.to_string())?;
        let answered = || -> Result<()> {
            for (netns, to) in [(guest.netns(), at(OUTSIDE, PORT)), (&lab.wan, published(1))] {
                traffic::answered(netns, to)?;
            }
            Ok(())
        };
        lab.hv
            .run(["tc", "qdisc", "add", "dev", "uplink", "clsact"])?;
        let filter = "tc filter add dev uplink ingress prio 1 protocol ip u32 match ip src 192.0.2.1/32 \
                      flowid :1";
        lab.hv.run(filter.split_whitespace())?;
        answered()?;
        let all = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&all)?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, PORT))?;
        load.reach(100)?;
        before.account_for(&load.finish()?, &all)?;
        ensure!(lab.agent.drops()?.is_empty(), "{:?}", lab.agent.drops()?);
        drop_forwarded(lab)?;
        let lost = || lab.agent.dropped("lost_in_stack");
        for (netns, to) in [(guest.netns(), at(OUTSIDE, PORT)), (&lab.wan, published(1))] {
            let before = lost()?;
            let socket = netns.udp(at(Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to)?;
            eventually(SOON, || {
                socket.send(b"x")?;
                let lost = lost()? - before;
                ensure!(lost >= 3, "{lost} of those to {to} were counted");
                Ok(())
            })?;
        }
        lab.hv.run(["nft", "flush", "ruleset"])?;
        answered()?;
        let before = lost()?;
        answered()?;
        ensure!(lost()? == before, "what comes out is not lost");
        lab.hv
            .run(["tc", "qdisc", "del", "dev", "uplink", "clsact"])?;
        Ok(())
    });
}
