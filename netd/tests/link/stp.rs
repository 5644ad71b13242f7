//! Ports of bridges with the spanning tree protocol: who waits, and who does not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netd::link::{BridgeAttrs, Change, Links, NetlinkMonitor, Snapshot, port_state};
use netd::model::Mac;

use crate::{Guest, MAC, SOON, find, in_namespace, ip, is_up, run, sh, state_of, until};

/// The delay of bridges whose ports are looked at while they wait. They do it for twice as long, which leaves
/// a busy machine the time to look.
const DELAY: Duration = Duration::from_secs(12);
const DELAY_MS: u32 = 12_000;

/// What `forward_ports_now` rests on: without it a port waits two forward delays.
#[test]
fn with_stp_the_kernel_makes_a_guest_wait() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let bridge = links.create_bridge("br0", MAC, None).await.unwrap();
        links.set_bridge(bridge, true, 0).await.unwrap();
        links.set_up(bridge, true).await.unwrap();
        ip("link add p0 type veth peer name g0");
        ip("link set p0 master br0");
        ip("link set p0 up");
        let before = Instant::now();
        ip("link set g0 up");
        until("forwarding", SOON, async || {
            state_of(&links, "p0").await == port_state::FORWARDING
        })
        .await;
        let waited = before.elapsed();
        assert!(waited > Duration::from_secs(3), "{waited:?}");

        // No short way round STP.
        links.set_bridge(bridge, true, DELAY_MS).await.unwrap();
        ip("link set p0 down");
        ip("link set p0 up");
        until("listening", SOON, async || {
            state_of(&links, "p0").await == port_state::LISTENING
        })
        .await;
        let output = run("bridge link set dev p0 state 3");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("busy"),
            "{output:?}"
        );
    });
}

/// A bridge with STP and an address, still switched off, and two devices that may become its ports.
async fn a_bridge_and_two_guests(links: &Links) -> u32 {
    let bridge = links.create_bridge("br0", MAC, None).await.unwrap();
    links.set_bridge(bridge, true, DELAY_MS).await.unwrap();
    links
        .add_address(bridge, IpAddr::from([10, 9, 0, 1]), 24)
        .await
        .unwrap();
    ip("link add p0 type veth peer name g0");
    ip("link add p1 type veth peer name g1");
    bridge
}

async fn both_forward(links: &Links) {
    for port in ["p0", "p1"] {
        assert_eq!(state_of(links, port).await, port_state::FORWARDING);
    }
}

#[test]
fn edge_ports_forward_at_once_and_stp_stays_on() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let bridge = a_bridge_and_two_guests(&links).await;
        let guests = [
            Guest::new("g0", "10.9.0.2/24"),
            Guest::new("g1", "10.9.0.3/24"),
        ];
        let mut watch = NetlinkMonitor::new().unwrap();
        for port in ["p0", "p1"] {
            ip(&format!("link set dev {port} master br0"));
            ip(&format!("link set {port} up"));
        }
        for port in ["p0", "p1"] {
            until("the cables carry", SOON, async || is_up(port)).await;
        }
        let begin = Instant::now();
        links.set_up(bridge, true).await.unwrap();
        until("both listen", SOON, async || {
            links.snapshot().await.unwrap().edge_ports(bridge).len() == 2
        })
        .await;
        assert!(
            !guests[0].pings("10.9.0.1"),
            "a listening port carries nothing"
        );
        while let Ok(change) = tokio::time::timeout(Duration::ZERO, watch.next()).await {
            assert!(
                matches!(change, Change::Links | Change::Routes),
                "{change:?}"
            );
        }

        let waiting = links.snapshot().await.unwrap().edge_ports(bridge);
        assert_eq!(waiting.len(), 2, "nor did one carry anything meanwhile");
        let start = Instant::now();
        links.forward_ports_now(bridge, &waiting).await.unwrap();
        eprintln!("switched in {:?}", start.elapsed());
        both_forward(&links).await;
        let since = begin.elapsed();
        assert!(since < 2 * DELAY, "{since:?}: they need not have waited");
        // The bridge has a carrier now, and begins to send when the kernel has noticed that.
        for to in ["10.9.0.1", "10.9.0.2"] {
            until(to, SOON, async || guests[1].pings(to)).await;
        }

        let snapshot = links.snapshot().await.unwrap();
        let expected = BridgeAttrs {
            stp: true,
            forward_delay_ms: DELAY_MS,
            ..BridgeAttrs::default()
        };
        assert_eq!(find(&snapshot, "br0").bridge, Some(expected));
        assert!(snapshot.edge_ports(bridge).is_empty());

        // It stays so when the timers of the interrupted wait run out.
        let over = begin + 2 * DELAY + Duration::from_millis(500);
        tokio::time::sleep_until(over.into()).await;
        both_forward(&links).await;

        // A port that went away meanwhile does not keep the others waiting, nor STP off.
        ip("link set p1 down");
        ip("link set p1 up");
        until("p1 listens", SOON, async || {
            state_of(&links, "p1").await == port_state::LISTENING
        })
        .await;
        let p1 = find(&snapshot, "p1").index;
        links
            .forward_ports_now(bridge, &[4_000_000, p1])
            .await
            .unwrap();
        let snapshot = links.snapshot().await.unwrap();
        assert_eq!(
            find(&snapshot, "p1").port_state,
            Some(port_state::FORWARDING)
        );
        assert_eq!(find(&snapshot, "br0").bridge, Some(expected));
    });
}

