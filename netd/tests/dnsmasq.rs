//! A real dnsmasq and a real DHCP client in network namespaces. Needs root, `ip` and `udhcpc`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use netd::dnsmasq::process::{adopt, adopt_network, files_of, remove_files, remove_shared};
use netd::dnsmasq::{Dnsmasq, Running, leases};
use netd::model::{Bridge, Dhcp, DhcpHost, DhcpRange, Forward, Ip, IpMask, Network};
use netd::netns::Netns;
use netd::paths::Paths;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const CLIENT_MAC: &str = "52:54:00:aa:00:01";

/// Two namespaces joined by a veth pair, one end of it in a bridge; gone when dropped.
struct Topology {
    host: String,
    guest: String,
    dir: tempfile::TempDir,
}

impl Topology {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // dnsmasq reads its host files as a user of its own.
        run("chmod", &["755", &dir.path().display().to_string()]);
        let id = std::process::id();
        let topology = Self {
            host: format!("{name}h{id}"),
            guest: format!("{name}g{id}"),
            dir,
        };
        let (host, guest) = (&topology.host, &topology.guest);
        for netns in [host, guest] {
            run("ip", &["netns", "add", netns]);
            run("ip", &["-n", netns, "link", "set", "lo", "up"]);
        }
        run(
            "ip",
            &["-n", host, "link", "add", "virbr0", "type", "bridge"],
        );
        run(
            "ip",
            &[
                "-n",
                host,
                "addr",
                "add",
                "192.168.122.1/24",
                "dev",
                "virbr0",
            ],
        );
        run(
            "ip",
            &[
                "-n", host, "link", "add", "port0", "type", "veth", "peer", "name", "eth0",
                "address", CLIENT_MAC, "netns", guest,
            ],
        );
        run(
            "ip",
            &["-n", host, "link", "set", "port0", "master", "virbr0", "up"],
        );
        run("ip", &["-n", host, "link", "set", "virbr0", "up"]);
        run("ip", &["-n", guest, "link", "set", "eth0", "up"]);
        topology
    }

    fn paths(&self) -> Paths {
        let base = self.dir.path();
        Paths {
            config_dir: base.join("etc"),
            state_dir: base.join("lib"),
            run_dir: base.join("run"),
            bpffs: base.join("bpf"),
        }
    }

    /// Run `body` on a thread that is in the host's namespace.
    fn on_host<T: Send>(&self, body: impl AsyncFnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let netns = fs::File::open(format!("/run/netns/{}", self.host)).unwrap();
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(body())
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The address a DHCP client in the guest is given.
    fn lease(&self, arguments: &[&str]) -> Option<String> {
        let netns = ["netns", "exec", &self.guest, "busybox", "udhcpc"];
        let client = [
            "-i",
            "eth0",
            "-n",
            "-q",
            "-f",
            "-t",
            "30",
            "-T",
            "1",
            "-s",
            "/bin/true",
        ];
        let output = Command::new("ip")
            .args([&netns[..], &client, arguments].concat())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let words = text.split("lease of ").nth(1)?;
        words.split([' ', ',']).next().map(str::to_owned)
    }

    fn pids(&self) -> Vec<String> {
        let output = run("ip", &["netns", "pids", &self.host]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        for netns in [&self.host, &self.guest] {
            // What a failed test left running is in these namespaces and nowhere else.
            if let Ok(output) = Command::new("ip").args(["netns", "pids", netns]).output() {
                for pid in String::from_utf8_lossy(&output.stdout).lines() {
                    let _ = Command::new("kill").args(["-9", pid]).status();
                }
            }
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
    }
}

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn helper() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_netd"))
}

fn network() -> Network {
    Network {
        name: "my net".into(),
        forward: Some(Forward::default()),
        bridge: Bridge {
            name: Some("virbr0".into()),
            ..Bridge::default()
        },
        ips: vec![Ip {
            address: "192.168.122.1".parse().unwrap(),
            family: None,
            mask: IpMask::Prefix(24),
            local_ptr: None,
            tftp_root: None,
            dhcp: Dhcp {
                ranges: vec![DhcpRange {
                    start: "192.168.122.100".parse().unwrap(),
                    end: "192.168.122.110".parse().unwrap(),
                    lease: None,
                }],
                ..Dhcp::default()
            },
        }],
        ..Network::default()
    }
}

/// The namespace of the calling thread.
fn here() -> Netns {
    let path = Path::new("/proc/thread-self/ns/net");
    Netns::open(path).unwrap().unwrap()
}

async fn start(network: &Network, paths: &Paths) -> Running {
    let begin = Instant::now();
    let running = Dnsmasq::new()
        .start(network, "virbr0", paths, helper(), &here())
        .await
        .unwrap();
    eprintln!("dnsmasq started in {:?}", begin.elapsed());
    running
}

/// What is under `dir`, directories left out.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// What is sure to come has come by then, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn reload(network: &Network, paths: &Paths, running: &Running) -> Running {
    let (dnsmasq, here) = (Dnsmasq::new(), here());
    let running = running.clone();
    let reloaded = dnsmasq.reload(network, "virbr0", paths, helper(), &here, (running, false));
    reloaded.await.unwrap()
}

