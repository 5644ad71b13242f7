//! Desired state and plans over made-up hosts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use netd_common::abi::{DEVICE_ETHERNET, Mode};
use proptest::prelude::*;

mod convergence;
mod programs;
mod redefined;
mod services;
mod shapes;

use super::bridge::{find_bridge, make, open};
use super::desired::returning_ports;
use super::*;
use crate::config::Xdp;
use crate::datapath::records::Records;
use crate::datapath::{Attachment, Hook};
use crate::link::{Address, BridgeAttrs, Dump, Ipv6Conf, Link, Route, Scope, Snapshot};
use crate::model::{self, Mac, Network, NetworkPorts};

const UPLINK: u32 = 2;
const BRIDGE: u32 = 5;
const TAP: u32 = 6;

fn network(forward: &str) -> Network {
    let xml = format!(
        "<network><name>n</name><uuid>11111111-2222-3333-4444-555555555555</uuid>{forward}\
         <bridge name='br' stp='on' delay='0'/><mac address='52:54:00:00:00:01'/>\
         <ip address='10.0.0.1' netmask='255.255.255.0'/></network>"
    );
    model::parse(&xml).unwrap()
}

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        ether: true,
        up: true,
        mtu: 1500,
        mac: Some(Mac([2, 0, 0, 0, 0, index as u8])),
        ..Link::default()
    }
}

fn address(index: u32, address: [u8; 4], prefix: u8) -> Address {
    Address {
        index,
        address: IpAddr::from(address),
        prefix,
        primary: true,
        scope: Scope::Global,
    }
}

/// No client has made any.
static NO_PORTS: LazyLock<NetworkPorts> = LazyLock::new(NetworkPorts::default);

fn records(networks: &[&Network], host: &Dump, guests: &Guests) -> Records {
    let links = host.clone().into();
    let mut records = records::records(
        &bridges(networks, &links),
        &records::Around {
            snapshot: &links,
            guests,
            firewall: None,
            filtered: &BTreeSet::new(),
            bridged_rules: false,
        },
    );
    records.usage.clear();
    records
}

fn hooks(networks: &[&Network], host: &Dump) -> BTreeSet<Attachment> {
    let links = host.clone().into();
    records::hooks(&bridges(networks, &links), &links)
}

fn bridges<'a>(networks: &[&'a Network], links: &'a Snapshot) -> records::Bridges<'a> {
    let specs = networks.iter().filter_map(|network| {
        let spec = bridge_spec(network)?;
        let link = links.by_name(&spec.name)?;
        spec.is(link, None).then_some((
            link.index,
            records::Bridge {
                network,
                ports: &NO_PORTS,
                link,
                services: None,
                was_routed: false,
                shaper: None,
            },
        ))
    });
    specs.collect()
}

/// What makes a bridge, and what opens it then.
fn plan_bridge(
    spec: &BridgeSpec,
    host: &Dump,
    known: Option<u32>,
) -> Result<(Vec<DeviceAct>, Vec<DeviceAct>), InTheWay> {
    let links: Snapshot = host.clone().into();
    let link = find_bridge(spec, &links, known)?;
    let before = make(spec, link, None, &links);
    let made: Snapshot = carry_out(host, &before).into();
    let after = open(spec, made.by_name(&spec.name).unwrap(), &made);
    Ok((before, after))
}

/// What the kernel has after some acts.
fn carry_out(host: &Dump, acts: &[DeviceAct]) -> Dump {
    let mut rehearsal = Rehearsal::new(Observed {
        links: host.clone().into(),
        ..Observed::default()
    });
    let xdp = Xdp::default();
    let intent = Intent {
        members: Vec::new(),
        xdp: &xdp,
        firewall: None,
        scope: super::Scope::Host,
        let_go: BTreeSet::new(),
    };
    for act in acts {
        let act = act.clone().into();
        rehearsal.carry_out(&Step { network: None, act }, &intent);
    }
    Dump::clone(&rehearsal.observed().links)
}

