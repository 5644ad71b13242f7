//! A guest's way to the outside and back behind the host's address. Every test captures what
//! leaves the uplink, and none may show a private source there.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{FAR, HOST, OUTSIDE, at, check};
use netd_tests::packet::{ICMP, Ipv4, TCP, UDP};
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Network, SOON, Sniffer, eventually};

const PORT: u16 = 7000;

/// A lab with one NAT network and one guest, and the outside watched. Afterwards the capture is
/// checked, and handed to `look`.
fn nat(
    network: &Network,
    test: impl FnOnce(&mut Lab, &Guest) -> Result<()>,
    look: impl FnOnce(&[Ipv4]) -> Result<()>,
) {
    check(|lab| {
        lab.agent.start()?;
        let sniffer = Sniffer::start(&lab.wan)?;
        lab.up(network)?;
        let guest = lab.member(1, network)?;
        guest.ping(&network.gateway().to_string())?;
        test(lab, &guest)?;
        let packets = sniffer.finish()?;
        let private: Vec<_> = packets.iter().filter(|packet| is_private(packet)).collect();
        ensure!(
            private.is_empty(),
            "private sources at the uplink: {private:?}"
        );
        let quotes: Vec<_> = packets
            .iter()
            .filter(|packet| packet.source == HOST)
            .filter(|packet| {
                packet
                    .quoted()
                    .is_some_and(|quoted| quoted.destination.is_private())
            })
            .collect();
        ensure!(
            quotes.is_empty(),
            "private addresses quoted at the uplink: {quotes:?}"
        );
        look(&packets)
    });
}

fn is_private(packet: &Ipv4) -> bool {
    packet.source.octets()[0] == 10
}

