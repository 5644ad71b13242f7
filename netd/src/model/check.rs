//! The rules of a definition that go beyond reading it: what may be stored, what may be started.

use std::collections::HashSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};

use super::address::network_address;
use super::element::{
    AddressRange, Bandwidth, Bridge, Dns, ForwardMode, Ip, PortGroup, PortRange, Rate, VirtualPort,
};
use super::error::XmlError;
use super::name::{check_interface_name, check_name};
use super::network::Network;

/// Most that traffic control takes as a rate (kilobytes per second) and as a burst (KiB).
const MAX_RATE: u64 = 1 << 54;
const MAX_BURST: u64 = (1 << 22) - 1;
/// What the kernel takes as the MTU of a bridge with IPv4 on it.
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;

/// May the definition be stored? Names in use by other networks are for the caller to look up.
pub fn check_define(network: &Network) -> Result<(), XmlError> {
    check_name(&network.name)?;
    let checker = Checker(network);
    checker.texts()?;
    checker.interfaces()?;
    checker.forward_pool()?;
    checker.external_mode()?;
    checker.dhcp()?;
    checker.port_groups()?;
    checker.bandwidths()?;
    checker.vlans()?;
    network.check_netd()
}

/// May the definition be started: are its rules kept, and is all it asks for acted upon?
pub fn check_start(network: &Network) -> Result<(), XmlError> {
    check_define(network)?;
    let checker = Checker(network);
    let missing = checker.not_acted_upon();
    if !missing.is_empty() {
        return Err(XmlError::Unsupported(format!(
            "network '{}' cannot run with this definition: netd does not act upon {} yet; remove {}",
            network.name.escape_debug(),
            missing.join(", "),
            if missing.len() == 1 { "it" } else { "them" },
        )));
    }
    checker.addresses()?;
    checker.start_values()
}

/// May a network that libvirt runs be taken over with this definition? As [`check_start`], and libvirt
/// must not hold it to rates: nobody gives back the queues that it has for that.
pub fn check_take_over(network: &Network) -> Result<(), XmlError> {
    check_start(network)?;
    if network.is_shaped() {
        return Err(XmlError::Unsupported(format!(
            "network '{}' runs with <bandwidth>, whose queues are libvirt's: stop it there and start it \
             in netd, or remove <bandwidth>",
            network.name.escape_debug()
        )));
    }
    Ok(())
}

/// A network under check.
struct Checker<'a>(&'a Network);

