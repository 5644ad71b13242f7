//! Several uplinks, and uplinks that change under running flows.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{FAR, HOST, OUTSIDE, at, check};
use netd_tests::traffic::{self, Load, Server, Verdict};
use netd_tests::two_uplinks::{ROUTER, SECOND};
use netd_tests::{Guest, Lab, Losses, Netns, SOON, Sniffer, TwoUplinks, eventually};

use crate::limits::look_only_when_told;

const PORT: u16 = 7000;

/// A lab with two uplinks and a guest; the host is left as it was found.
fn with_two(test: impl FnOnce(&mut Lab, &Guest, &Netns) -> Result<()>) {
    check(|lab| {
        let keys = ["all", "default"].map(|device| format!("net/ipv4/conf/{device}/rp_filter"));
        let before = keys.clone().map(|key| lab.hv.read_sysctl(&key));
        let two = TwoUplinks::new(lab)?;
        let guest = lab.nat_guest()?;
        guest.ping(&FAR.to_string())?;
        look_only_when_told(lab)?;
        test(lab, &guest, &two.far)?;
        for (key, value) in keys.iter().zip(before) {
            lab.hv.sysctl(key, &value?)?;
        }
        lab.hv
            .run(["ip", "route", "flush", "exact", "203.0.113.0/24"])?;
        if lab.hv.ifindex("uplink2").is_ok() {
            lab.hv.run(["ip", "link", "del", "uplink2"])?;
        }
        Ok(())
    });
}

/// As which address a server sees new flows of a guest, sooner or later.
fn soon_seen_as(guest: &Guest, to: Ipv4Addr, address: Ipv4Addr) -> Result<()> {
    let start = Instant::now();
    eventually(SOON, || {
        match traffic::ask_udp(guest.netns(), at(to, PORT))? {
            Verdict::Answered(seen) if seen.ip() == IpAddr::V4(address) => Ok(()),
            verdict => bail!("{to} saw {verdict:?}, not {address}"),
        }
    })?;
    println!("{address} after {:?}", start.elapsed());
    Ok(())
}

/// A flow of one port: as whom the peer sees it each time.
struct Flow(UdpSocket);

impl Flow {
    fn new(guest: &Guest, to: Ipv4Addr) -> Result<Self> {
        let socket = guest.netns().udp("0.0.0.0:0")?;
        socket.connect(at(to, PORT))?;
        Ok(Self(socket))
    }

    /// The agent hears of a change a moment after the kernel's routing has it.
    fn soon_seen_as(&self, address: Ipv4Addr) -> Result<()> {
        eventually(SOON, || {
            let seen = self.seen_within(Duration::from_millis(500))?;
            ensure!(seen == address, "the old flow is seen as {seen}");
            Ok(())
        })
    }

    /// However busy the machine is.
    fn seen(&self) -> Result<IpAddr> {
        self.seen_within(SOON)
    }

    fn seen_within(&self, patience: Duration) -> Result<IpAddr> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.send(b"who am I?")?;
        let mut answer = [0; 64];
        let length = self.0.recv(&mut answer).context("no answer")?;
        let text = std::str::from_utf8(&answer[..length])?;
        Ok(text.parse::<SocketAddr>()?.ip())
    }
}

