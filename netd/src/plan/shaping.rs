//! What `<bandwidth>` asks for: the devices in whose queues packets wait, and their rates.

use super::observed::Member;
use super::spec::BridgeSpec;
use crate::link::Snapshot;
use crate::model::Rate;
use crate::shaping::{Shape, shaper};

/// The ends of the device in whose queue what a network's guests send waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShaperEnds {
    /// Where it waits.
    pub out: u32,
    /// Where it comes out.
    pub back: u32,
}

/// What a network's guests may send, where they are held to a rate.
pub(super) fn from_guests<'a>(member: &Member<'a>) -> Option<&'a Rate> {
    let member = member.up.then_some(member)?;
    let outbound = member.network.bandwidth.as_ref()?.outbound.as_ref();
    outbound.filter(|rate| rate.average > 0)
}

/// The device for what a network's guests send, if it is asked for and all of it is there.
pub(super) fn shaper_ends(
    member: &Member<'_>,
    spec: &BridgeSpec,
    links: &Snapshot,
) -> Option<ShaperEnds> {
    from_guests(member)?;
    let [out, back] = shaper::ends(&spec.name, spec.mac, links);
    let (out, back) = (out?, back?);
    (out.up && back.up).then_some(ShaperEnds {
        out: out.index,
        back: back.index,
    })
}

/// The rates that devices are to be held to for one network: its bridge, by which guests get what they
/// get, and the device for what they send. The bridge has its queue where only the other direction is
/// held to a rate, too: its ports' packets go by it then, and none may be lost when it gets one.
pub(super) fn shapes_of(
    member: &Member<'_>,
    spec: &BridgeSpec,
    bridge: u32,
    links: &Snapshot,
) -> Vec<(u32, Shape)> {
    let mut shapes = Vec::new();
    if !member.up || !member.network.is_shaped() {
        return shapes;
    }
    let inbound = member.network.bandwidth.as_ref();
    let inbound = inbound.and_then(|bandwidth| bandwidth.inbound.as_ref());
    let inbound = inbound.and_then(|rate| Shape::new(rate, member.network_ports.floors()));
    shapes.push((bridge, inbound.unwrap_or_default()));
    if let (Some(ends), Some(rate)) = (shaper_ends(member, spec, links), from_guests(member)) {
        shapes.extend(Shape::new(rate, []).map(|shape| (ends.out, shape)));
    }
    shapes
}
