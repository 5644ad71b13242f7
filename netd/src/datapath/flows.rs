//! Flows that guests have opened, for whoever goes on with them.

use std::net::{IpAddr, SocketAddr};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use netd_common::abi::{Addr4, Addr6, FLOW_NAT, FLOW_REPLY, Flow, FlowKey};
use netd_common::proto;
use netd_common::state::State;

use super::error::Result;
use super::handle::Datapath;
use super::names;
use super::sync::error;
use crate::link::Translated;

impl Datapath {
    /// TCP and UDP of a bridge's guests whose source is translated and whose peer has answered.
    ///
    /// # Errors
    /// The flows cannot be read.
    pub fn translated(&self, bridge: u32) -> Result<Vec<Translated>> {
        let mut all = self.of_family::<Addr4>(names::FLOWS4, bridge)?;
        all.extend(self.of_family::<Addr6>(names::FLOWS6, bridge)?);
        Ok(all)
    }

    fn of_family<A>(&self, name: &'static str, bridge: u32) -> Result<Vec<Translated>>
    where
        A: Copy + Into<IpAddr> + PartialEq,
        FlowKey<A>: Pod,
        Flow<A>: Pod,
    {
        let path = self.dir.join("maps").join(name);
        let data = MapData::from_pin(path).map_err(error("open", name))?;
        let map: HashMap<MapData, FlowKey<A>, Flow<A>> =
            Map::HashMap(data).try_into().map_err(error("use", name))?;
        let mut found = Vec::new();
        for entry in map.iter() {
            let (key, flow) = entry.map_err(error("read", name))?;
            found.extend(translated(&key, &flow, bridge));
        }
        Ok(found)
    }
}

fn translated<A>(key: &FlowKey<A>, flow: &Flow<A>, bridge: u32) -> Option<Translated>
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
    let opened = flow.in_bridge == bridge && flow.flags & FLOW_REPLY == 0 && to_somebody;
    // What changes the destination as well goes by a forward of netd's.
    let source_only = flow.flags & FLOW_NAT != 0 && flow.new_dst == key.dst;
    let lives = match State::from_u8(flow.state) {
        State::Answered | State::Established => true,
        State::FinWait | State::CloseWait => tcp,
        _ => false,
    };
    let at = |address: A, port| SocketAddr::new(address.into(), u16::from_be_bytes(port));
    (opened && source_only && lives).then(|| Translated {
        tcp,
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
            tcp: true,
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
        let icmp = FlowKey4 {
            proto: proto::ICMP,
            ..key
        };
        assert_eq!(translated(&icmp, &flow, 5), None);
    }
}
