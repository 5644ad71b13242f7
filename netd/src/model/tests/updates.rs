//! Changes of single entries: each section with each command.

use super::*;

/// What the changes are made to.
const BEFORE: &str = "<network><name>net</name><forward mode='nat' dev='eth0'/><bridge name='br0'/>\
    <dns><txt name='a' value='1'/><txt name='b' value='2'/>\
    <srv service='ldap' protocol='tcp' target='x' port='389'/>\
    <srv service='ldap' protocol='tcp' target='y' port='390'/>\
    <host ip='10.0.0.9'><hostname>p</hostname><hostname>q</hostname></host>\
    <host ip='10.0.0.8'><hostname>q</hostname></host></dns>\
    <ip family='ipv6' address='fd00::1' prefix='64'/>\
    <ip address='10.0.0.1' prefix='24'><dhcp>\
    <range start='10.0.0.100' end='10.0.0.150'/>\
    <host mac='52:54:00:00:00:01' name='web' ip='10.0.0.11'/>\
    <host mac='52:54:00:00:00:02' name='db' ip='10.0.0.12'/></dhcp></ip>\
    <ip address='10.1.0.1' prefix='24'/>\
    <portgroup name='red'/><portgroup name='blue' default='yes'/></network>";

/// The definition after "COMMAND SECTION", which may end in the index of an `<ip>`.
pub(super) fn update(what: &str, xml: &str) -> Result<Network, UpdateError> {
    let mut words = what.split(' ');
    let update = Update {
        command: UpdateCommand::from_name(words.next().unwrap()).unwrap(),
        section: Section::from_name(words.next().unwrap()).unwrap(),
        parent_index: words.next().map(|index| index.parse().unwrap()),
        xml: xml.to_owned(),
    };
    update.apply(&parse(BEFORE).unwrap())
}

/// The lines that a change adds to the canonical text and removes from it, as a diff shows them.
fn difference(after: &Network) -> String {
    let text = |network: &Network| format(network, FormatOptions::default());
    let (before, after) = (text(&parse(BEFORE).unwrap()), text(after));
    let (before, after): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let same =
        |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
    let head = same(&mut before.iter().zip(&after));
    let most = before.len().min(after.len()) - head;
    let tail = same(&mut before.iter().rev().zip(after.iter().rev())).min(most);
    let lines = |sign: &str, lines: &[&str]| {
        let end = lines.len() - tail;
        let lines = lines[head..end].iter();
        lines.map(|line| format!("{sign}{}", line.trim())).collect()
    };
    let gone: Vec<String> = lines("-", &before);
    let new: Vec<String> = lines("+", &after);
    gone.into_iter().chain(new).collect::<Vec<_>>().join(" ")
}

/// Every change must do what is expected, and nothing else.
fn changes(cases: &[(&str, &str, &str)]) {
    for (what, xml, expected) in cases {
        let network = update(what, xml).unwrap_or_else(|error| panic!("{what} {xml}: {error}"));
        assert_eq!(difference(&network), *expected, "{what} {xml}");
    }
}

