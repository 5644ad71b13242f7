//! Routes of the host's that lead behind a guest (a router, an anycast address): what a network does not carry in
//! one direction it refuses at once in the other.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{HOST, at, check};
use netd_tests::lab6::{HOST6, at6, check_guest6};
use netd_tests::traffic::{self, Server, Verdict};
use netd_tests::{Guest, Lab, Netns, Network, SOON, eventually};

const PORT: u16 = 7000;

/// An address behind the guest of the network of this number.
fn behind(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, number, 1)
}

/// A guest of the network, number 10 + that of the network, who is a router for a subnet; who asks there, he answers.
fn router(lab: &Lab, number: u8, network: &Network) -> Result<(Guest, Server)> {
    let guest = lab.member(10 + number, network)?;
    let own = format!("{}/32", behind(number));
    guest
        .netns()
        .run(["ip", "addr", "add", &own, "dev", "lo"])?;
    let server = Server::udp(guest.netns(), at(behind(number), PORT))?;
    Ok((guest, server))
}

/// Refused without a packet that gets through, and counted; connections are refused at once as well.
fn is_refused(
    lab: &Lab,
    from: &Netns,
    to: impl Into<SocketAddr>,
    (server, reason): (&Server, &str),
) -> Result<()> {
    let to = to.into();
    // The agent reads routes a second after they change.
    eventually(SOON, || {
        let verdict = traffic::ask_udp(from, to)?;
        ensure!(verdict == Verdict::Refused, "{to}: {verdict:?}");
        Ok(())
    })?;
    let (heard, dropped) = (server.received(), lab.agent.dropped(reason)?);
    for _ in 0..3 {
        let verdict = traffic::ask_udp(from, to)?;
        ensure!(verdict == Verdict::Refused, "{to}: {verdict:?}");
    }
    let start = Instant::now();
    let error = traffic::connect(from, to).err().context("connected")?;
    let error = error.downcast_ref::<io::Error>().map(io::Error::kind);
    ensure!(
        error == Some(ErrorKind::ConnectionRefused),
        "{to}: {error:?}"
    );
    // A kernel that is not done with sending hears nothing; the second segment comes after a second.
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(3), "{to}: after {took:?}");
    ensure!(
        server.received() == heard,
        "{to}: it was heard behind the guest"
    );
    let dropped = lab.agent.dropped(reason)? - dropped;
    ensure!(dropped >= 4, "{to}: {dropped} counted as {reason}");
    Ok(())
}

fn is_answered(from: &Netns, to: Ipv4Addr, own: Ipv4Addr) -> Result<()> {
    eventually(SOON, || match traffic::ask_udp(from, at(to, PORT))? {
        Verdict::Answered(seen) if seen.ip() == IpAddr::V4(own) => Ok(()),
        other => bail!("{to}: {other:?}"),
    })
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn who_would_get_no_answer_from_behind_a_guest_is_told() {
    check(|lab| {
        lab.agent.start()?;
        let route = "<route address='10.77.5.0' prefix='24' gateway='10.10.5.25'/>";
        let networks = [
            (Network::nat("nat", 1), Some("into_nat")),
            (Network::route("routed", 2), Some("foreign_destination")),
            (Network::isolated("isolated", 3), Some("into_isolated")),
            (Network::open("open", 4), None),
            // Whom the definition names is answered.
            (Network::route("named", 5).with(route), None),
        ];
        let own = HOST.to_string();
        lab.wan
            .run(["ip", "route", "add", "10.77.0.0/16", "via", &own])?;
        let mut routers = Vec::new();
        for (number, (network, refused)) in (1..).zip(&networks) {
            lab.up(network)?;
            let (guest, server) = router(lab, number, network)?;
            let subnet = format!("10.77.{number}.0/24");
            let gateway = network.address(20 + number).to_string();
            if number != 5 {
                lab.hv
                    .run(["ip", "route", "add", &subnet, "via", &gateway])?;
            }
            routers.push((number, network, refused, guest, server));
        }
        // A guest of an open network, whose traffic is the host's to judge.
        let asker = lab.member(1, &networks[3].0)?;
        for (number, network, refused, _, server) in &routers {
            let to = behind(*number);
            let name = &network.name;
            // The host itself is answered by everybody, as ever.
            is_answered(&lab.hv, to, network.gateway()).with_context(|| format!("{name}: host"))?;
            for (who, from, own) in [
                ("outside", &lab.wan, netd_tests::lab::OUTSIDE),
                ("open", asker.netns(), networks[3].0.address(11)),
            ] {
                match refused {
                    Some(reason) => is_refused(lab, from, at(to, PORT), (server, reason)),
                    None => is_answered(from, to, own),
                }
                .with_context(|| format!("{name}: {who}"))?;
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn who_would_get_no_ipv6_answer_is_told() {
    check_guest6(&Network::route("default", 1).ipv6(), |lab, guest| {
        let to = "fd00:77::1".parse()?;
        guest.netns().address("lo", "fd00:77::1/128")?;
        guest.netns().wait_for_addresses("lo")?;
        let server = Server::udp(guest.netns(), at6(to, PORT))?;
        let (own, host) = (
            Network::default().address6(11).to_string(),
            HOST6.to_string(),
        );
        for (netns, via) in [(&lab.hv, &own), (&lab.wan, &host)] {
            netns.run(["ip", "route", "add", "fd00:77::/64", "via", via])?;
        }
        let refused = (&server, "foreign_destination");
        is_refused(lab, &lab.wan, at6(to, PORT), refused)
    });
}
