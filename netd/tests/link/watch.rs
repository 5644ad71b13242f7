//! What the watch tells of changes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netd::link::{Change, Links, Moves, NetlinkMonitor};

use crate::{MAC, SOON, in_namespace, ip, is_up, sh, until};

/// All changes that are there now.
async fn drain(watch: &mut NetlinkMonitor) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Ok(change) = tokio::time::timeout(Duration::from_millis(100), watch.next()).await {
        changes.push(change);
        assert!(changes.len() < 100, "no end of changes");
    }
    changes
}

fn kinds(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| format!("{change:?}")).collect()
}

/// The kinds of all changes until nothing is told any more, `expected` ones among them: some the kernel tells in
/// its own time.
async fn all_kinds(watch: &mut NetlinkMonitor, expected: &BTreeSet<String>) -> BTreeSet<String> {
    let start = Instant::now();
    let mut seen = BTreeSet::new();
    loop {
        seen.extend(kinds(&drain(watch).await));
        if seen.is_superset(expected) || start.elapsed() > SOON {
            return seen;
        }
    }
}

/// A device gets no address of its own, which it would begin to use a second or two after it was switched on.
fn without_address(device: &str) {
    ip(&format!("link set {device} addrgenmode none"));
}

#[test]
fn a_burst_is_one_change_of_each_kind() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let bridge = links.create_bridge("br0", MAC, None).await.unwrap();
        without_address("br0");
        links.set_up(bridge, true).await.unwrap();
        let mut watch = NetlinkMonitor::new().unwrap();
        assert!(drain(&mut watch).await.is_empty(), "nothing happened yet");
        for number in 0..1_000u16 {
            let [high, low] = number.to_be_bytes();
            links
                .add_address(bridge, IpAddr::from([10, high, low, 1]), 30)
                .await
                .unwrap();
        }
        assert_eq!(kinds(&drain(&mut watch).await), ["Links", "Routes"]);
        // And it goes on afterwards.
        links.set_mtu(bridge, 1400).await.unwrap();
        assert_eq!(kinds(&drain(&mut watch).await), ["Links", "Routes"]);
    });
}

#[test]
fn changes_are_told_apart() {
    in_namespace(|| async {
        ip("link add p0 type veth peer name g0");
        for device in ["p0", "g0"] {
            without_address(device);
            ip(&format!("link set {device} up"));
        }
        for device in ["p0", "g0"] {
            until("the cable carries", SOON, async || is_up(device)).await;
        }
        ip("addr add 10.9.0.1/24 dev p0");
        let mut watch = NetlinkMonitor::new().unwrap();
        assert!(drain(&mut watch).await.is_empty(), "nothing happened yet");
        for (command, expected) in [
            ("ip link set g0 mtu 1400", "Links Routes"),
            ("ip link set g0 alias guest", "Links"),
            (
                "ip addr add 10.9.0.2/24 dev g0 noprefixroute",
                "Links Routes",
            ),
            (
                "ip -6 addr add fd00::5/128 dev p0 nodad noprefixroute",
                "Links Routes",
            ),
            ("ip -6 route add fd01::/64 dev p0", "Routes"),
            ("ip route add 10.10.0.0/16 via 10.9.0.9", "Routes"),
            (
                "ip neigh add 10.9.0.9 lladdr 52:54:00:00:00:09 dev p0 nud stale",
                "Routes",
            ),
            (
                "ip neigh change 10.9.0.9 lladdr 52:54:00:00:00:09 dev p0 nud reachable",
                "",
            ),
            (
                "ip neigh change 10.9.0.9 lladdr 52:54:00:00:00:0a dev p0 nud reachable",
                "Routes",
            ),
            ("ip neigh del 10.9.0.9 dev p0", "Routes"),
            ("ip link del p0", "Links Routes"),
        ] {
            sh(command);
            let expected = expected.split_whitespace().map(str::to_owned).collect();
            assert_eq!(
                all_kinds(&mut watch, &expected).await,
                expected,
                "{command}"
            );
        }
    });
}

#[test]
fn what_a_bridge_learns_is_where_a_guest_is() {
    in_namespace(|| async {
        ip("link add br0 type bridge");
        for (port, card) in [("p0", "g0"), ("p1", "g1")] {
            ip(&format!("link add {port} type veth peer name {card}"));
            ip(&format!("link set {port} master br0"));
        }
        let links = Links::connect().unwrap().snapshot().await.unwrap();
        let index = |name| links.by_name(name).unwrap().index;
        let mut watch = NetlinkMonitor::new().unwrap();
        drain(&mut watch).await;
        let guest = [0x52, 0x54, 0, 0, 0, 1];
        for (command, port) in [
            ("add 52:54:00:00:00:01 dev p0 master static", Some("p0")),
            // The same once more is no move.
            ("replace 52:54:00:00:00:01 dev p0 master static", None),
            ("replace 52:54:00:00:00:01 dev p1 master static", Some("p1")),
            ("del 52:54:00:00:00:01 dev p1 master", None),
            // An address of the bridge's own is no guest's.
            ("add 52:54:00:00:00:02 dev p1 master permanent", None),
        ] {
            sh(&format!("bridge fdb {command}"));
            let changes = drain(&mut watch).await;
            let expected = port.map(|port| Moves::from([((index("br0"), guest), index(port))]));
            match (&changes[..], expected) {
                ([], None) => {}
                ([Change::Moved(moves)], Some(expected)) => assert_eq!(*moves, expected),
                (_, expected) => panic!("{command}: {changes:?}, not {expected:?}"),
            }
        }
    });
}

#[test]
fn an_overrun_is_reported_once_and_the_watch_goes_on() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let bridge = links.create_bridge("br0", MAC, None).await.unwrap();
        let mut watch = NetlinkMonitor::with_receive_buffer(8 << 10).unwrap();
        for number in 0..500u16 {
            let [high, low] = number.to_be_bytes();
            links
                .add_address(bridge, IpAddr::from([10, high, low, 1]), 30)
                .await
                .unwrap();
        }
        assert_eq!(kinds(&drain(&mut watch).await), ["Overrun"]);
        links.set_mtu(bridge, 1400).await.unwrap();
        assert_eq!(kinds(&drain(&mut watch).await), ["Links", "Routes"]);
    });
}

#[test]
fn a_waiting_watch_wakes_up() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let mut watch = NetlinkMonitor::new().unwrap();
        let change = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            links.create_bridge("br0", MAC, None).await.unwrap()
        };
        let both = async { tokio::join!(watch.next(), change) };
        let (change, _) = tokio::time::timeout(SOON, both)
            .await
            .expect("no word of a new device");
        assert!(matches!(change, Change::Links), "{change:?}");
    });
}
