//! The benchmark's programs: what makes packets, what counts them, and the least that a program can
//! do to forward one. netd itself has none of them.
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | `generate` | test run with live frames | writes the headers of the next packet and sends it |
//! | `count` | XDP | counts and drops IPv4's UDP, passes the rest, such as ARP |
//! | `redirect` | XDP | new MAC addresses, out by another device |
//! | `redirect_tc` | TC ingress | the same for packets that the kernel has made its own |

#![no_std]
#![no_main]

mod layout;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::layout::{Generator, HEADER_WORDS, PORTS, Way};

/// Offset of the EtherType.
const ETHER_TYPE: usize = 12;
/// Offset of the IPv4 header's protocol.
const PROTOCOL: usize = 23;
/// Offset of the IPv4 header's checksum.
const CHECKSUM: usize = 24;
/// Offset of the lower half of the source address; the destination's is four bytes further.
const ADDRESS: usize = 28;
/// Offset of the source port; the destination port is two bytes further.
const PORT: usize = 34;
/// EtherType of IPv4, as it lies in the frame.
const IPV4: u16 = 0x0800_u16.to_be();
/// IPv4's number of UDP.
const UDP: u8 = 17;

/// The first flow's port.
const FIRST_PORT: u32 = 10_000;
/// Devices of a namespace that can be told apart, by ifindex.
const DEVICES: usize = 256;

/// The generator's settings.
#[btf_map(name = "generator")]
static GENERATOR: Array<Generator, 1> = Array::new();

/// Packets that `count` has dropped.
#[btf_map(name = "counted")]
static COUNTED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Where to, by the device that a frame came by.
#[btf_map(name = "ways")]
static WAYS: Array<Way, DEVICES> = Array::new();

/// Write a packet and send it by the device that the test run names as its origin.
///
/// Pages come back as the stack left them, so every header is written anew.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    let Some(generator) = GENERATOR.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: a map's value lives as long as the map; one test run at a time uses it.
    let generator = unsafe { &mut *generator };
    let data = ctx.data();
    if data + 4 * HEADER_WORDS > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let flow = generator.next & generator.mask;
    generator.next = generator.next.wrapping_add(generator.step);
    let address = (generator.address + flow / PORTS) & 0xffff;
    let port = FIRST_PORT + flow % PORTS;
    let mut sum = generator.sum + address;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let address_at = ADDRESS + if generator.source_address == 0 { 4 } else { 0 };
    let port_at = PORT + if generator.source_port == 0 { 2 } else { 0 };
    // SAFETY: all of it lies before the end that was compared above; a frame begins at a multiple
    // of four.
    unsafe {
        for (word, value) in generator.frame.iter().enumerate() {
            ((data + 4 * word) as *mut u32).write(*value);
        }
        ((data + CHECKSUM) as *mut u16).write((!sum as u16).to_be());
        ((data + address_at) as *mut u16).write((address as u16).to_be());
        ((data + port_at) as *mut u16).write((port as u16).to_be());
    }
    xdp_action::XDP_TX
}

/// Count and drop the benchmark's packets.
#[xdp]
pub fn count(ctx: XdpContext) -> u32 {
    let data = ctx.data();
    if data + PROTOCOL + 1 > ctx.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: both lie before the end that was compared above.
    let (ether_type, protocol) = unsafe {
        (
            *((data + ETHER_TYPE) as *const u16),
            *((data + PROTOCOL) as *const u8),
        )
    };
    if ether_type != IPV4 || protocol != UDP {
        return xdp_action::XDP_PASS;
    }
    if let Some(counted) = COUNTED.get_ptr_mut(0) {
        // SAFETY: a map's value lives as long as the map; it is this CPU's own.
        unsafe { *counted += 1 };
    }
    xdp_action::XDP_DROP
}

/// Send an IPv4 frame out by the device that `ways` names, with the MAC addresses it names.
#[xdp]
pub fn redirect(ctx: XdpContext) -> u32 {
    match readdress(ctx.data(), ctx.data_end(), ctx.ingress_ifindex() as u32) {
        Readdressed::To(device) => redirect_to(device) as u32,
        Readdressed::NotMine => xdp_action::XDP_PASS,
        Readdressed::Nowhere => xdp_action::XDP_ABORTED,
    }
}

/// The same at TC.
#[classifier]
pub fn redirect_tc(ctx: TcContext) -> i32 {
    // SAFETY: the kernel lends a context that is valid for the whole run.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    match readdress(ctx.data(), ctx.data_end(), device) {
        Readdressed::To(device) => redirect_to(device) as i32,
        Readdressed::NotMine => TC_ACT_UNSPEC,
        Readdressed::Nowhere => TC_ACT_SHOT,
    }
}

/// Send the packet by another device. Returns the program's verdict.
#[inline(always)]
fn redirect_to(device: u32) -> i64 {
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(device, 0) }
}

enum Readdressed {
    To(u32),
    NotMine,
    Nowhere,
}

/// Write the MAC addresses of the device's way.
#[inline(always)]
fn readdress(data: usize, end: usize, device: u32) -> Readdressed {
    if data + ETHER_TYPE + 2 > end {
        return Readdressed::NotMine;
    }
    // SAFETY: it lies before the end that was compared above.
    if unsafe { *((data + ETHER_TYPE) as *const u16) } != IPV4 {
        return Readdressed::NotMine;
    }
    let Some(way) = WAYS.get(device) else {
        return Readdressed::Nowhere;
    };
    for (word, value) in way.macs.iter().enumerate() {
        // SAFETY: three words lie before the EtherType.
        unsafe { ((data + 4 * word) as *mut u32).write_unaligned(*value) };
    }
    Readdressed::To(way.device)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could come here.
    loop {}
}

/// The kernel lends its GPL-only helpers to programs of a compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
