//! Segments that a card is to cut up and checksums that it is to finish pass as they are.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::packet::{Ipv4, TCP, UDP};
use netd_tests::tap::{Offload, Tap};
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Netns, Network, SOON, Sniffer};

const PORT: u16 = 7000;
const BULK: usize = 8 << 20;
/// What a packet holds on these wires.
const SEGMENT: usize = 1448;
const SYN: u8 = 2;
const ACK: u8 = 0x10;
const PUSH_ACK: u8 = 0x18;
const TAP_GUEST: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 15);
const TAP_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x15];

/// Switches a card's offloads: checksums, and segmentation with them.
fn offload(netns: &Netns, device: &str, on: bool) -> Result<()> {
    let value = if on { "on" } else { "off" };
    for feature in ["tx", "tso", "gso"] {
        netns.run(["ethtool", "-K", device, feature, value])?;
    }
    Ok(())
}

/// Sends `BULK` bytes one way and returns when all have arrived.
fn push(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    let mut sender = from.try_clone()?;
    let sending = std::thread::spawn(move || sender.write_all(&vec![0x5a; BULK]));
    let mut buffer = vec![0; 1 << 16];
    let mut left = BULK;
    while left > 0 {
        let room = left.min(buffer.len());
        let length = to.read(&mut buffer[..room]).context("receiving")?;
        ensure!(length > 0, "the connection ended {left} bytes too early");
        ensure!(
            buffer[..length].iter().all(|&byte| byte == 0x5a),
            "other bytes"
        );
        left -= length;
    }
    sending
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .context("sending")
}

/// A guest's connection: its end, and the one outside.
fn connected(lab: &Lab, guest: &Guest) -> Result<(TcpStream, TcpStream)> {
    let listener = lab.wan.listen(at(OUTSIDE, PORT))?;
    let inside = traffic::connect(guest.netns(), at(OUTSIDE, PORT))?;
    let (outside, _) = listener.accept()?;
    Ok((inside, outside))
}

/// Has TCP send at once all that it may, however long answers take: by itself it makes its packets smaller
/// where the machine is busy.
fn send_at_once(netns: &Netns) -> Result<()> {
    netns.sysctl("net/ipv4/tcp_min_tso_segs", "44")
}

/// Bytes per packet that a device received while `BULK` bytes came in by it.
fn average(netns: &Netns, device: &str, act: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = netns.counters(device)?;
    act()?;
    let after = netns.counters(device)?;
    let bytes = after.received_bytes - before.received_bytes;
    let packets = after.received_packets - before.received_packets;
    ensure!(
        bytes >= BULK as u64,
        "{bytes} bytes came by {device}: something is not counted"
    );
    println!("{packets} packets, {bytes} bytes");
    Ok(bytes / packets)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p31_large_segments_pass_as_one_packet_both_ways() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        send_at_once(guest.netns())?;
        send_at_once(&lab.wan)?;
        let (mut inside, mut outside) = connected(lab, &guest)?;
        for on in [true, false] {
            offload(guest.netns(), "eth0", on)?;
            offload(&lab.wan, "wan0", on)?;
            let out = average(&lab.wan, "wan0", || push(&mut inside, &mut outside))?;
            let back = average(guest.netns(), "eth0", || push(&mut outside, &mut inside))?;
            for (way, average) in [("out", out), ("back", back)] {
                if on {
                    ensure!(average > 10_000, "{way}: {average} bytes per packet");
                } else {
                    // The control: this is what packets on a wire look like.
                    ensure!(average <= 1514, "{way}, cut: {average} bytes per packet");
                }
            }
        }
        Ok(())
    });
}

/// The packets of one protocol that carry something, and are as small as on a wire.
fn carried(packets: &[Ipv4], protocol: u8, source: Ipv4Addr) -> impl Iterator<Item = &Ipv4> {
    packets
        .iter()
        .filter(move |packet| packet.protocol == protocol && packet.source == source)
}

