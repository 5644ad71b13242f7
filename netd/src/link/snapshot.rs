//! What the host has at one moment: devices, addresses and routes, as plain data.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoPortData, LinkAttribute, LinkFlags,
    LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType, RouteVia,
};

use super::devconf::DeviceConf;
use super::drivers::Driver;
use crate::model::Mac;

/// The values of [`Link::port_state`] (`BR_STATE_*` of linux/if_bridge.h).
pub mod port_state {
    /// Down, or without carrier.
    pub const DISABLED: u8 = 0;
    /// Forwards nothing, learns nothing; the first forward delay.
    pub const LISTENING: u8 = 1;
    /// Forwards nothing, learns addresses; the second forward delay.
    pub const LEARNING: u8 = 2;
    /// Forwards.
    pub const FORWARDING: u8 = 3;
    /// Held shut by STP, because it would close a loop.
    pub const BLOCKING: u8 = 4;
}

/// The kernel counts bridge times in hundredths of a second (USER_HZ).
const TICK_MS: u32 = 10;

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in this network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, where that has six bytes.
    pub mac: Option<Mac>,
    /// Largest packet it carries, link layer header not counted.
    pub mtu: u32,
    /// `IFLA_INFO_KIND`: "bridge", "veth", "tun", "vrf"; hardware has none.
    pub kind: Option<String>,
    /// It carries Ethernet frames (`ARPHRD_ETHER`).
    pub ether: bool,
    /// Its packets start with the IP header: no link-layer header is ever put before them.
    pub headerless: bool,
    /// It is the loopback device.
    pub loopback: bool,
    /// It is switched on (`IFF_UP`); that says nothing about a carrier.
    pub up: bool,
    /// `IFLA_MASTER`: the bridge, bond or VRF it belongs to.
    pub controller: Option<u32>,
    /// Set for bridges.
    pub bridge: Option<BridgeAttrs>,
    /// `IFLA_BRPORT_STATE`, one of [`port_state`]; set for ports of bridges.
    pub port_state: Option<u8>,
    /// Is it an isolated port of its bridge?
    pub isolated: bool,
    /// Does its bridge learn who is behind it (`IFLA_BRPORT_LEARNING`)?
    pub learns: bool,
    /// Does its bridge send it what is for addresses that it does not know (`IFLA_BRPORT_UNICAST_FLOOD`)?
    pub floods: bool,
    /// Is it a port that only lets in whom the bridge was told of (`IFLA_BRPORT_LOCKED`)?
    pub locked: bool,
    /// `IFLA_QDISC`: what orders the packets that it sends.
    pub qdisc: String,
    /// The XDP program at its driver, or before the stack, by the kernel's number.
    pub xdp: Option<u32>,
    /// The number of the network namespace that its other end is in (`IFLA_LINK_NETNSID`), where that
    /// is another one.
    pub peer_netns: Option<u32>,
    /// What its driver can do, where that was asked for ([`super::Links::ask_drivers`]).
    pub driver: Driver,
    /// Its parameters for IP.
    pub conf: DeviceConf,
}

/// What only bridges have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeAttrs {
    /// The spanning tree protocol runs, in the kernel or in a daemon.
    pub stp: bool,
    /// How long a port stays in each of listening and learning.
    pub forward_delay_ms: u32,
    /// Its ports are held to VLANs.
    pub vlan_filtering: bool,
    /// It forgets at once where it saw a MAC address (ageing time 0), and so sends all to everybody, like a hub.
    pub is_hub: bool,
}

/// How far an address means something (`RT_SCOPE_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere.
    #[default]
    Global,
    /// Deprecated IPv6 site scope.
    Site,
    /// On this link.
    Link,
    /// On this host.
    Host,
    /// Another number.
    Other(u8),
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The device.
    pub index: u32,
    /// The host's own address (`IFA_LOCAL`).
    pub address: IpAddr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// Not `IFA_F_SECONDARY`.
    pub primary: bool,
    /// Its scope.
    pub scope: Scope,
}

impl Address {
    /// Is nobody else in its subnet?
    #[must_use]
    pub fn stands_alone(&self) -> bool {
        match self.address {
            IpAddr::V4(_) => self.prefix == 32,
            IpAddr::V6(_) => self.prefix == 128,
        }
    }
}

/// A route that sends packets somewhere (`RTN_UNICAST`); one per next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination and its prefix length.
    pub destination: (IpAddr, u8),
    /// Device packets leave by, where the route names one.
    pub index: Option<u32>,
    /// Next hop, where there is one.
    pub gateway: Option<IpAddr>,
    /// Routing table; 254 is the main one.
    pub table: u32,
    /// A router advertised it (`RTPROT_RA`).
    pub advertised: bool,
    /// Its MTU, where it names one.
    pub mtu: Option<u32>,
    /// What it costs beside others to the same destination; IPv4's 0 is none.
    pub metric: Option<u32>,
}

