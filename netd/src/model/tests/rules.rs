//! One line per rule: what is refused, where, and with which words.

use super::*;
use crate::api::{ApiError, ErrorCode};

/// Every text must be refused as wrong (not as unreadable), naming the network and the element.
fn refused(cases: &[(String, &str)]) {
    for (text, words) in cases {
        match parse(text) {
            Ok(_) => panic!("accepted, though '{words}' was expected:\n{text}"),
            Err(XmlError::Invalid(message)) => {
                assert!(message.contains(words), "'{words}' is not in: {message}");
                assert!(message.contains("'net'"), "{message}");
            }
            Err(error) => panic!("{error}\n{text}"),
        }
    }
}

fn accepted(cases: &[String]) {
    for text in cases {
        let network = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let again = format(&network, FormatOptions::default());
        assert_eq!(parse(&again), Ok(network), "{again}");
    }
}

fn dhcp(elements: &str) -> String {
    network(&format!(
        "<ip address='10.0.0.1' prefix='24'><dhcp>{elements}</dhcp></ip>"
    ))
}

fn dhcp6(elements: &str) -> String {
    network(&format!(
        "<ip family='ipv6' address='fd00::1' prefix='64'><dhcp>{elements}</dhcp></ip>"
    ))
}

fn route(attributes: &str) -> String {
    network(&format!(
        "<ip address='10.0.0.1' prefix='24'/><ip family='ipv6' address='fd00::1' prefix='64'/>\
         <route {attributes}/>"
    ))
}

