//! The program by which the relay of a network's services gets what its dnsmasq asks of the host's
//! name servers, whichever they are (`netd/src/relay`).
//!
//! It is attached to the services' network namespace, in which every foreign address is local. The
//! kernel asks it for the socket of a packet that no connection has.

#![no_std]
#![no_main]

use aya_ebpf::bindings::{bpf_sk_lookup, sk_action::SK_PASS};
use aya_ebpf::btf_maps::SockMap;
use aya_ebpf::macros::{btf_map, sk_lookup};
use aya_ebpf::programs::SkLookupContext;
use netd_common::proto;
use netd_common::relay::{OWN4, OWN6, SOCKETS, TCP4, TCP6, UDP4, UDP6};

/// The loopback device's number, in every namespace.
const LOOPBACK: u32 = 1;
/// Address families of the socket interface.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// Servers answer from ports below.
const FIRST_OF_CLIENTS: u16 = 1024;

/// The relay's sockets.
#[btf_map(name = "relay_sockets")]
pub static RELAY_SOCKETS: SockMap<SOCKETS> = SockMap::new();

/// A question to a foreign address is the relay's: it leaves by the loopback device, with the
/// address that stands for the namespace there. What dnsmasq answers is not, nor what anybody else
/// sends.
#[sk_lookup]
pub fn relay(ctx: SkLookupContext) -> u32 {
    if let Some(socket) = whose(ctx.lookup) {
        // A relay that has ended has no socket: then nobody answers.
        let _ = RELAY_SOCKETS.redirect_sk_lookup(&ctx, socket, 0);
    }
    SK_PASS
}

#[inline(always)]
fn whose(ctx: *const bpf_sk_lookup) -> Option<u32> {
    // SAFETY: the kernel hands a valid context; the verifier rewrites each access.
    let (ingress, family, protocol, port) = unsafe {
        let ctx = &*ctx;
        (
            ctx.ingress_ifindex,
            ctx.family,
            ctx.protocol,
            u16::from_be(ctx.remote_port),
        )
    };
    if ingress != LOOPBACK || port < FIRST_OF_CLIENTS {
        return None;
    }
    let udp = match protocol as u8 {
        proto::UDP => true,
        proto::TCP => false,
        _ => return None,
    };
    // SAFETY: as above, one word at a time.
    unsafe {
        match family {
            AF_INET if (*ctx).remote_ip4 == u32::from_ne_bytes(OWN4) => {
                Some(if udp { UDP4 } else { TCP4 })
            }
            AF_INET6 if is_own6(&raw const (*ctx).remote_ip6) => {
                Some(if udp { UDP6 } else { TCP6 })
            }
            _ => None,
        }
    }
}

/// # Safety
/// The pointer is to an address in a valid context.
#[inline(always)]
unsafe fn is_own6(address: *const [u32; 4]) -> bool {
    let word = |i: usize| {
        let at = 4 * i;
        u32::from_ne_bytes([OWN6[at], OWN6[at + 1], OWN6[at + 2], OWN6[at + 3]])
    };
    let field = address.cast::<u32>();
    // SAFETY: four words.
    unsafe {
        field.read_volatile() == word(0)
            && field.add(1).read_volatile() == word(1)
            && field.add(2).read_volatile() == word(2)
            && field.add(3).read_volatile() == word(3)
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could come here.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
