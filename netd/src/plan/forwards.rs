//! What is published, as the programs look it up.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use netd_common::abi::{Forward, ForwardKey};

use super::guests::Guests;
use crate::datapath::FamilyRecords;
use crate::datapath::records::Records;
use crate::link::{Address, Snapshot};
use crate::model::{ForwardGuest, ForwardProtocol, Network, PortForward, Span, in_subnet};

/// Whose forwards are added, and where that network and its guests are.
pub(super) struct At<'a> {
    /// The network.
    pub network: &'a Network,
    /// Number of its bridge.
    pub bridge: u32,
    /// What the kernel has.
    pub snapshot: &'a Snapshot,
    /// Where guests that go by a name are.
    pub guests: &'a Guests,
}

/// Add what a network publishes. A forward to a guest whose name nobody has, or at a device that is
/// not there, waits until there is one.
pub(super) fn add(records: &mut Records, forwards: &[PortForward], at: &At<'_>) {
    let At {
        network,
        bridge,
        snapshot,
        guests,
    } = *at;
    for forward in forwards {
        let dev = match &forward.dev {
            None => 0,
            Some(name) => match snapshot.by_name(name) {
                Some(link) => link.index,
                None => continue,
            },
        };
        let addresses = match &forward.guest {
            ForwardGuest::Address(address) => vec![*address],
            ForwardGuest::Host(name) => guests.addresses(network, name),
        };
        // One address of each family: the first one known.
        let v4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(guest) => Some(guest.octets()),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(guest) => Some(guest.octets()),
        });
        let (at4, at6) = match forward.address {
            None => (Some([0; 4]), Some([0; 16])),
            Some(IpAddr::V4(address)) => (Some(address.octets()), None),
            Some(IpAddr::V6(address)) => (None, Some(address.octets())),
        };
        if let (Some(guest), Some(at)) = (v4, at4) {
            publish(&mut records.v4, forward, dev, at, guest, bridge);
            claim_address(&mut records.v4, forward, at, 32, bridge, snapshot);
        }
        if let (Some(guest), Some(at)) = (v6, at6) {
            publish(&mut records.v6, forward, dev, at, guest, bridge);
            claim_address(&mut records.v6, forward, at, 128, bridge, snapshot);
        }
    }
}

fn publish<A: Copy + Ord>(
    records: &mut FamilyRecords<A>,
    forward: &PortForward,
    dev: u32,
    address: A,
    guest: A,
    bridge: u32,
) {
    let key = |port: u16| ForwardKey {
        dev,
        address,
        proto: forward.protocol.number(),
        pad: 0,
        port: port.to_be_bytes(),
    };
    if forward.protocol == ForwardProtocol::All {
        let to = Forward {
            guest,
            bridge_ifindex: bridge,
            first: 0,
            to: 0,
        };
        let entry = (key(0), ForwardKey::<A>::PORTLESS);
        records.forwards.insert(entry, to);
        return;
    }
    for Span { first, last, to } in forward.spans() {
        let to = Forward {
            guest,
            bridge_ifindex: bridge,
            first,
            to,
        };
        for (port, bits) in blocks(first, last) {
            let entry = (key(port), ForwardKey::<A>::PORTLESS + bits);
            records.forwards.insert(entry, to);
        }
    }
}

/// An address that only forwards have is answered for, as those of ranges to masquerade with are.
fn claim_address<A: Copy + Ord>(
    records: &mut FamilyRecords<A>,
    forward: &PortForward,
    address: A,
    len: u8,
    bridge: u32,
    snapshot: &Snapshot,
) {
    let Some(published) = forward.address else {
        return;
    };
    let is_own = snapshot.addresses.iter().any(|a| a.address == published);
    if !is_own && !published.is_loopback() {
        records.pools.insert((address, len), bridge);
    }
}

/// Published IPv6 addresses that no device has, and the devices that are to listen to neighbours'
/// solicitations for them: those whose own subnets they are in.
pub fn nd_proxies(records: &Records, snapshot: &Snapshot) -> BTreeSet<(u32, Ipv6Addr)> {
    let mut nd_proxies = BTreeSet::new();
    for ((address, _), bridge) in &records.v6.pools {
        let address = Ipv6Addr::from(*address);
        let uplink = records.networks.get(bridge).map_or(0, |n| n.uplink_ifindex);
        let has = |own: &&Address| in_subnet(address.into(), own.address, own.prefix);
        let devices = snapshot.addresses.iter().filter(has).map(|own| own.index);
        nd_proxies.extend(
            devices
                .filter(|index| uplink == 0 || uplink == *index)
                .filter(|index| !records.networks.contains_key(index))
                .map(|index| (index, address)),
        );
    }
    nd_proxies
}

/// The prefixes that the ports from `first` to `last` consist of: a port, and how many of its bits
/// count.
fn blocks(first: u16, last: u16) -> Vec<(u16, u32)> {
    let mut blocks = Vec::new();
    let (mut port, end) = (u32::from(first), u32::from(last) + 1);
    while port < end {
        let aligned = if port == 0 { 16 } else { port.trailing_zeros() };
        let fits = (end - port).ilog2();
        let open = aligned.min(fits);
        blocks.push((port as u16, 16 - open));
        port += 1 << open;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn p15_ranges_at_both_ends() {
        assert_eq!(blocks(0, 65535), [(0, 0)]);
        assert_eq!(blocks(80, 80), [(80, 16)]);
        assert_eq!(blocks(65535, 65535), [(65535, 16)]);
        assert_eq!(blocks(9000, 9010), [(9000, 13), (9008, 15), (9010, 16)]);
    }

    proptest! {
        #[test]
        fn blocks_cover_a_range_once(a: u16, b: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let mut next = u32::from(first);
            let blocks = blocks(first, last);
            prop_assert!(blocks.len() <= 30);
            for (port, bits) in blocks {
                prop_assert_eq!(u32::from(port), next);
                prop_assert_eq!(u32::from(port) % (1 << (16 - bits)), 0);
                next += 1 << (16 - bits);
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }
}
