//! The ports of one network.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{NetworkPort, Plug};
use crate::model::element::{Mac, PoolDevice};

/// Most ports of a network: libvirt's protocol holds no longer list.
pub const MAX_PORTS: usize = 16_384;

/// Numbers of classes that are not a port's: traffic control's root, all of the network, and what has
/// no floor.
const RESERVED_CLASSES: u32 = 3;

/// Where a tap's MAC address differs from its guest's.
const OF_A_TAP: u8 = 0xfe;
/// The same, where the guest's address begins like a tap's.
const OF_A_TAP_INSTEAD: u8 = 0xfa;

/// The ports of one network, by UUID. Two of them may be of one MAC address: a client makes a new port
/// for a guest that it plugs in again before it deletes the old one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPorts {
    ports: BTreeMap<Uuid, NetworkPort>,
    /// Those ports, by the MAC address that libvirt gives their taps.
    by_tap: BTreeMap<Mac, BTreeSet<Uuid>>,
}

/// Whose a tap is, as far as ports tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapOwner {
    /// The guest's MAC address; none where several guests' taps would be called alike.
    pub mac: Option<Mac>,
    /// Is it isolated, where its ports say so?
    pub isolated: Option<bool>,
}

/// The MAC address that libvirt gives the tap of a guest's interface.
fn tap_of(Mac(mut bytes): Mac) -> Mac {
    bytes[0] = match bytes[0] {
        OF_A_TAP => OF_A_TAP_INSTEAD,
        _ => OF_A_TAP,
    };
    Mac(bytes)
}

impl NetworkPorts {
    /// Every port, by UUID.
    pub fn iter(&self) -> impl Iterator<Item = &NetworkPort> {
        self.ports.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// The port with this UUID.
    #[must_use]
    pub fn get(&self, uuid: Uuid) -> Option<&NetworkPort> {
        self.ports.get(&uuid)
    }

    /// Puts a port in, in place of the one with its UUID.
    pub fn insert(&mut self, port: NetworkPort) {
        self.remove(port.uuid);
        let of_tap = self.by_tap.entry(tap_of(port.mac)).or_default();
        of_tap.insert(port.uuid);
        self.ports.insert(port.uuid, port);
    }

    /// Takes a port out.
    pub fn remove(&mut self, uuid: Uuid) -> Option<NetworkPort> {
        let port = self.ports.remove(&uuid)?;
        let tap = tap_of(port.mac);
        if let Some(of_tap) = self.by_tap.get_mut(&tap) {
            of_tap.remove(&uuid);
            if of_tap.is_empty() {
                self.by_tap.remove(&tap);
            }
        }
        Some(port)
    }

    /// Keeps those ports only that have a tap among these MAC addresses of devices.
    pub fn retain_taps(&mut self, taps: &BTreeSet<Mac>) -> Vec<NetworkPort> {
        let gone = self.by_tap.iter().filter(|(tap, _)| !taps.contains(tap));
        let gone: Vec<Uuid> = gone.flat_map(|(_, uuids)| uuids).copied().collect();
        gone.into_iter()
            .filter_map(|uuid| self.remove(uuid))
            .collect()
    }

    /// Whose the tap with this MAC address is; none where no port tells.
    #[must_use]
    pub fn of_tap(&self, tap: Mac) -> Option<TapOwner> {
        let uuids = self.by_tap.get(&tap)?;
        let mut ports = uuids.iter().filter_map(|uuid| self.ports.get(uuid));
        let first = ports.next()?;
        let mut owner = TapOwner {
            mac: Some(first.mac),
            isolated: first.isolated,
        };
        for port in ports {
            if owner.mac != Some(port.mac) {
                owner.mac = None;
            }
            // What keeps the guest from others goes before what does not.
            owner.isolated = match (owner.isolated, port.isolated) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (None, _) | (_, None) => None,
                (Some(false), Some(false)) => Some(false),
            };
        }
        Some(owner)
    }

    /// Is there a port that is not isolated, whatever its network says?
    #[must_use]
    pub fn has_exempt(&self) -> bool {
        self.iter().any(|port| port.isolated == Some(false))
    }

    /// What the network has guaranteed to ports: class of traffic control, guest, kilobytes per second.
    pub fn floors(&self) -> impl Iterator<Item = (u32, Mac, u64)> {
        let granted = self.iter().filter(|port| port.floor() > 0);
        granted.filter_map(|port| Some((port.class_id?, port.mac, port.floor())))
    }

    /// The sum of that, in kilobytes per second.
    pub(super) fn floor_sum(&self) -> u64 {
        self.floors()
            .fold(0, |sum, (_, _, floor)| sum.saturating_add(floor))
    }

    /// The lowest number that is free for a class of traffic control.
    pub(super) fn free_class(&self) -> u32 {
        let taken: BTreeSet<u32> = self.iter().filter_map(|port| port.class_id).collect();
        let mut free = RESERVED_CLASSES;
        while taken.contains(&free) {
            free += 1;
        }
        free
    }

    /// How many ports use this device of the host.
    #[must_use]
    pub fn users_of(&self, device: PoolDevice<'_>) -> usize {
        let uses = |port: &&NetworkPort| match (&port.plug, device) {
            (Some(Plug::Direct { dev, .. }), PoolDevice::Interface(name)) => dev == name,
            (Some(Plug::HostdevPci { address, .. }), PoolDevice::Pci(pci)) => *address == pci,
            _ => false,
        };
        self.iter().filter(uses).count()
    }
}
