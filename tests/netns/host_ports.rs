//! Host and guests share the host's addresses: a port belongs to whoever has it first, and the
//! other one works too.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::socket::Receive as _;
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Netns, Network, SOON};
use rustix::net::{AddressFamily, SocketType};

/// Outside, both protocols.
const PORT: u16 = 7000;
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

/// Servers outside that tell who asks.
fn servers(lab: &Lab) -> Result<[Server; 2]> {
    let tell = |mut stream: TcpStream| {
        let peer = stream.peer_addr()?.port().to_be_bytes();
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&peer)?;
        }
        Ok(())
    };
    Ok([
        Server::udp(&lab.wan, at(OUTSIDE, PORT))?,
        Server::tcp(&lab.wan, at(OUTSIDE, PORT), tell)?,
    ])
}

/// The port by which the outside knows a connection.
fn seen(stream: &mut TcpStream) -> Result<u16> {
    let mut port = [0; 2];
    stream.write_all(b"?").context("asking over TCP")?;
    stream.read_exact(&mut port).context("an answer over TCP")?;
    Ok(u16::from_be_bytes(port))
}

/// The port by which the outside knows a guest's datagrams from `port`.
fn udp_seen(guest: &Guest, port: u16) -> Result<u16> {
    let seen = traffic::answered_from(guest.netns(), port, at(OUTSIDE, PORT))
        .with_context(|| format!("UDP from {port}"))?;
    ensure!(seen.ip() == HOST, "UDP from {port}: {seen}");
    Ok(seen.port())
}

/// The port by which the outside knows a guest's connection from `port`.
fn tcp_seen(guest: &Guest, port: u16) -> Result<u16> {
    seen(&mut guest.netns().connect_from(port, at(OUTSIDE, PORT))?)
}

fn another(seen: u16, taken: u16, what: &str) -> Result<()> {
    ensure!(
        seen != taken && seen >= 1024,
        "{what}: port {taken} of the guest left as {seen}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p07_a_port_the_host_listens_on_is_not_given_to_guests() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _servers = servers(lab)?;
        // Without anybody in the way both are kept: what follows is about the host's sockets.
        ensure!(tcp_seen(&guest, 5000)? == 5000, "TCP port 5000 is free");
        ensure!(udp_seen(&guest, 5000)? == 5000, "UDP port 5000 is free");
        for (port, address) in [(5001, Ipv4Addr::UNSPECIFIED), (5002, HOST)] {
            let listener = lab.hv.listen(at(address, port))?;
            let mut stream = guest.netns().connect_from(port, at(OUTSIDE, PORT))?;
            let what = format!("a listener on {address}");
            another(seen(&mut stream)?, port, &what)?;
            // From the very port that the guest's connection goes to.
            let service = traffic::connect(&lab.wan, at(HOST, port)).context(what)?;
            let (accepted, _) = listener.accept()?;
            drop((service, accepted));
            seen(&mut stream).context("the guest's connection")?;
        }
        for (port, address) in [(5003, Ipv4Addr::UNSPECIFIED), (5004, HOST)] {
            let socket = lab.hv.udp(at(address, port))?;
            another(
                udp_seen(&guest, port)?,
                port,
                &format!("a socket on {address}"),
            )?;
            let asker = lab.wan.udp("0.0.0.0:0")?;
            asker.send_to(b"to the host", at(HOST, port))?;
            let (length, _) = socket
                .receive_from(&mut [0; 32])
                .context("the host's own")?;
            ensure!(length == 11, "{length} bytes");
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p07_a_port_the_host_is_connected_from_is_not_given_to_guests() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _servers = servers(lab)?;
        let mut host = lab.hv.connect_from(5001, at(OUTSIDE, PORT))?;
        ensure!(seen(&mut host)? == 5001, "the host keeps its own port");
        let mut stream = guest.netns().connect_from(5001, at(OUTSIDE, PORT))?;
        another(seen(&mut stream)?, 5001, "a connection of the host")?;
        ensure!(seen(&mut host)? == 5001, "the host's connection");

        let socket = lab.hv.udp("0.0.0.0:5002")?;
        lab.hv.enter(|| socket.connect(at(OUTSIDE, PORT)))??;
        another(udp_seen(&guest, 5002)?, 5002, "a connected UDP socket")?;
        socket.send(b"still mine")?;
        let length = socket.receive(&mut [0; 32]).context("the host's answer")?;
        ensure!(length == 10, "{length} bytes");
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p07_the_host_may_connect_from_a_port_that_a_guest_had_first() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _servers = servers(lab)?;
        let mut first = guest.netns().connect_from(5001, at(OUTSIDE, PORT))?;
        ensure!(seen(&mut first)? == 5001, "the guest has port 5001");
        let mut host = lab
            .hv
            .connect_from(5001, at(OUTSIDE, PORT))
            .context("the host, later")?;
        let ports = [seen(&mut first)?, seen(&mut host).context("the host")?];
        ensure!(ports[0] == 5001 && ports[1] != 5001, "TCP: {ports:?}");
        for _ in 0..3 {
            let again = [seen(&mut first)?, seen(&mut host)?];
            ensure!(again == ports, "TCP changed: {again:?}, not {ports:?}");
        }

        let guests = guest.netns().udp("0.0.0.0:5002")?;
        let hosts = lab.hv.udp("0.0.0.0:5002")?;
        for (socket, text) in [(&guests, b"guest"), (&hosts, b"host "), (&guests, b"later")] {
            socket.send_to(text, at(OUTSIDE, PORT))?;
            let mut answer = [0; 32];
            let length = socket
                .receive(&mut answer)
                .with_context(|| String::from_utf8_lossy(text).into_owned())?;
            ensure!(&answer[..length] == text, "UDP: another one's answer");
        }
        Ok(())
    });
}

