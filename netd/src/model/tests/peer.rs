//! libvirt's own cases and definitions as people publish them, read where they lie.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;

/// The folder with the peer's data; says on the terminal when there is none.
fn peer_data() -> Option<PathBuf> {
    let path = std::env::var_os("NETD_PEER_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/peer"),
        PathBuf::from,
    );
    if path.is_dir() {
        return Some(path);
    }
    // Written past the test harness, which would keep it to itself.
    writeln!(
        std::io::stderr(),
        "SKIPPED: no peer data at {}; set NETD_PEER_DATA",
        path.display()
    )
    .unwrap();
    None
}

/// The XML files of a folder. One result of an update names two devices for a NAT network, which
/// the same peer's parser refuses (and so does ours): it is left out.
fn xml_files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "xml"))
        .filter(|path| !path.ends_with("nat-network-forward-ifaces.xml"))
        .collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A definition as 11.3 prints it, as 12.8 does: an `<ip>` without content ends in itself.
fn of_12_8(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let opened = lines
            .last()
            .is_some_and(|last| last.trim_start().starts_with("<ip "));
        match lines.last_mut() {
            Some(last) if opened && line.trim() == "</ip>" => {
                last.truncate(last.len() - 1);
                last.push_str("/>");
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn canonical_cases() {
    let Some(peer) = peer_data() else { return };
    let dir = peer.join("libvirt-11.3.0/canonical");
    let mut cases = 0;
    for line in read(&dir.join("cases.tsv")).lines() {
        let Some((name, kind)) = line.split_once('\t').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        cases += 1;
        let parsed = parse(&read(&dir.join(format!("in/{name}.xml"))));
        if kind == "parse-error" {
            let error = parsed.expect_err(name);
            assert!(matches!(error, XmlError::Invalid(_)), "{name}: {error}");
            continue;
        }
        let options = FormatOptions {
            inactive: kind == "inactive",
            connections: None,
        };
        let network = parsed.unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = format(&network, options);
        let expected = of_12_8(&read(&dir.join(format!("out/{name}.xml"))));
        assert_eq!(text, expected, "{name}");
        assert_eq!(parse(&text).as_ref(), Ok(&network), "{name}");
    }
    assert!(cases >= 32, "only {cases} cases were found");
}

/// libvirt's own cases of `net-update`, which stop short of reading the result again.
#[test]
fn update_cases() {
    let Some(peer) = peer_data() else { return };
    let dir = peer.join("libvirt-11.3.0/update");
    let file = |folder: &str, name: &str| read(&dir.join(format!("{folder}/{name}.xml")));
    let mut cases = 0;
    for line in read(&dir.join("cases.tsv")).lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let [case, section, command, update, network, expected] = fields[..] else {
            continue;
        };
        let Some(section) = Section::from_name(section) else {
            continue;
        };
        let update = Update {
            command: UpdateCommand::from_name(command).unwrap(),
            section,
            parent_index: Some(0),
            xml: file("updates", update),
        };
        cases += 1;
        let result = update.apply(&parse(&file("networks", network)).unwrap());
        if expected == "-" {
            result.expect_err(case);
            continue;
        }
        let network = result.unwrap_or_else(|error| panic!("{case}: {error}"));
        let text = format(&network, FormatOptions::default());
        let expected = of_12_8(&file("expected", expected));
        assert_eq!(text.trim_end(), expected.trim_end(), "{case}");
    }
    assert!(cases >= 30, "only {cases} cases were found");
}

#[test]
fn networks_of_other_suites_round_trip() {
    let Some(peer) = peer_data() else { return };
    for (dir, least) in [
        ("libvirt-11.3.0/update/networks", 7),
        ("libvirt-11.3.0/update/expected", 16),
        ("libvirt-11.3.0/dnsmasq", 10),
        ("published", 5),
    ] {
        let files = xml_files(&peer.join(dir));
        let count = files.len();
        for path in files {
            let shown = path.display();
            let network = parse(&read(&path)).unwrap_or_else(|error| panic!("{shown}: {error}"));
            let text = format(&network, FormatOptions::default());
            assert_eq!(parse(&text), Ok(network), "{shown}");
        }
        assert!(count >= least, "only {count} networks in {dir}");
    }
}

/// What libvirt reads netd knows, so that `--validate` refuses none of it.
#[test]
fn nothing_of_other_suites_is_unknown() {
    let Some(peer) = peer_data() else { return };
    let mut cases = 0;
    for dir in [
        "libvirt-11.3.0/canonical/in",
        "libvirt-11.3.0/canonical/out",
        "libvirt-11.3.0/update/networks",
        "libvirt-11.3.0/update/expected",
        "libvirt-11.3.0/dnsmasq",
        "published",
    ] {
        for path in xml_files(&peer.join(dir)) {
            // Some are there to be refused.
            let Ok(parsed) = parse_whole(&read(&path)) else {
                continue;
            };
            cases += 1;
            assert_eq!(parsed.unknown, [], "{}", path.display());
        }
    }
    assert!(cases >= 80, "only {cases} networks were found");
}

#[test]
fn published_networks_start() {
    let Some(peer) = peer_data() else { return };
    for path in xml_files(&peer.join("published")) {
        let network = parse(&read(&path)).unwrap();
        assert_eq!(check_start(&network), Ok(()), "{}", path.display());
    }
}

#[test]
fn update_results_are_canonical() {
    let Some(peer) = peer_data() else { return };
    for path in xml_files(&peer.join("libvirt-11.3.0/update/expected")) {
        let text = of_12_8(&read(&path));
        assert_eq!(
            canonical(&text).trim_end(),
            text.trim_end(),
            "{}",
            path.display()
        );
    }
}
