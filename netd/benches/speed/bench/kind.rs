//! What is compared, and what joins its guests to it.

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: packets are counted at the other end of the first cable.
    Empty,
    /// XDP redirects from the guest's port to the uplink and back.
    Limit,
    /// The same at TC.
    LimitTc,
    /// The kernel routes, without any rule.
    Plain,
    /// The kernel translates, by the rules that libvirt makes.
    Nft,
    /// The same, with a flowtable for connections that are established.
    Flowtable,
    /// netd.
    Netd,
    /// netd with the XDP fast path on both devices.
    NetdXdp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::Limit,
        Self::LimitTc,
        Self::Plain,
        Self::Nft,
        Self::Flowtable,
        Self::Netd,
        Self::NetdXdp,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Limit => "limit",
            Self::LimitTc => "limit-tc",
            Self::Plain => "plain",
            Self::Nft => "nft",
            Self::Flowtable => "flowtable",
            Self::Netd => "netd",
            Self::NetdXdp => "netd-xdp",
        }
    }

    /// Can TCP pass? XDP on a cable of the kernel's sees segments without checksums, larger than
    /// its frames.
    pub fn carries_tcp(self) -> bool {
        !matches!(self, Self::Empty | Self::Limit)
    }

    /// Is it netd, with whatever settings?
    pub fn is_netd(self) -> bool {
        matches!(self, Self::Netd | Self::NetdXdp)
    }
}

/// What joins a guest to its hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cable {
    /// A veth pair, which takes the generator's frames.
    Veth,
    /// A tap device, as a virtual machine has it.
    Tap,
}
