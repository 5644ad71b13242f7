//! Bans (`netd ban`): what comes from a banned prefix reaches nobody, and guests open nothing to it.
//!
//! They are asked before a known flow is looked at again and before one is opened. Who adds a ban
//! raises the epoch, so no flow goes on that was not asked about since, and packets of flows that
//! need no second look pay nothing for bans, however many there are.

use aya_ebpf::btf_maps::lpm_trie;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use netd_common::abi::{BanKey, CONTROL_BANS};

use crate::family::Family;
use crate::records;
use crate::verified::verified;

/// Is anybody banned?
#[inline(always)]
pub fn any() -> bool {
    records::control_flags() & CONTROL_BANS != 0
}

verified! {
    /// Is the address banned for the network of this bridge (0: the whole host)? 1 if so.
    pub fn holds(bridge: u32, address: Address) -> u32 = look_up, else 0, as ban_holds4, ban_holds6;
}

#[inline(always)]
fn look_up<F: Family>(bridge: u32, address: &F::Addr) -> u32 {
    let key = BanKey {
        bridge,
        address: *address,
    };
    let key = lpm_trie::Key::new(BanKey::<F::Addr>::BITS, key);
    // SAFETY: takes no pointers.
    let now = unsafe { bpf_ktime_get_boot_ns() } / 1_000_000_000;
    F::bans()
        .get(&key)
        .map_or(0, |ban| u32::from(now < u64::from(ban.until)))
}
