//! `<netd:host>`: what guests may reach of the host, and what its own rules may do to them.

use serde::{Deserialize, Serialize};

use super::section::{Attribute, AttributeSection, Surroundings, Words, attribute, is_judged};

/// `<netd:host>`: a network and the host it is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostRelation {
    /// What the network's guests may reach of the host itself.
    pub access: HostAccess,
    /// What the host's firewall may do to their traffic; `None`: what `netd.toml` says.
    pub firewall: Option<Firewall>,
}

/// What a network's guests may reach of the host itself.
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

/// What the host's own rules (netfilter's forward, prerouting, postrouting and netdev hooks) may do to
/// traffic that is routed to and from guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Firewall {
    /// They do not see it.
    #[default]
    Bypass,
    /// What they refuse does not pass.
    Respect,
}

impl Words for HostAccess {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("all", Self::All),
        ("services", Self::Services),
        ("none", Self::None),
    ];
}

impl Words for Option<Firewall> {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("respect", Some(Firewall::Respect)),
        ("bypass", Some(Firewall::Bypass)),
    ];
}

impl AttributeSection for HostRelation {
    const NAME: &'static str = "host";

    const ATTRIBUTES: &'static [Attribute<Self>] = &[
        attribute!("access", |host| host.access),
        attribute!("firewall", |host| host.firewall),
    ];

    fn rules(&self, definition: &Surroundings<'_>) -> Result<(), String> {
        is_judged(definition)
    }
}
