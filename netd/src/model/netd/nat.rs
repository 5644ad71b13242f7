//! `<netd:nat>`: how a translated port may be used.

use super::section::{Attribute, AttributeSection, Surroundings, Words, attribute};
use crate::model::element::ForwardMode;

/// `<netd:nat>`: how a translated port may be used, in the words of RFC 4787. The default is what
/// netfilter does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatBehaviour {
    /// `mapping`.
    pub mapping: Mapping,
    /// `filtering`.
    pub filtering: Filtering,
}

/// Which packets of a guest's port leave with the same outside port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// Those to one address and port.
    #[default]
    AddressAndPortDependent,
    /// All of them.
    EndpointIndependent,
}

/// Who may send to the outside port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// The addresses and ports that the guest has sent to.
    #[default]
    AddressAndPortDependent,
    /// The addresses that the guest has sent to.
    AddressDependent,
    /// Everybody.
    EndpointIndependent,
}

impl Words for Mapping {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("address-and-port-dependent", Self::AddressAndPortDependent),
        ("endpoint-independent", Self::EndpointIndependent),
    ];
}

impl Words for Filtering {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("address-and-port-dependent", Self::AddressAndPortDependent),
        ("address-dependent", Self::AddressDependent),
        ("endpoint-independent", Self::EndpointIndependent),
    ];
}

impl AttributeSection for NatBehaviour {
    const NAME: &'static str = "nat";

    const ATTRIBUTES: &'static [Attribute<Self>] = &[
        attribute!("mapping", |nat| nat.mapping),
        attribute!("filtering", |nat| nat.filtering),
    ];

    fn rules(&self, definition: &Surroundings<'_>) -> Result<(), String> {
        let mode = definition.mode;
        if mode != ForwardMode::Nat {
            return Err(format!("stands only in mode='nat', not '{mode}'"));
        }
        // With a port for each destination there is nobody else who could send to it.
        if self.filtering != Filtering::default() && self.mapping != Mapping::EndpointIndependent {
            let filtering = self.filtering.word();
            return Err(format!(
                "filtering='{filtering}' needs mapping='endpoint-independent'"
            ));
        }
        Ok(())
    }
}
