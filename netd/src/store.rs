//! Definitions, autostart links and records of active networks on disk.
//!
//! Every file is written beside its place and renamed into it, so that at any moment the last good
//! version is there; definitions and links are synced, since they outlive a power failure, records of
//! what runs are not. What cannot be read is reported and left as it is. A store expects
//! to be the only one on its directories; the agent sees to that before it opens one.

mod error;
pub(crate) mod file;
mod ports;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::model::{self, FormatOptions, Network, XmlError};
use crate::paths::Paths;
use error::{MAX_BANS_FILE, MAX_FILE};
use file::Lasting;

pub use error::{Reason, StoreError};

/// Is at the top of every definition on disk.
const HEADER: &str = "<!--
  Managed by netd. After editing this file run `netd reload`, or change the
  network with `netd net-edit NAME`. netd rewrites this file; comments are lost.
-->
";

/// Before the UUID in an identity for DHCPv6 (RFC 6355, section 4).
const DUID_UUID: [u8; 2] = [0, 4];

/// A definition found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNetwork {
    /// The definition.
    pub network: Network,
    /// Does it start with the agent?
    pub autostart: bool,
}

/// The record of an active network: its live definition and the agent's own data on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveRecord<T> {
    /// The definition the network runs with.
    pub network: Network,
    /// What the agent noted.
    pub data: T,
}

/// The directories of one agent's networks.
#[derive(Clone, Debug)]
pub struct Store {
    networks: PathBuf,
    autostart: PathBuf,
    active: PathBuf,
    ports: PathBuf,
    host: PathBuf,
    bans: PathBuf,
    identity: PathBuf,
    prefixes: PathBuf,
}

impl Store {
    /// Makes the directories where they are missing (for their owner only) and clears away what
    /// interrupted writes left.
    pub fn open(paths: &Paths) -> Result<Self, StoreError> {
        let store = Self {
            networks: paths.networks_dir(),
            autostart: paths.autostart_dir(),
            active: paths.active_dir(),
            ports: paths.ports_dir(),
            host: paths.run_dir.join("host.json"),
            bans: paths.bans_file(),
            identity: paths.identity_file(),
            prefixes: paths.run_dir.join("prefixes.json"),
        };
        for dir in [
            &store.networks,
            &store.autostart,
            &store.active,
            &store.ports,
        ] {
            file::create_dir(dir)?;
            file::remove_leftovers(dir)?;
        }
        file::remove_leftovers(&paths.run_dir)?;
        // Others make these, with modes of their own: dnsmasq's user has to get through.
        for dir in [&paths.state_dir, &paths.dnsmasq_dir(), &paths.relay_dir()] {
            file::remove_leftovers(dir)?;
        }
        store.remove_leftovers_of_ports()?;
        Ok(store)
    }

    /// Reads all definitions, sorted by name. Files that cannot be read are reported beside them
    /// and left alone, and so are autostart links that lead to no definition.
    pub fn load(&self) -> (Vec<StoredNetwork>, Vec<StoreError>) {
        let (networks, mut errors) = load_networks(&self.networks);
        let mut stored = Vec::new();
        for network in networks {
            let link = self.autostart_link(&network.name);
            let autostart = file::is_link(&link).unwrap_or_else(|error| {
                errors.push(error);
                false
            });
            stored.push(StoredNetwork { network, autostart });
        }
        match file::names(&self.autostart, ".xml") {
            Ok(names) => errors.extend(names.into_iter().filter_map(|name| {
                let link = self.autostart_link(&name);
                // A link to a file that is there, if unreadable, was reported with that file.
                link.metadata()
                    .err()
                    .map(|error| file::failed("follow", &link, error))
            })),
            Err(error) => errors.push(error),
        }
        (stored, errors)
    }

    /// Writes a definition in place of the one of that name.
    pub fn save(&self, network: &Network) -> Result<(), StoreError> {
        write_network(&self.networks, network, Lasting::Always)
    }

