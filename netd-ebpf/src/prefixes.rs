//! Prefixes that are translated (`<netd:prefix>`, RFC 6296): which address stands for which.

use aya_ebpf::btf_maps::lpm_trie;
use netd_common::Reason;
use netd_common::abi::{
    CONTROL_PREFIXES, EndpointKey, Forward, NETWORK_PREFIX, Network, PREFIX_SHARED,
};
use netd_common::prefix::{Mapped, Way};

use crate::context::Words;
use crate::family::{Family, V4, V6};
use crate::maps::{PREFIXES6, Translations};
use crate::records;
use crate::verified::verified;

/// What became of an address: it has no such prefix.
pub const OTHER: u32 = 0;
/// It is the one of the other side.
pub const TRANSLATED: u32 = 1;
/// There is none for its subnet, or whose it is nobody's.
pub const NO_OUTSIDE: u32 = 2;
/// There is none for its interface.
pub const NO_INTERFACE: u32 = 3;

/// Are prefixes translated? None is of IPv4.
#[inline(always)]
pub fn any<F: Family>() -> bool {
    F::IS_IPV6 && records::control_flags() & CONTROL_PREFIXES != 0
}

/// Do addresses of the network's guests stand for others outside?
#[inline(always)]
pub fn is_translated<F: Family>(network: &Network) -> bool {
    F::IS_IPV6 && network.flags & NETWORK_PREFIX != 0
}

verified! {
    /// Translate the address in the place of a guest's, for a packet that comes in (`inwards`: 1) or leaves.
    pub fn prefix_translate(inwards: u32, address: Forward) -> u32
        = by_trie, else OTHER, as prefix_translate4, prefix_translate6;

    /// Whose is this address outside? `found` receives the guest and its network.
    pub fn prefix_guest(address: Address, found: Forward) -> u32
        = look_up, else OTHER, as prefix_guest4, prefix_guest6;
}

/// Families with prefixes to translate, or not.
trait Translates: Family {
    /// Translate an address, if it has a prefix that is.
    fn translate(address: &mut Self::Addr, way: Way) -> u32;
    /// May others have addresses of the prefix outside that this one has?
    fn is_shared(address: Self::Addr) -> bool;
}

impl Translates for V4 {
    #[inline(always)]
    fn translate(_: &mut u32, _: Way) -> u32 {
        OTHER
    }

    #[inline(always)]
    fn is_shared(_: u32) -> bool {
        false
    }
}

impl Translates for V6 {
    #[inline(always)]
    fn translate(address: &mut Words, way: Way) -> u32 {
        let key = lpm_trie::Key::new(128, *address);
        let Some(pair) = prefixes().get(&key) else {
            return OTHER;
        };
        if !pair.concerns(address, way) {
            return OTHER;
        }
        match pair.translate(address, way) {
            Mapped::Yes => TRANSLATED,
            Mapped::NoSubnet => NO_OUTSIDE,
            Mapped::NoInterface => NO_INTERFACE,
        }
    }

    #[inline(always)]
    fn is_shared(address: Words) -> bool {
        let key = lpm_trie::Key::new(128, address);
        prefixes()
            .get(&key)
            .is_some_and(|pair| pair.flags & PREFIX_SHARED != 0)
    }
}

#[inline(always)]
fn prefixes() -> &'static Translations<Words> {
    // SAFETY: as in `family_maps!`.
    unsafe { &*core::ptr::from_ref(&PREFIXES6).cast() }
}

#[inline(always)]
fn by_trie<F: Translates>(inwards: u32, address: &mut Forward<F::Addr>) -> u32 {
    let way = if inwards != 0 { Way::In } else { Way::Out };
    F::translate(&mut address.guest, way)
}

/// [`prefix_translate`] of a copy, for a packet that leaves.
#[inline(always)]
pub fn outside_of<F: Family>(address: F::Addr) -> (u32, F::Addr) {
    let mut changed = Forward {
        guest: address,
        ..Forward::default()
    };
    let result = prefix_translate::<F>(0, &mut changed);
    (result, changed.guest)
}

/// Why an address has none on the other side.
#[inline(always)]
pub fn reason(result: u32) -> Reason {
    if result == NO_INTERFACE {
        Reason::NoInterface
    } else {
        Reason::NoOutside
    }
}

#[inline(always)]
fn look_up<F: Translates>(address: &F::Addr, found: &mut Forward<F::Addr>) -> u32 {
    // A copy: see `conntrack/life.rs`.
    let outside = *address;
    if records::is_own::<F>(&outside) {
        return OTHER;
    }
    *found = Forward::default();
    found.guest = outside;
    let result = prefix_translate::<F>(1, found);
    let guest = found.guest;
    let is_guests = result == TRANSLATED && is_guest::<F>(&guest, &outside, found);
    // Where others have addresses of the prefix, too, it is a guest's that was seen, or another's.
    // SAFETY: the value is not looked at.
    if F::is_shared(outside)
        && (!is_guests || unsafe { F::endpoints().get(&EndpointKey::new(guest)) }.is_none())
    {
        return OTHER;
    }
    if result == TRANSLATED && !is_guests {
        return NO_OUTSIDE;
    }
    result
}

/// Can the address be a guest's that has `outside` outside? Then `found` receives its network.
#[inline(always)]
fn is_guest<F: Family>(guest: &F::Addr, outside: &F::Addr, found: &mut Forward<F::Addr>) -> bool {
    found.bridge_ifindex = records::bridge_of::<F>(*guest);
    // The host's services are no guest's. And its network may go by another prefix, or none.
    !records::is_own::<F>(guest)
        && records::network(found.bridge_ifindex).is_some_and(is_translated::<F>)
        && outside_of::<F>(*guest) == (TRANSLATED, *outside)
}

/// Does an address outside stand for a guest's? Then `found` receives whose.
#[inline(always)]
pub fn find<F: Family>(address: &F::Addr, found: &mut Forward<F::Addr>) -> bool {
    any::<F>() && prefix_guest::<F>(address, found) == TRANSLATED
}

/// The address that packets of a guest have outside; zero where that is its own.
#[inline(always)]
pub fn source_outside<F: Family>(bridge: u32, address: F::Addr) -> F::Addr {
    if any::<F>()
        && records::network(bridge).is_some_and(is_translated::<F>)
        && let (TRANSLATED, outside) = outside_of::<F>(address)
    {
        return outside;
    }
    F::ZERO
}

/// Is a neighbour to be told that the address is here? The bridge of the guest that it stands for, or 0.
#[inline(always)]
pub fn neighbour(address: &Words) -> u32 {
    let mut found = Forward::default();
    match find::<V6>(address, &mut found) {
        true => found.bridge_ifindex,
        false => 0,
    }
}
