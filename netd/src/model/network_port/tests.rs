//! Ports: read, printed, and what a network gives them.

use std::fs;
use std::path::PathBuf;

use uuid::Uuid;

use super::*;
use crate::api::{ApiError, ErrorCode};
use crate::model::element::Rate;
use crate::model::network::Network;
use crate::model::parse;

const HEAD: &str = "<uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid><owner><name>vm</name>\
    <uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner>";
const MAC: &str = "<mac address='52:54:00:7b:35:93'/>";

/// A port with these elements beside what every port has.
fn port(more: &str) -> NetworkPort {
    let xml = format!("<networkport>{HEAD}{MAC}{more}</networkport>");
    parse_port(&xml)
        .unwrap_or_else(|error| panic!("{error}: {xml}"))
        .port
}

fn numbered(number: u128, more: &str) -> NetworkPort {
    NetworkPort {
        uuid: Uuid::from_u128(number),
        ..port(more)
    }
}

fn network(more: &str) -> Network {
    let xml = format!("<network><name>n1</name>{more}</network>");
    parse(&xml).unwrap_or_else(|error| panic!("{error}: {xml}"))
}

fn nat(more: &str) -> Network {
    network(&format!(
        "<forward mode='nat'/><bridge name='virbr7'/><ip address='10.0.0.1' prefix='24'/>{more}"
    ))
}

fn ports(all: &[NetworkPort]) -> NetworkPorts {
    let mut ports = NetworkPorts::default();
    for port in all {
        ports.insert(port.clone());
    }
    ports
}

/// What a client is told, with libvirt's number.
fn refused(result: Result<NetworkPort, PortError>) -> (i32, String) {
    let error = ApiError::from(result.unwrap_err());
    (error.code as i32, error.message)
}

fn on_bridge(bridge: &str) -> BridgePlug {
    BridgePlug {
        bridge: bridge.to_owned(),
        mac_table_manager: None,
    }
}

#[test]
fn libvirts_own_cases_come_back_byte_by_byte() {
    let peer = std::env::var_os("NETD_PEER_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/peer")),
        PathBuf::from,
    );
    let dir = peer.join("libvirt-11.3.0/port");
    let Ok(entries) = fs::read_dir(&dir) else {
        eprintln!(
            "SKIPPED: no peer data at {}; set NETD_PEER_DATA",
            dir.display()
        );
        return;
    };
    let mut cases = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let parsed = parse_port(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(parsed.unknown, [], "{}", path.display());
        assert_eq!(format_port(&parsed.port), text, "{}", path.display());
        cases += 1;
    }
    assert_eq!(cases, 9, "the cases of {}", dir.display());
}

