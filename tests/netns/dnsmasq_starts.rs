//! What dnsmasq finds out only when it starts for real: an error with its cause, and what worked goes on.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use netd_tests::lab::{OUTSIDE, check};
use netd_tests::{Lab, Network, SOON, eventually};

const OPTIONS: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// The network's definition with a TFTP root, and one raw line for dnsmasq.
fn definition(root: &Path, option: &str) -> String {
    let xml = Network::default().dhcp("").xml();
    let tftp = format!("<tftp root='{}'/><dhcp>", root.display());
    let xml = xml.replacen("<dhcp>", &tftp, 1);
    raw(&xml, option)
}

/// A definition with one raw line for dnsmasq.
fn raw(xml: &str, option: &str) -> String {
    let options = format!(
        "<d:options xmlns:d='{OPTIONS}'><d:option value='{option}'/></d:options></network>"
    );
    xml.replacen("</network>", &options, 1)
}

/// A folder of the test's that everybody may look into, as far as they get there.
fn folder(lab: &Lab, name: &str) -> Result<PathBuf> {
    let folder = lab.directory().join(name);
    fs::create_dir_all(&folder)?;
    for path in [lab.directory(), &folder] {
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    Ok(folder)
}

/// `net-update default add dns-txt`, which takes another dnsmasq.
const CHANGE: [&str; 6] = [
    "net-update",
    "default",
    "add",
    "dns-txt",
    "<txt name='new.example' value='x'/>",
    "--live",
];

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    check(|lab| {
        lab.agent.start()?;
        let root = folder(lab, "tftp")?;
        let closed = folder(lab, "closed")?;
        fs::set_permissions(&closed, Permissions::from_mode(0o700))?;
        let missing = lab.directory().join("missing");
        let before = lab.snapshot()?;
        for (root, option, words) in [
            (&missing, "no-ping", ["TFTP directory", "No such file"]),
            (&closed, "no-ping", ["TFTP directory", "Permission denied"]),
            (
                &root,
                "user=nobody-at-all",
                ["unknown user", "nobody-at-all"],
            ),
            (
                &root,
                "log-facility=/nonexistent/log",
                ["cannot open log", "/nonexistent/log"],
            ),
            (&root, "dnssec", ["trust anchor", "DNSSEC"]),
            (
                &root,
                "bind-interfaces",
                ["bind-interfaces", "bind-dynamic"],
            ),
        ] {
            lab.agent.define(&definition(root, option))?;
            let error = lab.agent.fails(["net-start", "default"])?;
            for word in ["'default'", words[0], words[1]] {
                ensure!(error.contains(word), "{option}: no {word:?} in {error}");
            }
            let list = lab.agent.ok(["net-list", "--name"])?;
            ensure!(list.trim().is_empty(), "{option}: {list}");
            ensure!(lab.dnsmasqs()?.is_empty(), "{option}: a dnsmasq is left");
            before.wait_for_same(&lab.hv, lab.directory())?;
            lab.agent.ok(["net-undefine", "default"])?;
        }
        lab.agent.up("default", &definition(&root, "no-ping"))?;
        lab.plugged(1, "virbr1")?.dhcp()?;
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn a_change_that_dnsmasq_would_not_start_with_is_taken_back_and_guests_are_served() {
    check(|lab| {
        lab.agent.start()?;
        let root = folder(lab, "tftp")?;
        lab.agent.up("default", &definition(&root, "no-ping"))?;
        let before = lab.dnsmasqs()?;
        let guest = lab.plugged(1, "virbr1")?;
        let lease = guest.dhcp()?;
        lab.leases_with("default", lease.address)?;

        // `--test` finds nothing wrong with either.
        let elsewhere = lab.directory().join("elsewhere");
        fs::rename(&root, &elsewhere)?;
        let missing = lab.agent.fails(CHANGE)?;
        ensure!(missing.contains("No such file"), "{missing}");
        fs::rename(&elsewhere, &root)?;
        fs::set_permissions(&root, Permissions::from_mode(0o700))?;
        let closed = lab.agent.fails(CHANGE)?;
        ensure!(closed.contains("Permission denied"), "{closed}");
        for error in [missing, closed] {
            for word in ["TFTP directory", "taken back"] {
                ensure!(error.contains(word), "no {word:?} in {error}");
            }
        }
        ensure!(lab.dnsmasqs()? == before, "another dnsmasq");
        let live = lab.agent.ok(["net-dumpxml", "default"])?;
        ensure!(!live.contains("new.example"), "{live}");
        guest.netns().run(["ip", "addr", "flush", "dev", "eth0"])?;
        ensure!(guest.dhcp()?.address == lease.address);
        let left: Vec<_> = fs::read_dir(lab.directory().join("lib/dnsmasq"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(".netd-"))
            .collect();
        ensure!(left.is_empty(), "{left:?}");

        // What was in the way is gone.
        fs::set_permissions(&root, Permissions::from_mode(0o755))?;
        lab.agent.ok(CHANGE)?;
        let after = lab.dnsmasqs()?;
        ensure!(after.len() == 1 && after != before, "{before:?}, {after:?}");
        guest.netns().run(["ip", "addr", "flush", "dev", "eth0"])?;
        ensure!(guest.dhcp()?.address == lease.address);
        Ok(())
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test"]
fn t27_name_servers_that_are_not_there_yet_are_no_reason_to_fail() {
    check(|lab| {
        let pid_file = lab.directory().join("upstream.pid").display().to_string();
        lab.wan.run([
            "dnsmasq",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--listen-address=198.51.100.1",
            "--bind-interfaces",
            "--user=root",
            "--host-record=www.outside.example,192.0.2.80",
            &format!("--pid-file={pid_file}"),
        ])?;
        // As /etc/resolv.conf leads to /run/systemd/resolve before systemd-resolved has started.
        let link = folder(lab, "etc")?.join("resolv.conf");
        symlink("../late/resolv.conf", &link)?;
        lab.agent.start()?;
        let option = format!("resolv-file={}", link.display());
        lab.agent
            .up("default", &raw(&Network::default().dhcp("").xml(), &option))?;
        let told = || {
            lab.agent
                .log()
                .matches("leads to a folder that does not exist")
                .count()
        };
        ensure!(told() == 1, "it says so {} times", told());
        let found = lab.agent.cli(["doctor"])?;
        ensure!(found.status.code() == Some(1), "{:?}", found.status);
        let found = String::from_utf8(found.stdout)?;
        let line = format!("{} leads to a folder that does not exist", link.display());
        ensure!(found.contains(&line), "{found}");
        let guest = lab.plugged(1, "virbr1")?;
        let server = guest.dhcp()?.dns.unwrap_or(OUTSIDE);
        ensure!(guest.resolve("www.outside.example", server).is_err());

        // Who adopts it leaves it.
        let before = lab.dnsmasqs()?;
        lab.agent.stop()?;
        lab.agent.start()?;
        ensure!(lab.dnsmasqs()? == before, "it was replaced in vain");

        let late = folder(lab, "late")?.join("resolv.conf");
        fs::write(&late, format!("nameserver {OUTSIDE}\n"))?;
        fs::set_permissions(&late, Permissions::from_mode(0o644))?;
        eventually(SOON, || {
            let answer = guest.resolve("www.outside.example", server)?;
            ensure!(answer.to_string() == "192.0.2.80", "{answer}");
            Ok(())
        })?;
        eventually(SOON, || {
            let after = lab.dnsmasqs()?;
            ensure!(after.len() == 1 && after != before, "{before:?}, {after:?}");
            lab.agent.ok(["doctor"])
        })?;
        let lease = lab.agent.ok(["net-dhcp-leases", "default"])?;
        ensure!(lease.contains("52:54:00:00:00:01"), "{lease}");
        Ok(())
    });
}
