//! A host is switched from libvirt's own network driver to netd and back, while its guests go on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netd_tests::lab::{OUTSIDE, at};
use netd_tests::libvirt::{Host, PATIENCE, Root, check};
use netd_tests::traffic::{Load, Server, connect};
use netd_tests::{Guest, Netns, TcpPool, eventually};

use crate::echo::Echo;
use crate::scenario::{DEFAULTS, GATEWAY, restart_libvirtd};

/// What a switch may cost a guest's stream.
const OUTAGE: Duration = Duration::from_secs(1);

/// TCP connections that a guest has open: as many that talk, and as many that are silent.
const CONNECTIONS: usize = 20;

pub const PORT_UUID: &str = "9ba75e30-2d0a-4c2e-8b16-4c1f6e3cd0a1";
const PORT: &str = "<networkport><uuid>9ba75e30-2d0a-4c2e-8b16-4c1f6e3cd0a1</uuid><owner><name>vm7</name>\
    <uuid>11111111-2d0a-4c2e-8b16-4c1f6e3cd0a1</uuid></owner><mac address='52:54:00:00:00:07'/>\
    </networkport>";

/// A running libvirt with its network `default`, and a guest that has its lease from it.
pub fn libvirt(host: &mut Host, place: &Path) -> Result<Guest> {
    host.define_default()?;
    host.libvirtd.start()?;
    host.virsh(["net-start", "default"])?;
    host.virsh(["net-autostart", "default"])?;
    let guest = Guest::new(&host.hv, 7, place.to_owned())?;
    host.hv
        .run(["ip", "link", "set", &guest.port, "master", "virbr0"])?;
    host.virsh([
        "net-port-create",
        "default",
        host.file("/tmp/port.xml", PORT)?,
    ])?;
    let lease = guest.dhcp()?;
    eventually(PATIENCE, || {
        let leases = host.virsh(["net-dhcp-leases", "default"])?;
        let address = lease.address.to_string();
        ensure!(leases.contains(&address), "{address} is not in:\n{leases}");
        Ok(())
    })?;
    guest.ping(&OUTSIDE.to_string())?;
    Ok(guest)
}

pub fn install(host: &mut Host) -> Result<()> {
    host.install_module()?;
    // Debian's packages of daemons bring it.
    std::fs::create_dir_all(host.path("/etc/default"))?;
    host.start_netd()
}

/// What outside says by itself on a connection of a guest's, which is silent.
struct Pushed {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Result<Duration>>,
}

impl Pushed {
    fn start(guest: &Netns) -> Result<Self> {
        let mut stream = connect(guest, at(OUTSIDE, 9))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let count = stream.read(&mut buffer).context("what is pushed")?;
                ensure!(count > 0, "the connection was closed");
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Ok(longest)
        });
        Ok(Self { stop, reader })
    }

    /// The longest time in which nothing came.
    fn finish(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.reader.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Connections on which nobody says anything, until outside does.
struct Idle {
    streams: Vec<TcpStream>,
    speak: Arc<AtomicBool>,
    _server: Server,
}

impl Idle {
    fn start(host: &Host, guest: &Netns, count: usize) -> Result<Self> {
        let speak = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&speak);
        let server = Server::tcp(&host.wan, at(OUTSIDE, 10), move |mut stream| {
            stream.write_all(b"hello")?;
            while !asked.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            stream.write_all(b"still")
        })?;
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut stream = connect(guest, at(OUTSIDE, 10))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read_exact(&mut [0; 5])?;
            streams.push(stream);
        }
        Ok(Self {
            streams,
            speak,
            _server: server,
        })
    }

    fn finish(self) -> Result<()> {
        self.speak.store(true, Ordering::Relaxed);
        for mut stream in self.streams {
            let read = stream.read_exact(&mut [0; 5]);
            read.context("an idle connection of a guest's broke")?;
        }
        Ok(())
    }
}

/// The streams of a guest, and their servers outside.
struct Streams {
    idle: Idle,
    _servers: [Server; 2],
    datagrams: Load,
    pool: TcpPool,
    pushed: Pushed,
    /// The same on a way that no switch touches: what the machine is late by itself.
    control: Pushed,
    since: Instant,
}

