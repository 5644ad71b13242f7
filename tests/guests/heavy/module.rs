//! netd's module in the libvirtd of each release: what clients of that libvirtd see.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, ensure};
use netd_tests::libvirt::{Host, PATIENCE, Root, check};
use netd_tests::{Network, eventually};

const WHY: &str = "netd does not answer at /run/netd/netd-sock";

/// Runs a test on the libvirtd of each release, with netd's module and without netd.
fn on_each(test: impl Fn(&mut Host) -> Result<()>) {
    for root in Root::SUITES {
        on(root, &test);
    }
}

fn on(root: Root, test: impl FnOnce(&mut Host) -> Result<()>) {
    check(root, |host| {
        host.use_module()?;
        host.libvirtd.start()?;
        test(host)
    });
}

/// libvirt 9.0 has no metadata of networks, and its virsh no verbs for it.
fn has_metadata(host: &Host) -> bool {
    host.root() != Root::Bookworm
}

pub fn define(host: &Host) -> Result<()> {
    let xml = Network::default().dhcp("").xml();
    host.virsh(["net-define", host.file("/tmp/default.xml", &xml)?])?;
    Ok(())
}

/// What is in a table below its head, without spaces around.
pub fn rows(table: &str) -> Vec<String> {
    let rows = table.lines().skip(2).map(|row| {
        let words: Vec<_> = row.split_whitespace().collect();
        words.join(" ")
    });
    rows.filter(|row| !row.is_empty()).collect()
}

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn networks_are_netds() {
    on_each(|host| {
        host.start_netd()?;
        ensure!(rows(&host.virsh(["net-list", "--all"])?).is_empty());
        define(host)?;
        host.virsh(["net-start", "default"])?;
        host.virsh(["net-autostart", "default"])?;
        let list = rows(&host.virsh(["net-list"])?);
        ensure!(list == ["default active yes yes"], "{list:?}");
        // The same over a connection of the driver's own.
        let own = host.virsh(["-c", "network:///system", "net-list"])?;
        ensure!(rows(&own) == list, "{own}");
        let secure = host.virsh(["-c", "network:///system", "uri"])?;
        ensure!(secure.trim() == "network:///system", "{secure}");

        let uuid = host.virsh(["net-uuid", "default"])?;
        let name = host.virsh(["net-name", uuid.trim()])?;
        ensure!(name.trim() == "default", "{name}");
        let info = host.virsh(["net-info", "default"])?;
        ensure!(info.contains("virbr1"), "{info}");
        for (words, end) in [
            (["net-list", "--name"].as_slice(), "default\n\n"),
            (&["net-list", "--inactive", "--name"], "\n"),
            (&["net-list", "--transient", "--name"], "\n"),
        ] {
            let said = host.virsh(words.iter().copied())?;
            ensure!(said == end, "{words:?}: {said:?}");
        }
        // netd has it, and nobody else.
        let netds = host.run(["netd", "net-list", "--name"])?;
        ensure!(netds.trim() == "default", "{netds}");
        ensure!(!host.path("/run/libvirt/network/default.xml").exists());

        host.virsh(["net-destroy", "default"])?;
        host.virsh(["net-autostart", "default", "--disable"])?;
        host.virsh(["net-undefine", "default"])?;
        host.virsh(["net-create", "/tmp/default.xml"])?;
        let list = rows(&host.virsh(["net-list"])?);
        ensure!(list == ["default active no no"], "{list:?}");
        host.virsh(["net-destroy", "default"])?;
        ensure!(rows(&host.virsh(["net-list", "--all"])?).is_empty());
        Ok(())
    });
}

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn changes_and_questions_reach_netd() {
    on_each(|host| {
        host.start_netd()?;
        define(host)?;
        host.virsh(["net-start", "default"])?;
        // The arguments of an update arrive in their order.
        let entry = "<host mac='52:54:00:00:00:09' ip='192.168.122.9'/>";
        host.virsh([
            "net-update",
            "default",
            "add",
            "ip-dhcp-host",
            entry,
            "--live",
            "--config",
        ])?;
        for inactive in [
            &["net-dumpxml", "default"][..],
            &["net-dumpxml", "default", "--inactive"],
        ] {
            let xml = host.virsh(inactive.iter().copied())?;
            ensure!(xml.contains("52:54:00:00:00:09"), "{inactive:?}: {xml}");
        }
        host.virsh(["net-dhcp-leases", "default"])?;
        if has_metadata(host) {
            host.virsh(["net-desc", "default", "of the guests"])?;
            let text = host.virsh(["net-desc", "default"])?;
            ensure!(text.trim() == "of the guests", "{text}");
            let about = ["net-metadata", "default", "--uri", "http://example.org/x"];
            host.virsh([&about[..], &["--key", "x", "--set", "<a/>"]].concat())?;
            ensure!(host.virsh(about)?.trim() == "<a/>");
            let other = ["net-metadata", "default", "--uri", "http://example.org/y"];
            // virsh passes over the error for "there is none", and over no other.
            ensure!(host.virsh(other)?.trim().is_empty());
        }
        // netd's errors arrive as they are.
        let said = host.virsh_fails(["net-start", "default"])?;
        ensure!(
            said.contains("error: Requested operation is not valid: "),
            "{said}"
        );
        let said = host.virsh_fails(["net-info", "nobody"])?;
        ensure!(said.contains("error: Network not found: "), "{said}");
        let said = host.virsh_fails(["--readonly", "net-destroy", "default"])?;
        ensure!(said.contains("read only access prevents"), "{said}");
        Ok(())
    });
}

