//! `netd status NETWORK`: what one network has, and who uses it.

use std::net::IpAddr;

use serde::Serialize;
use uuid::Uuid;

use crate::api::{NetworkForwards, NetworkStatus, Problem};
use crate::cli::networks::find;
use crate::cli::output::{Failure, Output};
use crate::model::{self, AntiSpoof, ForwardMode, HostAccess, Network, PortForward};
use crate::rpc::Client;

pub(super) async fn details(
    client: &mut Client,
    output: &mut Output,
    network: &str,
    json: bool,
) -> Result<(), Failure> {
    let found = find(client, network).await?;
    let failed = |error| Failure::new(format!("Failed to get the status of {network}"), &error);
    let active = client.is_active(&found).await.map_err(failed)?;
    let xml = client.xml(&found, !active).await.map_err(failed)?;
    let definition = model::parse(&xml)
        .map_err(|error| Failure::from(format!("cannot read the definition: {error}")))?;
    let status = client.status().await.map_err(failed)?;
    let mut facts = Facts {
        running: status.networks.into_iter().find(|n| n.name == found.name),
        ..Facts::default()
    };
    if active {
        facts.leases = client.leases(&found, None).await.map_err(failed)?.len();
    }
    let forwards = client.forwards(Some(&found.name)).await.map_err(failed)?;
    let problems = client.doctor().await.map_err(failed)?.into_iter();
    let of_it = |problem: &Problem| problem.network.as_ref() == Some(&found.name);
    facts.problems = problems.filter(of_it).collect();
    facts.forwards = forwards.into_iter().find(|n| n.network == found.name);
    if json {
        return output.answer(&Told::new(&definition, &facts));
    }
    for (label, value) in lines(&definition, &facts) {
        output.data(format!("{:<14} {value}\n", format!("{label}:")));
    }
    Ok(())
}

/// What is not in the definition.
#[derive(Default)]
struct Facts {
    running: Option<NetworkStatus>,
    leases: usize,
    forwards: Option<NetworkForwards>,
    problems: Vec<Problem>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    name: &'a str,
    uuid: Uuid,
    active: bool,
    mode: String,
    uplinks: &'a [String],
    bridge: Option<&'a str>,
    addresses: Vec<String>,
    dhcp_ranges: Vec<[IpAddr; 2]>,
    isolated: bool,
    antispoof: Vec<&'static str>,
    host_access: &'static str,
    forwards: Vec<String>,
    dnsmasq: Option<u32>,
    leases: usize,
    ports: &'a [String],
    flows_ipv4: u32,
    flows_ipv6: u32,
    problems: &'a [Problem],
}

impl<'a> Told<'a> {
    fn new(network: &'a Network, facts: &'a Facts) -> Self {
        let running = facts.running.as_ref();
        let forward = network.forward.as_ref();
        let ranges = network.ips.iter().flat_map(|ip| &ip.dhcp.ranges);
        let addresses = network.ips.iter();
        let guards = network.netd.antispoof.as_ref();
        Self {
            name: &network.name,
            uuid: network.uuid,
            active: running.is_some(),
            mode: mode(network),
            uplinks: forward.map_or(&[], |forward| &forward.interfaces),
            bridge: network.bridge.name.as_deref(),
            addresses: addresses
                .map(|ip| format!("{}/{}", ip.address, ip.prefix_len()))
                .collect(),
            dhcp_ranges: ranges.map(|range| [range.start, range.end]).collect(),
            isolated: network.port_isolated == Some(true),
            antispoof: guards.map_or_else(Vec::new, |rules| rules.checks.names()),
            host_access: host_access(network),
            forwards: facts.shown_forwards().map(ToString::to_string).collect(),
            dnsmasq: running.and_then(|running| running.dnsmasq),
            leases: facts.leases,
            ports: running.map_or(&[], |running| &running.ports),
            flows_ipv4: running.map_or(0, |running| running.flows_ipv4),
            flows_ipv6: running.map_or(0, |running| running.flows_ipv6),
            problems: &facts.problems,
        }
    }
}

impl Facts {
    /// The forwards that are in force; of a network that does not run, those that will be.
    fn shown_forwards(&self) -> impl Iterator<Item = &PortForward> {
        let of = self.forwards.as_ref();
        let of = of.and_then(|of| of.live.as_ref().or(of.config.as_ref()));
        of.into_iter().flatten()
    }
}

fn mode(network: &Network) -> String {
    match network.mode() {
        ForwardMode::None => "isolated".to_owned(),
        mode => mode.to_string(),
    }
}

