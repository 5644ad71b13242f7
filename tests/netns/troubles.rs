//! Troubles that users of such systems reported, with published ports: each from its first step to the
//! last.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::packet::{Ipv4, TCP};
use netd_tests::published::{both, forward, forwards, range, reached, seen};
use netd_tests::traffic::{Load, Server};
use netd_tests::{Guest, Lab, Losses, Network, SOON, Sniffer, eventually};

/// Where the guest listens, and where that is published.
const INSIDE: u16 = 2055;
const PUBLIC: u16 = 2055;
/// The whole address that is a guest's in some of the tests.
const WHOLE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);

/// Somebody outside who sends datagrams from one port and hears nothing.
struct Exporter {
    socket: UdpSocket,
    number: u32,
}

impl Exporter {
    fn new(lab: &Lab) -> Result<Self> {
        let socket = lab.wan.udp(at(OUTSIDE, 0))?;
        Ok(Self { socket, number: 0 })
    }

    /// Sends the next one, with its number.
    fn send(&mut self) -> Result<u32> {
        self.number += 1;
        let data = self.number.to_be_bytes();
        self.socket.send_to(&data, at(HOST, PUBLIC))?;
        Ok(self.number)
    }
}

/// Who listens, by name, and where.
struct Collector {
    name: &'static str,
    socket: UdpSocket,
}

impl Collector {
    fn new(name: &'static str, socket: UdpSocket) -> Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { name, socket })
    }

    fn guest(name: &'static str, guest: &Guest) -> Result<Self> {
        Self::new(name, guest.netns().udp(at(Ipv4Addr::UNSPECIFIED, INSIDE))?)
    }
}

/// Sends one after the other until one has arrived, and tells who has it. It must come from outside.
fn who_gets(exporter: &mut Exporter, collectors: &[&Collector]) -> Result<&'static str> {
    eventually(SOON, || {
        let number = exporter.send()?;
        std::thread::sleep(Duration::from_millis(20));
        let mut got = None;
        for collector in collectors {
            let mut data = [0; 8];
            while let Ok((length, from)) = collector.socket.recv_from(&mut data) {
                ensure!(from.ip() == OUTSIDE, "{}: from {from}", collector.name);
                if data[..length] == number.to_be_bytes() {
                    got = Some(collector.name);
                }
            }
        }
        match got {
            Some(name) => Ok(name),
            None => bail!("number {number} was lost"),
        }
    })
}

/// moby/moby#53384 and others: a sender of NetFlow that never pauses stays with the target that it had.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t17_a_sender_that_never_pauses_follows_the_forward() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        lab.up(&network)?;
        let first = lab.member(1, &network)?;
        let host = Collector::new("host", lab.hv.udp(at(Ipv4Addr::UNSPECIFIED, PUBLIC))?)?;
        let guest = Collector::guest("first", &first)?;
        let mut exporter = Exporter::new(lab)?;
        let mut gets = |who: &[&Collector], wanted: &str, when: &str| -> Result<()> {
            let got = who_gets(&mut exporter, who)?;
            ensure!(got == wanted, "{when}: {got} got it");
            Ok(())
        };
        gets(&[&host, &guest], "host", "no forward")?;
        let port = PUBLIC.to_string();
        let target = format!("10.10.1.11:{INSIDE}");
        let words = ["forward", "add", "default", "udp", &port, &target, "--live"];
        let told = String::from_utf8(lab.agent.cli(words)?.stderr)?;
        ensure!(told.contains("listens on udp port 2055"), "{told}");
        gets(&[&host, &guest], "first", "added")?;
        lab.agent.kill()?;
        gets(&[&host, &guest], "first", "no agent")?;
        lab.agent.start()?;
        gets(&[&host, &guest], "first", "the next agent")?;
        // Off and on.
        first.netns().run(["ip", "link", "set", "eth0", "down"])?;
        let mut unheard = Exporter::new(lab)?;
        for _ in 0..20 {
            unheard.send()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        let leaked = host.socket.recv_from(&mut [0; 8]);
        ensure!(leaked.is_err(), "the host got {leaked:?}");
        first.netns().run(["ip", "link", "set", "eth0", "up"])?;
        first.address("10.10.1.11/24", Some("10.10.1.1")).ok();
        gets(&[&host, &guest], "first", "up again")?;
        // Replaced: the same address, another card.
        drop(guest);
        drop(first);
        let second = lab.plugged(2, &network.bridge())?;
        second.address("10.10.1.11/24", Some("10.10.1.1"))?;
        let guest = Collector::guest("second", &second)?;
        gets(&[&host, &guest], "second", "replaced")?;
        lab.agent
            .ok(["forward", "delete", "default", "udp", &port, "--live"])?;
        gets(&[&host, &guest], "host", "deleted")?;
        Ok(())
    });
}

