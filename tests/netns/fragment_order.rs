//! Fragments that overtake the first one of their packet: it is waited for, both ways, as in the kernel's own
//! address translation, which puts packets together first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, check};
use netd_tests::lab6::{HOST6, OUTSIDE6, check_guest6};
use netd_tests::published::{both, forwards};
use netd_tests::socket::Receive as _;
use netd_tests::{
    Frame, Frame6, Guest, Lab, Netns, Network, SOON, Tun, Wire, at_once, control, eventually,
};

const PORT: u16 = 7000;
/// A port of the host's that leads to [`PORT`] of the guest.
const PUBLISHED: u16 = 5500;
/// The guest's own.
const OWN: u16 = 5000;

/// Room for a fragment behind the longest headers.
const ROOM: usize = 1432;

/// Orders of a packet of three fragments, and one of seven.
const ORDERS: [&[usize]; 4] = [&[2, 1, 0], &[1, 0, 2], &[2, 0, 1], &[4, 6, 1, 5, 0, 3, 2]];

type Address = (IpAddr, u16);

/// The pieces of a datagram as frames.
fn pieces(from: Address, to: Address, macs: [[u8; 6]; 2], id: u16, data: &[u8]) -> Vec<Vec<u8>> {
    let [from_mac, to_mac] = macs;
    match (from.0, to.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut frame = Frame::udp((source, from.1), (destination, to.1), data)
                .with_udp_checksum()
                .between(from_mac, to_mac);
            frame.id = id;
            frame.fragments(ROOM).iter().map(Frame::bytes).collect()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let frame =
                Frame6::udp((source, from.1), (destination, to.1), data).between(from_mac, to_mac);
            let count = frame.payload.len().div_ceil(ROOM);
            let pieces = frame.payload.chunks(ROOM).enumerate();
            pieces
                .map(|(number, piece)| {
                    // RFC 8200, section 4.5.
                    let place = (number * ROOM) as u16 | u16::from(number + 1 < count);
                    let header = [place.to_be_bytes(), [0; 2], id.to_be_bytes()].concat();
                    let mut frame = frame.clone().with(44, &header);
                    frame.payload = piece.to_vec();
                    frame.bytes()
                })
                .collect()
        }
        other => panic!("two families: {other:?}"),
    }
}

/// Datagrams that come in at a wire in pieces, and where they are to arrive.
struct Way<'a> {
    name: &'static str,
    wire: &'a Wire,
    macs: [[u8; 6]; 2],
    from: Address,
    to: Address,
    arrives: &'a UdpSocket,
}

impl Way<'_> {
    /// Sends a datagram of as many fragments as the order has, and waits for it.
    fn deliver(&self, order: &[usize], id: u16) -> Result<()> {
        let length = (order.len() - 1) * ROOM + 500;
        let data: Vec<u8> = (0..length)
            .map(|place| (place / 251) as u8 ^ (place % 251) as u8 ^ id as u8)
            .collect();
        let pieces = pieces(self.from, self.to, self.macs, id, &data);
        ensure!(pieces.len() == order.len(), "{} fragments", pieces.len());
        at_once(|| {
            let mut pieces = order.iter().map(|place| &pieces[*place]);
            pieces.try_for_each(|piece| self.wire.send_bytes(piece))
        })?;
        let mut buffer = vec![0; 65_536];
        let (length, _) = self
            .arrives
            .receive_from(&mut buffer)
            .with_context(|| format!("{}: the order {order:?} did not arrive", self.name))?;
        ensure!(
            buffer[..length] == data,
            "{}: other content, {length} bytes",
            self.name
        );
        Ok(())
    }
}

/// The addresses of one family.
struct Addresses {
    guest: IpAddr,
    host: IpAddr,
    outside: IpAddr,
}

const V4: Addresses = Addresses {
    guest: IpAddr::V4(Ipv4Addr::new(10, 10, 1, 11)),
    host: IpAddr::V4(HOST),
    outside: IpAddr::V4(OUTSIDE),
};

fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn udp(netns: &Netns, address: IpAddr, port: u16) -> Result<UdpSocket> {
    netns.udp(SocketAddr::from((any(address), port)))
}

