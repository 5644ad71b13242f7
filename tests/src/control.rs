//! The yardstick: a hypervisor whose kernel does what netd is to do, by rules such as libvirt's.

use std::path::Path;

use anyhow::Result;

use crate::lab::OUTSIDE;
use crate::{Guest, Lab, Network};

/// The hypervisor, with guest number 1 of a NAT network of number 1, as [`Lab::nat_guest`] makes
/// them. No agent takes part.
///
/// # Errors
/// The kernel has no nftables, or as [`Lab::with_binary`].
pub fn nat_guest() -> Result<(Lab, Guest)> {
    let lab = Lab::with_binary(Path::new("/bin/true"))?;
    let network = Network::default();
    let bridge = network.bridge();
    lab.hv
        .run(["ip", "link", "add", &bridge, "type", "bridge"])?;
    lab.hv
        .address(&bridge, &format!("{}/24", network.gateway()))?;
    lab.hv.sysctl("net/ipv4/ip_forward", "1")?;
    let subnet = network.subnet();
    let rules = format!(
        "add table ip nat; add chain ip nat post {{ type nat hook postrouting priority srcnat; }}; \
         add rule ip nat post ip saddr {subnet} ip daddr != {subnet} masquerade"
    );
    lab.hv.run(["nft", &rules])?;
    let guest = lab.member(1, &network)?;
    crate::eventually(crate::SOON, || guest.ping(&OUTSIDE.to_string()))?;
    Ok((lab, guest))
}
