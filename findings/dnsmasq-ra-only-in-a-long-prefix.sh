#!/usr/bin/env bash
# dnsmasq 2.90 (Debian 12): a range that is for router advertisements alone (`ra-only`) sends none where the
# interface's prefix is longer than 64 bits, though the log says "router advertisement on …".
#
# Such a range always has 64 bits (another length is an error), and an address with a longer prefix is no
# part of it. Guests of a /80 learn of no router, and nothing says why: solicitations are logged and not
# answered. A DHCPv6 range of the interface's length with no address to give (`static`) and `enable-ra`
# advertise router and prefix. In a shorter prefix, such as /48, `ra-only` advertises the 64 bits of the
# address.
#
# Runs dnsmasq in two network namespaces and a folder of its own. Needs root (chroot, unshare), apt, iproute2.
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
mkdir -p "$dir/tree/"{tmp,var/run,dev,etc}
printf '%s\n' root:x:0:0::/:/bin/sh nobody:x:65534:65534::/:/bin/sh >"$dir/tree/etc/passwd"
printf '%s\n' root:x:0: nogroup:x:65534: dip:x:30: >"$dir/tree/etc/group"
mknod "$dir/tree/dev/null" c 1 3
mknod "$dir/tree/dev/urandom" c 1 9

# see ADDRESS LINES…: what a host beside a dnsmasq with that address and these lines learns in twelve seconds.
see() {
    local address=$1
    shift
    printf '%s\n' port=0 interface=a0 bind-dynamic pid-file=/tmp/pid "$@" >"$dir/tree/tmp/c"
    # The second namespace is the host's: it has no name, and goes with the process that holds it.
    unshare --net bash -c '
        unshare --net sleep 60 & host=$!
        until [ "$(readlink /proc/$host/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
        in_host() { nsenter --target "$host" --net "$@"; }
        ip link add a0 type veth peer name b0 netns "$host"
        for device in all default; do echo 0 >/proc/sys/net/ipv6/conf/$device/accept_dad; done
        echo 0 >/proc/sys/net/ipv6/conf/a0/accept_dad
        ip address add "$1" dev a0 && ip link set a0 up
        chroot "$0" /usr/sbin/dnsmasq -C /tmp/c
        in_host bash -c "echo 1 >/proc/sys/net/ipv6/conf/b0/accept_ra; ip link set b0 up"
        for ((tries = 0; tries < 60; tries++)); do
            learned=$(in_host ip -6 route show proto kernel | grep -o "^fd[^ ]*" || true)
            [ -z "$learned" ] || break
            sleep 0.2
        done
        kill "$host" "$(cat "$0/tmp/pid")"
        echo "$1, ${2:-}: ${learned:-nothing}"
    ' "$dir/tree" "$address" "$1"
}

seen=$(
    see fd00:80::1/64 dhcp-range=fd00:80::1,ra-only
    see fd00:80::1/80 dhcp-range=fd00:80::1,ra-only
    see fd00:80::1/48 dhcp-range=fd00:80::1,ra-only
    see fd00:80::1/80 dhcp-range=fd00:80::1,static,80 enable-ra
)
expected="fd00:80::1/64, dhcp-range=fd00:80::1,ra-only: fd00:80::/64
fd00:80::1/80, dhcp-range=fd00:80::1,ra-only: nothing
fd00:80::1/48, dhcp-range=fd00:80::1,ra-only: fd00:80::/64
fd00:80::1/80, dhcp-range=fd00:80::1,static,80: fd00:80::/80"
chroot "$dir/tree" /usr/sbin/dnsmasq --version | head -n 1
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
