//! The canonical text of a network: what dumpxml prints and what is kept on disk.

use std::fmt::Display;

use super::network::Network;
use super::parse::DNSMASQ_NAMESPACE;
use super::types::{
    AddressRange, Bandwidth, Dhcp, Dns, Domain, Family, Forward, ForwardMode, Ip, IpMask,
    LeaseTime, LeaseUnit, MacTableManager, NativeVlan, PortGroup, PortRange, Rate, Route,
    VirtualPort, Vlan,
};
use super::xml;

/// What the text is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatOptions {
    /// Only what a definition says: no counter, no pool that was found through `<pf>`.
    pub inactive: bool,
    /// Number of plugged ports of an active network; zero is not printed.
    pub connections: Option<u32>,
}

/// Prints the canonical text, with a newline at its end.
///
/// A `<bootp>` without any range or host is not printed, as libvirt has it; neither is a UUID
/// that was not chosen yet.
#[must_use]
pub fn format(network: &Network, options: FormatOptions) -> String {
    let mut w = Writer::default();
    head(&mut w, network, options);
    if let Some(f) = network
        .forward
        .as_ref()
        .filter(|f| f.mode != ForwardMode::None)
    {
        forward(&mut w, f, options);
    }
    bridge(&mut w, network);
    if let Some(mtu) = network.mtu {
        w.empty(Tag::new("mtu").attr("size", mtu));
    }
    if let Some(mac) = network.mac {
        w.empty(Tag::new("mac").attr("address", mac));
    }
    domain(&mut w, network.domain.as_ref());
    if let Some(d) = network.dns.as_ref().filter(|d| **d != Dns::default()) {
        dns(&mut w, d);
    }
    vlan(&mut w, network.vlan.as_ref());
    bandwidth(&mut w, network.bandwidth.as_ref());
    if network.port_isolated.is_some() {
        w.empty(Tag::new("port").yes_no("isolated", network.port_isolated));
    }
    for i in &network.ips {
        ip(&mut w, i);
    }
    for r in &network.routes {
        route(&mut w, r);
    }
    virtual_port(&mut w, network.virtualport.as_ref());
    for group in &network.portgroups {
        port_group(&mut w, group);
    }
    dnsmasq_options(&mut w, &network.dnsmasq_options);
    w.end("network");
    w.out
}

/// The start of `<network>`, and what a network is called.
fn head(w: &mut Writer, network: &Network, options: FormatOptions) {
    let connections = options
        .connections
        .filter(|count| *count > 0 && !options.inactive);
    w.start(
        Tag::new("network")
            .opt(
                "xmlns:dnsmasq",
                (!network.dnsmasq_options.is_empty()).then_some(DNSMASQ_NAMESPACE),
            )
            .opt("connections", connections)
            .opt("ipv6", network.ipv6.then_some("yes"))
            .yes_no("trustGuestRxFilters", network.trust_guest_rx_filters),
    );
    w.text("name", &network.name);
    if !network.uuid.is_nil() {
        w.text("uuid", &network.uuid.to_string());
    }
    if let Some(title) = &network.title {
        w.text("title", title);
    }
    if let Some(description) = &network.description {
        w.text("description", description);
    }
    if !network.metadata.is_empty() {
        w.start(Tag::new("metadata"));
        for element in &network.metadata {
            w.line(&element.xml);
        }
        w.end("metadata");
    }
}

fn domain(w: &mut Writer, domain: Option<&Domain>) {
    if let Some(Domain {
        name: Some(name),
        local_only,
        register,
    }) = domain
    {
        w.empty(
            Tag::new("domain")
                .attr("name", name)
                .yes_no("localOnly", *local_only)
                .yes_no("register", *register),
        );
    }
}

fn dnsmasq_options(w: &mut Writer, options: &[String]) {
    if options.is_empty() {
        return;
    }
    w.start(Tag::new("dnsmasq:options"));
    for option in options {
        w.empty(Tag::new("dnsmasq:option").attr("value", option));
    }
    w.end("dnsmasq:options");
}

