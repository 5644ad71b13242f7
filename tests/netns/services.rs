//! DHCP, DNS and TFTP under whatever firewall the host has, and names of the host's name servers.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netd_tests::lab::{Lab, OUTSIDE, check};
use netd_tests::{Guest, Netns, Network, SOON, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// After which a patient resolver asks again.
const ANSWER: Duration = Duration::from_secs(3);

/// A question for the IPv4 address of a name (RFC 1035, section 4).
fn question(number: u16, name: &str) -> Vec<u8> {
    let mut message = number.to_be_bytes().to_vec();
    // Recursion is desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The address in an answer to it: its last four bytes, where the answer has one record.
fn answered(number: u16, answer: &[u8]) -> Result<Ipv4Addr> {
    ensure!(answer.starts_with(&number.to_be_bytes()), "{answer:?}");
    let (code, answers) = (answer[3] & 15, answer[7]);
    ensure!(code == 0 && answers == 1, "code {code}, {answers} answers");
    let last = answer.last_chunk::<4>().context("an address")?;
    Ok(Ipv4Addr::from(*last))
}

/// Asks by a datagram.
fn ask_udp(from: &Netns, server: IpAddr, name: &str) -> Result<Ipv4Addr> {
    ask_once(from, server, name, ANSWER)
}

/// Asks by one datagram, and waits that long for the answer.
fn ask_once(from: &Netns, server: IpAddr, name: &str, patience: Duration) -> Result<Ipv4Addr> {
    from.enter(|| {
        let any: IpAddr = match server {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(patience))?;
        let number = socket.local_addr()?.port();
        socket.send_to(&question(number, name), (server, 53))?;
        let mut answer = [0; 512];
        let (length, sender) = socket.recv_from(&mut answer).context("no answer")?;
        ensure!(sender == SocketAddr::new(server, 53), "{sender} answers");
        answered(number, &answer[..length])
    })?
}

/// Asks by a connection.
fn ask_tcp(from: &Netns, server: IpAddr, name: &str) -> Result<Ipv4Addr> {
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, 53), ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let question = question(7, name);
        stream.write_all(&(question.len() as u16).to_be_bytes())?;
        stream.write_all(&question)?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer)?;
        answered(7, &answer)
    })?
}

/// Is a name known sooner or later, by datagrams and by connections?
fn knows(guest: &Guest, server: IpAddr, name: &str, address: &str) -> Result<()> {
    eventually(SOON, || knows_now(guest, server, name, address))
}

fn knows_now(guest: &Guest, server: IpAddr, name: &str, address: &str) -> Result<()> {
    for (by, ask) in [
        (
            "UDP",
            ask_udp as fn(&Netns, IpAddr, &str) -> Result<Ipv4Addr>,
        ),
        ("TCP", ask_tcp),
    ] {
        let answer = ask(guest.netns(), server, name);
        let answer = answer.with_context(|| format!("{name} by {by} of {server}"))?;
        ensure!(answer.to_string() == address, "{name} by {by}: {answer}");
    }
    Ok(())
}

/// A file by TFTP, of several blocks.
fn fetch(lab: &Lab, guest: &Guest, server: &str) -> Result<()> {
    let to = lab.directory().join("fetched").display().to_string();
    guest.netns().run([
        "timeout", "50", "busybox", "tftp", "-g", "-r", "boot", "-l", &to, server,
    ])?;
    let fetched = std::fs::read(&to)?;
    ensure!(fetched == boot_file(), "{} bytes", fetched.len());
    Ok(std::fs::remove_file(&to)?)
}

fn boot_file() -> Vec<u8> {
    (0..5000_u32).map(|byte| byte as u8).collect()
}

