//! Guests that go, come back elsewhere, or leave their address to another one.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::packet::Ipv4;
use netd_tests::traffic::{self, Load, Server};
use netd_tests::{Guest, Lab, Losses, Netns, Network, SOON, Sniffer};

const UDP_PORT: u16 = 7000;
const TCP_PORT: u16 = 7001;
/// Address of guest 1.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 11);

/// Datagrams from outside to a mapping, whoever has it, until dropped.
struct Stream {
    stop: Arc<AtomicBool>,
}

impl Stream {
    fn start(socket: &UdpSocket, to: SocketAddr) -> Result<Self> {
        let socket = socket.try_clone()?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // Whoever refuses is not who it is meant for.
                let _ = socket.send_to(b"for the old guest", to);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Ok(Self { stop })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How many of the packets are the stream's.
fn of_stream(packets: &[Ipv4]) -> usize {
    let of_stream = packets
        .iter()
        .filter(|packet| packet.source == OUTSIDE && packet.source_port() == Some(UDP_PORT));
    of_stream.count()
}

/// How many packets of the stream came to a guest within some time.
fn strays(netns: &Netns, time: Duration, meanwhile: impl FnOnce() -> Result<()>) -> Result<usize> {
    let sniffer = Sniffer::start(netns)?;
    meanwhile()?;
    std::thread::sleep(time);
    Ok(of_stream(&sniffer.finish()?))
}

/// The flow of a guest that is removed does not reach the one that gets its address.
fn replaced(lab: &mut Lab, agent_is_away: bool) -> Result<()> {
    let guest = lab.nat_guest()?;
    let outside = lab.wan.udp(at(OUTSIDE, UDP_PORT))?;
    let inside = guest.netns().udp("0.0.0.0:5000")?;
    let mut peer = None;
    for _ in 0..3 {
        inside.send_to(b"hello", at(OUTSIDE, UDP_PORT))?;
        peer = Some(outside.recv_from(&mut [0; 64])?.1);
        outside.send_to(b"hello", at(HOST, 5000))?;
    }
    ensure!(peer == Some(at(HOST, 5000).into()), "the mapping: {peer:?}");
    let stream = Stream::start(&outside, at(HOST, 5000).into())?;
    let packets = Sniffer::start(guest.netns())?.finish_when(|all| of_stream(all) > 10)?;
    let arrived = of_stream(&packets);
    ensure!(arrived > 10, "only {arrived} packets reach the old guest");

    // Plugged in now: a bridge with STP keeps a new port silent for seconds if no agent helps.
    let heir = lab.plugged(2, &Network::default().bridge())?;
    netd_tests::eventually(SOON, || {
        let port = lab.hv.run(["bridge", "link", "show", "dev", &heir.port])?;
        ensure!(port.contains("state forwarding"), "{port}");
        Ok(())
    })?;
    if agent_is_away {
        lab.agent.kill()?;
    }
    lab.hv.run(["ip", "link", "del", &guest.port])?;
    drop((inside, guest));
    let gateway = Network::default().gateway().to_string();
    let arrived = strays(heir.netns(), Duration::from_millis(1500), || {
        heir.address(&format!("{GUEST}/24"), Some(&gateway))?;
        // Everybody knows now who has the address, and that it has flows of its own.
        heir.ping(&gateway)?;
        heir.ping(&OUTSIDE.to_string())?;
        Ok(())
    })?;
    ensure!(
        arrived == 0,
        "{arrived} packets of the old flow reached the new guest"
    );
    // Its own flow by the same ports is its own.
    drop(stream);
    let inside = heir.netns().udp("0.0.0.0:5000")?;
    inside.set_read_timeout(Some(Duration::from_millis(200)))?;
    outside.set_read_timeout(Some(Duration::from_millis(200)))?;
    netd_tests::eventually(SOON, || {
        inside.send_to(b"mine", at(OUTSIDE, UDP_PORT))?;
        let (_, peer) = outside.recv_from(&mut [0; 64]).context("the question")?;
        outside.send_to(b"mine", peer)?;
        inside.recv_from(&mut [0; 64]).context("the answer")?;
        Ok(())
    })
    .context("the new guest's own flow")?;
    if agent_is_away {
        lab.agent.start()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p10_a_new_guest_with_an_old_address_gets_no_packets_of_old_flows() {
    check(|lab| replaced(lab, false));
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p10_a_new_guest_gets_no_packets_of_old_flows_while_no_agent_runs() {
    check(|lab| replaced(lab, true));
}

/// Gives a guest another port of the hypervisor, as after a migration and back: its card, its
/// addresses and its connections stay.
fn move_to(lab: &Lab, guest: &Guest, from: &str, to: &str, index: Option<u64>) -> Result<()> {
    lab.hv.run(["ip", "link", "del", from])?;
    let mut command = format!("ip link add {to} ");
    if let Some(index) = index {
        command += &format!("index {index} ");
    }
    let inside = guest.netns().name();
    command += &format!("type veth peer name eth0 netns {inside}");
    lab.hv.run(command.split(' '))?;
    let bridge = Network::default().bridge();
    lab.hv
        .run(["ip", "link", "set", to, "up", "master", &bridge])?;
    let card = ["ip", "link", "set", "eth0", "address", &guest.mac, "up"];
    guest.netns().run(card)?;
    let gateway = Network::default().gateway().to_string();
    guest.address(&format!("{GUEST}/24"), Some(&gateway))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p64_connections_of_a_guest_that_moves_go_on() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, TCP_PORT))?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, UDP_PORT))?;
        let load = Load::tcp(guest.netns(), at(OUTSIDE, TCP_PORT))?;
        let mut stream = traffic::connect(guest.netns(), at(OUTSIDE, TCP_PORT))?;
        let exchange = |stream: &mut std::net::TcpStream, what: &str| -> Result<()> {
            use std::io::{Read, Write};
            stream.write_all(what.as_bytes())?;
            let mut back = vec![0; what.len()];
            stream
                .read_exact(&mut back)
                .with_context(|| what.to_owned())?;
            ensure!(back == what.as_bytes(), "{what}: another answer");
            Ok(())
        };
        exchange(&mut stream, "before")?;
        let old = lab.hv.ifindex("vnet1")?;
        move_to(lab, &guest, "vnet1", "tap7", None)?;
        exchange(&mut stream, "another device")?;
        // The number that the flows still know belongs to a device once more, a sibling's.
        let sibling = lab.guest(2)?;
        lab.hv.run(["ip", "link", "del", "vnet2"])?;
        let inside = sibling.netns().name();
        let reuse =
            format!("ip link add vnet2 index {old} type veth peer name eth0 netns {inside}");
        lab.hv.run(reuse.split(' '))?;
        lab.plug(&sibling, &Network::default().bridge())?;
        lab.hv.run(["ip", "link", "set", "vnet2", "up"])?;
        sibling.netns().run(["ip", "link", "set", "eth0", "up"])?;
        let strays = strays(sibling.netns(), Duration::from_millis(200), || {
            exchange(&mut stream, "beside a sibling")
        })?;
        ensure!(strays == 0, "{strays} packets went to the sibling");
        // Once more, with a number that a device had before, and with nobody to notice.
        lab.agent.kill()?;
        let index = lab.hv.ifindex("tap7")?;
        move_to(lab, &guest, "tap7", "tap8", Some(index))?;
        exchange(&mut stream, "without an agent")?;
        traffic::answered(guest.netns(), at(OUTSIDE, UDP_PORT))?;
        lab.agent.start()?;
        exchange(&mut stream, "with an agent again")?;
        let talked = "the connection that talked all the time";
        load.reach(101).context(talked)?;
        let report = load.finish().context(talked)?;
        ensure!(report.lost.is_empty(), "{report:?}");
        lab.hv.run(["ip", "link", "del", "tap8"])?;
        lab.hv.run(["ip", "link", "del", "vnet2"])?;
        Ok(())
    });
}

