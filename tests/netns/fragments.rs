//! Datagrams larger than a packet, through NAT and back.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::packet::{ICMP, Ipv4, UDP};
use netd_tests::socket::Receive as _;
use netd_tests::traffic::{self, Server};
use netd_tests::{Frame, Guest, Lab, Netns, Network, Sniffer, Wire};

const PORT: u16 = 7000;
const LARGE: usize = 8000;

/// A lab with one guest that knows its way out. Nothing private may be seen outside meanwhile;
/// what was seen is handed to `look`.
fn natted(
    test: impl FnOnce(&mut Lab, &Guest) -> Result<()>,
    look: impl FnOnce(&[Ipv4]) -> Result<()>,
) {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let sniffer = Sniffer::start(&lab.wan)?;
        let outcome = test(lab, &guest);
        let packets = sniffer.finish()?;
        outcome?;
        for packet in &packets {
            ensure!(!packet.source.is_private(), "a private source: {packet:?}");
        }
        look(&packets)
    });
}

/// Content that tells every place from every other.
fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at / 251) as u8 ^ (at % 251) as u8 ^ seed)
        .collect()
}

/// The next datagram is `expected`.
fn receive(socket: &UdpSocket, expected: &[u8], what: &str) -> Result<std::net::SocketAddr> {
    let mut buffer = vec![0; 65_536];
    let (length, from) = socket
        .receive_from(&mut buffer)
        .with_context(|| format!("{what} did not arrive"))?;
    ensure!(length == expected.len(), "{what}: {length} bytes arrived");
    ensure!(&buffer[..length] == expected, "{what}: other content");
    Ok(from)
}

/// Sends datagrams of that length to and fro; the guest's first opens the flow.
fn exchange(lab: &Lab, guest: &Guest, length: usize) -> Result<()> {
    let outside = lab.wan.udp(("0.0.0.0", PORT))?;
    let inside = guest.netns().udp(("0.0.0.0", 5000))?;
    for round in 0..4 {
        let out = content(round, length);
        inside.send_to(&out, at(OUTSIDE, PORT))?;
        let what = format!("datagram {round} of the guest");
        let peer = receive(&outside, &out, &what)?;
        ensure!(peer == at(HOST, 5000).into(), "{what} came from {peer}");
        let back = content(round ^ 0x80, length);
        outside.send_to(&back, peer)?;
        receive(&inside, &back, &format!("answer {round}"))?;
    }
    Ok(())
}

