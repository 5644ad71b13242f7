//! The entries a flow consists of, as they should be.

use netd_common::abi::{Addr4, FLOW_NAT, FLOW_REPLY, Flow4, FlowKey4, MacAddr};
use netd_common::checksum::{difference, sum2, sum4};
use netd_common::flow::State;

use crate::lab::{Lab, now};
use crate::names::*;
use crate::packet::ICMP;

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
pub struct FromGuest {
    pub proto: u8,
    pub guest: (Addr4, u16),
    pub peer: (Addr4, u16),
    /// Address and port it shows outside; `None` when routed.
    pub shown: Option<(Addr4, u16)>,
    pub near: End,
    pub far: End,
    pub state: State,
}

/// TCP of the guest at `nat1` to the server.
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

impl FromGuest {
    pub fn established(mut self) -> Self {
        self.state = State::Established;
        self
    }

    /// Key of the packets the guest sends.
    pub fn key(&self) -> FlowKey4 {
        FlowKey4 {
            src: self.guest.0,
            dst: self.peer.0,
            sport: self.guest.1.to_be_bytes(),
            dport: if self.proto == ICMP {
                [0; 2]
            } else {
                self.peer.1.to_be_bytes()
            },
            proto: self.proto,
            zero: [0; 3],
        }
    }

    /// Key of the packets that come back.
    pub fn back_key(&self) -> FlowKey4 {
        let (address, port) = self.shown.unwrap_or(self.guest);
        FlowKey4 {
            src: address,
            sport: port.to_be_bytes(),
            ..self.key()
        }
        .reversed()
    }

    /// Both entries, as the first packet of `bytes` bytes leaves them.
    pub fn after_first(&self, lab: &Lab, bytes: usize) -> Vec<(FlowKey4, Flow4)> {
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
    pub fn entries(&self, lab: &Lab) -> Vec<(FlowKey4, Flow4)> {
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
        let flow = Flow4 {
            new_src: shown.0,
            new_dst: key.dst,
            new_sport: shown.1,
            new_dport: key.dport,
            in_ifindex: index(self.near.device),
            in_mac: self.near.macs.1,
            in_network: index(self.near.bridge),
            out_network: index(self.far.bridge),
            out_ifindex: index(self.far.device),
            out_dmac: self.far.macs.0,
            out_smac: self.far.macs.1,
            out_mtu: self.far.mtu,
            flags: nat,
            // A way that only the stack knows is looked at again each time.
            epoch: if self.far.device.is_empty() {
                epoch.wrapping_sub(1)
            } else {
                epoch
            },
            addr_diff: translation(nat, sum4(key.src), sum4(shown.0)),
            port_diff: translation(nat, sum2(key.sport), sum2(shown.1)),
            state: self.state as u8,
            last_seen: now(),
            ..Flow4::default()
        };
        let back = Flow4 {
            new_src: key.dst,
            new_dst: key.src,
            new_sport: key.dport,
            new_dport: key.sport,
            // Nothing is known of how guests answer, except that it is by their bridge.
            in_ifindex: index(self.far.bridge),
            in_mac: if self.far.bridge.is_empty() {
                [0; 6]
            } else {
                self.far.macs.1
            },
            in_network: index(self.far.bridge),
            out_network: index(self.near.bridge),
            out_ifindex: index(self.near.device),
            out_dmac: self.near.macs.0,
            out_smac: self.near.macs.1,
            out_mtu: self.near.mtu,
            flags: nat | FLOW_REPLY,
            epoch,
            addr_diff: translation(nat, sum4(shown.0), sum4(key.src)),
            port_diff: translation(nat, sum2(shown.1), sum2(key.sport)),
            state: self.state as u8,
            last_seen: now(),
            ..Flow4::default()
        };
        vec![(key, flow), (back_key, back)]
    }
}

fn translation(nat: u8, old: u64, new: u64) -> u16 {
    if nat == 0 { 0 } else { difference(old, new) }
}
