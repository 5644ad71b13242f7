//! Flows that guests have opened, for whoever goes on with them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use aya::Pod;
use netd_common::abi::{Addr4, Addr6, FLOW_NAT, FLOW_REPLY, Flow, FlowKey};
use netd_common::proto;
use netd_common::state::State;

use super::error::Result;
use super::flow_table::{Addresses, FlowTable};
use super::handle::Datapath;
use crate::link::{Running, Translated};

impl Datapath {
    /// TCP, UDP and echoes of a bridge's guests whose source is translated and whose peer has answered.
    ///
    /// # Errors
    /// The flows cannot be read.
    pub fn translated(&self, bridge: u32) -> Result<Vec<Translated>> {
        let mut all = self.select::<Addr4, _>(|key, flow| translated(key, flow, bridge))?;
        all.extend(self.select::<Addr6, _>(|key, flow| translated(key, flow, bridge))?);
        Ok(all)
    }

    /// TCP and UDP that pass one of these bridges, the host's own rules in between, and that both sides
    /// use.
    ///
    /// # Errors
    /// The flows cannot be read.
    pub fn running(&self, bridges: &BTreeSet<u32>) -> Result<Vec<Running>> {
        let mut all = self.select::<Addr4, _>(|key, flow| running(key, flow, bridges))?;
        all.extend(self.select::<Addr6, _>(|key, flow| running(key, flow, bridges))?);
        Ok(all)
    }

    fn select<A, T>(&self, pick: impl Fn(&FlowKey<A>, &Flow<A>) -> Option<T>) -> Result<Vec<T>>
    where
        A: Addresses,
        FlowKey<A>: Pod + Default,
        Flow<A>: Pod + Default,
    {
        let mut table = FlowTable::<A>::open(&self.dir)?;
        let mut found = Vec::new();
        let mut next = None;
        loop {
            next = table.each(next, |_, key, flow| {
                found.extend(pick(key, flow));
                Ok(())
            })?;
            if next.is_none() {
                return Ok(found);
            }
        }
    }
}

/// As the host's rules see a flow: what comes from a guest is not translated yet when it passes them,
/// what goes to one is already.
fn running<A>(key: &FlowKey<A>, flow: &Flow<A>, bridges: &BTreeSet<u32>) -> Option<Running>
where
    A: Copy + Into<IpAddr> + PartialEq,
{
    let tcp = match key.proto {
        proto::TCP => true,
        proto::UDP => false,
        _ => return None,
    };
    // A mapping is a flow to everybody, at no port.
    let to_somebody = key.dport != [0; 2];
    let opened = flow.flags & FLOW_REPLY == 0 && flow.in_bridge != flow.out_bridge;
    let theirs = [flow.in_bridge, flow.out_bridge]
        .iter()
        .any(|bridge| bridges.contains(bridge));
    if !(opened && theirs && to_somebody && lives(flow.state, tcp)) {
        return None;
    }
    let at = |address: A, port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    let to = if flow.out_bridge == 0 {
        at(key.dst, key.dport)
    } else {
        at(flow.new_dst, flow.new_dport)
    };
    Some(Running {
        tcp,
        from: at(key.src, key.sport),
        to,
    })
}

/// Do both sides use a flow in this state?
fn lives(state: u8, tcp: bool) -> bool {
    match State::from_u8(state) {
        State::Answered | State::Established => true,
        State::FinWait | State::CloseWait => tcp,
        _ => false,
    }
}

fn translated<A>(key: &FlowKey<A>, flow: &Flow<A>, bridge: u32) -> Option<Translated>
where
    A: Copy + Into<IpAddr> + PartialEq,
{
    // A mapping is a flow to everybody, at no port; an echo goes to no port, and has no mapping.
    let to_somebody = match key.proto {
        proto::TCP | proto::UDP => key.dport != [0; 2],
        proto::ICMP | proto::ICMPV6 => true,
        _ => return None,
    };
    let opened = flow.in_bridge == bridge && flow.flags & FLOW_REPLY == 0 && to_somebody;
    // What changes the destination as well goes by a forward of netd's.
    let source_only = flow.flags & FLOW_NAT != 0 && flow.new_dst == key.dst;
    let at = |address: A, port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    let lives = lives(flow.state, key.proto == proto::TCP);
    (opened && source_only && lives).then(|| Translated {
        protocol: key.proto,
        guest: at(key.src, key.sport),
        peer: at(key.dst, key.dport),
        seen_as: at(flow.new_src, flow.new_sport),
    })
}

