//! Functions that the verifier checks on their own.
//!
//! It checks a global function once, for any arguments of their types, instead of once for every
//! state in which it can be called; so what it knew of the arguments is forgotten, and pointers may
//! be null for all it knows. They also have a stack frame of their own, of the 512 bytes that a
//! program has in all.
//!
//! [`verified!`] declares them: a function of a family becomes two, and which is called is known
//! when the programs are compiled. The stages of the slow path, which take everything from a record
//! in a map, are declared in one table of the same kind (`hook/stages.rs`).

/// Declares functions that are verified on their own.
///
/// ```text
/// verified! {
///     /// What it says.
///     pub fn name(ctx: Ctx, key: Key, port: u32) -> u32 = body, else 0, as symbol4, symbol6;
/// }
/// ```
///
/// `name::<F>(…)` calls `body::<F>(…)`, which gets its arguments as references, by way of one of the
/// two symbols; `else` is what comes of a null pointer. With one symbol neither has a family.
macro_rules! verified {
    ($(
        $(#[$doc:meta])*
        $vis:vis fn $name:ident($($arg:ident: $kind:tt),*) -> $ret:ty = $body:ident,
            else $otherwise:expr, as $v4:ident, $v6:ident;
    )*) => {$(
        $(#[$doc])*
        #[inline(always)]
        $vis fn $name<F: $crate::family::Family>(
            $($arg: $crate::verified::kind!(reference F $kind)),*
        ) -> $ret {
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v4(
                $($arg: $crate::verified::kind!(pointer ($crate::family::V4) $kind)),*
            ) -> $ret {
                $($crate::verified::kind!(borrow $arg $kind, $otherwise);)*
                $body::<$crate::family::V4>($($arg),*)
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v6(
                $($arg: $crate::verified::kind!(pointer ($crate::family::V6) $kind)),*
            ) -> $ret {
                $($crate::verified::kind!(borrow $arg $kind, $otherwise);)*
                $body::<$crate::family::V6>($($arg),*)
            }

            // The casts change nothing: each side is compiled for the family that it is for.
            if F::IS_IPV6 {
                $v6($($crate::verified::kind!(pass $arg $kind)),*)
            } else {
                $v4($($crate::verified::kind!(pass $arg $kind)),*)
            }
        }
    )*};
    ($(
        $(#[$doc:meta])*
        $vis:vis fn $name:ident($($arg:ident: $kind:tt),*) -> $ret:ty = $body:ident,
            else $otherwise:expr, as $symbol:ident;
    )*) => {$(
        $(#[$doc])*
        #[inline(always)]
        $vis fn $name($($arg: $crate::verified::kind!(reference () $kind)),*) -> $ret {
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $symbol(
                $($arg: $crate::verified::kind!(pointer () $kind)),*
            ) -> $ret {
                $($crate::verified::kind!(borrow $arg $kind, $otherwise);)*
                $body($($arg),*)
            }

            $symbol($($crate::verified::kind!(pass $arg $kind)),*)
        }
    )*};
}
pub(crate) use verified;

/// How an argument of a kind is declared, handed over and taken: `Ctx` (the packet), `Key` (of a
/// flow), `Address`, `Forward` (written to), or a number.
macro_rules! kind {
    (reference $family:tt Ctx) => { &aya_ebpf::programs::TcContext };
    (reference $family:tt Key) => {
        &netd_common::abi::FlowKey<<$family as $crate::family::Family>::Addr>
    };
    (reference $family:tt Address) => { &<$family as $crate::family::Family>::Addr };
    (reference $family:tt Forward) => {
        &mut netd_common::abi::Forward<<$family as $crate::family::Family>::Addr>
    };
    (reference $family:tt $number:tt) => { $number };

    (pointer $family:tt Ctx) => { *mut aya_ebpf::bindings::__sk_buff };
    (pointer ($family:ty) Key) => {
        *const netd_common::abi::FlowKey<<$family as $crate::family::Family>::Addr>
    };
    (pointer ($family:ty) Address) => { *const <$family as $crate::family::Family>::Addr };
    (pointer ($family:ty) Forward) => {
        *mut netd_common::abi::Forward<<$family as $crate::family::Family>::Addr>
    };
    (pointer $family:tt $number:tt) => { $number };

    (pass $arg:ident Ctx) => { $arg.skb.skb };
    (pass $arg:ident Key) => { core::ptr::from_ref($arg).cast() };
    (pass $arg:ident Address) => { core::ptr::from_ref($arg).cast() };
    (pass $arg:ident Forward) => { core::ptr::from_mut($arg).cast() };
    (pass $arg:ident $number:tt) => { $arg };

    (borrow $arg:ident Ctx, $otherwise:expr) => {
        let $arg = &aya_ebpf::programs::TcContext::new($arg);
    };
    (borrow $arg:ident Key, $otherwise:expr) => {
        // SAFETY: the one caller, above, passes a reference; null is checked for the verifier.
        let Some($arg) = (unsafe { $arg.as_ref() }) else { return $otherwise };
    };
    (borrow $arg:ident Address, $otherwise:expr) => {
        // SAFETY: as above.
        let Some($arg) = (unsafe { $arg.as_ref() }) else { return $otherwise };
    };
    (borrow $arg:ident Forward, $otherwise:expr) => {
        // SAFETY: as above.
        let Some($arg) = (unsafe { $arg.as_mut() }) else { return $otherwise };
    };
    (borrow $arg:ident $number:tt, $otherwise:expr) => {};
}
pub(crate) use kind;