/// The port of a guest that nobody runs, as QEMU's driver asks for it.
const PORT: &str = "<networkport>\
    <uuid>34b5f4a4-9f0a-4b3f-8d6a-0a5a5a5a5a5a</uuid>\
    <owner><name>g1</name><uuid>3f0e8a3c-0a1b-4c5d-8e9f-a0b1c2d3e4f5</uuid></owner>\
    <mac address='52:54:00:00:00:05'/></networkport>";

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn ports_are_netds() {
    on_each(|host| {
        host.start_netd()?;
        define(host)?;
        host.virsh(["net-start", "default"])?;
        host.virsh([
            "net-port-create",
            "default",
            host.file("/tmp/port.xml", PORT)?,
        ])?;
        let uuid = "34b5f4a4-9f0a-4b3f-8d6a-0a5a5a5a5a5a";
        ensure!(rows(&host.virsh(["net-port-list", "default"])?) == [uuid]);
        let xml = host.virsh(["net-port-dumpxml", "default", uuid])?;
        ensure!(
            xml.contains("<plug type='network' bridge='virbr1'/>"),
            "{xml}"
        );
        let xml = host.virsh(["net-dumpxml", "default"])?;
        ensure!(xml.contains("connections='1'"), "{xml}");
        let said = host.virsh_fails(["net-port-create", "default", "/tmp/port.xml"])?;
        ensure!(said.contains("exists already"), "{said}");
        host.virsh(["net-port-delete", "default", uuid])?;
        ensure!(rows(&host.virsh(["net-port-list", "default"])?).is_empty());
        // virsh does not always end with 1 here.
        let output = host.output(["virsh", "net-port-dumpxml", "default", uuid])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("failed to get network port"), "{said}");
        Ok(())
    });
}

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn libvirtd_needs_no_netd_to_start_and_none_to_go_on() {
    on_each(|host| {
        let said = host.virsh_fails(["net-list", "--all"])?;
        ensure!(
            said.contains(WHY) && said.contains("systemctl start netd"),
            "{said}"
        );
        host.virsh(["list", "--all"])?;
        host.start_netd()?;
        define(host)?;
        // Killed, its socket left behind: the next caller is told, or waits for the one that comes.
        host.netd.kill()?;
        let said = host.virsh_fails(["net-list", "--all"])?;
        ensure!(said.contains(WHY), "{said}");
        host.netd.start()?;
        for _ in 0..3 {
            ensure!(rows(&host.virsh(["net-list", "--all"])?) == ["default inactive no yes"]);
        }
        host.netd.kill()?;
        let mut waiting = host.inside().command("virsh");
        let waiting = waiting
            .args(["net-list", "--all"])
            .stdout(Stdio::piped())
            .spawn()?;
        host.netd.start()?;
        let output = waiting.wait_with_output()?;
        // On a slow machine netd takes longer than that caller waits.
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            !output.status.success() || rows(&said) == ["default inactive no yes"],
            "{said}"
        );
        ensure!(rows(&host.virsh(["net-list", "--all"])?) == ["default inactive no yes"]);
        Ok(())
    });
}

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn a_netd_that_hangs_is_waited_for_a_while() {
    on(Root::Trixie, |host| {
        host.start_netd()?;
        define(host)?;
        host.virsh(["net-list"])?;
        host.netd.signal("STOP")?;
        let said = host.virsh_fails(["net-list", "--all"])?;
        ensure!(said.contains("has not answered for 10 s"), "{said}");
        // Nothing else of libvirtd waits.
        host.virsh(["list", "--all"])?;
        host.netd.signal("CONT")?;
        eventually(PATIENCE, || {
            let list = rows(&host.virsh(["net-list", "--all"])?);
            ensure!(list == ["default inactive no yes"], "{list:?}");
            Ok(())
        })
    });
}

