//! Requirements of RFC 4787, 5382 and 5508 that no other test asks for; `docs/nat.md` lists all.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check, check_guest};
use netd_tests::packet::{ICMP, Ipv4, TCP};
use netd_tests::traffic::{self, Server};
use netd_tests::{Frame, Guest, Lab, Losses, Network, SOON, Sniffer, Wire, eventually};

const PORT: u16 = 7000;
/// Time for a frame to arrive, or not to.
const MOMENT: Duration = Duration::from_millis(200);
/// Address of guest 1.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 11);

/// The Internet checksum (RFC 1071) of a message of whole words.
fn checksum(message: &[u8]) -> [u8; 2] {
    let sum = message.chunks(2).fold(0_u32, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]))
    });
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// An ICMP message with the checksum filled in, from outside to the host.
fn from_outside(lab: &Lab, mut message: Vec<u8>) -> Result<Frame> {
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    let frame = Frame::ip(OUTSIDE, HOST, ICMP, message);
    Ok(frame.between(lab.wan.mac("wan0")?, lab.hv.mac("uplink")?))
}

/// An ICMP error about what a guest's socket with port `port` has sent.
fn error(kind: u8, code: u8, port: u16) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    let quoted = Frame::udp((HOST, port), (OUTSIDE, PORT), b"");
    message.extend(&quoted.packet()[..28]);
    message
}

/// RFC 4787, REQ-12; RFC 5382, REQ-10: whatever ICMP says, mappings stay.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rfc4787_req12_no_icmp_message_ends_a_mapping() {
    check_guest(|lab, guest| {
        let server = lab.wan.udp(("0.0.0.0", PORT))?;
        let inside = guest.netns().udp(("0.0.0.0", 5000))?;
        inside.send_to(b"out", at(OUTSIDE, PORT))?;
        let mut buffer = [0; 16];
        let (_, mapping) = server
            .recv_from(&mut buffer)
            .context("the guest's datagram")?;
        let _echo = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let mut stream = traffic::connect(guest.netns(), at(OUTSIDE, PORT))?;
        let own = stream.local_addr()?.port();

        let sniffer = Sniffer::start(guest.netns())?;
        let wire = Wire::new(&lab.wan, "wan0")?;
        let kinds =
            (0..16)
                .map(|code| (3, code))
                .chain([(4, 0), (5, 1), (11, 0), (11, 1), (12, 0)]);
        for (kind, code) in kinds {
            wire.send(&from_outside(lab, error(kind, code, mapping.port()))?)?;
            let mut about_tcp = error(kind, code, own);
            // The quoted protocol, and the header's sum with it.
            about_tcp[8 + 9] = TCP;
            let quoted = Frame::ip(HOST, OUTSIDE, TCP, about_tcp[28..].to_vec()).packet();
            about_tcp.splice(8.., quoted);
            wire.send(&from_outside(lab, about_tcp)?)?;
        }
        let errors = |arrived: &[Ipv4]| {
            let errors = arrived.iter().filter(|packet| packet.quoted().is_some());
            errors.count()
        };
        let errors = errors(&sniffer.finish_when(|arrived| errors(arrived) >= 30)?);
        ensure!(errors >= 30, "the guest heard of {errors} errors only");

        server.send_to(b"in", mapping)?;
        // What the errors left in the guest's socket comes first.
        let answer = (0..50).find_map(|_| inside.recv_from(&mut buffer).ok());
        let (length, from) = answer.context("the mapping is gone")?;
        ensure!(&buffer[..length] == b"in" && from == at(OUTSIDE, PORT).into());
        inside.send_to(b"again", at(OUTSIDE, PORT))?;
        let (_, later) = server.recv_from(&mut buffer)?;
        ensure!(later == mapping, "{mapping} has become {later}");
        stream.write_all(b"still there?")?;
        stream
            .read_exact(&mut buffer[..12])
            .context("the connection")?;
        Ok(())
    });
}

