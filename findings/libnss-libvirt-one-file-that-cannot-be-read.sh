#!/usr/bin/env bash
# libnss-libvirt (seen in 9.0 and 12.8): one file of leases that cannot be opened, and no guest of any network has
# a name.
#
# The module reads every BRIDGE.status in /var/lib/libvirt/dnsmasq, and gives up on the first that it cannot
# open: a link that leads nowhere, or to where the calling user may not look. So a program that keeps leases
# elsewhere cannot link to them from there; it has to write files.
#
# Runs in a mount namespace and a folder of its own. Needs root (unshare, mount), apt.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir -p "$dir"/{lists/partial,archives/partial,tree}
apt=(apt-get -qq -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir" -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$dir" && "${apt[@]}" download libnss-libvirt)
dpkg-deb -x "$dir"/libnss-libvirt_*.deb "$dir/tree"
LD_LIBRARY_PATH=$(dirname "$(find "$dir/tree" -name 'libnss_libvirt.so.2')")
export LD_LIBRARY_PATH

seen=$(unshare --mount bash -c '
    mount -t tmpfs none /var/lib
    mkdir -p /var/lib/libvirt/dnsmasq
    cd /var/lib/libvirt/dnsmasq
    echo "[{\"ip-address\": \"192.168.122.7\", \"mac-address\": \"52:54:00:00:00:07\",
        \"hostname\": \"guest7\", \"expiry-time\": 4000000000}]" > virbr0.status
    echo "one file:" $(getent --service=libvirt hosts guest7)
    ln -s /nowhere virbr1.status
    echo "and a link that leads nowhere:" $(getent --service=libvirt hosts guest7)')
expected="one file: 192.168.122.7 guest7
and a link that leads nowhere:"
seen=$(sed 's/ *$//' <<< "$seen")
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
