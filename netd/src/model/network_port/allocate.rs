//! What a network gives a port: what its port group and the network itself say where the port says
//! nothing, what to connect to, and a guaranteed rate.

use super::virtual_port::{complete, merge};
use super::{BridgePlug, NetworkPort, NetworkPorts, Plug, PortError};
use crate::model::element::{
    Bandwidth, Forward, ForwardMode, MacvtapMode, PciAddress, PoolDevice, PortGroup, Rate,
};
use crate::model::error::XmlError;
use crate::model::network::Network;
use crate::model::xml::shown;

impl NetworkPort {
    /// What is guaranteed to it, in kilobytes per second.
    pub(super) fn floor(&self) -> u64 {
        floor(self.bandwidth.as_ref())
    }

    /// The port as a network with these `ports` gives it to a guest that starts.
    ///
    /// # Errors
    /// The network does not have what the port asks for.
    pub fn allocate(mut self, network: &Network, ports: &NetworkPorts) -> Result<Self, PortError> {
        let group = port_group(network, self.group.as_deref());
        if self.bandwidth.is_none() {
            self.bandwidth = group.and_then(|group| group.bandwidth.clone());
        }
        if self.vlan.is_none() {
            let of_group = group.and_then(|group| group.vlan.as_ref());
            self.vlan = of_group.or(network.vlan.as_ref()).cloned();
        }
        self.trust_guest_rx_filters = self
            .trust_guest_rx_filters
            .or(group.and_then(|group| group.trust_guest_rx_filters))
            .or(network.trust_guest_rx_filters);
        self.isolated = self.isolated.or(network.port_isolated);
        self.virtualport = merge(
            self.virtualport.as_ref(),
            network.virtualport.as_ref(),
            group.and_then(|group| group.virtualport.as_ref()),
        )?;
        self.plug = Some(self.choose_plug(network, ports)?);
        self.class_id = None;
        if needs_class(network, ports, &self, None)? {
            self.class_id = Some(ports.free_class());
        }
        if let Some(port) = &mut self.virtualport {
            complete(port)?;
        }
        Ok(self)
    }

    /// The port of a guest that runs, of which the network has lost the record: it stays as it is.
    ///
    /// # Errors
    /// The network is not one that could have given it.
    pub fn reclaim(self, network: &Network, ports: &NetworkPorts) -> Result<Self, PortError> {
        let name = &network.name;
        let refuse = |detail: String| Err(PortError::Internal(detail));
        match &self.plug {
            None => return refuse("Unexpectedly got a network port without a plug".to_owned()),
            Some(Plug::Network(_) | Plug::Bridge(_)) => {
                if network.bridge.name.is_none() {
                    return refuse(
                        "Unexpectedly got a network port without a network bridge".to_owned(),
                    );
                }
            }
            Some(Plug::Direct { dev, .. }) => {
                let forward = network.forward.as_ref();
                if !forward.is_some_and(|forward| forward.interfaces.contains(dev)) {
                    let dev = shown(dev);
                    return refuse(format!(
                        "network '{name}' doesn't have dev='{dev}' in use by network port '{}'",
                        self.uuid
                    ));
                }
                if self.needs_own_device(network) && ports.users_of(PoolDevice::Interface(dev)) > 0
                {
                    return refuse(format!(
                        "network '{name}' claims dev='{dev}' is already in use by a different port"
                    ));
                }
            }
            Some(Plug::HostdevPci { address, .. }) => {
                let PciAddress {
                    domain,
                    bus,
                    slot,
                    function,
                } = *address;
                let forward = network.forward.as_ref();
                if !forward.is_some_and(|forward| forward.addresses.contains(address)) {
                    return refuse(format!(
                        "network '{name}' doesn't have PCI device \
                         {domain:04x}:{bus:02x}:{slot:02x}.{function:x} in use by network port"
                    ));
                }
                if ports.users_of(PoolDevice::Pci(*address)) > 0 {
                    return refuse(format!(
                        "network '{name}' claims the PCI device at domain={domain} bus={bus} \
                         slot={slot} function={function} is already in use by a different network \
                         port"
                    ));
                }
            }
        }
        Ok(self)
    }

