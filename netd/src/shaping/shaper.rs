//! The device in whose queue what a network's guests send waits: one end of a cable both of whose ends are the
//! host's. What comes out at the other end is the bridge's again.

use crate::link::{Inner, Link, LinkError, Links, Snapshot, beside, sysctl};
use crate::model::Mac;

/// More than any frame: what a bridge hands over fits, whatever its MTU is.
const MTU: u32 = 65_535;

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum ShaperError {
    /// The kernel refuses.
    #[error("cannot make the device that holds what guests of {bridge} send to a rate: {source}")]
    Link {
        /// The bridge.
        bridge: String,
        /// The kernel's refusal.
        source: LinkError,
    },
    /// A device that is not netd's has the name.
    #[error("a device named {0} is in the way of netd's device of that name; rename or remove it")]
    InTheWay(String),
    /// A kernel parameter.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
}

/// The names of both ends: where frames wait, and where they come out.
#[must_use]
pub fn names(bridge: &str) -> [String; 2] {
    ["out", "back"].map(|kind| beside(bridge, kind))
}

/// Their MAC addresses, by which they are known to be netd's: the bridge's but for a bit or two.
#[must_use]
pub fn macs(Mac(bridge): Mac) -> [Mac; 2] {
    [8, 12].map(|bits| {
        let mut mac = bridge;
        mac[0] ^= bits;
        Mac(mac)
    })
}

/// The ends that are there.
#[must_use]
pub fn ends<'a>(bridge: &str, mac: Mac, links: &'a Snapshot) -> [Option<&'a Link>; 2] {
    let ([out, back], [out_mac, back_mac]) = (names(bridge), macs(mac));
    [(out, out_mac), (back, back_mac)].map(|(name, mac)| {
        let link = links.by_name(&name);
        link.filter(|link| is_own(link, mac))
    })
}

fn is_own(link: &Link, mac: Mac) -> bool {
    link.kind.as_deref() == Some("veth") && link.mac == Some(mac)
}

/// Make both ends, which are on. What is left of an earlier one goes first.
///
/// # Errors
/// The kernel refuses, or another device has the name.
pub async fn make(links: &Links, bridge: &str, mac: Mac) -> Result<(), ShaperError> {
    let of_link = |source| ShaperError::Link {
        bridge: bridge.to_owned(),
        source,
    };
    remove(links, bridge, mac).await?;
    let ([out, back], [out_mac, back_mac]) = (names(bridge), macs(mac));
    for name in [&out, &back] {
        if links.index_of(name).await.map_err(of_link)?.is_some() {
            return Err(ShaperError::InTheWay(name.clone()));
        }
    }
    let inner = Inner {
        name: &back,
        mac: back_mac,
        mtu: MTU,
        netns: None,
    };
    let index = links.create_veth(&out, out_mac, &inner).await;
    let index = index.map_err(of_link)?;
    let complete = async {
        // They have no addresses, and say nothing of their own.
        sysctl::set_disable_ipv6(&out, true)?;
        sysctl::set_disable_ipv6(&back, true)?;
        let other = links.index_of(&back).await.map_err(of_link)?;
        for index in [Some(index), other].into_iter().flatten() {
            links.set_up(index, true).await.map_err(of_link)?;
        }
        Ok(())
    };
    let complete: Result<(), ShaperError> = complete.await;
    if complete.is_err()
        && let Err(error) = links.delete(index).await
    {
        tracing::warn!("after a failed creation: {error}");
    }
    complete
}

/// Remove both ends, where they are netd's.
///
/// # Errors
/// The kernel refuses.
pub async fn remove(links: &Links, bridge: &str, mac: Mac) -> Result<(), ShaperError> {
    let of_link = |source| ShaperError::Link {
        bridge: bridge.to_owned(),
        source,
    };
    // One end goes with the other.
    for (name, mac) in names(bridge).iter().zip(macs(mac)) {
        if let Some(link) = links.find(name).await.map_err(of_link)?
            && is_own(&link, mac)
            && let Err(error) = links.delete(link.index).await
            && !error.is_gone()
        {
            return Err(of_link(error));
        }
    }
    Ok(())
}
