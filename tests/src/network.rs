//! Definitions of networks, as short as the tests need them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A managed network with one IPv4 subnet 10.10.N.0/24; the host has .1 on bridge `virbrN`.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its name.
    pub name: String,
    number: u8,
    forward: String,
    extra: String,
    dhcp: String,
    dns: bool,
}

/// NAT as in libvirt's own network `default`, with number 1.
impl Default for Network {
    fn default() -> Self {
        Self::nat("default", 1)
    }
}

impl Network {
    fn new(name: &str, number: u8, forward: &str) -> Self {
        Self {
            name: name.into(),
            number,
            forward: forward.into(),
            extra: String::new(),
            dhcp: String::new(),
            dns: false,
        }
    }

    /// Guests reach the outside behind the host's address.
    #[must_use]
    pub fn nat(name: &str, number: u8) -> Self {
        Self::new(name, number, "<forward mode='nat'/>")
    }

    /// The same with IPv6, which is masqueraded as well.
    #[must_use]
    pub fn nat6(name: &str, number: u8) -> Self {
        let forward = "<forward mode='nat'><nat ipv6='yes'/></forward>";
        Self::nat(name, number).forward(forward).ipv6()
    }

    /// Guests are routed with their own addresses.
    #[must_use]
    pub fn route(name: &str, number: u8) -> Self {
        Self::new(name, number, "<forward mode='route'/>")
    }

    /// Guests reach each other and the host alone.
    #[must_use]
    pub fn isolated(name: &str, number: u8) -> Self {
        Self::new(name, number, "")
    }

    /// No policy at all.
    #[must_use]
    pub fn open(name: &str, number: u8) -> Self {
        Self::new(name, number, "<forward mode='open'/>")
    }

    /// Another `<forward>` element.
    #[must_use]
    pub fn forward(mut self, xml: &str) -> Self {
        self.forward = xml.into();
        self
    }

    /// Adds elements below `<network>`.
    #[must_use]
    pub fn with(mut self, xml: &str) -> Self {
        self.extra += xml;
        self
    }

    /// Adds the IPv6 subnet fd00:10:N::/64, in which the host has ::1.
    #[must_use]
    pub fn ipv6(self) -> Self {
        let gateway = self.address6(1);
        self.with(&format!(
            "<ip family='ipv6' address='{gateway}' prefix='64'/>"
        ))
    }

    /// DNS, and DHCP from .100 to .200, with further elements below `<dhcp>`.
    #[must_use]
    pub fn dhcp(mut self, further: &str) -> Self {
        let (start, end) = (self.address(100), self.address(200));
        self.dhcp = format!("<dhcp><range start='{start}' end='{end}'/>{further}</dhcp>");
        self.dns = true;
        self
    }

    /// DNS without DHCP.
    #[must_use]
    pub fn dns(mut self) -> Self {
        self.dns = true;
        self
    }

    /// Its bridge.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("virbr{}", self.number)
    }

    /// An address of its subnet.
    #[must_use]
    pub fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 10, self.number, host)
    }

    /// An address of its IPv6 subnet, see [`Network::ipv6`].
    #[must_use]
    pub fn address6(&self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, self.number.into(), 0, 0, 0, 0, host)
    }

    /// The host's address in it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// Its subnet in the notation of `ip`.
    #[must_use]
    pub fn subnet(&self) -> String {
        format!("{}/24", self.address(0))
    }

    /// The definition. Without DHCP and DNS there is no dnsmasq, which saves time.
    #[must_use]
    pub fn xml(&self) -> String {
        let Self {
            name,
            forward,
            extra,
            dhcp,
            dns,
            ..
        } = self;
        let (bridge, gateway) = (self.bridge(), self.gateway());
        let dns = if *dns { "" } else { "<dns enable='no'/>" };
        format!(
            "<network><name>{name}</name>{forward}<bridge name='{bridge}'/>{extra}{dns}\
             <ip address='{gateway}' netmask='255.255.255.0'>{dhcp}</ip></network>"
        )
    }
}
