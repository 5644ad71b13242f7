//! The host's own rules, as far as netd passes them by in silence otherwise: which of them name what is
//! netd's, or ban somebody.
//!
//! [`Ruleset::read`] reads nftables by netlink, which iptables-nft's rules are as well; [`passed_by`] finds
//! those that matter. Nothing is changed here.

mod dump;
mod expression;
mod finding;
#[cfg(test)]
mod tests;
mod value;

pub use dump::{Chain, Elements, Hook, Rule, Ruleset, legacy_tables};
pub use expression::{Action, Match};
pub use finding::{Finding, Guarded, passed_by};
pub use value::{Field, Values};
