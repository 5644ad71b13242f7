//! The stages of the slow path as global functions, one of each for either family.
//!
//! The verifier checks a global function once, for any arguments of their types, instead of once
//! for every state it can be called in. What they work on lies in a map (`seen4`, `seen6`): a
//! program's stack is 512 bytes deep, its functions' included. They are called one after the
//! other, not one inside the other, where that can be.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::CONTROL_MAPPINGS;

use crate::family::{Family, V4, V6};
use crate::spoof::{self, Guards};
use crate::{
    ERROR, FIRST, OPEN, SEND, arguments, drops, flow, forward, guest, icmp, leaving, mapping, maps,
    open, outside,
};

macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident ($v4:ident, $v6:ident) = $module:ident :: $body:ident;)*) => {
        /// The stages of a family. Each works on what [`Family::seen`] holds, and returns an action
        /// or one of the crate's constants.
        pub trait Stages: Guards {
            $(
                $(#[$doc])*
                fn $stage(ctx: &TcContext) -> i32;
            )*
        }

        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v4(ctx: *mut __sk_buff) -> i32 {
                // The linker leaves out an argument that a stage does not use; the verifier wants
                // it all the same.
                let ctx = core::hint::black_box(ctx);
                arguments!(ctx; else TC_ACT_SHOT);
                match V4::seen() {
                    Some(seen) => $module::$body::<V4>(ctx, seen),
                    None => TC_ACT_SHOT,
                }
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v6(ctx: *mut __sk_buff) -> i32 {
                let ctx = core::hint::black_box(ctx);
                arguments!(ctx; else TC_ACT_SHOT);
                match V6::seen() {
                    Some(seen) => $module::$body::<V6>(ctx, seen),
                    None => TC_ACT_SHOT,
                }
            }
        )*

        impl Stages for V4 {
            $(
                #[inline(always)]
                fn $stage(ctx: &TcContext) -> i32 {
                    $v4(ctx.skb.skb)
                }
            )*
        }

        impl Stages for V6 {
            $(
                #[inline(always)]
                fn $stage(ctx: &TcContext) -> i32 {
                    $v6(ctx.skb.skb)
                }
            )*
        }
    };
}

stages! {
    /// Is the packet of a flow that exists?
    known(known4, known6) = flow::known;
    /// From a guarded port: does the packet carry its sender's own addresses?
    guarded(guarded4, guarded6) = spoof::check;
    /// From a guest: is the packet for the gateway to route?
    guest_entry(guest_entry4, guest_entry6) = guest::entry;
    /// End the packet's flow when that goes by a forward that is no more.
    withdraw(withdraw4, withdraw6) = forward::withdraw;
    /// From a guest or outside, of no known flow: is the packet for something published?
    published(published4, published6) = forward::admit;
    /// From a guest: a packet of no known flow.
    guest_first(guest_first4, guest_first6) = guest::first;
    /// From outside: a packet of no known flow.
    outside_first(outside_first4, outside_first6) = outside::first;
    /// To outside, by the stack: is the packet of a flow that exists?
    leaving_known(leaving_known4, leaving_known6) = leaving::known;
    /// To outside, by the stack: a packet of no known flow.
    leaving_first(leaving_first4, leaving_first6) = leaving::first;
    /// An ICMP error that came in.
    icmp_error(icmp_error4, icmp_error6) = icmp::forward;
    /// An ICMP error that leaves by the stack.
    icmp_leaves(icmp_leaves4, icmp_leaves6) = icmp::leave;
    /// Put the flow of the scratch map under an endpoint-independent mapping.
    put_under_mapping(put_under_mapping4, put_under_mapping6) = mapping::put_under;
    /// Insert the flow of the scratch map: [`SEND`], or what becomes of the packet without it.
    insert(insert4, insert6) = open::insert;
    /// Send the packet by its flow.
    send(send4, send6) = open::send;
    /// Translate the packet by its flow, where it leaves by the stack.
    translate(translate4, translate6) = open::translate;
}

/// What follows on the first look at a packet (`action`): an ICMP error finds its flow, a packet
/// without a flow is judged and opens one if it may, and then it is sent.
#[inline(always)]
pub fn run<F: Stages>(
    ctx: &TcContext,
    mut action: i32,
    error: impl Fn(&TcContext) -> i32,
    first: impl Fn(&TcContext) -> i32,
    send: impl Fn(&TcContext) -> i32,
) -> i32 {
    if action == ERROR {
        action = error(ctx);
    }
    // A flow under a mapping may need that, and a contact, before itself.
    let mut i = 0;
    while i < 3 && action == FIRST {
        action = first(ctx);
        if action == OPEN && maps::control_flags() & CONTROL_MAPPINGS != 0 {
            action = F::put_under_mapping(ctx);
        }
        if action == OPEN {
            action = F::insert(ctx);
        }
        i += 1;
    }
    // What was made for the flow went again at once: nothing may leave as it is for that.
    if action == FIRST {
        action = drops::drop(Reason::TableFull);
    }
    if action == SEND {
        action = send(ctx);
    }
    action
}
