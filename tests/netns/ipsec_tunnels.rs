//! Guests behind a real IPsec tunnel of the host's: states and policies as a key daemon sets them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{HOST, OUTSIDE};
use netd_tests::lab6::{HOST6, OUTSIDE6, check_guest6};
use netd_tests::traffic::{self, Server};
use netd_tests::{Lab, Netns, Network};

const PORT: u16 = 7;
/// Servers of the net behind the other end.
const REMOTE: [&str; 2] = ["10.77.0.1", "fd00:77::1"];

fn xfrm(netns: &Netns, words: &str) -> Result<String> {
    netns.run(format!("ip xfrm {words}").split_whitespace())
}

/// Sets up one direction at both ends. Nothing is encrypted: what matters is which way packets take.
fn tunnel(lab: &Lab, (from, to): (IpAddr, IpAddr), spi: u32) -> Result<()> {
    for netns in [&lab.hv, &lab.wan] {
        let state = format!(
            "ip xfrm state add src {from} dst {to} proto esp spi {spi} reqid 1 mode tunnel \
             auth digest_null"
        );
        let empty = ["", "enc", "ecb(cipher_null)", ""];
        netns.run(state.split_whitespace().chain(empty))?;
    }
    Ok(())
}

/// The policies of one family: all between the guests and the server goes by the tunnel, and nothing of
/// it is taken in clear.
fn policies(lab: &Lab, subnet: &str, remote: IpAddr, host: IpAddr, outside: IpAddr) -> Result<()> {
    let by = |from: IpAddr, to: IpAddr| {
        format!("tmpl src {from} dst {to} proto esp reqid 1 mode tunnel")
    };
    let there = format!("src {subnet} dst {remote}");
    let back = format!("src {remote} dst {subnet}");
    let (out, back_in) = (by(host, outside), by(outside, host));
    for (netns, direction, selector, template) in [
        (&lab.hv, "out", &there, &out),
        (&lab.hv, "fwd", &back, &back_in),
        (&lab.hv, "in", &back, &back_in),
        (&lab.wan, "out", &back, &back_in),
        (&lab.wan, "in", &there, &out),
    ] {
        xfrm(
            netns,
            &format!("policy add {selector} dir {direction} {template}"),
        )?;
    }
    Ok(())
}

fn has_esp(lab: &Lab) -> bool {
    let directions = [(HOST, OUTSIDE), (OUTSIDE, HOST)];
    let made = directions
        .iter()
        .zip(1..)
        .all(|((from, to), spi)| tunnel(lab, ((*from).into(), (*to).into()), spi).is_ok());
    if !made {
        eprintln!("SKIPPED: this kernel has no ESP (CONFIG_INET_ESP, CONFIG_CRYPTO_NULL)");
    }
    made
}

/// Packets that the host's state from there has carried.
fn carried(lab: &Lab, from: IpAddr) -> Result<u64> {
    let list = format!("ip -s xfrm state list src {from}");
    let text = lab.hv.run(list.split_whitespace())?;
    let current = text
        .lines()
        .skip_while(|line| !line.contains("lifetime current"));
    let packets = current.into_iter().find_map(|line| {
        let (_, packets) = line.trim().split_once("(bytes), ")?;
        packets.strip_suffix("(packets)")?.parse().ok()
    });
    packets.with_context(|| format!("no count in {text}"))
}

fn guests_talk_by_a_tunnel(network: &Network) {
    check_guest6(network, |lab, guest| {
        if !has_esp(lab) {
            return Ok(());
        }
        tunnel(lab, (HOST6.into(), OUTSIDE6.into()), 3)?;
        tunnel(lab, (OUTSIDE6.into(), HOST6.into()), 4)?;
        let route = format!("ip route add {} via {HOST}", network.subnet());
        lab.wan.run(route.split(' '))?;
        let families: [(IpAddr, String, IpAddr, IpAddr); 2] = [
            (
                network.address(11).into(),
                network.subnet(),
                HOST.into(),
                OUTSIDE.into(),
            ),
            (
                network.address6(11).into(),
                format!("{}/64", network.address6(0)),
                HOST6.into(),
                OUTSIDE6.into(),
            ),
        ];
        for ((own, subnet, host, outside), remote) in families.into_iter().zip(REMOTE) {
            let remote: IpAddr = remote.parse()?;
            let length = if remote.is_ipv4() { 32 } else { 128 };
            lab.wan.address("wan0", &format!("{remote}/{length}"))?;
            lab.wan.wait_for_addresses("wan0")?;
            let route = format!("ip route add {remote}/{length} via {outside}");
            lab.hv.run(route.split(' '))?;
            let _server = Server::udp(&lab.wan, (remote, PORT))?;
            let _echo = Server::tcp_echo(&lab.wan, (remote, PORT))?;
            policies(lab, &subnet, remote, host, outside)?;
            let before = (carried(lab, host)?, carried(lab, outside)?);
            // The other end takes nothing of it in clear: an answer has come by the tunnel, both ways,
            // and with the guest's own address.
            let seen = traffic::answered(guest.netns(), SocketAddr::from((remote, PORT)))?;
            ensure!(seen.ip() == own, "{own} asks {remote}, which sees {seen}");
            traffic::transfer(guest.netns(), SocketAddr::from((remote, PORT)), 200_000)?;
            let after = (carried(lab, host)?, carried(lab, outside)?);
            ensure!(
                after.0 > before.0 + 10 && after.1 > before.1 + 10,
                "the tunnel has carried {before:?}, then {after:?} packets"
            );
            let route = format!("ip route del {remote}/{length} via {outside}");
            lab.hv.run(route.split(' '))?;
            xfrm(&lab.hv, "policy flush")?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_of_a_routed_network_talk_by_a_tunnel() {
    guests_talk_by_a_tunnel(&Network::route("default", 1).ipv6());
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_of_a_nat_network_talk_by_a_tunnel() {
    guests_talk_by_a_tunnel(&Network::nat6("default", 1));
}
