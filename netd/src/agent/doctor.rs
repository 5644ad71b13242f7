//! `netd doctor`: what of this host is not as an administrator may believe.
//!
//! A check is a function from what was looked at to problems. To add one, write it and put it into
//! [`CHECKS`]; what it needs to see of the host goes into [`Look`].

use std::io;
use std::path::PathBuf;

use super::controller::Controller;
use crate::api::{ApiError, Problem, Result};
use crate::dnsmasq::{self, process::missing_servers};
use crate::firewall::{Finding, Guarded, Ruleset, legacy_tables, passed_by};
use crate::link::Snapshot;
use crate::model::{ForwardMode, Network, Prefix};

/// What checks look at.
pub(super) struct Look {
    /// Networks that pass the host's rules by.
    guarded: Vec<Guarded>,
    /// The host's rules.
    ruleset: Ruleset,
    /// Tables of the older iptables.
    legacy: Vec<String>,
    /// Networks that have a dnsmasq.
    served: Vec<Served>,
}

/// What a network's dnsmasq serves, and what it lacks.
struct Served {
    network: String,
    bridge: String,
    /// Ports of the bridge that lead its DHCP out of the host.
    lans: Vec<String>,
    /// What names the host's name servers, where that leads nowhere.
    missing: Option<PathBuf>,
}

