//! A device's parameters below `net.ipv4.conf` and `net.ipv6.conf`, as far as netd sets or needs them.

use rtnetlink::packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec};

/// Parameters of a device. The kernel tells them with the device itself, so that they cost no look
/// of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceConf {
    /// Is what comes in here forwarded, by [`crate::model::Family`]? None where the device takes
    /// no part in that family.
    pub forwarding: [Option<bool>; 2],
    /// None where the device takes no part in IPv6: the kernel has none, or its MTU is below 1280.
    pub ipv6: Option<Ipv6Conf>,
}

/// Parameters below `net.ipv6.conf.DEVICE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6Conf {
    /// `disable_ipv6`: it has no IPv6 addresses and takes no packets.
    pub disabled: bool,
    /// `accept_ra`: 0 listens to no router, 1 while the device does not forward, 2 always.
    pub accept_ra: i32,
    /// `autoconf`: it makes itself addresses from what routers say.
    pub autoconf: bool,
}

impl DeviceConf {
    /// What the kernel says about a device in `IFLA_AF_SPEC`.
    pub(super) fn parse(families: &[AfSpecUnspec]) -> Self {
        let mut conf = Self::default();
        for family in families {
            match family {
                AfSpecUnspec::Inet(attributes) => {
                    conf.forwarding[0] = attributes.iter().find_map(|attribute| match attribute {
                        AfSpecInet::DevConf(conf) => Some(conf.forwarding != 0),
                        _ => None,
                    });
                }
                AfSpecUnspec::Inet6(attributes) => {
                    let found = attributes.iter().find_map(|attribute| match attribute {
                        AfSpecInet6::DevConf(conf) => Some(conf),
                        _ => None,
                    });
                    conf.forwarding[1] = found.map(|conf| conf.forwarding != 0);
                    conf.ipv6 = found.map(|conf| Ipv6Conf {
                        disabled: conf.disable_ipv6 != 0,
                        accept_ra: conf.accept_ra,
                        autoconf: conf.autoconf != 0,
                    });
                }
                _ => {}
            }
        }
        conf
    }
}
