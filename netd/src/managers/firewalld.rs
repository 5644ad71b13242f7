//! firewalld: the zone that a network's bridge is in, said by D-Bus.
//!
//! Services of a network need no zone: guests reach them past the host's rules. A zone decides what else
//! guests reach on the host, and in a network that respects the host's rules what is forwarded. A bridge is put
//! into it as libvirt does, until firewalld's next reload or restart, after which it is put there again;
//! nothing is written into firewalld's own configuration.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};
use tokio::sync::watch;
use zbus::{Connection, Proxy};

use super::{PATIENCE, is_there};
use crate::model::{ForwardMode, Network};

const NAME: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";
const ZONES: &str = "org.fedoraproject.FirewallD1.zone";
const SETTINGS_PATH: &str = "/org/fedoraproject/FirewallD1/config";
const SETTINGS: &str = "org.fedoraproject.FirewallD1.config";

/// The zone that a bridge is to be in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zone {
    /// This one, whatever the administrator has it in.
    Named(String),
    /// The first of these that there is, unless the administrator has it in another.
    Usual(&'static [&'static str]),
}

/// A bridge of a network that runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Zoned {
    /// Its name.
    pub bridge: String,
    /// Its zone.
    pub zone: Zone,
}

impl Zoned {
    /// The bridge of a network, if it has one that is to be in a zone. Without `<bridge zone>` that is one of
    /// those that libvirt brings.
    #[must_use]
    pub fn of(network: &Network) -> Option<Self> {
        if !network.is_managed() {
            return None;
        }
        let zone = match (&network.bridge.zone, network.mode()) {
            (Some(zone), _) => Zone::Named(zone.clone()),
            (None, ForwardMode::Open) => return None,
            (None, ForwardMode::Route) => Zone::Usual(&["libvirt-routed", "libvirt"]),
            (None, _) => Zone::Usual(&["libvirt"]),
        };
        let bridge = network.bridge.name.clone()?;
        Some(Self { bridge, zone })
    }
}

/// Can a bridge be put into the zone that `network` names? Any can that names none.
///
/// # Errors
/// firewalld does not run or has no such zone, in words for people.
pub async fn check(network: &Network) -> Result<(), String> {
    let Some(zone) = network
        .bridge
        .zone
        .as_ref()
        .filter(|_| network.is_managed())
    else {
        return Ok(());
    };
    let wanted = format!(
        "network '{}' wants its bridge in zone '{zone}' of firewalld (<bridge zone>)",
        network.name
    );
    let zones = match tokio::time::timeout(PATIENCE, zones()).await {
        Ok(Ok(Some(zones))) => zones,
        Ok(Ok(None)) => {
            return Err(format!(
                "{wanted}, which does not run; start it, or remove the attribute"
            ));
        }
        Ok(Err(error)) => return Err(format!("{wanted}, which cannot be asked: {error}")),
        Err(_) => return Err(format!("{wanted}, which does not answer")),
    };
    match zones.contains(zone) {
        true => Ok(()),
        false => Err(format!(
            "{wanted}, which has {}; make it (firewall-cmd --permanent --new-zone={zone}, then \
             firewall-cmd --reload), or name another",
            zones.join(", ")
        )),
    }
}

/// The zones of the firewalld that runs; `None` where none does.
async fn zones() -> zbus::Result<Option<Vec<String>>> {
    // Without a bus there is no firewalld that has one.
    let Ok(bus) = Connection::system().await else {
        return Ok(None);
    };
    if !is_there(&bus, NAME).await? {
        return Ok(None);
    }
    let firewalld = Proxy::new(&bus, NAME, PATH, ZONES).await?;
    firewalld.call("getZones", &()).await.map(Some)
}

/// Put each bridge into its zone, and all of them again when firewalld has forgotten it; take those out that
/// go. Ends when nobody sends any more.
pub async fn follow(bridges: watch::Receiver<BTreeSet<Zoned>>) {
    super::follow("firewalld", bridges, follow_on_bus).await;
}

/// The same for as long as the bus is there.
async fn follow_on_bus(bridges: &mut watch::Receiver<BTreeSet<Zoned>>) -> zbus::Result<()> {
    let bus = Connection::system().await?;
    let firewalld = Proxy::new(&bus, NAME, PATH, NAME).await?;
    let mut owners = firewalld.receive_owner_changed().await?;
    let mut reloads = firewalld.receive_signal("Reloaded").await?;
    let mut told: BTreeMap<String, Zone> = BTreeMap::new();
    loop {
        let now = bridges.borrow_and_update().clone();
        if is_there(&bus, NAME).await? {
            let stays = |bridge: &String, zone: &Zone| {
                now.iter().any(|z| z.bridge == *bridge && z.zone == *zone)
            };
            let gone = told.iter().filter(|(bridge, zone)| !stays(bridge, zone));
            let gone: Vec<_> = gone.map(|(b, z)| (b.clone(), z.clone())).collect();
            for (bridge, zone) in gone {
                told.remove(&bridge);
                // A bridge that stays was given to another daemon, which has its own say about the zone.
                if now.iter().any(|zoned| zoned.bridge == bridge) || !exists(&bridge) {
                    report(&bridge, take_out(&bus, &bridge, &zone)).await;
                }
            }
            for Zoned { bridge, zone } in &now {
                if !told.contains_key(bridge) {
                    report(bridge, put(&bus, bridge, zone)).await;
                    told.insert(bridge.clone(), zone.clone());
                }
            }
        }
        let forgotten = tokio::select! {
            changed = bridges.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                continue;
            }
            owner = owners.next() => owner.map(drop),
            reload = reloads.next() => reload.map(drop),
        };
        if forgotten.is_none() {
            return Err(zbus::Error::Failure("the bus has gone".to_owned()));
        }
        told.retain(|bridge, _| !now.iter().any(|zoned| zoned.bridge == *bridge));
    }
}