fn host() -> Dump {
    let mut host = Dump::default();
    host.links.insert(
        1,
        Link {
            loopback: true,
            ether: false,
            ..link(1, "lo")
        },
    );
    host.links.insert(UPLINK, link(UPLINK, "eth0"));
    host.addresses = vec![
        address(1, [127, 0, 0, 1], 8),
        address(UPLINK, [198, 51, 100, 2], 24),
    ];
    host
}

fn connected(to: [u8; 4], prefix: u8) -> Route {
    Route {
        destination: (IpAddr::from(to), prefix),
        index: Some(BRIDGE),
        gateway: None,
        table: 254,
        advertised: false,
        mtu: None,
        metric: None,
    }
}

/// The host after the network was started and a guest plugged in.
fn running() -> Dump {
    let mut host = host();
    let spec = bridge_spec(&network("<forward/>")).unwrap();
    host.links.insert(
        BRIDGE,
        Link {
            mac: Some(spec.mac),
            kind: Some("bridge".to_owned()),
            bridge: Some(BridgeAttrs {
                stp: true,
                forward_delay_ms: spec.effective_delay_ms(),
                ..BridgeAttrs::default()
            }),
            ..link(BRIDGE, "br")
        },
    );
    host.links.insert(
        TAP,
        Link {
            controller: Some(BRIDGE),
            kind: Some("tun".to_owned()),
            ..link(TAP, "tap0")
        },
    );
    host.addresses.push(address(BRIDGE, [10, 0, 0, 1], 24));
    host.routes.push(connected([10, 0, 0, 0], 24));
    host
}

#[test]
fn a_new_bridge_is_guarded_before_it_is_switched_on() {
    let spec = bridge_spec(&network("<forward/>")).unwrap();
    let (before, after) = plan_bridge(&spec, &host(), None).unwrap();
    assert!(matches!(before[0], DeviceAct::CreateBridge { .. }));
    assert!(
        before
            .iter()
            .any(|s| matches!(s, DeviceAct::AddAddress { .. }))
    );
    assert!(
        before
            .iter()
            .any(|s| matches!(s, DeviceAct::SetIpv6 { on: false, .. }))
    );
    assert!(!before.iter().any(|s| matches!(s, DeviceAct::SetUp { .. })));
    assert_eq!(
        after,
        [DeviceAct::SetUp {
            bridge: "br".to_owned()
        }]
    );
}

#[test]
fn a_host_that_is_as_it_should_be_needs_no_step() {
    let spec = bridge_spec(&network("<forward/>")).unwrap();
    assert_eq!(plan_bridge(&spec, &running(), None), Ok((vec![], vec![])));
}

#[test]
fn what_somebody_changed_is_mended() {
    let spec = bridge_spec(&network("<forward/>")).unwrap();
    let mut host = running();
    host.addresses.pop();
    let bridge = host.links.get_mut(&BRIDGE).unwrap();
    bridge.up = false;
    bridge.mac = Some(Mac([2, 9, 9, 9, 9, 9]));
    bridge.bridge = Some(BridgeAttrs {
        stp: false,
        forward_delay_ms: 0,
        ..BridgeAttrs::default()
    });
    let (before, after) = plan_bridge(&spec, &host, Some(BRIDGE)).unwrap();
    assert_eq!(before.len(), 3, "{before:?}");
    assert_eq!(after.len(), 1);
}

#[test]
fn another_device_of_the_bridges_name_is_left_alone() {
    let spec = bridge_spec(&network("<forward/>")).unwrap();
    let mut host = running();
    host.links.get_mut(&BRIDGE).unwrap().mac = Some(Mac([2, 9, 9, 9, 9, 9]));
    assert!(plan_bridge(&spec, &host, Some(77)).is_err());
    assert!(hooks(&[&network("<forward/>")], &host).is_empty());
    host.links.get_mut(&BRIDGE).unwrap().mac = Some(spec.mac);
    host.links.get_mut(&BRIDGE).unwrap().bridge = None;
    assert!(plan_bridge(&spec, &host, Some(BRIDGE)).is_err());
}

