//! The host's own sockets.

use core::mem::zeroed;

use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
};
use netd_common::abi::FlowKey;
use netd_common::proto;

use crate::family::Family;

/// Is there a socket of UDP's that would get packets with this key?
///
/// # Safety
/// `ctx` is the context of a program that may look for sockets.
#[inline(always)]
pub unsafe fn has_udp<F: Family>(ctx: *mut c_void, key: &FlowKey<F::Addr>) -> bool {
    let lookup = |tuple, len, netns| {
        // SAFETY: a context, and a tuple at least as long as said.
        unsafe { bpf_sk_lookup_udp(ctx, tuple, len, netns, 0) }
    };
    ask::<F>(key, lookup, |_| true)
}

/// The same, where it is connected to the sender.
///
/// # Safety
/// As for [`has_udp`].
#[inline(always)]
pub unsafe fn has_connected_udp<F: Family>(ctx: *mut c_void, key: &FlowKey<F::Addr>) -> bool {
    let lookup = |tuple, len, netns| {
        // SAFETY: as for `has_udp`.
        unsafe { bpf_sk_lookup_udp(ctx, tuple, len, netns, 0) }
    };
    // SAFETY: it is read while it is held.
    ask::<F>(key, lookup, |socket| unsafe { (*socket).dst_port } != 0)
}

/// The same for TCP.
///
/// # Safety
/// As for [`has_udp`].
#[inline(always)]
pub unsafe fn has_tcp<F: Family>(ctx: *mut c_void, key: &FlowKey<F::Addr>) -> bool {
    let lookup = |tuple, len, netns| {
        // SAFETY: as for `has_udp`.
        unsafe { bpf_sk_lookup_tcp(ctx, tuple, len, netns, 0) }
    };
    ask::<F>(key, lookup, |_| true)
}

/// The same; connections that are being opened, or are over, count too.
///
/// # Safety
/// As for [`has_udp`].
#[inline(always)]
pub unsafe fn has_any_tcp<F: Family>(ctx: *mut c_void, key: &FlowKey<F::Addr>) -> bool {
    let lookup = |tuple, len, netns| {
        // SAFETY: as for `has_udp`.
        unsafe { bpf_skc_lookup_tcp(ctx, tuple, len, netns, 0) }.cast()
    };
    ask::<F>(key, lookup, |_| true)
}

/// Is there a socket that would get TCP segments or datagrams with this key in the network namespace
/// that the host knows by this number? Connections that are being opened, or are over, count too.
///
/// # Safety
/// As for [`has_udp`].
#[inline(always)]
pub unsafe fn has_in_netns<F: Family>(
    ctx: *mut c_void,
    key: &FlowKey<F::Addr>,
    netns: u32,
) -> bool {
    let lookup = |tuple, len, _| {
        let netns = u64::from(netns);
        // SAFETY: as for `has_udp`.
        unsafe {
            if key.proto == proto::TCP {
                bpf_skc_lookup_tcp(ctx, tuple, len, netns, 0).cast()
            } else {
                bpf_sk_lookup_udp(ctx, tuple, len, netns, 0)
            }
        }
    };
    ask::<F>(key, lookup, |_| true)
}

/// Is one found, and is it as `suits` wants it? It is given back.
#[inline(always)]
fn ask<F: Family>(
    key: &FlowKey<F::Addr>,
    lookup: impl FnOnce(*mut bpf_sock_tuple, u32, u64) -> *mut bpf_sock,
    suits: impl FnOnce(*const bpf_sock) -> bool,
) -> bool {
    // SAFETY: integers only.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let len = F::socket_tuple(key, &mut tuple);
    let netns = i64::from(BPF_F_CURRENT_NETNS) as u64;
    let socket = lookup(&raw mut tuple, len, netns);
    if socket.is_null() {
        return false;
    }
    let suits = suits(socket);
    // SAFETY: the socket that was found, once.
    unsafe { bpf_sk_release(socket.cast()) };
    suits
}
