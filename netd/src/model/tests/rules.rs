//! One line per rule: what is refused, where, and with which words.

use super::*;
use crate::api::{ApiError, ErrorCode};

/// Every text must be refused as wrong (not as unreadable), naming the network and the element.
pub(super) fn refused(cases: &[(String, &str)]) {
    for (text, words) in cases {
        match parse(text) {
            Ok(_) => panic!("accepted, though '{words}' was expected:\n{text}"),
            Err(error @ XmlError::Malformed(_)) => panic!("{error}\n{text}"),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains(words), "'{words}' is not in: {message}");
                // In these cases it is libvirt's text, letter by letter.
                let is_libvirts = matches!(
                    error,
                    XmlError::Range(_) | XmlError::Uuid | XmlError::NoName | XmlError::Name(_)
                );
                assert!(
                    is_libvirts || message.contains("'net'") || message.contains("forwarding type"),
                    "{message}"
                );
            }
        }
    }
}

pub(super) fn accepted(cases: &[String]) {
    for text in cases {
        let network = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let again = format(&network, FormatOptions::default());
        assert_eq!(parse(&again), Ok(network), "{again}");
    }
}

#[test]
fn the_root() {
    for (text, words) in [
        (
            "<domain><name>n</name></domain>",
            "XML error: expecting root element of 'network', not 'domain'",
        ),
        ("<network/>", "missing name information"),
        ("<network><name/></network>", "missing name information"),
        (
            "<network xmlns='urn:x'><name>n</name></network>",
            "missing name information",
        ),
    ] {
        let error = ApiError::from(parse(text).unwrap_err());
        assert_eq!(error.message, words);
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
        (network("<uuid>123</uuid>"), "malformed uuid element"),
        (
            network("<uuid>81ff0d90-c91e-6742-64da-4a736edb9a9bff</uuid>"),
            "malformed uuid element",
        ),
        (
            network("<uuid>zzff0d90-c91e-6742-64da-4a736edb9a9b</uuid>"),
            "malformed uuid element",
        ),
        (network("<title>one\ntwo</title>"), "<title>"),
        (network("<portgroup name=''/>"), "name"),
        (
            network("<dns><forwarder port='53'/></dns>"),
            "one of addr and domain",
        ),
        (
            network("<dns><forwarder addr='192.0.2.1' port='0'/></dns>"),
            "port='0'",
        ),
        (
            network("<dns><forwarder addr='192.0.2.1' port='65536'/></dns>"),
            "port='65536'",
        ),
        (
            network("<forward mode='hostdev'><driver name='vfio' iommufd='x'/></forward>"),
            "iommufd",
        ),
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
    assert!(!parse(&network("")).unwrap().has_uuid());
    let zeros = "<uuid>00000000-0000-0000-0000-000000000000</uuid>";
    let zeros = parse(&network(zeros)).unwrap();
    assert!(zeros.has_uuid() && zeros.uuid.is_nil());
    let text = format(&zeros, FormatOptions::default());
    assert!(
        text.contains("<uuid>00000000-0000-0000-0000-000000000000</uuid>"),
        "{text}"
    );
    assert_eq!(parse(&text), Ok(zeros));
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

/// A network with this `<forward>`.
fn forward(attributes: &str, children: &str) -> String {
    let ip = "<ip address='10.0.0.1' prefix='24'/>";
    network(&format!("<forward {attributes}>{children}</forward>{ip}"))
}

/// The address of a PCI device.
const PCI: &str = "<address type='pci' bus='3'/>";

#[test]
fn forward_devices() {
    let two = "<interface dev='a'/><interface dev='b'/>";
    refused(&[
        (
            forward("mode='tunnel'", ""),
            "unknown forwarding type 'tunnel'",
        ),
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
        (forward("mode='hostdev' dev='a'", PCI), "<address> or <pf>"),
        (
            forward("mode='vepa' dev='a'", "<pf dev='b'/>"),
            "<address> or <pf>",
        ),
        (
            forward("mode='vepa'", "<pf dev='a'/><pf dev='b'/>"),
            "once only",
        ),
        (forward("mode='vepa'", "<pf/>"), "'dev' is missing"),
        (mode_bridge_with("dev='a'", ""), "not both"),
        (mode_bridge_with("", "<pf dev='a'/>"), "not both"),
    ]);
    accepted(&[
        forward("dev='a'", "<interface dev='a'/>"),
        forward("mode='vepa'", two),
        forward("mode='none'", ""),
        network("<forward mode='bridge'/>"),
    ]);
}

#[test]
fn forward_pci_devices() {
    refused(&[
        (
            forward("mode='hostdev'", "<address bus='3'/>"),
            "'type' is missing",
        ),
        (
            forward("mode='hostdev'", "<address type='usb'/>"),
            "type='usb'",
        ),
        (forward("mode='hostdev'", &format!("{PCI}{PCI}")), "twice"),
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
    ]);
    accepted(&[
        forward("mode='hostdev' managed='YES'", PCI),
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

/// A network with a port group that holds this.
fn group(children: &str) -> String {
    network(&format!("<portgroup name='g'>{children}</portgroup>"))
}

#[test]
fn vlans() {
    let tags = "<tag id='1'/><tag id='2'/>";
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
    ]);
    accepted(&[
        network("<vlan trunk='YES'><tag id='4095' nativeMode='untagged'/></vlan>"),
        network("<vlan trunk='no'><tag id='1'/></vlan>"),
    ]);
}

#[test]
fn bandwidth_and_port_groups() {
    refused(&[
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
    ]);
    accepted(&[
        network("<bandwidth/>"),
        network("<bandwidth><inbound average='0' peak='0'/></bandwidth>"),
        network("<portgroup name='g' default='YES'/>"),
    ]);
}

#[test]
fn virtual_ports() {
    let ovs = "<virtualport type='openvswitch'>";
    refused(&[
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
    ]);
    accepted(&[group("<virtualport/>")]);
}

#[test]
fn dnsmasq_options() {
    let options = |inside: &str| {
        network(&format!(
            "<d:options xmlns:d='http://libvirt.org/schemas/network/dnsmasq/1.0'>{inside}</d:options>"
        ))
    };
    refused(&[(options("<d:option/>"), "'value' is missing")]);
    accepted(&[options(""), options("<d:option value='a'/><other/>")]);
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