/// A definition that gives the guest a whole address, or one port of it.
fn whole(network: &Network, proto: &str, ranges: &str) -> Network {
    let address = format!("address='{WHOLE}'");
    let to = network.address(11).to_string();
    network
        .clone()
        .with(&forwards(&forward(proto, &address, &to, ranges)))
}

/// doccaz/kvm-scripts#3 and others: the host's own sshd answers for a guest that is off.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t18_the_host_never_answers_for_a_guest_that_is_off() {
    for (name, own, ranges) in [
        ("an address of nobody's", false, ""),
        ("an address of the host's, too", true, ""),
        ("a port of it", true, "22"),
    ] {
        println!("{name}");
        check(|lab| {
            if own {
                lab.hv.address("uplink", &format!("{WHOLE}/24"))?;
            }
            lab.agent.start()?;
            let network = match ranges {
                "" => whole(&Network::default(), "all", ""),
                _ => whole(&Network::default(), "tcp", &range(22, 22, 22)),
            };
            lab.up(&network)?;
            let _host = Server::tcp(&lab.hv, at(Ipv4Addr::UNSPECIFIED, 22), |_| Ok(()))?;
            let guest = lab.member(1, &network)?;
            let greets = |mut stream: TcpStream| stream.write_all(b"198.51.100.1:1");
            let _sshd = Server::tcp(guest.netns(), at(Ipv4Addr::UNSPECIFIED, 22), greets)?;
            eventually(SOON, || {
                ensure!(seen(&lab.wan, "tcp", at(WHOLE, 22))?.is_some(), "not up");
                Ok(())
            })?;
            // There but silent, then gone.
            guest.netns().run(["ip", "link", "set", "eth0", "down"])?;
            host_is_silent(lab, "silent", || nobody_answers(lab))?;
            drop(guest);
            host_is_silent(lab, "gone", || match ranges {
                // Of the other ports the host answers for itself.
                "" => is_unreachable(lab),
                _ => Ok(()),
            })?;
            host_is_silent(lab, "gone", || nobody_answers(lab))?;
            if own {
                let del = format!("ip addr del {WHOLE}/24 dev uplink");
                lab.hv.run(del.split(' '))?;
            }
            Ok(())
        });
    }
}

fn connect(lab: &Lab, limit: Duration) -> Result<std::io::Result<TcpStream>> {
    lab.wan
        .enter(|| TcpStream::connect_timeout(&at(WHOLE, 22).into(), limit))
}

/// Nobody answers connections.
fn nobody_answers(lab: &Lab) -> Result<()> {
    let connected = connect(lab, Duration::from_secs(3))?;
    ensure!(connected.is_err(), "somebody answers");
    Ok(())
}

/// Nobody is there, of which a sender is told sooner or later: the kernel's neighbour code asks for some
/// seconds first. It is counted.
fn is_unreachable(lab: &Lab) -> Result<()> {
    let before = lab.agent.dropped("unresolved")?;
    let socket = lab.wan.udp(at(OUTSIDE, 0))?;
    let sniffer = Sniffer::start(&lab.wan)?;
    eventually(SOON, || {
        socket.send_to(b"x", at(WHOLE, 22))?;
        let counted = lab.agent.dropped("unresolved")?;
        ensure!(counted > before, "{:?}", lab.agent.drops()?);
        Ok(())
    })?;
    let is_told = |packet: &Ipv4| packet.icmp() == Some((3, 1));
    let packets = sniffer.finish_when(|packets| packets.iter().any(is_told))?;
    ensure!(packets.iter().any(is_told), "nobody is told");
    Ok(())
}

