//! Guests behind ranges of addresses and ports (`<nat><address/><port/></nat>`).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{FAR, HOST, OUTSIDE, at, check};
use netd_tests::lab6::{HOST6, OUTSIDE6, at6, check6};
use netd_tests::packet::{ICMP, Ipv4};
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Frame, Guest, Lab, Network, SOON, Sniffer, Wire, eventually};

const PORT: u16 = 7000;
/// A range in the uplink's own subnet.
const NEAR: (Ipv4Addr, Ipv4Addr) = (
    Ipv4Addr::new(198, 51, 100, 16),
    Ipv4Addr::new(198, 51, 100, 21),
);
/// A range to which the outside needs a route.
const ROUTED: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 16), Ipv4Addr::new(192, 0, 2, 31));

fn nat(inner: &str) -> Network {
    Network::default().forward(&format!("<forward mode='nat'>{inner}</forward>"))
}

fn pool((start, end): (Ipv4Addr, Ipv4Addr)) -> Network {
    nat(&format!(
        "<nat><address start='{start}' end='{end}'/></nat>"
    ))
}

fn ports(start: u16, end: u16) -> Network {
    nat(&format!("<nat><port start='{start}' end='{end}'/></nat>"))
}

/// The outside host learns the way to [`ROUTED`].
fn route(lab: &Lab) -> Result<()> {
    let route = format!("ip route add 192.0.2.16/28 via {HOST}");
    lab.wan.run(route.split(' '))?;
    Ok(())
}

/// As which the outside sees a new flow of a guest.
fn seen(guest: &Guest, to: Ipv4Addr) -> Result<SocketAddr> {
    traffic::answered(guest.netns(), at(to, PORT))
        .with_context(|| format!("{} asks {to}", guest.hostname))
}

/// The same over TCP: the server's view.
fn tcp_seen(guest: &Guest, listener: &TcpListener) -> Result<IpAddr> {
    let to = listener.local_addr()?;
    let _stream = traffic::connect(guest.netns(), to)?;
    Ok(listener.accept()?.1.ip())
}

fn guests(lab: &Lab, network: &Network, count: u8) -> Result<Vec<Guest>> {
    let all = (1..=count).map(|number| lab.member(number, network));
    all.collect()
}

