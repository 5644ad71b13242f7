//! Published ports for the host's own sockets.
//!
//! What the host sends to an address of its own never passes a device that a TC program could
//! redirect it from, and answers with the host's own address as their source would be taken for
//! forged ones. So a socket is connected to the guest itself, at the moment it asks for a published
//! port: nothing is translated then, and a packet costs nothing. The guest sees the address that the
//! host has on its bridge. `getpeername` and the source addresses of datagrams tell the program what
//! it expects.
//!
//! The same holds for the name servers of networks, which are in namespaces of their own: a question to
//! a gateway's address goes to the relay, which waits at a port of the loopback address.
//!
//! 127.0.0.1 and ::1 stand for the host, too, where a port is published at all of its addresses; a
//! service that listens there goes before it.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use netd_common::abi::{FlowKey, Forward, Peer, PeerKey, Port};
use netd_common::proto;

use crate::context::Words;
use crate::family::{Family, V4, V6};
use crate::maps::{PEERS, Peers};
use crate::nat::forwards::{self, EVERYWHERE};
use crate::{records, sockets};

/// What these programs return: the call goes on.
const GO_ON: i32 = 1;

/// The port of name servers.
const DNS: Port = 53_u16.to_be_bytes();

/// Before an IPv4 address in an IPv6 one (RFC 4291, section 2.5.5.2).
const MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// A socket is connected to an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    redirect4(ctx.sock_addr, false)
}

/// A socket is connected to an IPv6 address.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    redirect6(ctx.sock_addr, false)
}

/// A datagram is sent to an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    redirect4(ctx.sock_addr, true)
}

/// A datagram is sent to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    redirect6(ctx.sock_addr, true)
}

/// A program is told where an IPv4 datagram came from.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    restore4(ctx.sock_addr)
}

/// A program is told where an IPv6 datagram came from.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    restore6(ctx.sock_addr)
}

/// A program asks for its IPv4 peer.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    restore4(ctx.sock_addr)
}

/// A program asks for its IPv6 peer.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    restore6(ctx.sock_addr)
}

#[inline(always)]
fn redirect4(ctx: *mut bpf_sock_addr, datagram: bool) -> i32 {
    // SAFETY: the kernel hands a valid context to every program here, and in all of them; the
    // verifier rewrites each access.
    unsafe {
        let (address, port) = ((*ctx).user_ip4, port_of(ctx));
        if let Some((guest, guest_port)) = target::<V4>(ctx, address, port, datagram) {
            note(ctx, mapped(guest), guest_port, mapped(address), port);
            (*ctx).user_ip4 = guest;
            set_port(ctx, guest_port);
        }
    }
    GO_ON
}

#[inline(always)]
fn redirect6(ctx: *mut bpf_sock_addr, datagram: bool) -> i32 {
    // SAFETY: as for `redirect4`.
    unsafe {
        let (address, port) = (address6(ctx), port_of(ctx));
        if let Some(address) = unmapped(address) {
            if let Some((guest, guest_port)) = target::<V4>(ctx, address, port, datagram) {
                note(ctx, mapped(guest), guest_port, mapped(address), port);
                (*ctx).user_ip6[3] = guest;
                set_port(ctx, guest_port);
            }
        } else if let Some((guest, guest_port)) = target::<V6>(ctx, address, port, datagram) {
            note(ctx, guest, guest_port, address, port);
            set_address6(ctx, guest);
            set_port(ctx, guest_port);
        }
    }
    GO_ON
}

/// Who stands behind an address and port; `None` for the usual case that none does.
#[inline(always)]
unsafe fn target<F: Loopback>(
    ctx: *mut bpf_sock_addr,
    address: F::Addr,
    port: Port,
    datagram: bool,
) -> Option<(F::Addr, Port)> {
    // SAFETY: as for `redirect4`.
    let protocol = unsafe { (*ctx).protocol };
    // A datagram's hook is UDP's alone; the field then may be UDP-Lite's.
    if !(protocol == u32::from(proto::UDP) || (protocol == u32::from(proto::TCP) && !datagram)) {
        return None;
    }
    // SAFETY: a valid context.
    if unsafe { bpf_get_netns_cookie(ctx.cast()) } != records::netns() {
        return None;
    }
    if port == DNS
        && let Some(network) = records::network(records::owner_of::<F>(&address))
        && network.resolver_port != [0; 2]
    {
        return Some((F::LOOPBACK, network.resolver_port));
    }
    let key = FlowKey {
        src: F::ZERO,
        dst: address,
        sport: [0; 2],
        dport: port,
        proto: protocol as u8,
        pad: 0,
        zone: 0,
    };
    let mut forward = Forward::default();
    let found = forwards::find::<F>(&key, 0, &mut forward);
    if found == forwards::NONE {
        return None;
    }
    // SAFETY: as above.
    if found == EVERYWHERE && F::is_loopback(address) && unsafe { is_served::<F>(ctx, &key) } {
        return None;
    }
    Some((forward.guest, forward.guest_port(port)))
}