/// virsh that prints events into a file of the event's name.
fn watch(host: &Host, event: &str) -> Result<()> {
    let script = r#"echo $$ > "/tmp/$0.pid"; exec virsh net-event --loop --event "$0" > "/tmp/$0""#;
    host.inside()
        .command("sh")
        .args(["-c", script, event])
        .spawn()?;
    Ok(())
}

/// Ends it.
fn stop_watching(host: &Host, event: &str) -> Result<()> {
    let pid = host.read(&format!("/tmp/{event}.pid"))?;
    host.run(["kill", pid.trim()]).map(drop)
}

/// Does something until that watcher tells of it.
fn until_told(host: &Host, event: &str, sign: &str, act: impl Fn() -> Result<()>) -> Result<()> {
    eventually(PATIENCE, || {
        act()?;
        let told = host.read(&format!("/tmp/{event}"))?;
        ensure!(told.contains(sign), "{event}: no {sign} in:\n{told}");
        Ok(())
    })
}

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn events_are_told_also_after_a_restart_of_netd() {
    on_each(|host| {
        host.start_netd()?;
        define(host)?;
        watch(host, "lifecycle")?;
        let cycle = || {
            host.virsh(["net-start", "default"])?;
            host.virsh(["net-destroy", "default"])?;
            Ok(())
        };
        until_told(host, "lifecycle", "network default: Stopped", cycle)?;
        if has_metadata(host) {
            watch(host, "metadata-change")?;
            until_told(host, "metadata-change", "default", || {
                host.virsh(["net-desc", "default", "a text"]).map(drop)
            })?;
        }
        host.netd.kill()?;
        host.netd.start()?;
        host.file("/tmp/other.xml", &Network::isolated("other", 2).xml())?;
        until_told(host, "lifecycle", "network other: Started", || {
            host.virsh(["net-create", "/tmp/other.xml"])?;
            host.virsh(["net-destroy", "other"]).map(drop)
        })?;
        stop_watching(host, "lifecycle")?;
        host.virsh(["net-create", "/tmp/other.xml"])?;
        host.virsh(["net-list"])?;
        Ok(())
    });
}

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn thousands_of_calls_leave_nothing_behind() {
    on_each(|host| {
        host.start_netd()?;
        define(host)?;
        host.virsh(["net-start", "default"])?;
        let calls = "net-list --all\nnet-dumpxml default\nnet-dhcp-leases default\nnet-info x\n";
        host.file("/tmp/calls", &calls.repeat(1000))?;
        let run = || -> Result<u64> {
            host.run(["sh", "-c", "virsh < /tmp/calls > /tmp/said 2>&1"])?;
            let said = host.read("/tmp/said")?;
            ensure!(
                said.matches("<name>default</name>").count() == 1000,
                "{said}"
            );
            let status =
                fs::read_to_string(host.path(&format!("/proc/{}/status", host.libvirtd.pid()?)))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.context("VmRSS")?.parse()?)
        };
        let first = run()?;
        run()?;
        let last = run()?;
        // A network that is not given back is 100 bytes and more; there were 30 000 in between.
        ensure!(last < first + 1024, "{first} kB, then {last} kB");
        Ok(())
    });
}

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn a_libvirt_that_nobody_looked_at_has_no_networks() {
    check(Root::Bookworm, |host| {
        host.use_module()?;
        // The real libvirt, and a wrong answer when it is asked for its version.
        let source = "int virGetVersion(unsigned long *v, const char *k, unsigned long *o)\
                      { if (v) *v = 99000000; return 0; }";
        host.file("/tmp/version.c", source)?;
        let (source, library) = (
            host.path("/tmp/version.c"),
            host.path("/usr/lib/version.so"),
        );
        netd_tests::run(
            Command::new("cc")
                .args(["-shared", "-fPIC", "-o"])
                .args([library, source]),
        )?;
        host.libvirtd.set_env("LD_PRELOAD", "/usr/lib/version.so");
        host.start_netd()?;
        host.libvirtd.start()?;
        let log = host.libvirtd.log();
        ensure!(
            log.contains("libvirt 99.0.0 is not one that this netd knows"),
            "{log}"
        );
        host.virsh(["list", "--all"])?;
        let said = host.virsh_fails(["net-list"])?;
        ensure!(
            said.contains("not supported by the connection driver"),
            "{said}"
        );
        let said = host.virsh_fails(["-c", "network:///system", "net-list"])?;
        ensure!(said.contains("no connection driver available"), "{said}");
        Ok(())
    });
}

