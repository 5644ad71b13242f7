//! `<netd:host>`: what guests may reach of the host.

use super::section::{Attribute, AttributeSection, Surroundings, Words, attribute, is_judged};

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

impl Words for HostAccess {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("all", Self::All),
        ("services", Self::Services),
        ("none", Self::None),
    ];
}

impl AttributeSection for HostAccess {
    const NAME: &'static str = "host";

    const ATTRIBUTES: &'static [Attribute<Self>] = &[attribute!("access", |host| *host)];

    fn rules(&self, definition: &Surroundings<'_>) -> Result<(), String> {
        is_judged(definition)
    }
}