    /// The port with other limits; a direction of them without a rate is none.
    ///
    /// # Errors
    /// The network cannot guarantee that.
    pub fn with_bandwidth(
        &self,
        network: &Network,
        ports: &NetworkPorts,
        bandwidth: &Bandwidth,
    ) -> Result<Self, PortError> {
        let given = |rate: &Option<Rate>| {
            rate.filter(|rate| rate.average != 0 || rate.floor.is_some_and(|floor| floor != 0))
        };
        let bandwidth = Bandwidth {
            inbound: given(&bandwidth.inbound),
            outbound: bandwidth.outbound.filter(|rate| rate.average != 0),
        };
        let mut changed = self.clone();
        changed.bandwidth = (bandwidth != Bandwidth::default()).then_some(bandwidth);
        if changed.floor() == self.floor() {
            return Ok(changed);
        }
        let needs_class = needs_class(network, ports, &changed, Some(self))?;
        changed.class_id = match (needs_class && changed.floor() > 0, self.class_id) {
            (false, _) => None,
            (true, Some(class)) => Some(class),
            (true, None) => Some(ports.free_class()),
        };
        Ok(changed)
    }

    fn choose_plug(&self, network: &Network, ports: &NetworkPorts) -> Result<Plug, PortError> {
        let bridge = network.bridge.name.clone();
        let mac_table_manager = network.bridge.mac_table_manager;
        let plug = |bridge| BridgePlug {
            bridge,
            mac_table_manager,
        };
        let mode = network.mode();
        match (mode, bridge) {
            (
                ForwardMode::None | ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open,
                bridge,
            ) => {
                self.check_virtual_port(network, &[], "which uses IP forwarding")?;
                let without = || {
                    let detail = format!("network '{}' does not have a bridge name.", network.name);
                    PortError::Internal(detail)
                };
                Ok(Plug::Network(plug(bridge.ok_or_else(without)?)))
            }
            (ForwardMode::Bridge, Some(bridge)) => {
                self.check_virtual_port(network, &["openvswitch"], "which uses a bridge device")?;
                Ok(Plug::Bridge(plug(bridge)))
            }
            (ForwardMode::Hostdev, _) => {
                let by = "which uses an SR-IOV Virtual Function via PCI passthrough";
                let plug = hostdev_plug(network, ports)?;
                self.check_virtual_port(network, &["802.1Qbg", "802.1Qbh"], by)?;
                Ok(plug)
            }
            (
                ForwardMode::Bridge
                | ForwardMode::Private
                | ForwardMode::Vepa
                | ForwardMode::Passthrough,
                _,
            ) => {
                let by = "which uses a macvtap device";
                self.check_virtual_port(network, &["802.1Qbg", "802.1Qbh"], by)?;
                Ok(Plug::Direct {
                    dev: self.choose_device(network, ports)?,
                    mode: MacvtapMode::of(mode).unwrap_or_default(),
                })
            }
        }
    }

    /// Does the kind of network take this kind of virtual port?
    fn check_virtual_port(
        &self,
        network: &Network,
        allowed: &[&str],
        by: &str,
    ) -> Result<(), XmlError> {
        let Some(port) = &self.virtualport else {
            return Ok(());
        };
        let kind = port.kind.as_deref().unwrap_or("none");
        if allowed.contains(&kind) {
            return Ok(());
        }
        Err(XmlError::Unsupported(format!(
            "<virtualport type='{kind}'> not supported for network '{}' {by}",
            network.name
        )))
    }

    /// The least used device of the pool, or one that nobody uses where it cannot be shared.
    fn choose_device(&self, network: &Network, ports: &NetworkPorts) -> Result<String, PortError> {
        let devices = network.forward.iter().flat_map(|f| &f.interfaces);
        let used: Vec<(usize, &String)> = devices
            .map(|dev| (ports.users_of(PoolDevice::Interface(dev)), dev))
            .collect();
        // Of several that are used alike the first one.
        let Some((users, device)) = used.into_iter().min_by_key(|(users, _)| *users) else {
            return Err(PortError::Internal(format!(
                "network '{}' uses a direct mode, but has no forward dev and no interface pool",
                network.name
            )));
        };
        if users > 0 && self.needs_own_device(network) {
            return Err(none_available(network));
        }
        Ok(device.clone())
    }

