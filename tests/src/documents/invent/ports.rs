//! What guests' ports get: `<vlan>`, `<bandwidth>`, `<virtualport>`, `<portgroup>`, `<port>`.

use super::inventor::{Inventor, Mode};
use crate::documents::tree::Element;

impl Inventor<'_> {
    pub(super) fn of_ports(&mut self, mode: Mode) -> Vec<Element> {
        let mut parts = Vec::new();
        if self.random.chance(8) {
            parts.push(Element::new("port").opt("isolated", self.yes_no(90)));
        }
        // A pool has no bridge that could be held to a rate.
        let takes_bandwidth = mode.is_managed() || mode == Mode::Bridge;
        if takes_bandwidth && self.random.chance(12) {
            parts.push(self.bandwidth());
        }
        let has_virtual_port = !mode.is_managed() && self.random.chance(30);
        let kind = has_virtual_port.then(|| {
            *self
                .random
                .pick(&["openvswitch", "802.1Qbg", "802.1Qbh", "midonet"])
        });
        parts.extend(kind.map(|kind| self.virtual_port(Some(kind))));
        let takes_vlan = match mode {
            Mode::Bridge => kind.is_none_or(|kind| kind == "openvswitch"),
            Mode::Pool(name) => matches!(name, "hostdev" | "passthrough"),
            _ => false,
        };
        if takes_vlan && self.random.chance(30) {
            parts.push(self.vlan());
        }
        if self.random.chance(12) {
            for number in 0..self.random.between(1, 3) {
                let name = format!("{}{number}", self.label());
                parts.push(self.port_group(&name, takes_bandwidth, takes_vlan, number == 0));
            }
        }
        parts
    }

    pub(in crate::documents) fn bandwidth(&mut self) -> Element {
        let mut bandwidth = Element::new("bandwidth");
        for name in ["inbound", "outbound"] {
            if !self.random.chance(75) {
                continue;
            }
            let average = *self.random.pick(&[1, 128, 1000, 125_000, 10_000_000_u64]);
            bandwidth = bandwidth.child(
                Element::new(name)
                    .with("average", average)
                    .opt("peak", self.maybe(40, |_| average * 2))
                    .opt(
                        "burst",
                        self.maybe(40, |this| *this.random.pick(&[1, 256, 5120])),
                    ),
            );
        }
        bandwidth
    }

    fn vlan(&mut self) -> Element {
        let count = *self.random.weighted(&[(60, 1), (25, 2), (15, 3)]);
        let native = self.maybe(20, |this| this.random.below(count));
        let tags: Vec<Element> = (0..count)
            .map(|number| {
                let kind = *self.random.pick(&["tagged", "untagged"]);
                Element::new("tag")
                    .with("id", self.random.below(4096))
                    .opt("nativeMode", (native == Some(number)).then_some(kind))
            })
            .collect();
        let is_trunk = count > 1 || native.is_some();
        let trunk = match is_trunk {
            true => self.maybe(50, |_| "yes"),
            false => self.yes_no(15),
        };
        Element::new("vlan").opt("trunk", trunk).children(tags)
    }

    fn virtual_port(&mut self, kind: Option<&str>) -> Element {
        let port = Element::new("virtualport").opt("type", kind);
        let parameters = Element::new("parameters");
        let parameters = match kind {
            Some("802.1Qbg") => parameters
                .with("managerid", self.random.below(256))
                .with("typeid", self.random.pick(&["1193047", "16777215", "0"]))
                .with("typeidversion", self.random.below(256))
                .opt("instanceid", self.maybe(70, Self::uuid)),
            Some("802.1Qbh") => parameters.with("profileid", self.label()),
            Some("midonet") => parameters.with("interfaceid", self.uuid()),
            _ => parameters
                .opt("interfaceid", self.maybe(40, Self::uuid))
                .opt("profileid", self.maybe(40, Self::label)),
        };
        match parameters.attributes.is_empty() && self.random.chance(80) {
            true => port,
            false => port.child(parameters),
        }
    }

    pub(in crate::documents) fn port_group(
        &mut self,
        name: &str,
        takes_bandwidth: bool,
        takes_vlan: bool,
        may_be_default: bool,
    ) -> Element {
        let default = match may_be_default {
            true => self.yes_no(50),
            false => self.maybe(10, |_| "no"),
        };
        let mut group = Element::new("portgroup")
            .with("name", name)
            .opt("default", default)
            .opt("trustGuestRxFilters", self.yes_no(15));
        if self.random.chance(20) {
            group = group.child(self.virtual_port(None));
        }
        if takes_bandwidth && self.random.chance(50) {
            group = group.child(self.bandwidth());
        }
        if takes_vlan && self.random.chance(50) {
            group = group.child(self.vlan());
        }
        group
    }
}