/// What was sent to netd by way of a socket of the host.
fn listen_in(host: &Host, socket: &str) -> Result<Arc<Mutex<Vec<u8>>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = UnixListener::bind(host.path(socket))?;
    let (netd, all) = (host.path("/run/netd/netd-sock"), Arc::clone(&heard));
    // The threads end with the connections and with the program.
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a client");
            let agent = UnixStream::connect(&netd).expect("netd");
            let (mut from, mut to) = (
                agent.try_clone().expect("a socket"),
                client.try_clone().expect("a socket"),
            );
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            let all = Arc::clone(&all);
            thread::spawn(move || carry(client, agent, &all));
        }
    });
    Ok(heard)
}

fn carry(mut client: UnixStream, mut agent: UnixStream, heard: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        heard.lock().expect("the bytes").extend(&buffer[..count]);
        if agent.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = agent.shutdown(Shutdown::Both);
}

#[test]
#[ignore = "starts libvirtd of every release: cargo xtask test --clients"]
fn netd_is_told_on_whose_behalf() {
    for root in Root::SUITES {
        check(root, |host| {
            host.use_module()?;
            host.start_netd()?;
            let heard = listen_in(host, "/run/spy")?;
            host.libvirtd.set_env("NETD_SOCKET", "/run/spy");
            host.libvirtd.start()?;
            let told = |user: u64| {
                // As the protocol has it: the name, its type, the number.
                let parts = [&b"unix-user-id\0\0\0\x04"[..], &user.to_be_bytes()].concat();
                let heard = heard.lock().expect("the bytes");
                heard.windows(parts.len()).any(|bytes| bytes == parts)
            };
            host.virsh(["net-list"])?;
            ensure!(told(0) && !told(65534), "root did not ask as root");
            let nobody = [
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
            ];
            host.run([&nobody[..], &["virsh", "--readonly", "net-list"]].concat())?;
            ensure!(told(65534), "nobody did not ask as nobody");
            Ok(())
        });
    }
}