#[test]
fn every_section_of_dhcp_with_every_command() {
    changes(&[
        (
            "add-last ip-dhcp-host",
            "<host mac='52:54:00:00:00:03' ip='10.0.0.13'/>",
            "+<host mac='52:54:00:00:00:03' ip='10.0.0.13'/>",
        ),
        (
            "add-first ip-dhcp-host",
            "<host name='new' ip='10.0.0.13'/>",
            "+<host name='new' ip='10.0.0.13'/>",
        ),
        (
            "modify ip-dhcp-host",
            "<host mac='52:54:00:00:00:02' ip='10.0.0.14'/>",
            "-<host mac='52:54:00:00:00:02' name='db' ip='10.0.0.12'/> \
             +<host mac='52:54:00:00:00:02' ip='10.0.0.14'/>",
        ),
        (
            // The card tells more than the name, which the other entry has.
            "modify ip-dhcp-host",
            "<host mac='52:54:0:0:0:2' name='web' ip='10.0.0.14'/>",
            "-<host mac='52:54:00:00:00:02' name='db' ip='10.0.0.12'/> \
             +<host mac='52:54:0:0:0:2' name='web' ip='10.0.0.14'/>",
        ),
        (
            "modify ip-dhcp-host",
            "<host name='web' ip='10.0.0.14'/>",
            "-<host mac='52:54:00:00:00:01' name='web' ip='10.0.0.11'/> \
             +<host name='web' ip='10.0.0.14'/>",
        ),
        (
            "delete ip-dhcp-host",
            "<host mac='52:54:0:0:0:2'/>",
            "-<host mac='52:54:00:00:00:02' name='db' ip='10.0.0.12'/>",
        ),
        (
            "delete ip-dhcp-host",
            "<host ip='10.0.0.11'/>",
            "-<host mac='52:54:00:00:00:01' name='web' ip='10.0.0.11'/>",
        ),
        (
            "delete ip-dhcp-host",
            "<host name='db'/>",
            "-<host mac='52:54:00:00:00:02' name='db' ip='10.0.0.12'/>",
        ),
        (
            "add-last ip-dhcp-range",
            "<range start='10.0.0.160' end='10.0.0.170'/>",
            "+<range start='10.0.0.160' end='10.0.0.170'/>",
        ),
        (
            "add-first ip-dhcp-range",
            "<range start='10.0.0.60' end='10.0.0.70'><lease expiry='1' unit='hours'/></range>",
            "+<range start='10.0.0.60' end='10.0.0.70'> +<lease expiry='1' unit='hours'/> +</range>",
        ),
        (
            "delete ip-dhcp-range",
            "<range start='10.0.0.100' end='10.0.0.150'/>",
            "-<range start='10.0.0.100' end='10.0.0.150'/>",
        ),
        (
            "add-last ip-dhcp-host 0",
            "<host id='0:1' ip='fd00::5'/>",
            "-<ip family='ipv6' address='fd00::1' prefix='64'/> \
             +<ip family='ipv6' address='fd00::1' prefix='64'> +<dhcp> \
             +<host id='0:1' ip='fd00::5'/> +</dhcp> +</ip>",
        ),
    ]);
}

#[test]
fn devices_and_port_groups_with_every_command() {
    changes(&[
        (
            "delete forward-interface",
            "<interface dev='eth0'/>",
            "-<forward dev='eth0' mode='nat'> -<interface dev='eth0'/> -</forward> \
             +<forward mode='nat'/>",
        ),
        (
            "add-first forward-interface",
            "<interface dev='eth1'/>",
            "-<forward dev='eth0' mode='nat'> +<forward dev='eth1' mode='nat'> \
             +<interface dev='eth1'/>",
        ),
        (
            "add-last forward-interface",
            "<interface dev='eth1'/>",
            "+<interface dev='eth1'/>",
        ),
        (
            "add-last portgroup",
            "<portgroup name='green'/>",
            "+<portgroup name='green'> +</portgroup>",
        ),
        (
            "add-first portgroup",
            "<portgroup name='green'/>",
            "+<portgroup name='green'> +</portgroup>",
        ),
        (
            "modify portgroup",
            "<portgroup name='blue'/>",
            "-<portgroup name='blue' default='yes'> +<portgroup name='blue'>",
        ),
        (
            "delete portgroup",
            "<portgroup name='blue'/>",
            "-<portgroup name='blue' default='yes'> -</portgroup>",
        ),
    ]);
}

#[test]
fn every_section_of_dns_with_every_command() {
    changes(&[
        (
            "add-last dns-host",
            "<host ip='10.0.0.7'><hostname>q</hostname></host>",
            "+<host ip='10.0.0.7'> +<hostname>q</hostname> +</host>",
        ),
        (
            "add-first dns-host",
            "<host ip='10.0.0.7'><hostname>r</hostname></host>",
            "+<host ip='10.0.0.7'> +<hostname>r</hostname> +</host>",
        ),
        (
            "modify dns-host",
            "<host ip='10.0.0.8'><hostname>r</hostname></host>",
            "-<hostname>q</hostname> +<hostname>r</hostname>",
        ),
        (
            "delete dns-host",
            "<host ip='10.0.0.8'/>",
            "-<host ip='10.0.0.8'> -<hostname>q</hostname> -</host>",
        ),
        (
            "delete dns-host",
            "<host><hostname>p</hostname></host>",
            "-<host ip='10.0.0.9'> -<hostname>p</hostname> -<hostname>q</hostname> -</host>",
        ),
        (
            "add-last dns-txt",
            "<txt name='c' value='3'/>",
            "+<txt name='c' value='3'/>",
        ),
        (
            "add-first dns-txt",
            "<txt name='c' value=''/>",
            "+<txt name='c' value=''/>",
        ),
        (
            "modify dns-txt",
            "<txt name='b' value='3'/>",
            "-<txt name='b' value='2'/> +<txt name='b' value='3'/>",
        ),
        (
            "delete dns-txt",
            "<txt name='a'/>",
            "-<txt name='a' value='1'/>",
        ),
        (
            "add-last dns-srv",
            "<srv service='ldap' protocol='udp'/>",
            "+<srv service='ldap' protocol='udp'/>",
        ),
        (
            "add-first dns-srv",
            "<srv service='sip' protocol='tcp'/>",
            "+<srv service='sip' protocol='tcp'/>",
        ),
        (
            "delete dns-srv",
            "<srv service='ldap' port='390'/>",
            "-<srv service='ldap' protocol='tcp' target='y' port='390'/>",
        ),
    ]);
}

