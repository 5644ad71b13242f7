//! Guests that forwards go by the name of.

use crate::dnsmasq::leases;
use crate::model::{ForwardGuest, Network};
use crate::paths::Paths;
use crate::plan::{Guests, Intent};

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
