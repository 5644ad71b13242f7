//! What the first process of a host does.

/// Who is a host's first process once its file system is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Init {
    /// One that starts nothing: tests start the daemons as they like.
    Rig,
    /// systemd, with the units of Debian's packages.
    Systemd,
}

impl Init {
    /// The host's own shell script.
    pub(super) fn script(self) -> String {
        match self {
            Self::Rig => format!("{FILES}{MOVE_IN}{IDLE}"),
            Self::Systemd => {
                format!("{OWN_CGROUP}{FILES}{OWN_SYSCTLS}{UNITS}{MOVE_IN}{BOOT}")
            }
        }
    }
}

/// systemd makes the tree of control groups its own: it gets a part of the machine's, and sees that alone.
const OWN_CGROUP: &str = r#"
set -eu
if [ -z "${NETD_INSIDE-}" ]; then
    mount --make-rprivate /
    mount -t cgroup2 cgroup2 "$NETD_PLACE"
    mkdir "$NETD_PLACE/$NETD_CGROUP"
    echo 0 > "$NETD_PLACE/$NETD_CGROUP/cgroup.procs"
    umount "$NETD_PLACE"
    export NETD_INSIDE=1
    exec unshare --cgroup bash -c "$NETD_SCRIPT"
fi
"#;

/// A layer in memory above the file system, the kernel's own file systems, libvirt's settings.
const FILES: &str = r#"
set -eu
read -r self _ < /proc/self/stat
mount --make-rprivate /
mount -t tmpfs -o mode=755 host "$NETD_PLACE"
cd "$NETD_PLACE"
mkdir upper work root
mount -t overlay -o "lowerdir=$NETD_LOWER,upperdir=$NETD_PLACE/upper,workdir=$NETD_PLACE/work" overlay root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm dev/net run/lock run/old run/netns
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mknod -m 666 dev/net/tun c 10 200
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir guest
cp "$NETD_GUEST"/vmlinuz "$NETD_GUEST"/initramfs guest/
for directory in etc/libvirt/qemu var/lib/libvirt var/cache/libvirt var/log/libvirt; do
    if [ "$NETD_LOWER" = / ]; then rm -rf "$directory"; fi
    mkdir -p "$directory"
done
mkdir -p var/lib/libvirt/dnsmasq etc/libvirt/qemu/networks/autostart
cat > etc/libvirt/qemu.conf << 'END'
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
END
cat > etc/libvirt/libvirtd.conf << 'END'
unix_sock_group = "root"
auth_unix_rw = "none"
auth_unix_ro = "none"
END
for group in kvm libvirt libvirt-qemu; do
    grep -q "^$group:" etc/group || echo "$group:x:$((64000 + $(wc -l < etc/group))):" >> etc/group
done
grep -q ^libvirt-qemu: etc/passwd \
    || echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >> etc/passwd
hostname "$NETD_NAME"
printf '%s\n' "$NETD_NAME" > etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$NETD_NAME" > etc/hosts
rm -f etc/resolv.conf
: > etc/resolv.conf
"#;

/// The sysctls that are the machine's may not be changed, those of the network may.
const OWN_SYSCTLS: &str = r#"
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
"#;

/// What of a system's start is for a host of this kind. No timers, and nothing that looks for devices.
const UNITS: &str = r#"
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket \
    systemd-udevd-kernel.socket systemd-udevd-varlink.socket systemd-modules-load.service; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done
cat > etc/systemd/system/rig.target << 'END'
[Unit]
Requires=sysinit.target
Wants=sockets.target
After=sysinit.target sockets.target
END
mkdir -p usr/local/sbin
"#;

const MOVE_IN: &str = r#"
pivot_root . run/old
umount -l /run/old
cd /
echo "ready $self"
"#;

/// Collects what its children leave behind, as PID 1 has to, and goes on when somebody ends them all.
const IDLE: &str = r#"
while :; do
    sleep 3600 &
    wait $! || :
done
"#;

const BOOT: &str = r#"
export container=netd-rig
unset NETD_SCRIPT
exec /usr/lib/systemd/systemd --unit=rig.target --log-target=journal > /dev/null 2>&1
"#;