/// Labels and values, in the order they are printed.
fn lines(network: &Network, facts: &Facts) -> Vec<(&'static str, String)> {
    let running = facts.running.as_ref();
    let mut lines = vec![
        ("Name", network.name.clone()),
        (
            "State",
            if running.is_some() {
                "active"
            } else {
                "inactive"
            }
            .to_owned(),
        ),
        ("Mode", mode(network)),
    ];
    if let Some(forward) = &network.forward
        && !forward.interfaces.is_empty()
    {
        lines.push(("Uplink only", forward.interfaces.join(" ")));
    }
    if let Some(bridge) = &network.bridge.name {
        lines.push(("Bridge", bridge.clone()));
    }
    for ip in &network.ips {
        lines.push(("Address", format!("{}/{}", ip.address, ip.prefix_len())));
        for range in &ip.dhcp.ranges {
            lines.push(("DHCP range", format!("{} to {}", range.start, range.end)));
        }
    }
    let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    lines.push(("Isolated", yes_no(network.port_isolated == Some(true))));
    lines.push(("Anti-spoofing", antispoof(network.netd.antispoof.as_ref())));
    lines.push(("Host access", host_access(network).to_owned()));
    for forward in facts.shown_forwards() {
        lines.push(("Forward", forward.to_string()));
    }
    if let Some(running) = running {
        let dnsmasq = running.dnsmasq.map(|pid| format!("pid {pid}"));
        lines.push((
            "dnsmasq",
            dnsmasq.unwrap_or_else(|| "not running".to_owned()),
        ));
        lines.push(("DHCP leases", facts.leases.to_string()));
        let ports = running.ports.join(" ");
        lines.push((
            "Guest ports",
            if ports.is_empty() {
                "none".to_owned()
            } else {
                ports
            },
        ));
        let (v4, v6) = (running.flows_ipv4, running.flows_ipv6);
        lines.push(("Connections", format!("{v4} IPv4, {v6} IPv6")));
    }
    for problem in &facts.problems {
        lines.push(("Problem", problem.problem.clone()));
    }
    lines
}

fn antispoof(rules: Option<&AntiSpoof>) -> String {
    let Some(AntiSpoof { checks, guests }) = rules else {
        return "no".to_owned();
    };
    let mut text = checks.names().join(" ");
    for guest in guests {
        let allowed = guest.allowed.names();
        if !allowed.is_empty() {
            text.push_str(&format!("; {} may {}", guest.mac, allowed.join(" ")));
        }
    }
    text
}

fn host_access(network: &Network) -> &'static str {
    match network.netd.host.unwrap_or_default().access {
        HostAccess::All => "all",
        HostAccess::Services => "services",
        HostAccess::None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples::{forward, range};

    #[test]
    fn a_network_is_shown_with_what_it_has() {
        let network = model::parse(
            "<network><name>lab</name><bridge name='virbr7'/><port isolated='yes'/>\
             <forward mode='nat' dev='eth0'/><ip address='10.7.0.1' prefix='24'><dhcp>\
             <range start='10.7.0.100' end='10.7.0.200'/></dhcp></ip><metadata>\
             <netd:network xmlns:netd='urn:netd:network:1'><netd:antispoof nd='no'/>\
             <netd:host access='services'/></netd:network></metadata></network>",
        )
        .unwrap();
        let shown = |facts: &Facts| -> String {
            let lines = lines(&network, facts);
            lines
                .iter()
                .map(|(label, value)| format!("{label}={value};"))
                .collect()
        };
        let defined = "Mode=nat;Uplink only=eth0;Bridge=virbr7;Address=10.7.0.1/24;\
                       DHCP range=10.7.0.100 to 10.7.0.200;Isolated=yes;\
                       Anti-spoofing=mac ip arp dhcp;Host access=services;";
        assert_eq!(
            shown(&Facts::default()),
            format!("Name=lab;State=inactive;{defined}")
        );
        let facts = Facts {
            running: Some(NetworkStatus {
                dnsmasq: Some(7),
                ports: vec!["vnet0".into(), "vnet1".into()],
                flows_ipv4: 3,
                ..NetworkStatus::default()
            }),
            leases: 2,
            forwards: Some(NetworkForwards {
                network: "lab".into(),
                live: Some(vec![forward(
                    "10.7.0.5",
                    &[range(2222, 2222, Some(22), false)],
                )]),
                config: None,
            }),
            problems: vec![Problem {
                check: "host-rules".to_owned(),
                network: Some("lab".to_owned()),
                problem: "a rule".to_owned(),
                remedy: "do this".to_owned(),
            }],
        };
        assert_eq!(
            shown(&facts),
            format!(
                "Name=lab;State=active;{defined}Forward=tcp 2222 to 10.7.0.5 port 22;\
                 dnsmasq=pid 7;DHCP leases=2;Guest ports=vnet0 vnet1;Connections=3 IPv4, 0 IPv6;\
                 Problem=a rule;"
            )
        );
    }
}