/// Every checksum in a capture is right; there must be some.
fn sums_are_right(packets: &[Ipv4], source: Ipv4Addr, least: usize, what: &str) -> Result<()> {
    let (mut segments, mut datagrams) = (0, 0);
    for packet in carried(packets, TCP, source) {
        ensure!(packet.length <= 1500, "{what}: {} bytes", packet.length);
        ensure!(packet.tcp_checksum_is_complete(), "{what}: {packet:?}");
        segments += 1;
    }
    for packet in carried(packets, UDP, source) {
        ensure!(packet.udp_checksum_is_complete(), "{what}: {packet:?}");
        datagrams += 1;
    }
    ensure!(
        segments >= least && datagrams > 0,
        "{what}: {segments} segments, {datagrams} datagrams"
    );
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p30_checksums_are_right_wherever_they_are_finished() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let length = 200_000;
        let exchange = |what: &str| -> Result<()> {
            traffic::transfer(guest.netns(), at(OUTSIDE, PORT), length)
                .with_context(|| what.to_owned())?;
            traffic::answered(guest.netns(), at(OUTSIDE, PORT)).with_context(|| what.to_owned())?;
            Ok(())
        };
        for ends in [true, false] {
            for host in [true, false] {
                let what = format!("offloads of the ends {ends}, of the host {host}");
                offload(guest.netns(), "eth0", ends)?;
                offload(&lab.wan, "wan0", ends)?;
                offload(&lab.hv, "uplink", host)?;
                offload(&lab.hv, &guest.port, host)?;
                let (out, back) = (Sniffer::start(&lab.wan)?, Sniffer::start(guest.netns())?);
                exchange(&what)?;
                let (out, back) = (out.finish()?, back.finish()?);
                if ends && host {
                    // The control: nobody has finished them, and that is seen.
                    let open = carried(&out, TCP, HOST).find(|it| !it.tcp_checksum_is_complete());
                    ensure!(open.is_some(), "{what}: finished already");
                } else if !host {
                    // Where the last card on the way finishes them, they are there to be seen.
                    let least = length / SEGMENT;
                    sums_are_right(&out, HOST, least, &format!("{what}, out"))?;
                    sums_are_right(&back, OUTSIDE, least, &format!("{what}, back"))?;
                }
            }
        }
        offload(&lab.hv, "uplink", true)
    });
}

/// A guest that is this test, behind a tap device with virtio's header.
struct TapGuest {
    tap: Tap,
    gateway: [u8; 6],
    port: u16,
    sequence: u32,
    acknowledged: u32,
}

impl TapGuest {
    fn new(lab: &Lab) -> Result<Self> {
        let tap = Tap::new(&lab.hv, "tap5")?;
        let bridge = Network::default().bridge();
        lab.hv
            .run(["ip", "link", "set", "tap5", "up", "master", &bridge])?;
        // It answers no ARP.
        let mac = TAP_MAC.map(|byte| format!("{byte:02x}")).join(":");
        let neighbour = format!("ip neigh replace {TAP_GUEST} lladdr {mac} dev {bridge}");
        lab.hv.run(neighbour.split(' '))?;
        netd_tests::eventually(SOON, || {
            let port = lab.hv.run(["bridge", "link", "show", "dev", "tap5"])?;
            ensure!(port.contains("state forwarding"), "{port}");
            Ok(())
        })?;
        Ok(Self {
            tap,
            gateway: lab.hv.mac(&bridge)?,
            port: 5000,
            sequence: 1000,
            acknowledged: 0,
        })
    }

