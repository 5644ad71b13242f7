//! What goes wrong with a definition between its author's head and the file.

use super::tree::{Element, Node};
use crate::differential::random::Random;

/// Values that somebody might write anywhere.
const VALUES: &[&str] = &[
    "",
    " ",
    "yes",
    "no",
    "on",
    "off",
    "YES",
    "No",
    "true",
    "none",
    "nat",
    "route",
    "bridge",
    "isolated",
    "bogus",
    "0",
    "1",
    "-1",
    "+5",
    "007",
    "0x10",
    "1.5",
    "1e3",
    " 5 ",
    "5 5",
    "65535",
    "65536",
    "4095",
    "4096",
    "255",
    "256",
    "2147483648",
    "4294967295",
    "4294967296",
    "-4294967295",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999",
    "é",
    "\u{1f600}",
    "a b",
    "a,b",
    "a/b",
    "a#b",
    "a:b",
    "a\tb",
    "a\nb",
    "a\\b",
    "'",
    "\"",
    "<&>",
    "..",
    ".",
    "*",
    "%d",
    "virbr%d",
    "virbr%d%d",
    "a%sb",
    "%",
    "lo",
    "virbr0",
    "abcdefghijklmno",
    "abcdefghijklmnop",
    "0.0.0.0",
    "255.255.255.255",
    "255.255.255.0",
    "255.0.255.0",
    "0.0.0.255",
    "224.0.0.1",
    "240.0.0.1",
    "127.0.0.1",
    "10.0.0.1",
    "010.0.0.1",
    "10.0.0",
    "10.0.0.256",
    "10.0.0.1/24",
    "192.168.122.1",
    "169.254.0.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%lo",
    "ff02::1",
    "fd00::1",
    "2001:db8::1",
    "::ffff:10.0.0.1",
    "1::2::3",
    "fd00:::1",
    "[fd00::1]",
    "52:54:00:00:00:01",
    "52-54-00-00-00-01",
    "00:00:00:00:00:00",
    "ff:ff:ff:ff:ff:ff",
    "01:00:5e:00:00:01",
    "5:4:3:2:1:0",
    "52:54:00:00:00",
    "52:54:00:00:00:0g",
    "52:54:00:00:00:01:02",
    "00000000-0000-0000-0000-000000000000",
    "11111111-2222-3333-4444-555555555555",
    "11111111222233334444555555555555",
    "11111111-2222-3333-4444-55555555555",
    "{11111111-2222-3333-4444-555555555555}",
    "0:1",
    "0:3:0:1:52:54:0:0:0:1",
    "pci",
    "usb",
    "vfio",
    "openvswitch",
    "802.1Qbg",
    "seconds",
    "days",
    "infinite",
    "tcp",
    "udp",
    "sctp",
    "kernel",
    "libvirt",
    "trusted",
    "ipv4",
    "ipv6",
    "ipv5",
    "tagged",
];

/// Attributes that stand somewhere in a definition.
const ATTRIBUTES: &[&str] = &[
    "name",
    "address",
    "netmask",
    "prefix",
    "family",
    "mode",
    "dev",
    "mac",
    "ip",
    "id",
    "start",
    "end",
    "domain",
    "addr",
    "type",
    "enable",
    "localOnly",
    "register",
    "size",
    "stp",
    "delay",
    "zone",
    "macTableManager",
    "isolated",
    "trunk",
    "nativeMode",
    "average",
    "peak",
    "burst",
    "floor",
    "classID",
    "default",
    "expiry",
    "unit",
    "file",
    "server",
    "root",
    "service",
    "protocol",
    "target",
    "port",
    "priority",
    "weight",
    "value",
    "gateway",
    "metric",
    "localPtr",
    "ipv6",
    "forwardPlainNames",
    "trustGuestRxFilters",
    "managed",
    "connections",
    "slot",
    "function",
    "bus",
    "model",
    "iommufd",
    "multifunction",
    "bogus",
    "Name",
    "xml:lang",
];

/// Elements that stand somewhere in a definition.
const ELEMENTS: &[&str] = &[
    "name",
    "uuid",
    "title",
    "description",
    "metadata",
    "forward",
    "bridge",
    "mtu",
    "mac",
    "domain",
    "dns",
    "vlan",
    "bandwidth",
    "port",
    "ip",
    "route",
    "virtualport",
    "portgroup",
    "dhcp",
    "range",
    "host",
    "lease",
    "bootp",
    "tftp",
    "nat",
    "address",
    "interface",
    "pf",
    "driver",
    "forwarder",
    "txt",
    "srv",
    "hostname",
    "inbound",
    "outbound",
    "tag",
    "parameters",
    "network",
    "bogus",
    "dnsmasq:options",
    "dnsmasq:option",
];

