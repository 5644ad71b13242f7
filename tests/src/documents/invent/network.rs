//! The definition as a whole.

use super::inventor::{BRIDGES, Inventor, Mode, Subnet};
use super::names::DNSMASQ;
use crate::documents::tree::Element;

impl Inventor<'_> {
    /// A definition of a network that could be started.
    pub fn network(&mut self) -> Element {
        let mode = *self.random.weighted(&[
            (34, Mode::Nat),
            (14, Mode::Route),
            (20, Mode::Isolated),
            (10, Mode::Open),
            (8, Mode::Bridge),
            (4, Mode::Pool("bridge")),
            (3, Mode::Pool("private")),
            (2, Mode::Pool("vepa")),
            (3, Mode::Pool("passthrough")),
            (2, Mode::Pool("hostdev")),
        ]);
        let mut parts = self.identity();
        parts.extend(self.forward(mode));
        parts.extend(self.bridge(mode));
        let mut addresses = Vec::new();
        if mode.is_managed() {
            let (ips, subnets) = self.ips(mode);
            addresses = ips;
            addresses.extend(self.routes(&subnets));
            parts.extend(self.managed(&subnets));
        }
        parts.extend(addresses);
        parts.extend(self.of_ports(mode));
        parts.extend(self.raw_options());
        // The order says nothing.
        if self.random.chance(40) {
            self.shuffle(&mut parts);
        }
        Element::new("network")
            .opt("ipv6", self.yes_no(6))
            .opt("trustGuestRxFilters", self.yes_no(5))
            .opt("connections", self.maybe(2, |this| this.random.below(9)))
            .opt("xmlns:dnsmasq", self.maybe(8, |_| DNSMASQ))
            .children(parts)
    }

    /// Name, UUID, title, description and metadata.
    fn identity(&mut self) -> Vec<Element> {
        let mut parts = vec![Element::new("name").text(self.network_name())];
        if self.random.chance(60) {
            parts.push(Element::new("uuid").text(self.uuid()));
        }
        if self.random.chance(15) {
            parts.push(Element::new("title").text(self.words()));
        }
        if self.random.chance(15) {
            let text = match self.random.chance(30) {
                true => format!("{}\n  {}\n", self.words(), self.words()),
                false => self.words(),
            };
            parts.push(Element::new("description").text(text));
        }
        if self.random.chance(15) {
            parts.push(self.metadata());
        }
        parts
    }

    /// What is the bridge's alone: `<bridge>`.
    fn bridge(&mut self, mode: Mode) -> Option<Element> {
        match mode {
            Mode::Bridge => {
                let manager = self.maybe(10, |this| *this.random.pick(&["kernel", "libvirt"]));
                let bridge = match self.random.chance(90) {
                    true => (*self.random.pick(&BRIDGES)).to_owned(),
                    false => self.device(),
                };
                let bridge = Element::new("bridge").with("name", bridge);
                return Some(bridge.opt("macTableManager", manager));
            }
            Mode::Pool(_) => return None,
            _ if self.random.chance(20) => return None,
            _ => {}
        }
        let name = self.maybe(90, |this| match this.random.chance(8) {
            true => (*this.random.pick(&["virbr%d", "lan%d"])).to_owned(),
            false => this.device(),
        });
        let bridge = Element::new("bridge")
            .opt("name", name)
            .opt(
                "stp",
                self.maybe(40, |this| *this.random.pick(&["on", "off"])),
            )
            .opt(
                "delay",
                self.maybe(40, |this| *this.random.pick(&[0, 2, 5, 31])),
            )
            .opt(
                "zone",
                self.maybe(3, |this| *this.random.pick(&["libvirt", "trusted"])),
            );
        let managers = ["kernel", "libvirt"];
        Some(bridge.opt(
            "macTableManager",
            self.maybe(8, |this| *this.random.pick(&managers)),
        ))
    }

    /// What stands beside the bridge of a managed network: MTU, MAC address, domain, DNS.
    fn managed(&mut self, subnets: &[Subnet]) -> Vec<Element> {
        let mut parts = Vec::new();
        if self.random.chance(15) {
            let sizes = [1280, 1400, 1450, 1500, 9000, 65535];
            parts.push(Element::new("mtu").with("size", self.random.pick(&sizes)));
        }
        if self.random.chance(50) {
            let mac = self.mac();
            parts.push(Element::new("mac").with("address", mac));
        }
        if self.random.chance(40) {
            parts.push(self.domain());
        }
        if self.random.chance(50) {
            parts.push(self.dns(subnets));
        }
        parts
    }
}
