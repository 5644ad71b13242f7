//! netd's answers beside those of libvirt's own daemon of the same release, call by call, in one run.
//!
//! The calls are data: `virsh.txt` and `conversation.py`. What may differ is data, too:
//! `differences.txt` has the reason before each such call, and `docs/reference/libvirt.md` says what it
//! means. A difference that is not there fails the test, and so does one that is there and has gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use netd_tests::libvirt::{Host, Root, check};
use serde_json::Value;

const CALLS: &str = include_str!("answers/virsh.txt");
const CONVERSATION: &str = include_str!("answers/conversation.py");
const DIFFERENCES: &str = include_str!("answers/differences.txt");
/// Definitions that libvirt's schema has, and such that it has not.
const DEFINITIONS: &str = include_str!("../../../netd/src/model/schema/cases.txt");
/// The same of ports.
const PORTS: &str = include_str!("../../../netd/src/model/schema/port_cases.txt");
const DOCUMENT: &str = include_str!("../../../docs/reference/libvirt.md");
/// On both hosts, so that nothing that is printed tells them apart.
const URI: &str = "network+unix:///system?socket=/run/libvirt/libvirt-sock";

/// What was answered to each call, and how often it had been made before.
type Answers = BTreeMap<(String, usize), Value>;

/// Adds the answer to a call that may have been made before.
fn add(answers: &mut Answers, made: &mut HashMap<String, usize>, call: &str, answer: Value) {
    let count = made.entry(call.to_owned()).or_default();
    answers.insert((call.to_owned(), *count), answer);
    *count += 1;
}

/// Runs `ask` against libvirt's daemon and against netd, each on a host of its own, and compares.
fn compare(ask: impl Fn(&Host) -> Result<Answers>, section: &str, least: usize) {
    check(Root::Sid, |stock| {
        let Some(mut other) = Host::new(Root::Sid, "host1")? else {
            return Ok(());
        };
        // Debian's packages define a network.
        let networks = "/etc/libvirt/qemu/networks";
        let remove = format!("rm -f {networks}/*.xml {networks}/autostart/*");
        stock.run(["sh", "-c", &remove])?;
        stock.libvirtd.start()?;
        other.start_netd()?;
        other.run(["mkdir", "-p", "/run/libvirt"])?;
        other.run([
            "ln",
            "-s",
            "/run/netd/netd-sock",
            "/run/libvirt/libvirt-sock",
        ])?;
        let (stock, netd) = (ask(stock)?, ask(&other).context(other.netd.log())?);
        ensure!(stock.len() >= least, "only {} calls", stock.len());
        let differing = differences(&stock, &netd);
        explained(&differing, section).with_context(|| format!("{} calls", stock.len()))
    });
}

/// The calls that were answered in another way, with both answers.
fn differences(stock: &Answers, netd: &Answers) -> BTreeMap<String, String> {
    let mut differing = BTreeMap::new();
    for call in stock.keys().chain(netd.keys()) {
        let (Some(a), Some(b)) = (stock.get(call), netd.get(call)) else {
            // A definition that one of them refuses is dumped by the other alone.
            if !call.0.starts_with("dump ") {
                differing.insert(call.0.clone(), "asked of one of them alone".to_owned());
            }
            continue;
        };
        if a != b && !is_own_words(&call.0, a, b) {
            differing.insert(call.0.clone(), format!("libvirt: {a:#}\nnetd:    {b:#}"));
        }
    }
    differing
}

/// Are these the same refusal of XML, or of a section that never changes, in words of netd's own? All
/// but the words has to be alike.
fn is_own_words(call: &str, a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a["error"].as_array(), b["error"].as_array()) else {
        return false;
    };
    let is_about_xml = ["define ", "create ", " update ", " setMetadata "]
        .iter()
        .any(|word| call.contains(word));
    let code = a[0].as_i64().unwrap_or_default();
    // Internal (a range), XML, system (an address), detail, unsupported, section, schema.
    let in_words = [1, 27, 38, 35, 67, 84, 92].contains(&code);
    // Message and str2 hold the words.
    let but_words = |error: &[Value]| {
        let fields = error.iter().enumerate();
        let kept = fields.filter(|(at, _)| !matches!(at, 2 | 5));
        kept.map(|(_, field)| field.clone()).collect::<Vec<_>>()
    };
    is_about_xml && in_words && but_words(a) == but_words(b)
}