#[test]
fn what_every_port_has_must_be_there() {
    let owner = "<owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner>";
    let uuid = "<uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid>";
    for (xml, detail) in [
        (format!("{owner}{MAC}"), "network port has no uuid"),
        (format!("<uuid/>{owner}{MAC}"), "network port has no uuid"),
        (
            format!("<uuid>x</uuid>{owner}{MAC}"),
            "Unable to parse UUID 'x'",
        ),
        (format!("{uuid}{MAC}"), "network port has no owner name"),
        (
            format!("{uuid}<owner><name>vm</name></owner>{MAC}"),
            "network port has no owner UUID",
        ),
        (
            format!("{uuid}<owner><name>vm</name><uuid>5</uuid></owner>{MAC}"),
            "Unable to parse UUID '5'",
        ),
        (format!("{uuid}{owner}"), "network port has no mac"),
        (
            format!("{uuid}{owner}<mac address='52'/>"),
            "Unable to parse MAC '52'",
        ),
        (
            format!("{uuid}{owner}<mac address='01:00:5e:00:00:01'/>"),
            "Unable to parse MAC '01:00:5e:00:00:01'",
        ),
    ] {
        let error = parse_port(&format!("<networkport>{xml}</networkport>")).unwrap_err();
        let error = ApiError::from(error);
        assert_eq!(error.code, ErrorCode::Internal, "{xml}");
        assert_eq!(error.message, format!("internal error: {detail}"));
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_names_the_port() {
    for (more, words) in [
        ("<plug type='nowhere'/>", "type='nowhere'"),
        ("<plug type='bridge'/>", "'bridge' is missing"),
        ("<plug type='direct' mode='bridge'/>", "'dev' is missing"),
        ("<plug type='direct' dev='e' mode='x'/>", "mode='x'"),
        ("<plug type='hostdev-pci'/>", "has no <address>"),
        (
            "<plug type='hostdev-pci'><address bus='256'/></plug>",
            "bus='256'",
        ),
        (
            "<plug type='network' bridge='b' macTableManager='x'/>",
            "macTableManager='x'",
        ),
        ("<port isolated='maybe'/>", "isolated='maybe'"),
        ("<rxfilters trustGuest='1'/>", "trustGuest='1'"),
        ("<vlan/>", "at least one <tag>"),
        ("<vlan><tag id='4096'/></vlan>", "at most 4095"),
        ("<bandwidth><inbound/></bandwidth>", "'average' is missing"),
        (
            "<bandwidth><outbound average='1' floor='1'/></bandwidth>",
            "floor is for <inbound> only",
        ),
        (
            "<bandwidth><inbound average='-1'/></bandwidth>",
            "average='-1'",
        ),
        ("<bandwidth classID='x'/>", "classID='x'"),
        ("<virtualport type='x'/>", "type='x'"),
    ] {
        let xml = format!("<networkport>{HEAD}{MAC}{more}</networkport>");
        let error = ApiError::from(parse_port(&xml).unwrap_err());
        assert_eq!(error.code, ErrorCode::Xml, "{xml}");
        let named = "XML error: network port '5d744f21-ba4a-4d6e-bdb2-30a35ff3207d', line 1, <";
        assert!(error.message.starts_with(named), "{error}");
        assert!(error.message.contains(words), "'{words}': {error}");
    }
    let error = ApiError::from(parse_port("<network/>").unwrap_err());
    assert_eq!(
        error.message,
        "XML error: expecting root element of 'networkport', not 'network'"
    );
}

#[test]
fn hostile_text_is_refused_before_it_costs_anything() {
    let long = format!("<networkport>{}</networkport>", " ".repeat(300_000));
    let deep = "<a>".repeat(50_000);
    for text in [
        long.as_str(),
        deep.as_str(),
        "",
        "<networkport>",
        "<!DOCTYPE networkport [<!ENTITY a 'b'>]><networkport/>",
    ] {
        let error = ApiError::from(parse_port(text).unwrap_err());
        assert_eq!(error.code, ErrorCode::XmlDetail, "{error}");
        assert!(error.message.len() < 1000);
    }
    let error = parse_port("<networkport><uuid>\u{9b}31m</uuid></networkport>").unwrap_err();
    assert!(!error.to_string().chars().any(char::is_control));
}

#[test]
fn what_nobody_knows_is_told() {
    let xml = format!("<networkport a='1'>{HEAD}{MAC}<tap/><plug type='none'/></networkport>");
    let unknown = parse_port(&xml).unwrap().unknown;
    let told: Vec<String> = unknown.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("<tap>"), "{told:?}");
}

#[test]
fn a_network_completes_what_the_port_leaves_open() {
    let network = nat("<port isolated='yes'/><portgroup name='plain'/>\
         <portgroup name='slow' default='yes' trustGuestRxFilters='yes'>\
         <bandwidth><inbound average='100'/></bandwidth></portgroup>");
    let none = NetworkPorts::default();
    let filled = port("").allocate(&network, &none).unwrap();
    assert_eq!(filled.plug, Some(Plug::Network(on_bridge("virbr7"))));
    assert_eq!(filled.isolated, Some(true));
    assert_eq!(filled.trust_guest_rx_filters, Some(true));
    let inbound = filled.bandwidth.unwrap().inbound.unwrap();
    assert_eq!(inbound.average, 100);
    assert_eq!(filled.class_id, None, "nothing is guaranteed");

    // Another group, one that does not exist, and the port's own word.
    for group in ["plain", "nobody"] {
        let filled = port(&format!("<group>{group}</group>"));
        let filled = filled.allocate(&network, &none).unwrap();
        assert_eq!(filled.bandwidth, None, "{group}");
        assert_eq!(filled.trust_guest_rx_filters, None, "{group}");
        assert_eq!(filled.isolated, Some(true), "{group}");
    }
    let own = port(
        "<bandwidth><outbound average='7'/></bandwidth><port isolated='no'/>\
         <rxfilters trustGuest='no'/>",
    );
    let filled = own.clone().allocate(&network, &none).unwrap();
    assert_eq!(filled.bandwidth, own.bandwidth);
    assert_eq!(filled.isolated, Some(false));
    assert_eq!(filled.trust_guest_rx_filters, Some(false));
}

#[test]
fn a_vlan_is_the_ports_else_the_groups_else_the_networks() {
    let tag = |id: u16| format!("<vlan><tag id='{id}'/></vlan>");
    let network = network(&format!(
        "<forward mode='passthrough'><interface dev='e0'/></forward>{}\
         <portgroup name='g'>{}</portgroup><portgroup name='h'/>",
        tag(1),
        tag(2)
    ));
    for (more, id) in [
        (String::new(), 1),
        ("<group>h</group>".to_owned(), 1),
        ("<group>g</group>".to_owned(), 2),
        (format!("<group>g</group>{}", tag(3)), 3),
    ] {
        let filled = port(&more).allocate(&network, &NetworkPorts::default());
        assert_eq!(filled.unwrap().vlan.unwrap().tags[0].id, id, "{more}");
    }
}

#[test]
fn the_plug_is_that_of_the_kind_of_network() {
    let none = NetworkPorts::default();
    let plug = |network: &Network| port("").allocate(network, &none).unwrap().plug.unwrap();
    let bridged = network("<forward mode='bridge'/><bridge name='br0' macTableManager='libvirt'/>");
    assert_eq!(
        plug(&bridged),
        Plug::Bridge(BridgePlug {
            bridge: "br0".to_owned(),
            mac_table_manager: Some(MacTableManager::Libvirt),
        })
    );
    for (mode, expected) in [
        ("bridge", MacvtapMode::Bridge),
        ("private", MacvtapMode::Private),
        ("vepa", MacvtapMode::Vepa),
        ("passthrough", MacvtapMode::Passthrough),
    ] {
        let direct = network(&format!("<forward mode='{mode}' dev='e0'/>"));
        let dev = "e0".to_owned();
        let mode = expected;
        assert_eq!(plug(&direct), Plug::Direct { dev, mode });
    }
    let open = network("<forward mode='open'/><bridge name='b'/><ip address='10.0.0.1'/>");
    assert_eq!(plug(&open), Plug::Network(on_bridge("b")));
    assert_eq!(
        plug(&network("<bridge name='i'/>")),
        Plug::Network(on_bridge("i"))
    );
    let hostdev = network(
        "<forward mode='hostdev' managed='yes'><driver name='vfio'/>\
         <address type='pci' bus='3'/><address type='pci' bus='4'/></forward>",
    );
    let first = port("").allocate(&hostdev, &none).unwrap();
    let second = port("")
        .allocate(&hostdev, &ports(std::slice::from_ref(&first)))
        .unwrap();
    let bus = |port: &NetworkPort| match &port.plug {
        Some(Plug::HostdevPci {
            address, managed, ..
        }) => (address.bus, *managed),
        other => panic!("{other:?}"),
    };
    assert_eq!(bus(&first), (3, Some(true)));
    assert_eq!(bus(&second), (4, Some(true)));
    let both = ports(&[
        first,
        NetworkPort {
            uuid: Uuid::nil(),
            ..second
        },
    ]);
    let (code, text) = refused(port("").allocate(&hostdev, &both));
    assert_eq!(code, 1);
    assert!(text.ends_with("exclusive access to interfaces, but none are available"));
}

#[test]
fn of_a_pool_the_least_used_device_is_taken() {
    let pool = "<interface dev='e0'/><interface dev='e1'/>";
    let shared = network(&format!("<forward mode='bridge'>{pool}</forward>"));
    let alone = network(&format!("<forward mode='passthrough'>{pool}</forward>"));
    for (network, shares) in [(&shared, true), (&alone, false)] {
        let mut taken = NetworkPorts::default();
        let mut devices = Vec::new();
        for number in 0..2 {
            let port = numbered(number, "").allocate(network, &taken).unwrap();
            let Some(Plug::Direct { dev, .. }) = &port.plug else {
                panic!("{:?}", port.plug);
            };
            devices.push(dev.clone());
            taken.insert(port);
        }
        assert_eq!(devices, ["e0", "e1"]);
        let third = numbered(2, "").allocate(network, &taken);
        assert_eq!(third.is_ok(), shares, "{third:?}");
        // What was given back is the least used again.
        taken.remove(Uuid::from_u128(1));
        let Some(Plug::Direct { dev, .. }) =
            numbered(3, "").allocate(network, &taken).unwrap().plug
        else {
            panic!("no device");
        };
        assert_eq!(dev, "e1");
    }
}

#[test]
fn a_virtual_port_goes_by_the_kind_of_network() {
    let none = NetworkPorts::default();
    let own = |kind: &str| port(&format!("<virtualport type='{kind}'/>"));
    let (code, text) = refused(own("openvswitch").allocate(&nat(""), &none));
    assert_eq!(code, 67);
    assert_eq!(
        text,
        "unsupported configuration: <virtualport type='openvswitch'> not supported for network 'n1' \
         which uses IP forwarding"
    );
    let direct = network("<forward mode='vepa' dev='e0'/>");
    assert_eq!(refused(own("openvswitch").allocate(&direct, &none)).0, 67);
    let bridged = network("<forward mode='bridge'/><bridge name='ovs'/>");
    assert_eq!(refused(own("802.1Qbh").allocate(&bridged, &none)).0, 67);
    let filled = own("openvswitch").allocate(&bridged, &none).unwrap();
    let parameters = filled.virtualport.unwrap().parameters;
    assert_eq!(parameters.len(), 1, "an interface id is drawn");
    assert_eq!(parameters[0].0, "interfaceid");

    // Network, group and port complete each other, or contradict.
    let merged = network(
        "<forward mode='vepa' dev='e0'/>\
         <virtualport type='802.1Qbg'><parameters managerid='11'/></virtualport>\
         <portgroup name='g'><virtualport><parameters typeid='5'/></virtualport></portgroup>",
    );
    let asks = |parameters: &str| {
        port(&format!(
            "<group>g</group><virtualport><parameters {parameters}/></virtualport>"
        ))
    };
    let filled = asks("typeidversion='2'").allocate(&merged, &none).unwrap();
    let filled = filled.virtualport.unwrap();
    assert_eq!(filled.kind.as_deref(), Some("802.1Qbg"));
    let names: Vec<&str> = filled.parameters.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        names,
        ["managerid", "typeid", "typeidversion", "instanceid"]
    );
    let (code, text) = refused(asks("managerid='12'").allocate(&merged, &none));
    assert_eq!(code, 27);
    assert_eq!(
        text,
        "XML error: attempt to merge virtualports with mismatched managerids (12 and 11)"
    );
    let (code, text) = refused(port("").allocate(&merged, &none));
    assert_eq!(code, 27);
    assert_eq!(
        text,
        "XML error: missing typeid in <virtualport type='802.1Qbg'>"
    );
}

