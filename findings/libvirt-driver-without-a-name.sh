#!/usr/bin/env bash
# libvirt 11.3.0 (Debian 13): net-dumpxml prints a hostdev network whose <driver> has no name as another
# document: <forward> ends before its <driver>, which stands beside it then.
#
# Since 10.0 a <driver> of <forward mode='hostdev'> may have a model instead of a name, and libvirt takes
# that. Printing it, it asks for the name alone whether <forward> has anything in it. What was printed is
# XML, and net-define takes it, but without the driver: it is lost by net-dumpxml, net-edit and whatever
# keeps definitions by their text. Who reads libvirt's output has to expect a <driver> below <network>.
#
# Runs libvirt's own test driver, without a daemon, in a folder of its own. Needs root (chroot), apt.
set -euo pipefail
version=11.3.0-3+deb13u3
dir=$(mktemp -d)
export LC_ALL=C
trap 'rm -rf "$dir"' EXIT

mkdir -p "$dir"/{lists/partial,archives/partial,tree}
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$dir/sources"
apt=(apt-get -qq -o Dir::State::Lists="$dir/lists" -o Dir::State::status=/dev/null
    -o Dir::Etc::SourceList="$dir/sources" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Cache::archives="$dir/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o APT::Sandbox::User=root -o Debug::NoLocking=1)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends --download-only \
    "libvirt-clients=$version" "libvirt0=$version" >/dev/null
# The merged /usr is the base system's to make.
mkdir -p "$dir/tree/usr/"{bin,sbin,lib,lib64}
for link in bin sbin lib lib64; do ln -s "usr/$link" "$dir/tree/$link"; done
for package in "$dir"/archives/*.deb; do dpkg-deb --fsys-tarfile "$package" | tar -xC "$dir/tree" --keep-directory-symlink; done
mkdir -p "$dir/tree/"{tmp,proc,run,root}

# define ELEMENT: what net-dumpxml prints of a network with ELEMENT in <forward>, without indentation,
# and whether the driver is still there when that is defined again.
define() {
    printf "<network><name>n</name><forward mode='hostdev' managed='yes'>%s</forward></network>" "$1" \
        >"$dir/tree/tmp/n.xml"
    chroot "$dir/tree" virsh -q -c test:///default "net-define /tmp/n.xml; net-dumpxml n" |
        sed -n '/<network/,$p' >"$dir/tree/tmp/printed.xml"
    echo "$1:"
    sed -n '/forward\|driver/{s/^ *//;p}' "$dir/tree/tmp/printed.xml"
    chroot "$dir/tree" virsh -q -c test:///default "net-define /tmp/printed.xml; net-dumpxml n" |
        grep -c '<driver' | sed 's/^/defined again, drivers: /' || true
}

seen=$(
    define "<driver name='vfio' model='vfio-pci'/>"
    define "<driver model='vfio-pci'/>"
)
expected="<driver name='vfio' model='vfio-pci'/>:
<forward mode='hostdev' managed='yes'>
<driver name='vfio' model='vfio-pci'/>
</forward>
defined again, drivers: 1
<driver model='vfio-pci'/>:
<forward mode='hostdev' managed='yes'/>
<driver model='vfio-pci'/>
defined again, drivers: 0"
chroot "$dir/tree" virsh --version
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
