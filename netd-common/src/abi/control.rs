//! What the agent tells the programs, and they each other: `control`, `guest_moves`.

use crate::timeout::TIMEOUTS;

/// The one entry of `control`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Raised when a definition, route, neighbour, port or address changes: flows check policy
    /// and path again at their next packet.
    pub epoch: u32,
    /// `CONTROL_*` bits.
    pub flags: u32,
    /// Flows of one family that one network may have; 0 for no limit but the table's.
    pub max_per_network: u32,
    /// Number of entries of `slots4`, and of `slots6`.
    pub slots: u32,
    /// Cookie of the agent's network namespace (SO_NETNS_COOKIE): the programs at sockets see those
    /// of other namespaces, too.
    pub netns: u64,
    /// How long flows may be silent, in [`crate::clock::tick`]s, by [`crate::timeout::Timeout`].
    pub timeouts: [u32; TIMEOUTS],
    /// For so many [`crate::clock::tick`]s after a look at policy and path a flow that is not silent for as long
    /// needs none: not more than [`crate::timeout::surely_alive`], and below 128.
    pub validity: u32,
    /// Raised with `epoch` when the host's own rules change: what they let through at an earlier epoch
    /// has to show again that they do (`FLOW_PROVEN`).
    pub rules_epoch: u32,
}

/// The one entry of `guest_moves`, which the programs keep.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestMoves {
    /// Added to [`Control::epoch`]: raised when a guest is seen at another port or with another
    /// MAC address, so that no packet of its flows takes the old way.
    pub epoch: u32,
    /// How often it was raised in a [`crate::clock::tick`], added to [`Self::IN_A_TICK`] times that.
    pub raised: u32,
}

impl GuestMoves {
    /// It is raised less often than this in a tick.
    pub const IN_A_TICK: u32 = 16;
}

/// Some network has endpoint-independent mappings, whose ports are nobody else's.
pub const CONTROL_MAPPINGS: u32 = 1;

/// Some port is published.
pub const CONTROL_FORWARDS: u32 = 2;
/// Some address is published with all that reaches it.
pub const CONTROL_WHOLE_ADDRESSES: u32 = 4;
/// Somebody is banned.
pub const CONTROL_BANS: u32 = 8;
/// An agent takes the frames of `held`.
pub const CONTROL_HOLDS: u32 = 16;
/// There are IPsec policies.
pub const CONTROL_POLICIES: u32 = 32;
/// What some network's guests send is held to a rate.
pub const CONTROL_SHAPERS: u32 = 128;
/// The second list of them counts, not the first.
pub const CONTROL_SECOND_POLICIES: u32 = 64;
/// Prefixes are translated.
pub const CONTROL_PREFIXES: u32 = 512;
/// Routes of the host's lead behind guests, by way of some network's bridge.
pub const CONTROL_ROUTES_BEHIND: u32 = 256;