    /// Removes a definition and its autostart link; nothing happens where there is none.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = path(&self.networks, name, "xml", "remove")?;
        // The link first: a link without a definition would be a fault.
        file::remove(&self.autostart_link(name), Lasting::Always)?;
        file::remove(&path, Lasting::Always)
    }

    /// Makes or removes the link that starts a network with the agent.
    pub fn set_autostart(&self, name: &str, autostart: bool) -> Result<(), StoreError> {
        let link = path(&self.autostart, name, "xml", "link")?;
        if !autostart {
            return file::remove(&link, Lasting::Always);
        }
        let target = path(&self.networks, name, "xml", "link")?;
        target
            .metadata()
            .map_err(|error| file::failed("link to", &target, error))?;
        file::link(
            &Path::new("../networks").join(file_name(name, "xml")),
            &link,
        )
    }

    /// Writes the record of an active network: its live definition and the agent's data. Each of
    /// the two files is whole at any moment; after an error they may be of different calls.
    pub fn save_active<T: Serialize>(&self, network: &Network, data: &T) -> Result<(), StoreError> {
        // The data before the definition: a record is complete once its definition is there.
        self.save_active_data(&network.name, data)?;
        write_network(&self.active, network, Lasting::ThisBoot)
    }

    /// Writes the agent's data on an active network anew; its definition stays as it was.
    pub fn save_active_data<T: Serialize>(&self, name: &str, data: &T) -> Result<(), StoreError> {
        let path = path(&self.active, name, "json", "write")?;
        let json =
            serde_json::to_vec_pretty(data).map_err(|error| file::failed("write", &path, error))?;
        file::write(&path, &json, Lasting::ThisBoot)
    }

    /// Reads the records of all active networks, as [`Store::load`] does with definitions. A
    /// definition without data is reported, and given with the default in its place.
    pub fn load_active<T: DeserializeOwned + Default>(
        &self,
    ) -> (Vec<ActiveRecord<T>>, Vec<StoreError>) {
        let (networks, mut errors) = load_networks(&self.active);
        let mut records = Vec::new();
        for network in networks {
            let path = self.active.join(file_name(&network.name, "json"));
            let data = file::read(&path).and_then(|text| {
                serde_json::from_str(&text).map_err(|error| file::failed("read", &path, error))
            });
            match data {
                Ok(data) => records.push(ActiveRecord { network, data }),
                // The network runs all the same, and must not go unguarded.
                Err(error) => {
                    errors.push(error);
                    let data = T::default();
                    records.push(ActiveRecord { network, data });
                }
            }
        }
        (records, errors)
    }

    /// Removes the record of a network that is no longer active.
    pub fn remove_active(&self, name: &str) -> Result<(), StoreError> {
        let definition = path(&self.active, name, "xml", "remove")?;
        file::remove(&definition, Lasting::ThisBoot)?;
        let data = self.active.join(file_name(name, "json"));
        file::remove(&data, Lasting::ThisBoot)
    }

    /// Writes what the agent changed on the host and has to give back, for this boot. Nothing to
    /// give back leaves no file.
    pub fn save_host<T: Serialize + Default + PartialEq>(
        &self,
        data: &T,
    ) -> Result<(), StoreError> {
        if *data == T::default() {
            return file::remove(&self.host, Lasting::ThisBoot);
        }
        let json = serde_json::to_vec_pretty(data)
            .map_err(|error| file::failed("write", &self.host, error))?;
        file::write(&self.host, &json, Lasting::ThisBoot)
    }

    /// Reads what [`Store::save_host`] wrote; the default when nothing was written since boot.
    pub fn load_host<T: DeserializeOwned + Default>(&self) -> Result<T, StoreError> {
        if !self.host.exists() {
            return Ok(T::default());
        }
        let text = file::read(&self.host)?;
        serde_json::from_str(&text).map_err(|error| file::failed("read", &self.host, error))
    }

    /// Who this host is to DHCPv6 servers (DUID, RFC 6355): made once, the same ever after.
    pub fn identity(&self) -> Result<Vec<u8>, StoreError> {
        let there = self.identity.try_exists();
        if !there.map_err(|error| file::failed("look at", &self.identity, error))? {
            let made = format!("{}\n", Uuid::new_v4());
            file::write(&self.identity, made.as_bytes(), Lasting::Always)?;
        }
        let text = file::read(&self.identity)?;
        let uuid = Uuid::parse_str(text.trim())
            .map_err(|_| file::failed("read", &self.identity, Reason::NoIdentity))?;
        let mut duid = DUID_UUID.to_vec();
        duid.extend(uuid.as_bytes());
        Ok(duid)
    }

    /// Writes the prefixes that active networks were given; none leave no file.
    pub fn save_prefixes<T: Serialize + Default + PartialEq>(
        &self,
        prefixes: &T,
    ) -> Result<(), StoreError> {
        if *prefixes == T::default() {
            return file::remove(&self.prefixes, Lasting::ThisBoot);
        }
        let json = serde_json::to_vec(prefixes)
            .map_err(|error| file::failed("write", &self.prefixes, error))?;
        file::write(&self.prefixes, &json, Lasting::ThisBoot)
    }

    /// Reads what [`Store::save_prefixes`] wrote; the default when nothing was written since boot.
    pub fn load_prefixes<T: DeserializeOwned + Default>(&self) -> Result<T, StoreError> {
        if !self.prefixes.exists() {
            return Ok(T::default());
        }
        let text = file::read(&self.prefixes)?;
        serde_json::from_str(&text).map_err(|error| file::failed("read", &self.prefixes, error))
    }

    /// Writes the list of bans; an empty one leaves no file.
    pub fn save_bans<T: Serialize>(&self, bans: &[T]) -> Result<(), StoreError> {
        if bans.is_empty() {
            return file::remove(&self.bans, Lasting::Always);
        }
        let json =
            serde_json::to_vec(bans).map_err(|error| file::failed("write", &self.bans, error))?;
        file::write(&self.bans, &json, Lasting::Always)
    }

    /// Reads what [`Store::save_bans`] wrote.
    pub fn load_bans<T: DeserializeOwned>(&self) -> Result<Vec<T>, StoreError> {
        let there = self.bans.try_exists();
        if !there.map_err(|error| file::failed("look at", &self.bans, error))? {
            return Ok(Vec::new());
        }
        let text = file::read_at_most(&self.bans, MAX_BANS_FILE)?;
        serde_json::from_str(&text).map_err(|error| file::failed("read", &self.bans, error))
    }

    fn autostart_link(&self, name: &str) -> PathBuf {
        self.autostart.join(file_name(name, "xml"))
    }
}