/// How many packets of that protocol the host sent outside.
fn sent(packets: &[Ipv4], protocol: u8) -> usize {
    let of_host = packets.iter().filter(|packet| packet.source == HOST);
    of_host.filter(|packet| packet.protocol == protocol).count()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn tcp_udp_and_ping_reach_the_outside_and_come_back() {
    nat(
        &Network::default(),
        |lab, guest| {
            guest.ping(&OUTSIDE.to_string())?;
            let _udp = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
            let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
            for port in [5000, 5001] {
                let seen = traffic::answered_from(guest.netns(), port, at(OUTSIDE, PORT))?;
                // The guest's own port is kept where it is free.
                let wanted = SocketAddr::from((HOST, port));
                ensure!(seen == wanted, "{seen}, not {wanted}");
            }
            traffic::transfer(guest.netns(), at(OUTSIDE, PORT), 1000)?;
            traffic::refused(guest.netns(), at(OUTSIDE, PORT + 1)).context("a closed port")
        },
        |packets| {
            for protocol in [ICMP, UDP, TCP] {
                ensure!(
                    sent(packets, protocol) > 0,
                    "protocol {protocol} was never captured"
                );
            }
            Ok(())
        },
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_megabyte_comes_back_as_it_was_sent() {
    nat(
        &Network::default(),
        |lab, guest| {
            let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
            for offload in ["on", "off"] {
                // Whole segments and partial checksums, or packets as they go on a wire.
                for feature in ["tx", "tso", "gso"] {
                    ethtool(guest, feature, offload)?;
                }
                traffic::transfer(guest.netns(), at(OUTSIDE, PORT), 1 << 20)
                    .with_context(|| format!("offloads {offload}"))?;
            }
            Ok(())
        },
        |packets| {
            ensure!(
                sent(packets, TCP) > 20,
                "too few segments: {}",
                sent(packets, TCP)
            );
            Ok(())
        },
    );
}

/// Switches an offload where ethtool is there; the kernel's defaults are tested in any case.
fn ethtool(guest: &Guest, feature: &str, value: &str) -> Result<()> {
    if netd_tests::output(std::process::Command::new("ethtool").arg("--version")).is_err() {
        eprintln!("ethtool is not installed: offload {feature} stays as it is");
        return Ok(());
    }
    guest
        .netns()
        .run(["ethtool", "-K", "eth0", feature, value])?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn two_guests_with_one_source_port_are_told_apart() {
    nat(
        &Network::default(),
        |lab, one| {
            let other = lab.member(2, &Network::default())?;
            let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
            let mut ports = Vec::new();
            for guest in [one, &other] {
                let seen = traffic::answered_from(guest.netns(), 5000, at(OUTSIDE, PORT))?;
                ports.push(seen.port());
            }
            ensure!(
                ports[0] == 5000 && ports[1] != 5000 && ports[1] >= 1024,
                "{ports:?}"
            );
            Ok(())
        },
        |_| Ok(()),
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p14_a_guest_never_appears_with_a_privileged_port() {
    nat(
        &Network::default(),
        |lab, guest| {
            let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
            let seen = traffic::answered_from(guest.netns(), 700, at(OUTSIDE, PORT))?;
            ensure!(seen.port() >= 1024, "{seen}");
            Ok(())
        },
        |_| Ok(()),
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p17_the_path_mtu_towards_the_outside_is_discovered() {
    nat(
        &Network::default(),
        |lab, guest| {
            let far = lab.far(1300)?;
            let _udp = Server::udp(&far, at(FAR, PORT))?;
            let _tcp = Server::tcp_echo(&far, at(FAR, PORT))?;
            let socket = guest.netns().udp("0.0.0.0:0")?;
            socket.connect(at(FAR, PORT))?;
            // The kernel sets "don't fragment" by default, so a router outside must complain.
            socket.send(&[1; 1400])?;
            // The complaint is about this very socket, as the guest knows it.
            eventually(SOON, || {
                let error = socket.take_error()?.context("the guest did not learn")?;
                let expected = rustix::io::Errno::MSGSIZE.raw_os_error();
                ensure!(error.raw_os_error() == Some(expected), "{error}");
                Ok(())
            })?;
            let route = guest
                .netns()
                .run(["ip", "route", "get", &FAR.to_string()])?;
            ensure!(
                route.contains("mtu 1300"),
                "the guest learned something else: {route}"
            );
            socket.send(&[2; 1200])?;
            let length = socket.recv(&mut [0; 2000])?;
            ensure!(length == 1200, "{length} bytes came back");
            traffic::transfer(guest.netns(), at(FAR, PORT), 1 << 20)
        },
        |packets| {
            let complaints = packets
                .iter()
                .filter(|packet| packet.icmp() == Some((3, 4)));
            ensure!(
                complaints.count() > 0,
                "no router complained: the test tests nothing"
            );
            Ok(())
        },
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p33_the_host_tells_the_outside_its_smaller_mtu() {
    let network = Network::default().with("<mtu size='1300'/>");
    nat(
        &network,
        |lab, guest| {
            // The sniffer is to see whole checksums.
            lab.wan.run(["ethtool", "-K", "wan0", "tx", "off"])?;
            let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
            let outside = lab.wan.udp(at(OUTSIDE, PORT))?;
            let inside = guest.netns().udp("0.0.0.0:5000")?;
            inside.send_to(b"hello", at(OUTSIDE, PORT))?;
            let (_, peer) = outside
                .recv_from(&mut [0; 16])
                .context("the first datagram")?;
            outside.send_to(&[1; 1400], peer)?;
            eventually(SOON, || {
                let route = lab.wan.run(["ip", "route", "get", &HOST.to_string()])?;
                ensure!(route.contains("mtu 1300"), "outside did not learn: {route}");
                Ok(())
            })?;
            outside.send_to(&[2; 1200], peer)?;
            let length = inside
                .recv(&mut [0; 2000])
                .context("a datagram that fits")?;
            ensure!(length == 1200, "{length} bytes arrived");
            // The guest does not know of the bridge's MTU here; TCP finds out by itself.
            traffic::transfer(guest.netns(), at(OUTSIDE, PORT), 1 << 20)
        },
        |packets| {
            let complaint = packets.iter().find(|packet| packet.icmp() == Some((3, 4)));
            let complaint = complaint.context("no complaint was captured")?;
            ensure!(complaint.icmp_checksum_is_right(), "{complaint:?}");
            let quoted = complaint.quoted().context("it quotes nothing")?;
            // What it quotes is the packet as the outside knows it.
            ensure!(
                quoted.source == OUTSIDE && quoted.destination == HOST,
                "{quoted:?}"
            );
            Ok(())
        },
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p18_traceroute_shows_every_hop() {
    nat(
        &Network::default(),
        |lab, guest| {
            let _far = lab.far(1500)?;
            let hops = [Network::default().gateway(), OUTSIDE, FAR].map(|hop| hop.to_string());
            for options in [["-n", "-q1", "-w2"].as_slice(), &["-n", "-q1", "-w2", "-I"]] {
                let far = FAR.to_string();
                // Who answers late on a busy machine has not answered.
                eventually(SOON, || {
                    let command = ["busybox", "traceroute"].into_iter();
                    let command = command.chain(options.iter().copied()).chain([far.as_str()]);
                    let text = guest.netns().run(command)?;
                    let seen: Vec<_> = text
                        .lines()
                        .skip(1)
                        .filter_map(|line| line.split_whitespace().nth(1))
                        .collect();
                    ensure!(seen == hops, "traceroute {options:?}:\n{text}");
                    Ok(())
                })?;
            }
            Ok(())
        },
        |_| Ok(()),
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p34_a_forwarded_packet_loses_one_hop_of_its_time_to_live() {
    nat(
        &Network::default(),
        |lab, guest| {
            let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
            for _ in 0..3 {
                // The first packet of the flow, and later ones that take the short way.
                traffic::answered_from(guest.netns(), 5000, at(OUTSIDE, PORT))?;
            }
            Ok(())
        },
        |packets| {
            let asked: Vec<_> = packets
                .iter()
                .filter(|packet| packet.source == HOST && packet.source_port() == Some(5000))
                .map(|packet| packet.ttl)
                .collect();
            // A question may have been asked again.
            let right = asked.len() >= 3 && asked.iter().all(|ttl| *ttl == 63);
            ensure!(right, "times to live: {asked:?}");
            Ok(())
        },
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p44_what_cannot_be_translated_does_not_leave() {
    nat(
        &Network::default(),
        |_, guest| {
            use rustix::net::{AddressFamily, Protocol, RawProtocol, SendFlags, SocketType};
            guest.ping(&OUTSIDE.to_string())?;
            for protocol in [2_u32, 47, 50, 132, 253] {
                let protocol = RawProtocol::new(protocol).map(Protocol::from_raw);
                guest.netns().enter(|| -> Result<()> {
                    let raw = rustix::net::socket(AddressFamily::INET, SocketType::RAW, protocol)?;
                    let to: SocketAddr = at(OUTSIDE, 0).into();
                    rustix::net::sendto(&raw, &[0; 40], SendFlags::empty(), &to)?;
                    Ok(())
                })??;
            }
            // Fragments, broadcasts and multicasts.
            guest.netns().enter(|| -> std::io::Result<()> {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.set_broadcast(true)?;
                socket.send_to(&[0; 60], at(Ipv4Addr::BROADCAST, PORT))?;
                socket.send_to(&[0; 60], "224.0.0.251:5353")?;
                socket.send_to(&[0; 60], "239.1.2.3:5353")?;
                Ok(())
            })??;
            guest.netns().run(["ip", "route", "flush", "cache"])?;
            let text = OUTSIDE.to_string();
            let _ = guest
                .netns()
                .output(["busybox", "ping", "-c", "1", "-W", "1", "-s", "5000", &text])?;
            guest.ping(&OUTSIDE.to_string())?;
            Ok(())
        },
        |packets| {
            ensure!(sent(packets, ICMP) > 0, "not even ping was captured");
            Ok(())
        },
    );
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p24_icmp_errors_for_unknown_flows_reach_no_guest() {
    nat(
        &Network::default(),
        |lab, guest| {
            use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto};
            let inside = Sniffer::start(guest.netns())?;
            // "port unreachable" about a datagram that nobody sent.
            let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
            message.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 63, UDP, 0, 0]);
            message.extend(HOST.octets());
            message.extend(OUTSIDE.octets());
            message.extend([0x13, 0x88, 0x1b, 0x58, 0, 8, 0, 0]);
            let sum = message.chunks(2).fold(0_u32, |sum, pair| {
                sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]))
            });
            let folded = (sum & 0xffff) + (sum >> 16);
            let folded = (folded & 0xffff) + (folded >> 16);
            message[2..4].copy_from_slice(&(!folded as u16).to_be_bytes());
            lab.wan.enter(|| -> Result<()> {
                let raw =
                    rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
                let to: SocketAddr = at(HOST, 0).into();
                rustix::net::sendto(&raw, &message, SendFlags::empty(), &to)?;
                Ok(())
            })??;
            let packets = inside.finish()?;
            let errors = packets
                .iter()
                .filter(|packet| packet.icmp() == Some((3, 3)));
            ensure!(errors.count() == 0, "{packets:?}");
            Ok(())
        },
        |_| Ok(()),
    );
}