fn talk(stream: &mut TcpStream) -> Result<()> {
    let mut answer = [0; 5];
    stream.write_all(b"still")?;
    stream.read_exact(&mut answer)?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p52_an_uplink_that_goes_takes_its_address_with_it() {
    with_two(|lab, guest, far| {
        let _udp = Server::udp(far, at(FAR, PORT))?;
        TwoUplinks::switch(lab)?;
        soon_seen_as(guest, FAR, SECOND)?;
        let flow = Flow::new(guest, FAR)?;
        ensure!(flow.seen()? == SECOND, "by the second uplink");
        lab.hv.run(["ip", "link", "del", "uplink2"])?;
        // The default route is left.
        soon_seen_as(guest, FAR, HOST)?;
        flow.soon_seen_as(HOST)?;
        Ok(())
    });
}

/// Gives the uplink another address, as a DHCP client does.
fn readdress(lab: &Lab, old: Ipv4Addr, new: Ipv4Addr) -> Result<()> {
    for command in [
        format!("ip addr del {old}/24 dev uplink"),
        format!("ip addr add {new}/24 dev uplink"),
        format!("ip route replace default via {OUTSIDE}"),
    ] {
        lab.hv.run(command.split(' '))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p52_flows_end_with_the_address_they_had() {
    check(|lab| {
        let new = Ipv4Addr::new(198, 51, 100, 3);
        let guest = lab.nat_guest()?;
        look_only_when_told(lab)?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let flow = Flow::new(&guest, OUTSIDE)?;
        ensure!(flow.seen()? == HOST);
        let mut stream = traffic::connect(guest.netns(), at(OUTSIDE, PORT))?;
        talk(&mut stream)?;
        readdress(lab, HOST, new)?;
        soon_seen_as(&guest, OUTSIDE, new)?;
        // The datagrams of one socket go on as another flow.
        flow.soon_seen_as(new)?;
        let sniffer = Sniffer::start(&lab.wan)?;
        traffic::transfer(guest.netns(), at(OUTSIDE, PORT), 10_000)?;
        guest.ping(&OUTSIDE.to_string())?;
        // The peer knows no connection from the new address, and says so.
        let error = talk(&mut stream).err().context("the connection goes on")?;
        let error = error.downcast::<std::io::Error>()?;
        ensure!(
            error.kind() == std::io::ErrorKind::ConnectionReset,
            "the connection: {error}"
        );
        let stale = sniffer.finish()?;
        let stale = stale.iter().find(|packet| packet.source == HOST);
        ensure!(stale.is_none(), "sent from the old address: {stale:?}");
        readdress(lab, new, HOST)?;
        soon_seen_as(&guest, OUTSIDE, HOST)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p52_flows_survive_an_uplink_that_was_down() {
    check(|lab| {
        let guest = lab.nat_guest()?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let _tcp = Server::tcp_echo(&lab.wan, at(OUTSIDE, PORT))?;
        let flow = Flow::new(&guest, OUTSIDE)?;
        ensure!(flow.seen()? == HOST);
        let mut stream = traffic::connect(guest.netns(), at(OUTSIDE, PORT))?;
        talk(&mut stream)?;
        for _ in 0..2 {
            lab.hv.run(["ip", "link", "set", "uplink", "down"])?;
            std::thread::sleep(Duration::from_millis(700));
            lab.hv.run(["ip", "link", "set", "uplink", "up"])?;
            let route = format!("ip route replace default via {OUTSIDE}");
            eventually(SOON, || lab.hv.run(route.split(' ')))?;
            soon_seen_as(&guest, OUTSIDE, HOST)?;
            ensure!(flow.seen()? == HOST, "the old flow");
            talk(&mut stream).context("the connection")?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p52_a_second_address_disturbs_nobody_and_may_go() {
    check(|lab| {
        let second = Ipv4Addr::new(198, 51, 100, 7);
        let guest = lab.nat_guest()?;
        look_only_when_told(lab)?;
        let _udp = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let far = lab.far(1500)?;
        let _far = Server::udp(&far, at(FAR, PORT))?;
        let all = [&lab.hv, &lab.wan, guest.netns()];
        let before = Losses::look(&all)?;
        let load = Load::udp(guest.netns(), at(OUTSIDE, PORT))?;
        std::thread::sleep(Duration::from_millis(300));
        lab.hv.address("uplink", &format!("{second}/24"))?;
        soon_seen_as(&guest, OUTSIDE, HOST)?;
        let route = format!("ip route add 203.0.113.0/24 via {OUTSIDE} src {second}");
        lab.hv.run(route.split(' '))?;
        soon_seen_as(&guest, FAR, second)?;
        let flow = Flow::new(&guest, FAR)?;
        ensure!(flow.seen()? == second);
        // It goes, and with it the route that asks for it.
        let del = format!("ip addr del {second}/24 dev uplink");
        lab.hv.run(del.split(' '))?;
        soon_seen_as(&guest, FAR, HOST)?;
        flow.soon_seen_as(HOST)?;
        load.reach(201)?;
        before.account_for(&load.finish()?, &all)
    });
}

/// A flow that runs goes by the second uplink soon after `change`: long before it would be looked at
/// for its own sake.
fn moves_to_the_second(lab: &Lab, guest: &Guest, far: &Netns, change: &[&str]) -> Result<()> {
    let _server = Server::udp(far, at(FAR, PORT))?;
    let flow = Flow::new(guest, FAR)?;
    let came_by_it = || -> Result<u64> {
        let before = far.counters("far1")?.received_packets;
        flow.seen()?;
        Ok(far.counters("far1")?.received_packets - before)
    };
    // What hosts have to say for themselves is counted, too.
    eventually(SOON, || {
        ensure!(came_by_it()? == 0, "it goes by the second uplink already");
        Ok(())
    })?;
    for line in change {
        lab.hv.run(line.split(' '))?;
    }
    eventually(SOON, || {
        ensure!(came_by_it()? == 1, "it still goes by the first uplink");
        Ok(())
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_rule_leads_running_flows_elsewhere_at_once() {
    with_two(|lab, guest, far| {
        let route = format!("ip route add 203.0.113.0/24 via {ROUTER} table 100");
        lab.hv.run(route.split(' '))?;
        let rule = "to 203.0.113.0/24 lookup 100";
        let add = format!("ip rule add {rule}");
        moves_to_the_second(lab, guest, far, &[&add])?;
        for line in [&format!("ip rule del {rule}"), "ip route flush table 100"] {
            lab.hv.run(line.split(' '))?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_next_hop_that_is_replaced_moves_running_flows_at_once() {
    with_two(|lab, guest, far| {
        // Else the kernel announces the routes of a next hop that changes as well.
        lab.hv.sysctl("net/ipv4/nexthop_compat_mode", "0")?;
        for line in [
            &format!("ip nexthop add id 7 via {OUTSIDE} dev uplink"),
            "ip route replace 203.0.113.0/24 nhid 7",
        ] {
            lab.hv.run(line.split(' '))?;
        }
        let replace = format!("ip nexthop replace id 7 via {ROUTER} dev uplink2");
        moves_to_the_second(lab, guest, far, &[&replace])?;
        lab.hv.run(["ip", "nexthop", "flush"])?;
        lab.hv.sysctl("net/ipv4/nexthop_compat_mode", "1")
    });
}