impl Checker<'_> {
    fn refuse(&self, element: &str, detail: impl Display) -> XmlError {
        let name = self.0.name.escape_debug();
        XmlError::Invalid(format!("network '{name}', {element}: {detail}"))
    }

    /// What is written into dnsmasq's files must not break out of its line or field.
    fn texts(&self) -> Result<(), XmlError> {
        let network = self.0;
        // A line of its own: anything but control characters.
        let line = |element: &str, text: &str| {
            if text.chars().any(char::is_control) {
                let detail = format!("'{}' contains a control character", text.escape_debug());
                return Err(self.refuse(element, detail));
            }
            Ok(())
        };
        // A field among others: no separators either.
        let field = |element: &str, text: &str| {
            line(element, text)?;
            if text.contains(|c: char| c.is_whitespace() || ",/#\"\\".contains(c)) {
                let detail = format!("'{text}' contains a blank or one of , / # \" \\");
                return Err(self.refuse(element, detail));
            }
            Ok(())
        };
        if let Some(name) = network.domain.as_ref().and_then(|d| d.name.as_ref()) {
            field("<domain name>", name)?;
            self.host_name("<domain name>", name)?;
        }
        let no_dns = Dns::default();
        let dns = network.dns.as_ref().unwrap_or(&no_dns);
        for domain in dns.forwarders.iter().filter_map(|f| f.domain.as_ref()) {
            field("<forwarder domain>", domain)?;
        }
        for txt in &dns.txts {
            line("<txt name>", &txt.name)?;
            line("<txt value>", txt.value.as_deref().unwrap_or_default())?;
        }
        for text in dns
            .srvs
            .iter()
            .flat_map(|s| s.domain.iter().chain(&s.target))
        {
            field("<srv>", text)?;
        }
        for name in dns.hosts.iter().flat_map(|host| &host.hostnames) {
            field("<hostname>", name)?;
            self.host_name("<hostname>", name)?;
        }
        for ip in &network.ips {
            for name in ip.dhcp.hosts.iter().filter_map(|host| host.name.as_ref()) {
                field("<host name> of <dhcp>", name)?;
                self.host_name("<host name> of <dhcp>", name)?;
            }
            if let Some(root) = &ip.tftp_root {
                line("<tftp root>", root)?;
            }
            if let Some(bootp) = &ip.dhcp.bootp {
                line("<bootp file>", &bootp.file)?;
                if bootp.file.contains(',') {
                    return Err(self.refuse("<bootp file>", "contains ','"));
                }
            }
        }
        for option in &network.dnsmasq_options {
            line("<dnsmasq:option value>", option)?;
        }
        Ok(())
    }

    /// dnsmasq says nothing when a name cannot stand in DNS, and serves the guest without it or not
    /// at all.
    fn host_name(&self, element: &str, name: &str) -> Result<(), XmlError> {
        let refuse = |detail: &str| Err(self.refuse(element, format!("'{name}' {detail}")));
        if !name.is_ascii() {
            return refuse("is not ASCII; write it as DNS has it, with xn--…");
        }
        // RFC 1035, section 2.3.4.
        if let Some(label) = name.split('.').find(|label| label.len() > 63) {
            return refuse(&format!(
                "has a label of {} characters; 63 is the most that DNS has",
                label.len()
            ));
        }
        Ok(())
    }

    /// No address is the bridge's twice.
    fn addresses(&self) -> Result<(), XmlError> {
        let mut seen = HashSet::new();
        match self.0.ips.iter().find(|ip| !seen.insert(ip.address)) {
            None => Ok(()),
            Some(ip) => Err(self.refuse("<ip>", format!("{} is given twice", ip.address))),
        }
    }

    fn interfaces(&self) -> Result<(), XmlError> {
        let network = self.0;
        if let Some(name) = &network.bridge.name {
            // The template's number takes up to three digits; one has to fit.
            let sample = match name.matches('%').count() {
                1 if network.is_managed() => name.replacen("%d", "0", 1),
                _ => name.clone(),
            };
            check_interface_name(&sample).map_err(|why| {
                self.refuse("<bridge>", format!("name '{}' {why}", name.escape_debug()))
            })?;
        }
        if let Some(forward) = &network.forward {
            for dev in forward.interfaces.iter().chain(&forward.pf) {
                check_interface_name(dev).map_err(|why| {
                    self.refuse(
                        "<forward>",
                        format!("device '{}' {why}", dev.escape_debug()),
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Where the devices of a pool come from, and which modes have one.
    fn forward_pool(&self) -> Result<(), XmlError> {
        let Some(forward) = &self.0.forward else {
            return Ok(());
        };
        let mode = forward.mode;
        let sources = [
            !forward.interfaces.is_empty(),
            !forward.addresses.is_empty(),
            forward.pf.is_some(),
        ];
        let detail = if sources.into_iter().filter(|given| *given).count() > 1 {
            "<interface>, <address> and <pf> exclude each other".to_owned()
        } else if mode == ForwardMode::Hostdev && !forward.interfaces.is_empty() {
            "mode='hostdev' takes <address> or <pf>, not <interface>".to_owned()
        } else if mode != ForwardMode::Hostdev && !forward.addresses.is_empty() {
            format!("mode='{mode}' takes no PCI <address>")
        } else if self.0.is_managed() && forward.pf.is_some() {
            format!("mode='{mode}' takes no <pf>")
        } else {
            return Ok(());
        };
        let error = self.refuse("<forward>", detail);
        Err(error.of_kind(XmlError::Unsupported))
    }

    /// What has no meaning where the bridge, if any, is the host's.
    fn external_mode(&self) -> Result<(), XmlError> {
        let network = self.0;
        if network.is_managed() {
            return Ok(());
        }
        let mode = network.mode();
        let dns = network.dns.as_ref();
        let has_bandwidth =
            network.bandwidth.is_some() || network.portgroups.iter().any(|g| g.bandwidth.is_some());
        let takes_bandwidth = mode == ForwardMode::Bridge && network.bridge.name.is_some();
        let given = [
            (!network.ips.is_empty(), "<ip>"),
            (network.mac.is_some(), "<mac>"),
            (network.domain.is_some(), "<domain>"),
            (dns.is_some_and(|d| !d.txts.is_empty()), "<dns><txt>"),
            (dns.is_some_and(|d| !d.srvs.is_empty()), "<dns><srv>"),
            (dns.is_some_and(|d| !d.hosts.is_empty()), "<dns><host>"),
            (has_bandwidth && !takes_bandwidth, "<bandwidth>"),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            None => Ok(()),
            Some((_, element)) => {
                let detail = format!("has no place beside forward mode='{mode}'");
                Err(self.refuse(element, detail).of_kind(XmlError::Unsupported))
            }
        }
    }

    fn dhcp(&self) -> Result<(), XmlError> {
        let has_dhcp = |ip: &&Ip| ip.dhcp.serves();
        for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
            let of_family = self.0.ips.iter().filter(|ip| ip.address.is_ipv4() == is_v4);
            if of_family.filter(has_dhcp).count() > 1 {
                return Err(XmlError::Unsupported(format!(
                    "Multiple {family} dhcp sections found -- dhcp is supported only for a \
                     single {family} address on each network"
                )));
            }
        }
        for ip in &self.0.ips {
            let other = |a: &IpAddr| a.is_ipv4() != ip.address.is_ipv4();
            if let Some(wrong) = ip.dhcp.hosts.iter().filter_map(|h| h.ip).find(other) {
                let detail = format!("{wrong} is not of the family of its <ip>");
                return Err(self.refuse("<host> of <dhcp>", detail));
            }
        }
        Ok(())
    }

    fn port_groups(&self) -> Result<(), XmlError> {
        let groups = &self.0.portgroups;
        let mut names = HashSet::new();
        if let Some(group) = groups.iter().find(|g| !names.insert(&g.name)) {
            let detail = format!("name '{}' is used twice", group.name.escape_debug());
            let error = self.refuse("<portgroup>", detail);
            return Err(error.of_kind(XmlError::Unsupported));
        }
        if groups.iter().filter(|g| g.default).count() > 1 {
            let error = self.refuse("<portgroup>", "only one may be the default");
            return Err(error.of_kind(XmlError::Unsupported));
        }
        Ok(())
    }

    fn bandwidths(&self) -> Result<(), XmlError> {
        let groups = self.0.portgroups.iter().map(|g| &g.bandwidth);
        let all = std::iter::once(&self.0.bandwidth).chain(groups).flatten();
        for Bandwidth { inbound, outbound } in all {
            for rate in inbound.iter().chain(outbound) {
                let Rate {
                    average,
                    peak,
                    burst,
                    floor,
                } = *rate;
                if average.max(peak.unwrap_or(0)).max(floor.unwrap_or(0)) > MAX_RATE {
                    return Err(self.refuse("<bandwidth>", format!("a rate is above {MAX_RATE}")));
                }
                if burst.unwrap_or(0) > MAX_BURST {
                    return Err(self.refuse("<bandwidth>", format!("burst is above {MAX_BURST}")));
                }
            }
        }
        Ok(())
    }

    /// Who gets tags has a port that can carry them: a virtual function, or one of a Linux bridge or Open
    /// vSwitch.
    fn vlans(&self) -> Result<(), XmlError> {
        let network = self.0;
        let is_switch = |port: &VirtualPort| port.kind.as_deref() == Some("openvswitch");
        let is_bridge = network.mode() == ForwardMode::Bridge;
        let own = match network.mode() {
            ForwardMode::Hostdev | ForwardMode::Passthrough => true,
            ForwardMode::Bridge => network.virtualport.as_ref().is_none_or(is_switch),
            _ => false,
        };
        let is_tagged = network.vlan.is_some();
        let of_groups = |group: &PortGroup| match &group.virtualport {
            _ if !is_tagged && group.vlan.is_none() => true,
            Some(port) => is_bridge && is_switch(port),
            None => own,
        };
        // Guests without a group of their own are in the default one.
        let has_default = network.portgroups.iter().any(|group| group.default);
        if network.portgroups.iter().all(of_groups) && (own || !is_tagged || has_default) {
            return Ok(());
        }
        let error = self.refuse(
            "<vlan>",
            "is for hostdev and passthrough networks and for bridge networks on a host bridge or \
             Open vSwitch only",
        );
        Err(error.of_kind(XmlError::Unsupported))
    }

    /// Names of the elements that are understood, but have no effect in this version.
    fn not_acted_upon(&self) -> Vec<&'static str> {
        let network = self.0;
        let forward = network.forward.as_ref();
        let Bridge {
            name,
            mac_table_manager: _,
            zone: _,
            stp: _,
            delay: _,
        } = &network.bridge;
        let managed = network.is_managed();
        let on_bridge = managed || name.is_some();
        let has_pool = forward
            .is_some_and(|f| !f.interfaces.is_empty() || !f.addresses.is_empty() || f.pf.is_some());
        let poolless = match network.mode() {
            _ if on_bridge || has_pool => None,
            ForwardMode::Bridge => {
                Some("<forward mode='bridge'> without a host's <bridge> or an <interface>")
            }
            ForwardMode::Private => Some("<forward mode='private'> without an <interface>"),
            ForwardMode::Vepa => Some("<forward mode='vepa'> without an <interface>"),
            ForwardMode::Passthrough => Some("<forward mode='passthrough'> without an <interface>"),
            ForwardMode::Hostdev => Some("<forward mode='hostdev'> without an <address>"),
            _ => None,
        };
        let has_virtual_port = network.virtualport.is_some()
            || network.portgroups.iter().any(|g| g.virtualport.is_some());
        let optional = [
            (
                network.mode() != ForwardMode::Hostdev
                    && forward.is_some_and(|f| f.driver.is_some()),
                "<forward><driver>",
            ),
            (forward.is_some_and(|f| f.pf.is_some()), "<forward><pf>"),
            // Nobody keeps macvtap devices and PCI devices apart.
            (
                !on_bridge && network.port_isolated == Some(true),
                "<port isolated='yes'> of guests that are on no bridge",
            ),
            (
                network
                    .domain
                    .as_ref()
                    .is_some_and(|d| d.register == Some(true)),
                "<domain register>",
            ),
            (
                !managed && network.is_shaped(),
                "<bandwidth> of a network whose bridge is not netd's",
            ),
            (managed && has_virtual_port, "<virtualport>"),
        ];
        let optional = optional.into_iter().filter(|(given, _)| *given);
        poolless
            .into_iter()
            .chain(optional.map(|(_, name)| name))
            .collect()
    }

    /// Values that only matter once something is made of them.
    fn start_values(&self) -> Result<(), XmlError> {
        let network = self.0;
        if let Some(mtu) = network.mtu.filter(|mtu| !MTU.contains(mtu)) {
            let detail = format!("size='{mtu}' is not from {} to {}", MTU.start(), MTU.end());
            return Err(self.refuse("<mtu>", detail));
        }
        for ip in &network.ips {
            let prefix = ip.prefix_len();
            let at = format!("<ip address='{}'>", ip.address);
            let cannot_be = match ip.address {
                IpAddr::V4(_) => false,
                IpAddr::V6(a) => a.is_loopback() || a.to_ipv4_mapped().is_some(),
            };
            if cannot_be || ip.address.is_unspecified() || ip.address.is_multicast() || prefix == 0
            {
                return Err(self.refuse(&at, "is not an address a bridge can have"));
            }
            // A reverse zone has a label for each byte, or for each half one.
            let (bits, label, zones) = match ip.address {
                IpAddr::V4(_) => (32, 8, "of 8, 16 or 24"),
                IpAddr::V6(_) => (128, 4, "below 128 that is a multiple of 4"),
            };
            if ip.local_ptr == Some(true) && !(prefix < bits && prefix.is_multiple_of(label)) {
                let detail = format!("localPtr needs a prefix {zones}, not {prefix}");
                return Err(self.refuse(&at, detail));
            }
        }
        self.nat_ranges()
    }

    /// The ranges can be used: they hold addresses and ports that packets can come from.
    fn nat_ranges(&self) -> Result<(), XmlError> {
        let network = self.0;
        if let Some(range @ AddressRange { start, end }) = network.nat_addresses() {
            let refuse = |why: String| {
                let detail = format!("the range {start} - {end} {why}");
                Err(self.refuse("<nat><address>", detail))
            };
            // A range cannot hold such a block and begin and end outside of it: it would be too
            // long.
            let unusable = |a: Ipv4Addr| {
                a.octets()[0] == 0 || a.is_loopback() || a.is_multicast() || a.octets()[0] >= 240
            };
            if let Some(address) = [start, end].into_iter().find(|a| unusable(*a)) {
                return refuse(format!(
                    "holds {address}, which no packet can come from; give addresses that the \
                     host's neighbours send to it"
                ));
            }
            for (address, prefix) in network.ipv4_subnets() {
                if range.overlaps(address, prefix) {
                    return refuse(format!(
                        "overlaps {}/{prefix}, where the guests are",
                        network_address(IpAddr::V4(address), prefix)
                    ));
                }
            }
        }
        let PortRange { start, end } = network.nat_ports();
        if start == 0 {
            let detail = format!("the range {start} - {end} holds port 0, which nobody can use");
            return Err(self.refuse("<nat><port>", detail));
        }
        Ok(())
    }
}
