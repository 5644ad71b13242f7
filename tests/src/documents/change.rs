//! Changes of one section of a network, as `net-update` makes them.

use serde_json::{Value, json};

use super::damage::damage;
use super::invent::{Inventor, Subnet};
use super::tree::Element;
use super::write;

/// libvirt's numbers of the sections, and the element that an entry of each is.
const SECTIONS: [(u32, &str); 12] = [
    (1, "bridge"),
    (2, "domain"),
    (3, "ip"),
    (4, "host"),
    (5, "range"),
    (6, "forward"),
    (7, "interface"),
    (8, "pf"),
    (9, "portgroup"),
    (10, "host"),
    (11, "txt"),
    (12, "srv"),
];

/// Sections that can change, by how often they do.
const OFTEN: [(usize, usize); 8] = [
    (26, 3),
    (14, 4),
    (8, 6),
    (12, 8),
    (16, 9),
    (10, 10),
    (12, 11),
    (2, 0),
];

/// Changes of a definition: number of the command, of the section, of the `<ip>`, the entry, and the flags.
pub fn changes(root: &Element, inventor: &mut Inventor<'_>, flags: &[u32]) -> Vec<Value> {
    let count = inventor.random.between(1, 4);
    (0..count).map(|_| change(root, inventor, flags)).collect()
}

fn change(root: &Element, inventor: &mut Inventor<'_>, flags: &[u32]) -> Value {
    let (section, name) = match inventor.random.chance(3) {
        true => *inventor.random.pick(&SECTIONS),
        false => SECTIONS[*inventor.random.weighted(&OFTEN)],
    };
    let (modify, delete, add_last, add_first) = (1, 2, 3, 4);
    let command =
        *inventor
            .random
            .weighted(&[(20, modify), (30, delete), (40, add_last), (10, add_first)]);
    let adds = command == add_last || command == add_first;
    // What is changed or taken away is mostly there.
    let known = known(root, section, name);
    let mut entry = match known.is_empty() || inventor.random.chance(if adds { 90 } else { 15 }) {
        true => new_entry(root, inventor, section),
        false => inventor.random.pick(&known).clone(),
    };
    if command == modify && inventor.random.chance(70) {
        alter(&mut entry, inventor);
    }
    if command == delete && inventor.random.chance(40) && entry.attributes.len() > 1 {
        let at = inventor.random.below(entry.attributes.len());
        entry.attributes.remove(at);
    }
    if inventor.random.chance(8) {
        damage(&mut entry, inventor.random);
    }
    let index = *inventor
        .random
        .weighted(&[(80, -1), (8, 0), (8, 1), (2, 5), (2, -2)]);
    let flags = *inventor.random.pick(flags);
    json!([command, section, index, write::plain(&entry), flags])
}

/// Entries of the section that the definition has.
fn known(root: &Element, section: u32, name: &str) -> Vec<Element> {
    let parent = match section {
        4 | 5 => "dhcp",
        7 | 8 => "forward",
        10..=12 => "dns",
        _ => "network",
    };
    let parents = root.named(parent);
    let entries = parents.flat_map(|parent| parent.elements().filter(|entry| entry.name == name));
    entries.cloned().collect()
}

fn new_entry(root: &Element, inventor: &mut Inventor<'_>, section: u32) -> Element {
    let subnet = subnet_of(root, inventor);
    match section {
        4 => inventor.dhcp_host(subnet),
        5 => inventor.range(subnet),
        7 => Element::new("interface").with("dev", inventor.device()),
        9 => {
            let name = inventor.label();
            inventor.port_group(&name, true, false, true)
        }
        10 => inventor.dns_host(&[subnet]),
        11 => inventor.txt(),
        12 => inventor.srv(),
        _ => Element::new("bridge").with("name", "virbr9"),
    }
}

/// A subnet of the definition, or any.
fn subnet_of(root: &Element, inventor: &mut Inventor<'_>) -> Subnet {
    let ips: Vec<&Element> = root.named("ip").collect();
    let found = ips.iter().find_map(|ip| {
        let address = ip.attribute("address")?.parse().ok()?;
        Some(Subnet::around(
            address,
            ip.attribute("prefix"),
            ip.attribute("netmask"),
        ))
    });
    found.unwrap_or_else(|| inventor.subnet4())
}

/// Another value in one attribute, or another text.
fn alter(entry: &mut Element, inventor: &mut Inventor<'_>) {
    match entry.attributes.is_empty() {
        true => {}
        false => {
            let at = inventor.random.below(entry.attributes.len());
            let label = inventor.label();
            entry.attributes[at].1 = match entry.attributes[at].0.as_str() {
                "mac" => inventor.mac(),
                "name" | "value" | "target" | "domain" => label,
                _ => entry.attributes[at].1.clone(),
            };
        }
    }
}