/// RFC 5382, REQ-2 a: both SYNs are under way at the same time.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rfc5382_req2_simultaneous_open_passes() {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    // Addresses without a stack behind them, which would interfere.
    let inside = (Network::default().address(77), 5000);
    check_guest(|lab, guest| {
        let octets = OUTSIDE.octets();
        let outside = (Ipv4Addr::new(octets[0], octets[1], octets[2], 77), PORT);
        let mac = lab.wan.mac("wan0")?;
        let lladdr = mac.map(|byte| format!("{byte:02x}")).join(":");
        let address = outside.0.to_string();
        lab.hv.run([
            "ip", "neigh", "add", &address, "lladdr", &lladdr, "dev", "uplink",
        ])?;
        let wires = [
            Wire::new(guest.netns(), "eth0")?,
            Wire::new(&lab.wan, "wan0")?,
        ];
        let macs = [
            (guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?),
            (mac, lab.hv.mac("uplink")?),
        ];
        for (number, (outward, control)) in [
            (true, SYN),
            (false, SYN),
            (true, SYN | ACK),
            (false, SYN | ACK),
            (true, ACK),
            (false, ACK),
        ]
        .into_iter()
        .enumerate()
        {
            let (from, to, seen) = if outward {
                (inside, outside, ((HOST, inside.1), outside))
            } else {
                (outside, (HOST, inside.1), (outside, inside))
            };
            let side = usize::from(!outward);
            let there = if outward { &lab.wan } else { guest.netns() };
            let sniffer = Sniffer::start(there)?;
            let (own, hop) = macs[side];
            wires[side].send(&Frame::tcp(from, to, control, 5).between(own, hop))?;
            let same = |packet: &&Ipv4| {
                (packet.source, packet.destination) == (seen.0.0, seen.1.0)
                    && packet.source_port() == Some(seen.0.1)
                    && packet.destination_port() == Some(seen.1.1)
                    && packet.payload.get(13) == Some(&control)
            };
            let arrived = sniffer.finish_when(|arrived| arrived.iter().any(|p| same(&p)))?;
            let packet = arrived.iter().find(same);
            let packet = packet.with_context(|| format!("segment {number}: {arrived:?}"))?;
            ensure!(packet.tcp_checksum_is_complete(), "checksum: {packet:?}");
        }
        Ok(())
    });
}

/// RFC 5508, REQ-3 d (extensions pass whole), and the first part of it: a wrong checksum stays
/// wrong.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rfc5508_req3_errors_with_extensions_and_with_wrong_checksums() {
    check_guest(|lab, guest| {
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let seen = traffic::answered_from(guest.netns(), 5000, at(OUTSIDE, PORT))?;
        ensure!(seen.port() == 5000, "{seen}");
        // RFC 4884: the quote is padded to 128 bytes, 32 words as the sixth byte says; then the
        // extension's header and one object, an MPLS label (RFC 4950).
        let mut message = error(11, 0, 5000);
        message[5] = 32;
        message.resize(8 + 128, 0);
        let mut extension = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0x00, 0x3e, 0x81, 0x01];
        let sum = checksum(&extension);
        extension[2..4].copy_from_slice(&sum);
        message.extend(&extension);

        let sniffer = Sniffer::start(guest.netns())?;
        let wire = Wire::new(&lab.wan, "wan0")?;
        let right = from_outside(lab, message)?;
        let mut wrong = right.clone();
        wrong.payload[2] ^= 0x40;
        wire.send(&right)?;
        wire.send(&wrong)?;
        let is_error = |packet: &&Ipv4| packet.icmp() == Some((11, 0));
        let arrived = sniffer.finish_when(|all| all.iter().filter(is_error).count() >= 2)?;
        let errors: Vec<_> = arrived.iter().filter(is_error).collect();
        let [right, wrong] = errors.as_slice() else {
            anyhow::bail!("two errors were sent: {errors:?}");
        };
        ensure!(right.icmp_checksum_is_right(), "{right:?}");
        ensure!(right.payload.ends_with(&extension), "{right:?}");
        let quoted = right.quoted().context("no quote")?;
        ensure!(
            quoted.source == GUEST && quoted.source_port() == Some(5000),
            "{quoted:?}"
        );
        ensure!(!wrong.icmp_checksum_is_right(), "{wrong:?}");
        Ok(())
    });
}

