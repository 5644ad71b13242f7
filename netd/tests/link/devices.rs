//! What devices, addresses and routes there are, and changing them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Instant;

use netd::link::{
    BridgeAttrs, Holding, InUse, LinkError, Links, Scope, Snapshot, port_state, subnet_in_use,
};
use netd::model::Mac;

use crate::{MAC, SOON, find, in_namespace, ip, run, state_of, until};

/// A host with a bit of everything.
fn make_devices_and_routes() {
    ip("link add br0 address 52:54:00:aa:bb:cc type bridge stp_state 1 forward_delay 3000");
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
}

#[test]
fn a_snapshot_shows_devices() {
    in_namespace(|| async {
        make_devices_and_routes();
        let links = Links::connect().unwrap();
        // The kernel tells a bridge in its own time that a port has a carrier.
        until("p0 listens", SOON, async || {
            state_of(&links, "p0").await == port_state::LISTENING
        })
        .await;
        let snapshot = links.snapshot().await.unwrap();

        let bridge = find(&snapshot, "br0");
        assert_eq!(bridge.mac, Some(Mac([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc])));
        assert_eq!(bridge.mtu, 1400);
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        let expected = BridgeAttrs {
            stp: true,
            forward_delay_ms: 30_000,
            ..BridgeAttrs::default()
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
    });
}

#[test]
fn a_snapshot_shows_addresses() {
    in_namespace(|| async {
        make_devices_and_routes();
        let snapshot = Links::connect().unwrap().snapshot().await.unwrap();
        let (bridge, tun) = (find(&snapshot, "br0"), find(&snapshot, "tun0"));

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
    });
}

#[test]
fn a_snapshot_shows_routes() {
    in_namespace(|| async {
        make_devices_and_routes();
        let snapshot = Links::connect().unwrap().snapshot().await.unwrap();

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
        assert_eq!(used, None, "other tables do not count");
        let used = subnet_in_use((IpAddr::from([10, 67, 5, 0]), 8), None, &snapshot);
        let expected = InUse {
            interface: "br0".to_owned(),
            holding: Holding::Subnet(IpAddr::from([10, 9, 0, 0]), 24),
        };
        assert_eq!(used, Some(expected));
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
                ..BridgeAttrs::default()
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
        // One that somebody else has taken away is away.
        links.del_address(index, four, 24).await.unwrap();
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
