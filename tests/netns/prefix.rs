//! `<netd:prefix outside>`: guests have other addresses outside, one for one (NPTv6, RFC 6296).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use netd_common::abi::PrefixPair;
use netd_common::prefix::Way;
use netd_tests::lab6::{FAR6, HOST6, OUTSIDE6, at6, check6};
use netd_tests::packet6::Ipv6;
use netd_tests::questions::WHO;
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Netns, Network, SOON, Sniffer, eventually};

const PORT: u16 = 7000;
/// The prefix outside, to which the outside host knows the way.
const OUTSIDE: &str = "2001:db8:77::";
/// That of guests.
const INSIDE: &str = "fd00:10:1::";

fn network(outside: &str) -> Network {
    Network::route("default", 1).ipv6().with(&format!(
        "<uuid>00000000-0000-0000-0000-000000000077</uuid><metadata><n:prefix xmlns:n='urn:netd:network:1' outside='{outside}'/></metadata>"
    ))
}

/// What stands for a guest's address outside, where prefixes of this length are translated.
fn outside_of(inside: &str, outside: &str, len: u8, guest: Ipv6Addr) -> Result<Ipv6Addr> {
    let prefix = |text: &str| text.parse::<Ipv6Addr>().map(|address| address.octets());
    let pair = PrefixPair::new(prefix(inside)?, prefix(outside)?, len);
    let other = pair.other(guest.octets(), Way::Out);
    Ok(other.context("the guest has no address outside")?.into())
}

fn shown(number: u16) -> Result<Ipv6Addr> {
    let guest = network("").address6(10 + number);
    outside_of(INSIDE, OUTSIDE, 48, guest)
}

/// A network of that prefix outside with guest number 1, and a sniffer outside.
fn check(test: impl FnOnce(&mut Lab, &Guest) -> Result<()>) {
    check6(|lab| {
        lab.agent.start()?;
        let network = network(&format!("{OUTSIDE}/48"));
        lab.up(&network)?;
        lead(&lab.wan, &format!("{OUTSIDE}/48"), HOST6)?;
        let guest = lab.member6(1, &network)?;
        test(lab, &guest)
    });
}

fn lead(netns: &Netns, to: &str, via: Ipv6Addr) -> Result<()> {
    let route = format!("ip -6 route add {to} via {via}");
    netns.run(route.split(' ')).map(drop)
}

fn ping(from: &Netns, to: Ipv6Addr) -> Result<()> {
    let ping = ["ping", "-6", "-c1", "-W2", &to.to_string()].map(str::to_owned);
    eventually(SOON, || from.run(ping.iter().map(String::as_str))).map(drop)
}