fn forward(w: &mut Writer, forward: &Forward, options: FormatOptions) {
    let Forward {
        mode,
        interfaces,
        addresses,
        pf,
        managed,
        driver,
        nat,
    } = forward;
    let show_pool = pf.is_none() || !options.inactive;
    let dev = interfaces.first().filter(|_| pf.is_none());
    let managed = (*mode == ForwardMode::Hostdev).then_some(*managed);
    let tag = Tag::new("forward")
        .opt("dev", dev)
        .attr("mode", mode)
        .yes_no("managed", managed);
    let nat = nat.as_ref().filter(|nat| **nat != super::Nat::default());
    let has_pool = show_pool && !(interfaces.is_empty() && addresses.is_empty());
    if driver.is_none() && nat.is_none() && pf.is_none() && !has_pool {
        w.empty(tag);
        return;
    }
    w.start(tag);
    if let Some(driver) = driver {
        w.empty(
            Tag::new("driver")
                .opt("name", driver.name.as_ref())
                .opt("model", driver.model.as_ref()),
        );
    }
    if let Some(nat) = nat {
        let tag = Tag::new("nat").yes_no("ipv6", nat.ipv6);
        if nat.address.is_none() && nat.port.is_none() {
            w.empty(tag);
        } else {
            w.start(tag);
            if let Some(AddressRange { start, end }) = nat.address {
                w.empty(Tag::new("address").attr("start", start).attr("end", end));
            }
            if let Some(PortRange { start, end }) = nat.port {
                w.empty(Tag::new("port").attr("start", start).attr("end", end));
            }
            w.end("nat");
        }
    }
    if let Some(pf) = pf {
        w.empty(Tag::new("pf").attr("dev", pf));
    }
    if show_pool {
        for dev in interfaces {
            w.empty(Tag::new("interface").attr("dev", dev));
        }
        for a in addresses {
            w.empty(
                Tag::new("address")
                    .attr("type", "pci")
                    .attr("domain", format_args!("0x{:04x}", a.domain))
                    .attr("bus", format_args!("0x{:02x}", a.bus))
                    .attr("slot", format_args!("0x{:02x}", a.slot))
                    .attr("function", format_args!("0x{:x}", a.function)),
            );
        }
    }
    w.end("forward");
}

fn bridge(w: &mut Writer, network: &Network) {
    let bridge = &network.bridge;
    let managed = network.is_managed();
    if !managed && bridge.name.is_none() && bridge.mac_table_manager.is_none() {
        return;
    }
    let manager = bridge.mac_table_manager.map(|manager| match manager {
        MacTableManager::Kernel => "kernel",
        MacTableManager::Libvirt => "libvirt",
    });
    w.empty(
        Tag::new("bridge")
            .opt("name", bridge.name.as_ref())
            .opt("zone", bridge.zone.as_ref())
            .opt(
                "stp",
                managed.then_some(if bridge.stp { "on" } else { "off" }),
            )
            .opt("delay", managed.then_some(bridge.delay))
            .opt("macTableManager", manager),
    );
}

fn dns(w: &mut Writer, dns: &Dns) {
    let Dns {
        enable,
        forward_plain_names,
        forwarders,
        txts,
        srvs,
        hosts,
    } = dns;
    let tag = Tag::new("dns")
        .yes_no("enable", *enable)
        .yes_no("forwardPlainNames", *forward_plain_names);
    if forwarders.is_empty() && txts.is_empty() && srvs.is_empty() && hosts.is_empty() {
        w.empty(tag);
        return;
    }
    w.start(tag);
    for f in forwarders {
        w.empty(
            Tag::new("forwarder")
                .opt("domain", f.domain.as_ref())
                .opt("addr", f.addr),
        );
    }
    for txt in txts {
        w.empty(
            Tag::new("txt")
                .attr("name", &txt.name)
                .opt("value", txt.value.as_ref()),
        );
    }
    for srv in srvs {
        w.empty(
            Tag::new("srv")
                .attr("service", &srv.service)
                .attr("protocol", &srv.protocol)
                .opt("domain", srv.domain.as_ref())
                .opt("target", srv.target.as_ref())
                .opt("port", srv.port)
                .opt("priority", srv.priority)
                .opt("weight", srv.weight),
        );
    }
    for host in hosts {
        w.start(Tag::new("host").attr("ip", host.ip));
        for name in &host.hostnames {
            w.text("hostname", name);
        }
        w.end("host");
    }
    w.end("dns");
}

fn vlan(w: &mut Writer, vlan: Option<&Vlan>) {
    let Some(vlan) = vlan.filter(|vlan| !vlan.tags.is_empty()) else {
        return;
    };
    w.start(Tag::new("vlan").opt("trunk", vlan.trunk.then_some("yes")));
    for tag in &vlan.tags {
        let native = tag.native.map(|native| match native {
            NativeVlan::Tagged => "tagged",
            NativeVlan::Untagged => "untagged",
        });
        w.empty(Tag::new("tag").attr("id", tag.id).opt("nativeMode", native));
    }
    w.end("vlan");
}

fn bandwidth(w: &mut Writer, bandwidth: Option<&Bandwidth>) {
    let Some(bandwidth) = bandwidth.filter(|b| **b != Bandwidth::default()) else {
        return;
    };
    w.start(Tag::new("bandwidth"));
    for (name, rate) in [
        ("inbound", &bandwidth.inbound),
        ("outbound", &bandwidth.outbound),
    ] {
        if let Some(Rate {
            average,
            peak,
            burst,
            floor,
        }) = rate
        {
            w.empty(
                Tag::new(name)
                    .attr("average", average)
                    .opt("peak", *peak)
                    .opt("floor", *floor)
                    .opt("burst", *burst),
            );
        }
    }
    w.end("bandwidth");
}

