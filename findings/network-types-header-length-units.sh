#!/usr/bin/env bash
# network-types 0.2.0 (crates.io): the lengths of two headers are given in different units.
#
# IPv4's IHL and TCP's data offset both count 32-bit words on the wire (RFC 791, 3.1; RFC 9293, 3.1).
# `Ipv4Hdr::ihl()` returns bytes, `TcpHdr::doff()` returns words. An offset that is computed alike from both is
# wrong by a factor of four, which a packet without options shows as well: 20 and 5.
#
# Needs cargo.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'X'
[package]
name = "lengths"
version = "0.0.0"
edition = "2021"
[dependencies]
network-types = { version = "=0.2.0", default-features = false }
[workspace]
X
cat >"$dir/src/main.rs" <<'X'
use network_types::{ip::Ipv4Hdr, tcp::TcpHdr};

fn main() {
    // Version 4, IHL 6: 24 bytes. Data offset 6: 24 bytes.
    let mut bytes = [0u8; 20];
    bytes[0] = 0x46;
    // SAFETY: both headers are 20 bytes of plain integers without alignment.
    let ip: Ipv4Hdr = unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) };
    bytes[12] = 0x60;
    // SAFETY: as above.
    let tcp: TcpHdr = unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) };
    println!("headers of 24 bytes: ihl() {}, doff() {}", ip.ihl(), tcp.doff());
}
X
seen=$(cd "$dir" && cargo run --quiet)
echo "$seen"
expected="headers of 24 bytes: ihl() 24, doff() 6"
[ "$seen" = "$expected" ] || { echo "changed; expected: $expected"; exit 1; }