impl Streams {
    fn start(host: &Host, guest: &Guest) -> Result<Self> {
        let echo = Server::udp(&host.wan, at(OUTSIDE, 7))?;
        let push = Server::tcp(&host.wan, at(OUTSIDE, 9), |mut stream| {
            stream.set_nodelay(true)?;
            loop {
                stream.write_all(b"something\n")?;
                std::thread::sleep(Duration::from_millis(5));
            }
        })?;
        let netns = guest.netns();
        let pool = TcpPool::start(netns, &host.wan, at(OUTSIDE, 8), CONNECTIONS)?;
        let idle = Idle::start(host, netns, CONNECTIONS)?;
        let pushed = Pushed::start(netns)?;
        let control = Pushed::start(&host.wan)?;
        let datagrams = Load::udp(netns, at(OUTSIDE, 7))?;
        let since = Instant::now();
        datagrams.reach(500)?;
        Ok(Self {
            idle,
            _servers: [echo, push],
            datagrams,
            pool,
            pushed,
            control,
            since,
        })
    }

    /// What was lost since the start is less than a switch may cost; no connection broke.
    fn finish(self, what: &str) -> Result<()> {
        // They go on after it.
        std::thread::sleep(Duration::from_millis(500));
        let lasted = self.since.elapsed();
        let report = self.datagrams.finish()?;
        let (longest, control) = (self.pushed.finish()?, self.control.finish()?);
        self.pool.finish()?.ensure_whole()?;
        self.idle.finish()?;
        let lost = report.lost.len() as f64 / report.sent as f64 * lasted.as_secs_f64();
        println!(
            "{what}: {} of {} datagrams lost ({lost:.3} s), pushed data late by {longest:?}, and by \
             {control:?} where nothing was switched",
            report.lost.len(),
            report.sent
        );
        ensure!(
            lost < OUTAGE.as_secs_f64(),
            "{what}: datagrams of {lost} s were lost"
        );
        ensure!(
            longest < OUTAGE + control,
            "{what}: nothing was pushed for {longest:?}"
        );
        Ok(())
    }
}

/// The bridge and its port, which must stay the same devices.
pub fn devices(host: &Host, guest: &Guest) -> Result<Vec<String>> {
    let device = |name: &str| -> Result<String> {
        let link = host.hv.run(["ip", "-o", "link", "show", name])?;
        let mac = link.split("link/ether ").nth(1).unwrap_or_default();
        let index = link.split(':').next().unwrap_or_default();
        Ok(format!("{index} {mac}"))
    };
    let port = host.hv.run(["ip", "-o", "link", "show", &guest.port])?;
    ensure!(port.contains("master virbr0"), "{port}");
    Ok(vec![device("virbr0")?, device(&guest.port)?])
}

/// Lease and names are as they were: who has the network tells the same of them.
pub fn serves(guest: &Guest, leases: &str, before: &str) -> Result<()> {
    ensure!(
        leases.trim() == before.trim(),
        "other leases:\n{leases}instead of\n{before}"
    );
    eventually(PATIENCE, || guest.resolve(&guest.hostname, GATEWAY))?;
    Ok(())
}

/// The guest gets its address again.
pub fn renews(guest: &Guest, leases: &str) -> Result<()> {
    let address = guest.dhcp()?.address.to_string();
    ensure!(
        leases.contains(&address),
        "another address, {address}:\n{leases}"
    );
    Ok(())
}

fn rules(host: &Host) -> Result<bool> {
    Ok(host
        .hv
        .run(["nft", "list", "ruleset"])?
        .contains("LIBVIRT_"))
}

/// What libvirt's other backend makes, as far as its removal goes; and rules of somebody else's, beside
/// libvirt's and in tables of their own.
const RULES: &[&str] = &[
    "add table ip libvirt_network",
    "add chain ip libvirt_network guest_output",
    "add chain ip libvirt_network forward { type filter hook forward priority 0 ; }",
    "add rule ip libvirt_network forward counter jump guest_output",
    "add table ip foreign",
    "add chain ip foreign LIBVIRT_FWX",
    "add rule ip foreign LIBVIRT_FWX ip saddr 10.9.0.0/16 accept",
    "add rule ip filter FORWARD ip saddr 10.9.0.0/16 accept",
    "add rule ip6 filter FORWARD ip6 saddr fd09::/16 accept",
];

