//! What things are called: names, UUIDs, MAC addresses, records of the DNS, metadata, raw options.

use super::inventor::{Inventor, Subnet};
use crate::documents::tree::Element;

/// The namespace of raw options.
pub const DNSMASQ: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// Names under which networks are kept in files and written to XML.
const ODD_NAMES: [&str; 12] = [
    "a b", "Büro", "x'y", "x\"y", "<x>", "R&D", "net.1", "-x", "%d", "#1", "网络", " edge ",
];

/// Text that needs escaping here and there.
const ODD_WORDS: [&str; 8] = ["<", "&", "\"", "'", "é", ">", "]]>", "\u{1f600}"];

impl Inventor<'_> {
    pub(super) fn network_name(&mut self) -> String {
        match self.random.below(100) {
            0..85 => self.label(),
            85..97 => (*self.random.pick(&ODD_NAMES)).to_owned(),
            _ => "long-name-".repeat(6),
        }
    }

    /// One label of a name in the DNS.
    pub fn label(&mut self) -> String {
        let letters = b"abcdefghijklmnopqrstuvwxyz";
        let others = b"abcdefghijklmnopqrstuvwxyz0123456789-";
        let mut label = String::from(*self.random.pick(letters) as char);
        for _ in 0..self.random.below(8) {
            label.push(*self.random.pick(others) as char);
        }
        label.push(*self.random.pick(letters) as char);
        label
    }

    /// A name of one to three labels.
    pub(in crate::documents) fn dns_name(&mut self) -> String {
        let labels = self.random.between(1, 3);
        let labels: Vec<String> = (0..labels).map(|_| self.label()).collect();
        labels.join(".")
    }

    /// A line for people.
    pub(super) fn words(&mut self) -> String {
        let mut words = vec![self.label()];
        for _ in 0..self.random.below(5) {
            let word = match self.random.chance(20) {
                true => (*self.random.pick(&ODD_WORDS)).to_owned(),
                false => self.label(),
            };
            words.push(word);
        }
        words.join(" ")
    }

    pub(in crate::documents) fn uuid(&mut self) -> String {
        let digits = format!("{:016x}{:016x}", self.random.draw(), self.random.draw());
        let dashed = format!(
            "{}-{}-{}-{}-{}",
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            &digits[16..20],
            &digits[20..]
        );
        match self.random.below(20) {
            0 => digits,
            1 => dashed.to_uppercase(),
            2 => format!(" {dashed} "),
            _ => dashed,
        }
    }

    pub(in crate::documents) fn mac(&mut self) -> String {
        let bytes = self.random.draw().to_be_bytes();
        let first = *self.random.pick(&[0x52_u8, 0x52, 0x52, 0x00, 0xfe, 0x9a]);
        let text = format!(
            "{first:02x}:54:00:{:02x}:{:02x}:{:02x}",
            bytes[0], bytes[1], bytes[2]
        );
        match self.random.below(12) {
            0 => text.to_uppercase(),
            1 => text.replace(":0", ":"),
            _ => text,
        }
    }

    /// The name of a device that the host has not.
    pub(in crate::documents) fn device(&mut self) -> String {
        let kinds = ["virbr", "br-", "lan", "net", "x_", "vlan.", "wan"];
        let kind = *self.random.pick(&kinds);
        format!("{kind}{}", self.random.below(30))
    }

    pub(super) fn domain(&mut self) -> Element {
        let local_only = self.yes_no(40);
        let register = match local_only {
            Some("yes") => self.yes_no(10),
            _ => self.maybe(5, |_| "no"),
        };
        Element::new("domain")
            .with("name", self.dns_name())
            .opt("localOnly", local_only)
            .opt("register", register)
    }

    pub(super) fn dns(&mut self, subnets: &[Subnet]) -> Element {
        let plain = self.yes_no(25);
        if self.random.chance(15) {
            let dns = Element::new("dns").with("enable", "no");
            return dns.opt("forwardPlainNames", plain);
        }
        let mut children = Vec::new();
        for _ in 0..self.few() {
            children.push(self.forwarder());
        }
        for _ in 0..self.few() {
            children.push(self.txt());
        }
        for _ in 0..self.few() {
            children.push(self.srv());
        }
        for _ in 0..self.few() {
            children.push(self.dns_host(subnets));
        }
        if self.random.chance(30) {
            self.shuffle(&mut children);
        }
        Element::new("dns")
            .opt("enable", self.maybe(10, |_| "yes"))
            .opt("forwardPlainNames", plain)
            .children(children)
    }

    /// Mostly none or one, seldom three.
    pub(super) fn few(&mut self) -> usize {
        *self.random.weighted(&[(55, 0), (30, 1), (10, 2), (5, 3)])
    }

    fn forwarder(&mut self) -> Element {
        let addresses = [
            "198.51.100.1",
            "192.0.2.53",
            "127.0.0.1",
            "2001:db8::53",
            "fd00::53",
        ];
        let address = self.maybe(75, |this| *this.random.pick(&addresses));
        let domain = match address {
            None => Some(self.dns_name()),
            Some(_) => self.maybe(40, Self::dns_name),
        };
        Element::new("forwarder")
            .opt("domain", domain)
            .opt("addr", address)
            .opt(
                "port",
                self.maybe(15, |this| *this.random.pick(&[53, 5353, 1, 65535])),
            )
    }

    pub(in crate::documents) fn txt(&mut self) -> Element {
        let values = [
            "example value",
            "",
            "v=spf1 -all",
            "a,b,c",
            "\"quoted, text\"",
            "one#two",
            "é",
            "<a href='x'>&amp;</a>",
        ];
        let value = match self.random.chance(60) {
            true => self.label(),
            false => (*self.random.pick(&values)).to_owned(),
        };
        Element::new("txt")
            .with("name", self.dns_name())
            .with("value", value)
    }

    pub(in crate::documents) fn srv(&mut self) -> Element {
        let services = ["ldap", "sip", "kerberos", "a_b", "x-1", "*"];
        let srv = Element::new("srv")
            .with("service", self.random.pick(&services))
            .with("protocol", self.random.pick(&["tcp", "udp"]))
            .opt("domain", self.maybe(50, Self::dns_name));
        let target = match self.random.below(10) {
            0 => return srv,
            1 => ".".to_owned(),
            _ => self.dns_name(),
        };
        srv.with("target", target)
            .opt(
                "port",
                self.maybe(70, |this| *this.random.pick(&[1, 389, 5060, 65535])),
            )
            .opt(
                "priority",
                self.maybe(30, |this| *this.random.pick(&[0, 1, 10, 65535])),
            )
            .opt(
                "weight",
                self.maybe(30, |this| *this.random.pick(&[0, 1, 10, 65535])),
            )
    }

    pub(in crate::documents) fn dns_host(&mut self, subnets: &[Subnet]) -> Element {
        let ip = match subnets {
            [] => "192.0.2.7".to_owned(),
            _ => {
                let subnet = *self.random.pick(subnets);
                let number = self.random.below(250) as u64;
                subnet.address(number)
            }
        };
        let names = self.random.between(1, 3);
        let names = (0..names).map(|_| {
            let name = match self.random.chance(5) {
                true => format!("*.{}", self.label()),
                false => self.dns_name(),
            };
            Element::new("hostname").text(name)
        });
        let names: Vec<Element> = names.collect();
        Element::new("host").with("ip", ip).children(names)
    }

    pub(super) fn metadata(&mut self) -> Element {
        let mut metadata = Element::new("metadata");
        for number in 0..self.random.between(1, 3) {
            let uri = format!("urn:example:{}", self.random.below(3));
            let inner = match self.random.below(5) {
                0 => Element::new("m:leaf").text(self.words()),
                1 => Element::new("plain").with("a", self.words()),
                2 => Element::new("other")
                    .with("xmlns", "urn:other")
                    .child(Element::new("leaf")),
                3 => Element::new("m:list").children([
                    Element::new("m:item").with("n", number),
                    Element::new("m:item").text("  "),
                ]),
                _ => Element::new("m:empty"),
            };
            let mut outer = Element::new("m:thing").with("xmlns:m", &uri);
            if self.random.chance(30) {
                outer = outer.with("m:kind", self.label());
            }
            metadata = metadata.child(match self.random.chance(20) {
                true => outer.text(self.words()),
                false => outer.child(inner),
            });
        }
        metadata
    }

    /// `<dnsmasq:options>`, in the ways that its namespace can be declared.
    pub(super) fn raw_options(&mut self) -> Option<Element> {
        if !self.random.chance(12) {
            return None;
        }
        let options = [
            "log-queries",
            "cache-size=500",
            "dhcp-option=option:ntp-server,192.0.2.1",
            "dhcp-option=6,192.0.2.53",
            "local=/corp.example/",
            "address=/fixed.example/192.0.2.9",
            "host-record=rec.example,192.0.2.8",
            "# a remark",
            "dhcp-ignore=tag:!known",
        ];
        let prefix = *self.random.pick(&["dnsmasq", "dnsmasq", "d"]);
        let count = self.random.between(1, 3);
        let options: Vec<Element> = (0..count)
            .map(|_| {
                Element::new(&format!("{prefix}:option")).with("value", self.random.pick(&options))
            })
            .collect();
        let list = Element::new(&format!("{prefix}:options"));
        Some(
            list.with(&format!("xmlns:{prefix}"), DNSMASQ)
                .children(options),
        )
    }
}
