//! The parsed form of `<network>`: one type per element, one field per attribute.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use uuid::Uuid;

/// A MAC address, in transmission order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// `<network>`: everything one definition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// `<name>`, the key of a network for its users.
    pub name: String,
    /// `<uuid>`; nil until one was given or generated.
    pub uuid: Uuid,
    /// `<title>`, one line.
    pub title: Option<String>,
    /// `<description>`.
    pub description: Option<String>,
    /// `<metadata>`: the namespaced child elements, each as a tree.
    pub metadata: Vec<MetadataElement>,
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
}

/// One element kept under `<metadata>`, with its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataElement {
    /// Namespace URI of the element itself.
    pub namespace: String,
    /// The element as XML text, its namespace declared on it, formatted canonically for its place
    /// in a definition, with no indentation before its first line.
    pub xml: String,
}

/// `<forward mode>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForwardMode {
    /// `mode='none'` is the same as no `<forward>`.
    None,
    /// Guests reach the outside behind the host's address.
    #[default]
    Nat,
    /// Guests are routed with their own addresses.
    Route,
    /// The host's own firewall decides; netd adds no policy.
    Open,
    /// The host's own bridge, or macvtap in bridge mode.
    Bridge,
    /// macvtap private.
    Private,
    /// macvtap VEPA.
    Vepa,
    /// macvtap passthrough.
    Passthrough,
    /// PCI devices assigned to guests.
    Hostdev,
}

/// `<forward>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// `mode`.
    pub mode: ForwardMode,
    /// `<interface dev>` list; a `dev` attribute is its first member.
    pub interfaces: Vec<String>,
    /// `<address type='pci'>` list.
    pub addresses: Vec<PciAddress>,
    /// `<pf dev>`.
    pub pf: Option<String>,
    /// `managed='yes'` (hostdev only).
    pub managed: bool,
    /// `<driver name model>` (hostdev only).
    pub driver: Option<ForwardDriver>,
    /// `<nat>`.
    pub nat: Option<Nat>,
}

/// `<driver>` of a hostdev pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardDriver {
    /// `name`: kvm, vfio or xen.
    pub name: Option<String>,
    /// `model`.
    pub model: Option<String>,
}

/// A PCI address of a virtual function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Slot.
    pub slot: u8,
    /// Function.
    pub function: u8,
}

/// `<nat>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// `ipv6`: masquerade IPv6 too.
    pub ipv6: Option<bool>,
    /// `<address start end>`: what IPv4 packets leave with, in place of the uplink's address.
    pub address: Option<AddressRange>,
    /// `<port start end>`: what TCP and UDP packets leave with.
    pub port: Option<PortRange>,
}

/// IPv4 addresses from `start` to `end`, both included; the parser sees to it that they do not run
/// backwards and are at most 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The first.
    pub start: Ipv4Addr,
    /// The last.
    pub end: Ipv4Addr,
}

/// Ports from `start` to `end`, both included; the parser sees to it that they do not run
/// backwards. A definition may hold port 0, but cannot be started with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub start: u16,
    /// The last.
    pub end: u16,
}

impl PortRange {
    /// What translated packets leave with where nothing is given: guests get no port that other
    /// hosts may trust.
    pub const UNPRIVILEGED: Self = Self {
        start: 1024,
        end: 65535,
    };
}

impl Default for PortRange {
    fn default() -> Self {
        Self::UNPRIVILEGED
    }
}

/// `<bridge>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// `name`; may hold one `%d`, absent until one was chosen.
    pub name: Option<String>,
    /// `zone` of firewalld.
    pub zone: Option<String>,
    /// `stp`; on unless it says "off".
    pub stp: bool,
    /// `delay` in seconds.
    pub delay: u32,
    /// `macTableManager`.
    pub mac_table_manager: Option<MacTableManager>,
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            name: None,
            zone: None,
            stp: true,
            delay: 0,
            mac_table_manager: None,
        }
    }
}

/// `macTableManager`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacTableManager {
    /// The kernel learns addresses.
    Kernel,
    /// Static entries per guest.
    Libvirt,
}

/// `<domain>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// `name`.
    pub name: Option<String>,
    /// `localOnly`.
    pub local_only: Option<bool>,
    /// `register`.
    pub register: Option<bool>,
}

/// `<dns>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// `enable`; absent means yes.
    pub enable: Option<bool>,
    /// `forwardPlainNames`.
    pub forward_plain_names: Option<bool>,
    /// `<forwarder>` list.
    pub forwarders: Vec<DnsForwarder>,
    /// `<txt>` list.
    pub txts: Vec<DnsTxt>,
    /// `<srv>` list.
    pub srvs: Vec<DnsSrv>,
    /// `<host>` list.
    pub hosts: Vec<DnsHost>,
}

/// `<forwarder>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsForwarder {
    /// `domain`.
    pub domain: Option<String>,
    /// `addr`.
    pub addr: Option<IpAddr>,
}

/// `<txt>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsTxt {
    /// `name`.
    pub name: String,
    /// `value`.
    pub value: Option<String>,
}

/// `<srv>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSrv {
    /// `service`.
    pub service: String,
    /// `protocol`.
    pub protocol: String,
    /// `domain`.
    pub domain: Option<String>,
    /// `target`.
    pub target: Option<String>,
    /// `port`.
    pub port: Option<u16>,
    /// `priority`.
    pub priority: Option<u16>,
    /// `weight`.
    pub weight: Option<u16>,
}

/// `<host ip>` of `<dns>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHost {
    /// `ip`.
    pub ip: IpAddr,
    /// `<hostname>` list, never empty.
    pub hostnames: Vec<String>,
}