/// Text that is not XML, or XML that nobody expects.
const RAW: &[&str] = &[
    "<",
    ">",
    "&",
    "&amp",
    "&bogus;",
    "&#0;",
    "&#1;",
    "&#xd800;",
    "]]>",
    "<!--",
    "<!-- a -- b -->",
    "<?",
    "<?xml version='1.0'?>",
    "</network>",
    "<a></b>",
    "<a b=c/>",
    "<a b='1' b='2'/>",
    "<x:a/>",
    "<a x:b='1'/>",
    "<![CDATA[",
    "<![CDATA[text]]>",
    "<?note here?>",
    "<!DOCTYPE a>",
    "text",
    "\u{1}",
    "\u{fffe}",
    "\u{85}",
];

/// Damages an element of the definition, so that some are still good.
pub fn damage(root: &mut Element, random: &mut Random) {
    match random.below(100) {
        0..32 => replace_value(root, random),
        32..40 => remove_attribute(root, random),
        40..48 => add_attribute(root, random),
        48..54 => rename(root, random),
        54..62 => remove_element(root, random),
        62..72 => repeat_element(root, random),
        72..80 => move_element(root, random),
        80..84 => add_element(root, random),
        84..87 => add_text(root, random, false),
        87..91 => add_text(root, random, true),
        91..95 => give_namespace(root, random),
        95..97 => copy_value(root, random),
        97..98 => grow(root, random),
        _ => replace_text(root, random),
    }
}

/// Changes any element.
fn at_random(
    root: &mut Element,
    random: &mut Random,
    change: &mut dyn FnMut(&mut Element, &mut Random),
) {
    let number = random.below(root.all().len());
    root.change(number, &mut |element| change(element, random));
}

/// Changes any element of those that this says yes to.
fn among(
    root: &mut Element,
    random: &mut Random,
    fits: impl Fn(&Element) -> bool,
    change: &mut dyn FnMut(&mut Element, &mut Random),
) {
    let all = root.all().into_iter().enumerate();
    let numbers: Vec<usize> = all
        .filter(|(_, element)| fits(element))
        .map(|(number, _)| number)
        .collect();
    if numbers.is_empty() {
        return;
    }
    let number = *random.pick(&numbers);
    root.change(number, &mut |element| change(element, random));
}

fn has_attributes(element: &Element) -> bool {
    !element.attributes.is_empty()
}

fn replace_value(root: &mut Element, random: &mut Random) {
    among(root, random, has_attributes, &mut |element, random| {
        let at = random.below(element.attributes.len());
        let value = &element.attributes[at].1;
        element.attributes[at].1 = twisted(value, random);
    });
}

/// Another value, or the same with a flaw.
fn twisted(value: &str, random: &mut Random) -> String {
    let mut letters: Vec<char> = value.chars().collect();
    match random.below(12) {
        0 => format!(" {value}"),
        1 => format!("{value} "),
        2 => value.to_uppercase(),
        3 => format!("{value}{}", random.pick(&["x", "0", ".", "%", "/", ":"])),
        4 if !letters.is_empty() => {
            letters.remove(random.below(letters.len()));
            letters.into_iter().collect()
        }
        5 if !letters.is_empty() => {
            let at = random.below(letters.len());
            letters[at] = *random.pick(&['0', '9', 'z', '-', ':', ' ', '\'', '\n', 'é']);
            letters.into_iter().collect()
        }
        6 => match value.parse::<i64>() {
            Ok(number) => number.wrapping_add(*random.pick(&[-1, 1, 100])).to_string(),
            Err(_) => (*random.pick(VALUES)).to_owned(),
        },
        _ => (*random.pick(VALUES)).to_owned(),
    }
}

fn remove_attribute(root: &mut Element, random: &mut Random) {
    among(root, random, has_attributes, &mut |element, random| {
        element
            .attributes
            .remove(random.below(element.attributes.len()));
    });
}

fn add_attribute(root: &mut Element, random: &mut Random) {
    at_random(root, random, &mut |element, random| {
        let name = *random.pick(ATTRIBUTES);
        let value = *random.pick(VALUES);
        // Twice the same is no XML, which happens to texts in another place.
        if element.attribute(name).is_none() {
            element.attributes.push((name.to_owned(), value.to_owned()));
        }
    });
}

fn rename(root: &mut Element, random: &mut Random) {
    at_random(root, random, &mut |element, random| {
        if random.chance(50) && !element.attributes.is_empty() {
            let at = random.below(element.attributes.len());
            let name = misspelt(&element.attributes[at].0, ATTRIBUTES, random);
            if element.attribute(&name).is_none() {
                element.attributes[at].0 = name;
            }
        } else {
            element.name = misspelt(&element.name, ELEMENTS, random);
        }
    });
}