const FLOOR: &str = "<bandwidth><inbound average='10' floor='600'/></bandwidth>";

#[test]
fn a_floor_is_granted_as_long_as_the_network_has_it() {
    let none = NetworkPorts::default();
    let (code, text) = refused(port(FLOOR).allocate(&nat(""), &none));
    assert_eq!(code, 84);
    assert_eq!(
        text,
        "Operation not supported: Invalid use of 'floor' on interface with MAC address \
         52:54:00:7b:35:93 - network 'n1' has no inbound QoS set"
    );
    let bridged = network("<forward mode='bridge'/><bridge name='br0'/>");
    let (code, text) = refused(port(FLOOR).allocate(&bridged, &none));
    assert_eq!(code, 84);
    assert!(text.contains("'floor' is only supported for"), "{text}");

    for (limits, kind, most) in [
        ("average='1000'", "average", 1000),
        ("average='500' peak='1100'", "peak", 1100),
    ] {
        let limited = nat(&format!("<bandwidth><inbound {limits}/></bandwidth>"));
        let first = numbered(1, FLOOR).allocate(&limited, &none).unwrap();
        assert_eq!(first.class_id, Some(3), "the first that is free");
        assert!(format_port(&first).contains("<bandwidth classID='3'>"));
        let granted = ports(std::slice::from_ref(&first));
        let (code, text) = refused(numbered(2, FLOOR).allocate(&limited, &granted));
        assert_eq!(code, 55);
        assert_eq!(
            text,
            format!(
                "Requested operation is not valid: Cannot plug '52:54:00:7b:35:93' interface into \
                 'virbr7' because new combined inbound floor=1200 would overcommit {kind}={most} on \
                 network 'n1'"
            )
        );
        // Without a floor nothing is counted, and what was given back is free.
        let without = numbered(2, "").allocate(&limited, &granted).unwrap();
        assert_eq!(without.class_id, None);
        let small = "<bandwidth><inbound floor='300'/></bandwidth>";
        let second = numbered(2, small).allocate(&limited, &granted).unwrap();
        assert_eq!(second.class_id, Some(4));
        let freed = ports(&[second]);
        let third = numbered(3, FLOOR).allocate(&limited, &freed).unwrap();
        assert_eq!(third.class_id, Some(3));
    }
}

