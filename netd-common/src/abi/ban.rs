//! Bans: `bans4`, `bans6`.

/// Key of `bans4` and `bans6`, LPM tries: who may not reach whom. Compared bit by bit in the order of
/// the fields.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BanKey<A> {
    /// Bridge (ifindex) of the network that the ban is of; 0 for the whole host.
    pub bridge: u32,
    /// The banned prefix.
    pub address: A,
}

impl<A> BanKey<A> {
    /// Bits before the address.
    pub const SCOPE: u32 = 32;
    /// Bits of a whole key, of one address.
    pub const BITS: u32 = size_of::<Self>() as u32 * 8;
}

/// Value of `bans4` and `bans6`. An entry's end is not before those of the entries around it, so the
/// longest prefix alone says how long an address is banned.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ban {
    /// When it ends, in seconds since boot (`CLOCK_BOOTTIME`); `u32::MAX` for never.
    pub until: u32,
}