/// Is there a device of that name?
fn exists(device: &str) -> bool {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None);
    socket.is_ok_and(|socket| name_to_index(&socket, device).is_ok())
}

/// Take these bridges out of their zones, for an agent that does not run.
pub async fn release(bridges: impl IntoIterator<Item = Zoned>) {
    let bridges: Vec<Zoned> = bridges.into_iter().collect();
    if bridges.is_empty() {
        return;
    }
    let Ok(bus) = Connection::system().await else {
        return;
    };
    if !is_there(&bus, NAME).await.unwrap_or(false) {
        return;
    }
    for Zoned { bridge, zone } in bridges {
        report(&bridge, take_out(&bus, &bridge, &zone)).await;
    }
}

/// Wait for what is done to a bridge's zone, and say what came of it.
async fn report(bridge: &str, work: impl Future<Output = zbus::Result<Option<String>>>) {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(Some(zone))) => tracing::info!(bridge, zone, "told firewalld of the bridge's zone"),
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::error!(bridge, %error, "firewalld does not change its zone"),
        Err(_) => tracing::error!(bridge, "firewalld does not answer; its zone may be another"),
    }
}

/// Put a bridge into its zone. Returns that, unless nothing was to be done.
async fn put(bus: &Connection, bridge: &str, zone: &Zone) -> zbus::Result<Option<String>> {
    let firewalld = Proxy::new(bus, NAME, PATH, ZONES).await?;
    let current: String = firewalld.call("getZoneOfInterface", &(bridge,)).await?;
    let wanted = match zone {
        Zone::Named(zone) => zone.clone(),
        // The administrator has said otherwise.
        Zone::Usual(_) if !current.is_empty() => return Ok(None),
        Zone::Usual(usual) => {
            let zones: Vec<String> = firewalld.call("getZones", &()).await?;
            let mut there = usual.iter().filter(|zone| zones.iter().any(|z| z == *zone));
            match there.next() {
                Some(zone) => (*zone).to_owned(),
                None => return Ok(None),
            }
        }
    };
    if wanted == current {
        return Ok(None);
    }
    let change = (wanted.as_str(), bridge);
    let _: String = firewalld.call("changeZoneOfInterface", &change).await?;
    Ok(Some(wanted))
}

/// Take a bridge out of the zone that it was put into; the administrator's own settings hold again. Returns
/// the zone that it is in then, unless nothing was to be done.
async fn take_out(bus: &Connection, bridge: &str, zone: &Zone) -> zbus::Result<Option<String>> {
    let firewalld = Proxy::new(bus, NAME, PATH, ZONES).await?;
    let current: String = firewalld.call("getZoneOfInterface", &(bridge,)).await?;
    let is_ours = match zone {
        Zone::Named(zone) => *zone == current,
        Zone::Usual(usual) => usual.contains(&current.as_str()),
    };
    if !is_ours {
        return Ok(None);
    }
    let settings = Proxy::new(bus, NAME, SETTINGS_PATH, SETTINGS).await?;
    let permanent: String = settings.call("getZoneOfInterface", &(bridge,)).await?;
    if permanent == current {
        return Ok(None);
    }
    let method = match permanent.is_empty() {
        true => "removeInterface",
        false => "changeZoneOfInterface",
    };
    let to = if permanent.is_empty() {
        &current
    } else {
        &permanent
    };
    let _: String = firewalld.call(method, &(to.as_str(), bridge)).await?;
    Ok(Some(permanent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_where_libvirt_would_have_it() {
        let zoned = |forward: &str, attributes: &str| {
            let xml = format!(
                "<network><name>n</name>{forward}<bridge name='br0' {attributes}/>\
                 <ip address='10.0.0.1' prefix='24'/></network>"
            );
            Zoned::of(&crate::model::parse(&xml).unwrap()).map(|zoned| zoned.zone)
        };
        let libvirt = Some(Zone::Usual(&["libvirt"]));
        assert_eq!(zoned("<forward/>", ""), libvirt);
        assert_eq!(zoned("", ""), libvirt);
        let routed = Zone::Usual(&["libvirt-routed", "libvirt"]);
        assert_eq!(zoned("<forward mode='route'/>", ""), Some(routed));
        assert_eq!(zoned("<forward mode='open'/>", ""), None);
        for forward in ["", "<forward/>", "<forward mode='open'/>"] {
            let named = Zone::Named("work".to_owned());
            assert_eq!(zoned(forward, "zone='work'"), Some(named));
        }
        let host = "<network><name>n</name><forward mode='bridge'/><bridge name='br0'/></network>";
        assert_eq!(Zoned::of(&crate::model::parse(host).unwrap()), None);
    }
}
