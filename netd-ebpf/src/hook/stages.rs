//! The stages of the slow path, as functions that are verified on their own (`verified.rs`).
//!
//! What they work on lies in a map (`packet_ctx4`, `packet_ctx6`). They are called one after the other, not one
//! inside the other, where that can be.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use aya_ebpf::programs::TcContext;
use netd_common::Reason;
use netd_common::abi::CONTROL_MAPPINGS;

use crate::action::{CHECK, ENTERS, ERROR, FIRST, GO_ON, HOLD, LEAVES, LOOKUP, OPEN, SEND, drop};
use crate::conntrack::{held, proof, validate};
use crate::family::{Family, V4, V6};
use crate::filter::{bans, source_guard};
use crate::nat::{dnat, icmp_error, mapping, open, prefix, tracked};
use crate::prefixes;
use crate::records;
use crate::stage::{ban, from_guest, from_outside, services, to_outside, transmit};

macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident ($v4:ident, $v6:ident) = $module:ident :: $body:ident;)*) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v4(ctx: *mut __sk_buff) -> i32 {
            // The linker leaves out an argument that a stage does not use; the verifier wants it
            // all the same.
            let ctx = &TcContext::new(core::hint::black_box(ctx));
            match V4::packet_ctx() {
                Some(packet_ctx) => $module::$body::<V4>(ctx, packet_ctx),
                None => TC_ACT_SHOT,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $v6(ctx: *mut __sk_buff) -> i32 {
            let ctx = &TcContext::new(core::hint::black_box(ctx));
            match V6::packet_ctx() {
                Some(packet_ctx) => $module::$body::<V6>(ctx, packet_ctx),
                None => TC_ACT_SHOT,
            }
        }

        $(#[$doc])*
        #[inline(always)]
        pub fn $stage<F: Family>(ctx: &TcContext) -> i32 {
            if F::IS_IPV6 {
                $v6(ctx.skb.skb)
            } else {
                $v4(ctx.skb.skb)
            }
        }
    )*};
}

// Each works on what [`Family::packet_ctx`] holds, and returns an action.
stages! {
    /// Is the address outside banned?
    banned(banned4, banned6) = ban::check;
    /// Is the packet of a flow that exists?
    known(known4, known6) = validate::known;
    /// The packet's flow is known: is its path still right?
    renew_path(renew_path4, renew_path6) = validate::renew_path;
    /// The packet goes by its flow, whose state follows it.
    go_on(go_on4, go_on6) = validate::go_on;
    /// Are the host's rules to see the packet, which is of a flow that exists?
    ask_rules(ask_rules4, ask_rules6) = proof::ask;
    /// From a guarded port: does the packet carry its sender's own addresses?
    guarded(guarded4, guarded6) = source_guard::check;
    /// From a guest: is the packet for its network's services?
    to_services(to_services4, to_services6) = services::deliver;
    /// From a guest: is the packet for the gateway to route?
    guest_entry(guest_entry4, guest_entry6) = from_guest::entry;
    /// End the packet's flow when that goes by a forward that is no more.
    expire_stale_dnat(expire_stale_dnat4, expire_stale_dnat6) = dnat::expire_stale_dnat;
    /// From a guest or outside, of no known flow: is the packet for something published?
    dnat(dnat4, dnat6) = dnat::admit;
    /// From a guest or outside, of no known flow: is the packet for a guest by its address outside?
    by_prefix(by_prefix4, by_prefix6) = prefix::admit;
    /// Such a packet goes without a flow.
    enters(enters4, enters6) = prefix::enters;
    /// So does one that leaves by the stack.
    leaves(leaves4, leaves6) = prefix::leaves;
    /// From a guest: a packet of no known flow.
    guest_first(guest_first4, guest_first6) = from_guest::first;
    /// From outside: a packet of no known flow.
    outside_first(outside_first4, outside_first6) = from_outside::first;
    /// To guests, by the stack, where the host's rules are respected: of which flow is the packet?
    arrives(arrives4, arrives6) = to_outside::arrives;
    /// To outside, by the stack: is the packet of a flow that exists?
    leaving_known(leaving_known4, leaving_known6) = to_outside::known;
    /// To outside, by the stack: a packet of no known flow.
    leaving_first(leaving_first4, leaving_first6) = to_outside::first;
    /// To outside, by the stack, where the host's rules are respected: of a flow that exists.
    prove(prove4, prove6) = to_outside::prove;
    /// The same of no known flow.
    judged_first(judged_first4, judged_first6) = to_outside::judged_first;
    /// An ICMP error that came in: of which flow is it?
    error_belongs(error_belongs4, error_belongs6) = icmp_error::belongs;
    /// An ICMP error that came in, of that flow.
    error_goes_on(error_goes_on4, error_goes_on6) = icmp_error::forward;
    /// An ICMP error that leaves by the stack.
    icmp_leaves(icmp_leaves4, icmp_leaves6) = icmp_error::leave;
    /// Put the flow of the scratch map under an endpoint-independent mapping.
    put_under_mapping(put_under_mapping4, put_under_mapping6) = mapping::put_under;
    /// Of a connection of the kernel's: make the flow of the scratch map what the connection was.
    as_tracked(as_tracked4, as_tracked6) = tracked::prepare;
    /// Insert the flow of the scratch map: [`SEND`], or what becomes of the packet without it.
    insert(insert4, insert6) = open::insert;
    /// A fragment that is to wait for the first one of its packet.
    hold(hold4, hold6) = held::hold;
    /// Send the packet by its flow.
    send(send4, send6) = transmit::send;
    /// Translate the packet by its flow, where it leaves by the stack.
    translate(translate4, translate6) = transmit::translate;
}

