//! Port forwards that are refused, and with which words.

use super::port_forward::read;
use super::*;

/// A forward with these ranges.
fn publishing(ranges: &str) -> String {
    format!("<n:portForward proto='tcp' guest='192.168.122.9'>{ranges}</n:portForward>")
}

/// A forward of one port with these attributes.
fn with_attributes(attributes: &str) -> String {
    format!("<n:portForward {attributes}><n:range start='1'/></n:portForward>")
}

/// All of the forwards must be refused with these words.
fn says(cases: &[(String, &str)]) {
    for (forwards, words) in cases {
        let error = read(forwards).expect_err(forwards);
        assert!(matches!(error, XmlError::Invalid(_)), "{error:?}");
        let error = error.to_string();
        assert!(error.starts_with("network 'net', <netd:"), "{error}");
        assert!(error.contains(words), "{error}");
        assert!(error.len() < 1000, "{error}");
    }
}

#[test]
fn what_is_wrong_with_ranges_is_said() {
    says(&[
        ("<n:nat/>".to_owned(), "is not a <portForward> of urn:netd"),
        ("text".to_owned(), "holds no text"),
        (publishing(""), "publishes no port; give it a <netd:range>"),
        (publishing("<n:port/>"), "is not a <range> of urn:netd"),
        (
            publishing("<range start='1'/>"),
            "is not a <range> of urn:netd",
        ),
        (
            publishing("<n:range/>"),
            "needs the attribute start (forward 1)",
        ),
        (
            publishing("<n:range start='0'/>"),
            "start='0' should be a port from 1 to 65535",
        ),
        (
            publishing("<n:range start='65536'/>"),
            "start='65536' should be",
        ),
        (publishing("<n:range start='+1'/>"), "start='+1' should be"),
        (publishing("<n:range start=''/>"), "start='' should be"),
        (
            publishing("<n:range start='1' to='0'/>"),
            "to='0' should be",
        ),
        (
            publishing("<n:range start='9' end='8'/>"),
            "end='8' is before start='9'",
        ),
        (
            publishing("<n:range start='1' end='3' to='65534'/>"),
            "to='65534' leads beyond port 65535 for 1 to 3",
        ),
        (
            publishing("<n:range start='1'><n:x/></n:range>"),
            "has no child <x>",
        ),
        (
            publishing("<n:range start='1' exclude='maybe'/>"),
            "exclude='maybe' should be yes or no",
        ),
        (
            publishing("<n:range start='1' to='2' exclude='yes'/>"),
            "to has no meaning beside exclude='yes'",
        ),
        (
            publishing("<n:range start='1' ende='2'/>"),
            "has no attribute 'ende'; it takes start, end, to and exclude",
        ),
        (
            publishing("<n:range start='1' end='5'/><n:range start='5'/>"),
            "the ranges 1-5 and 5 overlap",
        ),
        (
            publishing("<n:range start='1' end='5'/><n:range start='5' end='6' exclude='yes'/>"),
            "5-6 is not within one of the ranges",
        ),
        (
            publishing("<n:range start='5' exclude='yes'/>"),
            "5 is not within one",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_a_scope_is_said() {
    says(&[
        (with_attributes("guest='web'"), "needs the attribute proto"),
        (with_attributes("proto='tcp'"), "needs the attribute guest"),
        (
            with_attributes("proto='icmp' guest='web'"),
            "proto='icmp' should be tcp, udp, sctp or all",
        ),
        (
            with_attributes("proto='tcp' guest='web' port='1'"),
            "has no attribute 'port'; it takes proto, address, dev and guest",
        ),
        (
            with_attributes("proto='tcp' guest='web' address='1.2.3.4' dev='eth0'"),
            "address and dev exclude each other",
        ),
        (
            with_attributes("proto='tcp' guest='web' address='1.2.3'"),
            "is not an IPv4 or IPv6 address",
        ),
        (
            with_attributes("proto='tcp' guest='web' address='0.0.0.0'"),
            "leave it out for all",
        ),
        (
            with_attributes("proto='tcp' guest='web' address='ff02::1'"),
            "one host's alone",
        ),
        (
            with_attributes("proto='tcp' guest='web' address='fe80::1'"),
            "one host's alone",
        ),
        (
            "<n:portForward proto='all' guest='web' address='127.0.0.1'/>".to_owned(),
            "is a loopback address",
        ),
        (
            with_attributes("proto='tcp' guest='web' address='::ffff:1.2.3.4'"),
            "is an IPv4 address",
        ),
        (
            with_attributes("proto='tcp' guest='web' address='192.168.122.7'"),
            "is where the guests are",
        ),
        (
            with_attributes("proto='tcp' guest='web' dev='much-too-long-for-one'"),
            "dev='much-too-long-for-one' is longer than 15 bytes",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_a_guest_is_said() {
    let long = "x".repeat(254);
    says(&[
        (
            with_attributes("proto='tcp' guest='10.0.0.1'"),
            "is in no <ip> of the network",
        ),
        (
            with_attributes("proto='tcp' guest='192.168.122.1'"),
            "is the bridge's own address",
        ),
        (
            with_attributes("proto='tcp' guest='192.168.122.255'"),
            "not an address that a guest can",
        ),
        (
            with_attributes("proto='tcp' guest='192.168.122.0'"),
            "not an address that a guest can",
        ),
        (
            with_attributes("proto='tcp' guest='fd00::'"),
            "not an address that a guest can",
        ),
        (
            with_attributes("proto='tcp' guest='192.168.122.999'"),
            "is neither an address nor the name",
        ),
        (
            with_attributes("proto='tcp' guest='a b'"),
            "is neither an address nor the name",
        ),
        (
            with_attributes("proto='tcp' guest='-a'"),
            "is neither an address nor the name",
        ),
        (
            with_attributes("proto='tcp' guest=''"),
            "guest='' is neither",
        ),
        (
            with_attributes(&format!("proto='tcp' guest='{long}'")),
            "is neither an address nor",
        ),
        (
            with_attributes("proto='tcp' guest='fd00::9' address='203.0.113.5'"),
            "address='203.0.113.5' is IPv4 and guest='fd00::9' is not",
        ),
    ]);
}

#[test]
fn what_is_wrong_with_all_protocols_is_said() {
    says(&[
        (
            "<n:portForward proto='all' guest='web'/>".to_owned(),
            "proto='all' needs address",
        ),
        (
            "<n:portForward proto='all' dev='eth0' guest='web'/>".to_owned(),
            "proto='all' needs address",
        ),
        (
            "<n:portForward proto='all' address='192.168.122.1' guest='web'/>".to_owned(),
            "is the bridge's own, and guests need",
        ),
        (
            with_attributes("proto='all' guest='web' address='203.0.113.5'"),
            "proto='all' takes no <netd:range>",
        ),
    ]);
}