/// Every order to outside and back, and to the published port and back. `shown` is the address that outside
/// sees of the guest.
fn in_every_order(
    lab: &Lab,
    guest: &Guest,
    addresses: &Addresses,
    shown: IpAddr,
    published: bool,
) -> Result<()> {
    let Addresses {
        guest: own,
        host,
        outside,
    } = *addresses;
    let (at_guest, at_wan) = (udp(guest.netns(), own, OWN)?, udp(&lab.wan, outside, PORT)?);
    let (service, client) = (udp(guest.netns(), own, PORT)?, udp(&lab.wan, outside, OWN)?);
    let guests = Wire::new(guest.netns(), "eth0")?;
    let wan = Wire::new(&lab.wan, "wan0")?;
    let up = [
        guest.netns().mac("eth0")?,
        lab.hv.mac(&Network::default().bridge())?,
    ];
    let down = [lab.wan.mac("wan0")?, lab.hv.mac("uplink")?];
    let mut ways = vec![
        Way {
            name: "out",
            wire: &guests,
            macs: up,
            from: (own, OWN),
            to: (outside, PORT),
            arrives: &at_wan,
        },
        Way {
            name: "back",
            wire: &wan,
            macs: down,
            from: (outside, PORT),
            to: (shown, OWN),
            arrives: &at_guest,
        },
    ];
    if published {
        ways.extend([
            Way {
                name: "to the published port",
                wire: &wan,
                macs: down,
                from: (outside, OWN),
                to: (host, PUBLISHED),
                arrives: &service,
            },
            Way {
                name: "back from the published port",
                wire: &guests,
                macs: up,
                from: (own, PORT),
                to: (outside, OWN),
                arrives: &client,
            },
        ]);
    }
    // The first of all opens the flow.
    for (id, way) in (100..).step_by(100).zip(&ways) {
        for (id, order) in (id..).zip(ORDERS) {
            way.deliver(order, id)?;
        }
    }
    Ok(())
}

/// Nothing was given up.
fn none_is_lost(lab: &Lab) -> Result<()> {
    let dropped = lab.agent.dropped("frag_without_first")?;
    ensure!(dropped == 0, "{dropped} dropped: {:?}", lab.agent.drops());
    Ok(())
}

fn published() -> Network {
    let guest = V4.guest.to_string();
    Network::default().with(&forwards(&both("", &guest, PUBLISHED, PORT)))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_kernels_own_translation_takes_fragments_in_any_order() -> Result<()> {
    let (lab, guest) = control::nat_guest()?;
    let rules = format!(
        "add chain ip nat pre {{ type nat hook prerouting priority dstnat; }}; \
         add rule ip nat pre ip daddr {HOST} udp dport {PUBLISHED} dnat to {}:{PORT}",
        V4.guest
    );
    lab.hv.run(["nft", &rules])?;
    in_every_order(&lab, &guest, &V4, V4.host, true)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_fragments_arrive_in_any_order_both_ways_and_at_published_ports() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&published())?;
        let guest = lab.member(1, &published())?;
        guest.ping(&OUTSIDE.to_string())?;
        in_every_order(lab, &guest, &V4, V4.host, true)?;
        none_is_lost(lab)
    });
}

/// To a guest of the network the host's address is the gateway's business, which its port does not see to.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_they_do_from_a_sibling_to_a_published_port() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&published())?;
        let (guest, sibling) = (lab.member(1, &published())?, lab.member(2, &published())?);
        guest.ping(&OUTSIDE.to_string())?;
        let service = udp(guest.netns(), V4.guest, PORT)?;
        let way = Way {
            name: "from a sibling to the published port",
            wire: &Wire::new(sibling.netns(), "eth0")?,
            macs: [sibling.netns().mac("eth0")?, lab.hv.mac("virbr1")?],
            from: (published().address(12).into(), OWN),
            to: (HOST.into(), PUBLISHED),
            arrives: &service,
        };
        for (id, order) in (1..).zip(ORDERS) {
            way.deliver(order, id)?;
        }
        // Each of them came once, or a datagram would have been put together of the copies.
        service.set_nonblocking(true)?;
        ensure!(service.recv(&mut [0; 64]).is_err(), "it arrived twice");
        none_is_lost(lab)
    });
}

/// By filters, as before Linux 6.6.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_they_do_behind_filters_of_clsact() {
    check(|lab| {
        lab.agent.attach_by("clsact")?;
        lab.agent.start()?;
        lab.up(&published())?;
        let guest = lab.member(1, &published())?;
        guest.ping(&OUTSIDE.to_string())?;
        in_every_order(lab, &guest, &V4, V4.host, true)?;
        none_is_lost(lab)
    });
}