#[test]
fn the_root() {
    for (text, words) in [
        ("<domain><name>n</name></domain>", "not <network>"),
        ("<network/>", "no <name>"),
        ("<network><name/></network>", "no <name>"),
        (
            "<network xmlns='urn:x'><name>n</name></network>",
            "no <name>",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(ApiError::from(error).code, ErrorCode::Xml);
    }
    assert!(parse("<network><name>a/b</name></network>").is_err());
    refused(&[
        (
            "<network ipv6='maybe'><name>net</name></network>".into(),
            "ipv6='maybe'",
        ),
        (
            "<network trustGuestRxFilters='1'><name>net</name></network>".into(),
            "trustGuestRxFilters",
        ),
        (network("<uuid>123</uuid>"), "<uuid>"),
        (
            network("<uuid>81ff0d90-c91e-6742-64da-4a736edb9a9bff</uuid>"),
            "<uuid>",
        ),
        (
            network("<uuid>zzff0d90-c91e-6742-64da-4a736edb9a9b</uuid>"),
            "<uuid>",
        ),
        (network("<title>one\ntwo</title>"), "<title>"),
    ]);
    let plain = parse(&network(
        "<uuid>81ff0d90-c91e-6742-64da-4a736edb9a9b</uuid>",
    ))
    .unwrap();
    for text in [
        "81ff0d90c91e674264da4a736edb9a9b",
        " 81FF 0d90-c91e-6742-64-da-4a736edb9a9b\n",
    ] {
        assert_eq!(
            parse(&network(&format!("<uuid>{text}</uuid>"))).unwrap(),
            plain
        );
    }
    assert!(parse(&network("")).unwrap().uuid.is_nil());
}

#[test]
fn bridge_mac_mtu_and_domain() {
    let mut cases = vec![
        (network("<bridge delay='soon'/>"), "delay='soon'"),
        (network("<bridge delay='-1'/>"), "delay='-1'"),
        (
            network("<bridge macTableManager='me'/>"),
            "macTableManager='me'",
        ),
        (network("<mac address='52:54:00:00:00'/>"), "<mac>"),
        (network("<mac address='01:00:5e:00:00:01'/>"), "multicast"),
        (network("<mtu size='big'/>"), "size='big'"),
        (network("<domain name='d' localOnly='1'/>"), "localOnly"),
        (network("<domain name='d' register='1'/>"), "register"),
        (
            network("<domain name='d' register='yes'/>"),
            "localOnly='yes'",
        ),
        (
            network("<domain register='yes' localOnly='no'/>"),
            "localOnly='yes'",
        ),
        (mode("bridge", "<bridge name='b' stp='on'/>"), "stp"),
        (mode("bridge", "<bridge name='b' delay='1'/>"), "delay"),
        (mode("bridge", "<bridge name='b' zone='z'/>"), "zone"),
        (mode("bridge", "<mtu size='1400'/>"), "<mtu>"),
    ];
    for m in ["private", "vepa", "passthrough", "hostdev"] {
        cases.extend([
            (mode(m, "<bridge name='b'/>"), "name"),
            (
                mode(m, "<bridge macTableManager='kernel'/>"),
                "macTableManager",
            ),
            (mode(m, "<bridge stp='off'/>"), "stp"),
            (mode(m, "<bridge delay='1'/>"), "delay"),
            (mode(m, "<bridge zone='z'/>"), "zone"),
            (mode(m, "<mtu size='1400'/>"), "<mtu>"),
        ]);
    }
    refused(&cases);
    accepted(&[
        network("<bridge stp='sideways' delay='0'/>"),
        network("<bridge name='virbr%d' zone='z' macTableManager='libvirt'/>"),
        network("<domain name='d' localOnly='yes' register='yes'/>"),
        network("<domain localOnly='yes'/>"),
        network("<mtu size='0'/>"),
        mode(
            "bridge",
            "<bridge name='b' delay='0' macTableManager='libvirt'/><mtu size='0'/>",
        ),
    ]);
}

#[test]
fn forward_devices() {
    let ip = "<ip address='10.0.0.1' prefix='24'/>";
    let forward = |attributes: &str, children: &str| {
        network(&format!("<forward {attributes}>{children}</forward>{ip}"))
    };
    let two = "<interface dev='a'/><interface dev='b'/>";
    let pci = "<address type='pci' bus='3'/>";
    refused(&[
        (forward("mode='tunnel'", ""), "mode='tunnel'"),
        (network("<forward/>"), "needs at least one <ip>"),
        (
            network("<forward mode='route'/>"),
            "needs at least one <ip>",
        ),
        (forward("", two), "one device"),
        (forward("mode='route' dev='a'", two), "one device"),
        (forward("mode='open' dev='a'", ""), "no device"),
        (forward("mode='open'", "<interface dev='a'/>"), "no device"),
        (
            forward("dev='a'", "<interface dev='b'/>"),
            "first <interface>",
        ),
        (forward("mode='vepa'", "<interface/>"), "'dev' is missing"),
        (
            forward("mode='vepa'", "<interface dev='a'/><interface dev='a'/>"),
            "twice",
        ),
        (
            forward(
                "mode='vepa' dev='a'",
                "<interface dev='a'/><interface dev='a'/>",
            ),
            "twice",
        ),
        (forward("mode='hostdev' dev='a'", pci), "<address> or <pf>"),
        (
            forward("mode='vepa' dev='a'", "<pf dev='b'/>"),
            "<address> or <pf>",
        ),
        (
            forward("mode='vepa'", "<pf dev='a'/><pf dev='b'/>"),
            "once only",
        ),
        (forward("mode='vepa'", "<pf/>"), "'dev' is missing"),
        (
            forward("mode='hostdev'", "<address bus='3'/>"),
            "'type' is missing",
        ),
        (
            forward("mode='hostdev'", "<address type='usb'/>"),
            "type='usb'",
        ),
        (forward("mode='hostdev'", &format!("{pci}{pci}")), "twice"),
        (
            forward("mode='hostdev'", "<address type='pci'/>"),
            "must not be zero",
        ),
        (
            forward("mode='hostdev'", "<address type='pci' bus='0x100'/>"),
            "bus",
        ),
        (
            forward("mode='hostdev'", "<address type='pci' slot='0x20'/>"),
            "slot",
        ),
        (
            forward(
                "mode='hostdev'",
                "<address type='pci' bus='1' function='8'/>",
            ),
            "function",
        ),
        (
            forward("mode='hostdev'", "<driver name='uio'/>"),
            "name='uio'",
        ),
        (mode_bridge_with("dev='a'", ""), "not both"),
        (mode_bridge_with("", "<pf dev='a'/>"), "not both"),
    ]);
    accepted(&[
        forward("dev='a'", "<interface dev='a'/>"),
        forward("mode='vepa'", two),
        forward("mode='none'", ""),
        network("<forward mode='bridge'/>"),
        forward("mode='hostdev' managed='YES'", pci),
        forward(
            "mode='hostdev'",
            "<driver name='vfio' model='m'/><pf dev='a'/>",
        ),
    ]);
    let octal = parse(&forward(
        "mode='hostdev'",
        "<address type='pci' bus='010' slot='0x1F'/>",
    ));
    let address = octal.unwrap().forward.unwrap().addresses[0];
    assert_eq!((address.bus, address.slot), (8, 31));
}

fn mode_bridge_with(attributes: &str, children: &str) -> String {
    network(&format!(
        "<forward mode='bridge' {attributes}>{children}</forward><bridge name='b'/>"
    ))
}

#[test]
fn nat_ranges() {
    let with = |children: &str| {
        network(&format!(
            "<forward>{children}</forward><ip address='10.0.0.1' prefix='24'/>"
        ))
    };
    let inside = |child: &str| with(&format!("<nat>{child}</nat>"));
    refused(&[
        (with("<nat/><nat/>"), "once only"),
        (with("<nat ipv6='1'/>"), "ipv6='1'"),
        (
            mode("open", "").replace("'open'/>", "'open'><nat/></forward>"),
            "mode='nat'",
        ),
        (
            inside("<address start='1.1.1.1' end='1.1.1.2'/><address/>"),
            "once only",
        ),
        (inside("<address start='1.1.1.1'/>"), "'end' is missing"),
        (inside("<address end='1.1.1.1'/>"), "'start' is missing"),
        (inside("<address start='fd00::1' end='fd00::2'/>"), "IPv4"),
        (
            inside("<address start='1.1.1.2' end='1.1.1.1'/>"),
            "backwards",
        ),
        (inside("<address start='1.1.0.0' end='1.2.0.0'/>"), "65536"),
        (inside("<port start='1' end='2'/><port/>"), "once only"),
        (inside("<port start='1'/>"), "'end' is missing"),
        (inside("<port start='1' end='65536'/>"), "end='65536'"),
        (inside("<port start='2' end='1'/>"), "backwards"),
    ]);
    accepted(&[
        with("<nat/>"),
        with("<nat ipv6='no'/>"),
        inside("<address start='1.1.0.0' end='1.1.255.255'/><port start='1' end='1'/>"),
    ]);
}

#[test]
fn ip_addresses() {
    let ip = |attributes: &str| network(&format!("<ip {attributes}/>"));
    refused(&[
        (ip(""), "'address' is missing"),
        (ip("address=''"), "address=''"),
        (ip("address='10.0.0'"), "address='10.0.0'"),
        (ip("address='10.0.0.1' family='inet'"), "family='inet'"),
        (ip("address='fd00::1' prefix='64'"), "family='ipv6'"),
        (ip("address='10.0.0.1' family='ipv6'"), "family='ipv6'"),
        (
            ip("address='10.0.0.1' prefix='24' netmask='255.255.255.0'"),
            "not both",
        ),
        (ip("address='10.0.0.1' prefix='33'"), "at most 32"),
        (ip("address='10.0.0.1' prefix='-1'"), "prefix='-1'"),
        (
            ip("address='fd00::1' family='ipv6' prefix='129'"),
            "at most 128",
        ),
        (
            ip("address='fd00::1' family='ipv6' netmask='ffff::'"),
            "not a netmask",
        ),
        (
            ip("address='10.0.0.1' netmask='255.0.255.0'"),
            "without holes",
        ),
        (ip("address='10.0.0.1' netmask='ffff::'"), "netmask"),
        (ip("address='224.0.0.1'"), "class"),
        (ip("address='240.0.0.1'"), "class"),
        (ip("address='10.0.0.1' localPtr='on'"), "localPtr"),
        (
            network("<ip family='ipv6' address='fd00::1'><tftp root='/r'/></ip>"),
            "<tftp> in <ip>",
        ),
    ]);
    accepted(&[
        ip("address='10.0.0.1' prefix='0' netmask='255.255.255.0'"),
        ip("address='10.0.0.1' prefix='0'"),
        ip("address='fd00::1' family='ipv6'"),
        ip("address='0.0.0.0'"),
    ]);
    for (attributes, prefix) in [
        ("address='10.0.0.1'", 8),
        ("address='172.16.0.1'", 16),
        ("address='192.168.0.1'", 24),
        ("address='0.0.0.0'", 0),
        ("address='10.0.0.1' netmask='255.255.254.0'", 23),
        ("address='fd00::1' family='ipv6'", 64),
        ("address='::' family='ipv6'", 0),
    ] {
        assert_eq!(parse(&ip(attributes)).unwrap().ips[0].prefix_len(), prefix);
    }
    let both = parse(&network(
        "<ip address='10.0.0.1'/><ip family='ipv6' address='fd00::1'/>",
    ));
    let subnets: Vec<_> = both.unwrap().ipv4_subnets().collect();
    assert_eq!(subnets, [("10.0.0.1".parse().unwrap(), 8)]);
}

#[test]
fn dhcp_ranges() {
    refused(&[
        (dhcp("<range end='10.0.0.9'/>"), "'start' is missing"),
        (dhcp("<range start='10.0.0.9'/>"), "'end' is missing"),
        (dhcp("<range start='x' end='10.0.0.9'/>"), "start='x'"),
        (
            dhcp("<range start='10.0.0.9' end='10.0.0.8'/>"),
            "backwards",
        ),
        (
            dhcp("<range start='10.0.0.9' end='10.0.1.9'/>"),
            "not within 10.0.0.0/24",
        ),
        (
            dhcp("<range start='10.1.0.8' end='10.1.0.9'/>"),
            "not within",
        ),
        (
            dhcp("<range start='10.0.0.0' end='10.0.0.9'/>"),
            "network itself",
        ),
        (
            dhcp("<range start='10.0.0.9' end='10.0.0.255'/>"),
            "broadcast",
        ),
        (dhcp("<range start='fd00::1' end='fd00::2'/>"), "family"),
        (dhcp6("<range start='10.0.0.1' end='10.0.0.2'/>"), "family"),
        (
            dhcp6("<range start='fd00::1:1' end='fd00::2:1'/>"),
            "16 bits",
        ),
        (
            dhcp6("<range start='fd01::1' end='fd01::2'/>"),
            "not within",
        ),
        (
            dhcp("<range start='10.0.0.2' end='10.0.0.9'/>")
                .replace("prefix='24'", "prefix='8'")
                .replace("10.0.0.9", "10.9.0.9"),
            "65536",
        ),
    ]);
    accepted(&[
        dhcp("<range start='10.0.0.1' end='10.0.0.254'/>"),
        dhcp("<range start='10.0.0.9' end='10.0.0.9'/>"),
        dhcp6("<range start='fd00::' end='fd00::ffff'/>"),
    ]);
}

#[test]
fn dhcp_hosts_leases_and_bootp() {
    let mac = "mac='52:54:00:00:00:01'";
    let leased = |lease: &str| {
        dhcp(&format!(
            "<range start='10.0.0.2' end='10.0.0.9'>{lease}</range>"
        ))
    };
    refused(&[
        (dhcp("<host ip='10.0.0.2'/>"), "mac and name"),
        (dhcp(&format!("<host {mac}/>")), "'ip' is missing"),
        (dhcp(&format!("<host {mac} ip='here'/>")), "ip='here'"),
        (dhcp("<host mac='x' ip='10.0.0.2'/>"), "mac='x'"),
        (
            dhcp("<host mac=' 52:54:00:00:00:01' ip='10.0.0.2'/>"),
            "mac=",
        ),
        (
            dhcp("<host mac='33:33:00:00:00:01' ip='10.0.0.2'/>"),
            "multicast",
        ),
        (dhcp("<host name='-a' ip='10.0.0.2'/>"), "name='-a'"),
        (dhcp("<host name='' ip='10.0.0.2'/>"), "name=''"),
        (dhcp6(&format!("<host {mac} ip='fd00::2'/>")), "not by mac"),
        (dhcp6("<host ip='fd00::2'/>"), "id and name"),
        (dhcp6("<host id='0:g' ip='fd00::2'/>"), "id='0:g'"),
        (dhcp6("<host name='a'/>"), "'ip' is missing"),
        (
            leased("<lease expiry='119' unit='seconds'/>"),
            "two minutes",
        ),
        (leased("<lease expiry='1'/>"), "two minutes"),
        (leased("<lease expiry='1' unit='days'/>"), "unit='days'"),
        (leased("<lease expiry='-1'/>"), "expiry='-1'"),
        (leased("<lease expiry='4294967296'/>"), "expiry"),
        (
            dhcp(&format!(
                "<host {mac} ip='10.0.0.2'><lease expiry='1'/></host>"
            )),
            "two minutes",
        ),
        (dhcp("<bootp/>"), "'file' is missing"),
        (dhcp("<bootp file='f' server='me'/>"), "server='me'"),
    ]);
    accepted(&[
        dhcp(&format!(
            "<host {mac} ip='10.9.9.9'/><host name='1a' ip='10.0.0.2'/>"
        )),
        dhcp6("<host id='0:1:ab' ip='fd00::2'/><bootp/>"),
        leased("<lease expiry='0' unit='hours'/>"),
        leased("<lease expiry='120' unit='seconds'/>"),
        leased("<lease expiry='2'/>"),
        leased("<lease unit='hours'/>"),
    ]);
}

#[test]
fn dns_records() {
    let dns = |children: &str| network(&format!("<dns>{children}</dns>"));
    let long = "s".repeat(483);
    let long = dns(&format!("<srv service='{long}' protocol='tcp'/>"));
    let mut cases = vec![
        (network("<dns enable='1'/>"), "enable='1'"),
        (network("<dns forwardPlainNames='1'/>"), "forwardPlainNames"),
        (dns("<forwarder/>"), "addr and domain"),
        (dns("<forwarder addr='ns.example.com'/>"), "addr="),
        (dns("<txt value='v'/>"), "'name' is missing"),
        (dns("<txt name='n'/>"), "'value' is missing"),
        (dns("<txt name='a b' value='v'/>"), "name='a b'"),
        (dns("<txt name='a,b' value='v'/>"), "name='a,b'"),
        (dns("<srv protocol='tcp'/>"), "'service' is missing"),
        (dns("<srv service='s'/>"), "'protocol' is missing"),
        (dns("<srv service='a.b' protocol='tcp'/>"), "service='a.b'"),
        (dns("<srv service='s' protocol='t_p'/>"), "protocol='t_p'"),
        (long, "482"),
        (dns("<srv service='s' protocol='tcp' port='1'/>"), "target"),
        (
            dns("<srv service='s' protocol='tcp' priority='1'/>"),
            "target",
        ),
        (
            dns("<srv service='s' protocol='tcp' weight='1'/>"),
            "target",
        ),
        (
            dns("<srv service='s' protocol='tcp' target='t' port='0'/>"),
            "port='0'",
        ),
        (
            dns("<srv service='s' protocol='tcp' target='t' port='65536'/>"),
            "port",
        ),
        (
            dns("<srv service='s' protocol='tcp' target='t' weight='65536'/>"),
            "weight",
        ),
        (
            dns("<host><hostname>a</hostname></host>"),
            "'ip' is missing",
        ),
        (dns("<host ip='x'><hostname>a</hostname></host>"), "ip='x'"),
        (dns("<host ip='10.0.0.1'/>"), "at least one <hostname>"),
        (dns("<host ip='10.0.0.1'><hostname/></host>"), "empty"),
    ];
    for child in [
        "<forwarder addr='10.0.0.1'/>",
        "<txt name='n' value='v'/>",
        "<srv service='s' protocol='tcp'/>",
        "<host ip='10.0.0.1'><hostname>a</hostname></host>",
    ] {
        cases.push((
            network(&format!("<dns enable='no'>{child}</dns>")),
            "enable='no'",
        ));
    }
    refused(&cases);
    accepted(&[
        dns(""),
        network("<dns enable='no' forwardPlainNames='yes'/>"),
        dns("<forwarder domain='d'/><forwarder addr='fd00::1'/>"),
        dns("<srv service='_s+/*-' protocol='t+/-' target='t' port='1' priority='0' weight='0'/>"),
    ]);
}

#[test]
fn routes() {
    refused(&[
        (route("gateway='10.0.0.2'"), "'address' is missing"),
        (
            route("address='10.1.0.0' prefix='16'"),
            "'gateway' is missing",
        ),
        (
            route("address='10.1.0.0' prefix='16' gateway='10.2.0.1'"),
            "within the subnet",
        ),
        (
            route("address='10.1.0.0' prefix='16' gateway='fd00::2'"),
            "gateway",
        ),
        (
            route("address='10.1.0.1' prefix='16' gateway='10.0.0.2'"),
            "network address",
        ),
        (
            route("address='10.1.0.0' gateway='10.0.0.2'"),
            "network address",
        ),
        (
            route("address='10.1.0.0' prefix='16' gateway='10.0.0.2' metric='0'"),
            "metric",
        ),
        (
            route("address='10.1.0.0' prefix='33' gateway='10.0.0.2'"),
            "prefix",
        ),
        (
            route("address='10.1.0.0' prefix='16' netmask='255.255.0.0' gateway='10.0.0.2'"),
            "not both",
        ),
        (
            route("address='fd01::' prefix='64' gateway='fd00::2'"),
            "family='ipv6'",
        ),
        (
            route("family='ipv6' address='fd01::' netmask='ffff::' gateway='fd00::2'"),
            "netmask",
        ),
    ]);
    accepted(&[
        route("address='10.1.0.0' prefix='16' gateway='10.0.0.2' metric='7'"),
        route("address='10.1.0.0' netmask='255.255.0.0' gateway='10.0.0.2'"),
        route("address='0.0.0.0' gateway='10.0.0.2'"),
        route("address='0.0.0.0' prefix='0' gateway='10.0.0.2'"),
        route("family='ipv6' address='fd01::' prefix='64' gateway='fd00::2'"),
    ]);
}

#[test]
fn ports_groups_and_options() {
    let group = |children: &str| network(&format!("<portgroup name='g'>{children}</portgroup>"));
    let tags = "<tag id='1'/><tag id='2'/>";
    let ovs = "<virtualport type='openvswitch'>";
    let options = |inside: &str| {
        network(&format!(
            "<d:options xmlns:d='http://libvirt.org/schemas/network/dnsmasq/1.0'>{inside}</d:options>"
        ))
    };
    refused(&[
        (network("<vlan/>"), "at least one <tag>"),
        (network("<vlan><tag/></vlan>"), "'id' is missing"),
        (network("<vlan><tag id='4096'/></vlan>"), "id='4096'"),
        (
            network(&format!("<vlan trunk='no'>{tags}</vlan>")),
            "trunk='no'",
        ),
        (
            network(&format!("<vlan trunk='maybe'>{tags}</vlan>")),
            "trunk='maybe'",
        ),
        (
            network("<vlan trunk='no'><tag id='1' nativeMode='tagged'/></vlan>"),
            "trunk",
        ),
        (
            network("<vlan><tag id='1' nativeMode='x'/></vlan>"),
            "nativeMode='x'",
        ),
        (
            network(
                "<vlan><tag id='1' nativeMode='tagged'/><tag id='2' nativeMode='untagged'/></vlan>",
            ),
            "only one <tag>",
        ),
        (
            network("<bandwidth><inbound/></bandwidth>"),
            "'average' is missing",
        ),
        (
            network("<bandwidth><inbound peak='1'/></bandwidth>"),
            "'average' is missing",
        ),
        (
            network("<bandwidth><outbound average='x'/></bandwidth>"),
            "average='x'",
        ),
        (
            network("<bandwidth><inbound average='1' floor='1'/></bandwidth>"),
            "floor",
        ),
        (
            group("<bandwidth><outbound average='1' floor='1'/></bandwidth>"),
            "floor",
        ),
        (
            network("<bandwidth><inbound average='1'/><inbound average='1'/></bandwidth>"),
            "once only",
        ),
        (network("<bandwidth classID='1'/>"), "classID"),
        (network("<portgroup/>"), "'name' is missing"),
        (
            network("<portgroup name='g' trustGuestRxFilters='1'/>"),
            "trustGuestRxFilters",
        ),
        (network("<port isolated='1'/>"), "isolated='1'"),
        (network("<virtualport/>"), "'type' is missing"),
        (network("<virtualport type='vmware'/>"), "type='vmware'"),
        (group("<virtualport type='vmware'/>"), "type='vmware'"),
        (
            group("<virtualport><parameters managerid='256'/></virtualport>"),
            "managerid",
        ),
        (
            group("<virtualport><parameters typeid='16777216'/></virtualport>"),
            "typeid",
        ),
        (
            group("<virtualport><parameters typeidversion='256'/></virtualport>"),
            "typeidversion",
        ),
        (
            group("<virtualport><parameters instanceid='1'/></virtualport>"),
            "instanceid",
        ),
        (
            group("<virtualport><parameters interfaceid='1'/></virtualport>"),
            "interfaceid",
        ),
        (
            group(&format!(
                "<virtualport><parameters profileid='{}'/></virtualport>",
                "p".repeat(40)
            )),
            "profileid",
        ),
        (
            network(&format!("{ovs}<parameters managerid='1'/></virtualport>")),
            "managerid",
        ),
        (options("<d:option/>"), "'value' is missing"),
    ]);
    accepted(&[
        network("<vlan trunk='YES'><tag id='4095' nativeMode='untagged'/></vlan>"),
        network("<vlan trunk='no'><tag id='1'/></vlan>"),
        network("<bandwidth/>"),
        network("<bandwidth><inbound average='0' peak='0'/></bandwidth>"),
        network("<portgroup name='' default='YES'/>"),
        group("<virtualport/>"),
        options(""),
        options("<d:option value='a'/><other/>"),
    ]);
    // Without the namespace it is an element nobody knows.
    let stranger = parse(&network("<options><option value='a'/></options>")).unwrap();
    assert!(stranger.dnsmasq_options.is_empty());
}

#[test]
fn errors_say_where() {
    let text = "<network>\n<name>net</name>\n<ip address='10.0.0.1'>\n<dhcp>\n<host/>\n\
                </dhcp></ip></network>";
    assert_eq!(
        parse(text).unwrap_err().to_string(),
        "network 'net', line 5, <host> in <dhcp>: one of mac and name must be given"
    );
    let error = ApiError::from(parse(text).unwrap_err());
    assert_eq!(error.code, ErrorCode::Xml);
    assert!(error.message.starts_with("XML error: network"), "{error}");
}