/// The host's devices, addresses and routes of both families, as the kernel told them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// By index.
    pub links: BTreeMap<u32, Link>,
    /// In the kernel's order.
    pub addresses: Vec<Address>,
    /// All tables; without local, broadcast and other routes that lead nowhere.
    pub routes: Vec<Route>,
}

/// A [`Dump`] in which devices are found by name, ports by bridge and addresses by device, so that to
/// look at every network takes one pass, however many there are. The dump itself is read-only, since
/// what it is found by would not follow; see [`Self::reserve_bridge`] for what can be added.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    dump: Dump,
    names: HashMap<String, u32>,
    ports: HashMap<u32, Vec<u32>>,
    addresses: HashMap<u32, Vec<usize>>,
}

impl From<Dump> for Snapshot {
    fn from(dump: Dump) -> Self {
        let mut snapshot = Self {
            dump,
            ..Self::default()
        };
        for link in snapshot.dump.links.values() {
            snapshot.names.insert(link.name.clone(), link.index);
            if let Some(controller) = link.controller {
                let ports = snapshot.ports.entry(controller).or_default();
                ports.push(link.index);
            }
        }
        for (at, address) in snapshot.dump.addresses.iter().enumerate() {
            let own = snapshot.addresses.entry(address.index).or_default();
            own.push(at);
        }
        snapshot
    }
}

impl Deref for Snapshot {
    type Target = Dump;

    fn deref(&self) -> &Dump {
        &self.dump
    }
}

