//! Where packets leave and behind which address follows the host's routes, addresses and
//! neighbours.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{FAR, HOST, OUTSIDE, at, check};
use netd_tests::packet::{ICMP, Ipv4, UDP};
use netd_tests::traffic::{self, Load, Server};
use netd_tests::{Frame, Losses, Netns, Network, SOON, Sniffer, Tun, Wire, eventually};

use crate::limits::look_only_when_told;

const PORT: u16 = 7000;
/// Does the kernel tell the programs which address it would use (Linux 6.7)?
fn kernel_tells_sources() -> Result<bool> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut next = || {
        numbers
            .next()
            .context("a version has two numbers")?
            .context("a number")
    };
    Ok((next()?, next()?) >= (6, 7))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_hide_behind_the_address_the_host_would_use() {
    check(|lab| {
        if !kernel_tells_sources()? {
            eprintln!("SKIPPED: the kernel is older than 6.7");
            return Ok(());
        }
        let (second, third) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(198, 51, 100, 7));
        lab.hv.address("uplink", "192.0.2.2/24")?;
        lab.hv.address("uplink", "198.51.100.7/24")?;
        lab.wan.address("wan0", "192.0.2.1/24")?;
        let far = lab.far(1500)?;
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        let _near = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let _far = Server::udp(&far, at(FAR, PORT))?;
        let seen_as = |to: Ipv4Addr, address: Ipv4Addr| -> Result<()> {
            let seen = traffic::answered(guest.netns(), at(to, PORT))?;
            ensure!(seen.ip() == address, "{to} saw {seen}, not {address}");
            Ok(())
        };
        let sniffer = Sniffer::start(&lab.wan)?;
        let route = |words: &str| -> Result<()> {
            let words = format!("ip route replace 203.0.113.0/24 {words}");
            lab.hv.run(words.split(' '))?;
            Ok(())
        };
        seen_as(OUTSIDE, HOST).context("no route of its own")?;
        seen_as(FAR, HOST).context("the default route")?;
        route("via 192.0.2.1")?;
        seen_as(FAR, second).context("a next hop in the second subnet")?;
        route(&format!("via {OUTSIDE} src {third}"))?;
        seen_as(FAR, third).context("a route with a source")?;
        route(&format!("via {OUTSIDE}"))?;
        seen_as(FAR, HOST).context("a route without one")?;
        for packet in sniffer.finish()? {
            ensure!(packet.source.octets()[0] != 10, "{packet:?}");
        }
        lab.hv.run(["ip", "route", "del", "203.0.113.0/24"])?;
        lab.hv
            .run(["ip", "addr", "del", "192.0.2.2/24", "dev", "uplink"])?;
        lab.hv
            .run(["ip", "addr", "del", "198.51.100.7/24", "dev", "uplink"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn errors_of_guests_pass_a_tunnel_translated() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        guest.ping(&OUTSIDE.to_string())?;
        let tunnel = Tun::new(&lab.hv, "tun9")?;
        let (own, far) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(203, 0, 113, 9));
        lab.hv.address("tun9", &format!("{own}/24"))?;
        lab.hv
            .run(["ip", "route", "add", "203.0.113.0/24", "dev", "tun9"])?;
        let socket = guest.netns().udp("0.0.0.0:5000")?;
        // The agent hears of the device a moment later.
        let asked = eventually(SOON, || {
            socket.send_to(b"out", at(far, PORT))?;
            std::thread::sleep(Duration::from_millis(20));
            let bytes = tunnel.receive()?.context("nothing yet")?;
            let packet = Ipv4::from_packet(&bytes).context("not IPv4")?;
            ensure!(packet.protocol == UDP, "{packet:?}");
            Ok(packet)
        })?;
        ensure!(asked.source == own && asked.destination == far, "{asked:?}");
        let port = asked.source_port().context("a port")?;
        let answer = |data: &[u8]| -> Result<()> {
            let packet = Frame::udp((far, PORT), (own, port), data).packet();
            tunnel.send(&packet)
        };
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let (length, from) = eventually(SOON, || {
            answer(b"back")?;
            socket.recv_from(&mut [0; 16]).context("the answer")
        })?;
        let expected: SocketAddr = at(far, PORT).into();
        ensure!(
            length == 4 && from == expected,
            "{length} bytes from {from}"
        );

        // Now nobody listens, once no other test's child has a copy of the socket (between fork and exec).
        drop(socket);
        let error = eventually(SOON, || {
            answer(b"too late")?;
            std::thread::sleep(Duration::from_millis(20));
            let bytes = tunnel.receive()?.context("nothing yet")?;
            let packet = Ipv4::from_packet(&bytes).context("not IPv4")?;
            ensure!(packet.protocol == ICMP, "{packet:?}");
            Ok(packet)
        })
        .context("the guest's error")?;
        ensure!(error.icmp() == Some((3, 3)), "{error:?}");
        ensure!(error.source == own && error.destination == far, "{error:?}");
        ensure!(error.icmp_checksum_is_right(), "{error:?}");
        let quoted = error.quoted().context("it quotes nothing")?;
        ensure!(
            quoted.source == far && quoted.destination == own,
            "{quoted:?}"
        );
        ensure!(
            quoted.destination_port() == Some(port),
            "{quoted:?}, not {port}"
        );
        ensure!(quoted.source_port() == Some(PORT), "{quoted:?}");
        Ok(())
    });
}

