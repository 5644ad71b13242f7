//! Programs that manage a host's devices are told which are the networks'.
//!
//! systemd-networkd takes every port out of a bridge where one of its files matches all devices, and
//! deletes the bridge's addresses; NetworkManager empties a bridge whose connection goes down. Neither
//! acts on a device that is said not to be theirs: to networkd by a file, to NetworkManager by D-Bus.
//! firewalld is told which zone a bridge is in.

pub mod firewalld;
pub mod network_manager;
pub mod networkd;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::names::BusName;

/// How long a manager may take to answer. It is busy while a host starts.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long until a bus is looked for again.
const NEXT_BUS: Duration = Duration::from_secs(10);

/// Have `on_bus` tell a manager of bridges for as long as the bus is there, then on the next one. Ends when
/// nobody sends any more.
async fn follow<T>(
    manager: &str,
    mut bridges: watch::Receiver<BTreeSet<T>>,
    on_bus: impl AsyncFn(&mut watch::Receiver<BTreeSet<T>>) -> zbus::Result<()>,
) {
    loop {
        // A host without the manager may have no bus either.
        while bridges.borrow_and_update().is_empty() {
            if bridges.changed().await.is_err() {
                return;
            }
        }
        match on_bus(&mut bridges).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(manager, %error, "it cannot be told of the bridges");
                tokio::time::sleep(NEXT_BUS).await;
            }
        }
    }
}

/// Is there somebody of this name on the bus? Nobody is started to find out.
async fn is_there(bus: &Connection, name: &'static str) -> zbus::Result<bool> {
    let names = DBusProxy::new(bus).await?;
    Ok(names.name_has_owner(BusName::try_from(name)?).await?)
}
