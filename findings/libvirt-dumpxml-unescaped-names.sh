#!/usr/bin/env bash
# libvirt 9.0.0 (Debian 12): net-dumpxml does not escape every name, so what it prints may not be XML.
#
# A definition may hold an ampersand, written &amp;, in the name of a port group, in the name of a DHCP
# host and in the name of the domain. libvirt takes all three. net-dumpxml prints the ampersand bare,
# which no XML parser reads, net-define included: the definition cannot be given back to libvirt. TXT values,
# host names under <dns>, TFTP roots and titles are escaped. An agent that takes over definitions from
# libvirt's output has to expect it.
#
# Runs libvirt's own test driver, without a daemon, in a folder of its own. Needs root (chroot), apt.
set -euo pipefail
version=9.0.0-4+deb12u2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir -p "$dir"/{lists/partial,archives/partial,tree}
apt=(apt-get -qq -o Dir::State::Lists="$dir/lists" -o Dir::State::status=/dev/null
    -o Dir::Cache::archives="$dir/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o APT::Sandbox::User=root -o Debug::NoLocking=1)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends --download-only \
    "libvirt-clients=$version" "libvirt0=$version" libxml2-utils >/dev/null
for package in "$dir"/archives/*.deb; do dpkg-deb -x "$package" "$dir/tree"; done
mkdir -p "$dir/tree/"{tmp,proc,run,root}

# define ELEMENT NAME: whether what net-dumpxml prints of a network with ELEMENT is XML.
define() {
    printf "<network><name>n</name><bridge name='virbr7'/>%s</network>" "$1" >"$dir/tree/tmp/n.xml"
    chroot "$dir/tree" virsh -q -c test:///default "net-define /tmp/n.xml; net-dumpxml n" |
        sed -n '/<network/,$p' >"$dir/tree/tmp/printed.xml"
    grep -q '</network>' "$dir/tree/tmp/printed.xml" || { echo "not defined: $1"; exit 1; }
    local printed=XML
    chroot "$dir/tree" xmllint --noout /tmp/printed.xml 2>/dev/null || printed="not XML"
    echo "$2: $printed"
}

seen=$(
    define "<portgroup name='R&amp;D'/>" "name of a port group"
    define "<domain name='r&amp;d.example'/>" "name of the domain"
    define "<ip address='10.7.0.1' prefix='24'><dhcp><host mac='52:54:00:00:07:01' name='r&amp;d' \
ip='10.7.0.10'/></dhcp></ip>" "name of a DHCP host"
    define "<dns><txt name='a' value='R&amp;D'/></dns>" "value of a TXT record"
    define "<dns><host ip='10.7.0.5'><hostname>r&amp;d</hostname></host></dns>" "name of a DNS host"
    define "<ip address='10.7.0.1' prefix='24'><tftp root='/srv/r&amp;d'/></ip>" "TFTP root"
)
expected="name of a port group: not XML
name of the domain: not XML
name of a DHCP host: not XML
value of a TXT record: XML
name of a DNS host: XML
TFTP root: XML"
chroot "$dir/tree" virsh --version
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
