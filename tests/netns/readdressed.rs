//! The way of running flows moves to another device: they go on with the address there, or end at
//! once, as with the kernel's own masquerading.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{FAR, HOST, at, check};
use netd_tests::packet::{Ipv4, TCP};
use netd_tests::traffic::{self, Server};
use netd_tests::two_uplinks::SECOND;
use netd_tests::{Guest, Lab, SOON, Sniffer, Tunnel, TwoUplinks, control, eventually};

use crate::limits::look_only_when_told;

const PORT: u16 = 7000;
/// The host's address in a tunnel, and the other end's.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);
const TUNNEL_END: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);

/// Asks the far host as whom it sees the socket.
fn seen(socket: &UdpSocket, patience: Duration) -> Result<IpAddr> {
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"who am I?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).context("no answer")?;
    let text = std::str::from_utf8(&answer[..length])?;
    Ok(text.parse::<SocketAddr>()?.ip())
}

fn talk(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = [0; 5];
    stream.write_all(b"still")?;
    stream.read_exact(&mut answer)
}

/// A guest's flows to the far host.
struct Flows {
    datagrams: UdpSocket,
    connection: TcpStream,
}

impl Flows {
    fn open(guest: &Guest, address: Ipv4Addr) -> Result<Self> {
        let datagrams = guest.netns().udp("0.0.0.0:0")?;
        datagrams.connect(at(FAR, PORT))?;
        let mut connection = traffic::connect(guest.netns(), at(FAR, PORT))?;
        let before = seen(&datagrams, SOON)?;
        ensure!(before == address, "before the change it is {before}");
        talk(&mut connection)?;
        Ok(Self {
            datagrams,
            connection,
        })
    }

    /// The datagrams are seen as another address, without a pause, and the connection is reset.
    fn follow(mut self, address: Ipv4Addr) -> Result<()> {
        let start = Instant::now();
        eventually(SOON, || {
            let seen = seen(&self.datagrams, Duration::from_millis(300))?;
            ensure!(seen == address, "the datagrams are seen as {seen}");
            Ok(())
        })?;
        let datagrams = start.elapsed();
        match talk(&mut self.connection) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => bail!("the connection: {other:?}"),
        }
        println!(
            "{address} after {datagrams:?}, reset after {:?}",
            start.elapsed()
        );
        for _ in 0..10 {
            let seen = seen(&self.datagrams, SOON)?;
            ensure!(seen == address, "later the datagrams are seen as {seen}");
        }
        Ok(())
    }
}

/// How a guest's way to the far host moves from the first uplink, and back.
struct Move<'a> {
    there: &'a [&'a str],
    back: &'a [&'a str],
    /// The host's address there.
    address: Ipv4Addr,
}