/// The same network with an IPv6 address beside the other.
fn dual_stack() -> Network {
    let mut network = network("<forward/>");
    let xml = "<network><name>n</name><ip family='ipv6' address='fd00::1' prefix='64'/></network>";
    network.ips.extend(model::parse(xml).unwrap().ips);
    network
}

#[test]
fn ipv6_is_switched_on_before_its_addresses_come() {
    let spec = bridge_spec(&dual_stack()).unwrap();
    let positions = |steps: &[DeviceAct]| {
        let on = steps
            .iter()
            .position(|s| matches!(s, DeviceAct::SetIpv6 { on: true, .. }));
        let added = steps.iter().position(
            |s| matches!(s, DeviceAct::AddAddress { address, prefix: 64, .. } if address.is_ipv6()),
        );
        (on.unwrap(), added.unwrap())
    };
    let (new, _) = plan_bridge(&spec, &host(), None).unwrap();
    let (on, added) = positions(&new);
    assert!(on < added, "{new:?}");

    // Somebody switched it off, which takes the addresses.
    let conf = |disabled, accept_ra, autoconf| {
        Some(Ipv6Conf {
            disabled,
            accept_ra,
            autoconf,
        })
    };
    let mut host = running();
    host.links.get_mut(&BRIDGE).unwrap().conf.ipv6 = conf(true, 0, false);
    let (mended, after) = plan_bridge(&spec, &host, Some(BRIDGE)).unwrap();
    assert_eq!(mended.len(), 2, "{mended:?}");
    assert_eq!(positions(&mended), (0, 1));
    assert_eq!(after, []);

    host.addresses.push(Address {
        index: BRIDGE,
        address: "fd00::1".parse().unwrap(),
        prefix: 64,
        primary: true,
        scope: Scope::Global,
    });
    host.routes.push(Route {
        destination: ("fd00::".parse().unwrap(), 64),
        ..connected([10, 0, 0, 0], 24)
    });
    for (conf, steps) in [
        (conf(false, 0, false), 0),
        (conf(false, 1, false), 1),
        (conf(false, 0, true), 1),
        (None, 0),
    ] {
        host.links.get_mut(&BRIDGE).unwrap().conf.ipv6 = conf;
        let (mended, after) = plan_bridge(&spec, &host, Some(BRIDGE)).unwrap();
        assert_eq!((mended.len(), after.len()), (steps, 0), "{conf:?}");
    }
}

#[test]
fn a_lost_route_to_the_subnet_comes_back() {
    let spec = bridge_spec(&network("<forward/>")).unwrap();
    let mut host = running();
    host.routes.clear();
    // By another device, or by a gateway, it is none of the bridge's own.
    host.routes.push(Route {
        index: Some(UPLINK),
        ..connected([10, 0, 0, 0], 24)
    });
    host.routes.push(Route {
        gateway: Some(IpAddr::from([10, 0, 0, 9])),
        ..connected([10, 0, 0, 0], 24)
    });
    let act = DeviceAct::AddConnectedRoute {
        bridge: "br".to_owned(),
        address: IpAddr::from([10, 0, 0, 1]),
        prefix: 24,
    };
    let plan = plan_bridge(&spec, &host, None);
    assert_eq!(plan, Ok((vec![], vec![act])));
    // The kernel adds it when the bridge is switched on.
    host.links.get_mut(&BRIDGE).unwrap().up = false;
    let (_, after) = plan_bridge(&spec, &host, None).unwrap();
    assert!(matches!(*after, [DeviceAct::SetUp { .. }]), "{after:?}");
}