#[test]
fn numbers_are_libvirts() {
    for (command, name) in UpdateCommand::ALL {
        assert_eq!(UpdateCommand::from_number(command.number()), Some(command));
        assert_eq!(UpdateCommand::from_name(name), Some(command));
    }
    for (section, name) in Section::ALL {
        assert_eq!(Section::from_number(section.number()), Some(section));
        assert_eq!(Section::from_name(name), Some(section));
        assert_eq!(section.name(), name);
    }
    let numbers = [UpdateCommand::Modify, UpdateCommand::AddFirst].map(UpdateCommand::number);
    assert_eq!(numbers, [1, 4]);
    let numbers = [Section::Bridge, Section::IpDhcpHost, Section::DnsSrv].map(Section::number);
    assert_eq!(numbers, [1, 4, 12]);
    for number in [0, 13, u32::MAX] {
        assert_eq!(UpdateCommand::from_number(number), None);
        assert_eq!(Section::from_number(number), None);
    }
}

#[test]
fn the_place_of_an_entry() {
    let host = "<host mac='52:54:00:00:00:03' ip='10.0.0.13'/>";
    for (command, place) in [("add-first", 0), ("add-last", 2)] {
        let network = update(&format!("{command} ip-dhcp-host"), host).unwrap();
        let hosts = &network.ips[1].dhcp.hosts;
        assert_eq!(hosts[place].mac.as_deref(), Some("52:54:00:00:00:03"));
    }
    // Without DHCP anywhere it is the first IPv4 one, or else the first.
    let v6 = "<ip family='ipv6' address='fd00::1' prefix='64'/>";
    for (ips, place, entry) in [
        (format!("{v6}<ip address='10.0.0.1' prefix='24'/>"), 1, host),
        (v6.to_owned(), 0, "<host id='0:1' ip='fd00::5'/>"),
    ] {
        let update = Update {
            command: UpdateCommand::AddLast,
            section: Section::IpDhcpHost,
            parent_index: None,
            xml: entry.to_owned(),
        };
        let changed = update.apply(&parse(&network(&ips)).unwrap()).unwrap();
        assert_eq!(changed.ips[place].dhcp.hosts.len(), 1, "{ips}");
    }
}

#[test]
fn messages_hold_no_more_than_a_terminal_takes() {
    let long = "x".repeat(100_000);
    for text in [long.as_str(), "a\u{9b}31m"] {
        for (what, xml) in [
            ("delete ip-dhcp-host", format!("<host name='{text}'/>")),
            (
                "add-last portgroup",
                format!("<{}/>", &text.replace('\u{9b}', "")),
            ),
            ("delete portgroup", format!("<portgroup name='{text}'/>")),
            (
                "delete forward-interface",
                format!("<interface dev='{text}'/>"),
            ),
            (
                "delete dns-host",
                format!("<host><hostname>{text}</hostname></host>"),
            ),
            ("delete dns-txt", format!("<txt name='{text}'/>")),
        ] {
            let error = update(what, &xml).unwrap_err().to_string();
            assert!(
                error.len() < 500 && !error.contains('\u{9b}'),
                "{what}: {error}"
            );
        }
    }
}

#[test]
fn the_last_entry_takes_its_element_with_it() {
    let only = "<dns><txt name='a' value='1'/></dns><ip address='10.0.0.1' prefix='24'/>";
    let before = parse(&network(only)).unwrap();
    let update = Update {
        command: UpdateCommand::Delete,
        section: Section::DnsTxt,
        parent_index: None,
        xml: "<txt name='a'/>".to_owned(),
    };
    let after = update.apply(&before).unwrap();
    assert_eq!(after.dns, None);
    assert_eq!(parse(&format(&after, FormatOptions::default())), Ok(after));
}
