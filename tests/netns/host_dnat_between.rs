//! The host's own rules lead what guests ask the host to guests of other networks: what policy allows works as by
//! the kernel with libvirt's rules, and what it does not never arrives.

use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{at, check};
use netd_tests::traffic::{self, Server};
use netd_tests::{Guest, Lab, Network, SOON, eventually};

use crate::host_dnat::br_netfilter;
use crate::shaping::UNNOTICED;

/// Where guests listen, and where the host leads to the guest of network 1; the others follow.
const PORT: u16 = 7000;
const LED: u16 = 8080;
/// How long an answer may take.
const A_WHILE: Duration = Duration::from_millis(150);

/// Networks by number, from 1 on, each with the forward mode that the host's rules go by.
fn networks() -> [(Network, &'static str); 5] {
    [
        (Network::nat("nat", 1), "nat"),
        (Network::nat("nat-too", 2), "nat"),
        (Network::route("routed", 3), "route"),
        (Network::isolated("isolated", 4), "isolated"),
        (Network::open("open", 5), "open"),
    ]
}

/// As in the table of `docs/reference/policy.md`, which is libvirt's here.
fn is_allowed(from: &str, to: &str) -> bool {
    from != "isolated" && (to == "route" || to == "open")
}

/// What the host does by itself: whoever asks it for such a port gets the guest of that network.
fn lead() -> String {
    let lines = (1..).zip(networks()).map(|(number, (network, _))| {
        let guest = network.address(10 + number);
        let port = LED + u16::from(number);
        format!("fib daddr type local meta l4proto {{ tcp, udp }} th dport {port} dnat to {guest}:{PORT}\n")
    });
    format!(
        "table ip led {{ chain pre {{ type nat hook prerouting priority dstnat;\n{}}}\n}}\n",
        lines.collect::<String>()
    )
}

/// libvirt's rules for the networks, in its order: within a network, to guests, from guests.
fn as_libvirt() -> String {
    let mut to = String::new();
    let mut from = String::new();
    let mut nat = String::new();
    for (network, mode) in networks() {
        let (bridge, subnet) = (network.bridge(), network.subnet());
        match mode {
            "nat" => {
                to += &format!(
                    "oifname {bridge} ip daddr {subnet} ct state related,established accept\n"
                );
                nat += &format!("ip saddr {subnet} ip daddr != {subnet} masquerade\n");
            }
            "route" => to += &format!("oifname {bridge} ip daddr {subnet} accept\n"),
            "open" => continue,
            _ => {}
        }
        to += &format!("oifname {bridge} reject\n");
        if mode != "isolated" {
            from += &format!("iifname {bridge} ip saddr {subnet} accept\n");
        }
        from += &format!("iifname {bridge} reject\n");
    }
    format!(
        "table ip lv {{ chain f {{ type filter hook forward priority filter;\n{to}{from}}}\n\
         chain p {{ type nat hook postrouting priority srcnat;\n{nat}}}\n}}\n"
    )
}

/// A guest of each network, with what answers there.
struct Place {
    number: u8,
    network: Network,
    mode: &'static str,
    guest: Guest,
    udp: Server,
    _tcp: Server,
}

fn places(lab: &Lab) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for (number, (network, mode)) in (1..).zip(networks()) {
        let guest = lab.member(number, &network)?;
        let here = at(network.address(10 + number), PORT);
        places.push(Place {
            number,
            udp: Server::udp(guest.netns(), here)?,
            _tcp: Server::tcp_echo(guest.netns(), here)?,
            network,
            mode,
            guest,
        });
    }
    Ok(places)
}

/// Is a datagram answered, by whom it was sent to?
fn is_answered(socket: &UdpSocket) -> bool {
    // ICMP's word about the last one.
    let _ = socket.take_error();
    socket.send(b"who").is_ok() && socket.recv(&mut [0; 64]).is_ok()
}

/// Every guest asks the host for every other network's guest.
fn asked(places: &[Place], is_netd: bool) -> Result<()> {
    for from in places {
        for to in places.iter().filter(|to| to.number != from.number) {
            let led = at(from.network.gateway(), LED + u16::from(to.number));
            let what = format!("{} to {}", from.network.name, to.network.name);
            let netns = from.guest.netns();
            let socket = netns.udp("0.0.0.0:0")?;
            netns.enter(|| socket.connect(led))??;
            socket.set_read_timeout(Some(A_WHILE))?;
            let before = to.udp.received();
            if is_allowed(from.mode, to.mode) {
                eventually(SOON, || {
                    ensure!(is_answered(&socket), "{what}: no answer");
                    Ok(())
                })?;
                for _ in 0..3 {
                    ensure!(is_answered(&socket), "{what}: no answer any more");
                }
                traffic::transfer(netns, led, 300_000).context(what)?;
            } else {
                for _ in 0..2 {
                    ensure!(!is_answered(&socket), "{what}: answered");
                }
                let connected = netns.enter(|| TcpStream::connect_timeout(&led.into(), A_WHILE))?;
                ensure!(connected.is_err(), "{what}: connected");
                // libvirt lets what an isolated guest sends into a routed network, and keeps the answer.
                let arrives = !is_netd && from.mode == "isolated" && to.mode == "route";
                let heard = to.udp.received() != before;
                ensure!(heard == arrives, "{what}: heard {heard}");
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_kernel_with_libvirts_rules_leads_guests_as_the_table_says() -> Result<()> {
    let lab = Lab::with_binary(Path::new("/bin/true"))?;
    for (network, _) in networks() {
        let bridge = network.bridge();
        lab.hv
            .run(["ip", "link", "add", &bridge, "type", "bridge"])?;
        lab.hv
            .address(&bridge, &format!("{}/24", network.gateway()))?;
    }
    lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
    br_netfilter(&lab, false)?;
    let file = lab.agent.file("rules.nft", &(lead() + &as_libvirt()))?;
    lab.hv.run(["nft", "-f", &file])?;
    asked(&places(&lab)?, false)
}

/// With the host's rules for judges as well, and where they see what is bridged. `rates` are the networks'.
fn by_netd(firewall: &str, rates: &str) {
    check(|lab| {
        let before = br_netfilter(lab, false)?;
        lab.agent.start()?;
        let metadata = format!(
            "<metadata><netd:host xmlns:netd='urn:netd:network:1' firewall='{firewall}'/></metadata>"
        );
        for (network, mode) in networks() {
            let network = match mode {
                "open" => network,
                _ => network.with(&metadata),
            };
            let network = network.with(rates);
            lab.up(&network)?;
        }
        let file = lab.agent.file("rules.nft", &lead())?;
        lab.hv.run(["nft", "-f", &file])?;
        let places = places(lab)?;
        for on in [false, true] {
            br_netfilter(lab, on)?;
            asked(&places, true).with_context(|| format!("br_netfilter {on}"))?;
        }
        br_netfilter(lab, before)?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn whom_the_host_leads_to_another_network_gets_there_or_never_leaves() {
    by_netd("bypass", "");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn whom_it_leads_gets_there_where_what_guests_send_waits() {
    by_netd("bypass", UNNOTICED);
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn whom_it_leads_where_its_rules_count_gets_there_or_never_leaves() {
    by_netd("respect", "");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn whom_it_leads_where_its_rules_count_gets_there_where_what_guests_send_waits() {
    by_netd("respect", UNNOTICED);
}
