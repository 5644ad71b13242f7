//! `<netd:antispoof>`: whose addresses guests may carry.

use super::section::{Attribute, AttributeSection, Surroundings, attribute, is_judged};

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

impl AttributeSection for AntiSpoof {
    const NAME: &'static str = "antispoof";

    const ATTRIBUTES: &'static [Attribute<Self>] = &[
        attribute!("mac", |held| held.mac),
        attribute!("ip", |held| held.ip),
        attribute!("arp", |held| held.arp),
        attribute!("nd", |held| held.nd),
        attribute!("dhcp", |held| held.dhcp),
    ];

    fn rules(&self, definition: &Surroundings<'_>) -> Result<(), String> {
        is_judged(definition)
    }
}