/// RFC 4787, REQ-14 a: more stray fragments than netd remembers hurt nobody else.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rfc4787_req14_stray_fragments_hurt_nothing_else() {
    check_guest(|lab, guest| {
        let server = lab.wan.udp(("0.0.0.0", PORT))?;
        let inside = guest.netns().udp(("0.0.0.0", 5000))?;
        let wires = [
            Wire::new(&lab.wan, "wan0")?,
            Wire::new(guest.netns(), "eth0")?,
        ];
        let mut stray = [
            Frame::udp((OUTSIDE, PORT), (HOST, 5000), &[0; 64])
                .between(lab.wan.mac("wan0")?, lab.hv.mac("uplink")?),
            Frame::udp((GUEST, 5000), (OUTSIDE, PORT), &[0; 64])
                .between(guest.netns().mac("eth0")?, lab.hv.mac("virbr1")?),
        ];
        let dropped = lab.agent.dropped("frag_without_first")?;
        let all = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&all)?;
        for number in 0..20_000_u32 {
            for (wire, frame) in wires.iter().zip(&mut stray) {
                frame.id = number as u16;
                frame.fragment = 0x2000 | (1 + number as u16 % 100);
                wire.send(frame)?;
            }
        }
        // The last ones are waited for. Some may have met a full queue.
        eventually(SOON, || {
            let named = lab.agent.dropped("frag_without_first")? - dropped;
            let overload = Losses::look(&all)?.since(&before).to_overload();
            ensure!(
                named + overload >= 20_000,
                "{named} drops of the guest's were counted, {overload} of the machine's"
            );
            Ok(())
        })?;
        let large = vec![7; 4000];
        let mut buffer = [0; 5000];
        inside.send_to(&large, at(OUTSIDE, PORT))?;
        let (length, mapping) = server.recv_from(&mut buffer).context("out, in fragments")?;
        ensure!(buffer[..length] == large, "{length} bytes");
        server.send_to(&large, mapping)?;
        let (length, _) = inside
            .recv_from(&mut buffer)
            .context("back, in fragments")?;
        ensure!(buffer[..length] == large, "{length} bytes");
        inside.send_to(b"small", at(OUTSIDE, PORT))?;
        let (length, _) = server.recv_from(&mut buffer).context("whole")?;
        ensure!(&buffer[..length] == b"small");
        Ok(())
    });
}

/// Another address outside.
const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);

/// A network with endpoint-independent mapping and that filtering, with guests 1 and 2.
fn mapped(filtering: &str, test: impl FnOnce(&mut Lab, &Guest, &Guest) -> Result<()>) {
    check(|lab| {
        lab.agent.start()?;
        lab.wan.address("wan0", &format!("{OTHER}/24"))?;
        let network = Network::default().with(&format!(
            "<metadata><netd:nat xmlns:netd='urn:netd:network:1' mapping='endpoint-independent' \
             filtering='{filtering}'/></metadata>"
        ));
        lab.up(&network)?;
        let guests = [lab.member(1, &network)?, lab.member(2, &network)?];
        for guest in &guests {
            guest.ping(&OUTSIDE.to_string())?;
        }
        test(lab, &guests[0], &guests[1])
    });
}

/// The port by which the outside knows a guest's connection from `own`.
fn tcp_shown(guest: &Guest, own: u16, to: Ipv4Addr) -> Result<u16> {
    let mut stream = guest.netns().connect_from(own, at(to, PORT))?;
    let mut port = [0; 2];
    stream.read_exact(&mut port)?;
    Ok(u16::from_be_bytes(port))
}

/// RFC 4787, REQ-1; RFC 5382, REQ-1: where a network asks for it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rfc4787_req1_one_outside_port_for_all_peers() {
    mapped("address-and-port-dependent", |lab, one, two| {
        let tell = |mut stream: TcpStream| {
            let port = stream.peer_addr()?.port();
            stream.write_all(&port.to_be_bytes())?;
            Ok(())
        };
        let _udp = [OUTSIDE, OTHER].map(|address| Server::udp(&lab.wan, at(address, PORT)));
        let _tcp = [OUTSIDE, OTHER].map(|address| Server::tcp(&lab.wan, at(address, PORT), tell));
        let udp_shown = |guest: &Guest, to| -> Result<u16> {
            Ok(traffic::answered_from(guest.netns(), 5000, at(to, PORT))?.port())
        };
        // The first guest's port is its own, so the second one's is another: towards everybody.
        let udp = [
            (udp_shown(one, OUTSIDE)?, udp_shown(two, OTHER)?),
            (udp_shown(one, OTHER)?, udp_shown(two, OUTSIDE)?),
        ];
        let tcp = [
            (tcp_shown(one, 5000, OUTSIDE)?, tcp_shown(two, 5000, OTHER)?),
            (tcp_shown(one, 5000, OTHER)?, tcp_shown(two, 5000, OUTSIDE)?),
        ];
        for [first, second] in [udp, tcp] {
            ensure!(
                first == second,
                "{first:?} to one peer, {second:?} to another"
            );
            ensure!(first.0 == 5000 && first.1 != 5000, "{first:?}");
        }
        Ok(())
    });
}

