//! What a virtual machine's card is given: its checksum is complete, or announced as unfinished to a card
//! that finishes it. A client of DHCP that reads raw frames believes what it sees.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{HOST, at, check};
use netd_tests::packet::{Ipv4, TCP, UDP, checksum};
use netd_tests::packet6::{ICMPV6, Ipv6};
use netd_tests::published::{both, forwards};
use netd_tests::tap::{Offload, Tap};
use netd_tests::{Frame, Frame6, Lab, Network, SOON, eventually};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x15];
const EVERYBODY: [u8; 6] = [0xff; 6];
const OWN: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 15);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x15);
const XID: [u8; 4] = [1, 2, 3, 4];
/// Types of DHCP messages (RFC 2132, section 9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
/// EtherType of ARP, and a request for Ethernet and IPv4.
const ARP_REQUEST: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1];
/// Time after which a question is put again.
const AGAIN: Duration = Duration::from_secs(1);

/// The card of a guest that is this test.
struct Card {
    tap: Tap,
    /// Does it finish checksums?
    finishes: bool,
}

impl Card {
    fn new(lab: &Lab, finishes: bool) -> Result<Self> {
        let tap = match finishes {
            true => Tap::new(&lab.hv, "tap5")?,
            false => Tap::without_offloads(&lab.hv, "tap5")?,
        };
        let up = "ip link set tap5 up master virbr1";
        lab.hv.run(up.split(' '))?;
        eventually(SOON, || {
            let port = lab.hv.run(["bridge", "link", "show", "dev", "tap5"])?;
            ensure!(port.contains("state forwarding"), "{port}");
            Ok(())
        })?;
        Ok(Self { tap, finishes })
    }

    /// Sends a frame until one that is meant comes. All that come are looked at.
    fn ask(&mut self, frame: &[u8], is_meant: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        let start = Instant::now();
        let mut asked = None;
        while start.elapsed() < SOON {
            if asked.is_none_or(|asked: Instant| asked.elapsed() > AGAIN) {
                self.tap.send(Offload::default(), frame)?;
                asked = Some(Instant::now());
            }
            let Some((offload, got)) = self.tap.receive()? else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            self.look_at(offload, &got)?;
            if let Some(answer) = arp_answer(&got).or_else(|| neighbour_answer(&got)) {
                self.tap.send(Offload::default(), &answer)?;
            }
            if is_meant(&got) {
                return Ok(got);
            }
        }
        bail!("no answer within {SOON:?}")
    }

    /// Is the frame as it must be for this card?
    fn look_at(&self, offload: Offload, frame: &[u8]) -> Result<()> {
        let mut finished = frame.to_vec();
        if let Some((start, behind)) = offload.checksum {
            ensure!(self.finishes, "unfinished: {frame:02x?}");
            let (start, at) = (usize::from(start), usize::from(start + behind));
            let sum = checksum(finished.get(start..).context("a start")?);
            let field = finished.get_mut(at..at + 2).context("a field")?;
            field.copy_from_slice(&sum.to_be_bytes());
        }
        ensure!(is_right(&finished), "{offload:?}: {frame:02x?}");
        Ok(())
    }
}

/// Are the checksums of a packet right, where it has some?
fn is_right(frame: &[u8]) -> bool {
    if let Some(packet) = Ipv4::from_frame(frame) {
        let end = 14 + usize::from(frame[14] & 15) * 4;
        let header = frame
            .get(14..end)
            .is_some_and(|header| checksum(header) == 0);
        return header
            && match packet.protocol {
                UDP => packet.udp_checksum_is_complete(),
                TCP => packet.tcp_checksum_is_complete(),
                _ => true,
            };
    }
    Ipv6::from_frame(frame).is_none_or(|packet| {
        !matches!(packet.protocol, UDP | TCP | ICMPV6) || packet.checksum_is_right()
    })
}

/// The answer to whoever asks for the MAC address of something that the network has no one else for
/// (RFC 826): the gateway's question about a lease.
fn arp_answer(frame: &[u8]) -> Option<Vec<u8>> {
    let question = frame.get(12..42).filter(|arp| arp[..10] == ARP_REQUEST)?;
    let (asker, address) = (&question[10..16], &question[16..20]);
    let target = &question[26..30];
    // An announcement asks for oneself.
    (address != target).then(|| {
        let mut answer = [asker, &MAC, &ARP_REQUEST].concat();
        answer[21] = 2;
        answer.extend(MAC);
        answer.extend(target);
        answer.extend(asker);
        answer.extend(address);
        answer
    })
}

/// The advertisement for whoever asks for the card's MAC address (RFC 4861, section 4.4).
fn neighbour_answer(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = Ipv6::from_frame(frame).filter(|packet| packet.icmp() == Some((135, 0)))?;
    let is_own = packet.payload.get(8..24)? == OWN6.octets();
    is_own.then(|| {
        let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
        message.extend(OWN6.octets());
        message.extend([2, 1]);
        message.extend(MAC);
        let mut frame6 = Frame6::icmp(OWN6, packet.source, message);
        frame6.hop_limit = 255;
        let to: [u8; 6] = frame[6..12].try_into().unwrap_or(EVERYBODY);
        frame6.between(MAC, to).bytes()
    })
}

