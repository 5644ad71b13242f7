#!/usr/bin/env bash
# iptables 1.8.9 and nftables 1.0.6 (Debian 12): what iptables tells of rules that nft put into its chains.
#
# iptables-nft keeps its rules in nftables chains, to which nft can add rules. How iptables then shows them
# depends on how they were written:
# - one port in one rule: as iptables' own;
# - a set of ports: the rule is listed and saved without any port, as if it took the whole protocol;
# - `ct state`: listing is refused (exit 1), and iptables-save writes a comment in place of the table,
#   with exit 0;
# - `th dport`, a port of any transport: iptables-save stops within the table, without COMMIT, with exit 3.
# Whoever adds rules to such chains for an administrator who uses iptables writes one port a rule.
#
# Runs in a network namespace and a folder of its own. Needs root (chroot, unshare), apt, nf_tables.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir -p "$dir"/{lists/partial,archives/partial,tree}
apt=(apt-get -qq -o Dir::State::Lists="$dir/lists" -o Dir::State::status=/dev/null
    -o Dir::Cache::archives="$dir/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o APT::Sandbox::User=root -o Debug::NoLocking=1)
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends --download-only \
    iptables=1.8.9-2 nftables=1.0.6-2+deb12u2 >/dev/null
for package in "$dir"/archives/*.deb; do dpkg-deb -x "$package" "$dir/tree"; done

# see RULE…: what iptables makes of a chain with this rule of nft's.
see() {
    chroot "$dir/tree" iptables-nft -A INPUT -p udp --dport 69 -j ACCEPT
    chroot "$dir/tree" nft insert rule ip filter INPUT "$@" accept
    echo "$*"
    local listed=0 saved=0
    chroot "$dir/tree" iptables-nft -S INPUT >"$dir/listed" 2>/dev/null || listed=$?
    chroot "$dir/tree" iptables-nft-save >"$dir/saved" 2>/dev/null || saved=$?
    echo "  -S: exit $listed, rules: $(grep -c -e '^-A' "$dir/listed")"
    grep -e '^-A.*-p udp -j' "$dir/listed" | sed 's/^/    /' || true
    echo "  save: exit $saved, rules: $(grep -c -e '^-A' "$dir/saved"), COMMIT: $(grep -c COMMIT "$dir/saved")"
    chroot "$dir/tree" nft flush table ip filter
}
export dir
export -f see
seen=$(unshare --net bash -c '
    see udp dport 53
    see udp dport "{ 53, 67 }"
    see ct state established
    see th dport 53')
expected='udp dport 53
  -S: exit 0, rules: 2
  save: exit 0, rules: 2, COMMIT: 1
udp dport { 53, 67 }
  -S: exit 0, rules: 2
    -A INPUT -p udp -j ACCEPT
  save: exit 0, rules: 2, COMMIT: 1
ct state established
  -S: exit 1, rules: 0
  save: exit 0, rules: 0, COMMIT: 0
th dport 53
  -S: exit 3, rules: 0
  save: exit 3, rules: 0, COMMIT: 0'
chroot "$dir/tree" iptables-nft --version
chroot "$dir/tree" nft --version
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
