//! Guests that lie about who they are, and guests that are kept from each other and from the host.
//! A network without the guard shows that each lie would be heard.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use netd_tests::frame::{Frame, VLAN, Wire};
use netd_tests::frame6::Frame6;
use netd_tests::lab::{OUTSIDE, at, check};
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Network, SOON, eventually};

const PORT: u16 = 7000;
const EVERYBODY: [u8; 6] = [0xff; 6];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

fn metadata(elements: &str) -> String {
    format!("<metadata><n:network xmlns:n='urn:netd:network:1'>{elements}</n:network></metadata>")
}

/// Frames that a guest's device has received.
fn received(guest: &Guest) -> Result<u64> {
    let table = guest.netns().run(["cat", "/proc/net/dev"])?;
    let line = table.lines().find(|line| line.trim().starts_with("eth0:"));
    let packets = line.and_then(|line| line.split_whitespace().nth(2));
    Ok(packets.context("the guest's device")?.parse()?)
}

/// Two guests of a network: a liar, and a neighbour that listens.
struct Fixture {
    liar: Guest,
    neighbour: Guest,
    wire: Wire,
    own: [u8; 6],
    theirs: [u8; 6],
    bridge: [u8; 6],
}

impl Fixture {
    /// The guests have their addresses by DHCP, from a network that `extra` describes.
    fn new(lab: &Lab, number: u8, extra: &str) -> Result<Self> {
        let network = Network::nat(&format!("net{number}"), number)
            .dhcp("")
            .with(extra);
        lab.up(&network)?;
        let liar = lab.plugged(number * 10 + 1, &network.bridge())?;
        let neighbour = lab.plugged(number * 10 + 2, &network.bridge())?;
        for guest in [&liar, &neighbour] {
            guest.dhcp()?;
            // At once: the lease is good as soon as it is granted.
            guest.ping(&network.gateway().to_string())?;
            guest.ping(&OUTSIDE.to_string())?;
        }
        Ok(Self {
            wire: Wire::new(liar.netns(), "eth0")?,
            own: liar.netns().mac("eth0")?,
            theirs: neighbour.netns().mac("eth0")?,
            bridge: lab.hv.mac(&network.bridge())?,
            liar,
            neighbour,
        })
    }

    fn address(guest: &Guest) -> Result<Ipv4Addr> {
        let text = guest.netns().run([
            "sh",
            "-c",
            "ip -4 -o addr show eth0 | sed 's/.*inet //; s,/.*,,'",
        ])?;
        Ok(text.trim().parse()?)
    }

