//! Guests' ports of networks: made, changed and deleted by whoever runs the guests.
//!
//! What they ask of the datapath is done as soon as their taps are ports of the bridge, by the
//! reconciliation that follows. A port goes when its client deletes it, when its network is stopped for
//! good, or when its network starts again and its tap is not there any more.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::controller::Controller;
use super::host::KernelHost;
use super::registry::Live;
use crate::api::{ApiError, ErrorCode, PortId, PortPurpose, Result, Unknown};
use crate::dnsmasq::nss;
use crate::link::Snapshot;
use crate::model::{
    self, Bandwidth, MAX_PORTS, Mac, Network, NetworkPort, NetworkPorts, ParsedPort, format_port,
};
use crate::plan::Port;

/// Reads a client's port.
fn read(xml: &str, unknown: Unknown) -> Result<NetworkPort> {
    if unknown == Unknown::Refuse {
        model::validate_port(xml)?;
    }
    let ParsedPort {
        port,
        unknown: pieces,
    } = model::parse_port(xml)?;
    if unknown == Unknown::Refuse && !pieces.is_empty() {
        let pieces: Vec<String> = pieces.iter().map(ToString::to_string).collect();
        return Err(ApiError::new(
            ErrorCode::XmlInvalidSchema,
            format_args!("network port {}, {}", port.uuid, pieces.join("; ")),
        ));
    }
    for piece in &pieces {
        tracing::warn!(port = %port.uuid, "ignored in the network port, {piece}");
    }
    // The next agent has to be able to read it.
    let again = model::parse_port(&format_port(&port)).map(|parsed| parsed.port);
    if again.as_ref() != Ok(&port) {
        return Err(ApiError::new(
            ErrorCode::Xml,
            format_args!(
                "network port {} could not be kept: it holds characters that XML cannot",
                port.uuid
            ),
        ));
    }
    Ok(port)
}

fn check_purpose(port: &NetworkPort, purpose: PortPurpose) -> Result<()> {
    let detail = match (purpose, &port.plug) {
        (PortPurpose::Reclaim, None) => "Port reclaim requested but plug type is none",
        (PortPurpose::Plug, Some(_)) => "Port reclaim not requested but plug type is not none",
        _ => return Ok(()),
    };
    Err(ApiError::new(ErrorCode::InvalidArg, detail))
}

fn no_port(port: Uuid) -> ApiError {
    ApiError::new(
        ErrorCode::NoNetworkPort,
        format_args!("Network port with UUID {port} does not exist"),
    )
}

impl Controller {
    /// A network that is active.
    fn active(&self, network: Uuid) -> Result<&Live> {
        let entry = self.networks.get(network)?;
        entry.live.as_ref().ok_or_else(|| {
            let name = entry.network().map_or("", |network| &network.name);
            let detail = format!("network '{name}' is not active");
            ApiError::new(ErrorCode::OperationInvalid, detail)
        })
    }

    /// The ports of an active network.
    pub(super) fn ports(&self, network: Uuid) -> Result<Vec<Uuid>> {
        let ports = self.active(network)?.network_ports.iter();
        Ok(ports.map(|port| port.uuid).collect())
    }

    /// One port. A network that is not active has none.
    pub(super) fn port(&self, id: PortId) -> Result<&NetworkPort> {
        let live = self.networks.get(id.network)?.live.as_ref();
        let port = live.and_then(|live| live.network_ports.get(id.port));
        port.ok_or_else(|| no_port(id.port))
    }

