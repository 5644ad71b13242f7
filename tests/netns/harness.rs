//! The harness itself: what it reports is what is there. A plain Linux router stands for netd.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at};
use netd_tests::packet::{Ipv4, UDP};
use netd_tests::socket::Receive as _;
use netd_tests::traffic::{self, Load, Server, Verdict};
use netd_tests::{
    Capture, Flood, Frame, Guest, Lab, Losses, SOON, Snapshot, Sniffer, TcpPool, Wire, eventually,
};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use rustix::net::sockopt::set_socket_recv_buffer_size;

/// A hypervisor whose kernel routes a bridge with one guest; no agent takes part.
fn plain_router() -> Result<(Lab, Guest)> {
    let lab = Lab::with_binary(Path::new("/bin/true"))?;
    lab.hv.run(["ip", "link", "add", "br0", "type", "bridge"])?;
    lab.hv.address("br0", "192.168.122.1/24")?;
    lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
    lab.wan.run([
        "ip",
        "route",
        "add",
        "192.168.122.0/24",
        "via",
        &HOST.to_string(),
    ])?;
    let guest = lab.plugged(1, "br0")?;
    guest.address("192.168.122.11/24", Some("192.168.122.1"))?;
    guest.ping(&OUTSIDE.to_string())?;
    Ok((lab, guest))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn traffic_is_carried_and_its_losses_are_counted() -> Result<()> {
    let (lab, guest) = plain_router()?;
    let _udp = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
    let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, 8))?;
    traffic::transfer(guest.netns(), at(OUTSIDE, 8), 1 << 20)?;

    // A machine that is too slow loses some by itself, but not each time.
    eventually(SOON, || {
        let loads = [
            Load::udp(guest.netns(), at(OUTSIDE, 7))?,
            Load::new_udp_flows(guest.netns(), at(OUTSIDE, 7))?,
            Load::new_tcp_flows(guest.netns(), at(OUTSIDE, 8))?,
            Load::tcp(guest.netns(), at(OUTSIDE, 8))?,
        ];
        for load in loads {
            load.reach(21)?;
            let report = load.finish()?;
            ensure!(report.lost.is_empty() && report.sent > 20, "{report:?}");
        }
        Ok(())
    })?;

    let load = Load::udp(guest.netns(), at(OUTSIDE, 7))?;
    load.reach(100)?;
    lab.hv.sysctl("net/ipv4/ip_forward", "0")?;
    load.reach(load.sent() + 20)?;
    lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
    let report = load.finish()?;
    ensure!(
        !report.lost.is_empty(),
        "a gap was not noticed: {}",
        report.sent
    );
    Ok(())
}