fn misspelt(name: &str, others: &[&str], random: &mut Random) -> String {
    match random.below(3) {
        0 => name.to_uppercase(),
        1 => format!("{name}s"),
        _ => (*random.pick(others)).to_owned(),
    }
}

fn has_children(element: &Element) -> bool {
    element.elements().next().is_some()
}

/// Takes a child out of an element that has one.
fn take(root: &mut Element, random: &mut Random) -> Option<Node> {
    let mut taken = None;
    among(root, random, has_children, &mut |element, random| {
        let at = random.below(element.content.len());
        taken = Some(element.content.remove(at));
    });
    taken
}

fn remove_element(root: &mut Element, random: &mut Random) {
    take(root, random);
}

fn repeat_element(root: &mut Element, random: &mut Random) {
    among(root, random, has_children, &mut |element, random| {
        let at = random.below(element.content.len());
        let mut again = element.content[at].clone();
        if let Node::Element(again) = &mut again
            && random.chance(60)
        {
            replace_value(again, random);
        }
        let to = random.below(element.content.len() + 1);
        element.content.insert(to, again);
    });
}

fn move_element(root: &mut Element, random: &mut Random) {
    let Some(node) = take(root, random) else {
        return;
    };
    at_random(root, random, &mut |element, random| {
        let to = random.below(element.content.len() + 1);
        element.content.insert(to, node.clone());
    });
}

fn add_element(root: &mut Element, random: &mut Random) {
    let name = *random.pick(ELEMENTS);
    let mut new = Element::new(name);
    for _ in 0..random.below(3) {
        let attribute = *random.pick(ATTRIBUTES);
        if new.attribute(attribute).is_none() {
            new = new.with(attribute, random.pick(VALUES));
        }
    }
    at_random(root, random, &mut |element, random| {
        let to = random.below(element.content.len() + 1);
        element.content.insert(to, Node::Element(new.clone()));
    });
}

/// Text where none belongs, well-formed or not.
fn add_text(root: &mut Element, random: &mut Random, raw: bool) {
    at_random(root, random, &mut |element, random| {
        let node = match raw {
            true => Node::Raw((*random.pick(RAW)).to_owned()),
            false => Node::Text((*random.pick(VALUES)).to_owned()),
        };
        let to = random.below(element.content.len() + 1);
        element.content.insert(to, node);
    });
}

fn give_namespace(root: &mut Element, random: &mut Random) {
    at_random(root, random, &mut |element, random| {
        let uri = *random.pick(&[
            "urn:x",
            "",
            "http://libvirt.org/schemas/network/dnsmasq/1.0",
        ]);
        let (name, prefix) = *random.pick(&[("xmlns", ""), ("xmlns:p", "p:"), ("xmlns:p", "")]);
        element.attributes.retain(|(own, _)| own != name);
        element.attributes.push((name.to_owned(), uri.to_owned()));
        element.name = format!("{prefix}{}", element.name);
    });
}

/// Two attributes with one value, anywhere.
fn copy_value(root: &mut Element, random: &mut Random) {
    let values: Vec<String> = root
        .all()
        .iter()
        .flat_map(|element| element.attributes.iter().map(|(_, value)| value.clone()))
        .collect();
    if values.is_empty() {
        return;
    }
    let value = random.pick(&values).clone();
    among(root, random, has_attributes, &mut |element, random| {
        let at = random.below(element.attributes.len());
        element.attributes[at].1.clone_from(&value);
    });
}

/// Very much of something.
fn grow(root: &mut Element, random: &mut Random) {
    let count = *random.pick(&[50, 150, 300]);
    let many = "x".repeat(count * 10);
    match random.below(4) {
        0 => among(root, random, has_attributes, &mut |element, random| {
            let at = random.below(element.attributes.len());
            element.attributes[at].1.clone_from(&many);
        }),
        1 => among(root, random, has_children, &mut |element, random| {
            let node = element.content[random.below(element.content.len())].clone();
            element.content.extend(std::iter::repeat_n(node, count));
        }),
        2 => at_random(root, random, &mut |element, _| {
            let deep = (0..count).fold(Element::new("deep"), |inner, _| {
                Element::new("deep").child(inner)
            });
            element.content.push(Node::Element(deep));
        }),
        _ => at_random(root, random, &mut |element, _| {
            let more = (0..count).map(|number| (format!("a{number}"), String::new()));
            element.attributes.extend(more);
        }),
    }
}

fn replace_text(root: &mut Element, random: &mut Random) {
    let has_text = |element: &Element| matches!(element.content[..], [Node::Text(_)]);
    among(root, random, has_text, &mut |element, random| {
        let text = match &element.content[..] {
            [Node::Text(text)] => twisted(text, random),
            _ => return,
        };
        element.content = vec![Node::Text(text)];
    });
}
