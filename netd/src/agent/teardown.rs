//! `netd teardown`: remove everything an agent with these settings set up. No agent needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::Notify;

use super::host::{ActiveData, HostData, KernelHost};
use super::lock::{self, Locks};
use crate::config::Xdp;
use crate::datapath::bpffs;
use crate::dnsmasq;
use crate::link::Links;
use crate::managers::firewalld::{self, Zoned};
use crate::model::NetworkPorts;
use crate::netns;
use crate::paths::Paths;
use crate::plan::{Intent, Member, Scope, execute};
use crate::services::{namespace, relay};
use crate::store::Store;

/// Remove bridges, dnsmasq processes, programs, maps and run-time records, and give back what was
/// changed on the host. Definitions and leases stay: they are the administrator's. As long as what is
/// returned lives, no agent starts.
///
/// # Errors
/// An agent is running, or something could not be removed: every such thing is listed, and the
/// rest is removed all the same.
pub async fn teardown(paths: Paths) -> anyhow::Result<Locks> {
    let locks = lock::take_existing(&paths)?;
    let mut errors: Vec<String> = Vec::new();
    if paths.run_dir.exists() {
        take_down(&paths, &mut errors).await?;
    } else {
        let left = bpffs::clear(&paths.bpffs);
        errors.extend(left.iter().map(ToString::to_string));
    }
    remove_namespaces(&paths, &mut errors).await;
    if let Err(error) = dnsmasq::process::remove_shared(&paths) {
        errors.push(error.to_string());
    }
    for path in [
        paths.run_dir.join("host.json"),
        paths.run_dir.join("prefixes.json"),
        paths.active_dir(),
        paths.ports_dir(),
    ] {
        remove(&path, &mut errors);
    }
    if errors.is_empty() {
        return Ok(locks);
    }
    anyhow::bail!("some things are left:\n  {}", errors.join("\n  "))
}

/// Everything of the networks that records or definitions lead to, and of the datapath.
async fn take_down(paths: &Paths, errors: &mut Vec<String>) -> anyhow::Result<()> {
    let store = Store::open(paths)?;
    let links = Links::connect().context("cannot talk to the kernel about devices")?;
    let (active, unread) = store.load_active::<ActiveData>();
    errors.extend(unread.iter().map(ToString::to_string));
    // Where a record cannot be read, the definition leads to the process all the same.
    let (defined, _) = store.load();
    let notes = store.load_host::<HostData>().unwrap_or_else(|error| {
        errors.push(error.to_string());
        HostData::default()
    });
    let wake = Arc::new(Notify::new());
    let binary = PathBuf::new();
    let mut host = KernelHost::new(paths.clone(), binary, store, links, None, notes, wake);
    let left = host.remove_leftovers();
    errors.extend(left.err().iter().map(ToString::to_string));
    let mut networks = Vec::new();
    for record in active {
        host.adopt(&record.network, record.data);
        networks.push(record.network);
    }
    let zoned: Vec<_> = networks.iter().filter_map(Zoned::of).collect();
    networks.extend(defined.into_iter().map(|stored| stored.network));
    let mut seen = BTreeSet::new();
    networks.retain(|network| seen.insert(network.uuid));
    for network in &networks {
        host.adopt_process(network);
    }
    let xdp = Xdp::default();
    let network_ports = NetworkPorts::default();
    let members = networks.iter().map(|network| Member {
        network,
        generation: 0,
        up: false,
        service: host.service_of(network).unwrap_or_default(),
        ports: &[],
        network_ports: &network_ports,
    });
    let intent = Intent {
        members: members.collect(),
        xdp: &xdp,
        firewall: None,
        scope: Scope::Teardown,
        let_go: BTreeSet::new(),
    };
    let outcome = execute(&mut host, &intent).await;
    firewalld::release(zoned).await;
    let failures = outcome.failures.iter();
    errors.extend(failures.map(|failure| failure.error.to_string()));
    Ok(())
}

/// Namespaces of services that no record or definition leads to. Their links go with them.
async fn remove_namespaces(paths: &Paths, errors: &mut Vec<String>) {
    let dirs = [paths.netns_dir(), paths.relay_dir()];
    match namespace::names(paths) {
        Ok(found) => {
            for bridge in found {
                if let Err(error) = relay::stop(paths, &bridge, None).await {
                    errors.push(error.to_string());
                }
                let path = namespace::path(paths, &bridge);
                if let Err(error) = netns::unmount(&path) {
                    errors.push(format!("cannot unmount {}: {error}", path.display()));
                }
            }
        }
        Err(error) => errors.push(format!("cannot list the namespaces of services: {error}")),
    }
    for dir in dirs {
        remove(&dir, errors);
    }
}

fn remove(path: &Path, errors: &mut Vec<String>) {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            errors.push(format!("cannot remove {}: {error}", path.display()));
        }
        _ => {}
    }
}
