//! The host's IPsec policies (xfrm). What they cover does not take the short way: the kernel asks them where it
//! forwards a packet, and protects it there.
//!
//! It asks with the addresses that the packet has in FORWARD, where destinations are translated and
//! sources are not. What leaves with another source meets the policies too late, so where they want it
//! protected it does not leave. Marks and interface numbers (`if_id`) select what the kernel's own
//! devices for IPsec carry (VTI, xfrm), to which packets are routed as to any other: the agent leaves out such policies.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use netd_common::abi::{
    CONTROL_POLICIES, CONTROL_SECOND_POLICIES, FlowKey, IPSEC_BLOCK, IPSEC_CLEAR, IPSEC_FORWARD,
    IPSEC_OUT, IPSEC_POLICIES, IPSEC_PROTECT, Port,
};

use crate::family::Family;
use crate::records;
use crate::verified::verified;

/// Are there policies?
#[inline(always)]
pub fn any() -> bool {
    records::control_flags() & CONTROL_POLICIES != 0
}

/// Do they want a guest's packet, which would be masqueraded, as it is?
#[inline(always)]
pub fn covers<F: Family>(key: &FlowKey<F::Addr>, out: u32) -> bool {
    let Some(walk) = F::policy_walk() else {
        return true;
    };
    walk.key = *key;
    walk.out = out;
    says::<F>(u32::from(IPSEC_OUT | IPSEC_FORWARD)) > u32::from(IPSEC_CLEAR)
}

/// As [`says`] answers: they may pass protected.
pub const PROTECT: u32 = IPSEC_PROTECT as u32;
/// They may not pass.
pub const BLOCK: u32 = IPSEC_BLOCK as u32;

verified! {
    /// The strictest that the policies of these directions say of packets of the key in [`Family::policy_walk`]:
    /// `IPSEC_*`, 0 where none is about them.
    pub fn says(directions: u32) -> u32 = look_up, else BLOCK, as ipsec_says4, ipsec_says6;
}

#[inline(always)]
fn look_up<F: Family>(directions: u32) -> u32 {
    let second = records::control_flags() & CONTROL_SECOND_POLICIES != 0;
    if let Some(walk) = F::policy_walk() {
        walk.first = if second { IPSEC_POLICIES } else { 0 };
        walk.open = directions;
        walk.says = 0;
    }
    // SAFETY: `step` has the signature the helper calls, and takes nothing of the caller's.
    unsafe {
        bpf_loop(
            IPSEC_POLICIES,
            step::<F> as *mut c_void,
            core::ptr::null_mut(),
            0,
        );
    }
    F::policy_walk().map_or(BLOCK, |walk| walk.says)
}

/// One policy; 1 ends the walk.
extern "C" fn step<F: Family>(index: u32, _: *mut c_void) -> i64 {
    let Some(walk) = F::policy_walk() else {
        return 1;
    };
    let Some(policy) = F::policies().get(walk.first.wrapping_add(index)) else {
        return 1;
    };
    if policy.says == 0 {
        return 1;
    }
    let key = &walk.key;
    let direction = u32::from(policy.direction);
    if direction & walk.open == 0
        || (policy.proto != 0 && policy.proto != key.proto)
        || (policy.ifindex != 0 && policy.ifindex != walk.out)
        || !F::has_bits(&key.src, &policy.src, &policy.src_mask)
        || !F::has_bits(&key.dst, &policy.dst, &policy.dst_mask)
    {
        return 0;
    }
    // Of ICMP the kernel has type and code in their place, which the key does not tell.
    if key.proto != F::ICMP
        && (!has_bits(key.sport, policy.sport, policy.sport_mask)
            || !has_bits(key.dport, policy.dport, policy.dport_mask))
    {
        return 0;
    }
    walk.open &= !direction;
    let says = u32::from(policy.says);
    if says > walk.says {
        walk.says = says;
    }
    i64::from(walk.open == 0)
}

#[inline(always)]
fn has_bits(port: Port, bits: Port, mask: Port) -> bool {
    let word = u16::from_ne_bytes;
    (word(port) ^ word(bits)) & word(mask) == 0
}
