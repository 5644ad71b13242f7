//! Guests that forwards go by the name of.

use uuid::Uuid;

use super::controller::Controller;
use super::reconcile::intent;
use crate::dnsmasq::leases;
use crate::model::{ForwardGuest, Network, PortForward};
use crate::paths::Paths;
use crate::plan::{Guests, Intent, Scope};

impl Controller {
    /// Does a forward of an active network go by a name, or are ports guarded? Only then do leases
    /// matter.
    pub(super) fn follows_leases(&self) -> bool {
        self.networks
            .live()
            .any(|live| follows_leases(&live.network))
    }

    /// What a forward of a running network names that is not there now. It works once it is.
    pub(super) async fn unresolved(&self, uuid: Uuid, forward: &PortForward) -> Vec<String> {
        let mut warnings = Vec::new();
        let live = self.networks.live().find(|live| live.network.uuid == uuid);
        if let (Some(live), ForwardGuest::Host(name)) = (live, &forward.guest) {
            let intent = intent(&self.networks, &self.xdp, Scope::Service(uuid));
            let guests = guests(&intent, &self.host.paths);
            if guests.addresses(&live.network, name).is_empty() {
                warnings.push(format!(
                    "no <host> and no lease of the network has the name '{name}' now; the forward \
                     works once one has"
                ));
            }
        }
        // A kernel that does not answer is no reason to warn of a device.
        if let Some(dev) = &forward.dev
            && matches!(self.host.links.index_of(dev).await, Ok(None))
        {
            warnings.push(format!(
                "there is no interface '{dev}' now; the forward works once there is"
            ));
        }
        warnings
    }
}

/// The leases of the networks that go by them.
pub(super) fn guests(intent: &Intent<'_>, paths: &Paths) -> Guests {
    let mut guests = Guests::default();
    let dir = paths.dnsmasq_dir();
    let now = jiff::Timestamp::now().as_second();
    let members = intent.members.iter().map(|member| member.network);
    for network in members.filter(|network| follows_leases(network)) {
        let Some(bridge) = &network.bridge.name else {
            continue;
        };
        let mut leases = match leases::read(&dir, bridge, network, None, now) {
            Ok(leases) => leases,
            Err(error) => {
                tracing::error!(
                    network = network.name,
                    %error,
                    "port forwards to guests by name do not work"
                );
                continue;
            }
        };
        // A name that moved from guest to guest is that of the one who asked last.
        leases.sort_by_key(|lease| match lease.expiry {
            ..=0 => i64::MIN,
            expiry => -expiry,
        });
        for lease in &leases {
            if let Some(name) = &lease.hostname {
                guests.add(network.uuid, name, lease.ip);
            }
            let mac = lease.mac.as_deref().and_then(|mac| mac.parse().ok());
            if let Some(mac) = mac {
                guests.bind(network.uuid, lease.ip, mac);
            }
        }
    }
    guests
}

/// Does a forward of the network go by a name, or are its ports guarded?
pub(super) fn follows_leases(network: &Network) -> bool {
    let mut forwards = network.netd.forwards().iter();
    network.netd.antispoof.is_some()
        || forwards.any(|forward| matches!(forward.guest, ForwardGuest::Host(_)))
}
