//! Several uplinks, and answers of what is published: they go back by the one that brought the
//! question, with its address. The kernel by itself sends them by whatever route leads to the client.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{FAR, HOST, at, check};
use netd_tests::packet::Ipv4;
use netd_tests::published::{Service, both, forwards, seen};
use netd_tests::socket::Receive as _;
use netd_tests::two_uplinks::SECOND;
use netd_tests::{Guest, Lab, Network, SOON, Sniffer, TwoUplinks, eventually};

/// As published, and at the guest.
const PUBLIC: u16 = 8080;
const OWN: u16 = 80;

/// A guest with something published, reached by two uplinks; `filter` is the value of `rp_filter`.
fn published(filter: &str, test: impl FnOnce(&Lab, &TwoUplinks, [&Guest; 2]) -> Result<()>) {
    check(|lab| {
        let keys = ["all", "default"].map(|device| format!("net/ipv4/conf/{device}/rp_filter"));
        let before = keys.clone().map(|key| lab.hv.read_sysctl(&key));
        let two = TwoUplinks::new(lab)?;
        lab.hv.sysctl(&keys[0], filter)?;
        lab.agent.start()?;
        let network = Network::default().with(&forwards(&both("", "10.10.1.11", PUBLIC, OWN)));
        lab.up(&network)?;
        let (guest, other) = (lab.member(1, &network)?, lab.member(2, &network)?);
        let _service = Service::start(guest.netns(), at(network.address(11), OWN))?;
        test(lab, &two, [&guest, &other])?;
        for (key, value) in keys.iter().zip(before) {
            lab.hv.sysctl(key, &value?)?;
        }
        for line in ["ip route flush exact 203.0.113.0/24", "ip link del uplink2"] {
            lab.hv.run(line.split(' '))?;
        }
        Ok(())
    });
}

/// The far host asks at each uplink's address, and sees that address answer by that uplink.
fn asked_at_both(two: &TwoUplinks, lab: &Lab) -> Result<()> {
    let (first, second) = (Sniffer::start(&lab.wan)?, Sniffer::start(&two.router)?);
    for address in [HOST, SECOND] {
        for proto in ["udp", "tcp"] {
            let who = eventually(SOON, || {
                seen(&two.far, proto, at(address, PUBLIC))?
                    .with_context(|| format!("{proto} at {address}: no answer"))
            })?;
            // Nobody hides the client.
            ensure!(
                who == IpAddr::V4(FAR) || address == SECOND,
                "{proto}: {who}"
            );
        }
    }
    let (first, second) = (first.finish()?, second.finish()?);
    let from = |packets: &[Ipv4], address| packets.iter().filter(|p| p.source == address).count();
    ensure!(
        from(&first, SECOND) == 0,
        "the second address by the first uplink"
    );
    ensure!(
        from(&second, HOST) == 0,
        "the first address by the second uplink"
    );
    ensure!(
        from(&first, HOST) > 4 && from(&second, SECOND) > 4,
        "few packets"
    );
    Ok(())
}

fn answered(filter: &str) {
    published(filter, |lab, two, guests| {
        // By the second uplink the far host has another address, to which the host has no route there.
        asked_at_both(two, lab)?;
        // It comes from where the host's default route is, too.
        let route = "ip route replace 192.0.2.0/24 via 10.99.0.1 src 203.0.113.2";
        two.far.run(route.split(' '))?;
        asked_at_both(two, lab).context("a client that the host has by the first uplink")?;
        // With no way there at all but the one that the question took.
        lab.hv.run(["ip", "route", "del", "default"])?;
        lab.hv.run(["ip", "route", "del", "203.0.113.0/24"])?;
        for proto in ["udp", "tcp"] {
            eventually(SOON, || {
                let who = seen(&two.far, proto, at(SECOND, PUBLIC))?;
                ensure!(who == Some(IpAddr::V4(FAR)), "{proto}: {who:?}");
                Ok(())
            })?;
        }
        lab.hv
            .run("ip route add default via 198.51.100.1".split(' '))?;
        // Guests ask at any address of the host's.
        for guest in guests {
            for address in [HOST, SECOND] {
                for proto in ["udp", "tcp"] {
                    eventually(SOON, || {
                        let who = seen(guest.netns(), proto, at(address, PUBLIC))?;
                        who.with_context(|| format!("{} {proto} at {address}", guest.hostname))
                    })?;
                }
            }
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p55_answers_go_back_by_the_uplink_of_their_question() {
    answered("0");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p55_answers_go_back_where_the_way_back_is_filtered_by() {
    answered("1");
}

/// A client whose packets come by another uplink from now on is answered there.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn p55_answers_follow_a_client_that_comes_by_another_uplink() {
    published("0", |lab, two, _| {
        let client = two.far.udp((FAR, 0))?;
        let mut asked = 0_u64;
        // Is the answer seen at the second uplink's router, too?
        let mut by_second = |patience: Duration| -> Result<bool> {
            asked += 1;
            client.set_read_timeout(Some(patience))?;
            let router = Sniffer::start(&two.router)?;
            client.send_to(&asked.to_be_bytes(), at(SECOND, PUBLIC))?;
            // Those of earlier questions may have taken another way.
            let mut answer = [0; 8];
            while answer != asked.to_be_bytes() {
                let (_, from) = client.receive_from(&mut answer).context("no answer")?;
                let expected: SocketAddr = at(SECOND, PUBLIC).into();
                ensure!(from == expected, "{from} answers");
            }
            let packets = router.finish()?;
            let mut answers = packets.iter().filter(|packet| packet.source == SECOND);
            Ok(answers.any(|packet| packet.payload.ends_with(&answer)))
        };
        let moment = Duration::from_millis(300);
        eventually(SOON, || by_second(moment))?;
        ensure!(by_second(SOON)?, "not by the second uplink");
        // The address of the second uplink is reached by the first one.
        lab.wan
            .run("ip route add 192.0.2.0/24 via 198.51.100.2".split(' '))?;
        two.far
            .run("ip route replace 192.0.2.0/24 via 203.0.113.1".split(' '))?;
        lab.hv
            .run(["ip", "link", "set", "uplink2", "mtu", "1400"])?;
        eventually(SOON, || {
            ensure!(!by_second(moment)?, "still answered by the second uplink");
            Ok(())
        })
    });
}