impl Snapshot {
    /// The device called `name`.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.dump.links.get(self.names.get(name)?)
    }

    /// Count a bridge as there that is about to be made, and its subnets (address and length of the
    /// prefix) as taken.
    pub fn reserve_bridge(&mut self, name: &str, subnets: impl IntoIterator<Item = (IpAddr, u8)>) {
        // The kernel's numbers are positive as i32, so none of them is met.
        let last = self.dump.links.last_key_value().map(|(index, _)| *index);
        let index = last.map_or(0, |last| last + 1).max(1 << 31);
        let link = Link {
            index,
            name: name.to_owned(),
            ..Link::default()
        };
        self.names.insert(name.to_owned(), index);
        self.dump.links.insert(index, link);
        for (address, prefix) in subnets {
            let own = self.addresses.entry(index).or_default();
            own.push(self.dump.addresses.len());
            self.dump.addresses.push(Address {
                index,
                address,
                prefix,
                primary: true,
                scope: Scope::Global,
            });
        }
    }

    /// The devices that belong to `bridge`, by index.
    pub fn ports_of(&self, bridge: u32) -> impl Iterator<Item = &Link> {
        let ports = self.ports.get(&bridge).into_iter().flatten();
        ports.filter_map(|port| self.dump.links.get(port))
    }

    /// Does a device take part in the host's routing by itself: is it no loopback, and no port of
    /// another device? One that is a VRF's does.
    #[must_use]
    pub fn stands_alone(&self, link: &Link) -> bool {
        !link.loopback && (link.controller.is_none() || self.is_of_vrf(link))
    }

    /// Is a device a VRF, or does it belong to one?
    #[must_use]
    pub fn is_of_vrf(&self, link: &Link) -> bool {
        let of = link
            .controller
            .and_then(|index| self.dump.links.get(&index));
        of.unwrap_or(link).kind.as_deref() == Some("vrf")
    }

    /// The addresses of a device, in the kernel's order.
    pub fn addresses_of(&self, index: u32) -> impl Iterator<Item = &Address> {
        let own = self.addresses.get(&index).into_iter().flatten();
        own.filter_map(|&at| self.dump.addresses.get(at))
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let header = &message.header;
        let mut link = Self {
            index: header.index,
            ether: header.link_layer_type == LinkLayerType::Ether,
            headerless: matches!(
                header.link_layer_type,
                LinkLayerType::None
                    | LinkLayerType::Ppp
                    | LinkLayerType::Rawip
                    | LinkLayerType::Tunnel
            ),
            loopback: header.flags.contains(LinkFlags::Loopback),
            up: header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => {
                    link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::LinkInfo(infos) => link.take_infos(infos),
                LinkAttribute::Qdisc(name) => link.qdisc = name,
                LinkAttribute::AfSpecUnspec(families) => link.conf = DeviceConf::parse(&families),
                // Negative: there is none.
                LinkAttribute::LinkNetNsId(number) => link.peer_netns = number.try_into().ok(),
                LinkAttribute::Xdp(attributes) => {
                    link.xdp = attributes.iter().find_map(|attribute| match attribute {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// Kinds of devices that other hosts are behind, beside hardware, which has none.
const OUTSIDE_KINDS: [&str; 6] = ["bond", "team", "vlan", "vxlan", "gretap", "ip6gretap"];

impl Link {
    /// Are other hosts behind it, when it is a port of a bridge? Guests' devices are of other kinds.
    #[must_use]
    pub fn leads_outside(&self) -> bool {
        let kind = self.kind.as_deref();
        self.ether && kind.is_none_or(|kind| OUTSIDE_KINDS.contains(&kind))
    }

    fn take_infos(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = Some(kind.to_string()),
                LinkInfo::Data(InfoData::Bridge(attributes)) => {
                    self.bridge = Some(bridge_attrs(&attributes));
                }
                LinkInfo::PortData(InfoPortData::BridgePort(attributes)) => {
                    self.port_state = attributes.iter().find_map(|attribute| match attribute {
                        InfoBridgePort::State(state) => Some(u8::from(*state)),
                        _ => None,
                    });
                    self.isolated = attributes.contains(&InfoBridgePort::Isolated(true));
                    self.learns = attributes.contains(&InfoBridgePort::Learning(true));
                    self.floods = attributes.contains(&InfoBridgePort::UnicastFlood(true));
                    self.locked = attributes.contains(&InfoBridgePort::Locked(true));
                }
                _ => {}
            }
        }
    }
}

fn bridge_attrs(attributes: &[InfoBridge]) -> BridgeAttrs {
    let mut bridge = BridgeAttrs::default();
    for attribute in attributes {
        match attribute {
            InfoBridge::StpState(state) => bridge.stp = *state != BridgeStpState::Disabled,
            InfoBridge::ForwardDelay(ticks) => {
                bridge.forward_delay_ms = ticks.saturating_mul(TICK_MS);
            }
            InfoBridge::VlanFiltering(on) => bridge.vlan_filtering = *on,
            InfoBridge::AgeingTime(ticks) => bridge.is_hub = *ticks == 0,
            _ => {}
        }
    }
    bridge
}

/// Milliseconds as a bridge time, rounded up so that a short time does not become none.
pub(super) fn ticks(milliseconds: u32) -> u32 {
    milliseconds.div_ceil(TICK_MS)
}

impl Address {
    /// `None` for a message without an address.
    pub(super) fn parse(message: AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut address = None;
        let mut secondary = message.header.flags.contains(AddressHeaderFlags::Secondary);
        for attribute in message.attributes {
            match attribute {
                // The host's end; IFA_ADDRESS is the other one on point-to-point devices.
                AddressAttribute::Local(ip) => local = Some(ip),
                AddressAttribute::Address(ip) => address = Some(ip),
                AddressAttribute::Flags(flags) => {
                    secondary = flags.contains(AddressFlags::Secondary);
                }
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            address: local.or(address)?,
            prefix: message.header.prefix_len,
            primary: !secondary,
            scope: match message.header.scope {
                AddressScope::Universe => Scope::Global,
                AddressScope::Site => Scope::Site,
                AddressScope::Link => Scope::Link,
                AddressScope::Host => Scope::Host,
                other => Scope::Other(other.into()),
            },
        })
    }
}

impl Route {
    /// One route per next hop; none for routes that do not forward.
    pub(super) fn parse(message: RouteMessage) -> Vec<Self> {
        if message.header.kind != RouteType::Unicast {
            return Vec::new();
        }
        let mut route = Self {
            destination: (
                // A default route comes without a destination.
                match message.header.address_family {
                    AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                    AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
                    _ => return Vec::new(),
                },
                message.header.destination_prefix_length,
            ),
            index: None,
            gateway: None,
            table: u32::from(message.header.table),
            advertised: message.header.protocol == RouteProtocol::Ra,
            mtu: None,
            metric: None,
        };
        let mut hops = Vec::new();
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => {
                    route.destination.0 = IpAddr::V4(ip);
                }
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) => {
                    route.destination.0 = IpAddr::V6(ip);
                }
                // The header's table has only eight bits.
                RouteAttribute::Table(table) => route.table = table,
                RouteAttribute::Oif(index) => route.index = Some(index),
                RouteAttribute::Priority(metric) => route.metric = Some(metric),
                RouteAttribute::MultiPath(next_hops) => hops = next_hops,
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                other => route.gateway = gateway(&other).or(route.gateway),
            }
        }
        if hops.is_empty() {
            return vec![route];
        }
        hops.iter()
            .map(|hop| Self {
                index: Some(hop.interface_index),
                gateway: hop.attributes.iter().find_map(gateway),
                ..route.clone()
            })
            .collect()
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(ip))
        | RouteAttribute::Via(RouteVia::Inet(ip)) => Some(IpAddr::V4(*ip)),
        // RFC 5549: IPv4 by way of an IPv6 router.
        RouteAttribute::Gateway(RouteAddress::Inet6(ip))
        | RouteAttribute::Via(RouteVia::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
