//! The link module against a real kernel, each test in a network namespace of its own.
//!
//! Needs root, iproute2, nsenter and ping; without root every test says that it was skipped.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netd::link::{
    BridgeAttrs, Change, InUse, Link, LinkError, Links, NetlinkMonitor, Scope, Snapshot,
    port_state, routes_at_risk, subnet_in_use, sysctl,
};
use netd::model::{Family, Mac};

const MAC: Mac = Mac([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

/// Runs a test body on a thread that has a network namespace to itself. Commands it starts are in
/// that namespace too.
fn in_namespace<F, Fut>(body: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: a network namespace is no memory, and file descriptors stay shared.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("unshare the network namespace");
        ip("link set lo up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(body());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(command: &str) -> std::process::Output {
    let mut words = command.split_whitespace();
    Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"))
}

fn sh(command: &str) {
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {stderr}");
}

fn ip(arguments: &str) {
    sh(&format!("ip {arguments}"));
}

/// A second namespace, with a device moved into it as `eth0`.
struct Guest(Child);

impl Guest {
    fn new(device: &str, address: &str) -> Self {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo; exec sleep 300"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let guest = Self(child);
        ip(&format!("link set {device} netns {}", guest.0.id()));
        guest.run(&format!("ip link set {device} name eth0"));
        guest.run(&format!("ip addr add {address} dev eth0"));
        guest.run("ip link set eth0 up");
        guest
    }

    fn command(&self, command: &str) -> String {
        format!("nsenter -t {} -n {command}", self.0.id())
    }

    fn run(&self, command: &str) {
        sh(&self.command(command));
    }

    fn pings(&self, address: &str) -> bool {
        run(&self.command(&format!("ping -n -q -c 1 -W 1 {address}")))
            .status
            .success()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn find<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Link {
    snapshot
        .by_name(name)
        .unwrap_or_else(|| panic!("no {name} in {snapshot:#?}"))
}

async fn state_of(links: &Links, name: &str) -> u8 {
    let snapshot = links.snapshot().await.unwrap();
    find(&snapshot, name).port_state.unwrap()
}

/// Waits for something the kernel does in its own time.
async fn until<F: AsyncFnMut() -> bool>(what: &str, limit: Duration, mut condition: F) -> Duration {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

#[test]
fn a_snapshot_shows_devices_addresses_and_routes() {
    in_namespace(|| async {
        ip("link add br0 address 52:54:00:aa:bb:cc type bridge stp_state 1 forward_delay 400");
        ip("link set br0 mtu 1400");
        ip("link add p0 type veth peer name g0");
        ip("link set p0 master br0");
        ip("tuntap add dev tap0 mode tap");
        ip("tuntap add dev tun0 mode tun");
        for device in ["br0", "p0", "g0", "tun0"] {
            ip(&format!("link set {device} up"));
        }
        ip("addr add 10.9.0.1/24 dev br0");
        ip("addr add 10.9.0.2/24 dev br0");
        ip("addr add 10.8.0.1 peer 10.8.0.2/32 dev tun0");
        ip("-6 addr add fd00::1/64 dev br0 nodad");
        ip("route add 172.16.0.0/12 via 10.9.0.9");
        ip("route add 10.66.0.0/16 dev br0 table 1000");
        ip("route add 10.67.0.0/16 nexthop via 10.9.0.8 dev br0 nexthop via 10.8.0.2 dev tun0");
        ip("route add blackhole 10.68.0.0/16");
        ip("-6 route add 2001:db8:1::/48 via fd00::9");
        ip("-6 route add 2001:db8:2::/48 dev br0 table 1000");
        ip("-6 route add 2001:db8:3::/48 nexthop via fd00::8 dev br0 nexthop via fd00::7 dev br0");
        ip("-6 route add blackhole 2001:db8:4::/48");
        ip("-6 route add default via fd00::6 proto ra");

        let links = Links::connect().unwrap();
        let snapshot = links.snapshot().await.unwrap();

        let bridge = find(&snapshot, "br0");
        assert_eq!(bridge.mac, Some(Mac([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc])));
        assert_eq!(bridge.mtu, 1400);
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        let expected = BridgeAttrs {
            stp: true,
            forward_delay_ms: 4_000,
        };
        assert_eq!(bridge.bridge, Some(expected));
        assert!(bridge.up && bridge.ether && !bridge.loopback);
        assert_eq!((bridge.controller, bridge.port_state), (None, None));

        let port = find(&snapshot, "p0");
        assert_eq!(port.kind.as_deref(), Some("veth"));
        assert_eq!(port.controller, Some(bridge.index));
        assert_eq!(port.port_state, Some(port_state::LISTENING));
        let ports: Vec<_> = snapshot.ports_of(bridge.index).collect();
        assert_eq!(ports, [port]);

        assert!(find(&snapshot, "lo").loopback && !find(&snapshot, "lo").ether);
        let (tap, tun) = (find(&snapshot, "tap0"), find(&snapshot, "tun0"));
        assert_eq!(
            (tap.kind.as_deref(), tap.ether, tap.up),
            (Some("tun"), true, false)
        );
        assert_eq!(
            (tun.kind.as_deref(), tun.ether, tun.mac),
            (Some("tun"), false, None)
        );

        let on_bridge: Vec<_> = snapshot
            .addresses_of(bridge.index)
            .filter(|address| address.scope == Scope::Global)
            .map(|address| (address.address.to_string(), address.prefix, address.primary))
            .collect();
        assert_eq!(on_bridge.len(), 3, "{on_bridge:?}");
        for expected in [
            ("10.9.0.1".to_owned(), 24, true),
            ("10.9.0.2".to_owned(), 24, false),
            ("fd00::1".to_owned(), 64, true),
        ] {
            assert!(on_bridge.contains(&expected), "{on_bridge:?}");
        }
        let ours: Vec<_> = snapshot
            .addresses_of(tun.index)
            .map(|address| address.address)
            .filter(IpAddr::is_ipv4)
            .collect();
        assert_eq!(
            ours,
            [IpAddr::from([10, 8, 0, 1])],
            "the host's end, not the peer's"
        );
        let loopback = snapshot
            .addresses
            .iter()
            .find(|address| address.address == IpAddr::from([127, 0, 0, 1]))
            .unwrap();
        assert_eq!(loopback.scope, Scope::Host);

        let routes: BTreeSet<_> = snapshot
            .routes
            .iter()
            // Every device has routes for its own link.
            .filter(|route| !route.destination.0.to_string().starts_with("fe80:"))
            .map(|route| {
                let device = route
                    .index
                    .map(|index| snapshot.links[&index].name.as_str());
                let (to, prefix) = route.destination;
                let via = route.gateway.map(|via| via.to_string()).unwrap_or_default();
                let advertised = if route.advertised { " advertised" } else { "" };
                format!(
                    "{to}/{prefix} {} via {via:?} table {}{advertised}",
                    device.unwrap_or("-"),
                    route.table
                )
            })
            .collect();
        let expected: BTreeSet<_> = [
            "10.9.0.0/24 br0 via \"\" table 254",
            "10.8.0.2/32 tun0 via \"\" table 254",
            "172.16.0.0/12 br0 via \"10.9.0.9\" table 254",
            "10.66.0.0/16 br0 via \"\" table 1000",
            "10.67.0.0/16 br0 via \"10.9.0.8\" table 254",
            "10.67.0.0/16 tun0 via \"10.8.0.2\" table 254",
            "fd00::/64 br0 via \"\" table 254",
            "2001:db8:1::/48 br0 via \"fd00::9\" table 254",
            "2001:db8:2::/48 br0 via \"\" table 1000",
            "2001:db8:3::/48 br0 via \"fd00::8\" table 254",
            "2001:db8:3::/48 br0 via \"fd00::7\" table 254",
            "::/0 br0 via \"fd00::6\" table 254 advertised",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(routes, expected);

        let used = subnet_in_use((IpAddr::from([10, 66, 5, 0]), 24), None, &snapshot);
        let expected = InUse {
            interface: "br0".to_owned(),
            subnet: (IpAddr::from([10, 66, 0, 0]), 16),
        };
        assert_eq!(used, Some(expected), "other tables count");
        let used = subnet_in_use((IpAddr::from([10, 9, 0, 0]), 16), Some("br0"), &snapshot);
        assert_eq!(used, None, "{used:?}");
    });
}

#[test]
fn a_bridge_is_made_changed_and_deleted() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let index = links.create_bridge("br0", MAC, Some(1400)).await.unwrap();
        let snapshot = links.snapshot().await.unwrap();
        let bridge = find(&snapshot, "br0");
        assert_eq!(
            (bridge.index, bridge.mac, bridge.mtu),
            (index, Some(MAC), 1400)
        );
        assert!(!bridge.up, "addresses come before it is switched on");
        assert_eq!(bridge.bridge.map(|attrs| attrs.stp), Some(false));

        // An MTU that was asked for stays, whatever ports come.
        for (mtu, port) in [(1300, "a"), (9000, "b")] {
            ip(&format!(
                "link add name {port} mtu {mtu} type veth peer name {port}-end"
            ));
            ip(&format!("link set dev {port} master br0"));
        }
        let other = Mac([0x52, 0x54, 0, 1, 2, 3]);
        links.set_mac(index, other).await.unwrap();
        let bridge = find(&links.snapshot().await.unwrap(), "br0").clone();
        assert_eq!((bridge.mtu, bridge.mac), (1400, Some(other)));
        links.set_mtu(index, 1280).await.unwrap();

        // Every order of settings works, from and to STP.
        for (stp, delay, effective) in [
            (true, 0, 2_000),
            (true, 4_000, 4_000),
            (true, 0, 2_000),
            (false, 0, 0),
            (false, 500, 500),
            (true, 60_000, 30_000),
            (false, 15_000, 15_000),
        ] {
            links.set_bridge(index, stp, delay).await.unwrap();
            let expected = BridgeAttrs {
                stp,
                forward_delay_ms: effective,
            };
            let bridge = find(&links.snapshot().await.unwrap(), "br0").clone();
            assert_eq!(bridge.bridge, Some(expected), "{stp} {delay}");
            assert_eq!(netd::link::effective_delay_ms(stp, delay), effective);
        }

        links.set_up(index, true).await.unwrap();
        assert!(find(&links.snapshot().await.unwrap(), "br0").up);
        links.set_up(index, false).await.unwrap();
        assert!(!find(&links.snapshot().await.unwrap(), "br0").up);

        let port = find(&links.snapshot().await.unwrap(), "a").index;
        links.set_controller(port, None).await.unwrap();
        let names = |snapshot: &Snapshot| -> Vec<String> {
            snapshot
                .ports_of(index)
                .map(|port| port.name.clone())
                .collect()
        };
        assert_eq!(names(&links.snapshot().await.unwrap()), ["b"]);
        links.set_controller(port, Some(index)).await.unwrap();
        assert_eq!(names(&links.snapshot().await.unwrap()), ["a", "b"]);

        links.delete(index).await.unwrap();
        assert_eq!(links.snapshot().await.unwrap().by_name("br0"), None);
    });
}

#[test]
fn addresses_come_and_go_with_their_broadcast() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let index = links.create_bridge("br0", MAC, None).await.unwrap();
        links.set_up(index, true).await.unwrap();
        let four = IpAddr::from([192, 168, 122, 1]);
        let six: IpAddr = "fd12::1".parse().unwrap();
        links.add_address(index, four, 24).await.unwrap();
        links.add_address(index, six, 64).await.unwrap();
        links
            .add_address(index, IpAddr::from([10, 0, 0, 1]), 31)
            .await
            .unwrap();

        let shown = String::from_utf8(run("ip -o addr show dev br0").stdout).unwrap();
        assert!(
            shown.contains("192.168.122.1/24 brd 192.168.122.255 scope global br0"),
            "{shown}"
        );
        // Not tentative, although a bridge without ports could ask nobody.
        assert!(shown.contains("fd12::1/64 scope global nodad"), "{shown}");
        assert!(shown.contains("10.0.0.1/31 scope global br0"), "{shown}");

        let again = links
            .add_address(index, four, 24)
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            again,
            "cannot add address 192.168.122.1/24 to br0: File exists (os error 17)"
        );

        links.del_address(index, four, 24).await.unwrap();
        links.del_address(index, six, 64).await.unwrap();
        let left: Vec<_> = links
            .snapshot()
            .await
            .unwrap()
            .addresses_of(index)
            .filter(|address| address.scope == Scope::Global)
            .map(|address| address.address)
            .collect();
        assert_eq!(left, [IpAddr::from([10, 0, 0, 1])]);
        let gone = links.del_address(index, four, 24).await.unwrap_err();
        assert!(
            gone.to_string()
                .starts_with("cannot remove address 192.168.122.1/24 from br0: "),
            "{gone}"
        );
    });
}

