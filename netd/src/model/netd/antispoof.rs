//! `<netd:antispoof>`: whose addresses guests may carry.

use std::collections::HashSet;
use std::net::IpAddr;

use roxmltree::Node;

use super::reader::Reader;
use super::section::{Attribute, AttributeSection, Surroundings, attribute, is_judged};
use crate::model::element::Mac;
use crate::model::error::XmlError;
use crate::model::xml::{shown, write_attribute};

/// `<netd:antispoof>`: what frames of guests are held to. Without its attributes the element
/// stands for all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AntiSpoof {
    /// What everybody is held to.
    pub checks: Checks,
    /// Who is held to less, or has more addresses than DHCP says.
    pub guests: Vec<SpecialGuest>,
}

/// What is looked at, or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
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

/// `<netd:guest>`: a guest that serves others, and so does what is refused to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialGuest {
    /// Its MAC address.
    pub mac: Mac,
    /// What it is not held to.
    pub allowed: Checks,
    /// Addresses that are its own, whatever DHCP says.
    pub addresses: Vec<IpAddr>,
}

/// Where one of the checks lies.
type Check = fn(&mut Checks) -> &mut bool;

/// The checks by their names.
const CHECKS: [(&str, Check); 5] = [
    ("mac", |checks| &mut checks.mac),
    ("ip", |checks| &mut checks.ip),
    ("arp", |checks| &mut checks.arp),
    ("nd", |checks| &mut checks.nd),
    ("dhcp", |checks| &mut checks.dhcp),
];

impl Checks {
    /// The names of those that are there.
    #[must_use]
    pub fn names(mut self) -> Vec<&'static str> {
        let named = CHECKS.iter().filter(|(_, place)| *place(&mut self));
        named.map(|(name, _)| *name).collect()
    }

    /// These without others.
    fn without(mut self, mut others: Self) -> Self {
        for (_, place) in CHECKS {
            *place(&mut self) &= !*place(&mut others);
        }
        self
    }
}

impl Default for AntiSpoof {
    fn default() -> Self {
        Self {
            checks: Checks {
                mac: true,
                ip: true,
                arp: true,
                nd: true,
                dhcp: true,
            },
            guests: Vec::new(),
        }
    }
}

impl AntiSpoof {
    /// What the guest at a port is held to. `mac`: its MAC address, or the one that libvirt gives its tap, of which
    /// the first byte is not the guest's; none where nobody knows it for sure.
    #[must_use]
    pub fn checks_of(&self, mac: Option<Mac>) -> Checks {
        let Some(Mac(known)) = mac else {
            return self.checks;
        };
        let is_its = |guest: &&SpecialGuest| {
            let Mac(own) = guest.mac;
            own == known || (known[0] == OF_A_TAP && own[1..] == known[1..])
        };
        match self.guests.iter().find(is_its) {
            Some(guest) => self.checks.without(guest.allowed),
            None => self.checks,
        }
    }
}

/// First byte of the MAC address that libvirt gives a guest's tap.
const OF_A_TAP: u8 = 0xfe;

impl AttributeSection for AntiSpoof {
    const NAME: &'static str = "antispoof";

    const ATTRIBUTES: &'static [Attribute<Self>] = &[
        attribute!("mac", |held| held.checks.mac),
        attribute!("ip", |held| held.checks.ip),
        attribute!("arp", |held| held.checks.arp),
        attribute!("nd", |held| held.checks.nd),
        attribute!("dhcp", |held| held.checks.dhcp),
    ];

    fn read_children(&mut self, reader: &Reader<'_>, node: Node<'_, '_>) -> Result<(), XmlError> {
        for child in reader.children(node)? {
            reader.named(child, "guest")?;
            self.guests.push(read_guest(reader, child)?);
        }
        Ok(())
    }

    fn children(&self) -> Vec<String> {
        self.guests.iter().map(write_guest).collect()
    }

    fn rules(&self, definition: &Surroundings<'_>) -> Result<(), String> {
        is_judged(definition)?;
        let (mut macs, mut addresses) = (HashSet::new(), HashSet::new());
        for SpecialGuest {
            mac,
            allowed,
            addresses: own,
        } in &self.guests
        {
            if !macs.insert(*mac) {
                return Err(format!("<netd:guest> has mac='{mac}' twice"));
            }
            if *allowed == Checks::default() && own.is_empty() {
                return Err(format!(
                    "<netd:guest mac='{mac}'> says nothing; it takes allow or addresses"
                ));
            }
            for address in own {
                let is_gateway = definition.ips.iter().any(|ip| ip.address == *address);
                if is_gateway || address.is_unspecified() || address.is_multicast() {
                    return Err(format!("<netd:guest mac='{mac}'> cannot have {address}"));
                }
                if !addresses.insert(*address) {
                    return Err(format!(
                        "<netd:guest> has {address} twice; guests that take an address over from each \
                         other (VRRP, MetalLB) need allow='ip arp nd'"
                    ));
                }
            }
        }
        Ok(())
    }
}

fn read_guest(reader: &Reader<'_>, node: Node<'_, '_>) -> Result<SpecialGuest, XmlError> {
    reader.attributes(node, &["mac", "allow", "addresses"])?;
    reader.childless(node)?;
    let mac = node.attribute("mac");
    let mac = mac.ok_or_else(|| reader.refuse(node, "needs the attribute mac"))?;
    let words = |name: &str| node.attribute(name).unwrap_or_default().split_whitespace();
    let mut allowed = Checks::default();
    for word in words("allow") {
        let check = CHECKS.iter().find(|(name, _)| *name == word);
        let names = CHECKS.map(|(name, _)| name).join(", ");
        let (_, place) = check.ok_or_else(|| {
            let detail = format!("allow has '{}', not one of {names}", shown(word));
            reader.refuse(node, detail)
        })?;
        *place(&mut allowed) = true;
    }
    let addresses = words("addresses").map(|word| {
        word.parse().map_err(|_| {
            let detail = format!(
                "addresses has '{}', not an IPv4 or IPv6 address",
                shown(word)
            );
            reader.refuse(node, detail)
        })
    });
    Ok(SpecialGuest {
        mac: mac
            .parse()
            .map_err(|error| reader.refuse(node, format!("mac='{}': {error}", shown(mac))))?,
        allowed,
        addresses: addresses.collect::<Result<_, _>>()?,
    })
}

fn write_guest(guest: &SpecialGuest) -> String {
    let SpecialGuest {
        mac,
        allowed,
        addresses,
    } = guest;
    let mut out = String::from("<netd:guest");
    write_attribute(&mut out, "mac", &mac.to_string());
    let allowed = allowed.names();
    if !allowed.is_empty() {
        write_attribute(&mut out, "allow", &allowed.join(" "));
    }
    if !addresses.is_empty() {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        write_attribute(&mut out, "addresses", &addresses.join(" "));
    }
    out.push_str("/>");
    out
}
