//! What may be read, but not stored; what may be stored, but not started.

use super::*;
use crate::api::{ApiError, ErrorCode};

/// Definitions that are read, but may not be stored.
fn define_refuses(cases: &[(String, &str)]) {
    for (text, words) in cases {
        let network = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let error = check_define(&network).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(check_start(&network), Err(error));
    }
}

#[test]
fn define_refuses_names() {
    let long_name = "n".repeat(201);
    let named = |name: &str| format!("<network><name>{name}</name></network>");
    define_refuses(&[
        (named("a\nb"), "invalid char in name: \n"),
        (named("a\tb"), "control character"),
        (named("."), "name of a file"),
        (named(".."), "name of a file"),
        (named(&long_name), "longer than 200"),
        (network("<bridge name='sixteen-bytes-xx'/>"), "15 bytes"),
        (network("<bridge name='sixteen-bytes-x%d'/>"), "15 bytes"),
        (network("<bridge name='a/b'/>"), "contains '/'"),
        (network("<bridge name='a b'/>"), "a blank"),
        (network("<bridge name='a%s'/>"), "'%'"),
        (network("<bridge name='a%d%d'/>"), "'%'"),
        (
            network("<bridge name='..'/>"),
            "not the name of an interface",
        ),
        (mode("bridge", "<bridge name='virbr%d'/>"), "'%'"),
        (
            mode("vepa", "").replace("'vepa'", "'vepa' dev='a b'"),
            "device 'a b'",
        ),
    ]);
}

#[test]
fn define_refuses_dns_and_dhcp() {
    let dhcp = "<dhcp><range start='10.0.0.2' end='10.0.0.9'/></dhcp>";
    define_refuses(&[
        (network("<domain name='a&#10;b'/>"), "control character"),
        (network("<domain name='a,b'/>"), "<domain name>"),
        (
            network("<dns><forwarder domain='a/b'/></dns>"),
            "<forwarder domain>",
        ),
        (
            network("<dns><txt name='a' value='x&#10;y'/></dns>"),
            "<txt value>",
        ),
        (
            network("<dns><srv service='s' protocol='tcp' domain='a,b'/></dns>"),
            "<srv>",
        ),
        (
            network("<dns><srv service='s' protocol='tcp' target='a b'/></dns>"),
            "<srv>",
        ),
        (
            network("<dns><host ip='10.0.0.1'><hostname>a b</hostname></host></dns>"),
            "<hostname>",
        ),
        (nat_dhcp("<host name='a,b' ip='10.0.0.3'/>"), "<host name>"),
        (
            nat_dhcp("<host name='bücher' ip='10.0.0.3'/>"),
            "'bücher' is not ASCII",
        ),
        (
            nat_dhcp(&format!(
                "<host name='a.{}.b' ip='10.0.0.3'/>",
                "c".repeat(64)
            )),
            "has a label of 64 characters",
        ),
        (
            network("<dns><host ip='10.0.0.1'><hostname>ä</hostname></host></dns>"),
            "is not ASCII",
        ),
        (network("<domain name='ä'/>"), "<domain name>"),
        (nat_dhcp("<host name='a' ip='fd00::1'/>"), "family"),
        (
            nat_dhcp("<host name='a' ip='10.0.0.3'/><bootp file='a,b'/>"),
            "<bootp file>",
        ),
        (
            network("<ip address='10.0.0.1'><tftp root='a&#10;b'/></ip>"),
            "<tftp root>",
        ),
        (
            network(
                "<d:options xmlns:d='http://libvirt.org/schemas/network/dnsmasq/1.0'>\
                 <d:option value='a&#10;b'/></d:options>",
            ),
            "<dnsmasq:option value>",
        ),
        (
            network(&format!(
                "<ip address='10.0.0.1' prefix='24'>{dhcp}</ip>\
                 <ip address='10.0.0.1' prefix='24'>{dhcp}</ip>"
            )),
            "Multiple IPv4 dhcp sections found",
        ),
        (
            network(
                "<ip family='ipv6' address='fd00::1'><dhcp><host name='a' ip='fd00::2'/></dhcp></ip>\
                 <ip family='ipv6' address='fd00::1'><dhcp><host name='a' ip='fd00::2'/></dhcp></ip>",
            ),
            "Multiple IPv6 dhcp sections found",
        ),
    ]);
}