/// The network's definition, with names and a file.
fn definition(lab: &Lab, network: Network) -> Result<String> {
    let root = lab.directory().join("tftp");
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join("boot"), boot_file())?;
    for path in [lab.directory(), &root] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    let network = network
        .with("<dns><host ip='10.10.1.9'><hostname>printer</hostname></host></dns>")
        .dhcp("");
    let tftp = format!("<tftp root='{}'/><dhcp>", root.display());
    Ok(network.xml().replacen("<dhcp>", &tftp, 1))
}

/// Rules that let in nothing of what guests ask for.
const FIREWALLS: [(&str, &str); 5] = [
    (
        "dropping",
        "table inet fw { chain input { type filter hook input priority 0; policy drop;
         iif lo accept; ct state established,related accept;
         }\n}",
    ),
    (
        "dropping early",
        "table inet fw { chain input { type filter hook input priority -10; policy drop;
         iif lo accept; ct state established,related accept;
         }\n}",
    ),
    (
        "dropping IPv6",
        "table ip6 fw { chain input { type filter hook input priority 0; policy drop;
         }\n}",
    ),
    (
        "rejecting",
        "table inet fw { chain input { type filter hook input priority 0;
         iif lo accept; ct state established,related accept; reject;
         }\n}",
    ),
    (
        "for reverse paths",
        "table inet fw { chain pre { type filter hook prerouting priority raw;
         fib saddr . iif oif missing drop;
         }\n}",
    ),
];

fn nft(netns: &Netns, lab: &Lab, rules: &str) -> Result<()> {
    let path = lab.directory().join("rules.nft");
    std::fs::write(&path, format!("flush ruleset\n{rules}\n"))?;
    netns.run(["nft", "-f", &path.display().to_string()])?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t01_guests_are_served_under_any_firewall_and_nothing_else_is_open() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().ipv6();
        let gateways: [IpAddr; 2] = [network.gateway().into(), network.address6(1).into()];
        for setting in ["all", "default", "uplink"] {
            let key = format!("net/ipv4/conf/{setting}/rp_filter");
            lab.hv.sysctl(&key, "1")?;
        }
        lab.agent.up("default", &definition(lab, network)?)?;
        let port = lab.hv.listen("10.10.1.1:0")?;
        for (number, (kind, rules)) in (1..).zip(FIREWALLS) {
            nft(&lab.hv, lab, rules)?;
            let guest = lab.plugged(number, "virbr1")?;
            let all = || -> Result<()> {
                let lease = guest.dhcp()?;
                ensure!(lease.dns == Some("10.10.1.1".parse()?), "{lease:?}");
                knows(&guest, gateways[0], "printer", "10.10.1.9")?;
                fetch(lab, &guest, "10.10.1.1")?;
                let own = format!("fd00:10:1::{number}0/64");
                let add = ["ip", "addr", "add", &own, "dev", "eth0", "nodad"];
                guest.netns().run(add)?;
                knows(&guest, gateways[1], "printer", "10.10.1.9")
            };
            all().with_context(|| format!("under a firewall {kind}"))?;
            if kind.starts_with("dropping") && kind != "dropping IPv6" {
                let address = port.local_addr()?;
                let connected = guest.netns().enter(|| {
                    TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
                })?;
                ensure!(!connected, "a firewall {kind} lets guests in");
            }
        }
        nft(&lab.hv, lab, "")?;
        for setting in ["all", "default", "uplink"] {
            let key = format!("net/ipv4/conf/{setting}/rp_filter");
            lab.hv.sysctl(&key, "0")?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t01_no_question_is_lost_while_the_firewall_is_loaded_again() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default();
        let gateway = network.gateway().into();
        lab.agent.up("default", &definition(lab, network)?)?;
        let guest = lab.plugged(1, "virbr1")?;
        guest.address("10.10.1.11/24", None)?;
        knows(&guest, gateway, "printer", "10.10.1.9")?;
        let done = AtomicBool::new(false);
        let reloads = AtomicUsize::new(0);
        let lab = &*lab;
        std::thread::scope(|scope| {
            let loader = scope.spawn(|| -> Result<()> {
                while !done.load(Relaxed) {
                    nft(&lab.hv, lab, FIREWALLS[0].1)?;
                    lab.hv.run(["nft", "flush", "ruleset"])?;
                    reloads.fetch_add(1, Relaxed);
                }
                Ok(())
            });
            let asked = || -> Result<()> {
                let (start, mut number) = (Instant::now(), 0);
                while number < 200 || reloads.load(Relaxed) < 4 {
                    ask_once(guest.netns(), gateway, "printer", SOON)
                        .with_context(|| format!("question {number}"))?;
                    number += 1;
                    ensure!(start.elapsed() < 10 * SOON, "too few reloads: {reloads:?}");
                }
                Ok(())
            };
            let asked = asked();
            done.store(true, Relaxed);
            loader.join().map_err(|_| anyhow::anyhow!("a panic"))??;
            asked
        })
    });
}

