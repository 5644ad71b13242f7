//! The topology's IPv6 side.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

use anyhow::{Context, Result};

use crate::{Guest, Lab, Netns, Network, lab};

/// The hypervisor's address on the uplink.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// The outside host on the same wire.
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// A host behind the outside one, see [`Lab::far6`].
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
/// The outside host's address on that wire.
const NEAR_FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// The hypervisor's addresses at its second NIC, see [`Lab::second_nic`].
pub const HOST_LAN: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1),
);
/// The host on that wire.
pub const LAN: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(192, 0, 2, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 2),
);

/// An address and a port, for short.
#[must_use]
pub fn at6(address: Ipv6Addr, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(address, port, 0, 0)
}

impl Lab {
    /// Gives both ends of the uplink IPv6.
    fn dual_stack(&self) -> Result<()> {
        self.hv.address("uplink", &format!("{HOST6}/64"))?;
        self.wan.address("wan0", &format!("{OUTSIDE6}/64"))?;
        self.hv.wait_for_addresses("uplink")?;
        self.wan.wait_for_addresses("wan0")?;
        let route = format!("ip -6 route add default via {OUTSIDE6}");
        self.hv.run(route.split(' '))?;
        Ok(())
    }

    /// As [`Lab::member`], with IPv6, too: the address ends in 10 + `number` as well.
    ///
    /// # Errors
    /// The number is in use, or the network is not active.
    pub fn member6(&self, number: u8, network: &Network) -> Result<Guest> {
        let guest = self.member(number, network)?;
        let address = network.address6(10 + u16::from(number));
        guest.address(&format!("{address}/64"), None)?;
        guest.netns().wait_for_addresses("eth0")?;
        let route = format!("ip -6 route add default via {}", network.address6(1));
        guest.netns().run(route.split(' '))?;
        // A bridge that has just got its first port is not up yet.
        crate::eventually(crate::SOON, || guest.ping(&network.address6(1).to_string()))?;
        Ok(guest)
    }

    /// Tells the outside host the way to a network's IPv6 subnet.
    ///
    /// # Errors
    /// It knows one.
    pub fn route6(&self, network: &Network) -> Result<()> {
        let route = format!("ip -6 route add {}/64 via {HOST6}", network.address6(0));
        self.wan.run(route.split(' '))?;
        Ok(())
    }

    /// A host `lan0` at the hypervisor's second NIC, `lan`, which is its way to everywhere. The
    /// NIC goes away with it.
    ///
    /// # Errors
    /// It exists already.
    pub fn second_nic(&self) -> Result<Netns> {
        let lan = Netns::new("lan")?;
        self.hv.veth("lan", &lan, "lan0")?;
        for (netns, device, (v4, v6)) in [(&self.hv, "lan", HOST_LAN), (&lan, "lan0", LAN)] {
            netns.address(device, &format!("{v4}/24"))?;
            netns.address(device, &format!("{v6}/64"))?;
            netns.wait_for_addresses(device)?;
        }
        let (v4, v6) = HOST_LAN;
        for (to, via) in [("default", v4.to_string()), ("::/0", v6.to_string())] {
            lan.run(["ip", "route", "add", to, "via", &via])?;
        }
        crate::eventually(crate::SOON, || {
            lan.run(["ping", "-6", "-c1", "-W1", &v6.to_string()])
        })?;
        Ok(lan)
    }

    /// A host two IPv6 hops outside, behind a wire of that MTU.
    ///
    /// # Errors
    /// It exists already.
    pub fn far6(&self, mtu: u32) -> Result<Netns> {
        let far = Netns::new("far")?;
        let mtu = mtu.to_string();
        self.wan.veth("wan1", &far, "far0")?;
        self.wan.run(["ip", "link", "set", "wan1", "mtu", &mtu])?;
        self.wan.address("wan1", &format!("{NEAR_FAR6}/64"))?;
        far.address("far0", &format!("{FAR6}/64"))?;
        self.wan.wait_for_addresses("wan1")?;
        far.wait_for_addresses("far0")?;
        // It knows what the wire takes, but does not tell TCP at the other end in its handshake.
        let metrics = format!("mtu {mtu} advmss 1440");
        let route = format!("ip -6 route add default via {NEAR_FAR6} {metrics}");
        far.run(route.split(' '))?;
        self.wan.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        crate::eventually(crate::SOON, || {
            far.run(["ping", "-6", "-c1", "-W1", &NEAR_FAR6.to_string()])
        })?;
        Ok(far)
    }
}

/// As [`lab::check`] on a hypervisor whose uplink has IPv6.
///
/// # Panics
/// As [`lab::check`].
pub fn check6(test: impl FnOnce(&mut Lab) -> Result<()>) {
    let lab = Lab::new().and_then(|lab| {
        lab.dual_stack()?;
        Ok(lab)
    });
    lab::check_in(lab, test);
}

/// The same with guest number 1 in a network of number 1, which outside knows the way to.
///
/// # Panics
/// As [`lab::check`].
pub fn check_guest6(network: &Network, test: impl FnOnce(&mut Lab, &Guest) -> Result<()>) {
    check6(|lab| {
        lab.agent.start()?;
        lab.up(network)?;
        lab.route6(network)?;
        let guest = lab.member6(1, network)?;
        guest
            .ping(&OUTSIDE6.to_string())
            .with_context(|| format!("dropped: {:?}", lab.agent.drops()))?;
        test(lab, &guest)
    });
}
