//! A host that only reckons: what a real one would have after each step. A plan is what is done to
//! it.

use super::execute::{Host, StepError};
use super::observed::{Intent, Observed};
use super::step::{Act, DeviceAct, Step};
use crate::api::ApiError;
use crate::link::{Address, BridgeAttrs, Dump, Link, Route, Scope, Snapshot, port_state};

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
            DeviceAct::SetSpanningTree {
                bridge,
                stp,
                delay_ms,
            } => self.on(bridge, |link| {
                link.bridge = Some(BridgeAttrs {
                    stp: *stp,
                    forward_delay_ms: *delay_ms,
                });
            }),
            DeviceAct::SetMtu { bridge, mtu } => self.on(bridge, |link| link.mtu = *mtu),
            DeviceAct::SetMac { bridge, mac } => self.on(bridge, |link| link.mac = Some(*mac)),
            DeviceAct::SetUp { bridge } => self.on(bridge, |link| link.up = true),
            DeviceAct::AddAddress {
                bridge,
                address,
                prefix,
            } => {
                let index = self.index(bridge);
                self.dump.addresses.extend(index.map(|index| Address {
                    index,
                    address: *address,
                    prefix: *prefix,
                    primary: true,
                    scope: Scope::Global,
                }));
            }
            DeviceAct::AddRoute { bridge, route } => {
                let index = self.index(bridge);
                self.dump.routes.extend(index.map(|index| Route {
                    destination: route.destination,
                    index: Some(index),
                    gateway: Some(route.gateway),
                    table: MAIN,
                    advertised: false,
                }));
            }
            DeviceAct::Enslave { port, bridge } => {
                let controller = self.index(bridge);
                self.on(port, |link| {
                    link.controller = controller;
                    link.port_state = Some(port_state::FORWARDING);
                });
            }
            DeviceAct::ForwardPorts { ports, .. } => {
                for port in ports {
                    if let Some(link) = self.dump.links.get_mut(port) {
                        link.port_state = Some(port_state::FORWARDING);
                    }
                }
            }
            DeviceAct::IsolatePort { index, .. } => {
                if let Some(link) = self.dump.links.get_mut(index) {
                    link.isolated = true;
                }
            }
            // Of these a dump tells nothing.
            DeviceAct::SetIpv6 { .. }
            | DeviceAct::EnableForwarding(_)
            | DeviceAct::RestoreForwarding(..)
            | DeviceAct::ProxyNeighbour { .. } => {}
        }
    }

    fn create(&mut self, name: &str, mac: crate::model::Mac, mtu: Option<u32>) {
        let last = self.dump.links.last_key_value().map(|(index, _)| *index);
        let index = last.map_or(0, |last| last + 1).max(self.first_index);
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

    fn on(&mut self, name: &str, change: impl FnOnce(&mut Link)) {
        let mut links = self.dump.links.values_mut();
        if let Some(link) = links.find(|link| link.name == name) {
            change(link);
        }
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