/// Makes all that the hypervisor knows about its neighbours old.
fn age(hv: &Netns) -> Result<()> {
    for device in ["uplink", "virbr1"] {
        let list = hv.run(["ip", "-4", "neigh", "show", "dev", device])?;
        for line in list.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [address, "lladdr", mac, ..] = words[..] {
                let state = ["dev", device, "nud", "stale"];
                let change = ["ip", "neigh", "change", address, "lladdr", mac];
                hv.run(change.into_iter().chain(state))?;
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_flow_outlives_what_the_host_knows_of_its_neighbours() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        guest.ping(&OUTSIDE.to_string())?;
        for device in ["uplink", "virbr1"] {
            let key = |name| format!("net/ipv4/neigh/{device}/{name}");
            lab.hv.sysctl(&key("base_reachable_time_ms"), "1000")?;
            lab.hv.sysctl(&key("delay_first_probe_time"), "1")?;
            lab.hv.sysctl(&key("retrans_time_ms"), "200")?;
            lab.hv.sysctl(&key("gc_stale_time"), "1")?;
            lab.hv.wait_for_neighbours(device)?;
        }
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let all = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&all)?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, PORT))?;
        for _ in 0..5 {
            std::thread::sleep(Duration::from_secs(1));
            age(&lab.hv)?;
        }
        std::thread::sleep(Duration::from_secs(2));
        for device in ["uplink", "virbr1"] {
            lab.hv.forget_neighbours(device)?;
        }
        std::thread::sleep(Duration::from_secs(2));
        load.reach(1001)?;
        before.account_for(&load.finish()?, &all)
    });
}

/// What a router says when it takes over an address.
fn announcement(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = [[0xff; 6], mac].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    for hardware in [mac, [0; 6]] {
        frame.extend(hardware);
        frame.extend(address.octets());
    }
    frame
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_router_that_is_another_one_now_is_followed() {
    check(|lab| {
        lab.agent.start()?;
        lab.up(&Network::default())?;
        let guest = lab.member(1, &Network::default())?;
        guest.ping(&OUTSIDE.to_string())?;
        look_only_when_told(lab)?;
        // Nor does the kernel by itself doubt what it knows.
        lab.hv
            .sysctl("net/ipv4/neigh/uplink/base_reachable_time_ms", "3600000")?;
        let _server = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let socket = guest.netns().udp("0.0.0.0:5000")?;
        let ask = |patience: Duration| -> Result<()> {
            socket.set_read_timeout(Some(patience))?;
            socket.send_to(b"still there?", at(OUTSIDE, PORT))?;
            socket.recv_from(&mut [0; 16]).context("no answer")?;
            Ok(())
        };
        let moment = Duration::from_millis(50);
        for last in 1..=3 {
            // The flow is established, and its packets take the short way.
            for _ in 0..40 {
                ask(SOON)?;
                std::thread::sleep(Duration::from_millis(10));
            }
            let mac = [0x02, 0, 0, 0, 0x77, last];
            let text = format!("02:00:00:00:77:{last:02}");
            lab.wan
                .run(["ip", "link", "set", "wan0", "address", &text])?;
            // An answer to an earlier attempt may have come late.
            socket.set_read_timeout(Some(moment))?;
            while socket.recv_from(&mut [0; 16]).is_ok() {}
            ensure!(
                ask(moment).is_err(),
                "the old MAC address still works: the test tests nothing"
            );
            Wire::new(&lab.wan, "wan0")?.send_bytes(&announcement(mac, OUTSIDE))?;
            let start = Instant::now();
            eventually(SOON, || ask(moment))?;
            println!("followed after {:?}", start.elapsed());
        }
        Ok(())
    });
}
