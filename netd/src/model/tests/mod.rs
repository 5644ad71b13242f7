//! Tests of reading, printing and checking together.

mod addresses;
mod checks;
mod generate;
mod hostile;
mod numbers;
mod peer;
mod port_forward;
mod port_forward_refusals;
mod round_trip;
mod rules;
mod unknown;
mod update_refusals;
mod updates;

use super::*;

/// A definition around the given elements.
fn network(elements: &str) -> String {
    format!("<network><name>net</name>{elements}</network>")
}

/// A NAT network with DHCP and the given elements.
fn nat(elements: &str) -> String {
    network(&format!(
        "<forward/><bridge name='br0'/><ip address='192.168.122.1' prefix='24'/>{elements}"
    ))
}

/// The canonical text of what is read.
fn canonical(text: &str) -> String {
    let network = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    format(&network, FormatOptions::default())
}

/// A network of the given forward mode.
fn mode(mode: &str, elements: &str) -> String {
    network(&format!("<forward mode='{mode}'/>{elements}"))
}
