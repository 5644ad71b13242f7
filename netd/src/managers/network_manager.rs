//! NetworkManager: bridges of the networks and their ports are not managed, said by D-Bus.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use zbus::proxy::{self, CacheProperties};
use zbus::{Connection, OwnedObjectPath, Proxy};

use super::{PATIENCE, is_there};
use crate::model::Mac;

const NAME: &str = "org.freedesktop.NetworkManager";

/// How long until a device is asked for again that NetworkManager does not know yet, and how often.
const AGAIN: Duration = Duration::from_millis(200);
const ATTEMPTS: u32 = 10;

/// A bridge of a network that runs. NetworkManager remembers what was said of a number, so a device
/// that is made anew is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bridge {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address. It tells the bridge from one in another network namespace.
    pub mac: Mac,
    /// Its ports: number and name.
    pub ports: BTreeSet<(u32, String)>,
}

/// Tell NetworkManager of each bridge, and of all of them when it comes back. Ends when nobody sends
/// any more.
pub async fn follow(bridges: watch::Receiver<BTreeSet<Bridge>>) {
    super::follow("NetworkManager", bridges, follow_on_bus).await;
}

/// The same for as long as the bus is there.
async fn follow_on_bus(bridges: &mut watch::Receiver<BTreeSet<Bridge>>) -> zbus::Result<()> {
    let bus = Connection::system().await?;
    let manager = Proxy::new(&bus, NAME, "/org/freedesktop/NetworkManager", NAME).await?;
    let mut owners = manager.receive_owner_changed().await?;
    // By number; false where NetworkManager is in another namespace.
    let mut told: BTreeMap<u32, bool> = BTreeMap::new();
    loop {
        let now = bridges.borrow_and_update().clone();
        told.retain(|index, _| now.iter().any(|bridge| bridge.has(*index)));
        if is_there(&bus, NAME).await? {
            for bridge in &now {
                tell(&bus, &manager, bridge, &mut told).await;
            }
        }
        tokio::select! {
            changed = bridges.changed() => if changed.is_err() {
                return Ok(());
            },
            owner = owners.next() => match owner {
                // Another one knows nothing of what the last one was told, unless on disk.
                Some(_) => told.clear(),
                None => return Err(zbus::Error::Failure("the bus has gone".to_owned())),
            },
        }
    }
}

impl Bridge {
    /// Is that the bridge's number, or a port's?
    fn has(&self, index: u32) -> bool {
        index == self.index || self.ports.iter().any(|(port, _)| *port == index)
    }
}

/// Tell NetworkManager of a bridge and its ports, as far as they were not `told` of.
async fn tell(
    bus: &Connection,
    manager: &Proxy<'_>,
    bridge: &Bridge,
    told: &mut BTreeMap<u32, bool>,
) {
    let own = [(bridge.index, bridge.name.clone())];
    for (index, name) in own.iter().chain(&bridge.ports) {
        if told.contains_key(index) {
            continue;
        }
        // What is not the bridge's namespace is not its ports' either.
        let is_port = *index != bridge.index;
        if is_port && told.get(&bridge.index) == Some(&false) {
            continue;
        }
        let mac = (!is_port).then_some(bridge.mac);
        let answer = tokio::time::timeout(PATIENCE * 3, unmanage(bus, manager, name, mac)).await;
        let is_ours = match answer {
            Ok(Ok(is_ours)) => {
                tracing::debug!(device = name, is_ours, "NetworkManager leaves it alone");
                is_ours
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    device = name,
                    %error,
                    "NetworkManager may change it: it could not be told that it is netd's"
                );
                true
            }
            Err(_) => {
                let device = name;
                tracing::warn!(device, "NetworkManager may change it: it does not answer");
                true
            }
        };
        told.insert(*index, is_ours);
    }
}

/// Tell NetworkManager that a device is not its to manage; `false` where it has another one of that
/// name, with another MAC address than this.
async fn unmanage(
    bus: &Connection,
    manager: &Proxy<'_>,
    name: &str,
    mac: Option<Mac>,
) -> zbus::Result<bool> {
    let mut attempt = 1;
    let path: OwnedObjectPath = loop {
        match manager.call("GetDeviceByIpIface", &(name,)).await {
            Ok(path) => break path,
            // It has not seen it yet.
            Err(_) if attempt < ATTEMPTS => {
                attempt += 1;
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    };
    let device: Proxy<'_> = proxy::Builder::new(bus)
        .destination(NAME)
        .path(path)
        .interface("org.freedesktop.NetworkManager.Device")
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    if let Some(mac) = mac {
        let found: String = device.get_property("HwAddress").await?;
        if found.parse() != Ok(mac) {
            return Ok(false);
        }
    }
    device.set_property("Managed", false).await?;
    Ok(true)
}