#[test]
fn without_stp_a_bridge_is_left_alone() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let bridge = links.create_bridge("br0", MAC, None).await.unwrap();
        links.set_bridge(bridge, false, 600_000).await.unwrap();
        links.set_up(bridge, true).await.unwrap();
        ip("link add p0 type veth peer name g0");
        ip("link set p0 master br0");
        ip("link set p0 up");
        ip("link set g0 up");
        // Without STP there is no wait, whatever the delay.
        until("p0 forwards", SOON, async || {
            state_of(&links, "p0").await == port_state::FORWARDING
        })
        .await;
        sh("bridge link set dev p0 state 2");
        let snapshot = links.snapshot().await.unwrap();
        assert!(snapshot.edge_ports(bridge).is_empty());
        let port = find(&snapshot, "p0").index;
        links.forward_ports_now(bridge, &[port]).await.unwrap();
        let snapshot = links.snapshot().await.unwrap();
        assert_eq!(
            find(&snapshot, "br0").bridge.map(|attrs| attrs.stp),
            Some(false)
        );
        assert_eq!(find(&snapshot, "p0").port_state, Some(port_state::LEARNING));
    });
}

/// Packets received by a device so far.
fn received(device: &str) -> u64 {
    let text = String::from_utf8(run(&format!("ip -s -o link show dev {device}")).stdout).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "RX:");
    words.find(|word| word.ends_with('\\')).unwrap();
    words.nth(1).unwrap().parse().unwrap()
}

fn blocked(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .links
        .values()
        .filter(|link| link.port_state == Some(port_state::BLOCKING))
        .map(|link| link.name.clone())
        .collect()
}

/// Bridges with STP.
const BRIDGES: [&str; 2] = ["br0", "br1"];

/// Two bridges with STP, joined by two cables: their ports wait, and know nothing of each other.
async fn two_bridges_in_a_loop(links: &Links) -> Vec<u32> {
    let mut bridges = Vec::new();
    for (name, last) in BRIDGES.into_iter().zip([1, 2]) {
        let mac = Mac([0x52, 0x54, 0, 0, 0, last]);
        let bridge = links.create_bridge(name, mac, None).await.unwrap();
        links.set_bridge(bridge, true, DELAY_MS).await.unwrap();
        // The first word of a bridge comes that long after it is switched on, in hundredths of a second.
        ip(&format!("link set {name} type bridge hello_time 1000"));
        bridges.push(bridge);
    }
    let ends = ["a0", "a1", "b0", "b1"];
    for pair in ["a", "b"] {
        ip(&format!("link add {pair}0 type veth peer name {pair}1"));
    }
    for end in ends {
        ip(&format!("link set {end} master br{}", &end[1..]));
        ip(&format!("link set {end} up"));
    }
    for end in ends {
        until("the cables carry", SOON, async || is_up(end)).await;
    }
    for &bridge in &bridges {
        links.set_up(bridge, true).await.unwrap();
    }
    bridges
}

#[test]
fn a_loop_between_edge_ports_is_still_broken() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let bridges = two_bridges_in_a_loop(&links).await;
        let snapshot = links.snapshot().await.unwrap();
        for &bridge in &bridges {
            let waiting = snapshot.edge_ports(bridge);
            assert_eq!(waiting.len(), 2, "{snapshot:#?}");
            links.forward_ports_now(bridge, &waiting).await.unwrap();
        }
        let forwarding = links.snapshot().await.unwrap();
        let now = forwarding
            .links
            .values()
            .filter(|link| link.port_state == Some(port_state::FORWARDING))
            .count();
        assert_eq!(now, 4, "the loop is closed: {forwarding:#?}");
        for bridge in BRIDGES {
            let attrs = find(&forwarding, bridge).bridge;
            assert!(attrs.is_some_and(|attrs| attrs.stp), "{bridge}");
        }
        // STP that is switched on starts to count anew: frames need not go round for ten seconds.
        for bridge in BRIDGES {
            ip(&format!("link set {bridge} type bridge hello_time 100"));
            for state in [0, 1] {
                ip(&format!("link set {bridge} type bridge stp_state {state}"));
            }
        }

        let broken = until("a port is blocked", SOON, async || {
            !blocked(&links.snapshot().await.unwrap()).is_empty()
        })
        .await;
        let snapshot = links.snapshot().await.unwrap();
        eprintln!("{:?} blocked after {broken:?}", blocked(&snapshot));
        assert_eq!(blocked(&snapshot).len(), 1, "{snapshot:#?}");

        // Nothing goes round any more.
        until("hardly a frame in half a second", SOON, async || {
            let before = received("a0");
            tokio::time::sleep(Duration::from_millis(500)).await;
            let frames = received("a0") - before;
            eprintln!("{before} frames on one link while the loop was closed, then {frames}");
            frames < 50
        })
        .await;

        // While it is blocked nobody is hurried, and hurrying a guest by force opens nothing.
        let shut = blocked(&snapshot);
        let bridge = find(&snapshot, &shut[0]).controller.unwrap();
        let name = snapshot.links[&bridge].name.clone();
        ip("link add guest type veth peer name guest-end");
        ip(&format!("link set guest master {name}"));
        ip("link set guest up");
        ip("link set guest-end up");
        until("the guest's port listens", SOON, async || {
            state_of(&links, "guest").await == port_state::LISTENING
        })
        .await;
        let snapshot = links.snapshot().await.unwrap();
        assert!(snapshot.edge_ports(bridge).is_empty());
        let guest = find(&snapshot, "guest").index;
        links.forward_ports_now(bridge, &[guest]).await.unwrap();
        let snapshot = links.snapshot().await.unwrap();
        assert_eq!(
            find(&snapshot, "guest").port_state,
            Some(port_state::FORWARDING)
        );
        assert_eq!(blocked(&snapshot), shut);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(blocked(&links.snapshot().await.unwrap()), shut);
    });
}