    /// The lies, by the reason that they are refused for.
    fn lies(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let me = Self::address(&self.liar)?;
        let you = Self::address(&self.neighbour)?;
        let udp = |source: Ipv4Addr, from: [u8; 6]| {
            Frame::udp((source, 5000), (you, PORT), b"lie")
                .between(from, self.theirs)
                .bytes()
        };
        let arp = |hardware: [u8; 6], sender: Ipv4Addr| {
            let mut frame = EVERYBODY.to_vec();
            frame.extend(self.own);
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
            frame.extend(hardware);
            frame.extend(sender.octets());
            frame.extend(EVERYBODY);
            frame.extend(you.octets());
            frame
        };
        let icmp6 = |message: Vec<u8>| {
            let link_local = "fe80::1234".parse().expect("an address");
            let all = "ff02::1".parse().expect("an address");
            Frame6::icmp(link_local, all, message)
                .between(self.own, ALL_NODES_MAC)
                .bytes()
        };
        let mut advertisement = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        let gateway: std::net::Ipv6Addr = "2001:db8:77::1".parse().expect("an address");
        advertisement.extend(gateway.octets());
        let mut tagged = udp(me, self.own);
        let tag = [VLAN.to_be_bytes(), [0, 7]].concat();
        tagged.splice(12..12, tag);
        let mut lldp = ALL_NODES_MAC.to_vec();
        lldp.extend(self.own);
        lldp.extend([0x88, 0xcc]);
        lldp.extend([0; 46]);
        Ok(vec![
            ("spoofed_mac", udp(me, [2, 9, 9, 9, 9, 9])),
            (
                "spoofed_address",
                udp(Ipv4Addr::new(10, 10, 99, 99), self.own),
            ),
            (
                "spoofed_address",
                udp(Ipv4Addr::new(192, 0, 2, 1), self.own),
            ),
            ("spoofed_arp", arp(self.own, Ipv4Addr::new(10, 10, 1, 1))),
            ("spoofed_arp", arp(self.theirs, me)),
            (
                "rogue_server",
                Frame::udp((me, 67), (Ipv4Addr::BROADCAST, 68), &[2; 300])
                    .between(self.own, EVERYBODY)
                    .bytes(),
            ),
            (
                "rogue_server",
                icmp6([&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat()),
            ),
            ("spoofed_neighbour", icmp6(advertisement)),
            ("other_protocol", tagged),
            ("other_protocol", lldp),
            ("malformed", {
                let mut runt = self.theirs.to_vec();
                runt.extend(self.own);
                runt.extend([8, 0, 0x45, 0, 0, 0]);
                runt
            }),
        ])
    }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p42_no_lie_of_a_guarded_guest_is_heard() {
    check(|lab| {
        lab.agent.start()?;
        let guarded = Fixture::new(lab, 1, &metadata("<n:antispoof/>"))?;
        let open = Fixture::new(lab, 2, "")?;
        // Without the guard the neighbour hears every one of them.
        for (reason, frame) in open.lies()? {
            let before = received(&open.neighbour)?;
            open.wire.send_bytes(&frame)?;
            eventually(SOON, || {
                let now = received(&open.neighbour)?;
                ensure!(
                    now > before,
                    "{reason}: not even an unguarded guest is heard"
                );
                Ok(())
            })?;
        }
        for (reason, frame) in guarded.lies()? {
            let dropped = lab.agent.dropped(reason)?;
            guarded.wire.send_bytes(&frame)?;
            eventually(SOON, || {
                let now = lab.agent.dropped(reason)?;
                ensure!(
                    now > dropped,
                    "{reason} does not count: {:?}",
                    lab.agent.drops()?
                );
                Ok(())
            })?;
        }
        // A storm of them: neighbours and the host go on.
        let lies = guarded.lies()?;
        for round in 0..2000 {
            let (_, frame) = &lies[round % lies.len()];
            guarded.wire.send_bytes(frame)?;
        }
        guarded.neighbour.ping(&OUTSIDE.to_string())?;
        guarded.liar.ping(&OUTSIDE.to_string())?;
        let you = Fixture::address(&guarded.neighbour)?;
        guarded.liar.ping(&you.to_string())?;
        ensure!(guarded.bridge != guarded.own, "two devices");
        Ok(())
    });
}

/// The guard is as good after the agent was away, and a guest that comes back has its addresses.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn leases_are_known_after_a_restart() {
    check(|lab| {
        lab.agent.start()?;
        let fixture = Fixture::new(lab, 1, &metadata("<n:antispoof/>"))?;
        lab.agent.kill()?;
        fixture.liar.ping(&OUTSIDE.to_string())?;
        lab.agent.start()?;
        for guest in [&fixture.liar, &fixture.neighbour] {
            guest.ping(&OUTSIDE.to_string())?;
        }
        let dropped = lab.agent.dropped("spoofed_address")?;
        ensure!(dropped == 0, "{:?}", lab.agent.drops()?);
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn isolated_ports_do_not_meet() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().with("<port isolated='yes'/>");
        lab.up(&network)?;
        let one = lab.member(1, &network)?;
        let two = lab.member(2, &network)?;
        for guest in [&one, &two] {
            guest.ping(&network.gateway().to_string())?;
            guest.ping(&OUTSIDE.to_string())?;
        }
        let _server = Server::udp(two.netns(), at(network.address(12), PORT))?;
        eventually(SOON, || {
            let link = lab.hv.run(["ip", "-d", "link", "show", &two.port])?;
            ensure!(link.contains("isolated on"), "{link}");
            Ok(())
        })?;
        one.netns().run(["ip", "neigh", "flush", "dev", "eth0"])?;
        let straight = one.try_ping(&network.address(12).to_string())?;
        ensure!(
            !straight.status.success(),
            "isolated guests meet at the bridge"
        );
        // By way of the gateway, as a guest might that knows how.
        let gateway = network.gateway().to_string();
        let route = format!("ip route add {}/32 via {gateway}", network.address(12));
        one.netns().run(route.split(' '))?;
        traffic::refused(one.netns(), at(network.address(12), PORT))?;
        ensure!(
            lab.agent.dropped("port_isolated")? > 0,
            "it was not counted"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_host_is_closed_to_guests() {
    check(|lab| {
        lab.agent.start()?;
        let server = Server::tcp_echo(&lab.hv, at(Ipv4Addr::UNSPECIFIED, PORT))?;
        for (number, access) in [(1, "all"), (2, "services"), (3, "none")] {
            let network = Network::isolated(access, number)
                .dhcp("")
                .with(&metadata(&format!("<n:host access='{access}'/>")));
            lab.up(&network)?;
            let guest = lab.plugged(number, &network.bridge())?;
            let gateway = network.gateway();
            if access == "none" {
                guest.address(&format!("{}/24", network.address(20)), None)?;
                let ping = guest.try_ping(&gateway.to_string())?;
                ensure!(!ping.status.success(), "{access}: the host answers");
            } else {
                guest.dhcp()?;
                guest.ping(&gateway.to_string())?;
            }
            let reached = traffic::try_connect(guest.netns(), at(gateway, PORT));
            ensure!(
                reached.is_ok() == (access == "all"),
                "{access}: {reached:?}"
            );
            // The host reaches its guests in any case.
            let address = if access == "none" {
                network.address(20)
            } else {
                Fixture::address(&guest)?
            };
            let _inside = Server::tcp_echo(guest.netns(), at(address, PORT))?;
            traffic::connect(&lab.hv, at(address, PORT))?;
            let ping = ["busybox", "ping", "-c1", "-W3", &address.to_string()].map(str::to_owned);
            eventually(SOON, || lab.hv.run(ping.iter().map(String::as_str)))?;
        }
        drop(server);
        ensure!(
            lab.agent.dropped("host_access_denied")? > 0,
            "it was not counted"
        );
        Ok(())
    });
}

/// `<route>`: a subnet behind a guest is reached from outside and reaches it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_subnet_behind_a_guest_is_routed() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::route("default", 1)
            .with("<route address='172.20.5.0' prefix='24' gateway='10.10.1.11'/>");
        lab.up(&network)?;
        let guest = lab.member(1, &network)?;
        guest
            .netns()
            .run(["ip", "addr", "add", "172.20.5.1/24", "dev", "lo"])?;
        let shown = lab.hv.run(["ip", "route", "show", "172.20.5.0/24"])?;
        ensure!(
            shown.contains("via 10.10.1.11 dev virbr1") && shown.contains("metric 1"),
            "{shown}"
        );
        let host = netd_tests::lab::HOST.to_string();
        for subnet in ["172.20.5.0/24", "10.10.1.0/24"] {
            lab.wan.run(["ip", "route", "add", subnet, "via", &host])?;
        }
        let behind = Ipv4Addr::new(172, 20, 5, 1);
        let _server = Server::tcp_echo(guest.netns(), at(behind, PORT))?;
        traffic::transfer(&lab.wan, at(behind, PORT), 100_000)?;
        let outside = OUTSIDE.to_string();
        let ping = [
            "busybox",
            "ping",
            "-c1",
            "-W3",
            "-I",
            "172.20.5.1",
            &outside,
        ];
        eventually(SOON, || guest.netns().run(ping))?;
        // A bridge that is made anew has its route again.
        lab.agent.ok(["net-destroy", "default"])?;
        lab.agent.ok(["net-start", "default"])?;
        let shown = lab.hv.run(["ip", "route", "show", "172.20.5.0/24"])?;
        ensure!(shown.contains("dev virbr1"), "{shown}");
        Ok(())
    });
}
