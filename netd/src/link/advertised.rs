//! Routes that switching IPv6 forwarding on would lose.

use std::collections::BTreeSet;
use std::fmt;

use super::snapshot::Snapshot;

/// The value of `accept_ra` with which the kernel listens to routers only as long as it is none
/// itself: it drops what they told when it becomes one. With 2 it always listens, and with 0 the
/// routes are another program's, which the kernel leaves alone.
const UNLESS_FORWARDING: i32 = 1;

/// Devices whose advertised routes the kernel would drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutesAtRisk(Vec<String>);

impl fmt::Display for RoutesAtRisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (them, plural) = match self.0.len() {
            1 => ("it", ""),
            _ => ("them", "s"),
        };
        write!(
            f,
            "Check the host setup: interface{plural} {} got IPv6 routes from router \
             advertisements, and the kernel would drop them when IPv6 forwarding is switched on, \
             which the network needs; set accept_ra to 2 for {them} (sysctl net.ipv6.conf.{}.\
             accept_ra=2) or configure the routes statically",
            self.0.join(", "),
            self.0.first().map_or("IFACE", String::as_str),
        )
    }
}

/// Looks for routes that would be lost if IPv6 forwarding was switched on now.
#[must_use]
pub fn routes_at_risk(snapshot: &Snapshot) -> Option<RoutesAtRisk> {
    let advertised = snapshot.routes.iter().filter(|route| route.advertised);
    let indices: BTreeSet<u32> = advertised.filter_map(|route| route.index).collect();
    let devices = indices.iter().filter_map(|i| snapshot.links.get(i));
    let at_risk = devices.filter(|link| {
        let conf = link.conf.ipv6;
        conf.is_some_and(|conf| conf.accept_ra == UNLESS_FORWARDING)
    });
    let names: Vec<String> = at_risk.map(|link| link.name.clone()).collect();
    (!names.is_empty()).then_some(RoutesAtRisk(names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{DeviceConf, Dump, Ipv6Conf, Link, Route};

    /// `accept_ra` is the device's number, less one; eth4 has no IPv6.
    fn host(advertised: &[(u32, bool)]) -> Snapshot {
        let conf = |index: u32| DeviceConf {
            ipv6: (index < 4).then(|| Ipv6Conf {
                accept_ra: index as i32 - 1,
                ..Ipv6Conf::default()
            }),
            ..DeviceConf::default()
        };
        let link = |index: u32| Link {
            index,
            name: format!("eth{index}"),
            conf: conf(index),
            ..Link::default()
        };
        let routes = advertised.iter().map(|&(index, advertised)| Route {
            destination: ("::".parse().unwrap(), 0),
            index: Some(index),
            gateway: None,
            table: 254,
            advertised,
            mtu: None,
            metric: None,
        });
        let dump = Dump {
            links: (1..5).map(|index| (index, link(index))).collect(),
            routes: routes.collect(),
            ..Dump::default()
        };
        dump.into()
    }

    fn devices(advertised: &[(u32, bool)]) -> Option<String> {
        routes_at_risk(&host(advertised)).map(|devices| devices.to_string())
    }

    #[test]
    fn only_advertised_routes_that_the_kernel_keeps_itself_are_at_risk() {
        assert_eq!(devices(&[]), None);
        assert_eq!(devices(&[(2, false)]), None);
        assert_eq!(devices(&[(1, true), (3, true), (4, true), (9, true)]), None);
        let text = devices(&[(3, true), (2, true), (2, true)]).unwrap();
        assert!(
            text.starts_with("Check the host setup: interface eth2 got IPv6 routes"),
            "{text}"
        );
        assert!(
            text.contains("sysctl net.ipv6.conf.eth2.accept_ra=2"),
            "{text}"
        );
    }
}