/// RFC 4787, REQ-8: who may send to a mapping. In order: the peer, another port of its, somebody
/// else.
fn filters(filtering: &str, admits: [bool; 3]) {
    mapped(filtering, |lab, guest, _| {
        let peer = lab.wan.udp((OUTSIDE, PORT))?;
        let senders = [
            ("another port", lab.wan.udp((OUTSIDE, PORT + 1))?),
            ("another host", lab.wan.udp((OTHER, PORT))?),
        ];
        let inside = guest.netns().udp(("0.0.0.0", 5000))?;
        inside.send_to(b"out", at(OUTSIDE, PORT))?;
        let mut buffer = [0; 16];
        let (_, mapping) = peer
            .recv_from(&mut buffer)
            .context("the guest's datagram")?;
        let senders = senders.iter().map(|(what, socket)| (*what, socket));
        for ((what, socket), admits) in [("the peer", &peer)].into_iter().chain(senders).zip(admits)
        {
            socket.send_to(what.as_bytes(), mapping)?;
            inside.set_read_timeout(Some(if admits { SOON } else { MOMENT }))?;
            let arrived = inside.recv_from(&mut buffer);
            ensure!(arrived.is_ok() == admits, "{what}: {arrived:?}");
            let Ok((length, from)) = arrived else {
                continue;
            };
            ensure!(&buffer[..length] == what.as_bytes(), "{what}");
            ensure!(from == socket.local_addr()?, "{what} shows as {from}");
            // Whoever was let in is answered from the same port.
            inside.send_to(b"back", from)?;
            let (_, from) = socket.recv_from(&mut buffer).context(what)?;
            ensure!(from == mapping, "{what} is answered from {from}");
        }
        Ok(())
    });
}

/// TFTP answers from another port (RFC 1350, section 4), so its server has to be let in from any.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t50_tftp_works_where_any_port_of_the_server_may_answer() {
    check(|lab| {
        let root = lab.directory().join("tftp");
        std::fs::create_dir(&root)?;
        std::fs::write(root.join("boot"), "image")?;
        let pid = lab.directory().join("tftp.pid");
        lab.wan.run([
            "dnsmasq",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=wan0",
            "--bind-interfaces",
            "--user=root",
            "--enable-tftp",
            &format!("--tftp-root={}", root.display()),
            &format!("--pid-file={}", pid.display()),
        ])?;
        lab.agent.start()?;
        let any_port = "mapping='endpoint-independent' filtering='address-dependent'";
        for (number, behaviour, works) in [(1, "", false), (2, any_port, true)] {
            let metadata =
                format!("<metadata><n:nat xmlns:n='urn:netd:network:1' {behaviour}/></metadata>");
            let network = Network::nat(&format!("net{number}"), number).with(&metadata);
            lab.up(&network)?;
            let guest = lab.member(number, &network)?;
            guest.ping(&OUTSIDE.to_string())?;
            let file = lab.directory().join("got").display().to_string();
            let server = OUTSIDE.to_string();
            // The client asks again every second.
            let limit = if works { "50" } else { "3" };
            let fetched = guest.netns().output([
                "timeout", limit, "busybox", "tftp", "-g", "-r", "boot", "-l", &file, &server,
            ])?;
            ensure!(
                fetched.status.success() == works,
                "{behaviour}: {fetched:?}"
            );
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rfc4787_req8_filtering_by_address_and_port() {
    filters("address-and-port-dependent", [true, false, false]);
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rfc4787_req8_filtering_by_address() {
    filters("address-dependent", [true, true, false]);
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn rfc4787_req8_no_filtering() {
    filters("endpoint-independent", [true; 3]);
}