/// `<ip>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// `address`: the bridge's own.
    pub address: IpAddr,
    /// `family` as written (printed again when given).
    pub family: Option<Family>,
    /// How the size of the subnet was written.
    pub mask: IpMask,
    /// `localPtr`.
    pub local_ptr: Option<bool>,
    /// `<tftp root>`.
    pub tftp_root: Option<String>,
    /// `<dhcp>`.
    pub dhcp: Dhcp,
}

/// Address family as written in XML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `ipv4`.
    Ipv4,
    /// `ipv6`.
    Ipv6,
}

/// How the size of a subnet is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpMask {
    /// Neither `netmask` nor `prefix`: classful for IPv4, 64 for IPv6.
    #[default]
    Implied,
    /// `netmask`.
    Netmask(Ipv4Addr),
    /// `prefix`.
    Prefix(u8),
}

/// `<dhcp>` of one `<ip>`; empty when the element is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// `<range>` list.
    pub ranges: Vec<DhcpRange>,
    /// `<host>` list.
    pub hosts: Vec<DhcpHost>,
    /// `<bootp>`.
    pub bootp: Option<Bootp>,
}

/// `<range>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpRange {
    /// `start`.
    pub start: IpAddr,
    /// `end`, inclusive.
    pub end: IpAddr,
    /// `<lease>`.
    pub lease: Option<LeaseTime>,
}

/// `<host>` of `<dhcp>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhcpHost {
    /// `mac`, as written.
    pub mac: Option<String>,
    /// `id`: DUID, IPv6 only.
    pub id: Option<String>,
    /// `name`.
    pub name: Option<String>,
    /// `ip`.
    pub ip: Option<IpAddr>,
    /// `<lease>`.
    pub lease: Option<LeaseTime>,
}

/// `<lease expiry unit>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// `expiry`; 0 is infinite.
    pub expiry: u32,
    /// `unit`.
    pub unit: LeaseUnit,
}

/// `unit` of `<lease>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaseUnit {
    /// `seconds`.
    Seconds,
    /// `minutes`.
    #[default]
    Minutes,
    /// `hours`.
    Hours,
}

/// `<bootp>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bootp {
    /// `file`.
    pub file: String,
    /// `server`.
    pub server: Option<String>,
}

/// `<route>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `family` as written.
    pub family: Option<Family>,
    /// `address`: a network address.
    pub address: IpAddr,
    /// Size of the destination.
    pub mask: IpMask,
    /// `gateway`.
    pub gateway: IpAddr,
    /// `metric`; absent is 1.
    pub metric: Option<u32>,
}

/// `<bandwidth>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Towards the guests.
    pub inbound: Option<Rate>,
    /// From the guests.
    pub outbound: Option<Rate>,
}

/// One direction of `<bandwidth>`: rates in kilobytes per second, burst in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// `average`.
    pub average: u64,
    /// `peak`.
    pub peak: Option<u64>,
    /// `burst`.
    pub burst: Option<u64>,
    /// `floor` (ports only).
    pub floor: Option<u64>,
}

/// `<vlan>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vlan {
    /// `trunk` as printed: given, or implied by several tags.
    pub trunk: bool,
    /// `<tag>` list.
    pub tags: Vec<VlanTag>,
}

/// `<tag>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanTag {
    /// `id`.
    pub id: u16,
    /// `nativeMode`.
    pub native: Option<NativeVlan>,
}

/// `nativeMode` of a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeVlan {
    /// `tagged`.
    Tagged,
    /// `untagged`.
    Untagged,
}

/// `<virtualport>`: its type and parameters as written, in canonical order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualPort {
    /// `type`.
    pub kind: Option<String>,
    /// Attributes of `<parameters>` in the order of the canonical text.
    pub parameters: Vec<(String, String)>,
}

/// `<portgroup>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortGroup {
    /// `name`.
    pub name: String,
    /// `default='yes'`.
    pub default: bool,
    /// `trustGuestRxFilters`.
    pub trust_guest_rx_filters: Option<bool>,
    /// `<vlan>`.
    pub vlan: Option<Vlan>,
    /// `<virtualport>`.
    pub virtualport: Option<VirtualPort>,
    /// `<bandwidth>`.
    pub bandwidth: Option<Bandwidth>,
}

impl Network {
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

    /// Does the bridge have an address of this family?
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.ips.iter().any(|ip| Family::of(ip.address) == family)
    }

    /// Does the agent own this network's bridge (nat, route, isolated, open)?
    #[must_use]
    pub fn is_managed(&self) -> bool {
        matches!(
            self.mode(),
            ForwardMode::None | ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open
        )
    }
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl Ip {
    /// Length of the subnet's prefix in bits; what libvirt implies when none is written.
    /// A class D or E address without a mask has none and gives 32 (the parser refuses it).
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        prefix_len(self.address, self.mask)
    }
}

impl Route {
    /// Length of the destination's prefix in bits.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        prefix_len(self.address, self.mask)
    }
}

fn prefix_len(address: IpAddr, mask: IpMask) -> u8 {
    match (mask, address) {
        (IpMask::Prefix(len), _) => len,
        // The parser refuses a netmask with holes.
        (IpMask::Netmask(mask), _) => u32::from(mask).leading_ones() as u8,
        (IpMask::Implied, IpAddr::V4(a)) => match a.octets()[0] {
            _ if a.is_unspecified() => 0,
            0..=127 => 8,
            128..=191 => 16,
            192..=223 => 24,
            _ => 32,
        },
        (IpMask::Implied, IpAddr::V6(a)) => {
            if a == Ipv6Addr::UNSPECIFIED {
                0
            } else {
                64
            }
        }
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

impl std::fmt::Display for ForwardMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Nat => "nat",
            Self::Route => "route",
            Self::Open => "open",
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthrough => "passthrough",
            Self::Hostdev => "hostdev",
        })
    }
}
