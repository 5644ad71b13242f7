//! Whose steps are, and by what name things go in them.

use uuid::Uuid;

use super::desired::{Desired, Wanted};
use super::observed::Observed;
use super::step::{Act, Step};
use crate::link::Link;

pub(super) fn of(network: Uuid, act: impl Into<Act>) -> Step {
    Step {
        network: Some(network),
        act: act.into(),
    }
}

pub(super) fn of_all(act: impl Into<Act>) -> Step {
    Step {
        network: None,
        act: act.into(),
    }
}

pub(super) fn name_of(observed: &Observed, index: u32) -> String {
    let link = observed.links.links.get(&index);
    link.map_or_else(|| index.to_string(), |link| link.name.clone())
}

/// The network whose bridge, or a port of it, a device is.
pub(super) fn network_of(desired: &Desired<'_>, observed: &Observed, device: u32) -> Option<Uuid> {
    let link = observed.links.links.get(&device);
    let bridge = link.and_then(|link| link.controller).unwrap_or(device);
    desired.owners.get(&bridge).copied()
}

/// The networks that are to run and whose bridges are there.
pub(super) fn with_bridges<'d, 'a>(
    desired: &'d Desired<'a>,
    observed: &'d Observed,
) -> impl Iterator<Item = (&'d Wanted<'a>, &'d Link)> {
    let running = desired.wanted.iter().filter(|wanted| wanted.member.up);
    running.filter_map(|wanted| {
        let link = observed.links.links.get(&wanted.bridge?)?;
        Some((wanted, link))
    })
}
