//! Translated prefixes: `prefixes6`.

/// Value of `prefixes6`, an LPM trie on the address that has an entry for either prefix: which one
/// outside stands for which one of guests ([`crate::prefix`]).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixPair<A> {
    /// The guests' own prefix.
    pub inside: A,
    /// The one outside.
    pub outside: A,
    /// The bits that both consist of.
    pub mask: A,
    /// What is added to a word when the prefix changes from inside to outside (native order).
    pub adjustment: u16,
    /// `PREFIX_*` bits.
    pub flags: u16,
}

/// The word is the one that numbers subnets, bits 48 to 63, and not one of the interface's number.
pub const PREFIX_SUBNETS: u16 = 1;
/// A link of the host's has the outside prefix, where others may have addresses of it, too.
pub const PREFIX_SHARED: u16 = 2;
