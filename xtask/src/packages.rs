//! The Debian packages a command needs, by the program that shows whether they are there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::root;
use crate::tools::{online, succeed};

/// A program and the package that brings it.
pub struct Needed {
    program: &'static str,
    package: &'static str,
}

const fn needed(program: &'static str, package: &'static str) -> Needed {
    Needed { program, package }
}

/// What a running agent and its administrator need.
pub const RUN: &[Needed] = &[needed("dnsmasq", "dnsmasq-base"), needed("ip", "iproute2")];

/// The demo: busybox is the guests' DHCP client, resolver, ping and wget.
pub const DEMO: &[Needed] = &[
    needed("dnsmasq", "dnsmasq-base"),
    needed("ip", "iproute2"),
    needed("busybox", "busybox"),
    needed("bpftool", "bpftool"),
];

/// The comparison with the kernel's NAT, which is set up by nft.
pub const DIFFERENTIAL: &[Needed] = &[needed("ip", "iproute2"), needed("nft", "nftables")];

/// The benchmark: its peers, its streams, and the agent's changes by virsh.
pub const BENCH: &[Needed] = &[
    needed("dnsmasq", "dnsmasq-base"),
    needed("ip", "iproute2"),
    needed("busybox", "busybox"),
    needed("ethtool", "ethtool"),
    needed("iperf3", "iperf3"),
    needed("nft", "nftables"),
    needed("virsh", "libvirt-clients"),
];

/// What boots other kernels, and what goes into their file system.
pub const VM: &[Needed] = &[
    needed("qemu-system-x86_64", "qemu-system-x86"),
    needed("busybox", "busybox"),
    needed("dnsmasq", "dnsmasq-base"),
    needed("ip", "iproute2"),
    needed("ethtool", "ethtool"),
    needed("ping", "iputils-ping"),
    needed("dpkg-deb", "dpkg"),
    needed("strip", "binutils"),
    needed("xz", "xz-utils"),
    needed("setpriv", "util-linux"),
];

/// The tests talk to the agent by virsh too.
pub const TEST: &[Needed] = &[
    needed("dnsmasq", "dnsmasq-base"),
    needed("ip", "iproute2"),
    needed("busybox", "busybox"),
    needed("bpftool", "bpftool"),
    needed("nft", "nftables"),
    needed("virsh", "libvirt-clients"),
    needed(
        "/usr/lib/python3/dist-packages/libvirt.py",
        "python3-libvirt",
    ),
    needed("ping", "iputils-ping"),
    needed("traceroute", "traceroute"),
    needed("ethtool", "ethtool"),
    needed("dbus-daemon", "dbus-daemon"),
    needed("pkcheck", "polkitd"),
    needed("fail2ban-server", "fail2ban"),
    needed("dhclient", "isc-dhcp-client"),
    needed("dhcpcd", "dhcpcd-base"),
    needed("firewalld", "firewalld"),
    needed("ufw", "ufw"),
    needed("kea-dhcp6", "kea-dhcp6-server"),
];

/// A libvirt with guests. These packages start no daemon: that is what libvirt-daemon-system is for.
pub const GUESTS: &[Needed] = &[
    needed("libvirtd", "libvirt-daemon"),
    needed(
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "libvirt-daemon-driver-qemu",
    ),
    needed("qemu-system-x86_64", "qemu-system-x86"),
    needed("cockpit-bridge", "cockpit-bridge"),
    needed("libvirt-dbus", "libvirt-dbus"),
    needed("dpkg-deb", "dpkg"),
    needed("xz", "xz-utils"),
];

/// Makes Debian's packages, and looks at them.
pub const DIST: &[Needed] = &[
    needed("dpkg-shlibdeps", "dpkg-dev"),
    needed("lintian", "lintian"),
    needed("objdump", "binutils"),
    needed("gzip", "gzip"),
];

/// Makes file systems of Debian's releases.
pub const CLIENTS: &[Needed] = &[needed("mmdebstrap", "mmdebstrap")];

/// Installs the packages of those programs that are not there.
pub fn install(wanted: &[Needed]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|needed| !is_installed(needed.program))
        .map(|needed| needed.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_installed("apt-get") {
        bail!(
            "missing programs; this is no Debian, so please install what brings Debian's: {list}"
        );
    }
    println!("installing {list} (apt-get)");
    apt(&["update"])
        .and_then(|()| {
            let install = ["install", "--yes", "--no-install-recommends"];
            apt(&[&install, missing.as_slice()].concat())
        })
        .with_context(|| format!("installing {list}; by hand: apt-get install {list}"))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let quiet = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"];
    let mut command = if root::is_root() {
        online("env")
    } else {
        root::command("env")
    };
    succeed(command.args(quiet).args(arguments))
}

/// Is the program there?
fn is_installed(program: &str) -> bool {
    find(program).is_some()
}

/// The program in PATH, or where system programs lie (often not in a user's PATH).
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|directory| Path::new(directory).join(program))
        .find(|program| program.is_file())
}

/// Where a program lies.
pub fn path(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("{program} is not installed"))
}

/// bpftool, where it is.
pub fn bpftool() -> Command {
    Command::new(if Path::new("/usr/sbin/bpftool").is_file() {
        "/usr/sbin/bpftool"
    } else {
        "bpftool"
    })
}
