//! What routers say about a guest's packets reaches the guest, and what the host has to say as a
//! router is said.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{FAR, HOST, OUTSIDE, at, check_guest};
use netd_tests::packet::{ICMP, Ipv4, TCP, UDP};
use netd_tests::traffic::{self, Load, Server};
use netd_tests::{Frame, Guest, Lab, Losses, Network, SOON, Sniffer, Wire, eventually};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover, set_ip_ttl};

const PORT: u16 = 7000;
const UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
/// Address of guest 1.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 11);
const ACK: u8 = 0x10;

fn gateway() -> Ipv4Addr {
    Network::default().gateway()
}

/// The ICMP errors of that kind in a capture, each with its quote; their checksums must be right.
fn errors(packets: &[Ipv4], kind: u8, code: u8) -> Result<Vec<(Ipv4, Ipv4)>> {
    let right = packets
        .iter()
        .filter(|packet| packet.icmp() == Some((kind, code)));
    right
        .map(|packet| {
            ensure!(packet.icmp_checksum_is_right(), "checksum: {packet:?}");
            let quoted = packet.quoted().context("an error quotes nothing")?;
            Ok((packet.clone(), quoted))
        })
        .collect()
}

/// Checksums are made in software, so that a sniffer sees them whole: netd's answers quote what is still to be
/// filled in, which then is filled in.
fn complete_checksums(guest: &Guest) -> Result<()> {
    guest.netns().run(["ethtool", "-K", "eth0", "tx", "off"])?;
    Ok(())
}

/// What a guest knows of a path, sooner or later.
fn learned(guest: &Guest, to: Ipv4Addr, mtu: u32) -> Result<()> {
    eventually(SOON, || learned_now(guest, to, mtu))
}

