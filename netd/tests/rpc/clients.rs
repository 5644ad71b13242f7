//! The `netd` binary and the real virsh against one server: the same words, the same effect.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use netd::rpc::Limits;

use crate::fake::Network;
use crate::{Ran, Server, netd, nobody_listens, ran, virsh};

const FRESH: &str = "<network>\n  <name>fresh</name>\n</network>\n";
const CLASH: &str = "<network>\n  <name>n1</name>\n</network>\n";
const NAMELESS: &str = "<network>\n</network>\n";
const N1_UUID: &str = "11111111-2222-3333-4444-555555555555";
const NO_UUID: &str = "99999999-9999-9999-9999-999999999999";

/// Runs the same words in a fresh state and tells what was printed and what came of it.
fn run(server: &Server, mut program: Command, words: &[&str]) -> (Ran, Vec<Network>) {
    server.driver.reset();
    let output = ran(program.args(words));
    (output, server.driver.networks())
}

/// Compares both programs for each line of words.
fn compare(server: &Server, lines: &[Vec<&str>]) {
    let mut differing = Vec::new();
    for words in lines {
        let ours = run(server, netd(&server.socket), words);
        let Some(virsh) = virsh(&server.socket) else {
            return;
        };
        let theirs = run(server, virsh, words);
        if ours != theirs {
            differing.push(format!("{words:?}\nnetd:  {ours:?}\nvirsh: {theirs:?}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n\n"));
}

fn lines<'a>(text: &'a str) -> Vec<Vec<&'a str>> {
    let words = |line: &'a str| line.split_whitespace().collect::<Vec<_>>();
    text.lines().map(words).filter(|w| !w.is_empty()).collect()
}

#[test]
fn lists_are_virshs() {
    let server = Server::start();
    compare(
        &server,
        &lines(
            "net-list
             net-list --all
             -q net-list --all
             net-list --inactive
             net-list --inactive --all
             net-list --persistent
             net-list --transient
             net-list --transient --persistent --all
             net-list --autostart --all
             net-list --no-autostart --all
             net-list --transient --inactive
             net-list --name
             net-list --all --name
             -q net-list --all --name
             net-list --all --uuid
             net-list --all --table
             net-list --name --uuid
             net-list --name --table",
        ),
    );
}

#[test]
fn questions_about_a_network_are_virshs() {
    let server = Server::start();
    let text = format!(
        "net-info n1
         net-info {N1_UUID}
         net-info n2t
         net-info ünï_網
         net-info nosuch
         net-info {NO_UUID}
         -q net-info default
         net-uuid n1
         net-uuid nosuch
         net-name {N1_UUID}
         net-name {NO_UUID}
         net-name n1
         net-dumpxml n1
         net-dumpxml --inactive n1
         net-dumpxml {N1_UUID} --inactive
         -q net-dumpxml n2t
         net-dumpxml nosuch
         net-dhcp-leases n1
         -q net-dhcp-leases n1
         net-dhcp-leases default
         net-dhcp-leases n1 --mac 52:54:00:00:00:aa
         net-dhcp-leases n1 --mac bad
         net-dhcp-leases nosuch"
    );
    let mut all = lines(&text);
    all.push(vec!["net-info", "Zoo bare"]);
    all.push(vec!["net-info", "ünï 網"]);
    all.push(vec!["net-info", "not-a-uuid-of-thirty-six-characters!"]);
    compare(&server, &all);
}

const PORT: &str = "<networkport>\n  <uuid>aaaaaaaa-0000-0000-0000-000000000001</uuid>\n  <owner>\n\
    <name>vm</name>\n<uuid>cccccccc-0000-0000-0000-000000000001</uuid></owner>\n\
    <mac address='52:54:00:00:00:0a'/></networkport>\n";

