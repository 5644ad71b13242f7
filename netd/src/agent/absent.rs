//! What a definition names and the host does not have now. It is stored all the same: devices and guests
//! come and go.

use super::controller::Controller;
use crate::dnsmasq::leases;
use crate::model::{ForwardGuest, Network, PortForward};

impl Controller {
    /// A sentence for each uplink, device and guest that a network's definition names and that is not there.
    pub(super) async fn absent(&self, network: &Network) -> Vec<String> {
        let mut sentences = Vec::new();
        let mut uplinks: Vec<&str> = Vec::new();
        if let Some(forward) = &network.forward {
            uplinks.extend(
                forward
                    .interfaces
                    .iter()
                    .chain(&forward.pf)
                    .map(String::as_str),
            );
        }
        for dev in uplinks {
            if self.lacks_device(dev).await {
                let why = "the network has no way out by it until there is";
                sentences.push(format!(
                    "<forward>: there is no interface '{dev}' now; {why}"
                ));
            }
        }
        for forward in network.netd.forwards() {
            for sentence in self.absent_of(network, forward).await {
                sentences.push(format!("{forward}: {sentence}"));
            }
        }
        sentences
    }

    /// The same of one forward of a network, running or defined.
    pub(super) async fn absent_of(&self, network: &Network, forward: &PortForward) -> Vec<String> {
        let mut sentences = Vec::new();
        if let ForwardGuest::Host(name) = &forward.guest
            && !self.knows_guest(network, name)
        {
            sentences.push(format!(
                "no <host> and no lease of the network has the name '{name}' now; the forward works once \
                 one has"
            ));
        }
        if let Some(dev) = &forward.dev
            && self.lacks_device(dev).await
        {
            sentences.push(format!(
                "there is no interface '{dev}' now; the forward works once there is"
            ));
        }
        sentences
    }

    /// A kernel that does not answer is no reason to warn of a device.
    async fn lacks_device(&self, dev: &str) -> bool {
        matches!(self.host.links.index_of(dev).await, Ok(None))
    }

    /// Has an entry of the definition, or a lease, this name?
    fn knows_guest(&self, network: &Network, name: &str) -> bool {
        let is_it = |other: &Option<String>| {
            let other = other.as_deref();
            other.is_some_and(|other| other.eq_ignore_ascii_case(name))
        };
        let mut hosts = network.ips.iter().flat_map(|ip| &ip.dhcp.hosts);
        if hosts.any(|host| is_it(&host.name)) {
            return true;
        }
        let Some(bridge) = &network.bridge.name else {
            return false;
        };
        let now = jiff::Timestamp::now().as_second();
        let leases = leases::read(&self.host.paths.dnsmasq_dir(), bridge, network, None, now);
        // Leases that cannot be read are told of elsewhere.
        leases.is_ok_and(|leases| leases.iter().any(|lease| is_it(&lease.hostname)))
    }
}