#[test]
fn limits_of_a_port_change() {
    let limited = nat("<bandwidth><inbound average='1000'/></bandwidth>");
    let first = numbered(1, FLOOR);
    let first = first.allocate(&limited, &NetworkPorts::default()).unwrap();
    let all = ports(std::slice::from_ref(&first));
    let rate = |average, floor| Rate {
        average,
        floor,
        ..Rate::default()
    };
    let set = |inbound: Rate, outbound: Rate| {
        let bandwidth = Bandwidth {
            inbound: Some(inbound),
            outbound: Some(outbound),
        };
        first.with_bandwidth(&limited, &all, &bandwidth)
    };
    // Its own floor is not counted twice.
    let more = set(rate(5, Some(1000)), rate(7, None)).unwrap();
    assert_eq!(more.class_id, Some(3));
    assert_eq!(more.floor(), 1000);
    assert_eq!(refused(set(rate(5, Some(1001)), rate(0, None))).0, 55);
    let less = set(rate(5, None), rate(0, None)).unwrap();
    assert_eq!(less.class_id, None);
    assert_eq!(less.bandwidth.as_ref().unwrap().outbound, None);
    let nothing = set(rate(0, None), rate(0, None)).unwrap();
    assert_eq!(nothing.bandwidth, None);
    // Where nothing can be guaranteed, limits change all the same.
    let plain = nat("");
    let port = numbered(2, "");
    let new = Bandwidth {
        inbound: Some(rate(9, None)),
        outbound: None,
    };
    let none = NetworkPorts::default();
    let changed = port.with_bandwidth(&plain, &none, &new).unwrap();
    assert_eq!(changed.bandwidth, Some(new));
    let floor = Bandwidth {
        inbound: Some(rate(9, Some(1))),
        outbound: None,
    };
    assert_eq!(refused(port.with_bandwidth(&plain, &none, &floor)).0, 84);
}

