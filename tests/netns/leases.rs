//! Leases in number, and whose they are.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::check;
use netd_tests::{Lab, Network, SOON, eventually};

/// More than a helper that gets slower with their number is done with in a second.
const MANY: u32 = 1000;

/// How long that many calls of the lease helper may take beside other work; alone they take some seconds.
const PATIENCE: Duration = Duration::from_secs(300);

/// A network with room for that many guests.
fn wide() -> String {
    let xml = Network::default().dhcp("").xml();
    let xml = xml.replacen("netmask='255.255.255.0'", "netmask='255.255.0.0'", 1);
    xml.replacen("end='10.10.1.200'", "end='10.10.16.250'", 1)
}

fn status(lab: &Lab) -> PathBuf {
    lab.directory().join("lib/dnsmasq/virbr1.status")
}

/// Puts leases of that many guests where dnsmasq is told of them when it starts.
fn put_leases(lab: &Lab, number: u32) -> Result<()> {
    let until = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
    let mut text = String::from("[\n");
    for at in 0..number {
        let (high, low) = (at / 200, at % 200 + 10);
        let comma = if at == 0 { "" } else { "," };
        writeln!(
            text,
            "{comma}{{\"ip-address\":\"10.10.{}.{low}\",\
             \"mac-address\":\"52:54:00:01:{high:02x}:{low:02x}\",\"hostname\":\"guest{at}\",\
             \"expiry-time\":{until}}}",
            high + 2
        )?;
    }
    text.push_str("]\n");
    fs::create_dir_all(lab.directory().join("lib/dnsmasq"))?;
    Ok(fs::write(status(lab), text)?)
}

/// Leases in the table.
fn listed(lab: &Lab) -> Result<usize> {
    let table = lab.agent.ok(["net-dhcp-leases", "default"])?;
    Ok(table.matches("10.10.").count())
}

/// dnsmasq tells each lease to the helper when it starts, when its hosts change and before it ends. However
/// many there are, it is not killed while it does, and none is lost.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_thousand_leases_outlive_changes_and_restarts() {
    check(|lab| {
        put_leases(lab, MANY)?;
        lab.agent.start()?;
        lab.agent.up("default", &wide())?;
        ensure!(listed(lab)? == MANY as usize, "{} leases", listed(lab)?);
        let update = |section, xml| -> Result<Duration> {
            let begin = Instant::now();
            let words = ["net-update", "default", "add", section, xml, "--live"];
            lab.agent.ok(words).with_context(|| section.to_owned())?;
            Ok(begin.elapsed())
        };
        let guest = lab.plugged(1, "virbr1")?;
        // A signal, a lease beside all those, and another dnsmasq, which ends the first in its work.
        update(
            "ip-dhcp-host",
            "<host mac='52:54:00:00:00:02' name='web' ip='10.10.1.20'/>",
        )?;
        let lease = guest.dhcp()?;
        update("dns-txt", "<txt name='a' value='b'/>")?;
        let log = lab.agent.log();
        ensure!(
            !log.contains("ignored SIGTERM"),
            "dnsmasq was killed:\n{log}"
        );
        // The helper is called for one lease after the other.
        eventually(PATIENCE, || {
            lab.leases_with("default", lease.address)?;
            ensure!(listed(lab)? == MANY as usize + 1, "{} leases", listed(lab)?);
            Ok(())
        })?;
        // The new one knows them all: nobody else gets the address.
        guest.netns().run(["ip", "addr", "flush", "dev", "eth0"])?;
        let again = guest.dhcp()?;
        ensure!(again.address == lease.address, "{lease:?}, then {again:?}");
        lab.agent.ok(["net-destroy", "default"])?;
        let log = lab.agent.log();
        ensure!(
            !log.contains("ignored SIGTERM"),
            "dnsmasq was killed:\n{log}"
        );
        // Other programs read the file.
        eventually(PATIENCE, || {
            let text = fs::read_to_string(status(lab))?;
            let leases = text.matches("\"ip-address\"").count();
            ensure!(leases == MANY as usize + 1, "{leases} leases in the file");
            Ok(())
        })
    });
}

/// Guests made from one image identify themselves alike.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t26_two_guests_with_one_client_identifier_get_two_addresses() {
    check(|lab| {
        lab.agent.start()?;
        // The one whose address the definition fixes has that one.
        let host = "<host mac='52:54:00:00:00:03' name='fixed' ip='10.10.1.20'/>";
        lab.up(&Network::default().dhcp(host))?;
        // A DUID made of a machine's identity (RFC 4361), as systemd-networkd sends it.
        let identifier = ["-C", "-x", "0x3d:ff0000000000020000ab11c0ffee"];
        let mut addresses = Vec::new();
        let guests = (1..=3).map(|number| lab.plugged(number, "virbr1"));
        let guests = guests.collect::<Result<Vec<_>>>()?;
        for guest in &guests {
            let lease = guest.dhcp_with(&identifier)?;
            lab.leases_with("default", lease.address)?;
            addresses.push(lease.address);
        }
        ensure!(addresses[0] != addresses[1], "{addresses:?}");
        ensure!(addresses[2].octets() == [10, 10, 1, 20], "{addresses:?}");
        let of_first = |words: &[&str]| guests[0].dhcp_with(words);
        ensure!(of_first(&identifier)?.address == addresses[0]);
        // One that identifies itself otherwise, since another system starts, is the same guest.
        for words in [&[][..], &["-C"], &["-C", "-x", "0x3d:0102030405"]] {
            ensure!(of_first(words)?.address == addresses[0], "{words:?}");
        }
        eventually(SOON, || {
            ensure!(listed(lab)? == 3, "{} leases", listed(lab)?);
            Ok(())
        })
    });
}
