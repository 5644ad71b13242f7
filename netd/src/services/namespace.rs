//! Making, finding and removing the namespace of a network's services.
//!
//! A device with the name, MAC address and IP addresses of the bridge leads out of it, to a device of
//! the host's whose program sends on to the bridge. Every other address is local there, so that what
//! dnsmasq asks of the host's name servers is the relay's to take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use netd_common::relay::{OWN4, OWN6};

use super::kept;
use crate::link::{Inner, LinkError, Links, Scope, beside, readdress, sysctl};
use crate::model::Mac;
use crate::netns::{self, Netns, NetnsId};
use crate::paths::Paths;

/// Why a namespace could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The host's part.
    #[error("cannot make the network namespace of {bridge}'s services: {source}")]
    Link {
        /// The bridge.
        bridge: String,
        /// The kernel's refusal.
        source: LinkError,
    },
    /// What is inside, or the name.
    #[error("cannot {action} of {bridge}'s services: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The bridge.
        bridge: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A device that is not netd's has the name of the host's end.
    #[error("a device named {0} is in the way of netd's device of that name; rename or remove it")]
    InTheWay(String),
    /// A kernel parameter.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
}

/// The bridge that services are for, as they see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Ways to subnets behind guests: destination and gateway.
    pub routes: Vec<((IpAddr, u8), IpAddr)>,
}

/// Name of the host's device that leads to the services of a bridge.
#[must_use]
pub fn host_end(bridge: &str) -> String {
    beside(bridge, "svc")
}

/// MAC address of that device, by which it is known to be netd's: the bridge's but for one bit.
#[must_use]
pub fn host_mac(bridge: Mac) -> Mac {
    let mut mac = bridge;
    mac.0[0] ^= 4;
    mac
}

/// The namespace's name.
#[must_use]
pub fn path(paths: &Paths, bridge: &str) -> PathBuf {
    paths.netns_dir().join(bridge)
}

/// The namespaces that have a name, by bridge.
///
/// # Errors
/// The directory cannot be listed.
pub fn list(paths: &Paths) -> io::Result<BTreeMap<String, NetnsId>> {
    let mut found = BTreeMap::new();
    for bridge in names(paths)? {
        if let Some(netns) = Netns::open(&path(paths, &bridge))? {
            found.insert(bridge, netns.id()?);
        }
    }
    Ok(found)
}

/// The bridges with a namespace as far as names tell: those that an agent mounted in a mount namespace of its
/// own are files, to anybody else.
///
/// # Errors
/// The directory cannot be listed.
pub fn names(paths: &Paths) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let entries = match fs::read_dir(paths.netns_dir()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        found.extend(entry?.file_name().into_string().ok());
    }
    Ok(found)
}

/// Make the namespace of a bridge's services and the link that leads there, which is on. What is left
/// of an earlier one goes first. It has its name once it is complete.
///
/// # Errors
/// Another device has the link's name, or the kernel refuses a part of it; nothing of it is left then.
pub async fn make(links: &Links, paths: &Paths, bridge: &Bridge) -> Result<(), NamespaceError> {
    remove(links, paths, &bridge.name, bridge.mac).await?;
    let failed = |action| {
        let bridge = bridge.name.clone();
        move |source| NamespaceError::Io {
            action,
            bridge,
            source,
        }
    };
    let of_link = |source| NamespaceError::Link {
        bridge: bridge.name.clone(),
        source,
    };
    let outer = host_end(&bridge.name);
    if links.find(&outer).await.map_err(of_link)?.is_some() {
        return Err(NamespaceError::InTheWay(outer));
    }
    let ipv6 = bridge
        .addresses
        .iter()
        .any(|(address, _)| address.is_ipv6());
    let netns = Netns::new().map_err(failed("make the network namespace"))?;
    netns
        .run(|| settle(ipv6).map_err(io::Error::other))
        .map_err(failed("set the parameters of the namespace"))?;
    let inner = Inner {
        name: &bridge.name,
        mac: bridge.mac,
        mtu: bridge.mtu,
        netns: Some(&netns),
    };
    let made = links
        .create_veth(&outer, host_mac(bridge.mac), &inner)
        .await;
    let index = made.map_err(of_link)?;
    let complete = async {
        // It has no address of the host's, nor looks for routers.
        sysctl::set_disable_ipv6(&outer, true)?;
        netns
            .run(|| furnish(bridge, ipv6))
            .map_err(failed("set addresses and routes in the namespace"))?;
        links.set_up(index, true).await.map_err(of_link)?;
        let name = path(paths, &bridge.name);
        fs::create_dir_all(paths.netns_dir())
            .map_err(failed("make the directory of the namespace"))?;
        netns.mount(&name).map_err(failed("name the namespace"))?;
        if let Err(error) = kept::keep(&bridge.name, &netns) {
            tracing::warn!(bridge = bridge.name, %error, "the next agent makes it anew");
        }
        Ok(())
    };
    let complete: Result<(), NamespaceError> = complete.await;
    if complete.is_err()
        && let Err(error) = links.delete(index).await
    {
        tracing::warn!("after a failed creation: {error}");
    }
    complete
}