/// A name server in a namespace, which knows one name.
fn name_server(lab: &Lab, at: &Netns, address: &str, name: &str, is: &str) -> Result<()> {
    let pid = lab.directory().join(format!("{name}.pid"));
    at.run([
        "dnsmasq",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=root",
        &format!("--listen-address={address}"),
        &format!("--host-record={name},{is}"),
        &format!("--pid-file={}", pid.display()),
    ])?;
    Ok(())
}

/// Ends it.
fn end_name_server(lab: &Lab, name: &str) -> Result<()> {
    let pid = std::fs::read_to_string(lab.directory().join(format!("{name}.pid")))?;
    let pid = Pid::from_raw(pid.trim().parse()?).context("a number")?;
    Ok(kill_process(pid, Signal::TERM)?)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn names_are_asked_for_as_if_dnsmasq_were_on_the_host() {
    check(|lab| {
        // One at the host's loopback as systemd-resolved has it, one by a way that a rule says alone,
        // and one of a guest's.
        name_server(lab, &lab.hv, "127.0.0.53", "stub.example", "192.0.2.53")?;
        name_server(lab, &lab.hv, "::1", "six.example", "192.0.2.56")?;
        let far = lab.far(1500)?;
        name_server(lab, &far, "203.0.113.2", "far.example", "192.0.2.54")?;
        for words in [
            "ip route del default",
            "ip rule add to 203.0.113.0/24 table 77",
            "ip route add default via 198.51.100.1 table 77",
        ] {
            lab.hv.run(words.split(' '))?;
        }
        lab.agent.start()?;
        let network = Network::default()
            .with(
                "<dns><forwarder domain='stub.example' addr='127.0.0.53'/>\
                 <forwarder domain='far.example' addr='203.0.113.2'/>\
                 <forwarder domain='six.example' addr='::1'/>\
                 <forwarder domain='guest.example' addr='10.10.1.12'/></dns>",
            )
            .dns();
        lab.agent.up("default", &network.xml())?;
        nft(&lab.hv, lab, FIREWALLS[0].1)?;
        let guest = lab.member(1, &network)?;
        let server = lab.member(2, &network)?;
        name_server(
            lab,
            server.netns(),
            "10.10.1.12",
            "guest.example",
            "192.0.2.55",
        )?;
        let gateway = network.gateway().into();
        for (name, address) in [
            ("stub.example", "192.0.2.53"),
            ("far.example", "192.0.2.54"),
            ("six.example", "192.0.2.56"),
            ("guest.example", "192.0.2.55"),
        ] {
            knows(&guest, gateway, name, address)?;
        }
        lab.agent.kill()?;
        knows(&guest, gateway, "far.example", "192.0.2.54").context("without an agent")?;
        lab.agent.start()?;
        end_name_server(lab, "stub.example")?;
        end_name_server(lab, "six.example")?;
        nft(&lab.hv, lab, "")?;
        lab.hv
            .run("ip rule del to 203.0.113.0/24 table 77".split(' '))?;
        lab.hv.run("ip route flush table 77".split(' '))?;
        let default = ["ip", "route", "add", "default", "via", &OUTSIDE.to_string()];
        lab.hv.run(default)?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn the_host_itself_asks_gateways_for_names() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().ipv6();
        let gateways: [IpAddr; 2] = [network.gateway().into(), network.address6(1).into()];
        lab.agent.up("default", &definition(lab, network)?)?;
        nft(&lab.hv, lab, FIREWALLS[0].1)?;
        let asks = |lab: &Lab| {
            for gateway in gateways {
                for ask in [ask_udp, ask_tcp] {
                    let answer = ask(&lab.hv, gateway, "printer");
                    let answer = answer.with_context(|| format!("of {gateway}"))?;
                    ensure!(answer.to_string() == "10.10.1.9", "{answer}");
                }
            }
            Ok(())
        };
        eventually(SOON, || asks(lab))?;
        lab.agent.kill()?;
        eventually(SOON, || asks(lab)).context("without an agent")?;
        lab.agent.start()?;
        nft(&lab.hv, lab, "")
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t28_servers_of_a_changed_resolv_conf_are_asked() {
    check(|lab| {
        name_server(lab, &lab.wan, "198.51.100.1", "a.example", "192.0.2.1")?;
        lab.wan
            .run("ip addr add 198.51.100.9/24 dev wan0".split(' '))?;
        name_server(lab, &lab.wan, "198.51.100.9", "b.example", "192.0.2.2")?;
        let resolv = lab.file_with_server("198.51.100.1")?;
        lab.agent.start()?;
        let option = format!(
            "<dnsmasq:options xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>\
             <dnsmasq:option value='resolv-file={resolv}'/></dnsmasq:options>"
        );
        let network = Network::default().with(&option).dns();
        lab.agent.up("default", &network.xml())?;
        let guest = lab.member(1, &network)?;
        let gateway = network.gateway().into();
        knows(&guest, gateway, "a.example", "192.0.2.1")?;
        lab.file_with_server("198.51.100.9")?;
        knows(&guest, gateway, "b.example", "192.0.2.2")
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t41_ports_that_somebody_else_holds_on_the_host_do_not_matter() {
    check(|lab| {
        let held = lab.hv.enter(|| -> Result<_> {
            let any = (Ipv4Addr::UNSPECIFIED, 53);
            let (udp, tcp) = (UdpSocket::bind(any)?, std::net::TcpListener::bind(any)?);
            Ok((udp, tcp, UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67))?))
        })??;
        lab.agent.start()?;
        let network = Network::default();
        let gateway = network.gateway().into();
        lab.agent.up("default", &definition(lab, network)?)?;
        let guest = lab.plugged(1, "virbr1")?;
        guest.dhcp()?;
        knows(&guest, gateway, "printer", "10.10.1.9")?;
        // And somebody may come later.
        drop(held);
        lab.hv.udp((Ipv4Addr::UNSPECIFIED, 53)).map(drop)
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn an_address_that_a_guest_took_for_itself_is_not_given_to_another() {
    check(|lab| {
        lab.agent.start()?;
        let option = "<dnsmasq:options \
             xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>\
             <dnsmasq:option value='dhcp-sequential-ip'/></dnsmasq:options>";
        let network = Network::default().with(option).dhcp("");
        lab.agent.up("default", &network.xml())?;
        let squatter = lab.plugged(1, "virbr1")?;
        squatter.address("10.10.1.100/24", None)?;
        squatter.ping("10.10.1.1")?;
        nft(&lab.hv, lab, FIREWALLS[0].1)?;
        // dnsmasq pings an address before it gives it away.
        let lease = lab.plugged(2, "virbr1")?.dhcp()?;
        ensure!(lease.address == network.address(101), "{lease:?}");
        nft(&lab.hv, lab, "")
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_relay_that_dies_is_started_again_and_nothing_is_left_by_net_destroy() {
    check(|lab| {
        name_server(lab, &lab.wan, "198.51.100.1", "a.example", "192.0.2.1")?;
        lab.agent.start()?;
        let network = Network::default()
            .with("<dns><forwarder addr='198.51.100.1'/></dns>")
            .dhcp("");
        lab.agent.up("default", &network.xml())?;
        let guest = lab.member(1, &network)?;
        let gateway = network.gateway().into();
        knows(&guest, gateway, "a.example", "192.0.2.1")?;
        let file = lab.directory().join("run/relay/virbr1.pid");
        let relay = || -> Result<Pid> {
            let text = std::fs::read_to_string(&file)?;
            let number = text.lines().next().unwrap_or_default();
            Pid::from_raw(number.parse()?).context("a number")
        };
        let first = relay()?;
        kill_process(first, Signal::KILL)?;
        eventually(SOON, || {
            ensure!(relay()? != first, "no other relay");
            knows_now(&guest, gateway, "a.example", "192.0.2.1")
        })?;
        let device = ["ip", "link", "show", "virbr1-svc"];
        lab.hv.run(device)?;
        lab.agent.ok(["net-destroy", "default"])?;
        ensure!(!lab.services("virbr1").exists(), "the namespace is left");
        ensure!(!file.exists(), "the relay's file is left");
        ensure!(!lab.hv.output(device)?.status.success(), "the link is left");
        lab.agent.ok(["net-start", "default"])?;
        knows(&guest, gateway, "a.example", "192.0.2.1")
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_dnsmasq_in_the_hosts_namespace_moves_when_an_agent_starts() {
    check(|lab| {
        lab.agent.start()?;
        let network = Network::default().dhcp("");
        lab.up(&network)?;
        lab.agent.stop()?;
        // As an agent of an earlier version leaves it.
        let [old] = lab.dnsmasqs()?[..] else {
            bail!("not one dnsmasq");
        };
        let command = std::fs::read(format!("/proc/{old}/cmdline"))?;
        let command = String::from_utf8(command)?;
        let words: Vec<&str> = command.trim_end_matches('\0').split('\0').collect();
        kill_process(Pid::from_raw(old).context("a number")?, Signal::KILL)?;
        eventually(SOON, || {
            ensure!(lab.dnsmasqs()?.is_empty(), "it does not end");
            Ok(())
        })?;
        let dir = lab.directory().join("lib/dnsmasq");
        let dir = format!("NETD_DNSMASQ_DIR={}", dir.display());
        let environment = ["env", "VIR_BRIDGE_NAME=virbr1", &dir];
        lab.hv.run(environment.into_iter().chain(words))?;
        lab.agent.start()?;
        // One that takes its time to start keeps the agent from nothing.
        eventually(SOON, || {
            let serving = lab.dnsmasqs()?;
            ensure!(serving.len() == 1, "{serving:?}");
            for pid in lab.hv.processes()? {
                // It may have ended since it was listed.
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                ensure!(name.trim() != "dnsmasq", "{pid} is left");
            }
            Ok(())
        })?;
        lab.plugged(1, "virbr1")?.dhcp()?;
        Ok(())
    });
}

/// What tests here do to a topology beside the rest.
trait Files {
    /// A resolv.conf with one name server, replaced as editors do; returns its path.
    fn file_with_server(&self, server: &str) -> Result<String>;
}

impl Files for Lab {
    fn file_with_server(&self, server: &str) -> Result<String> {
        use std::os::unix::fs::PermissionsExt as _;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.directory(), open)?;
        let (new, path) = (
            self.directory().join("resolv.new"),
            self.directory().join("resolv.conf"),
        );
        std::fs::write(&new, format!("nameserver {server}\n"))?;
        std::fs::rename(&new, &path)?;
        Ok(path.display().to_string())
    }
}
