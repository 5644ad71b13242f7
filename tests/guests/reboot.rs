//! What a host has lost when it comes up anew.

use anyhow::Result;
use netd_tests::libvirt::Host;

/// Processes, devices, namespaces, rules and files that no reboot leaves; what lies on disk stays. The daemons
/// do not run any more.
const LOST: &str = r#"
for pid in $(pidof dnsmasq qemu-system-x86_64); do kill -9 "$pid"; done
for name in $(ip netns list | cut -d ' ' -f 1); do ip netns delete "$name"; done
for bridge in $(ip -o link show type bridge | cut -d : -f 2); do ip link delete "$bridge"; done
tc qdisc delete dev uplink clsact 2> /dev/null
for directory in /sys/fs/bpf/netd /run/netd /run/libvirt; do
    if [ -d "$directory" ]; then find "$directory" -mindepth 1 -delete; fi
done
"#;

/// The kernel tells of another boot from now on.
const NEXT: &str = "cat /proc/sys/kernel/random/uuid > /tmp/boot_id && \
                    mount --bind /tmp/boot_id /proc/sys/kernel/random/boot_id";

/// As if the host's power had gone: daemons are to be started afterwards, in the order of their units.
pub fn lose_power(host: &mut Host) -> Result<()> {
    for service in [&mut host.netd, &mut host.libvirtd] {
        if service.is_running() {
            service.kill()?;
        }
    }
    host.run(["sh", "-c", LOST])?;
    host.run(["sh", "-c", NEXT])?;
    host.hv.run(["nft", "flush", "ruleset"]).map(drop)
}

/// The same where systemd runs the host.
pub fn lose_power_by_systemd(host: &Host) -> Result<()> {
    let units = [
        "libvirtd.socket",
        "libvirtd-ro.socket",
        "libvirtd-admin.socket",
        "libvirtd.service",
        "netd.service",
    ];
    host.systemctl(["stop"].into_iter().chain(units))?;
    host.run(["sh", "-c", LOST])?;
    host.hv.run(["nft", "flush", "ruleset"]).map(drop)
}
