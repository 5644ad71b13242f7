//! Prefixes that are translated (`<netd:prefix>`), as the programs look them up.

use std::net::{IpAddr, Ipv6Addr};

use netd_common::abi::PREFIX_SHARED;

use crate::datapath::records::Records;
use crate::link::Snapshot;
use crate::model::{GuestPrefix, Network, Prefix, in_subnet};

/// Add the pair of prefixes of a network, under both.
pub(super) fn add(records: &mut Records, network: &Network, snapshot: &Snapshot) {
    let outside = network.netd.prefix.as_ref().and_then(GuestPrefix::outside);
    let (Some(mut pair), Some(outside)) = (network.prefix_pair(), outside) else {
        return;
    };
    let len = outside.bits();
    if is_on_link(outside, snapshot) {
        pair.flags |= PREFIX_SHARED;
    }
    for either in [pair.inside, pair.outside] {
        records.prefixes.insert((either, len), pair);
    }
}

/// Has a link of the host's the prefix, or part of it, or is it in the link's?
fn is_on_link(prefix: Prefix, snapshot: &Snapshot) -> bool {
    snapshot
        .addresses
        .iter()
        .any(|own| prefix.has(own.address) || in_subnet(prefix.address(), own.address, own.prefix))
}

/// Two active networks cannot have their prefixes translated as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "network '{}' cannot be {outside} outside ({own} inside): network '{}' is {other} there \
     ({other_inside} inside); give each prefix of guests one of its own outside",
    network.escape_debug(),
    holder.escape_debug()
)]
pub struct PrefixConflict {
    /// The network that is to run.
    pub network: String,
    /// Its prefix outside.
    pub outside: Prefix,
    /// That of its guests.
    pub own: Prefix,
    /// The network that runs.
    pub holder: String,
    /// Its prefix outside.
    pub other: Prefix,
    /// That of its guests.
    pub other_inside: Prefix,
}

/// The first active network besides `network` itself, by its UUID, that keeps its prefix from being translated: an
/// address outside, or inside, would stand for two. Networks of one prefix have the same pair.
#[must_use]
pub fn prefix_conflict(network: &Network, active: &[&Network]) -> Option<PrefixConflict> {
    let (own, outside) = both(network)?;
    let others = active.iter().filter(|other| other.uuid != network.uuid);
    others.into_iter().find_map(|holder| {
        let (other_inside, other) = both(holder)?;
        let clash = (own, outside) != (other_inside, other)
            && (outside.overlaps(other) || own.overlaps(other_inside));
        clash.then(|| PrefixConflict {
            network: network.name.clone(),
            outside,
            own,
            holder: holder.name.clone(),
            other,
            other_inside,
        })
    })
}

/// A network's prefixes inside and outside.
fn both(network: &Network) -> Option<(Prefix, Prefix)> {
    let outside = network.netd.prefix.as_ref()?.outside()?;
    let inside = Ipv6Addr::from(network.prefix_pair()?.inside);
    Some((Prefix::new(IpAddr::V6(inside), outside.bits())?, outside))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Address, Dump, Scope};
    use crate::model::parse;

    fn network(number: u8, inside: &str, outside: &str) -> Network {
        parse(&format!(
            "<network><name>n{number}</name>\
             <uuid>00000000-0000-0000-0000-0000000000{number:02}</uuid><metadata>\
             <n:prefix xmlns:n='urn:netd:network:1' outside='{outside}'/></metadata>\
             <forward mode='route'/><ip family='ipv6' address='{inside}' prefix='64'/></network>"
        ))
        .unwrap()
    }

    #[test]
    fn networks_share_a_pair_of_prefixes_and_nothing_less() {
        let first = network(1, "fd01:0:0:1::1", "2001:db8:1::/48");
        for (inside, outside, clash) in [
            ("fd01:0:0:2::1", "2001:db8:1::/48", false),
            ("fd02:0:0:2::1", "2001:db8:2::/48", false),
            ("fd02:0:0:2::1", "2001:db8:1::/48", true),
            ("fd02:0:0:2::1", "2001:db8:1:5::/64", true),
            ("fd01:0:0:2::1", "2001:db8:2::/48", true),
            ("fd01:0:0:2::1", "2001:db8:2:1::/64", true),
        ] {
            let second = network(2, inside, outside);
            let found = prefix_conflict(&second, &[&second, &first]);
            assert_eq!(found.is_some(), clash, "{inside} {outside}: {found:?}");
        }
        let second = network(2, "fd02:0:0:2::1", "2001:db8:1::/48");
        assert_eq!(
            prefix_conflict(&second, &[&first]).unwrap().to_string(),
            "network 'n2' cannot be 2001:db8:1::/48 outside (fd02::/48 inside): network 'n1' is \
             2001:db8:1::/48 there (fd01::/48 inside); give each prefix of guests one of its own outside"
        );
    }

    #[test]
    fn a_prefix_of_the_hosts_links_is_shared() {
        let network = network(1, "fd01::1", "2001:db8:1:2::/64");
        for (own, prefix, shared) in [
            ("2001:db8:1:2::5", 64, true),
            ("2001:db8:1::5", 48, true),
            ("2001:db8:1:2::5", 128, true),
            ("2001:db8:1:3::5", 64, false),
            ("198.51.100.1", 24, false),
        ] {
            let snapshot = Snapshot::from(Dump {
                addresses: vec![Address {
                    index: 1,
                    address: own.parse().unwrap(),
                    prefix,
                    primary: true,
                    scope: Scope::Global,
                }],
                ..Dump::default()
            });
            let mut records = Records::default();
            add(&mut records, &network, &snapshot);
            assert_eq!(records.prefixes.len(), 2);
            for pair in records.prefixes.values() {
                assert_eq!(pair.flags & PREFIX_SHARED != 0, shared, "{own}/{prefix}");
            }
        }
    }
}
