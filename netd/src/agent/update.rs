//! `net-update`, and what a running network does about a change of its definition.

use uuid::Uuid;

use super::controller::Controller;
use super::guests::follows_leases;
use crate::api::{Affect, Result};
use crate::dnsmasq;
use crate::model::{Network, Update, XmlError};
use crate::plan::{Failure, Scope};
use crate::store::{fits, read_again};

impl Controller {
    /// `net-update`.
    pub(super) async fn update(
        &mut self,
        uuid: Uuid,
        update: &Update,
        affect: Affect,
    ) -> Result<()> {
        let with = |network: &Network| Ok(ensure_storable(update.apply(network)?)?);
        let before = self
            .live_network(uuid)
            .map(|live| self.held_addresses(live));
        self.change(uuid, affect, with).await?;
        self.note_contested(uuid);
        self.end_contested().await;
        let before = before.unwrap_or_default();
        if let Some(live) = self.live_network(uuid) {
            let told = self.held_addresses(live);
            for warning in told.iter().filter(|warning| !before.contains(warning)) {
                tracing::warn!(network = live.name, "{warning}");
            }
        }
        Ok(())
    }

    /// What an active network would run with; none where the update is not for what runs, or is refused,
    /// which it says itself.
    pub(super) fn updated(&self, uuid: Uuid, update: &Update, affect: Affect) -> Option<Network> {
        let affect = self.affected(uuid, affect).ok()?;
        let live = self.live_network(uuid).filter(|_| affect.live)?;
        update.apply(live).ok()
    }

    /// What an active network runs with.
    fn live_network(&self, uuid: Uuid) -> Option<&Network> {
        let live = self.networks.get(uuid).ok()?.live.as_ref();
        live.map(|live| &live.network)
    }

    /// Put in force what an active network runs with now and did not when it was `before`. Returns
    /// what failed.
    pub(super) async fn apply_change(&mut self, uuid: Uuid, before: &Network) -> Vec<Failure> {
        let live = self.networks.get(uuid).ok().and_then(|e| e.live.as_ref());
        let Some(now) = live.map(|live| &live.network) else {
            return Vec::new();
        };
        let scope = match reaches_kernel(before, now) {
            true => Scope::Host,
            false => Scope::Service(uuid),
        };
        self.converge(scope).await.failures
    }
}

/// The changed definition as the next agent will read it. Its metadata is what it was: it is read
/// again only where all of it may be too long together.
fn ensure_storable(mut network: Network) -> std::result::Result<Network, XmlError> {
    let metadata = std::mem::take(&mut network.metadata);
    let netd = network.netd.clone();
    let mut network = read_again(&network)?;
    (network.metadata, network.netd) = (metadata, netd);
    if fits(&network) {
        return Ok(network);
    }
    read_again(&network)
}

/// Do devices, programs or maps depend on what differs? That takes a look at the whole host, which a
/// new DHCP host, say, needs only where guards or forwards go by it.
fn reaches_kernel(before: &Network, now: &Network) -> bool {
    let mut rest = before.clone();
    rest.dns.clone_from(&now.dns);
    for (ip, now) in rest.ips.iter_mut().zip(&now.ips) {
        ip.dhcp.clone_from(&now.dhcp);
    }
    rest != *now
        || dnsmasq::wants_dnsmasq(before) != dnsmasq::wants_dnsmasq(now)
        || dnsmasq::offers(before) != dnsmasq::offers(now)
        || (before.ips != now.ips && (follows_leases(before) || follows_leases(now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    fn network(metadata: &str, dhcp: &str) -> Network {
        let text = format!(
            "<network><name>n</name><metadata>{metadata}</metadata>\
             <ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.9' end='10.0.0.99'/>\
             {dhcp}</dhcp></ip></network>"
        );
        model::parse(&text).unwrap()
    }

    #[test]
    fn what_a_definition_says_to_netd_outlives_a_change() {
        let antispoof = "<n:network xmlns:n='urn:netd:network:1'><n:antispoof/></n:network>";
        let network = network(antispoof, "");
        assert!(network.netd.antispoof.is_some(), "{network:?}");
        assert_eq!(ensure_storable(network.clone()).unwrap(), network);
    }

    #[test]
    fn dhcp_hosts_reach_the_kernel_where_something_goes_by_them() {
        let host = "<host mac='52:54:00:00:00:01' name='web' ip='10.0.0.5'/>";
        let forward = |guest: &str| {
            format!(
                "<n:forwards xmlns:n='urn:netd:network:1'>\
                 <n:portForward proto='tcp' guest='{guest}'><n:range start='80'/></n:portForward>\
                 </n:forwards>"
            )
        };
        let guard = "<n:antispoof xmlns:n='urn:netd:network:1'/>".to_owned();
        for (metadata, reaches) in [
            (String::new(), false),
            (forward("10.0.0.5"), false),
            (forward("web"), true),
            (guard, true),
        ] {
            let (before, now) = (network(&metadata, ""), network(&metadata, host));
            assert_eq!(reaches_kernel(&before, &now), reaches, "{metadata}");
            assert!(!reaches_kernel(&now, &now), "{metadata}");
        }
        assert!(reaches_kernel(
            &network("", host),
            &network(&forward("web"), host)
        ));
    }

    #[test]
    fn a_definition_that_breaks_its_rules_is_not_kept() {
        let text = "<network><name>n</name><forward mode='nat' dev='eth0'/>\
                    <ip address='10.0.0.1' prefix='24'/></network>";
        let mut two = model::parse(text).unwrap();
        assert_eq!(read_again(&two).as_ref(), Ok(&two));
        two.forward
            .as_mut()
            .unwrap()
            .interfaces
            .push("eth1".to_owned());
        let error = read_again(&two).unwrap_err();
        assert!(error.to_string().contains("takes one device"), "{error}");
    }
}