/// A message to the server, to which it answers by broadcast.
fn dhcp(kind: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0];
    message.extend(XID);
    message.extend([0, 0, 0x80, 0]);
    message.extend([0; 16]);
    message.extend(MAC);
    message.extend([0; 10 + 64 + 128]);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind]);
    // It asks for mask, router, servers and the domain.
    message.extend([55, 4, 1, 3, 6, 15]);
    message.extend(options);
    message.push(255);
    let anybody = (Ipv4Addr::UNSPECIFIED, 68);
    Frame::udp(anybody, (Ipv4Addr::BROADCAST, 67), &message)
        .with_udp_checksum()
        .between(MAC, EVERYBODY)
        .bytes()
}

/// Type of a DHCP message for the card, and the address in it.
fn dhcp_answer(frame: &[u8]) -> Option<(u8, [u8; 4])> {
    let packet = Ipv4::from_frame(frame).filter(|packet| packet.source_port() == Some(67))?;
    let message = packet.payload.get(8..)?;
    let own = message.get(4..8)? == XID;
    let kind = *message.get(242)?;
    let address = message.get(16..20)?.try_into().ok()?;
    own.then_some((kind, address))
}

fn from_port(port: u16) -> impl Fn(&[u8]) -> bool {
    move |frame| {
        let v4 = Ipv4::from_frame(frame).and_then(|packet| packet.source_port());
        let v6 = Ipv6::from_frame(frame).and_then(|packet| packet.source_port());
        v4.or(v6) == Some(port)
    }
}

/// All that the network's services say to the card.
fn talk(lab: &Lab, card: &mut Card, network: &Network) -> Result<()> {
    let is =
        |wanted: u8| move |frame: &[u8]| dhcp_answer(frame).is_some_and(|(kind, _)| kind == wanted);
    let offer = card
        .ask(&dhcp(DISCOVER, &[]), is(OFFER))
        .context("an offer")?;
    let (_, address) = dhcp_answer(&offer).context("an address")?;
    let server = network.gateway().octets();
    let request = |address: [u8; 4]| {
        let options = [&[50, 4][..], &address, &[54, 4], &server].concat();
        dhcp(REQUEST, &options)
    };
    card.ask(&request(address), is(ACK)).context("an ACK")?;
    card.ask(&request([192, 0, 2, 1]), is(NAK))
        .context("a NAK")?;
    let gateway = lab.hv.mac("virbr1")?;
    // A question for the address of "x" (RFC 1035, section 4.1).
    let question = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1];
    let own = Ipv4Addr::from(address);
    let question = Frame::udp((own, 4000), (network.gateway(), 53), &question)
        .with_udp_checksum()
        .between(MAC, gateway);
    card.ask(&question.bytes(), from_port(53)).context("DNS")?;
    let routers: Ipv6Addr = "ff02::2".parse()?;
    let mut solicit = Frame6::icmp(OWN6, routers, vec![133, 0, 0, 0, 0, 0, 0, 0]);
    solicit.hop_limit = 255;
    let solicit = solicit.between(MAC, [0x33, 0x33, 0, 0, 0, 2]).bytes();
    let advertised = |frame: &[u8]| {
        Ipv6::from_frame(frame).is_some_and(|packet| packet.icmp() == Some((134, 0)))
    };
    card.ask(&solicit, advertised).context("a router")?;
    // Solicit, with a DUID of the MAC address and an association (RFC 8415, section 8).
    let mut solicit = vec![1, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1];
    solicit.extend(MAC);
    solicit.extend([
        0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 2, 0, 0,
    ]);
    let solicit = Frame6::udp((OWN6, 546), ("ff02::1:2".parse()?, 547), &solicit)
        .between(MAC, [0x33, 0x33, 0, 1, 0, 2]);
    card.ask(&solicit.bytes(), from_port(547))
        .context("DHCPv6")?;
    published(lab, card)
}

/// The host's own segments to a published port.
fn published(lab: &Lab, card: &mut Card) -> Result<()> {
    let _connecting = lab.hv.enter(|| -> Result<OwnedFd> {
        let kind = (AddressFamily::INET, SocketType::STREAM);
        let socket = socket_with(kind.0, kind.1, SocketFlags::NONBLOCK, None)?;
        match connect(&socket, &at(HOST, 5000)) {
            Err(Errno::INPROGRESS) => Ok(socket),
            other => bail!("connecting at once: {other:?}"),
        }
    })??;
    let is_syn = |frame: &[u8]| {
        Ipv4::from_frame(frame).is_some_and(|packet| packet.destination_port() == Some(7))
    };
    // It need not be asked for.
    let nothing = Frame::ip(OWN, HOST, 253, vec![0; 8]).between(MAC, EVERYBODY);
    card.ask(&nothing.bytes(), is_syn).context("a SYN")?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t55_no_raw_sum_of_a_pseudo_header() {
    // With the domain the messages are longer than the least, once by an odd number.
    for (finishes, domain) in [(false, 50), (false, 51), (true, 50), (true, 51)] {
        check(|lab| {
            lab.agent.start()?;
            let domain = "d".repeat(domain);
            let network = Network::default()
                .with(&format!("<domain name='{domain}'/>"))
                .with("<dns><host ip='10.10.1.9'><hostname>x</hostname></host></dns>")
                .with(
                    "<ip family='ipv6' address='fd00:10:1::1' prefix='64'><dhcp>\
                     <range start='fd00:10:1::100' end='fd00:10:1::1ff'/></dhcp></ip>",
                )
                .with(&forwards(&both("", &OWN.to_string(), 5000, 7)))
                .dhcp("");
            lab.up(&network)?;
            let mut card = Card::new(lab, finishes)?;
            talk(lab, &mut card, &network).with_context(|| format!("finishes: {finishes}"))
        });
    }
}