    /// Make a port.
    pub(super) fn create_port(
        &mut self,
        network: Uuid,
        xml: &str,
        purpose: PortPurpose,
        unknown: Unknown,
    ) -> Result<Uuid> {
        self.networks.get(network)?;
        let port = read(xml, unknown)?;
        let live = self.active(network)?;
        check_purpose(&port, purpose)?;
        let ports = &live.network_ports;
        let port = match purpose {
            PortPurpose::Plug => port.allocate(&live.network, ports)?,
            PortPurpose::Reclaim => port.reclaim(&live.network, ports)?,
        };
        if ports.get(port.uuid).is_some() {
            return Err(ApiError::new(
                ErrorCode::NetworkPortExist,
                format_args!("Network port with UUID {} already exists", port.uuid),
            ));
        }
        if ports.len() >= MAX_PORTS {
            return Err(ApiError::new(
                ErrorCode::OperationFailed,
                format_args!(
                    "network '{}' has {MAX_PORTS} ports, which is all that can be listed; stop some \
                     of its guests",
                    live.network.name
                ),
            ));
        }
        let uuid = port.uuid;
        self.put(network, port)?;
        Ok(uuid)
    }

    /// Change the limits of a port.
    pub(super) fn set_port_bandwidth(&mut self, id: PortId, bandwidth: &Bandwidth) -> Result<()> {
        let port = self.port(id)?;
        let live = self.active(id.network)?;
        let changed = port.with_bandwidth(&live.network, &live.network_ports, bandwidth)?;
        self.put(id.network, changed)
    }

    /// Write a port down, and have what it asks for done.
    fn put(&mut self, network: Uuid, port: NetworkPort) -> Result<()> {
        let live = self.active(network)?;
        self.host.store.save_port(&live.network.name, &port)?;
        if let Some(live) = &mut self.networks.entry(network).live {
            live.network_ports.insert(port);
        }
        self.tell_macs(network);
        self.host.wake.notify_one();
        Ok(())
    }

    /// The host's names of guests (libvirt's NSS module) follow their ports. A guest does not fail for them.
    fn tell_macs(&self, network: Uuid) {
        let Ok(live) = self.active(network) else {
            return;
        };
        let Some(bridge) = &live.network.bridge.name else {
            return;
        };
        let dir = self.host.paths.dnsmasq_dir();
        if let Err(error) = nss::tell_macs(&dir, bridge, &live.network_ports) {
            let network = &live.network.name;
            tracing::error!(network, %error, "the host does not know its guests by name");
        }
    }

    /// Delete a port.
    pub(super) fn delete_port(&mut self, id: PortId) -> Result<()> {
        self.port(id)?;
        let live = self.active(id.network)?;
        self.host.store.remove_port(&live.network.name, id.port)?;
        if let Some(live) = &mut self.networks.entry(id.network).live {
            live.network_ports.remove(id.port);
        }
        self.tell_macs(id.network);
        self.host.wake.notify_one();
        Ok(())
    }
}

impl KernelHost {
    /// The ports of a network that an agent wrote down.
    pub(super) fn load_ports(&self, network: &Network) -> NetworkPorts {
        let (read, errors) = self.store.load_ports(&network.name);
        for error in errors {
            tracing::error!(network = network.name, %error, "a guest's port is not known any more");
        }
        let mut ports = NetworkPorts::default();
        for port in read {
            ports.insert(port);
        }
        ports
    }

    /// The ports of a network that starts again: those whose taps its bridge is to get back. The others
    /// are of guests that have gone meanwhile.
    pub(super) fn returning_ports(
        &self,
        network: &Network,
        detached: &[Port],
        snapshot: &Snapshot,
    ) -> NetworkPorts {
        if detached.is_empty() {
            self.remove_ports(&network.name);
            return NetworkPorts::default();
        }
        let links = detached.iter().filter_map(|(index, name)| {
            let link = snapshot.links.get(index)?;
            link.mac.filter(|_| link.name == *name)
        });
        let taps: BTreeSet<Mac> = links.collect();
        let mut ports = self.load_ports(network);
        for gone in ports.retain_taps(&taps) {
            if let Err(error) = self.store.remove_port(&network.name, gone.uuid) {
                tracing::error!(network = network.name, %error, "a guest's port is left on disk");
            }
        }
        ports
    }

    /// Forget the ports of a network.
    pub(super) fn remove_ports(&self, network: &str) {
        if let Err(error) = self.store.remove_ports(network) {
            tracing::error!(network, %error, "guests' ports are left on disk");
        }
    }
}
