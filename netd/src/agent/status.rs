//! `netd status`: what runs.

use std::collections::BTreeMap;

use netd_common::abi::Usage;

use super::controller::Controller;
use crate::api::{
    ApiError, HookStatus, KernelStatus, LackStatus, MapStatus, NetworkStatus, ProgramStatus,
    Result, SCHEMA, Status,
};
use crate::datapath::Programs;
use crate::datapath::{Datapath, Device, Kernel, bpffs, names};
use crate::link::Snapshot;
use crate::model::{ForwardMode, Network};

impl Controller {
    pub(super) async fn status(&self) -> Result<Status> {
        let datapath = self.host.datapath()?;
        let snapshot = self
            .host
            .links
            .snapshot()
            .await
            .map_err(ApiError::internal)?;
        let usage = datapath.maps.usage().map_err(ApiError::internal)?;
        let networks = self.networks.live();
        let networks = networks.map(|live| self.network_status(&live.network, &snapshot, &usage));
        let networks = networks.collect();
        let hooks = hooks_of(datapath, &snapshot);
        let maps = bpffs::pinned_maps(datapath.dir()).map_err(ApiError::internal)?;
        // Each connection has an entry for either direction.
        let max_flows = maps
            .iter()
            .find(|map| map.name == names::FLOWS4)
            .map_or(0, |map| map.max_entries / 2);
        let maps = maps.into_iter().map(|map| MapStatus {
            name: map.name,
            path: map.path.display().to_string(),
            max_entries: map.max_entries,
        });
        Ok(Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            max_flows,
            kernel: Some(kernel_status(&datapath.kernel)),
            networks,
            waiting: self.waiting(),
            hooks,
            maps: maps.collect(),
            drops: self.drop_counts()?,
        })
    }

    fn network_status(
        &self,
        network: &Network,
        snapshot: &Snapshot,
        usage: &BTreeMap<u32, Usage>,
    ) -> NetworkStatus {
        let bridge = network.bridge.name.clone().unwrap_or_default();
        let index = snapshot.by_name(&bridge).map(|link| link.index);
        let ports = index.map_or_else(Vec::new, |index| {
            snapshot
                .ports_of(index)
                .map(|port| port.name.clone())
                .collect()
        });
        let mode = match network.mode() {
            ForwardMode::None => "isolated".to_owned(),
            mode => mode.to_string(),
        };
        let [flows_ipv4, flows_ipv6] = index
            .and_then(|index| usage.get(&index))
            .map_or([0; 2], |usage| usage.flows);
        NetworkStatus {
            name: network.name.clone(),
            mode,
            bridge,
            ports,
            dnsmasq: self.host.dnsmasq_of(network.uuid),
            flows_ipv4,
            flows_ipv6,
        }
    }
}

fn hooks_of(datapath: &Datapath, snapshot: &Snapshot) -> Vec<HookStatus> {
    let mut hooks = Vec::new();
    for link in snapshot.links.values() {
        let device = Device {
            ifindex: link.index,
            name: &link.name,
            xdp: link.xdp,
        };
        match datapath.programs_of(device) {
            Ok(places) => {
                hooks.extend(places.into_iter().map(|place| hook_status(device, place)));
            }
            // The device went since the snapshot was taken.
            Err(error) => tracing::debug!(device = link.name, %error, "no hooks"),
        }
    }
    hooks
}

fn kernel_status(kernel: &Kernel) -> KernelStatus {
    let lacks = kernel.lacks.iter().map(|feature| LackStatus {
        feature: feature.to_string(),
        cost: feature.cost().to_owned(),
    });
    KernelStatus {
        release: kernel.release.clone(),
        attach: kernel.tc.to_string(),
        lacks: lacks.collect(),
    }
}

fn hook_status(device: Device<'_>, place: Programs) -> HookStatus {
    let programs = place.programs.into_iter().map(|program| ProgramStatus {
        id: program.id,
        name: program.name,
        ours: program.ours,
    });
    HookStatus {
        device: device.name.to_owned(),
        ifindex: device.ifindex,
        hook: place.place.to_owned(),
        programs: programs.collect(),
    }
}
