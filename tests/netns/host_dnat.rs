//! What the host itself leads elsewhere: guests ask an address of the host, whose own rules translate it (a port
//! that Docker publishes, a service of Kubernetes). Such connections are the kernel's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE, at, check};
use netd_tests::socket::Receive as _;
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Lab, Netns, Network, SOON, eventually};

use crate::shaping::UNNOTICED;

/// A container of other software's.
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const CONTAINER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 2);
/// Its port, and the host's for it.
const PORT: u16 = 80;
const PUBLISHED: u16 = 8080;
/// A port of the host's that leads outside.
const OUTWARD: u16 = 8081;
/// As Docker writes them: whoever asks the host gets the container.
const RULES: &str = "table ip d {
     chain pre { type nat hook prerouting priority dstnat;
         fib daddr type local meta l4proto { tcp, udp } th dport 8080 dnat to 172.17.0.2:80
         fib daddr type local meta l4proto { tcp, udp } th dport 8081 dnat to 198.51.100.1:80
     }
     chain post { type nat hook postrouting priority srcnat;
         ip saddr 172.17.0.0/16 oifname != docker0 masquerade
     }\n}
 table ip6 d {
     chain pre { type nat hook prerouting priority dstnat;
         fib daddr type local meta l4proto { tcp, udp } th dport 8080 dnat to [fd00:17::2]:80
     }\n}";
/// And whoever asks it is masked.
const MASKS: &str = "table ip m {
     chain post { type nat hook postrouting priority srcnat; ct status dnat masquerade
     }\n}";

/// A container behind a bridge of its own, published by the host's rules.
fn container(lab: &Lab) -> Result<Netns> {
    let container = Netns::new("container")?;
    lab.hv
        .run(["ip", "link", "add", "docker0", "type", "bridge"])?;
    lab.hv.run(["ip", "link", "set", "docker0", "up"])?;
    lab.hv.veth("vethc", &container, "eth0")?;
    lab.hv
        .run(["ip", "link", "set", "vethc", "master", "docker0", "up"])?;
    for (netns, device, own, own6) in [
        (&lab.hv, "docker0", "172.17.0.1/16", "fd00:17::1/64"),
        (&container, "eth0", "172.17.0.2/16", "fd00:17::2/64"),
    ] {
        netns.address(device, own)?;
        netns.address(device, own6)?;
        netns.wait_for_addresses(device)?;
    }
    for gateway in ["172.17.0.1", "fd00:17::1"] {
        container.run(["ip", "route", "add", "default", "via", gateway])?;
    }
    let file = lab.agent.file("docker.nft", RULES)?;
    lab.hv.run(["nft", "-f", &file])?;
    Ok(container)
}

/// The host as it was.
fn clear(lab: &Lab) -> Result<()> {
    lab.hv.run(["nft", "flush", "ruleset"])?;
    lab.hv.run(["ip", "link", "del", "docker0"])?;
    Ok(())
}

/// Has the host's rules see what is bridged (br_netfilter), and so translate it on the bridge, or not. An agent that
/// runs sees that a second later. What was so before; `false` where the kernel has no such module.
pub fn br_netfilter(lab: &Lab, on: bool) -> Result<bool> {
    let mut before = false;
    for name in ["iptables", "ip6tables"] {
        let key = format!("net/bridge/bridge-nf-call-{name}");
        let Ok(value) = lab.hv.read_sysctl(&key) else {
            eprintln!("SKIPPED in part: this kernel has no br_netfilter");
            return Ok(false);
        };
        before = value.trim() == "1";
        lab.hv.sysctl(&key, if on { "1" } else { "0" })?;
    }
    Ok(before)
}

/// The container is asked, by TCP as well, and the answers are the host's.
fn is_answered(from: &Netns, to: SocketAddr, seen: Option<IpAddr>) -> Result<()> {
    for _ in 0..3 {
        let who = traffic::answered(from, to).context("by UDP")?;
        ensure!(seen.is_none_or(|seen| who.ip() == seen), "{to} saw {who}");
    }
    // Long enough for the way of a connection to settle.
    traffic::transfer(from, to, 300_000)
}