    /// Sends a segment; the checksum is for the card to finish.
    fn send(&mut self, control: u8, data: &[u8]) -> Result<()> {
        const HEADERS: u16 = 14 + 20 + 20;
        let mut segment = [self.port.to_be_bytes(), PORT.to_be_bytes()].concat();
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        // Without the option the other end takes small segments for all that fits.
        let maximum = [2, 4, 0x05, 0xb4];
        let options = if control == SYN { &maximum[..] } else { &[] };
        let words = 5 + options.len() as u8 / 4;
        segment.extend([words << 4, control, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(options);
        segment.extend(data);
        // What the field holds then is the sum of the pseudo header.
        let addresses = [TAP_GUEST.octets(), OUTSIDE.octets()].concat();
        let words = addresses.chunks(2);
        let sum = words.fold(u32::from(TCP) + segment.len() as u32, |sum, word| {
            sum + u32::from(u16::from_be_bytes([word[0], word[1]]))
        });
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        let mut frame =
            netd_tests::Frame::ip(TAP_GUEST, OUTSIDE, TCP, segment).between(TAP_MAC, self.gateway);
        frame.fragment = 0x4000; // don't
        let cut = data.len() > SEGMENT;
        let offload = Offload {
            segment: if cut { SEGMENT as u16 } else { 0 },
            checksum: Some((34, 16)),
            headers: HEADERS,
        };
        self.tap.send(offload, &frame.bytes())?;
        self.sequence = self.sequence.wrapping_add(data.len() as u32);
        Ok(())
    }

    /// The next TCP segment for the guest.
    fn receive(&mut self) -> Result<(Offload, Ipv4)> {
        let start = Instant::now();
        while start.elapsed() < SOON {
            match self.tap.receive()? {
                Some((offload, frame)) => match Ipv4::from_frame(&frame) {
                    Some(packet) if packet.protocol == TCP => return Ok((offload, packet)),
                    _ => {}
                },
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        anyhow::bail!("no segment for the guest within {SOON:?}")
    }

    fn connect(&mut self, listener: &TcpListener) -> Result<TcpStream> {
        self.send(SYN, b"")?;
        let (_, answer) = self.receive().context("the answer to SYN")?;
        let number = answer.payload.get(4..8).context("a TCP header")?;
        let number = u32::from_be_bytes(number.try_into()?);
        self.sequence = self.sequence.wrapping_add(1);
        self.acknowledged = number.wrapping_add(1);
        self.send(ACK, b"")?;
        let (stream, peer) = listener.accept()?;
        ensure!(peer.ip() == HOST, "not translated: {peer}");
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p31_large_segments_of_a_virtual_machine_pass_as_one_packet() {
    check(|lab| {
        let _other = lab.nat_guest()?;
        let mut guest = TapGuest::new(lab)?;
        send_at_once(&lab.wan)?;
        let listener = lab.wan.listen(at(OUTSIDE, PORT))?;
        let mut outside = guest.connect(&listener)?;
        let data: Vec<u8> = (0..60_000_u32).map(|at| (at / 7) as u8).collect();
        // The first one may be looked at more closely than later ones.
        for round in 0..2 {
            let sniffer = Sniffer::start(&lab.wan)?;
            // The window is not scaled: one at a time.
            guest.send(PUSH_ACK, &data)?;
            let mut arrived = vec![0; data.len()];
            outside
                .read_exact(&mut arrived)
                .with_context(|| format!("round {round}"))?;
            ensure!(arrived == data, "round {round}: other bytes arrived");
            let packets = sniffer.finish()?;
            let large: Vec<_> = carried(&packets, TCP, HOST)
                .map(|packet| packet.length)
                .filter(|&length| length > 100)
                .collect();
            ensure!(large == [data.len() + 40], "left as {large:?} bytes");
        }
        // And back: what the outside sends at once comes whole, too.
        outside.write_all(&data[..10 * SEGMENT])?;
        let mut offloads = Vec::new();
        let mut arrived = 0;
        while arrived < 10 * SEGMENT {
            let (offload, packet) = guest.receive()?;
            let length = packet.payload.len() - usize::from(packet.payload[12] >> 4) * 4;
            if length > 0 {
                arrived += length;
                offloads.push((length, offload));
            }
        }
        ensure!(
            offloads
                .iter()
                .any(|(length, offload)| *length > 2 * SEGMENT && offload.segment > 0),
            "it came in pieces: {offloads:?}"
        );
        // Where a checksum is announced as unfinished, the guest's card is told where it is.
        for (length, offload) in offloads {
            ensure!(
                offload.checksum == Some((34, 16)) || offload.checksum.is_none(),
                "{length} bytes with {offload:?}"
            );
        }
        Ok(())
    });
}
