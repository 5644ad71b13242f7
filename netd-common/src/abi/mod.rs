//! Layout of every map: what the agent writes and the programs read, and the other way round.
//!
//! A change here needs a new [`VERSION`], since maps outlive the binary that made them.

/// Version of the layouts below; part of the path the maps are pinned under.
pub const VERSION: u32 = 9;

mod address;
mod ban;
mod control;
mod drops;
mod flow;
mod forward;
mod fragment;
mod guest;
mod held;
mod ipsec;
mod network;
mod prefix;
mod sizes;
mod slow_path;
mod sweep;
mod tracked;

pub use address::*;
pub use ban::*;
pub use control::*;
pub use drops::*;
pub use flow::*;
pub use forward::*;
pub use fragment::*;
pub use guest::*;
pub use held::*;
pub use ipsec::*;
pub use network::*;
pub use prefix::*;
pub use sizes::*;
pub use slow_path::*;
pub use sweep::*;
pub use tracked::*;

const _: () = {
    assert!(size_of::<FlowKey4>() == 16);
    assert!(size_of::<FlowKey6>() == 40);
    assert!(size_of::<Flow4>() == 96);
    assert!(size_of::<Flow6>() == 120);
    assert!(size_of::<Slot<Addr4>>() == 24);
    assert!(size_of::<Slot<Addr6>>() == 48);
    assert!(size_of::<ForwardKey<Addr4>>() == 12);
    assert!(size_of::<ForwardKey<Addr6>>() == 24);
    assert!(size_of::<Forward<Addr4>>() == 12);
    assert!(size_of::<Forward<Addr6>>() == 24);
    assert!(size_of::<BanKey<Addr4>>() == 8);
    assert!(size_of::<BanKey<Addr6>>() == 20);
    assert!(size_of::<Ban>() == 4);
    assert!(size_of::<IpsecPolicy<Addr4>>() == 32);
    assert!(size_of::<IpsecPolicy<Addr6>>() == 80);
    assert!(size_of::<FragmentKey<Addr4>>() == 16);
    assert!(size_of::<FragmentKey<Addr6>>() == 40);
    assert!(size_of::<Fragment>() == 16);
    assert!(size_of::<HeldFrame>() == HeldFrame::HEADER + HELD_BYTES);
    assert!(size_of::<Network>() == 104);
    assert!(size_of::<PrefixPair<Addr6>>() == 52);
    assert!(size_of::<BridgePort>() == 16);
    assert!(size_of::<PortMac>() == 8);
    assert!(size_of::<BindingKey<Addr4>>() == 8);
    assert!(size_of::<BindingKey<Addr6>>() == 20);
    assert!(size_of::<Binding>() == 8);
    assert!(size_of::<NextHop>() == 20);
    assert!(size_of::<EndpointKey<Addr4>>() == 8);
    assert!(size_of::<EndpointKey<Addr6>>() == 20);
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Device>() == 32);
    assert!(size_of::<RouteKey>() == 8);
    assert!(size_of::<DropEvent>() == 64);
    assert!(size_of::<Control>() == 104);
    assert!(size_of::<PeerKey<Addr6>>() == 32);
    assert!(size_of::<Peer<Addr6>>() == 20);
    assert!(size_of::<Tracked<Addr4>>() == 32);
    assert!(size_of::<Tracked<Addr6>>() == 68);
};

#[cfg(feature = "user")]
mod pod {
    use super::*;

    macro_rules! pod {
        ($($t:ty),*) => {$(
            // SAFETY: a repr(C) struct of integers and byte arrays with no padding (its size is
            // the sum of its fields'), for which every bit pattern is a value.
            unsafe impl aya::Pod for $t {}
        )*};
    }
    pod!(
        FlowKey4,
        FlowKey6,
        Flow4,
        Flow6,
        Slot<Addr4>,
        Slot<Addr6>,
        BanKey<Addr4>,
        BanKey<Addr6>,
        Ban,
        Sweeper,
        Usage,
        FragmentKey<Addr4>,
        FragmentKey<Addr6>,
        Fragment,
        IpsecPolicy<Addr4>,
        IpsecPolicy<Addr6>,
        ForwardKey<Addr4>,
        ForwardKey<Addr6>,
        Forward<Addr4>,
        Forward<Addr6>,
        Network,
        PrefixPair<Addr6>,
        BridgePort,
        PortMac,
        BindingKey<Addr4>,
        BindingKey<Addr6>,
        Binding,
        Subnet,
        Endpoint,
        EndpointKey<Addr4>,
        EndpointKey<Addr6>,
        Device,
        RouteKey,
        Control,
        GuestMoves,
        DropCount,
        DropEvent
    );
}
