//! Ports of networks on disk, for this boot: RUN_DIR/ports/NETWORK/UUID.xml, each the port's canonical
//! XML as libvirt's own network daemon keeps it in /run/libvirt/network/NETWORK/ports/UUID.xml.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::error::{Reason, StoreError};
use super::file::{self, Lasting};
use super::{Store, file_name};
use crate::model::{self, NetworkPort};

/// Is at the top of every port on disk.
const HEADER: &str = "<!--
  Written by netd for the time that the guest runs; changes are lost.
-->
";

impl Store {
    /// Writes a port of a network in place of the one with its UUID.
    pub fn save_port(&self, network: &str, port: &NetworkPort) -> Result<(), StoreError> {
        let dir = self.ports_of(network, "write")?;
        file::create_dir(&dir)?;
        let text = format!("{HEADER}{}", model::format_port(port));
        file::write(
            &port_file(&dir, port.uuid),
            text.as_bytes(),
            Lasting::ThisBoot,
        )
    }

    /// Removes a port of a network.
    pub fn remove_port(&self, network: &str, port: Uuid) -> Result<(), StoreError> {
        let dir = self.ports_of(network, "remove")?;
        file::remove(&port_file(&dir, port), Lasting::ThisBoot)?;
        remove_if_empty(&dir)
    }

    /// Removes all ports of a network, those that could not be read included.
    pub fn remove_ports(&self, network: &str) -> Result<(), StoreError> {
        let dir = self.ports_of(network, "remove")?;
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file::failed("remove", &dir, error))
            }
            _ => Ok(()),
        }
    }

    /// Reads the ports of a network. Files that cannot be read are reported beside them and left
    /// alone.
    pub fn load_ports(&self, network: &str) -> (Vec<NetworkPort>, Vec<StoreError>) {
        let read = || -> Result<_, StoreError> {
            let dir = self.ports_of(network, "read")?;
            let names = if dir.exists() {
                file::names(&dir, ".xml")?
            } else {
                Vec::new()
            };
            Ok((dir, names))
        };
        let (dir, names) = match read() {
            Ok(found) => found,
            Err(error) => return (Vec::new(), vec![error]),
        };
        let mut ports = Vec::new();
        let mut errors = Vec::new();
        for name in names {
            match read_port(&dir.join(file_name(&name, "xml")), &name) {
                Ok(port) => ports.push(port),
                Err(error) => errors.push(error),
            }
        }
        (ports, errors)
    }

    /// Clears away what interrupted writes left, and the ports of networks that were forgotten.
    pub(super) fn remove_leftovers_of_ports(&self) -> Result<(), StoreError> {
        let cannot = |error| file::failed("list", &self.ports, error);
        for entry in fs::read_dir(&self.ports).map_err(cannot)? {
            let dir = entry.map_err(cannot)?.path();
            if dir.is_dir() {
                file::remove_leftovers(&dir)?;
                remove_if_empty(&dir)?;
            }
        }
        Ok(())
    }

    /// The directory of a network's ports; a name that could lead elsewhere is refused.
    fn ports_of(&self, network: &str, operation: &'static str) -> Result<PathBuf, StoreError> {
        model::check_name(network).map_err(|error| file::failed(operation, &self.ports, error))?;
        Ok(self.ports.join(network))
    }
}

fn port_file(dir: &Path, port: Uuid) -> PathBuf {
    dir.join(file_name(&port.to_string(), "xml"))
}

fn read_port(path: &Path, name: &str) -> Result<NetworkPort, StoreError> {
    let text = file::read(path)?;
    let parsed = model::parse_port(&text).map_err(|error| file::failed("read", path, error))?;
    if parsed.port.uuid.to_string() == name {
        return Ok(parsed.port);
    }
    let reason = Reason::OtherPort(parsed.port.uuid);
    Err(file::failed("use", path, reason))
}

/// Removes a directory that holds nothing any more.
fn remove_if_empty(dir: &Path) -> Result<(), StoreError> {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound};
    match fs::remove_dir(dir) {
        Err(error) if !matches!(error.kind(), NotFound | DirectoryNotEmpty) => {
            Err(file::failed("remove", dir, error))
        }
        _ => Ok(()),
    }
}
