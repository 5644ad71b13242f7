//! Routes that switching IPv6 forwarding on would lose.

use std::collections::BTreeSet;
use std::fmt;

use super::snapshot::Snapshot;
use super::sysctl::{self, SysctlError};

/// The value of `accept_ra` with which the kernel listens to routers only as long as it is none
/// itself: it drops what they told when it becomes one. With 2 it always listens, and with 0 the
/// routes are another program's, which the kernel leaves alone.
const UNLESS_FORWARDING: u32 = 1;

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
///
/// # Errors
/// A device's parameter cannot be read.
pub fn routes_at_risk(snapshot: &Snapshot) -> Result<Option<RoutesAtRisk>, SysctlError> {
    at_risk(snapshot, sysctl::accept_ra)
}

fn at_risk(
    snapshot: &Snapshot,
    accept_ra: impl Fn(&str) -> Result<Option<u32>, SysctlError>,
) -> Result<Option<RoutesAtRisk>, SysctlError> {
    let advertised = snapshot.routes.iter().filter(|route| route.advertised);
    let indices: BTreeSet<u32> = advertised.filter_map(|route| route.index).collect();
    let mut devices = Vec::new();
    for link in indices.iter().filter_map(|i| snapshot.links.get(i)) {
        if accept_ra(&link.name)? == Some(UNLESS_FORWARDING) {
            devices.push(link.name.clone());
        }
    }
    Ok((!devices.is_empty()).then_some(RoutesAtRisk(devices)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Dump, Link, Route};

    fn host(advertised: &[(u32, bool)]) -> Snapshot {
        let link = |index: u32| Link {
            index,
            name: format!("eth{index}"),
            ..Link::default()
        };
        let routes = advertised.iter().map(|&(index, advertised)| Route {
            destination: ("::".parse().unwrap(), 0),
            index: Some(index),
            gateway: None,
            table: 254,
            advertised,
        });
        let dump = Dump {
            links: (1..5).map(|index| (index, link(index))).collect(),
            routes: routes.collect(),
            ..Dump::default()
        };
        dump.into()
    }

    /// `accept_ra` is the device's number, less one; eth4 has gone.
    fn devices(advertised: &[(u32, bool)]) -> Option<String> {
        let accept_ra = |device: &str| {
            let number: u32 = device[3..].parse().unwrap();
            Ok((number < 4).then(|| number - 1))
        };
        at_risk(&host(advertised), accept_ra)
            .unwrap()
            .map(|devices| devices.to_string())
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

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let refuse = |device: &str| Err(SysctlError::Component(device.to_owned()));
        assert!(at_risk(&host(&[(2, true)]), refuse).is_err());
        assert_eq!(at_risk(&host(&[(2, false)]), refuse).unwrap(), None);
    }
}
