//! What a guest boots: Debian's cloud kernel, and an initramfs with busybox and a shell on its second
//! serial line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::vm::{image, kernel};
use crate::{packages, tools::target};

/// Debian 12's is one package, and boots as fast as the others.
const SUITE: &str = "bookworm";

/// A card of virtio. What a module itself needs comes before it.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// The guest's first process repeats that the guest is ready until it is spoken to, since nobody may have
/// listened the first time, and collects what others leave behind. It does not read: a child that ends while
/// busybox's `read` waits for the rest of a line costs what was read of it.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in $(cat /modules/order); do
    insmod "/modules/$module.ko"
done
for word in $(cat /proc/cmdline); do
    case "$word" in guest=*) hostname "${word#guest=}" ;; esac
done
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec < /dev/ttyS1 > /dev/ttyS1 2>&1
while [ ! -e /tmp/spoken-to ]; do
    echo 'guest: ready'
    sleep 1
done &
# What a shell starts in the background reads nothing otherwise.
console < /dev/ttyS1 &
while :; do
    wait
    sleep 1
done
"#;

/// Takes one line of shell at a time, and says how it ended.
const CONSOLE: &str = r#"#!/bin/sh
while read -r line; do
    : > /tmp/spoken-to
    (eval "$line") < /dev/null
    printf '\nguest: end %s\n' "$?"
done
"#;

/// `dhcp DEVICE`: asks for a lease once and shows it.
const DHCP: &str = r#"#!/bin/sh
ip link set "$1" up
rm -f "/tmp/lease.$1"
udhcpc -i "$1" -f -q -n -t 20 -T 1 -x "hostname:$(hostname)" -O mtu -s /bin/dhcp-script || exit
echo lease:
cat "/tmp/lease.$1"
"#;

/// What the DHCP client does with a lease.
const DHCP_SCRIPT: &str = r#"#!/bin/sh
case "$1" in
deconfig)
    ip addr flush dev "$interface"
    ip link set "$interface" up ;;
bound | renew)
    ip addr replace "$ip/$mask" dev "$interface"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    [ -z "$router" ] || ip route replace default via "${router%% *}"
    for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf
    printf '%s\n' "ip=$ip" "mask=$mask" "router=${router%% *}" "dns=${dns%% *}" \
        "domain=$domain" "mtu=$mtu" "lease=$lease" "hostname=$hostname" > "/tmp/lease.$interface" ;;
esac
"#;

/// Puts a guest's kernel and file system in place; the kernel is fetched once.
pub fn make(place: &Path) -> Result<()> {
    let fetched = match kernel::fetch(SUITE, &target().join("vm").join(SUITE), false) {
        Ok(fetched) => fetched,
        Err(error) if super::roots::apt_is_out_of_reach(SUITE)? => {
            eprintln!("SKIPPED: no guests, since apt cannot be reached: {error:#}");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let root = place.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for directory in ["bin", "proc", "sys", "dev", "tmp", "etc", "modules"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = packages::path("busybox")?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    image::copy_libraries(&root, image::libraries_of(&busybox)?)?;
    image::modules(&root, &fetched, MODULES)?;
    let scripts = [
        ("init", INIT),
        ("bin/console", CONSOLE),
        ("bin/dhcp", DHCP),
        ("bin/dhcp-script", DHCP_SCRIPT),
    ];
    for (name, text) in scripts {
        fs::write(root.join(name), text)?;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let packed = image::pack(&root, &place.join("initramfs.new"))?;
    fs::rename(packed, place.join("initramfs"))?;
    let copied = place.join("vmlinuz.new");
    fs::copy(&fetched.image, &copied)
        .with_context(|| format!("copying {}", fetched.image.display()))?;
    Ok(fs::rename(copied, place.join("vmlinuz"))?)
}