#[test]
fn define_refuses_what_a_mode_has_not() {
    let external_with = |element: &str| mode("bridge", &format!("<bridge name='b'/>{element}"));
    define_refuses(&[
        (
            "<network><name>n</name><forward mode='hostdev'><interface dev='a'/></forward></network>"
                .into(),
            "not <interface>",
        ),
        (
            "<network><name>n</name><forward mode='vepa'><address type='pci' bus='1'/></forward>\
             </network>"
                .into(),
            "no PCI <address>",
        ),
        (
            "<network><name>n</name><forward mode='hostdev'><address type='pci' bus='1'/>\
             <pf dev='a'/></forward></network>"
                .into(),
            "exclude each other",
        ),
        (nat("").replace("<forward/>", "<forward><pf dev='a'/></forward>"), "no <pf>"),
        (external_with("<ip address='10.0.0.1'/>"), "<ip>"),
        (external_with("<mac address='52:54:00:00:00:01'/>"), "<mac>"),
        (external_with("<domain name='d'/>"), "<domain>"),
        (external_with("<dns><txt name='a' value='b'/></dns>"), "<txt>"),
        (external_with("<dns><srv service='s' protocol='tcp'/></dns>"), "<srv>"),
        (
            external_with("<dns><host ip='10.0.0.1'><hostname>a</hostname></host></dns>"),
            "<host>",
        ),
    ]);
}

#[test]
fn define_refuses_port_groups_bandwidth_and_vlans() {
    let mut cases = vec![
        (
            network("<portgroup name='a'/><portgroup name='a'/>"),
            "used twice",
        ),
        (
            network("<portgroup name='a' default='yes'/><portgroup name='b' default='yes'/>"),
            "default",
        ),
        (
            network("<bandwidth><inbound average='18014398509481985'/></bandwidth>"),
            "rate is above",
        ),
        (
            network("<bandwidth><outbound average='1' burst='4194304'/></bandwidth>"),
            "burst is above",
        ),
        (network("<vlan><tag id='1'/></vlan>"), "<vlan>"),
        (mode("vepa", "<vlan><tag id='1'/></vlan>"), "<vlan>"),
        (
            mode(
                "bridge",
                "<vlan><tag id='1'/></vlan><virtualport type='midonet'/>",
            ),
            "<vlan>",
        ),
        (
            network("<portgroup name='g'><vlan><tag id='1'/></vlan></portgroup>"),
            "<vlan>",
        ),
        // Whoever is in a group has the group's port.
        (
            mode(
                "bridge",
                "<vlan><tag id='1'/></vlan><portgroup name='g'><virtualport>\
                 <parameters profileid='p'/></virtualport></portgroup>",
            ),
            "<vlan>",
        ),
        (
            mode(
                "hostdev",
                "<portgroup name='g'><vlan><tag id='1'/></vlan>\
                 <virtualport type='802.1Qbh'/></portgroup>",
            ),
            "<vlan>",
        ),
    ];
    for m in ["private", "vepa", "passthrough", "hostdev", "bridge"] {
        let bandwidth = "<bandwidth><inbound average='1'/></bandwidth>";
        cases.push((mode(m, bandwidth), "<bandwidth>"));
        let group = format!("<portgroup name='g'>{bandwidth}</portgroup>");
        cases.push((mode(m, &group), "<bandwidth>"));
    }
    define_refuses(&cases);
}

fn nat_dhcp(elements: &str) -> String {
    network(&format!(
        "<forward/><ip address='10.0.0.1' prefix='24'><dhcp>{elements}</dhcp></ip>"
    ))
}

#[test]
fn define_accepts() {
    for text in [
        network("<bridge name='virbr%d'/>"),
        network("<bridge name='fifteen-bytes-x'/>"),
        network("<bridge name='fifteen-bytes-%d'/>"),
        mode(
            "bridge",
            "<bridge name='b'/><dns><forwarder addr='10.0.0.1'/></dns>",
        ),
        mode(
            "bridge",
            "<bridge name='b'/><bandwidth><inbound average='1'/></bandwidth>",
        ),
        mode("bridge", "<bridge name='b'/><vlan><tag id='1'/></vlan>"),
        mode(
            "bridge",
            "<virtualport type='openvswitch'/><vlan><tag id='1'/></vlan>",
        ),
        mode("hostdev", "<vlan><tag id='1'/></vlan>"),
        mode("passthrough", "<vlan><tag id='1'/></vlan>"),
    ] {
        assert_eq!(check_define(&parse(&text).unwrap()), Ok(()), "{text}");
    }
}