#[test]
fn a_port_that_was_lost_comes_back_as_it_was() {
    let text = "<bandwidth classID='5'><inbound average='1' floor='9'/></bandwidth>\
                <plug type='network' bridge='other'/>";
    let lost = port(text);
    // Neither merged nor checked against what the network has to give.
    let network = nat("<port isolated='yes'/>");
    let none = NetworkPorts::default();
    assert_eq!(lost.clone().reclaim(&network, &none), Ok(lost));
    let direct = network_of_devices();
    let on = |dev: &str| {
        port(&format!(
            "<plug type='direct' dev='{dev}' mode='passthrough'/>"
        ))
    };
    let first = on("e0").reclaim(&direct, &none).unwrap();
    let (code, text) = refused(on("e0").reclaim(&direct, &ports(&[first])));
    assert_eq!(code, 1);
    assert!(text.contains("dev='e0' is already in use by a different port"));
    let (code, text) = refused(on("e9").reclaim(&direct, &none));
    assert_eq!(code, 1);
    assert!(text.contains("doesn't have dev='e9' in use by network port '5d744f21-"));
    let (code, _) = refused(port("<plug type='bridge' bridge='b'/>").reclaim(&direct, &none));
    assert_eq!(code, 1, "a network without a bridge");
    let (code, _) = refused(port("").reclaim(&network, &none));
    assert_eq!(code, 1, "no plug");
    let pci = port("<plug type='hostdev-pci'><address bus='9'/></plug>");
    assert_eq!(refused(pci.reclaim(&direct, &none)).0, 1);
}

