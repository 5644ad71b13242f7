//! The networks of libvirt's own driver, as its files tell of them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::places::Places;
use super::step::RunningNetwork;
use crate::dnsmasq::{self, Running as Process, leases};
use crate::model::{self, Network};
use crate::store::file::{self, Lasting};

/// One of libvirt's networks.
#[derive(Debug)]
pub struct StockNetwork {
    /// Its name.
    pub name: String,
    /// Its definition; none for a transient one.
    pub definition: Option<Network>,
    /// Does it start with the daemon?
    pub autostart: bool,
    /// What runs.
    pub running: Option<Running>,
}

/// What runs of a network.
#[derive(Debug)]
pub struct Running {
    /// The definition it runs with.
    pub network: Network,
    /// Ports of guests.
    pub ports: Vec<Port>,
    /// Leases in its file, ended ones included.
    pub leases: usize,
    /// Its dnsmasq.
    pub dnsmasq: Option<Process>,
}

/// A port of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its UUID, which is the file's name.
    pub uuid: String,
    /// Its XML.
    pub xml: String,
}

impl StockNetwork {
    /// The definition that clients see first.
    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        let running = self.running.as_ref().map(|running| &running.network);
        running.or(self.definition.as_ref())
    }
}

/// All networks, sorted by name, and what could not be read.
#[must_use]
pub fn read(places: &Places) -> (Vec<StockNetwork>, Vec<String>) {
    let mut problems = Vec::new();
    let mut list = |dir: &Path| {
        names(dir).unwrap_or_else(|error| {
            problems.push(format!("{error:#}"));
            Vec::new()
        })
    };
    let mut all = list(&places.definitions());
    all.extend(list(&places.status()));
    all.sort();
    all.dedup();
    let mut networks = Vec::new();
    for name in all {
        match network(places, &name) {
            Ok(network) => networks.push(network),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    (networks, problems)
}

/// Names of a directory's XML files; none where there is no such directory.
fn names(dir: &Path) -> Result<Vec<String>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    Ok(file::names(dir, ".xml")?)
}

fn network(places: &Places, name: &str) -> Result<StockNetwork> {
    model::check_name(name).with_context(|| format!("network '{}'", name.escape_debug()))?;
    let file_name = format!("{name}.xml");
    let path = places.definitions().join(&file_name);
    let definition = path.exists().then(|| {
        let network = model::parse(&file::read(&path)?)
            .with_context(|| format!("cannot read {}", path.display()))?;
        named(network, name, &path)
    });
    let path = places.status().join(&file_name);
    let running = path.exists().then(|| {
        let text = file::read(&path)?;
        let network =
            of_status(&text).with_context(|| format!("cannot read {}", path.display()))?;
        running(places, named(network, name, &path)?)
    });
    Ok(StockNetwork {
        name: name.to_owned(),
        definition: definition.transpose()?,
        autostart: file::is_link(&places.autostart().join(file_name))?,
        running: running.transpose()?,
    })
}

fn named(network: Network, name: &str, path: &Path) -> Result<Network> {
    ensure!(
        network.name == name,
        "{} defines network '{}'; its file has to be called {}.xml",
        path.display(),
        network.name,
        network.name
    );
    Ok(network)
}

/// The definition inside a status file.
fn of_status(text: &str) -> Result<Network> {
    let document = roxmltree::Document::parse(text).context("it is no XML")?;
    let root = document.root_element();
    ensure!(
        root.has_tag_name("networkstatus"),
        "it holds <{}>, not <networkstatus>",
        root.tag_name().name()
    );
    let network = root
        .children()
        .find(|child| child.has_tag_name("network"))
        .context("its <networkstatus> has no <network>")?;
    Ok(model::parse(&text[network.range()])?)
}

fn running(places: &Places, network: Network) -> Result<Running> {
    let dir = places.status().join(&network.name).join("ports");
    let mut ports = Vec::new();
    for uuid in names(&dir)? {
        let xml = file::read(&dir.join(format!("{uuid}.xml")))?;
        ports.push(Port { uuid, xml });
    }
    let bridge = network.bridge.name.as_deref();
    let leases = match bridge.filter(|_| network.is_managed()) {
        Some(bridge) => leases::count(&places.dnsmasq(), bridge)?,
        None => 0,
    };
    Ok(Running {
        dnsmasq: process(places, &network.name),
        ports,
        leases,
        network,
    })
}

/// The dnsmasq that libvirt runs for a network: the process of its pid file, if that is a dnsmasq with
/// that network's configuration.
#[must_use]
pub fn process(places: &Places, name: &str) -> Option<Process> {
    dnsmasq::process::adopt(
        &places.status().join(format!("{name}.pid")),
        &places.dnsmasq().join(format!("{name}.conf")),
    )
}

/// The status of a running network.
#[must_use]
pub fn status_file(places: &Places, name: &str) -> PathBuf {
    places.status().join(format!("{name}.xml"))
}

/// The file of a guest's port.
#[must_use]
pub fn port_file(places: &Places, name: &str, uuid: &str) -> PathBuf {
    places
        .status()
        .join(name)
        .join("ports")
        .join(format!("{uuid}.xml"))
}

/// Write or remove a definition where libvirt keeps it, and its autostart link.
///
/// # Errors
/// A file cannot be written.
pub fn write_definition(
    places: &Places,
    name: &str,
    xml: Option<&str>,
    autostart: bool,
) -> Result<()> {
    model::check_name(name)?;
    make_dir(&places.autostart())?;
    let path = places.definitions().join(format!("{name}.xml"));
    let link = places.autostart().join(format!("{name}.xml"));
    match xml {
        Some(xml) => file::write(&path, xml.as_bytes(), Lasting::Always)?,
        None => file::remove(&path, Lasting::Always)?,
    }
    // libvirt tells its own links by their targets, which are whole paths.
    match autostart && xml.is_some() {
        true => Ok(file::link(&path, &link)?),
        false => Ok(file::remove(&link, Lasting::Always)?),
    }
}

/// Write what libvirt's driver reads of a running network when it starts.
///
/// # Errors
/// A file cannot be written.
pub fn write_status(places: &Places, network: &RunningNetwork) -> Result<()> {
    for (uuid, xml) in &network.ports {
        write_for_boot(&port_file(places, &network.name, uuid), xml)?;
    }
    // 0 to 2 are the classes that libvirt's shaping has for itself.
    let status = format!(
        "<networkstatus>\n<class_id bitmap='0-2'/>\n<floor sum='0'/>\n{}</networkstatus>\n",
        network.xml
    );
    write_for_boot(&status_file(places, &network.name), &status)
}

/// Remove it again.
///
/// # Errors
/// A file cannot be removed.
pub fn remove_status(places: &Places, network: &RunningNetwork) -> Result<()> {
    file::remove(&status_file(places, &network.name), Lasting::ThisBoot)?;
    for (uuid, _) in &network.ports {
        file::remove(&port_file(places, &network.name, uuid), Lasting::ThisBoot)?;
    }
    Ok(())
}

/// Write a file of this boot, with the directories that it is in.
///
/// # Errors
/// The file or a directory cannot be written.
pub fn write_for_boot(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    Ok(file::write(path, text.as_bytes(), Lasting::ThisBoot)?)
}

fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

#[cfg(test)]
#[path = "networks_tests.rs"]
mod tests;