/// Of each connection the first packet is lost, that of the client and then that of the server.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn handshakes_that_needed_a_second_attempt_are_counted() -> Result<()> {
    let (lab, guest) = plain_router()?;
    let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, 8))?;
    for flags in ["syn", "syn|ack"] {
        let rules = format!(
            "table ip t {{ chain c {{ type filter hook forward priority 0;
             tcp flags & (syn|ack) == {flags} numgen inc mod 2 == 0 counter drop
             }}\n}}"
        );
        let file = lab.agent.file("lossy.nft", &rules)?;
        lab.hv.run(["nft", "-f", &file])?;
        let load = Load::new_tcp_flows(guest.netns(), at(OUTSIDE, 8))?;
        load.reach(2)?;
        let report = load.finish()?;
        // What each end sends again may make the next one whole.
        ensure!(report.lost.first() == Some(&0), "{flags}: {report:?}");
        lab.hv.run(["nft", "flush", "ruleset"])?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn large_segments_cross_whole_between_a_tap_and_its_guest() -> Result<()> {
    let (lab, _other) = plain_router()?;
    let guest = lab.guest_at_tap(2)?;
    lab.plug(&guest, "br0")?;
    guest.address("192.168.122.12/24", Some("192.168.122.1"))?;
    guest.ping(&OUTSIDE.to_string())?;
    let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, 8))?;
    let sniffers = [Sniffer::start(guest.netns())?, Sniffer::start(&lab.hv)?];
    traffic::transfer(guest.netns(), at(OUTSIDE, 8), 1 << 20)?;
    // How large they are is TCP's to say, which sends smaller ones on a busy machine.
    let own = Ipv4Addr::new(192, 168, 122, 12);
    for sniffer in sniffers {
        let is_whole = |packets: &[Ipv4], source| {
            let mut of = packets.iter().filter(|packet| packet.source == source);
            of.any(|packet| packet.length > 1500)
        };
        let all = |packets: &[Ipv4]| [own, OUTSIDE].iter().all(|&from| is_whole(packets, from));
        ensure!(all(&sniffer.finish_when(all)?), "each one is cut");
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn verdicts_and_captures_tell_the_truth() -> Result<()> {
    let (lab, guest) = plain_router()?;
    let sniffer = Sniffer::start(&lab.wan)?;
    let server = Server::udp(&lab.wan, at(OUTSIDE, 7))?;
    let who = traffic::answered_from(guest.netns(), 5000, at(OUTSIDE, 7))?;
    ensure!(who == "192.168.122.11:5000".parse()?, "{who}");
    traffic::refused(guest.netns(), at(OUTSIDE, 9))?;
    lab.wan
        .run(["ip", "route", "add", "blackhole", "192.168.122.11"])?;
    let verdict = traffic::ask_udp(guest.netns(), at(OUTSIDE, 7))?;
    ensure!(verdict == Verdict::Silent, "{verdict:?}");

    let packets = sniffer.finish()?;
    let mut questions = packets
        .iter()
        .filter(|packet| packet.protocol == UDP && packet.destination_port() == Some(7));
    let asked = questions.clone().count() as u64;
    ensure!(
        questions
            .next()
            .is_some_and(|packet| packet.source_port() == Some(5000)),
        "{packets:?}"
    );
    eventually(SOON, || {
        let received = server.received();
        ensure!(
            received == asked,
            "{received} of {asked} questions received"
        );
        Ok(())
    })?;
    let refusal = packets.iter().find(|packet| packet.icmp() == Some((3, 3)));
    let quoted = refusal.and_then(|packet| packet.quoted());
    ensure!(
        quoted.is_some_and(|packet| packet.destination == OUTSIDE),
        "{packets:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_guest_gets_a_lease_and_resolves_names() -> Result<()> {
    let (lab, guest) = plain_router()?;
    guest.netns().run(["ip", "addr", "flush", "dev", "eth0"])?;
    let pid_file = format!("--pid-file={}", lab.directory().join("pid").display());
    let leases = format!(
        "--dhcp-leasefile={}",
        lab.directory().join("leases").display()
    );
    lab.hv.run([
        "dnsmasq",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--interface=br0",
        "--bind-dynamic",
        "--except-interface=lo",
        "--domain=lab",
        "--expand-hosts",
        "--user=root",
        "--dhcp-range=192.168.122.50,192.168.122.60,1h",
        "--no-ping",
        &pid_file,
        &leases,
        "--host-record=www.lab,192.0.2.80",
    ])?;
    let lease = guest.dhcp()?;
    ensure!((50..=60).contains(&lease.address.octets()[3]), "{lease:?}");
    ensure!(lease.prefix == 24 && lease.seconds == 3600, "{lease:?}");
    ensure!(lease.domain.as_deref() == Some("lab"), "{lease:?}");
    let server = lease.dns.expect("a name server");
    ensure!(guest.resolve("www.lab", server)? == "192.0.2.80".parse::<Ipv4Addr>()?);
    ensure!(guest.resolve("vm1.lab", server)? == lease.address);
    ensure!(guest.resolve("nobody.lab", server).is_err());
    guest.ping(&OUTSIDE.to_string())?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_snapshot_shows_what_was_left_behind() -> Result<()> {
    let lab = Lab::with_binary(Path::new("/bin/true"))?;
    let before = lab.snapshot()?;
    std::thread::sleep(Duration::from_millis(1200));
    before.wait_for_same(&lab.hv, lab.directory())?;
    for (leave, undo, what) in [
        ("ip link add br9 type bridge", "ip link del br9", "br9"),
        (
            "ip addr add 10.9.9.9/32 dev lo",
            "ip addr del 10.9.9.9/32 dev lo",
            "10.9.9.9",
        ),
        (
            "tc qdisc add dev uplink clsact",
            "tc qdisc del dev uplink clsact",
            "clsact",
        ),
        (
            "sysctl -qw net.ipv4.ip_forward=1",
            "sysctl -qw net.ipv4.ip_forward=0",
            "ip_forward",
        ),
    ] {
        lab.hv.run(leave.split(' '))?;
        let difference = before.difference(&Snapshot::take(&lab.hv, lab.directory())?);
        ensure!(
            difference.contains(what),
            "{leave} was not noticed: {difference:?}"
        );
        lab.hv.run(undo.split(' '))?;
        before.wait_for_same(&lab.hv, lab.directory())?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_pool_notices_which_connections_break() -> Result<()> {
    let (lab, guest) = plain_router()?;
    // Each gets the three answers that make it whole.
    let talks = |pool: &TcpPool| {
        eventually(SOON, || {
            ensure!(pool.exchanges() >= 4 * 50, "{} answers", pool.exchanges());
            Ok(())
        })
    };
    let pool = TcpPool::start(guest.netns(), &lab.wan, at(OUTSIDE, 7), 50)?;
    talks(&pool)?;
    pool.finish()?.ensure_whole()?;

    let patience = Duration::from_secs(2);
    let pool = TcpPool::with_patience(guest.netns(), &lab.wan, at(OUTSIDE, 7), 50, patience)?;
    talks(&pool)?;
    lab.hv.sysctl("net/ipv4/ip_forward", "0")?;
    let outcome = pool.finish()?;
    ensure!(outcome.broken.len() == 50, "{outcome:?}");
    ensure!(outcome.ensure_whole().is_err(), "{outcome:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn frames_and_their_fragments_are_well_made() -> Result<()> {
    let (lab, guest) = plain_router()?;
    let receiver = lab.wan.udp(at(OUTSIDE, 7))?;
    let wire = Wire::new(guest.netns(), "eth0")?;
    let data: Vec<u8> = (0..4000_u16).map(|at| (at / 3) as u8).collect();
    let source = Ipv4Addr::new(192, 168, 122, 11);
    let datagram = Frame::udp((source, 5000), (OUTSIDE, 7), &data)
        .with_udp_checksum()
        .between(guest.netns().mac("eth0")?, lab.hv.mac("br0")?);
    for (id, order) in [(1, [0, 1, 2]), (2, [2, 1, 0])] {
        let mut datagram = datagram.clone();
        datagram.id = id;
        for place in order {
            wire.send(&datagram.fragments(1480)[place])?;
        }
        let mut buffer = vec![0; 65_536];
        let (length, _) = receiver.receive_from(&mut buffer)?;
        ensure!(buffer[..length] == data, "{order:?}: other data");
    }
    // The receiver looks at the sum.
    let mut wrong = datagram;
    wrong.payload[6] ^= 1;
    for fragment in wrong.fragments(1480) {
        wire.send(&fragment)?;
    }
    receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
    ensure!(
        receiver.recv_from(&mut [0; 16]).is_err(),
        "a wrong sum does not matter"
    );
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_capture_ends_although_traffic_goes_on() -> Result<()> {
    let (lab, guest) = plain_router()?;
    let frame = Frame::udp((HOST, 1), (OUTSIDE, 7), b"x")
        .between(guest.netns().mac("eth0")?, lab.hv.mac("br0")?);
    let flood = Flood::start(Wire::new(guest.netns(), "eth0")?, move |_| frame.clone());
    let start = Instant::now();
    let packets = Sniffer::start(guest.netns())?.finish()?;
    let took = start.elapsed();
    flood.reach(1001)?;
    let sent = flood.finish()?;
    // It would go on for as long as the flood does.
    ensure!(took < SOON, "it took {took:?}");
    ensure!(!packets.is_empty() && sent > 1000, "{sent} frames sent");
    Ok(())
}

/// What a test that fails leaves behind: frames, their devices and their times.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn what_passed_the_hypervisor_can_be_read_later() -> Result<()> {
    let (lab, guest) = plain_router()?;
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let capture = Capture::start(&lab.hv)?;
    guest.ping(&OUTSIDE.to_string())?;
    let path = capture.save()?;
    let mut reader = PcapNgReader::new(File::open(&path)?)?;
    let mut seen = Vec::new();
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block?.into_owned() else {
            continue;
        };
        let device = &reader.interfaces()[packet.interface_id as usize];
        let name = device.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
            _ => None,
        });
        ensure!(packet.timestamp >= started, "{packet:?}");
        if let Some(ping) = Ipv4::from_frame(&packet.data)
            && ping.icmp() == Some((8, 0))
        {
            seen.push(name.unwrap_or_default());
        }
    }
    std::fs::remove_file(&path)?;
    // One that is not answered in time is followed by another.
    let (pings, rest) = seen.as_chunks::<3>();
    let is_whole = |ping: &[String; 3]| ping == &["vnet1", "br0", "uplink"];
    ensure!(
        !pings.is_empty() && rest.is_empty() && pings.iter().all(is_whole),
        "{seen:?}"
    );
    Ok(())
}

/// A slow reader's losses are told from those on the way.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_full_buffer_is_told_from_a_gap() -> Result<()> {
    const SENT: u64 = 500;
    let (lab, guest) = plain_router()?;
    let look = || Losses::look(&[&lab.hv, &lab.wan, guest.netns()]);
    // Nobody reads.
    let server = lab.wan.udp(at(OUTSIDE, 7))?;
    set_socket_recv_buffer_size(&server, 4096)?;
    let client = guest.netns().udp((Ipv4Addr::UNSPECIFIED, 0))?;
    let send = || -> Result<()> {
        for _ in 0..SENT {
            client.send_to(&[0; 8], at(OUTSIDE, 7))?;
        }
        Ok(())
    };
    let before = look()?;
    send()?;
    server.set_nonblocking(true)?;
    let mut arrived = 0;
    // What is on its way still counts where it ends.
    let lost = eventually(SOON, || {
        while server.recv(&mut [0; 8]).is_ok() {
            arrived += 1;
        }
        let lost = look()?.since(&before).to_overload();
        ensure!(
            arrived + lost == SENT,
            "{arrived} arrived, {lost} lost of {SENT}"
        );
        Ok(lost)
    })?;
    ensure!(lost > 0, "the buffer held everything");

    // A gap in the way is nobody's overload.
    lab.hv.sysctl("net/ipv4/ip_forward", "0")?;
    let before = look()?;
    send()?;
    let gap = look()?.since(&before);
    // Some of it may have met a full queue before the gap.
    ensure!(gap.to_overload() < SENT / 2, "{gap}");
    ensure!(server.recv(&mut [0; 8]).is_err(), "something arrived");
    Ok(())
}