/// No address of guests' own shows outside, not in what errors quote either, and all checksums are right.
fn hides(packets: &[Ipv6]) -> Result<()> {
    let is_own = |address: Ipv6Addr| address.segments()[0] == 0xfd00;
    for packet in packets {
        let quoted = packet.quoted();
        let all = [Some(packet), quoted.as_ref()].into_iter().flatten();
        for packet in all {
            let hidden = !is_own(packet.source) && !is_own(packet.destination);
            ensure!(hidden, "a guest's own address shows: {packet:?}");
        }
        ensure!(packet.checksum_is_right(), "checksum: {packet:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn each_guest_reaches_and_is_reached_by_an_address_of_its_own_outside() {
    check(|lab, guest| {
        // A sniffer is to see whole checksums.
        for (netns, device) in [(guest.netns(), "eth0"), (&lab.wan, "wan0")] {
            netns.run(["ethtool", "-K", device, "tx", "off"])?;
        }
        let own = network("").address6(11);
        let shown = shown(1)?;
        let _servers = (
            Server::udp(&lab.wan, at6(OUTSIDE6, PORT))?,
            Server::tcp_echo(&lab.wan, at6(OUTSIDE6, PORT))?,
            Server::udp(guest.netns(), at6(own, PORT))?,
            Server::tcp_echo(guest.netns(), at6(own, PORT))?,
        );
        let sniffer = Sniffer::start6(&lab.wan)?;
        let seen = traffic::answered_from(guest.netns(), 5000, at6(OUTSIDE6, PORT))?;
        ensure!(seen == SocketAddr::from((shown, 5000)), "seen as {seen}");
        guest.ping(&OUTSIDE6.to_string())?;
        traffic::transfer(guest.netns(), at6(OUTSIDE6, PORT), 1 << 20).context("out")?;
        traffic::refused(guest.netns(), at6(OUTSIDE6, PORT + 1)).context("a closed port")?;
        // And who has begun nothing.
        ping(&lab.wan, shown)?;
        let seen = traffic::answered(&lab.wan, at6(shown, PORT))?;
        ensure!(seen.ip() == OUTSIDE6, "the guest sees {seen}");
        traffic::transfer(&lab.wan, at6(shown, PORT), 1 << 20).context("in")?;
        traffic::refused(&lab.wan, at6(shown, PORT + 1)).context("the guest's closed port")?;
        hides(&sniffer.finish()?)?;
        // The host reaches it by that address as well.
        traffic::transfer(&lab.hv, at6(shown, PORT), 100_000).context("the host")?;
        Ok(())
    });
}

/// RFC 4787, REQ-9, by RFC 6296: siblings that know each other by their addresses outside see these.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn siblings_and_other_networks_reach_a_guest_by_its_address_outside() {
    check(|lab, guest| {
        let own = network("").address6(11);
        let _servers = (
            Server::udp(guest.netns(), at6(own, PORT))?,
            Server::tcp_echo(guest.netns(), at6(own, PORT))?,
        );
        let sibling = lab.member6(2, &network(""))?;
        let to = at6(shown(1)?, PORT);
        let seen = traffic::answered(sibling.netns(), to)?;
        ensure!(seen.ip() == IpAddr::V6(shown(2)?), "the sibling is {seen}");
        traffic::transfer(sibling.netns(), to, 1 << 20).context("the sibling")?;
        ping(sibling.netns(), shown(1)?)?;
        // Within their network they have their own.
        let seen = traffic::answered(sibling.netns(), at6(own, PORT))?;
        ensure!(
            seen.ip() == IpAddr::V6(network("").address6(12)),
            "the sibling is {seen}"
        );
        let other = Network::route("other", 2).ipv6();
        lab.up(&other)?;
        let stranger = lab.member6(3, &other)?;
        let seen = traffic::answered(stranger.netns(), to)?;
        ensure!(
            seen.ip() == IpAddr::V6(other.address6(13)),
            "the stranger is {seen}"
        );
        traffic::transfer(stranger.netns(), to, 1 << 20).context("the stranger")
    });
}

/// Fragments, and a path that takes less than the guest's link.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn large_packets_and_what_routers_say_of_them_pass() {
    check(|lab, guest| {
        let far = lab.far6(1300)?;
        let _tcp = Server::tcp_echo(&far, at6(FAR6, PORT))?;
        let inside = Sniffer::start6(guest.netns())?;
        traffic::transfer(guest.netns(), at6(FAR6, PORT), 1 << 20).context("the narrow path")?;
        let own = network("").address6(11);
        let told = inside.finish()?;
        let mut told = told.iter().filter(|p| p.icmp() == Some((2, 0)));
        let quoted = told.next().and_then(Ipv6::quoted);
        let quoted = quoted.context("no router complained")?;
        ensure!(quoted.source == own, "the guest is told of {quoted:?}");

        let outside = lab.wan.udp(at6(OUTSIDE6, PORT))?;
        let socket = guest.netns().udp("[::]:5000")?;
        let mut buffer = vec![0; 65_536];
        for round in 0..3_u8 {
            let data: Vec<u8> = (0..8000_u32).map(|at| (at >> 3) as u8 ^ round).collect();
            socket.send_to(&data, at6(OUTSIDE6, PORT))?;
            let (length, peer) = outside.recv_from(&mut buffer).context("there")?;
            ensure!(buffer[..length] == data, "round {round}: another content");
            ensure!(peer.ip() == IpAddr::V6(shown(1)?), "from {peer}");
            outside.send_to(&data[..5000], peer)?;
            let (length, _) = socket.recv_from(&mut buffer).context("and back")?;
            ensure!(buffer[..length] == data[..5000], "round {round}: answer");
        }
        Ok(())
    });
}

