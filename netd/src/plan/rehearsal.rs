//! A host that only reckons: what a real one would have after each step. A plan is what is done to
//! it.

use std::net::IpAddr;

use super::execute::{Host, StepError};
use super::observed::{Intent, Observed};
use super::spec::RouteSpec;
use super::step::{Act, DeviceAct, Step};
use crate::api::ApiError;
use crate::link::{Address, BridgeAttrs, Dump, Ipv6Conf, Link, Route, Scope, Snapshot, port_state};
use crate::model::{Family, network_address};
use crate::services;
use crate::shaping::shaper;

/// Numbers from here on are none of the kernel's, which are positive as `i32`.
const FIRST_INDEX: u32 = 1 << 31;

/// The kernel's default MTU of a bridge.
const DEFAULT_MTU: u32 = 1500;

/// The main routing table.
const MAIN: u32 = 254;

/// What a host has, and would have.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    observed: Observed,
    dump: Dump,
    /// The lowest number of a device that is made.
    first_index: u32,
}

impl Rehearsal {
    /// A host that has this.
    #[must_use]
    pub fn new(observed: Observed) -> Self {
        Self::numbered(observed, FIRST_INDEX)
    }

    /// The same, with other numbers for new devices.
    #[must_use]
    pub fn numbered(observed: Observed, first_index: u32) -> Self {
        let dump = Dump::clone(&observed.links);
        Self {
            observed,
            dump,
            first_index,
        }
    }

    /// What it has now.
    #[must_use]
    pub fn observed(&self) -> Observed {
        Observed {
            links: self.dump.clone().into(),
            ..self.observed.clone()
        }
    }

    /// Do one step.
    pub fn carry_out(&mut self, step: &Step, intent: &Intent<'_>) {
        if let Act::Device(act) = &step.act {
            self.change(act);
        }
        self.observed.note(step, intent);
    }

    fn change(&mut self, act: &DeviceAct) {
        match act {
            DeviceAct::CreateBridge { bridge, mac, mtu } => self.create(bridge, *mac, *mtu),
            DeviceAct::DeleteBridge { index, .. } => self.delete(*index),
            DeviceAct::MakeNamespace(bridge) => self.make_namespace(bridge),
            DeviceAct::MakeShaper { bridge, mac } => self.make_shaper(bridge, *mac),
            DeviceAct::RemoveShaper { bridge, .. } => self.remove_shaper(bridge),
            DeviceAct::RemoveNamespace { bridge, .. } => self.remove(&services::host_end(bridge)),
            DeviceAct::SetSpanningTree {
                bridge,
                stp,
                delay_ms,
            } => self.on_bridge(bridge, |attributes| {
                (attributes.stp, attributes.forward_delay_ms) = (*stp, *delay_ms);
            }),
            DeviceAct::FilterVlans { bridge, on } => {
                self.on_bridge(bridge, |attributes| attributes.vlan_filtering = *on);
            }
            DeviceAct::ManageTable { index, on, .. } => {
                self.at(*index, |link| (link.learns, link.floods) = (!on, !on));
            }
            DeviceAct::SetMtu { bridge, mtu } => self.on(bridge, |link| link.mtu = *mtu),
            DeviceAct::SetMac { bridge, mac } => self.on(bridge, |link| link.mac = Some(*mac)),
            DeviceAct::SetUp { bridge } => {
                self.on(bridge, |link| link.up = true);
                self.connect(bridge);
            }
            DeviceAct::AddConnectedRoute { bridge, .. } => self.connect(bridge),
            DeviceAct::AddAddress {
                bridge,
                address,
                prefix,
            } => self.add_address(bridge, *address, *prefix),
            DeviceAct::AddRoute { bridge, route } => self.add_route(bridge, route),
            DeviceAct::RemoveAddress {
                bridge,
                address,
                prefix,
            } => self.remove_address(bridge, *address, *prefix),
            DeviceAct::RemoveRoute { bridge, route } => self.remove_route(bridge, route),
            DeviceAct::Enslave { port, bridge } => {
                let controller = self.index(bridge);
                self.on(port, |link| {
                    link.controller = controller;
                    link.port_state = Some(port_state::FORWARDING);
                });
            }
            DeviceAct::ForwardPorts { ports, .. } => self.forward_ports(ports),
            DeviceAct::IsolatePort { index, on, .. } => {
                self.at(*index, |link| link.isolated = *on);
            }
            DeviceAct::SetIpv6 { bridge, on } => self.on(bridge, |link| set_ipv6(link, *on)),
            DeviceAct::ListenToRouters { device, on, .. } => self.on(device, |link| {
                if let Some(conf) = &mut link.conf.ipv6 {
                    conf.accept_ra = if *on { 2 } else { 1 };
                }
            }),
            DeviceAct::ForwardFrom { bridge, family } => {
                self.on(bridge, |link| set_forwarding(link, *family, true));
            }
            // The kernel sets it on every device.
            DeviceAct::EnableForwarding { family, .. } => {
                let links = self.dump.links.values_mut();
                links.for_each(|link| set_forwarding(link, *family, true));
            }
            DeviceAct::RestoreForwarding(family, was) => {
                let links = self.dump.links.values_mut();
                links.for_each(|link| set_forwarding(link, *family, *was));
            }
            // Of these a dump tells nothing.
            DeviceAct::ProxyNeighbour { .. }
            | DeviceAct::LeaveToNetd(_)
            | DeviceAct::Shape { .. }
            | DeviceAct::Unshape { .. }
            | DeviceAct::FurnishNamespace(_) => {}
        }
    }