fn learned_now(guest: &Guest, to: Ipv4Addr, mtu: u32) -> Result<()> {
    let route = guest.netns().run(["ip", "route", "get", &to.to_string()])?;
    ensure!(route.contains(&format!("mtu {mtu}")), "{route}");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p17_tcp_learns_of_a_narrow_link_behind_the_first_router() {
    check_guest(|lab, guest| {
        let far = lab.far(1300)?;
        let _server = Server::tcp_echo(&far, at(FAR, PORT))?;
        // The far end must not tell TCP in its handshake what the path takes.
        far.run(["ip", "link", "set", "far0", "mtu", "1500"])?;
        let sniffer = Sniffer::start(guest.netns())?;
        traffic::transfer(guest.netns(), at(FAR, PORT), 1 << 20)?;
        learned(guest, FAR, 1300)?;
        let complaints = errors(&sniffer.finish()?, UNREACHABLE, 4)?;
        ensure!(!complaints.is_empty(), "no router complained");
        for (complaint, quoted) in complaints {
            ensure!(
                complaint.source == OUTSIDE && complaint.destination == GUEST,
                "{complaint:?}"
            );
            // As the guest sent it, ports included.
            ensure!(
                quoted.source == GUEST && quoted.destination == FAR && quoted.protocol == TCP,
                "{quoted:?}"
            );
            ensure!(quoted.destination_port() == Some(PORT), "{quoted:?}");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p18_traceroute_shows_every_hop_by_udp_icmp_and_tcp() {
    check_guest(|lab, guest| {
        let far = lab.far(1500)?;
        let _server = Server::tcp_echo(&far, at(FAR, PORT))?;
        let hops = [gateway(), OUTSIDE, FAR].map(|hop| hop.to_string());
        let (far, port) = (FAR.to_string(), PORT.to_string());
        for method in [
            [].as_slice(),
            &["-U", "-p", "53"],
            &["-I"],
            &["-T", "-p", "80"],
            &["-T", "-p", &port],
        ] {
            // Several probes of each hop, and several hops at a time.
            // Who answers late on a busy machine has not answered.
            eventually(SOON, || {
                let command = ["traceroute", "-n", "-q", "2", "-w", "2"].into_iter();
                let command = command.chain(method.iter().copied()).chain([far.as_str()]);
                let text = guest.netns().run(command)?;
                let seen: Vec<_> = text
                    .lines()
                    .skip(1)
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

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p33_a_guest_is_told_that_the_uplink_takes_less() {
    check_guest(|lab, guest| {
        lab.hv.run(["ip", "link", "set", "uplink", "mtu", "1300"])?;
        // The outside sends no more than the cable takes, but does not say so: the guest is to be told by
        // the host.
        let wan = |words: &str| lab.wan.run(words.split(' '));
        wan("ip link set wan0 mtu 1300")?;
        wan(&format!(
            "ip route replace {HOST}/32 dev wan0 src {OUTSIDE} advmss 1460"
        ))?;
        let outcome = told_of_the_uplink(lab, guest);
        lab.hv.run(["ip", "link", "set", "uplink", "mtu", "1500"])?;
        outcome
    });
}

fn told_of_the_uplink(lab: &Lab, guest: &Guest) -> Result<()> {
    complete_checksums(guest)?;
    let _udp = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
    let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
    let [first, socket] = [4999, 5000].map(|port| guest.netns().udp(("0.0.0.0", port)));
    let (first, socket) = (first?, socket?);
    // As it comes, whatever the guest has learned: each is too large.
    for socket in [&first, &socket] {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?;
    }
    // The agent hears of the change a moment later, and so does the guest.
    eventually(SOON, || {
        first.send_to(&[0; 1400], at(OUTSIDE, PORT))?;
        learned_now(guest, OUTSIDE, 1300)
    })?;
    let sniffer = Sniffer::start(guest.netns())?;
    for round in 0..3 {
        socket.send_to(&[1; 1400], at(OUTSIDE, PORT))?;
        std::thread::sleep(Duration::from_millis(100));
        if round == 0 {
            // From now on there is a flow, with a short way.
            socket.send_to(&[2; 1200], at(OUTSIDE, PORT))?;
            let (length, _) = socket.recv_from(&mut [0; 2000]).context("what fits")?;
            ensure!(length == 1200, "{length} bytes came back");
        }
    }
    let is_complaint = |packet: &&Ipv4| {
        let quoted = packet.quoted().and_then(|quoted| quoted.source_port());
        packet.icmp() == Some((UNREACHABLE, 4)) && quoted == Some(5000)
    };
    let seen = sniffer.finish_when(|seen| seen.iter().filter(is_complaint).count() >= 3)?;
    let seen: Vec<Ipv4> = seen.iter().filter(is_complaint).cloned().collect();
    let complaints = errors(&seen, UNREACHABLE, 4)?;
    ensure!(complaints.len() == 3, "3 expected: {complaints:?}");
    for (complaint, quoted) in complaints {
        ensure!(
            complaint.source == gateway(),
            "not the gateway: {complaint:?}"
        );
        ensure!(
            quoted.source == GUEST && quoted.source_port() == Some(5000),
            "{quoted:?}"
        );
        ensure!(complaint.payload[6..8] == 1300_u16.to_be_bytes(), "the MTU");
    }
    learned(guest, OUTSIDE, 1300)?;
    traffic::transfer(guest.netns(), at(OUTSIDE, PORT), 1 << 20).context("TCP")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p34_a_hop_is_taken_off_once_and_the_last_one_is_reported() {
    check_guest(|lab, guest| {
        complete_checksums(guest)?;
        lab.wan.run(["ethtool", "-K", "wan0", "tx", "off"])?;
        let outside = lab.wan.udp(at(OUTSIDE, PORT))?;
        let inside = guest.netns().udp(("0.0.0.0", 5000))?;
        let (at_wan, at_guest) = (Sniffer::start(&lab.wan)?, Sniffer::start(guest.netns())?);
        let mut buffer = [0; 64];
        // The first packet, and later ones that take the short way.
        for ttl in [64, 64, 64, 9, 3, 2] {
            for socket in [&inside, &outside] {
                set_ip_ttl(socket, ttl)?;
            }
            inside.send_to(b"out", at(OUTSIDE, PORT))?;
            let (_, peer) = outside.recv_from(&mut buffer).context("a datagram")?;
            outside.send_to(b"back", peer)?;
            inside.recv_from(&mut buffer).context("its answer")?;
        }
        for socket in [&inside, &outside] {
            set_ip_ttl(socket, 1)?;
        }
        let fresh = guest.netns().udp(("0.0.0.0", 5001))?;
        set_ip_ttl(&fresh, 1)?;
        inside.send_to(b"dies", at(OUTSIDE, PORT))?;
        fresh.send_to(b"dies", at(OUTSIDE, PORT))?;
        // The socket hears of it as an error of its next call, and then goes on.
        outside.send_to(b"dies", at(HOST, 5000))?;
        let dead = |count| {
            move |packets: &[Ipv4]| {
                let told = packets
                    .iter()
                    .filter(|packet| packet.icmp() == Some((TIME_EXCEEDED, 0)));
                told.count() >= count
            }
        };
        let (at_wan, at_guest) = (at_wan.finish_when(dead(1))?, at_guest.finish_when(dead(2))?);

        let hops = |packets: &[Ipv4], source| -> Vec<u8> {
            let of = packets.iter().filter(|packet| packet.source == source);
            of.filter(|packet| packet.protocol == UDP)
                .map(|packet| packet.ttl)
                .collect()
        };
        let left = hops(&at_wan, HOST);
        ensure!(left == [63, 63, 63, 8, 2, 1], "left with {left:?}");
        let arrived = hops(&at_guest, OUTSIDE);
        ensure!(arrived == [63, 63, 63, 8, 2, 1], "arrived with {arrived:?}");

        let told = errors(&at_guest, TIME_EXCEEDED, 0)?;
        ensure!(told.len() == 2, "the guest heard {told:?}");
        let mut ports = BTreeSet::new();
        for (error, quoted) in &told {
            ensure!(error.source == gateway(), "{error:?}");
            ports.extend(quoted.source_port());
        }
        ensure!(ports == BTreeSet::from([5000, 5001]), "{told:?}");
        let told = errors(&at_wan, TIME_EXCEEDED, 0)?;
        ensure!(told.len() == 1, "the outside heard {told:?}");
        let (error, quoted) = &told[0];
        ensure!(
            error.source == HOST && quoted.destination == HOST,
            "{told:?}"
        );
        ensure!(quoted.destination_port() == Some(5000), "{quoted:?}");
        Ok(())
    });
}

/// An ICMP error from outside that quotes a packet of the host's address.
fn quoting(lab: &Lab, kind: (u8, u8), quoted: &Frame) -> Result<Frame> {
    let mut message = vec![kind.0, kind.1, 0, 0, 0, 0, 0x05, 0];
    let packet = quoted.packet();
    message.extend(&packet[..28]);
    let sum = message.chunks(2).fold(0_u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]))
    });
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(
        Frame::ip(OUTSIDE, HOST, ICMP, message)
            .between(lab.wan.mac("wan0")?, lab.hv.mac("uplink")?),
    )
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p24_an_error_about_an_unknown_flow_leaves_no_trace() {
    check_guest(|lab, guest| {
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let wire = Wire::new(&lab.wan, "wan0")?;
        // One flow is known, to see that the errors are well made.
        traffic::answered_from(guest.netns(), 5000, at(OUTSIDE, PORT))?;
        let sniffer = Sniffer::start(guest.netns())?;
        let peer = (OUTSIDE, PORT);
        let echo = |id: u16| {
            let mut message = vec![8, 0, 0, 0];
            message.extend(id.to_be_bytes());
            message.extend([0, 1]);
            Frame::ip(HOST, OUTSIDE, ICMP, message)
        };
        for kind in [(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)] {
            for quoted in [
                Frame::udp((HOST, 6000), peer, b""),
                Frame::tcp((HOST, 6000), peer, 0x10, 5),
                echo(6000),
                // Known in other things only.
                Frame::udp((HOST, 5000), (OUTSIDE, PORT + 1), b""),
                Frame::udp((OUTSIDE, PORT), (HOST, 5000), b""),
                Frame::tcp((HOST, 5000), peer, 0x10, 5),
            ] {
                wire.send(&quoting(lab, kind, &quoted)?)?;
            }
        }
        // An error about the known flow arrives, and nothing before it.
        let known = Frame::udp((HOST, 5000), peer, b"");
        wire.send(&quoting(lab, (UNREACHABLE, 13), &known)?)?;
        let from_outside = |packet: &&Ipv4| packet.source == OUTSIDE;
        let is_known = |packet: &Ipv4| packet.icmp() == Some((UNREACHABLE, 13));
        let arrived = sniffer.finish_when(|packets| packets.iter().any(is_known))?;
        let arrived: Vec<_> = arrived.iter().filter(from_outside).collect();
        ensure!(arrived.len() == 1, "the guest got {arrived:?}");
        let told = errors(&[arrived[0].clone()], UNREACHABLE, 13)?;
        ensure!(told.len() == 1, "the control: {told:?}");
        ensure!(told[0].1.source == GUEST, "{told:?}");
        // No flow goes by port 6000, so it is free for two protocols.
        let seen = traffic::answered_from(guest.netns(), 6000, at(OUTSIDE, PORT))?;
        ensure!(seen == SocketAddr::from((HOST, 6000)), "{seen}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p54_a_next_hop_that_must_be_asked_for_costs_no_packet() {
    check_guest(|lab, guest| {
        complete_checksums(guest)?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        for device in ["uplink", "virbr1"] {
            lab.hv.wait_for_neighbours(device)?;
        }
        let all = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&all)?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, PORT))?;
        for round in 0..10 {
            for device in ["uplink", "virbr1"] {
                lab.hv.forget_neighbours(device)?;
            }
            // A new flow whose first packet is the only one.
            let socket = guest.netns().udp(("0.0.0.0", 5000 + round))?;
            socket.send_to(b"first", at(OUTSIDE, PORT))?;
            let (length, _) = socket
                .recv_from(&mut [0; 16])
                .with_context(|| format!("the first packet of flow {round}"))?;
            ensure!(length == 5, "{length} bytes");
        }
        load.reach(101)?;
        before
            .account_for(&load.finish()?, &all)
            .context("of an old flow")?;
        // Nobody has this address: the guest hears of it as soon as the host knows.
        lab.hv.sysctl("net/ipv4/neigh/uplink/mcast_solicit", "3")?;
        lab.hv
            .sysctl("net/ipv4/neigh/uplink/retrans_time_ms", "100")?;
        let nobody = Ipv4Addr::new(198, 51, 100, 99);
        let sniffer = Sniffer::start(guest.netns())?;
        let socket = guest.netns().udp(("0.0.0.0", 5100))?;
        socket.connect(at(nobody, PORT))?;
        eventually(SOON, || {
            // Sockets do not report it unless they ask for soft errors.
            socket.send(b"anybody?")?;
            let told = lab.agent.dropped("unresolved")?;
            ensure!(told > 0, "nobody was told");
            Ok(())
        })?;
        let is_told = |packet: &Ipv4| packet.icmp() == Some((UNREACHABLE, 1));
        let seen = sniffer.finish_when(|seen| seen.iter().any(is_told))?;
        lab.hv
            .sysctl("net/ipv4/neigh/uplink/retrans_time_ms", "1000")?;
        let told = errors(&seen, UNREACHABLE, 1)?;
        ensure!(!told.is_empty(), "no error was seen");
        for (error, quoted) in told {
            // By either of its addresses.
            ensure!([gateway(), HOST].contains(&error.source), "{error:?}");
            ensure!(
                quoted.source == GUEST && quoted.source_port() == Some(5100),
                "{quoted:?}"
            );
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p45_what_knocks_at_a_closed_mapping_is_answered_or_counted() {
    check_guest(|lab, guest| {
        let _server = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let stream = traffic::connect(guest.netns(), at(OUTSIDE, PORT))?;
        let port = stream.local_addr()?.port();
        drop(stream);
        let counted = || -> Result<u64> { Ok(lab.agent.drops()?.values().sum()) };
        // From outside: a port that was one's mapping a moment ago, and one that never was.
        for port in [port, 6000] {
            let before = counted()?;
            let start = Instant::now();
            let outcome = traffic::try_connect(&lab.wan, at(HOST, port));
            let error = outcome.err().context("somebody answered")?;
            let refused = error.downcast_ref().map(std::io::Error::kind)
                == Some(ErrorKind::ConnectionRefused);
            ensure!(
                refused && start.elapsed() < SOON || counted()? > before,
                "a connection to port {port}: neither RST nor counted: {error:#}"
            );
        }
        // From the guest: a segment of a connection that nobody knows, as after a lost state.
        let own = guest.netns().mac("eth0")?;
        let frame =
            Frame::tcp((GUEST, 6001), (OUTSIDE, PORT), ACK, 5).between(own, lab.hv.mac("virbr1")?);
        let before = counted()?;
        let sniffer = Sniffer::start(guest.netns())?;
        Wire::new(guest.netns(), "eth0")?.send(&frame)?;
        let is_reset = |packet: &Ipv4| {
            packet.source == OUTSIDE && packet.payload.get(13).is_some_and(|bits| bits & 4 != 0)
        };
        let known = || counted().is_ok_and(|now| now > before);
        let packets = sniffer.finish_when(|seen| seen.iter().any(is_reset) || known())?;
        ensure!(
            packets.iter().any(is_reset) || counted()? > before,
            "a stray segment of the guest: neither RST nor counted"
        );
        Ok(())
    });
}