/// A fragment that was held has waited for its turn before that.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_they_do_where_what_guests_send_is_held_to_a_rate() {
    check(|lab| {
        lab.agent.start()?;
        let rate = "<bandwidth><inbound average='20000'/><outbound average='20000'/></bandwidth>";
        let network = published().with(rate);
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        guest.ping(&OUTSIDE.to_string())?;
        in_every_order(lab, &guest, &V4, V4.host, true)?;
        none_is_lost(lab)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_they_do_at_a_tap() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&published())?;
        let guest = lab.guest_at_tap(1)?;
        lab.plug(&guest, &published().bridge())?;
        let gateway = published().gateway().to_string();
        guest.address(&format!("{}/24", V4.guest), Some(&gateway))?;
        guest.ping(&OUTSIDE.to_string())?;
        in_every_order(lab, &guest, &V4, V4.host, true)?;
        none_is_lost(lab)
    });
}

/// Behind an address of a range, which is no address of the host's.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_they_do_behind_a_range_of_addresses() {
    let shown = Ipv4Addr::new(198, 51, 100, 16);
    let network = Network::default().forward(&format!(
        "<forward mode='nat'><nat><address start='{shown}' end='{shown}'/></nat></forward>"
    ));
    check(|lab| {
        lab.agent.start()?;
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        guest.ping(&OUTSIDE.to_string())?;
        in_every_order(lab, &guest, &V4, shown.into(), false)?;
        none_is_lost(lab)
    });
}

/// The host's rules see the first packet of a flow as it comes; they may not even look at ports, and then
/// nothing in the stack puts the packet together.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_they_do_where_the_hosts_rules_are_respected() {
    for rules in ["meta mark set 1", "ct state new accept"] {
        let network = Network::default().with(
            "<metadata><netd:host xmlns:netd='urn:netd:network:1' firewall='respect'/></metadata>",
        );
        check(|lab| {
            let table = format!(
                "table inet t {{ chain c {{ type filter hook forward priority 0; {rules}; }}\n}}"
            );
            let file = lab.agent.file("rules.nft", &table)?;
            lab.hv.run(["nft", "-f", &file])?;
            lab.agent.start()?;
            lab.up(&network)?;
            let guest = lab.member(1, &network)?;
            // The flow is opened where its first fragment comes out of the stack, which is not to ask for a
            // neighbour for longer than the others are held.
            guest.ping(&OUTSIDE.to_string())?;
            in_every_order(lab, &guest, &V4, V4.host, false).context(rules)?;
            lab.hv.run(["nft", "flush", "ruleset"])?;
            none_is_lost(lab)
        });
    }
}

