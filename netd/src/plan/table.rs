//! `<bridge macTableManager='libvirt'>`: a bridge's table of MAC addresses holds what is known of guests,
//! and nothing that it learnt.
//!
//! A bridge of netd's needs no VLAN filtering for that, which would take guests' packets off their short
//! way: it has no ports whose promiscuous mode costs something.
//!
//! libvirt's QEMU driver does the ports of its guests itself, before they are up; then nothing is left to
//! do here. Ports of guests that others run are done as soon as a port of the network says whose they are.

use super::desired::Wanted;
use super::observed::Observed;
use super::step::{DeviceAct, Step};
use super::whose::of;
use crate::link::Link;
use crate::model::{ForwardMode, MacTableManager, Network};

/// Is the table of the network's bridge, its own or one of the host's, to be managed?
#[must_use]
pub fn is_managed(network: &Network) -> bool {
    network.bridge.mac_table_manager == Some(MacTableManager::Libvirt)
}

/// What makes a bridge of the host's filter VLANs. With that the kernel needs no promiscuous ports
/// (`br_manage_promisc`), and libvirt asks for no less. It is not given back.
#[must_use]
pub fn of_host(wanted: &Wanted<'_>, observed: &Observed) -> Option<Step> {
    let network = wanted.member.network;
    let name = network.bridge.name.as_ref()?;
    if !wanted.member.up || network.mode() != ForwardMode::Bridge || !is_managed(network) {
        return None;
    }
    let attributes = observed.links.by_name(name)?.bridge?;
    let act = DeviceAct::FilterVlans {
        bridge: name.clone(),
        on: true,
    };
    (!attributes.vlan_filtering).then(|| of(network.uuid, act))
}

/// The ports of guests whose place in the table is to be another.
#[must_use]
pub fn of_ports(wanted: &Wanted<'_>, bridge: &Link, observed: &Observed) -> Vec<Step> {
    let (network, guests) = (wanted.member.network, wanted.member.network_ports);
    let noted = observed.noted.get(&network.uuid);
    let former = noted.and_then(|noted| noted.former.as_ref());
    let on = is_managed(network);
    if !on && !former.is_some_and(|former| former.manages_table) {
        return Vec::new();
    }
    let acts = observed.links.ports_of(bridge.index).filter_map(|port| {
        let mac = guests.of_tap(port.mac?)?.mac?;
        let is_done = (port.learns, port.floods) == (!on, !on);
        (!is_done).then(|| DeviceAct::ManageTable {
            index: port.index,
            port: port.name.clone(),
            mac,
            on,
        })
    });
    acts.map(|act| of(network.uuid, act)).collect()
}
