//! What the sweep keeps, and how many flows there are: `sweeper`, `usage`.

/// `struct bpf_timer` of the kernel, which finds it in the map's BTF by this name.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the kernel's name")]
pub struct bpf_timer {
    /// The kernel's own; reads as zero.
    pub opaque: [u64; 2],
}

/// The one entry of `sweeper`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweeper {
    /// Wakes the sweep.
    pub timer: bpf_timer,
    /// The slots (IPv4, IPv6) that the next opened flow tries first, modulo their number.
    pub open: [u32; 2],
    /// The slots that the sweep visits next, modulo their number.
    pub sweep: [u32; 2],
}

/// Value of `usage`, whose key is the bridge's ifindex (u32).
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Flows that guests of this network or others' packets into it have opened (IPv4, IPv6).
    pub flows: [u32; 2],
}