#[test]
fn ports_are_virshs() {
    let server = Server::start();
    for last in [2, 1, 0xb] {
        let mut port = netd::model::parse_port(PORT).unwrap().port;
        port.uuid = uuid::Uuid::from_u128(0xaaaaaaaa_0000_0000_0000_0000000000f0 + last);
        server.driver.first_ports.lock().unwrap().insert(port);
    }
    let good = server.file("port.xml", PORT);
    let unknown = server.file("unknown.xml", &PORT.replace("<mac", "<bogus/><mac"));
    let floor = "<bandwidth><inbound floor='5'/></bandwidth></networkport>";
    let floor = server.file("floor.xml", &PORT.replace("</networkport>", floor));
    let macless = server.file("macless.xml", &PORT.replace("<mac", "<mca"));
    let broken = server.file("broken.xml", "<networkport");
    let [good, unknown, floor, macless, broken] =
        [&good, &unknown, &floor, &macless, &broken].map(|path| path.to_str().unwrap());
    let first = "aaaaaaaa-0000-0000-0000-0000000000f1";
    let nobody = "aaaaaaaa-0000-0000-0000-000000000099";
    compare(
        &server,
        &lines(&format!(
            "net-port-list n1
             -q net-port-list n1
             net-port-list n1 --table
             net-port-list n1 --uuid
             -q net-port-list n1 --uuid
             net-port-list n1 --uuid --table
             net-port-list default
             net-port-list nosuch
             net-port-list {N1_UUID}
             net-port-dumpxml n1 {first}
             -q net-port-dumpxml n1 {first}
             net-port-create n1 {good}
             -q net-port-create n1 {good}
             net-port-create n1 {good} --validate
             net-port-create n1 {unknown}
             net-port-create n1 {unknown} --validate
             net-port-create n1 {floor}
             net-port-create n1 {macless}
             net-port-create n1 {broken}
             net-port-create n1 /nowhere/port.xml
             net-port-create nosuch {good}
             net-port-delete n1 {first}
             -q net-port-delete n1 {first}"
        )),
    );
    // Here virsh ends with 0 and without the reason.
    for (command, what) in [
        (["net-port-dumpxml", "n1", nobody], "network port"),
        (["net-port-dumpxml", "n1", "nothing"], "network port"),
        (["net-port-dumpxml", "nosuch", first], "network"),
        (["net-port-delete", "n1", nobody], "network port"),
        (["net-port-delete", "n1", "nothing"], "network port"),
        (["net-port-delete", "nosuch", first], "network"),
    ] {
        let [_, network, port] = command;
        let named = if what == "network" { network } else { port };
        let failed = format!("error: failed to get {what} '{named}'\n");
        let ours = run(&server, netd(&server.socket), &command).0;
        assert_eq!(ours.code, Some(1), "{command:?}");
        assert!(ours.stderr.starts_with(&failed), "{ours:?}");
        if let Some(virsh) = virsh(&server.socket) {
            let theirs = run(&server, virsh, &command).0;
            assert_eq!((theirs.stderr, theirs.stdout), (failed, ours.stdout));
        }
    }
}

#[test]
fn changes_are_virshs() {
    let server = Server::start();
    let fresh = server.file("fresh.xml", FRESH);
    let clash = server.file("clash.xml", CLASH);
    let nameless = server.file("nameless.xml", NAMELESS);
    let broken = server.file("broken.xml", "<network");
    let [fresh, clash, nameless, broken] =
        [&fresh, &clash, &nameless, &broken].map(|path| path.to_str().unwrap());
    compare(
        &server,
        &lines(&format!(
            "net-define {fresh}
             -q net-define {fresh}
             net-define --validate {fresh}
             net-define {clash}
             net-define {nameless}
             net-define {broken}
             net-define /no/such/file
             net-create {fresh}
             -q net-create {fresh}
             net-create --validate {fresh}
             net-create {clash}
             net-create {broken}
             net-start default
             -q net-start default
             net-start n1
             net-start {N1_UUID}
             net-start nosuch
             net-start panic
             net-destroy n1
             net-destroy n2t
             net-destroy default
             net-destroy {N1_UUID}
             -q net-destroy n1
             net-destroy nosuch
             net-undefine n1
             net-undefine default
             net-undefine n2t
             net-undefine {N1_UUID}
             net-undefine nosuch
             net-autostart n1
             net-autostart {N1_UUID}
             -q net-autostart n1
             net-autostart n1 --disable
             net-autostart n2t
             net-autostart n2t --disable
             net-autostart nosuch"
        )),
    );
    // By UUID where it does something.
    let uuid = "29392cdd-301e-4814-bda6-7c419f326daa";
    compare(
        &server,
        &lines(&format!("net-start {uuid}\nnet-undefine {uuid}")),
    );
}

#[test]
fn virsh_is_told_what_is_not_there_yet() {
    let server = Server::start();
    let said = |words: &str, expected: &str| {
        let Some(mut virsh) = virsh(&server.socket) else {
            return;
        };
        let output = ran(virsh.args(words.split_whitespace()));
        assert!(output.stderr.contains(expected), "{words}: {output:?}");
        assert_eq!(output.code, Some(1), "{words}");
    };
    said("nodeinfo", "error: ");
    said("list", "error: ");
}

#[test]
fn virsh_may_ask_about_the_connection() {
    let server = Server::start();
    let Some(mut virsh) = virsh(&server.socket) else {
        return;
    };
    let output = ran(virsh.arg("version"));
    assert!(output.stdout.contains("Using API: network"), "{output:?}");
    // As with libvirt's own network daemon.
    assert!(output.stderr.contains("virConnectGetVersion"), "{output:?}");
}