impl Move<'_> {
    /// There and back. Returns what passed the router of the second uplink.
    fn make(&self, lab: &Lab, guest: &Guest, two: &TwoUplinks) -> Result<Vec<Ipv4>> {
        let _servers = [
            Server::udp(&two.far, at(FAR, PORT))?,
            Server::tcp_echo(&two.far, at(FAR, PORT))?,
        ];
        let sniffer = Sniffer::start(&two.router)?;
        for (lines, from, to) in [
            (self.there, HOST, self.address),
            (self.back, self.address, HOST),
        ] {
            let flows = Flows::open(guest, from)?;
            for line in lines {
                // The kernel notices a carrier in the background.
                eventually(SOON, || lab.hv.run(line.split(' ')))?;
            }
            flows.follow(to).with_context(|| format!("{lines:?}"))?;
        }
        let packets = sniffer.finish()?;
        let is_strange = |packet: &&Ipv4| packet.source == HOST || packet.source.octets()[0] == 10;
        let strange: Vec<_> = packets.iter().filter(is_strange).collect();
        ensure!(strange.is_empty(), "by the second uplink: {strange:?}");
        Ok(packets)
    }

    /// Once with a kernel that masquerades, once with netd.
    fn both(&self, prepare: impl Fn(&Lab, &TwoUplinks) -> Result<Option<Tunnel>>) {
        let by_kernel = || -> Result<()> {
            let (lab, guest) = control::nat_guest()?;
            let two = TwoUplinks::new(&lab)?;
            let _tunnel = prepare(&lab, &two)?;
            self.make(&lab, &guest, &two)?;
            Ok(())
        };
        by_kernel().expect("the control");
        check(|lab| {
            let keys = ["all", "default"].map(|device| format!("net/ipv4/conf/{device}/rp_filter"));
            let before = keys.clone().map(|key| lab.hv.read_sysctl(&key));
            let two = TwoUplinks::new(lab)?;
            let tunnel = prepare(lab, &two)?;
            let guest = lab.nat_guest()?;
            look_only_when_told(lab)?;
            let packets = self.make(lab, &guest, &two)?;
            // The far host does not hear of a connection that it does not know.
            let refused = packets.iter().find(|packet| {
                packet.protocol == TCP && packet.source == FAR && packet.payload[13] & 4 != 0
            });
            ensure!(refused.is_none(), "the far host refuses: {refused:?}");
            let told = lab.agent.dropped("source_moved")?;
            ensure!(told >= 2, "{:?}", lab.agent.drops());
            for (key, value) in keys.iter().zip(before) {
                lab.hv.sysctl(key, &value?)?;
            }
            for line in ["ip route flush exact 203.0.113.0/24", "ip link del uplink2"] {
                lab.hv.run(line.split(' '))?;
            }
            drop(tunnel);
            Ok(())
        });
    }
}

/// W1, T07: another line takes over.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p52_flows_take_the_address_of_another_route() {
    let moved = Move {
        there: &["ip route replace 203.0.113.0/24 via 192.0.2.1"],
        back: &["ip route replace 203.0.113.0/24 via 198.51.100.1"],
        address: SECOND,
    };
    moved.both(|_, _| Ok(None));
}

/// W1, T07: the first line is lost. The kernel does not announce the routes that go with it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p52_flows_take_the_address_of_the_line_that_is_left() {
    let moved = Move {
        there: &["ip link set uplink down"],
        back: &[
            "ip link set uplink up",
            "ip route replace default via 198.51.100.1",
            "ip route replace 203.0.113.0/24 via 198.51.100.1",
        ],
        address: SECOND,
    };
    moved.both(|lab, _| {
        let backup = "ip route add 203.0.113.0/24 via 192.0.2.1 metric 200";
        lab.hv.run(backup.split(' '))?;
        Ok(None)
    });
}

/// W1, T08: one guest gets a line of its own.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p55_flows_take_the_address_of_a_rule_for_one_guest() {
    let moved = Move {
        there: &["ip rule add from 10.10.1.11 lookup 100"],
        back: &["ip rule del from 10.10.1.11 lookup 100"],
        address: SECOND,
    };
    moved.both(|lab, _| {
        let route = "ip route add default via 192.0.2.1 table 100";
        lab.hv.run(route.split(' '))?;
        Ok(None)
    });
}

/// W1, T06: a VPN is switched on, and off again. Its device has no Ethernet header, so packets go by
/// the stack.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p55_flows_take_the_address_of_a_vpn() {
    let moved = Move {
        there: &["ip rule add to 203.0.113.0/24 lookup 51820"],
        back: &["ip rule del to 203.0.113.0/24 lookup 51820"],
        address: INSIDE,
    };
    moved.both(|lab, two| {
        let tunnel = Tunnel::new(&lab.hv, &two.far, "tun9")?;
        lab.hv.address("tun9", &format!("{INSIDE}/24"))?;
        two.far.address("tun9", &format!("{TUNNEL_END}/24"))?;
        let route = "ip route add default dev tun9 table 51820";
        lab.hv.run(route.split(' '))?;
        Ok(Some(tunnel))
    });
}
