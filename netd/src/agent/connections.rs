//! Connections of guests that pass from the kernel's own tracking to netd and back, in a switch.

use std::net::IpAddr;

use super::controller::Controller;
use crate::api::ApiError;
use crate::link::{track, tracked_connections};
use crate::model::{Network, in_subnet, subnet_of};

impl Controller {
    /// netd goes on with what guests have open. Without that, what their peers say next on a silent connection
    /// would be the host's, which would refuse it, once libvirt's rules have gone. A host whose kernel tells
    /// nothing of its connections is switched all the same.
    pub(super) fn take_connections(&mut self, network: &Network, bridge: u32) {
        match self.enter(network, bridge) {
            Ok((entered, known)) => tracing::info!(
                network = network.name,
                entered,
                left = known - entered,
                "taken over from the kernel's connection tracking"
            ),
            Err(error) => tracing::warn!(
                network = network.name,
                %error,
                "silent connections of guests may break"
            ),
        }
    }

    fn enter(&mut self, network: &Network, bridge: u32) -> Result<(usize, usize), ApiError> {
        let known = tracked_connections(|guest| is_guest(network, guest)).map_err(|error| {
            let detail = format!("cannot read the kernel's connections: {error}");
            ApiError::internal(detail)
        })?;
        let datapath = self.host.datapath_mut()?;
        let entered = datapath.enter(bridge, &known);
        Ok((entered.map_err(ApiError::internal)?, known.len()))
    }

    /// The kernel's connection tracking is to go on with what guests have opened. Without it their
    /// peers' packets would be the host's, which would refuse them.
    pub(super) fn give_connections(&self, bridge: u32) {
        let given = self.host.datapath().and_then(|datapath| {
            let flows = datapath.translated(bridge).map_err(ApiError::internal)?;
            track(&flows).map_err(ApiError::internal)?;
            Ok(flows.len())
        });
        match given {
            Ok(flows) => tracing::info!(flows, "given to the kernel's connection tracking"),
            Err(error) => tracing::warn!(%error, "connections of guests may break"),
        }
    }
}

/// Is it an address of the network's, or of a subnet behind a guest?
fn is_guest(network: &Network, address: IpAddr) -> bool {
    let behind =
        |route: &crate::model::Route| in_subnet(address, route.address, route.prefix_len());
    subnet_of(network.all_ips(), address).is_some() || network.routes.iter().any(behind)
}
