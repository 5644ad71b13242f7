//! A whole definition.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_common::abi::{Addr6, PrefixPair};
use uuid::Uuid;

use super::element::{
    AddressRange, Bandwidth, Bridge, Dns, Domain, Family, Forward, ForwardMode, Ip, Mac, Nat,
    PortGroup, PortRange, Rate, Route, VirtualPort, Vlan,
};
use super::error::{UpdateError, XmlError};
use super::metadata::MetadataElement;
use super::namespace::NETD_NAMESPACE;
use super::netd::{
    ForwardAction, GivenSubnet, NetdExtensions, PortForward, Surroundings, change_forwards,
};
use super::xml;

/// `<network>`: everything one definition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// `<name>`, the key of a network for its users.
    pub name: String,
    /// `<uuid>`; nil until one was given or generated.
    pub uuid: Uuid,
    /// The UUID is nil because the definition says so, as libvirt allows.
    pub zero_uuid: bool,
    /// `<title>`, one line.
    pub title: Option<String>,
    /// `<description>`.
    pub description: Option<String>,
    /// `<metadata>`: the namespaced child elements, each as a tree.
    pub metadata: Vec<MetadataElement>,
    /// What the elements of netd's own namespace among `metadata` say.
    pub netd: NetdExtensions,
    /// `ipv6='yes'` on the root.
    pub ipv6: bool,
    /// `trustGuestRxFilters` on the root.
    pub trust_guest_rx_filters: Option<bool>,
    /// `<forward>`; `None` is an isolated network.
    pub forward: Option<Forward>,
    /// `<bridge>`.
    pub bridge: Bridge,
    /// `<mac address>` of the bridge.
    pub mac: Option<Mac>,
    /// `<mtu size>` in bytes; 0 in the XML is `None`.
    pub mtu: Option<u32>,
    /// `<domain>`.
    pub domain: Option<Domain>,
    /// `<dns>`; `None` when the element is absent.
    pub dns: Option<Dns>,
    /// `<vlan>`.
    pub vlan: Option<Vlan>,
    /// `<bandwidth>`.
    pub bandwidth: Option<Bandwidth>,
    /// `<port isolated>`.
    pub port_isolated: Option<bool>,
    /// `<ip>` elements, in the order given.
    pub ips: Vec<Ip>,
    /// `<route>` elements.
    pub routes: Vec<Route>,
    /// `<virtualport>`.
    pub virtualport: Option<VirtualPort>,
    /// `<portgroup>` elements.
    pub portgroups: Vec<PortGroup>,
    /// `<dnsmasq:option value>` lines, passed to dnsmasq as they are.
    pub dnsmasq_options: Vec<String>,
    /// Subnets that it was given while it runs (`<netd:prefix from>`): no part of a definition.
    pub given: Vec<GivenSubnet>,
}

impl Network {
    /// Was a UUID given or generated?
    #[must_use]
    pub fn has_uuid(&self) -> bool {
        self.zero_uuid || !self.uuid.is_nil()
    }

    /// Mode of `<forward>`, with its absence as [`ForwardMode::None`].
    #[must_use]
    pub fn mode(&self) -> ForwardMode {
        self.forward.as_ref().map_or(ForwardMode::None, |f| f.mode)
    }

    /// What happens to packets of one family. A `nat` network routes IPv6 unless `<nat ipv6='yes'>`
    /// asks for translation there too.
    #[must_use]
    pub fn mode_for(&self, family: Family) -> ForwardMode {
        let translates_v6 = || self.nat().and_then(|nat| nat.ipv6) == Some(true);
        match (self.mode(), family) {
            (ForwardMode::Nat, Family::Ipv6) if !translates_v6() => ForwardMode::Route,
            (mode, _) => mode,
        }
    }

    /// `<nat>`, where it is given.
    #[must_use]
    pub fn nat(&self) -> Option<&Nat> {
        self.forward.as_ref()?.nat.as_ref()
    }

    /// The addresses IPv4 packets of a `nat` network leave with; `None` is the uplink's own. There
    /// is no such pool for IPv6.
    #[must_use]
    pub fn nat_addresses(&self) -> Option<AddressRange> {
        self.nat()?.address
    }

    /// The ports TCP and UDP packets of a `nat` network leave with, in both families.
    #[must_use]
    pub fn nat_ports(&self) -> PortRange {
        self.nat().and_then(|nat| nat.port).unwrap_or_default()
    }

    /// The definition as libvirt shows it of a network that runs: translation, where there is any, names
    /// the ports that it takes, given or not.
    #[must_use]
    pub fn as_running(&self) -> Self {
        let mut running = self.clone();
        let ports = self.nat_ports();
        let is_translated = |family| self.has(family) && self.mode_for(family) == ForwardMode::Nat;
        if let Some(forward) = running.forward.as_mut()
            && (is_translated(Family::Ipv4) || is_translated(Family::Ipv6))
        {
            forward.nat.get_or_insert_default().port = Some(ports);
        }
        running
    }