    fn add_address(&mut self, bridge: &str, address: IpAddr, prefix: u8) {
        let index = self.index(bridge);
        self.dump.addresses.extend(index.map(|index| Address {
            index,
            address,
            prefix,
            primary: true,
            scope: Scope::Global,
        }));
        self.connect(bridge);
    }

    fn add_route(&mut self, bridge: &str, route: &RouteSpec) {
        let index = self.index(bridge);
        self.dump.routes.extend(index.map(|index| Route {
            destination: route.destination,
            index: Some(index),
            gateway: Some(route.gateway),
            table: MAIN,
            advertised: false,
            mtu: None,
            metric: Some(route.metric),
        }));
    }

    fn remove_address(&mut self, bridge: &str, address: IpAddr, prefix: u8) {
        let index = self.index(bridge);
        let goes = |a: &Address| (a.address, a.prefix) == (address, prefix);
        self.dump
            .addresses
            .retain(|a| Some(a.index) != index || !goes(a));
        // Its subnet's route goes with it, unless it is another address's as well.
        let subnet = (network_address(address, prefix), prefix);
        let is_its = |r: &Route| r.destination == subnet && r.index == index && r.gateway.is_none();
        self.dump.routes.retain(|route| !is_its(route));
        self.connect(bridge);
    }

    fn remove_route(&mut self, bridge: &str, route: &RouteSpec) {
        let index = self.index(bridge);
        let is_it = |present: &Route| {
            present.index == index
                && present.destination == route.destination
                && present.gateway == Some(route.gateway)
                && present.metric == Some(route.metric)
        };
        self.dump.routes.retain(|present| !is_it(present));
    }

    fn forward_ports(&mut self, ports: &[u32]) {
        for port in ports {
            if let Some(link) = self.dump.links.get_mut(port) {
                link.port_state = Some(port_state::FORWARDING);
            }
        }
    }

    /// The routes that come with the addresses of a device that is on.
    fn connect(&mut self, name: &str) {
        let mut links = self.dump.links.values();
        let Some(link) = links.find(|link| link.name == name && link.up) else {
            return;
        };
        let index = Some(link.index);
        let addresses = self.dump.addresses.iter();
        let addresses = addresses.filter(|address| Some(address.index) == index);
        let routes: Vec<Route> = addresses
            .map(|address| Route {
                destination: (
                    network_address(address.address, address.prefix),
                    address.prefix,
                ),
                index,
                gateway: None,
                table: MAIN,
                advertised: false,
                mtu: None,
                metric: None,
            })
            .collect();
        let missing = routes.into_iter();
        let missing = missing.filter(|route| !self.dump.routes.contains(route));
        let missing: Vec<Route> = missing.collect();
        self.dump.routes.extend(missing);
    }