/// How many datagrams to guest 1 another guest saw.
fn overheard(packets: &[Ipv4]) -> usize {
    let strays = packets.iter().filter(|packet| packet.destination == GUEST);
    strays.count()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p65_the_bridge_does_not_forget_a_guest_that_talks_past_it() {
    const AGEING: Duration = Duration::from_secs(2);
    check(|lab| {
        let guest = lab.nat_guest()?;
        let (sibling, third) = (
            lab.member(2, &Network::default())?,
            lab.member(3, &Network::default())?,
        );
        let ageing = ["ip", "link", "set", "virbr1", "type", "bridge"];
        let time = ["ageing_time", &(AGEING.as_millis() / 10).to_string()].map(String::from);
        lab.hv
            .run(ageing.into_iter().chain(time.iter().map(String::as_str)))?;
        for other in [&sibling, &third] {
            other.ping(&GUEST.to_string())?;
        }
        // Nothing but traffic is to tell the bridge where the guest is: nobody has to ask.
        let permanent = |netns: &Netns, address: Ipv4Addr, mac: &str| {
            let command = format!("ip neigh replace {address} lladdr {mac} nud permanent dev eth0");
            netns.run(command.split(' '))
        };
        permanent(sibling.netns(), GUEST, &guest.mac)?;
        permanent(guest.netns(), Network::default().address(12), &sibling.mac)?;
        let bridge = lab.hv.mac("virbr1")?.map(|byte| format!("{byte:02x}"));
        permanent(
            guest.netns(),
            Network::default().gateway(),
            &bridge.join(":"),
        )?;

        let _outside = Server::udp(&lab.wan, at(OUTSIDE, UDP_PORT))?;
        let inside = Server::udp(guest.netns(), at(GUEST, UDP_PORT))?;
        let all = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&all)?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, UDP_PORT))?;
        std::thread::sleep(AGEING * 3);
        let socket = sibling.netns().udp("0.0.0.0:5000")?;
        let sniffer = Sniffer::start(third.netns())?;
        for _ in 0..3 {
            socket.send_to(b"only for you", at(GUEST, UDP_PORT))?;
            socket.recv(&mut [0; 64]).context("the sibling's answer")?;
        }
        let seen = overheard(&sniffer.finish()?);
        ensure!(seen == 0, "a third guest saw {seen} datagrams");
        ensure!(inside.received() == 3, "{} arrived", inside.received());
        before.account_for(&load.finish()?, &all)?;

        // The control: a bridge that has forgotten does flood, and that is seen here. It clears its table
        // up in the background, and each answer fills it.
        netd_tests::eventually(SOON, || {
            std::thread::sleep(AGEING * 2 + Duration::from_secs(1));
            let sniffer = Sniffer::start(third.netns())?;
            socket.send_to(b"where are you?", at(GUEST, UDP_PORT))?;
            std::thread::sleep(Duration::from_millis(300));
            let seen = overheard(&sniffer.finish()?);
            ensure!(seen > 0, "not even now: this test tests nothing");
            Ok(())
        })
    });
}
