//! Translated prefixes: `prefixes`.

/// Value of `prefixes`, whose key is the bridge's ifindex (u32): by which prefix the addresses of a
/// network's guests are known outside (`crate::prefix`).
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
    /// 1: the word is the one that numbers subnets, bits 48 to 63; 0: one of the interface's number.
    pub has_subnets: u16,
}