/// The kernel's own translator (SNPT of ip6tables) between the same guests and the same outside host.
struct Peer {
    router: Netns,
    client: Netns,
}

impl Peer {
    fn new(lab: &Lab) -> Result<Self> {
        let peer = Self {
            router: Netns::new("npt")?,
            client: Netns::new("nptin")?,
        };
        peer.router.veth("in", &peer.client, "eth0")?;
        peer.router.veth("out", &lab.wan, "wan2")?;
        for (netns, device, address) in [
            (&peer.router, "in", "fd00:10:1::1"),
            (&peer.client, "eth0", "fd00:10:1::b"),
            (&peer.router, "out", "2001:db8:3::2"),
            (&lab.wan, "wan2", "2001:db8:3::1"),
        ] {
            netns.address(device, &format!("{address}/64"))?;
            netns.wait_for_addresses(device)?;
        }
        peer.router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        lead(&peer.client, "default", "fd00:10:1::1".parse()?)?;
        lead(&peer.router, "default", "2001:db8:3::1".parse()?)?;
        Ok(peer)
    }

    /// Translate these prefixes, and no others.
    fn translate(&self, lab: &Lab, inside: &str, outside: &str) -> Result<()> {
        let pairs = format!("--src-pfx {inside} --dst-pfx {outside}");
        let back = format!("--src-pfx {outside} --dst-pfx {inside}");
        for words in [
            "-F POSTROUTING".to_owned(),
            "-F PREROUTING".to_owned(),
            format!("-A POSTROUTING -o out -s {inside} -j SNPT {pairs}"),
            format!("-A PREROUTING -i out -d {outside} -j DNPT {back}"),
        ] {
            let words = format!("ip6tables -t mangle {words}");
            self.router.run(words.split(' '))?;
        }
        let route = format!("ip -6 route replace {outside} via 2001:db8:3::2");
        lab.wan.run(route.split(' ')).map(drop)
    }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_have_the_addresses_that_the_kernels_translator_gives_them() {
    check6(|lab| {
        lab.agent.start()?;
        let peer = Peer::new(lab)?;
        let plain = network(&format!("{OUTSIDE}/48"));
        lab.up(&plain)?;
        let guest = lab.member6(1, &plain)?;
        let _server = Server::udp(&lab.wan, format!("[::]:{PORT}").parse::<SocketAddr>()?)?;
        for (inside, outside) in [
            ("fd00:10:1::/48", "2001:db8:77::/48"),
            ("fd00:10::/32", "2001:db9::/32"),
            ("fd00:10:1::/56", "2001:db8:78:9900::/56"),
            ("fd00:10:1::/64", "2001:db8:79:abcd::/64"),
        ] {
            let definition = network(outside);
            lab.agent.define(&definition.xml())?;
            lab.agent.ok(["reload"])?;
            for host in [
                "1:2:3:4",
                "ffff:2:3:4",
                "ffff:ffff:ffff:4",
                "5054:ff:fe00:b",
            ] {
                let address: Ipv6Addr = format!("fd00:10:1:0:{host}").parse()?;
                // The way to outside is by netd for one, and by the kernel for the other.
                let mut seen = Vec::new();
                peer.translate(lab, inside, outside)?;
                for (netns, via) in [(&peer.client, None), (guest.netns(), Some(HOST6))] {
                    if let Some(via) = via {
                        let route = format!("ip -6 route replace {outside} via {via}");
                        lab.wan.run(route.split(' '))?;
                    }
                    netns.address("eth0", &format!("{address}/64"))?;
                    netns.wait_for_addresses("eth0")?;
                    let to = match via {
                        Some(_) => at6(OUTSIDE6, PORT),
                        None => at6("2001:db8:3::1".parse()?, PORT),
                    };
                    let socket = netns.udp(at6(address, 0))?;
                    seen.push(eventually(SOON, || asked(&socket, to))?.ip());
                    let remove = format!("ip -6 addr del {address}/64 dev eth0");
                    netns.run(remove.split(' '))?;
                }
                ensure!(
                    seen[0] == seen[1] && seen[0] != IpAddr::V6(address),
                    "{address} in {inside}: {} by the kernel, {} by netd",
                    seen[0],
                    seen[1]
                );
            }
        }
        Ok(())
    });
}

/// As whom the server sees who asks by this socket.
fn asked(socket: &std::net::UdpSocket, to: std::net::SocketAddrV6) -> Result<SocketAddr> {
    socket.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
    socket.send_to(WHO, to)?;
    let mut answer = [0; 200];
    let (length, _) = socket.recv_from(&mut answer)?;
    let text = std::str::from_utf8(&answer[..length])?;
    Ok(text.parse()?)
}

/// On the uplink's own link neighbours ask for the addresses: netd answers for guests that it knows.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn neighbours_find_guests_on_the_uplinks_own_link() {
    check6(|lab| {
        lab.agent.start()?;
        let network = network("2001:db8:1::/64");
        lab.up(&network)?;
        let guest = lab.member6(1, &network)?;
        let shown = outside_of(INSIDE, "2001:db8:1::", 64, network.address6(11))?;
        guest.ping(&OUTSIDE6.to_string())?;
        ping(&lab.wan, shown)?;
        // The host has its own, and nobody those of nobody.
        ping(&lab.wan, HOST6)?;
        let nobody = outside_of(INSIDE, "2001:db8:1::", 64, network.address6(99))?;
        let ping = ["ping", "-6", "-c1", "-W1", &nobody.to_string()].map(str::to_owned);
        let output = lab.wan.output(ping.iter().map(String::as_str))?;
        ensure!(!output.status.success(), "{nobody} answers");
        let entry = lab
            .wan
            .run(["ip", "-6", "neigh", "show", &nobody.to_string()])?;
        ensure!(!entry.contains("lladdr"), "somebody has {nobody}: {entry}");
        Ok(())
    });
}