    fn create(&mut self, name: &str, mac: crate::model::Mac, mtu: Option<u32>) {
        let index = self.next_index();
        let link = Link {
            index,
            name: name.to_owned(),
            mac: Some(mac),
            mtu: mtu.unwrap_or(DEFAULT_MTU),
            kind: Some("bridge".to_owned()),
            ether: true,
            bridge: Some(BridgeAttrs::default()),
            ..Link::default()
        };
        self.dump.links.insert(index, link);
    }

    fn make_namespace(&mut self, bridge: &services::namespace::Bridge) {
        let name = services::host_end(&bridge.name);
        if let Some(index) = self.index(&name) {
            self.delete(index);
        }
        let index = self.next_index();
        let link = Link {
            index,
            name,
            mac: Some(services::host_mac(bridge.mac)),
            mtu: bridge.mtu,
            kind: Some("veth".to_owned()),
            ether: true,
            up: true,
            peer_netns: Some(index),
            ..Link::default()
        };
        self.dump.links.insert(index, link);
    }

    fn make_shaper(&mut self, bridge: &str, mac: crate::model::Mac) {
        self.remove_shaper(bridge);
        for (name, mac) in shaper::names(bridge).into_iter().zip(shaper::macs(mac)) {
            let index = self.next_index();
            let link = Link {
                index,
                name,
                mac: Some(mac),
                kind: Some("veth".to_owned()),
                ether: true,
                up: true,
                ..Link::default()
            };
            self.dump.links.insert(index, link);
        }
    }

    fn remove_shaper(&mut self, bridge: &str) {
        for name in shaper::names(bridge) {
            self.remove(&name);
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(index) = self.index(name) {
            self.delete(index);
        }
    }

    fn next_index(&self) -> u32 {
        let last = self.dump.links.last_key_value().map(|(index, _)| *index);
        last.map_or(0, |last| last + 1).max(self.first_index)
    }

    fn delete(&mut self, index: u32) {
        self.dump.links.remove(&index);
        self.dump.addresses.retain(|address| address.index != index);
        self.dump.routes.retain(|route| route.index != Some(index));
        for link in self.dump.links.values_mut() {
            if link.controller == Some(index) {
                link.controller = None;
                link.port_state = None;
                link.isolated = false;
            }
        }
    }

    fn index(&self, name: &str) -> Option<u32> {
        let mut links = self.dump.links.values();
        links.find(|link| link.name == name).map(|link| link.index)
    }

    fn at(&mut self, index: u32, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.dump.links.get_mut(&index) {
            change(link);
        }
    }

    fn on_bridge(&mut self, name: &str, change: impl FnOnce(&mut BridgeAttrs)) {
        self.on(name, |link| change(link.bridge.get_or_insert_default()));
    }

    fn on(&mut self, name: &str, change: impl FnOnce(&mut Link)) {
        let mut links = self.dump.links.values_mut();
        if let Some(link) = links.find(|link| link.name == name) {
            change(link);
        }
    }
}

fn set_ipv6(link: &mut Link, on: bool) {
    if let Some(conf) = &mut link.conf.ipv6 {
        *conf = Ipv6Conf {
            disabled: !on,
            accept_ra: 0,
            autoconf: false,
        };
    }
}

fn set_forwarding(link: &mut Link, family: Family, on: bool) {
    if let Some(forwards) = &mut link.conf.forwarding[family as usize] {
        *forwards = on;
    }
}

impl Host for Rehearsal {
    async fn observe(&mut self, _: &Intent<'_>) -> Result<Observed, ApiError> {
        Ok(self.observed())
    }

    async fn links(&mut self) -> Result<Snapshot, ApiError> {
        Ok(self.dump.clone().into())
    }

    async fn apply(&mut self, steps: &[Step], intent: &Intent<'_>) -> Vec<Result<(), StepError>> {
        for step in steps {
            self.carry_out(step, intent);
        }
        vec![Ok(()); steps.len()]
    }
}
