//! What the agent would write into the maps: networks, devices, guests, forwards.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, MapData, PerCpuArray};
use netd_common::abi::{
    Addr4, Addr6, Binding, BindingKey, CONTROL_BANS, CONTROL_FORWARDS, CONTROL_HOLDS,
    CONTROL_POLICIES, CONTROL_PREFIXES, CONTROL_SECOND_POLICIES, CONTROL_WHOLE_ADDRESSES, Control,
    Device, Endpoint, Forward, ForwardKey, GuestMoves, HeldFrame, IPSEC_POLICIES, IpsecPolicy,
    MacAddr, Mode, NETWORK_PREFIX, Network, PrefixPair,
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

    /// Let these IPsec policies count, as the first list or the `second`. Every flow looks again.
    pub fn set_policies<A: Address>(&mut self, policies: &[IpsecPolicy<A>], second: bool) {
        let first = if second { IPSEC_POLICIES } else { 0 };
        A::maps_mut(self).set_policies(first, policies);
        self.change_control(|control| {
            control.flags &= !(CONTROL_POLICIES | CONTROL_SECOND_POLICIES);
            if !policies.is_empty() {
                control.flags |= CONTROL_POLICIES;
            }
            if second {
                control.flags |= CONTROL_SECOND_POLICIES;
            }
            control.epoch += 1;
        });
    }

    /// As if an agent took the frames that are to be held.
    pub fn hold_frames(&mut self) {
        self.change_control(|control| control.flags |= CONTROL_HOLDS);
    }

    /// The frames that were handed over for that since this was last asked, with their device.
    pub fn held(&mut self) -> Vec<(u32, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(record) = self.held.next() {
            let word = |at: usize| record[at..at + 4].try_into().map(u32::from_ne_bytes);
            let length = word(offset_of!(HeldFrame, len)).expect("four bytes") as usize;
            let device = word(offset_of!(HeldFrame, ifindex)).expect("four bytes");
            all.push((device, record[HeldFrame::HEADER..][..length].to_vec()));
        }
        all
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
            mtu: 1500,
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
        if !self.still.load(Ordering::Relaxed) {
            return;
        }
        let still = GuestMoves {
            epoch: 0,
            // No more of them in this tick.
            raised: (now() + 1) * GuestMoves::IN_A_TICK - 1,
        };
        self.moved
            .lock()
            .expect("no test panics with it")
            .set(0, still, 0)
            .expect("guest_moves");
    }

    /// From now on they let flows look again.
    pub fn let_guests_move(&self) {
        self.still.store(false, Ordering::Relaxed);
        let mut moved = self.moved.lock().expect("no test panics with it");
        moved.set(0, GuestMoves::default(), 0).expect("guest_moves");
    }

    /// How often they did.
    pub fn moves(&self) -> u32 {
        let moved = self.moved.lock().expect("no test panics with it");
        moved.get(&0, 0).expect("guest_moves").epoch
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

    /// Ban a prefix from the network of a bridge ("": from the whole host), until seconds after boot;
    /// `None`: no longer.
    pub fn ban<A: Address>(&mut self, bridge: &str, address: A, len: u32, until: Option<u32>) {
        let bridge = match bridge {
            "" => 0,
            bridge => self.ifindex(bridge),
        };
        A::maps_mut(self).ban(bridge, address, len, until);
        // Flows look again, as the agent has them do.
        self.change_control(|control| {
            control.flags |= CONTROL_BANS;
            control.epoch += 1;
        });
    }

    /// Have the prefix of a network's guests translated.
    pub fn set_prefix(&mut self, bridge: &str, pair: PrefixPair<Addr6>, len: u8) {
        for prefix in [pair.inside, pair.outside] {
            self.prefixes
                .insert(&Key::new(u32::from(len), prefix), pair, 0)
                .expect("prefixes6");
        }
        self.change_network(bridge, |network| network.flags |= NETWORK_PREFIX);
        self.change_control(|control| control.flags |= CONTROL_PREFIXES);
    }

    /// Translate no prefixes.
    pub fn clear_prefixes(&mut self) {
        let keys: Vec<Key<Addr6>> = self
            .prefixes
            .keys()
            .map(|key| key.expect("a key"))
            .collect();
        for key in keys {
            self.prefixes.remove(&key).expect("a key that is there");
        }
    }

    /// Tell the programs a device's MAC address.
    pub fn set_mac(&mut self, device: &str, mac: MacAddr) {
        let ifindex = self.ifindex(device);
        let mut record = self.devices.get(&ifindex, 0).expect("devices");
        record.mac = mac;
        self.devices.insert(ifindex, record, 0).expect("devices");
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

    /// Let the programs send answers of their own as if they had not for a while.
    pub fn allow_answers(&mut self) {
        fill(&mut self.answers);
    }

    /// Let the programs tell of drops as if there had been none for a while.
    pub fn allow_events(&mut self) {
        fill(&mut self.told);
    }

    pub fn endpoint<A: Address>(&self, address: A) -> Option<Endpoint> {
        A::maps(self).endpoint(address)
    }
}

/// Fill the processors' buckets of tokens.
fn fill(buckets: &mut PerCpuArray<MapData, [u64; 2]>) {
    let processors = buckets.get(&0, 0).expect("a bucket").len();
    let filled_long_ago = aya::maps::PerCpuValues::try_from(vec![[0; 2]; processors]);
    buckets
        .set(0, filled_long_ago.expect("one value per CPU"), 0)
        .expect("a bucket");
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
