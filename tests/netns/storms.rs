//! Guests that send too much at once: frames larger than others take, and broadcasts without end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::lab6::{OUTSIDE6, at6, check6};
use netd_tests::packet::{Ipv4, UDP};
use netd_tests::packet6::Ipv6;
use netd_tests::socket::any;
use netd_tests::traffic::{Load, Server};
use netd_tests::{Flood, Frame, Frame6, Guest, Lab, Network, SOON, Sniffer, Wire, eventually};

const PORT: u16 = 7000;
/// What a jumbo frame's packet holds, and what the uplink takes.
const JUMBO: usize = 9000;
const UPLINK: usize = 1500;
/// Don't fragment.
const DF: u16 = 0x4000;
const EVERYBODY: [u8; 6] = [0xff; 6];

/// Lets a guest and its cable send jumbo frames.
fn enlarge(lab: &Lab, guest: &Guest) -> Result<()> {
    let mtu = JUMBO.to_string();
    lab.hv
        .run(["ip", "link", "set", &guest.port, "mtu", &mtu])?;
    guest
        .netns()
        .run(["ip", "link", "set", "eth0", "mtu", &mtu])?;
    Ok(())
}

/// Sends one datagram that fills a jumbo frame, and waits for its echo.
fn echo_jumbo(guest: &Guest, to: SocketAddr, limit: Duration) -> Result<()> {
    let overhead = if to.is_ipv4() { 28 } else { 48 };
    let socket = guest.netns().udp(any(to, 0))?;
    socket.set_read_timeout(Some(limit))?;
    let data: Vec<u8> = (0..JUMBO - overhead).map(|at| (at >> 3) as u8).collect();
    let mut buffer = vec![0; 65_536];
    socket.send_to(&data, to)?;
    let (length, _) = socket
        .recv_from(&mut buffer)
        .with_context(|| format!("the echo of {to}"))?;
    ensure!(buffer[..length] == data, "{to}: another content");
    Ok(())
}

