#!/usr/bin/env bash
# BusyBox 1.35.0 (Debian 12) and 1.37.0 (Debian 13): `read` of its shell forgets what it has read of a line when
# a child of the shell ends meanwhile, and returns the rest as if it were the whole line, with status 0. dash
# returns the whole line. A console on a serial line, where a line arrives in pieces, runs another
# command than was typed, if its shell has started something in the background.
#
# Runs the shells from a temporary folder. Needs apt and dpkg-deb.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -n 1)

# fetch SUITE PACKAGE=VERSION…: unpacks them to a folder of the suite's name.
fetch() {
    local suite=$1 at="$dir/$1.apt" package
    shift
    mkdir -p "$at"/{lists/partial,archives/partial} "$dir/$suite"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$at/sources"
    local apt=(apt-get -qq -o Dir::Etc::SourceList="$at/sources" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$at/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$at"
        -o APT::Sandbox::User=root -o Debug::NoLocking=1)
    "${apt[@]}" update
    (cd "$at" && "${apt[@]}" download "$@")
    for package in "$at"/*.deb; do dpkg-deb -x "$package" "$dir/$suite"; done
}

# A line in two pieces, between which a child of the reader ends; what the reader makes of it.
see() {
    local name=$1
    shift
    # shellcheck disable=SC2016 # for the shell that is tried
    { printf 'echo '; sleep 1; printf 'whole\n'; } |
        "$@" -c 'sleep 0.3 & read -r line; echo "$0, status $?: $line"' "$name"
}

fetch bookworm busybox-static=1:1.35.0-4+deb12u1+b1 dash=0.5.12-2
fetch trixie busybox-static=1:1.37.0-6+b9
seen=$(
    see "busybox 1.35.0" "$dir/bookworm/bin/busybox" sh
    see "busybox 1.37.0" "$dir/trixie/usr/bin/busybox" sh
    see "dash 0.5.12" "$dir/bookworm/bin/dash"
)
expected="busybox 1.35.0, status 0: whole
busybox 1.37.0, status 0: whole
dash 0.5.12, status 0: echo whole"
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
