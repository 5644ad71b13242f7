//! `held`: frames that wait for the first fragment of their packet.

/// The longest frame that is held, in bytes. It is also one that `BPF_PROG_TEST_RUN` takes, which
/// has to find room for it in a page of 4 kB beside what the kernel needs (net/bpf/test_run.c).
pub const HELD_BYTES: usize = 3584;

/// Frames that there is room for between the programs and the agent; with what the kernel puts before each,
/// they fill 512 kB.
pub const HELD_ROOM: usize = 512 << 10;

/// A record of `held`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct HeldFrame {
    /// Nanoseconds of the kernel's coarse monotonic clock.
    pub time: u64,
    /// Device that it came in by.
    pub ifindex: u32,
    /// Length of the frame.
    pub len: u32,
    /// Length of its link-layer header, 14 or 0.
    pub l3: u16,
    /// Its EtherType, network order.
    pub ether_type: [u8; 2],
    /// How often it was held before.
    pub tries: u32,
    /// The frame, and behind it anything.
    pub bytes: [u8; HELD_BYTES],
}

impl HeldFrame {
    /// Length of what stands before the frame.
    pub const HEADER: usize = 24;
}

/// `tc_index` of a frame that the agent has held for a while, and that may be held once more: "ne".
pub const HELD_ONCE: u32 = 0x6e65;
/// Of one that was held for as long as it may: "nf".
pub const HELD_LONG: u32 = 0x6e66;
