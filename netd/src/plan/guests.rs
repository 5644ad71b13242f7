//! The addresses of guests that go by a name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use uuid::Uuid;

use crate::model::{Mac, Network, subnet_of};

/// What DHCP says about guests: the leases of networks, by name. Static hosts stand in the
/// definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guests {
    leased: BTreeMap<(Uuid, String), Vec<IpAddr>>,
    bound: BTreeMap<Uuid, Vec<(IpAddr, Mac)>>,
}

impl Guests {
    /// Notes whose a leased address is.
    pub fn bind(&mut self, network: Uuid, address: IpAddr, mac: Mac) {
        self.bound.entry(network).or_default().push((address, mac));
    }

    /// The leased addresses of a network, and whose they are.
    pub fn bound(&self, network: Uuid) -> impl Iterator<Item = (IpAddr, Mac)> + '_ {
        self.bound.get(&network).into_iter().flatten().copied()
    }

    /// Notes a lease; of several for one name and family the first one counts.
    pub fn add(&mut self, network: Uuid, name: &str, address: IpAddr) {
        let key = (network, name.to_ascii_lowercase());
        self.leased.entry(key).or_default().push(address);
    }

    /// The addresses of the guest that this network knows by this name, at most one of each
    /// family; none while nobody has the name. A static `<host>` of the network goes before
    /// leases: any guest can ask for a lease under a name of its choice.
    #[must_use]
    pub fn addresses(&self, network: &Network, name: &str) -> Vec<IpAddr> {
        let hosts = network.ips.iter().flat_map(|ip| &ip.dhcp.hosts);
        let named = |host: &str| host.eq_ignore_ascii_case(name);
        let mut addresses: Vec<IpAddr> = hosts
            .filter(|host| host.name.as_deref().is_some_and(named))
            .filter_map(|host| host.ip)
            .collect();
        if addresses.is_empty() {
            let key = (network.uuid, name.to_ascii_lowercase());
            let leased = self.leased.get(&key).into_iter().flatten();
            addresses.extend(leased.filter(|address| may_be_guests(network, **address)));
        }
        let first = |is_v4: bool| addresses.iter().find(move |a| a.is_ipv4() == is_v4);
        first(true)
            .into_iter()
            .chain(first(false))
            .copied()
            .collect()
    }
}

/// A lease may be older than the network's present subnets.
fn may_be_guests(network: &Network, address: IpAddr) -> bool {
    subnet_of(network.all_ips(), address).is_some_and(|ip| ip.address != address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;

    fn network() -> Network {
        parse(
            "<network><name>n</name><uuid>00000000-0000-0000-0000-000000000001</uuid>\
             <ip address='10.0.0.1' prefix='24'><dhcp>\
             <host mac='52:54:00:00:00:01' name='Web' ip='10.0.0.5'/>\
             </dhcp></ip><ip family='ipv6' address='fd00::1' prefix='64'/></network>",
        )
        .unwrap()
    }

    fn addresses(guests: &Guests, name: &str) -> Vec<String> {
        let found = guests.addresses(&network(), name);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_static_host_goes_before_leases() {
        let network = network();
        let mut guests = Guests::default();
        assert_eq!(addresses(&guests, "web"), ["10.0.0.5"]);
        assert!(addresses(&guests, "later").is_empty());
        for address in ["10.0.0.66", "fd00::66"] {
            guests.add(network.uuid, "web", address.parse().unwrap());
        }
        guests.add(network.uuid, "LATER", "10.0.0.77".parse().unwrap());
        assert_eq!(addresses(&guests, "WEB"), ["10.0.0.5"]);
        assert_eq!(addresses(&guests, "later"), ["10.0.0.77"]);
    }

    #[test]
    fn a_lease_is_one_of_this_network() {
        let network = network();
        let mut guests = Guests::default();
        guests.add(Uuid::from_u128(9), "db", "10.0.0.8".parse().unwrap());
        for address in ["10.0.0.1", "10.9.9.9", "fd00::8", "10.0.0.9", "10.0.0.10"] {
            guests.add(network.uuid, "db", address.parse().unwrap());
        }
        assert_eq!(addresses(&guests, "db"), ["10.0.0.9", "fd00::8"]);
        assert!(addresses(&guests, "d").is_empty());
    }
}
