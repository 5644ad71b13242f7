//! Beside the real firewalld, on a bus of the test's own, and a ruleset that the real ufw has loaded.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netd_tests::lab::check;
use netd_tests::{Guest, Lab, Netns, Network, SOON, eventually};

use crate::polkit::{Running, bus, spawn};
use crate::sockets::open_directory;

/// What is opened in the zone of the test's own.
const PORT: u16 = 4711;

/// Time for what firewalld and its clients do, which are programs in Python.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder of what firewalld has by itself, without the zones that libvirt's packages may have put there.
fn defaults(place: &Path) -> Result<()> {
    let defaults = place.join("defaults");
    let mut copy = Command::new("cp");
    netd_tests::run(copy.arg("-r").arg("/usr/lib/firewalld").arg(&defaults))?;
    for kind in ["zones", "policies"] {
        for file in fs::read_dir(defaults.join(kind))? {
            let file = file?.path();
            if file.to_string_lossy().contains("libvirt") {
                fs::remove_file(file)?;
            }
        }
    }
    Ok(())
}

/// The real firewalld in the hypervisor.
struct Firewalld<'a> {
    hv: &'a Netns,
    place: &'a Path,
    running: Running,
}

impl<'a> Firewalld<'a> {
    fn start(hv: &'a Netns, place: &'a Path) -> Result<Self> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", hv.path().display()))
            .args(["firewalld", "--nofork", "--nopid"])
            .arg(format!(
                "--system-config={}",
                place.join("system").display()
            ))
            .arg(format!(
                "--default-config={}",
                place.join("defaults").display()
            ))
            .arg(format!("--log-file={}", place.join("log").display()))
            .env("DBUS_SYSTEM_BUS_ADDRESS", address(place));
        fs::create_dir_all(place.join("system/zones"))?;
        let running = spawn(&mut command, &place.join("firewalld.out"))?;
        let firewalld = Self { hv, place, running };
        eventually(PATIENCE, || {
            let said = firewalld.tell(&["--state"]);
            said.with_context(|| fs::read_to_string(place.join("log")).unwrap_or_default())
        })?;
        Ok(firewalld)
    }

    /// `firewall-cmd` with these words.
    fn tell(&self, words: &[&str]) -> Result<String> {
        let mut command = self.hv.command("firewall-cmd");
        command
            .env("DBUS_SYSTEM_BUS_ADDRESS", address(self.place))
            .args(words);
        netd_tests::run(&mut command)
    }

    /// Waits until a bridge is in that zone; "no zone" is one, too.
    fn has(&self, bridge: &str, zone: &str) -> Result<()> {
        let ask = format!("--get-zone-of-interface={bridge}");
        eventually(PATIENCE, || {
            let mut command = self.hv.command("firewall-cmd");
            command.env("DBUS_SYSTEM_BUS_ADDRESS", address(self.place));
            let said = netd_tests::output(command.arg(&ask))?;
            let said = [said.stdout, said.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            ensure!(said.trim() == zone, "{bridge} is in {said}, not {zone}");
            Ok(())
        })
    }

    /// Ends it as a service manager does, which takes its rules away.
    fn end(self) -> Result<()> {
        self.running.terminate()
    }
}

fn address(place: &Path) -> String {
    format!("unix:path={}", place.join("bus").display())
}

/// A network with names, and a guest of it that gets an address and asks for one.
fn served(guest: &Guest, network: &Network) -> Result<()> {
    guest.netns().run(["ip", "addr", "flush", "dev", "eth0"])?;
    let lease = guest.dhcp()?;
    ensure!(lease.dns == Some(network.gateway()), "{lease:?}");
    let answer = guest.resolve("printer", network.gateway())?;
    ensure!(answer == network.address(9), "{answer}");
    Ok(())
}

fn named(network: Network) -> Network {
    let address = network.address(9);
    let names = format!("<dns><host ip='{address}'><hostname>printer</hostname></host></dns>");
    network.with(&names).dhcp("")
}

/// Waits until a guest reaches a port of the host's.
fn becomes_reachable(guest: &Guest, network: &Network) -> Result<()> {
    eventually(SOON, || {
        ensure!(reaches(guest, network)?, "{} is kept out", guest.hostname);
        Ok(())
    })
}