fn foreign_rules(host: &Host) -> Result<Vec<String>> {
    let mut rules = Vec::new();
    for chain in [
        "ip foreign LIBVIRT_FWX",
        "ip filter FORWARD",
        "ip6 filter FORWARD",
    ] {
        let words = ["nft", "list", "chain"].into_iter().chain(chain.split(' '));
        let listed = host.hv.run(words)?;
        let own = listed
            .lines()
            .filter(|line| !line.contains("jump LIBVIRT_"));
        rules.extend(own.map(str::to_owned));
    }
    let found = rules.iter().filter(|rule| rule.contains("saddr")).count();
    ensure!(found == 3, "{rules:?}");
    Ok(rules)
}

/// Of a guest: GRE, an SCTP INIT, a datagram and a SYN, to where nobody answers. Nothing of it is handed
/// over, and none of it may be in the way.
const UNANSWERED: &str = r#"
import socket
def raw(protocol, data):
    socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol).sendto(data, (outside, 0))
outside, silent = '{OUTSIDE}', '{SILENT}'
raw(47, bytes(4) + b'inside')
raw(132, bytes.fromhex('1388 1389 00000000 00000000 0100 0014 00000001 00010000 0001 0001 00000001'))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'anybody?', (silent, 4000))
syn = socket.socket()
syn.setblocking(False)
syn.connect_ex((silent, 4001))
"#;