/// Give the namespace of a bridge's services, which is there, the addresses, routes and MTU that the
/// bridge has now, without disturbing what it has of them already.
///
/// # Errors
/// There is none, or the kernel refuses a part of it.
pub async fn refurnish(
    links: &Links,
    paths: &Paths,
    bridge: &Bridge,
) -> Result<(), NamespaceError> {
    let failed = |source| NamespaceError::Io {
        action: "change the network namespace",
        bridge: bridge.name.clone(),
        source,
    };
    let of_link = |source| NamespaceError::Link {
        bridge: bridge.name.clone(),
        source,
    };
    let netns = Netns::open(&path(paths, &bridge.name)).map_err(failed)?;
    let netns = netns.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let ipv6 = bridge
        .addresses
        .iter()
        .any(|(address, _)| address.is_ipv6());
    let runtime = tokio::runtime::Handle::current();
    let within = netns.run(|| {
        sysctl::set_disable_ipv6(&bridge.name, !ipv6).map_err(io::Error::other)?;
        let _runtime = runtime.enter();
        Links::connect().map_err(io::Error::other)
    });
    let within = within.map_err(failed)?;
    if let Some(outer) = links.find(&host_end(&bridge.name)).await.map_err(of_link)?
        && outer.mtu != bridge.mtu
    {
        links
            .set_mtu(outer.index, bridge.mtu)
            .await
            .map_err(of_link)?;
    }
    let change = async {
        let has = within.snapshot().await?;
        let Some(inner) = has.by_name(&bridge.name) else {
            return Ok(());
        };
        let index = inner.index;
        if inner.mtu != bridge.mtu {
            within.set_mtu(index, bridge.mtu).await?;
        }
        let present = has
            .addresses_of(index)
            .filter(|address| address.scope == Scope::Global);
        let change = readdress(present, &bridge.addresses, |_| true);
        for (address, prefix) in change.removed {
            within.del_address(index, address, prefix).await?;
        }
        for (address, prefix) in change.added {
            within.add_address(index, address, prefix).await?;
        }
        reroute(&within, index, bridge).await
    };
    let changed: Result<(), LinkError> = change.await;
    changed.map_err(of_link)
}

/// Ways to subnets behind guests, as the bridge has them now.
async fn reroute(within: &Links, index: u32, bridge: &Bridge) -> Result<(), LinkError> {
    let has = within.snapshot().await?;
    let own = has.routes.iter().filter(|route| route.index == Some(index));
    let own: Vec<_> = own
        .filter_map(|route| Some((route.destination, route.gateway?, route.metric)))
        .collect();
    for &(destination, gateway, metric) in &own {
        if !bridge.routes.contains(&(destination, gateway)) {
            let metric = metric.unwrap_or_default();
            within
                .del_route(index, destination, gateway, metric)
                .await?;
        }
    }
    let has = |route: &((IpAddr, u8), IpAddr)| own.iter().any(|&(to, by, _)| (to, by) == *route);
    for &(destination, gateway) in bridge.routes.iter().filter(|route| !has(route)) {
        within.add_route(index, destination, gateway, 0).await?;
    }
    Ok(())
}