    /// Does the bridge have an address of this family?
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.all_ips().any(|ip| Family::of(ip.address) == family)
    }

    /// The bridge's addresses with their subnets: those of the definition, then what the network was given.
    pub fn all_ips(&self) -> impl Iterator<Item = &Ip> + Clone {
        self.ips
            .iter()
            .chain(self.given.iter().map(|given| &given.ip))
    }

    /// Does the agent own this network's bridge (nat, route, isolated, open)?
    #[must_use]
    pub fn is_managed(&self) -> bool {
        matches!(
            self.mode(),
            ForwardMode::None | ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open
        )
    }

    /// Is what its guests get, or send, held to a rate?
    #[must_use]
    pub fn is_shaped(&self) -> bool {
        let Some(Bandwidth { inbound, outbound }) = &self.bandwidth else {
            return false;
        };
        let limits = |rate: &Option<Rate>| rate.is_some_and(|rate| rate.average > 0);
        limits(inbound) || limits(outbound)
    }
}

/// Its subnets.
impl Network {
    /// The bridge's IPv4 addresses, each with the length of its subnet's prefix.
    pub fn ipv4_subnets(&self) -> impl Iterator<Item = (Ipv4Addr, u8)> + '_ {
        self.all_ips().filter_map(|ip| match ip.address {
            IpAddr::V4(address) => Some((address, ip.prefix_len())),
            IpAddr::V6(_) => None,
        })
    }

    /// The bridge's IPv6 addresses that mean something beyond its link, each with the length of
    /// its subnet's prefix.
    pub fn ipv6_subnets(&self) -> impl Iterator<Item = (Ipv6Addr, u8)> + '_ {
        self.all_ips().filter_map(|ip| match ip.address {
            IpAddr::V6(address) if !address.is_unicast_link_local() => {
                Some((address, ip.prefix_len()))
            }
            _ => None,
        })
    }

    /// Which prefix stands for which where the guests' addresses are translated (`<netd:prefix>`).
    #[must_use]
    pub fn prefix_pair(&self) -> Option<PrefixPair<Addr6>> {
        self.netd.prefix.as_ref()?.pair(&self.ips)
    }
}

/// What it says to netd alone, and what others keep in it.
impl Network {
    /// What the rules of netd's elements look at.
    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            name: &self.name,
            mode: self.mode(),
            ipv6_mode: self.mode_for(Family::Ipv6),
            ips: &self.ips,
        }
    }

    /// May the network have what the definition says to netd?
    ///
    /// # Errors
    /// An element of netd's contradicts itself, or what else the definition says.
    pub(super) fn check_netd(&self) -> Result<(), XmlError> {
        self.netd.check(&self.surroundings())
    }

    /// The network with a change of its forwards.
    ///
    /// # Errors
    /// What is to be deleted is not there, or not the only one that is meant, or a forward breaks a
    /// rule.
    pub fn with_forwards_changed(&self, action: &ForwardAction) -> Result<Self, UpdateError> {
        let mut network = self.clone();
        let mut forwards = network.netd.forwards.take().unwrap_or_default();
        change_forwards(&mut forwards, action).map_err(|detail| {
            UpdateError::Invalid(format!("network '{}' {detail}", self.name.escape_debug()))
        })?;
        network.set_forwards(forwards)?;
        Ok(network)
    }

    /// Puts these forwards in the place of those that the definition has. What it says to netd
    /// besides is written anew with them: comments in there are lost.
    ///
    /// # Errors
    /// A forward breaks a rule. Nothing is changed then.
    pub fn set_forwards(&mut self, forwards: Vec<PortForward>) -> Result<(), XmlError> {
        let forwards = Some(forwards).filter(|forwards| !forwards.is_empty());
        let netd = NetdExtensions {
            forwards,
            ..NetdExtensions::default()
        };
        netd.check(&self.surroundings())?;
        self.netd.forwards = netd.forwards;
        let element = self.netd.to_element();
        self.put_metadata(NETD_NAMESPACE, element);
        Ok(())
    }

    /// Puts this element in the place of the one of that namespace; `None` removes it.
    ///
    /// # Errors
    /// The element is meant for netd and cannot be read. Nothing is changed then.
    pub fn set_metadata(
        &mut self,
        namespace: &str,
        element: Option<MetadataElement>,
    ) -> Result<(), XmlError> {
        let read = match &element {
            Some(element) => {
                let document = xml::open(&element.xml)?;
                NetdExtensions::read(&self.name, [document.root_element()].into_iter())?
            }
            None => NetdExtensions::default(),
        };
        if namespace == NETD_NAMESPACE {
            self.netd = read;
        }
        self.put_metadata(namespace, element);
        Ok(())
    }

    fn put_metadata(&mut self, namespace: &str, element: Option<MetadataElement>) {
        let place = self.metadata.iter().position(|m| m.namespace == namespace);
        match (place, element) {
            (Some(place), Some(element)) => self.metadata[place] = element,
            (Some(place), None) => {
                self.metadata.remove(place);
            }
            (None, element) => self.metadata.extend(element),
        }
    }
}
