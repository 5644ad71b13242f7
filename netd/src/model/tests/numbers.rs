//! The numbers and domains that libvirtd 12.8 gives to definitions it refuses, and its words where
//! clients look for them.

use super::*;
use crate::api::ApiError;

/// Definition, code and domain.
#[rustfmt::skip]
const REFUSED: &[(&str, i32, i32)] = &[
    ("<network><name>n1</name><forward mode='bogus'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 67, 19),
    ("<network><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 21, 19),
    ("<network><name></name><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 21, 19),
    ("<network><name>a/b</name><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 5),
    ("<network><name>a\nb</name><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 5),
    ("<network><name>n1</name><uuid>xyz</uuid><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 1, 19),
    ("<domain><name>n1</name></domain>", 27, 5),
    ("<network ipv6='maybe'><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network trustGuestRxFilters='x'><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 5),
    ("<network><name>n1</name><title>a\nb</title><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><bridge name='vbr1' delay='x'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><bridge name='vbr1' macTableManager='x'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><mac address='52:54'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><mac address='53:54:00:00:00:01'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><mtu size='x'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><domain name='a' localOnly='x'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 5),
    ("<network><name>n1</name><domain name='a' register='yes'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 67, 19),
    ("<network><name>n1</name><forward mode='nat'><nat><address start='1.2.3.10' end='1.2.3.4'/></nat></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 1, 0),
    ("<network><name>n1</name><forward mode='nat'><nat><address start='1.2.3.10'/></nat></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='nat'><nat><address start='x' end='y'/></nat></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='nat'><nat><address start='1.2.3.4' end='1.2.3.5'/><address start='1.2.3.4' end='1.2.3.5'/></nat></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='nat'><nat><port start='3000' end='2000'/></nat></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><forward mode='nat'><nat><port start='3000'/></nat></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><forward mode='nat'><nat><port start='x' end='y'/></nat></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><forward mode='nat'><nat ipv6='x'/></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 5),
    ("<network><name>n1</name><forward mode='nat'><nat/><nat/></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='route'><nat/></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='open' dev='eth9'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='nat'><interface dev='eth9'/><interface dev='eth8'/></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='nat'><address type='pci' domain='0' bus='0' slot='3' function='0'/></forward><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 67, 19),
    ("<network><name>n1</name><forward mode='nat'/></network>", 27, 19),
    ("<network><name>n1</name><ip/></network>", 27, 19),
    ("<network><name>n1</name><ip address='x'/></network>", 27, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' prefix='33'/></network>", 67, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' prefix='x'/></network>", 27, 5),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0' prefix='24'/></network>", 67, 19),
    ("<network><name>n1</name><ip family='x' address='192.168.177.1'/></network>", 27, 19),
    ("<network><name>n1</name><ip address='fd00:77::1' prefix='64'/></network>", 67, 19),
    ("<network><name>n1</name><ip family='ipv6' address='192.168.177.1'/></network>", 67, 19),
    ("<network><name>n1</name><ip family='ipv6' address='fd00:77::1' netmask='255.0.0.0'/></network>", 67, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0' localPtr='x'/></network>", 27, 5),
    ("<network><name>n1</name><ip family='ipv6' address='fd00:77::1' prefix='64'><tftp root='/srv'/></ip></network>", 67, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.178.2' end='192.168.178.9'/></dhcp></ip></network>", 1, 0),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.177.9' end='192.168.177.2'/></dhcp></ip></network>", 1, 0),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.177.0' end='192.168.177.9'/></dhcp></ip></network>", 1, 0),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.177.2' end='192.168.177.255'/></dhcp></ip></network>", 1, 0),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.177.2'/></dhcp></ip></network>", 27, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='x' end='y'/></dhcp></ip></network>", 38, 0),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='fd00::1' end='fd00::2'/></dhcp></ip></network>", 1, 0),
    ("<network><name>n1</name><ip address='10.0.0.1' prefix='8'><dhcp><range start='10.0.0.2' end='10.2.0.0'/></dhcp></ip></network>", 1, 0),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.177.2' end='192.168.177.9'><lease expiry='2' unit='days'/></range></dhcp></ip></network>", 27, 5),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.177.2' end='192.168.177.9'><lease expiry='1'/></range></dhcp></ip></network>", 67, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.177.2' end='192.168.177.9'><lease expiry='x'/></range></dhcp></ip></network>", 27, 5),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><host mac='52:54:00:00:00:01' name='a'/></dhcp></ip></network>", 27, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><host mac='x' ip='192.168.177.5'/></dhcp></ip></network>", 27, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><host mac='52:54:00:00:00:01' name='_a' ip='192.168.177.5'/></dhcp></ip></network>", 27, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.177.2' end='192.168.177.9'/><bootp server='1.2.3.4'/></dhcp></ip></network>", 27, 5),
    ("<network><name>n1</name><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.177.2' end='192.168.177.9'/><bootp file='x' server='host name'/></dhcp></ip></network>", 38, 0),
    ("<network><name>n1</name><ip family='ipv6' address='fd00:77::1' prefix='64'><dhcp><host mac='52:54:00:00:00:01' ip='fd00:77::5'/></dhcp></ip></network>", 27, 19),
    ("<network><name>n1</name><ip address='192.168.177.1' prefix='24'><dhcp><range start='192.168.177.2' end='192.168.177.9'/></dhcp></ip><ip address='192.168.178.1' prefix='24'><dhcp><range start='192.168.178.2' end='192.168.178.3'/></dhcp></ip></network>", 67, 19),
    ("<network><name>n1</name><ip family='ipv6' address='fd00:77::1' prefix='64'><dhcp><range start='fd00:77::2' end='fd00:77::3'/></dhcp></ip><ip family='ipv6' address='fd00:78::1' prefix='64'><dhcp><range start='fd00:78::2' end='fd00:78::3'/></dhcp></ip></network>", 67, 19),
    ("<network><name>n1</name><dns enable='no'><txt name='a' value='b'/></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><dns enable='x'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 5),
    ("<network><name>n1</name><dns><forwarder/></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><dns><txt name='a'/></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><dns><txt name='a b' value='c'/></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><dns><srv service='a'/></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><dns><srv service='a b' protocol='tcp'/></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><dns><srv service='a' protocol='tcp' port='1'/></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><dns><srv service='a' protocol='tcp' target='x' port='x'/></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><dns><host><hostname>a</hostname></host></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><dns><host ip='192.168.177.5'/></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><dns><host ip='x'><hostname>a</hostname></host></dns><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 35, 19),
    ("<network><name>n1</name><bandwidth><inbound average='x'/></bandwidth><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 5),
    ("<network><name>n1</name><port isolated='x'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 5),
    ("<network><name>n1</name><route address='10.1.0.0' prefix='16'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><route address='10.1.0.0' prefix='16' gateway='10.9.9.9'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 67, 19),
    ("<network><name>n1</name><route address='10.1.0.1' prefix='16' gateway='192.168.177.5'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><route address='10.1.0.0' prefix='16' gateway='192.168.177.5' metric='0'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 5),
    ("<network><name>n1</name><route address='10.1.0.0' prefix='16' gateway='192.168.177.5' metric='x'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 5),
    ("<network><name>n1</name><portgroup/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 19),
    ("<network><name>n1</name><portgroup name='a'/><portgroup name='a'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 67, 19),
    ("<network><name>n1</name><portgroup name='a' default='yes'/><portgroup name='b' default='yes'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 67, 19),
    ("<network><name>n1</name><portgroup name='a' trustGuestRxFilters='x'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 27, 5),
    ("<network><name>n1</name><portgroup name='a'><vlan><tag id='3'/></vlan></portgroup><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 67, 19),
    ("<network><name>n1</name><forward mode='hostdev'><interface dev='eth9'/></forward></network>", 67, 19),
    ("<network><name>n1</name><forward mode='bridge'/><bridge name='br9'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", 67, 19),
    ("<network><name>n1</name><forward mode='private'><interface dev='eth9'/></forward><bandwidth><inbound average='1'/></bandwidth></network>", 67, 19),
    ("<network><name>n1</name><forward mode='bridge'/><bridge name='br9' stp='on'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='bridge'/><bridge name='br9'/><mtu size='1400'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='private'><interface dev='eth9'/></forward><bridge name='br9'/></network>", 27, 19),
    ("<network><name>n1</name><forward mode='hostdev'><address type='x' domain='0' bus='0x9' slot='3' function='0'/></forward></network>", 67, 19),
    ("<network><name>n1</name><forward mode='hostdev'><driver name='x'/><pf dev='eth9'/></forward></network>", 27, 5),
    ("hello", 35, 19),
    ("", 35, 19),
];

/// Definition, and what libvirt says of it.
#[rustfmt::skip]
const WORDS: &[(&str, &str)] = &[
    ("<network><name>n1</name><uuid>xyz</uuid><bridge name='vbr1'/><mac address='52:54:00:11:22:33'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", "internal error: malformed uuid element"),
    ("<network><name></name><bridge name='vbr1'/><mac address='52:54:00:11:22:33'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", "missing name information"),
    ("<network><name>n1</name><forward mode='bogus'/><bridge name='vbr1'/><mac address='52:54:00:11:22:33'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", "unsupported configuration: unknown forwarding type 'bogus'"),
    ("<network><name>a\nb</name><bridge name='vbr1'/><mac address='52:54:00:11:22:33'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", "invalid char in name: \n"),
    ("<network><bridge name='vbr1'/><mac address='52:54:00:11:22:33'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", "missing name information"),
    ("<network><name>n1</name><bridge name='vbr1'/><mac address='52:54:00:11:22:33'/><ip address='192.168.177.1' netmask='255.255.255.0'><dhcp><range start='192.168.178.2' end='192.168.178.9'/></dhcp></ip></network>", "internal error: range 192.168.178.2 - 192.168.178.9 is not entirely within network 192.168.177.1/24"),
    ("<domain><name>n1</name></domain>", "XML error: expecting root element of 'network', not 'domain'"),
    ("<network><name>a/b</name><bridge name='vbr1'/><mac address='52:54:00:11:22:33'/><ip address='192.168.177.1' netmask='255.255.255.0'/></network>", "invalid char in name: /"),
    ("<network><name>n1</name><bridge name='vbr1'/><mac address='52:54:00:11:22:33'/><ip address='192.168.177.1' prefix='24'><dhcp><range start='192.168.177.2' end='192.168.177.9'/></dhcp></ip><ip address='192.168.178.1' prefix='24'><dhcp><range start='192.168.178.2' end='192.168.178.3'/></dhcp></ip></network>", "unsupported configuration: Multiple IPv4 dhcp sections found -- dhcp is supported only for a single IPv4 address on each network"),
    ("<network><name>n1</name><bridge name='vbr1'/><mac address='52:54:00:11:22:33'/><ip family='ipv6' address='fd00:77::1' prefix='64'><dhcp><range start='fd00:77::2' end='fd00:77::3'/></dhcp></ip><ip family='ipv6' address='fd00:78::1' prefix='64'><dhcp><range start='fd00:78::2' end='fd00:78::3'/></dhcp></ip></network>", "unsupported configuration: Multiple IPv6 dhcp sections found -- dhcp is supported only for a single IPv6 address on each network"),
];

fn refusal(text: &str) -> ApiError {
    let checked = parse(text).and_then(|network| check_define(&network));
    ApiError::from(checked.expect_err(text))
}

#[test]
fn definitions_are_refused_by_libvirts_numbers() {
    for (text, code, domain) in REFUSED {
        let error = refusal(text);
        let numbers = (error.code as i32, error.domain as i32);
        assert_eq!(numbers, (*code, *domain), "{text}: {error}");
    }
}

#[test]
fn some_are_refused_in_libvirts_words() {
    for (text, words) in WORDS {
        assert_eq!(refusal(text).message, *words, "{text}");
    }
}