    /// Does it have to be the only one on its device?
    fn needs_own_device(&self, network: &Network) -> bool {
        let kind = self.virtualport.as_ref().and_then(|p| p.kind.as_deref());
        match network.mode() {
            ForwardMode::Passthrough => true,
            ForwardMode::Private => kind == Some("802.1Qbh"),
            _ => false,
        }
    }
}

/// The port group of that name, or the default one where no name is given.
fn port_group<'a>(network: &'a Network, name: Option<&str>) -> Option<&'a PortGroup> {
    let mut groups = network.portgroups.iter();
    groups.find(|group| match name {
        Some(name) => group.name == name,
        None => group.default,
    })
}

fn none_available(network: &Network) -> PortError {
    PortError::Internal(format!(
        "network '{}' requires exclusive access to interfaces, but none are available",
        network.name
    ))
}

/// A PCI device of the pool that nobody has.
fn hostdev_plug(network: &Network, ports: &NetworkPorts) -> Result<Plug, PortError> {
    let pool = |forward: &Forward| {
        let mut addresses = forward.addresses.iter();
        addresses
            .find(|address| ports.users_of(PoolDevice::Pci(**address)) == 0)
            .copied()
    };
    let forward = network.forward.as_ref();
    let free = forward.and_then(|forward| Some((forward, pool(forward)?)));
    let (forward, address) = free.ok_or_else(|| none_available(network))?;
    Ok(Plug::HostdevPci {
        managed: Some(forward.managed),
        driver: forward.driver.clone(),
        address,
    })
}

fn floor(bandwidth: Option<&Bandwidth>) -> u64 {
    let inbound = bandwidth.and_then(|bandwidth| bandwidth.inbound);
    inbound.and_then(|rate| rate.floor).unwrap_or(0)
}

/// Can the network guarantee the port what it asks for, in place of what it had `before`? `true` when
/// that takes a class of traffic control.
fn needs_class(
    network: &Network,
    ports: &NetworkPorts,
    port: &NetworkPort,
    before: Option<&NetworkPort>,
) -> Result<bool, PortError> {
    let (new, old) = (port.floor(), before.map_or(0, NetworkPort::floor));
    let (mac, name) = (port.mac, &network.name);
    if new > 0 && !network.is_managed() {
        return Err(PortError::Unsupported(format!(
            "Invalid use of 'floor' on interface with MAC address {mac} - 'floor' is only supported \
             for interface type 'network' with forward type 'nat', 'route', 'open' or none"
        )));
    }
    let Some(limit) = network.bandwidth.as_ref().and_then(|b| b.inbound) else {
        if new == 0 {
            return Ok(false);
        }
        return Err(PortError::Unsupported(format!(
            "Invalid use of 'floor' on interface with MAC address {mac} - network '{name}' has no \
             inbound QoS set"
        )));
    };
    if new == 0 && old == 0 {
        return Ok(false);
    }
    // A port that was given back without a class has no share in the sum.
    let counted = before.filter(|port| port.class_id.is_some());
    let counted = counted.map_or(0, NetworkPort::floor);
    let sum = ports
        .floor_sum()
        .saturating_sub(counted)
        .saturating_add(new);
    let (kind, most) = match limit.peak {
        Some(peak) => ("peak", peak),
        None => ("average", limit.average),
    };
    if sum > most {
        let bridge = network.bridge.name.as_deref().unwrap_or_default();
        return Err(PortError::Overcommitted(format!(
            "Cannot plug '{mac}' interface into '{bridge}' because new combined inbound \
             floor={sum} would overcommit {kind}={most} on network '{name}'"
        )));
    }
    Ok(true)
}
