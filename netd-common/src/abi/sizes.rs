//! How much the maps have room for, and how much of it is visited at once.

/// Flows of each family, unless the agent's settings say otherwise when the maps are made.
pub const DEFAULT_FLOWS: u32 = 131_072;
/// Managed networks, and devices that their traffic may leave by.
pub const MAX_NETWORKS: usize = 4096;
/// Bans of each family, and of both together (`netd ban`).
pub const BANS: usize = 65_536;
/// Slots of each family that one run of the program `sweep` visits.
pub const SWEEP_RUN: u32 = 4096;