#[test]
fn errors_name_operation_device_and_reason() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        ip("link add taken type ifb");
        let error = links.create_bridge("taken", MAC, None).await.unwrap_err();
        assert!(
            matches!(&error, LinkError::Exists(name) if name == "taken"),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.starts_with("cannot create bridge taken: a network device of that name"),
            "{text}"
        );

        let error = links.create_bridge("virbr%d", MAC, None).await.unwrap_err();
        assert!(matches!(error, LinkError::InvalidName(..)), "{error:?}");

        let multicast = Mac([1, 0, 0, 0, 0, 0]);
        let error = links
            .create_bridge("br1", multicast, None)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cannot create bridge br1: "), "{text}");

        // Half a creation leaves nothing behind.
        let error = links.create_bridge("br2", MAC, Some(9)).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cannot set MTU 9 on br2: "), "{text}");
        assert_eq!(links.snapshot().await.unwrap().by_name("br2"), None);

        ip("link add p0 type veth peer name g0");
        let dummy = find(&links.snapshot().await.unwrap(), "taken").index;
        let port = find(&links.snapshot().await.unwrap(), "p0").index;
        let error = links.set_controller(port, Some(dummy)).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("cannot add to taken the port p0: "),
            "{text}"
        );

        let missing = 4_000_000;
        let error = links.set_up(missing, true).await.unwrap_err();
        assert!(error.is_gone());
        assert_eq!(
            error.to_string(),
            "cannot bring up device number 4000000: No such device (os error 19)"
        );
        for error in [
            links.delete(missing).await.unwrap_err(),
            links.set_mtu(missing, 1500).await.unwrap_err(),
            links.set_mac(missing, MAC).await.unwrap_err(),
            links
                .add_address(missing, IpAddr::from([10, 0, 0, 1]), 8)
                .await
                .unwrap_err(),
            links.forward_ports_now(missing, &[1]).await.unwrap_err(),
        ] {
            assert!(error.is_gone(), "{error}");
            assert!(
                error.to_string().contains("device number 4000000"),
                "{error}"
            );
        }
    });
}

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
        ip("link set g0 up");
        let waited = until("forwarding", Duration::from_secs(10), async || {
            state_of(&links, "p0").await == port_state::FORWARDING
        })
        .await;
        assert!(waited > Duration::from_secs(3), "{waited:?}");

        // No short way round STP.
        ip("link set p0 down");
        ip("link set p0 up");
        until("listening", Duration::from_secs(2), async || {
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

#[test]
fn edge_ports_forward_at_once_and_stp_stays_on() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let bridge = links.create_bridge("br0", MAC, None).await.unwrap();
        links.set_bridge(bridge, true, 0).await.unwrap();
        links
            .add_address(bridge, IpAddr::from([10, 9, 0, 1]), 24)
            .await
            .unwrap();
        links.set_up(bridge, true).await.unwrap();
        ip("link add p0 type veth peer name g0");
        ip("link add p1 type veth peer name g1");
        let guests = [
            Guest::new("g0", "10.9.0.2/24"),
            Guest::new("g1", "10.9.0.3/24"),
        ];
        let mut watch = NetlinkMonitor::new().unwrap();
        for port in ["p0", "p1"] {
            ip(&format!("link set dev {port} master br0"));
            ip(&format!("link set {port} up"));
        }
        until("both listen", Duration::from_secs(2), async || {
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

        let snapshot = links.snapshot().await.unwrap();
        let start = Instant::now();
        links
            .forward_ports_now(bridge, &snapshot.edge_ports(bridge))
            .await
            .unwrap();
        let switched = start.elapsed();
        for port in ["p0", "p1"] {
            assert_eq!(state_of(&links, port).await, port_state::FORWARDING);
        }
        // By the guest that has not asked in vain yet: an ARP question is repeated only after 1 s.
        assert!(guests[1].pings("10.9.0.1"));
        assert!(guests[1].pings("10.9.0.2"));
        let pinged = start.elapsed();
        eprintln!("switched in {switched:?}, two pings done after {pinged:?}");
        assert!(pinged < Duration::from_millis(1_500), "{pinged:?}");

        let snapshot = links.snapshot().await.unwrap();
        let expected = BridgeAttrs {
            stp: true,
            forward_delay_ms: 2_000,
        };
        assert_eq!(find(&snapshot, "br0").bridge, Some(expected));
        assert!(snapshot.edge_ports(bridge).is_empty());

        // It stays so when the timers of the interrupted wait run out.
        tokio::time::sleep(Duration::from_millis(4_500)).await;
        for port in ["p0", "p1"] {
            assert_eq!(state_of(&links, port).await, port_state::FORWARDING);
        }

        // A port that went away meanwhile does not keep the others waiting, nor STP off.
        ip("link set p1 down");
        ip("link set p1 up");
        until("p1 listens", Duration::from_secs(2), async || {
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
        links.set_bridge(bridge, false, 4_000).await.unwrap();
        links.set_up(bridge, true).await.unwrap();
        ip("link add p0 type veth peer name g0");
        ip("link set p0 master br0");
        ip("link set p0 up");
        ip("link set g0 up");
        // Without STP there is no wait, whatever the delay.
        until("p0 forwards", Duration::from_millis(500), async || {
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

#[test]
fn a_loop_between_edge_ports_is_still_broken() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let mut bridges = Vec::new();
        for (name, last) in [("br0", 1), ("br1", 2)] {
            let mac = Mac([0x52, 0x54, 0, 0, 0, last]);
            let bridge = links.create_bridge(name, mac, None).await.unwrap();
            links.set_bridge(bridge, true, 0).await.unwrap();
            links.set_up(bridge, true).await.unwrap();
            bridges.push(bridge);
        }
        for pair in ["a", "b"] {
            ip(&format!("link add {pair}0 type veth peer name {pair}1"));
            for end in [0, 1] {
                ip(&format!("link set {pair}{end} master br{end}"));
                ip(&format!("link set {pair}{end} up"));
            }
        }
        for &bridge in &bridges {
            until("two ports listen", Duration::from_secs(2), async || {
                links.snapshot().await.unwrap().edge_ports(bridge).len() == 2
            })
            .await;
        }
        let snapshot = links.snapshot().await.unwrap();
        for &bridge in &bridges {
            links
                .forward_ports_now(bridge, &snapshot.edge_ports(bridge))
                .await
                .unwrap();
        }
        let forwarding = links.snapshot().await.unwrap();
        let now = forwarding
            .links
            .values()
            .filter(|link| link.port_state == Some(port_state::FORWARDING))
            .count();
        assert_eq!(now, 4, "the loop is closed: {forwarding:#?}");

        let broken = until("a port is blocked", Duration::from_secs(20), async || {
            !blocked(&links.snapshot().await.unwrap()).is_empty()
        })
        .await;
        let snapshot = links.snapshot().await.unwrap();
        eprintln!("{:?} blocked after {broken:?}", blocked(&snapshot));
        assert_eq!(blocked(&snapshot).len(), 1, "{snapshot:#?}");

        // Nothing goes round any more.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = received("a0");
        tokio::time::sleep(Duration::from_millis(500)).await;
        let frames = received("a0") - before;
        eprintln!("{before} frames on one link while the loop was closed, then {frames}");
        assert!(frames < 50, "{frames} frames in half a second");

        // While it is blocked nobody is hurried, and hurrying a guest by force opens nothing.
        let shut = blocked(&snapshot);
        let bridge = find(&snapshot, &shut[0]).controller.unwrap();
        let name = snapshot.links[&bridge].name.clone();
        ip("link add guest type veth peer name guest-end");
        ip(&format!("link set guest master {name}"));
        ip("link set guest up");
        ip("link set guest-end up");
        until(
            "the guest's port listens",
            Duration::from_secs(2),
            async || state_of(&links, "guest").await == port_state::LISTENING,
        )
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

#[test]
fn a_burst_is_one_change_of_each_kind() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let bridge = links.create_bridge("br0", MAC, None).await.unwrap();
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
        assert_eq!(kinds(&drain(&mut watch).await), ["Links"]);
    });
}

#[test]
fn changes_are_told_apart() {
    in_namespace(|| async {
        ip("link add p0 type veth peer name g0");
        ip("link set p0 up");
        ip("link set g0 up");
        ip("addr add 10.9.0.1/24 dev p0");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut watch = NetlinkMonitor::new().unwrap();
        drain(&mut watch).await;
        for (command, expected) in [
            ("ip link set g0 mtu 1400", "Links"),
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
            assert_eq!(
                kinds(&drain(&mut watch).await).join(" "),
                expected,
                "{command}"
            );
        }
    });
}

#[test]
fn what_a_bridge_learns_is_no_neighbour() {
    in_namespace(|| async {
        ip("link add br0 type bridge");
        ip("link add p0 type veth peer name g0");
        ip("link set p0 master br0");
        let mut watch = NetlinkMonitor::new().unwrap();
        drain(&mut watch).await;
        sh("bridge fdb add 52:54:00:00:00:01 dev p0 master static");
        assert!(drain(&mut watch).await.is_empty());
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
        assert_eq!(kinds(&drain(&mut watch).await), ["Links"]);
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
        let (change, _) = tokio::time::timeout(Duration::from_secs(5), both)
            .await
            .expect("no word of a new device");
        assert!(matches!(change, Change::Links), "{change:?}");
    });
}

#[test]
fn sysctls_are_those_of_the_threads_namespace() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let outside = std::fs::read_to_string("/proc/1/net/dev").unwrap();
        assert!(
            !outside.contains("br.0"),
            "the test's own device exists outside"
        );
        links.create_bridge("br.0", MAC, None).await.unwrap();

        assert_eq!(sysctl::accept_ra("br9").unwrap(), None);
        sysctl::set_accept_ra("br.0", 2).unwrap();
        assert_eq!(sysctl::accept_ra("br.0").unwrap(), Some(2));

        assert!(sysctl::has_ipv6().unwrap());
        for family in [Family::Ipv4, Family::Ipv6] {
            for on in [true, false] {
                sysctl::set_forwarding(family, on).unwrap();
                assert_eq!(sysctl::forwarding(family).unwrap(), on, "{family}");
            }
        }

        for value in ["1", "0"] {
            let on = value == "1";
            assert!(sysctl::set_disable_ipv6("br.0", on).unwrap());
            assert!(sysctl::set_accept_ra("br.0", u8::from(on)).unwrap());
            assert!(sysctl::set_autoconf("br.0", on).unwrap());
            for key in ["disable_ipv6", "accept_ra", "autoconf"] {
                assert_eq!(
                    sysctl::read(&["ipv6", "conf", "br.0", key]).unwrap(),
                    value,
                    "{key}"
                );
            }
        }

        let error = sysctl::set_accept_ra("br9", 0).unwrap_err().to_string();
        assert!(
            error.contains(
                "cannot write '0' to /proc/sys/net/ipv6/conf/br9/accept_ra: No such file"
            ),
            "{error}"
        );
        let error = sysctl::write(&["ipv4", "ip_forward"], "many")
            .unwrap_err()
            .to_string();
        assert!(
            error
                .contains("cannot write 'many' to /proc/sys/net/ipv4/ip_forward: Invalid argument"),
            "{error}"
        );
    });
}

#[test]
fn advertised_routes_are_at_risk_until_accept_ra_is_2() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        ip("link add eth7 type veth peer name g0");
        ip("link set g0 up");
        ip("link set eth7 up");
        sysctl::set_accept_ra("eth7", 1).unwrap();
        ip("-6 route add 2001:db8::/32 dev eth7");
        let snapshot = links.snapshot().await.unwrap();
        assert_eq!(
            routes_at_risk(&snapshot).unwrap(),
            None,
            "static routes stay"
        );
        ip("-6 route add default dev eth7 proto ra");
        let snapshot = links.snapshot().await.unwrap();
        let text = routes_at_risk(&snapshot).unwrap().unwrap().to_string();
        assert!(text.contains("interface eth7 got IPv6 routes"), "{text}");
        for safe in [0, 2] {
            sysctl::set_accept_ra("eth7", safe).unwrap();
            assert_eq!(routes_at_risk(&snapshot).unwrap(), None, "accept_ra={safe}");
        }
    });
}

#[test]
fn a_long_list_is_complete() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let bridge = links.create_bridge("br0", MAC, None).await.unwrap();
        let batch: String = (0..300)
            .map(|n| format!("link add name p{n} master br0 type veth peer name g{n}\n"))
            .collect();
        let mut child = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), batch.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let start = Instant::now();
        let snapshot = links.snapshot().await.unwrap();
        eprintln!("{} devices in {:?}", snapshot.links.len(), start.elapsed());
        assert_eq!(snapshot.ports_of(bridge).count(), 300);
        assert!((0..300).all(|n| snapshot.by_name(&format!("g{n}")).is_some()));
    });
}
