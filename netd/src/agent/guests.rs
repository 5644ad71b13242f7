//! Guests that forwards go by the name of.

use super::inner::Inner;
use crate::dnsmasq::leases;
use crate::model::{ForwardGuest, Network};
use crate::state::Guests;

impl Inner {
    /// Does a forward of an active network go by a name? Only then do leases matter.
    pub(super) fn follows_names(&self) -> bool {
        self.networks.live().any(|live| has_names(&live.network))
    }

    /// The leases of the active networks whose forwards go by a name.
    pub(super) fn guests(&self) -> Guests {
        let mut guests = Guests::default();
        let dir = self.settings.dnsmasq_dir();
        let now = jiff::Timestamp::now().as_second();
        for live in self.networks.live().filter(|l| has_names(&l.network)) {
            let network = &live.network;
            let Some(bridge) = &network.bridge.name else {
                continue;
            };
            let mut leases = match leases::read(&dir, bridge, network, None, now) {
                Ok(leases) => leases,
                Err(error) => {
                    tracing::error!(
                        network = network.name,
                        %error,
                        "forwards to guests by name lead nowhere"
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
            }
        }
        guests
    }
}

fn has_names(network: &Network) -> bool {
    let forwards = network.extensions().unwrap_or_default().forwards;
    forwards
        .iter()
        .any(|forward| matches!(forward.guest, ForwardGuest::Host(_)))
}