fn with_nat(children: &str) -> String {
    nat("").replace("<forward/>", &format!("<forward>{children}</forward>"))
}

/// What the NAT can be told is acted upon.
#[test]
fn start_takes_ranges_and_behaviours() {
    let netd_nat = |attributes: &str| {
        nat(&format!(
            "<metadata><n:nat xmlns:n='urn:netd:network:1' {attributes}/></metadata>"
        ))
    };
    for text in [
        nat("").replace("<network>", "<network ipv6='yes'>"),
        with_nat("<nat ipv6='yes'/>"),
        with_nat("<nat><address start='1.1.1.1' end='1.1.1.1'/></nat>"),
        with_nat("<nat><port start='1' end='2'/></nat>"),
        with_nat("<nat><port start='1024' end='1024'/></nat>"),
        netd_nat("mapping='address-and-port-dependent'"),
        netd_nat("mapping='endpoint-independent'"),
        netd_nat("mapping='endpoint-independent' filtering='address-dependent'"),
    ] {
        let network = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(check_define(&network), Ok(()), "{text}");
        assert_eq!(check_start(&network), Ok(()), "{text}");
    }
}

/// What is understood, but not acted upon: each must be named when the network is started.
#[test]
fn start_names_what_is_missing() {
    let cases = [
        (with_nat("<driver name='vfio'/>"), "<forward><driver>"),
        (
            nat("<domain name='d' localOnly='yes' register='yes'/>"),
            "<domain register>",
        ),
        (
            mode(
                "bridge",
                "<bridge name='b'/><bandwidth><inbound average='1'/></bandwidth>",
            ),
            "<bandwidth> of a network whose bridge is not netd's",
        ),
        (nat("<virtualport type='openvswitch'/>"), "<virtualport>"),
        (
            nat("<portgroup name='g'><virtualport type='midonet'/></portgroup>"),
            "<virtualport>",
        ),
        (
            mode("passthrough", "").replace("'/>", "'><pf dev='e0'/></forward>"),
            "<forward><pf>",
        ),
        (
            mode("vepa", "<port isolated='yes'/>").replace("'vepa'", "'vepa' dev='e0'"),
            "<port isolated='yes'>",
        ),
        (mode("bridge", ""), "without a host's <bridge>"),
        (mode("private", ""), "<forward mode='private'> without"),
        (mode("vepa", ""), "<forward mode='vepa'> without"),
        (mode("hostdev", ""), "<forward mode='hostdev'> without"),
    ];
    for (text, element) in cases {
        let network = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(check_define(&network), Ok(()), "{text}");
        let error = ApiError::from(check_start(&network).expect_err(element));
        assert_eq!(error.code, ErrorCode::ConfigUnsupported);
        assert!(error.message.contains(element), "{error}");
        assert!(error.message.contains("network 'net'"), "{error}");
        assert!(
            error.message.contains("remove it"),
            "more than {element}: {error}"
        );
    }
    let several =
        nat("<virtualport type='openvswitch'/><domain name='d' register='yes' localOnly='yes'/>");
    let error = check_start(&parse(&several).unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("<domain register>, <virtualport>"),
        "{error}"
    );
}

/// What guests' ports hand on to whoever runs the guests.
#[test]
fn what_ports_get_can_be_started() {
    let vlan = "<vlan><tag id='1'/></vlan>";
    for text in [
        nat("").replace("<network>", "<network trustGuestRxFilters='yes'>"),
        nat(
            "<portgroup name='g' default='yes'><bandwidth><inbound average='1'/></bandwidth>\
             </portgroup>",
        ),
        mode("bridge", &format!("<bridge name='b'/>{vlan}")),
        mode("private", "").replace("'private'", "'private' dev='e0'"),
        mode("vepa", "<virtualport type='802.1Qbh'/>").replace("'vepa'", "'vepa' dev='e0'"),
        mode("bridge", "").replace("'bridge'", "'bridge' dev='e0'"),
        mode("passthrough", vlan).replace("'passthrough'", "'passthrough' dev='e0'"),
        mode("hostdev", vlan).replacen(
            "'/>",
            "'><driver name='vfio'/><address type='pci' bus='1'/></forward>",
            1,
        ),
    ] {
        let network = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(check_start(&network), Ok(()), "{text}");
    }
}

