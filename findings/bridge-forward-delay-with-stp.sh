#!/usr/bin/env bash
# Linux bridge (seen on 6.18) by iproute2 6.1.0: one forward delay, three answers.
#
# With STP off a delay of 0 is taken. Switching STP on then raises it to 2 s without a word. A
# bridge that is made with STP and a delay of 0 in one request gets 2 s too, with success; the same delay
# set on a bridge that has STP is refused (ERANGE). libvirt's stock network asks for exactly this (stp='on'
# delay='0'), so a port of it is silent for 2 × 2 s unless something else makes it forward.
#
# Runs in a network namespace and a folder of its own. Needs root (chroot, unshare), apt.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir -p "$dir"/{lists/partial,archives/partial,tree}
apt=(apt-get -qq -o Dir::State::Lists="$dir/lists" -o Dir::State::status=/dev/null
    -o Dir::Cache::archives="$dir/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o APT::Sandbox::User=root -o Debug::NoLocking=1)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends --download-only iproute2=6.1.0-3 >/dev/null
for package in "$dir"/archives/*.deb; do dpkg-deb -x "$package" "$dir/tree"; done

ip() { chroot "$dir/tree" ip "$@"; }
# shows BRIDGE: its forward delay in hundredths of a second, and whether STP is on.
shows() { ip -details link show "$1" | sed -nE 's/.* bridge (forward_delay [0-9]+).*(stp_state [01]).*/  \1 \2/p'; }
export dir
export -f ip shows
seen=$(unshare --net bash -c '
    ip link add br0 type bridge stp_state 0 forward_delay 0
    echo "made without STP, delay 0:"; shows br0
    ip link set br0 type bridge stp_state 1
    echo "STP switched on:"; shows br0
    ip link set br0 type bridge forward_delay 0 2>&1 | head -n 1
    ip link add br1 type bridge stp_state 1 forward_delay 0
    echo "made with STP, delay 0:"; shows br1')
expected="made without STP, delay 0:
  forward_delay 0 stp_state 0
STP switched on:
  forward_delay 200 stp_state 1
RTNETLINK answers: Numerical result out of range
made with STP, delay 0:
  forward_delay 200 stp_state 1"
uname -r
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