#[test]
fn a_read_only_virsh_reads_only() {
    let server = Server::start();
    let Some(mut program) = virsh(&server.socket) else {
        return;
    };
    let output = ran(program.args(["-r", "net-destroy", "n1"]));
    assert_eq!(output.code, Some(1), "{output:?}");
    let mut program = virsh(&server.socket).unwrap();
    let output = ran(program.args(["-r", "net-list", "--name"]));
    assert_eq!(output.stdout, "n1\nn2t\nünï 網\n\n");
}

#[test]
fn files_may_come_from_standard_input() {
    let server = Server::start();
    let path = server.file("fresh.xml", FRESH);
    let output = netd(&server.socket)
        .args(["net-define", "-"])
        .stdin(std::fs::File::open(path).unwrap())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "Network fresh defined from -\n\n"
    );
}

#[test]
fn a_file_that_cannot_be_a_network_is_not_sent() {
    let server = Server::start();
    let big = server.file("big.xml", &"x".repeat(4 * 1024 * 1024 + 1));
    let output = ran(netd(&server.socket).arg("net-define").arg(big));
    assert!(
        output.stderr.contains("more than 4194304 bytes"),
        "{output:?}"
    );
    let latin = server.dir.path().join("latin.xml");
    std::fs::write(&latin, b"<network>\xe9</network>").unwrap();
    let output = ran(netd(&server.socket).arg("net-define").arg(latin));
    assert!(output.stderr.contains("it is not UTF-8 text"), "{output:?}");
}

#[test]
fn plan_and_status_are_printed() {
    let server = Server::start();
    let say = |words: &[&str]| ran(netd(&server.socket).args(words));
    assert_eq!(
        say(&["-q", "plan", "n1"]).stdout,
        "create bridge br-n1\nset it up\n"
    );
    assert_eq!(
        say(&["-q", "plan", N1_UUID]).stdout,
        "create bridge br-n1\nset it up\n"
    );
    assert!(say(&["plan"]).stdout.starts_with("Nothing to do"));
    let output = say(&["plan", "nosuch"]);
    assert_eq!(output.code, Some(1));
    assert!(
        output
            .stderr
            .starts_with("error: failed to get network 'nosuch'\n")
    );

    let text = say(&["status"]).stdout;
    assert!(
        text.starts_with("netd 9.9.9\n") && text.contains(" spoofed "),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&say(&["status", "--json"]).stdout).unwrap();
    assert_eq!(json["networks"][0]["name"], "n1");
    assert_eq!(json["drops"][0]["packets"], 12);
}

#[test]
fn without_an_agent_the_command_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let expected = format!(
        "error: failed to connect to the agent\n\
         error: no agent listens at {}; is `netd run` running?\n",
        socket.display()
    );
    let output = ran(netd(&socket).arg("net-list"));
    assert_eq!(
        (output.stderr.as_str(), output.code),
        (expected.as_str(), Some(1))
    );
    // A socket file that a killed agent left behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    nobody_listens(&socket);
    assert_eq!(ran(netd(&socket).arg("net-list")).stderr, expected);
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let server = Server::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = netd(&server.socket)
        .args(["net-list", "--all"])
        .stdout(writer)
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_idle_virsh_keeps_its_connection() {
    // The server loses patience after 8 s; virsh itself would ping after 30 s.
    let server = Server::with_limits(Limits {
        keepalive_interval: Duration::from_secs(2),
        keepalive_count: 3,
        ..Limits::default()
    });
    let Some(mut virsh) = virsh(&server.socket) else {
        return;
    };
    let mut child = virsh
        .args(["-k", "30"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"net-uuid n1\n").unwrap();
    std::thread::sleep(Duration::from_secs(10));
    keys.write_all(b"net-uuid default\nquit\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stdout.contains("29392cdd-301e-4814-bda6-7c419f326daa"),
        "{stdout}{stderr}"
    );
    assert_eq!(stderr, "");
}

#[test]
fn the_binary_is_dnsmasqs_lease_helper_under_both_names() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join(netd::dnsmasq::HELPER_NAME);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_netd"), &link).unwrap();
    let mut verb = Command::new(env!("CARGO_BIN_EXE_netd"));
    verb.arg("lease-helper");
    for mut program in [verb, Command::new(link)] {
        let output = ran(&mut program);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(
            output.stderr.starts_with("netd lease-helper: usage:"),
            "{output:?}"
        );
    }
}