fn in_ipv6(network: &Network, published: bool, shown: Option<IpAddr>) {
    let addresses = Addresses {
        guest: network.address6(11).into(),
        host: HOST6.into(),
        outside: OUTSIDE6.into(),
    };
    let shown = shown.unwrap_or(addresses.guest);
    check_guest6(network, |lab, guest| {
        in_every_order(lab, guest, &addresses, shown, published)?;
        none_is_lost(lab)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_they_do_in_ipv6() {
    let network = Network::nat6("default", 1);
    let guest = network.address6(11).to_string();
    let network = network.with(&forwards(&both("", &guest, PUBLISHED, PORT)));
    in_ipv6(&network, true, Some(HOST6.into()));
}

/// A routed network's need no translation, and no rule of the host's stops them.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_they_do_in_a_routed_network_under_forward_drop() {
    let network = Network::route("default", 1).ipv6();
    let addresses = Addresses {
        guest: network.address6(11).into(),
        host: HOST6.into(),
        outside: OUTSIDE6.into(),
    };
    check_guest6(&network, |lab, guest| {
        let drop =
            "table inet t { chain c { type filter hook forward priority 0; policy drop; }\n}";
        let file = lab.agent.file("drop.nft", drop)?;
        lab.hv.run(["nft", "-f", &file])?;
        in_every_order(lab, guest, &addresses, addresses.guest, false)?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        none_is_lost(lab)
    });
}

/// An uplink without Ethernet header gives its packets back as they came, too.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p26_they_do_through_a_tunnel() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        let far = Tun::new(&lab.hv, "tun9")?;
        lab.hv
            .run(["ip", "link", "set", "tun9", "mtu", "1500", "up"])?;
        lab.hv.address("tun9", "10.99.0.1/24")?;
        let at_guest = guest.netns().udp(("0.0.0.0", OWN))?;
        let (near, peer) = (Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2));
        eventually(SOON, || {
            at_guest.send_to(b"opens the flow", (peer, PORT))?;
            let sent = std::iter::from_fn(|| far.receive().transpose());
            let sent = sent.collect::<Result<Vec<_>>>()?;
            let is_it = |packet: &Vec<u8>| packet[0] == 0x45 && packet[12..16] == near.octets();
            ensure!(sent.iter().any(is_it), "sent: {sent:x?}");
            // Both of the new device's programs are there once this arrives.
            let whole = Frame::udp((peer, PORT), (near, OWN), b"whole").with_udp_checksum();
            far.send(&whole.packet())?;
            at_guest.set_read_timeout(Some(Duration::from_millis(200)))?;
            at_guest.receive_from(&mut [0; 64])?;
            Ok(())
        })?;
        // Answers of earlier attempts.
        while at_guest.recv_from(&mut [0; 64]).is_ok() {}
        at_guest.set_read_timeout(Some(SOON))?;
        for (id, order) in (300..).zip(ORDERS) {
            let data = vec![id as u8; (order.len() - 1) * ROOM + 500];
            let mut answer = Frame::udp((peer, PORT), (near, OWN), &data).with_udp_checksum();
            answer.id = id;
            let pieces = answer.fragments(ROOM);
            at_once(|| {
                let mut pieces = order.iter().map(|place| &pieces[*place]);
                pieces.try_for_each(|piece| far.send(&piece.packet()))
            })?;
            let mut buffer = vec![0; 65_536];
            let (length, _) = at_guest
                .receive_from(&mut buffer)
                .with_context(|| format!("order {order:?}"))?;
            ensure!(
                buffer[..length] == data,
                "{length} bytes in order {order:?}"
            );
        }
        none_is_lost(lab)
    });
}

/// The host's own datagrams are the stack's at once, and once; what nobody sends the first one of is dropped by
/// name, whether there is an agent or none, and delays nobody.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn strays_are_dropped_by_name_and_the_hosts_own_are_the_hosts() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let at_host = lab.hv.udp((HOST, PORT))?;
        let wan = Wire::new(&lab.wan, "wan0")?;
        let to_host = Way {
            name: "to the host",
            wire: &wan,
            macs: [lab.wan.mac("wan0")?, lab.hv.mac("uplink")?],
            from: (OUTSIDE.into(), OWN),
            to: (HOST.into(), PORT),
            arrives: &at_host,
        };
        let wire = Wire::new(guest.netns(), "eth0")?;
        let macs = [guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?];
        let from = (V4.guest, OWN);
        let stray = |id: u16| -> Result<()> {
            let pieces = pieces(from, (V4.outside, PORT), macs, id, &[0; 4000]);
            // A processor's queue may be full on a busy machine, which is told.
            eventually(SOON, || wire.send_bytes(&pieces[2]))
        };
        let strays_are_counted = |lab: &Lab, count: u64| {
            eventually(SOON, || {
                let dropped = lab.agent.dropped("frag_without_first")?;
                ensure!(dropped == count, "{dropped} dropped, not {count}");
                Ok(())
            })
        };
        for (id, order) in (10..).zip(ORDERS) {
            to_host.deliver(order, id)?;
        }
        at_host.set_nonblocking(true)?;
        ensure!(at_host.recv(&mut [0; 64]).is_err(), "it arrived twice");
        at_host.set_nonblocking(false)?;
        // More than are held at a time, and more than may come in a second.
        for id in 1000..1700 {
            stray(id)?;
        }
        strays_are_counted(lab, 700)?;
        lab.agent.stop()?;
        for id in 2000..2300 {
            stray(id)?;
        }
        to_host.deliver(ORDERS[0], 50)?;
        lab.agent.start()?;
        strays_are_counted(lab, 1000)?;
        // One that was killed leaves some behind, which its successor counts.
        lab.agent.kill()?;
        for id in 3000..3300 {
            stray(id)?;
        }
        std::thread::sleep(Duration::from_millis(1100));
        lab.agent.start()?;
        strays_are_counted(lab, 1300)
    });
}