#[test]
fn the_mtu_is_the_least_of_the_ports_where_none_is_defined() {
    let mut spec = bridge_spec(&network("<forward/>")).unwrap();
    let mtus = |spec: &BridgeSpec, bridge, port| {
        let mut host = running();
        host.links.get_mut(&BRIDGE).unwrap().mtu = bridge;
        host.links.get_mut(&TAP).unwrap().mtu = port;
        let (before, _) = plan_bridge(spec, &host, None).unwrap();
        before.first().map(|act| match act {
            DeviceAct::SetMtu { mtu, .. } => *mtu,
            act => panic!("{act}"),
        })
    };
    assert_eq!(mtus(&spec, 1500, 1500), None);
    assert_eq!(mtus(&spec, 1280, 1500), Some(1500));
    assert_eq!(mtus(&spec, 1500, 1400), Some(1400));
    spec.mtu = Some(1400);
    assert_eq!(mtus(&spec, 1400, 1500), None);
    assert_eq!(mtus(&spec, 1500, 1500), Some(1400));
}

#[test]
fn devices_with_ipv6_alone_count_when_a_network_has_it() {
    let mut host = running();
    let v6 = |index, address: &str| Address {
        index,
        address: address.parse().unwrap(),
        prefix: 64,
        primary: true,
        scope: Scope::Global,
    };
    let route = |index, to: &str, prefix| Route {
        destination: (to.parse().unwrap(), prefix),
        index: Some(index),
        gateway: None,
        table: 254,
        advertised: false,
        mtu: None,
        metric: None,
    };
    for (index, name) in [(7, "addressed"), (8, "routed"), (9, "tap-new")] {
        host.links.insert(index, link(index, name));
        host.addresses.push(Address {
            scope: Scope::Link,
            ..v6(index, "fe80::7")
        });
        host.routes.push(route(index, "fe80::", 64));
        host.routes.push(route(index, "ff00::", 8));
    }
    host.addresses.push(v6(7, "2001:db8::7"));
    host.routes.push(route(8, "::", 0));
    let guarded = |network: &Network| {
        let at: BTreeSet<u32> = hooks(&[network], &host)
            .into_iter()
            .filter(|a| matches!(a.hook, Hook::UplinkIngress | Hook::UplinkEgress))
            .map(|a| a.ifindex)
            .collect();
        let known: BTreeSet<u32> = records(&[network], &host, &Guests::default())
            .devices
            .into_keys()
            .collect();
        assert!(known.is_superset(&at), "{known:?}");
        at
    };
    assert_eq!(guarded(&network("<forward/>")), BTreeSet::from([UPLINK]));
    assert_eq!(guarded(&dual_stack()), BTreeSet::from([UPLINK, 7, 8]));
}

#[test]
fn only_ports_that_are_still_free_are_given_back() {
    let mut host = host();
    host.links.insert(TAP, link(TAP, "tap0"));
    host.links.insert(7, link(7, "other"));
    host.links.insert(
        8,
        Link {
            controller: Some(99),
            ..link(8, "taken")
        },
    );
    let remembered = [
        (TAP, "tap0".to_owned()),
        (7, "tap1".to_owned()),
        (8, "taken".to_owned()),
        (9, "gone".to_owned()),
    ];
    let noted = Noted {
        ports: remembered.to_vec(),
        ..Noted::default()
    };
    let mut observed = Observed {
        links: host.into(),
        ..Observed::default()
    };
    let given: Vec<&Port> = returning_ports(&noted, BRIDGE, &observed).collect();
    assert_eq!(given, [&(TAP, "tap0".to_owned())]);
    // What was taken from a bridge that stayed was taken on purpose, unless all went at once.
    let noted = Noted {
        bridge: Some(BRIDGE),
        ..noted
    };
    assert_eq!(returning_ports(&noted, BRIDGE, &observed).count(), 0);
    observed.emptied.insert(BRIDGE);
    assert_eq!(returning_ports(&noted, BRIDGE, &observed).count(), 1);
}

