//! `netd xml` on libvirt's own cases, which are not part of this project: the program, from file to
//! standard output and exit status.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The folder with the peer's data; says on the terminal when there is none.
fn peer_data() -> Option<PathBuf> {
    let base = std::env::var_os("NETD_PEER_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/peer"),
        PathBuf::from,
    );
    let path = base.join("libvirt-11.3.0");
    if path.is_dir() {
        return Some(path);
    }
    // Past the test harness, which would keep it to itself.
    let mut stderr = std::io::stderr();
    let _ = stderr.write_fmt(format_args!(
        "SKIPPED: no peer data at {}; set NETD_PEER_DATA\n",
        path.display()
    ));
    None
}

fn netd(arguments: &[&str], files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netd"))
        .arg("xml")
        .args(arguments)
        .args(files)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The columns of a list of cases.
fn cases(directory: &Path) -> Vec<Vec<String>> {
    let list = fs::read_to_string(directory.join("cases.tsv")).unwrap();
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}

fn is_refused(output: &Output, case: &str) {
    assert_eq!(output.status.code(), Some(1), "{case}");
    assert!(output.stdout.is_empty(), "{case}");
    assert!(output.stderr.starts_with(b"error: "), "{case}");
}

/// As libvirt 12 prints it: an `<ip>` without content ends in itself.
fn as_now(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        match lines.last_mut() {
            Some(last) if line.trim() == "</ip>" && last.trim_start().starts_with("<ip ") => {
                *last = last.replace("'>", "'/>");
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn definitions_are_printed_as_libvirt_prints_them() {
    let Some(data) = peer_data() else { return };
    let directory = data.join("canonical");
    for case in cases(&directory) {
        let (name, kind) = (&*case[0], &*case[1]);
        let file = directory.join("in").join(format!("{name}.xml"));
        let options: &[&str] = match kind {
            "inactive" => &["canonical", "--inactive"],
            _ => &["canonical"],
        };
        let output = netd(options, &[&file]);
        if kind == "parse-error" {
            is_refused(&output, name);
            continue;
        }
        let wanted = fs::read_to_string(directory.join("out").join(format!("{name}.xml")));
        assert_eq!(text(&output), as_now(&wanted.unwrap()), "{name}");
    }
}

#[test]
fn dnsmasq_gets_what_libvirt_writes() {
    let Some(data) = peer_data() else { return };
    let plain = |text: &str| -> Vec<String> {
        // Of the process number the cases say nothing.
        let lines = text.lines();
        let lines = lines.filter(|line| !line.starts_with("##") && !line.starts_with("pid-file="));
        lines.map(str::to_owned).collect()
    };
    for entry in fs::read_dir(data.join("dnsmasq")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        let case = file.display();
        let conf = text(&netd(&["dnsmasq", "--libvirt-paths"], &[&file]));
        let wanted = fs::read_to_string(file.with_extension("conf")).unwrap();
        assert_eq!(plain(&conf), plain(&wanted), "{case}");
        let hosts = text(&netd(&["dnsmasq", "--hostsfile"], &[&file]));
        let wanted = fs::read_to_string(file.with_extension("hostsfile")).unwrap_or_default();
        assert_eq!(hosts, wanted, "{case}");
    }
}

#[test]
fn updates_change_definitions_as_libvirts_do() {
    let Some(data) = peer_data() else { return };
    let directory = data.join("update");
    for case in cases(&directory) {
        let [name, section, command, update, network, expected] = &*case else {
            panic!("{case:?}");
        };
        let file = |folder: &str, name: &str| directory.join(folder).join(format!("{name}.xml"));
        let (network, update) = (file("networks", network), file("updates", update));
        let options = [
            "update",
            "--section",
            section,
            "--command",
            command,
            "--index",
            "0",
        ];
        let output = netd(&options, &[&network, &update]);
        if expected == "-" {
            is_refused(&output, name);
            continue;
        }
        let wanted = as_now(&fs::read_to_string(file("expected", expected)).unwrap());
        assert_eq!(text(&output), wanted, "{name}");
    }
}

#[test]
fn a_check_says_all_that_is_wrong_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
    fs::write(&good, "<network><name>n</name></network>").unwrap();
    fs::write(
        &bad,
        "<network>\n<name>n</name>\n<bogus/>\n<mtu size='x'/>\n</network>",
    )
    .unwrap();
    assert!(text(&netd(&["check"], &[&good])).ends_with("good: ok\n"));
    let output = netd(&["check"], &[&good, &bad]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("bad: not a network") && said.contains("<mtu>"),
        "{said}"
    );
}
