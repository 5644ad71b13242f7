//! `netd teardown`: remove everything an agent with these settings set up. No agent needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::Notify;

use super::host::{ActiveData, HostData, KernelHost};
use super::lock;
use crate::config::Xdp;
use crate::datapath::bpffs;
use crate::dnsmasq;
use crate::link::Links;
use crate::model::NetworkPorts;
use crate::paths::Paths;
use crate::plan::{Intent, Member, Scope, execute};
use crate::store::Store;

/// Remove bridges, dnsmasq processes, programs, maps and run-time records, and give back what was
/// changed on the host. Definitions and leases stay: they are the administrator's.
///
/// # Errors
/// An agent is running, or something could not be removed: every such thing is listed, and the
/// rest is removed all the same.
pub async fn teardown(paths: Paths) -> anyhow::Result<()> {
    let _locks = lock::take_existing(&paths)?;
    let mut errors: Vec<String> = Vec::new();
    if paths.run_dir.exists() {
        take_down(&paths, &mut errors).await?;
    } else {
        let left = bpffs::clear(&paths.bpffs);
        errors.extend(left.iter().map(ToString::to_string));
    }
    if let Err(error) = dnsmasq::process::remove_shared(&paths) {
        errors.push(error.to_string());
    }
    for path in [
        paths.run_dir.join("host.json"),
        paths.active_dir(),
        paths.ports_dir(),
    ] {
        remove(&path, &mut errors);
    }
    if errors.is_empty() {
        return Ok(());
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
    let mut networks = Vec::new();
    for record in active {
        host.adopt(&record.network, record.data);
        networks.push(record.network);
    }
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
        scope: Scope::Teardown,
        let_go: BTreeSet::new(),
    };
    let outcome = execute(&mut host, &intent).await;
    let failures = outcome.failures.iter();
    errors.extend(failures.map(|failure| failure.error.to_string()));
    Ok(())
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
