//! The steps of rates that networks are held to.

use std::collections::BTreeMap;

use super::desired::{Desired, Wanted};
use super::observed::Observed;
use super::shaping::{from_guests, shaper_ends};
use super::step::{Act, DeviceAct, Step};
use super::whose::{name_of, network_of, of, of_all, with_bridges};
use crate::model::Mac;
use crate::shaping::shaper;

/// Is any of it there, asked for or not?
pub(super) fn has_shaper(wanted: &Wanted<'_>, observed: &Observed) -> bool {
    wanted.spec.as_ref().is_some_and(|spec| {
        let ends = shaper::ends(&spec.name, spec.mac, &observed.links);
        ends.iter().any(Option::is_some)
    })
}

/// Devices for what guests send, where they are missing.
pub(super) fn shapers(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let missing = with_bridges(desired, observed).filter_map(|(wanted, _)| {
        from_guests(&wanted.member)?;
        let spec = wanted.spec.as_ref()?;
        if shaper_ends(&wanted.member, spec, &observed.links).is_some() {
            return None;
        }
        let (bridge, mac) = (spec.name.clone(), spec.mac);
        let act = DeviceAct::MakeShaper { bridge, mac };
        Some(of(wanted.member.network.uuid, act))
    });
    missing.collect()
}

/// Rates, where a device is held to others.
pub(super) fn shapes(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let wanted = desired.shapes.iter();
    let wanted = wanted.filter(|(index, shape)| observed.shapes.get(index) != Some(shape));
    let steps = wanted.map(|(&index, shape)| {
        let act = DeviceAct::Shape {
            index,
            device: name_of(observed, index),
            shape: Box::new(shape.clone()),
        };
        of_device(desired, observed, index, act)
    });
    steps.collect()
}

/// Queues that nobody asks for, which are netd's own doing, and devices for what guests send beside any bridge.
pub(super) fn unshape(desired: &Desired<'_>, observed: &Observed) -> Vec<Step> {
    let (mut steps, gone) = remove_shapers(desired, observed);
    let held = observed.shapes.keys().copied();
    let stale = held.filter(|index| {
        !desired.shapes.contains_key(index)
            && !gone.contains(index)
            && observed.links.links.contains_key(index)
    });
    steps.extend(stale.map(|index| {
        let device = name_of(observed, index);
        let act = DeviceAct::Unshape { index, device };
        of_device(desired, observed, index, act)
    }));
    steps
}

fn of_device(desired: &Desired<'_>, observed: &Observed, index: u32, act: DeviceAct) -> Step {
    Step {
        network: network_of(desired, observed, index),
        act: Act::Device(act),
    }
}

/// The removal of devices that hold nobody's packets any more, and their numbers.
fn remove_shapers(desired: &Desired<'_>, observed: &Observed) -> (Vec<Step>, Vec<u32>) {
    let links = &observed.links;
    let bridges = links.links.values().filter(|link| link.bridge.is_some());
    let bridges = bridges.filter_map(|link| Some((link.name.as_str(), (link.mac?, None))));
    let mut all: BTreeMap<&str, (Mac, Option<&Wanted<'_>>)> = bridges.collect();
    for wanted in &desired.wanted {
        if let Some(spec) = &wanted.spec {
            all.insert(&spec.name, (spec.mac, Some(wanted)));
        }
    }
    let (mut steps, mut gone) = (Vec::new(), Vec::new());
    for (bridge, (mac, wanted)) in all {
        let ends = shaper::ends(bridge, mac, links);
        let is_needed = wanted.is_some_and(|wanted| from_guests(&wanted.member).is_some());
        if is_needed || ends.iter().all(Option::is_none) {
            continue;
        }
        gone.extend(ends.into_iter().flatten().map(|link| link.index));
        let bridge = bridge.to_owned();
        let act = DeviceAct::RemoveShaper { bridge, mac };
        steps.push(match wanted {
            Some(wanted) => of(wanted.member.network.uuid, act),
            None => of_all(act),
        });
    }
    (steps, gone)
}
