//! `<netd:host>` and `<netd:antispoof>`: what guests may reach of the host, and whose addresses they
//! may carry.

use roxmltree::Node;

use super::error::XmlError;
use super::extension::Reader;
use super::types::ForwardMode;
use super::xml;

/// `<netd:host access>`: what the network's guests may reach of the host itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostAccess {
    /// What the host's own firewall allows.
    #[default]
    All,
    /// DHCP, DNS, TFTP and ICMP.
    Services,
    /// Nothing.
    None,
}

const ACCESS: [(&str, HostAccess); 3] = [
    ("all", HostAccess::All),
    ("services", HostAccess::Services),
    ("none", HostAccess::None),
];

/// `<netd:antispoof>`: what frames of guests are held to. Without its attributes the element
/// stands for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AntiSpoof {
    /// The source MAC address is the port's own.
    pub mac: bool,
    /// The source address is the guest's own, and nothing comes but IP and ARP.
    pub ip: bool,
    /// ARP speaks of the guest alone.
    pub arp: bool,
    /// Neighbour advertisements speak of the guest alone.
    pub nd: bool,
    /// The guest is no DHCP server and no router.
    pub dhcp: bool,
}

impl AntiSpoof {
    /// The attributes by name, in the order they are written.
    fn attributes(&mut self) -> [(&'static str, &mut bool); 5] {
        [
            ("mac", &mut self.mac),
            ("ip", &mut self.ip),
            ("arp", &mut self.arp),
            ("nd", &mut self.nd),
            ("dhcp", &mut self.dhcp),
        ]
    }
}

impl Default for AntiSpoof {
    fn default() -> Self {
        Self {
            mac: true,
            ip: true,
            arp: true,
            nd: true,
            dhcp: true,
        }
    }
}

/// Reads `<netd:host>`.
///
/// # Errors
/// The grammar is broken, or the network is one whose guests netd does not judge.
pub(super) fn read_host(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<HostAccess, XmlError> {
    reader.attributes(node, &["access"])?;
    reader.childless(node)?;
    judged(reader, node)?;
    reader.choice(node, "access", &ACCESS)
}

/// Reads `<netd:antispoof>`.
///
/// # Errors
/// As [`read_host`].
pub(super) fn read_antispoof(
    reader: &Reader<'_>,
    node: Node<'_, '_>,
) -> Result<AntiSpoof, XmlError> {
    let mut antispoof = AntiSpoof::default();
    let known = antispoof.attributes().map(|(name, _)| name);
    reader.attributes(node, &known)?;
    reader.childless(node)?;
    judged(reader, node)?;
    for (name, value) in antispoof.attributes() {
        if node.has_attribute(name) {
            let words = [("yes", YesNo(true)), ("no", YesNo(false))];
            *value = reader.choice(node, name, &words)?.0;
        }
    }
    Ok(antispoof)
}

/// A value of `yes` or `no`.
#[derive(Clone, Copy, Default)]
struct YesNo(bool);

/// In an open network netd has no say, and others' bridges it does not touch.
fn judged(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<(), XmlError> {
    let mode = reader.network().mode();
    match mode {
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::None => Ok(()),
        _ => Err(reader.refuse(
            node,
            format!("stands only in mode='nat' and 'route' and isolated networks, not '{mode}'"),
        )),
    }
}

pub(super) fn write_host(host: HostAccess) -> String {
    let mut out = "<netd:host".to_owned();
    if let Some((word, _)) = ACCESS.iter().find(|(_, access)| *access == host) {
        xml::write_attribute(&mut out, "access", word);
    }
    out.push_str("/>");
    out
}

pub(super) fn write_antispoof(mut antispoof: AntiSpoof) -> String {
    let mut out = "<netd:antispoof".to_owned();
    for (name, value) in antispoof.attributes() {
        xml::write_attribute(&mut out, name, if *value { "yes" } else { "no" });
    }
    out.push_str("/>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Extensions, NETD_NAMESPACE, parse};

    fn read(mode: &str, metadata: &str) -> Result<Extensions, XmlError> {
        let xml = format!(
            "<network><name>net</name><metadata>\
             <n:network xmlns:n='{NETD_NAMESPACE}'>{metadata}</n:network></metadata>\
             <forward mode='{mode}'/><ip address='10.0.0.1' prefix='24'/></network>"
        );
        let mut network = parse(&xml).unwrap();
        let extensions = network.extensions()?;
        // What is written anew says the same.
        network.set_forwards(Vec::new()).unwrap();
        assert_eq!(network.extensions().as_ref(), Ok(&extensions));
        Ok(Extensions::clone(&extensions))
    }

    #[test]
    fn the_host_is_open_unless_it_is_closed() {
        assert_eq!(read("nat", "").unwrap().host, None);
        for (word, access) in ACCESS {
            let read = read("nat", &format!("<n:host access='{word}'/>")).unwrap();
            assert_eq!(read.host, Some(access));
        }
        assert_eq!(
            read("route", "<n:host/>").unwrap().host,
            Some(HostAccess::All)
        );
    }

    #[test]
    fn antispoof_is_all_or_what_it_says() {
        assert_eq!(read("nat", "").unwrap().antispoof, None);
        assert_eq!(
            read("nat", "<n:antispoof/>").unwrap().antispoof,
            Some(AntiSpoof::default())
        );
        let some = read("nat", "<n:antispoof arp='no' nd='no' mac='yes'/>");
        assert_eq!(
            some.unwrap().antispoof,
            Some(AntiSpoof {
                arp: false,
                nd: false,
                ..AntiSpoof::default()
            })
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (mode, metadata, words) in [
            (
                "nat",
                "<n:host access='some'/>",
                "should be one of all, services, none",
            ),
            (
                "nat",
                "<n:host to='all'/>",
                "has no attribute 'to'; it takes access",
            ),
            ("open", "<n:host access='none'/>", "not 'open'"),
            ("open", "<n:antispoof/>", "not 'open'"),
            (
                "nat",
                "<n:antispoof ipv4='yes'/>",
                "has no attribute 'ipv4'",
            ),
            (
                "nat",
                "<n:antispoof mac='on'/>",
                "mac='on' should be one of yes, no",
            ),
            (
                "nat",
                "<n:antispoof><n:x/></n:antispoof>",
                "has no child <x>",
            ),
            ("nat", "<n:host/><n:host/>", "once only"),
        ] {
            let error = read(mode, metadata).expect_err(metadata).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