#[test]
fn a_guest_gets_a_lease_and_nothing_is_left_behind() {
    let topology = Topology::new("nd");
    let paths = topology.paths();
    let mut network = network();
    let read = || leases::read(&paths.dnsmasq_dir(), "virbr0", &self::network(), None, 1).unwrap();

    // The runtime that started it is gone when the client asks: nothing hangs on it.
    let pid = topology.on_host(async || start(&network, &paths).await.pid());
    let address = topology.lease(&["-x", "hostname:guest1"]).unwrap();
    assert!(address.starts_with("192.168.122.10") || address == "192.168.122.110");
    eventually("the lease is in the status file", || !read().is_empty());
    let lease = &read()[0];
    assert_eq!(lease.mac.as_deref(), Some(CLIENT_MAC));
    assert_eq!(lease.ip.to_string(), address);
    assert_eq!(
        (lease.hostname.as_deref(), lease.prefix),
        (Some("guest1"), 24)
    );
    assert!(lease.expiry > 1_700_000_000);

    // A new agent finds it, and only it.
    let running = adopt_network(&network, &paths).unwrap();
    assert_eq!(running.pid(), pid);
    let pid_file = files_of(&paths, &network).unwrap().pid_file.unwrap();
    assert!(adopt(&pid_file, Path::new("/another.conf")).is_none());

    // A reservation works after a reload, in the same process.
    network.ips[0].dhcp.hosts = vec![DhcpHost {
        mac: Some(CLIENT_MAC.into()),
        ip: Some("192.168.122.50".parse().unwrap()),
        ..DhcpHost::default()
    }];
    assert_eq!(
        topology.on_host(async || reload(&network, &paths, &running).await.pid()),
        pid
    );
    eventually("the reservation is honoured", || {
        topology.lease(&[]).as_deref() == Some("192.168.122.50")
    });
    assert_eq!(adopt_network(&network, &paths).unwrap().pid(), pid);
    // dnsmasq notes a lease after it has answered.
    let reserved = |lease: &netd::api::Lease| lease.ip.to_string() == "192.168.122.50";
    eventually("the lease is noted", || read().iter().any(reserved));

    // A death is noticed by somebody who is not the parent, and the next one knows the leases.
    topology.on_host(async || {
        let watched = running.clone();
        let watch = tokio::spawn(async move { watched.exited().await });
        run("kill", &["-9", &pid.to_string()]);
        tokio::time::timeout(SOON, watch)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(adopt_network(&network, &paths).is_none());
        assert_ne!(start(&network, &paths).await.pid(), pid);
    });
    assert!(read().iter().any(reserved));

    // Starting over an existing one replaces it.
    topology.on_host(async || {
        let old = adopt_network(&network, &paths).unwrap();
        let new = start(&network, &paths).await;
        assert_ne!(old.pid(), new.pid());
        old.exited().await.unwrap();
        new.stop(&pid_file).await.unwrap();
        new.stop(&pid_file).await.unwrap();
    });
    assert!(adopt_network(&network, &paths).is_none());
    eventually("no process is left", || topology.pids().is_empty());

    remove_files(&network, "virbr0", &paths).unwrap();
    remove_shared(&paths).unwrap();
    assert_eq!(files(topology.dir.path()), Vec::<PathBuf>::new());
    assert!(!paths.dnsmasq_dir().exists());
}

#[test]
fn a_refusal_is_told_in_dnsmasqs_words_and_leaves_nothing() {
    let topology = Topology::new("nr");
    let paths = topology.paths();
    let mut network = network();
    network.dnsmasq_options = vec!["no-such-option=1".into()];
    let error = topology.on_host(async || {
        Dnsmasq::new()
            .start(&network, "virbr0", &paths, helper(), &here())
            .await
            .unwrap_err()
            .to_string()
    });
    assert!(
        error.contains("my net") && error.contains("bad option"),
        "{error}"
    );
    assert!(topology.pids().is_empty());
    remove_shared(&paths).unwrap();
    assert_eq!(files(topology.dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_daemon_that_keeps_stderr_is_no_hindrance() {
    let topology = Topology::new("ns");
    let paths = topology.paths();
    let mut network = network();
    network.dnsmasq_options = vec!["log-facility=-".into()];
    topology.on_host(async || {
        // With the hindrance it takes all the time that a start may take, and is an error.
        let running = start(&network, &paths).await;
        let pid_file = files_of(&paths, &network).unwrap().pid_file.unwrap();
        running.stop(&pid_file).await.unwrap();
    });
    eventually("no process is left", || topology.pids().is_empty());
}