/// Is each difference one that is meant, and each that is meant one?
fn explained(differing: &BTreeMap<String, String>, section: &str) -> Result<()> {
    let mut meant = BTreeSet::new();
    for line in DIFFERENCES.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.splitn(3, '\t');
        let (Some(of), Some(reason), Some(call)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        ensure!(
            DOCUMENT.contains(&format!("| {reason} |")),
            "docs/reference/libvirt.md does not say why: {reason}"
        );
        if of == section {
            meant.insert(call.to_owned());
        }
    }
    let found: BTreeSet<String> = differing.keys().cloned().collect();
    let new: Vec<String> = found
        .difference(&meant)
        .map(|call| format!("{call}\n{}", differing[call]))
        .collect();
    let gone: Vec<&String> = meant.difference(&found).collect();
    ensure!(
        new.is_empty() && gone.is_empty(),
        "{} differences that differences.txt has not:\n{}\n\n{} that it has and that are none: {gone:#?}",
        new.len(),
        new.join("\n"),
        gone.len()
    );
    Ok(())
}

/// Runs every line of `virsh.txt` that is a call.
fn virsh(host: &Host) -> Result<Answers> {
    let mut answers = Answers::new();
    let mut made = HashMap::new();
    for line in CALLS.lines().filter(|line| !line.starts_with('#')) {
        if let Some(file) = line.strip_prefix("file ") {
            let (name, text) = file.split_once(' ').context("a file without text")?;
            host.file(&format!("/{name}"), text)?;
            continue;
        }
        if line.is_empty() {
            continue;
        }
        let (editor, call) = match line.strip_prefix("EDITOR=") {
            Some(rest) => {
                let at = rest.find(" net-").context("an editor without a call")?;
                (rest[..at].replace("\\ ", " "), &rest[at + 1..])
            }
            None => ("true".to_owned(), line),
        };
        let editor = format!("EDITOR={editor}");
        let output = host.output(["env", &editor, "virsh", "-c", URI, call])?;
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            // Names of temporary files.
            let words = text.split_inclusive([' ', '\n', '\'']);
            let plain = |word: &str| match word.starts_with("/tmp/virsh") {
                true => "/tmp/virsh… ".to_owned(),
                false => word.to_owned(),
            };
            words.map(plain).collect::<String>()
        };
        let answer = serde_json::json!({
            "status": output.status.code(),
            "stdout": text(&output.stdout),
            "stderr": text(&output.stderr),
        });
        add(&mut answers, &mut made, line, answer);
    }
    Ok(answers)
}

/// Holds the conversation about networks or about ports, and reads a line for each call.
fn python(host: &Host, subject: &str, cases: &str) -> Result<Answers> {
    let script = host.file("/conversation.py", CONVERSATION)?;
    let cases = host.file("/cases.txt", cases)?;
    let said = host.run(["python3", script, URI, subject, cases])?;
    let mut answers = Answers::new();
    let mut made = HashMap::new();
    for line in said.lines() {
        let (call, answer): (String, Value) = serde_json::from_str(line)?;
        add(&mut answers, &mut made, &call, answer);
    }
    Ok(answers)
}

#[test]
#[ignore = "compares with libvirt's daemon: cargo xtask test --clients"]
fn virsh_is_answered_alike() {
    compare(virsh, "virsh", 200);
}

#[test]
#[ignore = "compares with libvirt's daemon: cargo xtask test --clients"]
fn libvirt_python_is_answered_alike() {
    let networks = |host: &Host| python(host, "networks", DEFINITIONS);
    compare(networks, "python", 1000);
}

#[test]
#[ignore = "compares with libvirt's daemon: cargo xtask test --clients"]
fn ports_are_answered_alike() {
    let ports = |host: &Host| python(host, "ports", PORTS);
    compare(ports, "ports", 300);
}