#[test]
fn rates_can_be_started_and_not_be_taken_over() {
    for (limits, taken) in [
        ("<inbound average='100' peak='200' burst='50'/>", false),
        ("<outbound average='100'/>", false),
        ("<inbound average='0'/>", true),
        ("", true),
    ] {
        let network = parse(&nat(&format!("<bandwidth>{limits}</bandwidth>"))).unwrap();
        assert_eq!(check_start(&network), Ok(()), "{limits}");
        let refused = check_take_over(&network).map_err(|error| error.to_string());
        match taken {
            true => assert_eq!(refused, Ok(()), "{limits}"),
            false => assert!(refused.unwrap_err().contains("'net' runs with <bandwidth>")),
        }
    }
}

#[test]
fn start_refuses_values() {
    let v6 = |attributes: &str| nat(&format!("<ip family='ipv6' {attributes}/>"));
    let pool = |start, end| {
        with_nat(&format!(
            "<nat><address start='{start}' end='{end}'/></nat>"
        ))
    };
    for (text, words) in [
        (
            network("<ip address='10.0.0.1' prefix='24'/><ip address='10.0.0.1' prefix='25'/>"),
            "<ip>: 10.0.0.1 is given twice",
        ),
        (nat("<mtu size='67'/>"), "size='67'"),
        (nat("<mtu size='65536'/>"), "size='65536'"),
        (nat("<ip address='0.0.0.0'/>"), "0.0.0.0"),
        (nat("<ip address='224.0.0.1' prefix='24'/>"), "224.0.0.1"),
        (
            nat("<ip address='10.0.0.1' prefix='23' localPtr='yes'/>"),
            "not 23",
        ),
        (
            nat("<ip address='10.0.0.1' prefix='32' localPtr='yes'/>"),
            "not 32",
        ),
        (v6("address='::' prefix='64'"), "'::'"),
        (v6("address='::1' prefix='64'"), "'::1'"),
        (v6("address='ff02::1' prefix='64'"), "'ff02::1'"),
        (
            v6("address='::ffff:10.0.0.1' prefix='120'"),
            "::ffff:10.0.0.1",
        ),
        (
            v6("address='fd00::1' prefix='63' localPtr='yes'"),
            "multiple of 4, not 63",
        ),
        (
            v6("address='fd00::1' prefix='128' localPtr='yes'"),
            "below 128",
        ),
        (pool("0.0.0.0", "0.0.0.9"), "0.0.0.0, which no packet"),
        (pool("126.255.255.255", "127.0.0.1"), "127.0.0.1"),
        (pool("223.255.255.255", "224.0.0.1"), "224.0.0.1"),
        (pool("255.255.255.0", "255.255.255.255"), "255.255.255.0"),
        (
            pool("192.168.121.250", "192.168.122.0"),
            "overlaps 192.168.122.0/24",
        ),
        (
            pool("192.168.122.255", "192.168.123.9"),
            "overlaps 192.168.122.0/24",
        ),
        (
            with_nat("<nat><port start='0' end='9'/></nat>"),
            "holds port 0",
        ),
    ] {
        let network = parse(&text).unwrap();
        assert_eq!(check_define(&network), Ok(()), "{text}");
        let error = check_start(&network).unwrap_err();
        assert!(matches!(error, XmlError::Invalid(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn start_accepts() {
    for text in [
        network(""),
        network("<forward mode='none'/>"),
        network("<forward mode='open'/><ip address='10.0.0.1'/>"),
        network("<forward mode='bridge'/><bridge name='br0'/>"),
        network("<forward mode='route' dev='eth0'/><ip address='10.0.0.1'/>"),
        network(
            "<forward dev='eth0'><nat ipv6='no'><port start='1024' end='65535'/></nat></forward>\
             <ip address='10.0.0.1'/>",
        ),
        nat("<ip family='ipv6' address='fd00::1'/>"),
        network("<ip family='ipv6' address='fd00::1' prefix='48' localPtr='yes'/>"),
        nat("<bridge stp='off' delay='3' macTableManager='kernel'/><mtu size='9000'/>"),
        nat("").replace("name='br0'", "name='br0' macTableManager='libvirt'"),
        nat_dhcp("<bootp file='f'/>"),
        nat("<mac address='52:54:00:00:00:01'/><domain name='d' localOnly='yes'/>"),
        nat("<port isolated='no'/><metadata><a:b xmlns:a='urn:a'/></metadata>"),
        nat("<title>t</title><description>d\ne</description>"),
        nat(
            "<dns forwardPlainNames='no'><forwarder addr='10.0.0.9'/><txt name='a' value='b c'/>\
             <srv service='s' protocol='tcp' target='t'/>\
             <host ip='fd00::1'><hostname>a</hostname></host></dns>",
        ),
        nat_dhcp(
            "<range start='10.0.0.2' end='10.0.0.9'><lease expiry='3'/></range>\
             <host mac='52:54:00:00:00:01' ip='10.0.0.4'/><bootp file='f' server='10.0.0.5'/>",
        ),
        nat("<ip address='10.0.0.1' prefix='24' localPtr='yes'><tftp root='/srv'/></ip>"),
        nat(
            "<d:options xmlns:d='http://libvirt.org/schemas/network/dnsmasq/1.0'>\
             <d:option value='foo=bar'/></d:options>",
        ),
    ] {
        assert_eq!(check_start(&parse(&text).unwrap()), Ok(()), "{text}");
    }
}

/// In a `nat` network IPv6 is routed unless translation is asked for.
#[test]
fn families_have_modes_of_their_own() {
    use ForwardMode::{Nat, None, Open, Route};
    for (text, v4, v6) in [
        (nat(""), Nat, Route),
        (with_nat("<nat ipv6='no'/>"), Nat, Route),
        (with_nat("<nat ipv6='yes'/>"), Nat, Nat),
        (mode("route", "<ip address='10.0.0.1'/>"), Route, Route),
        (mode("open", ""), Open, Open),
        (network(""), None, None),
    ] {
        let network = parse(&text).unwrap();
        assert_eq!(network.mode_for(Family::Ipv4), v4, "{text}");
        assert_eq!(network.mode_for(Family::Ipv6), v6, "{text}");
    }
}

#[test]
fn ranges_of_nat() {
    let plain = parse(&nat("")).unwrap();
    assert_eq!(plain.nat_addresses(), None);
    assert_eq!(plain.nat_ports(), PortRange::UNPRIVILEGED);
    let network = parse(&with_nat(
        "<nat><address start='198.51.100.9' end='198.51.101.8'/>\
         <port start='500' end='600'/></nat>",
    ))
    .unwrap();
    assert_eq!(
        network.nat_ports(),
        PortRange {
            start: 500,
            end: 600
        }
    );
    let pool = network.nat_addresses().unwrap();
    assert_eq!(pool.count(), 256);
    for (address, prefix, overlaps) in [
        ("198.51.100.8", 32, false),
        ("198.51.100.9", 32, true),
        ("198.51.101.8", 32, true),
        ("198.51.101.9", 32, false),
        ("198.51.100.1", 24, true),
        ("198.51.99.1", 24, false),
        ("10.0.0.1", 0, true),
    ] {
        let found = pool.overlaps(address.parse().unwrap(), prefix);
        assert_eq!(found, overlaps, "{address}/{prefix}");
    }
}

#[test]
fn subnets_that_are_routed() {
    let network = parse(&nat(
        "<ip family='ipv6' address='2001:db8::1' prefix='64'/>\
         <ip family='ipv6' address='fe80::1' prefix='64'/>\
         <ip family='ipv6' address='fd00::1'/>",
    ))
    .unwrap();
    let subnets: Vec<_> = network.ipv6_subnets().collect();
    let expected = ["2001:db8::1", "fd00::1"].map(|a| (a.parse().unwrap(), 64));
    assert_eq!(subnets, expected);
    assert!(network.has(Family::Ipv4) && network.has(Family::Ipv6));
    assert!(!parse(&nat("")).unwrap().has(Family::Ipv6));
}