/// Two networks of one prefix, and one whose prefix would be another's.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn networks_share_a_prefix_and_start_with_no_other() {
    check6(|lab| {
        lab.agent.start()?;
        lead(&lab.wan, "2001:db9::/32", HOST6)?;
        let of = |name: &str, number, outside: &str| {
            Network::route(name, number).ipv6().with(&format!(
                "<metadata><n:prefix xmlns:n='urn:netd:network:1' outside='{outside}'/></metadata>"
            ))
        };
        let networks = [of("one", 1, "2001:db9::/32"), of("two", 2, "2001:db9::/32")];
        let mut guests = Vec::new();
        for (number, network) in (1..).zip(&networks) {
            lab.up(network)?;
            let guest = lab.member6(number, network)?;
            let own = network.address6(10 + u16::from(number));
            let shown = outside_of("fd00:10::", "2001:db9::", 32, own)?;
            ping(&lab.wan, shown)?;
            guests.push((guest, shown));
        }
        lab.agent.define(&of("three", 3, "2001:db9:5::/48").xml())?;
        let error = lab.agent.fails(["net-start", "three"])?;
        ensure!(
            error.contains("cannot be 2001:db9:5::/48 outside"),
            "{error}"
        );
        // What one leaves the other keeps.
        lab.agent.ok(["net-destroy", "one"])?;
        ping(&lab.wan, guests[1].1)
    });
}