fn file_name(name: &str, extension: &str) -> String {
    format!("{name}.{extension}")
}

/// The path of a network's file; a name that could lead elsewhere is refused.
fn path(
    dir: &Path,
    name: &str,
    extension: &str,
    operation: &'static str,
) -> Result<PathBuf, StoreError> {
    model::check_name(name).map_err(|error| file::failed(operation, dir, error))?;
    Ok(dir.join(file_name(name, extension)))
}

/// The definition as the next agent will read it from its own text: what cannot be written, such as
/// control characters, breaks the rules for the whole, or is too large as it is kept, is refused here
/// and not lost there.
///
/// # Errors
/// What the next agent would say of it.
pub fn read_again(network: &Network) -> Result<Network, XmlError> {
    model::parse(&text(network, Lasting::Always))
}

/// Is the definition within the limits of what is read, as far as a glance at its text shows?
#[must_use]
pub fn fits(network: &Network) -> bool {
    model::fits(&text(network, Lasting::Always))
}

/// Writes a definition, the live one in a record of this boot; one that could not be read again is
/// refused.
fn write_network(dir: &Path, network: &Network, lasting: Lasting) -> Result<(), StoreError> {
    let path = path(dir, &network.name, "xml", "write")?;
    let text = text(network, lasting);
    if text.len() as u64 > MAX_FILE {
        return Err(file::failed("write", &path, Reason::TooLarge(MAX_FILE)));
    }
    file::write(&path, text.as_bytes(), lasting)
}

/// What is written.
fn text(network: &Network, lasting: Lasting) -> String {
    let options = FormatOptions {
        inactive: lasting == Lasting::Always,
        connections: None,
    };
    format!("{HEADER}{}", model::format(network, options))
}

fn load_networks(dir: &Path) -> (Vec<Network>, Vec<StoreError>) {
    let names = match file::names(dir, ".xml") {
        Ok(names) => names,
        Err(error) => return (Vec::new(), vec![error]),
    };
    let mut networks = Vec::new();
    let mut errors = Vec::new();
    for name in names {
        let path = dir.join(file_name(&name, "xml"));
        let network = file::read(&path).and_then(|text| {
            let model::Parsed { network, unknown } =
                model::parse_whole(&text).map_err(|error| file::failed("read", &path, error))?;
            for piece in unknown {
                tracing::warn!(file = %path.display(), "ignored in the definition, {piece}");
            }
            if network.name == name {
                Ok(network)
            } else {
                let reason = Reason::OtherName(network.name);
                Err(file::failed("use", &path, reason))
            }
        });
        match network {
            Ok(network) => networks.push(network),
            Err(error) => errors.push(error),
        }
    }
    (networks, errors)
}