/// Does a guest reach a port of the host's?
fn reaches(guest: &Guest, network: &Network) -> Result<bool> {
    let to = (network.gateway(), PORT).into();
    guest
        .netns()
        .enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t01_firewalld_has_bridges_in_their_zones_and_guests_are_served_in_any() {
    check(|lab| {
        let place = open_directory()?;
        let place = place.path();
        defaults(place)?;
        let _bus = bus(place)?;
        lab.agent
            .set_env("DBUS_SYSTEM_BUS_ADDRESS", &address(place));
        lab.agent.start()?;
        let (first, second) = (named(Network::default()), named(Network::nat("second", 2)));
        let in_zone = second
            .xml()
            .replace("name='virbr2'", "name='virbr2' zone='guests'");
        lab.agent.define(&in_zone)?;
        let error = lab.agent.fails(["net-start", "second"])?;
        ensure!(
            error.contains("'guests'") && error.contains("does not run"),
            "{error}"
        );

        let firewalld = Firewalld::start(&lab.hv, place)?;
        // firewalld's default zone has it: there is none of libvirt's.
        lab.up(&first)?;
        let guest = lab.plugged(1, "virbr1")?;
        served(&guest, &first)?;
        let _waits = lab.hv.listen(("0.0.0.0", PORT))?;
        ensure!(!reaches(&guest, &first)?, "the default zone lets guests in");
        firewalld.has("virbr1", "no zone")?;

        let error = lab.agent.fails(["net-start", "second"])?;
        ensure!(
            error.contains("'guests'") && error.contains("public"),
            "{error}"
        );
        let active = lab.agent.ok(["net-list", "--name"])?;
        ensure!(active.trim() == "default", "{active}");
        for words in [
            &["--permanent", "--new-zone=guests"][..],
            &["--permanent", "--zone=guests", "--add-port=4711/tcp"],
            &["--permanent", "--new-zone=libvirt"],
            &["--reload"],
        ] {
            firewalld.tell(words)?;
        }
        // A bridge is put where libvirt would have it as soon as there is such a zone.
        firewalld.has("virbr1", "libvirt")?;
        lab.agent.ok(["net-start", "second"])?;
        firewalld.has("virbr2", "guests")?;
        let other = lab.plugged(2, "virbr2")?;
        let all = || -> Result<()> {
            served(&guest, &first)?;
            served(&other, &second)?;
            becomes_reachable(&other, &second).context("the zone 'guests' does not count")?;
            ensure!(
                !reaches(&guest, &first)?,
                "the zone 'libvirt' does not count"
            );
            Ok(())
        };
        all()?;

        // What it forgets it is told again.
        for words in [&["--reload"][..], &["--complete-reload"]] {
            firewalld.tell(words)?;
            firewalld.has("virbr1", "libvirt")?;
            firewalld.has("virbr2", "guests")?;
        }
        firewalld.end()?;
        served(&guest, &first)?;
        let firewalld = Firewalld::start(&lab.hv, place)?;
        firewalld.has("virbr1", "libvirt")?;
        firewalld.has("virbr2", "guests")?;
        all()?;

        lab.agent.ok(["net-destroy", "second"])?;
        firewalld.has("virbr2", "no zone")?;
        // What the administrator says of a bridge goes before what is usual, and stays.
        for words in [
            &["--permanent", "--zone=trusted", "--add-interface=virbr1"][..],
            &["--reload"],
        ] {
            firewalld.tell(words)?;
        }
        firewalld.has("virbr1", "trusted")?;
        served(&guest, &first)?;
        becomes_reachable(&guest, &first).context("the zone 'trusted' does not count")?;
        // But not before what a definition says.
        lab.agent.ok(["net-destroy", "default"])?;
        let xml = lab.agent.ok(["net-dumpxml", "default", "--inactive"])?;
        let xml = xml.replace("<bridge name=", "<bridge zone='guests' name=");
        lab.agent.define(&xml)?;
        lab.agent.ok(["net-start", "default"])?;
        firewalld.has("virbr1", "guests")?;
        lab.agent.ok(["net-destroy", "default"])?;
        firewalld.has("virbr1", "trusted")?;
        firewalld.end()
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t01_teardown_takes_bridges_out_of_their_zones() {
    check(|lab| {
        let place = open_directory()?;
        let place = place.path();
        defaults(place)?;
        let _bus = bus(place)?;
        lab.agent
            .set_env("DBUS_SYSTEM_BUS_ADDRESS", &address(place));
        lab.agent.start()?;
        let firewalld = Firewalld::start(&lab.hv, place)?;
        firewalld.tell(&["--permanent", "--new-zone=guests"])?;
        firewalld.tell(&["--reload"])?;
        let xml = Network::default().xml();
        let xml = xml.replace("name='virbr1'", "name='virbr1' zone='guests'");
        lab.agent.up("default", &xml)?;
        firewalld.has("virbr1", "guests")?;
        // The next agent tells a firewalld that has forgotten meanwhile.
        lab.agent.stop()?;
        firewalld.tell(&["--reload"])?;
        firewalld.has("virbr1", "no zone")?;
        lab.agent.start()?;
        firewalld.has("virbr1", "guests")?;
        lab.agent.stop()?;
        lab.agent.teardown()?;
        firewalld.has("virbr1", "no zone")?;
        firewalld.end()
    });
}

/// What `ufw` works with: folders of the test's own in place of the machine's.
const UFW: &str = "set -e
mount --bind \"$1/etc\" /etc/ufw
mount --bind \"$1/default\" /etc/default/ufw
mount -t tmpfs tmpfs /run
exec ufw --force \"$2\"";

fn ufw(lab: &Lab, place: &Path, word: &str) -> Result<String> {
    let mut command = lab.hv.command("unshare");
    command.args(["--mount", "sh", "-c", UFW, "sh"]).arg(place);
    netd_tests::run(command.arg(word))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t01_guests_are_served_under_the_rules_of_ufw() {
    check(|lab| {
        let place = lab.directory().join("ufw");
        fs::create_dir(&place)?;
        netd_tests::run(
            Command::new("cp")
                .args(["-a", "/etc/ufw"])
                .arg(place.join("etc")),
        )?;
        // Its kernel parameters are none of the test's.
        let settings = fs::read_to_string("/etc/default/ufw")?;
        let settings = settings.replace("\nIPT_SYSCTL=", "\nIPT_SYSCTL=\n#");
        fs::write(place.join("default"), settings)?;
        lab.agent.start()?;
        let network = named(Network::default());
        let said = ufw(lab, &place, "enable")?;
        ensure!(said.contains("active"), "{said}");
        lab.up(&network)?;
        let guest = lab.plugged(1, "virbr1")?;
        let _waits = lab.hv.listen(("0.0.0.0", PORT))?;
        served(&guest, &network)?;
        ensure!(!reaches(&guest, &network)?, "ufw lets guests in");
        for _ in 0..3 {
            ufw(lab, &place, "reload")?;
            served(&guest, &network)?;
        }
        ufw(lab, &place, "disable")?;
        becomes_reachable(&guest, &network).context("by something else than ufw")?;
        lab.hv.run(["nft", "flush", "ruleset"])?;
        Ok(())
    });
}
