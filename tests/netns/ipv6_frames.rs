//! IPv6 frames that no ordinary stack sends: odd addresses, extension headers, routing headers.

use std::net::Ipv6Addr;

use anyhow::{Context, ensure};
use netd_tests::lab6::{HOST6, OUTSIDE6, at6, check_guest6, check6};
use netd_tests::packet::UDP;
use netd_tests::packet6::{DESTINATION, HOP_BY_HOP, Ipv6, ROUTING};
use netd_tests::{Frame6, Network, SOON, Sniffer, Wire, eventually};

const PORT: u16 = 7000;
/// Padding that fills the smallest header of options (RFC 8200, section 4.2).
const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

fn own() -> Ipv6Addr {
    Network::nat6("default", 1).address6(11)
}

/// Datagrams to [`PORT`] in a capture, by their source port.
fn ports_seen(packets: &[Ipv6]) -> Vec<u16> {
    let datagrams = packets.iter().filter(|packet| packet.protocol == UDP);
    let mut ports: Vec<_> = datagrams
        .filter(|packet| packet.destination_port() == Some(PORT))
        .filter_map(Ipv6::source_port)
        .collect();
    ports.sort_unstable();
    ports
}

/// Has the datagram from that port been seen?
fn has_come(port: u16) -> impl Fn(&[Ipv6]) -> bool {
    move |packets| ports_seen(packets).contains(&port)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p43_link_local_and_multicast_addresses_never_leave() {
    for network in [
        Network::nat6("default", 1),
        Network::route("default", 1).ipv6(),
    ] {
        check_guest6(&network, |lab, guest| {
            let wire = Wire::new(guest.netns(), "eth0")?;
            let (mac, bridge) = (guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?);
            let sniffer = Sniffer::start6(&lab.wan)?;
            let link_local: Ipv6Addr = "fe80::1234".parse()?;
            let send = |port, source, destination| {
                let frame = Frame6::udp((source, port), (destination, PORT), b"stay");
                wire.send_bytes(&frame.between(mac, bridge).bytes())
            };
            let never = [
                "ff02::1", "ff02::fb", "ff05::2", "ff0e::1", "fe80::99", "::1",
            ];
            for (port, to) in (6000..).zip(never) {
                send(port, own(), to.parse()?)?;
            }
            for (port, source) in (6100..).zip([link_local, "ff02::1".parse()?, "::1".parse()?]) {
                send(port, source, OUTSIDE6)?;
            }
            // The control.
            send(6200, own(), OUTSIDE6)?;
            let seen = ports_seen(&sniffer.finish_when(has_come(6200))?);
            ensure!(seen == [6200], "seen outside: {seen:?}");
            // Multicast reaches siblings, and link-local addresses the host.
            let sibling = lab.member6(2, &network)?;
            let sniffer = Sniffer::start6(sibling.netns())?;
            let frame = Frame6::udp((own(), 6300), ("ff02::fb".parse()?, PORT), b"all");
            wire.send_bytes(&frame.between(mac, [0x33, 0x33, 0, 0, 0, 0xfb]).bytes())?;
            let seen = ports_seen(&sniffer.finish_when(has_come(6300))?);
            ensure!(seen == [6300], "to the sibling: {seen:?}");
            let ping = ["ping", "-6", "-c1", "-W2", "ff02::2%eth0"];
            eventually(SOON, || guest.netns().run(ping)).map(drop)
        });
    }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_isolated_guest_reaches_nobody_by_odd_ipv6_addresses() {
    check6(|lab| {
        lab.agent.start()?;
        let network = Network::isolated("inside", 1).ipv6();
        lab.up(&network)?;
        let guest = lab.member6(1, &network)?;
        // Another network makes the host a router.
        lab.up(&Network::route("router", 2).ipv6())?;
        let wire = Wire::new(guest.netns(), "eth0")?;
        let (mac, bridge) = (guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?);
        let ping = ["ping", "-6", "-c1", "-W2", &OUTSIDE6.to_string()].map(str::to_owned);
        eventually(SOON, || lab.hv.run(ping.iter().map(String::as_str)))?;
        let sniffer = Sniffer::start6(&lab.wan)?;
        let odd = [
            "::",
            "::1",
            "::2",
            "::ffff:198.51.100.1",
            "ff0e::1",
            "fe80::99",
            "fec0::1",
            "2001:db8:1::1",
            "2001:db8:1::",
        ];
        for (port, to) in (6000..).zip(odd) {
            for source in [own(), "::".parse()?, "fe80::1234".parse()?] {
                let frame = Frame6::udp((source, port), (to.parse()?, PORT), b"stay");
                wire.send_bytes(&frame.between(mac, bridge).bytes())?;
            }
        }
        // The host's own comes behind all of them.
        let host = lab.hv.udp("[::]:6200")?;
        host.send_to(b"out", at6(OUTSIDE6, PORT))?;
        let seen = ports_seen(&sniffer.finish_when(has_come(6200))?);
        ensure!(seen == [6200], "seen outside: {seen:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn extension_headers_are_walked_to_the_ports() {
    check_guest6(&Network::nat6("default", 1), |lab, guest| {
        let outside = lab.wan.udp(at6(OUTSIDE6, PORT))?;
        let inside = guest.netns().udp("[::]:6000")?;
        let sniffer = Sniffer::start6(&lab.wan)?;
        let out = Wire::new(guest.netns(), "eth0")?;
        let back = Wire::new(&lab.wan, "wan0")?;
        let guest_mac = guest.netns().mac("eth0")?;
        let (bridge, uplink) = (lab.hv.mac("virbr1")?, lab.hv.mac("uplink")?);
        let wan_mac = lab.wan.mac("wan0")?;
        // An option that nobody knows and everybody is to skip; Linux drops much padding.
        let long = [&[0x1e, 12][..], &[0; 12]].concat();
        // A routing header without stations left is one that has been followed.
        let followed = [0, 0, 0, 0, 0, 0];
        for (number, headers) in [
            vec![(DESTINATION, &PADDING[..])],
            vec![(HOP_BY_HOP, &PADDING[..])],
            vec![(HOP_BY_HOP, &long), (DESTINATION, &long)],
            vec![
                (DESTINATION, &PADDING),
                (ROUTING, &followed),
                (DESTINATION, &long),
            ],
        ]
        .into_iter()
        .enumerate()
        {
            let dress = |frame: Frame6| {
                let add = |frame: Frame6, (kind, content): &(u8, &[u8])| frame.with(*kind, content);
                headers.iter().fold(frame, add)
            };
            let what = format!("headers {number}");
            let text = what.as_bytes();
            let mut buffer = [0; 64];
            let frame = Frame6::udp((own(), 6000), (OUTSIDE6, PORT), text);
            out.send_bytes(&dress(frame).between(guest_mac, bridge).bytes())?;
            let (length, peer) = outside.recv_from(&mut buffer).context(what.clone())?;
            ensure!(&buffer[..length] == text, "{what}: another content");
            ensure!(peer == at6(HOST6, 6000).into(), "{what}: from {peer}");
            let frame = Frame6::udp((OUTSIDE6, PORT), (HOST6, 6000), text);
            back.send_bytes(&dress(frame).between(wan_mac, uplink).bytes())?;
            let (length, _) = inside
                .recv_from(&mut buffer)
                .with_context(|| format!("the answer, {what}"))?;
            ensure!(&buffer[..length] == text, "{what}: another answer");
        }
        let packets = sniffer.finish()?;
        ensure!(
            packets.iter().all(|packet| packet.source != own()),
            "a private source outside"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_routing_header_with_stations_left_is_dropped_by_name() {
    // Type 0: 4 bytes reserved, then the stations.
    let mut header = vec![0, 1, 0, 0, 0, 0];
    header.extend(
        "fd00:10:1::66"
            .parse::<Ipv6Addr>()
            .map_or([0; 16], |a| a.octets()),
    );
    for network in [
        Network::nat6("default", 1),
        Network::route("default", 1).ipv6(),
    ] {
        check_guest6(&network, |lab, guest| {
            let (at_wan, at_guest) = (Sniffer::start6(&lab.wan)?, Sniffer::start6(guest.netns())?);
            let dropped = || lab.agent.dropped("source_route");
            let out = Wire::new(guest.netns(), "eth0")?;
            let frame = Frame6::udp((own(), 6000), (OUTSIDE6, PORT), b"by way of another");
            let frame = frame.with(ROUTING, &header);
            let frame = frame.between(guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?);
            let before = dropped()?;
            out.send_bytes(&frame.bytes())?;
            eventually(SOON, || {
                ensure!(dropped()? == before + 1, "not counted: from the guest");
                Ok(())
            })?;
            let back = Wire::new(&lab.wan, "wan0")?;
            let frame = Frame6::udp((OUTSIDE6, 6001), (own(), PORT), b"by way of another");
            let frame = frame.with(ROUTING, &header);
            back.send_bytes(
                &frame
                    .between(lab.wan.mac("wan0")?, lab.hv.mac("uplink")?)
                    .bytes(),
            )?;
            let (at_wan, at_guest) = (
                at_wan.finish_when(has_come(6001))?,
                at_guest.finish_when(has_come(6000))?,
            );
            if network.xml().contains("route") {
                eventually(SOON, || {
                    ensure!(dropped()? == before + 2, "not counted: from outside");
                    Ok(())
                })?;
            }
            // What was sent from there itself was captured there, too.
            ensure!(ports_seen(&at_wan) == [6001], "left the host");
            ensure!(ports_seen(&at_guest) == [6000], "reached the guest");
            Ok(())
        });
    }
}