#[cfg(test)]
mod tests {
    use netd_common::abi::{Flow4, FlowKey4};

    use super::*;

    #[test]
    fn running_flows_are_told_as_the_hosts_rules_see_them() {
        let bridges = BTreeSet::from([5]);
        let key = FlowKey4 {
            src: [192, 0, 2, 1],
            dst: [198, 51, 100, 2],
            sport: 5000u16.to_be_bytes(),
            dport: 80u16.to_be_bytes(),
            proto: proto::TCP,
            ..FlowKey4::default()
        };
        let published = Flow4 {
            new_src: key.src,
            new_dst: [10, 0, 0, 2],
            new_sport: key.sport,
            new_dport: 8080u16.to_be_bytes(),
            flags: FLOW_NAT,
            state: State::Established as u8,
            out_bridge: 5,
            ..Flow4::default()
        };
        let seen = Running {
            tcp: true,
            from: "192.0.2.1:5000".parse().unwrap(),
            to: "10.0.0.2:8080".parse().unwrap(),
        };
        assert_eq!(running(&key, &published, &bridges), Some(seen));
        let outbound = Flow4 {
            in_bridge: 5,
            out_bridge: 0,
            ..published
        };
        let seen = Running {
            to: "198.51.100.2:80".parse().unwrap(),
            ..seen
        };
        assert_eq!(running(&key, &outbound, &bridges), Some(seen));
        let others = [
            Flow4 {
                out_bridge: 6,
                ..published
            },
            Flow4 {
                in_bridge: 5,
                ..published
            },
            Flow4 {
                flags: FLOW_REPLY,
                ..published
            },
            Flow4 {
                state: State::New as u8,
                ..published
            },
        ];
        for other in others {
            assert_eq!(running(&key, &other, &bridges), None, "{other:?}");
        }
    }

    #[test]
    fn only_what_a_guest_has_opened_and_is_masqueraded_is_given_on() {
        let key = FlowKey4 {
            src: [10, 0, 0, 2],
            dst: [192, 0, 2, 1],
            sport: 5000u16.to_be_bytes(),
            dport: 80u16.to_be_bytes(),
            proto: proto::TCP,
            ..FlowKey4::default()
        };
        let flow = Flow4 {
            new_src: [198, 51, 100, 2],
            new_dst: key.dst,
            new_sport: 1024u16.to_be_bytes(),
            new_dport: key.dport,
            flags: FLOW_NAT,
            state: State::Established as u8,
            in_bridge: 5,
            ..Flow4::default()
        };
        let given = Translated {
            protocol: proto::TCP,
            guest: "10.0.0.2:5000".parse().unwrap(),
            peer: "192.0.2.1:80".parse().unwrap(),
            seen_as: "198.51.100.2:1024".parse().unwrap(),
        };
        assert_eq!(translated(&key, &flow, 5), Some(given));
        assert_eq!(translated(&key, &flow, 6), None);
        let others = [
            Flow4 { flags: 0, ..flow },
            Flow4 {
                flags: FLOW_NAT | FLOW_REPLY,
                ..flow
            },
            Flow4 {
                new_dst: [10, 0, 0, 3],
                ..flow
            },
            Flow4 {
                state: State::New as u8,
                ..flow
            },
            Flow4 {
                state: State::TimeWait as u8,
                ..flow
            },
        ];
        for other in others {
            assert_eq!(translated(&key, &other, 5), None, "{other:?}");
        }
        let echo = FlowKey4 {
            proto: proto::ICMP,
            dport: [0; 2],
            ..key
        };
        let given = Translated {
            protocol: proto::ICMP,
            peer: "192.0.2.1:0".parse().unwrap(),
            ..given
        };
        assert_eq!(translated(&echo, &flow, 5), Some(given));
        let gre = FlowKey4 { proto: 47, ..key };
        assert_eq!(translated(&gre, &flow, 5), None);
    }
}