/// Pings with an identifier of one's choice, for as long as it lives.
struct Pinger(std::os::fd::OwnedFd);

impl Pinger {
    fn new(netns: &Netns) -> Result<Self> {
        use rustix::net::{ipproto, sockopt};
        let protocol = Some(ipproto::ICMP);
        let socket = netns
            .enter(|| rustix::net::socket(AddressFamily::INET, SocketType::RAW, protocol))??;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(SOON))?;
        Ok(Self(socket))
    }

    /// Asks, and waits for the very answer.
    fn ping(&self, identifier: u16, text: &[u8; 6]) -> Result<()> {
        use rustix::net::{RecvFlags, SendFlags};
        let mut message = vec![8, 0, 0, 0];
        message.extend(identifier.to_be_bytes());
        message.extend([0, 1]);
        message.extend(text);
        let sum = message.chunks(2).fold(0_u32, |sum, pair| {
            sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]))
        });
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let to: SocketAddr = at(OUTSIDE, 0).into();
        rustix::net::sendto(&self.0, &message, SendFlags::empty(), &to)?;
        let name = String::from_utf8_lossy(text).into_owned();
        let mut packet = [0; 128];
        loop {
            let receive = || rustix::net::recv(&self.0, &mut packet, RecvFlags::empty());
            let (length, _) = rustix::io::retry_on_intr(receive)
                .with_context(|| format!("no answer to {name}"))?;
            // A raw socket gets everybody's answers, with their headers.
            let answer = &packet[20..length];
            if answer[0] == 0 && answer[8..] == text[..] {
                let own = answer[4..6] == identifier.to_be_bytes();
                ensure!(own, "an answer to {name} with another identifier");
                return Ok(());
            }
        }
    }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p07_host_and_guest_may_ping_with_one_identifier() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let (host, guest) = (Pinger::new(&lab.hv)?, Pinger::new(guest.netns())?);
        host.ping(500, b"host 1")?;
        guest.ping(500, b"vm   1")?;
        guest.ping(501, b"vm   2")?;
        host.ping(501, b"host 2")?;
        for identifier in [500, 501] {
            host.ping(identifier, b"host 3")?;
            guest.ping(identifier, b"vm   3")?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p07_the_port_of_a_tunnel_is_not_given_to_guests() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _servers = servers(lab)?;
        let tunnel = |netns: &Netns, remote: Ipv4Addr, device: &str, own: &str| -> Result<()> {
            let text = format!(
                "ip link add vx0 type vxlan id 7 dstport 4789 remote {remote} dev {device}"
            );
            netns.run(text.split(' '))?;
            netns.address("vx0", own)
        };
        tunnel(&lab.hv, OUTSIDE, "uplink", "192.0.2.1/24")?;
        tunnel(&lab.wan, HOST, "wan0", "192.0.2.2/24")?;
        let ping = || {
            netd_tests::eventually(SOON, || {
                lab.hv
                    .run(["busybox", "ping", "-c", "1", "-W", "2", "192.0.2.2"])
            })
        };
        ping().context("the tunnel by itself")?;
        // A peer that sends its tunnel's packets from the port which it listens on.
        another(udp_seen(&guest, 4789)?, 4789, "a VXLAN device")?;
        let socket = guest.netns().udp("0.0.0.0:4789")?;
        socket.send_to(b"not a tunnel's", at(OUTSIDE, 4789))?;
        ping().context("the tunnel beside the guest's flow")?;
        lab.hv.run(["ip", "link", "del", "vx0"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p07_reserved_ports_are_not_given_to_guests() {
    check(|lab| {
        lab.hv.sysctl(RESERVED, "5000-5009,65535")?;
        let outcome = reserved(lab);
        lab.hv.sysctl(RESERVED, "\n")?;
        outcome
    });
}

fn reserved(lab: &mut Lab) -> Result<()> {
    let guest = lab.nat_guest()?;
    let _servers = servers(lab)?;
    let is_reserved = |port: u16| (5000..5010).contains(&port) || port == 65535;
    for port in [5000, 5009, 65535] {
        for seen in [udp_seen(&guest, port)?, tcp_seen(&guest, port)?] {
            ensure!(!is_reserved(seen), "port {port} left as {seen}");
        }
    }
    for port in [4999, 5010] {
        ensure!(udp_seen(&guest, port)? == port, "{port} is not reserved");
    }
    // Nobody tells the agent of a change, so it gets some time. Flows that are there may stay.
    lab.hv.sysctl(RESERVED, "6000-6999")?;
    let mut port = 6000;
    netd_tests::eventually(SOON, || {
        port += 1;
        let seen = udp_seen(&guest, port)?;
        ensure!(!(6000..7000).contains(&seen), "{port} left as {seen}");
        Ok(())
    })
    .context("ports reserved while the agent runs")?;
    ensure!(udp_seen(&guest, 5001)? >= 1024, "no longer reserved");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p14_ports_are_kept_and_never_become_privileged() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _servers = servers(lab)?;
        for port in [1024, 1025, 5000, 32768, 65534, 65535] {
            let ports = [udp_seen(&guest, port)?, tcp_seen(&guest, port)?];
            ensure!(ports == [port; 2], "{port} left as {ports:?}");
        }
        // Taken by another guest: not kept, and not privileged.
        let sibling = lab.member(2, &Network::default())?;
        let _held = guest.netns().connect_from(1026, at(OUTSIDE, PORT))?;
        another(tcp_seen(&sibling, 1026)?, 1026, "a port of a sibling")?;
        for port in [1, 22, 512, 1023] {
            let ports = [udp_seen(&guest, port)?, tcp_seen(&guest, port)?];
            ensure!(
                ports.iter().all(|&seen| seen >= 1024),
                "{port} left as {ports:?}"
            );
        }
        Ok(())
    });
}