/// Does a flow that is asked about for so long keep the host's address, when its way has been looked at anew?
fn stays_the_hosts(from: &Netns, to: SocketAddr) -> Result<()> {
    let socket = from.udp("0.0.0.0:0")?;
    from.enter(|| socket.connect(to))??;
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        socket.send(b"still there?")?;
        socket
            .receive(&mut [0; 64])
            .with_context(|| format!("{to} by a flow that runs"))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What guests send goes past the bridge, or by it: a hub has all of it. `rates` are those of both networks.
fn guests_reach_containers(is_hub: bool, rates: &str) {
    check(|lab| {
        let before = br_netfilter(lab, true)?;
        lab.agent.start()?;
        let bypassing = Network::nat("bypassing", 1).ipv6().with(rates);
        let respecting = Network::nat("respecting", 2).ipv6().with(rates).with(
            "<metadata><netd:host xmlns:netd='urn:netd:network:1' firewall='respect'/></metadata>",
        );
        let container = container(lab)?;
        let mut servers = Vec::new();
        for at in [
            SocketAddr::from((CONTAINER, PORT)),
            SocketAddr::from((CONTAINER6, PORT)),
        ] {
            servers.push(Server::udp(&container, at)?);
            servers.push(Server::tcp_echo(&container, at)?);
        }
        let mut guests = Vec::new();
        for (number, network) in [(1, &bypassing), (2, &respecting)] {
            lab.up(network)?;
            let guest = lab.member(number, network)?;
            let own = network.address6(10 + u16::from(number));
            guest.netns().address("eth0", &format!("{own}/64"))?;
            guest.netns().wait_for_addresses("eth0")?;
            let gateway = network.address6(1).to_string();
            guest
                .netns()
                .run(["ip", "route", "add", "default", "via", &gateway])?;
            if is_hub {
                let bridge = network.bridge();
                let hub = ["type", "bridge", "ageing_time", "0"];
                lab.hv
                    .run(["ip", "link", "set", &bridge].into_iter().chain(hub))?;
            }
            guests.push((network, guest, IpAddr::from(own)));
        }
        for on in [true, false] {
            br_netfilter(lab, on)?;
            for (network, guest, own) in &guests {
                let how = || format!("{}, br_netfilter {on}", network.name);
                // The agent follows.
                let published = at(HOST, PUBLISHED);
                eventually(SOON, || traffic::answered(guest.netns(), published))
                    .with_context(how)?;
                asks(network, guest.netns(), *own).with_context(how)?;
            }
        }
        masks(lab)?;
        for (_, guest, _) in &guests {
            let masked = Some(Ipv4Addr::new(172, 17, 0, 1).into());
            is_answered(guest.netns(), at(HOST, PUBLISHED).into(), masked).context("masked")?;
        }
        br_netfilter(lab, before)?;
        clear(lab)
    });
}

fn masks(lab: &Lab) -> Result<()> {
    let file = lab.agent.file("masks.nft", MASKS)?;
    lab.hv.run(["nft", "-f", &file])?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_reach_what_the_host_publishes_of_containers() {
    guests_reach_containers(false, "");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_reach_it_where_the_bridge_has_what_they_send() {
    guests_reach_containers(true, "");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_reach_it_where_what_they_send_waits() {
    guests_reach_containers(false, UNNOTICED);
}

/// By each of the host's addresses.
fn asks(network: &Network, guest: &Netns, own: IpAddr) -> Result<()> {
    let published = |address: IpAddr| SocketAddr::new(address, PUBLISHED);
    let masqueraded = Some(Ipv4Addr::new(172, 17, 0, 1).into());
    is_answered(guest, published(HOST.into()), masqueraded)?;
    is_answered(guest, published(network.gateway().into()), masqueraded)?;
    is_answered(guest, published(network.address6(1).into()), Some(own))?;
    stays_the_hosts(guest, published(HOST.into()))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_hosts_rules_lead_nobody_out_of_an_isolated_network() {
    nobody_leaves(Network::isolated("closed", 1));
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_hosts_rules_lead_nobody_out_of_an_isolated_network_that_has_a_rate() {
    nobody_leaves(Network::isolated("closed", 1).with(UNNOTICED));
}

/// What the host's rules make of what its guests ask the host leaves an isolated network no more than anything else.
fn nobody_leaves(network: Network) {
    check(|lab| {
        // So that the host forwards at all, which an isolated network does not ask for.
        lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
        let bridged = br_netfilter(lab, false)?;
        lab.agent.start()?;
        lab.up(&network)?;
        let container = container(lab)?;
        let inside = Server::udp(&container, at(CONTAINER, PORT))?;
        let outside = Server::udp(&lab.wan, at(OUTSIDE, PORT))?;
        let guest = lab.member(1, &network)?;
        // That the rules do something: the host leads others there.
        traffic::answered(&lab.wan, at(HOST, PUBLISHED))?;
        let before = inside.received();
        for (on, masked) in [(false, false), (true, false), (false, true)] {
            if masked {
                masks(lab)?;
            }
            br_netfilter(lab, on)?;
            for port in [PUBLISHED, OUTWARD] {
                let verdict = traffic::ask_udp(guest.netns(), at(network.gateway(), port))?;
                ensure!(!matches!(verdict, Verdict::Answered(_)), "{port}, {on}");
            }
        }
        ensure!(
            inside.received() == before,
            "a datagram reached the container"
        );
        ensure!(outside.received() == 0, "a datagram reached the outside");
        ensure!(
            lab.agent.ok(["drops"])?.contains("isolated"),
            "it is not counted"
        );
        br_netfilter(lab, bridged)?;
        lab.hv.sysctl("net/ipv4/ip_forward", "0")?;
        clear(lab)
    });
}
