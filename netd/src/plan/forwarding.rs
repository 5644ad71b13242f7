//! Whether the host forwards, and who listens to routers meanwhile.

use super::desired::{Desired, needs_forwarding};
use super::observed::Observed;
use super::spec::FAMILIES;
use super::step::{DeviceAct, Step};
use super::whose::{name_of, of, of_all, with_bridges};
use crate::link::Scope as AddressScope;
use crate::model::Family;

/// The steps by which the host comes to forward, or to do what it did before.
#[must_use]
pub fn forwarding(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let listen = |index: u32, on| {
        let device = name_of(observed, index);
        of_all(DeviceAct::ListenToRouters { index, device, on })
    };
    let listens = |index: &u32| {
        let link = observed.links.links.get(index);
        let accept_ra = link.and_then(|link| link.conf.ipv6).map(|c| c.accept_ra);
        observed.listeners.contains(index) && accept_ra == Some(2)
    };
    // Before the host forwards: the kernel drops what routers told when it becomes one.
    let deaf = desired.listeners.iter().filter(|index| !listens(index));
    let mut steps: Vec<Step> = deaf.map(|index| listen(*index, true)).collect();
    for family in FAMILIES {
        let at = family as usize;
        let needed = desired.forwarding[at];
        if needed && observed.forwarding[at] != Some(true) {
            let others = match observed.forwarding_was[at] {
                None => begin_to_forward(desired, observed, family),
                Some(_) => Vec::new(),
            };
            steps.push(of_all(DeviceAct::EnableForwarding { family, others }));
        } else if needed {
            steps.extend(kept_bridges(desired, observed, family));
        }
        if let Some(was) = observed.forwarding_was[at]
            && !needed
        {
            steps.push(of_all(DeviceAct::RestoreForwarding(family, was)));
        }
    }
    let stale = observed.listeners.difference(&desired.listeners);
    steps.extend(stale.map(|index| listen(*index, false)));
    steps
}

/// Devices with addresses of their own that forward once the host does, and did not, if they are
/// more than one: it then forwards between them.
fn begin_to_forward(desired: &Desired<'_>, observed: &Observed, family: Family) -> Vec<String> {
    let links = &observed.links;
    let others = links.links.values().filter(|link| {
        let mut addresses = links.addresses_of(link.index);
        links.stands_alone(link)
            && !desired.owners.contains_key(&link.index)
            && link.conf.forwarding[family as usize] == Some(false)
            && addresses.any(|a| a.scope == AddressScope::Global && Family::of(a.address) == family)
    });
    let others: Vec<String> = others.map(|link| link.name.clone()).collect();
    if others.len() > 1 { others } else { Vec::new() }
}

/// Bridges that do not forward although the host does.
fn kept_bridges(desired: &Desired<'_>, observed: &Observed, family: Family) -> Vec<Step> {
    let kept = with_bridges(desired, observed).filter(|(wanted, link)| {
        needs_forwarding(wanted.member.network, family)
            && link.conf.forwarding[family as usize] == Some(false)
    });
    let steps = kept.map(|(wanted, link)| {
        let bridge = link.name.clone();
        let act = DeviceAct::ForwardFrom { bridge, family };
        of(wanted.member.network.uuid, act)
    });
    steps.collect()
}
