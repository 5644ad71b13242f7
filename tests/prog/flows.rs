//! The entries a flow consists of, as they should be.

use netd_common::abi::{
    Addr4, Addr6, FLOW_NAT, FLOW_REPLY, FLOW_SNAT, Flow, FlowKey, MacAddr, NextHop,
};
use netd_common::checksum::difference;
use netd_common::state::State;

use crate::family::Address;
use crate::lab::{Lab, now};
use crate::names::*;
use crate::packet::{DCCP, SCTP, TCP, UDP, UDP_LITE};

/// One end of a flow.
#[derive(Clone, Copy)]
pub struct End {
    /// Bridge, or "" for outside.
    pub bridge: &'static str,
    /// Device its frames leave by: a port, an uplink; "" while only the stack knows the way.
    pub device: &'static str,
    /// MAC addresses of frames that leave that way: to, from.
    pub macs: (MacAddr, MacAddr),
    pub mtu: u16,
}

pub const AT_NAT1: End = End {
    bridge: "br-nat",
    device: "nat1",
    macs: (GUEST_MAC, NAT_MAC),
    mtu: 1500,
};
pub const AT_ROUTE1: End = End {
    bridge: "br-route",
    device: "route1",
    macs: (ROUTE_GUEST_MAC, ROUTE_MAC),
    mtu: 1500,
};
pub const BY_ROUTER: End = End {
    bridge: "",
    device: "up0",
    macs: (ROUTER_MAC, UP0_MAC),
    mtu: 1500,
};

/// A flow opened by a guest.
#[derive(Clone, Copy)]
pub struct FromGuest<A = Addr4> {
    pub proto: u8,
    pub guest: (A, u16),
    pub peer: (A, u16),
    /// Address and port it shows outside; `None` when routed.
    pub shown: Option<(A, u16)>,
    pub near: End,
    pub far: End,
    pub state: State,
}

/// A flow of the guest at `nat1` to the server.
pub fn guest_to_server(proto: u8, port: u16, peer_port: u16) -> FromGuest {
    FromGuest {
        proto,
        guest: (GUEST, port),
        peer: (SERVER, peer_port),
        shown: Some((UP0, port)),
        near: AT_NAT1,
        far: BY_ROUTER,
        state: State::New,
    }
}

/// The same in IPv6.
pub fn guest_to_server6(proto: u8, port: u16, peer_port: u16) -> FromGuest<Addr6> {
    FromGuest {
        proto,
        guest: (GUEST6, port),
        peer: (SERVER6, peer_port),
        shown: Some((UP0_6, port)),
        near: AT_NAT1,
        far: BY_ROUTER,
        state: State::New,
    }
}

impl<A: Address> FromGuest<A> {
    pub fn established(self) -> Self {
        self.in_state(State::Established)
    }

    pub fn in_state(mut self, state: State) -> Self {
        self.state = state;
        self
    }

    fn ports(&self, port: u16, peer_port: u16) -> ([u8; 2], [u8; 2]) {
        match self.proto {
            TCP | UDP | SCTP | UDP_LITE | DCCP => (port.to_be_bytes(), peer_port.to_be_bytes()),
            proto if proto == A::ICMP => (port.to_be_bytes(), [0; 2]),
            _ => ([0; 2], [0; 2]),
        }
    }

    /// Key of the packets the guest sends.
    pub fn key(&self) -> FlowKey<A> {
        let (sport, dport) = self.ports(self.guest.1, self.peer.1);
        FlowKey {
            src: self.guest.0,
            dst: self.peer.0,
            sport,
            dport,
            proto: self.proto,
            ..FlowKey::default()
        }
    }

    /// Key of the packets that come back.
    pub fn back_key(&self) -> FlowKey<A> {
        let (address, port) = self.shown.unwrap_or(self.guest);
        FlowKey {
            src: address,
            sport: self.ports(port, 0).0,
            ..self.key()
        }
        .reversed()
    }

    /// Both entries, as the first packet of `bytes` bytes leaves them.
    pub fn after_first(&self, lab: &Lab, bytes: usize) -> Vec<(FlowKey<A>, Flow<A>)> {
        let mut both = self.entries(lab);
        both[0].1.packets = 1;
        both[0].1.bytes = bytes as u64;
        both
    }

    /// Make it the only flow there is.
    pub fn only(&self, lab: &mut Lab) {
        let entries = self.entries(lab);
        lab.set_flows(&entries);
    }

    /// Both entries, of no packets.
    pub fn entries(&self, lab: &Lab) -> Vec<(FlowKey<A>, Flow<A>)> {
        let (key, back_key) = (self.key(), self.back_key());
        let index = |device: &str| {
            if device.is_empty() {
                0
            } else {
                lab.ifindex(device)
            }
        };
        let shown = (back_key.dst, back_key.dport);
        let nat = if self.shown.is_some() { FLOW_NAT } else { 0 };
        let epoch = lab.epoch();
        let flow = Flow {
            new_src: shown.0,
            new_dst: key.dst,
            new_sport: shown.1,
            new_dport: key.dport,
            in_ifindex: index(self.near.device),
            in_dmac: self.near.macs.1,
            in_bridge: index(self.near.bridge),
            out_bridge: index(self.far.bridge),
            next_hop: NextHop {
                ifindex: index(self.far.device),
                dmac: self.far.macs.0,
                smac: self.far.macs.1,
                mtu: self.far.mtu,
                zone: 0,
            },
            flags: if nat == 0 { 0 } else { nat | FLOW_SNAT },
            counted_for: index(self.near.bridge),
            // A way that only the stack knows is looked at again each time, and so is an association
            // that opens.
            epoch: if self.far.device.is_empty() || self.state.is_short_lived(self.proto) {
                epoch.wrapping_sub(1)
            } else {
                epoch
            },
            addr_diff: translation(nat, key.src.sum(), shown.0.sum()),
            state: self.state as u8,
            last_seen: now(),
            validated_at: now() as u8,
            ..Flow::default()
        };
        let back = Flow {
            new_src: key.dst,
            new_dst: key.src,
            new_sport: key.dport,
            new_dport: key.sport,
            // Nothing is known of how guests answer, except that it is by their bridge.
            in_ifindex: index(self.far.bridge),
            in_dmac: self.far.macs.1,
            in_bridge: index(self.far.bridge),
            out_bridge: index(self.near.bridge),
            next_hop: NextHop {
                ifindex: index(self.near.device),
                dmac: self.near.macs.0,
                smac: self.near.macs.1,
                mtu: self.near.mtu,
                zone: 0,
            },
            flags: nat | FLOW_REPLY,
            epoch,
            addr_diff: translation(nat, shown.0.sum(), key.src.sum()),
            state: self.state as u8,
            last_seen: now(),
            validated_at: now() as u8,
            ..Flow::default()
        };
        vec![(key, flow), (back_key, back)]
    }
}

fn translation(nat: u8, old: u64, new: u64) -> u16 {
    if nat == 0 { 0 } else { difference(old, new) }
}
