//! `<ip>` with DHCP, and `<route>`.

use std::net::Ipv4Addr;

use super::inventor::{Inventor, Mode, Subnet};
use crate::documents::tree::Element;

impl Inventor<'_> {
    /// `<ip>` elements, and the subnets that they are of. One of each family serves DHCP at most.
    pub(super) fn ips(&mut self, mode: Mode) -> (Vec<Element>, Vec<Subnet>) {
        let needed = matches!(mode, Mode::Nat | Mode::Route);
        let count = *self.random.weighted(&[(12, 0), (58, 1), (22, 2), (8, 3)]);
        let count = count.max(usize::from(needed));
        let mut served = [false; 2];
        let mut ips = Vec::new();
        let mut subnets = Vec::new();
        for _ in 0..count {
            let subnet = match self.random.chance(70) {
                true => self.subnet4(),
                false => self.subnet6(),
            };
            let family = usize::from(matches!(subnet, Subnet::V6(..)));
            let serves = !served[family] && self.random.chance(65);
            served[family] |= serves;
            ips.push(self.ip(subnet, serves));
            subnets.push(subnet);
        }
        (ips, subnets)
    }

    pub(in crate::documents) fn subnet4(&mut self) -> Subnet {
        let base = match self.random.below(4) {
            0 => [10, self.random.below(256), self.random.below(256), 0],
            1 => [172, self.random.between(16, 31), self.random.below(256), 0],
            2 => [100, self.random.between(64, 127), self.random.below(256), 0],
            _ => [192, 168, self.random.below(256), 0],
        };
        let base = Ipv4Addr::from(base.map(|byte| byte as u8));
        let prefixes = [
            (60, 24),
            (6, 16),
            (2, 8),
            (4, 20),
            (4, 22),
            (6, 25),
            (6, 26),
            (6, 28),
            (4, 29),
            (2, 30),
        ];
        let prefix = *self.random.weighted(&prefixes);
        Subnet::V4(u32::from(base) & (u32::MAX << (32 - prefix)), prefix)
    }

    pub(super) fn subnet6(&mut self) -> Subnet {
        let prefixes = [
            (70, 64),
            (5, 48),
            (5, 56),
            (5, 80),
            (5, 96),
            (5, 112),
            (5, 120),
        ];
        let prefix: u8 = *self.random.weighted(&prefixes);
        let base = (0xfd00_u128 << 112) | (u128::from(self.random.draw()) << 48);
        Subnet::V6(base & (u128::MAX << (128 - u32::from(prefix))), prefix)
    }

    fn ip(&mut self, subnet: Subnet, serves: bool) -> Element {
        let number = match self.random.chance(85) {
            true => 1,
            false => self.random.between(1, subnet.last() as usize - 1) as u64,
        };
        let mut ip = Element::new("ip");
        let (is_v4, prefix) = match subnet {
            Subnet::V4(_, prefix) => (true, prefix),
            Subnet::V6(_, prefix) => (false, prefix),
        };
        if !is_v4 || self.random.chance(15) {
            ip = ip.with("family", if is_v4 { "ipv4" } else { "ipv6" });
        }
        ip = ip.with("address", self.spelt(&subnet.address(number)));
        ip = self.mask(ip, subnet, true);
        let pointer = match prefix % if is_v4 { 8 } else { 4 } {
            0 => self.yes_no(12),
            _ => self.maybe(5, |_| "no"),
        };
        ip = ip.opt("localPtr", pointer);
        if is_v4 && self.random.chance(6) {
            ip = ip.child(Element::new("tftp").with("root", "/usr/share"));
        }
        match serves {
            true => ip.child(self.dhcp(subnet)),
            false if self.random.chance(3) => ip.child(Element::new("dhcp")),
            false => ip,
        }
    }

    /// How long the prefix is, in one of the ways to say so.
    fn mask(&mut self, element: Element, subnet: Subnet, may_be_implied: bool) -> Element {
        let (is_v4, prefix, implied) = match subnet {
            Subnet::V4(net, prefix) => {
                let class = match net >> 24 {
                    0..128 => 8,
                    128..192 => 16,
                    _ => 24,
                };
                (true, prefix, class)
            }
            Subnet::V6(_, prefix) => (false, prefix, 64),
        };
        if may_be_implied && prefix == implied && self.random.chance(15) {
            return element;
        }
        if is_v4 && self.random.chance(60) {
            let mask = Ipv4Addr::from(u32::MAX << (32 - prefix));
            return element.with("netmask", mask);
        }
        element.with("prefix", prefix)
    }

    /// An address as some write it.
    fn spelt(&mut self, address: &str) -> String {
        match self.random.below(30) {
            0 => address.to_uppercase(),
            1 => address.replacen("::", ":0:", 1).replace(":0:0", "::"),
            _ => address.to_owned(),
        }
    }

    fn dhcp(&mut self, subnet: Subnet) -> Element {
        let mut ranges: Vec<Element> = (0..*self.random.weighted(&[(15, 0), (70, 1), (15, 2)]))
            .map(|_| self.range(subnet))
            .collect();
        let hosts: Vec<Element> = (0..self.few()).map(|_| self.dhcp_host(subnet)).collect();
        ranges.extend(hosts);
        if self.random.chance(8) && matches!(subnet, Subnet::V4(..)) {
            ranges.push(self.bootp());
        }
        Element::new("dhcp").children(ranges)
    }

    pub(in crate::documents) fn range(&mut self, subnet: Subnet) -> Element {
        // Neither the network's own address nor the broadcast address.
        let most = subnet.last() as usize - 1;
        let start = self.random.between(1, most);
        let end = self.random.between(start, most);
        let range = Element::new("range")
            .with("start", subnet.address(start as u64))
            .with("end", subnet.address(end as u64));
        range.children(self.lease())
    }

    fn lease(&mut self) -> Option<Element> {
        if !self.random.chance(20) {
            return None;
        }
        let units = ["seconds", "minutes", "hours"];
        let expiry = *self.random.pick(&[0, 120, 3600, 86400, 4_294_967_295_u32]);
        Some(
            Element::new("lease")
                .with("expiry", expiry)
                .opt("unit", self.maybe(60, |this| *this.random.pick(&units))),
        )
    }

    pub(in crate::documents) fn dhcp_host(&mut self, subnet: Subnet) -> Element {
        let number = self.random.between(1, subnet.last() as usize - 1) as u64;
        let (has_id, has_name) = *self
            .random
            .pick(&[(true, true), (true, false), (false, true)]);
        let name = has_name.then(|| match self.random.chance(10) {
            true => self.dns_name(),
            false => self.label(),
        });
        let host = Element::new("host");
        let host = match subnet {
            _ if !has_id => host,
            Subnet::V4(..) => host.with("mac", self.mac()),
            Subnet::V6(..) => host.with("id", self.duid()),
        };
        let host = host.opt("name", name).with("ip", subnet.address(number));
        host.children(self.lease())
    }

    /// The four types of RFC 8415, section 11.
    fn duid(&mut self) -> String {
        let mac = self.mac().to_lowercase();
        match self.random.below(4) {
            0 => format!("0:1:0:1:18:aa:62:fe:{mac}"),
            1 => "0:2:0:0:ab:11:1:2:3:4".to_owned(),
            2 => format!("00:03:00:01:{mac}"),
            _ => "0:4:7e:8:f4:29:1e:5:7a:b2:94:11:7a:b3:fa:1b:60:42".to_owned(),
        }
    }

    fn bootp(&mut self) -> Element {
        let files = ["pxelinux.0", "http://192.0.2.1/boot.ipxe", "/a b/c.efi"];
        Element::new("bootp")
            .with("file", self.random.pick(&files))
            .opt("server", self.maybe(40, |_| "192.0.2.1"))
    }

    /// Ways to other networks, by a neighbour in one of these.
    pub(super) fn routes(&mut self, subnets: &[Subnet]) -> Vec<Element> {
        if subnets.is_empty() {
            return Vec::new();
        }
        let count = *self.random.weighted(&[(88, 0), (9, 1), (3, 2)]);
        (0..count)
            .map(|_| {
                let by = *self.random.pick(subnets);
                let (to, family) = match by {
                    Subnet::V4(..) => (self.subnet4(), self.maybe(10, |_| "ipv4")),
                    Subnet::V6(..) => (self.subnet6(), Some("ipv6")),
                };
                let route = Element::new("route")
                    .opt("family", family)
                    .with("address", to.address(0));
                let gateway = self.random.between(1, by.last() as usize - 1) as u64;
                self.mask(route, to, false)
                    .with("gateway", by.address(gateway))
                    .opt(
                        "metric",
                        self.maybe(30, |this| *this.random.pick(&[1, 2, 100])),
                    )
            })
            .collect()
    }
}
