//! The canonical text of a network: what dumpxml prints and what is kept on disk.

use super::element::bridge::write_bridge;
use super::element::dns::{Dns, write_dns, write_domain};
use super::element::forward::{ForwardMode, write_forward};
use super::element::ip::{write_ip, write_route};
use super::element::port::{write_bandwidth, write_port_group, write_virtual_port, write_vlan};
use super::namespace::DNSMASQ_NAMESPACE;
use super::network::Network;
use super::network_port::NetworkPorts;
use super::write::{Tag, Writer};

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
    text(network, options, &NetworkPorts::default())
}

/// Prints the canonical text of an active network with these ports.
#[must_use]
pub fn format_live(network: &Network, ports: &NetworkPorts) -> String {
    let options = FormatOptions {
        inactive: false,
        connections: u32::try_from(ports.len()).ok(),
    };
    text(network, options, ports)
}

fn text(network: &Network, options: FormatOptions, ports: &NetworkPorts) -> String {
    let mut w = Writer::default();
    head(&mut w, network, options);
    if let Some(f) = network
        .forward
        .as_ref()
        .filter(|f| f.mode != ForwardMode::None)
    {
        write_forward(&mut w, f, options.inactive, &|device| {
            ports.users_of(device)
        });
    }
    write_bridge(&mut w, &network.bridge, network.is_managed());
    if let Some(mtu) = network.mtu {
        w.empty(Tag::new("mtu").attr("size", mtu));
    }
    if let Some(mac) = network.mac {
        w.empty(Tag::new("mac").attr("address", mac));
    }
    write_domain(&mut w, network.domain.as_ref());
    if let Some(d) = network.dns.as_ref().filter(|d| **d != Dns::default()) {
        write_dns(&mut w, d);
    }
    write_vlan(&mut w, network.vlan.as_ref());
    write_bandwidth(&mut w, network.bandwidth.as_ref());
    if network.port_isolated.is_some() {
        w.empty(Tag::new("port").yes_no("isolated", network.port_isolated));
    }
    for i in &network.ips {
        write_ip(&mut w, i);
    }
    for r in &network.routes {
        write_route(&mut w, r);
    }
    write_virtual_port(&mut w, network.virtualport.as_ref());
    for group in &network.portgroups {
        write_port_group(&mut w, group);
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
    if network.has_uuid() {
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
