//! Changes of single entries that are refused, by the numbers of libvirt.

use super::updates::update;
use super::*;
use crate::api::ErrorCode::{Internal, OperationInvalid, OperationUnsupported, Xml, XmlDetail};
use crate::api::{ApiError, ErrorCode};

/// Every change must be refused with this number and these words.
fn refuses(cases: &[(&str, &str, ErrorCode, &str)]) {
    for (what, xml, code, words) in cases {
        let error = update(what, xml).expect_err(&format!("{what} {xml}"));
        let error = ApiError::from(error);
        assert_eq!(error.code, *code, "{what} {xml}: {error}");
        assert!(error.message.contains(words), "{what} {xml}: {error}");
    }
}

#[test]
fn dhcp_hosts_are_refused_by_libvirts_numbers() {
    refuses(&[
        (
            "add-last ip-dhcp-host",
            "<host",
            XmlDetail,
            "cannot be read",
        ),
        (
            "add-last ip-dhcp-host",
            "<range/>",
            Xml,
            "unexpected element <range>, expecting <host>",
        ),
        (
            "add-last ip-dhcp-host",
            "<host mac='52:54:00:00:00:03'/>",
            Xml,
            "'ip' is missing",
        ),
        (
            "add-last ip-dhcp-host",
            "<host ip='10.0.0.13'/>",
            Xml,
            "one of mac and name",
        ),
        (
            "delete ip-dhcp-host",
            "<host/>",
            Xml,
            "one of mac, name and ip",
        ),
        (
            "add-last ip-dhcp-host 3",
            "<host name='x' ip='10.0.0.13'/>",
            OperationInvalid,
            "index 3",
        ),
        (
            "add-last ip-dhcp-host",
            "<host mac='52:54:0:0:0:1' ip='10.0.0.13'/>",
            OperationInvalid,
            "there is an existing dhcp host entry in network 'net'",
        ),
        (
            "add-first ip-dhcp-host",
            "<host name='x' ip='10.0.0.11'/>",
            OperationInvalid,
            "existing",
        ),
        (
            "add-first ip-dhcp-host",
            "<host name='db' ip='10.0.0.13'/>",
            OperationInvalid,
            "existing",
        ),
        (
            "modify ip-dhcp-host",
            "<host mac='52:54:00:00:00:03' name='x' ip='10.0.0.13'/>",
            OperationInvalid,
            "couldn't locate an existing dhcp host entry with \"mac='52:54:00:00:00:03'\" \
             \"name='x'\" \"ip='10.0.0.13'\" in network 'net'",
        ),
        (
            "delete ip-dhcp-host",
            "<host mac='52:54:00:00:00:01' ip='10.0.0.12'/>",
            OperationInvalid,
            "couldn't locate a matching dhcp host entry in network 'net'",
        ),
        (
            "add-last ip-dhcp-host",
            "<host mac='52:54:00:00:00:01' ip='fd00::1'/>",
            OperationInvalid,
            "the address family of a host entry IP must match",
        ),
    ]);
}

#[test]
fn one_subnet_of_a_family_serves_dhcp() {
    refuses(&[(
        "add-last ip-dhcp-range 2",
        "<range start='10.1.0.60' end='10.1.0.70'/>",
        OperationInvalid,
        "dhcp is supported only for a single IPv4 address on each network",
    )]);
}

#[test]
fn ranges_devices_and_port_groups_are_refused_by_libvirts_numbers() {
    refuses(&[
        (
            "modify ip-dhcp-range",
            "<range start='10.0.0.100' end='10.0.0.150'/>",
            OperationUnsupported,
            "cannot be modified",
        ),
        (
            "add-last ip-dhcp-range",
            "<range start='10.0.0.100' end='10.0.0.150'/>",
            OperationInvalid,
            "existing dhcp range entry",
        ),
        (
            "add-last ip-dhcp-range",
            "<range start='10.1.0.2' end='10.1.0.3'/>",
            Internal,
            "range 10.1.0.2 - 10.1.0.3 is not entirely within network 10.0.0.1/24",
        ),
        (
            "delete ip-dhcp-range",
            "<range start='10.0.0.100' end='10.0.0.151'/>",
            OperationInvalid,
            "couldn't locate a matching dhcp range entry in network 'net'",
        ),
        (
            "modify forward-interface",
            "<interface dev='eth0'/>",
            OperationUnsupported,
            "modified",
        ),
        (
            "add-last forward-interface",
            "<interface dev='eth0'/>",
            OperationInvalid,
            "existing",
        ),
        (
            "delete forward-interface",
            "<interface dev='eth1'/>",
            OperationInvalid,
            "couldn't find an interface entry in network 'net' matching <interface dev='eth1'>",
        ),
        (
            "add-last forward-interface",
            "<interface/>",
            Xml,
            "'dev' is missing",
        ),
        (
            "add-last portgroup",
            "<portgroup name='red'/>",
            OperationInvalid,
            "existing",
        ),
        (
            "add-last portgroup",
            "<portgroup name='green' default='yes'/>",
            OperationInvalid,
            "a different portgroup entry in network 'net' is already set as the default",
        ),
        (
            "modify portgroup",
            "<portgroup name='green'/>",
            OperationInvalid,
            "couldn't find a portgroup entry in network 'net' matching <portgroup name='green'>",
        ),
        (
            "delete portgroup",
            "<portgroup name='green'/>",
            OperationInvalid,
            "couldn't find a portgroup entry in network 'net' matching <portgroup name='green'>",
        ),
    ]);
}