/// The whole address sends no segment meanwhile.
fn host_is_silent(lab: &Lab, when: &str, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let sniffer = Sniffer::start(&lab.wan)?;
    meanwhile().with_context(|| when.to_owned())?;
    let packets = sniffer.finish()?;
    let is_segment = |packet: &&Ipv4| packet.source == WHOLE && packet.protocol == TCP;
    let segment = packets.iter().find(is_segment);
    ensure!(segment.is_none(), "{when}: the host answers: {segment:?}");
    Ok(())
}

/// Replaces the definition of a network, as an editor does.
fn edit(lab: &Lab, network: &Network) -> Result<String> {
    let uuid = lab.agent.ok(["net-uuid", &network.name])?;
    let uuid = format!("</name><uuid>{}</uuid>", uuid.trim());
    lab.agent
        .define(&network.xml().replacen("</name>", &uuid, 1))?;
    lab.agent.ok(["reload"])
}

/// lxc/incus-os#1273 and others: a filter for one port breaks what others publish.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t49_protections_break_no_published_port() {
    check(|lab| {
        lab.agent.start()?;
        // Else each definition would have one of its own.
        let base = Network::default().with("<mac address='52:54:00:10:10:01'/>");
        let forwards = both("", "10.10.1.11", PUBLIC, INSIDE);
        let defined = |elements: &str, rest: &str| {
            let metadata = format!(
                "<metadata><netd:network xmlns:netd='urn:netd:network:1'>\
                 <netd:forwards>{forwards}</netd:forwards>{elements}</netd:network></metadata>"
            );
            base.clone().with(&metadata).with(rest)
        };
        let first = defined("", "");
        lab.up(&first)?;
        let guests = [1, 2].map(|number| lab.member(number, &first));
        let [guest, other] = guests;
        let (guest, other) = (guest?, other?);
        let _server = Server::udp(guest.netns(), at(Ipv4Addr::UNSPECIFIED, INSIDE))?;
        let all_reach = |when: &str| -> Result<()> {
            // Host access is what guests reach published ports by.
            let to_guests = !when.contains("access");
            for (name, from, may) in [
                ("outside", &lab.wan, true),
                ("the host", &lab.hv, true),
                ("a sibling", other.netns(), to_guests),
                ("itself", guest.netns(), to_guests),
            ] {
                let to = at(HOST, PUBLIC);
                if may {
                    reached(from, "udp", to).with_context(|| format!("{when}: {name}"))?;
                } else {
                    let who = seen(from, "udp", to)?;
                    ensure!(who.is_none(), "{when}: {name} gets {who:?}");
                }
            }
            Ok(())
        };
        all_reach("before")?;
        let namespaces = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&namespaces)?;
        let load = Load::udp(&lab.wan, at(HOST, PUBLIC))?;
        load.reach(50)?;
        let mut sent = 50;
        for elements in [
            "<netd:host access='services'/>",
            "<netd:nat mapping='endpoint-independent'/>",
            "<netd:antispoof ip='no'/>",
        ] {
            for elements in [elements, ""] {
                let told = edit(lab, &defined(elements, ""))?;
                ensure!(!told.contains("next start"), "{elements}: {told}");
                sent += 100;
                load.reach(sent)?;
                all_reach(elements)?;
            }
        }
        let told = edit(lab, &defined("", "<port isolated='yes'/>"))?;
        ensure!(told.contains("at next start: <port>"), "{told}");
        all_reach("isolated at next start")?;
        before.account_for(&load.finish()?, &namespaces)?;
        lab.agent.ok(["net-destroy", "default"])?;
        lab.agent.ok(["net-start", "default"])?;
        for guest in [&guest, &other] {
            lab.plug(guest, &base.bridge())?;
        }
        eventually(SOON, || all_reach("isolated"))?;
        let siblings = other.try_ping("10.10.1.11")?;
        ensure!(!siblings.status.success(), "siblings are not isolated");
        Ok(())
    });
}