fn ip(w: &mut Writer, ip: &Ip) {
    w.start(sized(Tag::new("ip"), ip.family, ip.address, ip.mask).yes_no("localPtr", ip.local_ptr));
    if let Some(root) = &ip.tftp_root {
        w.empty(Tag::new("tftp").attr("root", root));
    }
    dhcp(w, &ip.dhcp);
    w.end("ip");
}

/// The attributes that `<ip>` and `<route>` begin with.
fn sized(tag: Tag, family: Option<Family>, address: std::net::IpAddr, mask: IpMask) -> Tag {
    let family = family.map(|family| match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    });
    let tag = tag.opt("family", family).attr("address", address);
    match mask {
        IpMask::Implied => tag,
        IpMask::Netmask(mask) => tag.attr("netmask", mask),
        IpMask::Prefix(prefix) => tag.attr("prefix", prefix),
    }
}

fn dhcp(w: &mut Writer, dhcp: &Dhcp) {
    let Dhcp {
        ranges,
        hosts,
        bootp,
    } = dhcp;
    if ranges.is_empty() && hosts.is_empty() {
        return;
    }
    w.start(Tag::new("dhcp"));
    for range in ranges {
        let tag = Tag::new("range")
            .attr("start", range.start)
            .attr("end", range.end);
        with_lease(w, tag, range.lease);
    }
    for host in hosts {
        let tag = Tag::new("host")
            .opt("mac", host.mac.as_ref())
            .opt("id", host.id.as_ref())
            .opt("name", host.name.as_ref())
            .opt("ip", host.ip);
        with_lease(w, tag, host.lease);
    }
    if let Some(bootp) = bootp {
        w.empty(
            Tag::new("bootp")
                .attr("file", &bootp.file)
                .opt("server", bootp.server.as_ref()),
        );
    }
    w.end("dhcp");
}

fn with_lease(w: &mut Writer, tag: Tag, lease: Option<LeaseTime>) {
    let Some(lease) = lease else {
        w.empty(tag);
        return;
    };
    let unit = match lease.unit {
        LeaseUnit::Seconds => "seconds",
        LeaseUnit::Minutes => "minutes",
        LeaseUnit::Hours => "hours",
    };
    let name = tag.name;
    w.start(tag);
    w.empty(
        Tag::new("lease")
            .attr("expiry", lease.expiry)
            .opt("unit", (lease.expiry != 0).then_some(unit)),
    );
    w.end(name);
}

fn route(w: &mut Writer, route: &Route) {
    w.empty(
        sized(Tag::new("route"), route.family, route.address, route.mask)
            .attr("gateway", route.gateway)
            .opt("metric", route.metric),
    );
}

fn virtual_port(w: &mut Writer, port: Option<&VirtualPort>) {
    let Some(port) = port.filter(|port| **port != VirtualPort::default()) else {
        return;
    };
    let tag = Tag::new("virtualport").opt("type", port.kind.as_ref());
    if port.parameters.is_empty() {
        w.empty(tag);
        return;
    }
    w.start(tag);
    w.empty(
        port.parameters
            .iter()
            .fold(Tag::new("parameters"), |tag, (name, value)| {
                tag.attr(name, value)
            }),
    );
    w.end("virtualport");
}

fn port_group(w: &mut Writer, group: &PortGroup) {
    w.start(
        Tag::new("portgroup")
            .attr("name", &group.name)
            .opt("default", group.default.then_some("yes"))
            .yes_no("trustGuestRxFilters", group.trust_guest_rx_filters),
    );
    vlan(w, group.vlan.as_ref());
    virtual_port(w, group.virtualport.as_ref());
    bandwidth(w, group.bandwidth.as_ref());
    w.end("portgroup");
}

/// A start tag on its way: its name and the text so far, without the end.
struct Tag {
    name: &'static str,
    text: String,
}

impl Tag {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            text: format!("<{name}"),
        }
    }

    fn attr(mut self, name: &str, value: impl Display) -> Self {
        self.text.push(' ');
        self.text.push_str(name);
        self.text.push_str("='");
        xml::escape_attribute(&mut self.text, &value.to_string());
        self.text.push('\'');
        self
    }

    fn opt(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    fn yes_no(self, name: &str, value: Option<bool>) -> Self {
        self.opt(name, value.map(|value| if value { "yes" } else { "no" }))
    }
}

/// The text so far and how deep it is indented.
#[derive(Default)]
struct Writer {
    out: String,
    level: usize,
}

impl Writer {
    fn line(&mut self, text: &str) {
        self.out.extend(std::iter::repeat_n("  ", self.level));
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn empty(&mut self, tag: Tag) {
        self.line(&(tag.text + "/>"));
    }

    fn start(&mut self, tag: Tag) {
        self.line(&(tag.text + ">"));
        self.level += 1;
    }

    fn end(&mut self, name: &str) {
        self.level -= 1;
        self.line(&format!("</{name}>"));
    }

    fn text(&mut self, name: &str, text: &str) {
        let mut escaped = String::with_capacity(text.len());
        xml::escape(&mut escaped, text);
        self.line(&format!("<{name}>{escaped}</{name}>"));
    }
}