fn fragments_from(packets: &[Ipv4], source: std::net::Ipv4Addr, protocol: u8) -> usize {
    let of = packets.iter().filter(|packet| packet.source == source);
    of.filter(|packet| packet.protocol == protocol && packet.is_fragment())
        .count()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p25_large_datagrams_pass_both_ways() {
    natted(
        |lab, guest| exchange(lab, guest, LARGE),
        |packets| {
            for source in [HOST, OUTSIDE] {
                let count = fragments_from(packets, source, UDP);
                ensure!(count >= 4 * 6, "only {count} fragments of {source}");
            }
            Ok(())
        },
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p25_an_answer_may_be_the_only_large_datagram() {
    natted(
        |lab, guest| {
            let outside = lab.wan.udp(("0.0.0.0", PORT))?;
            let inside = guest.netns().udp(("0.0.0.0", 5000))?;
            // A resolver's client asks briefly and gets much.
            inside.send_to(b"all of it", at(OUTSIDE, PORT))?;
            let peer = receive(&outside, b"all of it", "the question")?;
            let answer = content(7, LARGE);
            outside.send_to(&answer, peer)?;
            receive(&inside, &answer, "the answer")?;
            // And the other way round.
            let report = content(8, LARGE);
            inside.send_to(&report, at(OUTSIDE, PORT))?;
            receive(&outside, &report, "the report")?;
            outside.send_to(b"thanks", peer)?;
            receive(&inside, b"thanks", "the receipt")?;
            Ok(())
        },
        |_| Ok(()),
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p25_large_pings_pass_both_ways() {
    natted(
        |lab, guest| {
            let ping = |netns: &Netns, to: std::net::Ipv4Addr| -> Result<()> {
                let (size, to) = (LARGE.to_string(), to.to_string());
                let command = ["busybox", "ping", "-c", "3", "-i", "0.2", "-W", "30", "-s"];
                let output = netns.output(command.into_iter().chain([&*size, &to]))?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                ensure!(text.contains(" 0% packet loss"), "ping {to}:\n{text}");
                Ok(())
            };
            let gateway = Network::default().gateway();
            // The host's own are not netd's business, and stay possible.
            ping(guest.netns(), gateway).context("guest to host")?;
            ping(&lab.wan, HOST).context("outside to host")?;
            ping(&lab.hv, OUTSIDE).context("host to outside")?;
            ping(guest.netns(), OUTSIDE).context("guest to outside")
        },
        |packets| {
            let count = fragments_from(packets, HOST, ICMP);
            ensure!(count >= 9, "only {count} fragments of pings");
            Ok(())
        },
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p25_fragments_of_two_guests_are_told_apart() {
    natted(
        |lab, guest| {
            let network = Network::default();
            let sibling = lab.member(2, &network)?;
            sibling.ping(&OUTSIDE.to_string())?;
            let outside = lab.wan.udp(("0.0.0.0", PORT))?;
            let bridge = lab.hv.mac("virbr1")?;
            let sender = |guest: &Guest, host: u8| -> Result<(Wire, Vec<u8>, Frame)> {
                let data = content(host, 4000);
                let source = (network.address(host), 5000 + u16::from(host));
                let datagram = Frame::udp(source, (OUTSIDE, PORT), &data)
                    .with_udp_checksum()
                    .between(guest.netns().mac("eth0")?, bridge);
                Ok((Wire::new(guest.netns(), "eth0")?, data, datagram))
            };
            let mut senders = [sender(guest, 11)?, sender(&sibling, 12)?];
            for id in [[300, 301], [302, 302], [303, 303]] {
                // Both have the same number by chance. Outside they have the same source, too.
                for ((_, _, datagram), id) in senders.iter_mut().zip(id) {
                    datagram.id = id;
                }
                for place in 0..3 {
                    for (wire, _, datagram) in &senders {
                        wire.send(&datagram.fragments(1480)[place])?;
                    }
                }
                let mut arrived = Vec::new();
                let mut buffer = vec![0; 65_536];
                for _ in &senders {
                    let (length, _) = outside
                        .receive_from(&mut buffer)
                        .with_context(|| format!("{} of 2 with {id:?}", arrived.len()))?;
                    arrived.push(buffer[..length].to_vec());
                }
                for (_, data, _) in &senders {
                    ensure!(arrived.contains(data), "with {id:?} they were mixed");
                }
            }
            Ok(())
        },
        |_| Ok(()),
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p27_what_looks_like_ports_in_a_later_fragment_is_none() {
    natted(
        |lab, guest| {
            let source = Network::default().address(11);
            let (own, bridge) = (guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?);
            let sibling = lab.member(2, &Network::default())?;
            let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
            let ask = |guest: &Guest, port| -> Result<u16> {
                let seen = traffic::answered_from(guest.netns(), port, at(OUTSIDE, PORT));
                let seen = seen.with_context(|| format!("{} from {port}", guest.hostname))?;
                Ok(seen.port())
            };
            ensure!(ask(guest, 5000)? == 5000, "the flow to imitate");
            let at_guest = Sniffer::start(guest.netns())?;
            let at_wan = Sniffer::start(&lab.wan)?;
            let wires = [
                (Wire::new(guest.netns(), "eth0")?, own, bridge),
                (
                    Wire::new(&lab.wan, "wan0")?,
                    lab.wan.mac("wan0")?,
                    lab.hv.mac("uplink")?,
                ),
            ];
            let tuples = [
                // Imitates the flow, or would open one.
                (0, (source, 5000), (OUTSIDE, PORT)),
                (0, (source, 6000), (OUTSIDE, PORT)),
                (1, (OUTSIDE, PORT), (HOST, 5000)),
                (1, (OUTSIDE, PORT), (HOST, 6000)),
            ];
            for (id, (way, from, to)) in (900..).zip(tuples) {
                // Middle and last fragments, near and far: none has a first one.
                for place in [0x2001, 0x20b9, 0x00b9, 0x1000] {
                    let (wire, from_mac, to_mac) = &wires[way];
                    let mut frame =
                        Frame::udp(from, to, b"no header at all").between(*from_mac, *to_mac);
                    (frame.fragment, frame.id) = (place, id);
                    wire.send(&frame)?;
                }
            }
            // Both ways once more, behind them.
            ensure!(ask(guest, 5000)? == 5000, "the flow to imitate, later");
            let stray = |packets: &[Ipv4], source| {
                let later = packets.iter().filter(|packet| packet.later_fragment);
                later.filter(|packet| packet.source == source).count()
            };
            let inside = stray(&at_guest.finish()?, OUTSIDE);
            ensure!(inside == 0, "{inside} fragments reached the guest");
            let outside = stray(&at_wan.finish()?, HOST);
            ensure!(outside == 0, "{outside} fragments left as the host's");
            // A flow in the name of port 6000 would keep the sibling from having it; one does.
            ensure!(
                ask(&sibling, 6000)? == 6000,
                "a fragment opened a flow from port 6000"
            );
            ensure!(
                ask(guest, 6000)? != 6000,
                "one port for two guests, or the check above checks nothing"
            );
            Ok(())
        },
        |_| Ok(()),
    );
}

fn cut_at_the_uplink(lab: &Lab, guest: &Guest) -> Result<()> {
    use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
    let inside = guest.netns().udp(("0.0.0.0", 5001))?;
    let outside = lab.wan.udp(("0.0.0.0", PORT + 1))?;
    for socket in [&inside, &outside] {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?;
    }
    // One packet for the guest, two for the uplink; the second round takes the short way.
    for round in 0..3 {
        let data = content(round, 1400);
        inside.send_to(&data, at(OUTSIDE, PORT + 1))?;
        let what = format!("1400 bytes, round {round}");
        let peer = receive(&outside, &data, &what)?;
        outside.send_to(&data, peer)?;
        receive(&inside, &data, &format!("the answer to {what}"))?;
    }
    exchange(lab, guest, LARGE).context("fragments cut again")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p25_what_is_too_large_for_the_uplink_is_cut_there() {
    natted(
        |lab, guest| {
            let narrow = |mtu: &str| lab.hv.run(["ip", "link", "set", "uplink", "mtu", mtu]);
            narrow("1300")?;
            lab.wan.run(["ip", "link", "set", "wan0", "mtu", "1300"])?;
            let outcome = lab.settled().and_then(|()| cut_at_the_uplink(lab, guest));
            narrow("1500")?;
            outcome
        },
        |packets| {
            let mut of_host = packets.iter().filter(|packet| packet.source == HOST);
            let large = of_host.find(|packet| packet.length > 1300);
            ensure!(large.is_none(), "larger than the uplink: {large:?}");
            let count = fragments_from(packets, HOST, UDP);
            ensure!(count >= 6, "only {count} fragments");
            Ok(())
        },
    );
}