#[test]
fn dns_hosts_are_refused_by_libvirts_numbers() {
    refuses(&[
        (
            "add-last dns-host",
            "<host ip='10.0.0.8'><hostname>z</hostname></host>",
            OperationInvalid,
            "there is already at least one DNS HOST record with a matching field in network net",
        ),
        (
            "add-last dns-host",
            "<host ip='10.0.0.7'/>",
            XmlDetail,
            "at least one <hostname>",
        ),
        (
            "modify dns-host",
            "<host><hostname>p</hostname></host>",
            OperationInvalid,
            "couldn't locate a matching DNS HOST record in network net",
        ),
        (
            "modify dns-host",
            "<host ip='10.0.0.7'><hostname>p</hostname></host>",
            OperationInvalid,
            "couldn't locate a matching DNS HOST record in network net",
        ),
        (
            "delete dns-host",
            "<host/>",
            XmlDetail,
            "give its ip or a <hostname>",
        ),
        (
            "delete dns-host",
            "<host><hostname>q</hostname></host>",
            OperationInvalid,
            "multiple matching DNS HOST records were found in network net",
        ),
        (
            "delete dns-host",
            "<host ip='10.0.0.7'/>",
            OperationInvalid,
            "locate",
        ),
    ]);
}

#[test]
fn dns_records_are_refused_by_libvirts_numbers() {
    refuses(&[
        (
            "add-last dns-txt",
            "<txt name='a' value='9'/>",
            OperationInvalid,
            "there is already a DNS TXT record with name 'a' in network net",
        ),
        (
            "modify dns-txt",
            "<txt name='a'/>",
            OperationInvalid,
            "missing value of modifying DNS TXT record in network net",
        ),
        (
            "modify dns-txt",
            "<txt name='c' value='9'/>",
            OperationInvalid,
            "locate",
        ),
        (
            "delete dns-txt",
            "<txt name='c'/>",
            OperationInvalid,
            "locate",
        ),
        (
            "delete dns-txt",
            "<txt value='1'/>",
            XmlDetail,
            "'name' is missing",
        ),
        (
            "modify dns-srv",
            "<srv service='ldap' protocol='tcp'/>",
            OperationUnsupported,
            "cannot be modified",
        ),
        (
            "add-last dns-srv",
            "<srv service='ldap' protocol='tcp' target='x' port='389'/>",
            OperationInvalid,
            "there is already at least one DNS SRV record matching all specified fields",
        ),
        (
            "delete dns-srv",
            "<srv service='ldap'/>",
            OperationInvalid,
            "multiple DNS SRV records matching all specified fields were found in network net",
        ),
        (
            "delete dns-srv",
            "<srv service='sip'/>",
            OperationInvalid,
            "locate",
        ),
        (
            "add-last dns-srv",
            "<srv service='ldap'/>",
            XmlDetail,
            "'protocol' is missing",
        ),
    ]);
}

#[test]
fn some_sections_can_never_be_changed() {
    for section in ["bridge", "domain", "ip", "forward", "forward-pf"] {
        for (_, command) in UpdateCommand::ALL {
            let error = update(&format!("{command} {section}"), "<x/>").unwrap_err();
            let error = ApiError::from(error);
            assert_eq!(error.code, OperationUnsupported, "{section}");
            let section = section.replace('-', " ");
            let words = format!("Operation not supported: can't update '{section}' section");
            assert!(error.message.starts_with(&words), "{error}");
        }
    }
}
