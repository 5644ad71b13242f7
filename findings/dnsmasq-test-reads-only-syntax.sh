#!/usr/bin/env bash
# dnsmasq 2.90 (Debian 12): `dnsmasq --test` answers "syntax check OK" for files that it then does not
# start with, or that it understands differently than they read.
#
# --test opens what is read while options are parsed (conf-file=, conf-dir=) and finds one address given
# to two hosts. It does not look at the TFTP root, the lease file, the pid file or the user: those end the
# real start. A lease script that does not exist ends neither: dnsmasq starts and says nothing, and no lease
# is ever told to it. A range whose ends are reversed is turned round in silence. Whoever checks
# a configuration with --test before replacing a running dnsmasq has to check these himself.
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
mkdir -p "$dir/tree/"{tmp,proc,var/run,dev,etc,var/lib/misc}
printf '%s\n' root:x:0:0::/:/bin/sh nobody:x:65534:65534::/:/bin/sh >"$dir/tree/etc/passwd"
printf '%s\n' root:x:0: nogroup:x:65534: dip:x:30: >"$dir/tree/etc/group"
mknod "$dir/tree/dev/null" c 1 3
mknod "$dir/tree/dev/urandom" c 1 9

# The bridge is what the ranges are for; port=0 switches DNS off.
start='ip link set lo up && ip link add br0 type bridge && ip address add 10.7.0.1/24 dev br0 &&
    ip link set br0 up && exec timeout 2 chroot "$0" /usr/sbin/dnsmasq -C /tmp/c -k --log-facility=-'

# see NAME LINES…: what --test and a start say of a file with these lines.
see() {
    local name=$1 test started
    shift
    printf '%s\n' port=0 "$@" >"$dir/tree/tmp/c"
    test=$(chroot "$dir/tree" /usr/sbin/dnsmasq --test -C /tmp/c 2>&1 | tail -n 1)
    # timeout(1) ends a dnsmasq that runs: 124.
    started=$(unshare --net bash -c "$start" "$dir/tree" 2>"$dir/log" && echo ended) || [ $? = 124 ]
    if grep -q 'exiting on receipt of SIGTERM' "$dir/log"; then started=runs; else started=fails; fi
    echo "$name: test ${test#dnsmasq: }; start $started$(sed -n 's/.*IP range/ with/p' "$dir/log")"
}

range=dhcp-range=10.7.0.5,10.7.0.9,1h
seen=$(
    see "sound" $range
    see "no TFTP root" enable-tftp tftp-root=/nowhere
    see "no place for leases" $range dhcp-leasefile=/nowhere/leases
    see "no place for the pid" pid-file=/nowhere/pid
    see "unknown user" user=nobody-of-that-name
    see "no lease script" $range dhcp-script=/nowhere/script
    see "reversed range" dhcp-range=10.7.0.9,10.7.0.5,1h
)
ok="test syntax check OK.; start"
expected="sound: $ok runs with 10.7.0.5 -- 10.7.0.9, lease time 1h
no TFTP root: $ok fails
no place for leases: $ok fails
no place for the pid: $ok fails
unknown user: $ok fails
no lease script: $ok runs with 10.7.0.5 -- 10.7.0.9, lease time 1h
reversed range: $ok runs with 10.7.0.5 -- 10.7.0.9, lease time 1h"
chroot "$dir/tree" /usr/sbin/dnsmasq --version | head -n 1
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