/// Every guest has one address of the range, whatever it does, and asks several servers.
fn addresses_of_guests(lab: &Lab, network: &Network, range: (Ipv4Addr, Ipv4Addr)) -> Result<()> {
    let far = lab.far(1500)?;
    let _servers = [
        Server::udp(&lab.wan, at(OUTSIDE, PORT))?,
        Server::udp(&far, at(FAR, PORT))?,
    ];
    let listener = far.listen(at(FAR, PORT))?;
    let mut all = BTreeSet::new();
    for guest in guests(lab, network, 6)? {
        let first = seen(&guest, OUTSIDE)?.ip();
        for round in 0..4 {
            let others = [
                seen(&guest, OUTSIDE)?.ip(),
                seen(&guest, FAR)?.ip(),
                tcp_seen(&guest, &listener)?,
            ];
            let same = others.iter().all(|address| *address == first);
            ensure!(same, "round {round}: {first}, then {others:?}");
        }
        guest.ping(&FAR.to_string())?;
        let inside = IpAddr::V4(range.0) <= first && first <= IpAddr::V4(range.1);
        ensure!(inside, "{first} is not of the range");
        all.insert(first);
    }
    ensure!(all.len() > 1, "six guests have one address of six: {all:?}");
    let shown = lab.hv.run(["ip", "addr"])?;
    for address in &all {
        ensure!(!shown.contains(&format!("inet {address}/")), "{shown}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_guest_keeps_its_address_of_a_routed_range() {
    check(|lab| {
        route(lab)?;
        lab.agent.start()?;
        let network = pool(ROUTED);
        lab.up(&network)?;
        addresses_of_guests(lab, &network, ROUTED)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_range_of_the_uplinks_subnet_works_with_static_neighbours() {
    check(|lab| {
        let mac = lab.hv.mac("uplink")?.map(|byte| format!("{byte:02x}"));
        for last in 16..=21 {
            let neighbour = format!(
                "ip neigh add 198.51.100.{last} lladdr {} dev wan0",
                mac.join(":")
            );
            lab.wan.run(neighbour.split(' '))?;
        }
        lab.agent.start()?;
        let network = pool(NEAR);
        lab.up(&network)?;
        addresses_of_guests(lab, &network, NEAR)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_host_answers_arp_for_a_range_of_the_uplinks_subnet() {
    check(|lab| {
        lab.agent.start()?;
        let network = pool(NEAR);
        lab.up(&network)?;
        addresses_of_guests(lab, &network, NEAR)?;
        // Not for addresses beside the range, nor from inside, nor when the network is gone.
        let asks = |device: &str, netns: &netd_tests::Netns, address: &str| {
            let ask = [
                "busybox", "arping", "-c", "2", "-w", "2", "-I", device, address,
            ];
            Ok::<_, anyhow::Error>(netns.output(ask)?.status.success())
        };
        for address in ["198.51.100.16", "198.51.100.21"] {
            eventually(SOON, || {
                let answered = asks("wan0", &lab.wan, address)?;
                ensure!(answered, "{address} is the range's");
                Ok(())
            })?;
        }
        ensure!(!asks("wan0", &lab.wan, "198.51.100.15")?, "before it");
        ensure!(!asks("wan0", &lab.wan, "198.51.100.22")?, "behind it");
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(!asks("wan0", &lab.wan, "198.51.100.16")?, "it is gone");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_no_flow_asked_for_is_dropped_by_name() {
    check(|lab| {
        route(lab)?;
        lab.agent.start()?;
        let network = pool(ROUTED);
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let IpAddr::V4(own) = seen(&guest, OUTSIDE)?.ip() else {
            bail!("an IPv6 address");
        };
        let (at_wan, at_guest) = (Sniffer::start(&lab.wan)?, Sniffer::start(guest.netns())?);
        let before = lab.agent.dropped("no_mapping")?;
        let wire = Wire::new(&lab.wan, "wan0")?;
        let (from, to) = (lab.wan.mac("wan0")?, lab.hv.mac("uplink")?);
        let mut sent = 0;
        for address in [own, ROUTED.0, ROUTED.1] {
            let ping = vec![8, 0, 0xf7, 0xfe, 0, 1, 0, 0];
            for frame in [
                Frame::udp((OUTSIDE, PORT), (address, 999), b"nobody"),
                Frame::tcp((OUTSIDE, PORT), (address, 999), 2, 5),
                Frame::tcp((OUTSIDE, PORT), (address, 999), 0x10, 5),
                Frame::ip(OUTSIDE, address, ICMP, ping),
                Frame::ip(OUTSIDE, address, 47, vec![0; 8]),
            ] {
                wire.send(&frame.between(from, to))?;
                sent += 1;
            }
        }
        eventually(SOON, || {
            let dropped = lab.agent.dropped("no_mapping")? - before;
            ensure!(dropped == sent, "{dropped} of {sent} were counted");
            Ok(())
        })?;
        // None came back or got through.
        let ranged = |packet: &&Ipv4| {
            let address = packet.destination;
            ROUTED.0 <= address && address <= ROUTED.1
        };
        let seen = at_wan.finish()?.iter().filter(ranged).count();
        ensure!(seen as u64 == sent, "{seen} frames, not {sent}");
        let arrived = at_guest.finish()?;
        ensure!(
            arrived.iter().all(|packet| packet.source != OUTSIDE),
            "the guest got {arrived:?}"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_range_of_addresses_is_ipv4s_alone() {
    check6(|lab| {
        route(lab)?;
        lab.agent.start()?;
        let (start, end) = ROUTED;
        let network = nat(&format!(
            "<nat ipv6='yes'><address start='{start}' end='{end}'/><port start='4000' end='4999'/></nat>"
        ))
        .ipv6();
        lab.up(&network)?;
        let guest = lab.member6(1, &network)?;
        let _servers = [
            Server::udp(&lab.wan, at(OUTSIDE, PORT))?,
            Server::udp(&lab.wan, at6(OUTSIDE6, PORT))?,
        ];
        let in_range = |seen: SocketAddr| (4000..5000).contains(&seen.port());
        let four = seen(&guest, OUTSIDE)?;
        ensure!(four.ip() >= IpAddr::V4(start) && in_range(four), "{four}");
        let six = traffic::answered(guest.netns(), at6(OUTSIDE6, PORT))?;
        ensure!(six.ip() == HOST6 && in_range(six), "IPv6: {six}");
        Ok(())
    });
}

/// Has flows stay for as long as a busy machine needs to open thousands of them.
fn stay(lab: &Lab) -> Result<()> {
    let path = lab.agent.config_dir().join("netd.toml");
    Ok(std::fs::write(path, "[timeouts]\nudp = 600\n")?)
}

/// Sends a datagram from each of the guest's ports, by raw frames; as which ports they arrived.
fn opened(
    lab: &Lab,
    guest: &Guest,
    own: std::ops::Range<u16>,
    outside: &UdpSocket,
) -> Result<BTreeSet<u16>> {
    let wire = Wire::new(guest.netns(), "eth0")?;
    let (from, to) = (guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?);
    let address = Network::default().address(11);
    let mut seen = BTreeSet::new();
    let mut buffer = [0; 16];
    for port in own {
        let frame = Frame::udp((address, port), (OUTSIDE, PORT), b"open");
        wire.send(&frame.between(from, to))?;
        let (_, peer) = outside
            .recv_from(&mut buffer)
            .with_context(|| format!("from port {port}; dropped: {:?}", lab.agent.drops()))?;
        ensure!(seen.insert(peer.port()), "{} was given twice", peer.port());
    }
    Ok(seen)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p05_the_last_free_port_of_a_range_is_found() {
    // A range that is always searched through, and one that is so once a tick.
    for (first, last) in [(20_000, 20_999), (30_000, 34_095)] {
        check(|lab| {
            stay(lab)?;
            lab.agent.start()?;
            let network = ports(first, last);
            lab.up(&network)?;
            let guest = lab.member(1, &network)?;
            guest.ping(&OUTSIDE.to_string())?;
            let outside = lab.wan.udp(at(OUTSIDE, PORT))?;
            let count = last - first + 1;
            let mut seen = opened(lab, &guest, 1100..1100 + count - 2, &outside)?;
            // The last two need a search through thousands, for which there is one a second.
            for port in [1, 2] {
                std::thread::sleep(Duration::from_millis(1100));
                seen.extend(opened(lab, &guest, port..port + 1, &outside)?);
            }
            let all: BTreeSet<u16> = (first..=last).collect();
            ensure!(seen == all, "{} of {count} ports", seen.len());
            exhausted(lab, &guest)
        });
    }
}

/// No port is left towards the outside host's [`PORT`]: the guest is told, and others are reached.
fn exhausted(lab: &Lab, guest: &Guest) -> Result<()> {
    let before = lab.agent.dropped("ports_exhausted")?;
    let sniffer = Sniffer::start(guest.netns())?;
    for _ in 0..3 {
        eventually(SOON, || {
            let verdict = traffic::ask_udp(guest.netns(), at(OUTSIDE, PORT))?;
            ensure!(verdict == Verdict::Unreachable, "{verdict:?}");
            Ok(())
        })?;
    }
    let packets = sniffer.finish()?;
    let told = packets.iter().find(|packet| packet.icmp().is_some());
    let told = told.context("the guest was not told")?;
    ensure!(told.icmp() == Some((3, 13)), "{told:?}");
    ensure!(lab.agent.dropped("ports_exhausted")? >= before + 3);
    let _other = Server::udp(&lab.wan, at(OUTSIDE, PORT + 1))?;
    traffic::answered(guest.netns(), at(OUTSIDE, PORT + 1))?;
    guest.ping(&OUTSIDE.to_string())?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p15_p16_small_ranges_are_used_up_and_the_guest_is_told() {
    for (first, last) in [(5000, 5003), (65_534, 65_535), (65_535, 65_535), (1, 2)] {
        check(|lab| {
            stay(lab)?;
            lab.agent.start()?;
            let network = ports(first, last);
            lab.up(&network)?;
            let guest = lab.member(1, &network)?;
            let listener = lab.wan.listen(at(OUTSIDE, PORT))?;
            let outside = lab.wan.udp(at(OUTSIDE, PORT))?;
            guest.ping(&OUTSIDE.to_string())?;
            let all: BTreeSet<u16> = (first..=last).collect();
            let count = all.len() as u16;
            let seen = opened(lab, &guest, 1100..1100 + count, &outside)?;
            ensure!(seen == all, "UDP: {seen:?}");
            exhausted(lab, &guest)?;

            let mut streams = Vec::new();
            let mut seen = BTreeSet::new();
            for _ in 0..count {
                streams.push(traffic::connect(guest.netns(), at(OUTSIDE, PORT))?);
                let (accepted, peer) = listener.accept()?;
                seen.insert(peer.port());
                streams.push(accepted);
            }
            ensure!(seen == all, "TCP: {seen:?}");
            let more = guest
                .netns()
                .enter(|| TcpStream::connect_timeout(&at(OUTSIDE, PORT).into(), SOON))?;
            let error = more.err().context("one port too many")?;
            ensure!(error.kind() == ErrorKind::HostUnreachable, "{error}");
            Ok(())
        });
    }
}