/// A check, by its name.
type Check = (&'static str, fn(&Look) -> Vec<Found>);

/// What a check finds: network, problem, remedy.
type Found = (Option<String>, String, String);

/// Every check, in the order in which they are told.
const CHECKS: &[Check] = &[
    ("host-rules", host_rules),
    ("iptables-legacy", iptables_legacy),
    ("dhcp-into-lan", dhcp_into_lan),
    ("name-servers", name_servers),
];

/// Rules that name what is netd's, or ban somebody, and that guests' packets pass by.
fn host_rules(look: &Look) -> Vec<Found> {
    let found = passed_by(&look.ruleset, &look.guarded).into_iter();
    let told = found.map(|finding| {
        let (text, remedy) = (finding.to_string(), finding.remedy());
        (finding.network, text, remedy)
    });
    told.collect()
}

/// Rules that nobody can read without the older program.
fn iptables_legacy(look: &Look) -> Vec<Found> {
    if look.guarded.is_empty() || look.legacy.is_empty() {
        return Vec::new();
    }
    let problem = format!(
        "there are tables of the older iptables ({}), which netd does not read: guests' packets do not \
         pass their rules",
        look.legacy.join(", ")
    );
    let remedy = "look at their rules with these commands and -S; move them to nft or iptables-nft"
        .to_owned();
    vec![(None, problem, remedy)]
}

/// DHCP servers that answer to others than guests.
fn dhcp_into_lan(look: &Look) -> Vec<Found> {
    let ports = look.served.iter().flat_map(|served| {
        let bridge = &served.bridge;
        served.lans.iter().map(move |port| {
            let problem = format!(
                "port {port} of bridge {bridge} leads out of the host: the network's DHCP server \
                 answers in the LAN behind it"
            );
            let remedy = format!(
                "take the port out of the bridge (ip link set {port} nomaster), or <dhcp> out of \
                 the network"
            );
            (Some(served.network.clone()), problem, remedy)
        })
    });
    ports.collect()
}

/// Networks that do without the host's name servers.
fn name_servers(look: &Look) -> Vec<Found> {
    let without = look.served.iter().filter_map(|served| {
        let path = served.missing.as_ref()?.display();
        let problem = format!(
            "{path} leads to a folder that does not exist: guests are told no names of the host's \
             name servers"
        );
        let remedy = format!(
            "start what makes the folder (systemd-resolved, resolvconf), or let {path} lead to a \
             file; netd follows by itself"
        );
        Some((Some(served.network.clone()), problem, remedy))
    });
    without.collect()
}

impl Controller {
    /// Everything that the checks find.
    pub(super) async fn doctor(&self) -> Result<Vec<Problem>> {
        let mut look = self.look().await?;
        let snapshot = self.host.links.snapshot().await;
        look.served = self.served(&snapshot.map_err(ApiError::internal)?);
        let problems = CHECKS.iter().flat_map(|(check, find)| {
            find(&look)
                .into_iter()
                .map(|(network, problem, remedy)| Problem {
                    check: (*check).to_owned(),
                    network,
                    problem,
                    remedy,
                })
        });
        Ok(problems.collect())
    }

    async fn look(&self) -> Result<Look> {
        let snapshot = self.host.links.snapshot().await;
        let guarded = self.guarded(&snapshot.map_err(ApiError::internal)?);
        Ok(Look {
            guarded,
            ruleset: Ruleset::read().map_err(unreadable)?,
            legacy: legacy_tables(),
            served: Vec::new(),
        })
    }

    fn served(&self, snapshot: &Snapshot) -> Vec<Served> {
        let networks = self.networks.live().map(|live| &live.network);
        let served = networks.filter_map(|network| {
            let bridge = snapshot.by_name(network.bridge.name.as_deref()?)?;
            let ports = snapshot.ports_of(bridge.index);
            let outside = ports.filter(|port| port.leads_outside() && dnsmasq::has_dhcp(network));
            Some(Served {
                network: network.name.clone(),
                bridge: bridge.name.clone(),
                lans: outside.map(|port| port.name.clone()).collect(),
                missing: missing_servers(network, &self.host.paths),
            })
        });
        served.collect()
    }

    /// The host's rules that are passed by, for the log: each is told once, until it is gone.
    pub(super) async fn tell_host_rules(&mut self) {
        let found = match self.look().await {
            Ok(look) => passed_by(&look.ruleset, &look.guarded),
            Err(error) => {
                tracing::warn!(%error, "cannot tell which of the host's rules guests' packets pass by");
                return;
            }
        };
        for finding in found.iter().filter(|finding| !self.told(finding)) {
            tracing::warn!(
                network = finding.network.as_deref(),
                "{finding}; {}",
                finding.remedy()
            );
        }
        self.told_rules = found;
    }

    /// Was it told? The number of bans in a chain goes up and down.
    fn told(&self, finding: &Finding) -> bool {
        let same = |told: &Finding| match finding.network {
            Some(_) => told == finding,
            None => told.network.is_none() && chain_of(told) == chain_of(finding),
        };
        self.told_rules.iter().any(same)
    }

    /// What the host's rules say of a port that was published just now.
    pub(super) async fn rules_about_ports(&self, network: &str) -> Vec<String> {
        let look = match self.look().await {
            Ok(look) => look,
            Err(error) => return vec![error.to_string()],
        };
        let of_it = look
            .guarded
            .into_iter()
            .filter(|guarded| guarded.network == network);
        let found = passed_by(&look.ruleset, &of_it.collect::<Vec<_>>()).into_iter();
        found
            .map(|finding| format!("{finding}; {}", finding.remedy()))
            .collect()
    }

    fn guarded(&self, snapshot: &Snapshot) -> Vec<Guarded> {
        // Where rules are respected they are not passed by.
        let respects = |network: &Network| {
            let bridge = network.bridge.name.as_deref();
            let bridge = bridge.and_then(|name| snapshot.by_name(name));
            bridge.is_some_and(|bridge| self.respecting.contains(&bridge.index))
        };
        let networks = self.networks.live().map(|live| &live.network);
        networks
            .filter(|network| !respects(network))
            .filter_map(|network| guarded(network, snapshot))
            .collect()
    }
}

/// The chain of a finding's rule.
fn chain_of(finding: &Finding) -> &str {
    let place = finding.place.split_once(", handle");
    place.map_or(finding.place.as_str(), |(chain, _)| chain)
}

fn unreadable(error: io::Error) -> ApiError {
    ApiError::internal(format_args!("cannot read the host's rules: {error}"))
}

/// How rules can name a network; none for one whose packets pass them.
fn guarded(network: &Network, snapshot: &Snapshot) -> Option<Guarded> {
    if !matches!(
        network.mode(),
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::None
    ) {
        return None;
    }
    let bridge = snapshot.by_name(network.bridge.name.as_deref()?)?;
    let mut devices = vec![(bridge.name.clone(), bridge.index)];
    let ports = snapshot.ports_of(bridge.index);
    devices.extend(ports.map(|port| (port.name.clone(), port.index)));
    let foreign = snapshot.links.values();
    let foreign = foreign.filter(|link| link.bridge.is_some() && link.index != bridge.index);
    let subnets = network.ips.iter();
    let subnets = subnets.filter_map(|ip| Prefix::new(ip.address, ip.prefix_len()));
    let ranges = network
        .netd
        .forwards()
        .iter()
        .flat_map(|forward| &forward.ranges);
    let ports = ranges.filter(|range| !range.exclude).flat_map(|range| {
        let (first, last) = (range.start, range.end);
        let to = range.to.unwrap_or(first);
        [
            (first, last),
            (to, to.saturating_add(last.saturating_sub(first))),
        ]
    });
    Some(Guarded {
        network: network.name.clone(),
        devices,
        subnets: subnets.collect(),
        ports: ports.collect(),
        foreign: foreign.map(|link| link.name.clone()).collect(),
    })
}