#[test]
fn records_follow_definitions_and_kernel() {
    let network = network("<forward mode='route' dev='eth0'/>");
    let records = records(&[&network], &running(), &Guests::default());
    let record = records.networks[&BRIDGE];
    assert_eq!(record.v4.mode, Mode::Route as u8);
    assert_eq!(record.uplink_ifindex, UPLINK);
    assert_eq!(record.v4.gateway, [10, 0, 0, 1]);
    assert_eq!(record.mac, [0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(records.v4.subnets[&([10, 0, 0, 0], 24)], BRIDGE);
    assert_eq!(records.ports[&TAP].bridge_ifindex, BRIDGE);
    assert_eq!(records.devices[&UPLINK].address, [198, 51, 100, 2]);
    assert_eq!(records.devices[&UPLINK].flags, DEVICE_ETHERNET);
    assert_eq!(records.devices[&BRIDGE].address, [10, 0, 0, 1]);
    assert!(
        !records.devices.contains_key(&1),
        "loopback carries nothing"
    );
    assert!(!records.devices.contains_key(&TAP), "a port is no uplink");
    assert_eq!(records.v4.addresses.len(), 3);
}

/// A cluster's address or a pool's may come first among a device's, after that was readdressed.
#[test]
fn a_device_speaks_by_an_address_that_has_neighbours() {
    let network = network("<forward mode='nat'/>");
    let mut snapshot = running();
    snapshot
        .addresses
        .insert(0, address(UPLINK, [198, 51, 100, 40], 32));
    let own = |snapshot: &Dump| {
        let records = records(&[&network], snapshot, &Guests::default());
        records.devices[&UPLINK].address
    };
    assert_eq!(own(&snapshot), [198, 51, 100, 2]);
    snapshot
        .addresses
        .retain(|a| a.index != UPLINK || a.prefix == 32);
    assert_eq!(own(&snapshot), [198, 51, 100, 40]);
}

#[test]
fn a_network_bound_to_a_device_that_is_not_there_may_use_none() {
    let network = network("<forward mode='nat' dev='wlan9'/>");
    assert_eq!(
        records(&[&network], &running(), &Guests::default()).networks[&BRIDGE].uplink_ifindex,
        u32::MAX
    );
}

#[test]
fn the_hosts_own_bridge_is_left_alone() {
    let network = network("<forward mode='nat'/>");
    let mut bridged = network.clone();
    bridged.forward.as_mut().unwrap().mode = model::ForwardMode::Bridge;
    assert_eq!(bridge_spec(&bridged), None);
    assert!(hooks(&[&bridged], &running()).is_empty());
    assert_eq!(
        records(&[&bridged], &running(), &Guests::default()),
        Default::default()
    );
}

proptest! {
    /// Whatever is missing or wrong, doing the planned steps leaves nothing to plan.
    #[test]
    fn a_plan_carried_out_leaves_no_plan(
        exists in any::<bool>(),
        up in any::<bool>(),
        stp in any::<bool>(),
        addressed in any::<bool>(),
        mac in any::<bool>(),
        mtu in prop_oneof![Just(None), Just(Some(1400u32)), Just(Some(9000))],
    ) {
        let mut network = network("<forward/>");
        network.mtu = mtu;
        let spec = bridge_spec(&network).unwrap();
        let mut host = running();
        if !exists {
            host.links.remove(&BRIDGE);
            host.links.get_mut(&TAP).unwrap().controller = None;
        } else {
            let bridge = host.links.get_mut(&BRIDGE).unwrap();
            bridge.up = up;
            if !stp {
                bridge.bridge = Some(BridgeAttrs::default());
            }
            if !mac {
                bridge.mac = None;
            }
        }
        if !addressed || !exists {
            host.addresses.retain(|a| a.index != BRIDGE);
        }
        let (before, after) = plan_bridge(&spec, &host, Some(BRIDGE)).unwrap();
        let host = carry_out(&carry_out(&host, &before), &after);
        prop_assert_eq!(
            plan_bridge(&spec, &host, None),
            Ok((vec![], vec![]))
        );
    }
}
