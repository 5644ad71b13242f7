//! Networks that run with another definition than before: what is left of the former one.

use uuid::Uuid;

use super::bridge;
use super::desired::Desired;
use super::given::Given;
use super::guards::is_to_be_isolated;
use super::observed::{Member, Observed};
use super::step::{DeviceAct, ServiceAct, Step};
use super::table;
use super::whose::of;
use crate::link::Link;

/// Does the relay of a network answer the host at other addresses than it is to?
#[must_use]
pub fn moves_gateway(network: Uuid, observed: &Observed) -> bool {
    let noted = observed.noted.get(&network);
    noted.is_some_and(|noted| {
        let former = noted.former.as_ref().filter(|_| !noted.furnished);
        former.is_some_and(|former| former.gateways != noted.given.gateways)
    })
}

/// Ports that former definitions isolated and this one does not.
#[must_use]
pub fn reunited(
    member: &Member<'_>,
    link: Option<&Link>,
    former: Option<&Given>,
    observed: &Observed,
) -> Vec<Step> {
    let Some(link) = link.filter(|_| former.is_some_and(|former| former.isolates)) else {
        return Vec::new();
    };
    let (network, guests) = (member.network, member.network_ports);
    let isolated = observed
        .links
        .ports_of(link.index)
        .filter(|port| port.isolated);
    let free = isolated.filter(|port| !is_to_be_isolated(network, guests, port));
    let acts = free.map(|port| DeviceAct::IsolatePort {
        index: port.index,
        port: port.name.clone(),
        on: false,
    });
    acts.map(|act| of(network.uuid, act)).collect()
}

/// Networks that have another definition than before, and nothing left of the former one.
#[must_use]
pub fn settle(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let running = desired.wanted.iter().filter(|wanted| wanted.member.up);
    let settled = running.filter_map(|wanted| {
        let member = &wanted.member;
        let noted = observed.noted.get(&member.network.uuid)?;
        let former = noted.former.as_ref()?;
        let link = observed.links.links.get(&wanted.bridge?);
        let spec = wanted.spec.as_ref();
        let (spec, link) = spec.zip(link)?;
        let is_left = bridge::has_leftovers(spec, link, former, &observed.links)
            || (!table::is_managed(member.network)
                && !table::of_ports(wanted, link, observed).is_empty())
            || !reunited(member, Some(link), Some(former), observed).is_empty()
            || (member.service.is_some() && !noted.furnished);
        let network = member.network.name.clone();
        (!is_left).then(|| of(member.network.uuid, ServiceAct::SettleNetwork { network }))
    });
    settled.collect()
}
