//! Namespaces that the service manager keeps for the next agent.
//!
//! An agent that the service manager confines has a mount namespace of its own, and a name that it gives
//! ([`crate::netns::Netns::mount`]) is there alone: dnsmasq goes on in the namespace, and the next agent
//! would not find it. So the service manager holds a descriptor of each (sd_pid_notify_with_fds(3)), and
//! gives them to the next agent as it gives sockets. Where there is none, names are all there is.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use sd_notify::NotifyState;

use crate::netns::Netns;

/// What the name of such a descriptor begins with; the bridge's follows, which has no colon
/// (`dev_valid_name`), as those names may have none.
const PREFIX: &str = "netns-";

/// The bridge whose namespace a descriptor of this name is.
#[must_use]
pub fn bridge_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
        .filter(|bridge| !bridge.is_empty())
}

/// Have the service manager, if there is one, keep the namespace of a bridge's services.
///
/// # Errors
/// It cannot be told.
pub(super) fn keep(bridge: &str, netns: &Netns) -> io::Result<()> {
    let name = format!("{PREFIX}{bridge}");
    let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
    sd_notify::notify_with_fds(&states, &[netns.as_fd()])
}

/// Have it keep that namespace no longer.
///
/// # Errors
/// It cannot be told.
pub(super) fn let_go(bridge: &str) -> io::Result<()> {
    let name = format!("{PREFIX}{bridge}");
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)])
}

/// Give a namespace that was kept its name again, which is `path`. One whose name was taken away meanwhile
/// (`netd teardown`) is kept no longer.
///
/// # Errors
/// It cannot be named.
pub fn name_again(path: &Path, bridge: &str, kept: OwnedFd) -> io::Result<()> {
    if !path.exists() {
        return let_go(bridge);
    }
    match Netns::open(path)? {
        // A mount of the host's: this agent is not confined, or the one that made it was not.
        Some(_) => Ok(()),
        None => Netns::from(kept).mount(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_whose_namespace_it_is() {
        assert_eq!(bridge_of("netns-virbr0"), Some("virbr0"));
        assert_eq!(bridge_of("netns-"), None);
        assert_eq!(bridge_of("netd-sock"), None);
    }
}
