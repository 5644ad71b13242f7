//! `<forward>`: where packets go, or where devices come from.

use std::net::Ipv4Addr;

use super::inventor::{Inventor, Mode};
use crate::documents::tree::Element;

impl Inventor<'_> {
    pub(super) fn forward(&mut self, mode: Mode) -> Option<Element> {
        let forward = Element::new("forward");
        match mode {
            Mode::Isolated => None,
            Mode::Nat => {
                // The mode that is meant where none is given.
                let name = self.maybe(90, |_| "nat");
                let forward = self.outside(forward.opt("mode", name));
                Some(match self.random.chance(35) {
                    true => forward.child(self.nat()),
                    false => forward,
                })
            }
            Mode::Route => Some(self.outside(forward.with("mode", "route"))),
            Mode::Open => Some(forward.with("mode", "open")),
            Mode::Bridge => Some(forward.with("mode", "bridge")),
            Mode::Pool(name) => Some(self.pool(name)),
        }
    }

    /// The device that leads outside, where one is named.
    fn outside(&mut self, forward: Element) -> Element {
        let device = *self.random.pick(&["uplink", "eth0", "enp3s0"]);
        match self.random.below(10) {
            0 => forward.with("dev", device),
            1 => forward.child(Element::new("interface").with("dev", device)),
            2 => forward
                .with("dev", device)
                .child(Element::new("interface").with("dev", device)),
            _ => forward,
        }
    }

    fn nat(&mut self) -> Element {
        let mut nat = Element::new("nat").opt("ipv6", self.yes_no(40));
        if self.random.chance(40) {
            let start = 0xc633_6400 + self.random.below(200) as u32;
            let end = start + self.random.below(20) as u32;
            nat = nat.child(
                Element::new("address")
                    .with("start", Ipv4Addr::from(start))
                    .with("end", Ipv4Addr::from(end)),
            );
        }
        if self.random.chance(50) {
            let start = self.random.between(1, 60000);
            let end = self.random.between(start + 1, 65535);
            nat = nat.child(Element::new("port").with("start", start).with("end", end));
        }
        nat
    }

    fn pool(&mut self, mode: &str) -> Element {
        let forward = Element::new("forward").with("mode", mode);
        if mode == "hostdev" {
            return self.hostdev(forward);
        }
        let mut devices: Vec<String> = (0..self.random.between(1, 3))
            .map(|number| format!("eth{}", number + 7))
            .collect();
        if self.random.chance(30) {
            self.shuffle(&mut devices);
        }
        let first = self.maybe(30, |_| devices[0].clone());
        let only = first.is_some() && self.random.chance(30);
        let forward = forward.opt("dev", first);
        if only {
            return forward;
        }
        if self.random.chance(5) {
            let pf = Element::new("pf").with("dev", "eth9");
            return Element::new("forward").with("mode", mode).child(pf);
        }
        forward.children(
            devices
                .into_iter()
                .map(|device| Element::new("interface").with("dev", device)),
        )
    }

    fn hostdev(&mut self, forward: Element) -> Element {
        let forward = forward.opt("managed", self.yes_no(50));
        let forward = match self.random.chance(30) {
            true => forward.child(
                Element::new("driver")
                    .opt(
                        "name",
                        self.maybe(70, |this| *this.random.pick(&["vfio", "kvm", "xen"])),
                    )
                    .opt("model", self.maybe(20, |_| "vfio_pci_core"))
                    .opt("iommufd", self.yes_no(20)),
            ),
            false => forward,
        };
        if self.random.chance(30) {
            return forward.child(Element::new("pf").with("dev", "eth9"));
        }
        let count = self.random.between(1, 3);
        let addresses: Vec<Element> = (0..count)
            .map(|number| {
                Element::new("address")
                    .with("type", "pci")
                    .with("domain", "0x0000")
                    .with("bus", "0x03")
                    .with("slot", format!("0x{:02x}", 16 + number))
                    .with("function", format!("0x{}", self.random.below(8)))
            })
            .collect();
        forward.children(addresses)
    }
}
