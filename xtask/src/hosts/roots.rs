//! File systems of Debian's releases, made by mmdebstrap where this machine takes its packages from.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::apt::{self, Archive};
use crate::root;
use crate::tools::{online, succeed, target, text};

/// libvirt 9.0, 11.3, and the newest.
pub const SUITES: [&str; 3] = ["bookworm", "trixie", NEWEST];
/// Where other programs are tried too.
pub const NEWEST: &str = "sid";

/// A hypervisor as its administrator has it.
const PACKAGES: [&str; 14] = [
    // Of hosts that are booted.
    "dbus",
    "systemd",
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "qemu-system-x86",
    "dnsmasq-base",
    "iproute2",
    // Of both backends of libvirt's.
    "iptables",
    "nftables",
    "busybox",
    "procps",
    // What its administrator keeps guests from the host with.
    "firewalld",
    "ufw",
];

/// Programs of others that know libvirt or change the host's rules, and what they need.
const OTHERS: [&str; 11] = [
    "ansible",
    "cockpit-bridge",
    "dbus-daemon",
    // Its rules are those of version 28.
    "docker.io",
    "golang-github-digitalocean-go-libvirt-dev",
    "golang-go",
    "libvirt-dbus",
    // Ansible's module needs it, which its package only recommends.
    "python3-lxml",
    "python3-libvirt",
    // With fog-libvirt.
    "vagrant-libvirt",
    "virtinst",
];

/// Makes those of these releases that are missing. One that is to be made anew is removed by hand.
pub fn make(place: &Path, suites: &[&str]) -> Result<()> {
    fs::create_dir_all(place)?;
    for &suite in suites {
        let ready = place.join(suite);
        if ready.exists() {
            continue;
        }
        println!("making a file system of Debian {suite} (mmdebstrap, two minutes)");
        if apt_is_out_of_reach(suite)? {
            eprintln!("SKIPPED: no tests on Debian {suite}, since apt cannot be reached");
            continue;
        }
        make_one(suite, &place.join(format!("{suite}.part")))
            .with_context(|| format!("the file system of Debian {suite}"))?;
        succeed(
            root::command("mv")
                .arg(place.join(format!("{suite}.part")))
                .arg(&ready),
        )?;
    }
    Ok(())
}

fn make_one(suite: &str, part: &Path) -> Result<()> {
    let mut packages = PACKAGES.to_vec();
    if suite == NEWEST {
        packages.extend(OTHERS);
    }
    // Left by a run that was killed; what that run had mounted in it is not ours to remove.
    succeed(
        root::command("rm")
            .args(["-rf", "--one-file-system"])
            .arg(part),
    )?;
    let mut command = if root::is_root() {
        online("mmdebstrap")
    } else {
        root::command("mmdebstrap")
    };
    succeed(
        command
            .args(["--mode=root", "--variant=apt", "--quiet"])
            .args(
                apt::settings()?
                    .iter()
                    .map(|line| format!("--aptopt={line}")),
            )
            .arg(format!("--include={}", packages.join(",")))
            .args([suite, text(part)?, &apt::mirror()?]),
    )
}

/// Can apt not fetch the lists of that release?
pub fn apt_is_out_of_reach(suite: &str) -> Result<bool> {
    let lists = target().join("apt").join(suite);
    let opened = Archive::open(suite, &lists);
    if let Err(error) = &opened {
        eprintln!("{error:#}");
    }
    fs::remove_dir_all(&lists).context("removing apt's lists")?;
    Ok(opened.is_err())
}
