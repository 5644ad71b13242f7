//! `netd teardown`: remove everything an agent with these settings set up. No agent needed.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;

use super::controller::{ActiveData, HostData};
use super::lifecycle::delete_bridge;
use super::lock;
use crate::datapath::{bpffs, maps, pin_dir};
use crate::dnsmasq;
use crate::link::{Links, sysctl};
use crate::model::{Family, Mac, Network, in_subnet};
use crate::paths::Paths;
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
        take_down_networks(&paths, &mut errors).await?;
    }
    errors.extend(bpffs::clear(&paths.bpffs).iter().map(ToString::to_string));
    if let Err(error) = dnsmasq::process::remove_shared(&paths) {
        errors.push(error.to_string());
    }
    for path in [paths.run_dir.join("host.json"), paths.active_dir()] {
        remove(&path, &mut errors);
    }
    if errors.is_empty() {
        return Ok(());
    }
    anyhow::bail!("some things are left:\n  {}", errors.join("\n  "))
}

async fn take_down_networks(paths: &Paths, errors: &mut Vec<String>) -> anyhow::Result<()> {
    let store = Store::open(paths)?;
    let links = Links::connect().context("cannot talk to the kernel about devices")?;
    let (active, unread) = store.load_active::<ActiveData>();
    errors.extend(unread.iter().map(ToString::to_string));
    // Where a record cannot be read, the definition leads to the process all the same.
    let (defined, _) = store.load();
    let networks = active.iter().map(|record| &record.network);
    for network in networks.chain(defined.iter().map(|stored| &stored.network)) {
        if let Err(error) = dnsmasq::process::stop_network(network, paths, None).await {
            errors.push(error.to_string());
        }
    }
    let networks: Vec<&Network> = active.iter().map(|record| &record.network).collect();
    stop_listening(&networks, &links, errors).await;
    for record in active {
        let network = record.network;
        if let Err(error) = delete_bridge(&links, &network, record.data.bridge).await {
            errors.push(error.to_string());
        }
    }
    delete_guarded_bridges(paths, &links, errors).await;
    match store.load_host::<HostData>() {
        Ok(mut host) => {
            for family in [Family::Ipv4, Family::Ipv6] {
                if let Some(was) = *host.forwarding_was(family)
                    && let Err(error) = sysctl::set_forwarding(family, was)
                {
                    errors.push(error.to_string());
                }
            }
        }
        Err(error) => errors.push(error.to_string()),
    }
    Ok(())
}

/// Let no device listen any more to solicitations for what the networks publish.
async fn stop_listening(networks: &[&Network], links: &Links, errors: &mut Vec<String>) {
    let mut published = Vec::new();
    for network in networks {
        let forwards = network.netd.forwards().iter();
        published.extend(forwards.filter_map(|f| match f.address {
            Some(IpAddr::V6(address)) => Some(address),
            _ => None,
        }));
    }
    if published.is_empty() {
        return;
    }
    let snapshot = match links.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(error) => return errors.push(error.to_string()),
    };
    for address in published {
        for own in &snapshot.addresses {
            if in_subnet(address.into(), own.address, own.prefix)
                && let Err(error) = links.listen_for(own.index, address, false).await
            {
                errors.push(error.to_string());
            }
        }
    }
}

/// Delete the bridges that no record led to: their programs go with the pins, and a bridge without
/// them would let everything through.
async fn delete_guarded_bridges(paths: &Paths, links: &Links, errors: &mut Vec<String>) {
    let current = pin_dir(&paths.bpffs);
    let mut layouts = bpffs::other_layouts(&paths.bpffs, &current).unwrap_or_default();
    layouts.push(current);
    let mut guarded = Vec::new();
    for layout in layouts {
        match maps::pinned_networks(&layout) {
            Ok(networks) => guarded.extend(networks),
            Err(error) => errors.push(error.to_string()),
        }
    }
    let snapshot = match links.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(error) => return errors.push(error.to_string()),
    };
    for (index, network) in guarded {
        // The number may be another device's by now.
        let is_its_bridge = snapshot
            .links
            .get(&index)
            .is_some_and(|link| link.bridge.is_some() && link.mac == Some(Mac(network.mac)));
        if is_its_bridge
            && let Err(error) = links.delete(index).await
            && !error.is_gone()
        {
            errors.push(error.to_string());
        }
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