fn speak_to_nobody(guest: &Guest) -> Result<()> {
    let script = UNANSWERED
        .replace("{OUTSIDE}", &OUTSIDE.to_string())
        .replace("{SILENT}", "203.0.113.254");
    guest.netns().run(["python3", "-c", &script]).map(drop)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_host_is_switched_to_netd_and_back() {
    there_and_back(Root::Machine);
}

/// The whole way, on a host of that release.
pub fn there_and_back(root: Root) {
    check(root, |host| {
        let place = tempfile::tempdir()?;
        let guest = libvirt(host, place.path())?;
        install(host)?;
        let leases = host.virsh(["net-dhcp-leases", "default"])?;
        let before = devices(host, &guest)?;
        for rule in RULES {
            host.hv.run(["nft"].into_iter().chain(rule.split(' ')))?;
        }
        let foreign = foreign_rules(host)?;

        let streams = Streams::start(host, &guest)?;
        speak_to_nobody(&guest)?;
        let echo = Echo::ask(guest.netns(), &host.wan, 1001)?;
        host.run(["netd", "libvirt", "adopt"])?;
        echo.finish(&host.wan).context("the echo, to netd")?;
        streams.finish("to netd")?;
        ensure!(devices(host, &guest)? == before, "other devices");
        let left = host.hv.run(["nft", "list", "ruleset"])?;
        let left = left.replace("chain LIBVIRT_FWX", "");
        ensure!(
            !left.contains("LIBVIRT_") && !left.contains("libvirt_network"),
            "libvirt's rules are left:\n{left}"
        );
        ensure!(
            foreign_rules(host)? == foreign,
            "other rules are not what they were"
        );
        let listed = host.run(["netd", "net-list"])?;
        ensure!(
            listed.contains("default   active   yes         yes"),
            "{listed}"
        );
        serves(
            &guest,
            &host.run(["netd", "net-dhcp-leases", "default"])?,
            &leases,
        )?;
        restart_libvirtd(host)?;
        let ports = host.virsh(["net-port-list", "default"])?;
        ensure!(
            ports.contains(PORT_UUID),
            "no port {PORT_UUID} by libvirtd:\n{ports}"
        );

        let leases = host.virsh(["net-dhcp-leases", "default"])?;
        let streams = Streams::start(host, &guest)?;
        speak_to_nobody(&guest)?;
        let echo = Echo::ask(guest.netns(), &host.wan, 1002)?;
        let inside = host.inside();
        let released = std::thread::spawn(move || inside.run(["netd", "libvirt", "release"]));
        eventually(PATIENCE, || {
            let defaults = host.read(DEFAULTS).unwrap_or_default();
            ensure!(!defaults.contains("LIBVIRT_DRIVER_DIR"), "{defaults}");
            Ok(())
        })?;
        restart_libvirtd(host)?;
        let released = released.join();
        released.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        echo.finish(&host.wan)
            .context("the echo, back to libvirt")?;
        streams.finish("back to libvirt")?;
        ensure!(devices(host, &guest)? == before, "other devices");
        ensure!(rules(host)?, "libvirt's rules are missing");
        let listed = host.virsh(["net-list"])?;
        ensure!(
            listed.contains("default   active   yes         yes"),
            "{listed}"
        );
        let own = host.run(["netd", "net-list", "--all", "--name"])?;
        ensure!(own.trim().is_empty(), "netd has: {own}");
        serves(
            &guest,
            &host.virsh(["net-dhcp-leases", "default"])?,
            &leases,
        )?;
        guest.ping(&OUTSIDE.to_string())?;
        renews(&guest, &leases)?;
        // libvirt's daemon has it all in its hands.
        host.virsh(["net-destroy", "default"])?;
        ensure!(
            host.hv.run(["ip", "link", "show", "virbr0"]).is_err(),
            "virbr0 is left"
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_switch_that_fails_leaves_the_host_as_it_was() {
    check(Root::Machine, |host| {
        let place = tempfile::tempdir()?;
        let guest = libvirt(host, place.path())?;
        install(host)?;
        // A step behind the networks cannot be done.
        host.file(DEFAULTS, "LIBVIRT_DRIVER_DIR=/elsewhere\n")?;
        let leases = host.virsh(["net-dhcp-leases", "default"])?;
        let before = devices(host, &guest)?;
        let streams = Streams::start(host, &guest)?;
        let output = host.output(["netd", "libvirt", "adopt"])?;
        streams.finish("to netd and at once back")?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(
            error.contains("/elsewhere") && error.contains("nothing was changed"),
            "{error}"
        );
        ensure!(devices(host, &guest)? == before, "other devices");
        ensure!(rules(host)?, "libvirt's rules are gone");
        let own = host.run(["netd", "net-list", "--all", "--name"])?;
        ensure!(own.trim().is_empty(), "netd has: {own}");
        serves(
            &guest,
            &host.virsh(["net-dhcp-leases", "default"])?,
            &leases,
        )?;
        // One that was killed is made good by the next.
        host.file(DEFAULTS, "")?;
        for limit in ["0.05", "0.2", "0.5"] {
            host.output(["timeout", "-s", "KILL", limit, "netd", "libvirt", "adopt"])?;
        }
        host.run(["netd", "libvirt", "adopt"])?;
        serves(
            &guest,
            &host.run(["netd", "net-dhcp-leases", "default"])?,
            &leases,
        )?;
        renews(&guest, &leases)?;
        ensure!(devices(host, &guest)? == before, "other devices");
        guest.ping(&OUTSIDE.to_string())?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_host_that_was_switched_is_purged_of_all() {
    check(Root::Machine, |host| {
        let place = tempfile::tempdir()?;
        let _guest = libvirt(host, place.path())?;
        install(host)?;
        let defaults = "LIBVIRTD_ARGS=\"\"\n";
        host.file(DEFAULTS, defaults)?;
        host.run(["netd", "libvirt", "adopt"])?;
        for there in [
            "/var/lib/netd/dnsmasq/virbr0.nss",
            "/var/lib/netd/libvirt/drivers",
            "/var/lib/libvirt/dnsmasq/virbr0.status",
            "/var/lib/libvirt/dnsmasq/virbr0.macs",
        ] {
            ensure!(
                host.output(["test", "-e", there])?.status.success(),
                "{there} is missing"
            );
        }
        // As a host has it whose virtnetworkd was stopped.
        host.file("/var/lib/netd/libvirt/serves", "")?;
        host.netd.stop()?;
        host.file("/var/lib/netd/libvirt/journal.json", "[]")?;
        let output = host.output(["netd", "teardown", "--purge"])?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && error.contains("interrupted"),
            "{output:?}"
        );
        ensure!(host.hv.run(["ip", "link", "show", "virbr0"]).is_ok());
        host.run(["rm", "/var/lib/netd/libvirt/journal.json"])?;

        let said = host.run(["netd", "teardown", "--purge"])?;
        for told in [
            "systemctl restart libvirtd",
            "systemctl unmask virtnetworkd",
        ] {
            ensure!(said.contains(told), "{told} is not in:\n{said}");
        }
        let left = host.output([
            "find",
            "/etc/netd",
            "/var/lib/netd",
            "/run/netd",
            "/sys/fs/bpf/netd",
        ])?;
        ensure!(
            left.stdout.is_empty(),
            "{}",
            String::from_utf8_lossy(&left.stdout)
        );
        let left = host.run(["find", "/var/lib/libvirt/dnsmasq", "-name", "virbr0.[sm]*"])?;
        ensure!(left.is_empty(), "{left}");
        ensure!(host.read(DEFAULTS)? == defaults, "{}", host.read(DEFAULTS)?);
        restart_libvirtd(host)?;
        host.virsh(["net-start", "default"]).map(drop)
    });
}
