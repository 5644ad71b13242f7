//! Which devices have the XDP fast path.

use std::collections::{BTreeMap, BTreeSet};

use netd_common::abi::{BridgePort, PORT_QUEUED};

use crate::config::Xdp;
use crate::datapath::{Attachment, Hook};
use crate::link::{Link, Snapshot};

/// What orders packets without holding any back for long: what a device has unless somebody chose
/// otherwise. Frames from drivers pass it by, so nothing that limits or shapes is among these.
const ORDINARY: [&str; 5] = ["noqueue", "pfifo_fast", "fq_codel", "fq", "mq"];

/// The XDP fast path at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FastPath {
    /// The programs in drivers.
    pub hooks: BTreeSet<Attachment>,
    /// The devices that may be sent what drivers have received, by ifindex.
    pub targets: BTreeSet<u32>,
}

/// The XDP fast path of devices that have the programs `hooks`, as the administrator (`xdp`) and
/// drivers allow. What guests at one of `ports` get and send may have to wait for its turn, which nothing does
/// there.
#[must_use]
pub fn fast_path(
    hooks: &BTreeSet<Attachment>,
    ports: &BTreeMap<u32, BridgePort>,
    snapshot: &Snapshot,
    xdp: &Xdp,
) -> FastPath {
    let mut fast = FastPath::default();
    for &Attachment { ifindex, hook } in hooks {
        let port = ports.get(&ifindex);
        if port.is_some_and(|port| port.flags & PORT_QUEUED != 0) {
            continue;
        }
        let Some(link) = snapshot.links.get(&ifindex) else {
            continue;
        };
        let hook = match hook {
            Hook::PortIngress => Hook::PortXdp,
            Hook::UplinkIngress => Hook::UplinkXdp,
            _ => continue,
        };
        let physical = hook == Hook::UplinkXdp && link.kind.is_none();
        if link.driver.redirects && xdp.wants(&link.name, physical) {
            fast.hooks.insert(Attachment { ifindex, hook });
        }
        if may_be_sent(link) {
            fast.targets.insert(ifindex);
        }
    }
    if fast.hooks.is_empty() {
        fast.targets.clear();
    }
    fast
}

fn may_be_sent(link: &Link) -> bool {
    link.driver.sends && link.up && ORDINARY.contains(&link.qdisc.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Driver, Dump};

    const ABLE: Driver = Driver {
        redirects: true,
        sends: true,
    };

    fn link(index: u32, name: &str, kind: Option<&str>, driver: Driver) -> (u32, Link) {
        let link = Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            up: true,
            qdisc: "fq_codel".to_owned(),
            driver,
            ..Link::default()
        };
        (index, link)
    }

    fn at(ifindex: u32, hook: Hook) -> Attachment {
        Attachment { ifindex, hook }
    }

    fn of(links: Vec<(u32, Link)>, hooks: &[Attachment], xdp: &Xdp) -> FastPath {
        let dump = Dump {
            links: links.into_iter().collect(),
            ..Dump::default()
        };
        let hooks = hooks.iter().copied().collect();
        fast_path(&hooks, &BTreeMap::new(), &dump.into(), xdp)
    }

    #[test]
    fn devices_have_it_that_can_and_may() {
        let hooks = [
            at(1, Hook::UplinkIngress),
            at(1, Hook::UplinkEgress),
            at(2, Hook::UplinkIngress),
            at(3, Hook::PortIngress),
            at(4, Hook::PortIngress),
            at(5, Hook::BridgeIngress),
        ];
        let links = || {
            vec![
                link(1, "eno1", None, ABLE),
                link(2, "old0", None, Driver::default()),
                link(3, "vnet0", Some("tun"), ABLE),
                link(4, "vnet1", Some("tun"), ABLE),
                link(5, "virbr0", Some("bridge"), Driver::default()),
            ]
        };
        assert_eq!(of(links(), &hooks, &Xdp::default()), FastPath::default());
        let physical = Xdp {
            physical: true,
            ..Xdp::default()
        };
        let fast = of(links(), &hooks, &physical);
        assert_eq!(fast.hooks, [at(1, Hook::UplinkXdp)].into());
        assert_eq!(fast.targets, [1, 3, 4].into());
        let ports = Xdp {
            on: vec!["vnet*".to_owned(), "virbr0".to_owned()],
            off: vec!["vnet1".to_owned()],
            ..Xdp::default()
        };
        let fast = of(links(), &hooks, &ports);
        assert_eq!(fast.hooks, [at(3, Hook::PortXdp)].into());
        assert_eq!(fast.targets, [1, 3, 4].into());
    }

    #[test]
    fn guests_whose_packets_wait_have_none() {
        let hooks = [at(1, Hook::UplinkIngress), at(3, Hook::PortIngress)];
        let dump = Dump {
            links: [
                link(1, "eno1", None, ABLE),
                link(3, "vnet0", Some("tun"), ABLE),
            ]
            .into(),
            ..Dump::default()
        };
        let snapshot = dump.into();
        let all = Xdp {
            physical: true,
            on: vec!["vnet*".to_owned()],
            ..Xdp::default()
        };
        let with = |flags| {
            let port = BridgePort {
                flags,
                ..BridgePort::default()
            };
            let ports = [(3, port)].into();
            fast_path(&hooks.into(), &ports, &snapshot, &all)
        };
        assert_eq!(with(0).targets, [1, 3].into());
        let queued = with(PORT_QUEUED);
        assert_eq!(queued.hooks, [at(1, Hook::UplinkXdp)].into());
        assert_eq!(queued.targets, [1].into());
    }

    /// P56: what a driver cannot take, or a queue would have limited, goes by TC.
    #[test]
    fn p56_devices_are_sent_what_they_can_take() {
        let hooks = [at(1, Hook::UplinkIngress), at(2, Hook::PortIngress)];
        let physical = Xdp {
            physical: true,
            ..Xdp::default()
        };
        let targets = |change: fn(&mut Link)| {
            let mut port = link(2, "vnet0", Some("tun"), ABLE);
            change(&mut port.1);
            of(vec![link(1, "eno1", None, ABLE), port], &hooks, &physical).targets
        };
        assert_eq!(targets(|_| {}), [1, 2].into());
        assert_eq!(targets(|link| link.driver.sends = false), [1].into());
        assert_eq!(targets(|link| link.qdisc = "htb".to_owned()), [1].into());
        assert_eq!(targets(|link| link.up = false), [1].into());
    }
}