fn network_of_devices() -> Network {
    network("<forward mode='passthrough'><interface dev='e0'/><interface dev='e1'/></forward>")
}

#[test]
fn a_tap_leads_to_its_guest() {
    let tap = Mac([0xfe, 0x54, 0, 0x7b, 0x35, 0x93]);
    let guest = Mac([0x52, 0x54, 0, 0x7b, 0x35, 0x93]);
    let mut all = ports(&[numbered(1, "<port isolated='yes'/>")]);
    let owner = |all: &NetworkPorts| all.of_tap(tap).map(|o| (o.mac, o.isolated));
    assert_eq!(owner(&all), Some((Some(guest), Some(true))));
    assert_eq!(all.of_tap(guest), None, "a guest's own address is no tap's");
    // The guest is plugged in again before its old port goes.
    all.insert(numbered(2, ""));
    assert_eq!(owner(&all), Some((Some(guest), Some(true))));
    all.remove(Uuid::from_u128(1));
    assert_eq!(owner(&all), Some((Some(guest), None)));
    all.insert(numbered(3, "<port isolated='no'/>"));
    assert_eq!(owner(&all), Some((Some(guest), None)));
    all.remove(Uuid::from_u128(2));
    assert_eq!(owner(&all), Some((Some(guest), Some(false))));
    // A guest whose tap would be called alike: nobody knows whose it is.
    let mut other = numbered(4, "");
    other.mac.0[0] = 0x56;
    all.insert(other);
    assert_eq!(owner(&all), Some((None, None)));
    all.remove(Uuid::from_u128(3));
    all.remove(Uuid::from_u128(4));
    assert_eq!(owner(&all), None);
    assert!(all.is_empty());

    let mut odd = numbered(5, "");
    odd.mac.0[0] = 0xfe;
    all.insert(odd);
    let tap = Mac([0xfa, 0x54, 0, 0x7b, 0x35, 0x93]);
    assert!(
        all.of_tap(tap).is_some(),
        "an address that begins like a tap's"
    );
    assert_eq!(all.retain_taps(&[tap].into()), []);
    assert_eq!(all.retain_taps(&[].into()).len(), 1);
}

#[test]
fn a_network_tells_how_many_use_it() {
    let direct = network_of_devices();
    let first = numbered(1, "").allocate(&direct, &NetworkPorts::default());
    let text = crate::model::format_live(&direct, &ports(&[first.unwrap()]));
    assert!(text.starts_with("<network connections='1'>"), "{text}");
    assert!(
        text.contains("<interface dev='e0' connections='1'/>"),
        "{text}"
    );
    assert!(text.contains("<interface dev='e1'/>"), "{text}");
    assert_eq!(parse(&text).as_ref(), Ok(&direct));
    let unused = crate::model::format_live(&direct, &NetworkPorts::default());
    assert!(!unused.contains("connections"), "{unused}");
}

#[test]
fn a_class_of_no_limits_is_none() {
    let read = port("<bandwidth classID='3'/>");
    assert_eq!((&read.bandwidth, read.class_id), (&None, None));
    assert_eq!(parse_port(&format_port(&read)).unwrap().port, read);
}
