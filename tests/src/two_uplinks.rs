//! A second way from the hypervisor to the far host.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::lab::OUTSIDE;
use crate::{Lab, Netns, SOON, eventually};

/// The hypervisor's address on the second uplink.
pub const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The router there.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The far host ([`Lab::far`]), and a router that leads there from the hypervisor's `uplink2`.
/// Nobody filters by the way back.
#[derive(Debug)]
pub struct TwoUplinks {
    /// The far host; packets by the second uplink come to its `far1`.
    pub far: Netns,
    /// The router: `wan0` is at the hypervisor's uplink.
    pub router: Netns,
}

impl TwoUplinks {
    /// Adds it to a lab. Packets to the far host go by the first uplink.
    ///
    /// # Errors
    /// It is there already.
    pub fn new(lab: &Lab) -> Result<Self> {
        let far = lab.far(1500)?;
        let router = Netns::new("wan2")?;
        for netns in [&far, &router, &lab.wan, &lab.hv] {
            for device in ["all", "default"] {
                netns.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
            }
        }
        for (netns, device) in [(&far, "far0"), (&lab.wan, "wan0"), (&lab.wan, "wan1")] {
            netns.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
        }
        lab.hv.veth("uplink2", &router, "wan0")?;
        lab.hv.address("uplink2", &format!("{SECOND}/24"))?;
        router.address("wan0", &format!("{ROUTER}/24"))?;
        router.veth("wan1", &far, "far1")?;
        router.address("wan1", "10.99.0.1/24")?;
        far.address("far1", "10.99.0.2/24")?;
        lab.hv.wait_for_carrier("uplink2")?;
        router.wait_for_carrier("wan1")?;
        router.sysctl("net/ipv4/ip_forward", "1")?;
        for (netns, route) in [
            (&far, "192.0.2.0/24 via 10.99.0.1"),
            (&router, "203.0.113.0/24 via 10.99.0.2"),
            (&lab.hv, &format!("203.0.113.0/24 via {OUTSIDE}")),
        ] {
            eventually(SOON, || {
                let route = format!("ip route replace {route}");
                netns.run(route.split(' '))
            })?;
        }
        Ok(Self { far, router })
    }

    /// Sends what goes to the far host by the second uplink.
    ///
    /// # Errors
    /// That is gone.
    pub fn switch(lab: &Lab) -> Result<()> {
        let route = format!("ip route replace 203.0.113.0/24 via {ROUTER}");
        lab.hv.run(route.split(' '))?;
        Ok(())
    }
}
