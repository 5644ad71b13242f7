//! `<netd:prefix from>`: a network has the prefix that the uplink is delegated, by a real server (Kea).

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use netd_tests::lab6::{HOST6, OUTSIDE6, at6, check6};
use netd_tests::traffic::Server;
use netd_tests::{Guest, Lab, Network, SOON, eventually};

const PORT: u16 = 7000;

/// A DHCPv6 server outside that delegates prefixes, until it is dropped.
struct Kea {
    child: Child,
    log: PathBuf,
}

impl Kea {
    /// Delegates of this /48, each with 56 bits.
    fn start(lab: &Lab, prefix: &str) -> Result<Self> {
        let directory = lab.directory().display();
        let configuration = format!(
            r#"{{"Dhcp6": {{
                "interfaces-config": {{"interfaces": ["wan0"]}},
                "data-directory": "{directory}",
                "lease-database": {{"type": "memfile", "persist": false}},
                "renew-timer": 6, "rebind-timer": 12,
                "preferred-lifetime": 3000, "valid-lifetime": 4000,
                "subnet6": [{{
                    "id": 1, "subnet": "2001:db8:1::/64", "interface": "wan0",
                    "pd-pools": [{{"prefix": "{prefix}", "prefix-len": 48, "delegated-len": 56}}]
                }}],
                "loggers": [{{"name": "kea-dhcp6", "severity": "DEBUG", "debuglevel": 40,
                    "output_options": [{{"output": "stdout"}}]}}]
            }}}}"#
        );
        let file = lab.directory().join("kea.json");
        fs::write(&file, configuration)?;
        let log = lab.directory().join("kea.log");
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = lab.wan.command("kea-dhcp6");
        command
            .arg("-c")
            .arg(&file)
            .env("KEA_LOCKFILE_DIR", lab.directory())
            .env("KEA_PIDFILE_DIR", lab.directory())
            .stderr(out.try_clone()?)
            .stdout(out)
            .stdin(Stdio::null());
        let child = command.spawn().context("kea-dhcp6 of kea-dhcp6-server")?;
        Ok(Self { child, log })
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Kea {
    fn drop(&mut self) {
        // It has ended already, where these fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn network() -> Network {
    Network::route("default", 1).dns().with(
        "<metadata><n:prefix xmlns:n='urn:netd:network:1' from='uplink' length='56'/></metadata>",
    )
}

/// Switches on what a guest's kernel does by itself with advertisements.
fn autoconfigure(guest: &Guest) -> Result<()> {
    let link = guest.netns();
    link.run(["ip", "link", "set", "eth0", "down"])?;
    for parameter in ["accept_ra", "autoconf"] {
        link.sysctl(&format!("net/ipv6/conf/eth0/{parameter}"), "1")?;
    }
    link.run(["ip", "link", "set", "eth0", "up"]).map(drop)
}

/// Waits until the guest has an address of that prefix, and tells of it whether it is deprecated.
fn address_of(guest: &Guest, prefix: &str, deprecated: bool) -> Result<Ipv6Addr> {
    eventually(SOON, || {
        let show = "ip -6 -o addr show eth0 scope global -tentative";
        let text = guest.netns().run(show.split(' '))?;
        let line = text.lines().find(|line| line.contains(prefix));
        let line = line.with_context(|| format!("no address of {prefix}:\n{text}"))?;
        ensure!(line.contains("deprecated") == deprecated, "{line}");
        let mut words = line.split_whitespace().skip_while(|word| *word != "inet6");
        let address = words.nth(1).and_then(|word| word.split('/').next());
        Ok(address.context("an address")?.parse()?)
    })
}

/// One word to the server and back.
fn echo(stream: &mut std::net::TcpStream, word: &[u8]) -> Result<()> {
    stream.write_all(word)?;
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer)?;
    ensure!(answer == word, "another answer");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn guests_have_the_delegated_prefix_and_change_over_to_another_one() {
    check6(|lab| {
        for prefix in ["2001:db8:50::/48", "2001:db8:60::/48"] {
            let route = format!("ip -6 route add {prefix} via {HOST6}");
            lab.wan.run(route.split(' '))?;
        }
        let kea = Kea::start(lab, "2001:db8:50::")?;
        lab.agent.start()?;
        lab.up(&network())?;
        let guest = lab.plugged(1, "virbr1")?;
        autoconfigure(&guest)?;
        let first = address_of(&guest, "2001:db8:50:", false).with_context(|| kea.log())?;
        let _tcp = Server::tcp_echo(&lab.wan, at6(OUTSIDE6, PORT))?;
        eventually(SOON, || guest.ping(&OUTSIDE6.to_string()))?;
        let mut stream = guest.netns().connect_from(5000, at6(OUTSIDE6, PORT))?;
        ensure!(stream.local_addr()?.ip() == first, "{stream:?}");
        echo(&mut stream, b"one")?;

        // The next agent goes on with it.
        lab.agent.stop()?;
        lab.agent.start()?;
        lab.settled()?;
        ensure!(
            address_of(&guest, "2001:db8:50:", false)? == first,
            "renumbered"
        );
        echo(&mut stream, b"two")?;

        // The provider's server has another prefix: old connections go on, new ones have the new one.
        drop(kea);
        let kea = Kea::start(lab, "2001:db8:60::")?;
        let second = address_of(&guest, "2001:db8:60:", false).with_context(|| kea.log())?;
        let old = address_of(&guest, "2001:db8:50:", true).with_context(|| kea.log())?;
        ensure!(old == first, "{old} is not {first}");
        echo(&mut stream, b"three").context("the old connection")?;
        let mut new = guest.netns().connect_from(5001, at6(OUTSIDE6, PORT))?;
        ensure!(new.local_addr()?.ip() == second, "{new:?}");
        echo(&mut new, b"four").context("a new connection")?;

        drop((stream, new));
        // Who goes gives it back.
        lab.agent.ok(["net-destroy", "default"])?;
        eventually(SOON, || {
            let log = kea.log();
            ensure!(
                log.contains("DHCP6_RELEASE_PD"),
                "nothing is released:\n{log}"
            );
            Ok(())
        })
    });
}

/// Another client of the host's has the port: that is said, and the network runs without.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_port_that_somebody_has_is_told_of() {
    check6(|lab| {
        let text = lab
            .hv
            .run("ip -6 -o addr show uplink scope link".split(' '))?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "inet6");
        let address = words.nth(1).and_then(|word| word.split('/').next());
        let index = lab.hv.ifindex("uplink")?;
        let own: Ipv6Addr = address.context("a link-local address")?.parse()?;
        let own = std::net::SocketAddrV6::new(own, 546, 0, u32::try_from(index)?);
        let _other = lab.hv.enter(|| std::net::UdpSocket::bind(own))??;
        lab.agent.start()?;
        lab.up(&network())?;
        eventually(SOON, || {
            let log = lab.agent.log();
            ensure!(log.contains("has port 546 at uplink"), "{log}");
            Ok(())
        })
    });
}