/// Is the packet of a flow that exists, and that may?
#[inline(always)]
pub fn known_flow<F: Family>(ctx: &TcContext) -> i32 {
    if bans::any() {
        match banned::<F>(ctx) {
            LOOKUP => {}
            action => return action,
        }
    }
    if records::has_forwards() {
        let _ = expire_stale_dnat::<F>(ctx);
    }
    // Zero before any network goes by the host's rules.
    if records::rules_epoch() != 0 {
        let _ = ask_rules::<F>(ctx);
    }
    let mut action = known::<F>(ctx);
    if action == CHECK {
        action = renew_path::<F>(ctx);
    }
    if action == GO_ON {
        action = go_on::<F>(ctx);
    }
    action
}

/// What becomes of an ICMP error that came in.
#[inline(always)]
pub fn icmp_error<F: Family>(ctx: &TcContext) -> i32 {
    match error_belongs::<F>(ctx) {
        ERROR => error_goes_on::<F>(ctx),
        action => action,
    }
}

/// What becomes of a packet of no known flow: it is for something published, or `first` says.
#[inline(always)]
pub fn dnat_or<F: Family>(ctx: &TcContext, first: impl Fn(&TcContext) -> i32) -> i32 {
    if records::has_forwards() {
        match dnat::<F>(ctx) {
            FIRST => {}
            action => return action,
        }
    }
    if prefixes::any::<F>() {
        match by_prefix::<F>(ctx) {
            FIRST => {}
            action => return action,
        }
    }
    first(ctx)
}

/// What follows on the first look at a packet (`action`): an ICMP error finds its flow, a packet
/// without a flow is judged and opens one if it may, and then it is sent.
#[inline(always)]
pub fn run<F: Family>(
    ctx: &TcContext,
    mut action: i32,
    error: impl Fn(&TcContext) -> i32,
    first: impl Fn(&TcContext) -> i32,
    send: impl Fn(&TcContext) -> i32,
) -> i32 {
    if action == ERROR {
        action = error(ctx);
    }
    // A flow under a mapping may need that, and a filter entry, before itself.
    let mut i = 0;
    while i < 3 && action == FIRST {
        action = first(ctx);
        if action == OPEN && records::control_flags() & CONTROL_MAPPINGS != 0 {
            action = put_under_mapping::<F>(ctx);
        }
        if action == OPEN {
            action = insert::<F>(ctx);
        }
        i += 1;
    }
    // What was made for the flow went again at once: nothing may leave as it is for that.
    if action == FIRST {
        action = drop(Reason::TableFull);
    }
    if action == SEND {
        action = send(ctx);
    }
    if action == HOLD {
        action = hold::<F>(ctx);
    }
    if F::IS_IPV6 && action == ENTERS {
        action = enters::<F>(ctx);
    }
    if F::IS_IPV6 && action == LEAVES {
        action = leaves::<F>(ctx);
    }
    action
}
