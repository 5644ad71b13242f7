//! What the agent would write into the maps: networks, devices, guests, forwards.

use aya::maps::{Array, MapData};
use netd_common::abi::{
    Addr4, Addr6, Binding, BindingKey, CONTROL_FORWARDS, CONTROL_WHOLE_ADDRESSES, Control, Device,
    Endpoint, Forward, ForwardKey, GuestMoves, MacAddr, Mode, Network,
};

use super::{Lab, now};
use crate::family::Address;

impl Lab {
    pub fn add_subnet<A: Address>(&mut self, address: A, len: u32, bridge: u32) {
        A::maps_mut(self).add_subnet(address, len, bridge);
    }

    pub fn remove_network(&mut self, bridge: &str) {
        let bridge = self.ifindex(bridge);
        self.networks.remove(&bridge).expect("networks");
        self.devices.remove(&bridge).expect("devices");
        self.usage.remove(&bridge).expect("usage");
        self.v4.remove_subnets(bridge);
        self.v6.remove_subnets(bridge);
    }

    /// Change a network's record.
    pub fn change_network(&mut self, bridge: &str, change: impl FnOnce(&mut Network)) {
        let bridge = self.ifindex(bridge);
        let mut network = self.networks.get(&bridge, 0).expect("networks");
        change(&mut network);
        self.networks.insert(bridge, network, 0).expect("networks");
    }

    pub fn set_mode(&mut self, bridge: &str, mode: Mode) {
        self.change_network(bridge, |network| {
            (network.v4.mode, network.v6.mode) = (mode as u8, mode as u8);
        });
    }

    pub fn set_device(&mut self, device: &str, address: Addr4, address6: Addr6, flags: u32) {
        let ifindex = self.ifindex(device);
        let device = Device {
            address,
            address6,
            flags,
            ..Device::default()
        };
        self.devices.insert(ifindex, device, 0).expect("devices");
    }

    /// Make an address one of the host's own, or no longer.
    pub fn set_own<A: Address>(&mut self, address: A, device: Option<&str>) {
        let ifindex = device.map(|device| self.ifindex(device));
        A::maps_mut(self).set_own(address, ifindex);
    }

    pub fn remove_device(&mut self, device: &str) {
        let ifindex = self.ifindex(device);
        self.devices.remove(&ifindex).expect("devices");
    }

    /// Guests that are seen for the first time let every flow look again, once a tick. For this
    /// tick they have.
    pub fn keep_guests_still(&self) {
        let still = GuestMoves {
            epoch: 0,
            raised_at: now(),
        };
        self.moved
            .lock()
            .expect("no test panics with it")
            .set(0, still, 0)
            .expect("guest_moves");
    }

    /// The identification chosen for a packet's fragments (by source and identification): `now`,
    /// unless one was seen before.
    pub fn chosen_identification(&self, whose: Vec<u8>, now: [u8; 2]) -> [u8; 2] {
        let mut all = self.identifications.lock().expect("no test panics with it");
        *all.entry(whose).or_insert(now)
    }

    pub fn change_control(&mut self, change: impl FnOnce(&mut Control)) {
        let mut control = self.control.get(&0, 0).expect("control");
        change(&mut control);
        self.control.set(0, control, 0).expect("control");
    }

    pub fn set_epoch(&mut self, epoch: u32) {
        self.change_control(|control| control.epoch = epoch);
    }

    pub fn epoch(&self) -> u32 {
        self.control.get(&0, 0).expect("control").epoch
    }

    /// Hold a port to what `flags` say.
    pub fn guard_port(&mut self, port: &str, flags: u32, mac: MacAddr) {
        let port = self.ifindex(port);
        let mut record = self.ports.get(&port, 0).expect("ports");
        (record.flags, record.mac) = (flags, mac);
        self.ports.insert(port, record, 0).expect("ports");
    }

    /// Say whose an address is.
    pub fn bind<A: Address>(&mut self, bridge: &str, address: A, mac: MacAddr) {
        let bridge = self.ifindex(bridge);
        A::maps_mut(self).bind(
            BindingKey {
                bridge_ifindex: bridge,
                address,
            },
            mac,
        );
    }

    /// Whose an address is.
    pub fn bound<A: Address>(&self, bridge: &str, address: A) -> Option<Binding> {
        let bridge = self.ifindex(bridge);
        A::maps(self).bound(&BindingKey {
            bridge_ifindex: bridge,
            address,
        })
    }

    /// Keep a port for the host's own services.
    pub fn set_reserved(&mut self, port: u16) {
        add_port(&mut self.reserved, port);
    }

    /// Publish a port, or, without one, an address with all that reaches it.
    pub fn publish<A: Address>(&mut self, forward: Published<A>) {
        let Published {
            proto,
            at: (device, address, port),
            bridge,
            to: (guest, to),
        } = forward;
        let key = ForwardKey {
            dev: device.map_or(0, |device| self.ifindex(device)),
            address,
            proto,
            pad: 0,
            port: port.to_be_bytes(),
        };
        let value = Forward {
            guest,
            bridge_ifindex: self.ifindex(bridge),
            first: port,
            to,
        };
        if proto == 0 {
            self.change_control(|control| control.flags |= CONTROL_WHOLE_ADDRESSES);
        } else {
            self.change_control(|control| control.flags |= CONTROL_FORWARDS);
            add_port(&mut self.published, port);
        }
        A::maps_mut(self).set_forward(key, Some(value));
    }

    /// Publish it no longer.
    pub fn unpublish<A: Address>(&mut self, forward: Published<A>) {
        let (device, address, port) = forward.at;
        let key = ForwardKey {
            dev: device.map_or(0, |device| self.ifindex(device)),
            address,
            proto: forward.proto,
            pad: 0,
            port: port.to_be_bytes(),
        };
        A::maps_mut(self).set_forward(key, None);
    }

    /// Let a device be sent what another driver received, or no longer.
    pub fn set_xdp_target(&mut self, device: &str, on: bool) {
        let ifindex = self.ifindex(device);
        if on {
            self.xdp_targets
                .insert(ifindex, ifindex, None, 0)
                .expect("xdp_targets");
        } else {
            self.xdp_targets.remove(ifindex).expect("xdp_targets");
        }
    }

    /// Say where a guest was seen.
    pub fn set_endpoint<A: Address>(&mut self, address: A, device: &str, mac: MacAddr) {
        let endpoint = Endpoint {
            ifindex: self.ifindex(device),
            last_seen: now(),
            bridged_at: now(),
            mac,
            pad: [0; 2],
        };
        A::maps_mut(self).set_endpoint(address, endpoint);
    }

    pub fn endpoint<A: Address>(&self, address: A) -> Option<Endpoint> {
        A::maps(self).endpoint(address)
    }
}

/// A forward of one port, or of an address (protocol 0).
#[derive(Clone, Copy)]
pub struct Published<A> {
    pub proto: u8,
    /// Device, address, port: those that do not say anything are none and zero.
    pub at: (Option<&'static str>, A, u16),
    /// Bridge of the guest's network.
    pub bridge: &'static str,
    /// The guest.
    pub to: (A, u16),
}

fn add_port(ports: &mut Array<MapData, u64>, port: u16) {
    let (word, bit) = (u32::from(port / 64), port % 64);
    let bits = ports.get(&word, 0).expect("ports");
    ports.set(word, bits | 1 << bit, 0).expect("ports");
}