/// Families with a loopback address.
trait Loopback: Family {
    /// The host's own.
    const LOOPBACK: Self::Addr;
    /// Is it one?
    fn is_loopback(address: Self::Addr) -> bool;
}

impl Loopback for V4 {
    const LOOPBACK: u32 = u32::from_ne_bytes([127, 0, 0, 1]);

    #[inline(always)]
    fn is_loopback(address: u32) -> bool {
        address.to_ne_bytes()[0] == 127
    }
}

impl Loopback for V6 {
    const LOOPBACK: Words = [0, 0, 0, 1_u32.to_be()];

    #[inline(always)]
    fn is_loopback(address: Words) -> bool {
        address == [0, 0, 0, 1_u32.to_be()]
    }
}

/// Does a socket of the host's wait at this address and port?
#[inline(always)]
unsafe fn is_served<F: Family>(ctx: *mut bpf_sock_addr, key: &FlowKey<F::Addr>) -> bool {
    // SAFETY: a valid context.
    unsafe {
        if key.proto == proto::TCP {
            sockets::has_tcp::<F>(ctx.cast(), key)
        } else {
            sockets::has_udp::<F>(ctx.cast(), key)
        }
    }
}

/// The map of peers, with addresses as words.
#[inline(always)]
fn peers() -> &'static Peers<PeerKey<Words>, Peer<Words>> {
    // SAFETY: as for the maps of the families (`family_maps!`).
    unsafe { &*core::ptr::from_ref(&PEERS).cast() }
}

/// Remember whom the program believes to talk to.
#[inline(always)]
unsafe fn note(
    ctx: *mut bpf_sock_addr,
    guest: Words,
    guest_port: Port,
    address: Words,
    port: Port,
) {
    // SAFETY: a valid context.
    let key = unsafe { peer_key(ctx, guest, guest_port) };
    let peer = Peer {
        address,
        port,
        pad: [0; 2],
    };
    // A full cache shows the program the guest's own address.
    let _ = peers().insert(&key, &peer, 0);
}

#[inline(always)]
unsafe fn peer_key(ctx: *mut bpf_sock_addr, guest: Words, port: Port) -> PeerKey<Words> {
    PeerKey {
        // SAFETY: a valid context.
        socket: unsafe { bpf_get_socket_cookie(ctx.cast()) },
        address: guest,
        port,
        pad: [0; 6],
    }
}

#[inline(always)]
fn restore4(ctx: *mut bpf_sock_addr) -> i32 {
    // SAFETY: as for `redirect4`.
    unsafe {
        let key = peer_key(ctx, mapped((*ctx).user_ip4), port_of(ctx));
        if let Some(peer) = peers().get(&key) {
            (*ctx).user_ip4 = peer.address[3];
            set_port(ctx, peer.port);
        }
    }
    GO_ON
}

#[inline(always)]
fn restore6(ctx: *mut bpf_sock_addr) -> i32 {
    // SAFETY: as for `redirect4`.
    unsafe {
        let key = peer_key(ctx, address6(ctx), port_of(ctx));
        if let Some(peer) = peers().get(&key) {
            set_address6(ctx, peer.address);
            set_port(ctx, peer.port);
        }
    }
    GO_ON
}

#[inline(always)]
unsafe fn port_of(ctx: *mut bpf_sock_addr) -> Port {
    // SAFETY: as for `redirect4`. The field is a port in network order, in the first two bytes.
    (unsafe { (*ctx).user_port } as u16).to_ne_bytes()
}

#[inline(always)]
unsafe fn set_port(ctx: *mut bpf_sock_addr, port: Port) {
    // SAFETY: as for `redirect4`.
    unsafe {
        (*ctx).user_port = u32::from(u16::from_ne_bytes(port));
    }
}

#[inline(always)]
unsafe fn address6(ctx: *mut bpf_sock_addr) -> Words {
    // SAFETY: as for `redirect4`; one word at a time, as the verifier wants it.
    unsafe {
        let field = (&raw const (*ctx).user_ip6).cast::<u32>();
        [
            field.read_volatile(),
            field.add(1).read_volatile(),
            field.add(2).read_volatile(),
            field.add(3).read_volatile(),
        ]
    }
}

#[inline(always)]
unsafe fn set_address6(ctx: *mut bpf_sock_addr, address: Words) {
    // SAFETY: as for `address6`.
    unsafe {
        let field = (&raw mut (*ctx).user_ip6).cast::<u32>();
        field.write_volatile(address[0]);
        field.add(1).write_volatile(address[1]);
        field.add(2).write_volatile(address[2]);
        field.add(3).write_volatile(address[3]);
    }
}

#[inline(always)]
fn mapped(address: u32) -> Words {
    [MAPPED[0], MAPPED[1], MAPPED[2], address]
}

/// The IPv4 address in an IPv6 one, if there is one in it.
#[inline(always)]
fn unmapped([a, b, c, address]: Words) -> Option<u32> {
    ([a, b, c] == MAPPED).then_some(address)
}
