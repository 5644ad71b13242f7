#!/usr/bin/env bash
# dnsmasq 2.90 (Debian 12): `no-poll`, which switches off that resolv.conf is watched for changes, leaves
# dnsmasq its inotify instance. One that has `no-resolv` or `port=0` and no folder of hosts or options to
# watch takes none.
#
# The kernel gives a user 128 instances unless fs.inotify.max_user_instances says otherwise, and all of them
# are root's, as dnsmasq takes its own before it changes its user. So a host with one dnsmasq for each network
# has the last one refuse to start ("failed to create inotify: Too many open files"), and `no-poll` is no
# way out: the limit has to be raised, or resolv.conf's servers given by `server=` beside `no-resolv`.
#
# Runs dnsmasq in a network namespace and a folder of its own. Needs root (chroot, unshare), apt.
set -euo pipefail
version=2.90-4~deb12u2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir -p "$dir"/{lists/partial,archives/partial,tree}
apt=(apt-get -qq -o Dir::State::Lists="$dir/lists" -o Dir::State::status=/dev/null
    -o Dir::Cache::archives="$dir/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o APT::Sandbox::User=root -o Debug::NoLocking=1)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends --download-only "dnsmasq-base=$version" >/dev/null
for package in "$dir"/archives/*.deb; do dpkg-deb -x "$package" "$dir/tree"; done
mkdir -p "$dir/tree/"{tmp/hosts,var/run,dev,etc}
printf '%s\n' root:x:0:0::/:/bin/sh nobody:x:65534:65534::/:/bin/sh >"$dir/tree/etc/passwd"
printf '%s\n' root:x:0: nogroup:x:65534: dip:x:30: >"$dir/tree/etc/group"
echo nameserver 127.0.0.2 >"$dir/tree/etc/resolv.conf"
mknod "$dir/tree/dev/null" c 1 3
mknod "$dir/tree/dev/urandom" c 1 9

# see NAME LINES…: how many inotify instances a running dnsmasq with these lines has.
see() {
    local name=$1
    shift
    printf '%s\n' pid-file=/tmp/pid listen-address=127.0.0.1 bind-interfaces "$@" >"$dir/tree/tmp/c"
    # It goes to the background once it is ready.
    unshare --net bash -c 'ip link set lo up && exec chroot "$0" /usr/sbin/dnsmasq -C /tmp/c' "$dir/tree"
    local pid instances
    pid=$(<"$dir/tree/tmp/pid")
    instances=$(find "/proc/$pid/fd" -lname anon_inode:inotify | wc -l)
    kill "$pid"
    while [ -e "/proc/$pid" ]; do sleep 0.05; done
    echo "$name: $instances"
}

seen=$(
    see "nothing else"
    see no-poll no-poll
    see no-resolv no-resolv
    see "no-resolv, dhcp-hostsdir" no-resolv dhcp-hostsdir=/tmp/hosts
    see "port=0" port=0
)
expected="nothing else: 1
no-poll: 1
no-resolv: 0
no-resolv, dhcp-hostsdir: 1
port=0: 0"
chroot "$dir/tree" /usr/sbin/dnsmasq --version | head -n 1
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
