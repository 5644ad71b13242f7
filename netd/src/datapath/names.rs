//! Names of the pinned maps. The programs name them by their statics; here they stand once.

macro_rules! names {
    ($($constant:ident = $name:literal,)*) => {
        $(#[doc = concat!("The map `", $name, "`.")] pub const $constant: &str = $name;)*
        /// All of them.
        pub const ALL: &[&str] = &[$($constant),*];
    };
}

names! {
    ADDRESSES4 = "addresses4",
    ADDRESSES6 = "addresses6",
    BANS4 = "bans4",
    BANS6 = "bans6",
    BINDINGS4 = "bindings4",
    BINDINGS6 = "bindings6",
    CONTROL = "control",
    DEVICES = "devices",
    DNAT_PORTS = "dnat_ports",
    DROPS = "drops",
    ENDPOINTS4 = "endpoints4",
    ENDPOINTS6 = "endpoints6",
    EVENTS = "events",
    FLOWS4 = "flows4",
    FLOWS6 = "flows6",
    FORWARDS4 = "forwards4",
    FORWARDS6 = "forwards6",
    FRAGMENTS4 = "fragments4",
    FRAGMENTS6 = "fragments6",
    GUEST_MOVES = "guest_moves",
    HELD = "held",
    NETWORKS = "networks",
    PEERS = "peers",
    POLICIES4 = "policies4",
    POLICIES6 = "policies6",
    POOLS4 = "pools4",
    POOLS6 = "pools6",
    PORTS = "ports",
    PORT_MACS = "port_macs",
    PREFIXES6 = "prefixes6",
    RESERVED = "reserved",
    ROUTE_MTUS = "route_mtus",
    SLOTS4 = "slots4",
    SLOTS6 = "slots6",
    SUBNETS4 = "subnets4",
    SUBNETS6 = "subnets6",
    SWEEPER = "sweeper",
    USAGE = "usage",
    XDP_TARGETS = "xdp_targets",
}
