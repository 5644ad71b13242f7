//! Carrying out the steps that change links.

use super::step::Step;
use crate::link::{LinkError, Links, sysctl};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel refused a change of a device.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A sysctl could not be set.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    /// The device a step is about has gone.
    #[error("cannot {step}: there is no device of that name")]
    Gone {
        /// The step.
        step: String,
    },
}

/// Carry out one step that concerns links. Steps of the datapath and of dnsmasq are the agent's
/// own and are not accepted here.
///
/// # Errors
/// The kernel refuses it, or its device has gone.
pub async fn apply(links: &Links, step: &Step) -> Result<(), ApplyError> {
    match step {
        Step::CreateBridge { name, mac, mtu } => {
            links.create_bridge(name, *mac, *mtu).await?;
        }
        Step::SetSpanningTree {
            bridge,
            stp,
            delay_ms,
        } => {
            links
                .set_bridge(index(links, bridge, step).await?, *stp, *delay_ms)
                .await?;
        }
        Step::SetMtu { bridge, mtu } => {
            links
                .set_mtu(index(links, bridge, step).await?, *mtu)
                .await?;
        }
        Step::SetMac { bridge, mac } => {
            links
                .set_mac(index(links, bridge, step).await?, *mac)
                .await?;
        }
        Step::SetIpv6 { bridge, on } => {
            // A kernel without IPv6 has nothing to switch off. Where it is to be switched on, the
            // addresses that follow will fail.
            sysctl::set_accept_ra(bridge, 0)?;
            sysctl::set_autoconf(bridge, false)?;
            sysctl::set_disable_ipv6(bridge, !on)?;
        }
        Step::AddAddress {
            bridge,
            address,
            prefix,
        } => {
            links
                .add_address(index(links, bridge, step).await?, *address, *prefix)
                .await?;
        }
        Step::SetUp { bridge } => {
            links
                .set_up(index(links, bridge, step).await?, true)
                .await?;
        }
        Step::AddRoute { bridge, route } => {
            let bridge = index(links, bridge, step).await?;
            links
                .add_route(bridge, route.destination, route.gateway, route.metric)
                .await?;
        }
        Step::Enslave { port, bridge } => {
            let bridge = index(links, bridge, step).await?;
            links
                .set_controller(index(links, port, step).await?, Some(bridge))
                .await?;
        }
        Step::EnableForwarding(family) => sysctl::set_forwarding(*family, true)?,
        Step::Attach { .. } | Step::Detach { .. } | Step::StartDnsmasq { .. } => {
            return Err(ApplyError::Gone {
                step: step.to_string(),
            });
        }
    }
    Ok(())
}

async fn index(links: &Links, name: &str, step: &Step) -> Result<u32, ApplyError> {
    let gone = || ApplyError::Gone {
        step: step.to_string(),
    };
    links.index_of(name).await?.ok_or_else(gone)
}
