//! One line per rule about addresses and what is handed out with them: DHCP, DNS, routes.

use super::rules::{accepted, refused};
use super::*;

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
            "range 10.0.0.9 - 10.0.1.9 is not entirely within network 10.0.0.1/24",
        ),
        (
            dhcp("<range start='10.1.0.8' end='10.1.0.9'/>"),
            "not entirely within",
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
            "not entirely within",
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