/// Remove the namespace of a bridge's services, its name and the link. The processes in it have ended.
///
/// # Errors
/// The kernel refuses.
pub async fn remove(
    links: &Links,
    paths: &Paths,
    bridge: &str,
    mac: Mac,
) -> Result<(), NamespaceError> {
    let outer = host_end(bridge);
    let of_link = |source| NamespaceError::Link {
        bridge: bridge.to_owned(),
        source,
    };
    if let Some(link) = links.find(&outer).await.map_err(of_link)? {
        // Another device of its name is somebody else's.
        let is_own = link.kind.as_deref() == Some("veth") && link.mac == Some(host_mac(mac));
        if is_own
            && let Err(error) = links.delete(link.index).await
            && !error.is_gone()
        {
            return Err(of_link(error));
        }
    }
    let unmounted = kept::let_go(bridge).and_then(|()| netns::unmount(&path(paths, bridge)));
    unmounted.map_err(|source| NamespaceError::Io {
        action: "remove the network namespace",
        bridge: bridge.to_owned(),
        source,
    })
}

/// Parameters, before there are devices. Those of IPv4 are the host's until they are set
/// (`net.core.devconf_inherit_init_net`).
fn settle(ipv6: bool) -> Result<(), sysctl::SysctlError> {
    sysctl::write(&["ipv4", "ip_forward"], "0")?;
    for device in ["all", "default"] {
        for parameter in [
            "rp_filter",
            "arp_ignore",
            "arp_announce",
            "arp_filter",
            "accept_local",
        ] {
            sysctl::write(&["ipv4", "conf", device, parameter], "0")?;
        }
    }
    if !sysctl::has_ipv6()? {
        return Ok(());
    }
    let off = if ipv6 { "0" } else { "1" };
    for (parameter, value) in [
        // The host's stack has the same addresses.
        ("accept_dad", "0"),
        ("accept_ra", "0"),
        ("autoconf", "0"),
        ("disable_ipv6", off),
    ] {
        sysctl::write(&["ipv6", "conf", "default", parameter], value)?;
    }
    // Upstream servers may have IPv6 addresses, whatever the network has.
    sysctl::write(&["ipv6", "conf", "lo", "disable_ipv6"], "0")
}

/// Addresses and routes, within the namespace.
fn furnish(bridge: &Bridge, ipv6: bool) -> io::Result<()> {
    use crate::link::here;
    let loopback = here::index_of("lo")?;
    here::set_up(loopback)?;
    // As the source of a question it would mean the host's own server at that address.
    here::del_address(loopback, IpAddr::V4(Ipv4Addr::LOCALHOST), 8)?;
    here::add_address(loopback, IpAddr::from(OWN4), 32)?;
    here::add_local_route(
        loopback,
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::from(OWN4),
    )?;
    if sysctl::has_ipv6().map_err(io::Error::other)? {
        here::del_address(loopback, IpAddr::V6(Ipv6Addr::LOCALHOST), 128)?;
        here::add_address(loopback, IpAddr::from(OWN6), 128)?;
        here::add_local_route(
            loopback,
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::from(OWN6),
        )?;
    }
    let inner = here::index_of(&bridge.name)?;
    for (address, prefix) in &bridge.addresses {
        if address.is_ipv4() || ipv6 {
            here::add_address(inner, *address, *prefix)?;
        }
    }
    here::set_up(inner)?;
    for (destination, gateway) in &bridge.routes {
        here::add_route(inner, *destination, *gateway)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_end_has_an_address_of_its_own() {
        let bridge: Mac = "52:54:00:00:00:01".parse().unwrap();
        assert_eq!(host_mac(bridge), "56:54:00:00:00:01".parse().unwrap());
        assert_eq!(host_mac(host_mac(bridge)), bridge);
    }
}
