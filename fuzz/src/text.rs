//! Text of administrators, clients and guests.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use netd::config::{Config, FLOWS, SECONDS};
use netd::dnsmasq::{NetworkFiles, addnhosts, conf, hostsfile, lease_helper, leases as lease_file};
use netd::model::{
    FormatOptions, Network, NetworkPorts, Section, Update, UpdateCommand, check_define,
    check_start, format, format_port, parse, parse_port,
};
use netd_common::clock::ticks;

/// Longest message about anything.
const MESSAGE: usize = 16 << 10;

/// A message that can be shown to people.
fn shown(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() <= MESSAGE, "{text:?}");
    assert!(!text.contains(['\0', '\x1b', '\u{9b}']), "{text:?}");
}

/// Input: a guest's port.
pub fn network_port(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let port = match parse_port(text) {
        Ok(parsed) => parsed.port,
        Err(error) => return shown(&error),
    };
    let canonical = format_port(&port);
    // Some characters can be read and not written.
    if let Ok(again) = parse_port(&canonical) {
        assert_eq!(format_port(&again.port), canonical, "printed twice");
    }
    let network = |text: &str| parse(text).expect("a network");
    let mut ports = NetworkPorts::default();
    for network in [
        network(
            "<network><name>n</name><bridge name='b'/><portgroup name='g' default='yes'/>\
                 <bandwidth><inbound average='100'/></bandwidth></network>",
        ),
        network("<network><name>d</name><forward mode='passthrough' dev='e'/></network>"),
    ] {
        for made in [
            port.clone().allocate(&network, &ports),
            port.clone().reclaim(&network, &ports),
        ] {
            match made {
                Ok(made) => ports.insert(made),
                Err(error) => shown(&error),
            }
        }
    }
}

/// Input: a definition.
pub fn network_xml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let network = match parse(text) {
        Ok(network) => network,
        Err(error) => return shown(&error),
    };
    let defined = check_define(&network);
    let started = check_start(&network);
    for error in [&defined, &started]
        .into_iter()
        .filter_map(|r| r.as_ref().err())
    {
        shown(error);
    }
    for inactive in [false, true] {
        let options = FormatOptions {
            inactive,
            connections: None,
        };
        let canonical = format(&network, options);
        if defined.is_err() {
            continue;
        }
        let again = match parse(&canonical) {
            Ok(again) => again,
            Err(error) => panic!("{error}: {canonical}"),
        };
        assert_eq!(format(&again, options), canonical, "printed twice");
        assert_eq!(check_define(&again), defined, "{canonical}");
        // A lone <bootp> is refused at start and, as with libvirt, not printed.
        assert!(
            started.is_err() || check_start(&again).is_ok(),
            "{canonical}"
        );
    }
    if defined.is_ok() && started.is_ok() {
        files(&network);
    }
}

/// What [`network_update`] changes.
const UPDATED: &str = "<network><name>n</name><forward dev='e'/><dns><txt name='t' value='v'/>\
    <srv service='s' protocol='tcp'/><host ip='10.0.0.9'><hostname>h</hostname></host></dns>\
    <ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.8'/>\
    <host mac='52:54:00:00:00:01' name='h' ip='10.0.0.9'/></dhcp></ip>\
    <ip family='ipv6' address='fd00::1' prefix='64'/><portgroup name='p'/></network>";

/// Input: numbers of a command, a section and an `<ip>`, a byte each, then an entry.
pub fn network_update(data: &[u8]) {
    let Some((&[command, section, place], text)) = data.split_first_chunk() else {
        return;
    };
    let command = UpdateCommand::from_number(command.into());
    let section = Section::from_number(section.into());
    let (Some(command), Some(section), Ok(text)) = (command, section, std::str::from_utf8(text))
    else {
        return;
    };
    let update = Update {
        command,
        section,
        parent_index: Some(place.into()).filter(|_| place < 0x80),
        xml: text.to_owned(),
    };
    let network = parse(UPDATED).expect("it is right");
    match update.apply(&network) {
        Ok(changed) => {
            let canonical = format(&changed, FormatOptions::default());
            // The whole may break a rule, which is found out then.
            match parse(&canonical) {
                Ok(again) => assert_eq!(format(&again, FormatOptions::default()), canonical),
                Err(error) => shown(&error),
            }
        }
        Err(error) => shown(&error),
    }
}

/// The files for dnsmasq: what a definition says stays within its line.
fn files(network: &Network) {
    let paths = NetworkFiles {
        dir: PathBuf::from("/run/netd/dnsmasq"),
        pid_file: None,
    };
    let written = [
        conf(network, &paths),
        hostsfile(network),
        addnhosts(network),
    ];
    for text in written {
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                shown(&error);
                continue;
            }
        };
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!text.contains(bad), "{text:?}");
        assert!(text.lines().all(|line| !line.is_empty()), "{text:?}");
    }
}

/// Input: `netd.toml`.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::parse(text, Path::new("netd.toml")) {
        Err(error) => shown(&error),
        Ok(config) => {
            assert!(FLOWS.contains(&config.flows.max), "{config:?}");
            assert!(config.flows.max_per_network <= *FLOWS.end(), "{config:?}");
            let most = ticks(u64::from(*SECONDS.end()));
            for timeout in config.timeouts.in_ticks() {
                assert!((1..=most).contains(&timeout), "{config:?}");
            }
        }
    }
}

/// Input, in parts that NUL separates: the file of leases, what dnsmasq calls the helper with
/// (action, identity, address, host name), when the lease ends, client identifier, IAID.
pub fn leases(data: &[u8]) {
    const BRIDGE: &str = "virbr0";
    let mut parts = data.split(|byte| *byte == 0);
    let file = parts.next().unwrap_or_default();
    let parts: Vec<OsString> = parts
        .map(|part| String::from_utf8_lossy(part).into_owned().into())
        .collect();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let status = dir.path().join("virbr0.status");
    std::fs::write(&status, file).expect("a file of leases");
    let network = Network::default();
    let read = || lease_file::read(dir.path(), BRIDGE, &network, None, 0);

    match read() {
        Ok(leases) => assert!(leases.iter().all(|lease| lease.interface == BRIDGE)),
        Err(error) => shown(&error),
    }
    let arguments = &parts[..parts.len().min(4)];
    // `init` prints the list.
    if arguments.first().is_none_or(|action| action == "init") {
        return;
    }
    let variable = |name: &str| match name {
        "DNSMASQ_INTERFACE" => Some(BRIDGE.into()),
        "NETD_DNSMASQ_DIR" => Some(dir.path().into()),
        "DNSMASQ_LEASE_EXPIRES" => parts.get(4).cloned(),
        "DNSMASQ_CLIENT_ID" => parts.get(5).cloned(),
        "DNSMASQ_IAID" => parts.get(6).cloned(),
        _ => None,
    };
    let code = lease_helper::main(arguments, variable);
    assert!(code == 0 || code == 1, "{code}");
    let untouched = std::fs::read(&status).expect("the file stays") == file;
    let about_leases = ["add", "old", "del"].iter().any(|a| *a == arguments[0]);
    if code != 0 || !about_leases {
        assert!(untouched, "an error or nothing to do, and the file changed");
        return;
    }
    let leases = read().expect("what the helper wrote can be read");
    let address: std::net::IpAddr = arguments[2]
        .to_str()
        .and_then(|text| text.parse().ok())
        .expect("the helper took it for an address");
    let of_address = leases.iter().filter(|lease| lease.ip == address).count();
    let most = usize::from(arguments[0] != "del");
    assert!(of_address <= most, "{of_address} leases of {address}");
}
