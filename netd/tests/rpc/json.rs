//! What commands print with `--json` is what docs/reference/json.md says, field by field.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::{Server, netd, ran};

/// The fields in the tables of a section.
fn documented(command: &str) -> BTreeSet<String> {
    let text = include_str!("../../../docs/reference/json.md");
    let heading = format!("## netd {command} --json\n");
    let (_, section) = text.split_once(&heading).expect(command);
    let section = section.split("\n## ").next().unwrap();
    let mut fields = BTreeSet::new();
    let mut list = String::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.split(" | ").next().unwrap();
        for name in cell.split('`').skip(1).step_by(2) {
            if !name.starts_with('.') {
                list = name.to_owned();
                fields.insert(name.to_owned());
            } else {
                fields.insert(format!("{list}{name}"));
            }
        }
    }
    fields
}

/// The fields of what was printed; those of values that can be anything are not looked at.
fn printed(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if at.is_empty() { "" } else { "." };
                let mut path = format!("{at}{dot}{name}");
                if value.is_array() && path != "settings[].value" {
                    path.push_str("[]");
                }
                into.insert(path.clone());
                printed(value, &path, into);
            }
        }
        Value::Array(values) if at.ends_with("[]") => {
            for value in values {
                printed(value, at, into);
            }
        }
        _ => {}
    }
}

fn compare(command: &str, mut program: Command, words: &[&str]) {
    let output = ran(program.args(words).arg("--json"));
    let value: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{command}: {error}: {output:?}"));
    assert_eq!(value["schema"], 1, "{command}");
    let mut fields = BTreeSet::new();
    printed(&value, "", &mut fields);
    assert_eq!(fields, documented(command), "{command}: {}", output.stdout);
}

#[test]
fn what_agents_are_asked_for_is_printed_as_documented() {
    let server = Server::start();
    for words in [
        &["ban", "add", "203.0.113.7", "--network", "n1"][..],
        &[
            "forward",
            "add",
            "n1",
            "tcp",
            "8080",
            "192.168.177.15:80",
            "--live",
        ],
    ] {
        let output = ran(netd(&server.socket).args(words));
        assert_eq!(output.code, Some(0), "{output:?}");
    }
    *server.driver.problems.lock().unwrap() = vec![crate::seen::problem()];
    *server.driver.waiting.lock().unwrap() = vec![crate::seen::waiting()];
    for (command, words) in [
        ("net-list", &["net-list", "--all"][..]),
        ("net-info", &["net-info", "n1"]),
        ("net-dhcp-leases", &["net-dhcp-leases", "n1"]),
        ("net-port-list", &["net-port-list", "n1"]),
        ("forward list", &["forward", "list"]),
        ("ban list", &["ban", "list"]),
        ("plan", &["plan", "n1"]),
        ("status", &["status"]),
        ("status NETWORK", &["status", "n1"]),
        ("drops", &["drops"]),
        ("doctor", &["doctor"]),
        ("flows", &["flows"]),
        ("ports", &["ports"]),
    ] {
        compare(command, netd(&server.socket), words);
    }
}

#[test]
fn what_needs_no_agent_is_printed_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let program = || Command::new(env!("CARGO_BIN_EXE_netd"));
    let config = dir.path().display().to_string();
    file("netd.toml", "[flows]\nmax = 2000\n");
    compare(
        "config check",
        program(),
        &["config", "check", "--config-dir", &config],
    );
    compare(
        "config show",
        program(),
        &["config", "show", "--config-dir", &config],
    );
    let xml = file("n.xml", "<network><name>n</name><bogus/></network>");
    compare("xml check", program(), &["xml", "check", &xml]);
    compare("explain", program(), &["explain", "no_flow"]);
    compare("explain", program(), &["explain"]);
}

#[test]
fn events_are_printed_as_documented() {
    let server = Server::start();
    let mut child = netd(&server.socket)
        .args([
            "net-event",
            "--event",
            "lifecycle",
            "--json",
            "--timeout",
            "60",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let begin = std::time::Instant::now();
    while server
        .driver
        .listened
        .load(std::sync::atomic::Ordering::SeqCst)
        == 0
    {
        assert!(begin.elapsed() < crate::raw::PATIENCE, "nobody listens");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // Whoever is connected hears of it, once it has registered.
    while child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < crate::raw::PATIENCE, "nothing was heard");
        ran(netd(&server.socket).args(["net-start", "default"]));
        ran(netd(&server.socket).args(["net-destroy", "default"]));
    }
    let output = child.wait_with_output().unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut fields = BTreeSet::new();
    printed(&value, "", &mut fields);
    assert_eq!(fields, documented("net-event"));
    assert_eq!(value["network"], "default");
}