/// The largest UDP packet of each capture: no card cuts those up later.
fn largest(v4: &[Ipv4], v6: &[Ipv6]) -> (usize, usize) {
    let v4 = v4.iter().filter(|packet| packet.protocol == UDP);
    let v6 = v6
        .iter()
        .filter(|packet| packet.protocol == UDP || packet.fragment.is_some());
    (
        v4.map(|packet| packet.length).max().unwrap_or(0),
        v6.map(|packet| packet.length).max().unwrap_or(0),
    )
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p33_jumbo_frames_stay_where_they_fit() {
    check6(|lab| {
        lab.agent.start()?;
        let network = Network::default()
            .forward("<forward mode='nat'><nat ipv6='yes'/></forward>")
            .ipv6()
            .with("<mtu size='9000'/>");
        lab.up(&network)?;
        let guests: Vec<Guest> = (1..=3)
            .map(|number| lab.member6(number, &network))
            .collect::<Result<_>>()?;
        let [guest, sibling, small] = &guests[..] else {
            anyhow::bail!("three guests");
        };
        enlarge(lab, guest)?;
        enlarge(lab, sibling)?;
        let everywhere = (std::net::Ipv6Addr::UNSPECIFIED, PORT);
        let outside = Server::udp(&lab.wan, everywhere)?;
        let _host = [
            Server::udp(&lab.hv, at(network.gateway(), PORT))?,
            Server::udp(&lab.hv, at6(network.address6(1), PORT))?,
        ];
        let _sibling = Server::udp(sibling.netns(), everywhere)?;
        let ears = (Sniffer::start(&lab.wan)?, Sniffer::start6(&lab.wan)?);
        let near = (
            Sniffer::start(sibling.netns())?,
            Sniffer::start6(sibling.netns())?,
        );
        for to in [
            IpAddr::from(network.address(12)),
            network.gateway().into(),
            OUTSIDE.into(),
            network.address6(12).into(),
            network.address6(1).into(),
            OUTSIDE6.into(),
        ] {
            // The first packet of a flow, and later ones. A guest that is told cuts its packets itself
            // from then on, over IPv6.
            let echo = |limit| echo_jumbo(guest, (to, PORT).into(), limit);
            let first = || echo(Duration::from_millis(500));
            eventually(SOON, first).with_context(|| format!("to {to}"))?;
            echo(SOON)?;
        }
        // Those that must not be cut, to outside and to a sibling that takes no jumbo frames.
        let wire = Wire::new(guest.netns(), "eth0")?;
        let (mac, bridge) = (guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?);
        let told = (
            Sniffer::start(guest.netns())?,
            Sniffer::start6(guest.netns())?,
        );
        let (own, own6) = (network.address(11), network.address6(11));
        for port in 6000..6005 {
            let mut frame = Frame::udp((own, port), (OUTSIDE, PORT), &vec![7; JUMBO - 28]);
            frame.fragment = DF;
            wire.send(&frame.between(mac, bridge))?;
            let frame = Frame6::udp((own6, port), (OUTSIDE6, PORT), &vec![7; JUMBO - 48]);
            wire.send_bytes(&frame.between(mac, bridge).bytes())?;
            let to = small.netns().mac("eth0")?;
            let frame = Frame::udp(
                (own, port),
                (network.address(13), PORT),
                &vec![7; JUMBO - 28],
            );
            wire.send(&frame.between(mac, to))?;
        }
        // One that may be cut.
        let before = outside.received();
        let frame = Frame::udp((own, 6100), (OUTSIDE, PORT), &vec![7; JUMBO - 28]);
        wire.send(&frame.between(mac, bridge))?;
        eventually(SOON, || {
            ensure!(outside.received() > before, "it is not cut up, but lost");
            Ok(())
        })?;
        let mtu = (UPLINK as u16).to_be_bytes();
        let too_big4 = |told: &[Ipv4]| -> Vec<bool> {
            let too_big = told.iter().filter(|packet| packet.icmp() == Some((3, 4)));
            too_big.map(|packet| packet.payload[6..8] == mtu).collect()
        };
        let told4 = told.0.finish_when(|told| too_big4(told).len() >= 5)?;
        let too_big = too_big4(&told4);
        ensure!(too_big == [true; 5], "IPv4: told {too_big:?}");
        let too_big6 = |told: &[Ipv6]| -> Vec<bool> {
            let too_big = told.iter().filter(|packet| packet.icmp() == Some((2, 0)));
            too_big.map(|packet| packet.payload[6..8] == mtu).collect()
        };
        let told6 = told.1.finish_when(|told| too_big6(told).len() >= 5)?;
        let too_big = too_big6(&told6);
        ensure!(too_big == [true; 5], "IPv6: told {too_big:?}");
        let (v4, v6) = largest(&ears.0.finish()?, &ears.1.finish()?);
        ensure!(
            (1000..=UPLINK).contains(&v4) && (1000..=UPLINK).contains(&v6),
            "the largest packets outside: {v4} and {v6}"
        );
        let (v4, v6) = largest(&near.0.finish()?, &near.1.finish()?);
        ensure!((v4, v6) == (JUMBO, JUMBO), "the sibling's: {v4} and {v6}");
        // Everybody works.
        for guest in &guests {
            for to in [
                IpAddr::from(OUTSIDE),
                network.gateway().into(),
                OUTSIDE6.into(),
            ] {
                guest.ping(&to.to_string())?;
            }
        }
        guest.ping(&network.address(13).to_string())?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_storm_of_broadcasts_breaks_no_connection() {
    let guard = "<metadata><n:network xmlns:n='urn:netd:network:1'><n:antispoof/></n:network>\
                 </metadata>";
    for extra in ["", guard] {
        check(|lab| {
            lab.agent.start()?;
            let hosts: String = (1..=3)
                .map(|number| {
                    let mac = format!("52:54:00:00:00:{number:02}");
                    format!("<host mac='{mac}' ip='10.10.1.1{number}'/>")
                })
                .collect();
            let network = Network::default().dhcp(&hosts).with(extra);
            lab.up(&network)?;
            let guests: Vec<Guest> = (1..=3)
                .map(|number| lab.member(number, &network))
                .collect::<Result<_>>()?;
            let [loud, one, two] = &guests[..] else {
                anyhow::bail!("three guests");
            };
            for guest in &guests {
                let gateway = network.gateway().to_string();
                guest
                    .ping(&gateway)
                    .with_context(|| format!("dropped: {:?}", lab.agent.drops()))?;
            }
            let everywhere = at(Ipv4Addr::UNSPECIFIED, PORT);
            let _servers = [
                Server::tcp_echo(&lab.wan, everywhere)?,
                Server::tcp_echo(&lab.hv, everywhere)?,
                Server::tcp_echo(two.netns(), everywhere)?,
            ];
            let loads = [
                (
                    "guest to outside",
                    Load::tcp(one.netns(), at(OUTSIDE, PORT))?,
                ),
                (
                    "guest to host",
                    Load::tcp(one.netns(), at(network.gateway(), PORT))?,
                ),
                (
                    "guest to guest",
                    Load::tcp(one.netns(), at(network.address(13), PORT))?,
                ),
                ("the loud one", Load::tcp(loud.netns(), at(OUTSIDE, PORT))?),
                (
                    "host to guest",
                    Load::tcp(&lab.hv, at(network.address(13), PORT))?,
                ),
                ("host to outside", Load::tcp(&lab.hv, at(OUTSIDE, PORT))?),
            ];
            let mac = loud.netns().mac("eth0")?;
            let own = network.address(11);
            let everybody = [
                (Ipv4Addr::BROADCAST, EVERYBODY),
                (network.address(255), EVERYBODY),
                (Ipv4Addr::new(224, 0, 0, 1), [1, 0, 0x5e, 0, 0, 1]),
                (Ipv4Addr::new(239, 1, 2, 3), [1, 0, 0x5e, 1, 2, 3]),
            ];
            let before = one.netns().counters("eth0")?.received_packets;
            let storm = Flood::start(Wire::new(loud.netns(), "eth0")?, move |random| {
                let (to, to_mac) = everybody[random as usize % everybody.len()];
                let frame = Frame::udp((own, 5000), (to, 9), &[7; 64]);
                frame.between(mac, to_mac)
            });
            std::thread::sleep(Duration::from_secs(2));
            // On a busy machine many meet a full queue: it goes on until enough have arrived.
            eventually(SOON, || {
                let arrived = one.netns().counters("eth0")?.received_packets - before;
                ensure!(arrived > 10_000, "no storm: {arrived} frames arrived");
                Ok(())
            })?;
            let sent = storm.finish()?;
            for (who, load) in loads {
                let end = load.reach(21).and_then(|()| load.finish());
                let report = end.with_context(|| format!("{who}: {sent} frames"))?;
                ensure!(report.lost.is_empty(), "{who}: {report:?}");
            }
            for guest in &guests {
                guest.ping(&OUTSIDE.to_string())?;
            }
            loud.ping(&HOST.to_string())?;
            Ok(())
        });
    }
}
